"""A quantile sketch of a stated size whose bits do not depend on batches, workers or order.

As `millcert.checks.metric_order`: a histogram over the ordered bit patterns of float64 that drops low bits, for all
buckets at once, until at most `limit` buckets are in use. The level is the smallest at which the buckets of all values
fit, a function of the set of values alone; no compacting or random sketch (KLL, t-digest) has that. Counts and the
distribution function at bucket ends are exact. At level s a bucket is 2^(s - 52) wide, relative to its value.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from millcert.checks.prefix_table import KEY_BITS, bit_lengths

_SIGN = np.uint64(1 << 63)
#: Bits that are always dropped, so that a bucket is at least 2^-32 wide, relative to its value, and a key fits 44 bits.
LEAST_LEVEL = 64 - KEY_BITS
_LARGEST = np.finfo(np.float64).max.item()


class Quantiles(NamedTuple):
    """A histogram; b buckets in ascending order.

    level: how many low bits of the pattern are dropped, 20 to 63 (from 0 in profiles of version 1).
    keys: uint64 (b,): ordered patterns without their `level` low bits, ascending.
    counts: int64 (b,), above 0.
    """

    level: int
    keys: np.ndarray
    counts: np.ndarray


NO_QUANTILES = Quantiles(LEAST_LEVEL, np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))


def sketch_numbers(numbers: np.ndarray, limit: int) -> Quantiles:
    """Return the sketch of finite numbers, shape (n,): float64, or integers, which count as the nearest float64."""
    return sketch_groups(numbers, np.zeros(len(numbers), dtype=np.int64), 1, limit)[0]


def sketch_groups(numbers: np.ndarray, groups: np.ndarray, count: int, limit: int) -> list[Quantiles]:
    """Return the sketch of each group's finite numbers, as of them alone; one sort for all groups.

    Args:
        numbers: as `sketch_numbers` takes them, shape (n,).
        groups: int64 (n,), 0 to count - 1.
        count: how many groups there are.
        limit: of buckets, of each.
    """
    if not len(numbers):
        return [NO_QUANTILES] * count
    patterns = _ordered_bits(numbers.astype(np.float64) + 0.0) >> np.uint64(LEAST_LEVEL)
    rows, counts = np.unique((groups.astype(np.uint64) << np.uint64(KEY_BITS)) | patterns, return_counts=True)
    lengths = bit_lengths(rows[1:] ^ rows[:-1])
    whose = (rows >> np.uint64(KEY_BITS)).astype(np.int64)
    # After dropping d bits a group has 1 + (how many lengths between its own rows exceed d) rows.
    is_within = lengths <= KEY_BITS
    table = np.bincount(whose[1:][is_within] * (KEY_BITS + 2) + lengths[is_within], minlength=count * (KEY_BITS + 2))
    beyond = table.reshape(count, KEY_BITS + 2)[:, ::-1].cumsum(axis=1)[:, ::-1]
    drop = np.argmax(1 + beyond[:, 1:] <= limit, axis=1)
    keys = (rows & np.uint64((1 << KEY_BITS) - 1)) >> drop[whose].astype(np.uint64)
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = (keys[1:] != keys[:-1]) | ~is_within
    starts = np.flatnonzero(is_first)
    keys, counts = keys[starts], np.add.reduceat(counts.astype(np.int64), starts)
    ends = np.searchsorted(whose[starts], np.arange(count + 1))
    levels = (drop + LEAST_LEVEL).tolist()
    return [
        Quantiles(levels[at], keys[start:end], counts[start:end]) if end > start else NO_QUANTILES
        for at, (start, end) in enumerate(pairwise(ends.tolist()))
    ]


def merge_quantiles(parts: Iterable[Quantiles], limit: int) -> Quantiles:
    """Return the sketch of all numbers."""
    full = [part for part in parts if len(part.keys)]
    if not full:
        return NO_QUANTILES
    if len(full) == 1:
        return fitted(full[0], limit)
    level = max(part.level for part in full)
    keys = np.concatenate([part.keys >> np.uint64(level - part.level) for part in full])
    order = np.argsort(keys, kind="stable")
    return fitted(Quantiles(level, keys[order], np.concatenate([part.counts for part in full])[order]), limit)


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


def holds_ends(sketch: Quantiles, low: float, high: float) -> bool:
    """Return whether the outer buckets are those of the smallest and the largest number."""
    ends = _ordered_bits(np.array([low, high], dtype=np.float64) + 0.0) >> np.uint64(sketch.level)
    return bool(len(sketch.keys)) and ends.tolist() == [int(sketch.keys[0]), int(sketch.keys[-1])]


def fitted(sketch: Quantiles, limit: int) -> Quantiles:
    """Return the sketch with equal keys joined, and as few more bits dropped as make the buckets fit."""
    joined = _joined(sketch)
    if len(joined.keys) <= limit:
        return joined
    # Neighbours join at the bit length of their difference, so the limit-th largest one says how many bits must go.
    lengths = bit_lengths(joined.keys[1:] ^ joined.keys[:-1])
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


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """Return uint64 patterns that sort as the numbers do: IEEE 754 bits, all flipped below zero, else the sign."""
    bits = values.view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _from_ordered_bits(keys: np.ndarray) -> np.ndarray:
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)
