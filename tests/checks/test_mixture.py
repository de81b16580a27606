"""Two parts on a line: their figures, counts, and the rules for a hidden part."""

import numpy as np
import pytest

from millcert.checks.hidden_part import HiddenPart, Line, find_hidden_part
from millcert.checks.mixture import Histogram, TwoParts, count_interval, divide
from millcert.checks.valley import Middle


def histogram_of(values: np.ndarray) -> Histogram:
    return Histogram(np.sort(values), np.ones(len(values)))


def two_parts(small: int = 60, large: int = 900, gap: float = 12.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.standard_normal(large), gap + random.standard_normal(small)])


def hidden(values: np.ndarray, *, others: float = 0.0, gap_needed: float = 8.0, dimension: int = 4) -> HiddenPart:
    line = Line(Middle(0.0, 1.0), others, gap_needed, lines=10, dimension=dimension)
    found = find_hidden_part(histogram_of(values), line)
    assert found is not None
    return found


def test_ashmans_d_is_that_of_the_paper() -> None:
    """Equation 7: sqrt(2) |m1 - m2| / sqrt(s1**2 + s2**2)."""
    assert TwoParts(0, 3, 10, 4, 0.5).ashman_d == pytest.approx(2**0.5 * 10 / 5)


def test_a_border_divides_a_line_in_two() -> None:
    values = two_parts()

    parts = divide(histogram_of(values), 6.0)

    assert parts is not None
    assert parts.lower_mean == pytest.approx(values[:900].mean())
    assert parts.upper_spread == pytest.approx(values[900:].std())
    assert parts.upper_share == pytest.approx(60 / 960)
    assert divide(histogram_of(values), 99.0) is None


def test_a_few_samples_at_one_place_do_not_make_a_part_without_spread() -> None:
    parts = divide(histogram_of(np.concatenate([np.random.default_rng(2).standard_normal(500), [12.0, 12.0]])), 6.0)

    assert parts is not None
    assert parts.upper_spread == pytest.approx(0.02 * parts.gap)


def test_the_count_is_that_above_the_border_with_an_interval_around_it() -> None:
    histogram = histogram_of(two_parts(small=60))
    parts = divide(histogram, 6.0)
    assert parts is not None

    estimate, low, high = count_interval(histogram, parts, 6.0)

    assert estimate == 60
    assert low <= 60 <= high
    assert high - low < 5


def test_parts_that_overlap_have_a_wider_interval() -> None:
    histogram = histogram_of(two_parts(gap=4, small=200))

    estimate, low, high = count_interval(histogram, TwoParts(0, 1, 4, 1, 200 / 1100), 2.0)

    assert low <= estimate <= high
    assert low <= 200 <= high
    assert high - low > 10


def test_reflection_mirrors_everything() -> None:
    parts = TwoParts(0, 1, 12, 2, 0.06)

    assert parts.reflected().reflected().gap == parts.gap
    assert parts.reflected().upper_share == pytest.approx(0.94)
    assert histogram_of(np.array([1.0, 5.0])).reflected().positions.tolist() == [-5.0, -1.0]


def test_a_hidden_part_needs_all_three_rules() -> None:
    found = hidden(two_parts())
    too_near = hidden(two_parts(), gap_needed=13)
    few = hidden(two_parts(small=3))
    overlapping = find_hidden_part(histogram_of(two_parts(gap=3)), Line(Middle(0.0, 1.0), 0.0, 1.0, 10, 4))

    assert found.is_hidden
    assert found.estimate == pytest.approx(60, abs=1)
    assert not too_near.is_hidden
    assert not few.is_hidden
    assert overlapping is None or not overlapping.is_hidden


def test_what_a_turned_direction_adds_to_the_distance_is_taken_off() -> None:
    """A few samples in many dimensions lie apart along some direction by chance."""
    values = two_parts(small=40, gap=10.0)

    assert hidden(values, dimension=1).is_hidden
    assert not hidden(values, dimension=4000).is_hidden


@pytest.mark.parametrize(("others", "sign"), [(0.0, 1.0), (12.0, -1.0)])
def test_of_two_halves_the_one_away_from_the_other_classes_is_odd(others: float, sign: float) -> None:
    found = hidden(two_parts(small=900), others=others)

    assert found.is_hidden
    assert found.sign == sign


def test_a_small_part_is_odd_wherever_the_other_classes_are() -> None:
    found, mirrored = hidden(two_parts(), others=12.0), hidden(-two_parts(), others=-12.0)

    assert found.sign == 1
    assert mirrored.sign == -1
    assert mirrored.estimate == pytest.approx(found.estimate, abs=0.5)
    assert mirrored.border == pytest.approx(found.border, abs=0.5)


def test_a_line_on_which_nothing_rises_again_has_no_parts() -> None:
    slope = np.abs(np.random.default_rng(1).standard_normal(2000)) * 8

    found = find_hidden_part(histogram_of(slope), Line(Middle(0.0, 4.0), 0.0, 1.0, 10, 4))

    assert found is None or not found.is_hidden
    assert find_hidden_part(histogram_of(np.full(9, 1.0)), Line(Middle(1.0, 1.0), 0.0, 1.0, 10, 4)) is None
