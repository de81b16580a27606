"""Order statistics of a column in one read: exact while the values are few, and with a stated error beyond.

A histogram over the bit patterns of float64. At level 0 each bucket is one float64. When more than `MAX_BUCKETS`
buckets are in use, neighbours are joined: one bit less of the mantissa, for the whole histogram, until they fit. The
level is the smallest at which the buckets of all values fit, so it depends on the set of values alone, and merging in
any order gives the same histogram to the last bit (which no randomized or compacting sketch does). Counts stay exact,
so the rank of an answer is exact; its value lies between the smallest and the largest value of its bucket, which are
kept. At level s a bucket is at most 2^(s - 52) wide, relative to its value (tests/checks/test_metric_order.py).

Size: at most 100,000 buckets of 32 bytes, 3.2 MB, and 4 MB that wait.
"""

import bisect
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

MAX_BUCKETS = 100_000
#: Numbers that wait to be counted: 4 MB.
MAX_WAITING = 500_000


class Buckets(NamedTuple):
    """A histogram; b buckets in ascending order.

    level: how many low bits of the float64 pattern are joined.
    keys: uint64 (b,): ordered patterns, without their `level` low bits.
    counts: int64 (b,).
    low, high: smallest and largest value in the bucket, in the column's own kind of number.
    """

    level: int
    keys: np.ndarray
    counts: np.ndarray
    low: np.ndarray
    high: np.ndarray


#: (low, high) of a bucket -> the histogram of its values alone, of a second read.
Finer: TypeAlias = Mapping[tuple[float | int, float | int], Buckets]


class Waiting(NamedTuple):
    """Numbers that have yet to be counted, and what was counted before.

    Sorting many at once is cheaper, and as the histogram depends on the set of values alone, it comes to the same.
    """

    buckets: tuple[Buckets, ...]
    numbers: tuple[np.ndarray, ...]


def wait(part: "Waiting | Buckets", more: Waiting) -> Waiting:
    """Return a part with more numbers; counts those that wait once they are `MAX_WAITING`."""
    before = Waiting((part,), ()) if isinstance(part, Buckets) else part
    numbers = before.numbers + more.numbers
    buckets = before.buckets + more.buckets
    if sum(map(len, numbers)) >= MAX_WAITING:
        return Waiting((merge_buckets((*buckets, count_values(np.concatenate(numbers)))),), ())
    return Waiting(buckets, numbers)


def settle(parts: "Iterable[Waiting | Buckets]") -> Buckets:
    """Return the histogram of all values of some parts; at least one part."""
    buckets: list[Buckets] = []
    numbers: list[np.ndarray] = []
    for part in parts:
        if isinstance(part, Buckets):
            buckets.append(part)
            continue
        buckets += part.buckets
        numbers += part.numbers
    if numbers:
        buckets.append(count_values(np.concatenate(numbers)))
    return merge_buckets(buckets)


def empty_buckets(dtype: np.dtype) -> Buckets:
    """Return the histogram of nothing."""
    nothing = np.zeros(0, dtype=dtype)
    return Buckets(0, np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), nothing, nothing)


def count_values(numbers: np.ndarray) -> Buckets:
    """Return the histogram of numbers, shape (n,): float64 without NaN, int64 or uint64."""
    if numbers.dtype.kind == "f":
        numbers = numbers + 0.0  # -0.0 becomes 0.0
    values = np.sort(numbers)
    if not len(values):
        return empty_buckets(values.dtype)
    keys = _ordered_bits(values)
    level = _level_of(keys)
    keys >>= np.uint64(level)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    ends = np.append(starts[1:], len(values))
    return Buckets(level, keys[starts], ends - starts, values[starts], values[ends - 1])


def merge_buckets(parts: Iterable[Buckets]) -> Buckets:
    """Return the histogram of all values; at least one part."""
    full = [part for part in parts if len(part.keys)] or list(parts)
    if len(full) <= 1:
        return full[0]
    level = max(part.level for part in full)
    keys = np.concatenate([part.keys >> np.uint64(level - part.level) for part in full])
    order = np.argsort(keys, kind="stable")
    joined = Buckets(
        level,
        keys[order],
        np.concatenate([part.counts for part in full])[order],
        np.concatenate([part.low for part in full])[order],
        np.concatenate([part.high for part in full])[order],
    )
    return _fit(joined)


