"""The measurements of one suite, as a check that reads the data once: what workers run; Great Expectations stays away.

The accumulator is a dict from group to part. A group is "<number of the kernel>/<name of the part>"; any sub-dict is a
valid accumulator. Parts merge exactly, so batches, workers and order do not show in the results. Sizes: some 10 kB,
plus 7 MB for a column with quantiles, plus what `millcert.checks.metric_distinct` states for a column whose distinct
values are asked for; what grows with these may leave a worker at any time (`MetricPlan.dealt`) and is reduced once all
of a group is together (`MetricPlan.total`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import Accumulator
from millcert.checks.metric_columns import BatchView
from millcert.checks.metric_counting import Counting
from millcert.checks.metric_filter import RowFilter
from millcert.checks.metric_kernels import Kernel
from millcert.checks.metric_outliers import FindOutliers
from millcert.checks.metric_refine import RefineQuantiles
from millcert.checks.metric_suite import SuiteSpec, load_suite
from millcert.checks.metric_where import Where, inner
from millcert.errors import InternalError

__all__ = ["MetricPlan", "SuiteSpec", "load_suite"]


#: Dealt distinct values leave a worker once there are so many, and go another way than its other parts at the end.
LEAVING_ENTRIES, MANY_ENTRIES = 250_000, 20_000


class Deferred(NamedTuple):
    """A measurement of the second read, and the rows that it is about (None: all)."""

    rows: RowFilter | None
    find: FindOutliers | RefineQuantiles

    @property
    def basis(self) -> Kernel:
        """What the first read measures for it."""
        return self.find.basis if self.rows is None else Where(self.rows, self.find.basis)


class RowCheck(NamedTuple):
    """An expectation that is about single rows.

    number: its place in the suite's file, from 0. type, column, severity: as in `ExpectationOutcome`.
    kernel: what finds its rows in the first read, or None where `deferred` does in the second.
    """

    number: int
    type: str
    column: str
    severity: str
    kernel: Kernel | None
    deferred: Deferred | None


@dataclass(frozen=True)
class MetricPlan:
    """What to measure for a suite on data of one schema; picklable, made by `millcert.checks.expectations.plan_suite`.

    suite_digest: SHA-256 (hex) of the suite's canonical text.
    result_format: how much the results will say: BOOLEAN_ONLY, BASIC or SUMMARY.
    kernels: the measurements; each once, however many expectations ask for it.
    deferred: measurements of a second read, which `second` plans from what the first one measured.
    row_checks: the expectations that are about single rows, by number.
    """

    suite_digest: str
    result_format: str
    kernels: tuple[Kernel, ...]
    deferred: tuple[Deferred, ...] = ()
    row_checks: tuple[RowCheck, ...] = ()

    passes: ClassVar[int] = 1

    @property
    def columns(self) -> frozenset[str]:
        """The user's columns that `add` needs."""
        return frozenset(name for kernel in self.kernels for name in kernel.columns)

    def empty(self) -> Accumulator:
        """Return the accumulator of no rows."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, file: str, rows: np.ndarray) -> Accumulator:
        """Return `acc` with a batch added; `acc` stays as it is.

        Args:
            acc: an accumulator of this plan.
            batch: n rows of one file, ascending, with at least `columns`, under the user's names.
            file: the manifest path of that file.
            rows: int64 (n,): the record index of each row in the file.

        Raises:
            MissingColumnError: the batch lacks a column.
            InternalError: `rows` has another length than the batch.
        """
        if len(rows) != batch.num_rows:
            raise InternalError(f"{batch.num_rows} rows of {file!r} came with {len(rows)} places.", path=file)
        added: dict[str, Any] = dict(acc)
        view = BatchView(batch, file, rows)
        for number, kernel in enumerate(self.kernels):
            for name, part in kernel.measure(view):
                self._fold(added, number, name, part)
            counting = inner(kernel)
            waiting = f"{number:03d}/"
            if isinstance(counting, Counting) and waiting in added and counting.is_full(added[waiting]):
                for name, part in counting.deal(added.pop(waiting)):
                    self._fold(added, number, name, part)
        return added

    def dealt(self, acc: Accumulator, least: int) -> Accumulator:
        """Return the groups that grow with the data and may leave a worker now; none while they are small.

        Args:
            acc: an accumulator of this plan.
            least: entries below which all stays.
        """
        dealt = {}
        entries = 0
        for group, part in acc.items():
            counting = None if group.endswith("/") else self._counting(group)
            if counting is not None:
                dealt[group] = part
                entries += counting.entries(part)
        return dealt if entries >= least else {}

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all rows of `accs`; exact, in any order. Of one: the same, compacted."""
        merged = {}
        for group, several in self._gathered(accs).items():
            number, _, name = group.partition("/")
            merged[group] = self.kernels[int(number)].merge(name, several)
        return merged

    def total(self, group: str, accs: Iterable[Accumulator]) -> Accumulator:
        """Return what `merge` of accumulators of one dealt group does, but only what the results need of it.

        Nothing may be added to what it returns.

        Args:
            group: the group, of which nothing is missing.
            accs: of that group alone; gone through several times, a few at once in memory.
        """
        counting = self._counting(group)
        return self.merge(accs) if counting is None else {group: counting.total(_PartsOf(group, accs))}

    def _fold(self, added: dict[str, Any], number: int, name: str, part: Any) -> None:
        group = f"{number:03d}/{name}"
        added[group] = self.kernels[number].fold(name, added[group], part) if group in added else part

    def _counting(self, group: str) -> Counting | None:
        kernel = inner(self.kernels[int(group.partition("/")[0])])
        return kernel if isinstance(kernel, Counting) else None

    def _gathered(self, accs: Iterable[Accumulator]) -> dict[str, list[Any]]:
        """Return the parts of each group; what waits is dealt."""
        parts: dict[str, list[Any]] = {}
        for acc in accs:
            for group, part in acc.items():
                parts.setdefault(group, []).append(part)
        for group in list(parts):
            counting = self._counting(group)
            if counting is not None and group.endswith("/"):
                waiting = tuple(each for part in parts.pop(group) for each in part)
                for name, part in counting.deal(waiting):
                    parts.setdefault(group + name, []).append(part)
        return parts

    def second(self, acc: Accumulator) -> "MetricPlan":
        """Return the plan of the second read; it has no kernels where the suite needs no second read.

        Args:
            acc: the merged accumulator of all rows, of this plan.
        """
        kernels = [kernel for deferred in self.deferred for kernel in self.kernels_of(deferred, acc)]
        return MetricPlan(self.suite_digest, self.result_format, tuple(dict.fromkeys(kernels)))

    def kernels_of(self, deferred: Deferred, acc: Accumulator) -> tuple[Kernel, ...]:
        """Return what the second read runs for one of `deferred`.

        For outliers one kernel, or two where limits are intervals; for quantiles none where they need no second read.
        """
        kernels: tuple[Kernel, ...] = deferred.find.kernels(self.parts_of(acc, deferred.basis).get(""))
        return kernels if deferred.rows is None else tuple(Where(deferred.rows, kernel) for kernel in kernels)

    def parts_of(self, acc: Accumulator, kernel: Kernel) -> Mapping[str, Any]:
        """Return the parts of one kernel, by name, compacted."""
        prefix = f"{self.kernels.index(kernel):03d}/"
        own = {group: part for group, part in acc.items() if group.startswith(prefix)}
        return {group[len(prefix) :]: part for group, part in self.merge([own]).items()}


class _PartsOf:
    """The parts of one group, which may be gone through several times."""

    def __init__(self, group: str, accs: Iterable[Accumulator]) -> None:
        self._group = group
        self._accs = accs

    def __iter__(self) -> Iterator[Any]:
        return (acc[self._group] for acc in self._accs)
