"""From the metrics that Great Expectations asks for to the kernels that measure them; imports nothing of it.

A metric has a name, a domain (which column or columns) and parameters. A metric that cannot be measured exactly as GX
on pandas means it is refused here, by name, while the suite is planned.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from millcert.checks import metric_bounds as bounds
from millcert.checks import metric_conditions as conditions
from millcert.checks.metric_columns import Family, family
from millcert.checks.metric_conditions import Condition
from millcert.checks.metric_counting import CountDistinct
from millcert.checks.metric_filter import RowFilter
from millcert.checks.metric_kernels import (
    AddUp,
    CountBins,
    CountRows,
    FindExtremes,
    FindNulls,
    FindValues,
    FollowOrder,
    Kernel,
    RankValues,
)
from millcert.checks.metric_outliers import FindOutliers
from millcert.checks.metric_pairs import (
    PAIR_CONDITIONS,
    RECORD_CONDITIONS,
    FindRecords,
    pair_condition,
    record_condition,
)
from millcert.checks.metric_records import RECORD_FAMILIES, CountRecords
from millcert.checks.metric_regex import compile_pattern, like_to_regex
from millcert.checks.metric_tally import REPEATED, Wanted
from millcert.errors import PolicyError

#: Endings by which GX asks different things of one row condition.
SUFFIXES = (
    ".unexpected_count",
    ".unexpected_values",
    ".unexpected_index_list",
    ".unexpected_index_query",
    ".filtered_row_count",
)

_NUMERIC: frozenset[Family] = frozenset({"bool", "int", "float", "decimal"})
_RANKED: frozenset[Family] = frozenset({"int", "float"})
_ORDERED: frozenset[Family] = frozenset({"bool", "int", "float", "decimal", "string", "date", "timestamp"})
_WRITABLE: frozenset[Family] = frozenset({"bool", "int", "string"})
_TEXT: frozenset[Family] = frozenset({"string"})
_SETS: frozenset[Family] = frozenset({"bool", "int", "float", "decimal", "string"})


@dataclass(frozen=True)
class MetricRequest:
    """One metric as GX asks for it.

    name: such as "column_values.between.unexpected_count".
    columns: the columns of its domain, in order.
    parameters: its value keyword arguments.
    ignore_row_if: for pairs and records, which rows are passed over.
    rows: which rows the expectation is about; None is all.
    """

    name: str
    columns: tuple[str, ...]
    parameters: Mapping[str, Any]
    ignore_row_if: str | None = None
    rows: RowFilter | None = None

    @property
    def base(self) -> str:
        """The name without what is asked of the row condition."""
        for suffix in SUFFIXES:
            if self.name.endswith(suffix):
                return self.name[: -len(suffix)]
        return self.name


def kernels_for(request: MetricRequest, schema: pa.Schema, limit: int) -> tuple[Kernel, ...]:
    """Return the kernels that a metric is answered from; none where the schema alone answers.

    Args:
        request: the metric.
        schema: of the data, with the user's names and Arrow types.
        limit: how many unexpected rows a result lists.

    Raises:
        PolicyError: the metric is unknown, or cannot be measured on columns of these types or with these parameters.
    """
    types = tuple(_type_of(schema, name) for name in request.columns)
    base, parameters = request.base, request.parameters
    unknown = sorted(set(parameters) - _PARAMETERS)
    if unknown:
        raise PolicyError(
            f"The metric {request.name} has unknown parameters: {', '.join(unknown)}.", metric=request.name
        )
    if base in SCHEMA_METRICS:
        return ()
    if len(set(request.columns)) != len(request.columns):
        raise PolicyError(f"The metric {request.name} compares columns with themselves: {', '.join(request.columns)}.")
    if base in PAIR_CONDITIONS:
        condition = pair_condition(base, types, parameters)
        return (CountRows(), FindRecords(request.columns, condition, request.ignore_row_if or "neither", limit))
    if base in RECORD_CONDITIONS:
        records = record_condition(base, types, parameters)
        return (CountRows(), FindRecords(request.columns, records, request.ignore_row_if or "never", limit))
    if base == "compound_columns.unique":
        if not {family(data_type) for data_type in types} <= RECORD_FAMILIES:
            raise PolicyError(f"The metric {base} is not defined on {', '.join(map(str, types))}.", metric=base)
        return (CountRows(), CountRecords(request.columns, request.ignore_row_if or "never", limit))
    if base == "table.row_count":
        return (CountRows(),)
    if len(types) != 1:
        raise PolicyError(f"The metric {request.name} is not supported.", metric=request.name)
    return _column_kernels(request, request.columns[0], types[0], limit)


#: Every parameter that a metric of GX 1.24 has and that is heeded here; another one would change what it means.
_PARAMETERS = frozenset(
    {
        *("min_value", "max_value", "strict_min", "strict_max", "value", "value_set", "limit", "value_pairs_set"),
        *("regex", "regex_list", "match_on", "like_pattern", "like_pattern_list", "escape", "strictly", "or_equal"),
        *("strftime_format", "json_schema", "is_expected", "sum_total", "quantiles", "allow_relative_error", "bins"),
        *("sort", "collate", "include_nested", "threshold", "double_sided", "method", "multiplier"),
    }
)
#: Metrics whose row condition needs what the first read measured.
OUTLIER_METRICS = frozenset({"column_values.z_score.under_threshold", "column_values.not_outliers"})
#: Metrics that the schema answers.
SCHEMA_METRICS = frozenset({"table.columns", "table.column_types", "table.column_count"})
#: Metrics that are answered from the distinct values of a column.
DISTINCT_METRICS = frozenset(
    {
        "column.distinct_values.count",
        "column.distinct_values.not_in_set",
        "column.distinct_values.not_in_set.count",
        "column.distinct_values.missing_from_column",
        "column.distinct_values.missing_from_column.count",
        "column.most_common_value",
        "column.unique_proportion",
        "column.value_counts",
    }
)


def _column_kernels(  # noqa: C901, PLR0911 - a table of metrics
    request: MetricRequest, column: str, data_type: pa.DataType, limit: int
) -> tuple[Kernel, ...]:
    base, parameters = request.base, request.parameters
    nulls = FindNulls(column, limit)
    if base in ("column_values.nonnull", "column_values.nonnull.count", "column.non_null_proportion"):
        return (CountRows(), nulls)
    if base == "column_values.unique":
        _require(data_type, request, _ORDERED)
        return (CountDistinct(column, limit, REPEATED),)
    if base in DISTINCT_METRICS:
        _require(data_type, request, _ORDERED)
        return (CountRows(), nulls, CountDistinct(column, 0, _wanted(base, data_type, parameters)))
    match base:
        case "column.sum" | "column.mean":
            _require(data_type, request, _NUMERIC)
            return (AddUp(column, with_squares=False),)
        case "column.standard_deviation":
            _require(data_type, request, _NUMERIC)
            return (AddUp(column, with_squares=True),)
        case "column.min" | "column.max":
            _require(data_type, request, _ORDERED)
            return (FindExtremes(column),)
        case "column.median" | "column.quantile_values":
            _require(data_type, request, _RANKED)
            return (RankValues(column),)
        case "column.histogram":
            _require(data_type, request, _RANKED)
            return (CountBins(column, tuple(float(edge) for edge in parameters["bins"])),)
        case "column_values.between.count":
            _require(data_type, request, _RANKED)
            return (FindValues(column, bounds.within(data_type, dict(parameters)), 0),)
        case "column_values.increasing" | "column_values.decreasing":
            _require(data_type, request, frozenset({"int", "float", "timestamp"}))
            return (FollowOrder(column, base.endswith("increasing"), bool(parameters.get("strictly")), limit),)
    return (FindValues(column, condition_for(request, data_type), limit),)


def _wanted(base: str, data_type: pa.DataType, parameters: Mapping[str, Any]) -> Wanted:
    if "value_set" in parameters:
        return Wanted(sets=(tuple(bounds.members(data_type, parameters["value_set"] or ())),))
    return Wanted(is_modes=base == "column.most_common_value", is_table=base == "column.value_counts")


def outliers_for(request: MetricRequest, schema: pa.Schema, limit: int) -> FindOutliers:
    """Return what the second read finds for one of `OUTLIER_METRICS`; the arguments are those of `kernels_for`.

    Raises:
        PolicyError: the column has no numbers, or the threshold or multiplier is none that GX means.
    """
    (column,), parameters = request.columns, request.parameters
    _require(_type_of(schema, column), request, _RANKED)
    is_score = request.base.startswith("column_values.z_score")
    method: Any = "z_score" if is_score else parameters.get("method") or "iqr"
    amount = parameters.get("threshold") if is_score else parameters.get("multiplier", 1.5)
    if method not in ("z_score", "iqr", "std"):
        raise PolicyError(f"The method of outliers is 'iqr' or 'std', got {method!r}.")
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not math.isfinite(amount):
        raise PolicyError(
            f"The metric {request.name} needs a finite number as threshold or multiplier, got {amount!r}."
        )
    if method == "iqr" and amount < 0:
        raise PolicyError(f"The multiplier of outliers is 0 or more, got {amount!r}.")
    return FindOutliers(column, method, float(amount), bool(parameters.get("double_sided")), limit)


def condition_for(request: MetricRequest, data_type: pa.DataType) -> Condition:
    """Return the row condition of a column-map metric.

    Raises:
        PolicyError: there is no such metric, or it has no meaning on this type or with these parameters.
    """
    build = _CONDITIONS.get(request.base)
    if build is None:
        raise PolicyError(f"The metric {request.name} is not supported.", metric=request.name)
    families, make = build
    _require(data_type, request, families)
    return make(data_type, dict(request.parameters))


def _type_of(schema: pa.Schema, column: str) -> pa.DataType:
    places = schema.get_all_field_indices(column)
    if len(places) != 1:
        raise PolicyError(
            f"The data has {'no' if not places else len(places)} column {column!r}; it has {', '.join(schema.names)}.",
            column=column,
        )
    return schema.field(places[0]).type


def _require(data_type: pa.DataType, request: MetricRequest, families: frozenset[Family]) -> None:
    if family(data_type) not in families:
        raise PolicyError(
            f"The metric {request.name} is not defined on column {request.columns[0]!r} of type {data_type}; "
            f"it is on: {', '.join(sorted(families))}.",
            metric=request.name,
            column=request.columns[0],
        )


def _in_set(data_type: pa.DataType, parameters: dict[str, Any]) -> Condition:
    values = parameters.get("value_set")
    if values is None:
        return conditions.Always(is_expected=True)  # GX: vacuously true
    return conditions.InSet(bounds.members(data_type, values))


def _not_in_set(data_type: pa.DataType, parameters: dict[str, Any]) -> Condition:
    values = parameters.get("value_set")
    if values is None:
        return conditions.Always(is_expected=True)
    return conditions.InSet(bounds.members(data_type, values), is_negated=True)


def _regexes(parameters: dict[str, Any], *, is_negated: bool) -> Condition:
    patterns = (parameters["regex"],) if "regex" in parameters else tuple(parameters.get("regex_list") or ())
    return _matches(patterns, parameters, is_negated=is_negated)


def _likes(parameters: dict[str, Any], *, is_negated: bool) -> Condition:
    key = "like_pattern" if "like_pattern" in parameters else "like_pattern_list"
    patterns = (parameters[key],) if key == "like_pattern" else tuple(parameters.get(key) or ())
    return _matches(
        tuple(like_to_regex(pattern, parameters.get("escape")) for pattern in patterns),
        parameters,
        is_negated=is_negated,
    )


def _matches(patterns: tuple[str, ...], parameters: dict[str, Any], *, is_negated: bool) -> Condition:
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise PolicyError(f"Expected one or more patterns as text, got {patterns!r}.")
    match_on = parameters.get("match_on") or "any"
    if match_on not in ("any", "all"):
        raise PolicyError(f"match_on must be 'any' or 'all', got {match_on!r}.")
    for pattern in patterns:
        compile_pattern(pattern)
    return conditions.Matches(patterns, is_all_needed=match_on == "all", is_negated=is_negated)


def _time_format(data_type: pa.DataType, parameters: dict[str, Any]) -> Condition:  # noqa: ARG001 - one signature
    text = parameters.get("strftime_format")
    if not isinstance(text, str):
        raise PolicyError(f"strftime_format must be text, got {text!r}.")
    return conditions.ParsesAsTime(text)


def _json_schema(data_type: pa.DataType, parameters: dict[str, Any]) -> Condition:  # noqa: ARG001
    import jsonschema  # type: ignore[import-untyped] # it carries no types

    schema = parameters.get("json_schema")
    schema = json.loads(schema) if isinstance(schema, str) else schema
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise PolicyError(f"json_schema is no JSON Schema: {error.message}.") from error
    if '"$ref": "http' in json.dumps(schema):
        raise PolicyError("json_schema refers to a schema elsewhere; nothing is fetched.")
    return conditions.MatchesJsonSchema(json.dumps(schema, sort_keys=True))


_CONDITIONS: dict[str, tuple[frozenset[Family], Callable[[pa.DataType, dict[str, Any]], Condition]]] = {
    "column_values.null": (
        _ORDERED | {"binary", "other"},
        lambda _, __: conditions.Always(is_expected=False),
    ),
    "column_values.between": (_ORDERED, bounds.within),
    "column_values.in_set": (_SETS, _in_set),
    "column_values.not_in_set": (_SETS | {"timestamp"}, _not_in_set),
    "column_values.value_length.between": (_WRITABLE, lambda _, p: bounds.within_lengths(p)),
    "column_values.value_length.equals": (_WRITABLE, lambda _, p: bounds.within_lengths(p)),
    "column_values.match_regex": (_WRITABLE, lambda _, p: _regexes(p, is_negated=False)),
    "column_values.match_regex_list": (_WRITABLE, lambda _, p: _regexes(p, is_negated=False)),
    "column_values.not_match_regex": (_WRITABLE, lambda _, p: _regexes(p, is_negated=True)),
    "column_values.not_match_regex_list": (_WRITABLE, lambda _, p: _regexes(p, is_negated=True)),
    "column_values.match_like_pattern": (_TEXT, lambda _, p: _likes(p, is_negated=False)),
    "column_values.match_like_pattern_list": (_TEXT, lambda _, p: _likes(p, is_negated=False)),
    "column_values.not_match_like_pattern": (_TEXT, lambda _, p: _likes(p, is_negated=True)),
    "column_values.not_match_like_pattern_list": (_TEXT, lambda _, p: _likes(p, is_negated=True)),
    "column_values.match_strftime_format": (_TEXT, _time_format),
    "column_values.dateutil_parseable": (_TEXT, lambda _, __: conditions.ParsesAsDate()),
    "column_values.json_parseable": (_TEXT, lambda _, __: conditions.ParsesAsJson()),
    "column_values.match_json_schema": (_TEXT, _json_schema),
    "column_values.of_type": (
        frozenset({"date", "decimal", "binary"}),
        lambda _, p: conditions.Always(is_expected=bool(p["is_expected"])),
    ),
    "column_values.in_type_list": (
        frozenset({"date", "decimal", "binary"}),
        lambda _, p: conditions.Always(is_expected=bool(p["is_expected"])),
    ),
}
