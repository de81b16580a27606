"""What `annotator_quality` promises beyond the conformance suite: whom it names, what it flags, what it refuses."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import detectors
from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.conformance import conformance_cases
from millcert.checks.detectors.annotator_quality import MAX_GROUPS, AnnotatorQuality
from millcert.errors import InternalError, InvalidSampleError, PolicyError


def digits(
    seed: int, *, flips: float = 0.0, pair: float = 0.0, hard: bool = False
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return sklearn's digits labelled by 12 people, and which labels are wrong.

    flips: part of the labels that "ann-5" gets wrong. pair: part of the threes that "ann-7" calls five.
    hard: "ann-2" labels hardly anything but eights and ones, which the model confuses.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    embedding, true = load_digits(return_X_y=True)
    who = rng.integers(0, 12, len(true))
    if hard:
        who = np.where(np.isin(true, [1, 8]) & (rng.random(len(true)) < 0.3), 2, who)
    label = true.copy()
    wrong = (who == 5) & (rng.random(len(true)) < flips)
    label[wrong] = (true[wrong] + rng.integers(1, 10, int(wrong.sum()))) % 10
    label[(who == 7) & (true == 3) & (rng.random(len(true)) < pair)] = 5
    names = [f"ann-{value}" for value in who]
    rows = embedding.astype(np.float32)
    digest = [hashlib.sha256(row.tobytes() + bytes([at % 256, at // 256])).digest() for at, row in enumerate(rows)]
    return (
        pa.RecordBatch.from_arrays(
            [
                pa.array([str(value) for value in label]),
                pa.array(names),
                pa.array(names),
                pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]),
                pa.array(digest, pa.binary(32)),
            ],
            names=["label", "annotator", "source", "embedding_external", "sample_digest"],
        ),
        label != true,
    )


def judged(batch: pa.RecordBatch, **fields: Any) -> tuple[Scores, dict[str, GroupEvidence]]:
    check = AnnotatorQuality(**fields)
    model = fit_check(check, [batch.slice(0, 700), batch.slice(700)])
    return check.score(model, batch), {item.group: item for item in check.evidence(model)}


@pytest.mark.parametrize("seed", range(3))
def test_who_flips_a_third_of_the_labels_is_named_and_nobody_else(seed: int) -> None:
    batch, is_wrong = digits(seed, flips=0.3)

    scores, evidence = judged(batch)

    assert {name for name, item in evidence.items() if item.is_suspicious} == {"ann-5"}
    named = evidence["ann-5"]
    assert named.count_low <= is_wrong.sum() <= named.count_high
    assert named.statistic["error_rate_low"] > named.statistic["expected_rate"]
    assert named.p_value is not None
    assert named.p_value < 0.01
    assert is_wrong[scores.flagged].mean() > 0.8
    assert scores.flagged[is_wrong].mean() > 0.8
    assert set(scores.group.filter(pa.array(scores.flagged)).to_pylist()) == {"ann-5"}


@pytest.mark.parametrize("seed", range(10, 20))
def test_nobody_is_named_among_honest_people(seed: int) -> None:
    batch, _ = digits(seed, hard=seed % 2 == 0)

    scores, evidence = judged(batch)

    assert not [name for name, item in evidence.items() if item.is_suspicious]
    assert not scores.flagged.any()
    assert np.isinf(scores.threshold).all()
    assert sum(item.samples for item in evidence.values()) == batch.num_rows


def test_a_pair_of_classes_that_one_source_confuses_is_named() -> None:
    batch, is_wrong = digits(4, pair=0.5)

    scores, evidence = judged(batch, by="source")

    named = {name: item for name, item in evidence.items() if item.is_suspicious}
    assert set(named) == {"ann-7: 5 -> 3"}
    assert (named["ann-7: 5 -> 3"].source, named["ann-7: 5 -> 3"].label) == ("ann-7", "5")
    assert is_wrong[scores.flagged].all()
    assert scores.flagged.sum() > 5


def test_by_source_needs_no_annotator() -> None:
    batch, _ = digits(0)

    assert AnnotatorQuality(by="source").columns == {"source", "label", "embedding_external", "sample_digest"}
    assert judged(batch.drop_columns(["annotator"]), by="source")[1]


@pytest.mark.parametrize("fields", [{}, {"view": "pred_probs"}, {"view": "embedding_self"}])
def test_the_conformance_suite_holds_in_every_view(fields: dict[str, Any]) -> None:
    for case in conformance_cases(AnnotatorQuality(**fields)):
        case.run()


def test_a_column_of_names_that_are_all_different_is_refused_in_bounded_memory() -> None:
    check = AnnotatorQuality(view="pred_probs", classes=("0", "1"))
    rows = MAX_GROUPS + 1
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(["0", "1"] * (rows // 2) + ["0"] * (rows % 2)),
            pa.array([str(value) for value in range(rows)]),
            pa.FixedSizeListArray.from_arrays(pa.array(np.tile([0.6, 0.4], rows)), 2),
            pa.array([value.to_bytes(32, "big") for value in range(rows)], pa.binary(32)),
        ],
        names=["label", "annotator", "pred_probs", "sample_digest"],
    )
    model = check.fit(check.add(check.empty(), batch, None), None)

    with pytest.raises(InvalidSampleError, match="more than 20000 values"):
        check.add(check.empty(), batch, model)


def test_a_configuration_that_cannot_work_is_refused_whole() -> None:
    with pytest.raises(PolicyError) as caught:
        AnnotatorQuality(by="mood", alpha=0.9)  # type: ignore[arg-type] # the fault under test

    assert len(caught.value.details["faults"]) == 2  # type: ignore[arg-type] # a tuple
    with pytest.raises(PolicyError, match="folds"):
        AnnotatorQuality(folds=1)


def test_a_model_of_an_earlier_pass_is_our_bug() -> None:
    check, (batch, _) = AnnotatorQuality(), digits(0)
    first = check.fit(check.add(check.empty(), batch, None), None)

    with pytest.raises(InternalError, match="last pass"):
        check.evidence(first)
    with pytest.raises(InternalError, match="last pass"):
        check.score(first, batch)
    assert detectors.annotator_quality.CHECK is AnnotatorQuality
