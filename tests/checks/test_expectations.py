"""Suites: what is read, what is refused by name, what is inconclusive, and what a result says."""

import json
import pickle  # noqa: TID251 - parts travel between workers this way; the test reads only what it wrote
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.expectations import SuiteResult, evaluate_suite, load_suite, plan_suite
from millcert.checks.metric_plan import MetricPlan
from millcert.errors import InconclusiveError, InternalError, PolicyError

TABLE = pa.table(
    {
        "i": pa.array([1, 2, 2, None], pa.int64()),
        "f": pa.array([0.5, float("nan"), 1.5, 1.5]),
        "s": pa.array(["a", "b", None, "a"]),
        "j": pa.array(['{"a": 1}', "{", "[]", None]),
        "t": pa.array([datetime(2020, 1, 1)] * 4, pa.timestamp("us")),
        "z": pa.array([datetime(2020, 1, 1, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC")),
        "d": pa.array([0, 1, 2, 3], pa.int32()).cast(pa.date32()),
        "l": pa.array([[1], None, [2], []]),
        "b": pa.array([True, False, None, True]),
    }
)


def expectation(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


def suite_json(*expectations: dict[str, Any], **extra: Any) -> bytes:
    return json.dumps({"name": "suite", "expectations": list(expectations), **extra}).encode()


def run(*expectations: dict[str, Any], table: pa.Table = TABLE, result_format: Any = "SUMMARY") -> SuiteResult:
    suite = load_suite(suite_json(*expectations))
    plan = plan_suite(suite, table.schema, result_format=result_format)
    acc = measured(plan, table)
    return evaluate_suite(suite, plan, acc, table.schema, second=measured(plan.second(acc), table))


def measured(plan: MetricPlan, table: pa.Table) -> Any:
    batch = table.combine_chunks().to_batches()[0]
    return plan.merge([plan.add(plan.empty(), batch, "f.parquet", np.arange(table.num_rows))])


def refusal(*expectations: dict[str, Any]) -> str:
    with pytest.raises(PolicyError) as caught:
        plan_suite(load_suite(suite_json(*expectations)), TABLE.schema)
    return caught.value.message


def test_a_suite_is_read_with_a_digest_of_its_content() -> None:
    one = load_suite(suite_json(expectation("column_to_exist", column="a")))
    other = load_suite(
        json.dumps(json.loads(suite_json(expectation("column_to_exist", column="a"))), indent=3).encode()
    )

    assert one == other
    assert len(one.digest) == 64
    assert one.expectations[0]["kwargs"] == {"column": "a"}
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected an object"),
        (b'{"name": "x", "name": "y", "expectations": []}', "twice"),
        (b'{"name": "x", "expectations": [{"type": "t", "kwargs": {"a": NaN}}]}', "NaN"),
        (b'{"name": "x", "expectations": []}', "no expectations"),
        (b'{"expectations": [{"type": "t", "kwargs": {}}]}', "no name"),
        (b'{"name": "x", "expectations": [{"kwargs": {}}]}', "no type"),
        (b'{"name": "x", "expectations": [{"type": "t"}]}', "no kwargs"),
        (b'{"name": "x", "expectations": [{"type": "t", "kwargs": {}, "mostly": 1}]}', "unknown key 'mostly'"),
        (b'{"name": "x", "typo": 1, "expectations": [{"type": "t", "kwargs": {}}]}', "unknown key 'typo'"),
        (b'{"expectation_suite_name": "x", "expectations": []}', "0.x"),
        (b'{"name": "x", "suite_parameters": {"a": 1}, "expectations": [{"type": "t", "kwargs": {}}]}', "parameters"),
        (b" " * (16 * 2**20 + 1), "bytes"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        load_suite(data)


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (expectation("column_values_to_be_lovely", column="i"), "expect_column_values_to_be_lovely"),
        (expectation("column_values_to_be_in_set", column="nope", value_set=[1]), "nope"),
        (expectation("column_mean_to_be_between", column="nope", min_value=1), "nope"),
        (expectation("column_mean_to_be_between", column="s", min_value=1), "column.mean"),
        (expectation("column_median_to_be_between", column="b", min_value=1), "column.median"),
        (expectation("column_mean_to_be_between", column="i", typo=1), "typo"),
        (expectation("column_values_to_be_between", column="i"), "min_value"),
        (expectation("column_values_to_be_between", column="i", min_value=2, max_value=1), "greater"),
        (expectation("column_values_to_be_between", column="s", min_value=2), "between"),
        (expectation("column_values_to_be_between", column="t", min_value=2), "compared"),
        (expectation("column_values_to_be_between", column="t", min_value="2020-01-01T00:00:00Z"), "zone"),
        (expectation("column_values_to_be_between", column="z", min_value="2020-01-01T00:00:00"), "zone"),
        (expectation("column_values_to_be_between", column="d", min_value="2020-01-01T01:00:00"), "date column"),
        (expectation("column_values_to_be_in_set", column="t", value_set=["2020-01-01"]), "in_set"),
        (expectation("column_values_to_not_be_in_set", column="t", value_set=["no"]), "ISO 8601"),
        (expectation("column_values_to_not_be_in_set", column="t", value_set=[1]), "compared"),
        (expectation("column_distinct_values_to_be_in_set", column="l", value_set=[1]), "distinct"),
        (expectation("column_values_to_match_regex", column="s", regex="("), "cannot be compiled"),
        (expectation("column_values_to_match_regex", column="f", regex="a"), "match_regex"),
        (expectation("column_values_to_match_regex_list", column="s", regex_list=[]), "regex_list"),
        (expectation("column_value_lengths_to_be_between", column="s"), "min_value"),
        (expectation("column_values_to_match_strftime_format", column="i", strftime_format="%Y"), "strftime"),
        (expectation("column_values_to_match_json_schema", column="j", json_schema={"type": 7}), "JSON Schema"),
        (
            expectation("column_values_to_match_json_schema", column="j", json_schema={"$ref": "http://x/y"}),
            "nothing is fetched",
        ),
        (expectation("column_values_to_be_of_type", column="l", type_="list"), "no name in pandas"),
        (expectation("column_values_to_be_of_type", column="d", type_="nonsense"), "nonsense"),
        (expectation("column_value_z_scores_to_be_less_than", column="s", threshold=2, double_sided=True), "z_score"),
        (expectation("column_values_to_not_be_outliers", column="b", method="iqr"), "outliers"),
        (expectation("column_values_to_not_be_outliers", column="f", method="mad"), "mad"),
        (expectation("column_values_to_not_be_outliers", column="f", method="iqr", multiplier=-1), "multiplier"),
        (expectation("column_kl_divergence_to_be_less_than", column="s", threshold=1), "partition_object"),
        (expectation("column_pair_values_to_be_equal", column_A="i", column_B="i"), "themselves"),
        (expectation("column_pair_values_to_be_equal", column_A="i", column_B="s"), "cannot compare"),
        (expectation("column_pair_values_to_be_in_set", column_A="i", column_B="t", value_pairs_set=[]), "knows"),
        (expectation("multicolumn_sum_to_equal", column_list=["s", "j"], sum_total=1), "adds numbers"),
        (expectation("compound_columns_to_be_unique", column_list=["i", "l"]), "compound"),
        (expectation("table_row_count_to_equal_other_table", other_table_name="t"), "another table"),
        ({"type": "unexpected_rows_expectation", "kwargs": {"unexpected_rows_query": "SELECT 1"}}, "a SQL query"),
        (expectation("query_results_to_match_comparison", base_query="SELECT 1"), "two SQL queries"),
        (expectation("column_mean_to_be_between", column="i", min_value={"$PARAMETER": "m"}), "parameter"),
        *(
            (
                expectation(
                    "column_mean_to_be_between", column="i", min_value=1, row_condition=text, condition_parser="pandas"
                ),
                words,
            )
            for text, words in [
                ("i >", "cannot be read"),
                ("i > (", "cannot be read"),
                ("nope > 1", "nope"),
                ("`no such` > 1", "no such"),
                ("i > j", "Name"),
                ("i + 1 > 2", "BinOp"),
                ("@i > 2", "cannot be read"),
                ("__import__('os').system('x')", "Call"),
                ("i.map(print)", "Call"),
                ("s.str.len() > 1", "Call"),
                ("i", "Name"),
                ("i is 1", "Is"),
                ("i in [s]", "Name"),
                ("i == [1, 2]", "List"),
                ("[1] in i", "List"),
                ("i in 1", "Constant"),
                ("i > -'a'", "UnaryOp"),
                ("i == None", "Constant"),
                ("i == 'a'", "cannot be compared"),
                ("i in ['a']", "cannot be compared"),
                ("i == True", "cannot be compared"),
                ("i < 1e999", "cannot be compared"),
                ("s < 1", "cannot be compared"),
                ("b in [True]", "cannot be compared"),
                ("b > False", "no order"),
                ("d > '2020-01-01'", "cannot be compared"),
                ("t == '2020-01-01'", "never finds equal"),
                ("t > '2020-01-01T00:00:00Z'", "zone"),
                ("t > 5", "cannot be compared"),
                ("(" * 5_000 + "i > 1" + ")" * 5_000, "characters"),
                ("not " * 2_000 + "i > 1", "cannot be read"),
            ]
        ),
        (
            expectation(
                "column_mean_to_be_between",
                column="i",
                min_value=1,
                row_condition={"type": "comparison", "column": {"name": "i"}, "operator": "IN", "parameter": ["a"]},
            ),
            "cannot be compared",
        ),
        (expectation("column_mean_to_be_between", column="i", min_value=1, row_condition={"type": "sql"}), "sql"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name_before_any_read(refused: dict[str, Any], words: str) -> None:
    message = refusal(expectation("column_to_exist", column="i"), refused)

    assert words in message
    assert "expectation 1" in message
    assert refused["type"] in message


def test_all_refusals_are_reported_at_once() -> None:
    suite = load_suite(
        suite_json(
            expectation("column_mean_to_be_between", column="s", min_value=1),
            expectation("column_to_exist", column="i"),
            expectation("column_mean_to_be_between", column="nope", min_value=1),
        )
    )

    with pytest.raises(PolicyError) as caught:
        plan_suite(suite, TABLE.schema)

    assert len(caught.value.faults) == 2  # type: ignore[arg-type] # served by name
    assert "expectation 0" in caught.value.message
    assert "expectation 2" in caught.value.message


def test_two_columns_of_one_name_cannot_be_told_apart() -> None:
    schema = pa.schema([("x", pa.int64()), ("x", pa.int64())])

    with pytest.raises(PolicyError, match="more than one"):
        plan_suite(load_suite(suite_json(expectation("column_mean_to_be_between", column="x", min_value=1))), schema)


@pytest.mark.parametrize("result_format", ["ALL", "basic", ""])
def test_only_known_result_formats_are_made(result_format: Any) -> None:
    with pytest.raises(PolicyError, match="result_format"):
        run(expectation("column_to_exist", column="i"), result_format=result_format)


def test_a_missing_column_is_what_column_to_exist_is_about() -> None:
    result = run(expectation("column_to_exist", column="nope"))

    assert not result.success


def test_a_plan_answers_only_its_own_suite() -> None:
    plan = plan_suite(load_suite(suite_json(expectation("column_to_exist", column="i"))), TABLE.schema)
    other = load_suite(suite_json(expectation("column_to_exist", column="s")))

    with pytest.raises(PolicyError, match="another suite"):
        evaluate_suite(other, plan, plan.empty(), TABLE.schema)


def test_a_text_that_is_no_json_makes_its_schema_inconclusive() -> None:
    with pytest.raises(InconclusiveError) as caught:
        run(expectation("column_values_to_match_json_schema", column="j", json_schema={"type": "object"}))

    assert "expect_column_values_to_match_json_schema" in caught.value.message
    assert (caught.value.path, caught.value.row) == ("f.parquet", 1)


def test_json_texts_are_judged_by_their_schema() -> None:
    table = TABLE.select(["j"]).filter(pa.array([True, False, True, True]))

    result = run(
        expectation("column_values_to_match_json_schema", column="j", json_schema={"type": "object"}), table=table
    )

    assert result.outcomes[0].unexpected_count == 1


def test_an_answer_that_gx_cannot_compare_is_inconclusive() -> None:
    with pytest.raises(InconclusiveError, match="expect_column_max_to_be_between on s"):
        run(expectation("column_max_to_be_between", column="s", min_value=1))


def test_a_tie_among_too_many_values_is_inconclusive() -> None:
    table = pa.table({"u": np.arange(20_000)})

    with pytest.raises(InconclusiveError, match="equally common"):
        run(expectation("column_most_common_value_to_be_in_set", column="u", value_set=[1]), table=table)


def test_severities_are_told_apart() -> None:
    result = run(
        {**expectation("column_values_to_not_be_null", column="i"), "severity": "warning"},
        {**expectation("column_values_to_not_be_null", column="s"), "severity": "info"},
        expectation("column_values_to_not_be_null", column="f"),
        expectation("column_values_to_not_be_null", column="t"),
    )

    assert not result.success
    assert (result.critical_failures, result.warning_failures, result.info_failures) == (1, 1, 1)
    assert [outcome.severity for outcome in result.outcomes] == ["warning", "info", "critical", "critical"]


def test_mostly_is_a_part_of_the_values_that_are_there() -> None:
    kwargs = {"column": "s", "value_set": ["a"]}

    result = run(
        expectation("column_values_to_be_in_set", **kwargs, mostly=0.66),
        expectation("column_values_to_be_in_set", **kwargs, mostly=0.67),
    )

    assert [outcome.success for outcome in result.outcomes] == [True, False]
    assert result.outcomes[0].unexpected_count == 1
    assert result.outcomes[0].unexpected_fraction == pytest.approx(1 / 3)


def test_results_come_by_column_as_in_great_expectations() -> None:
    result = run(
        expectation("column_values_to_not_be_null", column="i"),
        expectation("table_row_count_to_equal", value=4),
        expectation("column_values_to_not_be_null", column="s"),
        expectation("column_max_to_be_between", column="i", max_value=2),
    )

    assert [(outcome.type, outcome.column) for outcome in result.outcomes] == [
        ("expect_column_values_to_not_be_null", "i"),
        ("expect_column_max_to_be_between", "i"),
        ("expect_table_row_count_to_equal", ""),
        ("expect_column_values_to_not_be_null", "s"),
    ]


def test_a_result_is_plain_strict_json() -> None:
    table = pa.table({"f": pa.array([float("inf"), 1.0])})

    result = run(expectation("column_max_to_be_between", column="f", max_value=2), table=table)

    assert result.outcomes[0].observed == "inf"
    assert json.loads(json.dumps(result.json, allow_nan=False)) == result.json
    assert json.dumps(result.outcomes[0]._asdict(), allow_nan=False)


def test_the_same_data_give_the_same_json_again() -> None:
    """No clock, no run id: an auditor can compare."""
    asked = [expectation("column_values_to_be_unique", column="i"), expectation("table_row_count_to_equal", value=4)]

    assert run(*asked).json == run(*asked).json


def test_a_failing_row_is_named_by_file_and_record() -> None:
    result = run(expectation("column_values_to_not_be_null", column="s"))

    assert result.json["results"][0]["result"]["partial_unexpected_index_list"] == [["f.parquet", 2]]


def test_a_long_repeated_text_is_listed_by_its_digest() -> None:
    table = pa.table({"s": ["y" * 300, "y" * 300, "x"]})

    result = run(expectation("column_values_to_be_unique", column="s"), table=table)

    assert result.outcomes[0].unexpected_count == 2
    assert result.json["results"][0]["result"]["partial_unexpected_list"][0].startswith("sha256:")


def quantile(low: float | None, high: float | None) -> dict[str, Any]:
    return expectation(
        "column_quantile_values_to_be_between",
        column="f",
        quantile_ranges={"quantiles": [0.5], "value_ranges": [[low, high]]},
    )


def test_a_quantile_of_very_many_values_says_that_it_is_an_interval() -> None:
    numbers = np.random.default_rng(1).normal(10, 3, 400_000)
    table = pa.table({"f": numbers})

    passing = run(quantile(9, 11), expectation("column_median_to_be_between", column="f", max_value=11), table=table)

    assert passing.success
    assert {outcome.exactness for outcome in passing.outcomes} == {"sketch"}
    assert passing.outcomes[0].detail.startswith("the value lies between")


@pytest.mark.parametrize("how", [False, "linear", "lower", "higher", "midpoint"])
def test_a_quantile_by_its_limit_is_made_exact_by_the_second_read(how: Any) -> None:
    numbers = np.random.default_rng(1).normal(10, 3, 400_000)
    true = float(np.quantile(numbers, 0.3, method=how or "nearest"))

    def quantile(least: float | None, most: float | None) -> dict[str, Any]:
        ranges = {"quantiles": [0.3], "value_ranges": [[least, most]]}
        kind = "column_quantile_values_to_be_between"
        return expectation(kind, column="f", quantile_ranges=ranges, allow_relative_error=how)

    most, least = true / (1 + 1e-4), true / (1 - 1e-4)  # GX accepts a quantile that is within 1e-4 of its limit
    result = run(
        quantile(None, most * (1 + 1e-6)),
        quantile(least * (1 - 1e-6), None),
        quantile(None, most * (1 - 1e-6)),
        quantile(least * (1 + 1e-6), None),
        table=pa.table({"f": numbers}),
    )

    assert [outcome.success for outcome in result.outcomes] == [True, True, False, False]
    assert {outcome.exactness for outcome in result.outcomes} == {"exact"}
    assert result.outcomes[0].observed["values"] == [true]


def test_a_median_by_its_limit_is_made_exact_by_the_second_read() -> None:
    numbers = np.random.default_rng(1).normal(10, 3, 400_000)
    true_median = float(np.median(numbers))
    rows = np.arange(400_000) % 2
    even = float(np.median(numbers[rows == 0]))

    result = run(
        expectation("column_median_to_be_between", column="f", max_value=true_median),
        expectation("column_median_to_be_between", column="f", min_value=true_median),
        expectation("column_median_to_be_between", column="f", min_value=true_median, strict_min=True),
        expectation("column_median_to_be_between", column="f", min_value=even, max_value=even)
        | {"kwargs": {"column": "f", "min_value": even, "max_value": even, "row_condition": "r == 0"}},
        table=pa.table({"f": numbers, "r": rows}),
    )

    assert [outcome.success for outcome in result.outcomes] == [True, True, False, True]
    assert [outcome.observed for outcome in result.outcomes] == [true_median] * 3 + [even]


def test_integers_are_made_exact_too() -> None:
    numbers = np.random.default_rng(2).integers(0, 10**9, 400_001)
    true_median = int(np.median(numbers))

    result = run(
        expectation("column_median_to_be_between", column="i", min_value=true_median, max_value=true_median),
        table=pa.table({"i": numbers}),
    )

    assert result.success
    assert result.outcomes[0].exactness == "exact"


def test_an_interval_that_the_second_read_cannot_resolve_passes_only_where_both_ends_do() -> None:
    spread = np.exp(np.linspace(-300, 300, 200_001))
    dense = 1.0 + np.arange(1, 300_001) * 2.0**-50  # 300,000 values that one bucket of the first read holds
    numbers = np.concatenate([spread, dense, [5.0, 6.0]])  # two more, so that the median ends no bucket
    true_median = float(np.median(numbers))

    result = run(
        expectation("column_median_to_be_between", column="f", max_value=true_median),
        expectation("column_median_to_be_between", column="f", min_value=true_median),
        table=pa.table({"f": numbers}),
    )

    assert [outcome.success for outcome in result.outcomes] == [False, False]
    assert {outcome.exactness for outcome in result.outcomes} == {"sketch"}
    low, high = map(float, result.outcomes[0].detail.removeprefix("the value lies between ").split(" and "))
    assert low <= true_median <= high <= low * (1 + 2.0**-47)


def test_a_quantile_far_from_its_limits_needs_no_second_read() -> None:
    table = pa.table({"f": np.random.default_rng(1).normal(10, 3, 400_000)})
    suite = load_suite(suite_json(expectation("column_median_to_be_between", column="f", min_value=9, max_value=11)))
    plan = plan_suite(suite, table.schema)

    assert plan.second(measured(plan, table)).kernels == ()


@pytest.mark.parametrize("multiplier", [1.5, 0.5])
def test_outliers_of_very_many_values_are_counted_at_both_ends_of_their_quartiles(multiplier: float) -> None:
    numbers = np.random.default_rng(3).normal(0, 1, 300_000)
    first, third = np.quantile(numbers, [0.25, 0.75])
    reach = multiplier * (third - first)
    count = int(((numbers < first - reach) | (numbers > third + reach)).sum())

    result = run(
        expectation("column_values_to_not_be_outliers", column="f", method="iqr", multiplier=multiplier),
        table=pa.table({"f": numbers}),
    )

    (outcome,) = result.outcomes
    low, high = map(int, outcome.detail.removeprefix("the value lies between ").split(" and "))
    assert outcome.exactness == "sketch"
    assert low <= count <= high <= low + 100


def test_a_suite_with_a_second_read_is_not_judged_without_it() -> None:
    suite = load_suite(
        suite_json(expectation("column_values_to_not_be_outliers", column="f", method="std", multiplier=1))
    )
    plan = plan_suite(suite, TABLE.schema)

    with pytest.raises(InternalError, match="second read"):
        evaluate_suite(suite, plan, measured(plan, TABLE), TABLE.schema)


def test_a_complete_result_lists_two_hundred_rows() -> None:
    result = run(
        expectation("column_values_to_be_null", column="i"),
        table=pa.table({"i": np.arange(1000)}),
        result_format="COMPLETE",
    )

    details = result.json["results"][0]["result"]
    assert details["unexpected_count"] == 1000
    assert len(details["unexpected_list"]) == len(details["unexpected_index_list"]) == 200


def test_nothing_is_sent_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GX must not phone home, and needs no project folder."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    run(expectation("column_values_to_be_unique", column="i"))

    assert list(tmp_path.iterdir()) == []


def test_workers_need_no_great_expectations_and_no_pandas() -> None:
    """What a worker imports: the plan, its kernels and conditions."""
    code = (
        "import sys, millcert.checks.metric_plan, millcert.checks.expectations\n"
        "heavy = {'great_expectations', 'pandas', 'scipy', 'jsonschema', 'apache_beam'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
