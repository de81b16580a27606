"""The ledger's reads and writes in SQL: one code for every database that keeps the promises of `ledger_contract`.

What differs between databases is in `ledger_store` (SQLite) and `ledger_postgres`: how to connect, how a transaction
begins, the steps of the schema, and what an error of the driver means. No module outside these loads SQLAlchemy.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from millcert.errors import LedgerError, MillcertError
from millcert.provenance.ledger_contract import NEWEST_SCHEMA, Row, Snapshot, Transaction
from millcert.provenance.ledger_schema import (
    CHECKPOINTS,
    ENTRIES,
    SCHEMA_VERSIONS,
    SETTINGS,
    TILES,
    as_bytes,
    as_text,
)

#: SQLite holds at most 32,766 variables a statement; ours stay far below.
_CHUNK = 500

# Statements are built once: building one costs more than running it.
_SIZE = sa.select(sa.func.max(ENTRIES.c.idx))
_ROWS = (
    sa.select(ENTRIES)
    .where(ENTRIES.c.idx >= sa.bindparam("start"))
    .order_by(ENTRIES.c.idx)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_INDEXES = sa.select(ENTRIES.c.leaf_hash, ENTRIES.c.idx).where(
    ENTRIES.c.leaf_hash.in_(sa.bindparam("hashes", expanding=True))
)
_AT = (TILES.c.level == sa.bindparam("at_level"), TILES.c.number == sa.bindparam("at_number"))
_TILE = sa.select(TILES.c.hashes).where(*_AT)
_TILE_COUNT = sa.select(sa.func.count()).select_from(TILES)
_GROW_TILE = sa.update(TILES).where(*_AT).values(hashes=sa.bindparam("grown"))
_ADD_TILE = sa.insert(TILES)
_CHECKPOINTS_FROM = (
    sa.select(CHECKPOINTS)
    .where(CHECKPOINTS.c.size >= sa.bindparam("smallest"))
    .order_by(CHECKPOINTS.c.size)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_NEWEST = sa.select(CHECKPOINTS).order_by(CHECKPOINTS.c.size.desc()).limit(1)
_SETTING = sa.select(SETTINGS.c.value).where(SETTINGS.c.name == sa.bindparam("wanted"))
_ADD_ROWS = sa.insert(ENTRIES)
_ADD_CHECKPOINT = sa.insert(CHECKPOINTS)


class SqlStore(ABC):
    """A ledger in one SQL database.

    engine: connects to it.
    schema: where its tables are; None means the database's own place.
    """

    def __init__(self, engine: sa.Engine, schema: str | None = None) -> None:
        self._engine = engine if schema is None else engine.execution_options(schema_translate_map={None: schema})
        self._schema = schema

    @abstractmethod
    def compact(self) -> None:
        """Give back space that no entry, tile or checkpoint uses.

        Raises:
            UsageError: the database's role does not own the tables.
            StoreError: the database is in use or has no room; it is as it was.
        """

    @abstractmethod
    def size_bytes(self) -> int:
        """Return how much room the database takes, with its write-ahead log or indexes."""

    @abstractmethod
    def _connected(self) -> Connection:
        """Return a connection in which nothing has begun."""

    @abstractmethod
    def _begin_reading(self, connection: Connection) -> Connection:
        """Begin one state for reading."""

    @abstractmethod
    def _begin_writing(self, connection: Connection) -> Connection:
        """Begin the one transaction that may write; wait for the one before."""

    @abstractmethod
    def _step(self, version: int) -> list[str]:
        """Return the statements of one step of the schema."""

    @abstractmethod
    def _error_of(self, error: Exception) -> MillcertError:
        """Return the error of ours that stands for one of the driver or of SQLAlchemy."""

    #: What SQLAlchemy and the driver raise; SQLAlchemy does not wrap all of it.
    _driver_errors: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError,)

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """Open one state for reading (see LedgerStore)."""
        with self._translated(), self._connected() as connection:
            connection = self._begin_reading(connection)  # noqa: PLW2901 - with the options of a reader
            try:
                yield _SqlTransaction(connection, self._schema, self._step)
            finally:
                with suppress(sa.exc.SQLAlchemyError):
                    connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Open the one transaction that may write (see LedgerStore)."""
        with self._translated(), self._connected() as connection:
            try:
                connection = self._begin_writing(connection)  # noqa: PLW2901 - with the options of a writer
                yield _SqlTransaction(connection, self._schema, self._step)
                connection.commit()
            except BaseException:
                with suppress(sa.exc.SQLAlchemyError):
                    connection.rollback()
                raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._driver_errors as error:
            translated = self._error_of(error)
            cause = translated.details.pop("hidden_cause", False)
            raise translated from (None if cause else error)


