"""Groups that are off more than the others: the null holds where groups are alike, and where they differ honestly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.rate_outliers import (
    NullMoments,
    PowerSums,
    count_tail,
    overdispersion,
    stratified_null,
    upper_tail,
)

GROUPS, CLASSES = 60, 5


def crowd(seed: int, *, spread: float = 0.0, bad: float = 0.0) -> list[PowerSums]:
    """Return groups of 20 to 400 rows whose share of large numbers is 0.2, give or take; group 0 has `bad` more."""
    rng = np.random.default_rng(seed)
    groups = []
    for index in range(GROUPS):
        rows = 300 if index == 0 else int(rng.integers(20, 400))
        label = rng.integers(0, CLASSES, rows)
        hard = 0.15 + 0.05 * label
        own = np.clip(rng.normal(0, spread), -0.15, 0.15) + (bad if index == 0 else 0.0)
        is_off = rng.random(rows) < np.clip(hard + own, 0, 1)
        groups.append(PowerSums.of(label, np.where(is_off, rng.integers(500, 1025, rows), rng.integers(0, 200, rows))))
    return groups


def least_corrected(groups: list[PowerSums]) -> float:
    null = stratified_null(groups, CLASSES)
    return float(upper_tail(null, overdispersion(null)).min()) * len(groups)


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.06])
def test_honest_groups_are_seldom_named_whether_alike_or_not(spread: float) -> None:
    """Rule: at level 0.05 over all groups, about one crowd in twenty; 12 of 100 is above the 99.8 % point of that."""
    named = sum(least_corrected(crowd(seed, spread=spread)) < 0.05 for seed in range(100))

    assert named <= 12


def test_a_bad_group_is_named_among_alike_and_among_unlike_ones() -> None:
    alike = sum(least_corrected(crowd(seed, bad=0.2)) < 0.01 for seed in range(20))
    unlike = sum(least_corrected(crowd(seed, spread=0.04, bad=0.35)) < 0.01 for seed in range(20))

    assert alike >= 19
    assert unlike >= 18


def test_the_overdispersion_of_unlike_groups_is_what_made_them() -> None:
    alike, unlike = (
        np.median([overdispersion(stratified_null(crowd(seed, spread=spread), CLASSES)) for seed in range(15)])
        for spread in (0.0, 0.06)
    )

    assert alike < 0.004
    assert 0.01 < unlike < 0.04  # 0.06**2 / (0.25 * 0.75) = 0.019 for shares; more for the numbers behind them


def test_moments_are_those_of_a_draw_without_replacement() -> None:
    """Rule: mean, variance and third moment of the sum over all subsets of a class."""
    numbers = np.array([0, 1, 1, 4, 9])
    chosen = [numbers[list(subset)].sum() for subset in _subsets(5, 2)]
    groups = [PowerSums.of(np.zeros(2, np.int64), numbers[:2]), PowerSums.of(np.zeros(3, np.int64), numbers[2:])]

    null = stratified_null(groups, 1)

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
    null = stratified_null(crowd(1, spread=0.1)[:4], CLASSES)

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

    assert upper_tail(stratified_null(groups, 1), 0.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_the_tail_of_counts_is_that_of_its_distribution(rho: float) -> None:
    rng = np.random.default_rng(2)
    chance = rng.beta(0.2 * (1 / rho - 1), 0.8 * (1 / rho - 1), 200_000) if rho else np.full(200_000, 0.2)
    hits = rng.binomial(30, chance)

    tail = count_tail(np.array([0, 8, 12]), np.array([30, 30, 30]), np.full(3, 0.2), rho)

    np.testing.assert_allclose(tail, [(hits >= seen).mean() for seen in (0, 8, 12)], atol=4e-3)


def _subsets(size: int, taken: int) -> list[tuple[int, ...]]:
    from itertools import combinations

    return list(combinations(range(size), taken))
