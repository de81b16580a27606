"""Whatever somebody with the file in hands changes, the audit notices, and names it."""

import sqlite3
from pathlib import Path
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError, MillcertError, SignatureError
from millcert.provenance.checkpoint import Checkpoint, sign_checkpoint
from millcert.provenance.ledger import Entry, Ledger, open_ledger
from millcert.provenance.ledger_audit import MAX_FAULTS, _audit_upper_tiles, _Faults
from millcert.provenance.ledger_contract import Snapshot
from millcert.provenance.merkle import leaf_hash, root_of
from millcert.provenance.tiles import extend_tiles, split_tile

ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHEN = "2026-11-23T02:38:55Z"


def entry(number: int) -> Entry:
    return Entry("verdict", f"set-{number}", WHEN, {"number": number})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a ledger of 600 entries (three tiles) with checkpoints at 0, 1, 300 and 600."""
    path = tmp_path_factory.mktemp("pristine") / "ledger.db"
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as ledger:
        ledger.append([entry(0)])
        ledger.append([entry(number) for number in range(1, 300)])
        ledger.append([entry(number) for number in range(300, 600)])
    connection = sqlite3.connect(path)
    copy = path.with_name("copy.db")
    copy.write_bytes(connection.serialize())
    connection.close()
    return copy


@pytest.fixture
def path(tmp_path: Path, pristine: Path) -> Path:
    path = tmp_path / "ledger.db"
    path.write_bytes(pristine.read_bytes())
    return path


def edit(path: Path, *statements: str, parameters: tuple[object, ...] = ()) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement, parameters if "?" in statement else ())
    connection.close()


def opened(path: Path) -> Ledger:
    return open_ledger(path, origin=ORIGIN, key=KEY)


def faults_of(path: Path) -> LedgerError:
    with opened(path) as ledger, pytest.raises(LedgerError) as caught:
        ledger.verify()
    return caught.value


def test_a_whole_ledger_passes_and_is_counted(path: Path) -> None:
    with opened(path) as ledger:
        report = ledger.verify()

    assert (report.origin, report.size, report.checkpoints, report.compared_sizes) == (ORIGIN, 600, 4, ())


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299, 300, 599])
def test_an_edited_entry_is_named(path: Path, index: int) -> None:
    edit(path, f"UPDATE entries SET leaf = replace(leaf, 'set-', 'sat-') WHERE idx = {index}")

    fault = faults_of(path)

    assert fault.details["indexes"] == (index,)
    assert fault.details["index"] == index
    assert f"entry {index} was edited" in fault.message


@pytest.mark.parametrize("index", [0, 255, 256, 598])
def test_a_deleted_entry_is_named(path: Path, index: int) -> None:
    edit(path, f"DELETE FROM entries WHERE idx = {index}")

    fault = faults_of(path)

    assert fault.details["indexes"] == (index,)
    assert f"entry {index} was deleted" in fault.message


def test_the_last_entry_deleted_is_named(path: Path) -> None:
    edit(path, "DELETE FROM entries WHERE idx = 599")

    assert faults_of(path).details["indexes"] == (599,)


@pytest.mark.parametrize("value", ["x'7b7d'", "NULL || ''", "42", "4.5", "''", "CAST(x'ff' AS TEXT)", "x'ff'"])
def test_an_entry_replaced_by_a_value_of_another_type_is_named(path: Path, value: str) -> None:
    edit(path, f"UPDATE entries SET leaf = coalesce({value}, '') WHERE idx = 7")

    assert faults_of(path).details["indexes"] == (7,)


def test_an_entry_edited_together_with_its_hash_is_named(path: Path) -> None:
    other = entry(1000).leaf()
    edit(
        path,
        "UPDATE entries SET leaf = ?, leaf_hash = ?, subject = 'set-1000' WHERE idx = 7",
        parameters=(other.decode(), leaf_hash(other)),
    )

    assert faults_of(path).details["indexes"] == (7,)


def test_an_edit_of_entry_hash_and_tile_is_narrowed_down_by_the_checkpoints(path: Path) -> None:
    other = entry(1000).leaf()
    edit(
        path,
        "UPDATE entries SET leaf = ?1, leaf_hash = ?2, subject = 'set-1000' WHERE idx = 7",
        "UPDATE tiles SET hashes = substr(hashes, 1, 7 * 32) || ?2 || substr(hashes, 8 * 32 + 1) "
        "WHERE level = 0 AND number = 0 AND ?1 IS NOT NULL",
        parameters=(other.decode(), leaf_hash(other)),
    )

    fault = faults_of(path)

    assert "one of entries 1 to 299 was changed together with its tile" in fault.message
    assert "tile 0 of level 1 is not made of the tiles below" in fault.message


def test_an_entry_filed_under_another_subject_or_kind_is_named(path: Path) -> None:
    edit(
        path,
        "UPDATE entries SET subject = 'set-0' WHERE idx = 8",
        "UPDATE entries SET kind = 'manifest' WHERE idx = 9",
        "UPDATE entries SET subject = x'ff' WHERE idx = 10",
    )

    fault = faults_of(path)

    assert fault.details["indexes"] == (8, 9, 10)
    assert "filed under another kind or subject" in fault.message


def test_an_entry_that_was_never_an_entry_is_named(tmp_path: Path) -> None:
    """A leaf that another program logged under our key is whole, but says nothing that this ledger can say."""
    path = tmp_path / "ledger.db"
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True):
        pass
    leaf = b'{"a":1}'
    edit(
        path,
        "INSERT INTO entries VALUES (0, ?1, 'verdict', 'a', '{\"a\":1}')",
        "INSERT INTO tiles VALUES (0, 0, ?1)",
        parameters=(leaf_hash(leaf),),
    )
    edit_note = sign_checkpoint(Checkpoint(ORIGIN, 1, leaf_hash(leaf)), KEY)
    edit(path, "INSERT INTO checkpoints VALUES (1, ?)", parameters=(edit_note,))

    assert "entry 0 is malformed" in faults_of(path).message


@pytest.mark.parametrize(("index", "where"), [(600, "beyond"), (700, "beyond"), (-1, "before")])
def test_an_entry_put_in_by_hand_is_named(path: Path, index: int, where: str) -> None:
    edit(path, f"INSERT INTO entries VALUES ({index}, x'00', 'verdict', 'a', '{{}}')")

    fault = faults_of(path)

    assert fault.details["indexes"] == (index,)
    assert where in fault.message
    with opened(path) as ledger, pytest.raises(LedgerError, match="not what the tree says"):
        ledger.find(subject="a")


@pytest.mark.parametrize("place", ["level = 0 AND number = 0", "level = 0 AND number = 2", "level = 1 AND number = 0"])
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM tiles WHERE",
        "UPDATE tiles SET hashes = substr(hashes, 33) WHERE",
        "UPDATE tiles SET hashes = hashes || x'00' WHERE",
        "UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE",
        "UPDATE tiles SET hashes = '' WHERE",
        "UPDATE tiles SET hashes = 5 WHERE",
    ],
)
def test_a_changed_tile_is_noticed(path: Path, place: str, change: str) -> None:
    edit(path, f"{change} {place}")

    assert "tile" in faults_of(path).message or "was edited" in faults_of(path).message


def test_an_extra_tile_is_noticed(path: Path) -> None:
    edit(path, "INSERT INTO tiles VALUES (0, 9, x'00')")

    assert "there are 5 tiles; 600 entries have 4" in faults_of(path).message


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE checkpoints SET note = replace(note, 'example', 'exomple') WHERE size = 300",
        "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 1) WHERE size = 300",
        "UPDATE checkpoints SET note = '' WHERE size = 300",
        "UPDATE checkpoints SET size = 299 WHERE size = 300",
        "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 1) WHERE size = 0",
    ],
)
def test_a_changed_checkpoint_is_noticed(path: Path, change: str) -> None:
    edit(path, change)

    assert "does not verify" in faults_of(path).message


def test_a_checkpoint_signed_over_another_tree_is_noticed(path: Path) -> None:
    forged = sign_checkpoint(Checkpoint(ORIGIN, 400, leaf_hash(b"another tree")), KEY)
    edit(path, "INSERT INTO checkpoints VALUES (400, ?)", parameters=(forged,))

    assert "the tree of 400 entries has another root than its checkpoint" in faults_of(path).message


def test_a_newest_checkpoint_that_is_changed_or_moved_opens_no_ledger(path: Path) -> None:
    edit(path, "UPDATE checkpoints SET size = 601 WHERE size = 600")

    with pytest.raises(LedgerError, match="stored for 601 entries"):
        opened(path)


def test_a_newest_checkpoint_of_a_stranger_opens_no_ledger(path: Path) -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    forged = sign_checkpoint(Checkpoint(ORIGIN, 601, leaf_hash(b"")), stranger)
    edit(path, "INSERT INTO checkpoints VALUES (601, ?)", parameters=(forged,))

    with pytest.raises(SignatureError):
        opened(path)


def test_a_ledger_without_checkpoints_is_refused(path: Path) -> None:
    edit(path, "DELETE FROM checkpoints")

    with pytest.raises(LedgerError, match="no checkpoint"):
        opened(path)
    with open_ledger(path, origin=ORIGIN) as reader, pytest.raises(LedgerError, match="no checkpoint"):
        reader.checkpoint()


def test_many_faults_are_counted_and_some_are_named(path: Path) -> None:
    edit(path, "DELETE FROM entries WHERE idx < 100")

    fault = faults_of(path)

    assert fault.details["indexes"] == tuple(range(MAX_FAULTS))
    assert "and 80 more" in fault.message


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM entries WHERE idx = 599",
        "UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 0 AND number = 2",
        "UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 1",
        "DELETE FROM tiles WHERE level = 1",
    ],
)
def test_a_changed_ledger_is_not_extended(path: Path, change: str) -> None:
    """Rule 2: checkpoint n+1 extends checkpoint n, or it is not signed."""
    edit(path, change)

    with opened(path) as ledger:
        with pytest.raises(LedgerError):
            ledger.append([entry(600)])
        assert ledger.size == 600


@pytest.mark.parametrize(
    "change", ["UPDATE entries SET leaf = '{}' WHERE idx = 7", "DELETE FROM entries WHERE idx = 7"]
)
def test_a_changed_entry_is_never_returned(path: Path, change: str) -> None:
    """Rule 4: what is read is checked against the tree before it is returned."""
    edit(path, change)

    with opened(path) as ledger:
        with pytest.raises(LedgerError, match="Entry 7"):
            ledger.get(7)
        assert ledger.get(8).entry == entry(8)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET leaf = '{}' WHERE idx = 7",
        "DELETE FROM entries WHERE idx = 599",
        "INSERT OR REPLACE INTO entries SELECT idx, leaf_hash, kind, 'x', leaf FROM entries WHERE idx = 7",
        "INSERT INTO entries VALUES (601, x'00', 'a', 'a', '{}')",
        "INSERT INTO entries VALUES (-1, x'00', 'a', 'a', '{}')",
        "UPDATE checkpoints SET note = '' WHERE size = 1",
        "DELETE FROM checkpoints WHERE size = 600",
        "UPDATE settings SET value = 'x'",
        "DELETE FROM settings",
        "INSERT INTO settings VALUES ('b', 'c')",
        "INSERT INTO checkpoints VALUES (599, x'00')",
        "INSERT INTO checkpoints VALUES (601, x'00')",
        "DELETE FROM schema_versions",
        "UPDATE schema_versions SET version = version + 1",
        "DELETE FROM tiles WHERE level = 1",
        "UPDATE tiles SET hashes = zeroblob(8192) WHERE level = 0 AND number = 2",
        "UPDATE tiles SET hashes = substr(hashes, 33) WHERE level = 0 AND number = 2",
        "UPDATE tiles SET number = 7 WHERE level = 0 AND number = 2",
    ],
)
def test_the_database_itself_refuses_to_change_what_is_logged(path: Path, statement: str) -> None:
    """A store promises: rows, checkpoints and the filled part of a tile cannot be updated or deleted."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA recursive_triggers=ON")

    with pytest.raises(sqlite3.IntegrityError, match="the ledger"):
        connection.execute(statement)

    connection.close()


