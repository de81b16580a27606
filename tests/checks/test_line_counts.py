"""Counts along lines: bins that order like positions, whose centres lie near what they hold."""

import numpy as np
import pytest

from millcert.checks.line_counts import BINS, LineCounts, histogram_of, line_keys
from millcert.checks.valley import Middle

MIDDLES = (Middle(2.0, 0.5), Middle(-1.0, 3.0))


def positions(count: int = 3000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(1.5, (count, 2)) * 4


def test_keys_order_like_positions_and_centres_lie_near() -> None:
    rows = positions()

    keys = line_keys(rows, MIDDLES)
    counts = LineCounts.zero().add(rows, MIDDLES, (("s", slice(0, len(rows))),)).told_apart().all_sources()

    for line, middle in enumerate(MIDDLES):
        order = np.argsort(rows[:, line])
        assert (np.diff(keys[order, line].astype(int)) >= 0).all()
        assert keys[:, line].min() >= line * BINS
        assert keys[:, line].max() < (line + 1) * BINS
        histogram = histogram_of(counts, line, middle)
        assert histogram.samples == len(rows)
        assert (np.diff(histogram.positions) > 0).all()
        repeated = np.repeat(histogram.positions, histogram.counts.astype(int))
        away = np.abs(rows[order, line] - middle.mode) + middle.spread
        assert np.abs(repeated - rows[order, line]) == pytest.approx(0, abs=1 / 32 * away.max())
        assert (np.abs(repeated - rows[order, line]) <= away / 32).all()


def test_what_is_too_far_out_counts_in_the_last_bin() -> None:
    keys = line_keys(np.array([[1e30, -1e30], [2.0, -1.0]]), MIDDLES)

    assert keys.tolist() == [[BINS - 1, BINS], [BINS // 2, BINS + BINS // 2]]


def test_counts_are_the_same_in_any_order_and_know_their_sources() -> None:
    rows = positions(9000)
    parts = [slice(0, 3000), slice(3000, 6000), slice(6000, 9000)]

    counted = [
        LineCounts.zero().add(rows[part], MIDDLES, ((f"s{place}", slice(0, 3000)),)) for place, part in enumerate(parts)
    ]
    one = counted[0].merge(counted[1:]).told_apart()
    other = counted[2].merge([counted[0]]).merge([counted[1]]).told_apart()

    assert np.array_equal(one.all_sources().counts, other.all_sources().counts)
    above = one.fractions_above(0, MIDDLES[0], 1.0, 4.0)
    assert set(above) == {"s0", "s1", "s2"}
    assert above["s1"] == pytest.approx((rows[3000:6000, 0] > 4.0).mean(), abs=0.005)
