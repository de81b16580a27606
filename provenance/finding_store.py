"""A run's findings in files: sorted records of fixed length, the sealed words behind them, and the tree over both.

`findings.records` has, for each flagged sample, place key, commitment, and where its sealed record is in
`findings.sealed` (u64 offset, u32 length, big endian); `findings.0` and following hold the tree (`shard_tree`).
Nothing of it is believed: who gets a proof verifies it against the logged root.
"""

import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from millcert.errors import LedgerError
from millcert.provenance.finding_leaf import (
    FindingNeighbour,
    FindingProof,
    finding_commitment,
    finding_leaf_hash,
    place_key,
    seal_record,
)
from millcert.provenance.shard_tree import TreeFiles, TreeWriter

RECORDS_FILE = "findings.records"
SEALED_FILE = "findings.sealed"
TREE_NAME = "findings"

#: What is held of a run's findings before they go to files: 76 bytes each.
SORTED_BYTES = 64 << 20

_ENTRY_BYTES = 32 + 32 + 8 + 4


def write_findings(folder: Path, records: Iterable[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Write a run's findings; return how many samples have some, and the root over them.

    Args:
        folder: of the run, not yet published.
        records: (row salt, record) of each flagged sample, in any order.

    Raises:
        OSError: a file cannot be written.

    Cost: memory SORTED_BYTES and, of the 256 parts that records are dealt to by their first byte, one; three hashes and
    a sort.
    """
    offset = 0
    with (
        tempfile.TemporaryDirectory(prefix=".findings-", dir=folder) as dealt,
        (folder / SEALED_FILE).open("wb") as sealed,
        (folder / RECORDS_FILE).open("wb") as sorted_records,
        TreeWriter(lambda level: (folder / f"{TREE_NAME}.{level}").open("wb")) as tree,
    ):
        parts = _DealtEntries(Path(dealt))
        for salt, record in records:
            sealed.write(seal_record(salt, record))
            place = offset.to_bytes(8, "big") + len(record).to_bytes(4, "big")
            parts.add(place_key(salt) + finding_commitment(salt, record) + place)
            offset += len(record)
        for entries in parts.in_order():
            sorted_records.write(b"".join(entries))
            tree.extend(b"".join(finding_leaf_hash(entry[:32], entry[32:64]) for entry in entries))
        return tree.end_tree()


class _DealtEntries:
    """Entries by their first byte, in memory while they are few and in a file for each byte beyond."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = [bytearray() for _ in range(256)]
        self._held_bytes = 0

    def add(self, entry: bytes) -> None:
        """Take an entry."""
        self._held[entry[0]] += entry
        self._held_bytes += len(entry)
        if self._held_bytes >= SORTED_BYTES:
            for first, held in enumerate(self._held):
                with (self._folder / f"{first:02x}").open("ab") as file:
                    file.write(held)
                held.clear()
            self._held_bytes = 0

    def in_order(self) -> Iterator[list[bytes]]:
        """Yield all entries, sorted, in 256 lists."""
        for first, held in enumerate(self._held):
            path = self._folder / f"{first:02x}"
            data = (path.read_bytes() if path.exists() else b"") + bytes(held)
            yield sorted(data[at : at + _ENTRY_BYTES] for at in range(0, len(data), _ENTRY_BYTES))


class FindingStore:
    """A run's findings, open for look-ups; close it after use. flagged: how many samples have some."""

    def __init__(self, folder: Path, flagged: int) -> None:
        self._folder = folder
        self._files = TreeFiles(folder, TREE_NAME)
        self._tree = self._files.tree(flagged)
        self._entries = _Entries(folder / RECORDS_FILE, flagged)

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._entries.close()

    def prove(self, salt: bytes) -> FindingProof:
        """Return the proof of what the checks said of the sample with this salt.

        Raises:
            LedgerError: the files are damaged.
        """
        position, record = self._find(salt)
        if record is not None:
            return FindingProof(record.decode(), position, self._tree.path(position))
        left = self._neighbour(position - 1) if position > 0 else None
        right = self._neighbour(position) if position < len(self._entries) else None
        return FindingProof("", left=left, right=right)

    def record(self, salt: bytes) -> bytes | None:
        """Return what the checks said of the sample with this salt; None if they said nothing.

        Raises:
            LedgerError: the files are damaged.
        """
        return self._find(salt)[1]

    def leaf(self, position: int) -> tuple[bytes, bytes]:
        """Return (place key, commitment) at a position."""
        entry = self._entries[position]
        return entry[:32], entry[32:64]

    def _find(self, salt: bytes) -> tuple[int, bytes | None]:
        """Return the position that a sample's findings have, or would have, and the record there."""
        key = place_key(salt)
        position = bisect_left(self._entries, key, key=lambda entry: entry[:32])
        if position == len(self._entries) or self._entries[position][:32] != key:
            return position, None
        entry = self._entries[position]
        record = seal_record(salt, self._sealed(int.from_bytes(entry[64:72], "big"), int.from_bytes(entry[72:], "big")))
        if finding_commitment(salt, record) != entry[32:64]:
            raise self._damaged()
        return position, record

    def _neighbour(self, position: int) -> FindingNeighbour:
        entry = self._entries[position]
        return FindingNeighbour(position, entry[:32], entry[32:64], self._tree.path(position))

    def _sealed(self, offset: int, length: int) -> bytes:
        try:
            with (self._folder / SEALED_FILE).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise self._damaged() from error

    def _damaged(self) -> LedgerError:
        return LedgerError(f"The findings in {self._folder} are damaged.", hint="Restore the run's folder from a copy.")


class _Entries(Sequence[bytes]):
    """The sorted records of a file, read one at a time."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._descriptor = -1

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override] # slices are not asked for
        if not 0 <= index < self._size:
            raise IndexError(index)
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            entry = os.pread(self._descriptor, _ENTRY_BYTES, index * _ENTRY_BYTES)
        except OSError as error:
            raise LedgerError(f"{self._path} cannot be read: {error.strerror}.") from error
        if len(entry) != _ENTRY_BYTES:
            raise LedgerError(f"{self._path} ends too early.", hint="Restore the run's folder from a copy.")
        return entry

    def close(self) -> None:
        with suppress(OSError):
            if self._descriptor >= 0:
                os.close(self._descriptor)
        self._descriptor = -1
