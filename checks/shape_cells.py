"""Which cells have another covariance than their class: some direction that their samples take up more than others do.

Covariance is size and shape. Size is a score of each sample (`millcert.checks.score_cells`); shape is that of the
directions samples lie in from their class's centre, whatever their lengths: spatial signs, which no heavy tail reaches.

  1. Pass 2 sums the products of each half cell's signs, in the leading whitened coordinates that memory allows.
  2. Of each half cell the direction that its samples take up most, against the rest of the class; a twentieth of the
     half cells are chosen, those that do so most.
  3. Pass 3 measures the other half of the cell along that direction, and the rest of the class. The direction knows
     nothing of these samples, so the null is that of any score: permuted sources. It is corrected for the chosen
     alone, for the choice knows nothing of them either.
  4. Differences between honest sources: what other sources' products differ beyond sampling, all directions together,
     is taken to lie along the one that is tested.

Source: sign covariance: Oja, "Multivariate Nonparametric Methods with R", 2010, section 9; the unbiased square
distance of second moments: Li and Chen, Ann. Stat. 40 (2012), section 2; a direction from one half for the other: Cox,
Biometrika 62 (1975).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from millcert.checks.exact import ExactMatrix
from millcert.checks.excess import BINS_PER_UNIT, Excess
from millcert.checks.flagging import Counts
from millcert.checks.score_cells import ScoreMoments
from millcert.checks.source_cells import LEAST_SOURCES, Answer, judge_score
from millcert.checks.source_scatter import Distances, Scatter, estimate_scatter

#: Coordinates at most; where a pattern is faint, the finer ones show it.
MOST_COORDINATES = 128
_LEAST_COORDINATES = 4
#: Memory of all products of an accumulator, and of one class's, which cross a shuffle as one record.
_BUDGET_BYTES, _RECORD_BYTES = 64 << 20, 3 << 20
#: Parts of one that a sign is rounded to.
_GRID = 4096.0
#: Part of the half cells that are looked at, and how many at most. Our choice: fewer would miss, more cost tests.
_CHOSEN, _MAX_CHOSEN = 0.05, 512


class ShapeSums(NamedTuple):
    """Of a class: half cell -> rows; half cell -> float64 (w, w), products of their signs on the grid, exact."""

    counts: Mapping[tuple[str, int], int]
    products: Mapping[tuple[str, int], np.ndarray]

    def merge(self, others: "Iterable[ShapeSums]") -> "ShapeSums":
        """Return the sums of all rows of this and the others."""
        counts, products = dict(self.counts), dict(self.products)
        for other in others:
            for cell, count in other.counts.items():
                counts[cell] = counts.get(cell, 0) + count
            for cell, added in other.products.items():
                products[cell] = products[cell] + added if cell in products else added
        return ShapeSums(counts, products)


def shape_coordinates(cells_by_class: Mapping[str, int], whitened: int) -> int:
    """Return how many coordinates are kept; 0 where memory allows too few to tell anything.

    Args:
        cells_by_class: how many cells of each class are summed.
        whitened: coordinates there are.
    """
    most = max(cells_by_class.values(), default=0)
    if not most or whitened < 2:
        return 0
    entries = min(_BUDGET_BYTES // (16 * sum(cells_by_class.values())), _RECORD_BYTES // (16 * most))
    width = min(MOST_COORDINATES, whitened, int(entries**0.5))
    return width if width >= min(_LEAST_COORDINATES, whitened) else 0


def signs(rows: np.ndarray) -> np.ndarray:
    """Return rows of length one, on the grid: whole numbers as float64; zeros of a row at the centre."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.asarray(np.rint(rows * (_GRID / np.maximum(length, 1.0))[:, None]))


@dataclass(frozen=True, eq=False)
class ShapeLine:
    """A cell that may differ in shape, and for each half the direction that the other half takes up most.

    columns: of a placed row. weights: one a half; None where it is not tested. scatter: between honest sources, in
    squared products of signs. excess: set once it was counted.
    """

    columns: slice
    weights: tuple[ExactMatrix | None, ExactMatrix | None]
    scatter: Scatter
    excess: Excess | None = None

    def positions(self, placed: np.ndarray, half: int) -> np.ndarray:
        """Return how much of each row lies along the direction, float64 (n,): 1 is what is usual of any direction.

        Args:
            placed: bounded rows, whole numbers; all of one half.
            half: 0 or 1; samples of one that is not tested are measured by the other's direction.
        """
        weights = self.weights[half] or self.weights[1 - half]
        width = self.columns.stop - self.columns.start
        along = 0.0 if weights is None else weights.apply(signs(placed[:, self.columns]) / _GRID)[:, 0]
        found: np.ndarray = np.abs(along) * np.sqrt(width)
        return found

    def tested(self, half: int) -> bool:
        """Return whether samples of that half are put to the test."""
        return self.weights[half] is not None


