"""Which groups are off more than the others, where groups differ honestly: class by class, without knowing any rate.

Each row has a whole number that is large where something is off. Each group (an annotator, a source) has so many rows
of each class. Under the null that a group is like the others, class by class, its rows are a draw without replacement
from those of that class, so the mean, variance and third moment of its sum follow from the pooled rows (the moments of
a permutation test).

Bad groups must not set what is normal. So a group is compared with a reference: the half of the rows whose groups are
nearest to the median one, then all groups that are not off by more than 2.5 standard errors of it, until that changes
no more. Honest groups differ by more than a draw; how much more is read off the reference, corrected for what was cut.
With few groups that is not known well: the tail is Student's, by Satterthwaite's degrees of freedom, or where that is
no wider, of Pearson's type III curve.

Sources: Mantel and Haenszel, J. Natl. Cancer Inst. 22 (1959), for the sum over classes; Mielke and Berry, "Permutation
Methods" (2007), section 2.3, for moments and the type III tail; Williams, Applied Statistics 31 (1982), model II, for
the variance 1 + (n - 1) rho; Rousseeuw and Leroy, "Robust Regression and Outlier Detection" (1987), chapter 1, for the
step from a start that half of the rows cannot move to one that leaves out what is 2.5 off; Satterthwaite, Biometrics
Bulletin 2 (1946), for the degrees of freedom of a sum of a known and an estimated variance; Skellam, J. R. Stat. Soc. B
10 (1948), for the beta-binomial; Jeffreys, "Theory of Probability" (1961), section 3.10, for the prior of a rate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_CHI_SQUARE_MEDIAN = 0.454936
#: What is farther off, in standard errors, is no part of the reference; the mean square of a normal cut there.
_CUT, _CUT_SQUARE = 2.5, 0.911258
#: Steps to the reference; the first ones decide nearly always.
_MOST_STEPS = 30
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

    @property
    def is_telling(self) -> np.ndarray:
        """Which groups have enough rows, and could differ, so that they say how much groups do, bool (g,)."""
        found: np.ndarray = (self.rows >= _LEAST_ROWS) & (self.variance > 0)
        return found


class Comparison(NamedTuple):
    """How groups compare with the reference.

    null: what is expected of each.
    rho: how alike the rows of one group are, beyond what their classes explain, in [0, 0.9].
    freedom: float64 (g,), degrees of freedom that the variance of each sum is known with; infinite where rho was not
        asked.
    is_reference: bool (g,), which groups the reference has.
    """

    null: NullMoments
    rho: float
    freedom: np.ndarray
    is_reference: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """The standard error of each group's sum, float64 (g,), 0 where it cannot vary."""
        error: np.ndarray = np.sqrt(_wide(self.null, self.rho))
        return error

    def upper_tail(self) -> np.ndarray:
        """Return the probability that a group like the others has as large a sum or a larger one, float64 (g,)."""
        from scipy.stats import norm, pearson3, t

        error = self.error
        is_spread = error > 0
        deviation, skew = np.zeros((2, len(error)))
        deviation[is_spread] = (self.null.seen - self.null.mean)[is_spread] / error[is_spread]
        skew[is_spread] = self.null.third[is_spread] / error[is_spread] ** 3
        tail = norm.sf(deviation)
        is_skewed = np.abs(skew) > _LEAST_SKEW
        tail[is_skewed] = pearson3.sf(deviation[is_skewed], skew[is_skewed])
        tail = np.maximum(tail, t.sf(deviation, self.freedom))
        tail[~is_spread] = 1.0
        bounded: np.ndarray = np.clip(tail, 0.0, 1.0)
        return bounded


