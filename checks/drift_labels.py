"""A label pushed by one source: the share of its rows that would have to be relabelled, label by label.

Cramer's V of all labels together reads a push of 5 % as 0.07 where a label has a tenth of the rows and as 0.025 where
it has half, and spreads its chance over all labels. Here each label of each source is a comparison of its own, and the
effect is the pushed share itself: (q - p) / (1 - p), for p the label's share in the reference and q its share now.

The null: the source varies as the sources do by nature, its shares from one time to the next with a variance of
p (1 - p) times `natural_variance`, which is estimated from all sources' labels. Two quantiles of what they show are
matched, the larger answer counts, so that neither heavy tails nor some sources that push mislead it. Below
`LEAST_SOURCES` sources nothing tells how much they vary; the null is then that the true share is at most `tolerated`.

It is tested exactly, one-sided: given both counts, that of now is hypergeometric (Fisher's exact test), its tail
bounded by the geometric series of its first term, as the distribution is log-concave. What varies by nature counts
as fewer rows.

Sources: Fisher, J. R. Statist. Soc. 98 (1935), section 2 (the test); Rao and Scott, Biometrics 48 (1992) (effective
counts); Efron, J. Amer. Statist. Assoc. 99 (2004) (an empirical null from the other comparisons' central part).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from millcert.checks.drift import LEAST_EXPECTED, Drift, can_compare

#: Fewer sources do not tell how much sources vary by nature. Our choice: one of them pushed is then 5 % of the labels.
LEAST_SOURCES = 20
#: The part of the labels' |z| below each quantile that is matched: the middle, and what the tails begin with.
_MATCHED = (0.5, 0.9)
#: 1 / rows beyond which more rows are taken for no more: float64 has no room for their factorials.
_LEAST_RATE = 1e-10
_STEPS = 60


class LabelTable(NamedTuple):
    """One source: how many rows of each label it had and has, int64 (k,) each, in the order of `labels`."""

    source: str
    labels: tuple[str, ...]
    reference: np.ndarray
    current: np.ndarray

    @property
    def is_comparable(self) -> bool:
        """Whether both sides have enough rows."""
        return can_compare(int(self.reference.sum()), int(self.current.sum()))


class LabelPush(NamedTuple):
    """The label of a source that most needs explaining, its share of the source's rows, and what is natural of it."""

    source: str
    label: str
    drift: Drift
    reference_share: float
    current_share: float
    natural: float


class _Cells(NamedTuple):
    """All labels of all sources, float64 (c,) each: rows of the label and of the source, before and now."""

    before: np.ndarray
    rows_before: np.ndarray
    now: np.ndarray
    rows_now: np.ndarray

    def take(self, some: np.ndarray) -> "_Cells":
        return _Cells(*(each[some] for each in self))

    @property
    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        return self.before / self.rows_before, self.now / self.rows_now

    @property
    def pushed(self) -> np.ndarray:
        """The pushed share; 0 where the source had no other label."""
        p, q = self.shares
        return np.where(p < 1, (q - p) / np.maximum(1 - p, 1 / self.rows_before), 0.0)


class _Nulls(NamedTuple):
    """What is natural of each label, float64 (c,): the pushed share, and the variance beyond sampling."""

    tolerated: np.ndarray
    natural: np.ndarray


def natural_variance(tables: Sequence[LabelTable], most: float) -> float | None:
    """Return how much the sources' label shares vary beyond sampling, as a part of p (1 - p), 0 to `most`.

    None where fewer than `LEAST_SOURCES` sources have labels with enough rows to tell.

    In arcsines of roots a share of n rows has the variance 1/n whatever it is, plus the natural one. The natural one is
    the least with which the matched quantiles of |z| are at most those of the normal distribution.
    """
    spread = [each for table in tables if table.is_comparable for each in _distances(table)]
    if len(spread) < LEAST_SOURCES:
        return None
    distance = np.concatenate([each for each, _ in spread])
    sampling = np.concatenate([np.full(len(each), variance) for each, variance in spread])
    wanted = [(part, NormalDist().inv_cdf((1 + part) / 2)) for part in _MATCHED]

    def is_enough(natural: float) -> bool:
        z = distance / np.sqrt(sampling + natural)
        return all(float(np.quantile(z, part)) <= highest for part, highest in wanted)

    if is_enough(0.0):
        return 0.0
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def label_pushes(
    tables: Sequence[LabelTable],
    naturals: Sequence[float | None],
    *,
    limit: float,
    tolerated: float,
    family_alpha: float,
) -> list[LabelPush]:
    """Return each source's most pushed label, in the order of the tables; those that cannot be compared are left out.

    Args:
        tables: of the sources, and of all rows.
        naturals: of each table, what is natural of it; None: the null is the tolerated share.
        limit: from which pushed share on it matters.
        tolerated: up to which a true one is natural.
        family_alpha: shared among all labels of all tables.

    Cost: some microseconds a source and label.
    """
    chosen = [(table, natural) for table, natural in zip(tables, naturals, strict=True) if table.is_comparable]
    if not chosen:
        return []
    sizes = [len(table.labels) for table, _ in chosen]
    cells, starts = _cells_of([table for table, _ in chosen]), np.cumsum([0, *sizes])
    nulls = _Nulls(
        np.repeat([tolerated if natural is None else 0.0 for _, natural in chosen], sizes),
        np.repeat([natural or 0.0 for _, natural in chosen], sizes),
    )
    tails, pushed = _log_tail(*_null_counts(cells, nulls)), cells.pushed
    # Of what matters the least probable; where nothing matters, the largest.
    rank = np.lexsort((-pushed, np.where(pushed >= limit, tails, 0.0)))
    place = np.empty(len(rank), dtype=np.int64)
    place[rank] = np.arange(len(rank))
    best = np.array([int(a + np.argmin(place[a:b])) for a, b in pairwise(starts.tolist())])
    some = _Nulls(*(each[best] for each in nulls))
    quantile = _null_quantile(cells.take(best), some, family_alpha / int(starts[-1]))
    p, q = cells.shares
    found = []
    for (table, natural), first, at, null in zip(chosen, starts, best.tolist(), quantile.tolist(), strict=False):
        rows = int(table.reference.sum()), int(table.current.sum())
        drift = Drift("pushed_share", max(0.0, float(pushed[at])), limit, null, *rows)
        label, shares = table.labels[at - int(first)], (float(p[at]), float(q[at]))
        found.append(LabelPush(table.source, label, drift, *shares, natural or 0.0))
    return found


