"""Our results are those of Great Expectations on one pandas frame of all rows, whatever the files, batches and order.

The oracle is GX itself, run as a user runs it (an ephemeral context, a dataframe asset, `batch.validate`), on
`Table.to_pandas()` with the index (file, row). Known differences, each with its own test below: floating sums (ours
are correctly rounded, pandas' last digits depend on its order; `known_of` bounds them, and what GX says of a value
within that of a limit is not compared), sums that are beyond float64 in one order only, float32 (ours is exact, pandas
adds in float32 and GX writes seven digits), integer columns with nulls (int64 here, float64 after `to_pandas`), LIKE
(GX has none on pandas).
"""

import json
import math
import sys
import warnings
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from millcert.checks.expectations import SuiteResult, evaluate_suite, load_suite, plan_suite
from millcert.checks.metric_columns import BatchView
from millcert.checks.metric_filter_parse import parse_row_condition
from millcert.checks.metric_plan import MetricPlan

Places = list[tuple[str, int]]
NUMERIC = ["i", "k", "f", "g", "n"]
MISSING_PAIR = ["both_values_are_missing", "either_value_is_missing", "neither"]
MISSING_RECORD = ["all_values_are_missing", "any_value_is_missing", "never"]


def expectation(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


@cache
def batch_definition() -> Any:
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("oracle")
    return source.add_dataframe_asset("asset").add_batch_definition_whole_dataframe("all")


def by_great_expectations(
    table: pa.Table, asked: Sequence[dict[str, Any]], result_format: str, places: Places
) -> list[dict[str, Any]]:
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from great_expectations.core import ExpectationSuite

        batch = batch_definition()
        frame = table.to_pandas()
        frame.index = pd.MultiIndex.from_arrays([[file for file, _ in places], [row for _, row in places]])
        suite = ExpectationSuite(name="suite", expectations=[dict(entry) for entry in asked])
        results = batch.get_batch({"dataframe": frame}).validate(suite, result_format=result_format)
    document: list[dict[str, Any]] = results.to_json_dict()["results"]
    for result in document:
        result["expectation_config"]["kwargs"].pop("batch_id", None)
    return document


def by_us(
    table: pa.Table, asked: Sequence[dict[str, Any]], result_format: Any, files: Sequence[int], size: int
) -> tuple[SuiteResult, Places]:
    """Measure a table as files of so many rows in batches of `size`, added in reverse order."""
    suite = load_suite(json.dumps({"name": "suite", "expectations": list(asked)}).encode())
    plan = plan_suite(suite, table.schema, result_format=result_format)
    accs, places, start = [], [], 0
    for number, rows in enumerate(files):
        name = f"part-{number}.parquet"
        for first in range(0, rows, size):
            batch = table.slice(start + first, min(size, rows - first)).combine_chunks().to_batches()[0]
            accs.append(plan.add(plan.empty(), batch, name, np.arange(first, first + batch.num_rows)))
        places += [(name, row) for row in range(rows)]
        start += rows
    accs.reverse()
    merged = plan.merge([plan.merge(accs[::2]), plan.merge(accs[1::2])])
    return evaluate_suite(
        suite, plan, merged, table.schema, second=read_again(plan.second(merged), table, files)
    ), places


def read_again(plan: MetricPlan, table: pa.Table, files: Sequence[int]) -> Any:
    """Measure with the second plan, a file a batch."""
    accs, start = [plan.empty()], 0
    for number, rows in enumerate(files):
        if rows:
            batch = table.slice(start, rows).combine_chunks().to_batches()[0]
            accs.append(plan.add(plan.empty(), batch, f"part-{number}.parquet", np.arange(rows)))
        start += rows
    return plan.merge(reversed(accs))


def is_same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(is_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    if isinstance(theirs, float) and not math.isfinite(theirs):
        return bool(ours == str(float(theirs)))  # JSON has no NaN and no infinity
    return bool(ours == theirs)


class Known(NamedTuple):
    """A column's statistics, exact, and how far pandas' may be from them, whatever the order of its rows."""

    total: float
    mean: Fraction
    deviation: float
    of_total: float
    of_mean: float
    of_deviation: float


def known_of(numbers: Sequence[float]) -> Known | None:
    """Return statistics of numbers with bounds of rounding errors; None where float64 cannot hold them, or of nothing.

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), (4.4) for a sum in any order: its error is
    at most (n - 1) u times the sum of sizes (u = 2^-53); (1.6) for the two-pass variance, whose error is (n + 3) u of
    itself, and the square of the mean's. A square below 2^-1074 is lost. One rounding of ours comes on top.
    """
    n, unit = len(numbers), 2.0**-53
    if not n or not all(map(math.isfinite, numbers)):
        return None
    exact = [Fraction(number) for number in numbers]
    total, size = sum(exact, Fraction(0)), sum(map(abs, exact), Fraction(0))
    squared = sum(((number - total / n) ** 2 for number in exact), Fraction(0))
    if max(size, squared) > Fraction(sys.float_info.max):
        return None
    deviation = math.sqrt(squared / (n - 1)) if n > 1 else 0.0
    of_total = n * unit * float(size)
    of_mean = of_total / n + unit * abs(float(total / n))
    of_deviation = (n + 4) * unit * deviation + 2 * of_mean + math.sqrt(n) * 2.0**-537
    return Known(float(total), total / n, deviation, of_total, of_mean, of_deviation)


def is_within_rounding(ours: dict[str, Any], theirs: dict[str, Any], table: pa.Table) -> bool:
    """Return whether two results differ by no more than what pandas' rounding may do, in some order of the rows."""
    kind, kwargs = theirs["expectation_config"]["type"], theirs["expectation_config"]["kwargs"]
    known = known_of(numbers_of(table, kwargs))
    if known is None or theirs["exception_info"]["raised_exception"]:
        return False
    match kind:
        case "expect_column_sum_to_be_between":
            return is_near(ours, theirs, known.total, known.of_total)
        case "expect_column_mean_to_be_between":
            return is_near(ours, theirs, float(known.mean), known.of_mean)
        case "expect_column_stdev_to_be_between":
            return is_near(ours, theirs, known.deviation, known.of_deviation)
        case "expect_column_value_z_scores_to_be_less_than":
            edges = [kwargs["threshold"], *([-kwargs["threshold"]] if kwargs["double_sided"] else [])]
        case "expect_column_values_to_not_be_outliers" if kwargs.get("method") == "std":
            edges = [kwargs["multiplier"], -kwargs["multiplier"]]
        case _:
            return False
    slack = 4 * (known.of_mean + known.of_deviation)
    from_mean = [float(Fraction(number) - known.mean) for number in numbers_of(table, kwargs)]
    return any(abs(distance - edge * known.deviation) <= slack for distance in from_mean for edge in edges)


def numbers_of(table: pa.Table, kwargs: dict[str, Any]) -> list[float]:
    """Return the numbers that an expectation is about."""
    name, condition = kwargs.get("column"), kwargs.get("row_condition")
    if name not in [*NUMERIC, "b"] or not table.num_rows:
        return []
    column = table[name]
    if condition is not None:
        view = BatchView(table.combine_chunks().to_batches()[0], "all", np.arange(table.num_rows))
        column = column.filter(pa.array(parse_row_condition(condition, table.schema).mask(view)))
    return [number for number in column.to_pylist() if number is not None and not math.isnan(number)]


def is_near(ours: dict[str, Any], theirs: dict[str, Any], exact: float, slack: float) -> bool:
    """Return whether both observed values are so near to the exact one, and successes differ by a limit's rounding."""
    kwargs = theirs["expectation_config"]["kwargs"]
    observed = [each["result"]["observed_value"] for each in (ours, theirs) if "observed_value" in each["result"]]
    is_at_limit = any(abs(exact - kwargs[end]) <= slack for end in ("min_value", "max_value") if end in kwargs)
    return (ours["success"] == theirs["success"] or is_at_limit) and all(
        isinstance(value, float | int) and abs(value - exact) <= slack for value in observed
    )


def assert_identical(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], table: pa.Table) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        if not is_same(mine, other) and not is_within_rounding(mine, other, table):
            assert mine == other


#: What a column may hold besides: of numbers near the end of float64 and infinities only some, so that sums do not
#: depend on the order (`test_a_sum_beyond_float64_in_one_order_only...` has the rest).
WILD = [
    [math.nan, math.inf, -math.inf],
    [math.nan, math.inf, 1e308],
    [math.nan, -math.inf, -1e308],
    [1e308, 3e-162],
    [-1.7976931348623157e308, 1e-155],
    [1e200, -1e200, 1e-200],
    [1e154, -1e154, 1.5e154],
]


def random_table() -> st.SearchStrategy[pa.Table]:
    return st.sampled_from(WILD).flatmap(random_table_with)


def random_table_with(wild_numbers: list[float]) -> st.SearchStrategy[pa.Table]:
    number = st.sampled_from([0.0, -0.0, 0.1, 1.0, 1.5, 2.0, -3.25, 5e-324]) | st.floats(-5, 5)
    wild = number | st.sampled_from(wild_numbers)
    text = st.sampled_from(["", "a", "ab", "é", "日本", "a\n", "1", "12", "٣", "2020-01-01", "😀x", "{}", "A b\t"])
    hour = st.integers(0, 5).map(lambda hours: datetime(2020, 1, 1) + timedelta(hours=hours))
    day = st.integers(0, 5).map(lambda days: date(2020, 1, 1) + timedelta(days=days))
    columns: list[tuple[str, pa.DataType, st.SearchStrategy[Any]]] = [
        ("i", pa.int64(), st.integers(-4, 4)),
        ("k", pa.int64(), st.none() | st.integers(-3, 3)),
        ("n", pa.float64(), st.none()),
        ("f", pa.float64(), st.none() | wild),
        ("g", pa.float64(), st.none() | number),
        ("s", pa.string(), st.none() | text),
        ("s2", pa.string(), text),
        ("t", pa.timestamp("us"), st.none() | hour),
        ("d", pa.date32(), st.none() | day),
        ("b", pa.bool_(), st.booleans()),
    ]
    row = st.tuples(*(strategy for _, _, strategy in columns))
    return st.lists(row, max_size=25).map(
        lambda rows: pa.table(
            {name: pa.array([row[i] for row in rows], kind) for i, (name, kind, _) in enumerate(columns)}
        )
    )


ALL = [*NUMERIC, "s", "s2", "t", "d", "b"]
RANGE = {"min_value": -2, "max_value": 1.5}


def every_expectation() -> list[dict[str, Any]]:
    """Return expectations of all supported kinds on columns of all families."""
    ranges = {"quantiles": [0.0, 0.3, 0.5, 1.0], "value_ranges": [[0, 2], [None, 6], [1, None], [0, 1]]}
    return [
        expectation("table_row_count_to_be_between", min_value=1, max_value=10),
        expectation("table_row_count_to_equal", value=5),
        expectation("table_columns_to_match_set", column_set=["i", "zz"]),
        expectation("table_columns_to_match_ordered_list", column_list=["i", "k", "n"]),
        expectation("table_column_count_to_equal", value=10),
        expectation("table_column_count_to_be_between", min_value=1, max_value=3),
        expectation("column_to_exist", column="zz"),
        *(expectation("column_values_to_not_be_null", column=c, mostly=0.5) for c in ALL),
        *(expectation("column_values_to_be_null", column=c) for c in ALL),
        *(expectation("column_values_to_be_unique", column=c) for c in ALL),
        *(expectation("column_unique_value_count_to_be_between", column=c, max_value=3) for c in ALL),
        *(expectation("column_proportion_of_unique_values_to_be_between", column=c, max_value=0.5) for c in ALL),
        *(expectation("column_proportion_of_non_null_values_to_be_between", column=c, min_value=0.5) for c in ALL),
        *(expectation("column_most_common_value_to_be_in_set", column=c, value_set=["a", 1]) for c in ALL),
        *(expectation("column_values_to_be_between", column=c, **RANGE) for c in [*NUMERIC, "b"]),
        expectation("column_values_to_be_between", column="g", min_value=0, strict_min=True, mostly=0.5),
        expectation("column_values_to_be_between", column="i", max_value=1.5, strict_max=True),
        expectation("column_values_to_be_between", column="t", min_value="2020-01-01T02:00:00"),
        expectation("column_values_to_be_between", column="d", min_value="2020-01-02", max_value="2020-01-03"),
        *(expectation("column_values_to_be_in_set", column=c, value_set=[1, -1.5, 0, "a"]) for c in NUMERIC),
        *(expectation("column_values_to_not_be_in_set", column=c, value_set=[1, 0.1, 0]) for c in NUMERIC),
        expectation("column_values_to_be_in_set", column="s", value_set=["a", "é", 1]),
        expectation("column_values_to_not_be_in_set", column="s", value_set=["a", "日本"]),
        expectation("column_values_to_not_be_in_set", column="t", value_set=["2020-01-01T01:00:00"]),
        *(
            expectation("column_values_to_match_regex", column="s", regex=regex)
            for regex in [r"^\w+$", r"\d", "a(?!b)", r"\s", "a$", "[^a]", "é|\n"]
        ),
        *(expectation("column_values_to_match_regex", column=c, regex="[13e]") for c in ["i", "b", "s2"]),
        expectation("column_values_to_not_match_regex", column="s", regex=r"\S", mostly=0.3),
        expectation("column_values_to_match_regex_list", column="s", regex_list=["a", r"\d+"]),
        expectation("column_values_to_match_regex_list", column="s", regex_list=["a", "b"], match_on="all"),
        expectation("column_values_to_not_match_regex_list", column="s", regex_list=["a", r"\d+"]),
        expectation("column_value_lengths_to_be_between", column="s", min_value=1, max_value=2),
        expectation("column_value_lengths_to_be_between", column="i", max_value=1, strict_max=True),
        expectation("column_value_lengths_to_equal", column="s2", value=2),
        *(
            expectation(f"column_{what}_to_be_between", column=c, **RANGE)
            for what in ["mean", "sum", "stdev", "min", "max"]
            for c in [*NUMERIC, "b"]
        ),
        *(expectation("column_median_to_be_between", column=c, **RANGE) for c in NUMERIC),
        expectation("column_min_to_be_between", column="t", min_value="2020-01-01T02:00:00"),
        expectation("column_max_to_be_between", column="d", min_value="2020-01-02"),
        *(
            expectation(
                "column_quantile_values_to_be_between", column=c, quantile_ranges=ranges, allow_relative_error=h
            )
            for c, h in [
                ("i", False),
                ("f", "nearest"),
                ("f", "linear"),
                ("f", "midpoint"),
                ("f", "higher"),
                ("i", "linear"),
                ("g", "linear"),
                ("k", "midpoint"),
                ("g", "lower"),
                ("n", False),
            ]
        ),
        *(expectation("column_distinct_values_to_be_in_set", column=c, value_set=[1, 0.1]) for c in NUMERIC),
        *(expectation("column_distinct_values_to_contain_set", column=c, value_set=[1]) for c in [*NUMERIC, "b"]),
        expectation("column_distinct_values_to_equal_set", column="s", value_set=["a"]),
        expectation("column_distinct_values_to_equal_set", column="d", value_set=["2020-01-02"]),
        expectation("column_distinct_values_to_be_in_set", column="t", value_set=["2020-01-01T01:00:00"]),
        expectation(
            "column_kl_divergence_to_be_less_than",
            column="s2",
            partition_object={"values": ["a", "é"], "weights": [0.5, 0.5]},
            threshold=0.1,
            tail_weight_holdout=0.1,
        ),
        expectation(
            "column_kl_divergence_to_be_less_than",
            column="g",
            partition_object={"bins": [-5, 0, 1.5, 5], "weights": [0.3, 0.3, 0.4]},
            threshold=0.1,
        ),
        *(expectation("column_values_to_be_increasing", column=c, strictly=True) for c in ["i", "f", "t"]),
        *(expectation("column_values_to_be_decreasing", column=c) for c in ["i", "f", "t", "n"]),
        expectation("column_values_to_match_strftime_format", column="s", strftime_format="%Y-%m-%d"),
        expectation("column_values_to_be_dateutil_parseable", column="s"),
        expectation("column_values_to_be_json_parseable", column="s"),
        *(
            expectation("column_pair_values_to_be_equal", column_A="i", column_B="k", ignore_row_if=missing)
            for missing in MISSING_PAIR
        ),
        expectation("column_pair_values_to_be_equal", column_A="s", column_B="s2"),
        expectation("column_pair_values_a_to_be_greater_than_b", column_A="i", column_B="g"),
        expectation("column_pair_values_a_to_be_greater_than_b", column_A="f", column_B="k", or_equal=True),
        expectation(
            "column_pair_values_to_be_in_set", column_A="k", column_B="s", value_pairs_set=[[1, "a"], [None, "é"]]
        ),
        expectation("multicolumn_sum_to_equal", column_list=["i", "g", "k"], sum_total=2),
        *(
            expectation("multicolumn_values_to_be_equal", column_list=["i", "k"], ignore_row_if=missing)
            for missing in MISSING_RECORD
        ),
        expectation("select_column_values_to_be_unique_within_record", column_list=["s", "s2"]),
        expectation("select_column_values_to_be_unique_within_record", column_list=["i", "k", "g"]),
        *(
            expectation("compound_columns_to_be_unique", column_list=columns, ignore_row_if=missing)
            for columns, missing in zip([["i", "k"], ["s", "b"], ["d", "t"]], MISSING_RECORD, strict=True)
        ),
        *(
            expectation("column_values_to_be_of_type", column=c, type_=kind)
            for c, kind in [("i", "int64"), ("g", "int"), ("s", "str"), ("d", "object"), ("d", "int")]
        ),
        expectation("column_type_to_be", column="i", type_="int64"),
        expectation("column_values_to_be_in_type_list", column="i", type_list=["float64", "int64"]),
        expectation("column_values_to_be_in_type_list", column="d", type_list=["float64", "int"]),
        *(
            expectation("column_value_z_scores_to_be_less_than", column=c, threshold=threshold, double_sided=both)
            for c in NUMERIC
            for threshold, both in [(0.5, True), (1, False), (-1.5, True), (-0.5, False)]
        ),
        *(
            expectation("column_values_to_not_be_outliers", column=c, method=method, multiplier=multiplier, mostly=0.6)
            for c in NUMERIC
            for method, multiplier in [("iqr", 1.5), ("iqr", 0.25), ("std", 1), ("std", 0.3)]
        ),
        *conditioned(),
    ]


def conditioned() -> list[dict[str, Any]]:
    """Return expectations about some of the rows: all kinds of metric, all forms of condition."""

    def compares(column: str, operator: str, parameter: Any) -> dict[str, Any]:
        return {"type": "comparison", "column": {"name": column}, "operator": operator, "parameter": parameter}

    conditions: list[Any] = [
        *(compares(c, sign, 1) for c in ["i", "k", "f"] for sign in ["==", "!=", "<", "<=", ">", ">="]),
        *(compares("s", sign, "ab") for sign in ["==", "!=", "<", ">="]),
        *(compares(c, sign, [1, -2.5, 0]) for c in ["i", "k", "g"] for sign in ["IN", "NOT_IN"]),
        *(compares("s", sign, ["a", "é"]) for sign in ["IN", "NOT_IN"]),
        compares("b", "==", True),
        compares("b", "!=", True),
        compares("t", ">", "2020-01-01T02:00:00"),
        compares("t", "<=", "2020-01-01T02:00:00"),
        {"type": "nullity", "column": {"name": "f"}, "is_null": True},
        {"type": "nullity", "column": {"name": "d"}, "is_null": False},
        {"type": "and", "conditions": [compares("i", ">", 0), compares("s", "!=", "a")]},
        {"type": "or", "conditions": [compares("i", ">", 0), compares("k", "<", 0)]},
        "i > 0 & s == 'a' | not k <= 1",
        "-1 < `i` <= 2 and f.notnull()",
        "~(g >= 0.5) or s2 in ['a', 'é', \"|&\"]",
        "1 < k",
        "k not in [1, 2]",
    ]
    about: list[tuple[str, dict[str, Any]]] = [
        ("column_values_to_not_be_null", {"column": "s"}),
        ("column_values_to_be_between", {"column": "g", "min_value": 0}),
        ("column_values_to_be_unique", {"column": "k"}),
        ("column_mean_to_be_between", {"column": "g", "min_value": 0}),
        ("column_median_to_be_between", {"column": "i", "min_value": 0}),
        ("column_unique_value_count_to_be_between", {"column": "s", "max_value": 2}),
        ("column_proportion_of_non_null_values_to_be_between", {"column": "f", "min_value": 0.9}),
        ("column_values_to_be_increasing", {"column": "i"}),
        ("column_pair_values_a_to_be_greater_than_b", {"column_A": "i", "column_B": "k"}),
        ("compound_columns_to_be_unique", {"column_list": ["i", "s"]}),
        ("column_value_z_scores_to_be_less_than", {"column": "g", "threshold": 1, "double_sided": True}),
        ("column_max_to_be_between", {"column": "i", "max_value": 1}),
    ]
    asked = []
    for number, condition in enumerate(conditions):
        parser = {"condition_parser": "pandas"} if isinstance(condition, str) else {}
        for kind, kwargs in (about[number % len(about)], about[(5 * number + 1) % len(about)]):
            asked.append(expectation(kind, **kwargs, row_condition=condition, **parser))
    return asked


EVERY = every_expectation()


@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    table=random_table(),
    chosen=st.sets(st.integers(0, len(EVERY) - 1), min_size=25, max_size=40),
    result_format=st.sampled_from(["BOOLEAN_ONLY", "BASIC", "SUMMARY"]),
    cut=st.floats(0, 1),
    size=st.integers(1, 9),
)
def test_random_suites_on_random_data_give_the_json_of_great_expectations(
    table: pa.Table, chosen: set[int], result_format: str, cut: float, size: int
) -> None:
    """Rule: for every suite and data set, any files and batches, the result is that of GX on one frame."""
    asked = [EVERY[i] for i in sorted(chosen)]
    first = int(cut * table.num_rows)

    ours, places = by_us(table, asked, result_format, [first, table.num_rows - first], size)

    assert_identical(ours.json["results"], by_great_expectations(table, asked, result_format, places), table)


