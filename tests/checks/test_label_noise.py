"""What `label_noise` promises beyond equality with cleanlab: order, merging, views, classes, ties and refusals."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.base import Check, Scores, fit_check
from millcert.checks.conformance import conformance_cases
from millcert.checks.coverage import ATTACK_FAMILIES
from millcert.checks.detectors.label_noise import CHECK, LabelNoise
from millcert.checks.label_filter import FilterBy
from millcert.checks.margin_cutoff import LowestValues
from millcert.errors import (
    InternalError,
    InvalidSampleError,
    MissingColumnError,
    NotEnoughSamplesError,
    PolicyError,
)

RANKING: list[FilterBy] = ["prune_by_noise_rate", "prune_by_class", "both", "low_normalized_margin"]


def digests_of(rows: Sequence[bytes]) -> pa.Array:
    data = b"".join(hashlib.sha256(row).digest() for row in rows)
    return pa.Array.from_buffers(pa.binary(32), len(rows), [None, pa.py_buffer(data)])


def batch_of(label: Sequence[str], role: str, values: np.ndarray, *, salt: str = "") -> pa.RecordBatch:
    values = values.astype(np.float64 if role == "pred_probs" else np.float32)
    digests = digests_of(
        [row.tobytes() + f"{name}{salt}{at}".encode() for at, (name, row) in enumerate(zip(label, values, strict=True))]
    )
    return pa.RecordBatch.from_arrays(
        [
            pa.array(label, pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            digests,
        ],
        names=["label", role, "sample_digest"],
    )


def planted_embedding(seed: int = 0, number: int = 600, classes: int = 4) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return a batch of Gaussian classes with 5 % of labels flipped, and which are."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, number)
    rows = rng.normal(size=(number, 16)) + 3 * rng.normal(size=(classes, 16))[true]
    is_flipped = rng.random(number) < 0.05
    given_label = np.where(is_flipped, (true + rng.integers(1, classes, number)) % classes, true)
    return batch_of([f"class {value}" for value in given_label], "embedding_external", rows), is_flipped


def planted_probs(seed: int = 0, number: int = 300, classes: int = 3, decimals: int = 2) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, number)
    probs = rng.dirichlet(np.ones(classes), number)
    probs[np.arange(number), true] += 1
    probs = np.round(probs / probs.sum(axis=1, keepdims=True), decimals)
    probs /= probs.sum(axis=1, keepdims=True)
    given_label = np.where(rng.random(number) < 0.2, rng.integers(0, classes, number), true)
    return batch_of([str(value) for value in given_label], "pred_probs", probs)


def assert_same(one: Scores, other: Scores) -> None:
    for left, right in zip(one[:3], other[:3], strict=True):
        np.testing.assert_array_equal(left, right)
    assert one.group.equals(other.group)


def fit_in_a_tree(check: LabelNoise, batches: Sequence[pa.RecordBatch], seed: int) -> Any:
    """Fit with every batch on a worker of its own, merged pairwise in a random order."""
    rng = np.random.default_rng(seed)
    model = None
    for _ in range(check.passes):
        accs = [check.add(check.empty(), batch, model) for batch in batches]
        while len(accs) > 1:
            first, second = sorted(rng.choice(len(accs), 2, replace=False).tolist(), reverse=True)
            accs.append(check.merge([accs.pop(first), accs.pop(second)]))
        model = check.fit(accs[0], model)
    return model


def test_the_module_names_its_check_and_keeps_the_protocol() -> None:
    check: Check = CHECK()

    assert isinstance(check, Check)
    assert check.name == "label_noise"
    assert check.severity == "warn"
    assert "label_noise" in check.covers


@pytest.mark.slow
@pytest.mark.parametrize("view", ["embedding_external", "embedding_self", "pred_probs"])
def test_the_conformance_suite_holds_in_every_view(view: Any) -> None:
    for case in conformance_cases(LabelNoise(view=view)):
        case.run()


@pytest.mark.slow
@pytest.mark.parametrize("view", ["text", "features"])
def test_texts_and_tables_keep_the_rules_too(view: Any) -> None:
    """What is planted in the suite's texts and tables says nothing of the class, so that one rule has no say."""
    for case in conformance_cases(LabelNoise(view=view, refine=1)):
        if case.name != "planted_rows_rank_first":
            case.run()


