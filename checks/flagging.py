"""Counts of whole-number keys, and exact thresholds from them: which samples are the top part of their group.

A quantile of scores is no sum, but counts are. A score is taken as float32, whose bits, read as a whole number, order
like the scores themselves. One pass counts the upper 16 bits, a second the lower 16 bits within the one cell that holds
the threshold; after both the threshold is exact, whatever the order and the batches were.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from millcert.errors import InternalError, PolicyError

#: A key of a score has this many upper and as many lower bits.
HALF_BITS = 16
_HALF_MASK = (1 << HALF_BITS) - 1
#: Slots of a table that cost as much as sorting one key, roughly (our choice; both ways give the same counts).
_SLOTS_A_KEY = 8
#: Keys that wait in `BufferedCounts` before they are counted: 8 kB (our choice).
MOST_WAITING = 4096


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each key occurs; immutable, picklable, exact, mergeable in any order.

    keys: int64 (b,), ascending, no key twice.
    counts: int64 (b,), at least 1.

    Size: 16 bytes a distinct key.
    """

    keys: np.ndarray
    counts: np.ndarray

    @classmethod
    def zero(cls) -> "Counts":
        """Return the counts of nothing."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    @property
    def total(self) -> int:
        """How many keys were added, repeats counted."""
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.keys.nbytes + self.counts.nbytes

    def add(self, keys: np.ndarray) -> "Counts":
        """Return the counts with keys added; whole numbers, any shape."""
        flat = np.asarray(keys).reshape(-1).astype(np.int64, copy=False)
        bounds = _narrow_bounds([flat])
        if bounds is None:
            found, counts = np.unique(flat, return_counts=True)
        else:
            counts = np.bincount(flat - bounds[0])
            found = np.flatnonzero(counts)
            counts, found = counts[found], found + bounds[0]
        return self.merge([Counts(found, counts.astype(np.int64))])

    def merge(self, others: Iterable["Counts"]) -> "Counts":
        """Return the counts of all keys of this and the others."""
        parts = [part for part in (self, *others) if len(part.keys)]
        if not parts:
            return self
        if len(parts) == 1:
            return parts[0]
        bounds = _narrow_bounds([part.keys for part in parts])
        if bounds is not None:
            low, high = bounds
            table = np.zeros(high - low + 1, dtype=np.int64)
            for part in parts:
                table[part.keys - low] += part.counts  # no key comes twice in one part
            keys = np.flatnonzero(table)
            return Counts(keys + low, table[keys])
        keys, place = np.unique(np.concatenate([part.keys for part in parts]), return_inverse=True)
        counts = np.zeros(len(keys), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([part.counts for part in parts]))
        return Counts(keys, counts)

    def at(self, low: int, high: int) -> "Counts":
        """Return the counts of the keys in [low, high)."""
        kept = slice(*np.searchsorted(self.keys, [low, high]))
        return Counts(self.keys[kept], self.counts[kept])


@dataclass(frozen=True, eq=False)
class BufferedCounts:
    """Counts to which few keys are added at a time: they wait as they are and are counted together, in one go.

    counts: of the keys that no longer wait. waiting: uint16 arrays of keys, at most `MOST_WAITING` in all.

    Size: that of `Counts`, and 8 kB. Cost of `add`: about 2 microseconds a call and 0.01 a key.
    """

    counts: Counts
    waiting: tuple[np.ndarray, ...] = ()

    @classmethod
    def zero(cls) -> "BufferedCounts":
        """Return the counts of nothing."""
        return cls(Counts.zero())

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.counts.nbytes + sum(keys.nbytes for keys in self.waiting)

    def add(self, keys: np.ndarray) -> "BufferedCounts":
        """Return the counts with keys added: uint16, any shape."""
        return self._with(self.counts, (*self.waiting, keys.ravel().copy()))

    def merge(self, others: Iterable["BufferedCounts"]) -> "BufferedCounts":
        """Return the counts of all keys of this and the others."""
        parts = list(others)
        counts = self.counts.merge(part.counts for part in parts)
        return self._with(counts, (*self.waiting, *(keys for part in parts for keys in part.waiting)))

    def settled(self) -> Counts:
        """Return the counts of all keys, those that wait too."""
        return self.counts.add(np.concatenate(self.waiting)) if self.waiting else self.counts

    @staticmethod
    def _with(counts: Counts, waiting: tuple[np.ndarray, ...]) -> "BufferedCounts":
        found = BufferedCounts(counts, waiting)
        return found if sum(map(len, waiting)) <= MOST_WAITING else BufferedCounts(found.settled())


def _narrow_bounds(keys: Sequence[np.ndarray]) -> tuple[int, int] | None:
    """Return the least and the greatest key if they lie so close that a table of all between is cheaper than a sort."""
    present = [each for each in keys if each.size]
    if not present:
        return None
    low, high = min(int(each.min()) for each in present), max(int(each.max()) for each in present)
    return (low, high) if high - low < _SLOTS_A_KEY * sum(each.size for each in present) else None


def score_keys(scores: np.ndarray) -> np.ndarray:
    """Return whole numbers in [0, 2**31) that order like scores rounded to float32.

    Args:
        scores: shape (n,), 0 or more, finite; above the range of float32 they count as its largest number.

    Raises:
        InternalError: a score is negative or NaN.
    """
    if not (scores >= 0).all():
        raise InternalError("Only scores of 0 or more have ordered bits.")
    narrow = np.minimum(scores, np.finfo(np.float32).max).astype(np.float32) + np.float32(0)
    return narrow.view(np.int32).astype(np.int64)


def upper_half(keys: np.ndarray) -> np.ndarray:
    """Return the cells that the first pass counts."""
    return keys >> HALF_BITS


def top_count(samples: int, top_fraction: float) -> int:
    """Return how many of `samples` are the top part, rounded up as 1.5 * epsilon * n is in the paper's code.

    Raises:
        PolicyError: top_fraction is not in (0, 1].
    """
    if not 0 < top_fraction <= 1:
        raise PolicyError(f"top_fraction must be in (0, 1], got {top_fraction}.")
    return min(samples, int(np.ceil(round(top_fraction * samples, 9))))


def cell_of_threshold(cells: Counts, top: int) -> tuple[int, int]:
    """Return the cell of the (top + 1)-th largest score, and how many scores lie in higher cells.

    Args:
        cells: counts of `upper_half` of all scores of the group.
        top: how many scores to flag at most.

    Returns: (-1, count of all) where every score may be flagged.
    """
    above = np.cumsum(cells.counts[::-1])[::-1] if len(cells.counts) else np.zeros(0, dtype=np.int64)
    if not len(above) or top >= int(above[0]):
        return -1, cells.total
    place = int(np.flatnonzero(above > top)[-1])
    return int(cells.keys[place]), int(above[place] - cells.counts[place])


def exact_threshold(cell: int, higher: int, lower_halves: Counts, top: int) -> float:
    """Return the (top + 1)-th largest score: above it are `top` scores, fewer where scores tie there.

    Scores equal to the threshold are all left unflagged, so that ties are treated alike and no order decides.

    Args:
        cell: from `cell_of_threshold`.
        higher: from `cell_of_threshold`.
        lower_halves: counts of the lower 16 bits of the scores in that cell.
        top: as for `cell_of_threshold`.
    """
    if cell < 0:
        return -1.0
    above = higher + np.cumsum(lower_halves.counts[::-1])[::-1]
    place = int(np.flatnonzero(above > top)[-1])
    key = (cell << HALF_BITS) | int(lower_halves.keys[place])
    return float(np.int32(key).view(np.float32))


def lower_half_in(keys: np.ndarray, cell: int) -> np.ndarray:
    """Return the lower 16 bits of the keys in a cell."""
    return keys[upper_half(keys) == cell] & _HALF_MASK
