"""Databases of earlier versions are led to the newest schema, once, whole, and without a change of what they say."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import StoreError, UsageError
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.ledger import Entry, open_ledger, open_store
from millcert.provenance.ledger_backup import content_digest
from millcert.provenance.ledger_contract import NEWEST_SCHEMA
from millcert.provenance.ledger_postgres_schema import postgres_step
from millcert.provenance.ledger_schema import METADATA, sqlite_step
from millcert.testing.private_postgres import PrivatePostgres

ORIGIN = "vectors.example/schema"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHEN = "2026-11-23T02:38:55Z"
VECTORS = Path(__file__).resolve().parents[1] / "vectors"
EARLIER = sorted(VECTORS.glob("*/ledger/schema-*.sql"))
TABLES = ("entries", "tiles", "checkpoints", "settings")


def entry(number: int) -> Entry:
    return Entry("verdict", f"set-{number}", WHEN, {"number": number, "word": "caf\u00e9"})


@pytest.fixture(params=EARLIER, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A ledger of 20 entries as an earlier version wrote it, from its dump in tests/vectors."""
    path = tmp_path / "ledger.db"
    connection = sqlite3.connect(path)
    connection.executescript(request.param.read_text())
    connection.close()
    return path


def dump(path: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    rows = {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}
    connection.close()
    return rows


def triggers(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    connection.close()
    return names


def digest_of(path: Path, url: str | None = None) -> str:
    store = open_store(path, url, read_only=True)
    try:
        with store.reading() as snapshot:
            return content_digest(snapshot, snapshot.size())
    finally:
        store.close()


def test_there_is_a_vector_of_every_earlier_schema() -> None:
    assert {path.stem for path in EARLIER} >= {f"schema-{version}" for version in range(1, NEWEST_SCHEMA)}


def test_an_earlier_database_is_read_as_it_is(earlier: Path) -> None:
    before = earlier.read_bytes()

    with open_ledger(earlier, origin=ORIGIN, vkeys=[vkey_of(ORIGIN, KEY)]) as reader:
        assert reader.verify().size == 20
        assert reader.get(7).entry == entry(7)
        assert reader.find(subject="set-19")[0].index == 19

    assert earlier.read_bytes() == before


def test_an_earlier_database_is_migrated_when_it_is_opened_for_appending(earlier: Path, tmp_path: Path) -> None:
    before = dump(earlier)

    with open_ledger(earlier, origin=ORIGIN, key=KEY) as ledger:
        assert dump(earlier) == before
        assert ledger.verify().size == 20
        assert ledger.append([entry(3), entry(20)]).indexes == (3, 20)
        assert ledger.verify().size == 21

    with open_ledger(tmp_path / "new.db", origin=ORIGIN, key=KEY, create=True):
        pass
    assert triggers(earlier) == triggers(tmp_path / "new.db")
    store = open_store(earlier, read_only=True)
    with store.reading() as snapshot:
        assert snapshot.schema_version() == NEWEST_SCHEMA
    store.close()


@pytest.mark.parametrize("after", range(len(sqlite_step(NEWEST_SCHEMA))))
def test_a_migration_that_fails_at_any_statement_changes_nothing(
    earlier: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = dump(earlier), triggers(earlier)
    failing = [*sqlite_step(NEWEST_SCHEMA)[:after], "INSERT INTO entries_that_are_not_there VALUES (1)"]
    with monkeypatch.context() as patched:
        patched.setattr("millcert.provenance.ledger_store.sqlite_step", lambda _: failing)
        with pytest.raises(Exception, match="entries_that_are_not_there"):
            open_ledger(earlier, origin=ORIGIN, key=KEY)

    assert (dump(earlier), triggers(earlier)) == before
    with open_ledger(earlier, origin=ORIGIN, key=KEY) as ledger:
        assert ledger.verify().size == 20


def test_a_newer_schema_is_refused_before_anything_is_read_or_written(earlier: Path) -> None:
    with open_ledger(earlier, origin=ORIGIN, key=KEY):
        pass
    connection = sqlite3.connect(earlier)
    with connection:
        connection.execute("INSERT INTO schema_versions VALUES (?)", (NEWEST_SCHEMA + 1,))
    connection.close()
    before = dump(earlier)

    for key in (KEY, None):
        with pytest.raises(UsageError, match=f"version {NEWEST_SCHEMA + 1}; this millcert knows {NEWEST_SCHEMA}"):
            open_ledger(earlier, origin=ORIGIN, key=key)

    assert dump(earlier) == before


def columns_of_metadata() -> dict[str, list[str]]:
    return {name: [column.name for column in table.columns] for name, table in METADATA.tables.items()}


def test_the_steps_make_the_tables_that_the_statements_use_in_sqlite(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db", origin=ORIGIN, key=KEY, create=True):
        pass

    connection = sqlite3.connect(tmp_path / "l.db")
    found = {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in METADATA.tables}
    connection.close()
    assert found == columns_of_metadata()


@pytest.fixture
def first_schema(postgres: PrivatePostgres, postgres_schema: Callable[[], str], earlier: Path) -> str:
    """A PostgreSQL ledger of schema version 1 with the entries of the vector; returns its URL."""
    schema = postgres_schema()
    rows = dump(earlier)
    with psycopg.connect(postgres.url) as connection:
        for statement in postgres_step(1, schema):
            connection.execute(statement)
        for table in ("settings", "entries", "tiles", "checkpoints"):
            values = ", ".join(["%s"] * len(rows[table][0]))
            with connection.cursor() as cursor:
                cursor.executemany(f"INSERT INTO {schema}.{table} VALUES ({values})", rows[table])
    return postgres.url_of(schema=schema)


def test_a_first_schema_in_postgres_is_migrated_and_says_what_it_said(
    postgres: PrivatePostgres, first_schema: str, earlier: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state" / "ledger.db"
    before = digest_of(state, first_schema)
    assert before == digest_of(earlier)

    with open_ledger(state, origin=ORIGIN, key=KEY, url=first_schema) as ledger:
        assert digest_of(state, first_schema) == before
        assert ledger.append([entry(20)]).indexes == (20,)
        assert ledger.verify().size == 21

    schema = first_schema.rpartition("=")[2]
    with psycopg.connect(postgres.url) as connection:
        query = "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
        found = {
            name: [
                row[0] for row in connection.execute(f"{query} ORDER BY ordinal_position", (schema, name)).fetchall()
            ]
            for name in METADATA.tables
        }
    assert found == columns_of_metadata()


def test_a_migration_that_a_server_does_not_survive_is_done_by_the_next_attempt(
    postgres: PrivatePostgres, first_schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state" / "ledger.db"
    before = digest_of(state, first_schema)
    schema = first_schema.rpartition("=")[2]
    steps = postgres_step(NEWEST_SCHEMA, schema)
    cut = [*steps[:3], "SELECT pg_terminate_backend(pg_backend_pid())"]
    with monkeypatch.context() as patched:
        patched.setattr("millcert.provenance.ledger_postgres.postgres_step", lambda *_: cut)
        with pytest.raises(StoreError):
            open_ledger(state, origin=ORIGIN, key=KEY, url=first_schema)

    assert digest_of(state, first_schema) == before
    with open_ledger(state, origin=ORIGIN, key=KEY, url=first_schema) as ledger:
        assert ledger.append([entry(20)]).indexes == (20,)
