"""Pushed labels: the effect is the pushed share, the null is exact, and sources that vary by nature are not named."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from millcert.checks.drift import DriftLimits
from millcert.checks.drift_labels import (
    LEAST_SOURCES,
    LabelPush,
    LabelTable,
    _log_gamma,
    _log_tail,
    label_pushes,
    natural_variance,
)
from millcert.checks.profile import Cell, Profile, ProfileSpec
from millcert.checks.profile_compare import compare_profiles

LABELS = 10
LIMIT, TOLERATED = 0.025, 0.0125


def table(name: str, reference: np.ndarray, current: np.ndarray) -> LabelTable:
    return LabelTable(name, tuple(f"class-{at}" for at in range(len(reference))), reference, current)


def months(seed: int, *, sources: int, rows: int, varies: float = 0.0, pushed: float = 0.0) -> list[LabelTable]:
    """Return sources of one size; `varies` is 1 / (the concentration of their Dirichlet); the first one pushes."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(sources):
        share = random.dirichlet(np.full(LABELS, 50.0))
        now = random.dirichlet(share / varies) if varies else share
        current = random.multinomial(rows, now)
        if pushed and not number:
            moved = random.binomial(current, pushed)
            current = current - moved
            current[3] += moved.sum()
        found.append(table(f"s{number}", random.multinomial(rows, share), current))
    return found


def compare(tables: list[LabelTable], natural: float | None, alpha: float = 0.005) -> list[LabelPush]:
    return label_pushes(tables, [natural] * len(tables), limit=LIMIT, tolerated=TOLERATED, family_alpha=alpha)


@pytest.mark.parametrize("labels", [2, 5, 50])
def test_the_effect_is_the_pushed_share_however_many_labels_there_are(labels: int) -> None:
    """V reads the same push as 0.02 or 0.1."""
    before = np.full(labels, 10_000_000 // labels)
    now = np.rint(before * 0.95).astype(np.int64)
    now[1] += before.sum() - now.sum()

    [found] = compare([table("a", before, now)], 0.0)

    assert found.drift.value == pytest.approx(0.05, abs=1e-6)
    assert (found.label, found.drift.is_drift) == ("class-1", True)
    assert found.reference_share == pytest.approx(1 / labels, rel=1e-6)


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_the_tail_is_a_tight_bound_of_fishers_exact_test(n: int, m: int, data: st.DataObject) -> None:
    """scipy's hypergeometric tail, never short of it, and at most twice of it below a thousandth."""
    k, j = data.draw(st.integers(0, m)), data.draw(st.integers(0, n))
    exact = float(hypergeom.sf(k - 1, n + m, k + j, m))

    bound = math.exp(float(_log_tail(*(np.array([float(each)]) for each in (j, n, k, m)))[0]))

    assert bound >= exact * (1 - 1e-9)
    assert exact > 1e-3 or bound <= 2 * exact + 1e-300


def test_the_logarithm_of_gamma_is_pythons() -> None:
    numbers = np.array([1.0, 1.5, 2.0, 7.3, 100.0, 1e5, 1e10])

    assert _log_gamma(numbers).tolist() == pytest.approx([math.lgamma(each) for each in numbers], rel=1e-12, abs=1e-10)


def test_what_is_natural_is_estimated_and_sources_that_push_hardly_raise_it() -> None:
    varying = months(1, sources=50, rows=200_000, varies=2e-4)
    still = months(2, sources=50, rows=200_000)
    some_push = [months(seed, sources=1, rows=200_000, varies=2e-4, pushed=0.05)[0] for seed in (3, 4, 5)]

    assert natural_variance(varying, 1.0) == pytest.approx(2e-4, rel=0.3)
    assert natural_variance(still, 1.0) == pytest.approx(0, abs=5e-6)
    assert natural_variance(some_push + varying[3:], 1.0) == pytest.approx(2e-4, rel=0.6)
    assert natural_variance(varying, 1e-5) == pytest.approx(1e-5)
    assert natural_variance(varying[: LEAST_SOURCES - 1], 1.0) is None


def test_sources_that_vary_by_nature_are_not_named_and_the_one_that_pushes_is() -> None:
    """20 months of 50 sources; alone the test may err in one of 200."""
    named = wrong = 0
    for seed in range(20):
        tables = months(seed, sources=50, rows=9_000, varies=2e-4, pushed=0.05)
        found = [one for one in compare(tables, natural_variance(tables, 6.25e-4)) if one.drift.is_drift]
        named += any((one.source, one.label) == ("s0", "class-3") for one in found)
        wrong += sum(one.source != "s0" for one in found)

    assert named >= 19
    assert wrong == 0


def test_few_sources_are_held_against_the_tolerated_share() -> None:
    before = np.full(LABELS, 100_000)

    def pushed(share: float) -> LabelPush:
        moved = np.rint(before * share).astype(np.int64)
        now = before - moved
        now[0] += moved.sum()
        return compare([table("a", before, now)], None)[0]

    assert pushed(0.05).drift.is_drift
    assert not pushed(0.012).drift.is_drift
    assert pushed(0.03).drift.null_quantile == pytest.approx(TOLERATED, abs=0.006)


def test_a_label_that_a_source_never_had_is_a_push_and_one_that_it_always_had_is_none() -> None:
    news = table("new", np.array([1000, 0]), np.array([900, 100]))
    only = table("only", np.array([1000]), np.array([1000]))
    small = table("small", np.array([50, 0]), np.array([0, 50]))

    found = compare([news, only, small], 0.0)

    assert [(one.source, one.label, one.drift.is_drift) for one in found] == [
        ("new", "class-1", True),
        ("only", "class-0", False),
    ]
    assert found[0].drift.value == pytest.approx(0.1)
    assert found[1].drift.value == 0.0
    assert compare([small], 0.0) == []


def test_counts_beyond_what_factorials_hold_are_still_compared() -> None:
    before = np.array([2**51, 2**51])
    now = np.array([2**51 + 2**47, 2**51 - 2**47])

    [found] = compare([table("a", before, now)], 0.0)

    assert found.drift.is_drift
    assert 0 < found.drift.null_quantile < 1e-3


def test_rows_without_a_source_are_compared_as_a_source_of_their_own() -> None:
    """Their source's name is "", as that of all rows: a push in them alone is 0.0006 of all rows."""

    def profile(seed: int, pushed: int) -> Profile:
        random = np.random.default_rng(seed)
        cells: dict[tuple[str, str], Cell] = {}
        for source, rows in (("", 10_000), ("a", 800_000)):
            counts = random.multinomial(rows, np.full(LABELS, 1 / LABELS))
            if not source:
                counts -= pushed
                counts[1] += LABELS * pushed
            cells |= {(source, f"class-{at}"): Cell(int(count), {}) for at, count in enumerate(counts)}
        return Profile(ProfileSpec("5a" * 32, label="label", source="source"), {}, cells, {})

    found = compare_profiles(profile(1, 0), profile(2, 60), DriftLimits()).found

    assert "pushed_share" in {one.drift.measure for one in found}
    assert {one.drift.current_rows for one in found} == {10_000}