def fixed_table(rows: int) -> pa.Table:
    random = np.random.default_rng(11)
    numbers = random.integers(-4, 5, rows)
    absent = random.random(rows) < 0.1
    texts = np.array(["", "a", "ab", "é", "日本", "1", "2020-01-01", "{}"], dtype=object)[random.integers(0, 8, rows)]
    return pa.table(
        {
            "i": numbers,
            "k": pa.array(numbers, mask=absent),
            "n": pa.nulls(rows, pa.float64()),
            "f": pa.array(random.normal(size=rows), mask=absent),
            "g": random.integers(-8, 8, rows) / 4,
            "s": pa.array(texts, pa.string(), mask=absent),
            "s2": pa.array(texts, pa.string()),
            "t": pa.array(random.integers(0, 5, rows) * 3_600_000_000 + 1_577_836_800_000_000).cast(pa.timestamp("us")),
            "d": pa.array(random.integers(18262, 18267, rows).astype(np.int32)).cast(pa.date32()),
            "b": random.random(rows) < 0.5,
        }
    )


@pytest.mark.parametrize("result_format", ["BASIC", "SUMMARY"])
def test_every_kind_gives_the_json_of_great_expectations(result_format: str) -> None:
    table = fixed_table(400)

    ours, places = by_us(table, EVERY, result_format, [150, 0, 250], 64)

    assert_identical(ours.json["results"], by_great_expectations(table, EVERY, result_format, places), table)


