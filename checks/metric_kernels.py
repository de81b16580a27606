"""The measurements that a suite is answered from: each adds a batch and merges its parts exactly, in any order.

A kernel is a frozen dataclass. It yields for a batch (name, part) pairs, where the name tells apart the parts that a
cluster may merge separately ("" where there is one part), folds a new part into an old one, and merges any number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import metric_order as order
from millcert.checks import metric_runs as runs
from millcert.checks.metric_columns import BatchView, family, ticks
from millcert.checks.metric_conditions import Condition, Verdicts
from millcert.checks.metric_listing import NOTHING, Listing, list_first, merge_listings
from millcert.checks.metric_sums import Sums, merge_sums, sum_floats, sum_integers


class Kernel(Protocol):
    """One measurement. `columns` are the user's columns that it reads."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The user's columns that it reads."""
        ...

    def measure(self, view: BatchView) -> Iterator[tuple[str, Any]]:
        """Yield (name, part) for a batch."""
        ...

    def fold(self, name: str, part: Any, new: Any) -> Any:
        """Return `part` with one more measured part; cheap."""
        ...

    def merge(self, name: str, parts: Sequence[Any]) -> Any:
        """Return the part of all rows; at least one part."""
        ...


class RowsFound(NamedTuple):
    """What a row condition found.

    considered: rows that were judged.
    unexpected: rows that are not as expected.
    failed: rows on which the condition could not be evaluated.
    listing, failures: the first of each, by place.
    """

    considered: int
    unexpected: int
    failed: int
    listing: Listing
    failures: Listing


NOTHING_FOUND = RowsFound(0, 0, 0, NOTHING, NOTHING)


@dataclass(frozen=True)
class CountRows:
    """How many rows there are."""

    columns: tuple[str, ...] = ()

    def measure(self, view: BatchView) -> Iterator[tuple[str, int]]:
        """See `Kernel`."""
        yield "", len(view)

    def fold(self, name: str, part: int, new: int) -> int:  # noqa: ARG002 - one part, no name
        """See `Kernel`."""
        return part + new

    def merge(self, name: str, parts: Sequence[int]) -> int:  # noqa: ARG002
        """See `Kernel`."""
        return sum(parts)


class _FindsRows:
    """Folding and merging of `RowsFound`."""

    limit: int

    def fold(self, name: str, part: RowsFound, new: RowsFound) -> RowsFound:
        """See `Kernel`."""
        return self.merge(name, (part, new))

    def merge(self, name: str, parts: Sequence[RowsFound]) -> RowsFound:  # noqa: ARG002
        """See `Kernel`."""
        return RowsFound(
            sum(part.considered for part in parts),
            sum(part.unexpected for part in parts),
            sum(part.failed for part in parts),
            merge_listings(self.limit, [part.listing for part in parts]),
            merge_listings(1, [part.failures for part in parts]),
        )


@dataclass(frozen=True)
class FindNulls(_FindsRows):
    """The rows in which a column is null or NaN. Size: `limit` places."""

    column: str
    limit: int

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, RowsFound]]:
        """See `Kernel`."""
        column = view.column(self.column)
        listing = NOTHING
        if column.null_count and self.limit:
            at = np.flatnonzero(column.is_null)
            listing = list_first(self.limit, view.file, view.rows, at, pa.nulls(len(at), column.data_type))
        yield "", RowsFound(len(view), column.null_count, 0, listing, NOTHING)


@dataclass(frozen=True)
class FindValues(_FindsRows):
    """The values of a column that are not null and not as a condition expects. Size: `limit` values with places."""

    column: str
    condition: Condition
    limit: int

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, RowsFound]]:
        """See `Kernel`."""
        column = view.column(self.column)
        encoded = column.encoded
        verdicts = self.condition.judge(column.present if encoded is None else encoded.values)
        if verdicts.failed is None and verdicts.expected.all():
            yield "", RowsFound(column.present_count, 0, 0, NOTHING, NOTHING)
            return
        if encoded is not None:
            verdicts = Verdicts(
                verdicts.expected[encoded.codes], None if verdicts.failed is None else verdicts.failed[encoded.codes]
            )
        yield "", found_rows(view, column.present_at, column.present, verdicts.expected, verdicts.failed, self.limit)


def found_rows(
    view: BatchView, at: np.ndarray, values: pa.Array, expected: np.ndarray, failed: np.ndarray | None, limit: int
) -> RowsFound:
    """Return what was found among m judged rows: `at` are their positions in the batch, `values` what is listed."""
    unexpected = np.flatnonzero(~expected)
    listing = NOTHING
    if len(unexpected) and limit:
        listing = list_first(limit, view.file, view.rows, at[unexpected], values.take(pa.array(unexpected)))
    failures = NOTHING
    failed_count = 0
    if failed is not None:
        where = np.flatnonzero(failed)
        failed_count = len(where)
        failures = list_first(1, view.file, view.rows, at[where], pa.nulls(len(where), pa.null()))
    return RowsFound(len(at), len(unexpected), failed_count, listing, failures)


@dataclass(frozen=True)
class AddUp:
    """The exact sum of a column, and the sum of squares. Size: two integers of some 300 bytes."""

    column: str
    with_squares: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, Sums]]:
        """See `Kernel`."""
        column = view.column(self.column)
        match family(column.data_type):
            case "float":
                yield "", sum_floats(column.present_floats, with_squares=self.with_squares)
            case "decimal":
                # As GX does, each decimal becomes the nearest float first.
                floats = np.array([float(value) for value in column.present.to_pylist()], dtype=np.float64)
                yield "", sum_floats(floats, with_squares=self.with_squares)
            case _:
                yield "", sum_integers(column.present_ticks, with_squares=self.with_squares)

    def fold(self, name: str, part: Sums, new: Sums) -> Sums:  # noqa: ARG002
        """See `Kernel`."""
        return merge_sums((part, new))

    def merge(self, name: str, parts: Sequence[Sums]) -> Sums:  # noqa: ARG002
        """See `Kernel`."""
        return merge_sums(parts)


@dataclass(frozen=True)
class FindExtremes:
    """The smallest and the largest value of a column: an array of none or two values."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, pa.Array]]:
        """See `Kernel`."""
        column = view.column(self.column)
        if family(column.data_type) == "float":
            ends = column.float_ends
            yield "", pa.array([] if ends is None else np.array(ends) + 0.0, pa.float64())  # -0.0 becomes 0.0
        else:
            yield "", _extremes(column.present if column.encoded is None else column.encoded.values)

    def fold(self, name: str, part: pa.Array, new: pa.Array) -> pa.Array:
        """See `Kernel`."""
        return self.merge(name, (part, new))

    def merge(self, name: str, parts: Sequence[pa.Array]) -> pa.Array:  # noqa: ARG002
        """See `Kernel`."""
        return _extremes(pa.concat_arrays(list(parts)))


