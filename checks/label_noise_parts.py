"""What the passes of `label_noise` accumulate: parts that merge exactly, in any order."""

from typing import Any, NamedTuple

import numpy as np

from millcert.checks.class_cells import ClassCells
from millcert.checks.class_columns import LabelCount, merge_counts
from millcert.checks.exact import ExactSum
from millcert.checks.label_quality import self_confidence

#: The group of an accumulator that is not split by class.
ALL = "all"
#: Cells of the joint in one group: a part stays below 4 MB.
CELLS_OF_A_PART = 2**17


class ClassSums(NamedTuple):
    """Part of pass "thresholds".

    confidence: of width K, the sums of p(given label) by class.
    samples: int64 (K,).
    """

    confidence: ExactSum
    samples: np.ndarray


class JointPart(NamedTuple):
    """Part of pass "joint", for a block of given labels.

    confident: samples by given label and the class that they are confidently of.
    issues: off-diagonal ones whose given label is not the predicted one.
    flagged: (c, c): samples that the filter flags without looking at ranks, by class.
    quality: of width K, the sums of the label quality score by class; None where the thresholds are its means.
    """

    confident: ClassCells
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


def merge_parts(parts: list[Any]) -> Any:
    """Return one part of the parts of one group and pass, at least one.

    Raises:
        InvalidSampleError: pred_probs has different widths.
    """
    first, *others = parts
    if isinstance(first, LabelCount):
        return merge_counts(parts)
    if isinstance(first, ClassSums):
        confidence = first.confidence.merge(part.confidence for part in others)
        return ClassSums(confidence, np.sum([part.samples for part in parts], axis=0))
    if isinstance(first, JointPart):
        confident = first.confident.merge(part.confident for part in others)
        flagged = first.flagged.merge(part.flagged for part in others)
        qualities = [part.quality for part in parts if part.quality is not None]
        quality = qualities[0].merge(qualities[1:]) if qualities else None
        return JointPart(confident, sum(part.issues for part in parts), flagged, quality)
    return first.merge(others)
