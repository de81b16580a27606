"""Counts of keys, and exact thresholds in two passes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.flagging import (
    MOST_WAITING,
    BufferedCounts,
    Counts,
    cell_of_threshold,
    exact_threshold,
    lower_half_in,
    score_keys,
    top_count,
    upper_half,
)
from millcert.errors import InternalError, PolicyError


def threshold_of(scores: np.ndarray, top: int) -> float:
    keys = score_keys(scores)
    cell, higher = cell_of_threshold(Counts.zero().add(upper_half(keys)), top)
    return exact_threshold(cell, higher, Counts.zero().add(lower_half_in(keys, cell)), top)


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60), st.integers(0, 70))
def test_the_threshold_is_the_exact_order_statistic(numbers: list[float], top: int) -> None:
    """What is above the threshold is at most `top` scores, and one more would be too many but for ties."""
    scores = np.array(numbers, dtype=np.float64)

    threshold = threshold_of(scores, top)

    ordered = np.sort(scores)[::-1]
    assert threshold == (ordered[top] if top < len(ordered) else -1.0)
    assert (scores > threshold).sum() <= top or top >= len(scores)


@given(st.lists(st.floats(0, 1e300), min_size=2, max_size=40))
def test_keys_order_like_scores(numbers: list[float]) -> None:
    scores = np.minimum(np.array(numbers), np.finfo(np.float32).max).astype(np.float32)

    keys = score_keys(np.array(numbers))

    assert np.array_equal(np.argsort(keys, kind="stable"), np.argsort(scores, kind="stable"))
    assert (keys >= 0).all()
    assert (keys < 2**31).all()


@given(st.lists(st.lists(st.integers(-5, 5), max_size=10), max_size=5), st.data())
def test_counts_do_not_depend_on_order_or_batches(lists: list[list[int]], data: st.DataObject) -> None:
    """merge is associative and commutative; equal counts have equal fields."""
    parts = [Counts.zero().add(np.array(keys, dtype=np.int64)) for keys in lists]
    shuffled = data.draw(st.permutations(parts))

    one = Counts.zero().merge(parts)
    other = Counts.zero()
    for part in shuffled:
        other = part.merge([other])

    assert np.array_equal(one.keys, other.keys)
    assert np.array_equal(one.counts, other.counts)
    assert one.total == sum(len(keys) for keys in lists)
    assert one.nbytes == 16 * len(one.keys)


def test_a_range_of_keys_can_be_taken() -> None:
    counts = Counts.zero().add(np.array([1, 5, 5, 9]))

    taken = counts.at(2, 9)

    assert taken.keys.tolist() == [5]
    assert taken.counts.tolist() == [2]


def test_negative_scores_and_nan_have_no_keys() -> None:
    with pytest.raises(InternalError):
        score_keys(np.array([-1.0]))
    with pytest.raises(InternalError):
        score_keys(np.array([np.nan]))


def test_minus_zero_is_zero() -> None:
    assert score_keys(np.array([-0.0]))[0] == 0


@pytest.mark.parametrize(("samples", "fraction", "expected"), [(10, 0.15, 2), (100, 0.3, 30), (3, 1.0, 3), (0, 0.5, 0)])
def test_the_top_part_is_rounded_up(samples: int, fraction: float, expected: int) -> None:
    assert top_count(samples, fraction) == expected


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(PolicyError):
        top_count(10, fraction)


def test_no_scores_have_no_threshold() -> None:
    assert cell_of_threshold(Counts.zero(), 3) == (-1, 0)


@given(
    st.integers(-(2**62), 2**62 - 2**12),
    st.sampled_from([1, 20, 2**11, 2**40]),
    st.lists(st.lists(st.integers(0, 2**40), max_size=30), max_size=4),
)
def test_keys_are_counted_alike_whether_they_lie_close_or_far_apart(
    low: int, spread: int, lists: list[list[int]]
) -> None:
    parts = [[low + key % spread for key in keys] for keys in lists]

    total = Counts.zero()
    for keys in parts:
        total = total.add(np.array(keys, dtype=np.int64))

    expected = sorted(Counter(key for keys in parts for key in keys).items())
    assert list(zip(total.keys.tolist(), total.counts.tolist(), strict=True)) == expected
    assert total.keys.dtype == total.counts.dtype == np.int64


@given(st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=30), max_size=8), st.integers(0, 2**32 - 1))
def test_keys_that_wait_are_counted_like_any_others(groups: list[list[int]], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(groups))
    first, second = BufferedCounts.zero(), BufferedCounts.zero()
    for place, number in enumerate(order.tolist()):
        keys = np.array(groups[number], dtype=np.uint16)
        first, second = (first.add(keys), second) if place % 2 else (first, second.add(keys))

    found = first.merge([second]).settled()

    expected = Counter(key for group in groups for key in group)
    assert dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True)) == expected


def test_no_more_keys_wait_than_the_limit() -> None:
    keys = np.arange(MOST_WAITING // 2 + 1, dtype=np.uint16)

    one, two = BufferedCounts.zero().add(keys), BufferedCounts.zero().add(keys).add(keys)

    assert len(one.waiting) == 1
    assert not two.waiting
    assert two.nbytes == 16 * len(keys)
    assert one.nbytes == keys.nbytes
    assert two.merge([one]).settled().total == 3 * len(keys)
