"""Confident learning: how many labels of each class are wrong, from counts that merge exactly.

Everything here is per row or on K x K matrices, so a data set of any size is the sum of its batches. The rules are
those of Northcutt, Jiang and Chuang, "Confident Learning", JAIR 70 (2021), section 3, with the numerical details of
cleanlab 2.9 (`find_label_issues`), to which tests/checks/test_confident_learning.py holds them equal.

The K x K steps are written out here and not called in cleanlab: that import costs seconds and pandas on every worker,
one of the two functions is private there, and both take all labels where the counts are enough.
"""

import numpy as np

from millcert.errors import NotEnoughSamplesError

#: Slack when probabilities are compared: within it a class counts as reached, and the given label as the predicted one.
TOLERANCE = 1e-6
#: No class threshold is lower, else each row would be confident in a class that the model never predicts.
LOWEST_THRESHOLD = 2 * TOLERANCE
#: Threshold of a class without samples: above every probability, so nothing is counted in it.
UNREACHABLE_THRESHOLD = 2.0
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


def confident_class(pred_probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the class that each row is confidently of, int64 (n,), or -1 where no threshold is reached.

    Of several classes whose threshold is reached, the most probable class of the row wins, the first of equals.

    Source: JAIR 70 (2021), equation 1.
    """
    reached = pred_probs >= thresholds - TOLERANCE
    number = np.count_nonzero(reached, axis=1)
    guess = np.where(number > 1, pred_probs.argmax(axis=1), reached.argmax(axis=1))
    return np.where(number > 0, guess, UNDECIDED)


def agrees_with_given(label: np.ndarray, pred_probs: np.ndarray) -> np.ndarray:
    """Return whether the most probable class is the given one, give or take 1e-6, bool (n,)."""
    raised = pred_probs.copy()
    raised[np.arange(len(label)), label] += TOLERANCE
    agrees: np.ndarray = raised.argmax(axis=1) == label
    return agrees


def self_confidence(label: np.ndarray, pred_probs: np.ndarray) -> np.ndarray:
    """Return the probability of the given label, float64 (n,)."""
    return pred_probs[np.arange(len(label)), label]


def normalized_margin(label: np.ndarray, pred_probs: np.ndarray) -> np.ndarray:
    """Return (p(given) - largest p(other) + 1) / 2, float64 (n,), in [0, 1]; low where another label fits better."""
    others = pred_probs.copy()
    others[np.arange(len(label)), label] = -np.inf
    margin: np.ndarray = (self_confidence(label, pred_probs) - others.max(axis=1) + 1) / 2
    return margin


def calibrate_joint(confident_joint: np.ndarray, label_counts: np.ndarray) -> np.ndarray:
    """Return the joint count of given and true labels, int64 (K, K); row i sums to about `label_counts[i]`.

    Args:
        confident_joint: int64 (K, K); entry (i, j) counts rows given i and confidently of j. Each class is taken to
        have at
            least one correctly labelled sample.
        label_counts: int64 (K,).

    Rounding keeps each row's total; which of several equal remainders is rounded the other way is left to numpy's
    sort, as in cleanlab, and so can differ by one count between processor families.

    Source: JAIR 70 (2021), equation 3.
    """
    joint = confident_joint.copy()
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    # Column i of the transpose is row i of the joint. The memory layout fixes the order of the sum below, to the last
    # bit.
    by_true = np.ascontiguousarray(joint.T) / joint.sum(axis=1) * label_counts
    by_true = by_true / np.sum(by_true) * int(label_counts.sum())
    return np.stack([_round_keeping_total(row) for row in by_true.T])


def prune_limits(calibrated_joint: np.ndarray, *, min_examples_per_class: int) -> np.ndarray:
    """Return how many samples each cell may give up, int64 (K, K).

    Entry (i, j) off the diagonal: samples given i to prune because they look like j. Entry (i, i): samples of i that
    are kept. Where a class would keep fewer than `min_examples_per_class`, its diagonal is raised to that, and what
    was added is taken in equal parts from the other entries of its row; fractions are dropped.
    """
    kept = np.maximum(calibrated_joint.diagonal(), min_examples_per_class)
    raised = kept - calibrated_joint.diagonal()
    sharers = np.maximum(np.count_nonzero(calibrated_joint, axis=1) - 1.0, 1.0)
    limits = np.maximum(calibrated_joint - (raised / sharers)[:, None], 0)
    np.fill_diagonal(limits, kept)
    return limits.astype(np.int64)


def _round_keeping_total(values: np.ndarray) -> np.ndarray:
    """Return the values as integers with the sum of the values, rounded; the worst-rounded ones give way."""
    whole = values.round()
    target = np.sum(values).round()
    while (missing := int(target - np.sum(whole))) != 0:
        order = np.argsort(values - whole)
        if missing > 0:
            whole[order[::-1][:missing]] += 1
        else:
            whole[order[:-missing]] -= 1
    return whole.astype(np.int64)
