"""Directions in which one class varies and the other classes do not, from sums alone.

A backdoor's trigger is a feature that only the target class has. Whatever share of that class is poisoned, the other
classes tell what natural variation looks like, and the trigger's direction stands out against them. So each class is
measured by the covariance of all others (their classes' means included): a generalised eigenproblem, as in linear
discriminant analysis.

Rules this module keeps:
  1. Only means and covariances come in; nothing is fitted to samples one by one.
  2. Units are those of the others: along any returned direction the other classes have standard deviation 1.
  3. No direction without support: see `supported_dimension` and `RIDGE`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import shake_256

import numpy as np

from millcert.checks.moments import Moments
from millcert.errors import NotEnoughSamplesError

#: Added to the others' covariance, as a part of its mean variance: a column that is constant in all other classes (a
#: dead unit) must vary by a fair part of a usual column's spread before it counts. Our choice.
RIDGE = 1e-3
#: Samples per dimension for a covariance to be inverted. At 5 its whitened eigenvalues lie within
#: (1 +- sqrt(1/5))**2, so 0.3 to 2.1 (Marchenko and Pastur, 1967).
SAMPLES_PER_DIMENSION = 5
#: Samples of the class itself per direction kept: at 16 noise stretches a variance by (1 + sqrt(1/16))**2 = 1.6.
#: A direction that is chosen among more finds valleys in noise (tests/checks/test_direction_search.py).
SAMPLES_PER_DIRECTION = 16

#: A direction in which the class's variance is below this part of the others' is flat: rounding noise of the sums.
_LEAST_VARIANCE = 1e-9


@dataclass(frozen=True, eq=False)
class ClassContrast:
    """One class against all others.

    samples: n of the class.
    directions: float64 (d, m), columns ordered by variance; along each the others have variance 1.
    offset: float64 (m,), the class's mean along each direction.
    variance: float64 (m,), the class's variance along each direction; directions are uncorrelated in the class too.
    others: float64 (m,), where the others' mean lies along each direction, from the class's mean.
    distance: how far the class's mean is from the others' mean, in the others' standard deviations (Mahalanobis).
    """

    samples: int
    directions: np.ndarray
    offset: np.ndarray
    variance: np.ndarray
    others: np.ndarray
    distance: float


def random_signs(rows: int, columns: int, seed: int) -> np.ndarray:
    """Return a fixed random projection, float64 (rows, columns), entries +-1/sqrt(columns); it keeps distances.

    Source: Achlioptas, J. Comput. Syst. Sci. 66 (2003), theorem 1.1. The signs are bits of SHAKE-256, so they never
    change with a library's version.
    """
    bits = shake_256(f"millcert random signs {seed} {rows} {columns}".encode()).digest((rows * columns + 7) // 8)
    signs = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[: rows * columns].reshape(rows, columns)
    return (2.0 * signs - 1.0) / np.sqrt(columns)


def supported_dimension(dimension: int, samples_of_others: int) -> int:
    """Return how many dimensions the other classes can measure: at most one for 5 of their samples, at least 1."""
    return max(1, min(dimension, samples_of_others // SAMPLES_PER_DIMENSION))


def class_contrasts(moments: Mapping[str, Moments], *, max_directions: int) -> dict[str, ClassContrast]:
    """Return the contrast of every class, by label.

    Where the smallest group of others cannot support all dimensions, the leading principal components of the pooled
    covariance within classes are taken, the same for all classes.

    Args:
        moments: of each class, all of one dimension d; two classes or more.
        max_directions: at most this many a class; small classes get fewer (see `SAMPLES_PER_DIRECTION`).

    Raises:
        NotEnoughSamplesError: fewer than two classes.

    Cost: two d x d eigenproblems a class: 10 ms at d = 128.
    """
    labels = sorted(label for label, part in moments.items() if part.count)
    if len(labels) < 2:
        raise NotEnoughSamplesError(
            f"A class is measured by the other classes; there is {len(labels)}.",
            hint="Vet all classes of the data set together.",
        )
    counts = {label: moments[label].count for label in labels}
    total = sum(counts.values())
    basis = _basis(moments, labels, supported_dimension(moments[labels[0]].dimension, total - max(counts.values())))
    sums = {label: moments[label].sums() @ basis for label in labels}
    products = {label: basis.T @ moments[label].products() @ basis for label in labels}
    all_sums, all_products = np.sum(list(sums.values()), axis=0), np.sum(list(products.values()), axis=0)
    contrasts = {}
    for label in labels:
        samples, rest = counts[label], total - counts[label]
        mean, others_mean = sums[label] / samples, (all_sums - sums[label]) / rest
        covariance = products[label] / samples - np.outer(mean, mean)
        others = (all_products - products[label]) / rest - np.outer(others_mean, others_mean)
        kept = max(1, min(max_directions, samples // SAMPLES_PER_DIRECTION))
        inner = _contrast(samples, mean, covariance, others_mean, others, kept)
        contrasts[label] = replace(inner, directions=basis @ inner.directions)
    return contrasts


def _basis(moments: Mapping[str, Moments], labels: list[str], kept: int) -> np.ndarray:
    dimension = moments[labels[0]].dimension
    if kept == dimension:
        return np.eye(dimension)
    within = np.zeros((dimension, dimension))
    for label in labels:
        within += moments[label].covariance() * moments[label].count
    _, vectors = np.linalg.eigh(within)
    return _signed(vectors[:, ::-1][:, :kept])


def _contrast(
    samples: int, mean: np.ndarray, covariance: np.ndarray, others_mean: np.ndarray, others: np.ndarray, kept: int
) -> ClassContrast:
    dimension = len(mean)
    scale = float(np.trace(others)) / dimension
    if scale <= 0:  # the others do not vary at all: the class's own spread is the only unit left
        scale = float(np.trace(covariance)) / dimension
    if scale <= 0:
        nothing = np.zeros(0)
        return ClassContrast(samples, np.zeros((dimension, 0)), nothing, nothing, nothing, 0.0)
    others = others + RIDGE * scale * np.eye(dimension)
    variance, directions = _generalised(covariance, others)
    kept = min(kept, int((variance > _LEAST_VARIANCE).sum()))
    directions = _signed(directions[:, :kept])
    offset = mean - others_mean
    distance = float(np.sqrt(max(0.0, float(offset @ np.linalg.solve(others, offset)))))
    return ClassContrast(samples, directions, mean @ directions, variance[:kept], -offset @ directions, distance)


def _generalised(covariance: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, descending, and vectors v with v' unit v = 1 of `covariance v = value * unit v`."""
    half = np.linalg.inv(np.linalg.cholesky(unit))
    values, vectors = np.linalg.eigh(half @ covariance @ half.T)
    return values[::-1], half.T @ vectors[:, ::-1]


def _signed(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with their largest entry positive: an eigenvector's sign is arbitrary."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1.0, 1.0)
