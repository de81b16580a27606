"""The search for dividing directions: parts that hardly add to the variance are found, the same way each time."""

import numpy as np
import pytest

from millcert.checks.contrast import SAMPLES_PER_DIRECTION
from millcert.checks.direction_search import dividing_directions
from millcert.checks.hidden_part import Line, find_hidden_part
from millcert.checks.mixture import Histogram
from millcert.checks.valley import middle_of


def rows_with(part: int, *, gap: float, seed: int = 0, size: int = 12, samples: int = 800) -> tuple[np.ndarray, int]:
    """Return rows with variances 9 to 1 and a part moved along the last, least column."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((samples, size)) * np.sqrt(np.linspace(9, 1, size))
    rows[:part, size - 1] += gap
    return rows, size - 1


@pytest.mark.parametrize("part", [20, 60, 270, 400])
def test_a_part_is_found_along_a_direction_in_which_the_class_hardly_varies(part: int) -> None:
    rows, column = rows_with(part, gap=8.0)

    found = dividing_directions(rows, 3)

    assert np.abs(found[column]).max() > 0.9
    assert np.linalg.norm(found, axis=0) == pytest.approx(1)
    assert abs(found[:, 0][column]) > 0.9  # the best comes first


def test_directions_differ_from_one_another() -> None:
    rows, _ = rows_with(60, gap=8.0)

    found = dividing_directions(rows, 3)

    alike = np.abs(found.T @ found) - np.eye(found.shape[1])
    assert found.shape[1] <= 3
    assert alike.max() < 0.99


def test_the_same_rows_give_the_same_bits() -> None:
    rows, _ = rows_with(60, gap=8.0)

    assert np.array_equal(dividing_directions(rows, 3), dividing_directions(rows.copy(), 3))


def test_too_few_or_flat_rows_have_no_direction() -> None:
    rows, column = rows_with(5, gap=1.0, samples=11)
    flat, _ = rows_with(5, gap=1.0)
    flat[:, column] = 7.0

    assert dividing_directions(rows, 3).shape == (12, 0)
    assert dividing_directions(flat, 3).shape == (12, 0)
    assert dividing_directions(np.zeros((0, 12)), 3).shape == (12, 0)


@pytest.mark.parametrize("shape", ["gauss", "student", "lognormal"])
@pytest.mark.parametrize("samples", [96, 256, 512])
def test_a_direction_chosen_in_noise_makes_no_two_parts(shape: str, samples: int) -> None:
    """A search can find a valley in enough dimensions, but no parts as far apart as rule a asks for, less its bias."""
    hidden = 0
    for seed in range(6):
        random = np.random.default_rng(seed)
        size = (samples, samples // SAMPLES_PER_DIRECTION)
        rows = random.standard_t(3, size) if shape == "student" else random.standard_normal(size)
        rows = np.exp(rows) if shape == "lognormal" else rows
        _, vectors = np.linalg.eigh(np.cov(rows.T))
        rows = (rows - rows.mean(axis=0)) @ vectors
        for direction in dividing_directions(rows, 3).T:
            positions = np.sort(rows @ direction)
            middle = middle_of(positions)
            assert middle is not None
            line = Line(middle, 0.0, gap_needed=0.0, lines=3, dimension=size[1])
            found = find_hidden_part(Histogram(positions, np.ones(samples)), line)
            hidden += found is not None and found.is_hidden

    assert hidden == 0


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_a_part_is_found_that_only_a_turned_direction_shows(share: float) -> None:
    """Along each column the part lies within the class: only a mixture of many columns divides it."""
    random = np.random.default_rng(8)
    rows = random.standard_normal((2000, 24)) * np.sqrt(np.linspace(2, 1, 24))
    away = np.ones(24) * 1.9
    rows[: round(share * 2000)] += away

    found = dividing_directions(rows, 1)[:, 0]

    assert abs(float(found @ away)) / np.linalg.norm(away) > 0.9


def test_a_single_column_is_its_own_direction() -> None:
    rows = np.concatenate([np.random.default_rng(1).standard_normal(200), np.full(40, 9.0)])[:, None]

    assert np.array_equal(np.abs(dividing_directions(rows, 3)), [[1.0]])
