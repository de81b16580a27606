"""A profile grown batch by batch is the profile of its rows, whatever is held back and merged when."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import profile_builder
from millcert.checks.profile import ProfileSpec, add_batch, empty_profile, merge_profiles
from millcert.checks.profile_builder import ProfileBuilder
from millcert.checks.profile_format import profile_bytes
from millcert.errors import MissingColumnError, UsageError

SPEC = ProfileSpec("5a" * 32, label="label", tokens=("text",))


def batch(rows: int = 400) -> pa.RecordBatch:
    random = np.random.default_rng(2)
    return pa.RecordBatch.from_pydict(
        {
            "label": pa.array([f"l{code}" for code in random.integers(0, 4, rows)]),
            "text": pa.array([f"a{code} b" for code in random.integers(0, 50, rows)]),
            "x": random.normal(size=rows),
        }
    )


@pytest.mark.parametrize(("name", "most"), [("BUFFERED_ROWS", 30), ("BUFFERED_BYTES", 1), ("BUFFERED_ROWS", 10**6)])
def test_what_is_held_back_does_not_show(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_builder, name, most)
    whole = batch()
    builder = ProfileBuilder(SPEC, whole.schema)

    for start, end in pairwise([0, 7, 8, 60, 61, 100, 130, 131, 200, 240, 241, 300, 399, 400]):
        builder.add(whole.slice(start, end - start))

    expected = profile_bytes(add_batch(empty_profile(SPEC, whole.schema), whole))
    assert profile_bytes(builder.finish()) == expected
    assert profile_bytes(builder.finish()) == expected


def test_rows_of_another_source_are_another_cell() -> None:
    whole = batch(20)
    builder = ProfileBuilder(SPEC, whole.schema)
    builder.add(whole.slice(0, 5), "a")
    builder.add(whole.slice(5), "b")

    found = builder.finish()

    empty = empty_profile(SPEC, whole.schema)
    parts = [add_batch(empty, whole.slice(0, 5), "a"), add_batch(empty, whole.slice(5), "b")]
    assert profile_bytes(found) == profile_bytes(merge_profiles(parts))


def test_other_columns_and_too_many_cells_are_refused() -> None:
    whole = batch(20)
    builder = ProfileBuilder(ProfileSpec("5a" * 32, label="label", max_cells=2), whole.schema)
    builder.add(whole)

    with pytest.raises(UsageError, match="more than 2 pairs"):
        builder.finish()
    with pytest.raises(MissingColumnError):
        ProfileBuilder(SPEC, whole.schema.remove(1))
    other = ProfileBuilder(SPEC, whole.schema)
    other.add(whole)
    other.add(whole.drop_columns(["x"]))
    with pytest.raises(UsageError, match="columns or their types differ: x"):
        other.finish()


def test_no_rows_are_the_empty_profile() -> None:
    schema = batch(1).schema

    assert profile_bytes(ProfileBuilder(SPEC, schema).finish()) == profile_bytes(empty_profile(SPEC, schema))
