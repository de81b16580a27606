"""The counts and bars of confident learning, against cleanlab's and by hand."""

import numpy as np
import pytest

from millcert.checks.confident_learning import (
    UNREACHABLE_THRESHOLD,
    agrees_with_given,
    calibrate_joint,
    class_thresholds,
    confident_class,
    normalized_margin,
    prune_limits,
    self_confidence,
)
from millcert.errors import NotEnoughSamplesError


def counts_and_sums(label: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = probs.shape[1]
    sums = np.array([probs[label == index, index].sum() for index in range(width)])
    return np.bincount(label, minlength=width), sums


def noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    width, number = int(rng.integers(2, 41)), int(rng.integers(3, 500))
    label = rng.integers(0, rng.integers(2, width + 1), number)
    label[:2] = [0, 1]
    probs = rng.dirichlet(np.ones(width) * rng.choice([0.05, 0.3, 1.0]), number)
    probs[np.arange(number), label] += rng.random() * 2
    return label, probs / probs.sum(axis=1, keepdims=True)


def joint_of(label: np.ndarray, probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    guess = confident_class(probs, thresholds)
    joint = np.zeros((probs.shape[1], probs.shape[1]), dtype=np.int64)
    np.add.at(joint, (label[guess >= 0], guess[guess >= 0]), 1)
    return joint


def test_the_threshold_of_a_class_is_its_mean_self_confidence() -> None:
    thresholds = class_thresholds(np.array([4, 2]), np.array([3.0, 1.0]))

    np.testing.assert_array_equal(thresholds, [0.75, 0.5])


def test_a_class_without_samples_has_a_threshold_that_no_probability_reaches() -> None:
    thresholds = class_thresholds(np.array([4, 0, 1]), np.array([3.0, 0.0, 1.0]))

    assert thresholds[1] == UNREACHABLE_THRESHOLD
    assert (confident_class(np.array([[0.0, 1.0, 0.0]]), thresholds) == -1).all()


def test_a_class_that_is_never_predicted_still_has_a_threshold_above_the_tolerance() -> None:
    thresholds = class_thresholds(np.array([2, 2]), np.array([0.0, 2.0]))

    assert confident_class(np.array([[0.0, 0.9]]), thresholds).tolist() == [-1]


@pytest.mark.parametrize("counts", [[0, 0], [7, 0], [0, 7]])
def test_fewer_than_two_classes_are_refused(counts: list[int]) -> None:
    with pytest.raises(NotEnoughSamplesError, match="at least 2 classes"):
        class_thresholds(np.array(counts), np.array([0.0, 0.0]))


def test_of_two_confident_classes_the_more_probable_one_counts() -> None:
    thresholds = np.array([0.2, 0.3, 0.9])

    assert confident_class(np.array([[0.45, 0.55, 0.0], [0.25, 0.1, 0.65]]), thresholds).tolist() == [1, 0]


def test_the_given_label_agrees_where_another_is_more_probable_by_less_than_the_tolerance() -> None:
    probs = np.array([[0.5, 0.5 + 5e-7], [0.4, 0.6]])

    assert agrees_with_given(np.array([0, 0]), probs).tolist() == [True, False]


def test_probabilities_that_were_passed_in_are_not_changed() -> None:
    label, probs = noisy(1)
    before = probs.copy()

    agrees_with_given(label, probs)
    normalized_margin(label, probs)

    np.testing.assert_array_equal(probs, before)


def test_quality_scores_equal_cleanlab_to_the_bit() -> None:
    from cleanlab.rank import get_label_quality_scores

    for seed in range(10):
        label, probs = noisy(seed)

        margin, confidence = normalized_margin(label, probs), self_confidence(label, probs)

        np.testing.assert_array_equal(margin, get_label_quality_scores(label, probs, method="normalized_margin"))
        np.testing.assert_array_equal(confidence, get_label_quality_scores(label, probs, method="self_confidence"))


def test_the_calibrated_joint_equals_cleanlab() -> None:
    """Rule: for 2 to 40 classes, some absent, the K x K integers are cleanlab's, rounding included."""
    from cleanlab.count import calibrate_confident_joint, compute_confident_joint

    for seed in range(150):
        label, probs = noisy(seed)
        counts, sums = counts_and_sums(label, probs)
        theirs = compute_confident_joint(label, probs, calibrate=False)

        joint = calibrate_joint(joint_of(label, probs, class_thresholds(counts, sums)), counts)

        np.testing.assert_array_equal(joint, calibrate_confident_joint(theirs, label), err_msg=f"seed {seed}")


@pytest.mark.parametrize("min_examples", [0, 1, 5])
def test_the_prune_limits_equal_cleanlab(min_examples: int) -> None:
    from cleanlab import filter as cleanlab_filter

    for seed in range(100):
        rng = np.random.default_rng(seed)
        width = int(rng.integers(2, 20))
        joint = rng.integers(0, 12, (width, width)) * (rng.random((width, width)) < 0.6)
        theirs = cleanlab_filter._keep_at_least_n_per_class(joint.T, n=min_examples)

        limits = prune_limits(joint, min_examples_per_class=min_examples)

        np.testing.assert_array_equal(limits, theirs.T, err_msg=f"seed {seed}")


def test_rounding_keeps_the_total_of_each_row() -> None:
    counts = np.array([100, 7, 1])

    joint = calibrate_joint(np.array([[90, 3, 3], [1, 2, 3], [0, 0, 0]]), counts)

    np.testing.assert_array_equal(joint.sum(axis=1), counts)
