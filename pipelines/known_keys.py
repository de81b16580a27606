"""Which keys of a batch are among very many known ones, in bounded memory: those beyond a budget stand in a file.

What stands more than once grows with the data, and the read that scores looks every row up. Up to `MOST_BYTES` of keys
are held in memory (`millcert.checks.metric_members`). Beyond, they go to a file without a name in the temporary folder
of the worker, as entries of one width: of a number its 64-bit hash, which is a bijection, so no two numbers share one;
of anything else the first 16 bytes of its BLAKE2b. Entries of a partition stand together, sorted; one in `_BLOCK` is
held in memory, and a batch reads the blocks that its keys may be in.

Size: in memory 1/512 of the file. Cost: some 3 microseconds a key that is looked up in a large file (a block each).
"""

import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks.metric_columns import family
from millcert.checks.metric_members import KnownKeys, Members
from millcert.checks.metric_partitions import PARTITIONS, hash_keys, partition_of
from millcert.errors import StoreError

#: Keys that one worker holds in memory, for all expectations of a suite.
MOST_BYTES = 128 << 20
#: Entries that are read at once.
_BLOCK = 512
#: Bytes that are written at once.
_WRITTEN = 1 << 26
#: A section of so few blocks is read whole rather than block by block.
_FEW_BLOCKS = 4


def known_keys(parts: Iterable[pa.Array], *, most_bytes: int = MOST_BYTES) -> KnownKeys:
    """Return known keys, ready to be looked up.

    Args:
        parts: the keys, those of one partition (`metric_partitions.partition_of`) in one part; gone through once.
        most_bytes: what may be held in memory.

    Raises:
        StoreError: the temporary folder cannot hold them; a retry is safe once there is room.
    """
    held: list[pa.Array] = []
    size = 0
    ahead = iter(parts)
    for part in ahead:
        held.append(part)
        size += part.nbytes
        if size > most_bytes:
            break
    else:
        return Members(*held)
    filed = FiledKeys()
    for part in held:
        filed.append(part)
    held.clear()
    for part in ahead:
        filed.append(part)
    return filed


class FiledKeys:
    """Known keys in a file, sorted by partition and entry."""

    def __init__(self) -> None:
        self._fd, name = tempfile.mkstemp(prefix="millcert-keys-")
        os.unlink(name)  # noqa: PTH108 - the file has no name from here on, and ends with its descriptor
        weakref.finalize(self, os.close, self._fd)
        self._start = 0
        self._sections: list[tuple[int, int, np.ndarray] | None] = [None] * PARTITIONS
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the entries."""
        return self._digest.hexdigest()

    def append(self, keys: pa.Array) -> None:
        """Add the keys of one partition, of which nothing is here yet.

        Raises:
            StoreError: see `known_keys`.
        """
        if not len(keys):
            return
        entries = np.sort(_entries(keys))
        data = entries.tobytes()
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written : written + _WRITTEN], self._start + written)
        except OSError as error:
            raise StoreError(
                f"The values that stand more than once do not fit into {tempfile.gettempdir()}: {error.strerror}.",
                hint="Give the workers a larger temporary folder (TMPDIR), then run again.",
            ) from error
        self._digest.update(data)
        partition = int(partition_of(hash_keys(keys.slice(0, 1)))[0])
        self._sections[partition] = (self._start, len(entries), entries[::_BLOCK].copy())
        self._start += len(data)

    def contain(self, keys: pa.Array) -> np.ndarray:
        """Return which of n keys are among the known ones, bool (n,)."""
        found = np.zeros(len(keys), dtype=bool)
        if not len(keys):
            return found
        entries, partitions = _entries(keys), partition_of(hash_keys(keys))
        order = np.lexsort((entries, partitions))
        cuts = np.searchsorted(partitions[order], np.arange(PARTITIONS + 1))
        for partition, (first, last) in enumerate(pairwise(cuts.tolist())):
            section = self._sections[partition]
            if section is not None and last > first:
                asked = order[first:last]
                found[asked] = self._in_section(section, entries[asked])
        return found

    def _in_section(self, section: tuple[int, int, np.ndarray], asked: np.ndarray) -> np.ndarray:
        """Return which of some sorted entries are in a section."""
        start, count, firsts = section
        if len(firsts) <= _FEW_BLOCKS:
            return _among(self._read(start, count, asked.dtype), asked)
        found = np.zeros(len(asked), dtype=bool)
        block_of = np.searchsorted(firsts, asked, side="right") - 1
        blocks, cuts = np.unique(block_of, return_index=True)
        for block, first, last in zip(blocks.tolist(), cuts.tolist(), [*cuts.tolist()[1:], len(asked)], strict=True):
            if block >= 0:  # below the first entry there is none
                own = min(_BLOCK, count - block * _BLOCK)
                entries = self._read(start + block * _BLOCK * asked.dtype.itemsize, own, asked.dtype)
                found[first:last] = _among(entries, asked[first:last])
        return found

    def _read(self, start: int, count: int, dtype: np.dtype[Any]) -> np.ndarray:
        data = os.pread(self._fd, count * dtype.itemsize, start)
        if len(data) != count * dtype.itemsize:
            raise StoreError("The file of values that stand more than once was cut short.", hint="Run again.")
        return np.frombuffer(data, dtype)


def _entries(keys: pa.Array) -> np.ndarray:
    """Return what stands for each key in the file: equal exactly where the keys are."""
    if family(keys.type) in ("bool", "int", "float", "date", "timestamp"):
        return hash_keys(keys)
    texts = keys.cast(pa.string()) if family(keys.type) == "decimal" else keys
    contents = texts.cast(pa.binary()).to_pylist()
    digests = b"".join(hashlib.blake2b(content, digest_size=16).digest() for content in contents)
    return np.frombuffer(digests, dtype="S16")


def _among(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    found: np.ndarray = known[at] == asked
    return found