def value_at(buckets: Buckets, rank: int, finer: Finer | None = None) -> tuple[float | int, float | int]:
    """Return the bounds of the value with that rank (0 is the smallest), equal where it is known exactly.

    Args:
        buckets: the histogram of all values, more than `rank`.
        rank: 0 to n - 1.
        finer: histograms of single buckets, where a second read made some.
    """
    ends = np.cumsum(buckets.counts)
    at = int(np.searchsorted(ends, rank, side="right"))
    low, high = bucket_of(buckets, rank)
    before = int(ends[at] - buckets.counts[at])
    if rank == before:
        return low, low
    if rank == ends[at] - 1:
        return high, high
    inside = None if finer is None or low == high else finer.get((low, high))
    return (low, high) if inside is None else value_at(inside, rank - before)


def bucket_of(buckets: Buckets, rank: int) -> tuple[float | int, float | int]:
    """Return the smallest and the largest value of the bucket in which a rank falls."""
    at = int(np.searchsorted(np.cumsum(buckets.counts), rank, side="right"))
    return buckets.low[at].item(), buckets.high[at].item()


def ranks_of(n: int, quantile: float, how: str) -> tuple[int, int]:
    """Return the ranks of the one or two numbers, of n > 0, that a quantile lies at or between."""
    place = (n - 1) * quantile
    below = math.floor(place)
    match how:
        case "lower":
            return below, below
        case "higher":
            return math.ceil(place), math.ceil(place)
        case "nearest":
            return round(place), round(place)
        case _:
            return below, below if place == below else min(below + 1, n - 1)


def interpolate(buckets: Buckets, n: int, quantile: float, how: str, finer: Finer | None = None) -> tuple[Any, Any]:
    """Return the bounds of a quantile of n > 0 numbers, equal where it is exact, by pandas' rule of interpolation.

    Source: Hyndman and Fan, The American Statistician 50 (1996), definition 7, and the options of `numpy.quantile`.
    """
    place = (n - 1) * quantile
    first, last = ranks_of(n, quantile, how)
    before = value_at(buckets, first, finer)
    if first == last:
        return before if how not in ("linear", "midpoint") else _on_a_rank(buckets, n, first, before)
    after = value_at(buckets, last, finer)
    if how == "median":  # the mean of the two in the middle, which stays infinite beside an infinity
        return _one_nan((float(before[0]) + float(after[0])) / 2, (float(before[1]) + float(after[1])) / 2)
    part = 0.5 if how == "midpoint" else place - first
    return _one_nan(_between(before[0], after[0], part), _between(before[1], after[1], part))


def _on_a_rank(buckets: Buckets, n: int, rank: int, own: tuple[float | int, float | int]) -> tuple[float, float]:
    """Return what numpy makes of a quantile on one number: NaN where the step to the next one is not finite.

    It adds the step 0 times. Not finite: beside an infinity, or between numbers farther apart than float64 reaches.

    Args:
        buckets: the histogram of all values.
        n: how many they are.
        rank: of the number; behind the last one comes itself.
        own: the bounds of the number.
    """
    step = float(value_at(buckets, min(rank + 1, n - 1))[1]) - float(own[0])
    return (float(own[0]), float(own[1])) if math.isfinite(step) else (math.nan, math.nan)


def _one_nan(low: float, high: float) -> tuple[float, float]:
    """Return bounds that are the same object where both are NaN, so that lists of them are equal."""
    return (math.nan, math.nan) if math.isnan(low) and math.isnan(high) else (low, high)


def _between(low: float, high: float, part: float) -> float:
    step = high - low
    return high - step * (1 - part) if part >= 0.5 else low + step * part


def _fit(buckets: Buckets) -> Buckets:
    """Join equal keys, then raise the level until the buckets fit. `keys` are sorted."""
    if not len(buckets.keys):
        return buckets
    joined = _level_of(buckets.keys)
    level, keys = buckets.level + joined, buckets.keys >> np.uint64(joined)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return Buckets(
        level,
        keys[starts],
        np.add.reduceat(buckets.counts, starts),
        np.minimum.reduceat(buckets.low, starts),
        np.maximum.reduceat(buckets.high, starts),
    )


def _level_of(keys: np.ndarray) -> int:
    """Return the fewest low bits to join so that sorted `keys` fall into at most `MAX_BUCKETS` buckets.

    Neighbours share a bucket once all the bits in which they differ are joined, so more bits never mean more buckets.
    """
    differ = keys[1:] ^ keys[:-1]
    return bisect.bisect_left(
        range(64), x=True, key=lambda bits: 1 + int(np.count_nonzero(differ >= np.uint64(1 << bits))) <= MAX_BUCKETS
    )


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """Return uint64 patterns that sort as the numbers do: IEEE 754 bits, all flipped below zero, else the sign."""
    bits = values.astype(np.float64).view(np.uint64)
    # The sign bit, drawn out over a whole word where it is set, and the one bit where it is not.
    return bits ^ ((bits.view(np.int64) >> np.int64(63)).view(np.uint64) | np.uint64(1 << 63))