def test_flipped_labels_are_found_from_an_embedding_alone() -> None:
    batch, is_flipped = planted_embedding()
    check = LabelNoise()

    scores = check.score(fit_check(check, [batch]), batch)

    assert scores.flagged[is_flipped].mean() > 0.9
    assert scores.flagged[~is_flipped].mean() < 0.02
    assert scores.score[is_flipped].min() > np.quantile(scores.score[~is_flipped], 0.9)
    assert (scores.score >= 0).all()
    assert (scores.score <= 1).all()


def test_clean_labels_of_separate_classes_give_no_flags_and_zero_estimates() -> None:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, 500)
    rows = rng.normal(size=(500, 8)) + 20 * np.eye(3, 8)[true]
    batch = batch_of([str(value) for value in true], "embedding_self", rows)
    check = LabelNoise(view="embedding_self")

    model = fit_check(check, [batch])
    scores = check.score(model, batch)

    assert not scores.flagged.any()
    assert np.isinf(scores.threshold).all()
    assert [(item.is_suspicious, item.estimated_count, item.count_low) for item in check.evidence(model)] == [
        (False, 0.0, 0.0)
    ] * 3


@pytest.mark.parametrize("filter_by", RANKING)
@pytest.mark.parametrize("view", ["embedding_external", "pred_probs"])
def test_bits_do_not_depend_on_batches_order_or_merge_tree(filter_by: FilterBy, view: str) -> None:
    """Rule 3 of checks/base.py."""
    if view == "pred_probs":
        batch, check = planted_probs(), LabelNoise(view="pred_probs", filter_by=filter_by)
    else:
        batch, check = planted_embedding()[0], LabelNoise(filter_by=filter_by)
    model = fit_check(check, [batch])
    expected = check.score(model, batch)
    order = np.random.default_rng(5).permutation(batch.num_rows)
    shuffled = pa.Table.from_batches([batch]).take(pa.array(order)).combine_chunks().to_batches()[0]
    pieces = [shuffled.slice(start, 37) for start in range(0, batch.num_rows, 37)] + [batch.slice(0, 0)]

    other = fit_in_a_tree(check, pieces, seed=9)

    assert_same(check.score(other, batch), expected)
    assert check.evidence(other) == check.evidence(model)
    for row in range(0, 60, 7):
        assert check.score(model, batch.slice(row, 1)).score[0] == expected.score[row]


@pytest.mark.parametrize("filter_by", [*RANKING, "confident_learning", "predicted_neq_given", "low_self_confidence"])
def test_a_group_has_one_threshold_and_it_is_infinite_where_nothing_is_flagged(filter_by: FilterBy) -> None:
    batch, check = planted_probs(), LabelNoise(view="pred_probs", filter_by=filter_by)

    model = fit_check(check, [batch])
    scores = check.score(model, batch)

    for item in (found for found in check.evidence(model) if found.label):
        of_group = np.array(scores.group.to_pylist()) == item.group
        bars = set(scores.threshold[of_group].tolist())
        assert bars == {item.statistic["threshold"] if scores.flagged[of_group].any() else np.inf}


@pytest.mark.parametrize("filter_by", ["prune_by_class", "low_normalized_margin", "low_self_confidence"])
def test_filters_that_cut_by_the_score_flag_nothing_below_the_threshold(filter_by: FilterBy) -> None:
    batch, check = planted_probs(), LabelNoise(view="pred_probs", filter_by=filter_by)

    scores = check.score(fit_check(check, [batch]), batch)

    assert scores.flagged.any()
    assert (scores.score[scores.flagged] >= scores.threshold[scores.flagged]).all()


