"""Two suites compared: what the new one promises less than the old one is breaking, and nothing else is."""

from typing import Any

import pytest

from millcert.checks.suite_changes import compare_suites


def about(kind: str, column: str = "c", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_column_{kind}", "kwargs": {"column": column, **kwargs}}


@pytest.mark.parametrize(
    ("kind", "old", "new", "change"),
    [
        ("values_to_be_between", {"min_value": 1}, {"min_value": 0}, "loosened"),
        ("values_to_be_between", {"min_value": 0, "max_value": 5}, {"min_value": 1, "max_value": 4}, "tightened"),
        ("values_to_be_between", {"min_value": 0, "max_value": 5}, {"min_value": 1, "max_value": 6}, "changed"),
        ("values_to_be_between", {"max_value": 5}, {}, "loosened"),
        ("values_to_be_between", {}, {"max_value": 5}, "tightened"),
        ("values_to_be_between", {"max_value": 5, "strict_max": True}, {"max_value": 5}, "loosened"),
        ("values_to_be_between", {"max_value": 5}, {"max_value": 5, "strict_max": True}, "tightened"),
        ("values_to_be_between", {"min_value": "2026-01-02"}, {"min_value": "2026-01-01"}, "loosened"),
        ("values_to_be_between", {"min_value": "2026-01-02"}, {"min_value": "2026-01-01T00:00:00+00:00"}, "changed"),
        ("values_to_be_between", {"min_value": "soon"}, {"min_value": "later"}, "changed"),
        ("values_to_be_between", {"min_value": 1}, {"min_value": "2026-01-01"}, "changed"),
        ("values_to_not_be_null", {"mostly": 0.9}, {}, "tightened"),
        ("values_to_not_be_null", {}, {"mostly": 0.9}, "loosened"),
        ("values_to_be_in_set", {"value_set": [1, 2]}, {"value_set": [2, 1, 3]}, "loosened"),
        ("values_to_be_in_set", {"value_set": [1, 2]}, {"value_set": [1]}, "tightened"),
        ("values_to_be_in_set", {"value_set": [1, 2]}, {"value_set": [1, 3]}, "changed"),
        ("values_to_be_in_set", {"value_set": [[1]]}, {"value_set": [[1], [2]]}, "changed"),
        ("values_to_not_be_in_set", {"value_set": [1]}, {"value_set": [1, 2]}, "tightened"),
        ("distinct_values_to_contain_set", {"value_set": [1]}, {"value_set": [1, 2]}, "tightened"),
        ("distinct_values_to_equal_set", {"value_set": [1]}, {"value_set": [1, 2]}, "changed"),
        ("values_to_match_regex", {"regex": "a"}, {"regex": "b"}, "changed"),
    ],
)
def test_a_change_says_whether_more_data_meet_the_expectation(
    kind: str, old: dict[str, Any], new: dict[str, Any], change: str
) -> None:
    (found,) = compare_suites([about(kind, **old)], [about(kind, **new)])

    assert (found.column, found.change) == ("c", change)
    assert found.is_breaking == (change != "tightened")


def test_expectations_come_and_go_and_equal_ones_of_several_are_paired_first() -> None:
    one, other = about("values_to_be_between", max_value=1), about("values_to_be_between", max_value=2)
    gone = {"type": "expect_table_row_count_to_equal", "kwargs": {"value": 5}}
    new = about("values_to_not_be_null")

    found = compare_suites([gone, one, other], [other, one, new])

    assert [(each.expectation, each.change, each.is_breaking) for each in found] == [
        ("expect_table_row_count_to_equal", "removed", True),
        ("expect_column_values_to_not_be_null", "added", False),
    ]
    assert compare_suites([one, other], [other, one]) == ()


def test_what_is_left_out_is_what_is_null_and_columns_or_conditions_part_expectations() -> None:
    plain = about("values_to_be_between", max_value=1)

    assert compare_suites([plain], [about("values_to_be_between", max_value=1, min_value=None, strict_min=False)]) == ()
    pair = {"type": "expect_column_pair_values_to_be_equal", "kwargs": {"column_A": "a", "column_B": "b"}}
    found = compare_suites([plain, pair], [about("values_to_be_between", max_value=1, row_condition="x > 1"), pair])
    assert [each.change for each in found] == ["removed", "added"]
    many = {"type": "expect_compound_columns_to_be_unique", "kwargs": {"column_list": ["a", "b"]}}
    assert compare_suites([many], [])[0].column == "a, b"
