"""What `label_noise` says of a class: how many labels are wrong by the joint, and as which class, with intervals.

An estimate from a model, not a count of errors: how many of the flags are errors nobody knows before people look.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from millcert.checks.base import MAX_TOP_FEATURES, GroupEvidence
from millcert.checks.class_cells import ClassCells
from millcert.checks.in_sample import Agreement

#: The group that is of no class.
AGREEMENT_GROUP = "pred_probs"
#: How many times as much overlap of classes as the probabilities say the lower end allows for. Our choice: models are
#: surer than right where labels are wrong or rows unlike any; bench/label_counts.py shows what it does.
OVERLAP_FACTOR = 3.0
#: The quantile of a 95 % interval.
_Z = 1.959963984540054


class ClassCounts(NamedTuple):
    """The labels of one class that may be wrong, by the other class; counts of rows given the class.

    joint: by the calibrated joint: the estimate. confident: that are confidently of the other class, which the joint
        scales up. predicted: whose most probable class is the other one.
    """

    joint: Mapping[str, float]
    confident: Mapping[str, float]
    predicted: Mapping[str, float]


def class_counts(
    classes: Sequence[str], index: int, joint: ClassCells, confident: ClassCells, predicted: ClassCells
) -> ClassCounts:
    """Return the counts of the class at a place in `classes`."""
    found = []
    for cells in (joint, confident, predicted):
        column, number = cells.row_of(index)
        found.append({classes[at]: float(value) for at, value in zip(column, number, strict=True) if at != index})
    return ClassCounts(*found)


def class_evidence(
    label: str,
    samples: int,
    counts: ClassCounts,
    *,
    expected: float,
    bar: float,
    self_confidence: float,
    is_suspicious: bool,
) -> GroupEvidence:
    """Return the evidence of one class.

    The interval holds what is not known of the model as well as chance. It goes down to what is left of the estimate
    after three times as many as the probabilities themselves expect: on hard samples the likelier class is often the
    wrong one. It goes up to the rows whose most probable class is another one: a calibrated model is confident of some
    only. Both ends are widened by Wilson's interval at 95 %. bench/label_counts.py measures how often it covers.

    Args:
        label: the class.
        samples: how many were given it.
        counts: of the class.
        expected: how many rows confidently of another class would be given this one if labels followed probabilities.
        bar: for the score.
        self_confidence: the mean p(given) of its samples.
        is_suspicious: whether anything in it is flagged.

    The pairs with the largest estimates are named in `top_features`, with "pair_1_low" and "pair_1_high" and so on in
    `statistic`.
    """
    whole = sum(counts.joint.values())
    errors = min(samples, int(whole)) if is_suspicious else 0
    raw = sum(counts.confident.values())
    explained = min(1.0, expected / raw) if raw else 1.0
    most_expected = OVERLAP_FACTOR * expected
    unexplained = max(0.0, 1 - (most_expected + _Z * math.sqrt(most_expected)) / raw) if raw else 0.0
    low = _wilson(errors * unexplained, samples)[0]
    high = _wilson(min(samples, max(errors, sum(counts.predicted.values()))), samples)[1]
    statistic = {
        "threshold": bar,
        "self_confidence_mean": self_confidence if samples else 0.0,
        "noise_rate": errors / samples if samples else 0.0,
        "expected_by_model": explained,
        "judged": 1.0,
    }
    pairs = sorted(((-number, other) for other, number in counts.joint.items() if is_suspicious and number > 0))
    largest = [(other, min(float(samples), -number)) for number, other in pairs[:MAX_TOP_FEATURES]]
    for place, (other, number) in enumerate(largest, 1):
        most = min(float(samples), max(number, counts.predicted.get(other, 0.0)))
        statistic[f"pair_{place}_low"] = _wilson(number * unexplained, samples)[0]
        statistic[f"pair_{place}_high"] = _wilson(most, samples)[1]
    named = tuple((f"likely {other}", number) for other, number in largest)
    return GroupEvidence(label, label, "", samples, statistic, is_suspicious, float(errors), low, high, None, named)


def agreement_evidence(agreement: Agreement, samples: int, others: Sequence[GroupEvidence]) -> GroupEvidence:
    """Return how well given probabilities agree with the labels; never suspicious itself, for it flags no sample.

    Args:
        agreement: of all rows.
        samples: how many there are.
        others: the evidence of classes, whose names the group's name must not be.
    """
    name, taken = AGREEMENT_GROUP, {item.group for item in others}
    while name in taken:
        name += "'"
    return GroupEvidence(name, "", "", samples, agreement.figures, False, 0.0, 0.0, 0.0, None)


def _wilson(number: float, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a count of independent samples (Wilson, 1927); the count need not be whole."""
    if not samples:
        return 0.0, 0.0
    share, spread = number / samples, _Z * _Z / samples
    centre = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / samples + spread / (4 * samples))
    low, high = max(0.0, centre - half) * samples, min(1.0, centre + half) * samples
    return min(low, number), max(high, number)
