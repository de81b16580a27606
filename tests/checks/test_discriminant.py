"""Closed-form discriminants from sums: equal to the textbook's on rows, out of fold, and safe on awkward
covariances."""

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.discriminant import Discriminant, oracle_shrinkage, softmax
from millcert.checks.fold_sums import fit_folds, fold_of, sum_by_fold
from millcert.checks.moments import Moments
from millcert.errors import NotEnoughSamplesError


def moments_of(rows: np.ndarray, label: np.ndarray, classes: int) -> tuple[Moments, list[Moments]]:
    width = rows.shape[1]
    return Moments.zero(width).add_rows(rows), [
        Moments.zero(width, keeps_products=False).add_rows(rows[label == index]) for index in range(classes)
    ]


def textbook(rows: np.ndarray, label: np.ndarray, asked: np.ndarray, classes: int, shrinkage: float) -> np.ndarray:
    """Return the probabilities of Hastie et al. section 4.3, straight from the rows."""
    means = np.stack([rows[label == index].mean(axis=0) for index in range(classes)])
    centred = rows - means[label]
    within = centred.T @ centred / (len(rows) - classes)
    covariance = (1 - shrinkage) * within + shrinkage * np.trace(within) / len(within) * np.eye(len(within))
    inverse = np.linalg.inv(covariance)
    logits = np.stack(
        [
            asked @ inverse @ mean - mean @ inverse @ mean / 2 + np.log(np.mean(label == index))
            for index, mean in enumerate(means)
        ],
        axis=1,
    )
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


def blobs(seed: int, number: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, number)
    label[:classes] = np.arange(classes)
    rows = rng.normal(size=(number, width)) + rng.normal(size=(classes, width))[label] * 2 + 5
    return rows.astype(np.float32), label


def fitted(rows: np.ndarray, label: np.ndarray, classes: int, shrinkage: float | None = None) -> Discriminant:
    pooled, parts = moments_of(rows, label, classes)
    return Discriminant.fit(pooled, parts, columns=classes, shrinkage=shrinkage)


def test_probabilities_from_sums_equal_the_textbook_on_the_rows() -> None:
    rows, label = blobs(0, 600, 12, 4)
    expected = textbook(rows.astype(np.float64), label, rows.astype(np.float64), 4, 0.1)

    probs = fitted(rows, label, 4, 0.1).probabilities(rows)

    np.testing.assert_allclose(probs, expected, atol=2e-3)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-12)


def test_probabilities_of_a_row_have_the_same_bits_in_any_batch() -> None:
    rows, label = blobs(1, 200, 33, 11)
    model = fitted(rows, label, 11)

    together = model.probabilities(rows)
    alone = np.concatenate([model.probabilities(rows[index : index + 1]) for index in range(200)])

    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(model.probabilities(rows[::-1])[::-1], together)


def test_more_dimensions_than_samples_give_finite_probabilities_that_follow_the_classes() -> None:
    rows, label = blobs(2, 40, 300, 2)

    probs = fitted(rows, label, 2).probabilities(rows)

    assert np.isfinite(probs).all()
    assert (probs.argmax(axis=1) == label).mean() > 0.95


def test_columns_that_never_vary_and_columns_that_repeat_do_no_harm() -> None:
    rows, label = blobs(3, 300, 6, 3)
    awkward = np.concatenate([rows, rows, np.zeros((300, 4), np.float32), np.full((300, 2), 7, np.float32)], axis=1)

    probs = fitted(awkward, label, 3).probabilities(awkward)

    assert np.isfinite(probs).all()
    assert (probs.argmax(axis=1) == fitted(rows, label, 3).probabilities(rows).argmax(axis=1)).mean() > 0.98


def test_a_class_without_training_rows_has_probability_zero() -> None:
    rows, label = blobs(4, 90, 5, 2)

    probs = fitted(rows, label, 3).probabilities(rows)

    assert (probs[:, 2] == 0).all()
    assert np.isfinite(probs).all()


def test_fewer_than_two_classes_with_rows_are_refused() -> None:
    rows, _ = blobs(5, 30, 4, 2)

    with pytest.raises(NotEnoughSamplesError, match="at least 2 classes"):
        fitted(rows, np.zeros(30, dtype=np.int64), 2)


