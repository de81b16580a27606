"""Sums, means and deviations are the correctly rounded ones, whatever the batches and their order."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd  # noqa: TID253 - the oracle
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millcert.checks.metric_sums import (
    deviation_of,
    mean_of,
    merge_sums,
    ratio,
    root_of_ratio,
    sum_floats,
    sum_integers,
    total_of,
)

FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=30)
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30)


@given(FLOATS, st.randoms(use_true_random=False))
@example([5e-324, -5e-324, 1.7976931348623157e308], None)
@example([5e-324] * 3, None)
@example([1e16, 1.0, -1e16], None)
def test_float_sums_are_exact_in_any_order(numbers: list[float], random: object) -> None:
    """The sum and the sum of squares are the rational ones, and merging parts gives them too."""
    parts = [sum_floats(np.array(numbers[i : i + 3], dtype=np.float64), with_squares=True) for i in range(0, 30, 3)]
    if random is not None:
        random.shuffle(parts)  # type: ignore[attr-defined] # hypothesis gives a random.Random

    sums = merge_sums(parts)

    assert Fraction(sums.total, 2**sums.scale_bits) == sum(map(Fraction, numbers))
    assert Fraction(sums.squares, 4**sums.scale_bits) == sum(Fraction(number) ** 2 for number in numbers)
    assert sums.finite == len(numbers)


@pytest.mark.parametrize("exponent", [-1000, -790, 0, 880, 1000])
def test_many_floats_of_every_size_are_exact(exponent: int) -> None:
    """Pieces of one scale, what is too small for them, and the worst case of both: full mantissas at the upper end."""
    random = np.random.default_rng(exponent % 7)
    worst = math.ldexp(2 - 2**-52, exponent)
    spread = np.ldexp(random.normal(size=12_000), random.integers(max(-1070, exponent - 120), exponent, 12_000))
    numbers = np.concatenate([np.full(9_000, worst), spread, np.full(8_500, -worst), np.zeros(10)])

    sums = sum_floats(numbers, with_squares=True)

    assert Fraction(sums.total, 2**sums.scale_bits) == sum(map(Fraction, numbers.tolist()))
    assert Fraction(sums.squares, 4**sums.scale_bits) == sum(Fraction(number) ** 2 for number in numbers.tolist())
    assert sum_floats(numbers, with_squares=False) == sums._replace(squares=0)


@given(INTEGERS)
@example([-(2**63), -(2**63)])
def test_integer_sums_are_exact_beyond_64_bits(numbers: list[int]) -> None:
    """The sum and the sum of squares are Python's own."""
    sums = sum_integers(np.array(numbers, dtype=np.int64), with_squares=True)

    assert total_of(sums) == sum(numbers)
    assert sums.squares == sum(number**2 for number in numbers)


def test_unsigned_integers_keep_their_highest_bit() -> None:
    sums = sum_integers(np.array([2**64 - 1, 2**64 - 1], dtype=np.uint64), with_squares=True)

    assert total_of(sums) == 2 * (2**64 - 1)
    assert sums.squares == 2 * (2**64 - 1) ** 2


def test_more_rows_than_one_chunk_are_summed_exactly() -> None:
    numbers = np.random.default_rng(7).normal(size=200_001) * 10.0 ** np.arange(200_001).clip(0, 200)

    sums = sum_floats(numbers, with_squares=False)

    assert total_of(sums) == math.fsum(numbers)


@given(st.lists(st.floats(-1e150, 1e150), min_size=2, max_size=20))
def test_the_deviation_is_the_nearest_float(numbers: list[float]) -> None:
    """No float lies closer to the root of the rational variance: the root is within half a step on both sides."""
    deviation = deviation_of(sum_floats(np.array(numbers), with_squares=True))

    mean = sum(map(Fraction, numbers)) / len(numbers)
    squared = sum((Fraction(number) - mean) ** 2 for number in numbers)
    variance = squared / (len(numbers) - 1)
    if float(squared) == 0.0:  # below the least float, as the squares of pandas are
        assert deviation == 0.0
        return
    below = (Fraction(deviation) + Fraction(math.nextafter(deviation, 0.0))) / 2
    above = (Fraction(deviation) + Fraction(math.nextafter(deviation, math.inf))) / 2
    assert below**2 <= variance <= above**2


@given(FLOATS.filter(bool))
def test_the_mean_is_the_nearest_float(numbers: list[float]) -> None:
    """The mean is the rational mean rounded once, where the sum is a float at all."""
    sums = sum_floats(np.array(numbers), with_squares=False)

    nearest = float(sum(map(Fraction, numbers)) / len(numbers))
    assert mean_of(sums) == (nearest if math.isfinite(total_of(sums)) else total_of(sums))


@pytest.mark.parametrize(
    ("numbers", "total"),
    [([math.inf, 1.0], math.inf), ([-math.inf, 1.0], -math.inf), ([math.inf, -math.inf], math.nan), ([], 0.0)],
)
def test_infinities_and_nothing_add_up_as_floats_do(numbers: list[float], total: float) -> None:
    sums = sum_floats(np.array(numbers, dtype=np.float64), with_squares=True)

    assert total_of(sums) == pytest.approx(total, nan_ok=True)
    assert mean_of(sums) == pytest.approx(total if numbers else math.nan, nan_ok=True)
    assert math.isnan(deviation_of(sums))


@pytest.mark.parametrize(
    "numbers",
    [
        [1.7e308, 1.7e308],  # the sum
        [1e308, 0.0, -1e308],  # a square
        [1.3e154, -1.3e154, 1.3e154, -1.3e154],  # the sum of squares
    ],
)
def test_a_deviation_is_infinite_where_a_sum_on_its_way_is(numbers: list[float]) -> None:
    """As in pandas, whatever the order, though the deviation itself would be a float."""
    sums = sum_floats(np.array(numbers), with_squares=True)

    with np.errstate(over="ignore"):
        theirs = pd.Series(numbers)
        assert deviation_of(sums) == theirs.std() == math.inf
        assert mean_of(sums) == theirs.mean()


def test_integers_have_a_mean_however_large_their_sum() -> None:
    sums = sum_integers(np.full(4, 2**63 - 1), with_squares=True)

    assert mean_of(sums) == 2.0**63
    assert deviation_of(sums) == 0.0


def test_beyond_the_largest_float_there_is_infinity() -> None:
    assert ratio(10**400, 1) == math.inf
    assert ratio(-(10**400), 1) == -math.inf


def test_roots_of_very_large_and_very_small_ratios_are_found() -> None:
    assert root_of_ratio(0, 5) == 0.0
    assert root_of_ratio(4 * 10**600, 10**0) == 2e300
    assert root_of_ratio(1, 4 * 10**600) == 5e-301