def test_adding_does_not_change_the_accumulator_that_was_given() -> None:
    """Rule 5 of checks/base.py."""
    batch, check = planted_probs(), LabelNoise(view="pred_probs")
    model = None
    for _ in range(check.passes):
        acc = check.add(check.empty(), batch, model)
        before = check.fit(copy.deepcopy(acc), model)

        check.add(acc, batch, model)

        after = check.fit(acc, model)
        for name in ("label_counts", "thresholds", "bars", "is_suspicious"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert repr((after.joint, after.limits, after.cuts)) == repr((before.joint, before.limits, before.cuts))
        model = after


def test_a_copy_of_a_check_and_of_its_model_score_alike() -> None:
    batch, _ = planted_embedding()
    check = LabelNoise(view="embedding_external")
    model = fit_check(check, [batch])

    twin, twin_model = copy.deepcopy(check), copy.deepcopy(model)

    assert twin == check
    assert twin.columns == check.columns
    assert_same(twin.score(twin_model, batch), check.score(model, batch))


def test_exact_duplicates_share_a_fold_so_they_cannot_vouch_for_each_other() -> None:
    rng = np.random.default_rng(8)
    true = rng.integers(0, 2, 200)
    rows = rng.normal(size=(200, 4)) + 8 * np.eye(2, 4)[true]
    wrong = np.repeat(rows[:1], 60, axis=0)
    label = [str(value) for value in true] + [str(1 - true[0])] * 60
    batch = batch_of(label, "embedding_external", np.concatenate([rows, wrong]))
    same = digests_of([b"one sample"] * 60)
    digest = pa.concat_arrays([batch.column("sample_digest").slice(0, 200), same])
    batch = batch.set_column(2, "sample_digest", digest)
    check = LabelNoise()

    scores = check.score(fit_check(check, [batch]), batch)

    assert (scores.score[200:] > 0.99).all()


@pytest.mark.parametrize(
    ("check", "columns", "passes"),
    [
        (LabelNoise(), {"label", "embedding_external", "sample_digest"}, 3),
        (LabelNoise(view="text", refine=0), {"label", "text", "sample_digest"}, 3),
        (
            LabelNoise(view="embedding_self", filter_by="confident_learning", refine=1),
            {"label", "embedding_self", "sample_digest"},
            2,
        ),
        (
            LabelNoise(view="pred_probs", classes=("a", "b"), second_view="text"),
            {"label", "pred_probs", "text", "sample_digest"},
            3,
        ),
        (LabelNoise(view="pred_probs"), {"label", "pred_probs", "sample_digest"}, 3),
        (LabelNoise(view="pred_probs", classes=("a", "b")), {"label", "pred_probs", "sample_digest"}, 3),
        (LabelNoise(view="pred_probs", ties="together", classes=("a", "b")), {"label", "pred_probs"}, 3),
        (
            LabelNoise(view="pred_probs", classes=("a", "b"), filter_by="predicted_neq_given"),
            {"label", "pred_probs", "sample_digest"},
            2,
        ),
    ],
)
def test_columns_and_passes_follow_the_configuration(check: LabelNoise, columns: set[str], passes: int) -> None:
    assert check.columns == columns
    assert check.passes == passes


def test_an_embedding_trained_on_the_suspect_data_does_not_claim_to_see_flips_made_on_purpose() -> None:
    assert LabelNoise().covers == LabelNoise(view="pred_probs").covers == {"label_noise", "targeted_label_flips"}
    assert LabelNoise(view="embedding_self").covers == {"label_noise"}
    assert LabelNoise.covers | LabelNoise(view="embedding_self").covers <= set(ATTACK_FAMILIES)


@pytest.mark.parametrize(("refine", "found"), [(0, 0.95), (2, 0.7)])
def test_flips_of_one_class_into_another_are_found(refine: int, found: float) -> None:
    """All rank first; a calibrated model's joint counts fewer of them (docs/label-noise.md)."""
    batch, is_wrong = planted_embedding(seed=4)
    label = batch.column("label").to_pylist()
    source = [row for row, name in enumerate(label) if name == "class 1" and not is_wrong[row]]
    flipped = source[::10]
    for row in flipped:
        label[row] = "class 2"
    changed = batch.set_column(0, "label", pa.array(label, pa.string()))
    check = LabelNoise(refine=refine)

    scores = check.score(fit_check(check, [changed]), changed)

    assert scores.flagged[flipped].mean() > found
    assert scores.score[flipped].min() > np.quantile(
        np.delete(scores.score, flipped)[~np.delete(is_wrong, flipped)], 0.95
    )
    assert scores.flagged[np.setdiff1d(np.arange(batch.num_rows), flipped)].mean() < 0.08  # 5 % are flipped besides


@pytest.mark.parametrize(
    ("labels", "width", "classes"),
    [
        (["cat", "ant"], 2, ("ant", "cat")),
        (["10", "9", "-3"], 3, ("-3", "9", "10")),
        (["01", "2", "10"], 3, ("01", "10", "2")),
        (["3", "1"], 5, ("0", "1", "2", "3", "4")),
    ],
)
def test_columns_are_named_by_the_labels_that_are_found(
    labels: list[str], width: int, classes: tuple[str, ...]
) -> None:
    check = LabelNoise(view="pred_probs")
    batch = batch_of(labels, "pred_probs", np.full((len(labels), width), 1 / width))

    model = check.fit(check.add(check.empty(), batch, None), None)

    assert model.classes == classes


@pytest.mark.parametrize("labels", [["cat", "ant"], ["1", "3"], ["-1", "1"]])
def test_labels_that_name_no_column_are_refused(labels: list[str]) -> None:
    check = LabelNoise(view="pred_probs")
    acc = check.add(check.empty(), batch_of(labels, "pred_probs", np.full((2, 3), 1 / 3)), None)

    with pytest.raises(InvalidSampleError, match="2 labels and 3 columns"):
        check.fit(acc, None)


def test_probabilities_of_two_widths_are_refused() -> None:
    check = LabelNoise(view="pred_probs")
    accs = [
        check.add(check.empty(), batch_of(labels, "pred_probs", np.full((1, width), 1 / width)), None)
        for labels, width in ((["a"], 2), (["b"], 3), (["a"], 3))
    ]

    with pytest.raises(InvalidSampleError, match="2, 3 columns"):
        check.merge([accs[0], accs[2]])
    with pytest.raises(InvalidSampleError, match="2, 3 columns"):
        check.fit(check.merge(accs[:2]), None)


def test_the_same_classes_named_or_found_give_the_same_flags() -> None:
    batch = planted_probs()
    named, found = LabelNoise(view="pred_probs", classes=("0", "1", "2")), LabelNoise(view="pred_probs")

    assert_same(named.score(fit_check(named, [batch]), batch), found.score(fit_check(found, [batch]), batch))


def test_ties_together_flag_all_that_tie_at_a_cut_and_nothing_above_it() -> None:
    batch = planted_probs(decimals=1)
    by_digest = LabelNoise(view="pred_probs", filter_by="prune_by_class")
    together = LabelNoise(view="pred_probs", filter_by="prune_by_class", ties="together")

    fewer = by_digest.score(fit_check(by_digest, [batch]), batch)
    more = together.score(fit_check(together, [batch.drop_columns(["sample_digest"])]), batch)

    assert (fewer.flagged <= more.flagged).all()
    assert more.flagged.sum() > fewer.flagged.sum()
    rows = batch.column("pred_probs").flatten().to_numpy().reshape(-1, 3)
    kinds = {(name, tuple(row)) for name, row in zip(batch.column("label").to_pylist(), rows.tolist(), strict=True)}
    for name, row in kinds:
        alike = (np.array(batch.column("label").to_pylist()) == name) & (rows == row).all(axis=1)
        assert len(set(more.flagged[alike].tolist())) == 1


def test_ties_do_not_follow_the_order_of_rows() -> None:
    batch, check = planted_probs(decimals=1), LabelNoise(view="pred_probs")
    order = np.arange(batch.num_rows)[::-1].copy()
    reversed_batch = batch.take(pa.array(order))

    forward = check.score(fit_check(check, [batch]), batch)
    backward = check.score(fit_check(check, [reversed_batch]), reversed_batch)

    np.testing.assert_array_equal(forward.flagged, backward.flagged[::-1])


def test_a_rare_class_is_refused_by_default_and_reported_as_not_judged_where_skipped() -> None:
    batch, _ = planted_embedding()
    alone = batch_of(["once"], "embedding_external", np.ones((1, 16)))

    with pytest.raises(NotEnoughSamplesError, match="'once'"):
        fit_check(LabelNoise(), [batch, alone])
    check = LabelNoise(rare_classes="skip")
    model = fit_check(check, [batch, alone])
    scores = check.score(model, alone)

    assert (scores.score[0], scores.threshold[0], scores.flagged[0]) == (0.0, np.inf, False)
    evidence = {item.label: item for item in check.evidence(model)}
    assert evidence["once"].statistic == {"judged": 0.0}
    assert evidence["class 0"].statistic["judged"] == 1.0
    assert list(evidence) == sorted(evidence)


@pytest.mark.parametrize("view", ["embedding_external", "pred_probs"])
def test_one_class_and_no_samples_are_inconclusive(view: Any) -> None:
    check = LabelNoise(view=view)
    one = batch_of(["a"] * 20, view, np.eye(20, 2) if view != "pred_probs" else np.full((20, 1), 1.0))

    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [one])
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [one.slice(0, 0)])
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [])


