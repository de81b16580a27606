"""Drift between a reference and current data: an effect size and what chance alone would give, both from summaries.

Rules this module keeps:
  1. A comparison drifts if its effect reaches the limit *and* exceeds its own null quantile. Neither alone alarms: at
     1e8 rows chance is far below anything that matters, at 1e3 rows far above it.
  2. The null quantile holds for the whole family: each comparison gets `family_alpha` over the number of comparisons.
     And it holds for true differences up to `tolerated`: no two months of a source are exactly alike, and with many
     slices some estimate of a small true difference would else be above its limit.
  3. Only counts, exact moments and mean embeddings come in, so all of it works on merged profiles of any size.
  4. PSI and Jensen-Shannon divergence are figures without a limit: on 50,000 categories and no shift at all they read
     0.38 and 0.33 at 1e4 rows, above what is usually called drift (bench/drift.py prints both).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from millcert.errors import InvalidSampleError, PolicyError

Measure: TypeAlias = Literal[
    "wasserstein",
    "kolmogorov_smirnov",
    "cramers_v",
    "total_variation",
    "mean_embedding",
    "unseen_share",
    "token_label",
    "pushed_share",
]

#: Fewer rows than this on either side are not compared: the null quantiles are asymptotic. Our choice.
LEAST_ROWS = 100
#: Expected count that a category needs in the smaller sample; rarer ones are counted together.
#: Source: Cochran, Biometrics 10 (1954), section 2 (he allows some below 5; we allow none).
LEAST_EXPECTED = 5.0

#: Fields of `DriftLimits` that must be below 1.
_SHARES = ("tolerated_part", "family_alpha")


@dataclass(frozen=True)
class DriftLimits:
    """From which effect on a difference matters, and how often chance may alarm.

    wasserstein: W1 in standard deviations of the reference; a shift of the mean by 0.1 of them reads 0.1.
    kolmogorov_smirnov: the largest difference of the two distribution functions, 0 to 1.
    cramers_v: bias-corrected Cramer's V of category against side, both sides weighing the same, 0 to 1.
    total_variation: the part of the rows that would have to change category, 0 to 1.
    mean_embedding: the distance of mean random Fourier features, 0 to sqrt(2).
    token_label: by how much of its rows a token is more often in a label, 0 to 1 (`millcert.checks.drift_tokens`).
    pushed_share: the part of a source's rows relabelled to one class, 0 to 1 (`millcert.checks.drift_labels`).
    tolerated_part: the part of each limit, 0 to 1, up to which a true difference is natural and never to be alarmed on.
    family_alpha: how probable any false alarm may be in one comparison of two profiles, over all its measures.

    The defaults are our choice (bench/drift.py): half of a shift that should be found.
    """

    wasserstein: float = 0.05
    kolmogorov_smirnov: float = 0.05
    cramers_v: float = 0.05
    total_variation: float = 0.05
    mean_embedding: float = 0.1
    token_label: float = 0.1
    pushed_share: float = 0.025
    tolerated_part: float = 0.5
    family_alpha: float = 0.01

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            is_above = value >= 0 if each.name == "tolerated_part" else value > 0
            if not is_above or not value < (1 if each.name in _SHARES else math.inf):
                raise PolicyError(f"The drift limit {each.name} is out of its range: {value}.")

    def tolerated(self, measure: Measure) -> float:
        """Return up to which true effect the null quantile of a measure holds."""
        return float(getattr(self, measure)) * self.tolerated_part


class Drift(NamedTuple):
    """One comparison.

    measure: what was measured; its unit stands in `DriftLimits`. `unseen_share` is a part of the rows, 0 to 1.
    value: the effect, 0 or above, finite.
    limit: from which value on it matters.
    null_quantile: what the value stays below while the true effect is tolerated, but for the comparison's share of
        `family_alpha`.
    reference_rows, current_rows: how many rows were compared.
    """

    measure: Measure
    value: float
    limit: float
    null_quantile: float
    reference_rows: int
    current_rows: int

    @property
    def is_drift(self) -> bool:
        """Whether the effect matters and chance does not explain it."""
        return self.value >= self.limit and self.value > self.null_quantile


class Spread(NamedTuple):
    """Mean and variance (divisor n) of the finite numbers of one side, from exact sums."""

    mean: float
    variance: float


def share_of_alpha(family_alpha: float, comparisons: int) -> float:
    """Return the level of each of so many comparisons (Bonferroni: valid under any dependence)."""
    return family_alpha / max(1, comparisons)


def wasserstein(
    intervals: np.ndarray,
    reference: np.ndarray,
    current: np.ndarray,
    spreads: tuple[Spread, Spread],
    *,
    limit: float,
    alpha: float,
    tolerated: float = 0.0,
) -> Drift:
    """Return the area between two distribution functions, in standard deviations of the reference.

    Args:
        intervals: float64 (b, 2): ascending, disjoint, closed; a point where both ends are one.
        reference: int64 (b,): how many finite numbers of the reference lie in each interval.
        current: int64 (b,): the same of the current data.
        spreads: of the reference and of the current numbers. Where the reference is constant, the unit is the deviation
            of both sides together.
        limit: see `DriftLimits`.
        alpha: the level of this comparison.
        tolerated: up to which true effect the null quantile holds.

    Within an interval the numbers are taken as evenly spread; the distribution functions are exact at its ends.

    Null quantile: sqrt(1/n + 1/m) times the mean of the L1 norm of a Brownian bridge over the pooled distribution, and
    its deviation by Borell's inequality, for which the variance is that of a 1-Lipschitz function of the numbers,
    at most their own. Source: del Barrio, Gine, Matran, Ann. Probab. 27 (1999), theorem 1.1 (the limit);
    Adler and Taylor, Random Fields and Geometry (2007), theorem 2.1.1 (the inequality). The variance is the pooled one,
    so that one wild value on either side widens it.
    """
    n, m = int(reference.sum()), int(current.sum())
    pooled = _pooled_deviation(n, m, *spreads)
    unit = math.sqrt(spreads[0].variance) or pooled
    if not unit:
        return Drift("wasserstein", 0.0, limit, 0.0, n, m)
    steps, widths = _steps(intervals)
    area = _area(_heights(reference) - _heights(current), steps, widths)
    both = _heights(reference + current)
    bridge = float(np.dot(np.sqrt(np.maximum(both * (1 - both), 0))[1:-1], steps))
    bridge += float(np.dot(_mean_bridge(both), widths))
    quantile = math.sqrt(1 / n + 1 / m) * (
        math.sqrt(2 / math.pi) * bridge + pooled * math.sqrt(2 * math.log(1 / alpha))
    )
    return Drift("wasserstein", _finite(area / unit), limit, _finite(tolerated + quantile / unit), n, m)


def kolmogorov_smirnov(
    reference: np.ndarray, current: np.ndarray, *, limit: float, alpha: float, tolerated: float = 0.0
) -> Drift:
    """Return the largest difference of two distribution functions at the ends of common, ordered intervals.

    Args:
        reference: int64 (b,): counts of the reference in each interval, in ascending order.
        current: int64 (b,): the same of the current data.
        limit: see `DriftLimits`.
        alpha: the level of this comparison.
        tolerated: up to which true effect the null quantile holds.

    Null quantile: sqrt(ln(2 / alpha) / 2 * (1/n + 1/m)), by the inequality of Dvoretzky, Kiefer and Wolfowitz with
    Massart's constant, for two samples: Wei and Dudley, Statist. Probab. Lett. 82 (2012), theorem 1. Ties and intervals
    only make it more cautious.
    """
    n, m = int(reference.sum()), int(current.sum())
    value = float(np.abs(_heights(reference) - _heights(current)).max())
    quantile = tolerated + math.sqrt(math.log(2 / alpha) / 2 * (1 / n + 1 / m))
    return Drift("kolmogorov_smirnov", value, limit, quantile, n, m)


def cramers_v(
    reference: np.ndarray,
    current: np.ndarray,
    *,
    limit: float,
    alpha: float,
    tolerated: float = 0.0,
    natural: float = 0.0,
) -> Drift:
    """Return bias-corrected Cramer's V between category and side, 0 where chance explains all.

    Args:
        reference: int64 (k,): counts of each category in the reference.
        current: int64 (k,): the same of the current data, in the same order.
        limit: see `DriftLimits`.
        alpha: the level of this comparison.
        tolerated: up to which true effect the null quantile holds.
        natural: it holds for shares, too, whose variance from one time to the next is p (1 - p) times this.

    V squared is half the sum of (p - q)^2 / (p + q): the phi coefficient of a 2 x k table whose sides weigh the same,
    so the value does not shrink because one side is long. Each term is less its own expectation without drift.
    Rare categories are counted together (`LEAST_EXPECTED`).

    Null quantile: from the chi-square distribution of the same sum, less its mean; not central where some is tolerated.
    Source: Cramer (1946), section 21.9; the correction is that of Bergsma, J. Korean Statist. Soc. 42 (2013), with the
    balanced weights and each category's own variance.
    """
    n, m = int(reference.sum()), int(current.sum())
    left, right = _without_rare(reference, current)
    p, q = left / n, right / m
    noise = p * (1 - p) / max(1, n - 1) + q * (1 - q) / max(1, m - 1)
    squared = float(np.sum(((p - q) ** 2 - noise) / (2 * (p + q))))
    freedom = len(left) - 1
    scale, varying = (1 / n + 1 / m) / 4, (1 / n + 1 / m + natural) / 4
    quantile = 0.0
    if freedom:
        highest = _chi_square_quantile(freedom, tolerated**2 / scale, alpha) * scale
        highest = max(highest, _chi_square_quantile(freedom, 0.0, alpha) * varying)
        quantile = math.sqrt(max(0.0, highest - freedom * scale))
    return Drift("cramers_v", math.sqrt(max(0.0, squared)), limit, quantile, n, m)


def total_variation(
    reference: np.ndarray,
    current: np.ndarray,
    *,
    limit: float,
    alpha: float,
    tolerated: float = 0.0,
    natural: float = 0.0,
) -> Drift:
    """Return half the sum of |p - q|: the part of the rows that would have to change category.

    Args:
        reference: int64 (k,): counts of each category in the reference.
        current: int64 (k,): the same of the current data, in the same order.
        limit: see `DriftLimits`.
        alpha: the level of this comparison.
        tolerated: up to which true effect the null quantile holds.
        natural: as in `cramers_v`.

    Rare categories are counted together (`LEAST_EXPECTED`). The value is not corrected: few rows and many categories
    raise it, and the null quantile by the same.

    Null quantile: the mean by Jensen's inequality on each category, and the deviation by that of McDiarmid (Surveys in
    Combinatorics (1989), lemma 1.2): one row changes the value by at most 1/n or 1/m. What varies by nature widens
    both alike (for the deviation by Borell's inequality: the share of no set of categories varies more than a half's).
    """
    n, m = int(reference.sum()), int(current.sum())
    left, right = _without_rare(reference, current)
    shares = (left + right) / (n + m)
    value = float(np.abs(left / n - right / m).sum()) / 2

    def chance(rate: float) -> float:
        mean = float(np.sum(np.sqrt(shares * (1 - shares) * rate))) / 2
        return mean + math.sqrt(rate * math.log(1 / alpha) / 2)

    rate = 1 / n + 1 / m
    return Drift("total_variation", value, limit, max(tolerated + chance(rate), chance(rate + natural)), n, m)


def mean_embedding(
    reference: np.ndarray,
    current: np.ndarray,
    rows: tuple[int, int],
    *,
    limit: float,
    alpha: float,
    tolerated: float = 0.0,
) -> Drift:
    """Return the distance of two mean embeddings in random Fourier features, an estimate of the MMD, corrected.

    Args:
        reference: float64 (D,): the mean of unit feature vectors (`millcert.checks.sketch_embedding`).
        current: float64 (D,): the same of the current data.
        rows: how many rows each is the mean of, reference first; at least 2.
        limit: see `DriftLimits`.
        alpha: the level of this comparison.
        tolerated: up to which true effect the null quantile holds.

    Null quantile: the squared distance's mean without drift, and the deviation by McDiarmid's inequality: one row moves
    a mean of unit vectors by at most 2/n. Source: Gretton et al., JMLR 13 (2012), theorem 7 and lemma 6 (unbiased
    estimate); Rahimi and Recht, NIPS 2007 (the features).
    """
    n, m = rows
    if reference.shape != current.shape:
        raise InvalidSampleError(f"Cannot compare mean embeddings of {reference.size} and {current.size} features.")
    noise = _noise_of_mean(reference, n) + _noise_of_mean(current, m)
    squared = float(np.sum((reference - current) ** 2)) - noise
    reach = tolerated + math.sqrt(noise) + math.sqrt(2 * math.log(1 / alpha) * (1 / n + 1 / m))
    return Drift("mean_embedding", math.sqrt(max(0.0, squared)), limit, math.sqrt(max(0.0, reach**2 - noise)), n, m)


def unseen_share(rows: int, of_rows: int, other_rows: int, *, is_new: bool, alpha: float) -> Drift:
    """Return the share of a source (or another group) that the other side does not have at all.

    Args:
        rows: how many rows it has on its side.
        of_rows: how many rows that side has.
        other_rows: how many rows the other side has, none of them of this source.
        is_new: it is on the current side; else it fell silent.
        alpha: the level of this comparison.

    Null quantile: the share at which a sample of `other_rows` rows misses it with probability alpha: at a share s that
    is (1 - s)^rows <= exp(-s rows). The limit is 0: any share counts that chance does not explain.
    """
    share = rows / of_rows
    quantile = min(1.0, math.log(1 / alpha) / max(1, other_rows))
    reference_rows, current_rows = (other_rows, of_rows) if is_new else (of_rows, other_rows)
    return Drift("unseen_share", share, 0.0, quantile, reference_rows, current_rows)


def population_stability(reference: np.ndarray, current: np.ndarray) -> float:
    """Return the population stability index of counts, half a count where one side has none. A figure, no verdict."""
    present = reference + current > 0
    p, q = _smoothed(reference[present]), _smoothed(current[present])
    return float(np.sum((p - q) * np.log(p / q)))


def jensen_shannon(reference: np.ndarray, current: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence of counts in bits, 0 to 1. A figure, no verdict."""
    p, q = reference / max(1, reference.sum()), current / max(1, current.sum())
    middle = (p + q) / 2
    total = 0.0
    for side in (p, q):
        present = side > 0
        total += float(np.sum(side[present] * np.log2(side[present] / middle[present]))) / 2
    return max(0.0, total)


