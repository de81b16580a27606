"""Great Expectations suites, answered from one read of any number of rows. The only module that imports GX.

A suite is what GX 1.x writes: `ExpectationSuite` as JSON. On the driver GX says which metrics each expectation needs
(`plan_suite`), workers measure them without GX (`millcert.checks.metric_plan`), and on the driver GX judges the
merged metrics (`evaluate_suite`). So parsing, `mostly`, tolerances, severities and results are GX's own; only the
arithmetic is ours. Nothing is skipped: an expectation that cannot be measured is refused by name before the data are
read, and one that cannot be judged afterwards makes the suite inconclusive.

Which calls into GX are not its public API, so that a new version of it can be tested against this list: the registry
(`ExpectationConfiguration.to_domain_obj`), `get_validation_dependencies`, `metrics_validate`, `MetricConfiguration`,
`PandasExecutionEngine` on a frame of no rows, `MetricsCalculator`, `calc_validation_statistics`.
"""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa

from millcert.checks.base import Accumulator
from millcert.checks.metric_answers import Answers, Interval
from millcert.checks.metric_columns import family, kernel_type
from millcert.checks.metric_compile import SCHEMA_METRICS, MetricRequest, kernels_for
from millcert.checks.metric_kernels import Kernel
from millcert.checks.metric_plan import MetricPlan
from millcert.checks.metric_suite import SuiteSpec, load_suite
from millcert.errors import InconclusiveError, MillcertError, PolicyError

#: How much a result says. COMPLETE is left out: it lists every failing row, without bound.
ResultFormat: TypeAlias = Literal["BOOLEAN_ONLY", "BASIC", "SUMMARY"]
RESULT_FORMATS = ("BOOLEAN_ONLY", "BASIC", "SUMMARY")

#: Failing rows that a result lists: GX's own default.
PARTIAL_UNEXPECTED_COUNT = 20

__all__ = [
    "ExpectationOutcome",
    "ResultFormat",
    "SuiteResult",
    "SuiteSpec",
    "evaluate_suite",
    "load_suite",
    "plan_suite",
]

#: What a metric may be about. "table" (another table) and "row_condition" (some rows) are not among them.
_DOMAIN_KEYS = frozenset({"column", "column_A", "column_B", "column_list", "ignore_row_if"})
_HANDED_TO_GX = ("type", "kwargs", "meta", "id", "notes", "description", "severity")


class ExpectationOutcome(NamedTuple):
    """What one expectation came to.

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


def plan_suite(suite: SuiteSpec, schema: pa.Schema, *, result_format: ResultFormat = "SUMMARY") -> MetricPlan:
    """Return what to measure for a suite on data of a schema. Imports GX: 4 to 12 CPU seconds, once a process.

    Args:
        suite: what `load_suite` returned.
        schema: the user's columns and Arrow types.
        result_format: how much the results will say; below SUMMARY no rows' places, below BASIC no values.

    Raises:
        PolicyError: expectations that GX does not know or accept, or that cannot be measured on these columns; `faults`
            has all of them, by number and name.
    """
    if result_format not in RESULT_FORMATS:
        raise PolicyError(f"result_format must be one of {', '.join(RESULT_FORMATS)}, got {result_format!r}.")
    kernels: dict[Kernel, None] = {}
    faults = []
    with _quiet():
        for number, asked in enumerate(_asked_of_all(suite, schema, result_format)):
            if isinstance(asked, PolicyError):
                faults.append(f"expectation {number} ({suite.expectations[number]['type']}): {asked.message}")
                continue
            for metric in asked.metrics:
                kernels.update(dict.fromkeys(metric.kernels))
    if faults:
        raise PolicyError(
            f"The suite {suite.name!r} cannot be evaluated: {' '.join(faults)}",
            hint="Remove or change these expectations; none is skipped.",
            faults=faults,
        )
    return MetricPlan(suite.digest, result_format, tuple(kernels))


def evaluate_suite(suite: SuiteSpec, plan: MetricPlan, acc: Accumulator, schema: pa.Schema) -> SuiteResult:
    """Judge a suite by what was measured. Imports GX.

    Args:
        suite: the suite that `plan` was made for.
        plan: what `plan_suite` returned for it and `schema`.
        acc: the merged accumulator of all rows.
        schema: as for `plan_suite`.

    Raises:
        InconclusiveError: GX could not judge an expectation, which is named.
        PolicyError: the plan is for another suite or schema.
    """
    if plan.suite_digest != suite.digest:
        raise PolicyError("The plan was made for another suite.", expected=suite.digest, actual=plan.suite_digest)
    answers = Answers(schema, {kernel: plan.parts_of(acc, kernel) for kernel in plan.kernels})
    with _quiet():
        asked_of = list(_asked_of_all(suite, schema, plan.result_format))
        judged = []
        for number in _in_order_of_columns(suite):
            asked = asked_of[number]
            if isinstance(asked, PolicyError):
                raise asked
            judged.append(_judge(asked, answers, plan.result_format))
        return _suite_result(suite, judged)


class _Metric(NamedTuple):
    """One metric that an expectation needs: GX's own configuration, and how we answer it."""

    configuration: Any
    request: MetricRequest
    kernels: tuple[Kernel, ...]