def test_a_complete_result_differs_only_where_pandas_lists_without_bound() -> None:
    """Below 200 failing rows it is GX's own, but for the pandas query that would find them again in one frame."""
    table = fixed_table(150)
    ours, places = by_us(table, EVERY[::3], "COMPLETE", [70, 80], 64)

    theirs = by_great_expectations(table, EVERY[::3], "COMPLETE", places)

    results = ours.json["results"]
    for result in [*results, *theirs]:
        result["result"].pop("unexpected_index_query", None)
    assert_identical(results, theirs, table)


def test_decimals_are_judged_exactly_as_by_great_expectations() -> None:
    """Few rows: GX walks the whole call stack for each decimal that it writes."""
    table = pa.table({"x": pa.array([Decimal("0.25"), Decimal("0.50"), Decimal("0.50"), Decimal("-1.75")])})
    asked = [
        expectation("column_values_to_be_unique", column="x"),
        expectation("column_values_to_be_between", column="x", min_value=0.3),
        expectation("column_values_to_be_in_set", column="x", value_set=[0.25, -1.75, "a"]),
        expectation("column_min_to_be_between", column="x", min_value=-1.75),
        expectation("column_mean_to_be_between", column="x", max_value=0),
        expectation("column_stdev_to_be_between", column="x", max_value=0),
        expectation("column_distinct_values_to_be_in_set", column="x", value_set=[0.25, 0.5]),
        expectation("column_most_common_value_to_be_in_set", column="x", value_set=[0.5]),
        expectation("column_values_to_be_of_type", column="x", type_="float64"),
    ]

    ours, places = by_us(table, asked, "BASIC", [1, 3], 2)

    assert_identical(ours.json["results"], by_great_expectations(table, asked, "BASIC", places), table)


