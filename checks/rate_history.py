"""Rates that one version of a data set is compared with the next by: has something become more frequent?

How many labels a model doubts says little by itself: on hard data many are doubted and right. What can be told is
whether a class pair, an annotator or a source is doubted more often than it was in a version that was let in.

A rise is one that chance does not explain and that matters: Fisher's exact test of the two versions' rows, one-sided,
corrected for all comparisons (Bonferroni), and a rate that grew by more than what the policy tolerates. What neither
version has seen could not be a rise, so it is no comparison (Tarone, Biometrics 46 (1990)). Rows that are in both
versions make the test conservative.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from millcert.checks.class_cells import ClassCells

#: What a rate may grow by where the policy does not say: 2 in 1,000 rows. Our choice: with millions of rows any change
#: is beyond chance, and one this small does not matter.
TOLERATED_RISE = 0.002
#: Rates that a check keeps; the largest counts come first.
MAX_RATES = 4096
#: Chance that any comparison of a run is called a rise where nothing rose.
FAMILY_ALPHA = 0.01


class Rate(NamedTuple):
    """How often something was seen. name: of what, such as ("cat", "dog"); () for all. seen: in how many of `rows`."""

    name: tuple[str, ...]
    rows: int
    seen: int


class Rates(NamedTuple):
    """What a check keeps of a version, by name.

    rates: at most `MAX_RATES`. left_out: none that is left out has a larger count; 0 where none is, or all are 0.
    rows: name less its last word -> rows, for every group that has rates that are left out, or none but 0.
    """

    rates: tuple[Rate, ...]
    left_out: int
    rows: tuple[tuple[tuple[str, ...], int], ...]


class Rise(NamedTuple):
    """Something that is more frequent than it was. p_value: corrected for all comparisons."""

    name: tuple[str, ...]
    rows_before: int
    seen_before: int
    rows: int
    seen: int
    p_value: float


class RateChanges(NamedTuple):
    """What became of rates. compared: how many. new: names that only the newer version has. rises: by p-value."""

    compared: int
    new: int
    rises: tuple[Rise, ...]


@runtime_checkable
class KeepsRates(Protocol):
    """A check whose rates are compared with those of the last admitted version."""

    def rates(self, model: Any) -> Rates:
        """Return the rates of a fitted model."""
        ...


def rates_of(cells: Sequence[Rate], groups: Sequence[tuple[tuple[str, ...], int]]) -> Rates:
    """Return the rates to keep: the largest counts, ties by name.

    Args:
        cells: all that were counted, in any order; what is not among them has the count 0.
        groups: name less its last word -> rows.
    """
    ordered = sorted((cell for cell in cells if cell.seen or not cell.name), key=lambda cell: (-cell.seen, cell.name))
    kept, rest = ordered[:MAX_RATES], ordered[MAX_RATES:]
    return Rates(tuple(sorted(kept)), max((cell.seen for cell in rest), default=0), tuple(sorted(groups))[:MAX_RATES])


def pair_rates(classes: Sequence[str], label_counts: np.ndarray, confident: ClassCells) -> Rates:
    """Return the rates of each (given class, likely class), and of all.

    Args:
        classes: K names.
        label_counts: int64 (K,), rows given each.
        confident: rows by given class and the class that they are confidently of.
    """
    off = confident.where(confident.row != confident.column)
    cells = [
        Rate((classes[row], classes[column]), int(label_counts[row]), value)
        for row, column, value in zip(off.row.tolist(), off.column.tolist(), off.value.tolist(), strict=True)
    ]
    cells.append(Rate((), int(label_counts.sum()), int(off.value.sum())))
    return rates_of(cells, [((name,), int(rows)) for name, rows in zip(classes, label_counts, strict=True)])


def compare_rates(before: Rates, after: Rates, *, comparisons: int, tolerated_rise: float) -> RateChanges:
    """Return what rose.

    Args:
        before: of the last admitted version.
        after: of this one.
        comparisons: of all checks together, for the correction; at least those here.
        tolerated_rise: what a rate may grow by without being called a rise, in [0, 1].
    """
    from scipy.stats import hypergeom

    pairs, new = _pairs(before, after)
    rises = []
    for old, now in pairs:
        if now.seen / now.rows - old.seen / old.rows <= tolerated_rise:
            continue
        tail = float(hypergeom.sf(now.seen - 1, old.rows + now.rows, old.seen + now.seen, now.rows))
        p_value = min(1.0, tail * comparisons)
        if p_value < FAMILY_ALPHA:
            rises.append(Rise(now.name, old.rows, old.seen, now.rows, now.seen, p_value))
    return RateChanges(len(pairs), new, tuple(sorted(rises, key=lambda rise: (rise.p_value, rise.name))))


def count_comparisons(before: Rates, after: Rates) -> int:
    """Return how many rates can be compared."""
    return len(_pairs(before, after)[0])


def _pairs(before: Rates, after: Rates) -> tuple[list[tuple[Rate, Rate]], int]:
    """Return the rates that both versions have rows for, and how many names only the newer one has."""
    known, rows = {rate.name: rate for rate in before.rates}, dict(before.rows)
    pairs, new = [], 0
    for rate in after.rates:
        old = known.get(rate.name)
        if old is None and rate.name and rate.name[:-1] in rows:
            # Not among the largest counts of a group that there was: at most as many as any that was left out.
            old = Rate(rate.name, rows[rate.name[:-1]], min(before.left_out, rows[rate.name[:-1]]))
        if old is not None and old.rows and rate.rows:
            pairs.append((old, rate))
        else:
            new += 1
    # What was seen before and is not now is no rise, but could have been one: it counts among the comparisons.
    groups, names = dict(after.rows), {rate.name for rate in after.rates}
    gone = [rate for rate in before.rates if rate.name not in names and groups.get(rate.name[:-1]) and rate.rows]
    pairs += [(rate, Rate(rate.name, groups[rate.name[:-1]], 0)) for rate in gone]
    return pairs, new


def beyond_chance(count: int, rows: int, limit: float) -> float:
    """Return the probability of as many or more among rows whose true rate is the limit: the null of a policy's limit.

    Args:
        count: of rows, at most as many.
        rows: at least 1.
        limit: in [0, 1].
    """
    from scipy.stats import binom

    return float(binom.sf(count - 1, rows, limit))
