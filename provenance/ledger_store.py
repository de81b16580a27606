"""A ledger in one SQLite file: write-ahead log, synchronous=FULL, BEGIN IMMEDIATE.

Keeps the promises of `ledger_contract`; the statements are those of `ledger_sql`.
"""

import sqlite3
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.pool import QueuePool

from millcert.errors import LedgerError, MillcertError, StoreError, UsageError
from millcert.provenance.ledger_schema import sqlite_step
from millcert.provenance.ledger_sql import SqlStore

#: How long one process waits for another one's append. An append of 1,000 entries takes about 0.1 s.
BUSY_TIMEOUT_SECONDS = 60.0

#: An append touches a page of the index of leaf hashes for nearly each entry: let the pages stay in memory, and copy
#: them from the write-ahead log into the file by many at once (32 MB of log). Measured at 150,000 entries: a third more
#: entries a CPU-second than SQLite's defaults.
_CACHE_KIB = 65_536
_CHECKPOINT_PAGES = 8_000


class SqliteStore(SqlStore):
    """A ledger in one SQLite file.

    path: the file; it must exist unless `create`.
    read_only: open so that nothing can be written.
    """

    # UnicodeDecodeError: the database's own message quotes bytes of a damaged schema.
    _driver_errors = (sa.exc.SQLAlchemyError, sqlite3.Error, UnicodeDecodeError)

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False) -> None:
        if not create and not path.exists():
            raise UsageError(
                f"There is no ledger at {path}.",
                hint="Check --state and --ledger, or let the first `millcert vet` make it.",
                path=str(path),
            )
        mode = "ro" if read_only else "rwc" if create else "rw"
        uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
        self._path = path
        super().__init__(
            sa.create_engine(
                "sqlite+pysqlite://",
                creator=lambda: _connect(uri, read_only=read_only),
                poolclass=QueuePool,
                pool_size=1,
            )
        )

    def compact(self) -> None:
        """Rewrite the file without free pages and empty the write-ahead log (see SqlStore)."""
        with self._translated(), self._engine.connect() as connection:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def size_bytes(self) -> int:
        """Return the size of the file and of its write-ahead log."""
        log = self._path.with_name(f"{self._path.name}-wal")
        return self._path.stat().st_size + (log.stat().st_size if log.exists() else 0)

    def _connected(self) -> Connection:
        return self._engine.connect()

    def _begin_reading(self, connection: Connection) -> Connection:
        connection.exec_driver_sql("BEGIN")
        return connection

    def _begin_writing(self, connection: Connection) -> Connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return connection

    def _step(self, version: int) -> list[str]:
        return sqlite_step(version)

    def _error_of(self, error: Exception) -> MillcertError:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(cause, sqlite3.OperationalError) and "no such table" not in str(cause):
            return StoreError(
                f"The ledger {self._path} could not be read or written: {cause}.",
                hint="Nothing was half-written. Look at disk space, permissions and other processes, then try again.",
                path=str(self._path),
            )
        return LedgerError(
            f"The database {self._path} is damaged or is no ledger: {cause}.",
            hint="Run `millcert ledger verify`, or restore the ledger from its newest copy.",
            path=str(self._path),
        )


def _connect(uri: str, *, read_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_TIMEOUT_SECONDS,
        isolation_level=None,  # we say BEGIN ourselves
        check_same_thread=False,  # the pool lends a connection to one thread at a time
    )
    # Bytes that are no UTF-8 are somebody's edit: they must reach the comparison that names the row.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA recursive_triggers=ON")  # else INSERT OR REPLACE deletes past the triggers
    except BaseException:
        connection.close()
        raise
    return connection
