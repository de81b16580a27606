"""Seeded synthetic embeddings with planted poison whose rows are known.

Loaded by tests through the fixture `planted` (tests/conftest.py):

    data = planted.backdoor(classes=10, samples=200, width=32, poisoned=0.1, seed=3)
    data.batches(500)       # label, source, embedding_self
    data.is_bad             # bool (n,)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

Shape = Literal["gauss", "student", "elliptical", "relu", "lognormal", "two_parts", "rare_part"]


@dataclass(frozen=True, eq=False)
class Planted:
    """embedding: float32 (n, d); label: list of text; source: list of text; is_bad: bool (n,)."""

    embedding: np.ndarray
    label: list[str]
    source: list[str]
    is_bad: np.ndarray

    def batches(self, size: int) -> list[pa.RecordBatch]:
        return [self._batch(slice(start, start + size)) for start in range(0, len(self.label), size)]

    def batch(self) -> pa.RecordBatch:
        return self._batch(slice(None))

    def _batch(self, rows: slice) -> pa.RecordBatch:
        return batch_of(self.embedding[rows], self.label[rows], self.source[rows])


def batch_of(embedding: np.ndarray, label: list[str], source: list[str] | None = None) -> pa.RecordBatch:
    values = np.ascontiguousarray(embedding, dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    sources = source if source is not None else ["source"] * len(label)
    return pa.RecordBatch.from_arrays(
        [pa.array(label, pa.string()), pa.array(sources, pa.string()), vectors], ["label", "source", "embedding_self"]
    )


def clean(
    *, shape: Shape = "gauss", classes: int = 10, samples: int = 200, width: int = 32, apart: float = 4.0, seed: int = 0
) -> Planted:
    """Return clean classes of one shape; `apart` is how far two centres are in a coordinate, in standard deviations."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((classes, width)) * apart / np.sqrt(2)
    parts = [_class(shape, samples, width, apart, random) + centre for centre in centres]
    embedding = np.concatenate(parts)
    if shape == "relu":
        mixing = random.standard_normal((width, width)) / np.sqrt(width)
        embedding = np.maximum(embedding @ mixing - 0.5, 0)
    label = np.repeat(np.arange(classes), samples)
    order = random.permutation(len(label))
    source = random.integers(0, 4, len(label))
    return Planted(
        embedding[order].astype(np.float32),
        [str(value) for value in label[order]],
        [f"source-{value}" for value in source[order]],
        np.zeros(len(label), dtype=bool),
    )


def backdoor(
    *,
    poisoned: float,
    shift: float = 60.0,
    target: str = "0",
    shape: Shape = "gauss",
    classes: int = 10,
    samples: int = 200,
    width: int = 32,
    apart: float = 4.0,
    seed: int = 0,
) -> Planted:
    """Return clean classes with a part `poisoned` of the target class moved by `shift` along one new direction."""
    data = clean(shape=shape, classes=classes, samples=samples, width=width, apart=apart, seed=seed)
    random = np.random.default_rng(seed + 1)
    rows = np.flatnonzero(np.array(data.label) == target)
    bad = random.choice(rows, round(poisoned * len(rows)), replace=False)
    direction = random.standard_normal(width)
    embedding = data.embedding.copy()
    embedding[bad] += (shift * direction / np.linalg.norm(direction)).astype(np.float32)
    is_bad = np.zeros(len(data.label), dtype=bool)
    is_bad[bad] = True
    return Planted(embedding, data.label, data.source, is_bad)


def _class(shape: Shape, samples: int, width: int, apart: float, random: np.random.Generator) -> np.ndarray:
    rows = random.standard_normal((samples, width))
    if shape == "student":
        return random.standard_t(3, (samples, width))
    if shape == "elliptical":
        return rows / np.sqrt(random.chisquare(3, (samples, 1)) / 3)
    if shape == "lognormal":
        return np.exp(rows)
    if shape in ("two_parts", "rare_part"):
        part = random.random(samples) < (0.4 if shape == "two_parts" else 0.1)
        away = random.standard_normal(width)
        rows[part] += away * apart / np.sqrt(2)
    return rows
