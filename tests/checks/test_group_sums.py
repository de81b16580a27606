"""Exact sums of groups: those of each group's numbers alone, whatever the exponents."""

import numpy as np
import pytest

from millcert.checks.group_sums import sum_groups
from millcert.checks.metric_sums import sum_floats, sum_integers

RANDOM = np.random.default_rng(3)
N = 500


@pytest.mark.parametrize(
    "numbers",
    [
        RANDOM.normal(10, 3, N),
        RANDOM.normal(size=N) * 10.0 ** RANDOM.integers(-300, 300, N),
        np.where(RANDOM.random(N) < 0.2, np.inf, RANDOM.normal(size=N)),
        np.where(RANDOM.random(N) < 0.2, -np.inf, 5e-324 * RANDOM.integers(0, 9, N)),
        np.full(N, np.finfo(np.float64).max),
        np.zeros(N),
        np.full(N, np.inf),
        RANDOM.integers(-(2**63), 2**63 - 1, N),
        RANDOM.integers(0, 2**64 - 1, N, dtype=np.uint64),
        RANDOM.integers(-5, 9, N),
        np.full(N, -(2**63)),
    ],
)
def test_the_sums_of_groups_are_those_of_each_alone(numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millcert.checks.group_sums._CHUNK", 128)
    groups = np.random.default_rng(4).integers(0, 5, N)

    found = sum_groups(numbers, groups, 6)

    add = sum_floats if numbers.dtype.kind == "f" else sum_integers
    assert found == [add(numbers[groups == group], with_squares=True) for group in range(6)]
