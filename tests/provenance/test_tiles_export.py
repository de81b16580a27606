"""A ledger as static tiles: what is exported verifies, what is changed is refused, a mirror answers like the ledger."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import (
    ConsistencyError,
    IntegrityError,
    LedgerError,
    MillcertError,
    RollbackError,
    StoreError,
    UsageError,
)
from millcert.provenance import tile_export
from millcert.provenance.checkpoint import (
    Checkpoint,
    VerifierKey,
    parse_vkey,
    sign_checkpoint,
    verify_checkpoint,
    vkey_of,
)
from millcert.provenance.cosignature import cosign, merge_signatures
from millcert.provenance.ledger import Entry, Ledger, open_ledger, verify_tlog_proof
from millcert.provenance.merkle import leaf_hash, root_of
from millcert.provenance.mirror import import_tiles
from millcert.provenance.state import StateFolder
from millcert.provenance.tile_audit import audit_tiles
from millcert.provenance.tile_export import export_tiles
from millcert.provenance.tile_folder import (
    MAX_BUNDLE_BYTES,
    TileFolder,
    bundle_path,
    join_bundle,
    partial_path,
    split_bundle,
    tile_path,
    width_at,
)
from millcert.provenance.tiles import tile_widths

ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEYS = [vkey_of(ORIGIN, KEY)]
WHEN = "2026-11-23T02:38:55Z"
TESSERA_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"


def entries(start: int, end: int) -> list[Entry]:
    return [Entry("verdict", f"set-{number}", WHEN, {"number": number}) for number in range(start, end)]


def ledger_at(path: Path, *sizes: int, key: Ed25519PrivateKey = KEY) -> Ledger:
    """Return a new ledger whose checkpoints have these sizes."""
    ledger = open_ledger(path / "ledger.db", origin=ORIGIN, key=key, create=True)
    start = 0
    for size in sizes:
        ledger.append(entries(start, size))
        start = size
    return ledger


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


def expected_files(size: int, signed: list[int]) -> set[str]:
    """The names that C2SP tlog-tiles asks for, computed from its text: whole parts, and partial ones by checkpoint."""
    names = {"checkpoint"}
    for level in range(8):
        for number in range(-(-(size // 256**level) // 256)):
            if width_at(level, number, size) == 256:
                names |= {tile_path(level, number)} | ({bundle_path(number)} if level == 0 else set())
                continue
            widths = {width_at(level, number, one) for one in signed} - {0, 256}
            names |= {partial_path(tile_path(level, number), width) for width in widths}
            names |= {partial_path(bundle_path(number), width) for width in widths if level == 0}
    return names


@pytest.mark.parametrize(
    ("number", "path"), [(0, "000"), (7, "007"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067")]
)
def test_a_number_has_the_path_of_the_specification(number: int, path: str) -> None:
    assert tile_path(0, number) == f"tile/0/{path}"
    assert bundle_path(number) == f"tile/entries/{path}"


@pytest.mark.parametrize("sizes", [(), (1,), (3, 7), (255, 256), (256, 257), (1, 300, 511, 513, 600)])
def test_an_export_is_the_files_of_the_specification_and_verifies(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    with ledger_at(tmp_path / "state", *sizes) as ledger:
        done = export_tiles(ledger, tmp_path / "tiles")

    size = sizes[-1] if sizes else 0
    assert set(files_of(tmp_path / "tiles")) == expected_files(size, list(sizes))
    assert (done.size, done.previous_size, done.written) == (size, None, len(files_of(tmp_path / "tiles")) - 1)
    report = audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS)
    assert report.checkpoint.root == root_of([leaf_hash(one.leaf()) for one in entries(0, size)])
    assert report.tiles == sum(-(-width // 256) for width in tile_widths(size).values())


def test_a_second_export_only_adds(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 3, 300) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
        before = files_of(tmp_path / "tiles")
        ledger.append(entries(300, 600))
        done = export_tiles(ledger, tmp_path / "tiles")
        again = export_tiles(ledger, tmp_path / "tiles")

    after = files_of(tmp_path / "tiles")
    changed = {name for name, data in before.items() if after[name] != data}
    assert changed == {"checkpoint"}
    assert done.previous_size == 300
    assert done.written == len(after) - len(before)
    assert (again.previous_size, again.written) == (600, 0)
    audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS, [before["checkpoint"]])
    # Who still has the older checkpoint reads the older log out of the same folder.
    assert audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS, note=before["checkpoint"]).checkpoint.size == 300


@settings(max_examples=15)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=4))
def test_exporting_in_steps_gives_what_exporting_at_once_gives(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    path, size = tmp_path_factory.mktemp("steps"), 0
    with ledger_at(path / "state") as ledger:
        for step in steps:
            if step:
                ledger.append(entries(size, size + step))
            size += step
            export_tiles(ledger, path / "grown", drop_superseded=True)
        export_tiles(ledger, path / "whole", drop_superseded=True)

    assert files_of(path / "grown") == files_of(path / "whole")


def test_superseded_parts_go_only_when_asked_and_the_log_stays_whole(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 3, 200) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
        ledger.append(entries(200, 300))
        export_tiles(ledger, tmp_path / "tiles")
        kept = files_of(tmp_path / "tiles")
        done = export_tiles(ledger, tmp_path / "tiles", drop_superseded=True)

    assert "tile/0/000.p/3" in kept
    assert done.removed == len(kept) - len(files_of(tmp_path / "tiles")) == 4
    old = sign_checkpoint(Checkpoint(ORIGIN, 3, root_of([leaf_hash(one.leaf()) for one in entries(0, 3)])), KEY)
    assert audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS, [old]).compared_sizes == (3,)


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("stop_at", range(12))
def test_after_a_crash_at_any_file_the_folder_is_the_old_log_and_a_retry_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Rule 1: a reader sees the old log whole or the new log whole."""
    folder = TileFolder(tmp_path / "tiles")
    with ledger_at(tmp_path / "state", 3) as ledger:
        export_tiles(ledger, folder.path)
        ledger.append(entries(3, 300))
        write, written = tile_export._write_aside, 0

        def dying(target: Path, data: bytes, *, is_durable: bool) -> None:
            nonlocal written
            if written == stop_at:
                target.write_bytes(data[: len(data) // 2] if not is_durable else target.read_bytes())
                raise Crash
            written += 1
            write(target, data, is_durable=is_durable)

        monkeypatch.setattr(tile_export, "_write_aside", dying)
        try:
            export_tiles(ledger, folder.path)
        except Crash:
            assert audit_tiles(folder, VKEYS).checkpoint.size == 3
        monkeypatch.setattr(tile_export, "_write_aside", write)
        export_tiles(ledger, folder.path)

    assert audit_tiles(folder, VKEYS).checkpoint.size == 300


@pytest.mark.parametrize(
    "place", ["entries SET leaf = replace(leaf, 'set-5', 'set-6')", "tiles SET hashes = zeroblob(%s)"]
)
@pytest.mark.parametrize("size", [7, 300])
def test_an_edited_database_is_not_published(tmp_path: Path, place: str, size: int) -> None:
    with ledger_at(tmp_path / "state", size):
        pass
    with sqlite3.connect(tmp_path / "state" / "ledger.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        where = "WHERE idx = 5" if place.startswith("entries") else "WHERE level = 0 AND number = 0"
        connection.execute(f"UPDATE {place % (32 * min(size, 256)) if '%' in place else place} {where}")
    connection.close()

    with (
        open_ledger(tmp_path / "state" / "ledger.db", origin=ORIGIN, vkeys=VKEYS) as ledger,
        pytest.raises(LedgerError, match=r"Entry 5|Tile 0|has the root"),
    ):
        export_tiles(ledger, tmp_path / "tiles")

    assert not (tmp_path / "tiles" / "checkpoint").exists()


def test_a_folder_of_another_history_a_newer_one_or_no_log_is_not_written_to(tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with ledger_at(tmp_path / "a", 5) as ledger:
        export_tiles(ledger, tmp_path / "newer")
        with ledger_at(tmp_path / "b", 3) as old, pytest.raises(RollbackError, match="has 5 entries"):
            export_tiles(old, tmp_path / "newer")
        with ledger_at(tmp_path / "c") as fork:
            fork.append(entries(100, 120))
            with pytest.raises(ConsistencyError, match="another history"):
                export_tiles(fork, tmp_path / "newer")
        with ledger_at(tmp_path / "d", 6, key=other) as strange, pytest.raises(MillcertError, match="No known key"):
            export_tiles(strange, tmp_path / "newer")
        with pytest.raises(UsageError, match=r"cat\.jpg"):
            export_tiles(ledger, tmp_path / "photos")
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError, match="export to"):
            export_tiles(ledger, tmp_path / "file")

    assert audit_tiles(TileFolder(tmp_path / "newer"), VKEYS).checkpoint.size == 5
    assert files_of(tmp_path / "photos") == {"cat.jpg": b"cat"}


def test_every_flipped_byte_of_an_export_is_refused(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 2) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
    folder = tmp_path / "tiles"

    accepted = []
    for name, data in files_of(folder).items():
        for place in range(len(data)):
            (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            try:
                audit_tiles(TileFolder(folder), VKEYS)
                accepted.append((name, place))
            except IntegrityError:
                pass
        (folder / name).write_bytes(data)

    assert accepted == []


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0\0"),
        lambda path: path.write_bytes(b"\xff" * (MAX_BUNDLE_BYTES + 9)),
        lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
        replace_by_pipe,
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["missing", "empty", "short", "long", "huge", "link", "pipe", "folder"],
)
def test_a_part_that_no_log_has_is_refused(tmp_path: Path, name: str, spoil: Callable[[Path], object]) -> None:
    with ledger_at(tmp_path / "state", 300) as ledger:
        export_tiles(ledger, tmp_path / "tiles")

    spoil(tmp_path / "tiles" / name)

    with pytest.raises(MillcertError) as caught:
        audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS)
    assert caught.value.exit_code == (2 if (name, spoil.__code__.co_names) == ("checkpoint", ("unlink",)) else 3)


def test_the_whole_part_stands_in_for_a_partial_one_that_was_dropped(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 200) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
        note = (tmp_path / "tiles" / "checkpoint").read_bytes()
        ledger.append(entries(200, 300))
        export_tiles(ledger, tmp_path / "tiles", drop_superseded=True)

    assert not (tmp_path / "tiles" / "tile/0/000.p").exists()
    assert audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS, note=note).checkpoint.size == 200


def test_a_rolled_back_and_a_forked_folder_are_told(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "a", 5) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
        fork = sign_checkpoint(Checkpoint(ORIGIN, 4, bytes(32)), KEY)
        newer = sign_checkpoint(Checkpoint(ORIGIN, 6, bytes(32)), KEY)
    other_key = Ed25519PrivateKey.generate()
    other = sign_checkpoint(Checkpoint("example.com/other", 1, bytes(32)), other_key)
    folder = TileFolder(tmp_path / "tiles")

    with pytest.raises(ConsistencyError, match="another history"):
        audit_tiles(folder, VKEYS, [fork])
    with pytest.raises(RollbackError, match="with 6 was seen"):
        audit_tiles(folder, VKEYS, [newer])
    with pytest.raises(LedgerError, match=r"example\.com/other"):
        audit_tiles(folder, [*VKEYS, vkey_of("example.com/other", other_key)], [other])


@given(st.lists(st.binary(max_size=70), max_size=20))
def test_a_bundle_splits_into_the_entries_that_it_was_joined_from(parts: list[bytes]) -> None:
    assert split_bundle(join_bundle(parts), 0) == parts


@given(st.binary(max_size=300))
def test_any_bytes_are_a_bundle_in_one_way_or_refused(data: bytes) -> None:
    try:
        parts = split_bundle(data, 0)
    except LedgerError:
        return
    assert join_bundle(parts) == data


def test_a_bundle_of_257_and_an_entry_of_65_536_bytes_are_refused() -> None:
    with pytest.raises(LedgerError, match="more than 256"):
        split_bundle(b"\0\0" * 257, 0)
    with pytest.raises(LedgerError, match="65536 bytes"):
        join_bundle([bytes(65_536)])


def test_an_altered_upper_tile_and_another_log_s_checkpoint_are_told(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 300) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
    tile = tmp_path / "tiles" / "tile/1/000.p/1"
    good = tile.read_bytes()

    tile.write_bytes(bytes(32))
    with pytest.raises(LedgerError, match="Tile 0 of level 1"):
        audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS)
    tile.write_bytes(good)
    lie = sign_checkpoint(Checkpoint(ORIGIN, 300, bytes(32)), KEY)
    with pytest.raises(LedgerError, match="its checkpoint of 300 entries says"):
        audit_tiles(TileFolder(tmp_path / "tiles"), VKEYS, note=lie)