def can_compare(reference_rows: int, current_rows: int) -> bool:
    """Return whether both sides have enough rows for the null quantiles to hold."""
    return min(reference_rows, current_rows) >= LEAST_ROWS


def pooled_intervals(sides: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return the union of sorted keys, and each side's counts on it.

    Args:
        sides: (keys uint64 (b,), counts int64 (b,)) of each side, keys sorted and distinct.
    """
    union = np.unique(np.concatenate([keys for keys, _ in sides]))
    aligned = []
    for keys, counts in sides:
        table = np.zeros(len(union), dtype=np.int64)
        table[np.searchsorted(union, keys)] = counts
        aligned.append(table)
    return union, tuple(aligned)


def _heights(counts: np.ndarray) -> np.ndarray:
    """Return the distribution function before the first interval and after each, float64 (b + 1,)."""
    return np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])


def _steps(intervals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the gaps between neighbours, (b - 1,), and the widths, (b,)."""
    return np.maximum(intervals[1:, 0] - intervals[:-1, 1], 0.0), intervals[:, 1] - intervals[:, 0]


def _area(difference: np.ndarray, steps: np.ndarray, widths: np.ndarray) -> float:
    """Return the integral of a difference that is level in gaps and straight in intervals."""
    before, after = difference[:-1], difference[1:]
    size = np.abs(before) + np.abs(after)
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = np.where(size > 0, (before**2 + after**2) / (2 * size), 0.0)
    mean = np.where(before * after >= 0, size / 2, crossing)
    return float(np.dot(mean, widths) + np.dot(np.abs(difference[1:-1]), steps))


def _mean_bridge(heights: np.ndarray) -> np.ndarray:
    """Return a bound on the mean of sqrt(F (1 - F)) within each interval: its value at the mean height (concave)."""
    middle = (heights[:-1] + heights[1:]) / 2
    return np.sqrt(np.maximum(middle * (1 - middle), 0))


def _pooled_deviation(n: int, m: int, reference: Spread, current: Spread) -> float:
    between = n * m / (n + m) ** 2 * (reference.mean - current.mean) ** 2
    return math.sqrt((n * reference.variance + m * current.variance) / (n + m) + between)


def _without_rare(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts as float64, empty categories left out, rare ones added up until they are not rare together."""
    total = reference + current
    order = np.argsort(total, kind="stable")
    order = order[total[order] > 0]
    smaller = min(reference.sum(), current.sum()) / total.sum()
    expected = total[order] * smaller
    rare = int(np.searchsorted(expected, LEAST_EXPECTED))
    # The rare ones together may still be too few: then the next smallest joins them.
    while 0 < rare < len(order) and expected[:rare].sum() < LEAST_EXPECTED:
        rare += 1
    groups = np.maximum(np.arange(len(order)) - max(0, rare - 1), 0)
    sides = (np.bincount(groups, weights=side[order].astype(np.float64)) for side in (reference, current))
    left, right = sides
    return left, right


def _chi_square_quantile(freedom: int, shift: float, alpha: float) -> float:
    """Return the upper alpha quantile of the chi-square distribution, not central by `shift`.

    Source: Sankaran, Biometrika 50 (1963), the second approximation; at most 3 % below the exact
    value and, at one degree of freedom, 15 % above (tests/checks/test_drift.py).
    """
    mean, spread = freedom + shift, freedom + 2 * shift
    power = 1 - 2 * mean * (freedom + 3 * shift) / (3 * spread**2)
    p = spread / mean**2
    m = (power - 1) * (1 - 3 * power)
    center = 1 + power * p * (power - 1 - (2 - power) * m * p / 2)
    width = power * math.sqrt(2 * p) * (1 + m * p / 2)
    return float(mean * (center + NormalDist().inv_cdf(1 - alpha) * width) ** (1 / power))


def _noise_of_mean(mean: np.ndarray, rows: int) -> float:
    """Return the expected squared distance of a mean of unit vectors from what it estimates."""
    return max(0.0, 1.0 - float(np.sum(mean**2))) / max(1, rows - 1)


def _smoothed(counts: np.ndarray) -> np.ndarray:
    filled = np.where(counts > 0, counts, 0.5)
    return filled / filled.sum()


def _finite(value: float) -> float:
    """Return the value, or the largest float where the numbers overflow it."""
    return min(value, np.finfo(np.float64).max.item()) if value == value else 0.0  # noqa: PLR0124 - NaN of 0 * inf
