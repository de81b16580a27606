"""What the passes of `label_noise` accumulate: parts that merge exactly, in any order."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from millcert.checks.class_cells import ClassCells
from millcert.checks.exact import ExactSum
from millcert.checks.label_filter import LabelFilter, Rows
from millcert.checks.label_quality import self_confidence
from millcert.checks.label_table import LabelTable, named_sums

#: The group of an accumulator that is not split by class.
ALL = "all"
#: The group of `NullPart`.
NULL = "null"
#: Its unit is 2**-20.
NULL_BITS = 20
_NULL_VALUES = 2**15
#: Cells of the joint in one group: a part stays below 4 MB.
CELLS_OF_A_PART = 2**17


class ClassSums(NamedTuple):
    """Part of pass "thresholds".

    confidence: of width K, the sums of p(given label) by class.
    samples: int64 (K,).
    """

    confidence: ExactSum
    samples: np.ndarray


class NullPart(NamedTuple):
    """Part of pass "joint" that is of all given labels.

    expected: int64 (K,), the sums of p(class) over the rows that are confidently of another class, in units of 2**-20:
        how many of them would be given the class if labels were drawn from the probabilities.
    """

    expected: np.ndarray

    def merge(self, others: Iterable["NullPart"]) -> "NullPart":
        """Return the sums of the rows of this and the others."""
        return NullPart(np.sum([self.expected, *(part.expected for part in others)], axis=0))


class JointPart(NamedTuple):
    """Part of pass "joint", for a block of given labels.

    confident: samples by given label and the class that they are confidently of.
    predicted: samples by given label and the most probable class, where the two differ.
    issues: off-diagonal ones whose given label is not the predicted one.
    flagged: (c, c): samples that the filter flags without looking at ranks, by class.
    quality: of width K, the sums of the label quality score by class; None where the thresholds are its means.
    """

    confident: ClassCells
    predicted: ClassCells
    issues: int
    flagged: ClassCells
    quality: ExactSum | None


def class_sums(label: np.ndarray, pred_probs: np.ndarray) -> dict[str, ClassSums]:
    """Return the part of samples.

    Args:
        label: int64 (n,), columns of pred_probs.
        pred_probs: float64 (n, K).
    """
    width = pred_probs.shape[1]
    confidence = ExactSum.zero(width).add_at(label, self_confidence(label, pred_probs))
    return {ALL: ClassSums(confidence, np.bincount(label, minlength=width).astype(np.int64))}


def sums_by_class(acc: Mapping[str, Any], classes: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return the classes, the samples of each, int64 (K,), and the sums of their p(given), float64 (K,).

    Args:
        acc: of pass "thresholds", or of "labels" where `classes` is empty.
        classes: as they are named.

    Raises:
        InvalidSampleError: classes are not named, and labels name no columns.
    """
    if any(isinstance(part, LabelTable) for part in acc.values()):
        return named_sums(acc)
    part = acc.get(ALL)
    if part is None:
        return classes, np.zeros(len(classes), dtype=np.int64), np.zeros(len(classes))
    return classes, part.samples, part.confidence.value()


def joint_parts(
    rows: Rows, guess: np.ndarray, label_filter: LabelFilter, thresholds: np.ndarray, quality: np.ndarray | None
) -> dict[str, JointPart]:
    """Return the parts of pass "joint", by block of given labels.

    Args:
        rows: of a batch.
        guess: int64 (n,), `confident_class` of the rows.
        label_filter: which flags are counted, where it does not rank.
        thresholds: float64 (K,).
        quality: float64 (n,), whose means are kept by class; None for none.
    """
    width = len(thresholds)
    is_issue = (guess >= 0) & (guess != rows.label) & ~rows.agrees()
    flagged = (
        np.zeros(len(guess), dtype=np.bool_) if label_filter.ranks else label_filter.flags(rows, thresholds, None, None)
    )
    block = rows.label // max(1, CELLS_OF_A_PART // width)
    parts = {}
    for index in np.unique(block).tolist():
        where = block == index
        sums = None if quality is None else ExactSum.zero(width).add_at(rows.label[where], quality[where])
        counted, named = where & (guess >= 0), rows.label[where & flagged]
        confident = ClassCells.count(width, rows.label[counted], guess[counted])
        unlike = where & (rows.top != rows.label)
        predicted = ClassCells.count(width, rows.label[unlike], rows.top[unlike])
        issues, flags = int(is_issue[where].sum()), ClassCells.count(width, named, named)
        parts[str(index)] = JointPart(confident, predicted, issues, flags, sums)
    return parts


def null_part(rows: Rows, guess: np.ndarray) -> dict[str, NullPart]:
    """Return the part of a batch; arguments as of `joint_parts`."""
    expected = np.zeros(rows.pred_probs.shape[1], dtype=np.int64)
    step = max(1, _NULL_VALUES // len(expected))
    for start in range(0, len(guess), step):
        whole = rows.pred_probs[start : start + step] * 2.0**NULL_BITS
        np.rint(whole, out=whole)
        confident = guess[start : start + step]
        decided = np.flatnonzero(confident >= 0)
        whole[confident < 0] = 0.0
        whole[decided, confident[decided]] = 0.0
        expected += whole.sum(axis=0).astype(np.int64)
    return {NULL: NullPart(expected)}


def merge_parts(parts: list[Any]) -> Any:
    """Return one part of the parts of one group and pass, at least one.

    Raises:
        InvalidSampleError: pred_probs has different widths.
    """
    first, *others = parts
    if isinstance(first, ClassSums):
        confidence = first.confidence.merge(part.confidence for part in others)
        return ClassSums(confidence, np.sum([part.samples for part in parts], axis=0))
    if isinstance(first, JointPart):
        confident = first.confident.merge(part.confident for part in others)
        predicted = first.predicted.merge(part.predicted for part in others)
        flagged = first.flagged.merge(part.flagged for part in others)
        qualities = [part.quality for part in parts if part.quality is not None]
        quality = qualities[0].merge(qualities[1:]) if qualities else None
        return JointPart(confident, predicted, sum(part.issues for part in parts), flagged, quality)
    return first.merge(others)
