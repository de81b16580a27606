"""From the expectations of a suite to the metrics that Great Expectations needs for them, on a frame of no rows.

What cannot be measured is refused here, by name. GX runs in `millcert.checks.gx_adapter`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from millcert.checks import gx_adapter
from millcert.checks.drift_question import DRIFT_EXPECTATIONS, DRIFT_METRIC
from millcert.checks.gx_adapter import NeededMetric, one_line
from millcert.checks.metric_columns import family, kernel_type
from millcert.checks.metric_compile import OUTLIER_METRICS, MetricRequest, kernels_for, outliers_for
from millcert.checks.metric_filter_parse import parse_row_condition
from millcert.checks.metric_kernels import Kernel
from millcert.checks.metric_plan import Deferred
from millcert.checks.metric_refine import RefineQuantiles
from millcert.checks.metric_suite import SuiteSpec
from millcert.errors import MillcertError, PolicyError

#: Failing rows that a result lists: GX's own default.
PARTIAL_UNEXPECTED_COUNT = 20
#: Failing rows that a COMPLETE result lists: as many as GX lists values. All of them are in the row sidecar.
MAX_LISTED_ROWS = 200

#: What a metric may be about. "table" (another table) is not among them.
_DOMAIN_KEYS = frozenset(
    {"column", "column_A", "column_B", "column_list", "ignore_row_if", "row_condition", "condition_parser"}
)
_SQL_ONLY = {
    "unexpected_rows_expectation": "it is a SQL query",
    "expect_query_results_to_match_comparison": "it compares two SQL queries",
    "expect_table_row_count_to_equal_other_table": "it asks another table of a SQL database",
}
#: A value for each family whose values all have one Python type.
_SAMPLES: Mapping[str, Any] = {"date": date(1970, 1, 1), "decimal": Decimal(0), "binary": b""}
_HANDED_TO_GX = ("type", "kwargs", "meta", "id", "notes", "description", "severity")


class AskedMetric(NamedTuple):
    """One metric that an expectation needs: what GX finds its value by, and how we answer it.

    kernels: of the first read, without the expectation's row condition; none where the second read alone answers.
    deferred: what the second read measures for it.
    """

    key: Any
    request: MetricRequest
    kernels: tuple[Kernel, ...]
    deferred: Deferred | None


class Asked(NamedTuple):
    """One expectation: GX's object, its engine, and the metrics it needs."""

    expectation: Any
    engine: Any
    metrics: tuple[AskedMetric, ...]


def asked_of_all(suite: SuiteSpec, schema: pa.Schema, result_format: str) -> Iterator[Asked | PolicyError]:
    """Yield what each expectation of a suite needs, in its order, or why it is refused."""
    engine = gx_adapter.engine_of(schema)
    for entry in suite.expectations:
        try:
            yield _asked_of(entry, engine, schema, result_format)
        except PolicyError as error:
            yield error


def listing_limit(result_format: str) -> int:
    """Return how many failing rows a result of a format lists."""
    if result_format == "COMPLETE":
        return MAX_LISTED_ROWS
    return 0 if result_format == "BOOLEAN_ONLY" else PARTIAL_UNEXPECTED_COUNT


def _asked_of(entry: Mapping[str, Any], engine: Any, schema: pa.Schema, result_format: str) -> Asked:
    if entry["type"] in _SQL_ONLY:
        raise PolicyError(f"Not for files: {_SQL_ONLY[entry['type']]}.")
    if entry["type"] in DRIFT_EXPECTATIONS:
        from millcert.checks import expectations_drift  # noqa: F401 - registers them
    handed = {key: entry[key] for key in _HANDED_TO_GX if entry.get(key) is not None}
    try:
        expectation = gx_adapter.parsed(handed)
        kwargs = gx_adapter.kwargs_of(expectation)
        _require_supported(entry["type"], kwargs, schema)
        needed = gx_adapter.needed_metrics(expectation, engine, result_format)
    except MillcertError:
        raise
    except Exception as error:  # GX and pydantic raise anything; all of it means that GX refuses the expectation
        raise PolicyError(f"Great Expectations refuses it: {one_line(error)}.") from error
    limit = listing_limit(result_format)
    metrics = []
    for metric in needed:
        request = _request_of(metric, schema)
        if request.base == DRIFT_METRIC:
            metrics.append(AskedMetric(metric.key, request, (), None))
        elif request.base in OUTLIER_METRICS:
            deferred = Deferred(request.rows, outliers_for(request, schema, limit))
            metrics.append(AskedMetric(metric.key, request, (), deferred))
        else:
            kernels = kernels_for(request, schema, limit)
            metrics.append(AskedMetric(metric.key, request, kernels, _refinement(request, kwargs)))
    return Asked(expectation, engine, tuple(metrics))


