"""Which rows fail which expectations: every one of them, with all its reasons, for the read that scores.

What the first read counted says which expectations have failing rows at all; only those are asked again, so clean data
cost nothing. A row's reasons are a bit mask: bit i % 8 of byte i // 8, least significant first, is set where the row
is not as expectation number i of the suite expects (its file's order, from 0). Expectations on tables and whole
columns have no rows, so their bits stay 0. Where quartiles are known to an interval only, a row is marked that may be
an outlier.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks import metric_distinct as distinct
from millcert.checks import metric_runs as runs
from millcert.checks.base import Accumulator
from millcert.checks.metric_columns import BatchView, family
from millcert.checks.metric_counting import CountDistinct
from millcert.checks.metric_filter import RowFilter
from millcert.checks.metric_kernels import NOTHING_FOUND, FindNulls, FindValues, FollowOrder, Kernel
from millcert.checks.metric_members import KnownKeys, Members
from millcert.checks.metric_pairs import FindRecords, passed_over
from millcert.checks.metric_plan import MetricPlan, RowCheck
from millcert.checks.metric_records import CountRecords, encode_records
from millcert.checks.metric_tally import Tally
from millcert.checks.metric_where import Where, inner
from millcert.errors import InternalError


class Keeping(NamedTuple):
    """What a marker does with values that stand more than once.

    repeated_of: of a tally its repeated values, wherever they were put. kept: the values of some tallies, one array
        each, ready to be looked up; at least one array.
    """

    repeated_of: Callable[[Tally], pa.Array | None]
    kept: Callable[[Iterable[pa.Array]], KnownKeys]


IN_MEMORY = Keeping(lambda tally: tally.repeated, lambda parts: Members(*parts))


class _Asked(NamedTuple):
    """A row check with what the first read says of it.

    known: keys of values that stand more than once. last_before: file -> the last value before it, None of none.
    """

    check: RowCheck
    rows: RowFilter | None
    kernel: Kernel
    known: KnownKeys | None
    last_before: Mapping[str, pa.Array | None]


class RowMarker:
    """Marks failing rows; made once for all files.

    Args:
        plan: of the suite.
        acc: the merged accumulator of all rows.
        width: bytes of a mask: `mask_width` of the number of the suite's expectations.
        keeping: where what stands more than once is, and how it is kept to be looked up.
    """

    def __init__(self, plan: MetricPlan, acc: Accumulator, width: int, keeping: "Keeping | None" = None) -> None:
        self.width = width
        self._asked = [
            asked for check in plan.row_checks if (asked := _asked(plan, acc, check, keeping or IN_MEMORY)) is not None
        ]

    @property
    def checks(self) -> tuple[RowCheck, ...]:
        """The expectations that may have failing rows."""
        return tuple(asked.check for asked in self._asked)

    def state_of(self, file: str) -> tuple[object, ...]:
        """Return what marking the rows of a file depends on besides them: what other files hold."""
        return tuple(
            (one.check.number, one.kernel, one.rows, one.known and one.known.digest, one.last_before.get(file))
            for one in self._asked
        )

    def of_file(self, file: str) -> "FileMarker":
        """Return the marker of one file, whose batches come in the order of their rows."""
        return FileMarker(self._asked, self.width, file)


class FileMarker:
    """Marks the failing rows of one file."""

    def __init__(self, asked: Sequence[_Asked], width: int, file: str) -> None:
        self._asked = asked
        self._width = width
        self._last = {one.check.number: one.last_before.get(file) for one in asked}

    def mark(self, view: BatchView) -> np.ndarray:
        """Return the masks of a batch, uint8 (n, width); batches in the order of their rows, none twice."""
        masks = np.zeros((len(view), self._width), dtype=np.uint8)
        for one in self._asked:
            if one.rows is None:
                failed = self._failed(one, view)
            else:
                meant, part = view.picked(one.rows, one.rows.mask)
                failed = np.zeros(len(view), dtype=bool)
                failed[meant] = self._failed(one, part)
            byte, bit = divmod(one.check.number, 8)
            masks[failed, byte] |= np.uint8(1 << bit)
        return masks

    def _failed(self, one: _Asked, view: BatchView) -> np.ndarray:
        kernel = one.kernel
        if isinstance(kernel, FollowOrder):
            return self._out_of_order(one.check.number, kernel, view)
        failed = np.zeros(len(view), dtype=bool)
        match kernel:
            case FindNulls():
                failed = view.column(kernel.column).is_null
            case FindValues():
                column = view.column(kernel.column)
                failed[column.present_at] = ~kernel.condition.judge(column.present).expected
            case FindRecords() if len(view):
                columns = [view.column(name) for name in kernel.columns]
                failed = ~passed_over(columns, kernel.ignore_row_if) & ~kernel.condition.judge(columns)
            case CountDistinct():
                column = view.column(kernel.column)
                failed[column.present_at] = _among(distinct.keys_of(column.present), one.known)
            case CountRecords() if len(view):
                columns = [view.column(name) for name in kernel.columns]
                keys = distinct.keys_of(encode_records(columns))
                failed = ~passed_over(columns, kernel.ignore_row_if) & _among(keys, one.known)
        return failed

    def _out_of_order(self, number: int, kernel: FollowOrder, view: BatchView) -> np.ndarray:
        failed = np.zeros(len(view), dtype=bool)
        column = view.column(kernel.column)
        if not len(column.present):
            return failed
        before = self._last[number]
        values = column.present if before is None else pa.concat_arrays([before, column.present])
        numbers = values.to_numpy(zero_copy_only=False) if family(values.type) == "float" else _ticks(values)
        broken = runs.breaks_order(numbers, is_rising=kernel.is_rising, is_strict=kernel.is_strict)
        failed[column.present_at[0 if before is not None else 1 :][np.flatnonzero(broken)]] = True
        self._last[number] = column.present.take(pa.array([len(column.present) - 1]))
        return failed


def mask_width(expectations: int) -> int:
    """Return how many bytes a mask has."""
    return (expectations + 7) // 8


def has_bit(masks: np.ndarray, number: int) -> np.ndarray:
    """Return whether each mask says that expectation `number` failed, bool (n,)."""
    byte, bit = divmod(number, 8)
    return (masks[:, byte] >> np.uint8(bit)) & np.uint8(1) == 1


def _asked(plan: MetricPlan, acc: Accumulator, check: RowCheck, keeping: Keeping) -> _Asked | None:
    """Return what to ask for a check, None where the first read found no failing row."""
    if check.deferred is not None:
        # Of two kernels the second is the less forgiving one.
        kernel = plan.kernels_of(check.deferred, acc)[-1]
        return _Asked(check, check.deferred.rows, inner(kernel), None, {})
    if check.kernel is None:
        raise InternalError(f"Expectation {check.number} has rows, but nothing finds them.")
    kernel, parts = inner(check.kernel), plan.parts_of(acc, check.kernel)
    rows = check.kernel.rows if isinstance(check.kernel, Where) else None
    match kernel:
        case FollowOrder():
            if not kernel.conclude(dict(parts)).unexpected:
                return None
            return _Asked(check, rows, kernel, None, _last_before(parts))
        case CountDistinct() | CountRecords():
            tallies = [kernel.total([parts[name]]) for name in sorted(parts)]
            if not any(tally.unexpected for tally in tallies):
                return None
            return _Asked(check, rows, kernel, keeping.kept(_repeated(check, tallies, keeping)), {})
        case _:
            found = parts.get("", NOTHING_FOUND)
            return None if not found.unexpected else _Asked(check, rows, kernel, None, {})


def _repeated(check: RowCheck, tallies: Iterable[Tally], keeping: Keeping) -> Iterator[pa.Array]:
    for tally in tallies:
        keys = keeping.repeated_of(tally)
        if tally.unexpected and (keys is None or not len(keys)):
            raise InternalError(f"Expectation {check.number} has repeated values, but they are not here.")
        if keys is not None and len(keys):
            yield keys


def _last_before(parts: Mapping[str, tuple[runs.Stretch, ...]]) -> dict[str, pa.Array | None]:
    last: pa.Array | None = None
    before: dict[str, pa.Array | None] = {}
    for file in sorted(parts):
        before[file] = last
        for stretch in parts[file]:
            last = last if stretch.last is None else stretch.last
    return before


def _among(keys: pa.Array, known: KnownKeys | None) -> np.ndarray:
    return np.zeros(len(keys), dtype=bool) if known is None else known.contain(keys)


def _ticks(values: pa.Array) -> np.ndarray:
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    return values.to_numpy(zero_copy_only=False)
