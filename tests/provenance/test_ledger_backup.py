"""A backup says what the ledger says; a restore makes no second history; compacting changes nothing that was said."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import ConsistencyError, LedgerError, RollbackError, SignatureError, StoreError, UsageError
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.ledger import Entry, Ledger, open_ledger, open_store
from millcert.provenance.ledger_backup import back_up, compact, content_digest, restore
from millcert.testing.private_postgres import PrivatePostgres

ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEYS = [vkey_of(ORIGIN, KEY)]
WHEN = "2026-11-23T02:38:55Z"


class Place(Protocol):
    """See `LedgerPlace` in conftest.py."""

    @property
    def database(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def url(self) -> str | None: ...


def entry(number: int) -> Entry:
    return Entry("verdict", f"set-{number}", WHEN, {"number": number, "word": "caf\u00e9"})


def digest_of(path: Path, url: str | None = None, size: int | None = None) -> str:
    store = open_store(path, url, read_only=True)
    try:
        with store.reading() as snapshot:
            return content_digest(snapshot, snapshot.size() if size is None else size)
    finally:
        store.close()


@pytest.fixture
def ledger(place: Place) -> Iterator[Ledger]:
    """A ledger of 300 entries (two tiles and one above) with five checkpoints."""
    with open_ledger(place.path, origin=ORIGIN, key=KEY, create=True, url=place.url) as opened:
        for batch in ([0], range(1, 100), range(100, 256), range(256, 300)):
            opened.append([entry(number) for number in batch])
        yield opened


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, place: Place, tmp_path: Path) -> tuple[Path, str | None]:
    """An empty database of the same kind, and another client's folder."""
    url = None
    if place.database == "postgresql":
        server: PrivatePostgres = request.getfixturevalue("postgres")
        url = server.url_of(schema=request.getfixturevalue("postgres_schema")())
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / "ledger.db", url


def test_a_backup_says_all_that_the_ledger_says_and_verifies_by_itself(
    place: Place, ledger: Ledger, tmp_path: Path
) -> None:
    report = back_up(place.path, place.url, tmp_path / "b.db", vkeys=VKEYS)

    assert (report.size, report.checkpoints, report.compared_sizes) == (300, 5, (300,))
    assert digest_of(tmp_path / "b.db") == digest_of(place.path, place.url)
    assert [path.name for path in tmp_path.iterdir() if "b.db" in path.name] == ["b.db"]
    (tmp_path / "b.db").chmod(0o444)
    with open_ledger(tmp_path / "b.db", origin=ORIGIN, vkeys=VKEYS) as copy:
        assert copy.verify().root == report.root
        assert copy.prove(17) == ledger.prove(17)


def test_a_backup_is_one_state_while_others_append(place: Place, ledger: Ledger, tmp_path: Path) -> None:
    store = open_store(place.path, place.url, read_only=True)
    back_up(place.path, place.url, tmp_path / "first.db", vkeys=VKEYS)
    ledger.append([entry(300)])
    back_up(place.path, place.url, tmp_path / "second.db", vkeys=VKEYS)
    store.close()

    assert digest_of(tmp_path / "second.db", size=300) == digest_of(tmp_path / "first.db")


def test_a_backup_never_replaces_a_file_and_leaves_none_when_it_fails(
    place: Place, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "b.db").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        back_up(place.path, place.url, tmp_path / "b.db", vkeys=VKEYS)
    assert (tmp_path / "b.db").read_bytes() == b"mine"

    other = [vkey_of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))]
    with pytest.raises(SignatureError):
        back_up(place.path, place.url, tmp_path / "c.db", vkeys=other)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError):
        back_up(place.path, place.url, tmp_path / "file" / "d.db", vkeys=VKEYS)
    assert not [path for path in tmp_path.iterdir() if "c.db" in path.name]


