"""Exact arithmetic: sums and products that do not depend on order."""

import math
import pickle  # noqa: TID251 - parts travel between workers this way; the test reads only what it wrote
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from millcert.checks.exact import QUANTISED_BITS, ExactMatrix, ExactSum, quantise_rows, sum_squares
from millcert.errors import InternalError, InvalidSampleError

any_float = st.floats(allow_nan=False, allow_infinity=False, width=64)
float32_rows = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-1e6, 1e6, width=32),
)


def same(one: ExactSum, other: ExactSum) -> bool:
    return one.lowest == other.lowest and one.count == other.count and np.array_equal(one.digits, other.digits)


@given(float32_rows)
def test_a_quantised_row_is_whole_small_and_close(rows: np.ndarray) -> None:
    """quantise_rows: at most half a unit off, at most 2**-15 of the row's largest magnitude."""
    whole, exponent = quantise_rows(rows)

    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole).max(initial=0) <= 2**QUANTISED_BITS
    assert (exponent % 4 == 2).sum() + (exponent == 0).sum() == len(rows)  # multiples of 4, less 18
    error = np.abs(whole * 2.0 ** exponent[:, None] - rows)
    assert (error <= 2.0**-15 * np.abs(rows).max(axis=1, initial=0)[:, None]).all()


@given(float32_rows, st.randoms(use_true_random=False))
def test_a_row_is_quantised_alike_in_every_batch(rows: np.ndarray, random: object) -> None:
    """quantise_rows: the exponent depends on the row alone."""
    whole, exponent = quantise_rows(rows)

    for place in range(len(rows)):
        alone, its_exponent = quantise_rows(rows[place : place + 1])
        assert np.array_equal(alone[0], whole[place])
        assert its_exponent[0] == exponent[place]


@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    )
)
def test_float32_rows_are_quantised_as_the_same_float64_rows_are(rows: np.ndarray) -> None:
    """Two ways to the same bits: float32 arithmetic where its range is wide enough, float64 elsewhere."""
    whole, exponent = quantise_rows(rows)
    wide, other = quantise_rows(rows.astype(np.float64))

    assert whole.dtype == wide.dtype == np.float64
    assert whole.tobytes() == wide.tobytes()
    assert (exponent == other).all()


def test_zero_tiny_and_huge_rows_are_quantised() -> None:
    rows = np.array([[0, 0], [1e-45, 0], [3e38, -3e38]], dtype=np.float32)

    whole, exponent = quantise_rows(rows)

    assert np.array_equal(whole * 2.0 ** exponent[:, None], rows.astype(np.float64)) or np.allclose(
        whole * 2.0 ** exponent[:, None], rows, rtol=2**-15
    )
    assert whole[1, 0] != 0


def test_float64_rows_beyond_squaring_become_zero() -> None:
    whole, exponent = quantise_rows(np.array([[5e-324, 0.0]]))

    assert not whole.any()
    assert exponent[0] == -500


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_a_row_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InvalidSampleError):
        quantise_rows(np.array([[1.0, bad]]))


def test_no_rows_and_no_columns_are_quantised_to_nothing() -> None:
    assert quantise_rows(np.zeros((0, 3)))[0].shape == (0, 3)
    assert quantise_rows(np.zeros((2, 0)))[1].tolist() == [0, 0]


@pytest.mark.parametrize("width", [1, 7, 128, 700])
def test_a_product_with_fixed_weights_has_the_same_bits_in_any_batch(width: int) -> None:
    """Rule 3: BLAS picks its kernel by the shape; exact products leave it nothing to round."""
    random = np.random.default_rng(width)
    rows = random.standard_normal((257, width)).astype(np.float32) * np.float32(10.0) ** random.integers(
        -3, 4, (257, 1)
    )
    matrix = ExactMatrix.of(random.standard_normal((width, 9)))

    whole = matrix.apply(rows.astype(np.float32))

    for size in (1, 2, 3, 64, 100):
        parts = [matrix.apply(rows[start : start + size].astype(np.float32)) for start in range(0, 257, size)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_an_exact_product_is_close_to_the_plain_one() -> None:
    random = np.random.default_rng(3)
    rows, weights = random.standard_normal((50, 64)), random.standard_normal((64, 5)) * np.array([1, 1e-9, 1e9, 0, 1])

    product = ExactMatrix.of(weights).apply(rows)

    scale = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(weights, axis=0)
    assert (np.abs(product - rows @ weights) <= 2.0**-14 * scale + 1e-300).all()


def test_weights_that_are_not_finite_or_too_many_are_refused() -> None:
    with pytest.raises(InternalError):
        ExactMatrix.of(np.array([[np.nan]]))
    with pytest.raises(InvalidSampleError):
        ExactMatrix.of(np.zeros((2**16 + 1, 1)))


def test_weights_without_columns_give_an_empty_product() -> None:
    assert ExactMatrix.of(np.zeros((4, 0))).apply(np.ones((3, 4))).shape == (3, 0)


@given(npst.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-1e3, 1e3)))
def test_sums_of_squares_do_not_depend_on_the_batch(values: np.ndarray) -> None:
    whole = sum_squares(values)

    assert all(sum_squares(values[i : i + 1])[0] == whole[i] for i in range(len(values)))
    assert np.allclose(whole, (values**2).sum(axis=1))


