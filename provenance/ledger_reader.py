"""A ledger's SQLite file, read with the standard library alone: for a training job, which loads no database toolkit.

Reads the tables of `ledger_store`; believes nothing of them: `Ledger` compares what it gets with the tree.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.checkpoint import VerifierKey
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger_contract import Row, Snapshot, Transaction
from millcert.provenance.ledger_log import Ledger

#: How long a read waits for an append.
BUSY_TIMEOUT_SECONDS = 60.0


def read_ledger(path: Path, vkeys: Sequence[VerifierKey]) -> Ledger:
    """Return the ledger in the SQLite file at `path`, for reading only; close it after use.

    Args:
        path: the database; `<name>.checkpoint` beside it is the last checkpoint that was seen.
        vkeys: its public keys; the first one's name is its origin.

    Raises:
        UsageError: there is no such file, or it is of another origin.
        LedgerError, SignatureError: it is no ledger, or another key signs it.
        StoreError: it cannot be opened.
    """
    if not path.exists():
        raise UsageError(f"There is no ledger at {path}.", hint="Check --state.", path=str(path))
    last_seen = LastSeen(path.with_suffix(".checkpoint"))
    ledger = Ledger(SqliteReader(path), origin=vkeys[0].name, vkeys=vkeys, key=None, last_seen=last_seen)
    try:
        ledger.check_settings()
    except BaseException:
        ledger.close()
        raise
    return ledger


class SqliteReader:
    """The reading half of a ledger's store (see LedgerStore)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _translated(path):
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?mode=ro",
                uri=True,
                timeout=BUSY_TIMEOUT_SECONDS,
                isolation_level=None,
            )
        # Bytes that are no UTF-8 are somebody's edit: they must reach the comparison that names the row.
        self._connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """Open one state for reading."""
        with _translated(self._path):
            self._connection.execute("BEGIN")
            try:
                yield _Snapshot(self._connection)
            finally:
                self._connection.rollback()

    def writing(self) -> AbstractContextManager[Transaction]:
        """Refuse: this is for reading.

        Raises:
            UsageError: always.
        """
        raise UsageError("The ledger is open for reading only.", hint="Append with `open_ledger`.")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class _Snapshot:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def size(self) -> int:
        last = self._one("SELECT max(idx) FROM entries")
        return 0 if last is None else _index(last) + 1

    def rows(self, start: int, limit: int) -> list[Row]:
        return self._rows("WHERE idx >= ? ORDER BY idx LIMIT ?", (start, limit))

    def find(self, *, kind: str | None, subject: str | None, text: str | None, limit: int) -> list[Row]:
        clauses, values = ["1"], list[object]()
        for clause, value in (("kind = ?", kind), ("subject = ?", subject), ("instr(lower(leaf), lower(?))", text)):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        return self._rows(f"WHERE {' AND '.join(clauses)} ORDER BY idx LIMIT ?", (*values, limit))

    def indexes_of(self, leaf_hashes: Sequence[bytes]) -> dict[bytes, int]:
        found = {one: self._one("SELECT idx FROM entries WHERE leaf_hash = ?", (one,)) for one in leaf_hashes}
        return {one: _index(index) for one, index in found.items() if index is not None}

    def tile(self, level: int, number: int) -> bytes | None:
        hashes = self._one("SELECT hashes FROM tiles WHERE level = ? AND number = ?", (level, number))
        return None if hashes is None else _bytes(hashes)

    def tile_count(self) -> int:
        return int(self._one("SELECT count(*) FROM tiles"))

    def checkpoints(self, smallest: int, limit: int) -> list[tuple[int, bytes]]:
        query = "SELECT size, note FROM checkpoints WHERE size >= ? ORDER BY size LIMIT ?"
        return [(_index(size), _bytes(note)) for size, note in self._connection.execute(query, (smallest, limit))]

    def newest_checkpoint(self) -> tuple[int, bytes] | None:
        row = self._connection.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        return None if row is None else (_index(row[0]), _bytes(row[1]))

    def setting(self, name: str) -> str | None:
        found = self._one("SELECT value FROM settings WHERE name = ?", (name,))
        return None if found is None else str(found)

    def schema_version(self) -> int:
        tables = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        if ("schema_versions",) in tables:
            return int(self._one("SELECT max(version) FROM schema_versions") or 0)
        return 1 if ("settings",) in tables else 0

    def _rows(self, clauses: str, values: Sequence[object]) -> list[Row]:
        query = f"SELECT idx, leaf_hash, kind, subject, leaf FROM entries {clauses}"  # noqa: S608 - clauses are ours
        return [
            Row(_index(index), _bytes(hashed), str(kind), str(subject), _bytes(leaf))
            for index, hashed, kind, subject, leaf in self._connection.execute(query, tuple(values))
        ]

    def _one(self, query: str, values: Sequence[object] = ()) -> Any:
        row = self._connection.execute(query, tuple(values)).fetchone()
        return None if row is None else row[0]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeError) as error:
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
            raise StoreError(
                f"The ledger {path} could not be read: {error}.",
                hint="Look at permissions and other processes, then try again.",
                path=str(path),
            ) from error
        raise LedgerError(
            f"The database {path} is damaged or is no ledger: {error}.",
            hint="Run `millcert ledger verify`, or restore the ledger from its newest copy.",
            path=str(path),
        ) from error


def _index(value: object) -> int:
    if isinstance(value, int):
        return value
    raise LedgerError(f"The ledger has an index of type {type(value).__name__}; expected an integer.")


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
