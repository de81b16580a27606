"""The sample of a class's rows: bounded, the same in any order, and no crowd of copies in it."""

import numpy as np

from millcert.checks.exact import quantise_rows
from millcert.checks.row_sample import LEAST_ROWS, MOST_BYTES, MOST_ROWS, RowSample


def as_they_are(whole: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    return np.asarray(whole * np.ldexp(1.0, exponent)[:, None])


def sample_of(*batches: np.ndarray) -> RowSample:
    sample = RowSample.zero(10, batches[0].shape[1])
    for rows in batches:
        sample = sample.add(*quantise_rows(rows), as_they_are)
    return sample


def some_rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)


def test_a_sample_is_the_same_in_any_order_and_any_parts() -> None:
    rows = some_rows(6000)
    whole = sample_of(rows)

    backwards = sample_of(*np.array_split(rows[::-1], 17))
    merged = sample_of(rows[:100]).merge([sample_of(rows[4000:]), sample_of(rows[100:4000])])

    for other in (backwards, merged):
        assert other.samples == whole.samples == 6000
        assert np.array_equal(other.rows, whole.rows)


def test_a_sample_is_bounded_and_of_all_parts_of_the_data() -> None:
    first, second = some_rows(5000), some_rows(5000) + 100

    sample = sample_of(first, second)

    assert len(sample.rows) == MOST_ROWS
    assert 0.45 < (sample.rows[:, 0] > 50).mean() < 0.55
    assert sum(len(keys) for keys, _ in sample.waiting) <= MOST_ROWS


def test_copies_of_one_row_are_one_row() -> None:
    rows = np.concatenate([some_rows(300), np.full((5000, 5), 3.5, dtype=np.float32)])

    sample = sample_of(*np.array_split(rows, 9))

    assert sample.samples == 5300
    assert len(sample.rows) == 301


def test_more_classes_leave_fewer_rows_for_each() -> None:
    many = RowSample.zero(1000, 32)
    too_many = RowSample.zero(10**6, 32)

    assert LEAST_ROWS < many.held.most < MOST_ROWS
    assert many.held.most * 1000 * (4 * 32 + 8) <= MOST_BYTES
    assert too_many.held.most == LEAST_ROWS


def test_an_empty_batch_adds_nothing() -> None:
    sample = sample_of(some_rows(10), np.zeros((0, 5), dtype=np.float32))

    assert sample.samples == 10
    assert len(sample.settled().rows) == 10