def test_a_damaged_schema_that_is_not_even_text_is_an_integrity_failure(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"CREATE TABLE entries", b"CREATE \xff\xfeBLE entries"))

    with pytest.raises(LedgerError, match="damaged or is no ledger"):
        opened(path)


def test_a_damaged_schema_that_turns_indexes_into_text_is_an_integrity_failure(path: Path) -> None:
    edit(
        path,
        "CREATE TABLE other (idx, leaf_hash, kind, subject, leaf)",
        "INSERT INTO other SELECT 'text', leaf_hash, kind, subject, leaf FROM entries WHERE idx = 0",
        "DROP TABLE entries",
        "ALTER TABLE other RENAME TO entries",
    )

    with opened(path) as ledger, pytest.raises(LedgerError, match="index of type str"):
        ledger.find()


@settings(deadline=None, max_examples=25)
@given(place=st.integers(0, 2**24), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_file_is_noticed_or_changes_nothing(
    place: int, bit: int, pristine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No bit of the database can be changed so that the ledger says something else and still passes."""
    changed = bytearray(pristine.read_bytes())
    changed[place % len(changed)] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "ledger.db"
    path.write_bytes(changed)

    try:
        with opened(path) as ledger:
            ledger.verify()
            found = [ledger.get(index).entry for index in (0, 7, 300, 599)]
    except MillcertError:
        return
    assert found == [entry(index) for index in (0, 7, 300, 599)]


def test_more_checkpoints_than_a_page_are_all_verified(path: Path) -> None:
    hashes = [leaf_hash(entry(number).leaf()) for number in range(600)]
    notes = {size: sign_checkpoint(Checkpoint(ORIGIN, size, root_of(hashes[:size])), KEY) for size in range(2, 299)}
    edit(path)
    connection = sqlite3.connect(path)
    with connection:
        connection.executemany("INSERT INTO checkpoints VALUES (?, ?)", sorted(notes.items()))
    connection.close()

    with opened(path) as ledger:
        assert ledger.verify().checkpoints == 4 + len(notes)
    edit(path, "UPDATE checkpoints SET note = '' WHERE size = 298")
    assert "the checkpoint of 298 entries does not verify" in faults_of(path).message


class OnlyTiles:
    """The tiles of a tree of 65,537 leaves, in memory: three levels, and no time to log so many entries."""

    def __init__(self) -> None:
        self.leaf_hashes = [leaf_hash(number.to_bytes(4, "big")) for number in range(65_537)]
        self.stored = extend_tiles(0, self.leaf_hashes, self.tile)

    def tile(self, level: int, number: int) -> bytes | None:
        return self.stored.get((level, number)) if hasattr(self, "stored") else None

    def tile_count(self) -> int:
        return len(self.stored)


@pytest.mark.parametrize("place", [(1, 0), (2, 0)])
def test_tiles_of_every_level_are_compared(place: tuple[int, int]) -> None:
    tiles = OnlyTiles()
    full = [split_tile(tiles.stored[0, number]) for number in range(256)]
    above = [root_of(hashes) for hashes in full]
    whole, changed = _Faults(), _Faults()

    _audit_upper_tiles(cast(Snapshot, tiles), 65_537, above, whole)
    tiles.stored[place] = bytes(32)
    _audit_upper_tiles(cast(Snapshot, tiles), 65_537, above, changed)

    assert (whole.shown, changed.shown) == ([], [f"tile 0 of level {place[0]} is not made of the tiles below"])
