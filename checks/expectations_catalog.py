"""Which expectations of Great Expectations are answered, on which columns, how exactly: asked of the planner itself.

Each registered expectation is planned on a column of each family, with an example of its arguments. So the list cannot
say more than `plan_suite` accepts, and an expectation that a newer GX brings stands in it as not supported.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from millcert.checks import gx_adapter
from millcert.checks.expectations import plan_suite
from millcert.checks.metric_kernels import Kernel
from millcert.checks.metric_plan import MetricPlan
from millcert.checks.metric_refine import RefineQuantiles
from millcert.checks.metric_suite import load_suite
from millcert.checks.metric_where import inner
from millcert.errors import PolicyError

#: The families of columns, with a type that stands for each.
FAMILIES: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "decimal": pa.decimal128(10, 2),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "binary": pa.binary(),
    "list, struct": pa.list_(pa.int64()),
}
#: Values that one family or another compares with, tried in this order where an example has `_VALUE`.
_VALUES: tuple[Any, ...] = (1, "a", "2020-01-01", "2020-01-01T00:00:00", "bytes", "Decimal", "date")
_VALUE = "$value"

_LIMITS = {"min_value": _VALUE}
_SET = {"value_set": [_VALUE]}
#: Arguments beside the columns. What is missing here needs none.
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "expect_column_distinct_values_to_be_in_set": _SET,
    "expect_column_distinct_values_to_contain_set": _SET,
    "expect_column_distinct_values_to_equal_set": _SET,
    "expect_column_kl_divergence_to_be_less_than": {
        "partition_object": {"values": [_VALUE], "weights": [1.0]},
        "threshold": 0.1,
    },
    "expect_column_max_to_be_between": _LIMITS,
    "expect_column_mean_to_be_between": _LIMITS,
    "expect_column_median_to_be_between": _LIMITS,
    "expect_column_min_to_be_between": _LIMITS,
    "expect_column_most_common_value_to_be_in_set": _SET,
    "expect_column_pair_values_to_be_in_set": {"value_pairs_set": [[_VALUE, _VALUE]]},
    "expect_column_proportion_of_non_null_values_to_be_between": {"min_value": 0.5},
    "expect_column_proportion_of_unique_values_to_be_between": {"min_value": 0.5},
    "expect_column_quantile_values_to_be_between": {
        "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[0, 1]]},
    },
    "expect_column_stdev_to_be_between": {"min_value": 0.5},
    "expect_column_sum_to_be_between": _LIMITS,
    "expect_column_type_to_be": {"type_": "int64"},
    "expect_column_unique_value_count_to_be_between": {"min_value": 1},
    "expect_column_value_lengths_to_be_between": {"min_value": 1},
    "expect_column_value_lengths_to_equal": {"value": 1},
    "expect_column_value_z_scores_to_be_less_than": {"threshold": 3, "double_sided": True},
    "expect_column_values_to_be_between": _LIMITS,
    "expect_column_values_to_be_in_set": _SET,
    "expect_column_values_to_be_in_type_list": {"type_list": [_VALUE]},
    "expect_column_values_to_be_of_type": {"type_": _VALUE},
    "expect_column_values_to_match_json_schema": {"json_schema": {"type": "object"}},
    "expect_column_values_to_match_like_pattern": {"like_pattern": "a%"},
    "expect_column_values_to_match_like_pattern_list": {"like_pattern_list": ["a%"]},
    "expect_column_values_to_match_regex": {"regex": "^a"},
    "expect_column_values_to_match_regex_list": {"regex_list": ["^a"]},
    "expect_column_values_to_match_strftime_format": {"strftime_format": "%Y"},
    "expect_column_values_to_not_be_in_set": _SET,
    "expect_column_values_to_not_match_like_pattern": {"like_pattern": "a%"},
    "expect_column_values_to_not_match_like_pattern_list": {"like_pattern_list": ["a%"]},
    "expect_column_values_to_not_match_regex": {"regex": "^a"},
    "expect_column_values_to_not_match_regex_list": {"regex_list": ["^a"]},
    "expect_multicolumn_sum_to_equal": {"sum_total": 1},
    "expect_query_results_to_match_comparison": {
        "base_query": "SELECT 1",
        "comparison_data_source_name": "other",
        "comparison_query": "SELECT 1",
    },
    "expect_table_column_count_to_be_between": {"min_value": 1},
    "expect_table_column_count_to_equal": {"value": 2},
    "expect_table_columns_to_match_ordered_list": {"column_list": ["a", "b"]},
    "expect_table_columns_to_match_set": {"column_set": ["a", "b"]},
    "expect_table_row_count_to_be_between": {"min_value": 1},
    "expect_table_row_count_to_equal": {"value": 1},
    "expect_table_row_count_to_equal_other_table": {"other_table_name": "other"},
    "unexpected_rows_expectation": {"unexpected_rows_query": "SELECT 1"},
}
#: KL divergence of numbers is given bins.
_BINS = {"partition_object": {"bins": [0.0, 1.0], "weights": [1.0]}, "threshold": 0.1}


class ExpectationFacts(NamedTuple):
    """What is known of one registered expectation.

    name: GX's. families: of columns that it is answered on, of `FAMILIES`; empty where it is about the table alone or
        not answered.
    is_supported: whether it is answered. refusal: why not, or "".
    measures: what is measured for it, by the kernels' own words; empty where the schema alone answers.
    exactness: "exact", or "exact or interval" where a second read may leave an interval.
    reads: of the data, at most. per_row: whether each failing row is listed and can be held back.
    """

    name: str
    families: tuple[str, ...]
    is_supported: bool
    refusal: str
    measures: tuple[str, ...]
    exactness: str
    reads: int
    per_row: bool


def catalog() -> Iterator[ExpectationFacts]:
    """Yield what is known of each expectation that GX registers itself, by name. Imports GX; some 10 CPU seconds."""
    with gx_adapter.quiet():
        known = gx_adapter.registered()
    for name, kind in known.items():
        if not kind.is_own:
            continue
        is_map = bool(kind.row_metric)
        plans = {family: _plan(name, data_type) for family, data_type in FAMILIES.items()}
        made = {family: plan for family, plan in plans.items() if isinstance(plan, MetricPlan)}
        if not made:
            refusal = next(str(plan) for plan in plans.values())
            yield ExpectationFacts(
                name, (), is_supported=False, refusal=refusal, measures=(), exactness="", reads=0, per_row=False
            )
            continue
        kernels = [inner(kernel) for plan in made.values() for kernel in plan.kernels]
        later = [deferred for plan in made.values() for deferred in plan.deferred]
        yield ExpectationFacts(
            name,
            () if name.startswith("expect_table_") or name == "expect_column_to_exist" else tuple(made),
            is_supported=True,
            refusal="",
            measures=tuple(dict.fromkeys(_words(kernel) for kernel in kernels if _words(kernel))),
            exactness="exact or interval" if any(_may_be_interval(each.find) for each in later) else "exact",
            reads=2 if later else 1,
            per_row=is_map,
        )


def own_expectations() -> Mapping[str, str]:
    """Return name -> what it expects, of the expectations that millcert adds to GX. Imports GX."""
    from millcert.checks import expectations_drift

    return {
        name: inspect.cleandoc(kind.docstring).split("\n", 1)[0]
        for name, kind in gx_adapter.registered().items()
        if kind.module == expectations_drift.__name__ and not kind.is_abstract
    }


def _may_be_interval(find: Any) -> bool:
    return isinstance(find, RefineQuantiles) or find.method == "iqr"


def _words(kernel: Kernel) -> str:
    """Return the first clause of a kernel's docstring."""
    return re.split("[.,:\\n]", type(kernel).__doc__ or "", maxsplit=1)[0]


