"""The flags of `label_noise` are those of cleanlab, sample for sample, for the same probabilities.

Where samples tie exactly at a cut, cleanlab's own answer depends on the order of rows and on the processor (numpy's
default argsort is not stable). `StableProbabilities` makes that one choice fixed, without touching cleanlab: rows
stand in the order of their digests here, so a stable sort takes tied samples in digest order, as `label_noise` does.
"""

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from millcert.checks.base import fit_check
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.label_filter import FILTERS, FilterBy
from millcert.checks.label_quality import SCORERS, ScoreBy

FILTER_NAMES: list[FilterBy] = [
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]


class StableProbabilities(np.ndarray):
    """An array whose argsort, and that of anything derived from it, is stable."""

    def argsort(self, axis: Any = -1, *_: Any, **__: Any) -> Any:
        return np.asarray(np.asarray(self).argsort(axis=axis, kind="stable"))


def cleanlab_flags(
    label: np.ndarray,
    pred_probs: np.ndarray,
    filter_by: str,
    *,
    min_examples: int = 1,
    frac_noise: float = 1.0,
    is_stable: bool = True,
) -> np.ndarray:
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes with too few examples
        return np.asarray(
            find_label_issues(
                label,
                pred_probs.view(StableProbabilities) if is_stable else pred_probs,
                filter_by=filter_by,
                n_jobs=1,
                min_examples_per_class=min_examples,
                frac_noise=frac_noise,
            )
        )


def batch_of(label: np.ndarray, pred_probs: np.ndarray, *, first: int = 0) -> pa.RecordBatch:
    """Return a batch whose digests are in row order, starting at `first`."""
    number, width = pred_probs.shape
    digests = b"".join(index.to_bytes(8, "big") + bytes(24) for index in range(first, first + number))
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(pred_probs.ravel()), width),
            pa.Array.from_buffers(pa.binary(32), number, [None, pa.py_buffer(digests)]),
        ],
        names=["label", "pred_probs", "sample_digest"],
    )


def our_flags(
    label: np.ndarray,
    pred_probs: np.ndarray,
    filter_by: FilterBy,
    *,
    min_examples: int = 1,
    frac_noise: float = 1.0,
) -> np.ndarray:
    check = LabelNoise(
        filter_by=filter_by,
        classes=tuple(str(index) for index in range(pred_probs.shape[1])),
        view="pred_probs",
        min_examples_per_class=min_examples,
        frac_noise=frac_noise,
    )
    half = len(label) // 2
    batches = [batch_of(label[half:], pred_probs[half:], first=half), batch_of(label[:half], pred_probs[:half])]
    model = fit_check(check, batches)
    scores = check.score(model, batch_of(label, pred_probs))
    suspicious = {item.label for item in check.evidence(model) if item.is_suspicious}
    assert suspicious == {str(value) for value in label[scores.flagged]}
    return scores.flagged


def threshold_is_met_by_rounding_only(label: np.ndarray, pred_probs: np.ndarray) -> bool:
    """Whether a probability equals a class threshold less 1e-6, so that the last bit of a mean decides.

    cleanlab's mean depends on the order of rows there; ours is the exact mean, rounded once.
    """
    for index in np.unique(label).tolist():
        bar = max(float(pred_probs[label == index, index].mean()), 2e-6) - 1e-6
        if np.abs(pred_probs[:, index] - bar).min() < 1e-13:
            return True
    return False


