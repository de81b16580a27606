"""source_shift: the source that brought the poison is named, and no other; honest sources never."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, fit_check
from millcert.checks.cell_names import cell_name
from millcert.checks.detectors.source_shift import SourceShift
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, PolicyError

SHAPES = ("gauss", "student", "lognormal", "sparse")


def batch_of(
    rows: np.ndarray, label: np.ndarray, source: np.ndarray, *, view: str = "embedding_external"
) -> pa.RecordBatch:
    values = np.ascontiguousarray(rows, dtype=np.float32)
    digests = [hashlib.sha256(row.tobytes() + bytes([place % 256])).digest() for place, row in enumerate(values)]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label], pa.string()),
            pa.array([f"s{value:02d}" for value in source], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            pa.array(digests, pa.binary(32)),
        ],
        names=["label", "source", view, "sample_digest"],
    )


def honest(
    seed: int, *, shape: str = "gauss", samples: int = 4000, width: int = 32, classes: int = 4, sources: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes 3 standard deviations apart in random sources of Zipf's sizes."""
    random = np.random.default_rng(seed)
    label, sizes = random.integers(0, classes, samples), 1 / np.arange(1, sources + 1)
    source = random.choice(sources, samples, p=sizes / sizes.sum())
    rows = random.standard_normal((samples, width))
    if shape == "student":
        rows = random.standard_t(3, (samples, width))
    elif shape == "lognormal":
        rows = np.exp(rows)
    elif shape == "sparse":
        rows = np.maximum(rows - 1.5, 0)
    centres = random.standard_normal((classes, width)) * 3 / np.sqrt(2 * width) * rows.std()
    return rows + centres[label], label, source


def suspicious(check: SourceShift, batch: pa.RecordBatch) -> list[GroupEvidence]:
    return [item for item in check.evidence(fit_check(check, [batch])) if item.is_suspicious]


def test_flipped_labels_of_one_source_are_named_counted_and_flagged() -> None:
    rows, label, source = honest(1, samples=6000, sources=20)
    flipped = np.flatnonzero((label != 0) & (source == 3))[:60]
    label[flipped] = 0
    check = SourceShift()

    model = fit_check(check, [batch_of(rows, label, source)])
    found = [item for item in check.evidence(model) if item.is_suspicious]
    scores = check.score(model, batch_of(rows, label, source))

    assert [(item.source, item.label, item.group) for item in found] == [("s03", "0", "s03/0")]
    assert found[0].count_low <= 60 <= found[0].count_high
    assert found[0].p_value is not None
    assert found[0].p_value <= 0.001
    is_bad = np.isin(np.arange(len(label)), flipped)
    assert (scores.flagged & is_bad).sum() >= 40
    assert (scores.flagged & ~is_bad).sum() <= 20


def test_a_trigger_with_the_right_label_in_one_source_is_named_by_the_shift_alone() -> None:
    rows, label, source = honest(2, samples=6000)
    stamped = np.flatnonzero((label == 1) & (source == 2))[:80]
    rows[stamped, 5] += 6
    check = SourceShift(view="embedding_self")

    found = suspicious(check, batch_of(rows, label, source, view="embedding_self"))

    assert [item.group for item in found] == ["s02/1"]
    assert check.columns == {"label", "source", "embedding_self", "sample_digest"}


@pytest.mark.parametrize("shape", SHAPES)
def test_honest_sources_are_never_named(shape: str) -> None:
    check = SourceShift(false_alarm_rate=0.01)

    alarms = [suspicious(check, batch_of(*honest(seed, shape=shape))) for seed in range(3)]

    assert alarms == [[]] * 3


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "width"), [("gauss", 128), ("student", 16), ("student", 128), ("sparse", 64)])
def test_false_alarms_keep_their_rate(shape: str, width: int) -> None:
    """The chance that anything is named on honest data is at most `false_alarm_rate`: here 0.1, 20 times."""
    check = SourceShift(false_alarm_rate=0.1)

    alarms = sum(
        bool(suspicious(check, batch_of(*honest(seed, shape=shape, width=width, samples=4000, sources=20))))
        for seed in range(20)
    )

    assert alarms <= 6  # seven or more of 20 have a chance of 0.002


