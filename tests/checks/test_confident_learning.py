"""The counts and bars of confident learning, against cleanlab's and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.class_cells import ClassCells, _sum_by_true_class, calibrate_joint, prune_limits
from millcert.checks.confident_learning import (
    UNREACHABLE_THRESHOLD,
    agrees_with_given,
    class_thresholds,
    confident_class,
    least_lead,
)
from millcert.checks.label_quality import normalized_margin, self_confidence
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


def joint_of(label: np.ndarray, probs: np.ndarray, thresholds: np.ndarray) -> ClassCells:
    guess = confident_class(probs, thresholds, probs.argmax(axis=1))
    return ClassCells.count(probs.shape[1], label[guess >= 0], guess[guess >= 0])


def test_the_threshold_of_a_class_is_its_mean_self_confidence() -> None:
    thresholds = class_thresholds(np.array([4, 2]), np.array([3.0, 1.0]))

    np.testing.assert_array_equal(thresholds, [0.75, 0.5])


def test_a_class_without_samples_has_a_threshold_that_no_probability_reaches() -> None:
    thresholds = class_thresholds(np.array([4, 0, 1]), np.array([3.0, 0.0, 1.0]))

    assert thresholds[1] == UNREACHABLE_THRESHOLD
    assert (confident_class(np.array([[0.0, 1.0, 0.0]]), thresholds, np.array([1])) == -1).all()


def test_a_class_that_is_never_predicted_still_has_a_threshold_above_the_tolerance() -> None:
    thresholds = class_thresholds(np.array([2, 2]), np.array([0.0, 2.0]))

    assert confident_class(np.array([[0.0, 0.9]]), thresholds, np.array([1])).tolist() == [-1]


@pytest.mark.parametrize("counts", [[0, 0], [7, 0], [0, 7]])
def test_fewer_than_two_classes_are_refused(counts: list[int]) -> None:
    with pytest.raises(NotEnoughSamplesError, match="at least 2 classes"):
        class_thresholds(np.array(counts), np.array([0.0, 0.0]))


def test_of_two_confident_classes_the_more_probable_one_counts() -> None:
    thresholds, probs = np.array([0.2, 0.3, 0.9]), np.array([[0.45, 0.55, 0.0], [0.25, 0.1, 0.65]])

    assert confident_class(probs, thresholds, probs.argmax(axis=1)).tolist() == [1, 0]


def test_the_given_label_agrees_where_another_is_more_probable_by_less_than_the_tolerance() -> None:
    probs = np.array([[0.5, 0.5 + 5e-7], [0.4, 0.6]])

    assert agrees_with_given(np.array([0, 0]), probs, probs.argmax(axis=1)).tolist() == [True, False]


def test_probabilities_that_were_passed_in_are_not_changed() -> None:
    label, probs = noisy(1)
    before = probs.copy()

    agrees_with_given(label, probs, probs.argmax(axis=1))
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

        np.testing.assert_array_equal(joint.table(), calibrate_confident_joint(theirs, label), err_msg=f"seed {seed}")


@pytest.mark.parametrize("min_examples", [0, 1, 5])
def test_the_prune_limits_equal_cleanlab(min_examples: int) -> None:
    from cleanlab import filter as cleanlab_filter

    for seed in range(100):
        rng = np.random.default_rng(seed)
        width = int(rng.integers(2, 20))
        joint = rng.integers(0, 12, (width, width)) * (rng.random((width, width)) < 0.6)
        theirs = cleanlab_filter._keep_at_least_n_per_class(joint.T, n=min_examples)

        limits = prune_limits(ClassCells.of_table(joint), min_examples_per_class=min_examples)

        np.testing.assert_array_equal(limits.table(), theirs.T, err_msg=f"seed {seed}")


def test_rounding_keeps_the_total_of_each_row() -> None:
    counts = np.array([100, 7, 1])

    joint = calibrate_joint(ClassCells.of_table(np.array([[90, 3, 3], [1, 2, 3], [0, 0, 0]])), counts)

    np.testing.assert_array_equal(joint.row_sums(), counts)


@pytest.mark.parametrize("width", [2, 7, 40, 300, 700])
def test_cells_sum_to_the_bits_of_a_full_table(width: int) -> None:
    """Rule: skipping empty parts of the sum changes no bit, so limits are cleanlab's at any number of classes."""
    rng = np.random.default_rng(width)
    table = rng.integers(0, 50, (width, width)) * (rng.random((width, width)) < 0.02)
    np.fill_diagonal(table, rng.integers(1, 1000, width))
    counts = rng.integers(1, 2000, width)
    by_true = np.ascontiguousarray(table.T) / table.sum(axis=1) * counts
    cells = ClassCells.of_table(table)

    total = _sum_by_true_class(cells, cells.value / table.sum(axis=1)[cells.row] * counts[cells.row])

    assert total == np.sum(by_true)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=40), st.integers(1, 5))
def test_cells_are_the_table_that_they_stand_for(pairs: list[tuple[int, int]], pieces: int) -> None:
    """Rule: counting in any pieces and merging gives the full table's counts, rows, diagonal and sums."""
    full = np.zeros((5, 5), dtype=np.int64)
    for row, column in pairs:
        full[row, column] += 1
    parts = [np.array(pairs[start::pieces], dtype=np.int64).reshape(-1, 2) for start in range(pieces)]

    cells = ClassCells.zero(5).merge(ClassCells.count(5, part[:, 0], part[:, 1]) for part in parts)

    np.testing.assert_array_equal(cells.table(), full)
    np.testing.assert_array_equal(cells.diagonal(), full.diagonal())
    np.testing.assert_array_equal(cells.row_sums(), full.sum(axis=1))
    np.testing.assert_array_equal(cells.row_of(3)[0], np.flatnonzero(full[3]))
    np.testing.assert_array_equal(
        cells.with_diagonal(np.arange(5)).table(), full - np.diag(full.diagonal() - np.arange(5))
    )
    np.testing.assert_array_equal(ClassCells.of_table(full).code, cells.code)
    assert cells.nbytes == 16 * len(cells.code)


@pytest.mark.parametrize("seed", range(5))
def test_no_lead_is_below_the_least_one(seed: int) -> None:
    """Rule: p(given) - p(other) >= least_lead for every other class, so rows above a cut may be skipped."""
    label, probs = noisy(seed)
    label, probs = label[:200], probs[:200]
    leads = probs[np.arange(len(label)), label][:, None] - probs
    leads[np.arange(len(label)), label] = np.inf

    least = least_lead(label, probs, probs.argmax(axis=1))

    assert (leads.min(axis=1) >= least).all()
    assert (least <= probs[np.arange(len(label)), label]).all()