def test_a_label_outside_the_named_classes_is_refused_in_every_view() -> None:
    probs = batch_of(["a", "?"], "pred_probs", np.full((2, 2), 0.5))
    embedding = batch_of(["a", "?"], "embedding_self", np.ones((2, 2)))

    for batch, check in (
        (probs, LabelNoise(view="pred_probs", classes=("a", "b"))),
        (embedding, LabelNoise(view="embedding_self", classes=("a", "b"))),
    ):
        with pytest.raises(InvalidSampleError, match=r"'\?' is not one of the 2 classes"):
            check.add(check.empty(), batch, None)


def test_probabilities_of_another_width_than_the_classes_are_refused() -> None:
    check = LabelNoise(view="pred_probs", classes=("a", "b", "c"))

    with pytest.raises(InvalidSampleError, match="2 columns, there are 3 classes"):
        check.add(check.empty(), batch_of(["a"], "pred_probs", np.full((1, 2), 0.5)), None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.5, -0.5])
def test_values_that_are_no_probabilities_are_refused(bad: float) -> None:
    check = LabelNoise(view="pred_probs", classes=("a", "b"))

    with pytest.raises(InvalidSampleError):
        check.add(check.empty(), batch_of(["a"], "pred_probs", np.array([[bad, 1 - bad]])), None)