def compare_groups(groups: Sequence[PowerSums], classes: int) -> Comparison:
    """Return how each group compares with the others that are not off themselves.

    Args:
        groups: g of them.
        classes: K.

    Cost: at most 30 steps for each (group, class) that occurs.
    """
    everybody = np.ones(len(groups), dtype=np.bool_)
    null = stratified_null(groups, classes, everybody)
    rows = null.rows
    known = np.full(len(groups), np.inf)
    if (rows >= _LEAST_ROWS).sum() < 2:
        return Comparison(null, 0.0, known, everybody)
    is_reference = _nearest_half(null)
    seen: list[bytes] = []
    found = Comparison(null, 0.0, known, everybody)
    for step in range(_MOST_STEPS):
        null = stratified_null(groups, classes, is_reference)
        # The first reference is nearer to its middle than any whole: what is off says how much groups differ there.
        rho = overdispersion(null) if step == 0 else overdispersion(null, is_reference)
        freedom = _freedom(null, rho, is_reference) if _says_how_groups_differ(null) else known
        found = Comparison(null, rho, freedom, is_reference)
        if seen and is_reference.tobytes() in seen:
            break
        seen.append(is_reference.tobytes())
        error = found.error
        deviation = np.abs(null.seen - null.mean)
        is_near = deviation <= _CUT * error
        if rows[is_near].sum() * 2 < rows.sum():  # half of the rows are never off
            order = np.argsort(np.where(error > 0, deviation / np.where(error > 0, error, 1.0), 0.0), kind="stable")
            is_near[order[: _half_of(rows[order])]] = True
        is_reference = is_near
    return found


def stratified_null(groups: Sequence[PowerSums], classes: int, is_reference: np.ndarray) -> NullMoments:
    """Return the sum of each group with its null moments: of a draw from the reference, and its own rows where outside.

    Args:
        groups: g of them.
        classes: K.
        is_reference: bool (g,).

    Cost: one step for each (group, class) that occurs.
    """
    pooled = np.zeros((classes, 4), dtype=np.int64)
    for group, inside in zip(groups, is_reference.tolist(), strict=True):
        if inside:
            pooled[group.label] += group.sums
    found = np.zeros((len(groups), 4))
    for at, (group, inside) in enumerate(zip(groups, is_reference.tolist(), strict=True)):
        rows, whole = group.sums[:, 0], pooled[group.label] + (0 if inside else group.sums)
        size = whole[:, 0].astype(np.float64)
        mean, square, cube = (whole[:, power] / np.maximum(size, 1) for power in (1, 2, 3))
        variance = np.maximum(square - mean**2, 0.0)
        third = cube - 3 * mean * square + 2 * mean**3
        left = size - rows
        spread = rows * left / np.maximum(size - 1, 1) * variance
        skewed = rows * left * (left - rows) / np.maximum((size - 1) * (size - 2), 1) * third
        for place, part in enumerate((group.sums[:, 1], rows * mean, spread, skewed)):
            found[at, place] = float(np.cumsum(part)[-1]) if len(part) else 0.0
    rows = np.array([int(group.sums[:, 0].sum()) for group in groups], dtype=np.int64)
    return NullMoments(rows, *found.T)


def overdispersion(null: NullMoments, is_reference: np.ndarray | None = None) -> float:
    """Return rho in [0, 0.9]: how alike the rows of one group are, beyond what their classes explain.

    It is the value at which the standardised squares, over the rows of groups of at least 10, have the median of
    chi-square; of a reference: the mean that they have where those above `_CUT` are cut. 0 where there are fewer than 5
    such groups.

    Args:
        null: of all groups.
        is_reference: bool (g,), the groups that were not cut; None where none was.
    """
    if not _says_how_groups_differ(null):
        return 0.0
    counted = null.is_telling
    if is_reference is not None:
        counted &= is_reference
        if counted.sum() < 2:
            return 0.0
    square = (null.seen[counted] - null.mean[counted]) ** 2 / null.variance[counted]
    rows = null.rows[counted]

    def middle_of(rho: float) -> float:
        scaled = square / (1 + (rows - 1) * rho)
        if is_reference is not None:
            return float((scaled * rows).sum() / rows.sum())
        order = np.argsort(scaled, kind="stable")
        below = np.cumsum(rows[order])
        return float(scaled[order[np.searchsorted(below, below[-1] / 2)]])

    wanted = _CHI_SQUARE_MEDIAN if is_reference is None else _CUT_SQUARE
    low, high = 0.0, _MAX_RHO
    if middle_of(low) <= wanted:
        return 0.0
    for _ in range(50):  # it falls as rho grows
        middle = (low + high) / 2
        low, high = (middle, high) if middle_of(middle) > wanted else (low, middle)
    return high


