"""The merge of sorted runs into a run's index: 256 files and their tree, in memory that does not grow with the data.

Each run is read in blocks whose lengths are proportional to the runs', so that all blocks end near the same key; what
lies below the least of their last keys is complete, and is sorted and written at once. Keys are hashes, so blocks end
close together whatever the data are; only a sample that is there very often makes a block of one key, and such a key is
written run after run, because runs come in the order of shards and rows.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from millcert.errors import StoreError
from millcert.pipelines.publish import is_local
from millcert.provenance.leaf_index import BUCKETS, bucket_name
from millcert.provenance.lookup import INDEX_FOLDER
from millcert.provenance.shard_tree import TreeWriter

#: Records held over all runs: 76 bytes each, and a few times that while they are sorted. Where there are very many runs
#: more are held, RUN_BLOCK of each, up to MOST_RECORDS: a run is opened anew for each block of it.
MERGE_RECORDS, RUN_BLOCK, MOST_RECORDS = 1 << 18, 128, 1 << 21

#: Runs up to this size are joined before they are merged, this many records at a time.
SMALL_RECORDS, POOL_RECORDS = 1 << 15, 1 << 18

_LEAST_BLOCK = 4

#: What a worker writes: key as four words, row, index leaf hash; 72 bytes, sorted.
PART = np.dtype([("key", ">u8", (4,)), ("row", ">u8"), ("leaf", "V32")])
_HELD = np.dtype([("key", ">u8", (4,)), ("shard", ">u4"), ("row", ">u8"), ("leaf", "V32")])
#: The record of provenance/leaf_index.py.
_RECORD = np.dtype([("key", ">u8", (4,)), ("shard", ">u4"), ("row", ">u8")])


class SortedRun:
    """One sorted run of a file's records.

    path: on a Beam file system. shard: number of the file; -1 where the records are of several and say so themselves.
    size: how many records there are.
    """

    def __init__(self, path: str, shard: int, size: int) -> None:
        self._path = path
        self._shard = shard
        self._type = PART if shard >= 0 else _HELD
        self.size = size
        self._read = 0
        self.held = np.empty(0, _HELD)

    @classmethod
    def in_memory(cls, records: np.ndarray) -> Self:
        """Return a run that is held whole."""
        run = cls("", -1, len(records))
        run.held, run._read = records, run.size
        return run

    @property
    def is_read(self) -> bool:
        """Whether all there is was read."""
        return self._read == self.size

    def fill(self, block: int) -> None:
        """Read on until `block` records are held. The file is opened each time: there may be very many runs.

        Raises:
            StoreError: the file is shorter than was written.
        """
        wanted = min(block - len(self.held), self.size - self._read)
        if wanted <= 0:
            return
        data = _read_at(self._path, self._read * self._type.itemsize, wanted * self._type.itemsize)
        fresh = held_records(data, self._shard) if self._type is PART else np.frombuffer(data, _HELD)
        self._read += wanted
        self.held = _joined([self.held, fresh])

    def take(self, count: int) -> np.ndarray:
        """Return the first `count` held records; they are held no more."""
        taken, self.held = self.held[:count], self.held[count:]
        return taken


class PooledRuns:
    """Collects the runs of all files in order, the small ones joined: there may be far more of them than of records.

    folder: where joined runs are written; exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: list[SortedRun] = []
        self._pool: list[np.ndarray] = []
        self._pooled = 0

    def add(self, shard: int, size: int, path: str, data: bytes | None) -> None:
        """Add the next run of a file: what was read of it, or else where it is.

        Raises:
            StoreError: it is shorter than was written.
        """
        if data is None and size > SMALL_RECORDS:
            self._flush(is_last=False)
            self._runs.append(SortedRun(path, shard, size))
            return
        if self._pooled + size > POOL_RECORDS:
            self._flush(is_last=False)
        found = _read_at(path, 0, size * PART.itemsize) if data is None else data
        if len(found) != size * PART.itemsize:
            raise _too_short(path)
        self._pool.append(held_records(found, shard))
        self._pooled += size

    def end(self) -> list[SortedRun]:
        """Return all runs."""
        self._flush(is_last=True)
        return self._runs

    def _flush(self, *, is_last: bool) -> None:
        if not self._pooled:
            return
        records = _joined(self._pool)
        records = records[key_order(records)]
        self._pool, self._pooled = [], 0
        if is_last:
            self._runs.append(SortedRun.in_memory(records))
            return
        path = self._folder / f"run.{len(self._runs)}"
        path.write_bytes(records.tobytes())
        self._runs.append(SortedRun(str(path), -1, len(records)))


def held_records(data: bytes, shard: int) -> np.ndarray:
    """Return what a worker wrote, with the number of the file."""
    found = np.frombuffer(data, PART)
    held = np.empty(len(found), _HELD)
    held["key"], held["row"], held["leaf"], held["shard"] = found["key"], found["row"], found["leaf"], shard
    return held


