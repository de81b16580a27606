"""robust_spectral: finds planted backdoors without their rate, says how many, and is silent on clean data."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.detectors.robust_spectral import LEAST_SAMPLES, RobustSpectral
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError


def judged(data: Any, check: RobustSpectral | None = None) -> tuple[Scores, dict[str, GroupEvidence]]:
    check = check or RobustSpectral()
    model = fit_check(check, data.batches(500))
    return check.score(model, data.batch()), {item.label: item for item in check.evidence(model)}


@pytest.mark.parametrize("poisoned", [0.02, 0.1, 0.34, 0.5])
def test_a_backdoor_is_found_whatever_its_share_of_the_class(planted: ModuleType, poisoned: float) -> None:
    data = planted.backdoor(poisoned=poisoned, samples=1000, classes=4, width=24)

    scores, evidence = judged(data)

    assert scores.flagged[data.is_bad].mean() >= 0.99
    assert scores.flagged[~data.is_bad].mean() <= 0.001
    assert [label for label, item in evidence.items() if item.is_suspicious] == ["0"]
    assert evidence["0"].estimated_count == pytest.approx(data.is_bad.sum(), rel=0.1)
    assert evidence["0"].count_low <= data.is_bad.sum() + 1
    assert evidence["0"].count_high >= data.is_bad.sum() - 1
    assert evidence["0"].p_value is not None
    assert evidence["0"].p_value <= 0.01


@pytest.mark.parametrize("target", ["0", "3"])
def test_any_class_can_be_the_target(planted: ModuleType, target: str) -> None:
    data = planted.backdoor(poisoned=0.15, target=target, classes=5, samples=300, width=16, shift=50, seed=4)

    scores, evidence = judged(data)

    assert np.array_equal(scores.flagged, data.is_bad)
    assert evidence[target].is_suspicious


@pytest.mark.parametrize("shape", ["gauss", "student", "elliptical", "relu", "lognormal", "two_parts", "rare_part"])
@pytest.mark.parametrize(("classes", "samples", "width"), [(2, 100, 16), (10, 30, 32), (5, 200, 48)])
def test_clean_classes_of_any_shape_are_left_alone(
    planted: ModuleType, shape: str, classes: int, samples: int, width: int
) -> None:
    data = planted.clean(shape=shape, classes=classes, samples=samples, width=width, seed=classes)

    scores, evidence = judged(data)

    assert not scores.flagged.any()
    assert not any(item.is_suspicious or item.estimated_count for item in evidence.values())


def test_constant_columns_and_equal_rows_raise_no_alarm(planted: ModuleType) -> None:
    data = planted.clean(classes=3, samples=100, width=8)
    embedding = data.embedding.copy()
    embedding[:, :3] = 7
    embedding[np.array(data.label) == "2"] = embedding[0]
    flat = planted.Planted(embedding, data.label, data.source, data.is_bad)

    scores, evidence = judged(flat)

    assert not scores.flagged.any()
    assert evidence["2"].statistic["tested"] == 0
    assert evidence["1"].statistic["tested"] == 1


def test_all_rows_equal_raise_no_alarm(planted: ModuleType) -> None:
    data = planted.Planted(np.ones((80, 4), np.float32), ["a", "b"] * 40, ["s"] * 80, np.zeros(80, dtype=bool))

    scores, evidence = judged(data)

    assert not scores.flagged.any()
    assert all(item.statistic["tested"] == 0 for item in evidence.values())


def test_a_class_too_small_is_said_to_be_untested(planted: ModuleType) -> None:
    data = planted.clean(classes=3, samples=100, width=8)
    label = ["tiny" if place < LEAST_SAMPLES - 1 else text for place, text in enumerate(data.label)]

    scores, evidence = judged(planted.Planted(data.embedding, label, data.source, data.is_bad))

    assert evidence["tiny"].statistic["tested"] == 0
    assert not evidence["tiny"].is_suspicious
    assert (scores.score[np.array(label) == "tiny"] == -3).all()


def test_too_few_classes_or_samples_are_inconclusive_not_passed(planted: ModuleType) -> None:
    with pytest.raises(NotEnoughSamplesError):
        judged(planted.clean(classes=1, samples=100))
    with pytest.raises(NotEnoughSamplesError):
        judged(planted.clean(classes=3, samples=LEAST_SAMPLES - 1))
    with pytest.raises(NotEnoughSamplesError):
        fit_check(RobustSpectral(), [])


def test_the_evidence_names_the_sources_of_the_poison(planted: ModuleType) -> None:
    data = planted.backdoor(poisoned=0.1, classes=4, samples=400, width=16)
    source = ["bad" if is_bad else text for text, is_bad in zip(data.source, data.is_bad, strict=True)]

    _, evidence = judged(planted.Planted(data.embedding, data.label, source, data.is_bad))

    named = {key: value for key, value in evidence["0"].statistic.items() if key.startswith("flagged_fraction of")}
    assert named == {"flagged_fraction of bad": 1.0}


def test_one_class_far_from_all_others_does_not_mute_the_check(planted: ModuleType) -> None:
    data = planted.backdoor(poisoned=0.1, classes=5, samples=300, width=16)
    embedding = data.embedding.copy()
    embedding[np.array(data.label) == "4"] += 500

    scores, _ = judged(planted.Planted(embedding, data.label, data.source, data.is_bad))

    assert np.array_equal(scores.flagged, data.is_bad)


def test_wide_embeddings_are_projected_and_still_judged(planted: ModuleType) -> None:
    data = planted.backdoor(poisoned=0.1, classes=4, samples=300, width=96, shift=150)

    scores, _ = judged(data, RobustSpectral(max_dimension=32))

    assert np.array_equal(scores.flagged, data.is_bad)


def test_a_class_that_scoring_meets_first_gets_a_finite_score_and_no_flag(planted: ModuleType) -> None:
    data = planted.clean(classes=3, samples=60, width=8)
    check = RobustSpectral()
    model = fit_check(check, data.batches(500))

    scores = check.score(model, planted.batch_of(data.embedding[:2], ["new", "0"]))

    assert scores.score[0] == -3
    assert not scores.flagged.any()
    assert check.score(model, data.batch().slice(0, 0)).score.shape == (0,)


def test_embeddings_of_several_widths_are_refused(planted: ModuleType) -> None:
    check = RobustSpectral()
    narrow, wide = planted.clean(classes=2, samples=50, width=8), planted.clean(classes=2, samples=50, width=9)
    model = fit_check(check, narrow.batches(500))

    with pytest.raises(InvalidSampleError):
        check.add(check.add({}, narrow.batch(), None), wide.batch(), None)
    with pytest.raises(InvalidSampleError):
        check.merge([check.add({}, narrow.batch(), None), check.add({}, wide.batch(), None)])
    with pytest.raises(InvalidSampleError):
        check.score(model, wide.batch())
    other = planted.batch_of(wide.embedding, ["c"] * 100)
    with pytest.raises(InvalidSampleError):
        check.fit(check.merge([check.add({}, narrow.batch(), None), check.add({}, other, None)]), None)


def test_a_second_pass_over_other_data_is_noticed(planted: ModuleType) -> None:
    check = RobustSpectral()
    data = planted.clean(classes=2, samples=50, width=8)
    model = check.fit(check.add({}, data.batch(), None), None)

    with pytest.raises(InternalError):
        check.fit(check.add({}, data.batch().slice(0, 50), model), model)
    second = check.fit(check.add({}, data.batch(), model), model)
    with pytest.raises(InternalError):
        check.fit({}, second)


@pytest.mark.parametrize("config", [{"max_dimension": 1}, {"max_dimension": 513}, {"max_directions": 1}])
def test_options_out_of_range_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(PolicyError):
        RobustSpectral(**config)


def of_file(planted: ModuleType, path: Path) -> Any:
    stored = np.load(path, allow_pickle=False)
    label = [str(value) for value in stored["label"]]
    return planted.Planted(stored["feat_self"].astype(np.float32), label, ["s"] * len(label), stored["poison"].copy())


@pytest.mark.data
def test_badnets_at_one_per_cent_of_cifar10_is_found_and_counted(planted: ModuleType, shared_data: Path) -> None:
    """The bar: TPR >= 99 %, FPR <= 0.1 % over all 20,000, the count within 10 % of 200."""
    data = of_file(planted, shared_data / "features" / "img_badnet_0.01.npz")

    scores, evidence = judged(data)

    assert scores.flagged[data.is_bad].mean() >= 0.99
    assert scores.flagged[~data.is_bad].mean() <= 0.001
    assert evidence["0"].estimated_count == pytest.approx(200, rel=0.1)
    assert [label for label, item in evidence.items() if item.is_suspicious] == ["0"]


@pytest.mark.data
def test_nothing_is_flagged_in_clean_cifar10(planted: ModuleType, shared_data: Path) -> None:
    scores, evidence = judged(of_file(planted, shared_data / "features" / "img_clean.npz"))

    assert not scores.flagged.any()
    assert not any(item.is_suspicious for item in evidence.values())


@pytest.mark.data
@pytest.mark.parametrize("joined", [2, 5])
def test_legitimate_sub_classes_are_left_alone(planted: ModuleType, shared_data: Path, joined: int) -> None:
    """Real multi-modal classes: several CIFAR-10 classes under one label, in features trained to part them."""
    stored = np.load(shared_data / "features" / "img_clean.npz", allow_pickle=False)
    label = [str(value) for value in stored["label"].astype(int) // joined]
    data = planted.Planted(stored["feat_self"].astype(np.float32), label, ["s"] * len(label), stored["poison"].copy())

    scores, _ = judged(data)

    assert not scores.flagged.any()


def test_scores_rank_the_poison_first_even_below_the_bar(planted: ModuleType) -> None:
    data = planted.backdoor(poisoned=0.05, classes=5, samples=400, width=32, shift=15)

    scores, _ = judged(data)

    assert isinstance(scores.group, pa.StringArray)
    bad, clean = scores.score[data.is_bad], scores.score[~data.is_bad]
    assert (bad[:, None] > clean[None, :]).mean() >= 0.95
