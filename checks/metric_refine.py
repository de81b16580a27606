"""Quantiles that the histogram of the first read knows to an interval only: exactly, by a second read.

The second read is asked for only where an expectation's limit lies in the interval, so that its ends may be judged
differently. It keeps the values of the one or two buckets in which the quantile's ranks fall, as a histogram of their
own; the ranks of all other values are known from the first read. Beside 100,000 distinct values in one such bucket an
interval remains, a hundred thousand times narrower, and the expectation holds only at both of its ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from millcert.checks import metric_order as order
from millcert.checks.metric_columns import BatchView, family
from millcert.checks.metric_kernels import RankValues


@dataclass(frozen=True)
class RankWithin:
    """The order statistics of the values from `least` to `most`, both in. Size: as `RankValues`."""

    column: str
    least: float | int
    most: float | int

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, order.Buckets]]:
        """See `Kernel`."""
        column = view.column(self.column)
        is_float = family(column.array.type) == "float"
        numbers = column.present_floats if is_float else column.present_ticks
        yield "", order.count_values(numbers[(numbers >= self.least) & (numbers <= self.most)])

    def fold(self, name: str, part: order.Buckets, new: order.Buckets) -> order.Buckets:  # noqa: ARG002
        """See `Kernel`."""
        return order.merge_buckets((part, new))

    def merge(self, name: str, parts: Sequence[order.Buckets]) -> order.Buckets:  # noqa: ARG002
        """See `Kernel`."""
        return order.merge_buckets(parts)


@dataclass(frozen=True)
class RefineQuantiles:
    """Quantiles of a column with the limits that they are compared with.

    quantiles: each 0 to 1. how: the rule between two ranks, as `metric_order.interpolate` names it.
    limits: for each quantile the numbers that an expectation compares it with.
    """

    column: str
    quantiles: tuple[float, ...]
    how: str
    limits: tuple[tuple[float, ...], ...]

    @property
    def basis(self) -> RankValues:
        """What the first read measures for it."""
        return RankValues(self.column)

    def kernels(self, measured: order.Buckets | None) -> tuple[RankWithin, ...]:
        """Return what the second read runs: nothing where every quantile is on one side of its limits.

        Args:
            measured: the merged part of `basis`; None of no rows.
        """
        n = 0 if measured is None else int(measured.counts.sum())
        found: dict[RankWithin, None] = {}
        for quantile, limits in zip(self.quantiles, self.limits, strict=True):
            if measured is None or not n:
                continue
            low, high = order.interpolate(measured, n, quantile, self.how)
            if low == high or not any(low <= limit <= high for limit in limits):
                continue
            for rank in order.ranks_of(n, quantile, self.how):
                least, most = order.bucket_of(measured, rank)
                if order.value_at(measured, rank) == (least, most) and least != most:
                    found[RankWithin(self.column, least, most)] = None
        return tuple(found)


def refined(parts: Sequence[tuple[Any, order.Buckets]]) -> order.Finer:
    """Return the histograms of single buckets by their ends, from (kernel, merged part) pairs of one column."""
    return {(kernel.least, kernel.most): part for kernel, part in parts}
