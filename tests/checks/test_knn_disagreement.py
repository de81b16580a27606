"""knn_disagreement: ranks wrong labels first, names the source that brings them, and only that."""

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.conformance_data import fixed_size_lists
from millcert.checks.detectors.knn_disagreement import KnnDisagreement
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError


def batch_of(rows: np.ndarray, label: np.ndarray, source: np.ndarray) -> pa.RecordBatch:
    bits = np.random.default_rng(len(rows)).bytes(32 * len(rows))
    columns: dict[str, pa.Array] = {
        "label": pa.array([str(value) for value in label]),
        "source": pa.array([f"s{value}" for value in source]),
        "embedding_external": fixed_size_lists(rows.astype(np.float32)),
        "sample_digest": pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(rows), [None, pa.py_buffer(bits)]),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def classes(
    seed: int, *, samples: int = 1200, apart: float = 3.0, width: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four overlapping classes of unequal size, in five random sources."""
    random = np.random.default_rng(seed)
    label = random.choice(4, samples, p=[0.5, 0.3, 0.15, 0.05])
    rows = random.standard_normal((samples, width)) + apart * np.eye(width)[label] + 1
    return rows, label, random.integers(0, 5, samples)


def run(batch: pa.RecordBatch, check: KnnDisagreement | None = None) -> tuple[Scores, list[GroupEvidence]]:
    check = check or KnnDisagreement(references=512)
    model = fit_check(check, [batch.slice(0, 500), batch.slice(500)])
    return check.score(model, batch), [item for item in check.evidence(model) if item.is_suspicious]


def test_labels_flipped_in_one_source_are_named_counted_and_mostly_flagged() -> None:
    rows, label, source = classes(0, samples=2400)
    bad = np.flatnonzero((source == 3) & (label == 1))[:40]
    label[bad] = 0

    scores, found = run(batch_of(rows, label, source))

    assert [(item.source, item.label) for item in found] == [("s3", "0")]
    assert found[0].count_low <= 40 <= found[0].count_high
    assert found[0].p_value is not None
    assert found[0].p_value <= 0.001
    assert scores.flagged[bad].mean() > 0.7
    assert np.delete(scores.flagged, bad).mean() < 0.02


@pytest.mark.parametrize("seed", range(6))
def test_honest_sources_of_overlapping_classes_are_never_named(seed: int) -> None:
    """Rule: the null is that contradictions fall to sources at random."""
    assert run(batch_of(*classes(seed, apart=1.5)))[1] == []


def test_label_noise_that_all_sources_have_names_none_of_them() -> None:
    rows, label, source = classes(7)
    noisy = np.random.default_rng(1).random(len(label)) < 0.15
    label[noisy] = (label[noisy] + 1) % 4

    scores, found = run(batch_of(rows, label, source))

    assert found == []
    ranks = np.argsort(np.argsort(scores.score))
    assert ranks[noisy].mean() > 1.5 * ranks[~noisy].mean()


def test_sources_that_scatter_by_nature_are_allowed_for() -> None:
    rows, label, source = classes(8, samples=3000)
    share = np.array([0.02, 0.3, 0.1, 0.25, 0.06])
    noisy = np.random.default_rng(2).random(len(label)) < share[source]
    label[noisy] = (label[noisy] + 1) % 4

    assert run(batch_of(rows, label, source))[1] == []


def test_wide_embeddings_are_projected_and_copies_of_a_sample_do_not_vouch_for_it() -> None:
    rows, label, source = classes(9, samples=300, width=300)
    wide = batch_of(rows * 5, label, source)
    doubled = pa.Table.from_batches([wide, wide]).combine_chunks().to_batches()[0]

    once, twice = run(wide, KnnDisagreement(references=4096))[0], run(doubled, KnnDisagreement(references=4096))[0]

    assert once.score.tolist() == twice.score[:300].tolist()


@pytest.mark.parametrize(
    "config", [{"view": "pred_probs"}, {"neighbours": 2}, {"references": 10}, {"false_alarm_rate": 0.2}]
)
def test_configuration_out_of_range_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        KnnDisagreement(**config)  # type: ignore[arg-type]  # wrong on purpose


def test_what_is_out_of_order_or_of_another_width_is_refused() -> None:
    check, batch = KnnDisagreement(), batch_of(*classes(1, samples=60))
    narrow = batch.set_column(2, "embedding_external", fixed_size_lists(np.ones((60, 3), np.float32)))
    model = check.fit(check.add({}, batch, None), None)

    with pytest.raises(InternalError):
        check.score(model, batch)
    with pytest.raises(InvalidSampleError):
        check.add({}, narrow, model)
    with pytest.raises(InvalidSampleError):
        check.merge([check.add({}, batch, None), check.add({}, narrow, None)])
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [batch.slice(0, 1)])
