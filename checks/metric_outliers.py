"""Outliers: values judged by the mean and deviation or the quartiles of their own column, so by a second read.

The first read measures the column; `limits_of` turns that into conditions on single values, and the second read counts
and lists what they do not expect. Quartiles of very many distinct values are known to an interval only; then there are
two conditions, the most and the least forgiving, and an expectation holds only where it does under both.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks.metric_conditions import Condition, Verdicts
from millcert.checks.metric_kernels import AddUp, FindValues, Kernel, RankValues
from millcert.checks.metric_order import Buckets, interpolate
from millcert.checks.metric_sums import Sums, deviation_of, mean_of

Method: TypeAlias = Literal["z_score", "iqr", "std"]


@dataclass(frozen=True)
class FindOutliers:
    """What the second read will find in a column, once the first has measured it.

    method: "z_score", Great Expectations' z-scores; "iqr", Tukey's fences; "std", the distance from the mean.
    amount: the threshold of the z-score, or the multiplier of the spread.
    is_double_sided: of z-scores: whether low values count, too.
    limit: unexpected rows that are listed.
    """

    column: str
    method: Method
    amount: float
    is_double_sided: bool
    limit: int

    @property
    def basis(self) -> Kernel:
        """What the first read measures for it."""
        return RankValues(self.column) if self.method == "iqr" else AddUp(self.column, with_squares=True)

    def kernels(self, measured: Sums | Buckets | None) -> tuple[Kernel, ...]:
        """Return what the second read runs: one kernel, or where the quartiles are intervals two.

        Args:
            measured: the merged part of `basis`; None of no rows.
        """
        return tuple(FindValues(self.column, condition, self.limit) for condition in self._conditions(measured))

    def _conditions(self, measured: Sums | Buckets | None) -> tuple[Condition, ...]:
        if isinstance(measured, Sums):
            center, spread = mean_of(measured), deviation_of(measured)
            if self.method == "z_score":
                return (ZScoreBelow(center, spread, self.amount, self.is_double_sided),)
            return (_around_mean(center, spread, self.amount),)
        if measured is None or not len(measured.counts):
            return (InWindow(-math.inf, math.inf),)
        n = int(measured.counts.sum())
        first, third = interpolate(measured, n, 0.25, "linear"), interpolate(measured, n, 0.75, "linear")
        # The window grows as the first quartile falls and as the third rises.
        widest = _fences(float(first[0]), float(third[1]), self.amount)
        narrowest = _fences(float(first[1]), float(third[0]), self.amount)
        return (widest,) if widest == narrowest else (widest, narrowest)


@dataclass(frozen=True)
class ZScoreBelow:
    """Expects values whose z-score is below a threshold, or no number; where there is no deviation, every value.

    Source: `column_values.z_score` of Great Expectations on pandas; the deviation is the sample's (n - 1).
    """

    mean: float
    deviation: float
    threshold: float
    is_double_sided: bool

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        if self.deviation == 0 or math.isnan(self.deviation):
            return Verdicts(np.ones(len(values), dtype=bool))
        with np.errstate(invalid="ignore", over="ignore"):  # beside a sum beyond float64, whose mean is infinite
            scores = (values.to_numpy(zero_copy_only=False) - self.mean) / self.deviation
        if self.is_double_sided:
            return Verdicts((np.abs(scores) < abs(self.threshold)) | np.isnan(scores))
        return Verdicts((scores < self.threshold) | np.isnan(scores))


@dataclass(frozen=True)
class InWindow:
    """Expects values from `least` to `most`, both in."""

    least: float
    most: float

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        numbers = values.to_numpy(zero_copy_only=False)
        return Verdicts((numbers >= self.least) & (numbers <= self.most))


@dataclass(frozen=True)
class NearMean:
    """Expects values nearer to the mean than a distance; at a distance of 0 or less, the mean itself."""

    mean: float
    distance: float

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        numbers = values.to_numpy(zero_copy_only=False)
        if self.distance <= 0:
            return Verdicts(numbers == self.mean)
        return Verdicts(np.abs(numbers - self.mean) < self.distance)


def _around_mean(center: float, spread: float, multiplier: float) -> Condition:
    if not (math.isfinite(center) and math.isfinite(spread)):
        return InWindow(-math.inf, math.inf)  # GX: no basis for calling anything an outlier
    return NearMean(center, multiplier * spread)


def _fences(first: float, third: float, multiplier: float) -> InWindow:
    if not (math.isfinite(first) and math.isfinite(third)):
        return InWindow(-math.inf, math.inf)
    reach = multiplier * (third - first)
    return InWindow(first - reach, third + reach)
