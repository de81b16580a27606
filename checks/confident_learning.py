"""Confident learning: how many labels of each class are wrong, from counts that merge exactly.

Everything here is per row or on K x K matrices, so a data set of any size is the sum of its batches. The rules are
those of Northcutt, Jiang and Chuang, "Confident Learning", JAIR 70 (2021), section 3, with the numerical details of
cleanlab 2.9 (`find_label_issues`), to which tests/checks/test_confident_learning.py holds them equal.

The K x K steps are written out here and not called in cleanlab: that import costs seconds and pandas on every worker,
one of the two functions is private there, and both take all labels where the counts are enough.
"""

import numpy as np

from millcert.checks.label_quality import self_confidence
from millcert.errors import NotEnoughSamplesError

#: Slack when probabilities are compared: within it a class counts as reached, and the given label as the predicted one.
TOLERANCE = 1e-6
#: No class threshold is lower, else each row would be confident in a class that the model never predicts.
LOWEST_THRESHOLD = 2 * TOLERANCE
#: Threshold of a class without samples: above every probability, so nothing is counted in it.
UNREACHABLE_THRESHOLD = 2.0
#: More than a row of probabilities may sum beyond 1 (`millcert.checks.columns`).
ROW_SUM_SLACK = 2e-3
#: What `confident_class` returns for a row that reaches no threshold.
UNDECIDED = -1


def class_thresholds(label_counts: np.ndarray, confidence_sums: np.ndarray) -> np.ndarray:
    """Return the mean self-confidence of each class, float64 (K,): the bar for counting a row to that class.

    Args:
        label_counts: int64 (K,), samples given each label.
        confidence_sums: float64 (K,), for each class the sum of p(class) over the samples given that label.

    Raises:
        NotEnoughSamplesError: fewer than two classes have samples.

    Source: JAIR 70 (2021), equation 2, with cleanlab's bounds for classes that are absent or never predicted.
    """
    if np.count_nonzero(label_counts) < 2:
        raise NotEnoughSamplesError(
            f"Label noise needs samples of at least 2 classes, found {np.count_nonzero(label_counts)}.",
            hint="Check which column of the policy is the label.",
        )
    means = confidence_sums / np.maximum(label_counts, 1)
    return np.where(label_counts > 0, np.maximum(means, LOWEST_THRESHOLD), UNREACHABLE_THRESHOLD)


def confident_class(pred_probs: np.ndarray, thresholds: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return the class that each row is confidently of, int64 (n,), or -1 where no threshold is reached.

    Of several classes whose threshold is reached, the most probable class of the row wins, the first of equals.

    Args:
        pred_probs: float64 (n, K).
        thresholds: float64 (K,).
        top: int64 (n,), the most probable class of each row, the first of equals.

    Source: JAIR 70 (2021), equation 1.
    """
    row, reached = np.divmod(np.flatnonzero(pred_probs >= thresholds - TOLERANCE), len(thresholds))
    number = np.bincount(row, minlength=len(pred_probs))
    guess = np.full(len(pred_probs), UNDECIDED)
    guess[row] = reached
    return np.where(number > 1, top, guess)


def agrees_with_given(label: np.ndarray, pred_probs: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return whether the most probable class is the given one, give or take 1e-6, bool (n,).

    Args:
        label: int64 (n,).
        pred_probs: float64 (n, K).
        top: as in `confident_class`.
    """
    raised, highest = self_confidence(label, pred_probs) + TOLERANCE, self_confidence(top, pred_probs)
    agrees: np.ndarray = (top == label) | (raised > highest) | ((raised == highest) & (label < top))
    return agrees


def least_lead(label: np.ndarray, pred_probs: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Return a value that p(given) - p(other) is not below for any other class, float64 (n,).

    It is exact where the given class is not the most probable one; else the others share what the given one leaves.

    Args:
        label: int64 (n,).
        pred_probs: float64 (n, K), rows sum to 1 within `ROW_SUM_SLACK`.
        top: as in `confident_class`.
    """
    given = self_confidence(label, pred_probs)
    highest = self_confidence(top, pred_probs)
    least: np.ndarray = given - np.where(top == label, np.minimum(highest, 1 + ROW_SUM_SLACK - given), highest)
    return least
