"""What the passes of `label_noise` have found so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from millcert.checks.class_cells import ClassCells
from millcert.checks.confident_neighbours import ConfidentNeighbours
from millcert.checks.fold_refinement import FoldModel
from millcert.checks.fold_sums import OutOfFold
from millcert.checks.in_sample import Agreement
from millcert.checks.margin_cutoff import Cutoffs

Stage: TypeAlias = Literal["configured", "labels", "sums", "thresholds", "joint", "cutoffs"]

#: Steps towards logistic regression at most.
MAX_REFINEMENTS = 4


@dataclass(frozen=True, eq=False)
class LabelNoiseModel:
    """What the passes so far know; arrays are in the order of `classes`.

    stage: the last pass that was fitted.
    classes: the judged classes, as the columns of the probabilities.
    skipped: classes that are not judged -> their samples (`rare_classes="skip"`).
    folds: the models, one for each fold; empty in the view pred_probs.
    label_counts: int64 (K,).
    thresholds: float64 (K,).
    joint: calibrated: rows are given labels, columns true ones. confident: the counts that it is made of.
    predicted: samples by given label and the most probable class, where the two differ.
    expected: float64 (K,), how many of the confident ones would be given each class if labels followed the
        probabilities.
    issues: the number of confident off-diagonal samples.
    limits: how many samples each cell takes, where the filter ranks samples.
    bounds: float64, of the same cells: what their lowest values are known not to be above.
    cuts: of the same cells.
    bars: float64 (K,), what a score is compared with, whether anything in the class is flagged or not.
    is_suspicious: bool (K,), whether anything in the class is flagged.
    second: the models of the second view, while they are needed. agreement: of given pred_probs with the labels.
    neighbours: samples to show beside flagged ones; None without a view to find them in.

    Size: 8 x folds x (2 d x d + 4 d x K) bytes at most and 56 for each pair of classes that samples are confused in, at
    most K x K.
    """

    stage: Stage
    classes: tuple[str, ...]
    skipped: Mapping[str, int]
    folds: tuple[FoldModel, ...] = ()
    label_counts: np.ndarray | None = None
    thresholds: np.ndarray | None = None
    joint: ClassCells | None = None
    issues: int = 0
    limits: ClassCells | None = None
    bounds: np.ndarray | None = None
    cuts: Cutoffs | None = None
    bars: np.ndarray | None = None
    is_suspicious: np.ndarray | None = None
    second: OutOfFold | None = None
    agreement: Agreement | None = None
    neighbours: ConfidentNeighbours | None = None
    confident: ClassCells | None = None
    predicted: ClassCells | None = None
    expected: np.ndarray | None = None