@dataclass(frozen=True, eq=False)
class _Class:
    """One class.

    cells: half cells. most: float64 (c,), the largest part of a direction that each has more of than the rest, over the
    class's median of what noise would make equal. gap: (c, w, w), products less those of the rest.
    trace: of the covariance of one sample's products. distances: of whole cells.
    """

    cells: list[tuple[str, int]]
    most: np.ndarray
    gap: np.ndarray
    trace: float
    distances: Distances

    @classmethod
    def of(cls, sums: ShapeSums, least: int) -> "_Class | None":
        """Return the class; None where fewer than three sources have enough samples in both halves."""
        cells = sorted(cell for cell, count in sums.counts.items() if count >= least)
        sources = sorted({source for source, _ in cells if {(source, 0), (source, 1)} <= set(cells)})
        cells = [(source, half) for source in sources for half in (0, 1)]
        if len(sources) < LEAST_SOURCES:
            return None
        counts = np.array([float(sums.counts[cell]) for cell in cells])
        products = np.stack([sums.products[cell] for cell in cells]) / _GRID**2
        rows, total = counts.sum(), products.sum(axis=0)
        gap = products / counts[:, None, None] - (total[None] - products) / (rows - counts)[:, None, None]
        ratio = gap.shape[1] / counts  # noise alone stretches by 2 sqrt(ratio) + ratio (Marchenko and Pastur, 1967)
        top = np.linalg.eigvalsh(gap)[:, -1] / (2 * np.sqrt(ratio) + ratio)
        typical = float(np.median(top))
        trace, distances = _distances_of(sources, counts, products)
        return cls(cells, top / typical if typical > 0 else np.zeros(len(cells)), gap, trace, distances)


def _distances_of(sources: list[str], counts: np.ndarray, products: np.ndarray) -> tuple[float, Distances]:
    """Return the trace of the covariance of one sample's products, and the distances of whole cells.

    Args:
        sources: sorted.
        counts: float64 (2 x sources,), of both halves of each.
        products: (2 x sources, w, w).
    """
    flat = products.reshape(len(counts), -1)
    inner, rows = flat @ flat.T, counts.sum()
    with_all, of_all = inner.sum(axis=1), float(inner.sum())
    trace = max(1e-9, 1 - (of_all - rows) / (rows * (rows - 1)))  # a sign's product with itself is 1
    away = inner / np.outer(counts, counts) - (with_all / counts)[:, None] / rows
    away += of_all / rows**2 - (with_all / counts)[None, :] / rows + trace / rows
    number = np.arange(len(counts)) // 2
    apart = number[:, None] != number[None, :]
    square = max(1e-12, float(np.mean((away**2 * np.outer(counts, counts))[apart])))
    own = counts[::2] + counts[1::2]
    rest = rows - own
    with_own, with_class = inner.reshape(len(own), 2, len(own), 2).sum(axis=(1, 3)), with_all[::2] + with_all[1::2]
    inside = np.einsum("ii->i", with_own)
    within = (inside - own) / (own * (own - 1))
    outside = (of_all - 2 * with_class + inside - rest) / (rest * (rest - 1))
    far = within + outside - 2 * (with_class - inside) / (own * rest)
    error, width = 1 / own + 1 / rest, max(1, round(min(1e6, trace**2 / square)))
    return trace, Distances(tuple(sources), np.maximum(0.0, far / trace + error), error, width)


def shape_lines(classes: Mapping[str, ShapeSums], first: int, least: int) -> dict[tuple[str, str], ShapeLine]:
    """Return the cells that are looked at, by (source, class).

    Args:
        classes: by label; of cells that no other test has named.
        first: column of a placed row where the coordinates begin.
        least: half cells with fewer samples are not looked at, nor is a class with fewer than three sources of them.

    Cost: O(c**2 w**2) a class of c half cells, and O(w**3) for each that is chosen.
    """
    fitted = {label: one for label, sums in sorted(classes.items()) if (one := _Class.of(sums, least)) is not None}
    far = sorted(
        (-float(value), label, place)
        for label, one in fitted.items()
        for place, value in enumerate(one.most.tolist())
        if value > 0
    )
    chosen = far[: min(_MAX_CHOSEN, math.ceil(_CHOSEN * len(far)))]
    lines: dict[tuple[str, str], ShapeLine] = {}
    common: dict[str, Scatter] = {}
    for _, label, place in chosen:
        one = fitted[label]
        source, half = one.cells[place]
        values, vectors = np.linalg.eigh(one.gap[place])
        if values[-1] <= 0:
            continue
        weights = ExactMatrix.of(vectors[:, -1:])
        line = lines.get((source, label))
        if line is None:
            if source not in common:
                common[source] = estimate_scatter([_without(part.distances, source) for part in fitted.values()])
            scatter = max(common[source], estimate_scatter([_without(one.distances, source)]))
            scatter = scatter._replace(variance=scatter.variance * one.trace)
            line = ShapeLine(slice(first, first + len(one.gap[place])), (None, None), scatter)
        before = line.weights
        lines[source, label] = replace(line, weights=(weights, before[1]) if half else (before[0], weights))
    return lines


def _without(distances: Distances, source: str) -> Distances:
    kept = np.array([name != source for name in distances.source])
    names = tuple(name for name in distances.source if name != source)
    return Distances(names, distances.square[kept], distances.error[kept], distances.width)


def judge_shape(line: ShapeLine, own: Counts, rest: Counts) -> Answer:
    """Return what the test says of one half of a cell; nothing where there are too few samples.

    Args:
        line: of the cell.
        own: `bin_of` counts of the positions of that half's samples.
        rest: of those of the rest of the class that are in the same half.
    """
    if own.total < 2 or rest.total < 2:
        return Answer(1.0, 0.0, 0.0)
    parts = [((part.keys + 0.5) / BINS_PER_UNIT, part.counts / part.total) for part in (own, rest)]
    means = (np.array([float(weight @ place ** (2 * power)) for place, weight in parts]) for power in (1, 2, 3))
    moments = ScoreMoments(np.array([float(own.total), float(rest.total)]), *means).centred()
    width = line.columns.stop - line.columns.start
    of_score = float(moments.counts @ moments.square) / float(moments.counts.sum())
    variance = line.scatter.variance * width**2 / of_score if of_score > 0 else 0.0
    others = np.array([False, True])
    scatter = Scatter(variance, line.scatter.freedom)
    return judge_score(moments, 0, others, float(own.total + rest.total - 2), scatter, is_one_sided=True)