def planted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities: 2 to 30 classes, some absent, imbalance, noise, and four kinds of ties."""
    rng = np.random.default_rng(seed)
    width, number = int(rng.integers(2, 31)), int(rng.integers(4, 400))
    present = rng.permutation(width)[: rng.integers(2, width + 1)]
    true = rng.choice(present, number, p=rng.dirichlet(np.ones(len(present)) * rng.choice([0.3, 1.0, 10.0])))
    label = true.copy()
    is_wrong = rng.random(number) < rng.random() * 0.5
    label[is_wrong] = rng.choice(present, int(is_wrong.sum()))
    label[:2] = present[:2]
    probs = rng.dirichlet(np.ones(width) * rng.choice([0.05, 0.3, 1.0]), number)
    probs[np.arange(number), true] += rng.random() * 3
    probs /= probs.sum(axis=1, keepdims=True)
    kind = seed % 4
    if kind == 1:
        probs = np.round(probs, 1)
        probs[probs.sum(axis=1) == 0, 0] = 1
        probs /= probs.sum(axis=1, keepdims=True)
    elif kind == 2:
        probs = np.eye(width)[probs.argmax(axis=1)]
    elif kind == 3:
        probs = np.clip(probs.astype(np.float16).astype(np.float64), 0, 1)
        probs /= probs.sum(axis=1, keepdims=True)
    return label, np.minimum(probs, 1.0)


def test_every_filter_of_cleanlab_is_held_equal_here() -> None:
    assert set(FILTER_NAMES) == set(FILTERS)


@pytest.mark.parametrize("filter_by", FILTER_NAMES)
def test_flags_equal_cleanlab_on_planted_noise_imbalance_absent_classes_and_ties(filter_by: FilterBy) -> None:
    for seed in range(60):
        label, probs = planted(seed)
        if threshold_is_met_by_rounding_only(label, probs):
            continue
        expected = cleanlab_flags(label, probs, filter_by)

        flagged = our_flags(label, probs, filter_by)

        np.testing.assert_array_equal(flagged, expected, err_msg=f"seed {seed}")


@pytest.mark.parametrize("filter_by", FILTER_NAMES)
def test_flags_equal_cleanlab_as_installed_where_no_values_tie(filter_by: FilterBy) -> None:
    for seed in range(0, 120, 4):  # kind 0: continuous probabilities
        label, probs = planted(seed)
        smooth = np.random.default_rng(seed).dirichlet(np.ones(probs.shape[1]), len(probs))
        probs = 0.99 * probs + 0.01 * smooth  # exact zeros would tie
        expected = cleanlab_flags(label, probs, filter_by, is_stable=False)

        flagged = our_flags(label, probs, filter_by)

        np.testing.assert_array_equal(flagged, expected, err_msg=f"seed {seed}")


@pytest.mark.parametrize("filter_by", ["prune_by_noise_rate", "prune_by_class", "both"])
@pytest.mark.parametrize("min_examples", [0, 1, 5])
def test_a_part_of_the_noise_is_the_part_that_cleanlab_flags(filter_by: FilterBy, min_examples: int) -> None:
    for seed in range(0, 80, 2):
        label, probs = planted(seed)
        if threshold_is_met_by_rounding_only(label, probs):
            continue
        options: dict[str, Any] = {"frac_noise": (1 + seed % 7) / 10, "min_examples": min_examples}

        flagged = our_flags(label, probs, filter_by, **options)

        np.testing.assert_array_equal(
            flagged, cleanlab_flags(label, probs, filter_by, **options), err_msg=f"seed {seed}"
        )


@pytest.mark.long
@pytest.mark.parametrize("filter_by", FILTER_NAMES)
def test_flags_equal_cleanlab_on_a_thousand_data_sets(filter_by: FilterBy) -> None:
    for seed in range(1000, 2000):
        label, probs = planted(seed)
        if not threshold_is_met_by_rounding_only(label, probs):
            expected = cleanlab_flags(label, probs, filter_by)
            np.testing.assert_array_equal(our_flags(label, probs, filter_by), expected, err_msg=f"seed {seed}")


@given(
    width=st.integers(2, 5),
    data=st.data(),
    filter_by=st.sampled_from(FILTER_NAMES),
    min_examples=st.integers(0, 4),
)
@settings(max_examples=150, deadline=None)
def test_flags_equal_cleanlab_on_small_integer_weights(
    width: int, data: st.DataObject, filter_by: FilterBy, min_examples: int
) -> None:
    """Rule: for any labels and any probabilities, however tied, the flags are cleanlab's."""
    number = data.draw(st.integers(2, 40))
    label = np.array(data.draw(st.lists(st.integers(0, width - 1), min_size=number, max_size=number)))
    assume(len(set(label.tolist())) > 1)
    row = st.lists(st.integers(0, 6), min_size=width, max_size=width).filter(any)
    weights = np.array(data.draw(st.lists(row, min_size=number, max_size=number)), dtype=np.float64)
    probs = weights / weights.sum(axis=1, keepdims=True)
    assume(not threshold_is_met_by_rounding_only(label, probs))

    flagged = our_flags(label, probs, filter_by, min_examples=min_examples)

    np.testing.assert_array_equal(flagged, cleanlab_flags(label, probs, filter_by, min_examples=min_examples))


@pytest.mark.parametrize("filter_by", FILTER_NAMES)
def test_scores_are_one_less_the_label_quality_scores_of_cleanlab(filter_by: FilterBy) -> None:
    from cleanlab.rank import get_label_quality_scores

    label, probs = planted(8)
    method = "normalized_margin" if filter_by == "low_normalized_margin" else "self_confidence"
    check = LabelNoise(filter_by=filter_by, classes=tuple(map(str, range(probs.shape[1]))), view="pred_probs")
    batch = batch_of(label, probs)

    scores = check.score(fit_check(check, [batch]), batch)

    np.testing.assert_array_equal(scores.score, 1 - get_label_quality_scores(label, probs, method=method))


#: cleanlab adjusts no probabilities for the entropy.
SCORED = [(score_by, False) for score_by in SCORERS] + [("self_confidence", True), ("normalized_margin", True)]


