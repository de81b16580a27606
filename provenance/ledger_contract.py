"""What a ledger needs of its store, whichever database that is.

A store promises:
  1. `writing` is serial: between its start and its end no other process writes, and it sees all that was written.
  2. A transaction is kept whole or not at all, and once `writing` returns, it survives a loss of power.
  3. Rows, checkpoints and the filled part of a tile cannot be updated or deleted through the database.
Rule 3 stops accidents and honest programs. Who can edit the file can undo it; `Ledger.verify` is for those.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from millcert.errors import UsageError

#: The version of the database's schema that this millcert writes; it reads every earlier one. It is counted apart from
#: the log's format, which stays as it is.
NEWEST_SCHEMA = 2


@dataclass(frozen=True)
class Row:
    """One stored entry, as found: nothing of it is verified."""

    index: int
    leaf_hash: bytes
    kind: str
    subject: str
    leaf: bytes


class Snapshot(Protocol):
    """Reads of one state of the ledger."""

    def size(self) -> int:
        """Return how many rows there are: the largest index + 1."""
        ...

    def rows(self, start: int, limit: int) -> list[Row]:
        """Return the rows from index `start` on, at most `limit`, by index."""
        ...

    def find(self, *, kind: str | None, subject: str | None, text: str | None, limit: int) -> list[Row]:
        """Return rows by exact kind and subject and by text inside the leaf (letter case is ignored), by index."""
        ...

    def indexes_of(self, leaf_hashes: Sequence[bytes]) -> dict[bytes, int]:
        """Return the index of each leaf hash that is stored."""
        ...

    def tile(self, level: int, number: int) -> bytes | None:
        """Return a tile's hashes."""
        ...

    def tile_count(self) -> int:
        """Return how many tiles there are."""
        ...

    def checkpoints(self, smallest: int, limit: int) -> list[tuple[int, bytes]]:
        """Return (size, signed note) of the checkpoints with at least that size, smallest first."""
        ...

    def newest_checkpoint(self) -> tuple[int, bytes] | None:
        """Return (size, signed note) of the largest checkpoint."""
        ...

    def setting(self, name: str) -> str | None:
        """Return a setting, fixed when the ledger was made."""
        ...

    def schema_version(self) -> int:
        """Return the version of the database's schema; 0 where there are no tables."""
        ...


class Transaction(Snapshot, Protocol):
    """Writes, kept when `writing` ends without an error."""

    def is_new(self) -> bool:
        """Say whether `create` was never called on this store."""
        ...

    def create(self, settings: Mapping[str, str]) -> None:
        """Make the settings of a new ledger, and its tables and triggers where nobody made them before."""
        ...

    def migrate(self) -> None:
        """Lead an older schema to the newest, in place; entries, tiles and checkpoints stay as they are."""
        ...

    def insert_rows(self, rows: Sequence[Row]) -> None:
        """Add rows after the last one."""
        ...

    def put_tile(self, level: int, number: int, hashes: bytes) -> None:
        """Write a tile, new or grown."""
        ...

    def insert_checkpoint(self, size: int, note: bytes) -> None:
        """Add the signed note of a new size."""
        ...


class LedgerStore(Protocol):
    """The three methods that a ledger needs of its store."""

    def reading(self) -> AbstractContextManager[Snapshot]:
        """Open one state for reading."""
        ...

    def writing(self) -> AbstractContextManager[Transaction]:
        """Open the one transaction that may write; committed at the end, undone on any error.

        Raises:
            StoreError: (at the end, too) it cannot be known that the writes were kept.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def require_known_schema(version: int) -> None:
    """Refuse a database that a newer millcert made or migrated.

    Raises:
        UsageError: its schema is newer than NEWEST_SCHEMA.
    """
    if version > NEWEST_SCHEMA:
        raise UsageError(
            f"The ledger's database has the schema version {version}; this millcert knows {NEWEST_SCHEMA}.",
            hint="A newer millcert made or migrated it: use that one, or a newer one.",
            expected=NEWEST_SCHEMA,
            actual=version,
        )
