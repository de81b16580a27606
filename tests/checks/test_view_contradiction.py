"""view_contradiction: what only the suspect model believes is flagged; what both views doubt or believe is not."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.conformance_data import fixed_size_lists
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

CLASSES, WIDTH, APART = 4, 8, 4.5 / np.sqrt(2)


def batch_of(label: np.ndarray, own: np.ndarray, external: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label], pa.string()),
            fixed_size_lists(own.astype(np.float32)),
            fixed_size_lists(external.astype(np.float32)),
            pa.array([hashlib.sha256(str(row).encode()).digest() for row in range(len(label))], pa.binary(32)),
        ],
        names=["label", "embedding_self", "embedding_external", "sample_digest"],
    )


def two_views(seed: int, samples: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Classes 4.5 standard deviations apart in two views with noise of their own."""
    random = np.random.default_rng(seed)
    label, centres = random.integers(0, CLASSES, samples), APART * np.eye(CLASSES, WIDTH)
    own, external = (centres[label] + random.standard_normal((samples, WIDTH)) for _ in range(2))
    return label, own, external, random


def judged(label: np.ndarray, own: np.ndarray, external: np.ndarray) -> tuple[Scores, list[GroupEvidence]]:
    check, batch = ViewContradiction(), batch_of(label, own, external)
    model = fit_check(check, [batch])
    return check.score(model, batch), [item for item in check.evidence(model) if item.is_suspicious]


def test_a_learnt_trigger_with_a_wrong_label_is_flagged_and_counted() -> None:
    label, own, external, random = two_views(0)
    bad = random.choice(np.flatnonzero(label != 1), 60, replace=False)
    own[bad] += APART * (np.eye(CLASSES, WIDTH)[1] - np.eye(CLASSES, WIDTH)[label[bad]])
    own[bad, -1] += 6
    label[bad] = 1

    scores, found = judged(label, own, external)

    assert [item.label for item in found] == ["1"]
    assert scores.flagged[bad].mean() >= 0.7
    assert np.delete(scores.flagged, bad).mean() <= 0.005
    assert found[0].estimated_count == pytest.approx(scores.flagged.sum(), abs=5)


def test_a_suspect_model_that_is_surer_of_all_its_samples_is_no_finding_and_no_p_value_says_otherwise() -> None:
    """Honest contradictions lean to one side: a sign test gave clean pictures p-values of 0.001."""
    label, own, external, _ = two_views(0, samples=4000)
    own = own + 0.5 * APART * np.eye(CLASSES, WIDTH)[label]
    check, batch = ViewContradiction(), batch_of(label, own, external)
    evidence = check.evidence(fit_check(check, [batch]))

    assert sum(item.statistic["above"] for item in evidence) > 4 * sum(item.statistic["below"] for item in evidence)
    assert not any(item.is_suspicious for item in evidence)
    assert {item.p_value for item in evidence} == {None}
    assert all(
        item.statistic["false_fraction"] == (1 + item.statistic["below"]) / item.statistic["above"] for item in evidence
    )


def test_a_trigger_that_moves_every_class_to_the_next_is_seen_in_most() -> None:
    """All-to-all: no class stands out among the others, so nothing that compares classes sees it."""
    label, own, external, random = two_views(1)
    bad = random.choice(len(label), 240, replace=False)
    moved = (label[bad] + 1) % CLASSES
    own[bad] += APART * (np.eye(CLASSES, WIDTH)[moved] - np.eye(CLASSES, WIDTH)[label[bad]])
    own[bad, -1] += 6
    label[bad] = moved

    scores, found = judged(label, own, external)

    assert len(found) >= 3
    assert scores.flagged[bad].mean() >= 0.4
    assert np.delete(scores.flagged, bad).mean() <= 0.005
    # With such views; with those of real pictures it named no class, so it does not say that it covers them.
    assert "backdoor_all_to_all" not in ViewContradiction.covers


def test_cover_samples_that_keep_their_label_hide_nothing() -> None:
    """Qi et al. 2023: the trigger is on as many samples with the right label, so it proves no class."""
    label, own, external, random = two_views(2)
    chosen = random.choice(np.flatnonzero(label != 1), 120, replace=False)
    bad, cover = chosen[:60], chosen[60:]
    own[bad] += APART * (np.eye(CLASSES, WIDTH)[1] - np.eye(CLASSES, WIDTH)[label[bad]])
    own[chosen, -1] += 3
    label[bad] = 1

    scores, found = judged(label, own, external)

    assert [item.label for item in found] == ["1"]
    assert scores.flagged[bad].mean() >= 0.5
    assert scores.flagged[cover].mean() <= 0.05


@pytest.mark.parametrize("seed", range(5))
def test_views_that_differ_by_noise_alone_are_silent(seed: int) -> None:
    label, own, external, _ = two_views(seed)

    assert judged(label, own, external)[1] == []


@pytest.mark.parametrize("seed", range(3))
def test_label_errors_that_neither_view_believes_are_not_flagged(seed: int) -> None:
    label, own, external, random = two_views(seed)
    label = np.where(random.random(len(label)) < 0.1, random.integers(0, CLASSES, len(label)), label)

    assert judged(label, own, external)[1] == []


def test_one_view_under_two_names_contradicts_nothing() -> None:
    label, own, _, _ = two_views(1)

    scores, found = judged(label, own, own)

    assert found == []
    assert not scores.score.any()


def test_classes_too_rare_to_judge_are_named_and_score_nothing() -> None:
    label, own, external, _ = two_views(2, samples=400)
    label[7] = 99
    check, batch = ViewContradiction(), batch_of(label, own, external)

    model = fit_check(check, [batch])

    assert check.score(model, batch).score[7] == 0
    assert [item.statistic for item in check.evidence(model) if item.group == "99"] == [{"judged": 0.0}]


def test_what_cannot_be_judged_is_refused_by_name() -> None:
    label, own, external, _ = two_views(3, samples=300)
    check, batch = ViewContradiction(), batch_of(label, own, external)
    model = fit_check(check, [batch])
    narrow = batch_of(label, own[:, :5], external)

    with pytest.raises(InvalidSampleError):
        check.score(model, narrow)
    with pytest.raises(InvalidSampleError):
        check.fit(check.add(check.add({}, batch, None), batch_of(label + 50, own[:, :5], external), None), None)
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [])
    with pytest.raises(InternalError):
        check.score(check.fit(check.add({}, batch, None), None), batch)


@pytest.mark.parametrize("config", [{"max_false_fraction": 0.0}, {"max_false_fraction": 0.6}, {"folds": 1}])
def test_configuration_out_of_range_is_refused(config: dict[str, float]) -> None:
    with pytest.raises(PolicyError):
        ViewContradiction(**config)  # type: ignore[arg-type]  # wrong on purpose
