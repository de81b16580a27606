"""source_cells, source_scatter, excess: honest sources stay below the level, bad ones are named, one by one."""

from typing import Literal

import numpy as np
import pytest

from millcert.checks.excess import bin_of, count_excess
from millcert.checks.flagging import Counts
from millcert.checks.source_cells import CellShift, ClassCells, find_shifts, rest_mean, shift_direction
from millcert.checks.source_scatter import Distances, estimate_scatter

Scatter = Literal["none", "all_ways", "one_line"]
SOURCES, WIDTH = 20, 16
SPACES = (slice(0, 4), slice(0, WIDTH))


def cells_of(rows: np.ndarray, source: np.ndarray) -> ClassCells:
    names = np.unique(source)
    counts = np.array([(source == name).sum() for name in names], dtype=float)
    means = np.stack([rows[source == name].mean(axis=0) for name in names])
    freedom = float(len(rows) - len(names))
    within = (rows.T @ rows - (means.T * counts) @ means) / freedom
    scales = np.stack([[np.var(rows[source == name][:, space], axis=0).sum() for space in SPACES] for name in names])
    return ClassCells(tuple(f"s{name:02d}" for name in names), counts, means, scales, within, freedom)


def honest(random: np.random.Generator, samples: int, scatter: Scatter = "none") -> tuple[np.ndarray, np.ndarray]:
    """Rows of one class in 20 sources of Zipf's sizes."""
    sizes = 1 / np.arange(1, SOURCES + 1)
    source = random.choice(SOURCES, samples, p=sizes / sizes.sum())
    rows = random.standard_normal((samples, WIDTH))
    if scatter == "all_ways":
        rows += 0.2 * random.standard_normal((SOURCES, WIDTH))[source]
    if scatter == "one_line":
        rows += 0.4 * random.standard_normal((SOURCES, 1))[source] * random.standard_normal(WIDTH)
    return rows, source


def judged(classes: dict[str, ClassCells], rate: float = 0.01) -> dict[tuple[str, str], CellShift]:
    return find_shifts(classes, SPACES, false_alarm_rate=rate, least_samples=20)


@pytest.mark.parametrize("scatter", ["none", "all_ways", "one_line"])
def test_honest_sources_are_not_named_however_they_scatter(scatter: Scatter) -> None:
    alarms = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        classes = {str(label): cells_of(*honest(random, 1000, scatter)) for label in range(4)}
        alarms += any(shift.is_shifted for shift in judged(classes).values())

    assert alarms <= 1  # at 0.01 each, two or more of 10 happen with a chance of 0.004


def test_p_values_of_honest_sources_are_uniform_or_above() -> None:
    found = []
    for seed in range(60):
        cells = cells_of(*honest(np.random.default_rng(seed), 1000))
        shifts = [shift for shift in judged({"a": cells}).values() if shift.is_tested]
        found.append(min(min(shift.p_values) for shift in shifts))

    assert np.mean(np.array(found) <= 0.2) <= 0.3  # 12 of 60 expected at most; more than 18 has a chance of 0.02


@pytest.mark.parametrize("scatter", ["none", "one_line"])
@pytest.mark.parametrize("bad", [0, 6])
def test_a_bad_source_is_named_and_no_other_even_if_it_is_the_largest(scatter: Scatter, bad: int) -> None:
    random = np.random.default_rng(3)
    classes = {}
    for label in range(4):
        rows, source = honest(random, 2000, scatter)
        if label == 2:
            shift = random.standard_normal(WIDTH)
            rows[source == bad] += (8 if scatter == "one_line" else 1.5) * shift / np.linalg.norm(shift)
        classes[str(label)] = cells_of(rows, source)

    shifts = judged(classes)

    assert [cell for cell, shift in shifts.items() if shift.is_shifted] == [(f"s{bad:02d}", "2")]


