"""From merged parts to the value that each metric has: what Great Expectations on pandas would have computed.

Runs on the driver only, and needs pandas there, because the values in a result are pandas' own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import metric_distinct as distinct
from millcert.checks import metric_order as order
from millcert.checks.metric_columns import family
from millcert.checks.metric_compile import DISTINCT_METRICS, MetricRequest
from millcert.checks.metric_counting import CountDistinct, Counting
from millcert.checks.metric_kernels import (
    NOTHING_FOUND,
    AddUp,
    CountRows,
    FindNulls,
    FollowOrder,
    Kernel,
    RowsFound,
)
from millcert.checks.metric_listing import NOTHING, Listing, merge_listings
from millcert.checks.metric_missing import missing_members
from millcert.checks.metric_records import decode_record
from millcert.checks.metric_refine import RankWithin, refined
from millcert.checks.metric_sums import deviation_of, mean_of, merge_sums, total_of
from millcert.checks.metric_tally import MAX_LISTED, MAX_MODES, MAX_TABLE, Tally
from millcert.errors import InconclusiveError


@dataclass(frozen=True)
class Interval:
    """A metric that is known only to lie between two values, both of which are possible."""

    low: Any
    high: Any


class Answers:
    """The values of metrics, from the parts of each kernel.

    parts: kernel -> name -> merged part.
    """

    def __init__(self, schema: pa.Schema, parts: Mapping[Kernel, Mapping[str, Any]]) -> None:
        self._schema = schema
        self._parts = parts
        self._tallies: dict[Counting, Tally] = {}

    def value(self, request: MetricRequest, kernels: Sequence[Kernel], limit: int) -> Any:
        """Return the value of a metric, or an `Interval`.

        Args:
            request: the metric.
            kernels: what `kernels_for` returned for it.
            limit: how many unexpected rows a result lists.

        Raises:
            InconclusiveError: a row could not be judged, or the answer is too long to list.
        """
        base = request.base
        if base == "table.row_count":
            return self.rows()
        if base in ("column.non_null_proportion", "column_values.nonnull.count"):
            return self._proportion_of_non_null(request, kernels)
        if base in DISTINCT_METRICS:
            return self._of_distinct(request, kernels)
        if request.name != base:
            return self._of_found(request, self.found(kernels[-1], limit))
        return self._of_column(request, kernels[0])

    def rows(self) -> int:
        """Return the number of rows."""
        return int(self._part(CountRows(), 0))

    def found(self, kernel: Kernel, limit: int) -> RowsFound:
        """Return what a row condition found.

        Raises:
            InconclusiveError: a row could not be judged.
        """
        if isinstance(kernel, FollowOrder):
            return kernel.conclude(dict(self._parts[kernel]))
        if isinstance(kernel, Counting):
            return self._repeated(kernel, limit)
        found: RowsFound = self._part(kernel, NOTHING_FOUND)
        if found.failed:
            raise InconclusiveError(
                f"{found.failed} values of {', '.join(kernel.columns)} could not be judged, the first in "
                f"{found.failures.files[0]!r} row {int(found.failures.rows[0])}.",
                hint="Great Expectations raises on such a value too.",
                path=found.failures.files[0],
                row=int(found.failures.rows[0]),
            )
        return found

    def _part(self, kernel: Kernel, nothing: Any) -> Any:
        return self._parts[kernel].get("", nothing)

    def _type(self, request: MetricRequest) -> pa.DataType:
        return self._schema.field(request.columns[0]).type

    def _proportion_of_non_null(self, request: MetricRequest, kernels: Sequence[Kernel]) -> float | int:
        rows = self.rows()
        count = rows - int(self._part(kernels[1], NOTHING_FOUND).unexpected)
        if request.base == "column_values.nonnull.count":
            return count
        return count / rows if rows else 0

    def _of_found(self, request: MetricRequest, found: RowsFound) -> Any:
        if request.name.endswith(".unexpected_count"):
            return found.unexpected
        if request.name.endswith(".filtered_row_count"):
            return found.considered
        if request.name.endswith(".unexpected_index_list"):
            return list(zip(found.listing.files, found.listing.rows.tolist(), strict=True))
        if request.name.endswith(".unexpected_values") and request.base == "compound_columns.unique":
            types = [self._schema.field(name).type for name in request.columns]
            keys = [] if found.listing.content is None else found.listing.content.to_pylist()
            return [dict(zip(request.columns, decode_record(key, types), strict=True)) for key in keys]
        if request.name.endswith(".unexpected_values"):
            return listed_values(found.listing, request)
        return None  # a pandas query for the rows; only COMPLETE shows it

    def _of_column(self, request: MetricRequest, kernel: Kernel) -> Any:  # noqa: PLR0911 - a table of metrics
        match request.base:
            case "column.sum" | "column.mean" | "column.standard_deviation":
                both = AddUp(kernel.columns[0], with_squares=True)
                sums = self._part(both if both in self._parts else kernel, merge_sums(()))
                if request.base == "column.sum":
                    return total_of(sums)
                return mean_of(sums) if request.base == "column.mean" else deviation_of(sums)
            case "column.min" | "column.max":
                ends = self._part(kernel, pa.array([], self._type(request)))
                if len(ends):
                    return as_pandas(ends)[0 if request.base == "column.min" else 1]
                # What pandas gives of no values: NaT reads "NaT" in a result, anything else null.
                return as_pandas(pa.nulls(1, ends.type))[0] if family(ends.type) == "timestamp" else None
            case "column.median":
                return self._quantiles(kernel, [0.5], "median", [None], is_median=True)
            case "column.quantile_values":
                quantiles = list(request.parameters["quantiles"])
                how = request.parameters.get("allow_relative_error") or "nearest"
                return self._quantiles(kernel, quantiles, how, [math.nan] * len(quantiles), is_median=False)
            case "column.histogram":
                counts = self._part(kernel, np.zeros(len(request.parameters["bins"]) - 1, dtype=np.int64))
                return counts.tolist()
            case _:
                found: RowsFound = self._part(kernel, NOTHING_FOUND)
                return np.int64(found.considered - found.unexpected)  # GX divides it by 0 where there is no value

    def _quantiles(
        self, kernel: Kernel, quantiles: list[float], how: str, nothing: list[Any], *, is_median: bool
    ) -> Any:
        buckets = self._part(kernel, order.empty_buckets(np.dtype(np.float64)))
        n = int(buckets.counts.sum())
        if not n:
            return nothing[0] if is_median else nothing
        inside = [k for k in self._parts if isinstance(k, RankWithin) and k.column == kernel.columns[0]]
        finer = refined([(k, self._parts[k][""]) for k in inside if "" in self._parts[k]])
        ends = [order.interpolate(buckets, n, quantile, how, finer) for quantile in quantiles]
        lows, highs = [low for low, _ in ends], [high for _, high in ends]
        if is_median:
            return float(lows[0]) if lows == highs else Interval(float(lows[0]), float(highs[0]))
        return lows if lows == highs else Interval(lows, highs)

    def _tally(self, kernel: Counting) -> Tally:
        """Return what a counting kernel found; another one of its column may answer for it, too."""
        known: Any = kernel
        if isinstance(kernel, CountDistinct):
            known = next(k for k in self._parts if isinstance(k, CountDistinct) and k.column == kernel.column)
        if known not in self._tallies:
            self._tallies[known] = known.conclude(self._parts[known])
        return self._tallies[known]

    def _repeated(self, kernel: Counting, limit: int) -> RowsFound:
        found = self._tally(kernel)
        listing = merge_listings(limit, [found.listing])
        listing = Listing(listing.files[:limit], listing.rows[:limit], listing.content)
        if listing.content is not None:
            values = listing.content.slice(0, limit)
            if isinstance(kernel, CountDistinct):
                values = distinct.shown(values, self._schema.field(kernel.column).type)
            listing = listing._replace(content=values)
        return RowsFound(found.considered, found.unexpected, 0, listing, NOTHING)

    def _of_distinct(self, request: MetricRequest, kernels: Sequence[Kernel]) -> Any:
        kernel = kernels[-1]
        assert isinstance(kernel, CountDistinct)
        found = self._tally(kernel)
        match request.base:
            case "column.distinct_values.count":
                return found.distinct
            case "column.unique_proportion":
                nulls: RowsFound = self._part(
                    next(kernel for kernel in kernels if isinstance(kernel, FindNulls)), NOTHING_FOUND
                )
                present = self.rows() - nulls.unexpected
                return found.distinct / present if present else 0
            case "column.most_common_value":
                return self._modes(request, found)
            case "column.value_counts":
                return self._value_counts(request, found)
            case _:
                return self._difference(request, kernel, found)

    def _difference(self, request: MetricRequest, kernel: CountDistinct, found: Tally) -> Any:
        data_type = self._type(request)
        wanted = list(request.parameters.get("value_set") or ())
        known = next(k for k in self._parts if isinstance(k, CountDistinct) and k.column == kernel.column)
        (members,) = kernel.wanted.sets
        at = known.wanted.sets.index(members)
        difference = found.differences[at] if found.differences else None
        if "not_in_set" in request.base:
            if request.base.endswith(".count"):
                return 0 if difference is None else difference.others
            return [] if difference is None else as_pandas(distinct.shown(difference.first_others, data_type))
        known_members = pa.array([], distinct.key_type(data_type)) if difference is None else difference.found
        missing = missing_members(data_type, wanted, known_members, found.distinct)
        return len(missing) if request.base.endswith(".count") else missing[:MAX_LISTED]

    def _modes(self, request: MetricRequest, found: Tally) -> list[Any]:
        if found.first_modes is None:
            return []
        if found.modes > min(MAX_MODES, len(found.first_modes)):
            raise InconclusiveError(
                f"{found.modes} values of {request.columns[0]!r} are equally common ({found.most} times each); "
                f"at most {MAX_MODES} are listed.",
                hint="Ask for the most common value of a column that has repeated values.",
            )
        modes = distinct.shown(found.first_modes, self._type(request)).to_pandas()
        return _plain_values(modes)

    def _value_counts(self, request: MetricRequest, found: Tally) -> Any:
        import pandas as pd

        data_type = self._type(request)
        if found.distinct > (0 if found.table is None else len(found.table[0])):
            raise InconclusiveError(
                f"{request.columns[0]!r} has {found.distinct:,} distinct values; a divergence is computed of at most "
                f"{MAX_TABLE:,}, as each is listed with its weight.",
                hint="Give a partition with bins, or compare the column by drift (docs/drift.md), which has no bound.",
            )
        keys, counts = found.table or (pa.array([], distinct.key_type(data_type)), np.zeros(0, dtype=np.int64))
        index = pc.sort_indices(keys)
        values = distinct.shown(keys.take(index), data_type).to_pandas()
        return pd.Series(counts[index.to_numpy()], index=pd.Index(values, name="value"), name="count")


def listed_values(listing: Listing, request: MetricRequest) -> list[Any]:
    """Return listed values as GX on pandas lists them: scalars, pairs as tuples, records as dicts."""
    if listing.content is None:
        return []
    if family(listing.content.type) == "decimal":
        # As GX writes them; left as decimals, each would cost it a walk over the whole call stack.
        return [None if value is None else float(value) for value in listing.content.to_pylist()]
    if len(request.columns) == 1 or not pa.types.is_struct(listing.content.type):
        return as_pandas(listing.content)
    columns = [_plain_values(column.to_pandas()) for column in listing.content.flatten()]
    if request.base.startswith("column_pair"):
        return list(zip(*columns, strict=True))
    natives = [as_pandas(column) for column in listing.content.flatten()]
    return [dict(zip(request.columns, record, strict=True)) for record in zip(*natives, strict=True)]


def _plain_values(series: Any) -> list[Any]:
    """Return what `Series.values` holds, which GX shows of modes and pairs: of times with a zone those in UTC."""
    return list(series.dt.tz_convert(None).to_numpy() if getattr(series.dtype, "tz", None) else series.to_numpy())


def as_pandas(values: pa.Array) -> list[Any]:
    """Return the values of an array as a pandas series gives them; durations, which GX cannot write, as text."""
    listed = list(values.to_pandas())
    return [_without_durations(value) for value in listed] if "duration" in str(values.type) else listed


def _without_durations(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_durations(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_without_durations(item) for item in value]
    return str(value) if isinstance(value, timedelta | np.timedelta64) else value
