"""Drift: effects that mean something, null quantiles that hold, and no alarm on one without the other."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, ncx2, wasserstein_distance

from millcert.checks import drift
from millcert.checks.drift import Drift, DriftLimits, Spread
from millcert.errors import InvalidSampleError, PolicyError

LIMITS = DriftLimits()


def histogram(numbers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(numbers, edges)[0].astype(np.int64)


def spread(numbers: np.ndarray) -> Spread:
    return Spread(float(numbers.mean()), float(numbers.var()))


def measured(left: np.ndarray, right: np.ndarray, alpha: float = 1e-3) -> tuple[Drift, Drift]:
    edges = np.linspace(-12, 12, 601)
    counts = histogram(left, edges), histogram(right, edges)
    intervals = np.stack([edges[:-1], edges[1:]], axis=1)
    spreads = spread(left), spread(right)
    return (
        drift.wasserstein(intervals, *counts, spreads, limit=LIMITS.wasserstein, alpha=alpha),
        drift.kolmogorov_smirnov(*counts, limit=LIMITS.kolmogorov_smirnov, alpha=alpha),
    )


NUMBERS = st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=30)
COUNTS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=40).filter(
    lambda pairs: sum(left for left, _ in pairs) > 1 and sum(right for _, right in pairs) > 1
)


@given(NUMBERS, NUMBERS)
def test_the_area_between_points_is_the_wasserstein_distance_and_the_height_is_the_ks_distance(
    left: list[float], right: list[float]
) -> None:
    """scipy's distance of the raw numbers, in standard deviations of the reference; and the definition of KS."""
    union = np.unique(np.array(left + right))
    ranks = [np.searchsorted(np.sort(side), union, side="right") for side in (left, right)]
    counts = np.diff(ranks[0], prepend=0), np.diff(ranks[1], prepend=0)
    spreads = spread(np.array(left)), spread(np.array(right))
    pooled = np.std(np.array(left + right))

    moved = drift.wasserstein(np.stack([union, union], axis=1), *counts, spreads, limit=0.05, alpha=0.01)
    height = drift.kolmogorov_smirnov(*counts, limit=0.05, alpha=0.01)

    unit = np.std(left) or pooled or 1.0
    assert moved.value == pytest.approx(wasserstein_distance(left, right) / unit, abs=1e-9)
    gaps = [abs(np.mean(np.array(left) <= point) - np.mean(np.array(right) <= point)) for point in union]
    assert height.value == pytest.approx(max(gaps), abs=1e-12)


@given(COUNTS)
def test_every_measure_of_categories_is_finite_and_within_its_range(pairs: list[tuple[int, int]]) -> None:
    left, right = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))

    v = drift.cramers_v(left, right, limit=0.05, alpha=1e-4)
    distance = drift.total_variation(left, right, limit=0.05, alpha=1e-4)

    assert 0 <= v.value <= 1 + 1e-9
    assert 0 <= distance.value <= 1 + 1e-9
    assert math.isfinite(v.null_quantile)
    assert math.isfinite(distance.null_quantile)
    assert 0 <= drift.jensen_shannon(left, right) <= 1 + 1e-9
    assert drift.population_stability(left, right) >= 0


@given(COUNTS)
def test_equal_sides_do_not_drift(pairs: list[tuple[int, int]]) -> None:
    left = np.array([one for one, _ in pairs], dtype=np.int64)

    assert drift.cramers_v(left, left, limit=0.05, alpha=0.01).value == 0
    assert drift.total_variation(left, left, limit=0.05, alpha=0.01).value == 0
    assert drift.jensen_shannon(left, left) == pytest.approx(0, abs=1e-12)


def test_a_shift_of_a_tenth_of_a_deviation_is_found_from_a_hundred_thousand_rows() -> None:
    random = np.random.default_rng(1)
    left, right = random.normal(0, 1, 100_000), random.normal(0.1, 1, 100_000)

    moved, _ = measured(left, right, alpha=1e-5)

    assert moved.value == pytest.approx(0.1, abs=0.02)
    assert moved.is_drift


def test_a_shift_that_is_certain_but_irrelevant_is_no_drift() -> None:
    """At 1e8 rows chance explains nothing any more, yet a thousandth of a deviation matters to nobody."""
    edges = np.linspace(-8, 8, 3201)
    mass = np.diff([0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in edges])
    moved = np.diff([0.5 * (1 + math.erf((edge - 0.001) / math.sqrt(2))) for edge in edges])
    counts = np.rint(mass * 1e8).astype(np.int64), np.rint(moved * 1e8).astype(np.int64)
    intervals = np.stack([edges[:-1], edges[1:]], axis=1)

    found = drift.wasserstein(intervals, *counts, (Spread(0, 1), Spread(0.001, 1)), limit=0.05, alpha=1e-5)

    assert found.value == pytest.approx(0.001, abs=1e-4)
    assert found.value > found.null_quantile
    assert not found.is_drift


