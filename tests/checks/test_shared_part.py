"""Parts with the content of other classes: of most classes along one direction, or of one class too near for rule c."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.detectors.robust_spectral import RobustSpectral


def judged(data: Any) -> tuple[Scores, dict[str, GroupEvidence]]:
    check = RobustSpectral()
    model = fit_check(check, data.batches(500))
    return check.score(model, data.batch()), {item.label: item for item in check.evidence(model)}


def marked(planted: ModuleType, *, share: float, shift: float, relabelled: bool, seed: int = 3) -> Any:
    """Return classes of which a share lies `shift` along a direction of its own, moved to the next class or not."""
    data = planted.clean(classes=6, samples=300, width=16, seed=seed)
    random = np.random.default_rng(seed)
    is_bad = random.random(len(data.label)) < share
    embedding = np.hstack([data.embedding, random.standard_normal((len(data.label), 1)).astype(np.float32)])
    embedding[is_bad, -1] += shift
    label = [
        str((int(one) + 1) % 6) if bad and relabelled else one for one, bad in zip(data.label, is_bad, strict=True)
    ]
    return planted.Planted(embedding, label, data.source, is_bad)


def one_class(planted: ModuleType, *, is_of_others: bool, classes: int = 6, seed: int = 5) -> Any:
    """Return classes, of the first of which a part lies 6 along a new direction: other classes' samples or its own."""
    data = planted.clean(classes=classes, samples=300, width=16, apart=3.5, seed=seed)
    random, label = np.random.default_rng(seed), np.array(data.label)
    where = np.flatnonzero((label != "0") if is_of_others else (label == "0"))
    is_bad = np.isin(np.arange(len(label)), random.choice(where, 100, replace=False))
    label[is_bad] = "0"
    embedding = np.hstack([data.embedding, random.standard_normal((len(label), 1)).astype(np.float32)])
    embedding[is_bad, -1] += 6
    return planted.Planted(embedding, label.tolist(), data.source, is_bad)


def test_a_trigger_that_moves_every_class_to_the_next_is_found_in_all_of_them(planted: ModuleType) -> None:
    data = marked(planted, share=0.08, shift=12.0, relabelled=True)

    scores, evidence = judged(data)

    assert np.array_equal(scores.flagged, data.is_bad)
    assert all(item.is_suspicious for item in evidence.values())
    assert sum(item.estimated_count for item in evidence.values()) == data.is_bad.sum()
    assert sum(item.count_low for item in evidence.values()) <= data.is_bad.sum()
    assert sum(item.count_high for item in evidence.values()) >= data.is_bad.sum()
    assert any(item.statistic["mislabelled_fraction"] > 0.5 for item in evidence.values())


@pytest.mark.parametrize("share", [0.08, 0.3])
def test_a_natural_feature_of_all_classes_raises_no_alarm(planted: ModuleType, share: float) -> None:
    data = marked(planted, share=share, shift=12.0, relabelled=False)

    scores, evidence = judged(data)

    assert not scores.flagged.any()
    assert not any(item.is_suspicious for item in evidence.values())


def test_a_part_too_near_for_a_class_is_found_by_its_content(planted: ModuleType) -> None:
    data = one_class(planted, is_of_others=True)

    scores, evidence = judged(data)

    assert evidence["0"].statistic["gap"] < evidence["0"].statistic["gap_needed"]
    assert evidence["0"].statistic["mislabelled_fraction"] > 0.5
    assert scores.flagged[data.is_bad].mean() >= 0.95
    assert scores.flagged[~data.is_bad].mean() <= 0.001


def test_a_part_as_near_with_its_own_content_is_a_natural_one(planted: ModuleType) -> None:
    scores, evidence = judged(one_class(planted, is_of_others=False))

    assert not scores.flagged.any()
    assert not any(item.is_suspicious for item in evidence.values())


def test_of_three_classes_no_part_can_be_said_to_come_of_several_others(planted: ModuleType) -> None:
    _, evidence = judged(one_class(planted, is_of_others=True, classes=3))

    assert evidence["0"].statistic["mislabelled_fraction"] == 0
