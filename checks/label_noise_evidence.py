"""What `label_noise` says of a class: how many labels are wrong by the joint, and as which class, with intervals.

An estimate from a model, not a count of errors: how many of the flags are errors nobody knows before people look.
"""

from millcert.checks.base import MAX_TOP_FEATURES, GroupEvidence


def class_evidence(
    label: str,
    samples: int,
    likely: dict[str, float],
    *,
    bar: float,
    self_confidence: float,
    is_suspicious: bool,
) -> GroupEvidence:
    """Return the evidence of one class, intervals by Wilson at 95 %.

    The intervals are for shares of the class under independent sampling. Whether the probabilities fit is not in them.

    Args:
        label: the class.
        samples: how many were given it.
        likely: other class -> samples of it among these, by the calibrated joint.
        bar: for the score.
        self_confidence: the mean p(given) of its samples.
        is_suspicious: whether anything in it is flagged.

    The pairs with the largest estimates are named in `top_features`, with "pair_1_low" and "pair_1_high" and so on in
    `statistic`.
    """
    errors = min(samples, int(sum(likely.values()))) if is_suspicious else 0
    low, high = _interval(errors, samples)
    statistic = {
        "threshold": bar,
        "self_confidence_mean": self_confidence if samples else 0.0,
        "noise_rate": errors / samples if samples else 0.0,
        "judged": 1.0,
    }
    pairs = sorted(((-number, other) for other, number in likely.items() if is_suspicious and number > 0))
    largest = [(other, min(float(samples), -number)) for number, other in pairs[:MAX_TOP_FEATURES]]
    for place, (_, number) in enumerate(largest, 1):
        statistic[f"pair_{place}_low"], statistic[f"pair_{place}_high"] = _interval(int(number), samples)
    named = tuple((f"likely {other}", number) for other, number in largest)
    return GroupEvidence(label, label, "", samples, statistic, is_suspicious, float(errors), low, high, None, named)


def _interval(number: int, samples: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    if not samples:
        return 0.0, 0.0
    low, high = binomtest(number, samples).proportion_ci(method="wilson")
    return float(low) * samples, float(high) * samples