def _plan(name: str, data_type: pa.DataType) -> MetricPlan | str:
    """Return the plan of an expectation on two columns of a type, or why the first try was refused."""
    schema = pa.schema([("a", data_type), ("b", data_type)])
    refusal = ""
    for arguments in _examples(name):
        document = {"name": "example", "expectations": [{"type": name, "kwargs": arguments}]}
        suite = load_suite(json.dumps(document).encode())
        try:
            return plan_suite(suite, schema)
        except PolicyError as error:
            faults: Any = error.details["faults"]
            refusal = refusal or str(faults[0]).split("): ", 1)[-1]
    return refusal


def _examples(name: str) -> Iterator[dict[str, Any]]:
    rest = _ARGUMENTS.get(name, {})
    for value in _VALUES if _VALUE in json.dumps(rest) else (None,):
        yield {**_columns(name), **_with(rest, value)}
    if name == "expect_column_kl_divergence_to_be_less_than":
        yield {**_columns(name), **_BINS}


def _columns(name: str) -> dict[str, Any]:
    if "_pair_" in name:
        return {"column_A": "a", "column_B": "b"}
    if name.startswith(("expect_multicolumn", "expect_compound", "expect_select")):
        return {"column_list": ["a", "b"]}
    return {"column": "a"} if name.startswith("expect_column_") else {}


def _with(arguments: Any, value: Any) -> Any:
    if isinstance(arguments, Mapping):
        return {key: _with(item, value) for key, item in arguments.items()}
    if isinstance(arguments, list):
        return [_with(item, value) for item in arguments]
    return value if arguments == _VALUE else arguments
