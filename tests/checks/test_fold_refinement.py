"""The folds' models: better where the discriminant is too sure or bent, as they were where a step does not help."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.base import MAX_TOP_FEATURES, fit_check
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.fold_refinement import TEMPERATURES, RefineSums, choose, refine_sums, with_roots
from millcert.checks.fold_sums import fit_fold_models, sum_by_fold
from millcert.checks.moments import Moments
from millcert.errors import InvalidSampleError, PolicyError


def batch_of(label: np.ndarray, rows: np.ndarray, role: str = "embedding_external") -> pa.RecordBatch:
    digest = np.random.default_rng(9).bytes(32 * len(rows))
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label]),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1]),
            pa.Array.from_buffers(pa.binary(32), len(rows), [None, pa.py_buffer(digest)]),
        ],
        names=["label", role, "sample_digest"],
    )


def skewed(number: int = 1500, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose log-odds are a line but whose classes are far from normal, with labels drawn by them."""
    rng = np.random.default_rng(1)
    rows = rng.exponential(size=(number, width)) ** 2
    weights = rng.normal(size=(width, 3)) / 2
    odds = np.exp(rows @ weights - (rows @ weights).max(axis=1, keepdims=True))
    share = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
    return np.minimum((rng.random(number)[:, None] > share).sum(axis=1), 2), rows


def log_likelihood(check: LabelNoise, batch: pa.RecordBatch) -> float:
    rows = check.rows(batch, fit_check(check, [batch]))
    return float(np.log(np.maximum(rows.pred_probs[np.arange(len(rows.label)), rows.label], 1e-9)).mean())


def test_refined_probabilities_are_likelier_out_of_fold_than_the_discriminant() -> None:
    label, rows = skewed()
    batch = batch_of(label, rows)

    plain, once, twice = (log_likelihood(LabelNoise(refine=number), batch) for number in (0, 1, 2))

    assert plain + 0.03 < once
    assert once < twice + 0.01


def test_a_model_that_needs_no_refinement_stays_near_the_discriminant() -> None:
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, 800)
    batch = batch_of(label, rng.normal(size=(800, 6)) + 0.7 * label[:, None])

    plain, refined = (log_likelihood(LabelNoise(refine=number), batch) for number in (0, 2))

    assert refined >= plain - 0.01


def test_no_row_is_in_the_sums_that_train_its_own_model() -> None:
    """All labels of one fold are changed: what its model starts from, and its first step, stay the same to the bit."""
    label, rows = skewed(600)
    fold = np.arange(600) % 5
    changed = np.where(fold == 3, (label + 1) % 3, label)

    sums = []
    for labels in (label, changed):
        parts = sum_by_fold(pa.array(map(str, labels)), with_roots(rows), fold)
        models = fit_fold_models(parts, folds=5, classes=(), skip_rare=False, shrinkage=None, has_roots=True).models
        sums.append((models[3], refine_sums(models, labels, rows, fold, is_first=True)["3"]))

    (one, first), (other, second) = sums
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(first.residual, second.residual)
    assert not (first.likelihood == second.likelihood).all()


def test_a_choice_leaves_the_folds_own_rows_out() -> None:
    likelihood = [np.array([[0], [-100]]), np.array([[-10], [0]]), np.array([[-10], [0]])]

    alike = [np.array([5, 5])] * 3
    none = np.zeros(0, dtype=np.int64)

    assert choose(likelihood, alike) == [1, 0, 0]
    assert choose([none] * 2, [none] * 2) == [0, 0]


def test_a_likelier_candidate_under_which_fewer_rows_agree_with_their_label_is_not_taken() -> None:
    likelihood = [np.array([[-100, -120], [-200, 0], [-50, -90]])] * 2

    assert choose(likelihood, [np.array([9, 8, 9]), np.array([9, 8, 10])]) == [2, 2]
    assert choose(likelihood, [np.array([9, 8, 8])] * 2) == [0, 0]


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("kind", ["pair", "uniform"])
def test_flips_between_cleanly_separate_classes_are_all_found_and_hardly_anything_else(kind: str, rate: float) -> None:
    """Wrong labels choose neither the temperature nor a step: 20 classes, of which each is flipped to the next one."""
    from sklearn.datasets import make_blobs

    rows, true = make_blobs(1600, centers=20, n_features=16, cluster_std=1.0, random_state=4)
    rng = np.random.default_rng(4)
    is_wrong = rng.random(1600) < rate
    label = np.where(is_wrong, (true + (1 if kind == "pair" else rng.integers(1, 20, 1600))) % 20, true)
    batch, check = batch_of(label, rows), LabelNoise()

    model = fit_check(check, [batch])
    scores = check.score(model, batch)

    assert scores.score[is_wrong].min() > scores.score[~is_wrong].max()
    assert scores.flagged[is_wrong].mean() > 0.98
    assert scores.flagged[~is_wrong].mean() < 0.005
    found = sum(item.estimated_count for item in check.evidence(model))
    assert found == pytest.approx(is_wrong.sum(), rel=0.05)


