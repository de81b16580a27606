"""Great Expectations suites, answered from one read (two for outliers) of any number of rows, and judged by GX itself.

A suite is what GX 1.x writes: `ExpectationSuite` as JSON. On the driver GX says which metrics each expectation needs
(`plan_suite`), workers measure them without GX (`millcert.checks.metric_plan`), and on the driver GX judges the
merged metrics (`evaluate_suite`). So parsing, `mostly`, tolerances, severities and results are GX's own; only the
arithmetic is ours. Nothing is skipped: an expectation that cannot be measured is refused by name before the data are
read, and one that cannot be judged afterwards makes the suite inconclusive.

What is said to GX, and in which versions of it, stands in `millcert.checks.gx_adapter`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa

from millcert.checks import gx_adapter
from millcert.checks.base import Accumulator
from millcert.checks.drift import DriftLimits
from millcert.checks.drift_question import (
    DRIFT_METRIC,
    DriftQuestion,
    DriftSides,
    question_of,
    refuse_unknown_reference,
)
from millcert.checks.expectations_metrics import Asked, AskedMetric, asked_of_all, listing_limit
from millcert.checks.metric_answers import Answers, Interval
from millcert.checks.metric_compile import SCHEMA_METRICS
from millcert.checks.metric_counting import CountDistinct
from millcert.checks.metric_filter import RowFilter
from millcert.checks.metric_kernels import AddUp, Kernel
from millcert.checks.metric_plan import Deferred, MetricPlan, RowCheck
from millcert.checks.metric_refine import RankWithin
from millcert.checks.metric_suite import SuiteSpec, load_suite
from millcert.checks.metric_where import Where, inner
from millcert.checks.profile_compare import ProfileDrift
from millcert.errors import InconclusiveError, InternalError, MillcertError, PolicyError

#: How much a result says.
ResultFormat: TypeAlias = Literal["BOOLEAN_ONLY", "BASIC", "SUMMARY", "COMPLETE"]
RESULT_FORMATS = ("BOOLEAN_ONLY", "BASIC", "SUMMARY", "COMPLETE")

__all__ = [
    "ExpectationOutcome",
    "ResultFormat",
    "SuiteResult",
    "SuiteSpec",
    "evaluate_suite",
    "load_suite",
    "plan_suite",
]


class ExpectationOutcome(NamedTuple):
    """What one expectation came to.

    number: its place in the suite's file, from 0: its bit in the masks of failing rows.
    type: GX's name of the expectation.
    column: the column, or the columns joined by ", ", or "".
    success: whether it holds.
    severity: "critical", "warning" or "info": what a failure means to the suite's author.
    observed: GX's observed value, where it reports one.
    unexpected_count: rows that are not as expected, where it is about rows.
    unexpected_fraction: their part of the rows judged, 0 to 1.
    exactness: "sketch" where a quantile is known to an interval only; success then holds at both of its ends.
    detail: the interval, or "".
    """

    number: int
    type: str
    column: str
    success: bool
    severity: str
    observed: Any
    unexpected_count: int | None
    unexpected_fraction: float | None
    exactness: Literal["exact", "sketch"]
    detail: str


@dataclass(frozen=True)
class SuiteResult:
    """What a suite came to.

    success: whether every expectation holds, whatever its severity: as GX means it.
    critical_failures, warning_failures, info_failures: how many do not, by severity.
    json: GX's `ExpectationSuiteValidationResult.to_json_dict()`, without clock or run id.
    outcomes: one an expectation, in the order of `json["results"]`: by column, in order of first mention, as GX has it.
    """

    success: bool
    critical_failures: int
    warning_failures: int
    info_failures: int
    json: dict[str, Any]
    outcomes: tuple[ExpectationOutcome, ...]


def plan_suite(
    suite: SuiteSpec,
    schema: pa.Schema,
    *,
    result_format: ResultFormat = "SUMMARY",
    references: tuple[str, ...] = (),
) -> MetricPlan:
    """Return what to measure for a suite on data of a schema. Imports GX: 4 to 12 CPU seconds, once a process.

    Args:
        suite: what `load_suite` returned.
        schema: the user's columns and Arrow types.
        result_format: how much the results will say; below SUMMARY no rows' places, below BASIC no values.
        references: names of the profile that drift expectations may compare with; without any they are refused.

    Raises:
        PolicyError: expectations that GX does not know or accept, or that cannot be measured on these columns; `faults`
            has all of them, by number and name.
    """
    if result_format not in RESULT_FORMATS:
        raise PolicyError(f"result_format must be one of {', '.join(RESULT_FORMATS)}, got {result_format!r}.")
    kernels: dict[Kernel, None] = {}
    deferred: dict[Deferred, None] = {}
    row_checks: list[RowCheck] = []
    faults = []
    with gx_adapter.quiet():
        for number, asked in enumerate(asked_of_all(suite, schema, result_format)):
            if isinstance(asked, PolicyError):
                faults.append(f"expectation {number} ({suite.expectations[number]['type']}): {asked.message}")
                continue
            try:
                _refuse_references(asked, references)
            except PolicyError as error:
                faults.append(f"expectation {number} ({suite.expectations[number]['type']}): {error.message}")
                continue
            for metric in asked.metrics:
                kernels.update(dict.fromkeys(_among(metric.request.rows, kernel) for kernel in metric.kernels))
                if metric.deferred is not None:
                    deferred[metric.deferred] = None
                    kernels[metric.deferred.basis] = None
            row_checks += _row_checks(number, asked)
    if faults:
        raise PolicyError(
            f"The suite {suite.name!r} cannot be evaluated: {' '.join(faults)}",
            hint="Remove or change these expectations; none is skipped.",
            faults=faults,
        )
    covering = _covering(kernels)
    row_checks = [
        check if check.kernel is None else check._replace(kernel=covering[check.kernel]) for check in row_checks
    ]
    return MetricPlan(
        suite.digest, result_format, tuple(dict.fromkeys(covering.values())), tuple(deferred), tuple(row_checks)
    )


def evaluate_suite(
    suite: SuiteSpec,
    plan: MetricPlan,
    acc: Accumulator,
    schema: pa.Schema,
    *,
    second: Accumulator | None = None,
    drift: DriftSides | None = None,
) -> SuiteResult:
    """Judge a suite by what was measured. Imports GX.

    Args:
        suite: the suite that `plan` was made for.
        plan: what `plan_suite` returned for it and `schema`.
        acc: the merged accumulator of all rows.
        schema: as for `plan_suite`.
        second: the merged accumulator of `plan.second(acc)` of all rows; None only where that plan has no kernels.
        drift: the profiles that drift expectations compare; None only where there are none.

    Raises:
        InconclusiveError: GX could not judge an expectation, which is named.
        PolicyError: the plan is for another suite or schema.
        InternalError: the second read is missing.
    """
    if plan.suite_digest != suite.digest:
        raise PolicyError("The plan was made for another suite.", expected=suite.digest, actual=plan.suite_digest)
    answers = _Measured(plan, acc, schema, second, drift)
    with gx_adapter.quiet():
        asked_of = list(asked_of_all(suite, schema, plan.result_format))
        judged = []
        for number in _in_order_of_columns(suite):
            asked = asked_of[number]
            if isinstance(asked, PolicyError):
                raise asked
            judged.append(_judge(number, asked, answers, plan.result_format))
        try:
            return _suite_result(suite, judged)
        except TypeError as error:
            raise InconclusiveError(
                f"Great Expectations cannot write what it found as JSON: {gx_adapter.one_line(error)}.",
                hint="Ask for less: result_format BOOLEAN_ONLY lists no values.",
            ) from error


class _Measured:
    """What both reads measured, told apart by the row condition."""

    def __init__(
        self,
        plan: MetricPlan,
        acc: Accumulator,
        schema: pa.Schema,
        second: Accumulator | None,
        drift: DriftSides | None,
    ) -> None:
        self._plan, self._acc, self._schema, self._second, self._drift = plan, acc, schema, second, drift
        self._compared: dict[DriftLimits, ProfileDrift | None] = {}
        self._next = plan.second(acc)
        if self._next.kernels and second is None:
            raise InternalError("The suite needs a second read, which was not handed over.")
        self._by_rows: dict[RowFilter | None, Answers] = {}

    def value(self, metric: AskedMetric, limit: int) -> Any:
        """Return the value of a metric, or an `Interval`."""
        if metric.request.base == DRIFT_METRIC:
            return self._drift_answer(question_of(metric.request.parameters))
        if metric.kernels or metric.deferred is None:
            return self._answers(metric.request.rows).value(metric.request, metric.kernels, limit)
        values = []
        for kernel in self._plan.kernels_of(metric.deferred, self._acc):
            answers = Answers(self._schema, {inner(kernel): self._next.parts_of(self._second or {}, kernel)})
            values.append(answers.value(metric.request, [inner(kernel)], limit))
        return values[0] if len(values) == 1 else Interval(values[0], values[1])

    def _drift_answer(self, question: DriftQuestion) -> dict[str, Any]:
        if self._drift is None:
            raise InconclusiveError("There is no reference profile to compare with.", hint="Admit a version first.")
        limits = question.limits(self._drift.limits)
        if limits not in self._compared:
            self._compared[limits] = self._drift.compare(question)
        return self._drift.answer(question, self._compared[limits])

    def _answers(self, rows: RowFilter | None) -> Answers:
        if rows not in self._by_rows:
            parts = {inner(k): self._plan.parts_of(self._acc, k) for k in self._plan.kernels if _rows_of(k) == rows}
            finer = [k for k in self._next.kernels if _rows_of(k) == rows and isinstance(inner(k), RankWithin)]
            parts |= {inner(k): self._next.parts_of(self._second or {}, k) for k in finer}
            self._by_rows[rows] = Answers(self._schema, parts)
        return self._by_rows[rows]


def _rows_of(kernel: Kernel) -> RowFilter | None:
    return kernel.rows if isinstance(kernel, Where) else None


def _refuse_references(asked: Asked, references: tuple[str, ...]) -> None:
    for metric in asked.metrics:
        if metric.request.base == DRIFT_METRIC:
            refuse_unknown_reference(question_of(metric.request.parameters), references)


def _covering(kernels: Iterable[Kernel]) -> dict[Kernel, Kernel]:
    """Return for each kernel the one that answers for it: sums of squares for sums, one count of distinct values."""
    known = dict.fromkeys(kernels)
    counts: dict[tuple[RowFilter | None, str], CountDistinct] = {}
    for kernel in known:
        count = inner(kernel)
        if isinstance(count, CountDistinct):
            key = (_rows_of(kernel), count.column)
            counts[key] = counts[key].or_also(count) if key in counts else count
    covering = {}
    for kernel in known:
        rows, own = _rows_of(kernel), inner(kernel)
        both = _among(rows, replace(own, with_squares=True)) if isinstance(own, AddUp) else kernel
        if isinstance(own, CountDistinct):
            both = _among(rows, counts[rows, own.column])
        covering[kernel] = both if isinstance(own, CountDistinct) or both in known else kernel
    return covering


def _row_checks(number: int, asked: Asked) -> list[RowCheck]:
    """Return the check of an expectation's rows; none where it is about a table or a whole column."""
    name = gx_adapter.row_metric_of(asked.expectation)
    metric = next((m for m in asked.metrics if m.request.name == f"{name}.unexpected_count"), None)
    if metric is None:
        return []
    kernel = _among(metric.request.rows, metric.kernels[-1]) if metric.kernels else None
    kind, severity = gx_adapter.type_of(asked.expectation), gx_adapter.severity_of(asked.expectation)
    return [RowCheck(number, kind, _columns_of(asked.expectation), severity, kernel, metric.deferred)]


