"""Functional dependencies: those that hold on every row, in any batches, and no others."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.functional_dependencies import MOST_COLUMNS, Dependency, DependencyTest, candidate_columns
from millcert.checks.profile import ProfileSpec, add_batch, empty_profile

VALUES = st.sampled_from(["p", "q", "r", None])


def found(table: pa.Table, size: int) -> list[Dependency]:
    test = DependencyTest(table.column_names)
    for batch in table.to_batches(max_chunksize=size):
        test.add(batch)
    return test.found()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.integers(1, 50))
def test_a_dependency_is_told_exactly_where_each_value_goes_with_one_other(
    rows: list[tuple[str | None, str | None]], size: int
) -> None:
    """Exact: the definition, row by row, whatever the batches."""
    rows = rows * 40  # enough rows behind each value
    table = pa.table(
        {"a": pa.array([a for a, _ in rows], pa.string()), "b": pa.array([b for _, b in rows], pa.string())}
    )
    partners: dict[str, set[str | None]] = {}
    for a, b in rows:
        if a is not None:
            partners.setdefault(a, set()).add(b)
    named = {b for _, b in rows if b is not None}
    expected = len(partners) > 1 and len(named) > 1 and all(len(seen) == 1 for seen in partners.values())

    told = [(one.determinant, one.dependent) for one in found(table, size)]

    assert (("a", "b") in told) == expected


def test_rows_and_values_are_counted_and_few_rows_tell_nothing() -> None:
    table = pa.table({"zip": [str(at % 30) for at in range(900)], "city": [at % 30 // 3 for at in range(900)]})

    assert found(table, 70) == [Dependency("zip", "city", 900, 30)]
    assert found(table.slice(0, 500), 70) == []


def test_dictionaries_and_many_values_are_told_too() -> None:
    table = pa.table(
        {"a": pa.array([str(at % 300) for at in range(9000)]).dictionary_encode(), "b": [at % 2 for at in range(9000)]}
    )

    assert found(table, 1000) == [Dependency("a", "b", 9000, 300)]


@pytest.mark.parametrize("rows", [600])
def test_only_columns_of_few_values_are_paired_and_not_too_many(rows: int) -> None:
    columns = {f"c{at}": [row % 2 for row in range(rows)] for at in range(MOST_COLUMNS + 2)}
    batch = pa.record_batch({"id": list(range(rows)), "one": ["x"] * rows, "score": [0.5] * rows, **columns})
    cell = add_batch(empty_profile(ProfileSpec("5a" * 32), batch.schema), batch).cells["", ""]

    assert candidate_columns(cell) == list(columns)[:MOST_COLUMNS]
