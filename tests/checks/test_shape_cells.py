"""source_shift on cells of their class's mean and another spread, in size or in shape; honest ones stay silent."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, fit_check
from millcert.checks.detectors.source_shift import SourceShift
from millcert.checks.shape_cells import ShapeSums, shape_coordinates, shape_lines, signs

WIDTH, CLASSES, SOURCES = 32, 3, 8
CELL = (3, 1)


def honest(seed: int, shape: str = "gauss") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label, source = random.integers(0, CLASSES, 3600), random.integers(0, SOURCES, 3600)
    rows = random.standard_normal((3600, WIDTH))
    if shape == "student":
        rows = random.standard_t(3, (3600, WIDTH))
    if shape == "lognormal":
        rows = np.exp(rows)
    if shape == "sparse":
        rows = np.maximum(rows - 1.5, 0)
    centres = 3 * random.standard_normal((CLASSES, WIDTH)) / np.sqrt(2 * WIDTH) * rows.std()
    return rows + centres[label], label, source


def batches(rows: np.ndarray, label: np.ndarray, source: np.ndarray) -> list[pa.RecordBatch]:
    values = np.ascontiguousarray(rows, dtype=np.float32)
    whole = pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label]),
            pa.array([f"s{value}" for value in source]),
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            pa.array([hashlib.sha256(f"{row}".encode()).digest() for row in range(len(rows))], pa.binary(32)),
        ],
        names=["label", "source", "embedding_external", "sample_digest"],
    )
    return [whole.slice(start, 1500) for start in range(0, len(rows), 1500)]


def found_in(rows: np.ndarray, label: np.ndarray, source: np.ndarray, rate: float = 0.001) -> list[GroupEvidence]:
    check = SourceShift(false_alarm_rate=rate)
    return [item for item in check.evidence(fit_check(check, batches(rows, label, source))) if item.is_suspicious]


def cell_of(label: np.ndarray, source: np.ndarray) -> np.ndarray:
    return np.flatnonzero((source == CELL[0]) & (label == CELL[1]))


def test_a_pattern_added_to_one_half_and_taken_from_the_other_is_named_by_its_shape_and_flagged() -> None:
    rows, label, source = honest(1)
    bad = cell_of(label, source)[:60]
    pattern = np.random.default_rng(5).standard_normal(WIDTH)
    pattern *= 4 / np.linalg.norm(pattern)
    # Each pattern where its sample lay, so that the mean stays to the last digit, and the length as it was.
    middle = rows[label == CELL[1]].mean(axis=0)
    away = rows[bad] - middle
    moved = away + np.where(np.arange(60) % 2, 1.0, -1.0)[:, None] * pattern
    moved *= (np.linalg.norm(away, axis=1) / np.linalg.norm(moved, axis=1))[:, None]
    rows[bad] = middle + moved - moved.mean(axis=0) + away.mean(axis=0)
    check, data = SourceShift(), batches(rows, label, source)

    model = fit_check(check, data)
    found = [item for item in check.evidence(model) if item.is_suspicious]
    flagged = np.concatenate([check.score(model, batch).flagged for batch in data])

    assert [(item.source, item.label) for item in found] == [("s3", "1")]
    assert found[0].top_features[0][0] == "shape"
    assert found[0].statistic["p_value in shape"] <= 0.001
    assert found[0].statistic["p_value in all_directions"] > 0.001
    assert found[0].count_low <= 60 <= found[0].count_high
    is_bad = np.isin(np.arange(len(label)), bad)
    assert (flagged & is_bad).sum() >= 30
    assert set(np.flatnonzero(flagged)) <= set(cell_of(label, source))


@pytest.mark.parametrize("factor", [0.3, 1.8])
def test_samples_too_near_to_their_mean_or_too_far_from_it_are_named_by_the_spread(factor: float) -> None:
    rows, label, source = honest(2)
    bad = cell_of(label, source)[:50]
    rows[bad] = rows[bad].mean(axis=0) + factor * (rows[bad] - rows[bad].mean(axis=0))

    found = found_in(rows, label, source)

    assert [(item.source, item.label) for item in found] == [("s3", "1")]
    assert found[0].statistic["p_value in spread"] <= 0.001


@pytest.mark.parametrize("shape", ["gauss", "student", "lognormal", "sparse"])
def test_honest_cells_of_any_tail_are_not_named(shape: str) -> None:
    alarms = [bool(found_in(*honest(seed, shape), rate=0.01)) for seed in range(10, 14)]

    assert sum(alarms) <= 1  # two or more of four have a chance of 0.0006


def test_sources_that_all_differ_in_shape_are_not_named() -> None:
    rows, label, source = honest(3)
    random = np.random.default_rng(0)
    for name in range(SOURCES):
        own = random.standard_normal(WIDTH)
        own /= np.linalg.norm(own)
        where = source == name
        rows[where] += 1.5 * random.standard_normal((int(where.sum()), 1)) * own

    assert found_in(rows, label, source) == []


def test_batches_and_order_change_no_bit() -> None:
    rows, label, source = honest(4)
    check, data = SourceShift(), batches(rows, label, source)
    pieces = [part.slice(start, 97) for part in reversed(data) for start in range(0, part.num_rows, 97)]

    assert check.evidence(fit_check(check, data)) == check.evidence(fit_check(check, pieces))


def test_coordinates_keep_to_the_memory() -> None:
    assert shape_coordinates({"a": 20}, 200) == 99
    assert shape_coordinates({"a": 20}, 5) == 5
    assert shape_coordinates({str(label): 20 for label in range(1000)}, 128) == 14
    assert shape_coordinates({str(label): 1000 for label in range(10)}, 128) == 14
    assert shape_coordinates({str(label): 1000 for label in range(1000)}, 128) == 0
    assert shape_coordinates({}, 128) == 0


def test_few_sources_and_samples_at_the_centre_are_no_trouble() -> None:
    unit = signs(np.zeros((30, 4)))
    two = ShapeSums({(name, half): 30 for name in "ab" for half in (0, 1)}, {})
    none = {(name, half): unit.T @ unit for name in "abc" for half in (0, 1)}
    three = ShapeSums(dict.fromkeys(none, 30), none)

    assert unit.tolist() == np.zeros((30, 4)).tolist()
    assert shape_lines({"two": two, "three": three}, 1, 20) == {}