class _Asked(NamedTuple):
    """One expectation: GX's object, its engine, and the metrics it needs."""

    expectation: Any
    engine: Any
    metrics: tuple[_Metric, ...]


class _Judged(NamedTuple):
    expectation: Any
    result: Any
    interval: Interval | None


def _asked_of_all(suite: SuiteSpec, schema: pa.Schema, result_format: str) -> Iterator[_Asked | PolicyError]:
    from great_expectations.execution_engine import PandasExecutionEngine

    engine = PandasExecutionEngine(batch_data_dict={"millcert": schema.empty_table().to_pandas()})
    for entry in suite.expectations:
        try:
            yield _asked_of(entry, engine, schema, result_format)
        except PolicyError as error:
            yield error


def _asked_of(entry: Mapping[str, Any], engine: Any, schema: pa.Schema, result_format: str) -> _Asked:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    handed = {key: entry[key] for key in _HANDED_TO_GX if entry.get(key) is not None}
    try:
        expectation = ExpectationConfiguration(**handed).to_domain_obj()
        kwargs = expectation.configuration.kwargs
        _require_supported(entry["type"], kwargs, schema)
        needed = expectation.get_validation_dependencies(
            execution_engine=engine, runtime_configuration={"result_format": result_format}
        )
    except MillcertError:
        raise
    except Exception as error:  # GX and pydantic raise anything; all of it means that GX refuses the expectation
        raise PolicyError(f"Great Expectations refuses it: {_one_line(error)}.") from error
    limit = _limit(result_format)
    metrics = []
    for configuration in needed.metric_configurations.values():
        request = _request_of(configuration, schema)
        metrics.append(_Metric(configuration, request, kernels_for(request, schema, limit)))
    return _Asked(expectation, engine, tuple(metrics))


def _require_supported(kind: str, kwargs: Mapping[str, Any], schema: pa.Schema) -> None:
    if kwargs.get("row_condition"):
        raise PolicyError("row_condition is not supported.", hint="Give the suite data that are filtered already.")
    if _has_parameter(kwargs):
        raise PolicyError("suite parameters ($PARAMETER) are not supported.", hint="Write the value itself.")
    column = kwargs.get("column")
    if kind != "expect_column_to_exist" and column is not None and len(schema.get_all_field_indices(column)) != 1:
        raise PolicyError(f"The data has no column {column!r}, or more than one; it has {', '.join(schema.names)}.")
    if kind == "expect_column_kl_divergence_to_be_less_than" and kwargs.get("partition_object") is None:
        raise PolicyError("KL divergence needs a partition_object; without one GX compares the data with themselves.")


