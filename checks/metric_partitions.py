"""Which of 256 partitions a key goes to, and which slice of a partition: the same on every machine, for ever.

A hash that serves for nothing else: keys that share one are still told apart by their values. Texts are hashed eight
bytes at a time, by multiplying and folding the upper half onto the lower; numbers go through a bijection.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from millcert.checks.metric_columns import family, ticks
from millcert.checks.metric_text import bytes_of, offsets_of

PARTITIONS = 256

_ROWS = 65_536
_WORD = np.dtype("<u8")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


def partition_of(hashes: np.ndarray) -> np.ndarray:
    """Return the partition of each hash, uint8 (n,)."""
    return (hashes >> np.uint64(56)).astype(np.uint8)


def slice_of(hashes: np.ndarray, slices: int) -> np.ndarray:
    """Return which of `slices` slices of its partition each hash is in, int64 (n,); independent of the partition."""
    return ((hashes >> np.uint64(32)) & np.uint64(0xFFFFFF)).astype(np.int64) % slices


def hash_keys(keys: pa.Array) -> np.ndarray:
    """Return a number for each key, uint64 (n,); keys of `metric_distinct.keys_of`.

    Cost: 2 ns a number; 3 ns for each 8 bytes of a text.
    """
    hashes = np.empty(len(keys), dtype=np.uint64)
    for start in range(0, len(keys), _ROWS):
        part = keys.slice(start, _ROWS)
        hashes[start : start + len(part)] = _mixed(_words(part))
    return hashes


def _words(keys: pa.Array) -> np.ndarray:
    kind = family(keys.type)
    if kind == "float":
        return np.asarray(keys.to_numpy(zero_copy_only=False)).view(np.uint64)
    if kind in ("string", "binary", "decimal"):
        return _text_words(keys.cast(pa.string()) if kind == "decimal" else keys)
    return ticks(keys).astype(np.uint64)


def _mixed(words: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), which spreads near numbers over all parts."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _text_words(keys: pa.Array) -> np.ndarray:
    offsets = offsets_of(keys).astype(np.int64)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    content = bytes_of(keys)
    padded = np.zeros(len(content) + _WORD.itemsize, dtype=np.uint8)
    padded[: len(content)] = content
    # A word may start at any byte.
    at = np.ndarray((len(content) + 1,), _WORD, buffer=padded.data, strides=(1,))
    hashes = lengths.astype(np.uint64) * _MULTIPLIER
    for rows, first, own_bytes in _each_word(lengths):
        words = at[starts[rows] + first]
        if own_bytes is not None:
            words &= (np.uint64(1) << (own_bytes * 8).astype(np.uint64)) - np.uint64(1)
        mixed = (hashes[rows] ^ words) * _MULTIPLIER
        hashes[rows] = mixed ^ (mixed >> _HALF)
    return hashes


def _each_word(lengths: np.ndarray) -> Iterator[tuple[np.ndarray | slice, int, np.ndarray | None]]:
    """Yield (texts that have it, first byte, own bytes where not 8) of the first, the second ... word of the texts."""
    size = _WORD.itemsize
    for first in range(0, int(lengths.max(initial=0)), size):
        whole = lengths >= first + size
        if whole.all():
            yield slice(None), first, None
            continue
        if whole.any():
            yield np.flatnonzero(whole), first, None
        partial = np.flatnonzero(~whole & (lengths > first))
        if len(partial):
            yield partial, first, lengths[partial] - first
