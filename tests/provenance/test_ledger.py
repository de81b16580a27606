"""The ledger as its callers see it: append, look up, prove, refuse."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import (
    ConsistencyError,
    IntegrityError,
    LedgerError,
    RollbackError,
    SignatureError,
    StoreError,
    UsageError,
)
from millcert.provenance.checkpoint import (
    format_vkey,
    parse_checkpoint,
    parse_note,
    parse_vkey,
    verify_checkpoint,
    vkey_of,
)
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger import Entry, Ledger, open_ledger, verify_tlog_proof, vkey_path
from millcert.provenance.merkle import EMPTY_ROOT, leaf_hash, root_of, verify_consistency

ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
WHEN = "2026-11-23T02:38:55Z"


def entry(number: int, kind: str = "verdict") -> Entry:
    return Entry(kind, f"set-{number}", WHEN, {"number": number, "note": "50 % of it"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as opened:
        yield opened


def size_in(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size


def test_a_new_ledger_is_empty_and_says_so_signed(ledger: Ledger) -> None:
    checkpoint = verify_checkpoint(ledger.checkpoint(), [vkey_of(ORIGIN, KEY)])

    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (ORIGIN, 0, EMPTY_ROOT)
    assert ledger.size == 0
    assert ledger.origin == ORIGIN


def test_appending_returns_the_places_and_a_checkpoint_that_covers_them(ledger: Ledger) -> None:
    first = ledger.append([entry(0), entry(1)])
    second = ledger.append([entry(2)])

    assert (first.indexes, second.indexes) == ((0, 1), (2,))
    checkpoint = verify_checkpoint(second.checkpoint, ledger.vkeys)
    assert checkpoint.root == root_of(leaf_hash(entry(number).leaf()) for number in range(3))
    assert ledger.checkpoint() == second.checkpoint
    assert ledger.size == 3


def test_a_retry_repeats_nothing_and_completes_what_is_missing(ledger: Ledger) -> None:
    """Rule 3: what was kept is found by its hash, what was lost is appended."""
    ledger.append([entry(0), entry(1)])

    again = ledger.append([entry(1), entry(2), entry(0), entry(2)])

    assert again.indexes == (1, 2, 0, 2)
    assert ledger.size == 3
    whole = ledger.append([entry(0)])
    assert (whole.indexes, whole.checkpoint) == ((0,), again.checkpoint)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=4))
def test_any_order_of_appends_gives_one_place_to_each_entry(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    """Rule 1: no leaf is there twice, and a leaf never moves."""
    places: dict[int, int] = {}
    with open_ledger(tmp_path_factory.mktemp("ledger") / "l.db", origin=ORIGIN, key=KEY, create=True) as ledger:
        for batch in batches:
            appended = ledger.append([entry(number) for number in batch])
            for number, index in zip(batch, appended.indexes, strict=True):
                assert places.setdefault(number, index) == index

        assert sorted(places.values()) == list(range(ledger.size))
        assert [ledger.get(places[number]).entry for number in places] == [entry(number) for number in places]
        ledger.verify()


def test_every_entry_is_provable_under_every_checkpoint_that_covers_it(ledger: Ledger) -> None:
    for number in range(5):
        ledger.append([entry(number)])

    for size in range(1, 6):
        for index in range(size):
            proof = ledger.prove(index, size)
            assert verify_tlog_proof(proof, entry(index).leaf(), ledger.vkeys).size == size
            with pytest.raises(LedgerError):
                verify_tlog_proof(proof, entry(index + 1).leaf(), ledger.vkeys)
    assert ledger.prove(2) == ledger.prove(2, 5)


def test_the_first_checkpoint_over_an_entry_makes_a_lasting_proof(ledger: Ledger) -> None:
    ledger.append([entry(0), entry(1), entry(2)])
    before = ledger.prove(1, ledger.covering_size(1))

    ledger.append([entry(3)])

    assert ledger.covering_size(1) == 3
    assert ledger.prove(1, ledger.covering_size(1)) == before


def test_consistency_is_provable_between_any_two_sizes(ledger: Ledger) -> None:
    hashes = [leaf_hash(entry(number).leaf()) for number in range(7)]
    ledger.append([entry(number) for number in range(7)])

    for new_size in range(1, 8):
        for old_size in range(1, new_size + 1):
            proof = ledger.prove_consistency(old_size, new_size)
            verify_consistency(old_size, new_size, proof, root_of(hashes[:old_size]), root_of(hashes[:new_size]))


@pytest.mark.parametrize(("old_size", "new_size"), [(0, 1), (2, 1), (1, 4)])
def test_consistency_of_sizes_that_are_not_there_is_a_mistake_of_the_call(
    ledger: Ledger, old_size: int, new_size: int
) -> None:
    ledger.append([entry(number) for number in range(3)])

    with pytest.raises(UsageError):
        ledger.prove_consistency(old_size, new_size)


def test_entries_are_found_by_kind_subject_and_text(ledger: Ledger) -> None:
    ledger.append([entry(0), entry(1, "manifest"), entry(2), entry(11)])

    assert [found.index for found in ledger.find()] == [0, 1, 2, 3]
    assert [found.index for found in ledger.find(kind="manifest")] == [1]
    assert [found.index for found in ledger.find(subject="set-1")] == [1]
    assert [found.index for found in ledger.find(text="SET-1")] == [1, 3]
    assert [found.index for found in ledger.find(text="50 %")] == [0, 1, 2, 3]
    assert [found.index for found in ledger.find(text="50_%")] == []
    assert [found.index for found in ledger.find(kind="verdict", text="set-1")] == [3]
    assert [found.index for found in ledger.find(limit=2)] == [0, 1]
    assert ledger.find(subject="set-3") == []
    found = ledger.find(subject="set-2")[0]
    assert (found.entry, found.leaf_hash) == (entry(2), leaf_hash(entry(2).leaf()))


def test_calls_that_make_no_sense_are_refused(ledger: Ledger) -> None:
    ledger.append([entry(0)])

    with pytest.raises(UsageError, match="no entry to append"):
        ledger.append([])
    with pytest.raises(UsageError, match="limit"):
        ledger.find(limit=0)
    for index in (-1, 1):
        with pytest.raises(UsageError, match="no entry"):
            ledger.get(index)
        with pytest.raises(UsageError, match="no entry"):
            ledger.covering_size(index)
        with pytest.raises(UsageError):
            ledger.prove(index)
    with pytest.raises(UsageError, match="no checkpoint of exactly 2"):
        ledger.prove(0, 2)
    with pytest.raises(UsageError):
        ledger.prove(0, 0)


def test_an_entry_that_is_too_long_appends_nothing_of_its_batch(ledger: Ledger) -> None:
    long = Entry("verdict", "long", WHEN, {"a": "x" * 70_000})

    with pytest.raises(UsageError, match="65535"):
        ledger.append([entry(0), long])

    assert ledger.size == 0


def test_a_ledger_is_reopened_as_it_was(path: Path, ledger: Ledger) -> None:
    note = ledger.append([entry(0)]).checkpoint

    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as again:
        assert again.checkpoint() == note
        assert again.append([entry(1)]).indexes == (1,)


def test_a_reader_needs_no_private_key_and_cannot_append(path: Path, ledger: Ledger) -> None:
    ledger.append([entry(0)])

    with open_ledger(path, origin=ORIGIN, vkeys=ledger.vkeys) as reader:
        assert reader.get(0).entry == entry(0)
        assert reader.verify().size == 1
        with pytest.raises(UsageError, match="reading only"):
            reader.append([entry(1)])


def test_verifying_needs_a_public_key(path: Path, ledger: Ledger) -> None:
    ledger.append([entry(0)])

    with open_ledger(path, origin=ORIGIN) as reader, pytest.raises(UsageError, match="No key"):
        reader.verify()


def test_a_ledger_is_never_made_by_accident(path: Path) -> None:
    with pytest.raises(UsageError, match="There is no ledger"):
        open_ledger(path, origin=ORIGIN, key=KEY)
    with pytest.raises(UsageError, match="private key"):
        open_ledger(path, origin=ORIGIN, create=True)
    with pytest.raises(UsageError, match="name without spaces"):
        open_ledger(path, origin="a b", key=KEY, create=True)

    assert not path.parent.exists()


def test_a_ledger_of_another_name_or_key_is_refused(path: Path, ledger: Ledger) -> None:
    ledger.append([entry(0)])

    with pytest.raises(UsageError, match=r"'example\.com/ledger', not 'example\.com/other'"):
        open_ledger(path, origin="example.com/other", key=KEY)
    with pytest.raises(SignatureError):
        open_ledger(path, origin=ORIGIN, key=OTHER_KEY)
    with pytest.raises(SignatureError):
        open_ledger(path, origin=ORIGIN, vkeys=[vkey_of(ORIGIN, OTHER_KEY)])


def test_a_file_that_is_no_ledger_is_an_integrity_failure(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_bytes(b"not a database" * 100)
    sqlite3.connect(tmp_path / "other.db").executescript("CREATE TABLE a (b)").connection.close()

    with pytest.raises(LedgerError, match="is no ledger"):
        open_ledger(tmp_path / "text.db", origin=ORIGIN)
    with pytest.raises(LedgerError, match="is no ledger"):
        open_ledger(tmp_path / "other.db", origin=ORIGIN)


def test_a_database_of_another_format_is_refused(path: Path, ledger: Ledger) -> None:
    ledger.close()
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER settings_no_update; UPDATE settings SET value = 'x' WHERE name = 'format'")
    connection.close()

    with pytest.raises(LedgerError, match="of format 'x'"):
        open_ledger(path, origin=ORIGIN)


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StoreError, match="cannot be made"):
        open_ledger(tmp_path / "file" / "ledger.db", origin=ORIGIN, key=KEY, create=True)


def test_a_path_that_holds_a_folder_is_a_failure_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()

    with pytest.raises(StoreError, match="could not be read or written"):
        open_ledger(tmp_path / "ledger.db", origin=ORIGIN, key=KEY, create=True)


def test_the_last_checkpoint_is_kept_beside_the_ledger(path: Path, ledger: Ledger) -> None:
    note = ledger.append([entry(0)]).checkpoint

    assert path.with_suffix(".checkpoint").read_bytes() == note


def test_verifying_moves_the_kept_checkpoint_forward_never_back(path: Path, ledger: Ledger) -> None:
    kept = path.with_suffix(".checkpoint")
    ledger.append([entry(0)])
    old = kept.read_bytes()
    ledger.append([entry(1)])
    new = kept.read_bytes()
    kept.write_bytes(old)

    report = ledger.verify()

    assert (size_in(old), size_in(new), report.compared_sizes) == (1, 2, (1,))
    assert kept.read_bytes() == new
    ledger.append([entry(0)])
    assert kept.read_bytes() == new


def test_a_ledger_restored_from_an_old_copy_is_noticed_and_not_extended(path: Path, ledger: Ledger) -> None:
    """Rule 2: checkpoint n+1 extends every checkpoint that this client saw, or it is not signed."""
    ledger.append([entry(0)])
    backup = copy_of(path)
    ledger.append([entry(1)])
    newest = ledger.checkpoint()
    ledger.close()
    restore(path, backup)

    with open_ledger(path, origin=ORIGIN, key=KEY) as restored:
        with pytest.raises(RollbackError) as caught:
            restored.verify()
        with pytest.raises(RollbackError):
            restored.append([entry(2)])
        assert restored.size == 1
        path.with_suffix(".checkpoint").unlink()
        with pytest.raises(RollbackError):
            restored.verify(newest)
        assert restored.verify().size == 1
    assert (caught.value.details["expected"], caught.value.details["actual"]) == (2, 1)


def test_two_histories_under_one_key_are_noticed_and_not_extended(path: Path, ledger: Ledger) -> None:
    ledger.append([entry(0)])
    backup = copy_of(path)
    ledger.append([entry(1)])
    newest = ledger.checkpoint()
    ledger.close()
    restore(path, backup)
    kept = path.with_suffix(".checkpoint")
    kept.unlink()

    with open_ledger(path, origin=ORIGIN, key=KEY) as forked:
        forked.append([entry(2), entry(3)])
        with pytest.raises(ConsistencyError, match="another history"):
            forked.verify(newest)
        kept.write_bytes(newest)
        with pytest.raises(ConsistencyError):
            forked.verify()
        with pytest.raises(ConsistencyError):
            forked.append([entry(4)])
        assert forked.size == 3


@pytest.mark.parametrize("content", [b"", b"text", b"text\n\n"])
def test_a_kept_checkpoint_that_is_damaged_is_not_taken_for_nothing_seen(
    path: Path, ledger: Ledger, content: bytes
) -> None:
    ledger.append([entry(0)])
    path.with_suffix(".checkpoint").write_bytes(content)

    with pytest.raises(LedgerError):
        ledger.verify()
    with pytest.raises(LedgerError):
        ledger.append([entry(1)])
    assert ledger.size == 1


def test_a_kept_checkpoint_of_another_ledger_or_key_is_refused(path: Path, tmp_path: Path, ledger: Ledger) -> None:
    ledger.append([entry(0)])
    with open_ledger(tmp_path / "other.db", origin="example.com/other", key=KEY, create=True) as other:
        foreign = other.append([entry(0)]).checkpoint
    with open_ledger(tmp_path / "third.db", origin=ORIGIN, key=OTHER_KEY, create=True) as third:
        forged = third.append([entry(0)]).checkpoint

    for note in (foreign, forged):
        with pytest.raises(IntegrityError):
            ledger.verify(note)
    two_keys = [*ledger.vkeys, vkey_of("example.com/other", KEY)]
    with open_ledger(path, origin=ORIGIN, vkeys=two_keys) as reader, pytest.raises(LedgerError, match="is of the"):
        reader.verify(foreign)


def test_a_kept_checkpoint_that_cannot_be_read_or_written_stops_the_keeper(path: Path, ledger: Ledger) -> None:
    kept = path.with_suffix(".checkpoint")
    ledger.append([entry(0)])
    lock = kept.with_name(f".{kept.name}.lock")
    lock.unlink()
    lock.mkdir()

    with pytest.raises(StoreError, match="cannot be read or kept"):
        ledger.verify()
    with pytest.raises(StoreError, match="cannot be read or kept"):
        ledger.append([entry(1)])
    with open_ledger(path, origin=ORIGIN, vkeys=ledger.vkeys) as auditor:
        assert auditor.verify().size == 2
    lock.rmdir()
    assert ledger.append([entry(1)]).indexes == (1,)
    kept.unlink()
    kept.mkdir()
    with pytest.raises(StoreError, match="cannot be read or kept"):
        ledger.verify()


def test_the_public_key_is_kept_beside_the_ledger_and_never_replaced(path: Path, ledger: Ledger) -> None:
    kept = vkey_path(path)
    assert parse_vkey(kept.read_text()) == vkey_of(ORIGIN, KEY)
    kept.write_text(format_vkey(vkey_of(ORIGIN, OTHER_KEY)))

    with pytest.raises(UsageError, match="does not hold the public key"):
        open_ledger(path, origin=ORIGIN, key=KEY)

    kept.unlink()
    with open_ledger(path, origin=ORIGIN, key=KEY):
        assert parse_vkey(kept.read_text()) == vkey_of(ORIGIN, KEY)
    kept.unlink()
    kept.mkdir()
    with pytest.raises(StoreError, match="cannot be kept"):
        open_ledger(path, origin=ORIGIN, key=KEY)


def test_an_older_checkpoint_never_replaces_a_newer_one(path: Path, ledger: Ledger) -> None:
    """Of processes that race to keep theirs, the larger wins, whoever comes last."""
    kept = LastSeen(path.with_suffix(".checkpoint"))
    older, newer = ledger.append([entry(0)]).checkpoint, ledger.append([entry(1)]).checkpoint

    kept.advance(older)

    assert kept.read() == newer


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, ledger: Ledger) -> None:
    """The temporary name is longer than the file's own: here only it exceeds what the file system allows."""
    kept = LastSeen(tmp_path / ("k" * 240))
    note = ledger.checkpoint()

    with pytest.raises(StoreError, match="cannot be read or kept"):
        kept.advance(note)

    assert kept.read() is None


def copy_of(path: Path) -> bytes:
    connection = sqlite3.connect(path)
    try:
        return connection.serialize()
    finally:
        connection.close()


def restore(path: Path, database: bytes) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(database)
