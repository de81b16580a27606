"""Where the ledger is kept: SQLite, through SQLAlchemy Core, so that PostgreSQL can follow with the same statements.

Keeps the promises of `ledger_contract`. For SQLite: write-ahead log, synchronous=FULL, BEGIN IMMEDIATE. PostgreSQL
needs its own `_connect`, an advisory lock in place of BEGIN IMMEDIATE, and its own dialect of the triggers; nothing
else here knows which database it is. No other module imports SQLAlchemy; what only verifies never loads it.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.pool import QueuePool

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.ledger_contract import Row, Snapshot, Transaction

#: How long one process waits for another one's append. An append of 1,000 entries takes about 0.1 s.
BUSY_TIMEOUT_SECONDS = 60.0

#: SQLite holds at most 32,766 variables a statement; ours stay far below.
_CHUNK = 500


class _Blob(sa.LargeBinary):
    """Bytes that come back as bytes even where somebody put another type into the row."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002 - the library's signature
        return _as_bytes


_METADATA = sa.MetaData()
_ENTRIES = sa.Table(
    "entries",
    _METADATA,
    sa.Column("idx", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("leaf_hash", _Blob, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("leaf", sa.Text, nullable=False),
    sa.Index("entries_by_kind", "kind", "idx"),
    sa.Index("entries_by_subject", "subject", "idx"),
)
_TILES = sa.Table(
    "tiles",
    _METADATA,
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hashes", _Blob, nullable=False),
)
_CHECKPOINTS = sa.Table(
    "checkpoints",
    _METADATA,
    sa.Column("size", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("note", _Blob, nullable=False),
)
_SETTINGS = sa.Table(
    "settings",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

_SQLITE_TRIGGERS = (
    *(
        f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for table in ("entries", "checkpoints", "settings")
        for verb in ("update", "delete")
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS entries_in_order BEFORE INSERT ON entries "
        "WHEN NEW.idx <> (SELECT coalesce(max(idx) + 1, 0) FROM entries) "
        "BEGIN SELECT RAISE(ABORT, 'the ledger has no gaps'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS tiles_no_delete BEFORE DELETE ON tiles "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    ),
    (
        "CREATE TRIGGER IF NOT EXISTS tiles_only_grow BEFORE UPDATE ON tiles "
        "WHEN NEW.level <> OLD.level OR NEW.number <> OLD.number OR length(NEW.hashes) <= length(OLD.hashes) "
        "OR substr(NEW.hashes, 1, length(OLD.hashes)) <> OLD.hashes "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    ),
)


class SqliteStore:
    """A ledger in one SQLite file.

    path: the file; it must exist unless `create`.
    read_only: open so that nothing can be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False) -> None:
        if not create and not path.exists():
            raise UsageError(
                f"There is no ledger at {path}.",
                hint="Check --state, or let the first `millcert vet` make it.",
                path=str(path),
            )
        mode = "ro" if read_only else "rwc" if create else "rw"
        uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
        self._path = path
        self._engine = sa.create_engine(
            "sqlite+pysqlite://",
            creator=lambda: _connect(uri, read_only=read_only),
            poolclass=QueuePool,
            pool_size=1,
        )

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """Open one state for reading (see LedgerStore)."""
        with _translated(self._path), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield _SqlTransaction(connection)
            finally:
                connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Open the one transaction that may write (see LedgerStore)."""
        with _translated(self._path), self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield _SqlTransaction(connection)
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class _SqlTransaction:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def is_new(self) -> bool:
        return not sa.inspect(self._connection).has_table(_SETTINGS.name)

    def create(self, settings: Mapping[str, str]) -> None:
        _METADATA.create_all(self._connection)
        for statement in _SQLITE_TRIGGERS:
            self._connection.exec_driver_sql(statement)
        rows = [{"name": name, "value": value} for name, value in settings.items()]
        self._connection.execute(sa.insert(_SETTINGS), rows)

    def size(self) -> int:
        last = self._connection.execute(sa.select(sa.func.max(_ENTRIES.c.idx))).scalar()
        return 0 if last is None else _as_index(last) + 1

    def rows(self, start: int, limit: int) -> list[Row]:
        return self._rows(sa.select(_ENTRIES).where(_ENTRIES.c.idx >= start).order_by(_ENTRIES.c.idx).limit(limit))

    def find(self, *, kind: str | None, subject: str | None, text: str | None, limit: int) -> list[Row]:
        query = sa.select(_ENTRIES).order_by(_ENTRIES.c.idx).limit(limit)
        if kind is not None:
            query = query.where(_ENTRIES.c.kind == kind)
        if subject is not None:
            query = query.where(_ENTRIES.c.subject == subject)
        if text is not None:
            query = query.where(_ENTRIES.c.leaf.icontains(text, autoescape=True))
        return self._rows(query)

    def indexes_of(self, leaf_hashes: Sequence[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for start in range(0, len(leaf_hashes), _CHUNK):
            chunk = leaf_hashes[start : start + _CHUNK]
            query = sa.select(_ENTRIES.c.leaf_hash, _ENTRIES.c.idx).where(_ENTRIES.c.leaf_hash.in_(chunk))
            found.update((leaf_hash, _as_index(index)) for leaf_hash, index in self._connection.execute(query))
        return found

    def tile(self, level: int, number: int) -> bytes | None:
        query = sa.select(_TILES.c.hashes).where(_TILES.c.level == level, _TILES.c.number == number)
        return self._connection.execute(query).scalar()

    def tile_count(self) -> int:
        return int(self._connection.execute(sa.select(sa.func.count()).select_from(_TILES)).scalar() or 0)

    def checkpoints(self, smallest: int, limit: int) -> list[tuple[int, bytes]]:
        query = sa.select(_CHECKPOINTS).where(_CHECKPOINTS.c.size >= smallest)
        found = self._connection.execute(query.order_by(_CHECKPOINTS.c.size).limit(limit))
        return [(_as_index(size), note) for size, note in found]

    def newest_checkpoint(self) -> tuple[int, bytes] | None:
        query = sa.select(_CHECKPOINTS).order_by(_CHECKPOINTS.c.size.desc()).limit(1)
        row = self._connection.execute(query).first()
        return None if row is None else (_as_index(row[0]), row[1])

    def setting(self, name: str) -> str | None:
        return self._connection.execute(sa.select(_SETTINGS.c.value).where(_SETTINGS.c.name == name)).scalar()

    def insert_rows(self, rows: Sequence[Row]) -> None:
        values = [
            {
                "idx": row.index,
                "leaf_hash": row.leaf_hash,
                "kind": row.kind,
                "subject": row.subject,
                "leaf": row.leaf.decode(),
            }
            for row in rows
        ]
        self._connection.execute(sa.insert(_ENTRIES), values)

    def put_tile(self, level: int, number: int, hashes: bytes) -> None:
        change = sa.update(_TILES).where(_TILES.c.level == level, _TILES.c.number == number).values(hashes=hashes)
        if self._connection.execute(change).rowcount == 0:
            self._connection.execute(sa.insert(_TILES), {"level": level, "number": number, "hashes": hashes})

    def insert_checkpoint(self, size: int, note: bytes) -> None:
        self._connection.execute(sa.insert(_CHECKPOINTS), {"size": size, "note": note})

    def _rows(self, query: sa.Select[Any]) -> list[Row]:
        return [
            Row(_as_index(row.idx), row.leaf_hash, _as_text(row.kind), _as_text(row.subject), _as_bytes(row.leaf))
            for row in self._connection.execute(query)
        ]


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
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA recursive_triggers=ON")  # else INSERT OR REPLACE deletes past the triggers
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error, UnicodeDecodeError) as error:
        # UnicodeDecodeError: the database's own message quotes bytes of a damaged schema.
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(cause, sqlite3.OperationalError) and "no such table" not in str(cause):
            raise StoreError(
                f"The ledger {path} could not be read or written: {cause}.",
                hint="Nothing was half-written. Look at disk space, permissions and other processes, then try again.",
                path=str(path),
            ) from error
        raise LedgerError(
            f"The database {path} is damaged or is no ledger: {cause}.",
            hint="Run `millcert ledger verify`, or restore the ledger from its newest copy.",
            path=str(path),
        ) from error


def _as_index(value: object) -> int:
    """Return a number of the primary key; in a database whose schema was damaged it can be anything."""
    if isinstance(value, int):
        return value
    raise LedgerError(
        f"The ledger has an index of type {type(value).__name__}; expected an integer.",
        hint="The database is damaged: restore the ledger from its newest copy.",
    )


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else _as_text(value).encode("utf-8", "surrogateescape")


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else repr(value)
