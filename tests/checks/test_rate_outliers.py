"""Groups that are off more than the others: the null holds where groups are alike, and where they differ honestly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.rate_outliers import (
    Comparison,
    NullMoments,
    PowerSums,
    compare_groups,
    count_tail,
    overdispersion,
    stratified_null,
)

GROUPS, CLASSES = 60, 5


def crowd(seed: int, *, spread: float = 0.0, bad: float = 0.0, number: int = GROUPS, many: int = 1) -> list[PowerSums]:
    """Return groups of 20 to 400 rows whose share of large numbers is 0.2, give or take; the first `many` have more."""
    rng = np.random.default_rng([seed, number])
    groups = []
    for index in range(number):
        rows = 300 if index < many else int(rng.integers(20, 400))
        label = rng.integers(0, CLASSES, rows)
        hard = 0.15 + 0.05 * label
        own = np.clip(rng.normal(0, spread), -0.15, 0.15) + (bad if index < many else 0.0)
        is_off = rng.random(rows) < np.clip(hard + own, 0, 1)
        groups.append(PowerSums.of(label, np.where(is_off, rng.integers(500, 1025, rows), rng.integers(0, 200, rows))))
    return groups


def everybody(groups: list[PowerSums], classes: int = CLASSES) -> NullMoments:
    return stratified_null(groups, classes, np.ones(len(groups), dtype=np.bool_))


def corrected(groups: list[PowerSums]) -> np.ndarray:
    tail: np.ndarray = compare_groups(groups, CLASSES).upper_tail() * len(groups)
    return tail


@pytest.mark.parametrize("number", [6, 20, GROUPS])
@pytest.mark.parametrize("spread", [0.0, 0.03, 0.06])
def test_honest_groups_are_seldom_named_whether_alike_or_not(spread: float, number: int) -> None:
    """Rule: at level 0.05 over all groups, about one crowd in twenty; 7 of 40 is above the 99.8 % point of that."""
    named = sum(bool(corrected(crowd(seed, spread=spread, number=number)).min() < 0.05) for seed in range(40))

    assert named <= 7


def test_a_bad_group_is_named_among_alike_and_among_unlike_ones() -> None:
    alike = sum(bool(corrected(crowd(seed, bad=0.2))[0] < 0.01) for seed in range(20))
    unlike = sum(bool(corrected(crowd(seed, spread=0.04, bad=0.35))[0] < 0.01) for seed in range(20))

    assert alike >= 19
    assert unlike >= 18


@pytest.mark.parametrize(("number", "many"), [(12, 3), (30, 9), (60, 20)])
def test_bad_groups_do_not_set_what_is_normal(number: int, many: int) -> None:
    """Up to a third of all groups is bad alike: they are named, and no honest one is for being unlike them."""
    found = np.array([corrected(crowd(seed, bad=0.4, number=number, many=many)) < 0.01 for seed in range(10)])

    assert found[:, :many].mean() > 0.95
    assert found[:, many:].mean() < 0.01


def test_a_group_outside_the_reference_is_compared_with_it_and_its_own_rows() -> None:
    """Rule: the null of a group is a draw from the reference and itself, which is the permutation test of the two."""
    label = np.zeros(3, np.int64)
    groups = [PowerSums.of(label, np.array(rows)) for rows in ([1, 2, 3], [2, 2, 5], [9, 9, 9])]

    null = stratified_null(groups, 1, np.array([True, True, False]))

    assert null.mean.tolist() == [7.5, 7.5, 3 * 42 / 9]
    chosen = [sum(rows) for rows in _draws([1, 2, 3, 2, 2, 5, 9, 9, 9], 3)]
    assert null.variance[2] == pytest.approx(np.var(chosen))


def test_the_overdispersion_of_unlike_groups_is_what_made_them() -> None:
    alike, unlike = (
        np.median([compare_groups(crowd(seed, spread=spread), CLASSES).rho for seed in range(15)])
        for spread in (0.0, 0.06)
    )

    assert alike < 0.004
    assert 0.01 < unlike < 0.04  # 0.06**2 / (0.25 * 0.75) = 0.019 for shares; more for the numbers behind them


def test_the_fewer_groups_there_are_the_less_is_known_of_how_they_differ() -> None:
    few, many = (compare_groups(crowd(3, number=number), CLASSES).freedom for number in (6, 60))

    assert np.median(few) < 6
    assert np.median(many) > 20
    assert compare_groups(crowd(3, number=4), CLASSES).freedom.tolist() == [np.inf] * 4


def test_moments_are_those_of_a_draw_without_replacement() -> None:
    """Rule: mean, variance and third moment of the sum over all subsets of a class."""
    numbers = np.array([0, 1, 1, 4, 9])
    chosen = [numbers[list(subset)].sum() for subset in _subsets(5, 2)]
    groups = [PowerSums.of(np.zeros(2, np.int64), numbers[:2]), PowerSums.of(np.zeros(3, np.int64), numbers[2:])]

    null = everybody(groups, 1)

    assert null.mean[0] == pytest.approx(np.mean(chosen))
    assert null.variance[0] == pytest.approx(np.var(chosen))
    assert null.third[0] == pytest.approx(np.mean((chosen - np.mean(chosen)) ** 3))
    assert null.seen.tolist() == [1.0, 14.0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1024)), min_size=1, max_size=40), st.integers(1, 4))
def test_sums_do_not_depend_on_pieces(rows: list[tuple[int, int]], pieces: int) -> None:
    """Rule: merge is exact in any pieces."""
    table = np.array(rows, dtype=np.int64)
    parts = [PowerSums.of(part[:, 0], part[:, 1]) for part in (table[at::pieces] for at in range(pieces)) if len(part)]

    merged = parts[-1].merge(parts[:-1])

    whole = PowerSums.of(table[:, 0], table[:, 1])
    np.testing.assert_array_equal(merged.label, whole.label)
    np.testing.assert_array_equal(merged.sums, whole.sums)


def test_few_groups_tell_nothing_of_how_groups_differ() -> None:
    null = everybody(crowd(1, spread=0.1)[:4])

    assert overdispersion(null) == 0.0


def test_groups_that_differ_wildly_reach_the_bound() -> None:
    count = 9
    null = NullMoments(np.full(count, 10), np.full(count, 1e6), np.zeros(count), np.full(count, 1e-3), np.zeros(count))

    assert overdispersion(null) == pytest.approx(0.9)


def test_a_group_without_spread_or_rows_is_never_off() -> None:
    groups = [
        PowerSums.of(np.zeros(4, np.int64), np.full(4, 7)),
        PowerSums.of(np.array([], np.int64), np.array([], np.int64)),
    ]

    found = compare_groups(groups, 1)

    assert isinstance(found, Comparison)
    assert found.upper_tail().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_the_tail_of_counts_is_that_of_its_distribution(rho: float) -> None:
    rng = np.random.default_rng(2)
    chance = rng.beta(0.2 * (1 / rho - 1), 0.8 * (1 / rho - 1), 200_000) if rho else np.full(200_000, 0.2)
    hits = rng.binomial(30, chance)
    others = np.full(3, 200_000), np.full(3, 1_000_000)

    tail = count_tail(np.array([0, 8, 12]), np.array([30, 30, 30]), *others, rho)

    np.testing.assert_allclose(tail, [(hits >= seen).mean() for seen in (0, 8, 12)], atol=4e-3)


def test_what_few_others_never_did_is_no_proof() -> None:
    seen, rows = np.array([1, 3, 3]), np.array([20, 20, 20])

    alone, few, many = count_tail(seen, rows, np.zeros(3, np.int64), np.array([0, 20, 100_000]), 0.0).tolist()

    assert alone > 0.5
    assert few > 0.02
    assert many < 1e-8


def _draws(numbers: list[int], taken: int) -> list[tuple[int, ...]]:
    from itertools import combinations

    return list(combinations(numbers, taken))


def _subsets(size: int, taken: int) -> list[tuple[int, ...]]:
    from itertools import combinations

    return list(combinations(range(size), taken))