@pytest.mark.parametrize("missing", ["label", "pred_probs", "sample_digest"])
@pytest.mark.parametrize("classes", [(), ("0", "1", "2")])
def test_a_missing_column_is_named_in_the_first_pass(missing: str, classes: tuple[str, ...]) -> None:
    check = LabelNoise(view="pred_probs", classes=classes)

    with pytest.raises(MissingColumnError, match=missing):
        check.add(check.empty(), planted_probs().drop_columns([missing]), None)


def test_all_faults_of_a_configuration_are_reported_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        LabelNoise(
            filter_by="guess",  # type: ignore[arg-type] # the fault under test
            view="pixels",  # type: ignore[arg-type] # the fault under test
            classes=("a", "a"),
            folds=1,
            shrinkage=0.0,
            min_examples_per_class=-1,
            ties="random",  # type: ignore[arg-type] # the fault under test
            rare_classes="hide",  # type: ignore[arg-type] # the fault under test
            score_by="mood",  # type: ignore[arg-type] # the fault under test
            frac_noise=0.0,
        )

    assert len(caught.value.details["faults"]) == 11  # type: ignore[arg-type] # a tuple


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": ("a",)},
        {"ties": "together"},
        {"filter_by": "confident_learning", "frac_noise": 0.5},
        {"score_by": "confidence_weighted_entropy", "adjust_pred_probs": True},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        LabelNoise(**fields)


