"""Rates with intervals: against published and independent values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from millcert.checks.detection_rates import auroc, proportion
from millcert.errors import NotEnoughSamplesError


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_interval_of_a_share_is_scipy_s_wilson(hits: int, trials: int) -> None:
    hits = min(hits, trials)

    rate = proportion(hits, trials)

    interval = binomtest(hits, trials).proportion_ci(method="wilson")
    assert (rate.value, rate.low, rate.high) == pytest.approx((hits / trials, interval.low, interval.high), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_scikit_learn_s_ties_included(pairs: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    score, is_bad = np.array([float(one) for one, _ in pairs]), np.array([bad for _, bad in pairs])
    if is_bad.all() or not is_bad.any():
        with pytest.raises(NotEnoughSamplesError):
            auroc(score, is_bad)
        return

    rate = auroc(score, is_bad)

    assert rate.value == pytest.approx(roc_auc_score(is_bad, score), abs=1e-12)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1


def test_the_standard_error_is_that_of_the_published_example() -> None:
    """Hanley, McNeil 1982, table II: area 0.893, 51 abnormal and 58 normal, standard error 0.032."""
    bad = np.array([1] * 3 + [2] * 2 + [3] * 2 + [4] * 11 + [5] * 33, dtype=float)
    good = np.array([1] * 33 + [2] * 6 + [3] * 6 + [4] * 11 + [5] * 2, dtype=float)
    score = np.concatenate([bad, good])

    rate = auroc(score, np.arange(len(score)) < len(bad))

    assert rate.value == pytest.approx(0.893, abs=0.0005)
    assert (rate.high - rate.low) / (2 * 1.96) == pytest.approx(0.032, abs=0.0005)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(NotEnoughSamplesError, match="nothing"):
        proportion(0, 0)
