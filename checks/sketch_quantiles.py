"""A quantile sketch of a stated size whose bits do not depend on batches, workers or order.

As `millcert.checks.metric_order`: a histogram over the ordered bit patterns of float64 that drops low bits, for all
buckets at once, until at most `limit` buckets are in use. The level is the smallest at which the buckets of all values
fit, a function of the set of values alone; no compacting or random sketch (KLL, t-digest) has that. Counts and the
distribution function at bucket ends are exact. At level s a bucket is 2^(s - 52) wide, relative to its value.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_SIGN = np.uint64(1 << 63)
_LARGEST = np.finfo(np.float64).max.item()


class Quantiles(NamedTuple):
    """A histogram; b buckets in ascending order.

    level: how many low bits of the pattern are dropped, 0 to 63.
    keys: uint64 (b,): ordered patterns without their `level` low bits, ascending.
    counts: int64 (b,), above 0.
    """

    level: int
    keys: np.ndarray
    counts: np.ndarray


NO_QUANTILES = Quantiles(0, np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))


def sketch_numbers(numbers: np.ndarray, limit: int) -> Quantiles:
    """Return the sketch of finite numbers, shape (n,): float64, or integers, which count as the nearest float64."""
    values, counts = np.unique(numbers.astype(np.float64) + 0.0, return_counts=True)
    return _fitted(Quantiles(0, _ordered_bits(values), counts.astype(np.int64)), limit)


def merge_quantiles(parts: Iterable[Quantiles], limit: int) -> Quantiles:
    """Return the sketch of all numbers."""
    full = [part for part in parts if len(part.keys)]
    if not full:
        return NO_QUANTILES
    if len(full) == 1:
        return full[0]
    level = max(part.level for part in full)
    keys = np.concatenate([part.keys >> np.uint64(level - part.level) for part in full])
    order = np.argsort(keys, kind="stable")
    return _fitted(Quantiles(level, keys[order], np.concatenate([part.counts for part in full])[order]), limit)


def at_level(sketch: Quantiles, level: int) -> Quantiles:
    """Return the sketch with at least so many bits dropped."""
    if level <= sketch.level:
        return sketch
    return _joined(Quantiles(level, sketch.keys >> np.uint64(level - sketch.level), sketch.counts))


def intervals(level: int, keys: np.ndarray) -> np.ndarray:
    """Return the closed interval of each bucket, float64 (b, 2); ends beyond the largest float64 are that."""
    low = keys << np.uint64(level)
    high = low | np.uint64((1 << level) - 1)
    with np.errstate(invalid="ignore"):
        ends = np.stack([_from_ordered_bits(low), _from_ordered_bits(high)], axis=1)
        ends[:, 0] = np.where(ends[:, 0] >= -_LARGEST, ends[:, 0], -_LARGEST)
        ends[:, 1] = np.where(ends[:, 1] <= _LARGEST, ends[:, 1], _LARGEST)
    return ends


def quantile_bounds(sketch: Quantiles, fraction: float) -> tuple[float, float]:
    """Return an interval that holds the value of rank ceil(fraction * n) - 1 (the lower empirical quantile)."""
    ends = np.cumsum(sketch.counts)
    rank = max(1, int(np.ceil(fraction * ends[-1])))
    at = int(np.searchsorted(ends, rank))
    low, high = intervals(sketch.level, sketch.keys[at : at + 1])[0].tolist()
    return low, high


def _fitted(sketch: Quantiles, limit: int) -> Quantiles:
    """Join equal keys, then drop as few more bits as make the buckets fit."""
    joined = _joined(sketch)
    if len(joined.keys) <= limit:
        return joined
    # Neighbours join at the bit length of their difference, so the limit-th largest one says how many bits must go.
    lengths = _bit_lengths(joined.keys[1:] ^ joined.keys[:-1])
    drop = int(np.partition(lengths, len(lengths) - limit)[len(lengths) - limit])
    return at_level(joined, joined.level + drop)


def _joined(sketch: Quantiles) -> Quantiles:
    keys = sketch.keys
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    if is_first.all():
        return sketch
    starts = np.flatnonzero(is_first)
    return Quantiles(sketch.level, keys[starts], np.add.reduceat(sketch.counts, starts))


def _bit_lengths(words: np.ndarray) -> np.ndarray:
    """Return the bit length of each uint64, int64 (n,)."""
    high, low = words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)
    # frexp of a whole number below 2^32 is exact.
    of_high, of_low = (np.frexp(half.astype(np.float64))[1].astype(np.int64) for half in (high, low))
    return np.where(high > 0, of_high + 32, of_low)


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """Return uint64 patterns that sort as the numbers do: IEEE 754 bits, all flipped below zero, else the sign."""
    bits = values.view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _from_ordered_bits(keys: np.ndarray) -> np.ndarray:
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)