def test_a_model_of_an_earlier_or_later_pass_is_our_bug() -> None:
    batch, check = planted_probs(), LabelNoise(view="pred_probs", classes=("0", "1", "2"))
    first = check.fit(check.add(check.empty(), batch, None), None)
    last = fit_check(check, [batch])

    with pytest.raises(InternalError, match="not its last"):
        check.score(first, batch)
    with pytest.raises(InternalError, match="fitted already"):
        check.add(check.empty(), batch, last)
    with pytest.raises(InternalError, match="earlier pass"):
        check.evidence(first)


def test_an_absent_class_is_reported_with_zero_samples() -> None:
    check = LabelNoise(view="pred_probs", classes=("0", "1", "2", "never"))
    batch = planted_probs()
    probs = batch.column("pred_probs").flatten().to_numpy().reshape(-1, 3)
    wider = batch_of(batch.column("label").to_pylist(), "pred_probs", np.pad(probs, ((0, 0), (0, 1))))

    evidence = {item.label: item for item in check.evidence(fit_check(check, [wider]))}

    assert (evidence["never"].samples, evidence["never"].count_high, evidence["never"].is_suspicious) == (0, 0.0, False)


@given(
    values=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=60),
    limits=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    pieces=st.integers(1, 7),
)
@settings(max_examples=80, deadline=None)
def test_the_lowest_values_of_a_cell_are_those_of_a_sorted_list(
    values: list[tuple[int, int]], limits: list[int], pieces: int
) -> None:
    """Rule: the cut of a cell is its k-th lowest (value, tie), or its highest where it has fewer, in any batches."""
    zero = LowestValues.zero(np.array(limits))
    parts = []
    for start in range(pieces):
        chosen = values[start::pieces]
        cells = np.repeat(np.arange(len(limits)), len(chosen))
        numbers = np.tile(np.array([float(value) for value, _ in chosen]), len(limits))
        tie = np.tile(np.array([tie for _, tie in chosen], dtype=np.uint64), len(limits))
        parts.append(zero.add(cells, numbers, tie, np.zeros(len(cells)), np.ones(len(cells), dtype=np.bool_)))
    ordered = sorted(values)

    cut = zero.merge(parts).cutoffs()

    for cell, limit in enumerate(limits):
        kept = ordered[:limit]
        expected = kept[-1] if kept else (-np.inf, 0)
        assert (cut.value[cell], int(cut.tie[cell])) == expected


def test_the_lowest_values_keep_their_size_while_samples_grow() -> None:
    """Rule 2 of checks/base.py: at most 2 x limits + 1,024 records."""
    rng = np.random.default_rng(0)
    part = LowestValues.zero(np.array([50, 0, 10]))
    everything = rng.random((200_000, 3))
    for start in range(0, 200_000, 20_000):
        rows = everything[start : start + 20_000]
        tie = np.repeat(np.arange(start, start + 20_000, dtype=np.uint64), 3)
        part = part.add(np.tile(np.arange(3), 20_000), rows.ravel(), tie, tie / 1e6, np.ones(60_000, dtype=np.bool_))

    assert sum(map(len, part.chunks)) <= 2 * 60 + 1024
    assert part.nbytes < 29 * (2 * 60 + 1024) + 100
    expected = np.sort(everything, axis=0)
    np.testing.assert_array_equal(part.cutoffs().value, [expected[49, 0], -np.inf, expected[9, 2]])


def test_lowest_values_under_other_limits_do_not_merge() -> None:
    with pytest.raises(InternalError, match="different limits"):
        LowestValues.zero(np.array([1])).merge([LowestValues.zero(np.array([2]))])