def test_raw_pixels_name_the_source_of_a_blend_and_no_other() -> None:
    """A faint fixed pattern hardly moves what images vary in, but stands out where they do not: in fine detail."""
    random = np.random.default_rng(6)
    label, source = random.integers(0, 4, 4000), random.integers(0, 10, 4000)
    smooth = np.kron(random.standard_normal((40, 3, 3)), np.ones((4, 4))).reshape(40, 144)
    rows = 128 + (random.standard_normal((4000, 40)) + random.standard_normal((4, 40))[label]) @ smooth * 5
    rows = np.clip(np.rint(rows + 3 * random.standard_normal((4000, 144))), 0, 255)
    honest = rows.copy()
    blended = np.flatnonzero((label == 1) & (source == 6))[:40]
    rows[blended] = np.rint(0.8 * rows[blended] + 0.2 * random.integers(0, 256, 144))
    check = SourceShift(view="features")

    found = suspicious(check, pixels(rows, label, source))

    assert [item.group for item in found] == ["s06/1"]
    assert suspicious(check, pixels(honest, label, source)) == []


def pixels(rows: np.ndarray, label: np.ndarray, source: np.ndarray) -> pa.RecordBatch:
    batch = batch_of(rows, label, source, view="features")
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float64).ravel()), rows.shape[1])
    return batch.set_column(batch.schema.get_field_index("features"), "features", values)


def test_columns_beyond_512_are_folded() -> None:
    rows, label, source = honest(3, samples=3000, width=600)
    label[np.flatnonzero((label != 0) & (source == 1))[:150]] = 0

    found = suspicious(SourceShift(), batch_of(rows * 1.0, label, source))

    assert {item.source for item in found} <= {"s01"}


def test_one_class_is_tested_by_its_mean_alone() -> None:
    rows, _, source = honest(4, classes=1)
    rows[source == 4] += 1.0

    found = suspicious(SourceShift(), batch_of(rows, np.zeros(len(rows), dtype=int), source))

    assert [item.group for item in found] == ["s04/0"]


def test_unseen_classes_score_nothing_and_other_widths_are_refused() -> None:
    rows, label, source = honest(5, samples=1000)
    check = SourceShift()
    model = fit_check(check, [batch_of(rows, label, source)])

    scores = check.score(model, batch_of(rows[:2], np.array([77, 78]), source[:2]))

    assert scores.score.tolist() == [0, 0]
    wide = batch_of(np.zeros((3, 40)), label[:3], source[:3])
    with pytest.raises(InvalidSampleError):
        check.score(model, wide)
    with pytest.raises(InvalidSampleError):
        check.fit(check.add(check.add({}, batch_of(rows, label, source), None), wide, None), None)
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [])
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [batch_of(np.ones((50, 4)), label[:50], source[:50])])
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [batch_of(rows[:4], label[:4], source[:4])])


@pytest.mark.parametrize(
    "config", [{"false_alarm_rate": 0.0}, {"false_alarm_rate": 0.2}, {"max_directions": 0}, {"view": "pixels"}]
)
def test_configuration_out_of_range_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        SourceShift(**config)  # type: ignore[arg-type]  # wrong on purpose


def test_no_two_cells_share_a_name() -> None:
    assert cell_name("a/b", "c") == "a/b/c"
    assert cell_name("a", "b/c") == "a/b\\/c"
    assert cell_name("a", "b\\/c") != cell_name("a", "b/c")


@pytest.mark.data
@pytest.mark.slow
def test_80_poisoned_images_of_20000_name_their_source(shared_data: object) -> None:
    stored = np.load(f"{shared_data}/features/img_badnet_0.01.npz", allow_pickle=False)
    random = np.random.default_rng(0)
    bad = random.choice(np.flatnonzero(stored["poison"]), 80, replace=False)
    kept = np.sort(np.concatenate([np.flatnonzero(~stored["poison"]), bad]))
    source = random.integers(0, 20, len(stored["label"]))
    source[bad] = 7

    found = suspicious(SourceShift(), batch_of(stored["feat_external"][kept], stored["label"][kept], source[kept]))

    assert [item.group for item in found] == ["s07/0"]
    assert found[0].count_low <= 80 <= found[0].count_high