@given(st.lists(any_float, max_size=40))
def test_an_exact_sum_is_correctly_rounded(numbers: list[float]) -> None:
    """ExactSum.value: the exact rational sum, rounded once."""
    total = ExactSum.zero(1).add(np.array(numbers, dtype=np.float64)).value()[0]

    exact = sum((Fraction(number) for number in numbers), Fraction(0))
    try:
        expected = float(exact)
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    assert total == expected


@given(st.lists(st.tuples(any_float, any_float), min_size=1, max_size=25), st.data())
def test_equal_sums_are_equal_in_every_field(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    """The same numbers in any order and any batches give the same fields, so merge is associative and commutative."""
    table = np.array(pairs, dtype=np.float64)
    shuffled = table[data.draw(st.permutations(range(len(table))))]
    cut = data.draw(st.integers(0, len(table)))

    one = ExactSum.zero(2).add(table)
    other = ExactSum.zero(2).add(shuffled[cut:]).merge([ExactSum.zero(2).add(shuffled[:cut]), ExactSum.zero(2)])

    assert same(one, other)


@given(st.lists(any_float, max_size=20), st.lists(any_float, max_size=20))
@example([1.0], [4.0])
def test_subtracting_what_was_added_leaves_the_rest(kept: list[float], taken: list[float]) -> None:
    rest = ExactSum.zero(1).add(np.array(kept, dtype=np.float64))
    both = rest.add(np.array(taken, dtype=np.float64))

    assert same(both.subtract(ExactSum.zero(1).add(np.array(taken, dtype=np.float64))), rest)


@given(st.integers(1, 30), st.integers(2, 40), st.integers(0, 10_000))
def test_wide_rows_are_added_as_one_by_one(number: int, width: int, seed: int) -> None:
    """ExactSum.add of a table is `add_at` of its numbers, in every field but the count, at any magnitudes."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(number, width)) * 10.0 ** rng.integers(-rng.integers(1, 320), rng.integers(1, 290))
    if seed % 2:
        table *= 10.0 ** rng.integers(-rng.integers(1, 250), 1, table.shape)
    table[rng.random(table.shape) < seed % 3 / 3] = 0
    one_by_one = ExactSum.zero(width).add_at(np.tile(np.arange(width), number), table.ravel())

    whole = ExactSum.zero(width).add(table)

    assert same(whole, replace(one_by_one, count=number))


def test_an_exact_sum_is_never_changed_and_survives_pickling() -> None:
    one = ExactSum.zero(2).add(np.array([[0.1, -0.2]]))
    before = one.digits.copy()

    one.add(np.array([[5.0, 6.0]]))
    one.merge([one])

    assert np.array_equal(one.digits, before)
    assert same(pickle.loads(pickle.dumps(one)), one)


def test_many_numbers_carry_without_loss() -> None:
    numbers = np.full(300_000, 1 - 2.0**-53)

    total = ExactSum.zero(1).add(numbers).add(-numbers[:299_999])

    assert total.value()[0] == 1 - 2.0**-53
    assert total.nbytes <= 32


def test_sums_of_other_widths_and_odd_numbers_are_refused() -> None:
    total = ExactSum.zero(2)
    with pytest.raises(InvalidSampleError):
        total.add(np.zeros((1, 3)))
    with pytest.raises(InvalidSampleError):
        total.add(np.array([[np.nan, 0.0]]))
    with pytest.raises(InvalidSampleError):
        total.merge([ExactSum.zero(3)])
    with pytest.raises(InternalError):
        total.subtract(total.add(np.zeros((1, 2))))


@settings(max_examples=20)
@given(st.integers(-1074, 900), st.integers(-1074, 900))
def test_numbers_of_any_size_keep_their_place(one: int, other: int) -> None:
    numbers = np.array([math.ldexp(1, one), math.ldexp(1, other), -math.ldexp(1, one)])

    assert ExactSum.zero(1).add(numbers).value()[0] == math.ldexp(1, other)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6)), max_size=30),
)
def test_values_added_to_single_columns_sum_as_each_column_alone(pairs: list[tuple[int, float]]) -> None:
    """ExactSum.add_at: column j is the exact sum of its own values."""
    column = np.array([place for place, _ in pairs], dtype=np.int64)
    values = np.array([value for _, value in pairs], dtype=np.float64)

    total = ExactSum.zero(4).add_at(column, values)

    for place in range(4):
        assert total.value()[place] == math.fsum(values[column == place])
    assert total.count == len(pairs)


def test_a_value_that_is_no_number_is_not_added_to_a_column() -> None:
    with pytest.raises(InvalidSampleError, match="not finite"):
        ExactSum.zero(2).add_at(np.array([1]), np.array([np.nan]))


@given(st.integers(1, 600), st.integers(0, 140), st.integers(0, 10**6))
@settings(max_examples=30)
def test_a_row_has_the_same_sum_of_squares_among_any_others(rows: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, width)) * 10.0 ** random.integers(-6, 6, (rows, width))

    found = sum_squares(values)

    expected = np.zeros(rows)
    for column in range(width):
        expected += values[:, column] ** 2
    assert np.array_equal(found, expected)
    assert np.array_equal(found[:1], sum_squares(values[:1]))