def _among(rows: RowFilter | None, kernel: Kernel) -> Kernel:
    return kernel if rows is None else Where(rows, kernel)


class _Judged(NamedTuple):
    number: int
    expectation: Any
    result: Any
    interval: Interval | None


def _judge(number: int, asked: Asked, answers: _Measured, result_format: str) -> _Judged:
    """Have GX judge one expectation; where a metric is an interval, at both of its ends."""
    name = gx_adapter.type_of(asked.expectation)
    try:
        values = {metric.key: _value(metric, answers, asked.engine, result_format) for metric in asked.metrics}
        interval = next((value for value in values.values() if isinstance(value, Interval)), None)
        result = _validate(asked, {key: _end(value, "low") for key, value in values.items()}, result_format)
        if interval is not None and result.success:
            at_high = _validate(asked, {key: _end(value, "high") for key, value in values.items()}, result_format)
            result = result if at_high.success else at_high
    except InconclusiveError as error:
        raise InconclusiveError(f"{name}: {error.message}", hint=error.hint, **error.details) from error
    except MillcertError:
        raise
    except Exception as error:
        raise InconclusiveError(
            f"Great Expectations could not judge {name} on {_columns_of(asked.expectation) or 'the table'}: "
            f"{gx_adapter.one_line(error)}.",
            hint="Change the expectation so that it can be compared with the data.",
            expectation=name,
        ) from error
    return _Judged(number, asked.expectation, result, interval)


