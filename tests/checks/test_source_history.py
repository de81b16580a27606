"""Sources against their own admitted history: what moved is named, what did not is not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, fit_check
from millcert.checks.class_frame import GRID
from millcert.checks.detectors.source_shift import SourceShift, SourceShiftModel
from millcert.checks.source_cells import ClassCells
from millcert.checks.source_history import KeepsHistory, history_from, history_values
from millcert.errors import IntegrityError, InvalidSampleError

CHECK = SourceShift()


def version(
    seed: int, *, sources: int = 6, samples: int = 3000, drift: float = 0.0, shape: str = "gauss", classes: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a version: classes apart, sources that differ from each other for good, and how much all drifted."""
    fixed, random = np.random.default_rng(99), np.random.default_rng(seed)
    centres = 4 * fixed.standard_normal((classes, 12)) / 12**0.5
    own = 1.5 * fixed.standard_normal((sources, 12)) / 12**0.5
    label, source = random.integers(0, classes, samples), random.integers(0, sources, samples)
    noise = random.standard_normal((samples, 12)) if shape == "gauss" else random.standard_t(3, (samples, 12))
    drifted = drift * np.random.default_rng(seed + 1000).standard_normal((sources, 12)) / 12**0.5
    return noise + centres[label] + own[source] + drifted[source], label, source


def batches(rows: np.ndarray, label: np.ndarray, source: np.ndarray, size: int = 700) -> list[pa.RecordBatch]:
    values = np.ascontiguousarray(rows, dtype=np.float32)
    digests = np.random.default_rng(0).bytes(32 * len(rows))
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([f"c{value}" for value in label]),
            pa.array([f"s{value}" for value in source]),
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            pa.array([digests[32 * row : 32 * row + 32] for row in range(len(rows))], pa.binary(32)),
        ],
        names=["label", "source", "embedding_external", "sample_digest"],
    )
    return [batch.slice(start, size) for start in range(0, batch.num_rows, size)]


def fitted(data: Sequence[pa.RecordBatch], kept: str | None, check: SourceShift = CHECK) -> SourceShiftModel:
    """Return the model of a version that is compared with what is kept of another; None: of no other."""
    model: SourceShiftModel | None = None
    for number in range(check.passes):
        acc = check.empty()
        for batch in data:
            acc = check.merge([acc, check.add(check.empty(), batch, model)])
        model = check.fit(acc, model)
        if number == 0:
            model = check.recall(model, None if kept is None else json.loads(kept))
    assert model is not None
    return model


def kept_of(data: Sequence[pa.RecordBatch]) -> str:
    return json.dumps(CHECK.history(fitted(data, None)))


def named(model: SourceShiftModel) -> list[GroupEvidence]:
    return [item for item in CHECK.evidence(model) if item.is_suspicious]


def test_the_check_keeps_history_and_without_one_says_what_it_said_before() -> None:
    data = batches(*version(1))

    assert isinstance(CHECK, KeepsHistory)
    plain, first = fit_check(CHECK, data), fitted(data, None)
    assert CHECK.evidence(first) == CHECK.evidence(plain)
    assert CHECK.notices(plain) == ()
    assert CHECK.notices(first) == ("no admitted version to compare with",)


@pytest.mark.parametrize("shape", ["gauss", "student"])
@pytest.mark.parametrize(("drift", "sources"), [(0.0, 6), (0.5, 15)])
def test_honest_versions_move_nothing_however_sources_differ_or_drift(shape: str, drift: float, sources: int) -> None:
    """10 versions against the first: at a rate of 0.001 a version, none is expected."""
    sizes: dict[str, Any] = {"shape": shape, "sources": sources, "samples": 400 * sources}
    kept = kept_of(batches(*version(1, **sizes)))

    moved = [
        cell
        for seed in range(2, 12)
        for cell, move in fitted(batches(*version(seed, drift=drift, **sizes)), kept).moves.items()
        if move.shift.is_shifted
    ]

    assert moved == []


