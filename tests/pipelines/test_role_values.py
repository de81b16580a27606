"""Table values and texts of several columns, nested ones too."""

import decimal
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from millcert.errors import MissingColumnError
from millcert.pipelines.role_values import MISSING, has_text, is_table_value, joined_text, table_rows
from millcert.pipelines.roles import RolePlan, plan_roles

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int64())]))


def test_every_kind_of_table_value_becomes_a_finite_number_that_is_equal_where_the_values_are() -> None:
    columns = [
        pa.array([1, None, 1], pa.int64()),
        pa.array([0.5, float("nan"), float("inf")]),
        pa.array([True, False, None]),
        pa.array(["a", "b", "a"]),
        pa.array(["x", None, "x"]).dictionary_encode(),
        pa.array([date(2026, 1, 1), None, date(2026, 1, 1)]),
        pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3),
        pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("1.25")]),
    ]

    rows = table_rows(columns)

    assert rows.shape == (3, 8)
    assert np.isfinite(rows).all()
    assert all(is_table_value(column.type) for column in columns)
    assert rows[1, [0, 1, 4, 5, 7]].tolist() == [MISSING] * 5
    assert rows[2, 2] == MISSING
    assert rows[0, [0, 3, 4, 5, 6, 7]].tolist() == rows[2, [0, 3, 4, 5, 6, 7]].tolist()
    assert rows[0, 3] != rows[1, 3]
    assert not is_table_value(pa.list_(pa.int8()))


def test_a_table_without_rows_has_rows_of_its_width() -> None:
    assert table_rows([pa.array([], pa.string()), pa.array([], pa.int8())]).shape == (0, 2)


def test_the_texts_of_a_conversation_are_joined_in_order_and_numbers_left_out() -> None:
    talks = pa.array(
        [
            [{"role": "user", "content": "hi", "weight": 1}, {"role": "assistant", "content": None, "weight": None}],
            None,
            [],
            [None],
        ],
        MESSAGES,
    )

    assert joined_text([talks]).to_pylist() == ["user\nhi\nassistant\n", None, "", "\n"]
    assert joined_text([talks.slice(1)]).to_pylist() == [None, "", "\n"]
    assert joined_text([pa.array(["a", None, None, "d"]), talks]).to_pylist() == [
        "a\nuser\nhi\nassistant\n",
        None,
        "\n",
        "d\n\n",
    ]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_of_any_string_type_are_one(kind: pa.DataType) -> None:
    assert joined_text([pa.array(["a", None], kind)]).to_pylist() == ["a", None]


@pytest.mark.parametrize("kind", [pa.list_(pa.string(), 2), pa.large_list(pa.string())])
def test_lists_of_texts_of_any_kind_are_joined(kind: pa.DataType) -> None:
    assert joined_text([pa.array([["a", "b"], ["c", "d"]], kind)]).to_pylist() == ["a\nb", "c\nd"]


def test_a_plan_reads_several_columns_for_one_role() -> None:
    schema = pa.schema([("age", pa.int64()), ("city", pa.string()), ("talk", MESSAGES), ("part", pa.string())])
    plan = plan_roles({"features": ("age", "city"), "text": ("city", "talk"), "split": "part"}, schema, {})
    batch = pa.RecordBatch.from_pylist(
        [
            {"age": 3, "city": "x", "talk": [{"role": "u", "content": "y", "weight": 0}], "part": "train"},
            {"age": None, "city": None, "talk": None, "part": "test"},
        ],
        schema=schema,
    )

    found = plan.apply(batch, "lab")

    assert found.roles.column("text").to_pylist() == ["x\nu\ny"]
    assert found.roles.column("split").to_pylist() == ["train"]
    assert found.roles.schema.field("features").type == pa.list_(pa.float64(), 2)
    assert [(fault.position, fault.reason) for fault in found.faults] == [(1, "role.text_null")]


def test_one_column_of_single_values_is_a_table_too() -> None:
    plan: RolePlan = plan_roles({"features": "age"}, pa.schema([("age", pa.int64())]), {})

    assert plan.columns[0].is_table
    assert plan.columns[0].width == 1


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"features": ("age", "list")}, "'list' must be a number, text, time or boolean"),
        ({"text": "age"}, "'age' must be text, or lists and structs that hold text"),
        ({"text": ("words", "absent")}, "'absent'"),
        ({"split": "list"}, "'list' must be text, integer or boolean"),
    ],
)
def test_columns_that_cannot_play_a_role_are_refused_by_name(roles: dict[str, object], words: str) -> None:
    schema = pa.schema([("age", pa.int64()), ("list", pa.list_(pa.float32())), ("words", pa.string())])

    with pytest.raises(MissingColumnError) as caught:
        plan_roles(roles, schema, {})  # type: ignore[arg-type]  # wrong on purpose

    assert words in caught.value.message


def test_what_holds_text_is_told_from_what_does_not() -> None:
    assert has_text(MESSAGES)
    assert not has_text(pa.list_(pa.int64()))
    assert not has_text(pa.struct([("n", pa.int64())]))