def test_few_rows_alarm_nobody_by_chance() -> None:
    """At 150 rows the effects are above their limits most of the time; the null quantiles hold them back."""
    random = np.random.default_rng(2)
    pairs = [measured(random.normal(0, 1, 150), random.normal(0, 1, 150)) for _ in range(200)]

    above_limit = sum(one.value >= one.limit for pair in pairs for one in pair)

    assert above_limit > 200
    assert not any(one.is_drift for pair in pairs for one in pair)


@pytest.mark.parametrize("freedom", [1, 9, 255])
@pytest.mark.parametrize("shift", [0.0, 5.0, 20_000.0])
def test_quantiles_of_chi_square_are_near_scipy_s(freedom: int, shift: float) -> None:
    for alpha in (0.05, 1e-3, 1e-6):
        expected = ncx2.isf(alpha, freedom, shift) if shift else chi2.isf(alpha, freedom)

        assert 0.97 * expected <= drift._chi_square_quantile(freedom, shift, alpha) <= 1.16 * expected


def test_true_differences_that_are_tolerated_are_seldom_above_the_null_quantile() -> None:
    random = np.random.default_rng(8)
    shares = np.full(10, 0.1)
    natural = shares + 0.011 * np.array([1, -1] * 5)  # V = 0.055, total variation 0.055
    runs, alpha, exceeded = 300, 0.01, {"cramers_v": 0, "total_variation": 0}
    for _ in range(runs):
        left, right = random.multinomial(5_000, shares), random.multinomial(5_000, natural)
        for one in (
            drift.cramers_v(left, right, limit=0.06, alpha=alpha, tolerated=0.056),
            drift.total_variation(left, right, limit=0.06, alpha=alpha, tolerated=0.056),
        ):
            exceeded[one.measure] += one.value > one.null_quantile

    assert max(exceeded.values()) <= alpha * runs + 4 * math.sqrt(alpha * runs), exceeded


@pytest.mark.parametrize("alpha", [0.1, 0.01])
@pytest.mark.parametrize(("rows", "other"), [(300, 300), (300, 30_000), (5_000, 5_000)])
def test_null_quantiles_are_exceeded_no_more_often_than_they_say(alpha: float, rows: int, other: int) -> None:
    random = np.random.default_rng(3)
    shares = 1 / np.arange(1, 61)
    shares /= shares.sum()
    runs, exceeded = 400, {"cramers_v": 0, "total_variation": 0, "wasserstein": 0, "kolmogorov_smirnov": 0}
    for _ in range(runs):
        left, right = random.multinomial(other, shares), random.multinomial(rows, shares)
        numbers = random.standard_normal(rows), random.standard_normal(min(other, 5_000))
        for one in (
            drift.cramers_v(left, right, limit=0.05, alpha=alpha),
            drift.total_variation(left, right, limit=0.05, alpha=alpha),
            *measured(*numbers, alpha=alpha),
        ):
            exceeded[one.measure] += one.value > one.null_quantile

    allowed = alpha * runs + 4 * math.sqrt(alpha * runs)
    assert all(count <= allowed for count in exceeded.values()), exceeded


def test_fifty_thousand_rare_categories_are_no_drift_where_psi_shouts() -> None:
    random = np.random.default_rng(4)
    shares = 1 / np.arange(1, 50_001)
    shares /= shares.sum()
    left, right = (random.multinomial(10_000, shares) for _ in range(2))

    v = drift.cramers_v(left, right, limit=0.05, alpha=1e-4)

    assert drift.population_stability(left, right) > 0.25
    assert not v.is_drift
    assert not drift.total_variation(left, right, limit=0.05, alpha=1e-4).is_drift


def test_the_value_does_not_shrink_when_one_side_is_much_longer() -> None:
    shares, pushed = np.full(10, 0.1), np.full(10, 0.095)
    pushed[0] = 0.145

    values = [
        drift.cramers_v(
            np.rint(n * shares).astype(np.int64), np.rint(20_000 * pushed).astype(np.int64), limit=0.05, alpha=1e-4
        )
        for n in (20_000, 200_000_000)
    ]

    assert values[0].value == pytest.approx(values[1].value, rel=0.02)
    assert all(one.is_drift for one in values)


def test_one_wild_value_widens_what_chance_may_do() -> None:
    """A heavy tail: one value far beyond anything else moves W1 but proves nothing."""
    left = np.random.default_rng(5).standard_normal(10_000)
    right = np.append(np.random.default_rng(6).standard_normal(9_999), 1e5)
    union = np.unique(np.concatenate([left, right]))
    counts = np.isin(union, left).astype(np.int64), np.isin(union, right).astype(np.int64)

    found = drift.wasserstein(
        np.stack([union, union], axis=1), *counts, (spread(left), spread(right)), limit=0.05, alpha=1e-3
    )

    assert found.value > 1
    assert not found.is_drift