@pytest.mark.parametrize(("score_by", "adjusted"), SCORED)
@pytest.mark.parametrize("filter_by", ["prune_by_noise_rate", "confident_learning", "low_normalized_margin"])
def test_every_scorer_of_cleanlab_scores_alike_and_leaves_the_flags(
    filter_by: FilterBy, score_by: ScoreBy, adjusted: bool
) -> None:
    from cleanlab.rank import get_label_quality_scores

    for seed in (0, 8, 11, 18):
        label, probs = planted(seed)
        check = LabelNoise(
            filter_by=filter_by,
            classes=tuple(map(str, range(probs.shape[1]))),
            view="pred_probs",
            score_by=score_by,
            adjust_pred_probs=adjusted,
        )
        batch = batch_of(label, probs)

        scores = check.score(fit_check(check, [batch.slice(3), batch.slice(0, 3)]), batch)

        theirs = 1 - get_label_quality_scores(label, probs, method=score_by, adjust_pred_probs=adjusted)
        # A class threshold is the exact mean here, and numpy's in cleanlab.
        np.testing.assert_allclose(scores.score, theirs, rtol=0, atol=1e-12 if adjusted else 0)
        np.testing.assert_array_equal(scores.flagged, our_flags(label, probs, filter_by))
        assert np.isfinite(scores.score).all()


def test_the_estimated_errors_of_a_class_are_those_of_the_calibrated_joint() -> None:
    from cleanlab.count import compute_confident_joint

    label, probs = planted(16)
    joint = compute_confident_joint(label, probs, calibrate=True)
    check = LabelNoise(classes=tuple(map(str, range(probs.shape[1]))), view="pred_probs")

    evidence = check.evidence(fit_check(check, [batch_of(label, probs)]))

    suspicious = [item for item in evidence if item.is_suspicious]
    assert suspicious
    for item in suspicious:
        index = int(item.label)
        assert item.estimated_count == joint[index].sum() - joint[index, index]
        assert item.count_low <= item.estimated_count <= item.count_high <= item.samples


@pytest.mark.data
@pytest.mark.parametrize("filter_by", FILTER_NAMES)
@pytest.mark.parametrize("name", ["mnist", "imdb"])
def test_flags_equal_cleanlab_on_published_probabilities(name: str, filter_by: FilterBy, label_errors: str) -> None:
    label = np.load(f"{label_errors}/{name}_test_set_original_labels.npy").astype(np.int64)
    probs = np.load(f"{label_errors}/{name}_test_set_pyx.npy").astype(np.float64)
    probs = np.minimum(probs / probs.sum(axis=1, keepdims=True), 1.0)

    flagged = our_flags(label, probs, filter_by)

    np.testing.assert_array_equal(flagged, cleanlab_flags(label, probs, filter_by))


@pytest.fixture
def label_errors() -> str:
    from pathlib import Path

    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "label-errors"
    if not folder.is_dir():
        pytest.skip("../shared/data/label-errors is not here")
    return str(folder)


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("score_by", ["self_confidence", "normalized_margin"])
def test_the_order_of_issues_is_that_of_cleanlab(score_by: ScoreBy, *, adjusted: bool) -> None:
    from cleanlab.filter import find_label_issues

    for seed in range(0, 40, 4):  # continuous probabilities: no order hangs on a tie
        label, probs = planted(seed)
        smooth = np.random.default_rng(seed).dirichlet(np.ones(probs.shape[1]), len(probs))
        probs = 0.99 * probs + 0.01 * smooth
        classes, options = tuple(map(str, range(probs.shape[1]))), {"adjust_pred_probs": adjusted}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ranked = find_label_issues(
                label, probs, return_indices_ranked_by=score_by, rank_by_kwargs=options, n_jobs=1
            )
        check = LabelNoise(view="pred_probs", classes=classes, score_by=score_by, adjust_pred_probs=adjusted)
        batch = batch_of(label, probs)

        scores = check.score(fit_check(check, [batch]), batch)

        flagged = np.flatnonzero(scores.flagged)
        ours = flagged[np.argsort(-scores.score[flagged], kind="stable")]
        np.testing.assert_array_equal(ours, ranked, err_msg=f"seed {seed}")


@pytest.mark.slow
def test_flags_do_not_depend_on_how_many_processes_cleanlab_takes() -> None:
    from cleanlab.filter import find_label_issues

    label, probs = planted(24)
    probs = 0.99 * probs + 0.01 * np.random.default_rng(0).dirichlet(np.ones(probs.shape[1]), len(probs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = find_label_issues(label, probs, n_jobs=2)

    np.testing.assert_array_equal(our_flags(label, probs, "prune_by_noise_rate"), expected)