def _cells_of(tables: Sequence[LabelTable]) -> _Cells:
    sides = [[table.reference for table in tables], [table.current for table in tables]]
    columns = []
    for side in sides:
        columns += [np.concatenate(side), np.concatenate([np.full(len(each), each.sum()) for each in side])]
    return _Cells(*(each.astype(np.float64) for each in columns))


def _distances(table: LabelTable) -> list[tuple[np.ndarray, float]]:
    """Return [(how far each label moved, float64, its variance by sampling)]; none where no label has enough rows."""
    before, now = table.reference.astype(np.float64), table.current.astype(np.float64)
    n, m = before.sum(), now.sum()
    expected = (before + now) * min(n, m) / (n + m)
    is_used = (expected >= LEAST_EXPECTED) & (min(n, m) - expected >= LEAST_EXPECTED)
    moved = np.abs(2 * (np.arcsin(np.sqrt(now[is_used] / m)) - np.arcsin(np.sqrt(before[is_used] / n))))
    return [(moved, float(1 / n + 1 / m))] if is_used.any() else []


def _null_counts(cells: _Cells, nulls: _Nulls) -> _Cells:
    """Return the counts whose true shares a null has equal: the tolerated push made, nature as fewer rows."""
    before = cells.before + nulls.tolerated * (cells.rows_before - cells.before)
    extra = np.maximum(nulls.natural / 2, _LEAST_RATE)
    one, other = (1 / (1 + rows * extra) for rows in (cells.rows_before, cells.rows_now))
    return _Cells(before * one, cells.rows_before * one, cells.now * other, cells.rows_now * other)


def _log_tail(before: np.ndarray, rows_before: np.ndarray, now: np.ndarray, rows_now: np.ndarray) -> np.ndarray:
    """Return the logarithm of a bound on the chance of so many or more of `now`, given the sum; 0 where none is known.

    The ratio of neighbouring terms falls, so the tail is at most the first term over 1 less the first ratio.
    """
    first = (
        _log_choose(rows_now, now)
        + _log_choose(rows_before, before)
        - _log_choose(rows_now + rows_before, now + before)
    )
    ratio = (rows_now - now) * before / ((now + 1) * (rows_before - before + 1))
    is_tail = ratio < 1
    return np.where(is_tail, np.minimum(first - np.log1p(-np.where(is_tail, ratio, 0.0)), 0.0), 0.0)


def _null_quantile(cells: _Cells, nulls: _Nulls, alpha: float) -> np.ndarray:
    """Return the pushed share up to which a null explains it at a level, by bisection on the current count."""
    low, high = np.minimum(cells.before / cells.rows_before, 1.0) * cells.rows_now, cells.rows_now.copy()
    bound = math.log(alpha)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        is_explained = _log_tail(*_null_counts(cells._replace(now=middle), nulls)) >= bound
        low, high = np.where(is_explained, middle, low), np.where(is_explained, high, middle)
    return np.asarray(cells._replace(now=high).pushed)


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return _log_gamma(n + 1) - _log_gamma(k + 1) - _log_gamma(n - k + 1)


def _log_gamma(x: np.ndarray) -> np.ndarray:
    """Return log gamma of numbers from 1 on, by Stirling's series at x + 8 (Abramowitz and Stegun, 6.1.41)."""
    product = np.ones_like(x)
    for step in range(8):
        product = product * (x + step)
    y = x + 8
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * y * y)) / (y * y)) / (y * y)) / y
    return np.asarray((y - 0.5) * np.log(y) - y + math.log(2 * math.pi) / 2 + series - np.log(product))