def _has_parameter(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "$PARAMETER" in value or any(_has_parameter(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_parameter(item) for item in value)


def _request_of(configuration: Any, schema: pa.Schema) -> MetricRequest:
    """Translate GX's metric configuration."""
    domain = dict(configuration.metric_domain_kwargs)
    beyond = sorted(key for key, value in domain.items() if value is not None and key not in _DOMAIN_KEYS)
    if beyond:
        raise PolicyError(f"The metric {configuration.metric_name} is about {', '.join(beyond)}, not about these data.")
    parameters = {k: v for k, v in (configuration.metric_value_kwargs or {}).items() if k != "result_format"}
    if domain.get("column") is not None:
        columns: tuple[str, ...] = (domain["column"],)
    elif domain.get("column_A") is not None:
        columns = (domain["column_A"], domain["column_B"])
    else:
        columns = tuple(domain.get("column_list") or ())
    request = MetricRequest(configuration.metric_name, columns, parameters, domain.get("ignore_row_if"))
    if request.base in ("column_values.of_type", "column_values.in_type_list"):
        data_type = schema.field(columns[0]).type
        is_expected = _is_of_type(request.base, data_type, columns[0], parameters)
        return MetricRequest(request.name, columns, {"is_expected": is_expected})
    return request


def _is_of_type(base: str, data_type: pa.DataType, column: str, parameters: Mapping[str, Any]) -> bool:
    """Ask GX on one value, as all values of a column of objects (dates, decimals, bytes) have one Python type."""
    import pandas as pd
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.validator.metric_configuration import MetricConfiguration
    from great_expectations.validator.metrics_calculator import MetricsCalculator

    samples = {"date": date(1970, 1, 1), "decimal": Decimal(0), "binary": b""}
    if family(data_type) not in samples:
        raise PolicyError(f"The type of the values of {column!r} ({data_type}) has no name in pandas.", column=column)
    value = pa.array([samples[family(data_type)]], kernel_type(data_type))
    frame = pd.DataFrame({column: value.to_pandas()})
    metric = MetricConfiguration(f"{base}.unexpected_count", {"column": column}, dict(parameters))
    calculator = MetricsCalculator(PandasExecutionEngine(batch_data_dict={"one": frame}), show_progress_bars=False)
    try:
        return bool(calculator.get_metric(metric) == 0)
    except Exception as error:
        raise PolicyError(f"Great Expectations refuses the type {parameters!r}: {_one_line(error)}.") from error


def _judge(asked: _Asked, answers: Answers, result_format: str) -> _Judged:
    """Have GX judge one expectation; where a metric is an interval, at both of its ends."""
    name = asked.expectation.configuration.type
    try:
        values = {
            metric.configuration.id: _value(metric, answers, asked.engine, result_format) for metric in asked.metrics
        }
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
            f"{_one_line(error)}.",
            hint="Change the expectation so that it can be compared with the data.",
            expectation=name,
        ) from error
    return _Judged(asked.expectation, result, interval)


def _validate(asked: _Asked, values: Mapping[Any, Any], result_format: str) -> Any:
    result = asked.expectation.metrics_validate(
        metrics=dict(values),
        runtime_configuration={"result_format": result_format},
        execution_engine=asked.engine,
    )
    # GX 1.24 leaves a numpy bool in quantile results, which its own serializer cannot write with marshmallow 4.
    result.success = bool(result.success)
    return result


def _end(value: Any, which: str) -> Any:
    return getattr(value, which) if isinstance(value, Interval) else value


def _value(metric: _Metric, answers: Answers, engine: Any, result_format: str) -> Any:
    if metric.request.base not in SCHEMA_METRICS:
        return answers.value(metric.request, metric.kernels, _limit(result_format))
    frame = engine.batch_manager.active_batch_data.dataframe
    if metric.request.base == "table.column_types":
        return [{"name": name, "type": dtype} for name, dtype in zip(frame.columns, frame.dtypes, strict=True)]
    return list(frame.columns) if metric.request.base == "table.columns" else len(frame.columns)


def _suite_result(suite: SuiteSpec, judged: Sequence[_Judged]) -> SuiteResult:
    import great_expectations as gx
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.validator.validation_statistics import calc_validation_statistics

    results = [each.result for each in judged]
    statistics = calc_validation_statistics(results)
    whole = ExpectationSuiteValidationResult(
        results=results,
        success=bool(statistics.success),
        suite_name=suite.name,
        statistics={
            "evaluated_expectations": statistics.evaluated_expectations,
            "successful_expectations": statistics.successful_expectations,
            "unsuccessful_expectations": statistics.unsuccessful_expectations,
            "success_percent": statistics.success_percent,
        },
        meta={"great_expectations_version": gx.__version__, "suite_sha256": suite.digest},
    )
    outcomes = tuple(_outcome(each) for each in judged)
    failed = [outcome.severity for outcome in outcomes if not outcome.success]
    return SuiteResult(
        success=bool(statistics.success),
        critical_failures=failed.count("critical"),
        warning_failures=failed.count("warning"),
        info_failures=failed.count("info"),
        json=_plain(whole.to_json_dict()),
        outcomes=outcomes,
    )


def _outcome(judged: _Judged) -> ExpectationOutcome:
    document = _plain(judged.result.to_json_dict())
    details = document.get("result") or {}
    percent = details.get("unexpected_percent")
    configuration = judged.expectation.configuration
    severity = configuration.severity
    detail = ""
    if judged.interval is not None:
        detail = f"the value lies between {judged.interval.low!r} and {judged.interval.high!r}"
    return ExpectationOutcome(
        type=configuration.type,
        column=_columns_of(judged.expectation),
        success=bool(judged.result.success),
        severity=str(getattr(severity, "value", severity)),
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
    kwargs = expectation.configuration.kwargs
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


def _limit(result_format: str) -> int:
    return 0 if result_format == "BOOLEAN_ONLY" else PARTIAL_UNEXPECTED_COUNT


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")[:500]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Import and run GX without telemetry (versions below 1.24 have some), log lines and warnings."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx  # noqa: F401 - imported here so that the variable is set before

    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