def test_a_constant_reference_is_measured_in_the_deviation_of_both() -> None:
    union = np.array([[1.0, 1.0], [3.0, 3.0]])
    counts = np.array([100_000, 0]), np.array([0, 100_000])

    found = drift.wasserstein(union, *counts, (Spread(1, 0), Spread(3, 0)), limit=0.05, alpha=1e-4)
    same = drift.wasserstein(union[:1], counts[0][:1], counts[0][:1], (Spread(1, 0),) * 2, limit=0.05, alpha=1e-4)

    assert found.value == pytest.approx(2.0)
    assert found.is_drift
    assert same.value == 0
    assert not same.is_drift


def test_distribution_functions_that_cross_within_an_interval_do_not_cancel() -> None:
    intervals = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    left, right = np.array([50, 0, 50]), np.array([0, 100, 0])

    found = drift.wasserstein(intervals, left, right, (Spread(0.5, 0.25), Spread(0.5, 1 / 12)), limit=0.05, alpha=0.01)

    # The integral of |1/2 - x| over [0, 1] is 1/4, in deviations of 1/2.
    assert found.value == pytest.approx(0.5)


def test_mean_embeddings_of_one_distribution_are_apart_by_chance_only() -> None:
    random = np.random.default_rng(7)

    def mean(center: float, rows: int) -> np.ndarray:
        angles = random.normal(center, 1, (rows, 64))
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).mean(axis=0) / 8

    same = drift.mean_embedding(mean(0, 3_000), mean(0, 3_000), (3_000, 3_000), limit=0.1, alpha=1e-4)
    moved = drift.mean_embedding(mean(0, 3_000), mean(0.5, 3_000), (3_000, 3_000), limit=0.1, alpha=1e-4)

    assert same.value < same.null_quantile
    assert not same.is_drift
    assert moved.is_drift


def test_mean_embeddings_of_other_sizes_are_refused() -> None:
    with pytest.raises(InvalidSampleError, match="4 and 6"):
        drift.mean_embedding(np.zeros(4), np.zeros(6), (10, 10), limit=0.1, alpha=0.01)


@pytest.mark.parametrize(("rows", "is_drift"), [(3, False), (300, True)])
def test_a_source_that_the_other_side_lacks_counts_unless_chance_explains_it(rows: int, is_drift: bool) -> None:
    new = drift.unseen_share(rows, 10_000, 10_000, is_new=True, alpha=1e-4)
    silent = drift.unseen_share(rows, 10_000, 5_000, is_new=False, alpha=1e-4)

    assert new.is_drift == is_drift
    assert silent.is_drift == is_drift
    assert (silent.reference_rows, silent.current_rows) == (10_000, 5_000)


def test_rare_categories_are_counted_together_until_they_are_not_rare() -> None:
    few = np.array([1] * 9 + [9_991])  # twice that: nine of two rows, so 9 expected rows together
    lone = np.array([1, 0, 9_999])  # one row is too few, so it joins the large one

    assert drift.cramers_v(few * 2, few * 2, limit=0.05, alpha=0.01).null_quantile > 0
    assert drift.cramers_v(lone, lone, limit=0.05, alpha=0.01).null_quantile == 0


def test_new_categories_are_found() -> None:
    found = drift.total_variation(np.array([10_000, 0]), np.array([9_000, 1_000]), limit=0.05, alpha=1e-5)

    assert found.value == pytest.approx(0.1)
    assert found.is_drift


def test_the_level_is_shared_among_all_comparisons() -> None:
    assert drift.share_of_alpha(0.01, 100) == pytest.approx(1e-4)
    assert drift.share_of_alpha(0.01, 0) == 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"wasserstein": 0.0},
        {"cramers_v": math.inf},
        {"family_alpha": 1.0},
        {"tolerated_part": -0.1},
        {"mean_embedding": -1},
    ],
)
def test_limits_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        DriftLimits(**wrong)


def test_the_tolerated_effect_is_a_part_of_the_limit() -> None:
    assert DriftLimits(cramers_v=0.2, tolerated_part=0.25).tolerated("cramers_v") == pytest.approx(0.05)
    assert DriftLimits(tolerated_part=0.0).tolerated("wasserstein") == 0


def test_keys_are_aligned_over_both_sides() -> None:
    union, (left, right) = drift.pooled_intervals(
        [
            (np.array([1, 5], dtype=np.uint64), np.array([10, 50])),
            (np.array([2, 5], dtype=np.uint64), np.array([20, 51])),
        ]
    )

    assert union.tolist() == [1, 2, 5]
    assert left.tolist() == [10, 0, 50]
    assert right.tolist() == [0, 20, 51]


def test_rows_below_the_least_are_not_compared() -> None:
    assert drift.can_compare(drift.LEAST_ROWS, drift.LEAST_ROWS)
    assert not drift.can_compare(drift.LEAST_ROWS - 1, 10**6)