def test_a_cell_of_larger_spread_with_the_same_mean_is_not_named() -> None:
    named = 0
    for seed in range(20):
        rows, source = honest(np.random.default_rng(seed), 2000)
        rows[source == 4] *= 2
        named += judged({"a": cells_of(rows, source)})["s04", "a"].is_shifted

    assert named <= 1


def test_two_sources_are_not_told_apart_and_small_cells_are_not_tested() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((300, WIDTH))
    two = cells_of(rows + np.repeat([[0.0], [9.0]], [150, 150], axis=0), np.repeat([0, 1], [150, 150]))
    small = cells_of(
        rows + np.repeat([[0.0], [9.0]], [281, 19], axis=0), np.r_[np.repeat([0, 1, 2], [94, 94, 93]), [3] * 19]
    )

    shifts = judged({"two": two, "small": small})

    assert not any(shift.is_tested for (_, label), shift in shifts.items() if label == "two")
    assert shifts["s03", "small"] == CellShift(
        is_tested=False, p_values=(1, 1), distance=(0, 0), scatter=(0, 0), is_shifted=False, space=0
    )
    assert shifts["s00", "small"].is_tested


def test_coordinates_without_variance_and_classes_with_few_samples_are_no_trouble() -> None:
    random = np.random.default_rng(0)
    rows, source = random.standard_normal((66, WIDTH)), np.repeat([0, 1, 2], 22)
    rows[:, 3] = 1.0
    flat = np.ones((66, WIDTH))

    shifts = judged({"few": cells_of(rows, source), "flat": cells_of(flat, source)})

    assert all(shift.is_tested and not shift.is_shifted for shift in shifts.values())
    assert shift_direction(cells_of(flat, source), SPACES[0], np.ones(4)).tolist() == [0, 0, 0, 0]


def test_the_rest_of_a_class_leaves_out_what_it_is_told_to() -> None:
    cells = ClassCells(
        ("a", "b", "c"), np.array([1.0, 1, 2]), np.array([[1.0], [2], [5]]), np.ones((3, 1)), np.ones((1, 1)), 9
    )

    assert rest_mean(cells, 0).tolist() == [4]
    assert rest_mean(cells, 0, [1]).tolist() == [5]


def test_scatter_is_none_without_sources_and_found_where_it_is() -> None:
    random = np.random.default_rng(0)
    error = np.full(40, 0.01)
    names = tuple(f"s{number}" for number in range(40))
    line = (0.01 + 0.5) * random.chisquare(1, 40) / 1

    assert estimate_scatter([Distances((), np.zeros(0), np.zeros(0), 0)]).variance == 0
    assert estimate_scatter([Distances(names, 0.01 * random.chisquare(8, 40) / 8, error, 8)]).variance < 0.01
    assert 0.2 < estimate_scatter([Distances(names, line, error, 1)]).variance < 1.2


@pytest.mark.parametrize("surplus", [0, 20, 40, 80])
def test_the_interval_holds_the_surplus(surplus: int) -> None:
    held = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        rest, clean = random.standard_normal(2000), random.standard_normal(120)
        own = np.concatenate([clean, random.standard_normal(surplus) + 4])
        excess = count_excess(Counts.zero().add(bin_of(own)), Counts.zero().add(bin_of(rest)))
        held += excess.low <= surplus <= excess.high
        assert 0 <= excess.low <= excess.estimate <= excess.high <= len(own)

    assert held >= 35


def test_as_many_are_above_the_border_as_were_estimated() -> None:
    rest = Counts.zero().add(bin_of(np.linspace(-2, 2, 1001)))
    own = Counts.zero().add(bin_of(np.concatenate([np.linspace(-2, 2, 101), np.full(30, 3.0)])))

    excess = count_excess(own, rest)

    assert excess.estimate == pytest.approx(30, abs=4)
    assert 2 < excess.above <= 3


def test_positions_beyond_the_reach_stay_in_the_last_bins() -> None:
    assert bin_of(np.array([-1e9, 0.0, 1e9])).tolist() == [-1024, 0, 1024]
