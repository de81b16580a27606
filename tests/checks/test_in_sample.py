"""Given probabilities: those of a model that learned these labels by heart are told, honest ones are not."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.base import fit_check
from millcert.checks.conformance import conformance_cases
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.in_sample import AgreementPart, agreement_part, judge_agreement
from millcert.errors import PolicyError


def batch_of(label: np.ndarray, probs: np.ndarray, rows: np.ndarray) -> pa.RecordBatch:
    digest = np.random.default_rng(9).bytes(32 * len(label))
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label]),
            pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), probs.shape[1]),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1]),
            pa.Array.from_buffers(pa.binary(32), len(label), [None, pa.py_buffer(digest)]),
        ],
        names=["label", "pred_probs", "embedding_external", "sample_digest"],
    )


def noisy(seed: int, *, number: int = 2500, rate: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of five classes that overlap somewhat, and labels of which some are wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 5, number)
    rows = rng.normal(size=(number, 10)) + 3 * np.eye(5, 10)[true]
    return rows, np.where(rng.random(number) < rate, rng.integers(0, 5, number), true)


def model(name: str) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    return {
        "forest": lambda: RandomForestClassifier(120, random_state=0),
        "nearest": lambda: KNeighborsClassifier(1),
        "network": lambda: MLPClassifier((200,), max_iter=400, learning_rate_init=0.01, alpha=0, random_state=0),
        "wide": lambda: make_pipeline(PolynomialFeatures(4), LogisticRegression(C=1e6, max_iter=3000)),
        "linear": LogisticRegression,
    }[name]()


def judged(
    label: np.ndarray, probs: np.ndarray, rows: np.ndarray, *, second: bool
) -> tuple[tuple[str, ...], dict[str, float]]:
    check = LabelNoise(view="pred_probs", second_view="embedding_external" if second else None)
    batch = batch_of(label, probs, rows)
    fitted = fit_check(check, [batch.slice(0, 900), batch.slice(900)])
    (evidence,) = [item for item in check.evidence(fitted) if not item.label]
    return check.notices(fitted), dict(evidence.statistic)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["forest", "nearest"])
@pytest.mark.parametrize("second", [False, True])
def test_a_model_that_learned_the_labels_by_heart_is_told(name: str, second: bool) -> None:
    rows, label = noisy(1)
    probs = model(name).fit(rows, label).predict_proba(rows)

    notices, figures = judged(label, probs, rows, second=second)

    assert figures["disagreement_rate"] < 0.0015
    assert figures["too_good"] == 1
    assert "too well to be out-of-sample" in notices[0]
    if second:
        assert figures["surest_contradicted_agreeing"] == figures["surest_contradicted"] > 10
        assert "second view" in notices[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["network", "wide"])
def test_networks_and_wide_regressions_that_learned_many_labels_are_told_beside_a_second_view(name: str) -> None:
    rows, label = noisy(2, number=1500, rate=0.2)
    probs = np.minimum(model(name).fit(rows, label).predict_proba(rows), 1)

    notices, figures = judged(label, probs, rows, second=True)

    assert figures["disagreement_rate"] < 0.05
    assert "contradicts where it is surest" in notices[0]


@pytest.mark.parametrize("name", ["forest", "nearest", "linear"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_no_honest_model_is_told(name: str, rate: float) -> None:
    from sklearn.model_selection import cross_val_predict

    for seed in (3, 4):
        rows, label = noisy(seed, rate=rate)
        probs = cross_val_predict(model(name), rows, label, cv=3, method="predict_proba")

        assert judged(label, probs, rows, second=True)[0] == ()
        assert judged(label, probs, rows, second=False)[0] == ()


def test_a_strong_honest_model_beside_a_weak_view_of_right_labels_is_not_told() -> None:
    """The view knows a third of what the model knows, and is often sure and wrong; the labels are right."""
    rng = np.random.default_rng(5)
    true = rng.integers(0, 6, 6000)
    rows = rng.normal(size=(6000, 8)) + 1.2 * np.eye(6, 8)[true]
    probs = rng.dirichlet(np.full(6, 0.1), 6000) * 0.1
    seen = np.where(rng.random(6000) < 0.02, rng.integers(0, 6, 6000), true)
    probs[np.arange(6000), seen] += 0.9
    probs /= probs.sum(axis=1, keepdims=True)

    notices, figures = judged(true, np.minimum(probs, 1), rows, second=True)

    assert notices == ()
    assert figures["second_view_disagreement_rate"] > 0.3


def test_easy_labels_that_the_second_view_predicts_as_well_are_not_told() -> None:
    rng = np.random.default_rng(6)
    true = rng.integers(0, 3, 4000)
    rows = rng.normal(size=(4000, 4)) + 20 * np.eye(3, 4)[true]
    probs = np.full((4000, 3), 0.001)
    probs[np.arange(4000), true] = 0.998

    assert judged(true, probs, rows, second=True)[0] == ()
    assert "cleanest of ten benchmarks" in judged(true, probs, rows, second=False)[0][0]


def test_a_few_rows_say_nothing() -> None:
    label = np.arange(1000) % 2
    part = agreement_part(label, np.eye(2)[label], label, None)

    assert judge_agreement(part).notice == ""
    assert judge_agreement(agreement_part(label[:0], np.eye(2)[label[:0]], label[:0], None)) == ({}, "")
    wrong = judge_agreement(agreement_part(label, np.eye(2)[1 - label], 1 - label, None))
    assert wrong.figures["disagreement_high"] == 1


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "imdb"])
def test_published_out_of_sample_probabilities_are_not_told(name: str, label_errors: Path) -> None:
    label = np.load(label_errors / f"{name}_test_set_original_labels.npy").astype(np.int64)
    probs = np.load(label_errors / f"{name}_test_set_pyx.npy").astype(np.float64)

    found = judge_agreement(agreement_part(label, probs, probs.argmax(axis=1), None))

    assert found.notice == ""
    assert found.figures["disagreement_rate"] < 0.2


@given(st.integers(0, 2**32 - 1))
def test_parts_merge_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def part(number: int) -> AgreementPart:
        label, second = rng.integers(0, 3, number), (rng.integers(-1, 3, number), rng.random(number))
        probs = rng.dirichlet(np.ones(3), number)
        return agreement_part(label, probs, probs.argmax(axis=1), second)

    parts = [part(number) for number in (5, 0, 9)]

    def same(one: AgreementPart, other: AgreementPart) -> bool:
        return one[:3] == other[:3] and bool((one.surest == other.surest).all())

    assert same(parts[0].merge(parts[1:]), parts[2].merge([parts[1].merge([parts[0]])]))


@pytest.mark.slow
def test_the_conformance_suite_holds_with_a_second_view() -> None:
    for case in conformance_cases(LabelNoise(view="pred_probs", second_view="embedding_external")):
        case.run()


def test_neighbours_of_given_probabilities_are_found_in_the_second_view() -> None:
    rng = np.random.default_rng(7)
    true = rng.integers(0, 3, 600)
    is_wrong = rng.random(600) < 0.08
    label = np.where(is_wrong, (true + 1) % 3, true)
    rows = rng.normal(size=(600, 5)) + 6 * np.eye(3, 5)[true]
    probs = np.full((600, 3), 0.02)
    probs[np.arange(600), true] = 0.96
    batch = batch_of(label, probs, rows)
    check = LabelNoise(view="pred_probs", second_view="embedding_external")

    scores = check.score(fit_check(check, [batch]), batch)

    assert scores.suggestions is not None
    assert (scores.flagged == is_wrong).all()
    assert scores.suggestions.label.to_pylist() == [str(value) for value in true[is_wrong]]
    found = scores.suggestions.neighbours.to_pylist()
    assert all(near["label"] == str(value) for row, value in zip(found, true[is_wrong], strict=True) for near in row)
    digest = {item: at for at, item in enumerate(batch.column("sample_digest").to_pylist())}
    for at, row in zip(np.flatnonzero(is_wrong).tolist(), found, strict=True):
        for near in row:
            place = digest[near["sample_digest"]]
            assert near["distance"] == pytest.approx(float(np.linalg.norm(rows[at] - rows[place])), rel=1e-3)
            assert not is_wrong[place]


@pytest.mark.parametrize(
    "fields", [{"second_view": "text"}, {"view": "pred_probs", "second_view": "pred_probs"}, {"second_view": "mood"}]
)
def test_a_second_view_that_cannot_be_one_is_refused(fields: Any) -> None:
    with pytest.raises(PolicyError, match="second_view"):
        LabelNoise(**fields)


@pytest.fixture
def label_errors() -> Path:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "label-errors"
    if not folder.is_dir():
        pytest.skip("../shared/data/label-errors is not here")
    return folder