def _read_at(path: str, offset: int, size: int) -> bytes:
    if is_local(path):
        # Opened each time, since there may be very many runs; Beam's way would take ten times as long.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    else:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            stream.seek(offset)
            data = stream.read(size)
    if len(data) != size:
        raise _too_short(path)
    return data


def _too_short(path: str) -> StoreError:
    return StoreError(f"The part {path} is shorter than was written.", hint="Run again.")


def merge_index(runs: Sequence[SortedRun], folder: Path) -> bytes:
    """Write `index/00` to `index/ff` and `index.L` in a folder; return the root of the index's tree.

    Args:
        runs: by shard, and for each shard by row.
        folder: exists and is empty of these names.

    Raises:
        StoreError: a part is too short.
        OSError: the folder cannot be written.

    Cost: about 1 microsecond a record.
    """
    (folder / INDEX_FOLDER).mkdir()
    with ExitStack() as stack:
        tree = stack.enter_context(TreeWriter(lambda level: (folder / f"index.{level}").open("wb")))
        writer = stack.enter_context(_BucketWriter(folder / INDEX_FOLDER))
        for chunk in merged(runs):
            tree.extend(chunk["leaf"].tobytes())
            writer.write(chunk)
        return tree.end_tree()[1]


def merged(runs: Sequence[SortedRun], *, records: int | None = None) -> Iterator[np.ndarray]:
    """Yield the records of all runs in ascending order of key, shard and row, in chunks.

    Args:
        runs: by shard, and for each shard by row.
        records: how many to hold at once; where None, by the number of runs.
    """
    total = sum(run.size for run in runs)
    held = min(max(MERGE_RECORDS, RUN_BLOCK * len(runs)), MOST_RECORDS) if records is None else records
    blocks = [max(_LEAST_BLOCK, -(-held * run.size // max(total, 1))) for run in runs]
    while True:
        for run, block in zip(runs, blocks, strict=True):
            run.fill(block)
        limits = [run.held["key"][-1].tobytes() for run in runs if not run.is_read]
        if not limits:
            rest = _joined([run.held for run in runs])
            if len(rest):
                yield rest[key_order(rest)]
            return
        limit = min(limits)
        chunk = _joined([run.take(_count(run.held["key"], limit)) for run in runs])
        if len(chunk):
            yield chunk[key_order(chunk)]
        else:
            yield from _equal_keys(runs, blocks, limit)


def _equal_keys(runs: Sequence[SortedRun], blocks: Sequence[int], key: bytes) -> Iterator[np.ndarray]:
    """Yield every record with the key that is the least of all that are left."""
    for run, block in zip(runs, blocks, strict=True):
        while count := _count(run.held["key"], key, inclusive=True):
            yield run.take(count)
            if len(run.held):
                break
            run.fill(block)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the parts as one array. The type is given, since numpy would turn its numbers to the machine's order."""
    return np.concatenate([np.empty(0, _HELD), *parts], dtype=_HELD)


def _count(keys: np.ndarray, limit: bytes, *, inclusive: bool = False) -> int:
    """Return how many of the sorted keys, shape (n, 4), are below `limit` (or, inclusive, not above it)."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        key = keys[middle].tobytes()
        if key < limit or (inclusive and key == limit):
            low = middle + 1
        else:
            high = middle
    return low


def key_order(records: np.ndarray) -> np.ndarray:
    """Return the order by key, shard (where there is one) and row, int64 (n,)."""
    words = records["key"].astype(np.uint64)
    order = np.argsort(words[:, 0], kind="stable")
    first = words[order, 0]
    if (first[1:] == first[:-1]).any():  # equal samples, or keys that begin alike
        places = [records[name].astype(np.uint64) for name in ("row", "shard") if name in (records.dtype.names or ())]
        order = np.lexsort([*places, *(words[:, at] for at in (3, 2, 1, 0))])
    return order


class _BucketWriter:
    """Splits sorted records by the first byte of their keys; one file is open at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bucket = -1
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def write(self, chunk: np.ndarray) -> None:
        records = np.empty(len(chunk), _RECORD)
        records["key"], records["shard"], records["row"] = chunk["key"], chunk["shard"], chunk["row"]
        first = (chunk["key"][:, 0] >> np.uint64(56)).astype(np.int64)
        edges = np.searchsorted(first, np.arange(BUCKETS + 1))
        for bucket in np.unique(first).tolist():
            self._open(bucket).write(records[edges[bucket] : edges[bucket + 1]].tobytes())

    def _open(self, bucket: int) -> BinaryIO:
        if self._stream is None or bucket != self._bucket:
            self.__exit__()
            self._bucket, self._stream = bucket, (self._folder / bucket_name(bucket)).open("wb")
        return self._stream
