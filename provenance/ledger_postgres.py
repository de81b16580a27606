"""A ledger in a PostgreSQL schema (psycopg 3): one sequencer by advisory lock, append-only by grants and triggers.

Keeps the promises of `ledger_contract`; the statements are those of `ledger_sql`. What this module adds:
  1. One writer at a time: a transaction that writes takes the schema's advisory lock first; the triggers take it too.
  2. A commit that returned is on disk: synchronous_commit is switched on, and a server with fsync=off is refused.
  3. A connection that is lost is a StoreError: PostgreSQL then keeps the whole transaction or nothing of it.
  4. A password is in no message: errors name the place without it, and an error that quotes it is not passed on.
Roles and operation: docs/ledger-operations.md.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.pool import QueuePool

from millcert.errors import LedgerError, MillcertError, StoreError, UsageError
from millcert.provenance.ledger_postgres_schema import SCHEMA_NAME, postgres_grants, postgres_step, sequencer_lock
from millcert.provenance.ledger_schema import METADATA
from millcert.provenance.ledger_sql import SqlStore

#: How long one process waits for another one's append.
LOCK_TIMEOUT_SECONDS = 60

DEFAULT_SCHEMA = "millcert"

#: A server that is not there is told within seconds, also where a firewall swallows packets (our choice).
_LIBPQ_DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "30", "tcp_user_timeout": "60000"}

_RETRY = "Nothing was half-written; a retry is safe."

#: SQLSTATE classes (PostgreSQL manual, appendix A) of a server or connection that fails, not of what was asked:
#: connection, transaction state and rollback, resources, lock, operator, system, configuration file.
_PASSING_CLASSES = frozenset({"08", "25", "40", "53", "55", "57", "58", "F0"})
_TABLES = (
    "FROM pg_class WHERE relkind = 'r' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)"
)
_IS_OWNER = f"SELECT bool_and(pg_has_role(relowner, 'USAGE')) {_TABLES}"
_BYTES = f"SELECT sum(pg_total_relation_size(oid)) {_TABLES}"
_WRONG_LOGIN = frozenset({"28000", "28P01", "3D000"})
_NOT_ALLOWED = "42501"


@dataclass(frozen=True)
class PostgresPlace:
    """Where a ledger is in PostgreSQL.

    url: of the database, with its password, if it has one.
    schema: the PostgreSQL schema of the ledger's tables.
    """

    url: sa.URL = field(repr=False)
    schema: str

    def __str__(self) -> str:
        return str(self.url.set(drivername="postgresql").render_as_string(hide_password=True))


def parse_postgres_url(text: str) -> PostgresPlace:
    """Return the place that a URL names: postgresql://USER@HOST:PORT/DATABASE?schema=NAME&sslmode=...

    `schema` is ours (default "millcert"); all other parameters go to libpq. To a host on the network, sslmode is
    verify-full unless the URL or $PGSSLMODE says otherwise: who can change packets could report a lost append as kept.

    Raises:
        UsageError: it is no such URL; the message never quotes it, because it may hold a password.
    """
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise _bad_url("it cannot be parsed") from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise _bad_url("its scheme is not postgresql")
    if not url.database:
        raise _bad_url("it names no database")
    if "@" in (url.host or ""):
        raise _bad_url("its password or user holds an '@' that is not written as %40")
    query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    if {"password", "sslpassword", "passwd"} & set(query):
        raise _bad_url("a password stands among its parameters")
    schema = query.pop("schema", DEFAULT_SCHEMA)
    if not SCHEMA_NAME.fullmatch(schema):
        raise _bad_url("its schema must be lower-case letters, digits and '_', at most 63")
    host = query.get("host") or url.host or os.environ.get("PGHOST") or ""
    is_local = not host or host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
    if not is_local and "sslmode" not in query and not os.environ.get("PGSSLMODE"):
        query["sslmode"] = "verify-full"
    return PostgresPlace(url.set(drivername="postgresql+psycopg", query=query), schema)


class PostgresStore(SqlStore):
    """A ledger in one schema of a PostgreSQL database, version 13 or newer.

    place: see `parse_postgres_url`.

    Raises:
        UsageError: psycopg is not installed.
    """

    def __init__(self, place: PostgresPlace) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise UsageError(
                "A ledger in PostgreSQL needs the driver psycopg, which is not installed.",
                hint="pip install 'millcert[postgres]'",
            ) from error
        self._driver_errors = (sa.exc.SQLAlchemyError, psycopg.Error)
        self._place = place
        arguments = {name: value for name, value in _LIBPQ_DEFAULTS.items() if name not in place.url.query}
        engine = sa.create_engine(
            place.url,
            connect_args={**arguments, "application_name": "millcert"},
            poolclass=QueuePool,
            pool_size=1,
            pool_pre_ping=True,  # a server that was started again since the last call is no failure
            hide_parameters=True,
        )
        sa.event.listen(engine, "connect", _require_durable, insert=True)  # before SQLAlchemy asks anything
        super().__init__(engine, place.schema)

    def grant(self, *, writers: tuple[str, ...] = (), readers: tuple[str, ...] = ()) -> None:
        """Give roles what they need to append or to read, and take from the owner what nobody needs.

        Raises:
            UsageError: a role does not exist, or this role does not own the ledger's tables.
            StoreError: the connection was lost; nothing was granted.
        """
        with self._translated(), self._connected() as connection:
            for statement in postgres_grants(self._place.schema, writers=writers, readers=readers):
                connection.exec_driver_sql(statement)
            connection.commit()

    def compact(self) -> None:
        """Let the space of rows that grew be used again, and refresh the planner's figures (see SqlStore)."""
        with self._translated(), self._connected() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")  # noqa: PLW2901
            if not connection.exec_driver_sql(_IS_OWNER, {"schema": self._place.schema}).scalar():
                raise UsageError(
                    f"The ledger {self._place} is not this role's own, and PostgreSQL compacts only for the owner.",
                    hint="Run it as the role that ran `millcert ledger init`. Autovacuum does the same by and by.",
                )
            names = ", ".join(f'"{self._place.schema}".{table}' for table in METADATA.tables)
            connection.exec_driver_sql(f"VACUUM (ANALYZE) {names}")

    def size_bytes(self) -> int:
        """Return the size of the tables with their indexes."""
        with self._translated(), self._connected() as connection:
            found = connection.exec_driver_sql(_BYTES, {"schema": self._place.schema}).scalar()
            return int(found or 0)

    def _connected(self) -> Connection:
        return self._engine.connect()

    def _begin_reading(self, connection: Connection) -> Connection:
        return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _begin_writing(self, connection: Connection) -> Connection:
        # READ COMMITTED: each statement after the lock sees what the writer before committed. Under REPEATABLE READ the
        # state would be that of before the wait.
        connection = connection.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=False)
        connection.exec_driver_sql(
            f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'; "
            "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') <> "
            f"'remote_apply'; SELECT pg_advisory_xact_lock({sequencer_lock(self._place.schema)})"
        )
        return connection

    def _step(self, version: int) -> list[str]:
        return postgres_step(version, self._place.schema)

    def _error_of(self, error: Exception) -> MillcertError:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        state = getattr(cause, "sqlstate", None)
        password = self._place.url.password
        told = " ".join(str(cause).split())
        quotes_password = bool(password) and str(password) in told
        if quotes_password:
            told = told.replace(str(password), "***")
        details: dict[str, Any] = {"place": str(self._place), "sqlstate": state, "hidden_cause": quotes_password}
        about = f"The ledger {self._place}"
        if state in _WRONG_LOGIN:
            return UsageError(
                f"{about} cannot be opened: {told}.",
                hint="Check the role, its password and the database's name; see docs/ledger-operations.md.",
                **details,
            )
        if state == _NOT_ALLOWED:
            return UsageError(
                f"{about} does not let this role do that: {told}.",
                hint="Let the owner of the ledger's tables run `millcert ledger init`, with --writer or --reader ROLE.",
                **details,
            )
        if state == "42704":
            return UsageError(f"{about}: {told}.", hint="Make the role first: CREATE ROLE ... LOGIN.", **details)
        if state is None or state[:2] in _PASSING_CLASSES:
            return StoreError(f"{about} could not be reached, read or written: {told}.", hint=_RETRY, **details)
        return LedgerError(
            f"{about} is damaged or is no ledger: {told}.",
            hint="`millcert ledger init` makes a new one; for an old one run `millcert ledger verify`.",
            **details,
        )


def _require_durable(connection: Any, record: object) -> None:
    """Refuse a server that forgets commits, or that cannot hold every entry."""
    del record
    try:
        with connection.cursor() as cursor:
            # Compared there: in a database without an encoding the driver hands out no text.
            cursor.execute("SELECT current_setting('fsync') = 'on', current_setting('server_encoding') = 'UTF8'")
            is_durable, is_utf8 = cursor.fetchone()
        connection.rollback()
        _require_settings(is_durable=is_durable, is_utf8=is_utf8)
    except BaseException:
        connection.close()
        raise


def _require_settings(*, is_durable: bool, is_utf8: bool) -> None:
    if not is_durable:
        raise UsageError(
            "The PostgreSQL server runs with fsync=off: it may lose what it acknowledged.",
            hint="Switch fsync on; a ledger must not forget.",
        )
    if not is_utf8:
        raise UsageError(
            "The PostgreSQL database is not encoded in UTF8, so it cannot hold every entry.",
            hint="CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )


def _bad_url(why: str) -> UsageError:
    return UsageError(
        f"The ledger's URL cannot be used: {why}.",
        hint="Expected postgresql://USER@HOST:PORT/DATABASE; keep the password in ~/.pgpass or $PGPASSWORD.",
    )