def _refinement(request: MetricRequest, kwargs: Mapping[str, Any]) -> Deferred | None:
    """Return how a second read may make quantiles exact that lie by an expectation's limits."""
    if request.base == "column.median":
        ends = _numbers([kwargs.get("min_value"), kwargs.get("max_value")])
        return Deferred(request.rows, RefineQuantiles(request.columns[0], (0.5,), "median", (ends,)))
    ranges = kwargs.get("quantile_ranges")
    if request.base != "column.quantile_values" or ranges is None:
        return None
    quantiles = tuple(float(quantile) for quantile in request.parameters["quantiles"])
    values = ranges["value_ranges"] if isinstance(ranges, Mapping) else ranges.value_ranges
    limits = tuple(_with_tolerance(_numbers(pair)) for pair in values)
    how = request.parameters.get("allow_relative_error") or "nearest"
    return Deferred(request.rows, RefineQuantiles(request.columns[0], quantiles, how, limits))


def _with_tolerance(limits: Iterable[float]) -> tuple[float, ...]:
    """Return where the judgement of a quantile may change: GX 1.24 accepts what is within 1e-8 + 1e-4 of a limit."""
    return tuple(limit + side * (1e-8 + 1e-4 * abs(limit)) for limit in limits for side in (-1, 0, 1))


def _numbers(limits: Iterable[Any]) -> tuple[float, ...]:
    return tuple(limit for limit in limits if isinstance(limit, int | float))


def _require_supported(kind: str, kwargs: Mapping[str, Any], schema: pa.Schema) -> None:
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


def _request_of(metric: NeededMetric, schema: pa.Schema) -> MetricRequest:
    """Translate what GX asks for."""
    domain = dict(metric.domain)
    beyond = sorted(key for key, value in domain.items() if value is not None and key not in _DOMAIN_KEYS)
    if beyond:
        raise PolicyError(f"The metric {metric.name} is about {', '.join(beyond)}, not about these data.")
    parameters = {k: v for k, v in metric.parameters.items() if k != "result_format"}
    if domain.get("column") is not None:
        columns: tuple[str, ...] = (domain["column"],)
    elif domain.get("column_A") is not None:
        columns = (domain["column_A"], domain["column_B"])
    else:
        columns = tuple(domain.get("column_list") or ())
    condition = domain.get("row_condition")
    rows = None if condition is None else parse_row_condition(_as_mapping(condition), schema)
    request = MetricRequest(metric.name, columns, parameters, domain.get("ignore_row_if"), rows)
    if request.base in ("column_values.of_type", "column_values.in_type_list"):
        data_type = schema.field(columns[0]).type
        is_expected = _is_of_type(request.base, data_type, columns[0], parameters)
        return replace(request, parameters={"is_expected": is_expected})
    return request


def _as_mapping(condition: Any) -> Any:
    return condition if isinstance(condition, Mapping) else condition.dict()


def _is_of_type(base: str, data_type: pa.DataType, column: str, parameters: Mapping[str, Any]) -> bool:
    """Ask GX on one value, as all values of a column of objects (dates, decimals, bytes) have one Python type."""
    sample = _SAMPLES.get(family(data_type))
    if sample is None:
        raise PolicyError(f"The type of the values of {column!r} ({data_type}) has no name in pandas.", column=column)
    return gx_adapter.is_of_type(base, pa.array([sample], kernel_type(data_type)), column, parameters)
