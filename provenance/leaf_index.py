"""The sorted index of a run: from a sample's key to its places, and to the gap where it would be.

256 files `00` to `ff`, by the key's first byte; each holds records of 44 bytes in ascending order:
  key     32 bytes, `sample_leaf.index_key`
  shard   u32, number of the file in the run's shard list
  row     u64, the record's number in the file
Numbers are big endian, so the order of records is that of their bytes. Record n of all files together is leaf n of the
index's tree. An erased record keeps its place: its key is that of the record before it (or the first key of its file's
range), its shard is ERASED and its row 0; so the order holds, and nothing of the sample is left.
"""

import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.closing import Closing

KEY_BYTES = 32
RECORD_BYTES = KEY_BYTES + 4 + 8
BUCKETS = 256

#: Stands where an erased record had its shard.
ERASED = 2**32 - 1


class Record(NamedTuple):
    """One record. key: 32 bytes. shard: number in the shard list, or ERASED. row: 0-based."""

    key: bytes
    shard: int
    row: int

    @property
    def is_erased(self) -> bool:
        """Whether the sample was erased."""
        return self.shard == ERASED

    def to_bytes(self) -> bytes:
        """Return the 44 bytes."""
        return self.key + self.shard.to_bytes(4, "big") + self.row.to_bytes(8, "big")


def parse_record(data: bytes) -> Record:
    """Return the record in 44 bytes."""
    return Record(data[:32], int.from_bytes(data[32:36], "big"), int.from_bytes(data[36:], "big"))


def bucket_name(number: int) -> str:
    """Return the name of the file for keys whose first byte is `number`."""
    return f"{number:02x}"


class _Keys:
    """The keys of one file as a sequence, for `bisect`: O(1) memory."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // RECORD_BYTES

    def __getitem__(self, index: int) -> bytes:
        start = index * RECORD_BYTES
        return bytes(self._data[start : start + KEY_BYTES])


class LeafIndex(Closing):
    """An index, open for reading; close it after use.

    folder: holds the 256 files; a file without records may be missing.
    size: how many records the ledger says there are.

    Raises:
        LedgerError: the files hold another number of records.

    Cost: a look-up reads about log2(n / 256) records; memory does not depend on n.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._maps: dict[int, mmap.mmap | bytes] = {}
        self._starts = [0]
        for number in range(BUCKETS):
            try:
                size_bytes = (folder / bucket_name(number)).stat().st_size
            except FileNotFoundError:
                size_bytes = 0
            if size_bytes % RECORD_BYTES:
                raise self._damaged(f"{bucket_name(number)} has {size_bytes} bytes")
            self._starts.append(self._starts[-1] + size_bytes // RECORD_BYTES)
        if self._starts[-1] != size:
            raise self._damaged(f"it has {self._starts[-1]} records, the ledger says {size}")
        self.size = size

    def close(self) -> None:
        """Unmap the files."""
        for mapped in self._maps.values():
            if isinstance(mapped, mmap.mmap):
                mapped.close()
        self._maps.clear()

    def position(self, key: bytes) -> int:
        """Return the position of the first record whose key is not below `key`; `size` if there is none."""
        bucket = key[0]
        return self._starts[bucket] + bisect_left(_Keys(self._map(bucket)), key)

    def record(self, position: int) -> Record:
        """Return the record at a position, erased or not.

        Raises:
            UsageError: there is no such position.
        """
        if not 0 <= position < self.size:
            raise UsageError(f"The index has no record {position}; it has {self.size}.")
        bucket = self._bucket_of(position)
        start = (position - self._starts[bucket]) * RECORD_BYTES
        return parse_record(bytes(self._map(bucket)[start : start + RECORD_BYTES]))

    def find(self, key: bytes) -> Iterator[tuple[int, Record]]:
        """Yield (position, record) of every record with this key, by shard and row; erased ones are passed over."""
        for position in range(self.position(key), self.size):
            record = self.record(position)
            if record.key != key:
                return
            if not record.is_erased:
                yield position, record

    def erase(self, position: int) -> None:
        """Overwrite a record, so that nothing is left of its key and place.

        Records behind it that were erased before show its key, so they are overwritten again.

        Raises:
            StoreError: the file cannot be written; a retry is safe.
        """
        bucket = self._bucket_of(position)
        first = self._starts[bucket]
        kept = self.record(position - 1).key if position > first else bytes((bucket,)) + bytes(KEY_BYTES - 1)
        last = position + 1
        while last < self._starts[bucket + 1] and self.record(last).is_erased:
            last += 1
        path = self._folder / bucket_name(bucket)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                erased = Record(kept, ERASED, 0).to_bytes() * (last - position)
                os.pwrite(descriptor, erased, (position - first) * RECORD_BYTES)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"The index file {path} cannot be written: {error.strerror}.", path=str(path)) from error

    def _bucket_of(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _map(self, bucket: int) -> mmap.mmap | bytes:
        if bucket not in self._maps:
            expected = (self._starts[bucket + 1] - self._starts[bucket]) * RECORD_BYTES
            self._maps[bucket] = self._mapped(bucket, expected) if expected else b""
        return self._maps[bucket]

    def _mapped(self, bucket: int, expected: int) -> mmap.mmap:
        path = self._folder / bucket_name(bucket)
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return mmap.mmap(descriptor, expected, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise self._damaged(f"{path.name} cannot be read: {error}") from error
        finally:
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(
            f"The sample index {self._folder} is damaged: {what}.",
            hint="Restore the run's folder in the state folder from a copy.",
            path=str(self._folder),
        )
