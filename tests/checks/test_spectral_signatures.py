"""spectral_signatures: the published rule, exactly, whatever the batches; and what it costs on clean data."""

from types import ModuleType

import numpy as np
import pytest

from millcert.checks.base import fit_check
from millcert.checks.detectors.spectral_signatures import SpectralSignatures
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError


def plain_rule(embedding: np.ndarray, label: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper with a full SVD."""
    score, flagged = np.zeros(len(label)), np.zeros(len(label), dtype=bool)
    for value in np.unique(label):
        rows = np.flatnonzero(label == value)
        centred = embedding[rows].astype(float) - embedding[rows].astype(float).mean(axis=0)
        score[rows] = (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2
        top = int(np.ceil(round(1.5 * epsilon * len(rows), 9)))
        flagged[rows[np.argsort(score[rows])[len(rows) - top :]]] = True
    return score, flagged


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5])
def test_flags_are_those_of_the_paper(planted: ModuleType, epsilon: float) -> None:
    data = planted.backdoor(poisoned=0.1, classes=4, samples=150, width=12)
    check = SpectralSignatures(epsilon=epsilon)

    model = fit_check(check, data.batches(70))
    scores = check.score(model, data.batch())

    score, flagged = plain_rule(data.embedding, np.array(data.label), epsilon)
    assert scores.score == pytest.approx(score, rel=1e-3, abs=1e-2)
    assert np.array_equal(scores.flagged, flagged)


def test_the_rule_deletes_clean_data(planted: ModuleType) -> None:
    data = planted.clean(classes=3, samples=200, width=8)
    check = SpectralSignatures(epsilon=0.33)

    scores = check.score(fit_check(check, data.batches(100)), data.batch())

    assert scores.flagged.mean() == pytest.approx(0.495, abs=0.003)


def test_samples_that_tie_at_the_threshold_are_all_left(planted: ModuleType) -> None:
    embedding = np.array([[0.0, 0.0]] * 6 + [[1.0, 0.0]] * 4, dtype=np.float32)
    data = planted.Planted(embedding, ["a"] * 10, ["s"] * 10, np.zeros(10, dtype=bool))
    check = SpectralSignatures(epsilon=0.2)

    scores = check.score(fit_check(check, data.batches(3)), data.batch())

    assert not scores.flagged.any()


def test_everything_may_be_flagged(planted: ModuleType) -> None:
    data = planted.clean(classes=2, samples=50, width=4)
    check = SpectralSignatures(epsilon=1 / 1.5)

    scores = check.score(fit_check(check, data.batches(50)), data.batch())

    assert scores.flagged.all()
    assert (scores.threshold == -1).all()


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 0.7])
def test_a_rate_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(PolicyError):
        SpectralSignatures(epsilon=epsilon)


def test_there_is_no_default_rate() -> None:
    with pytest.raises(TypeError):
        SpectralSignatures()  # type: ignore[call-arg]  # that it cannot be called so is the point


def test_unseen_classes_and_other_widths(planted: ModuleType) -> None:
    data, wide = planted.clean(classes=2, samples=50, width=4), planted.clean(classes=2, samples=50, width=5)
    check = SpectralSignatures(epsilon=0.1)
    model = fit_check(check, data.batches(50))

    scores = check.score(model, planted.batch_of(data.embedding[:1], ["new"]))

    assert scores.score.tolist() == [0]
    assert not scores.flagged.any()
    with pytest.raises(InvalidSampleError):
        check.score(model, wide.batch())
    with pytest.raises(InvalidSampleError):
        check.add({}, wide.batch(), model)
    other = planted.batch_of(wide.embedding, ["c"] * 100)
    with pytest.raises(InvalidSampleError):
        check.fit(check.add(check.add({}, data.batch(), None), other, None), None)
    with pytest.raises(NotEnoughSamplesError):
        check.fit({}, None)
    with pytest.raises(InternalError):
        check.add({}, planted.batch_of(data.embedding[:1], ["new"]), model)