def test_a_whole_result_is_a_genuine_one() -> None:
    """GX's own classes read our JSON back."""
    table = fixed_table(20)
    ours, _ = by_us(table, EVERY[:20], "SUMMARY", [20], 7)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from great_expectations.core.expectation_validation_result import (
            expectationSuiteValidationResultSchema,
        )

        read = expectationSuiteValidationResultSchema.load(ours.json)

    assert read.success is ours.success
    assert read.statistics["evaluated_expectations"] == 20
    assert len(read.results) == 20


def test_a_sum_is_the_correctly_rounded_one_where_pandas_depends_on_order() -> None:
    numbers = [1e16, 1.0, -1e16, 1.0] * 50
    asked = [expectation("column_sum_to_be_between", column="x", min_value=0)]

    ours, _ = by_us(pa.table({"x": numbers}), asked, "BASIC", [200], 7)

    assert ours.outcomes[0].observed == math.fsum(numbers) == 100.0


def test_a_sum_beyond_float64_in_one_order_only_is_the_exact_one_in_every_order() -> None:
    """GX's own answer changes with the rows' order there: pandas adds them up in that order."""
    asked = [expectation(f"column_{what}_to_be_between", column="f", min_value=0) for what in ("sum", "mean")]
    orders = [[1e308, -1e308, 1e308], [1e308, 1e308, -1e308]]

    answers = [
        [
            (mine.observed, other["result"]["observed_value"])
            for mine, other in zip(ours.outcomes, by_great_expectations(table, asked, "BASIC", places), strict=True)
        ]
        for table in (pa.table({"f": numbers}) for numbers in orders)
        for ours, places in [by_us(table, asked, "BASIC", [3], 2)]
    ]

    assert answers[0] == [(1e308, 1e308), (1e308 / 3, 1e308 / 3)]
    assert answers[1] == [(1e308, math.inf), (1e308 / 3, math.inf)]