def _validate(asked: Asked, values: Mapping[Any, Any], result_format: str) -> Any:
    return gx_adapter.judged(asked.expectation, asked.engine, values, result_format)


def _end(value: Any, which: str) -> Any:
    return getattr(value, which) if isinstance(value, Interval) else value


def _value(metric: AskedMetric, answers: _Measured, engine: Any, result_format: str) -> Any:
    if metric.request.base not in SCHEMA_METRICS:
        return answers.value(metric, listing_limit(result_format))
    frame = gx_adapter.frame_of(engine)
    if metric.request.base == "table.column_types":
        return [{"name": name, "type": dtype} for name, dtype in zip(frame.columns, frame.dtypes, strict=True)]
    return list(frame.columns) if metric.request.base == "table.columns" else len(frame.columns)


def _suite_result(suite: SuiteSpec, judged: Sequence[_Judged]) -> SuiteResult:
    whole = gx_adapter.suite_result([each.result for each in judged], suite.name, {"suite_sha256": suite.digest})
    document = _plain(whole.to_json_dict())
    outcomes = tuple(_outcome(*each) for each in zip(judged, document["results"], strict=True))
    failed = [outcome.severity for outcome in outcomes if not outcome.success]
    return SuiteResult(
        success=bool(whole.success),
        critical_failures=failed.count("critical"),
        warning_failures=failed.count("warning"),
        info_failures=failed.count("info"),
        json=document,
        outcomes=outcomes,
    )