def test_a_source_that_was_always_unlike_the_others_is_named_by_what_is_new_in_it_alone() -> None:
    kept = kept_of(batches(*version(1)))
    rows, label, source = version(2)
    bad = np.flatnonzero((label == 1) & (source == 4))[:60]
    rows[bad] += 6 * np.ones(12) / 12**0.5

    model = fitted(batches(rows, label, source), kept)

    assert [cell for cell, move in model.moves.items() if move.shift.is_shifted] == [("s4", "c1")]
    (found,) = named(model)
    assert (found.source, found.label) == ("s4", "c1")
    assert found.p_value is not None
    assert found.p_value <= 0.001
    assert 1 <= found.count_low <= 60 <= found.count_high
    assert any(name.endswith(" since") for name, _ in found.top_features)
    assert CHECK.notices(model) == ("moved since the last admitted version: s4",)


def test_the_only_source_is_compared_with_itself() -> None:
    kept = kept_of(batches(*version(1, sources=1)))
    rows, label, source = version(2, sources=1)

    assert named(fitted(batches(rows, label, source), kept)) == []
    rows[np.flatnonzero(label == 2)[:150]] += 4 * np.ones(12) / 12**0.5
    assert [(item.source, item.label) for item in named(fitted(batches(rows, label, source), kept))] == [("s0", "c2")]


def test_a_move_too_small_to_matter_is_none_however_many_samples_show_it() -> None:
    kept = kept_of(batches(*version(1, sources=1, samples=60_000, classes=1), size=20_000))
    rows, label, source = version(2, sources=1, samples=60_000, classes=1)

    small = fitted(batches(rows + 0.05 / 12**0.5, label, source, size=20_000), kept)
    large = fitted(batches(rows + 0.25 / 12**0.5, label, source, size=20_000), kept)

    assert named(small) == []
    assert [item.source for item in named(large)] == ["s0"]


def test_new_sources_and_classes_are_compared_with_the_others_only() -> None:
    kept = kept_of(batches(*version(1, sources=5, classes=2)))

    model = fitted(batches(*version(2, sources=6, classes=3)), kept)

    assert {source for source, _ in model.moves} == {f"s{number}" for number in range(5)}
    assert {label for _, label in model.moves} == {"c0", "c1"}
    assert len(CHECK.evidence(model)) == 18


def test_batches_and_order_change_no_bit() -> None:
    kept = kept_of(batches(*version(1)))
    rows, label, source = version(2, drift=1.0)
    data = batches(rows, label, source)

    one = fitted(data, kept)
    other = fitted([part.slice(start, 97) for part in reversed(data) for start in range(0, part.num_rows, 97)], kept)

    assert CHECK.evidence(one) == CHECK.evidence(other)
    assert json.dumps(CHECK.history(one)) == json.dumps(CHECK.history(other))


def test_another_width_is_refused_and_damage_is_told() -> None:
    kept = kept_of(batches(*version(1)))
    rows, label, source = version(2)

    with pytest.raises(InvalidSampleError, match="width"):
        fitted(batches(np.concatenate([rows, rows], axis=1), label, source), kept)
    values = json.loads(kept)
    values["frame"]["centres"]["shape"][0] += 1
    with pytest.raises(IntegrityError, match=r"damaged.*shape"):
        history_from(values)
    values = json.loads(kept)
    values["cells"]["c0"]["counts"].pop()
    with pytest.raises(IntegrityError, match="add up"):
        history_from(values)
    for broken in ({}, {"frame": 1}, {"frame": json.loads(kept)["frame"], "cells": []}):
        with pytest.raises(IntegrityError, match="damaged"):
            history_from(broken)


VECTOR = Path(__file__).parents[1] / "vectors" / "0.2.0" / "history" / "one-cell.json"


def test_the_vector_says_what_it_said_when_it_was_written() -> None:
    values = json.loads(VECTOR.read_bytes())["checks"]["source_shift"]["kept"]

    kept = history_from(values)

    assert kept.frame is not None
    assert kept.frame.index == {"cat": 0}
    placed = kept.frame.place(np.array([[3.0]]), np.array([1]), np.array([0]))
    assert placed.whitened.tolist() == [[(3 * 2 * 2 * 0.5 - 1.25) * GRID]]
    cells = kept.cells["cat"]
    assert (cells.sources, cells.counts.tolist()) == (("north",), [25.0])
    assert (cells.means.tolist(), cells.scales.tolist()) == ([[0.0, -0.5, 0.25]], [[0.0, 0.0, 0.75, 0.5]])
    own = ClassCells(cells.sources, cells.counts, cells.means, cells.scales, np.eye(2), 24.0)
    assert history_values(kept.frame, {"cat": own}) == values
