"""The rows of a batch by class: every row once, with the bits that it has in any batch."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.class_rows import rows_by_class
from millcert.checks.exact import quantise_rows
from millcert.errors import InternalError, InvalidSampleError


@settings(max_examples=40)
@given(
    st.sampled_from([0, 1, 7, 300, 5000]), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 10**6)
)
def test_every_row_comes_once_with_its_class_its_source_and_its_own_bits(
    count: int, classes: int, origins: int, asked: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rows = (random.standard_normal((count, 6)) * 10.0 ** random.integers(-9, 9, (count, 1))).astype(np.float32)
    label = [f"class {value}" for value in random.integers(0, classes, count)]
    source = [f"source {value}" for value in random.integers(0, origins, count)]
    whole, exponent = quantise_rows(rows)

    parts = list(rows_by_class(rows, pa.array(label, pa.string()), pa.array(source, pa.string()) if asked else None))

    seen = np.concatenate([np.zeros(0, dtype=np.int64), *(part.places for part in parts)])
    assert np.array_equal(np.sort(seen), np.arange(count))
    assert [part.label for part in parts] == sorted(part.label for part in parts)
    for part in parts:
        assert {label[place] for place in part.places} == {part.label}
        assert np.array_equal(part.whole, whole[part.places])
        assert np.array_equal(part.exponent, exponent[part.places])
        assert bool(part.sources) == asked
        for name, chosen in part.sources:
            assert {source[place] for place in part.places[chosen]} == {name}
        if asked:
            assert sum(chosen.stop - chosen.start for _, chosen in part.sources) == len(part.places)
        else:
            assert (np.diff(part.exponent) >= 0).all()


def test_columns_of_several_lengths_and_rows_that_are_not_numbers_are_refused() -> None:
    rows = np.ones((3, 2), dtype=np.float32)

    with pytest.raises(InternalError):
        list(rows_by_class(rows, pa.array(["a", "b"])))
    with pytest.raises(InternalError):
        list(rows_by_class(rows, pa.array(["a", "b", "b"]), pa.array(["s"])))
    with pytest.raises(InvalidSampleError):
        list(rows_by_class(np.full((3, 2), np.nan, dtype=np.float32), pa.array(["a", "b", "b"])))