@pytest.mark.parametrize("level", [0.0, 1.0, 1000.1])
def test_classes_without_any_spread_are_refused(level: float) -> None:
    label = np.arange(40) % 2
    rows = np.repeat((label * level)[:, None], 3, axis=1).astype(np.float32)

    with pytest.raises(NotEnoughSamplesError, match="all alike"):
        fitted(rows, label, 2)


def test_one_sample_a_class_has_no_spread_to_speak_of() -> None:
    with pytest.raises(NotEnoughSamplesError, match="all alike"):
        fitted(np.array([[1.0, 2.0], [3.0, 5.0]], np.float32), np.array([0, 1]), 2)


def test_shrinkage_is_the_formula_of_chen_et_al() -> None:
    covariance, freedom = np.diag([4.0, 1.0, 1.0]), 10.0
    numerator = (1 - 2 / 3) * 18 + 36
    denominator = (10 + 1 - 2 / 3) * (18 - 36 / 3)

    assert oracle_shrinkage(covariance, freedom) == pytest.approx(numerator / denominator)


def test_shrinkage_is_full_for_a_multiple_of_the_identity_and_fades_with_samples() -> None:
    covariance = np.diag([9.0, 1.0, 1.0, 1.0])

    assert oracle_shrinkage(np.eye(4) * 3, 100) == 1.0
    assert oracle_shrinkage(covariance, 5) > oracle_shrinkage(covariance, 500) > oracle_shrinkage(covariance, 50000)
    assert oracle_shrinkage(covariance, 50000) < 1e-3


def test_softmax_survives_logits_far_apart_and_absent_classes() -> None:
    probs = softmax(np.array([[1e5, -1e5, -np.inf], [0.0, 0.0, -np.inf]]))

    np.testing.assert_array_equal(probs, [[1, 0, 0], [0.5, 0.5, 0]])


def folded(rows: np.ndarray, label: np.ndarray, fold: np.ndarray) -> dict[str, Moments]:
    return sum_by_fold(pa.array([f"c{value}" for value in label], pa.string()), rows, fold)


def test_the_model_of_a_fold_is_the_one_trained_on_all_other_folds() -> None:
    rows, label = blobs(6, 400, 8, 3)
    fold = np.arange(400) % 4

    models = fit_folds(folded(rows, label, fold), folds=4, classes=(), skip_rare=False, shrinkage=0.05)

    assert models.classes == ("c0", "c1", "c2")
    for index, model in enumerate(models.discriminants):
        rest = fold != index
        expected = fitted(rows[rest], label[rest], 3, 0.05)
        np.testing.assert_array_equal(model.probabilities(rows), expected.probabilities(rows))


def test_a_fold_without_rows_is_judged_by_a_model_of_everything() -> None:
    rows, label = blobs(7, 100, 4, 2)

    models = fit_folds(folded(rows, label, np.arange(100) % 2), folds=3, classes=(), skip_rare=False, shrinkage=None)

    expected = fitted(rows, label, 2)
    np.testing.assert_array_equal(models.discriminants[2].probabilities(rows), expected.probabilities(rows))


def test_a_class_whose_samples_share_a_fold_is_refused_by_name_or_skipped() -> None:
    rows, label = blobs(8, 120, 4, 3)
    fold = np.where(label == 1, 0, np.arange(120) % 3)
    sums = folded(rows, label, fold)

    with pytest.raises(NotEnoughSamplesError, match="'c1'"):
        fit_folds(sums, folds=3, classes=(), skip_rare=False, shrinkage=None)
    models = fit_folds(sums, folds=3, classes=(), skip_rare=True, shrinkage=None)

    assert models.classes == ("c0", "c2")
    assert models.skipped == {"c1": int((label == 1).sum())}
    assert models.discriminants[0].probabilities(rows).shape == (120, 2)


def test_the_fold_is_the_first_eight_bytes_of_the_digest_modulo_the_number_of_folds() -> None:
    assert fold_of(np.array([0, 7, 2**64 - 1], dtype=np.uint64), 5).tolist() == [0, 2, (2**64 - 1) % 5]