class _SqlTransaction:
    def __init__(self, connection: Connection, schema: str | None, step: Any) -> None:
        self._connection = connection
        self._schema = schema
        self._step = step

    def is_new(self) -> bool:
        return not self._has(SETTINGS) or self.setting("format") is None

    def schema_version(self) -> int:
        if not self._has(SCHEMA_VERSIONS):
            return 1 if self._has(SETTINGS) else 0
        newest = self._connection.execute(sa.select(sa.func.max(SCHEMA_VERSIONS.c.version))).scalar()
        return as_index(newest) if newest is not None else 0

    def migrate(self) -> None:
        for version in range(self.schema_version() + 1, NEWEST_SCHEMA + 1):
            for statement in self._step(version):
                self._connection.exec_driver_sql(statement)

    def create(self, settings: Mapping[str, str]) -> None:
        self.migrate()
        rows = [{"name": name, "value": value} for name, value in settings.items()]
        self._connection.execute(sa.insert(SETTINGS), rows)

    def size(self) -> int:
        last = self._connection.execute(_SIZE).scalar()
        return 0 if last is None else as_index(last) + 1

    def rows(self, start: int, limit: int) -> list[Row]:
        return self._rows(_ROWS, start=start, count=limit)

    def find(self, *, kind: str | None, subject: str | None, text: str | None, limit: int) -> list[Row]:
        if any(not _can_be_stored(word) for word in (kind, subject, text) if word is not None):
            return []
        query = sa.select(ENTRIES).order_by(ENTRIES.c.idx).limit(limit)
        if kind is not None:
            query = query.where(ENTRIES.c.kind == kind)
        if subject is not None:
            query = query.where(ENTRIES.c.subject == subject)
        if text is not None:
            query = query.where(ENTRIES.c.leaf.icontains(text, autoescape=True))
        return self._rows(query)

    def indexes_of(self, leaf_hashes: Sequence[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for start in range(0, len(leaf_hashes), _CHUNK):
            known = self._connection.execute(_INDEXES, {"hashes": list(leaf_hashes[start : start + _CHUNK])})
            found.update((leaf_hash, as_index(index)) for leaf_hash, index in known)
        return found

    def tile(self, level: int, number: int) -> bytes | None:
        return self._connection.execute(_TILE, {"at_level": level, "at_number": number}).scalar()

    def tile_count(self) -> int:
        return int(self._connection.execute(_TILE_COUNT).scalar() or 0)

    def checkpoints(self, smallest: int, limit: int) -> list[tuple[int, bytes]]:
        found = self._connection.execute(_CHECKPOINTS_FROM, {"smallest": smallest, "count": limit})
        return [(as_index(size), note) for size, note in found]

    def newest_checkpoint(self) -> tuple[int, bytes] | None:
        row = self._connection.execute(_NEWEST).first()
        return None if row is None else (as_index(row[0]), row[1])

    def setting(self, name: str) -> str | None:
        return self._connection.execute(_SETTING, {"wanted": name}).scalar()

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
        self._connection.execute(_ADD_ROWS, values)

    def put_tile(self, level: int, number: int, hashes: bytes) -> None:
        grown = self._connection.execute(_GROW_TILE, {"at_level": level, "at_number": number, "grown": hashes})
        if grown.rowcount == 0:
            self._connection.execute(_ADD_TILE, {"level": level, "number": number, "hashes": hashes})

    def insert_checkpoint(self, size: int, note: bytes) -> None:
        self._connection.execute(_ADD_CHECKPOINT, {"size": size, "note": note})

    def _has(self, table: sa.Table) -> bool:
        return sa.inspect(self._connection).has_table(table.name, schema=self._schema)

    def _rows(self, query: sa.Select[Any], **values: int) -> list[Row]:
        return [
            Row(as_index(row.idx), row.leaf_hash, as_text(row.kind), as_text(row.subject), as_bytes(row.leaf))
            for row in self._connection.execute(query, values)
        ]


def as_index(value: object) -> int:
    """Return a number of the primary key; in a database whose schema was damaged it can be anything."""
    if isinstance(value, int):
        return value
    raise LedgerError(
        f"The ledger has an index of type {type(value).__name__}; expected an integer.",
        hint="The database is damaged: restore the ledger from its newest copy.",
    )


def _can_be_stored(word: str) -> bool:
    """Say whether an entry can hold a word at all: UTF-8, and no byte 0, which PostgreSQL's text cannot hold."""
    return "\x00" not in word and not any("\ud800" <= character <= "\udfff" for character in word)
