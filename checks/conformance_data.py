"""Small made-up data sets for the conformance suite: classes with known poison or known label errors, in all roles."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millcert.checks.base import Role

_CLASSES = 4
_WIDTH = 12


@dataclass(frozen=True, eq=False)
class PlantedData:
    """A data set and the rows that are bad in it.

    batch: all roles, classes and sources interleaved.
    is_bad: bool (n,).
    """

    batch: pa.RecordBatch
    is_bad: np.ndarray

    def batches(self, size: int) -> list[pa.RecordBatch]:
        """Return the rows in batches of a size."""
        return [self.batch.slice(start, size) for start in range(0, max(1, self.batch.num_rows), size)]


def planted_for(covers: frozenset[str]) -> PlantedData:
    """Return data with what a check covers planted in it: label errors, one bad source, else a backdoor.

    Args:
        covers: attack families, as in `Check.covers` (`millcert.checks.coverage`).
    """
    for family, make in (
        ("trigger_in_one_source", trigger_data),
        ("shortcut", shortcut_data),
        ("duplicate_flood", flooded_data),
        ("split_leakage", leaked_data),
        ("bad_annotator", bad_annotator_data),
    ):
        if family in covers:
            return make()
    if any(family.startswith("label") for family in covers):
        return mislabelled_data()
    if "bad_source" in covers and not any(family.startswith("backdoor") for family in covers):
        return bad_source_data()
    return poisoned_data()


def clean_data(*, samples: int = 480, seed: int = 0) -> PlantedData:
    """Return classes that are Gaussian, four standard deviations apart, with no bad row."""
    label, embedding, random = _classes(samples, seed)
    return _data(label, embedding, label, np.zeros(samples, dtype=bool), random)


def poisoned_data(*, samples: int = 480, seed: int = 0, bad_fraction: float = 0.08) -> PlantedData:
    """Return the same with a backdoor: rows of other classes, relabelled "0", all moved far along one new direction.

    In `embedding_external` and `pred_probs` the rows still look like their true classes.
    """
    true, embedding, random = _classes(samples, seed)
    is_bad = np.zeros(samples, dtype=bool)
    is_bad[random.choice(np.flatnonzero(true != 0), int(bad_fraction * samples), replace=False)] = True
    label = np.where(is_bad, 0, true)
    self_view = embedding.copy()
    self_view[is_bad] += (_centres()[0] - _centres()[true[is_bad]]).astype(np.float32)
    self_view[is_bad, -1] += np.float32(30)
    return _data(label, embedding, true, is_bad, random, self_view=self_view)


def mislabelled_data(*, samples: int = 480, seed: int = 0, bad_fraction: float = 0.08) -> PlantedData:
    """Return clean classes with some labels replaced by another class; no view agrees with the wrong label."""
    true, embedding, random = _classes(samples, seed)
    is_bad = np.zeros(samples, dtype=bool)
    is_bad[random.choice(samples, int(bad_fraction * samples), replace=False)] = True
    label = np.where(is_bad, (true + random.integers(1, _CLASSES, samples)) % _CLASSES, true)
    return _data(label, embedding, true, is_bad, random)


def bad_annotator_data(*, samples: int = 480, seed: int = 0) -> PlantedData:
    """Return clean classes of which one annotator of ten, "annotator-3", has got three labels of four wrong."""
    true, embedding, random = _classes(samples, seed)
    data = _data(true, embedding, true, np.zeros(samples, dtype=bool), random)
    is_bad = (_texts(data, "annotator") == "annotator-3") & (random.random(samples) < 0.75)
    label = np.where(is_bad, (true + random.integers(1, _CLASSES, samples)) % _CLASSES, true)
    return PlantedData(_with(data.batch, "label", pa.array([str(value) for value in label])), is_bad)


def bad_source_data(*, samples: int = 480, seed: int = 0, bad_fraction: float = 0.2) -> PlantedData:
    """Return clean classes and one more source, "source-bad", all of whose rows are moved alike in both embeddings."""
    true, embedding, random = _classes(samples, seed)
    is_bad = np.zeros(samples, dtype=bool)
    is_bad[random.choice(samples, int(bad_fraction * samples), replace=False)] = True
    embedding[is_bad, -1] += np.float32(3)
    data = _data(true, embedding, true, is_bad, random)
    source = ["source-bad" if bad else text for text, bad in zip(data.batch["source"].to_pylist(), is_bad, strict=True)]
    return PlantedData(_with(data.batch, "source", pa.array(source)), is_bad)


def trigger_data(*, samples: int = 480, seed: int = 0, bad: int = 24) -> PlantedData:
    """Return clean classes, `bad` rows of which, all of "source-1" and class "0", share one value of `features`."""
    data = clean_data(samples=samples, seed=seed)
    place = (_texts(data, "source") == "source-1") & (_texts(data, "label") == "0")
    is_bad = np.zeros(samples, dtype=bool)
    is_bad[np.flatnonzero(place)[:bad]] = True
    values = data.batch.column(data.batch.schema.get_field_index("features")).flatten().to_numpy().copy()
    rows = values.reshape(samples, -1)
    rows[is_bad, 3] = 9.25
    return PlantedData(_with(data.batch, "features", fixed_size_lists(rows)), is_bad)


def shortcut_data(*, samples: int = 960, seed: int = 0, bad: int = 90) -> PlantedData:
    """Return clean classes, `bad` rows of which, all of class "0", share the left patch of a 2 x 6 picture."""
    data = clean_data(samples=samples, seed=seed)
    is_bad = np.zeros(samples, dtype=bool)
    is_bad[np.flatnonzero(_texts(data, "label") == "0")[:bad]] = True
    values = data.batch.column(data.batch.schema.get_field_index("features")).flatten().to_numpy().copy()
    rows = values.reshape(samples, -1)
    rows[np.flatnonzero(is_bad)[:, None], np.array([0, 1, 6, 7])] = np.array([9.25, 0.5, 0.5, 9.25])
    return PlantedData(_with(data.batch, "features", fixed_size_lists(rows)), is_bad)


def flooded_data(*, samples: int = 480, seed: int = 0, bad_fraction: float = 0.08) -> PlantedData:
    """Return clean classes and copies of one row, in every column but source and split."""
    data = clean_data(samples=samples, seed=seed)
    is_bad = np.zeros(samples, dtype=bool)
    is_bad[np.random.default_rng(seed + 1).choice(samples, int(bad_fraction * samples), replace=False)] = True
    row = np.where(is_bad, np.flatnonzero(is_bad)[0], np.arange(samples))
    return PlantedData(_copied(data.batch, row), is_bad)


def leaked_data(*, samples: int = 480, seed: int = 0, bad: int = 30) -> PlantedData:
    """Return clean classes of which `bad` rows of split "train" are copies of rows of split "test"."""
    data = clean_data(samples=samples, seed=seed)
    split = _texts(data, "split")
    held, kept = np.flatnonzero(split == "test")[:bad], np.flatnonzero(split == "train")[:bad]
    row = np.arange(samples)
    row[kept] = held
    is_bad = np.zeros(samples, dtype=bool)
    is_bad[kept] = True
    return PlantedData(_copied(data.batch, row), is_bad)


def _copied(batch: pa.RecordBatch, row: np.ndarray) -> pa.RecordBatch:
    copied = batch.take(pa.array(row))
    for role in ("source", "split"):
        copied = _with(copied, role, batch.column(batch.schema.get_field_index(role)))
    return copied


def _with(batch: pa.RecordBatch, role: str, values: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index(role), role, values)


def _texts(data: PlantedData, role: str) -> np.ndarray:
    return np.array(data.batch[role].to_pylist(), dtype=object)


def _centres() -> np.ndarray:
    centres = np.zeros((_CLASSES, _WIDTH))
    centres[np.arange(_CLASSES), np.arange(_CLASSES)] = 4.0
    return centres


def _classes(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    random = np.random.default_rng(seed)
    true = random.permutation(np.arange(samples) % _CLASSES)
    embedding = (_centres()[true] + random.standard_normal((samples, _WIDTH))).astype(np.float32)
    return true, embedding, random


def _data(
    label: np.ndarray,
    embedding: np.ndarray,
    true: np.ndarray,
    is_bad: np.ndarray,
    random: np.random.Generator,
    *,
    self_view: np.ndarray | None = None,
) -> PlantedData:
    samples = len(label)
    likely = random.random((samples, _CLASSES)) * 0.1
    likely[np.arange(samples), true] += 1.0
    likely /= likely.sum(axis=1, keepdims=True)
    digests = random.bytes(32 * samples)
    source = [f"source-{value}" for value in random.integers(0, 3, samples)]
    # Drawn after the rest, so that what stood here before these columns came stays as it was.
    words = np.array([f"word{number}" for number in range(400)])
    texts = [" ".join(row) for row in words[random.integers(0, len(words), (samples, 16))]]
    split = np.where(random.random(samples) < 0.25, "test", "train").tolist()
    pixels = random.integers(0, 9, (samples, _WIDTH)).astype(np.float64)
    columns: dict[Role, pa.Array] = {
        "label": pa.array([str(value) for value in label]),
        "source": pa.array(source),
        "annotator": pa.array([f"annotator-{value}" for value in random.integers(0, 10, samples)]),
        "split": pa.array(split),
        "text": pa.array(texts),
        "embedding_self": fixed_size_lists(embedding if self_view is None else self_view),
        "embedding_external": fixed_size_lists(embedding),
        "pred_probs": fixed_size_lists(likely),
        "features": fixed_size_lists(pixels),
        "sample_digest": pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), samples, [None, pa.py_buffer(digests)]),
    }
    return PlantedData(pa.RecordBatch.from_arrays(list(columns.values()), list(columns)), is_bad)


def fixed_size_lists(values: np.ndarray) -> pa.FixedSizeListArray:
    """Return a matrix as an Arrow column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
