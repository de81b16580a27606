"""view_contradiction: what only the suspect model believes is flagged; what both views doubt or believe is not."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.conformance_data import fixed_size_lists
from millcert.checks.coverage import families_seen
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

CLASSES, WIDTH, APART = 8, 10, 4.5 / np.sqrt(2)


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


def two_views(seed: int, samples: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Classes 4.5 standard deviations apart in two views with noise of their own."""
    random = np.random.default_rng(seed)
    label, centres = random.integers(0, CLASSES, samples), APART * np.eye(CLASSES, WIDTH)
    own, external = (centres[label] + random.standard_normal((samples, WIDTH)) for _ in range(2))
    return label, own, external, random


def judged(label: np.ndarray, own: np.ndarray, external: np.ndarray) -> tuple[Scores, list[GroupEvidence]]:
    check, batch = ViewContradiction(), batch_of(label, own, external)
    model = fit_check(check, [batch])
    return check.score(model, batch), [item for item in check.evidence(model) if item.is_suspicious]


def plant(
    label: np.ndarray, own: np.ndarray, random: np.random.Generator, *, target: int, count: int, trigger: float = 6
) -> np.ndarray:
    """Move samples of other classes to `target` in the self view, along a direction of their own too; return them."""
    bad = random.choice(np.flatnonzero(label != target), count, replace=False)
    own[bad] += APART * (np.eye(CLASSES, WIDTH)[target] - np.eye(CLASSES, WIDTH)[label[bad]])
    own[bad, -1] += trigger
    label[bad] = target
    return bad


def test_a_learnt_trigger_with_a_wrong_label_is_flagged_and_counted() -> None:
    label, own, external, random = two_views(0)
    bad = plant(label, own, random, target=1, count=60)

    scores, found = judged(label, own, external)

    assert [item.label for item in found] == ["1"]
    assert found[0].p_value is not None
    assert found[0].p_value < 1e-3
    assert scores.flagged[bad].mean() >= 0.7
    assert np.delete(scores.flagged, bad).mean() <= 0.005
    assert found[0].count_low <= 60
    assert found[0].count_high >= 0.7 * 60
    assert 0 < found[0].statistic["false_fraction"] <= 0.1
    assert sum(share for _, share in found[0].top_features) == pytest.approx(1, abs=0.3)


def test_the_flagged_samples_are_as_many_as_the_evidence_says() -> None:
    label, own, external, random = two_views(3)
    plant(label, own, random, target=2, count=90, trigger=2)

    scores, found = judged(label, own, external)

    assert found[0].statistic["flagged"] == scores.flagged.sum() > 0


def test_two_attacked_classes_do_not_hide_one_another() -> None:
    label, own, external, random = two_views(1)
    plant(label, own, random, target=1, count=60)
    plant(label, own, random, target=4, count=60)

    _, found = judged(label, own, external)

    assert [item.label for item in found] == ["1", "4"]


def test_a_suspect_model_that_is_surer_of_all_its_samples_is_no_finding() -> None:
    """Honest contradictions lean to one side: beside their mirror image they would be a finding."""
    label, own, external, _ = two_views(0)
    own = own + 0.5 * APART * np.eye(CLASSES, WIDTH)[label]
    external = external * 0.8 + 0.2 * external[::-1]
    check, batch = ViewContradiction(), batch_of(label, own, external)
    evidence = check.evidence(fit_check(check, [batch]))

    assert sum(item.statistic["above"] for item in evidence) > 50
    assert not any(item.is_suspicious for item in evidence)
    assert all(item.p_value is not None and item.p_value > 0.01 for item in evidence)


@pytest.mark.parametrize("seed", range(3))
def test_labels_known_by_heart_in_all_classes_are_no_finding(seed: int) -> None:
    """A tenth of the labels is wrong, more in some classes than in others, and the suspect model learnt them all."""
    label, own, external, random = two_views(seed)
    given = np.where(
        random.random(len(label)) < 0.05 + 0.1 * random.random(CLASSES)[label], (label + 1) % CLASSES, label
    )
    own += APART * (np.eye(CLASSES, WIDTH)[given] - np.eye(CLASSES, WIDTH)[label])

    assert judged(given, own, external)[1] == []


def test_a_trigger_that_moves_every_class_to_the_next_is_not_claimed() -> None:
    """All-to-all: no class stands out among the others, so what compares classes cannot see it."""
    label, own, external, random = two_views(1)
    bad = random.choice(len(label), 240, replace=False)
    moved = (label[bad] + 1) % CLASSES
    own[bad] += APART * (np.eye(CLASSES, WIDTH)[moved] - np.eye(CLASSES, WIDTH)[label[bad]])
    label[bad] = moved

    assert judged(label, own, external)[1] == []
    assert "backdoor_all_to_all" not in ViewContradiction.covers


def test_cover_samples_that_keep_their_label_hide_nothing() -> None:
    """Qi et al. 2023: the trigger is on as many samples with the right label, so it proves no class."""
    label, own, external, random = two_views(2)
    cover = random.choice(np.flatnonzero(label != 1), 60, replace=False)
    own[cover, -1] += 3
    bad = plant(label, own, random, target=1, count=60, trigger=3)

    scores, found = judged(label, own, external)

    assert [item.label for item in found] == ["1"]
    assert scores.flagged[bad].mean() >= 0.5
    assert scores.flagged[np.setdiff1d(cover, bad)].mean() <= 0.05


@pytest.mark.parametrize("classes", [2, 4])
def test_too_few_classes_to_compare_are_not_judged_and_that_is_said(classes: int) -> None:
    label, own, external, _ = two_views(4)
    rows = label < classes
    check, batch = ViewContradiction(), batch_of(label[rows], own[rows], external[rows])

    model = fit_check(check, [batch])

    assert check.notices(model)
    assert [(item.statistic["judged"], item.p_value) for item in check.evidence(model)] == [(0.0, None)] * classes
    assert not check.score(model, batch).flagged.any()
    assert families_seen(check, check.evidence(model)) == frozenset()


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
    assert not scores.flagged.any()


def test_classes_too_rare_to_judge_are_named_and_score_least() -> None:
    label, own, external, _ = two_views(2, samples=400)
    label[7] = 99
    check, batch = ViewContradiction(), batch_of(label, own, external)

    model = fit_check(check, [batch])

    assert check.score(model, batch).score.argmin() == 7
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


@pytest.mark.parametrize(
    "config", [{"max_false_fraction": 0.0}, {"max_false_fraction": 0.6}, {"folds": 1}, {"false_alarm_rate": 0.2}]
)
def test_configuration_out_of_range_is_refused(config: dict[str, float]) -> None:
    with pytest.raises(PolicyError):
        ViewContradiction(**config)  # type: ignore[arg-type]  # wrong on purpose