def _extremes(values: pa.Array) -> pa.Array:
    if not len(values):
        return values.take(pa.array([], pa.int64()))
    ends = pc.min_max(values)
    return pa.array([ends["min"], ends["max"]], values.type)


@dataclass(frozen=True)
class RankValues:
    """The order statistics of a numeric column. Size: at most 3.2 MB (`millcert.checks.metric_order`)."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, order.Waiting]]:
        """See `Kernel`."""
        column = view.column(self.column)
        is_float = family(column.data_type) == "float"
        numbers = column.present_floats if is_float else column.present_ticks
        yield "", order.Waiting((), (numbers.copy(),))

    def fold(self, name: str, part: order.Waiting | order.Buckets, new: order.Waiting) -> order.Waiting:  # noqa: ARG002
        """See `Kernel`."""
        return order.wait(part, new)

    def merge(self, name: str, parts: Sequence[order.Waiting | order.Buckets]) -> order.Buckets:  # noqa: ARG002
        """See `Kernel`."""
        return order.settle(parts)


@dataclass(frozen=True)
class CountBins:
    """How many values fall between each pair of edges, as `numpy.histogram` counts them: the last bin is closed."""

    column: str
    edges: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, np.ndarray]]:
        """See `Kernel`."""
        column = view.column(self.column)
        is_float = family(column.data_type) == "float"
        numbers = column.present_floats if is_float else ticks(column.present)
        yield "", np.histogram(numbers, np.array(self.edges))[0].astype(np.int64)

    def fold(self, name: str, part: np.ndarray, new: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """See `Kernel`."""
        return part + new

    def merge(self, name: str, parts: Sequence[np.ndarray]) -> np.ndarray:  # noqa: ARG002
        """See `Kernel`."""
        return np.sum(np.stack(parts), axis=0)


@dataclass(frozen=True)
class FollowOrder:
    """Where a column stops rising (or falling) from row to row. One part a file, of one stretch a gap in its rows."""

    column: str
    is_rising: bool
    is_strict: bool
    limit: int

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Kernel`."""
        return (self.column,)

    def measure(self, view: BatchView) -> Iterator[tuple[str, tuple[runs.Stretch, ...]]]:
        """See `Kernel`. A batch is rows of one file in ascending order, and no other batch has rows between them."""
        if view.span is None:
            return
        column = view.column(self.column)
        is_float = family(column.data_type) == "float"
        numbers = column.present_floats if is_float else column.present_ticks
        broken = runs.breaks_order(numbers, is_rising=self.is_rising, is_strict=self.is_strict)
        places = runs.Places(view.file, view.rows, view.span)
        stretch = runs.measure_stretch(places, column.present_at, column.present, broken, self.limit)
        yield view.file, (stretch,)

    def fold(
        self, name: str, part: tuple[runs.Stretch, ...], new: tuple[runs.Stretch, ...]
    ) -> tuple[runs.Stretch, ...]:
        """See `Kernel`."""
        return self.merge(name, (part, new))

    def merge(self, name: str, parts: Sequence[tuple[runs.Stretch, ...]]) -> tuple[runs.Stretch, ...]:
        """See `Kernel`."""
        return runs.merge_stretches(parts, name, self.limit, is_rising=self.is_rising, is_strict=self.is_strict)

    def conclude(self, parts: dict[str, tuple[runs.Stretch, ...]]) -> RowsFound:
        """Return what all files together show, files in the order of their names; `considered` is not measured."""
        total: runs.Stretch | None = None
        for file in sorted(parts):
            for stretch in parts[file]:
                total = (
                    stretch
                    if total is None
                    else runs.join(total, stretch, file, self.limit, is_rising=self.is_rising, is_strict=self.is_strict)
                )
        return NOTHING_FOUND if total is None else RowsFound(0, total.unexpected, 0, total.listing, NOTHING)
