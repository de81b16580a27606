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
_WIDTHS = (8, 16, 24, 32, 48, 64, 96, INLINE_BYTES)
#: Values hashed at once: what a step touches stays in the processor's cache.
_ROWS = 8_192
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
#: The bytes of a word that a value has, by how many of them.
_MASKS = np.array([(1 << (8 * count)) - 1 for count in range(9)], dtype=np.uint64)


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
    lengths = pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.frombuffer(values.buffers()[1], dtype=np.int32)[values.offset : values.offset + len(values)]
    starts = first.astype(np.int64)
    result = np.zeros(len(values), dtype=np.uint64)
    if not len(values):
        return result
    least, most = int(starts[0]), int(starts[-1] + lengths[-1])
    # The bytes as 64-bit words: a value is read as two words a step, shifted, and beyond its end as what is masked.
    padded = np.zeros((most - least) // 8 * 8 + INLINE_BYTES + 24, dtype=np.uint8)
    if most > least:
        padded[: most - least] = np.frombuffer(values.buffers()[2], dtype=np.uint8)[least:most]
    for start in range(0, len(values), _ROWS):
        own = slice(start, start + _ROWS)
        result[own] = _hash_some(padded, starts[own] - least, lengths[own], key)
    return result


def _hash_some(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray, key: bytes) -> np.ndarray:
    words, weights = data.view("<u8"), _weights(key)
    result = np.zeros(len(starts), dtype=np.uint64)
    for rows, width in _by_width(lengths):
        if width is None:
            for row in rows.tolist():
                own = data[starts[row] : starts[row] + lengths[row]].tobytes()
                result[row] = int.from_bytes(hashlib.blake2b(own, digest_size=8, key=key).digest(), "little")
            continue
        size, at = lengths[rows], starts[rows]
        totals = [lane[0] + lane[1] * size.astype(np.uint64) for lane in weights]
        place, shift = at >> 3, ((at & 7) << 3).astype(np.uint64)
        back = np.uint64(63) - shift
        for step in range(width // 8):
            word = (words[place + step] >> shift) | ((words[place + step + 1] << np.uint64(1)) << back)
            if width > 8 * step + 8 or not (size == width).all():
                word &= _MASKS[np.clip(size - 8 * step, 0, 8)]
            low, high = word & _LOW, word >> _HALF
            for lane in (0, 1):
                totals[lane] += low * weights[lane, 2 + 2 * step]
                totals[lane] += high * weights[lane, 3 + 2 * step]
        result[rows] = _mix(((totals[0] >> _HALF) << _HALF) | (totals[1] >> _HALF))
    return result


def _by_width(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int | None]]:
    """Yield the rows to pad to each width, and those too long for any."""
    group = np.searchsorted(np.array(_WIDTHS), lengths)
    for number in np.flatnonzero(np.bincount(group)).tolist():
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
