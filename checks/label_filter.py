"""Which samples confident learning flags: the seven filters of cleanlab's `find_label_issues`, as cuts that merge.

A filter that ranks takes the lowest n values of a cell. The cells of a class are its likely other classes (value:
p(given) - p(other)) and the class itself (value: p(given)); n follows from the calibrated joint, so it is known
before the values are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from millcert.checks.class_cells import ClassCells, prune_limits
from millcert.checks.confident_learning import agrees_with_given, confident_class, least_lead
from millcert.checks.label_quality import ScoreBy, label_quality, self_confidence
from millcert.checks.margin_cutoff import Cutoffs, LowestValues

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
#: Up to so many classes a table of classes x classes is made for a batch (2 MB): much faster than class by class.
MAX_TABLE_CLASSES = 512


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

    @classmethod
    def of(cls, position: np.ndarray, label: np.ndarray, pred_probs: np.ndarray, tie: np.ndarray) -> "Rows":
        """Return rows with their most probable class looked up."""
        return cls(position, label, pred_probs, tie, pred_probs.argmax(axis=1))

    def chosen(self, where: np.ndarray) -> "Rows":
        """Return some of the rows, by a mask or by places."""
        return Rows(*(field[where] for field in self))

    def agrees(self) -> np.ndarray:
        """Return whether the most probable class is the given one, give or take 1e-6, bool (n,)."""
        return agrees_with_given(self.label, self.pred_probs, self.top)

    def by_class(self) -> Iterator[tuple[int, np.ndarray, "Rows"]]:
        """Yield each class that has samples, where they stand among these, and they."""
        order = np.argsort(self.label, kind="stable")
        rows = self.chosen(order)
        present, first = np.unique(rows.label, return_index=True)
        for index, start, stop in zip(present, first, np.append(first, len(order))[1:], strict=True):
            yield int(index), order[start:stop], Rows(*(field[start:stop] for field in rows))


class ClassCut(NamedTuple):
    """The cells of a class that are cut, as columns of pred_probs, and where."""

    cells: np.ndarray
    cutoffs: Cutoffs


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
        """Return how many samples each cell takes: row = given class; column 0 where there is one cell for all.

        Args:
            calibrated_joint: given and true labels.
            label_counts: int64 (K,).
            issues: the number of confident off-diagonal samples.
        """
        width = len(label_counts)
        if self.ranks_all_classes_together:
            return ClassCells(width, np.arange(width) * width, np.full(width, issues)).where(np.full(width, issues > 0))
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

    def add_lowest(self, part: LowestValues | None, cells: np.ndarray, limits: np.ndarray, rows: Rows) -> LowestValues:
        """Return the lowest values of one class's cells with samples of that class added.

        Args:
            part: None before the first samples.
            cells: int64 (c,), the class's columns of `limits`.
            limits: int64 (c,), how many each takes.
            rows: samples that were all given one class, at least one.
        """
        part = LowestValues.zero(limits) if part is None else part
        given = self_confidence(rows.label, rows.pred_probs)
        return part.add(self._values(rows, cells), rows.tie, given, ~rows.agrees())

    def any_flagged(self, part: LowestValues, cut: ClassCut, index: int) -> bool:
        """Return whether any sample behind the lowest values of one class will be flagged.

        Args:
            part: the class's lowest values.
            cut: where its cells are cut.
            index: the class.
        """
        table = part.records()
        value, tie = cut.cutoffs.value[table["cell"]], cut.cutoffs.tie[table["cell"]]
        flagged = (table["value"] < value) | ((table["value"] == value) & (table["tie"] <= tie))
        if not self.ranks_all_classes_together:
            flagged &= table["can_be_flagged"]
        if self.filter_by == "both":
            own = np.flatnonzero(cut.cells == index)
            if not len(own):
                return False
            value, tie = cut.cutoffs.value[own[0]], cut.cutoffs.tie[own[0]]
            in_class = (table["given"] < value) | ((table["given"] == value) & (table["tie"] <= tie))
            flagged &= in_class & (table["cell"] != own[0])
        return bool(flagged.any())

    def flags(self, rows: Rows, thresholds: np.ndarray, cuts: tuple[ClassCut, ...]) -> np.ndarray:
        """Return which samples are flagged, bool (n,).

        Args:
            rows: any samples.
            thresholds: float64 (K,), mean self-confidence of each class.
            cuts: one for each class, or one for all; empty for a filter that does not rank.
        """
        if self.ranks_all_classes_together:
            reached = cuts[0].cutoffs.reaches(self._values(rows, cuts[0].cells), rows.tie)
            return np.asarray(reached.any(axis=1))
        if self.filter_by == "predicted_neq_given":
            flagged = rows.top != rows.label
        elif self.filter_by == "confident_learning":
            guess = confident_class(rows.pred_probs, thresholds, rows.top)
            flagged = (guess >= 0) & (guess != rows.label)
        else:
            highest = np.array([cut.cutoffs.value.max(initial=-np.inf) for cut in cuts])
            near = np.flatnonzero(self.lowest_value(rows) <= highest[rows.label])
            flagged = np.zeros(len(rows.label), dtype=np.bool_)
            if len(cuts) <= MAX_TABLE_CLASSES:
                flagged[near] = self._flags_at_once(rows.chosen(near), cuts)
                return flagged & ~rows.agrees()
            for index, where, of_class in rows.chosen(near).by_class():
                flagged[near[where]] = self._class_flags(of_class, index, cuts[index])
        return flagged & ~rows.agrees()

    def can_be_lowest(self, rows: Rows, bounds: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return which samples have a value within the bound of a cell, bool (n,); all where there is no telling.

        Args:
            rows: any samples.
            bounds: class -> its cells and the bound of each (`LowestValues.bound`), of all classes of `rows`.
        """
        width = rows.pred_probs.shape[1]
        if self.ranks_all_classes_together or width > MAX_TABLE_CLASSES:
            return np.ones(len(rows.label), dtype=np.bool_)
        table = np.full((width, width), -np.inf)
        for index, (cells, bound) in bounds.items():
            table[index, cells] = bound
        within: np.ndarray = (self._values_of_all(rows) <= table[rows.label]).any(axis=1)
        return within

    def _flags_at_once(self, rows: Rows, cuts: tuple[ClassCut, ...]) -> np.ndarray:
        """Return what `_class_flags` does, for all classes together; memory of classes x classes."""
        width = len(cuts)
        value, tie = np.full((width, width), -np.inf), np.zeros((width, width), dtype=np.uint64)
        for index in np.unique(rows.label).tolist():
            value[index, cuts[index].cells] = cuts[index].cutoffs.value
            tie[index, cuts[index].cells] = cuts[index].cutoffs.tie
        values, bar, at = self._values_of_all(rows), value[rows.label], np.arange(len(rows.label))
        reached = values < bar
        row, column = np.nonzero(values == bar)
        reached[row, column] = rows.tie[row] <= tie[rows.label[row], column]
        by_class = reached[at, rows.label]
        reached[at, rows.label] = False
        by_rate: np.ndarray = reached.any(axis=1)
        if self.filter_by == "both":
            return by_rate & by_class
        return by_class if self.filter_by == "prune_by_class" else by_rate

    def _values_of_all(self, rows: Rows) -> np.ndarray:
        """Return `_values` for every class as a cell, float64 (n, K), of samples of any classes."""
        given = self_confidence(rows.label, rows.pred_probs)
        values: np.ndarray = given[:, None] - rows.pred_probs
        values[np.arange(len(given)), rows.label] = given
        return values

    def _class_flags(self, rows: Rows, index: int, cut: ClassCut) -> np.ndarray:
        reached = cut.cutoffs.reaches(self._values(rows, cut.cells), rows.tie)
        own = cut.cells == index
        by_rate = np.asarray(reached[:, ~own].any(axis=1))
        by_class = np.asarray(reached[:, own].any(axis=1))
        if self.filter_by == "both":
            return by_rate & by_class
        return by_class if self.filter_by == "prune_by_class" else by_rate

    def _values(self, rows: Rows, cells: np.ndarray) -> np.ndarray:
        """Return what each cell ranks by, float64 (n, cells).

        The samples are of one class; of any, where there is one cell for all.
        """
        if self.ranks_all_classes_together:
            return np.repeat(self.quality(rows)[:, None], len(cells), axis=1)
        given = self_confidence(rows.label, rows.pred_probs)[:, None]
        values: np.ndarray = given - rows.pred_probs[:, cells]
        values[:, cells == rows.label[0]] = given
        return values