def test_a_damaged_ledger_is_not_backed_up(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as ledger:
        ledger.append([entry(number) for number in range(5)])
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER entries_no_delete; DELETE FROM entries WHERE idx = 4")
    connection.close()

    with pytest.raises(LedgerError):
        back_up(path, None, tmp_path / "b.db", vkeys=VKEYS)

    assert not (tmp_path / "b.db").exists()


def test_a_restored_ledger_goes_on_where_the_backup_ended(
    place: Place, ledger: Ledger, tmp_path: Path, elsewhere: tuple[Path, str | None]
) -> None:
    back_up(place.path, place.url, tmp_path / "b.db", vkeys=VKEYS)
    path, url = elsewhere

    report = restore(tmp_path / "b.db", path, url, vkeys=VKEYS)

    assert report.size == 300
    assert digest_of(path, url) == digest_of(place.path, place.url)
    with open_ledger(path, origin=ORIGIN, key=KEY, url=url) as restored:
        assert restored.append([entry(7), entry(300)]).indexes == (7, 300)
        assert restored.verify().size == 301


def test_a_restore_replaces_no_ledger(place: Place, ledger: Ledger, tmp_path: Path) -> None:
    back_up(place.path, place.url, tmp_path / "b.db", vkeys=VKEYS)
    before = digest_of(place.path, place.url)

    with pytest.raises(UsageError, match="never replaces"):
        restore(tmp_path / "b.db", place.path, place.url, vkeys=VKEYS)

    assert digest_of(place.path, place.url) == before


def test_a_backup_older_than_what_was_seen_is_not_restored_and_leaves_no_database(
    place: Place, ledger: Ledger, tmp_path: Path, elsewhere: tuple[Path, str | None]
) -> None:
    """The drill of docs/ledger-operations.md: the newest copy is lost, the client still has its last checkpoint."""
    back_up(place.path, place.url, tmp_path / "old.db", vkeys=VKEYS)
    ledger.append([entry(300)])
    path, url = elsewhere
    shutil.copy(place.path.with_suffix(".checkpoint"), path.with_suffix(".checkpoint"))

    with pytest.raises(RollbackError) as caught:
        restore(tmp_path / "old.db", path, url, vkeys=VKEYS)

    assert (caught.value.details["expected"], caught.value.details["actual"]) == (301, 300)
    assert not path.exists()


def test_a_backup_of_another_history_is_not_restored(
    place: Place, ledger: Ledger, tmp_path: Path, elsewhere: tuple[Path, str | None]
) -> None:
    fork = tmp_path / "fork" / "l.db"
    with open_ledger(fork, origin=ORIGIN, key=KEY, create=True) as other:
        other.append([entry(1000 + number) for number in range(400)])
    back_up(fork, None, tmp_path / "fork.db", vkeys=VKEYS)
    path, url = elsewhere
    shutil.copy(place.path.with_suffix(".checkpoint"), path.with_suffix(".checkpoint"))

    with pytest.raises(ConsistencyError):
        restore(tmp_path / "fork.db", path, url, vkeys=VKEYS)


def test_a_restore_that_fails_in_the_middle_leaves_the_target_as_it_was(
    place: Place,
    ledger: Ledger,
    tmp_path: Path,
    elsewhere: tuple[Path, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    back_up(place.path, place.url, tmp_path / "b.db", vkeys=VKEYS)
    path, url = elsewhere

    def fail(*_: object) -> None:
        raise StoreError("no room")

    with monkeypatch.context() as patched:
        patched.setattr("millcert.provenance.ledger_sql._SqlTransaction.put_tile", fail)
        with pytest.raises(StoreError, match="no room"):
            restore(tmp_path / "b.db", path, url, vkeys=VKEYS)

    assert not path.exists()
    assert restore(tmp_path / "b.db", path, url, vkeys=VKEYS).size == 300


def dump_of_sqlite(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_compacting_a_file_changes_no_byte_of_any_row(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as ledger:
        for number in range(40):
            ledger.append([entry(number)])
        before = dump_of_sqlite(path)

        done = compact(path, None)

        assert dump_of_sqlite(path) == before
        assert done.size == 40
        assert done.after_bytes < done.before_bytes
        assert ledger.append([entry(40)]).indexes == (40,)
        assert ledger.verify().size == 41


def test_compacting_in_either_database_keeps_what_the_ledger_says(place: Place, ledger: Ledger) -> None:
    before = digest_of(place.path, place.url)

    done = compact(place.path, place.url)

    assert done.digest == before == digest_of(place.path, place.url)
    assert done.size == 300
    assert ledger.verify().size == 300


def test_a_compaction_that_lost_something_is_an_integrity_failure(
    place: Place, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter(["a", "b"])
    monkeypatch.setattr("millcert.provenance.ledger_backup.content_digest", lambda *_: next(digests))

    with pytest.raises(LedgerError, match="not what they were"):
        compact(place.path, place.url)


def test_only_the_owner_compacts_in_postgres(
    postgres: PrivatePostgres, postgres_schema: Callable[[], str], tmp_path: Path
) -> None:
    schema = postgres_schema()
    with open_ledger(tmp_path / "l.db", origin=ORIGIN, key=KEY, create=True, url=postgres.url_of(schema=schema)):
        pass
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE no_owner LOGIN; GRANT USAGE ON SCHEMA {schema} TO no_owner")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO no_owner")
    try:
        with pytest.raises(UsageError, match="only for the owner"):
            compact(tmp_path / "l.db", postgres.url_of(schema=schema, user="no_owner"))
    finally:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY no_owner; DROP ROLE no_owner")


def test_a_dump_of_the_server_restores_with_its_triggers(
    postgres: PrivatePostgres, postgres_schema: Callable[[], str], tmp_path: Path
) -> None:
    """pg_dump and psql, as docs/ledger-operations.md has it."""
    schema = postgres_schema()
    url = postgres.url_of(schema=schema)
    server = f"postgresql://ledger_owner@/postgres?host={postgres.folder}"
    with open_ledger(tmp_path / "l.db", origin=ORIGIN, key=KEY, create=True, url=url) as ledger:
        ledger.append([entry(number) for number in range(300)])
        before = digest_of(tmp_path / "l.db", url)
    dumped = subprocess.run(["pg_dump", "--schema", schema, server], check=True, capture_output=True, text=True)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")

    command = ["psql", "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--single-transaction", server]
    subprocess.run(command, input=dumped.stdout, check=True, capture_output=True, text=True)

    assert digest_of(tmp_path / "l.db", url) == before
    with open_ledger(tmp_path / "l.db", origin=ORIGIN, key=KEY, url=url) as restored:
        assert restored.verify().size == 300
        assert restored.append([entry(300)]).indexes == (300,)
    with (
        psycopg.connect(postgres.url) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="append-only"),
    ):
        connection.execute(f"DELETE FROM {schema}.entries")
