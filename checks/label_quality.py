"""How good a given label looks beside class probabilities: the scorers of `cleanlab.rank`, sample by sample.

Equal to cleanlab 2.9 to the bit (tests/checks/test_label_noise_equals_cleanlab.py); low is suspect. The adjusted ones
differ in the last bits where a class threshold does: here it is the exact mean.
"""

from typing import Literal, TypeAlias, get_args

import numpy as np

ScoreBy: TypeAlias = Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy"]

SCORERS: tuple[str, ...] = get_args(ScoreBy)

#: What divisors are raised to, as in cleanlab.
_LOWEST_DIVISOR = 1e-6


def self_confidence(label: np.ndarray, pred_probs: np.ndarray) -> np.ndarray:
    """Return the probability of the given label, float64 (n,)."""
    return pred_probs[np.arange(len(label)), label]


def normalized_margin(label: np.ndarray, pred_probs: np.ndarray) -> np.ndarray:
    """Return (p(given) - largest p(other) + 1) / 2, float64 (n,), in [0, 1]; low where another label fits better."""
    others = pred_probs.copy()
    others[np.arange(len(label)), label] = -np.inf
    margin: np.ndarray = (self_confidence(label, pred_probs) - others.max(axis=1) + 1) / 2
    return margin


def confidence_weighted_entropy(label: np.ndarray, pred_probs: np.ndarray) -> np.ndarray:
    """Return log(e + 1) / e, float64 (n,), where e is a row's entropy, as part of a uniform one's, over p(given).

    In [0, 1]; 0 for a row that is certain of one class, whichever is given: cleanlab's answer there.

    Cost: n x K logarithms.
    Source: Kuan and Mueller, "Model-agnostic label quality scoring to detect real-world label errors", ICML DataPerf
        workshop 2022.
    """
    from scipy.special import xlogy

    entropy = -np.sum(xlogy(pred_probs, pred_probs), axis=1) / np.log(pred_probs.shape[1])
    weighted = entropy / np.maximum(self_confidence(label, pred_probs), _LOWEST_DIVISOR)
    quality: np.ndarray = np.log(weighted + 1) / np.maximum(weighted, _LOWEST_DIVISOR)
    return quality


def less_thresholds(pred_probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return probabilities less the bar of their class, shifted to be positive, float64 (n, K), rows sum to 1.

    It makes classes of unlike confidence comparable where classes are imbalanced.

    Args:
        pred_probs: float64 (n, K).
        thresholds: float64 (K,), mean self-confidence of each class.
    """
    adjusted = pred_probs - thresholds
    adjusted += thresholds.max()
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    return adjusted


def label_quality(label: np.ndarray, pred_probs: np.ndarray, score_by: ScoreBy) -> np.ndarray:
    """Return the label quality score by one of the scorers, float64 (n,).

    Args:
        label: int64 (n,), columns of pred_probs.
        pred_probs: float64 (n, K), rows sum to 1.
        score_by: one of `SCORERS`.
    """
    if score_by == "normalized_margin":
        return normalized_margin(label, pred_probs)
    if score_by == "confidence_weighted_entropy":
        return confidence_weighted_entropy(label, pred_probs)
    return self_confidence(label, pred_probs)
