"""Sums over cells: every row in its cell once, exact, the same bits in any batches."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.cell_sums import BLOCK_ROWS, CellSums, Segment, cell_blocks
from millcert.checks.conformance import same_bits
from millcert.checks.exact import quantise_rows
from millcert.errors import InvalidSampleError, NotEnoughSamplesError


def columns(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, 3)) * 10.0 ** random.integers(-3, 4, (count, 1))
    return rows, random.integers(0, 4, count), random.integers(0, 3, count), random.integers(0, 2, count)


def summed(rows: np.ndarray, source: np.ndarray, label: np.ndarray, half: np.ndarray) -> dict[str, CellSums]:
    whole, exponent = quantise_rows(rows)
    found: dict[str, CellSums] = {}
    sources, labels = pa.array([f"s {value}" for value in source]), pa.array([f"c {value}" for value in label])
    for block in cell_blocks(sources, labels, half, exponent):
        assert len(block.places) <= BLOCK_ROWS
        for segment, sums in zip(block.segments, block.sums(whole[block.places]), strict=True):
            places = block.places[segment.part]
            assert {f"s {value}" for value in source[places]} == {segment.source}
            assert {f"c {value}" for value in label[places]} == {segment.label}
            assert set(half[places]) == {segment.half}
            assert set(exponent[places]) == {segment.mark}
            found[segment.label] = found.get(segment.label, CellSums.zero(3)).add([(segment, sums)])
        assert [part for _, part in block.classes()][-1].stop == len(block.places)
    return found


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(0, 60))
def test_the_same_rows_give_the_same_sums_in_any_batches(seed: int, count: int, cut: int) -> None:
    data = columns(seed, count)
    order = np.random.default_rng(seed + 1).permutation(count)

    whole = summed(*data)
    parts = [summed(*(values[order[part]] for values in data)) for part in (slice(0, cut), slice(cut, None))]

    for label, sums in whole.items():
        merged = CellSums.zero(3).merge(part[label] for part in reversed(parts) if label in part)
        assert same_bits([*merged.by_source()], [*sums.by_source()])
        assert same_bits(merged.mean(), sums.mean())
        assert merged.count() == sums.count()


def test_means_are_those_of_numpy() -> None:
    rows, source, label, half = columns(3, 5000)

    found = summed(rows, source, label, half)["c 1"]
    sources, counts, means = found.by_source()

    assert sources == ("s 0", "s 1", "s 2", "s 3")
    mine = label == 1
    assert found.count() == mine.sum() == counts.sum()
    assert found.mean() == pytest.approx(rows[mine].mean(axis=0), rel=1e-3, abs=1e-2)
    assert means[2] == pytest.approx(rows[mine & (source == 2)].mean(axis=0), rel=1e-3, abs=1e-2)
    chosen = mine & (source == 2) & (half == 1)
    assert found.count("s 2", 1) == chosen.sum()
    assert found.mean("s 2", 1) == pytest.approx(rows[chosen].mean(axis=0), rel=1e-3, abs=1e-2)


def test_no_rows_have_no_mean_and_other_widths_are_refused() -> None:
    empty, segment = CellSums.zero(3), Segment("s", "c", 0, 0, slice(0, 2))

    with pytest.raises(NotEnoughSamplesError):
        empty.mean()
    with pytest.raises(NotEnoughSamplesError):
        empty.add([(segment, np.ones(3))]).mean("s", 1)
    with pytest.raises(InvalidSampleError):
        empty.add([(segment, np.ones(4))])
    with pytest.raises(InvalidSampleError):
        empty.merge([CellSums.zero(2)])
    nothing = np.zeros(0, dtype=np.int64)
    assert not list(cell_blocks(pa.array([], pa.string()), pa.array([], pa.string()), nothing, nothing))
