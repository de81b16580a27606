"""Two parts on a line: mixtures, the valley test, counts and borders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.hidden_part import find_hidden_part
from millcert.checks.mixture import (
    Histogram,
    TwoParts,
    border,
    count_interval,
    fit_two_parts,
    valley_p_value,
)


def histogram_of(values: np.ndarray, width: float = 0.05) -> Histogram:
    bins, counts = np.unique(np.floor(values / width).astype(int), return_counts=True)
    return Histogram((bins + 0.5) * width, counts.astype(np.float64), width)


def two_parts(small: int = 60, large: int = 900, gap: float = 12.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.standard_normal(large), gap + random.standard_normal(small)])


@pytest.mark.parametrize("small", [15, 60, 450])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_two_parts_are_found_on_either_side(small: int, sign: float) -> None:
    best = max(fit_two_parts(histogram_of(sign * two_parts(small))), key=lambda parts: parts.ashman_d)

    assert best.gap == pytest.approx(12, abs=0.5)
    share = best.upper_share if sign > 0 else 1 - best.upper_share
    assert share * (900 + small) == pytest.approx(small, abs=1)
    assert best.ashman_d > 8


def test_ashmans_d_is_that_of_the_paper() -> None:
    """Equation 7: sqrt(2) |m1 - m2| / sqrt(s1**2 + s2**2)."""
    assert TwoParts(0, 3, 10, 4, 0.5).ashman_d == pytest.approx(2**0.5 * 10 / 5)


def test_a_single_position_has_no_two_parts() -> None:
    assert fit_two_parts(histogram_of(np.full(9, 1.0))) == ()
    assert fit_two_parts(Histogram(np.zeros(0), np.zeros(0), 0.1)) == ()
    assert find_hidden_part(histogram_of(np.full(9, 1.0)), others=0, gap_needed=1, tests=1) is None


def test_a_real_valley_is_significant_and_a_slope_is_not() -> None:
    parts = TwoParts(0, 1, 12, 1, 0.06)

    assert valley_p_value(histogram_of(two_parts()), parts) < 1e-9
    slope = histogram_of(np.abs(np.random.default_rng(1).standard_normal(2000)) * 8)
    assert valley_p_value(slope, parts) > 0.1


def test_a_few_samples_that_are_close_make_no_valley() -> None:
    values = np.concatenate([np.random.default_rng(2).standard_normal(500), [11.9, 12.0]])

    assert valley_p_value(histogram_of(values), TwoParts(0, 1, 12, 0.05, 0.004)) > 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_valley_test_keeps_its_level_on_unimodal_data(seed: int) -> None:
    """Null: density falls from the mean on. A p-value below 1e-4 in 40 draws would be a broken level."""
    values = np.random.default_rng(seed).standard_t(3, 400)

    for parts in fit_two_parts(histogram_of(values)):
        if parts.ashman_d > 4 and parts.upper_share < 0.5:
            assert valley_p_value(histogram_of(values), parts) > 1e-4


def test_the_count_is_that_of_the_upper_part_with_an_interval_around_it() -> None:
    histogram = histogram_of(two_parts(small=60))
    best = max(fit_two_parts(histogram), key=lambda parts: parts.ashman_d)

    estimate, low, high = count_interval(histogram, best)

    assert low <= 60 <= high
    assert estimate == pytest.approx(60, abs=1)
    assert high - low < 5


def test_parts_that_overlap_have_a_wider_interval() -> None:
    histogram = histogram_of(two_parts(gap=4, small=200))

    estimate, low, high = count_interval(histogram, TwoParts(0, 1, 4, 1, 200 / 1100))

    assert low <= estimate <= high
    assert high - low > 10


def test_the_border_parts_the_samples() -> None:
    values = two_parts()

    found = border(histogram_of(values), TwoParts(0, 1, 12, 1, 0.06))

    assert (values > found).sum() == 60


def test_reflection_mirrors_everything() -> None:
    parts = TwoParts(0, 1, 12, 2, 0.06)

    assert parts.reflected().reflected() == pytest.approx(parts) or parts.reflected().gap == parts.gap
    assert parts.reflected().upper_share == pytest.approx(0.94)
    assert histogram_of(np.array([1.0, 5.0])).reflected().positions[0] == pytest.approx(-5.025)


def test_a_hidden_part_needs_all_three_rules() -> None:
    histogram = histogram_of(two_parts())

    found = find_hidden_part(histogram, others=0, gap_needed=8, tests=10)
    too_near = find_hidden_part(histogram, others=0, gap_needed=13, tests=10)
    overlapping = find_hidden_part(histogram_of(two_parts(gap=3)), others=0, gap_needed=1, tests=10)
    few = find_hidden_part(histogram_of(two_parts(small=3)), others=0, gap_needed=8, tests=10)

    assert found is not None
    assert found.is_hidden
    assert found.estimate == pytest.approx(60, abs=1)
    for other in (too_near, overlapping, few):
        assert other is not None
        assert not other.is_hidden


@pytest.mark.parametrize(("others", "sign"), [(0.0, 1.0), (12.0, -1.0)])
def test_of_two_halves_the_one_away_from_the_other_classes_is_odd(others: float, sign: float) -> None:
    found = find_hidden_part(histogram_of(two_parts(small=900)), others=others, gap_needed=8, tests=10)

    assert found is not None
    assert found.is_hidden
    assert found.sign == sign


def test_a_small_part_is_odd_wherever_the_other_classes_are() -> None:
    found = find_hidden_part(histogram_of(two_parts()), others=12.0, gap_needed=8, tests=10)
    mirrored = find_hidden_part(histogram_of(-two_parts()), others=-12.0, gap_needed=8, tests=10)

    assert found is not None
    assert mirrored is not None
    assert found.sign == 1
    assert mirrored.sign == -1
    assert mirrored.estimate == pytest.approx(found.estimate, abs=0.5)
