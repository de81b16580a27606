"""Tasks beyond one class a row: planted errors are found, cleanlab's answer comes through, bad input has our words."""

from typing import Any

import numpy as np
import pytest

from millcert.checks.label_tasks import consensus_of, multilabel_issues, regression_quality, token_issues
from millcert.errors import InvalidSampleError, MillcertError, NotEnoughSamplesError


def sure(label: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    probs = rng.random((len(label), classes)) * 0.2
    probs[np.arange(len(label)), label] += 1
    return probs / probs.sum(axis=1, keepdims=True)


def test_a_planted_error_in_a_set_of_labels_is_flagged() -> None:
    rng = np.random.default_rng(0)
    has = rng.random((400, 4)) < 0.4
    probs = np.clip(np.where(has, 0.9, 0.1) + rng.normal(0, 0.05, has.shape), 0, 1)
    wrong = np.arange(0, 400, 40)
    has[wrong, 1] = ~has[wrong, 1]

    issues = multilabel_issues([np.flatnonzero(row).tolist() for row in has], probs)

    assert issues.flagged[wrong].sum() >= 9  # cleanlab prunes rounded counts of each class
    assert issues.flagged.sum() <= 2 * len(wrong)
    assert issues.quality[wrong].max() < np.median(issues.quality)


def test_a_planted_error_in_a_token_is_flagged_and_texts_without_tokens_stay_in_place() -> None:
    rng = np.random.default_rng(1)
    truth = [rng.integers(0, 3, size) for size in (0, *rng.integers(4, 12, 60).tolist())]
    probs = [sure(row, 3, rng) for row in truth]
    labels = [row.tolist() for row in truth]
    wrong = [(at, 2) for at in range(1, 61, 4)]
    for at, token in wrong:
        labels[at][token] = (labels[at][token] + 1) % 3

    issues = token_issues(labels, probs)

    assert [len(item.flagged) for item in issues] == [len(row) for row in labels]
    assert sum(bool(issues[at].flagged[token]) for at, token in wrong) >= 13
    assert sum(int(item.flagged.sum()) for item in issues) <= 15
    assert all(issues[at].quality.argmin() == token for at, token in wrong)


def test_a_number_far_from_its_prediction_is_the_least_plausible() -> None:
    rng = np.random.default_rng(2)
    predictions = rng.normal(size=200)
    labels = predictions + rng.normal(0, 0.1, 200)
    labels[33] += 5

    quality = regression_quality(labels, predictions)

    assert quality.argmin() == 33
    assert ((quality >= 0) & (quality <= 1)).all()


def test_a_consensus_is_right_where_a_bad_annotator_is_outvoted_and_he_is_the_worst() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 300)
    labels = np.repeat(truth[:, None], 4, axis=1)
    labels[:, 3] = np.where(rng.random(300) < 0.6, (truth + 1) % 3, truth)
    labels[rng.random((300, 4)) < 0.3] = -1
    labels[:, 0] = truth

    found = consensus_of(labels, sure(truth, 3, rng))

    assert (found.label == truth).mean() > 0.99
    assert found.annotator_quality.argmin() == 3
    assert found.annotator_agreement.argmin() == 3
    np.testing.assert_array_equal(found.annotator_rows, (labels >= 0).sum(axis=0))
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert ((found.agreement >= 0) & (found.agreement <= 1)).all()


HALF = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: multilabel_issues([], np.zeros((0, 2))), NotEnoughSamplesError),
        (lambda: multilabel_issues([[0], [2], [1]], HALF), InvalidSampleError),
        (lambda: multilabel_issues([[0, 0], [1], [1]], HALF), InvalidSampleError),
        (lambda: multilabel_issues([[0], [1], [1]], HALF * 3), InvalidSampleError),
        (lambda: multilabel_issues([[0], [1]], HALF), InvalidSampleError),
        (lambda: token_issues([[0, 1]], [HALF]), InvalidSampleError),
        (lambda: token_issues([[]], [np.zeros((0, 2))]), NotEnoughSamplesError),
        (lambda: token_issues([[0, 1, 5]], [HALF]), InvalidSampleError),
        (lambda: token_issues([[0, 1, 1]], [HALF / 2]), InvalidSampleError),
        (lambda: regression_quality(np.array([1.0]), np.array([1.0])), NotEnoughSamplesError),
        (lambda: regression_quality(np.array([1.0, np.nan]), np.zeros(2)), InvalidSampleError),
        (lambda: regression_quality(np.zeros(2), np.zeros(3)), InvalidSampleError),
        (lambda: consensus_of(np.array([[0], [1], [0]]), HALF), NotEnoughSamplesError),
        (lambda: consensus_of(np.array([[0, -1], [-1, 1], [0, -1]]), HALF), NotEnoughSamplesError),
        (lambda: consensus_of(np.array([[0, 1], [-1, -1], [0, 1]]), HALF), InvalidSampleError),
        (lambda: consensus_of(np.array([[0, 1], [0, 7], [0, 1]]), HALF), InvalidSampleError),
        (lambda: consensus_of(np.array([[0, 1], [0, -3], [0, 1]]), HALF), InvalidSampleError),
    ],
)
def test_bad_input_has_our_words(call: Any, kind: type[MillcertError]) -> None:
    with pytest.raises(kind):
        call()
