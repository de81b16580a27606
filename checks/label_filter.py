"""Which samples confident learning flags: the seven filters of cleanlab's `find_label_issues`, as cuts that merge.

A filter that ranks takes the lowest n values of a cell. The cells of a class are its likely other classes (value:
p(given) - p(other)) and the class itself (value: p(given)); n follows from the calibrated joint, so it is known
before the values are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from millcert.checks.class_cells import ClassCells, prune_limits
from millcert.checks.confident_learning import ROW_SUM_SLACK, agrees_with_given, confident_class, least_lead
from millcert.checks.label_quality import ScoreBy, label_quality, self_confidence
from millcert.checks.margin_cutoff import Cutoffs

FilterBy: TypeAlias = Literal[
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]

FILTERS: tuple[str, ...] = get_args(FilterBy)
#: Those that prune cells by the joint, all of which can take a part of it.
PRUNING: tuple[str, ...] = FILTERS[:3]
#: Values looked at in one go, so that memory does not grow with the batch.
_MAX_VALUES = 2**18


class Rows(NamedTuple):
    """Samples to judge.

    position: int64 (n,), place in the batch.
    label: int64 (n,), column of the given class.
    pred_probs: float64 (n, K).
    tie: uint64 (n,), what orders equal values; equal for samples that cannot be told apart.
    top: int64 (n,), the most probable class, the first of equals.
    """

    position: np.ndarray
    label: np.ndarray
    pred_probs: np.ndarray
    tie: np.ndarray
    top: np.ndarray

    def chosen(self, where: np.ndarray) -> "Rows":
        """Return some of the rows, by a mask or by places."""
        return Rows(*(field[where] for field in self))

    def agrees(self) -> np.ndarray:
        """Return whether the most probable class is the given one, give or take 1e-6, bool (n,)."""
        return agrees_with_given(self.label, self.pred_probs, self.top)


class Pairs(NamedTuple):
    """Samples in the cells of the class that they were given.

    row: int64 (m,), place of the sample among the rows.
    entry: int64 (m,), place of the cell among the limits.
    value: float64 (m,), what the cell ranks the sample by.
    is_own: bool (m,), whether the cell is the given class's own.
    """

    row: np.ndarray
    entry: np.ndarray
    value: np.ndarray
    is_own: np.ndarray


@dataclass(frozen=True)
class LabelFilter:
    """One of the filters.

    filter_by: its name in cleanlab.
    min_examples_per_class: classes with no more samples than this are not pruned, and none is pruned below it.
    frac_noise: part of the estimated label errors of each cell to prune, the most suspect first, in (0, 1].
    """

    filter_by: FilterBy
    min_examples_per_class: int
    frac_noise: float = 1.0

    @property
    def ranks(self) -> bool:
        """Whether flags depend on how a sample ranks among others, which takes a pass of its own."""
        return self.filter_by not in ("confident_learning", "predicted_neq_given")

    @property
    def ranks_all_classes_together(self) -> bool:
        """Whether there is one cell for all samples."""
        return self.filter_by in ("low_normalized_margin", "low_self_confidence")

    @property
    def score_by(self) -> ScoreBy:
        """The scorer that a filter ranks by, or that goes with it."""
        return "normalized_margin" if self.filter_by == "low_normalized_margin" else "self_confidence"

    def quality(self, rows: Rows) -> np.ndarray:
        """Return the filter's own label quality score, float64 (n,), in [0, 1]; low is suspect."""
        return label_quality(rows.label, rows.pred_probs, self.score_by)

    def limits(self, calibrated_joint: ClassCells, label_counts: np.ndarray, issues: int) -> ClassCells:
        """Return how many samples each cell takes: row = given class; the entry (0, 0) where there is one cell for all.

        Args:
            calibrated_joint: given and true labels.
            label_counts: int64 (K,).
            issues: the number of confident off-diagonal samples.
        """
        width = len(label_counts)
        if self.ranks_all_classes_together:
            return ClassCells.zero(width).with_diagonal(np.append(issues, np.zeros(width - 1, dtype=np.int64)))
        limits = prune_limits(
            calibrated_joint, min_examples_per_class=self.min_examples_per_class, frac_noise=self.frac_noise
        )
        own = np.maximum(label_counts - limits.diagonal(), 0)
        if self.filter_by == "prune_by_class":
            limits = ClassCells.zero(width)
        limits = limits.with_diagonal(np.zeros(width) if self.filter_by == "prune_by_noise_rate" else own)
        is_pruned = label_counts > max(1, self.min_examples_per_class)  # one sample alone is never pruned
        return limits.where(is_pruned[limits.row])

    def lowest_value(self, rows: Rows) -> np.ndarray:
        """Return a value that no cell's value of the row is below, float64 (n,); cheap, so that most rows end here."""
        if self.ranks_all_classes_together:
            return self.quality(rows)
        return least_lead(rows.label, rows.pred_probs, rows.top)

    def first_bounds(self, limits: ClassCells, predicted: ClassCells) -> np.ndarray:
        """Return values that the lowest ones of each cell are not above, float64 (m,), before any is read.

        A sample whose most probable class is the cell's has a value of at most 0 there, and in its own class's cell of
        at most what the two share; where there are as many of them as the cell takes, no larger value is taken.

        Args:
            limits: as `limits` returns them, m entries.
            predicted: samples by given label and the most probable class, where the two differ.
        """
        bounds = np.full(len(limits.code), np.inf)
        if self.ranks_all_classes_together:
            return bounds
        is_own = limits.row == limits.column
        own = predicted.row_sums()[limits.row]
        place = np.minimum(np.searchsorted(predicted.code, limits.code), max(0, len(predicted.code) - 1))
        found = np.zeros(len(bounds), dtype=np.int64)
        if len(predicted.code):
            found = np.where(predicted.code[place] == limits.code, predicted.value[place], 0)
        bounds[~is_own & (found >= limits.value)] = 0.0
        bounds[is_own & (own >= limits.value)] = (1 + ROW_SUM_SLACK) / 2
        return bounds

    def pairs(self, rows: Rows, limits: ClassCells, highest: np.ndarray) -> Iterator[Pairs]:
        """Yield the pairs of a sample and a cell of its class with a value that counts, in parts of bounded size.

        Args:
            rows: any samples.
            limits: as `limits` returns them, of a filter that prunes cells; at least one.
            highest: float64 (K,), by given class: larger values do not count.
        """
        given = self_confidence(rows.label, rows.pred_probs)
        step = max(1, _MAX_VALUES // limits.width)
        for start in range(0, len(given), step):
            part = slice(start, start + step)
            values, at = given[part, None] - rows.pred_probs[part], np.arange(len(given[part]))
            values[at, rows.label[part]] = given[part]
            row, column = np.nonzero(values <= highest[rows.label[part], None])
            label = rows.label[part][row]
            code = label * limits.width + column
            entry = np.minimum(np.searchsorted(limits.code, code), len(limits.code) - 1)
            cut = np.flatnonzero(limits.code[entry] == code)
            row, column = row[cut], column[cut]
            yield Pairs(row + start, entry[cut], values[row, column], column == label[cut])

    def flags(self, rows: Rows, thresholds: np.ndarray, limits: ClassCells | None, cuts: Cutoffs | None) -> np.ndarray:
        """Return which samples are flagged, bool (n,).

        Args:
            rows: any samples.
            thresholds: float64 (K,), mean self-confidence of each class.
            limits: as `limits` returns them; None for a filter that does not rank.
            cuts: of the same cells; likewise.
        """
        if self.filter_by == "predicted_neq_given":
            return (rows.top != rows.label) & ~rows.agrees()
        if limits is None or cuts is None:
            guess = confident_class(rows.pred_probs, thresholds, rows.top)
            return (guess >= 0) & (guess != rows.label) & ~rows.agrees()
        flagged = np.zeros(len(rows.label), dtype=np.bool_)
        if not len(limits.code):
            return flagged
        if self.ranks_all_classes_together:
            everywhere = np.zeros(len(flagged), dtype=np.int64)
            return cuts.reached(everywhere, self.quality(rows), rows.tie)
        highest = highest_by_class(limits, cuts.value)
        near = np.flatnonzero((self.lowest_value(rows) <= highest[rows.label]) & ~rows.agrees())
        flagged[near] = self._flags_of(rows.chosen(near), limits, cuts, highest)
        return flagged

    def _flags_of(self, rows: Rows, limits: ClassCells, cuts: Cutoffs, highest: np.ndarray) -> np.ndarray:
        by_rate, by_class = np.zeros((2, len(rows.label)), dtype=np.bool_)
        for pairs in self.pairs(rows, limits, highest):
            reached = cuts.reached(pairs.entry, pairs.value, rows.tie[pairs.row])
            by_rate[pairs.row[reached & ~pairs.is_own]] = True
            by_class[pairs.row[reached & pairs.is_own]] = True
        if self.filter_by == "both":
            return by_rate & by_class
        return by_class if self.filter_by == "prune_by_class" else by_rate


def highest_by_class(limits: ClassCells, values: np.ndarray) -> np.ndarray:
    """Return the largest of the values of each given class's cells, float64 (K,), -inf where it has none.

    Args:
        limits: m cells.
        values: float64 (m,).
    """
    highest = np.full(limits.width, -np.inf)
    present, first = np.unique(limits.row, return_index=True)
    if len(present):
        highest[present] = np.maximum.reduceat(values, first)
    return highest