def _wide(null: NullMoments, rho: float) -> np.ndarray:
    """Return the variance of each sum where groups differ."""
    wide: np.ndarray = null.variance * (1 + np.maximum(null.rows - 1, 0) * rho)
    return wide


def _says_how_groups_differ(null: NullMoments) -> bool:
    return bool(null.is_telling.sum() >= _LEAST_GROUPS)


def _freedom(null: NullMoments, rho: float, is_reference: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom that the variance of each sum is known with, float64 (g,).

    A mean of k independent standardised squares has the variance 2 / k; by its slope in rho that is the variance of
    rho, and n - 1 times that of a group's own. Squares that are weighed by rows are as good as (sum n)^2 / (sum n^2).
    No group has fewer than there are squares, else nothing could be said of one that is larger than all others (our
    choice: it cost no more false alarms in tests/checks/test_rate_outliers.py).
    """
    counted = is_reference & null.is_telling
    rows = null.rows[counted].astype(np.float64)
    if len(rows) < 2:
        return np.ones(len(null.rows))
    squares = max(1.0, float(rows.sum() ** 2 / (rows**2).sum()) - 1)  # the middle was estimated, too
    slope = float((rows * (rows - 1) / (1 + (rows - 1) * rho)).sum() / rows.sum())
    more = np.maximum(null.rows - 1, 1)
    freedom: np.ndarray = squares * np.maximum(1.0, (1 + more * rho) * slope / more) ** 2
    return freedom


def _nearest_half(null: NullMoments) -> np.ndarray:
    """Return the groups nearest to the median one, with half of the rows at least, bool (g,)."""
    off = (null.seen - null.mean) / np.maximum(null.rows, 1)
    order = np.argsort(off, kind="stable")
    below = np.cumsum(null.rows[order])
    median = off[order[np.searchsorted(below, below[-1] / 2)]]
    order = np.argsort(np.abs(off - median), kind="stable")
    chosen = np.zeros(len(off), dtype=np.bool_)
    chosen[order[: _half_of(null.rows[order])]] = True
    return chosen


def _half_of(rows: np.ndarray) -> int:
    """Return how many of the first groups have half of the rows."""
    return int(np.searchsorted(np.cumsum(rows), rows.sum() / 2)) + 1


def count_tail(
    seen: np.ndarray, rows: np.ndarray, hits_elsewhere: np.ndarray, rows_elsewhere: np.ndarray, rho: float
) -> np.ndarray:
    """Return the probability of as many hits or more where the rate is that of the other groups, float64 (m,).

    It is beta-binomial: for what is not known of the rate (its posterior under Jeffreys' prior) and for how much honest
    groups differ.

    Args:
        seen: int64 (m,), hits.
        rows: int64 (m,), tries.
        hits_elsewhere: int64 (m,), of the other groups.
        rows_elsewhere: int64 (m,), likewise.
        rho: how alike the tries of one group are, as `overdispersion` returns it.
    """
    from scipy.stats import betabinom

    chance = (hits_elsewhere + 0.5) / (rows_elsewhere + 1)
    scale = 1 / np.minimum(rho + 1 / (rows_elsewhere + 2), _MAX_RHO) - 1
    bounded: np.ndarray = np.clip(betabinom.sf(seen - 1, rows, chance * scale, (1 - chance) * scale), 0.0, 1.0)
    return bounded