def test_the_units_of_columns_do_not_matter() -> None:
    rng = np.random.default_rng(6)
    true = rng.integers(0, 3, 900)
    is_wrong = rng.random(900) < 0.1
    label = np.where(is_wrong, (true + 1) % 3, true)
    rows = rng.normal(size=(900, 6)) + 3 * np.eye(3, 6)[true]
    units = np.array([1.0, 30.0, 0.1, 1.0, 5.0, 0.02])

    alike, unlike = (
        check.score(fit_check(check, [batch]), batch)
        for check, batch in ((LabelNoise(refine=0), batch_of(label, rows * unit)) for unit in (1.0, units))
    )

    assert (alike.flagged == unlike.flagged).mean() > 0.99
    np.testing.assert_allclose(alike.score, unlike.score, atol=0.05)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_roots_scale_with_the_rows_and_leave_their_sums_as_they_are(seed: int, size: float) -> None:
    rows = (np.random.default_rng(seed).normal(size=(7, 5)) * size).astype(np.float32)
    rows[0] = 0

    both = with_roots(rows)

    np.testing.assert_array_equal(both[:, :5], rows)
    np.testing.assert_array_equal(np.sign(both[:, 5:]), np.sign(rows))
    np.testing.assert_allclose(with_roots(rows * np.float32(2))[:, 5:], 2 * both[:, 5:], rtol=1e-6)
    alone, cut = Moments.zero(5).add_rows(rows), Moments.zero(10).add_rows(both).first_columns(5)
    np.testing.assert_array_equal(alone.products(), cut.products())
    np.testing.assert_array_equal(alone.sums(), cut.sums())


def test_wide_embeddings_are_refined_without_roots_and_many_weights_only_by_temperature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label, rows = skewed(400)
    batch = batch_of(label, rows)
    monkeypatch.setattr("millcert.checks.label_noise_views.MAX_ROOTED_WIDTH", 8)
    monkeypatch.setattr("millcert.checks.fold_refinement.MAX_REFINED_WEIGHTS", 20)

    models = fit_check(LabelNoise(refine=2), [batch]).folds

    for model in models:
        assert model.rooted is None
        ratio = (model.base.weights.whole * model.base.weights.scale) / model.weights
        assert any(np.allclose(ratio, value) for value in TEMPERATURES)


def test_parts_merge_in_any_order_to_the_same_sums() -> None:
    rng = np.random.default_rng(0)
    parts = [
        RefineSums(
            rng.integers(-9, 9, (2, 3)),
            rng.integers(0, 9, 2),
            rng.integers(-9, 9, (5, 3)),
            {at: rng.integers(-9, 9, (3, 4))},
            rng.integers(-9, 9, 4),
            rng.integers(0, 9, 4),
        )
        for at in (0, 4, 0)
    ]

    one, other = parts[0].merge(parts[1:]), parts[2].merge([parts[0].merge([parts[1]])])

    assert one.gradient.keys() == other.gradient.keys()
    for key in one.gradient:
        np.testing.assert_array_equal(one.gradient[key], other.gradient[key])
    np.testing.assert_array_equal(one.likelihood, other.likelihood)
    np.testing.assert_array_equal(one.agreeing, other.agreeing)


def test_embeddings_on_both_sides_of_the_widest_with_roots_are_refused() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = (batch_of(rng.integers(0, 2, 40), rng.normal(size=(40, width))) for width in (4, 300))

    with pytest.raises(InvalidSampleError, match="different widths"):
        fit_check(LabelNoise(), [narrow, wide])


@pytest.mark.parametrize("number", [-1, 5])
def test_a_number_of_passes_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(PolicyError, match=r"refine must be in 0\.\.4"):
        LabelNoise(refine=number)


def test_labels_of_texts_and_tables_are_judged_without_an_embedding() -> None:
    rng = np.random.default_rng(5)
    true = rng.integers(0, 2, 600)
    is_wrong = rng.random(600) < 0.06
    label = np.where(is_wrong, 1 - true, true)
    words = [["goal", "match", "team", "coach"], ["bank", "stock", "price", "bond"]]
    fill = ["the", "a", "of", "day", "more"]
    texts = [" ".join(rng.choice(words[kind] + fill, 12)) for kind in true]
    table = np.stack([true * 1e5 + rng.normal(size=600) * 2e4, rng.normal(size=600) / 100], axis=1)
    text_batch = batch_of(label, np.zeros((600, 1))).append_column("text", pa.array(texts))
    table_batch = batch_of(label, table).append_column(
        "features", pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), 2)
    )

    for check, batch in ((LabelNoise(view="text"), text_batch), (LabelNoise(view="features"), table_batch)):
        scores = check.score(fit_check(check, [batch]), batch)
        assert scores.flagged[is_wrong].mean() > 0.65
        assert scores.flagged[~is_wrong].mean() < 0.08
        assert np.median(scores.score[is_wrong]) > np.quantile(scores.score[~is_wrong], 0.98)


def test_a_table_that_is_too_wide_for_the_sums_says_what_to_do() -> None:
    batch = batch_of(np.zeros(2), np.zeros((2, 1))).append_column(
        "features", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * 3000)), 3000)
    )

    with pytest.raises(InvalidSampleError, match="at most 2048") as found:
        LabelNoise(view="features").add({}, batch, None)

    assert "millcert embed" in str(found.value.hint)


def test_the_largest_pairs_are_named_with_their_intervals() -> None:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 4, 1200)
    label = np.where((true == 1) & (rng.random(1200) < 0.2), 2, true)
    batch = batch_of(label, rng.normal(size=(1200, 4)) + 5 * np.eye(4)[true])
    check = LabelNoise()

    evidence = {item.group: item for item in check.evidence(fit_check(check, [batch]))}

    (name, number), *_ = evidence["2"].top_features
    wrong = int(((true == 1) & (label == 2)).sum())
    assert name == "likely 1"
    assert evidence["2"].statistic["pair_1_low"] < number < evidence["2"].statistic["pair_1_high"]
    assert evidence["2"].statistic["pair_1_low"] < wrong < evidence["2"].statistic["pair_1_high"]
    assert evidence["2"].count_low < wrong < evidence["2"].count_high
    assert len(evidence["2"].top_features) <= MAX_TOP_FEATURES
    assert evidence["0"].top_features == () or evidence["0"].is_suspicious
