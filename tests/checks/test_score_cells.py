"""score_cells: means of a skewed score are as unlikely as permuted sources make them, not as a normal tail does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.score_cells import ScoreMoments, normal_deviates


def moments_of(score: np.ndarray, source: np.ndarray) -> ScoreMoments:
    parts = [score[source == name] for name in np.unique(source)]
    counts = np.array([float(len(part)) for part in parts])
    one, two, three = (np.array([(part**power).mean() for part in parts]) for power in (1, 2, 3))
    return ScoreMoments(counts, one, two, three).centred()


@pytest.mark.parametrize(("rows", "rare", "own"), [(200, 8, 40), (2000, 40, 100), (2000, 400, 100), (500, 5, 30)])
def test_a_rare_mark_is_as_unlikely_as_drawing_without_replacement_makes_it(rows: int, rare: int, own: int) -> None:
    """Never less likely than half a step of the exact (hypergeometric) tail says, and at most 40 times likelier."""
    from scipy.stats import hypergeom, norm

    source = np.where(np.arange(rows) < own, 0, 1 + np.arange(rows) % 9)
    for marked in range(1, min(rare, own) + 1):
        exact = float(hypergeom.sf(marked - 1, rows, rare, own))
        if not 1e-8 < exact < 0.02:
            continue
        score = np.zeros(rows)
        score[:marked] = 1.0
        score[rows - (rare - marked) :] = 1.0
        deviates, _ = moments_of(score, source).deviates(np.array([0]), np.arange(10) > 0)

        tail = float(norm.sf(deviates[0]))

        middle = exact - float(hypergeom.pmf(marked, rows, rare, own)) / 2
        assert 0.9 * middle <= tail <= 40 * exact


def test_honest_sources_of_a_heavy_tailed_score_keep_the_rate() -> None:
    from scipy.stats import norm

    random, tails = np.random.default_rng(0), []
    for _ in range(200):
        score, source = np.exp(1.5 * random.standard_normal(600)), random.integers(0, 10, 600)
        deviates, _ = moments_of(score, source).deviates(np.arange(10), np.ones(10, dtype=bool))
        tails += norm.sf(deviates).tolist()

    assert np.mean(np.array(tails) <= 0.01) <= 0.015
    assert np.mean(np.array(tails) <= 0.001) <= 0.003  # more than six of 2,000 have a chance of 0.005


def test_a_score_without_spread_tells_nothing() -> None:
    moments = moments_of(np.full(90, 0.1), np.arange(90) % 3)

    assert moments.deviates(np.arange(3), np.ones(3, dtype=bool))[0].tolist() == [0, 0, 0]
    assert moments.skewness() == 0


@given(st.floats(-30, 30), st.floats(-5, 5))
def test_a_correction_never_makes_a_deviate_larger_nor_turns_its_sign(deviate: float, skewness: float) -> None:
    found = float(normal_deviates(np.array([deviate]), np.array([skewness]))[0])

    assert abs(found) <= abs(deviate)
    assert found * deviate >= 0
    if deviate * skewness <= 0:
        assert found == deviate
