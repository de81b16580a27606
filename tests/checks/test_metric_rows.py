"""Every failing row is marked, with all its reasons, whatever the batches: as many as each expectation counts."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millcert.checks.expectations import evaluate_suite, load_suite, plan_suite
from millcert.checks.metric_columns import BatchView
from millcert.checks.metric_plan import MetricPlan
from millcert.checks.metric_rows import RowMarker, has_bit, mask_width


def expectation(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


ASKED = [
    expectation("table_row_count_to_equal", value=0),
    expectation("column_values_to_not_be_null", column="x"),
    expectation("column_values_to_be_null", column="x"),
    expectation("column_values_to_be_between", column="x", min_value=0, max_value=2),
    expectation("column_values_to_be_in_set", column="s", value_set=["a"]),
    expectation("column_values_to_be_unique", column="x"),
    expectation("column_values_to_be_unique", column="long"),
    expectation("compound_columns_to_be_unique", column_list=["i", "s"], ignore_row_if="any_value_is_missing"),
    expectation("column_pair_values_a_to_be_greater_than_b", column_A="i", column_B="x"),
    expectation("multicolumn_sum_to_equal", column_list=["i", "x"], sum_total=1),
    expectation("column_values_to_be_increasing", column="x", strictly=True),
    expectation("column_values_to_be_decreasing", column="i"),
    expectation("column_value_z_scores_to_be_less_than", column="x", threshold=1, double_sided=True),
    expectation("column_values_to_not_be_outliers", column="i", method="iqr", multiplier=0.5),
    expectation("column_values_to_not_be_outliers", column="x", method="std", multiplier=1),
    expectation(
        "column_values_to_be_between", column="x", min_value=1, row_condition="s == 'a'", condition_parser="pandas"
    ),
    expectation("column_values_to_be_unique", column="i", row_condition="x > 0", condition_parser="pandas"),
    expectation("column_values_to_be_increasing", column="i", row_condition="x > 0", condition_parser="pandas"),
    expectation("column_values_to_be_of_type", column="i", type_="int64"),
]
SCHEMA = pa.schema([("x", pa.float64()), ("i", pa.int64()), ("s", pa.string()), ("long", pa.string())])
SUITE = load_suite(json.dumps({"name": "suite", "expectations": ASKED}).encode())
ROW = st.tuples(
    st.none() | st.sampled_from([-1.0, 0.0, 1.0, 2.5, float("nan")]),
    st.none() | st.integers(-2, 3),
    st.none() | st.sampled_from(["a", "b"]),
    st.none() | st.sampled_from(["l" * 80, "m" * 90, "c"]),
)


@pytest.fixture(scope="module")
def plan() -> MetricPlan:
    return plan_suite(SUITE, SCHEMA)


def batches_of(rows: list[Any], cut: int, size: int) -> list[tuple[str, int, pa.RecordBatch]]:
    found = []
    for name, part in (("a", rows[:cut]), ("b", rows[cut:])):
        for start in range(0, len(part), size):
            columns = [[row[i] for row in part[start : start + size]] for i in range(4)]
            found.append((name, start, pa.record_batch(columns, schema=SCHEMA)))
    return found


def added(plan: MetricPlan, batches: list[tuple[str, int, pa.RecordBatch]]) -> Any:
    accs = [plan.add({}, batch, name, np.arange(start, start + len(batch))) for name, start, batch in batches]
    return plan.merge(accs)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(ROW, max_size=30), st.integers(0, 30), st.integers(1, 7), st.integers(1, 7))
def test_each_expectation_marks_as_many_rows_as_it_counts(
    plan: MetricPlan, rows: list[Any], cut: int, size: int, other_size: int
) -> None:
    """Rule: the marks of an expectation are its unexpected rows, however the two reads cut the files."""
    acc = added(plan, batches_of(rows, cut, size))
    second = added(plan.second(acc), batches_of(rows, cut, other_size))
    marker = RowMarker(plan, acc, mask_width(len(ASKED)))

    of_file = {name: marker.of_file(name) for name in ("a", "b")}
    masks = [
        of_file[name].mark(BatchView(batch, name, np.arange(start, start + len(batch))))
        for name, start, batch in batches_of(rows, cut, other_size)
    ]

    result = evaluate_suite(SUITE, plan, acc, SCHEMA, second=second)
    marked = np.concatenate([np.zeros((0, mask_width(len(ASKED))), np.uint8), *masks])
    for check in plan.row_checks:
        count = int(has_bit(marked, check.number).sum())
        same = [o for o in result.outcomes if (o.type, o.column) == (check.type, check.column)]
        assert count in {o.unexpected_count for o in same}, (check, count)


def test_a_row_has_all_its_reasons_and_clean_expectations_are_not_asked(plan: MetricPlan) -> None:
    rows = [(5.0, 0, "a", "c"), (1.0, 1, "b", "d")]
    acc = added(plan, batches_of(rows, 2, 2))
    marker = RowMarker(plan, acc, mask_width(len(ASKED)))
    ((name, _, batch),) = batches_of(rows, 2, 2)

    masks = marker.of_file(name).mark(BatchView(batch, name, np.arange(2)))

    numbers = [number for number in range(len(ASKED)) if has_bit(masks, number)[0]]
    assert numbers == [2, 3, 8, 9]
    assert {1, 5, 6, 7, 16}.isdisjoint({check.number for check in marker.checks})


def test_expectations_on_tables_have_no_rows(plan: MetricPlan) -> None:
    assert {check.number for check in plan.row_checks} == set(range(1, len(ASKED) - 1))
