"""Quantiles from a histogram of bit patterns: exact while it is fine enough, and within its bounds beyond."""

import math
from typing import Any

import numpy as np
import pandas as pd  # noqa: TID253 - the oracle, loaded once and not within a timed example
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millcert.checks.metric_order import (
    MAX_BUCKETS,
    MAX_WAITING,
    Buckets,
    Waiting,
    count_values,
    empty_buckets,
    interpolate,
    merge_buckets,
    settle,
    value_at,
    wait,
)

NUMBERS = st.lists(st.floats(allow_nan=False), min_size=1, max_size=40)


def same(left: Buckets, right: Buckets) -> bool:
    return left.level == right.level and all(np.array_equal(a, b) for a, b in zip(left[1:], right[1:], strict=True))


@given(NUMBERS, st.integers(1, 5))
def test_few_values_are_ranked_exactly(numbers: list[float], pieces: int) -> None:
    """The value at each rank is the sorted one, whatever the pieces."""
    buckets = merge_buckets([count_values(np.array(numbers[i::pieces])) for i in range(pieces)])

    found = [value_at(buckets, rank) for rank in range(len(numbers))]

    assert found == [(number, number) for number in sorted(numbers)]


@given(
    st.lists(st.floats(-1e9, 1e9) | st.sampled_from([math.inf, -math.inf, 1.7e308, -1.7e308]), min_size=1, max_size=40),
    st.floats(0, 1),
    st.sampled_from(["linear", "lower", "higher", "midpoint", "nearest"]),
)
@example([1.7e308, -1.7e308], 0.0, "linear")
@example([-1.7e308, -1.7e308, 1.7e308], 0.5, "midpoint")
@example([-math.inf, 1.0], 0.0, "linear")
def test_interpolation_is_that_of_pandas(numbers: list[float], quantile: float, how: Any) -> None:
    """`Series.quantile` with each of its options gives the same float, beside infinities as well."""
    buckets = count_values(np.array(numbers))

    low, high = interpolate(buckets, len(numbers), quantile, how)

    with np.errstate(all="ignore"):
        theirs = pd.Series(numbers).quantile(quantile, interpolation=how)
    assert low is high or low == high
    assert low == pytest.approx(theirs, rel=1e-15, abs=1e-300, nan_ok=True)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_large_integers_keep_their_value_at_the_ends_of_a_bucket(numbers: list[int]) -> None:
    """Integers beyond 2^53 may share a bucket; its bounds are still integers of the data that enclose the answer."""
    buckets = count_values(np.array(numbers, dtype=np.int64))

    for rank, number in enumerate(sorted(numbers)):
        low, high = value_at(buckets, rank)
        assert low in numbers
        assert high in numbers
        assert low <= number <= high


def test_many_values_fit_the_budget_and_stay_within_the_stated_error() -> None:
    numbers = np.random.default_rng(3).normal(10, 3, 400_000)
    parts = [count_values(part) for part in np.array_split(numbers, 7)]

    buckets = merge_buckets(parts)

    assert len(buckets.keys) <= MAX_BUCKETS
    assert buckets.level > 0
    ordered = np.sort(numbers)
    for rank in (0, 1, 20_000, 199_999, 390_000, 399_999):
        low, high = value_at(buckets, rank)
        assert low <= ordered[rank] <= high
        assert high - low <= abs(ordered[rank]) * 2.0 ** (buckets.level - 52) * 2


def test_the_histogram_does_not_depend_on_how_the_values_came() -> None:
    """The level is a function of the set of values: any batches in any order give the same bits."""
    numbers = np.random.default_rng(4).normal(size=300_000)
    one = count_values(numbers)

    parts = [count_values(part) for part in np.array_split(np.random.default_rng(5).permutation(numbers), 11)]
    flat = merge_buckets(parts)
    nested = merge_buckets([merge_buckets(parts[7:]), merge_buckets(parts[:7])])

    assert same(one, flat)
    assert same(one, nested)


@given(pieces=st.lists(NUMBERS, min_size=1, max_size=5), settles_between=st.booleans())
def test_numbers_that_waited_come_to_the_same(pieces: list[list[float]], *, settles_between: bool) -> None:
    """Rule: the histogram depends on the set of values alone."""
    part: Waiting | Buckets = Waiting((), (np.array(pieces[0]),))
    for piece in pieces[1:]:
        part = wait(settle([part]) if settles_between else part, Waiting((), (np.array(piece),)))

    assert same(settle([part]), merge_buckets([count_values(np.array(piece)) for piece in pieces]))


def test_no_more_than_so_many_numbers_wait() -> None:
    part = Waiting((), ())
    for start in range(0, 3 * MAX_WAITING, MAX_WAITING // 2):
        part = wait(part, Waiting((), (np.arange(start, start + MAX_WAITING // 2, dtype=np.float64),)))

    assert sum(map(len, part.numbers)) < MAX_WAITING
    assert int(settle([part]).counts.sum()) == 3 * MAX_WAITING


def test_both_zeros_are_one_value() -> None:
    buckets = count_values(np.array([0.0, -0.0]))

    assert buckets.counts.tolist() == [2]
    assert math.copysign(1.0, value_at(buckets, 0)[0]) == 1.0


def test_nothing_merges_with_anything() -> None:
    nothing = empty_buckets(np.dtype(np.float64))

    assert merge_buckets([nothing, nothing]).counts.sum() == 0
    assert merge_buckets([nothing, count_values(np.array([1.0]))]).counts.sum() == 1
