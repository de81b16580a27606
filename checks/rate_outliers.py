"""Which groups are off more than the others, where groups differ honestly: class by class, without knowing any rate.

Each row has a whole number that is large where something is off. Each group (an annotator, a source) has so many rows
of each class. Under the null that a group is like all, class by class, its rows are a draw without replacement from the
rows of that class, so the mean, variance and third moment of its sum follow from the pooled rows (the moments of a
permutation test). Honest groups differ by more than that. How much more is read off the groups themselves, by a median
over rows, which groups with a minority of the rows cannot move far. The tail is that of Pearson's type III curve.

Sources: Mantel and Haenszel, J. Natl. Cancer Inst. 22 (1959), for the sum over classes; Mielke and Berry, "Permutation
Methods" (2007), section 2.3, for moments and the type III tail; Williams, Applied Statistics 31 (1982), model II, for
the variance 1 + (n - 1) rho; the median of chi-square with 1 degree is 0.4549.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_CHI_SQUARE_MEDIAN = 0.454936
#: Rows that a group must have, for its deviation to say how much groups differ.
_LEAST_ROWS = 10
#: Groups below which there is no telling how much groups differ: rho is then 0.
_LEAST_GROUPS = 5
_MAX_RHO = 0.9
#: A skewness below this is none: the curve is the normal one.
_LEAST_SKEW = 1e-3


class PowerSums(NamedTuple):
    """One group's rows by class, only of classes that it has.

    label: int64 (c,), which classes.
    sums: int64 (c, 4): how many rows, and the sums of their numbers, squares and cubes; exact.
    """

    label: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, label: np.ndarray, number: np.ndarray) -> "PowerSums":
        """Return the sums of rows.

        Args:
            label: int64 (n,).
            number: int64 (n,), 0 to 2**12, so that no sum of 2**27 cubes overflows.
        """
        found, place = np.unique(label, return_inverse=True)
        sums = np.zeros((len(found), 4), dtype=np.int64)
        for power in range(4):
            np.add.at(sums[:, power], place, number**power)
        return cls(found, sums)

    def merge(self, others: Iterable["PowerSums"]) -> "PowerSums":
        """Return the sums of the rows of this and the others."""
        parts = [self, *others]
        found, place = np.unique(np.concatenate([part.label for part in parts]), return_inverse=True)
        sums = np.zeros((len(found), 4), dtype=np.int64)
        np.add.at(sums, place, np.concatenate([part.sums for part in parts]))
        return PowerSums(found, sums)


@dataclass(frozen=True, eq=False)
class NullMoments:
    """What is expected of each group if all were alike; all float64 (g,) but the first.

    rows: int64 (g,).
    seen: the sums that were found.
    mean, variance, third: of that sum, conditional on the rows of each class; third is the third central moment.
    """

    rows: np.ndarray
    seen: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    third: np.ndarray


def stratified_null(groups: Sequence[PowerSums], classes: int) -> NullMoments:
    """Return the sum of each group with its null moments.

    Args:
        groups: g of them.
        classes: K.

    Cost: one step for each (group, class) that occurs.
    """
    pooled = np.zeros((classes, 4), dtype=np.int64)
    for group in groups:
        pooled[group.label] += group.sums
    size = pooled[:, 0].astype(np.float64)
    mean, square, cube = (pooled[:, power] / np.maximum(size, 1) for power in (1, 2, 3))
    variance = np.maximum(square - mean**2, 0.0)
    third = cube - 3 * mean * square + 2 * mean**3
    found = np.zeros((len(groups), 4))
    for at, group in enumerate(groups):
        rows, label = group.sums[:, 0], group.label
        left = size[label] - rows
        spread = rows * left / np.maximum(size[label] - 1, 1) * variance[label]
        skewed = rows * left * (left - rows) / np.maximum((size[label] - 1) * (size[label] - 2), 1) * third[label]
        for place, part in enumerate((group.sums[:, 1], rows * mean[label], spread, skewed)):
            found[at, place] = float(np.cumsum(part)[-1]) if len(part) else 0.0
    rows = np.array([int(group.sums[:, 0].sum()) for group in groups], dtype=np.int64)
    return NullMoments(rows, *found.T)


def overdispersion(null: NullMoments) -> float:
    """Return rho in [0, 0.9]: how alike the rows of one group are, beyond what their classes explain.

    It is the value at which the median standardised square, over the rows of all groups of at least 10, is that of
    chi-square; 0 where there are fewer than 5 such groups.
    """
    counted = (null.rows >= _LEAST_ROWS) & (null.variance > 0)
    if counted.sum() < _LEAST_GROUPS:
        return 0.0
    square = (null.seen[counted] - null.mean[counted]) ** 2 / null.variance[counted]
    rows = null.rows[counted]

    def median(rho: float) -> float:
        scaled = square / (1 + (rows - 1) * rho)
        order = np.argsort(scaled, kind="stable")
        below = np.cumsum(rows[order])
        return float(scaled[order[np.searchsorted(below, below[-1] / 2)]])

    low, high = 0.0, _MAX_RHO
    if median(low) <= _CHI_SQUARE_MEDIAN:
        return 0.0
    for _ in range(50):  # the median falls as rho grows
        middle = (low + high) / 2
        low, high = (middle, high) if median(middle) > _CHI_SQUARE_MEDIAN else (low, middle)
    return high


def upper_tail(null: NullMoments, rho: float) -> np.ndarray:
    """Return the probability that a group like the others has as large a sum or a larger one, float64 (g,)."""
    from scipy.stats import norm, pearson3

    wide = null.variance * (1 + np.maximum(null.rows - 1, 0) * rho)
    is_spread = wide > 0
    deviation = np.zeros(len(wide))
    skew = np.zeros(len(wide))
    root = np.sqrt(wide[is_spread])
    deviation[is_spread] = (null.seen[is_spread] - null.mean[is_spread]) / root
    skew[is_spread] = null.third[is_spread] / root**3
    is_skewed = np.abs(skew) > _LEAST_SKEW
    tail = norm.sf(deviation)
    tail[is_skewed] = pearson3.sf(deviation[is_skewed], skew[is_skewed])
    tail[~is_spread] = 1.0
    bounded: np.ndarray = np.clip(tail, 0.0, 1.0)
    return bounded


def count_tail(seen: np.ndarray, rows: np.ndarray, chance: np.ndarray, rho: float) -> np.ndarray:
    """Return the probability of as many hits or more, float64 (m,): beta-binomial, or binomial where rho is 0.

    Args:
        seen: int64 (m,), hits.
        rows: int64 (m,), tries.
        chance: float64 (m,), of one try, in [0, 1].
        rho: how alike the tries are, as `overdispersion` returns it.
    """
    from scipy.stats import betabinom, binom

    if rho <= 0:
        tail = binom.sf(seen - 1, rows, chance)
    else:
        scale = 1 / rho - 1
        inside = np.clip(chance, 1e-12, 1 - 1e-12)
        tail = betabinom.sf(seen - 1, rows, inside * scale, (1 - inside) * scale)
    bounded: np.ndarray = np.clip(tail, 0.0, 1.0)
    return bounded
