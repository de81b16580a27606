"""Histogram bins hold scores of any sign and size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.pipelines.score import HIGHEST_BIN, LOWEST_BIN, bin_edge, score_bins


@given(st.floats(-1e7, 1e7))
def test_a_score_lies_between_the_edges_of_its_bin(score: float) -> None:
    """Rule: the bin's lower edge is at most the score, the next bin's edge is above it."""
    number = int(score_bins(np.array([score]))[0])

    assert (
        bin_edge(number) <= score * (1 + 1e-9) + 1e-12 if score >= 0 else bin_edge(number) <= score * (1 - 1e-9) + 1e-12
    )
    assert score <= bin_edge(number + 1) + abs(score) * 1e-9 + 1e-12


@pytest.mark.parametrize(("score", "number"), [(0.0, 0), (1e300, HIGHEST_BIN), (-1e300, LOWEST_BIN)])
def test_zero_starts_a_bin_and_the_ends_take_what_lies_beyond(score: float, number: int) -> None:
    assert score_bins(np.array([score]))[0] == number


def test_edges_rise() -> None:
    edges = [bin_edge(number) for number in range(LOWEST_BIN, HIGHEST_BIN + 2)]

    assert edges == sorted(set(edges))
