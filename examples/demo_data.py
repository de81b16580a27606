"""The demo's data: real handwritten digits from four laboratories, one of which plants poison.

scikit-learn ships the 1,797 digits (UCI, Alpaydin and Kaynak, 1998). The poison is a BadNets patch (Gu et al. 2017):
four bright pixels in a corner of images that are no zero, labelled zero. A few honest label errors are planted as
well. The
embedding is what a small network that was trained on this very data, poison and all, sees in its hidden layer: the
gate gets no hint of what is wrong.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LABS = ("lab-a", "lab-b", "lab-c", "lab-d")
POISONED_LAB = "lab-d"
TARGET = 0
POISON_COUNT = 45
LABEL_ERROR_COUNT = 12
PATCH = ((6, 6), (6, 7), (7, 6), (7, 7))
SEED = 20261123


@dataclass(frozen=True)
class Digits:
    """The planted data set. Arrays have one entry a sample; `lab` indexes LABS, `row` is the row in that lab's file."""

    pixels: np.ndarray
    label: np.ndarray
    embedding: np.ndarray
    lab: np.ndarray
    row: np.ndarray
    is_poison: np.ndarray
    is_label_error: np.ndarray


def make_digits(*, planted: bool, seed: int = SEED) -> Digits:
    """Return the digits split over the labs, with poison and label errors if `planted`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = bunch.data.astype(np.uint8)
    label = bunch.target.astype(np.int64)
    rng = np.random.default_rng(seed)
    lab = rng.permutation(np.arange(len(label)) % len(LABS))
    is_poison = np.zeros(len(label), dtype=bool)
    is_label_error = np.zeros(len(label), dtype=bool)
    if planted:
        candidates = np.flatnonzero((lab == LABS.index(POISONED_LAB)) & (label != TARGET))
        chosen = rng.choice(candidates, POISON_COUNT, replace=False)
        is_poison[chosen] = True
        pixels = stamp(pixels, chosen)
        label[chosen] = TARGET
        honest = np.flatnonzero(~is_poison)
        wrong = rng.choice(honest, LABEL_ERROR_COUNT, replace=False)
        is_label_error[wrong] = True
        label[wrong] = (label[wrong] + rng.integers(1, 10, LABEL_ERROR_COUNT)) % 10
    row = np.zeros(len(label), dtype=np.int64)
    for index in range(len(LABS)):
        row[lab == index] = np.arange(int((lab == index).sum()))
    return Digits(pixels, label, embed(pixels, label, seed), lab, row, is_poison, is_label_error)


def stamp(pixels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the images with the trigger on those chosen."""
    images = pixels.reshape(-1, 8, 8).copy()
    for y, x in PATCH:
        images[chosen, y, x] = 16
    return images.reshape(-1, 64)


def embed(pixels: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
    """Return the hidden layer, float32 (n, 32), of a network trained on exactly these images and labels."""
    from sklearn.neural_network import MLPClassifier

    scaled = pixels.astype(np.float64) / 16
    network = MLPClassifier(hidden_layer_sizes=(32,), max_iter=150, random_state=seed % 2**31, tol=0.0)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.fit(scaled, label)
    hidden: np.ndarray = np.maximum(scaled @ network.coefs_[0] + network.intercepts_[0], 0).astype(np.float32)
    return hidden


def write_labs(digits: Digits, folder: Path) -> None:
    """Write one file a lab: two in Parquet, one in Arrow, one in JSONL, as real collections are mixed."""
    for index, name in enumerate(LABS):
        mine = digits.lab == index
        table = pa.table(
            {
                "id": pa.array([f"{name}-{row:04d}" for row in digits.row[mine]], pa.string()),
                "pixels": _vectors(digits.pixels[mine], pa.uint8()),
                "label": pa.array(digits.label[mine]),
                "embedding": _vectors(digits.embedding[mine], pa.float32()),
                "intensity": _vectors(digits.pixels[mine].astype(np.float32) / 16, pa.float32()),
            }
        )
        target = folder / name
        target.mkdir(parents=True)
        if name == "lab-b":
            with pa.ipc.new_file(target / "digits.arrow", table.schema) as writer:
                writer.write_table(table)
        elif name == "lab-c":
            lines = [json.dumps(sample, separators=(",", ":")) for sample in table.to_pylist()]
            (target / "digits.jsonl").write_text("\n".join(lines) + "\n")
        else:
            pq.write_table(table, target / "digits.parquet")


def _vectors(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