def test_a_part_that_cannot_be_written_leaves_nothing_half_written(tmp_path: Path) -> None:
    in_the_way = tmp_path / "tiles" / "tile/0/000.p/5/folder"
    in_the_way.mkdir(parents=True)

    with ledger_at(tmp_path / "state", 5) as ledger, pytest.raises(StoreError, match="The export to"):
        export_tiles(ledger, tmp_path / "tiles")

    left = [path for path in (tmp_path / "tiles").rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {".lock", "5"}


def test_cosignatures_are_published_with_the_newest_checkpoint_and_stay(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 5) as ledger:
        note = ledger.checkpoint()
        text = note.decode().rpartition("\n\n")[0] + "\n"
        cosigned = merge_signatures(note, [cosign(text, "w.example", Ed25519PrivateKey.generate(), 1)])
        export_tiles(ledger, tmp_path / "tiles", cosigned=cosigned)
        export_tiles(ledger, tmp_path / "tiles")
        assert (tmp_path / "tiles" / "checkpoint").read_bytes() == cosigned
        ledger.append(entries(5, 6))
        export_tiles(ledger, tmp_path / "tiles", cosigned=cosigned)
        assert (tmp_path / "tiles" / "checkpoint").read_bytes() == ledger.checkpoint()


# --- mirrors -------------------------------------------------------------------------------------------------------


def test_a_mirror_answers_proves_and_audits_like_the_ledger(tmp_path: Path) -> None:
    mirror = StateFolder(tmp_path / "mirror")
    with ledger_at(tmp_path / "state", 3, 300) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
        first = import_tiles(TileFolder(tmp_path / "tiles"), mirror, VKEYS)
        ledger.append(entries(300, 520))
        export_tiles(ledger, tmp_path / "tiles")
        second = import_tiles(TileFolder(tmp_path / "tiles"), mirror, VKEYS)
        third = import_tiles(TileFolder(tmp_path / "tiles"), mirror, VKEYS)
        found = ledger.find(text="set-519")

    assert [(one.previous_size, one.size) for one in (first, second, third)] == [(None, 300), (300, 520), (520, 520)]
    with open_ledger(mirror.ledger, origin=ORIGIN, vkeys=VKEYS) as held:
        report = held.verify()
        assert (report.size, report.checkpoints, report.compared_sizes) == (520, 2, (520,))
        assert held.find(text="set-519") == found
        proof = held.prove(7)
        assert verify_tlog_proof(proof, held.get(7).entry.leaf(), VKEYS).size == 520
        with pytest.raises(UsageError, match="for reading only"):
            held.append(entries(600, 601))
    assert mirror.ledger_vkey.read_text().startswith(ORIGIN + "+")


def test_a_mirror_refuses_a_rollback_a_fork_and_another_log_and_stays_as_it_was(tmp_path: Path) -> None:
    mirror = StateFolder(tmp_path / "mirror")
    with ledger_at(tmp_path / "state", 5) as ledger:
        export_tiles(ledger, tmp_path / "five")
        import_tiles(TileFolder(tmp_path / "five"), mirror, VKEYS)
    with ledger_at(tmp_path / "older", 3) as older:
        export_tiles(older, tmp_path / "three")
    with ledger_at(tmp_path / "forked") as forked:
        forked.append(entries(50, 60))
        export_tiles(forked, tmp_path / "fork")
    other = open_ledger(tmp_path / "x" / "ledger.db", origin="example.com/other", key=KEY, create=True)
    with other:
        export_tiles(other, tmp_path / "other")
    with sqlite3.connect(mirror.ledger) as connection:
        before = list(connection.iterdump())

    with pytest.raises(RollbackError, match="already has 5"):
        import_tiles(TileFolder(tmp_path / "three"), mirror, VKEYS)
    with pytest.raises(ConsistencyError, match="Nothing was imported"):
        import_tiles(TileFolder(tmp_path / "fork"), mirror, VKEYS)
    with pytest.raises(UsageError, match=r"is of 'example\.com/ledger'"):
        import_tiles(TileFolder(tmp_path / "other"), mirror, [*VKEYS, vkey_of("example.com/other", KEY)])

    with sqlite3.connect(mirror.ledger) as connection:
        assert list(connection.iterdump()) == before
    connection.close()


def test_a_folder_with_a_wrong_entry_makes_no_mirror(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 3) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
    bundle = tmp_path / "tiles" / "tile/entries/000.p/3"
    good = split_bundle(bundle.read_bytes(), 0)
    cases = {
        "Nothing was imported": [good[0], good[1], entries(9, 10)[0].leaf()],
        "an entry twice": [good[0], good[0], good[2]],
        "no entry of millcert": [good[0], b"hello", good[2]],
    }

    for message, leaves in cases.items():
        bundle.write_bytes(join_bundle(leaves))
        with pytest.raises(LedgerError, match=message):
            import_tiles(TileFolder(tmp_path / "tiles"), StateFolder(tmp_path / "mirror"), VKEYS)
        assert not (tmp_path / "mirror" / "ledger.db").exists()


def test_the_ledger_s_own_state_folder_is_never_made_a_mirror(tmp_path: Path) -> None:
    with ledger_at(tmp_path / "state", 3) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
    (tmp_path / "state" / "keys").mkdir()
    (tmp_path / "state" / "keys" / "ledger.key").write_bytes(b"")

    with pytest.raises(UsageError, match="own state folder"):
        import_tiles(TileFolder(tmp_path / "tiles"), StateFolder(tmp_path / "state"), VKEYS)


def test_an_edited_mirror_is_not_brought_forward(tmp_path: Path) -> None:
    mirror = StateFolder(tmp_path / "mirror")
    with ledger_at(tmp_path / "state", 3) as ledger:
        export_tiles(ledger, tmp_path / "tiles")
        import_tiles(TileFolder(tmp_path / "tiles"), mirror, VKEYS)
        with sqlite3.connect(mirror.ledger) as connection:
            connection.execute("DROP TRIGGER tiles_only_grow")
            connection.execute("UPDATE tiles SET hashes = zeroblob(96)")
        connection.close()
        with pytest.raises(LedgerError, match="edited the mirror"):
            import_tiles(TileFolder(tmp_path / "tiles"), mirror, VKEYS)


# --- another implementation's log ----------------------------------------------------------------------------------


@pytest.mark.data
def test_every_checkpoint_tile_and_bundle_of_a_published_log_recomputes(shared_data: Path, tmp_path: Path) -> None:
    """16 checkpoints, 15 tiles, 15 bundles of transparency-dev/tessera; what we write of its entries is its bytes."""
    tessera = shared_data / "tessera-log"
    vkeys: list[VerifierKey] = [parse_vkey(TESSERA_KEY)]
    folder = TileFolder(tessera)

    reports = [
        audit_tiles(
            folder, vkeys, [(tessera / f"checkpoint.{old}").read_bytes() for old in range(1, size + 1)], note=note
        )
        for size in range(16)
        for note in [(tessera / f"checkpoint.{size}").read_bytes()]
    ]

    assert [report.checkpoint.size for report in reports] == list(range(16))
    assert reports[-1].compared_sizes == tuple(range(1, 16))
    leaves = folder.entries(0, 15)
    for size in range(1, 16):
        assert join_bundle(leaves[:size]) == (tessera / "tile/entries/000.p" / str(size)).read_bytes()
        hashes = b"".join(leaf_hash(leaf) for leaf in leaves[:size])
        assert hashes == (tessera / "tile/0/000.p" / str(size)).read_bytes()
    found = {str(file.relative_to(tessera)) for file in tessera.rglob("*") if file.is_file()}
    spoken_for = {f"tile/{kind}/000.p/{size}" for kind in ("0", "entries") for size in range(1, 16)}
    assert found == spoken_for | {f"checkpoint.{size}" for size in range(16)} | (found & {"checkpoint", "README.md"})


@pytest.mark.data
def test_a_changed_byte_of_a_published_log_is_refused(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "tessera-log", tmp_path / "log")
    note = (tmp_path / "log" / "checkpoint.15").read_bytes()
    for name in ("tile/0/000.p/15", "tile/entries/000.p/15"):
        data = (tmp_path / "log" / name).read_bytes()
        (tmp_path / "log" / name).write_bytes(data[:-1] + bytes([data[-1] ^ 0x80]))
        with pytest.raises(LedgerError, match="Entry 14"):
            audit_tiles(TileFolder(tmp_path / "log"), [parse_vkey(TESSERA_KEY)], note=note)
        (tmp_path / "log" / name).write_bytes(data)
    (tmp_path / "log" / "checkpoint").write_bytes(note)
    with pytest.raises(LedgerError, match="no entry of millcert"):
        import_tiles(TileFolder(tmp_path / "log"), StateFolder(tmp_path / "mirror"), [parse_vkey(TESSERA_KEY)])
    assert verify_checkpoint(note, [parse_vkey(TESSERA_KEY)]).size == 15
