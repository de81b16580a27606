"""A small probe trained on the suspect data: its first hidden layer is a view in which what it learnt shows.

A trigger with a wrong label shows only to a model that learnt it (research: detection 0, facts 3 and 5). The probe need
not classify well: a fixed trigger is the easiest thing in the data, so a perceptron of two hidden layers learns it in
ten epochs. Its first layer is the view: a linear map and a rectifier, which scores in one exact product, so the bits of
a sample's view depend on no batch.
"""

import hashlib
import math
import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from millcert.checks.exact import ExactMatrix
from millcert.errors import InvalidSampleError, NotEnoughSamplesError

Content: TypeAlias = Literal["image", "table", "text"]

#: Width of the view, and of the layer behind it. Our choice: bench/selftest.py prints what is found with it.
WIDTH = 256
BEHIND = 128
EPOCHS = 10
#: Small data sets are read more often, until so many steps were made.
LEAST_STEPS = 600
BATCH = 128
#: Table values beyond this many scales of their column count as at it: nulls and outliers must not drown the rest.
REACH = 8.0
#: Larger values, such as the one that stands for a null, count as this: their spread must be a number.
_LARGEST = 2.0**300


@dataclass(frozen=True, eq=False)
class Probe:
    """A trained probe's first layer.

    centre, scale: float64 (d,), how a row is normalised. weights: (d, WIDTH). bias: float64 (WIDTH,).
    accuracy: on the rows it was trained on, in [0, 1].
    """

    centre: np.ndarray
    scale: np.ndarray
    weights: ExactMatrix
    bias: np.ndarray
    accuracy: float

    def embed(self, rows: np.ndarray) -> np.ndarray:
        """Return the view of rows, float32 (n, WIDTH); the same bits for a row in any batch.

        Args:
            rows: float64 (n, d), finite.

        Raises:
            InvalidSampleError: rows of another width.
        """
        if rows.shape[1] != len(self.centre):
            raise InvalidSampleError(f"The probe reads {len(self.centre)} features, got {rows.shape[1]}.")
        hidden = self.weights.apply(_normalised(rows, self.centre, self.scale)) + self.bias
        return np.maximum(hidden, 0.0).astype(np.float32)

    @property
    def digest(self) -> str:
        """SHA-256 of all that `embed` computes with, hex."""
        parts = (self.centre, self.scale, self.weights.whole, self.weights.scale, self.bias)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part, dtype="<f8").tobytes() for part in parts)).hexdigest()


def train_probe(rows: np.ndarray, labels: np.ndarray, *, content: Content, seed: int = 0) -> Probe:
    """Return a probe trained on rows with the labels that they were given.

    Args:
        rows: float (n, d), finite: pixels, table values, or hashed n-grams (`millcert.checks.text_grams`).
        labels: text (n,).
        content: how columns are normalised: pixels by one scale, table values each by its own.
        seed: of the first weights and of the order of the samples.

    Raises:
        NotEnoughSamplesError: fewer than two classes.

    The same rows in the same order give the same probe on one machine with one linear algebra library.
    Cost: about 40 microseconds a sample and epoch at d = 3072.
    """
    from sklearn.neural_network import MLPClassifier

    if len(set(labels.tolist())) < 2:
        raise NotEnoughSamplesError("A probe needs samples of two classes.", hint="Give labels of two classes.")
    centre, scale = _normaliser(rows, content)
    inputs = _normalised(rows, centre, scale).astype(np.float32)
    size = min(BATCH, len(inputs))
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / math.ceil(len(inputs) / size)))
    model = MLPClassifier(
        (WIDTH, BEHIND), batch_size=size, max_iter=epochs, n_iter_no_change=epochs + 1, tol=0.0, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Maximum iterations", module="sklearn")
        model.fit(inputs, labels)
    first, bias = np.asarray(model.coefs_[0], np.float64), np.asarray(model.intercepts_[0], np.float64)
    accuracy = float(model.score(inputs, labels))
    return Probe(centre, scale, ExactMatrix.of(first), bias, accuracy)


def _normaliser(rows: np.ndarray, content: Content) -> tuple[np.ndarray, np.ndarray]:
    if content == "table":
        rows = np.clip(rows, -_LARGEST, _LARGEST)
        low, centre, high = np.quantile(rows, [0.25, 0.5, 0.75], axis=0)
        spread = (high - low) / 1.349
        usual = np.clip(rows, centre - REACH * spread - 1e-9, centre + REACH * spread + 1e-9).std(axis=0)
        scale = np.where(spread > 0, spread, np.where(usual > 0, usual, 1.0))
        return centre, scale
    centre = rows.mean(axis=0, dtype=np.float64)
    spread = float(np.sqrt(np.mean(rows.var(axis=0, dtype=np.float64))))
    return centre, np.full(rows.shape[1], spread or 1.0)


def _normalised(rows: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    if rows.dtype == np.float64:  # float32 cannot hold such a value
        rows = np.clip(rows, -_LARGEST, _LARGEST)
    return np.clip((rows - centre) / scale, -REACH, REACH)
