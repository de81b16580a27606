"""A keyed 64-bit hash of a column's values, made with numpy straight from the Arrow buffers.

Whoever knows the hash can choose values that collide and so hide from a distinct count or a top list. Without the key
nobody can: values of up to `INLINE_BYTES` bytes go through strongly universal multilinear hashing, longer ones through
keyed BLAKE2b. The hash of a value depends on the key and the value only, never on batch, slice or platform.

Source: Lemire and Kaser, "Strongly universal string hashing is fast", Computer Journal 57 (2014), theorem 3.1: the
upper 32 bits of m_0 + sum m_i s_i (mod 2^64), 32-bit characters s_i, random 64-bit m_i. Two independent ones make 64
bits, then a bijection that breaks their linearity. RFC 7693 (BLAKE2).
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import family, ticks
from millcert.errors import PolicyError

#: Longer values go through BLAKE2b, one by one.
INLINE_BYTES = 128
KEY_BYTES = 32

_TAG = b"millcert sketch hash v1\0"
_WORDS = INLINE_BYTES // 4
#: Byte widths to which values are padded: a value's own words are the same in each.
_WIDTHS = (8, 16, 32, 64, INLINE_BYTES)
#: Values padded at once: at most 8 MB.
_ROWS = 65_536


def parse_key(text: str) -> bytes:
    """Return the key that 64 lower-case hex digits stand for.

    Raises:
        PolicyError: it is something else.
    """
    if len(text) != 2 * KEY_BYTES or set(text) - set("0123456789abcdef"):
        raise PolicyError(f"A hash key is {2 * KEY_BYTES} lower-case hex digits, got {len(text)} characters.")
    return bytes.fromhex(text)


def hash_values(values: pa.Array, key: bytes) -> np.ndarray:
    """Return the keyed hashes of values, uint64 (n,).

    Args:
        values: in their kernel type (`millcert.checks.metric_columns`), no nulls; text, bytes, numbers, times.
        key: 32 bytes.

    Cost: 10 to 60 nanoseconds a value of up to 64 bytes (bench/profile_cost.py).
    """
    kind = family(values.type)
    if kind in ("string", "binary", "decimal"):
        texts = values.cast(pa.string()) if kind == "decimal" else values
        return _hash_bytes(texts.cast(pa.binary()), key)
    return hash_numbers(values.to_numpy(zero_copy_only=False) if kind == "float" else ticks(values), key)


def hash_numbers(numbers: np.ndarray, key: bytes) -> np.ndarray:
    """Return the keyed hashes of int64, uint64 or float64 numbers, uint64 (n,); 0.0 and -0.0 are one value."""
    whole = (numbers + 0.0).view(np.uint64) if numbers.dtype.kind == "f" else numbers.astype(np.uint64)
    words = np.stack([whole & np.uint64(0xFFFFFFFF), whole >> np.uint64(32)], axis=1)
    return _combine(words, np.full(len(words), 8, dtype=np.uint64), key)


def _hash_bytes(values: pa.Array, key: bytes) -> np.ndarray:
    result = np.zeros(len(values), dtype=np.uint64)
    for start in range(0, len(values), _ROWS):
        part = values.slice(start, _ROWS)
        result[start : start + len(part)] = _hash_some(part, key)
    return result


def _hash_some(values: pa.Array, key: bytes) -> np.ndarray:
    lengths = pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    data = np.frombuffer(values.buffers()[2] or b"", dtype=np.uint8)
    first = np.frombuffer(values.buffers()[1], dtype=np.int32)[values.offset : values.offset + len(values)]
    starts = first.astype(np.int64)
    result = np.zeros(len(values), dtype=np.uint64)
    for rows, width in _by_width(lengths):
        if width is None:
            for row in rows.tolist():
                own = data[starts[row] : starts[row] + lengths[row]].tobytes()
                result[row] = int.from_bytes(hashlib.blake2b(own, digest_size=8, key=key).digest(), "little")
            continue
        column = np.arange(width)
        is_own = column < lengths[rows, None]
        at = np.where(is_own, starts[rows, None] + column, 0)
        padded = np.where(is_own, data[at] if len(data) else 0, 0).astype(np.uint8)
        result[rows] = _combine(padded.view("<u4").astype(np.uint64), lengths[rows].astype(np.uint64), key)
    return result


def _by_width(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int | None]]:
    """Yield the rows to pad to each width, and those too long for any."""
    group = np.searchsorted(np.array(_WIDTHS), lengths)
    for number in np.unique(group).tolist():
        yield np.flatnonzero(group == number), _WIDTHS[number] if number < len(_WIDTHS) else None


def _combine(words: np.ndarray, lengths: np.ndarray, key: bytes) -> np.ndarray:
    """Return the hashes of rows of 32-bit words, uint64 (n, w); words of zero beyond a row's own do not change it."""
    weights = _weights(key)
    upper = np.uint64(32)
    lanes = []
    for lane in weights:
        total = lane[0] + lane[1] * lengths
        for column in range(words.shape[1]):
            total += words[:, column] * lane[2 + column]
        lanes.append(total >> upper)
    return _mix((lanes[0] << upper) | lanes[1])


def _mix(words: np.ndarray) -> np.ndarray:
    """Return the words after a fixed bijection: equally spaced values are equally spaced before it, not random.

    Source: the finalizer of splitmix64, Steele, Lea, Flood, OOPSLA 2014, figure 17.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=8)
def _weights(key: bytes) -> np.ndarray:
    """Return random uint64 (2, 2 + words) made of the key."""
    size = 2 * (2 + _WORDS)
    stream = hashlib.shake_256(_TAG + key).digest(8 * size)
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64).reshape(2, -1)
