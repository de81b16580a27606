"""Which columns can play a role, and which rows cannot."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import MissingColumnError
from millcert.pipelines.roles import RoleColumn, RolePlan, RoleView, is_list, plan_roles, vector_width

LIST = pa.list_(pa.float32())
FIXED = pa.list_(pa.float32(), 2)


def view(values: pa.Array, role: Any = "embedding_self", width: int = 2, source: str = "lab") -> RoleView:
    plan = RolePlan((RoleColumn(role, "x", width),))
    return plan.apply(pa.RecordBatch.from_arrays([values], names=["x"]), source)


@pytest.mark.parametrize(
    "kind", [LIST, pa.large_list(pa.float64()), pa.list_(pa.float64()), FIXED, pa.list_(pa.int8())]
)
def test_a_vector_of_any_list_of_numbers_becomes_float32_of_one_width(kind: pa.DataType) -> None:
    found = view(pa.array([[1, 2], [3, 4]], kind))

    assert found.roles.column("embedding_self").to_pylist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.roles.schema.field("embedding_self").type == pa.list_(pa.float32(), 2)
    assert found.faults == ()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "role.embedding_self_null"),
        ([1.0], "role.embedding_self_width"),
        ([1.0, 2.0, 3.0], "role.embedding_self_width"),
        ([], "role.embedding_self_width"),
        ([1.0, float("nan")], "role.embedding_self_not_finite"),
        ([float("inf"), float("-inf")], "role.embedding_self_not_finite"),
        ([1.0, None], "role.embedding_self_not_finite"),
        ([1.0, 1e39], "role.embedding_self_not_finite"),
    ],
)
def test_a_row_that_cannot_be_a_vector_is_left_out_with_its_reason(bad: Any, reason: str) -> None:
    found = view(pa.array([[1, 2], bad, [3, 4]], pa.list_(pa.float64())))

    assert found.roles.column("embedding_self").to_pylist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.usable.tolist() == [True, False, True]
    assert [(fault.position, fault.reason) for fault in found.faults] == [(1, reason)]


def test_a_null_in_a_fixed_size_list_is_left_out_too() -> None:
    found = view(pa.array([[1, 2], None, [3, float("nan")]], FIXED))

    assert found.roles.num_rows == 1
    assert [fault.reason for fault in found.faults] == ["role.embedding_self_null", "role.embedding_self_not_finite"]


@pytest.mark.parametrize("row", [[0.5, 0.6], [-0.1, 1.1], [2.0, -1.0], [0.0, 0.0], [1e308, 1e308]])
def test_a_row_that_is_no_distribution_cannot_be_pred_probs(row: list[float]) -> None:
    found = view(pa.array([row, [0.25, 0.75], None], pa.list_(pa.float64())), role="pred_probs")

    assert found.usable.tolist() == [False, True, False]
    assert [fault.reason for fault in found.faults] == [
        "role.pred_probs_not_a_distribution",
        "role.pred_probs_null",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["a", None]), ["a"]),
        (pa.array([7, None]), ["7"]),
        (pa.array([True, None]), ["true"]),
        (pa.array(["a", None], pa.large_string()), ["a"]),
    ],
)
def test_a_label_is_text_and_a_null_is_none(values: pa.Array, expected: list[str]) -> None:
    found = view(values, role="label", width=0)

    assert found.roles.column("label").to_pylist() == expected
    assert found.roles.column("label").type == pa.string()
    assert [fault.reason for fault in found.faults] == ["role.label_null"]
    assert found.faults[0].detail == "column 'x': expected a value"


def test_a_column_of_sources_names_sub_sources_and_cannot_claim_another_rule() -> None:
    found = view(pa.array(["a", "../other"]), role="source", width=0, source="lab")

    assert found.roles.column("source").to_pylist() == ["lab/a", "lab/../other"]
    assert view(pa.array([[1, 2]], LIST), source="lab").roles.column("source").to_pylist() == ["lab"]


def test_a_row_with_several_faults_is_told_once_by_the_first() -> None:
    plan = RolePlan((RoleColumn("label", "label", 0), RoleColumn("embedding_self", "x", 2)))
    batch = pa.RecordBatch.from_arrays([pa.array([None, "b"]), pa.array([None, [1, 2]], LIST)], names=["label", "x"])

    found = plan.apply(batch, "lab")

    assert [(fault.position, fault.reason) for fault in found.faults] == [(0, "role.label_null")]
    assert found.roles.num_rows == 1


ROWS = st.lists(st.none() | st.lists(st.floats(width=32) | st.none(), max_size=3), max_size=12)


@given(rows=ROWS, start=st.integers(0, 3))
def test_what_is_left_is_finite_and_of_one_width_and_everything_else_has_a_reason(rows: list[Any], start: int) -> None:
    """Rule: a row whose vector is null, of another width or not finite goes to the dead letter, never silently on."""
    values = pa.array([[9.0, 9.0]] * start + rows, LIST).slice(start)

    found = view(values)

    good = [
        row for row in rows if row is not None and len(row) == 2 and all(x is not None and np.isfinite(x) for x in row)
    ]
    assert found.roles.column("embedding_self").to_pylist() == good
    assert len(found.faults) + len(good) == len(rows)
    assert sorted({fault.position for fault in found.faults}) == np.flatnonzero(~found.usable).tolist()


SCHEMA = pa.schema(
    [("label", pa.int64()), ("x", LIST), ("fixed", FIXED), ("text", pa.string()), ("words", pa.list_(pa.string()))]
)


def test_a_plan_takes_the_width_from_the_type_or_from_the_data() -> None:
    plan = plan_roles(
        {"label": "label", "embedding_self": "x", "embedding_external": "fixed"}, SCHEMA, {"embedding_self": 5}
    )

    assert {column.role: column.width for column in plan.columns} == {
        "label": 0,
        "embedding_self": 5,
        "embedding_external": 2,
    }


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"label": "target"}, "'target'; the data set has label"),
        ({"label": "x"}, "text, integer or boolean"),
        ({"embedding_self": "text"}, "list of numbers"),
        ({"embedding_self": "words"}, "list of numbers"),
        ({"embedding_self": "x"}, "no vector that is not empty"),
    ],
)
def test_a_column_that_cannot_play_its_role_is_refused_by_name(roles: Any, words: str) -> None:
    with pytest.raises(MissingColumnError, match=words) as caught:
        plan_roles(roles, SCHEMA, {})
    assert caught.value.column == next(iter(roles.values()))


def test_the_width_is_that_of_the_first_list_that_is_there() -> None:
    assert vector_width(pa.array([None, [1, 2, 3]], LIST)) == 3
    assert vector_width(pa.array([None], LIST)) == 0
    assert vector_width(pa.array([], FIXED)) == 2
    assert is_list(pa.large_list(pa.int8()))
    assert not is_list(pa.string())