def _outcome(judged: _Judged, document: Mapping[str, Any]) -> ExpectationOutcome:
    details = document.get("result") or {}
    percent = details.get("unexpected_percent")
    detail = ""
    if judged.interval is not None:
        detail = f"the value lies between {judged.interval.low!r} and {judged.interval.high!r}"
    return ExpectationOutcome(
        number=judged.number,
        type=gx_adapter.type_of(judged.expectation),
        column=_columns_of(judged.expectation),
        success=bool(judged.result.success),
        severity=gx_adapter.severity_of(judged.expectation),
        observed=details.get("observed_value"),
        unexpected_count=details.get("unexpected_count"),
        unexpected_fraction=None if percent is None else percent / 100,
        exactness="exact" if judged.interval is None else "sketch",
        detail=detail,
    )


def _plain(value: Any) -> Any:
    """Return a result in Python's own types; NaN and infinities, which JSON does not have, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):  # numpy's float64 is one
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):  # and its str_ is one
        return str(value)
    return value


def _columns_of(expectation: Any) -> str:
    kwargs = gx_adapter.kwargs_of(expectation)
    if "column" in kwargs:
        return str(kwargs["column"])
    if "column_A" in kwargs:
        return f"{kwargs['column_A']}, {kwargs['column_B']}"
    return ", ".join(kwargs.get("column_list") or ())


def _in_order_of_columns(suite: SuiteSpec) -> list[int]:
    """Return expectation numbers in GX's own order of results: by column, columns in order of first mention."""
    by_column: dict[str | None, list[int]] = {}
    for number, entry in enumerate(suite.expectations):
        column = entry["kwargs"].get("column")
        by_column.setdefault(column if isinstance(column, str) else None, []).append(number)
    return [number for numbers in by_column.values() for number in numbers]
