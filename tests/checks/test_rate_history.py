"""Rates of two versions: a rise beyond chance is told, chance and what is tolerated are not, and nothing is missed."""

import numpy as np
import pytest

from millcert.checks.class_cells import ClassCells
from millcert.checks.rate_history import (
    FAMILY_ALPHA,
    MAX_RATES,
    Rate,
    Rates,
    beyond_chance,
    compare_rates,
    count_comparisons,
    pair_rates,
    rates_of,
)


def version(rng: np.random.Generator, chance: np.ndarray, rows: int = 400) -> Rates:
    """Return the rates of 20 pairs of classes whose labels are doubted by chance."""
    groups = [((f"c{at}",), rows) for at in range(len(chance))]
    cells = [Rate((f"c{at}", "x"), rows, int(rng.binomial(rows, p))) for at, p in enumerate(chance.tolist())]
    return rates_of(cells, groups)


def test_versions_that_differ_by_chance_alone_hardly_ever_show_a_rise() -> None:
    """The family's level holds: fewer than 1 of 100 pairs of versions, give or take."""
    rng, chance, told = np.random.default_rng(0), np.full(20, 0.05), 0
    for _ in range(600):
        before, after = version(rng, chance), version(rng, chance)
        compared = count_comparisons(before, after)
        told += bool(compare_rates(before, after, comparisons=compared, tolerated_rise=0).rises)

    assert told <= 0.02 * 600


def test_a_pair_that_tripled_is_told_and_no_other() -> None:
    rng, chance = np.random.default_rng(1), np.full(20, 0.05)
    before = version(rng, chance)
    chance[7] = 0.17

    changes = compare_rates(before, version(rng, chance), comparisons=20, tolerated_rise=0.002)

    assert [rise.name for rise in changes.rises] == [("c7", "x")]
    assert changes.rises[0].p_value < FAMILY_ALPHA
    assert (changes.compared, changes.new) == (20, 0)


def test_a_rise_below_what_is_tolerated_is_none_however_sure() -> None:
    before, after = (Rates((Rate((), 10_000_000, seen),), 0, ()) for seen in (100_000, 110_000))

    assert compare_rates(before, after, comparisons=1, tolerated_rise=0.002).rises == ()
    assert len(compare_rates(before, after, comparisons=1, tolerated_rise=0.0005).rises) == 1


def test_a_pair_that_was_left_out_counts_as_the_most_that_it_can_have_been_and_an_unknown_group_is_new() -> None:
    before = Rates((Rate(("a", "b"), 100, 30),), 5, ((("a",), 100), (("c",), 50)))
    few = Rates((Rate(("a", "c"), 100, 9), Rate(("z", "a"), 40, 9)), 0, ((("a",), 100), (("z",), 40)))
    many = few._replace(rates=(Rate(("a", "c"), 100, 40),))

    told = compare_rates(before, few, comparisons=3, tolerated_rise=0)

    assert (told.rises, told.compared, told.new) == ((), 2, 1)  # ("a", "b") is not seen any more
    (rise,) = compare_rates(before, many, comparisons=3, tolerated_rise=0).rises
    assert (rise.name, rise.seen_before) == (("a", "c"), 5)


def test_the_largest_counts_are_kept_in_bounded_memory() -> None:
    cells = [Rate((f"{at:05}", "x"), 9, at % 50) for at in range(3 * MAX_RATES)]

    kept = rates_of(cells, [(rate.name[:1], 9) for rate in cells])

    assert len(kept.rates) == len(kept.rows) == MAX_RATES
    assert min(rate.seen for rate in kept.rates) >= kept.left_out > 0
    assert list(kept.rates) == sorted(kept.rates)


def test_pairs_are_those_of_the_table_off_its_diagonal() -> None:
    table = np.array([[5, 2, 0], [0, 7, 1], [0, 0, 0]])

    found = pair_rates(["a", "b", "c"], np.array([8, 9, 4]), ClassCells.of_table(table))

    assert found.rates == (Rate((), 21, 3), Rate(("a", "b"), 8, 2), Rate(("b", "c"), 9, 1))
    assert dict(found.rows) == {("a",): 8, ("b",): 9, ("c",): 4}
    assert found.left_out == 0


@pytest.mark.parametrize(("count", "expected"), [(0, 1.0), (100, 0.513), (130, 0.00134)])
def test_a_count_is_beyond_chance_by_the_binomial_tail(count: int, expected: float) -> None:
    assert beyond_chance(count, 1000, 0.1) == pytest.approx(expected, rel=0.1)