def test_integers_are_summed_beyond_int64_where_pandas_wraps_around() -> None:
    asked = [expectation("column_sum_to_be_between", column="i", min_value=0)]
    table = pa.table({"i": pa.array([2**62, 2**62], pa.int64())})

    ours, places = by_us(table, asked, "BASIC", [2], 1)
    (theirs,) = by_great_expectations(table, asked, "BASIC", places)

    assert ours.outcomes[0].observed == 2**63
    assert theirs["result"]["observed_value"] == -(2**63)


def test_float32_is_exact_where_pandas_rounds() -> None:
    numbers = pa.array(np.random.default_rng(2).random(1000, dtype=np.float32))
    asked = [expectation("column_sum_to_be_between", column="x", min_value=0)]
    table = pa.table({"x": numbers})

    ours, places = by_us(table, asked, "BASIC", [1000], 100)
    (theirs,) = by_great_expectations(table, asked, "BASIC", places)

    assert ours.outcomes[0].observed == math.fsum(numbers.to_pylist())
    assert ours.outcomes[0].observed == pytest.approx(theirs["result"]["observed_value"], rel=1e-6)


def test_an_integer_column_with_nulls_stays_an_integer_column() -> None:
    table = pa.table({"k": pa.array([1, None], pa.int64())})
    asked = [expectation("column_values_to_be_of_type", column="k", type_="int64")]

    ours, places = by_us(table, asked, "BASIC", [2], 2)
    (theirs,) = by_great_expectations(table, asked, "BASIC", places)

    assert ours.success
    assert theirs["result"]["observed_value"] == "float64"


def test_like_patterns_are_answered_though_pandas_has_none() -> None:
    table = pa.table({"s": ["ab", "b", None, "a"]})
    asked = [
        expectation("column_values_to_match_like_pattern", column="s", like_pattern="a%"),
        expectation("column_values_to_not_match_like_pattern", column="s", like_pattern="a_"),
        expectation("column_values_to_match_like_pattern_list", column="s", like_pattern_list=["a%", "b"]),
        expectation("column_values_to_not_match_like_pattern_list", column="s", like_pattern_list=["x", "_b"]),
    ]

    ours, _ = by_us(table, asked, "SUMMARY", [4], 2)

    assert [outcome.unexpected_count for outcome in ours.outcomes] == [1, 1, 0, 1]
