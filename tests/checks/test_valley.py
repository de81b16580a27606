"""The valley test: finds a second hump of any width on either side, and keeps its level where there is one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.mixture import Histogram
from millcert.checks.valley import Middle, Valley, corrected_p, find_valley, log_level, middle_of

LEVEL = log_level(0.01, 30)


def valley_of(values: np.ndarray) -> Valley | None:
    positions = np.sort(values)
    middle = middle_of(positions)
    assert middle is not None
    return find_valley(Histogram(positions, np.ones(len(positions))), middle, level=LEVEL)


def p_value(values: np.ndarray) -> float:
    valley = valley_of(values)
    return 1.0 if valley is None else corrected_p(valley, 30)


@pytest.mark.parametrize("small", [40, 60, 450, 900])
@pytest.mark.parametrize(("gap", "spread"), [(8.0, 1.0), (40.0, 6.0), (12.0, 0.1)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_second_hump_is_found_on_either_side(small: int, gap: float, spread: float, sign: float) -> None:
    random = np.random.default_rng(small)
    values = np.concatenate([random.standard_normal(900), gap + spread * random.standard_normal(small)])

    valley = valley_of(sign * values)

    assert valley is not None
    assert corrected_p(valley, 30) <= 0.01
    assert (values[:900] * sign > valley.border).mean() in (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))
    assert abs((values * sign > valley.border)[900:].mean() - (values * sign > valley.border)[:900].mean()) > 0.97


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["student", "exponential", "uniform", "lognormal", "logistic"]))
def test_one_hump_of_any_shape_has_no_significant_valley(seed: int, shape: str) -> None:
    """Null: one mode. Level 0.01 over 30 lines: p below 3e-4 in 60 draws would be a broken level."""
    random = np.random.default_rng(seed)
    values = {
        "student": random.standard_t(2, 600),
        "exponential": random.exponential(size=600),
        "uniform": random.uniform(size=600),
        "lognormal": random.lognormal(0, 1.5, 600),
        "logistic": random.logistic(size=600),
    }[shape]

    assert p_value(values) > 1e-3


def test_a_hundred_thousand_samples_of_one_hump_have_no_valley_either() -> None:
    """Fixed errors, of the mode's place or of bins, would become significant in many samples."""
    random = np.random.default_rng(3)

    assert p_value(random.exponential(size=100_000)) > 0.01
    assert p_value(random.standard_t(3, 100_000)) > 0.01


def test_a_few_samples_that_are_close_make_no_valley() -> None:
    assert p_value(np.concatenate([np.random.default_rng(2).standard_normal(500), [11.9, 12.0]])) > 0.05


def test_the_middle_is_that_of_the_densest_samples() -> None:
    random = np.random.default_rng(4)
    plain = middle_of(np.sort(random.standard_normal(20_000)))
    halves = middle_of(np.sort(np.concatenate([random.standard_normal(500), 20 + random.standard_normal(500)])))

    assert plain is not None
    assert halves is not None
    assert plain.mode == pytest.approx(0, abs=0.3)
    assert plain.spread == pytest.approx(1, rel=0.05)
    assert min(abs(halves.mode), abs(halves.mode - 20)) < 1
    assert halves.spread < 4


def test_samples_at_one_place_have_no_middle() -> None:
    assert middle_of(np.zeros(0)) is None
    assert middle_of(np.ones(1)) is None
    assert middle_of(np.array([0.0, *[1.0] * 9])) is None


def test_an_empty_histogram_has_no_valley() -> None:
    assert find_valley(Histogram(np.zeros(0), np.zeros(0)), Middle(0.0, 1.0), level=LEVEL) is None


def test_a_p_value_is_corrected_for_all_tests_and_never_above_one() -> None:
    assert corrected_p(Valley(-10.0, 20, -1.0, 0.0, 1.0), 3) == pytest.approx(60 * np.exp(-10))
    assert corrected_p(Valley(-1.0, 20, -1.0, 0.0, 1.0), 3) == 1.0


def test_only_tests_that_could_come_out_so_are_corrected_for() -> None:
    """Tarone 1990: with 40 far samples fewer pairs of windows can be significant than with 4,000."""
    random = np.random.default_rng(5)
    few, many = (
        valley_of(np.concatenate([random.standard_normal(20 * far), 15 + random.standard_normal(far)]))
        for far in (40, 4000)
    )

    assert few is not None
    assert many is not None
    assert 1 <= few.tests < many.tests <= 2000
