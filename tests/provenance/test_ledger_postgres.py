"""A ledger in PostgreSQL: the same promises, kept by its lock, its grants and its triggers, on a real server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import ConsistencyError, LedgerError, RollbackError, StoreError, UsageError
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.ledger import Entry, Ledger, open_ledger, open_store, verify_tlog_proof
from millcert.provenance.ledger_contract import NEWEST_SCHEMA
from millcert.provenance.ledger_postgres import parse_postgres_url
from millcert.provenance.ledger_setup import set_up_statements, set_up_tables
from millcert.provenance.merkle import leaf_hash, root_of, verify_consistency
from millcert.testing.private_postgres import PrivatePostgres

ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHEN = "2026-11-23T02:38:55Z"
SECRET = "s3cret-pa55word"


def entry(number: int) -> Entry:
    return Entry("verdict", f"set-{number}", WHEN, {"number": number})


@pytest.fixture
def schema(postgres: PrivatePostgres) -> Iterator[str]:
    name = f"t{uuid4().hex[:12]}"
    yield name
    with admin(postgres) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@pytest.fixture
def url(postgres: PrivatePostgres, schema: str) -> str:
    return postgres.url_of(schema=schema)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """What the client keeps: the last checkpoint and the public key are beside this path."""
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def ledger(state: Path, url: str) -> Iterator[Ledger]:
    with open_ledger(state, origin=ORIGIN, key=KEY, create=True, url=url) as opened:
        yield opened


@pytest.fixture
def roles(postgres: PrivatePostgres) -> Iterator[dict[str, str]]:
    """An owner who may make schemas, a writer, a reader, and a stranger: ordinary roles, no superuser."""
    names = {role: f"{role}_{uuid4().hex[:8]}" for role in ("owner", "writer", "reader", "stranger")}
    with admin(postgres) as connection:
        for name in names.values():
            connection.execute(f"CREATE ROLE {name} LOGIN")
        connection.execute(f"GRANT CREATE ON DATABASE postgres TO {names['owner']}")
    yield names
    with admin(postgres) as connection:
        for name in names.values():
            connection.execute(f"DROP OWNED BY {name} CASCADE")
            connection.execute(f"DROP ROLE {name}")


def admin(postgres: PrivatePostgres) -> "psycopg.Connection[Any]":
    return psycopg.connect(postgres.url, autocommit=True)


def as_role(postgres: PrivatePostgres, role: str) -> "psycopg.Connection[Any]":
    return psycopg.connect(f"postgresql://{role}@/postgres?host={postgres.folder}", autocommit=True)


def edit(postgres: PrivatePostgres, schema: str, *statements: str) -> None:
    """Change the tables as somebody who owns the server can: past every trigger."""
    with admin(postgres) as connection:
        connection.execute(f"SET search_path = {schema}")
        for table in ("entries", "tiles", "checkpoints", "settings", "schema_versions"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        for statement in statements:
            connection.execute(statement)


def test_a_ledger_in_postgres_says_what_one_in_sqlite_says_byte_for_byte(ledger: Ledger, tmp_path: Path) -> None:
    batches = [[0], [1, 2, 3], list(range(4, 300)), [2, 300]]
    with open_ledger(tmp_path / "l.db", origin=ORIGIN, key=KEY, create=True) as local:
        for batch in batches:
            ours, theirs = [held.append([entry(n) for n in batch]) for held in (ledger, local)]
            assert ours == theirs

        assert ledger.verify() == local.verify()
        assert [ledger.prove(index) for index in (0, 2, 255, 299)] == [local.prove(i) for i in (0, 2, 255, 299)]
        assert ledger.prove_consistency(4, 301) == local.prove_consistency(4, 301)
        for question in ({"subject": "set-7"}, {"text": "SET-29", "limit": 3}, {"kind": "other"}, {"text": "a\x00"}):
            assert ledger.find(**question) == local.find(**question)


def test_proofs_from_postgres_verify(ledger: Ledger) -> None:
    ledger.append([entry(number) for number in range(7)])
    hashes = [leaf_hash(entry(number).leaf()) for number in range(7)]

    assert verify_tlog_proof(ledger.prove(3), entry(3).leaf(), ledger.vkeys).size == 7
    verify_consistency(3, 7, ledger.prove_consistency(3, 7), root_of(hashes[:3]), root_of(hashes))
    with pytest.raises(LedgerError):
        verify_tlog_proof(ledger.prove(3), entry(4).leaf(), ledger.vkeys)


def test_a_client_keeps_its_checkpoint_and_key_where_it_is_not_where_the_database_is(
    state: Path, ledger: Ledger
) -> None:
    note = ledger.append([entry(0)]).checkpoint

    assert state.with_suffix(".checkpoint").read_bytes() == note
    assert state.with_suffix(".vkey").exists()
    assert not state.exists()


def test_a_restored_old_database_is_noticed_and_not_extended(
    postgres: PrivatePostgres, schema: str, state: Path, url: str, ledger: Ledger
) -> None:
    ledger.append([entry(number) for number in range(3)])
    newest = ledger.append([entry(3)]).checkpoint
    edit(
        postgres,
        schema,
        "DELETE FROM entries WHERE idx = 3",
        "DELETE FROM checkpoints WHERE size = 4",
        "UPDATE tiles SET hashes = substring(hashes FROM 1 FOR 96)",
    )

    with pytest.raises(RollbackError) as caught:
        ledger.verify()
    with pytest.raises(RollbackError):
        ledger.append([entry(9)])
    state.with_suffix(".checkpoint").unlink()
    with pytest.raises(RollbackError):
        ledger.verify(newest)
    assert (caught.value.details["expected"], caught.value.details["actual"]) == (4, 3)


def test_two_histories_under_one_key_are_noticed_and_not_extended(
    postgres: PrivatePostgres, tmp_path: Path, state: Path, ledger: Ledger
) -> None:
    ledger.append([entry(0), entry(1)])
    fork = postgres.url_of(schema=f"t{uuid4().hex[:12]}")
    with open_ledger(tmp_path / "fork" / "l.db", origin=ORIGIN, key=KEY, create=True, url=fork) as forked:
        forked.append([entry(0), entry(7), entry(8)])
        state.with_suffix(".checkpoint").rename(tmp_path / "fork" / "l.checkpoint")

        with pytest.raises(ConsistencyError, match="another history"):
            forked.verify()
        with pytest.raises(ConsistencyError):
            forked.append([entry(9)])


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("UPDATE entries SET leaf = replace(leaf, 'set-', 'sat-') WHERE idx = 1", 1),
        ("DELETE FROM entries WHERE idx = 2", 2),
        ("UPDATE entries SET subject = 'x' WHERE idx = 0", 0),
        ("INSERT INTO entries VALUES (3, '\\x00', 'verdict', 'x', '{}')", 3),
        ("INSERT INTO entries VALUES (-1, '\\x00', 'verdict', 'x', '{}')", -1),
    ],
)
def test_an_edited_row_is_named(
    postgres: PrivatePostgres, schema: str, ledger: Ledger, statement: str, index: int
) -> None:
    ledger.append([entry(0), entry(1), entry(2)])

    edit(postgres, schema, statement)

    with pytest.raises(LedgerError) as caught:
        ledger.verify()
    assert caught.value.details["index"] == index


CHANGES = [
    "UPDATE entries SET leaf = '{}' WHERE idx = 0",
    "DELETE FROM entries",
    "TRUNCATE entries",
    "UPDATE checkpoints SET note = '' WHERE size = 1",
    "DELETE FROM checkpoints",
    "TRUNCATE checkpoints",
    "UPDATE settings SET value = 'x'",
    "DELETE FROM settings",
    "DELETE FROM tiles",
    "TRUNCATE tiles",
    "UPDATE tiles SET number = 7",
    "DELETE FROM schema_versions",
    "INSERT INTO entries VALUES (1, '\\x00', 'a', 'b', '{}') ON CONFLICT (idx) DO UPDATE SET leaf = '{}'",
]
#: What a writer may not do either, though it may write: the triggers refuse it.
WRITES = [
    "UPDATE tiles SET hashes = substring(hashes FROM 33)",
    "UPDATE tiles SET hashes = '\\x00'",
    "INSERT INTO entries VALUES (9, '\\x00', 'a', 'b', '{}')",
    "INSERT INTO entries VALUES (-1, '\\x00', 'a', 'b', '{}')",
    "INSERT INTO checkpoints VALUES (9, '\\x00')",
    "INSERT INTO settings VALUES ('a', 'b')",
]


@pytest.mark.parametrize("role", ["owner", "writer", "reader"])
def test_the_database_refuses_changes_to_every_ordinary_role(
    postgres: PrivatePostgres, schema: str, roles: dict[str, str], state: Path, role: str
) -> None:
    """By grants (42501), and by triggers (P0001) where a grant must be there for appends."""
    make_with_roles(postgres, schema, roles, state).close()

    with as_role(postgres, roles[role]) as connection:
        connection.execute(f"SET search_path = {schema}")
        refusals = {statement: refusal_of(connection, statement) for statement in CHANGES + WRITES}

    by_grant = CHANGES + WRITES if role == "reader" else CHANGES
    assert refusals == {statement: "42501" if statement in by_grant else "P0001" for statement in CHANGES + WRITES}


def test_the_triggers_alone_refuse_changes_also_to_a_superuser_in_replica_mode(
    postgres: PrivatePostgres, schema: str, ledger: Ledger
) -> None:
    """ENABLE ALWAYS: no setting of a session turns them aside; only dropping or disabling them by name does."""
    ledger.append([entry(0)])

    with admin(postgres) as connection:
        connection.execute(f"SET search_path = {schema}; SET session_replication_role = replica")
        refusals = {statement: refusal_of(connection, statement) for statement in CHANGES + WRITES}

    assert refusals == dict.fromkeys(CHANGES + WRITES, "P0001")
    assert ledger.verify().size == 1


def refusal_of(connection: "psycopg.Connection[Any]", statement: str) -> str | None:
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def test_a_search_path_of_ones_own_does_not_turn_the_triggers_aside(
    postgres: PrivatePostgres, schema: str, ledger: Ledger
) -> None:
    ledger.append([entry(0)])

    with admin(postgres) as connection:
        connection.execute("CREATE TEMP TABLE entries (idx BIGINT)")
        connection.execute(f"INSERT INTO pg_temp.entries VALUES (41); SET search_path = pg_temp, {schema}")
        with pytest.raises(psycopg.errors.RaiseException, match="no gaps"):
            connection.execute(f"INSERT INTO {schema}.entries VALUES (42, '\\x00', 'a', 'b', '{{}}')")


def make_with_roles(postgres: PrivatePostgres, schema: str, roles: dict[str, str], state: Path) -> Ledger:
    """The owner makes the tables without a key, the writer names the ledger and appends."""
    owner, writer, reader = (roles[role] for role in ("owner", "writer", "reader"))
    set_up_tables(postgres.url_of(user=owner, schema=schema), writers=[writer], readers=[reader])
    url = postgres.url_of(user=writer, schema=schema)
    ledger = open_ledger(state, origin=ORIGIN, key=KEY, create=True, url=url)
    ledger.append([entry(0)])
    return ledger


def test_owner_writer_and_reader_each_do_their_part_and_no_more(
    postgres: PrivatePostgres, schema: str, roles: dict[str, str], state: Path, tmp_path: Path
) -> None:
    with make_with_roles(postgres, schema, roles, state) as writer:
        writer.append([entry(1), entry(2)])
        assert writer.verify().size == 3
    vkeys = [vkey_of(ORIGIN, KEY)]
    reader_url = postgres.url_of(user=roles["reader"], schema=schema)
    with open_ledger(tmp_path / "auditor" / "l.db", origin=ORIGIN, vkeys=vkeys, url=reader_url) as reader:
        assert reader.verify().size == 3
        assert reader.find(subject="set-1")[0].index == 1
    with open_ledger(tmp_path / "auditor" / "l.db", origin=ORIGIN, key=KEY, url=reader_url) as reader:
        with pytest.raises(UsageError, match="does not let this role"):
            reader.append([entry(3)])
        assert reader.size == 3
    stranger = postgres.url_of(user=roles["stranger"], schema=schema)
    with pytest.raises(UsageError, match="does not let this role"):
        open_ledger(state, origin=ORIGIN, key=KEY, url=stranger)
    # A second run of the owner changes nothing and keeps the writer's rights.
    set_up_tables(postgres.url_of(user=roles["owner"], schema=schema), writers=[roles["writer"]])
    owner_url = postgres.url_of(user=roles["owner"], schema=schema)
    with open_ledger(state, origin=ORIGIN, key=KEY, url=owner_url) as owner:
        assert owner.append([entry(3)]).indexes == (3,)


def test_a_role_that_may_not_make_tables_makes_no_ledger(
    postgres: PrivatePostgres, schema: str, roles: dict[str, str], state: Path
) -> None:
    url = postgres.url_of(user=roles["stranger"], schema=schema)

    with pytest.raises(UsageError, match="does not let this role") as caught:
        open_ledger(state, origin=ORIGIN, key=KEY, create=True, url=url)

    assert "millcert ledger init" in caught.value.hint
    with pytest.raises(UsageError, match="nobody_here"):
        set_up_tables(postgres.url_of(schema=schema), readers=["nobody_here"])


def test_the_printed_statements_make_the_same_tables(
    postgres: PrivatePostgres, schema: str, url: str, roles: dict[str, str], state: Path
) -> None:
    statements = set_up_statements(url, writers=[roles["writer"]], readers=[roles["reader"]])

    with admin(postgres) as connection, connection.transaction():
        for statement in statements:
            connection.execute(statement)

    writer = postgres.url_of(user=roles["writer"], schema=schema)
    with open_ledger(state, origin=ORIGIN, key=KEY, create=True, url=writer) as ledger:
        assert ledger.append([entry(0)]).indexes == (0,)
        assert ledger.verify().size == 1


def test_a_database_without_a_ledger_is_said_to_be_none(state: Path, url: str) -> None:
    with pytest.raises(LedgerError, match="is no ledger"):
        open_ledger(state, origin=ORIGIN, key=KEY, url=url)


def test_a_newer_schema_is_refused_by_readers_writers_and_the_owner(
    postgres: PrivatePostgres, schema: str, state: Path, url: str, ledger: Ledger
) -> None:
    with admin(postgres) as connection:
        connection.execute(f"INSERT INTO {schema}.schema_versions VALUES ({NEWEST_SCHEMA + 1})")

    for key in (KEY, None):
        with pytest.raises(UsageError, match=f"version {NEWEST_SCHEMA + 1}; this millcert knows {NEWEST_SCHEMA}"):
            open_ledger(state, origin=ORIGIN, key=key, url=url)
    with pytest.raises(UsageError, match="newer millcert"):
        set_up_tables(url)


def test_a_writer_that_holds_the_lock_too_long_is_a_failure_that_may_be_retried(
    monkeypatch: pytest.MonkeyPatch, state: Path, url: str, ledger: Ledger
) -> None:
    monkeypatch.setattr("millcert.provenance.ledger_postgres.LOCK_TIMEOUT_SECONDS", 0.05)
    holder = open_store(state, url, read_only=False)

    with holder.writing() as transaction:
        assert transaction.size() == 0
        with pytest.raises(StoreError, match="lock timeout"):
            ledger.append([entry(0)])
    holder.close()

    assert ledger.append([entry(0)]).indexes == (0,)


def test_a_reader_sees_one_state_while_others_append(ledger: Ledger, state: Path, url: str) -> None:
    ledger.append([entry(0)])
    store = open_store(state, url, read_only=True)

    with store.reading() as snapshot:
        before = snapshot.newest_checkpoint()
        ledger.append([entry(1)])

        assert snapshot.newest_checkpoint() == before
        assert snapshot.size() == 1
    with store.reading() as snapshot:
        assert snapshot.size() == 2
    store.close()


def test_a_server_that_goes_away_is_a_failure_of_the_store_and_the_next_call_goes_on(
    postgres: PrivatePostgres, ledger: Ledger
) -> None:
    ledger.append([entry(0)])
    postgres.stop(crash=True)

    with pytest.raises(StoreError) as caught:
        ledger.append([entry(1)])
    with pytest.raises(StoreError):
        ledger.verify()
    assert caught.value.exit_code == 5
    postgres.start_again()

    assert ledger.append([entry(0), entry(1)]).indexes == (0, 1)
    assert ledger.verify().size == 2


def test_commits_are_durable_also_where_the_role_says_otherwise(
    postgres: PrivatePostgres, schema: str, state: Path, url: str
) -> None:
    with admin(postgres) as connection:
        connection.execute("ALTER ROLE ledger_owner SET synchronous_commit = off")
    try:
        store = open_store(state, url, read_only=False)
        with store.writing() as transaction:
            connected = transaction._connection  # type: ignore[attr-defined]
            assert connected.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        store.close()
    finally:
        with admin(postgres) as connection:
            connection.execute("ALTER ROLE ledger_owner RESET synchronous_commit")


def test_a_server_that_forgets_commits_is_refused(postgres: PrivatePostgres, state: Path, url: str) -> None:
    def set_fsync(value: str) -> None:
        with admin(postgres) as connection:
            connection.execute(f"ALTER SYSTEM SET fsync = {value}")
            connection.execute("SELECT pg_reload_conf()")
        while True:
            with admin(postgres) as connection:
                row = connection.execute("SHOW fsync").fetchone()
                if row == (value,):
                    return

    set_fsync("off")
    try:
        with pytest.raises(UsageError, match="fsync=off"):
            open_ledger(state, origin=ORIGIN, key=KEY, create=True, url=url)
    finally:
        set_fsync("on")


@pytest.fixture
def sealed(postgres: PrivatePostgres) -> Iterator[str]:
    """A role that must give a password, which nobody here knows."""
    name = f"sealed_{uuid4().hex[:8]}"
    with admin(postgres) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'another'")
        row = connection.execute("SHOW hba_file").fetchone()
        assert row is not None
        rules = Path(row[0])
        before = rules.read_text()
        rules.write_text(f"local all {name} scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        while connection.execute("SELECT count(*) FROM pg_hba_file_rules").fetchone() == (before.count("\nlocal"),):
            pass
    yield name
    rules.write_text(before)
    with admin(postgres) as connection:
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(f"DROP ROLE {name}")


def test_a_wrong_password_is_in_no_message(postgres: PrivatePostgres, sealed: str, state: Path, schema: str) -> None:
    url = postgres.url_of(user=f"{sealed}:{SECRET}", schema=schema)
    command = ["-v", "ledger", "init", "--ledger", url, "--origin", ORIGIN, "--state", str(state.parent), "--json"]

    done = subprocess.run([sys.executable, "-m", "millcert", *command], capture_output=True, text=True, check=False)

    assert done.returncode in (2, 5)
    assert "authentication failed" in done.stdout
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"postgresql://u:{SECRET}@", "no database"),
        (f"postgresql://u:{SECRET}@h:port/db", "cannot be parsed"),
        (f"mysql://u:{SECRET}@h/db", "scheme"),
        (f"postgresql+asyncpg://u:{SECRET}@h/db", "scheme"),
        (f"postgresql://u:p@{SECRET}@h/db", "%40"),
        (f"postgresql://h/db?password={SECRET}", "parameters"),
        (f"postgresql://u:{SECRET}@h/db?schema=a%22b", "lower-case"),
        (f"postgresql://{SECRET}" + "[", "cannot be parsed|no database"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_quoting_it(state: Path, url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        open_store(state, url, read_only=True)

    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_place_is_shown_without_its_password() -> None:
    place = parse_postgres_url(f"postgresql://u:{SECRET}@h/db")

    assert str(place) == "postgresql://u:***@h/db?sslmode=verify-full"
    assert SECRET not in repr(place)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@db.example/x", "verify-full"),
        ("postgresql://u@/x?host=db.example", "verify-full"),
        ("postgresql://u@db.example/x?sslmode=disable", "disable"),
        ("postgresql://u@localhost/x", None),
        ("postgresql://u@/x?host=/run/postgresql", None),
        ("postgresql:///x", None),
    ],
)
def test_a_host_on_the_network_must_prove_who_it_is_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str | None
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.delenv("PGHOST", raising=False)

    assert parse_postgres_url(url).url.query.get("sslmode") == expected


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch, state: Path, url: str) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(UsageError, match="psycopg") as caught:
        open_store(state, url, read_only=True)

    assert "millcert[postgres]" in caught.value.hint


def test_two_ledgers_of_one_database_do_not_wait_for_each_other(postgres: PrivatePostgres, state: Path) -> None:
    first, second = (open_store(state, postgres.url_of(schema=name), read_only=False) for name in ("one", "two"))

    with first.writing() as one, second.writing() as two:
        assert one.is_new()
        assert two.is_new()

    first.close()
    second.close()


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("08006", StoreError),  # connection failure
        ("25006", StoreError),  # a standby, which only reads
        ("40001", StoreError),  # serialization failure
        ("40P01", StoreError),  # deadlock
        ("53100", StoreError),  # disk full
        ("53300", StoreError),  # too many connections
        ("55P03", StoreError),  # lock not available
        ("57P01", StoreError),  # admin shutdown
        ("57014", StoreError),  # query cancelled
        ("58030", StoreError),  # I/O error
        ("28P01", UsageError),  # wrong password
        ("3D000", UsageError),  # no such database
        ("42501", UsageError),  # not allowed
        ("42704", UsageError),  # no such role
        ("42P01", LedgerError),  # no such table
        ("P0001", LedgerError),  # a trigger of ours
        ("23505", LedgerError),  # an index twice
        ("XX001", LedgerError),  # data corrupted
    ],
)
def test_what_the_server_says_gets_the_exit_code_of_what_it_means(
    url: str, state: Path, sqlstate: str, kind: type[Exception]
) -> None:
    store = open_store(state, url, read_only=True)
    error = store._error_of(psycopg.errors.lookup(sqlstate)("said"))
    store.close()

    assert type(error) is kind
    assert error.details["sqlstate"] == sqlstate


def test_an_error_that_quotes_the_password_is_told_without_it(state: Path, postgres: PrivatePostgres) -> None:
    store = open_store(state, postgres.url_of(user=f"u:{SECRET}", schema="none"), read_only=True)

    with pytest.raises(StoreError) as caught, store._translated():
        raise psycopg.OperationalError(f"cannot connect with {SECRET}")
    store.close()

    assert "with ***" in caught.value.message
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "hidden_cause" not in caught.value.details


def test_a_database_that_cannot_hold_every_entry_is_refused(postgres: PrivatePostgres, state: Path) -> None:
    name = f"ascii_{uuid4().hex[:8]}"
    with admin(postgres) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        with pytest.raises(UsageError, match="not encoded in UTF8"):
            open_ledger(
                state, origin=ORIGIN, key=KEY, create=True, url=postgres.url_of(database=name, schema="millcert")
            )
    finally:
        with admin(postgres) as connection:
            connection.execute(f"DROP DATABASE {name}")


def test_a_dead_server_is_a_failure_of_the_store_from_the_first_call_on(tmp_path: Path, state: Path) -> None:
    with pytest.raises(StoreError, match="could not be reached"):
        open_ledger(state, origin=ORIGIN, key=KEY, create=True, url=f"postgresql:///x?host={tmp_path}")
