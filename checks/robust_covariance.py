"""The covariance of a class's inner samples, in one pass and without knowing quantiles first.

Trimming the outer 20 % asks for a quantile of distances, and a quantile is no sum. Instead the samples fall into eight
shells by distance, each inner shell keeps its own sums, and the inner shells that hold at most 85 % of the class are
added up afterwards. Over-trimming is what finds poison, under-trimming is what fails (design, section 5), so the exact
share does not matter.

Inner samples lie within a known distance, so they are summed as whole numbers of 1/4,096 standard deviation: exact in
any order, and no coordinate needs more than 15 bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact import MAX_PRODUCT_ROWS
from millcert.errors import InvalidSampleError

#: Borders of the shells, in mean squared distance a direction: it averages 1 over all samples of a class.
SHELL_BORDERS = (0.3, 0.45, 0.6, 0.75, 0.9, 1.1, 1.4)
#: The core is the largest union of inner shells with at most this share of the samples ...
_MOST_OF_CLASS = 0.85
#: ... or the whole class, where that would be less than this share.
_LEAST_OF_CLASS = 0.4
#: Parts of a standard deviation that coordinates are rounded to. The longest inner coordinate is sqrt(1.4 x 64) = 9.5
#: of them at 64 directions, so a product is below 2**31 and 2**32 rows of a class fit in int64.
_PARTS = 4096.0


@dataclass(frozen=True, eq=False)
class Shells:
    """Sums of a class's samples by their distance from its mean; immutable, mergeable in any order.

    inner: int64 (7, m + 1, m + 1), the innermost first: sums of products of (1, coordinates) with themselves.
    outside: samples beyond the last border; they are counted only.

    Size: 56 x (m + 1) ** 2 bytes: 35 kB at m = 24.
    """

    inner: np.ndarray
    outside: int

    @classmethod
    def zero(cls, dimension: int) -> "Shells":
        """Return the shells of no samples."""
        return cls(np.zeros((len(SHELL_BORDERS), dimension + 1, dimension + 1), dtype=np.int64), 0)

    @property
    def count(self) -> int:
        """How many samples were added."""
        return int(self.inner[:, 0, 0].sum()) + self.outside

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.inner.nbytes

    def add(self, centred: np.ndarray, variance: np.ndarray) -> "Shells":
        """Return the shells with samples added.

        Args:
            centred: float64 (n, m), uncorrelated coordinates less the class's mean.
            variance: float64 (m,), their variances; where 0, the coordinate does not count.
        """
        inner, outside = self.inner.copy(), self.outside
        scale = np.where(variance > 0, _PARTS / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
        for start in range(0, len(centred), MAX_PRODUCT_ROWS):
            outside += _add_block(inner, centred[start : start + MAX_PRODUCT_ROWS] * scale)
        return Shells(inner, outside)

    def merge(self, others: Iterable["Shells"]) -> "Shells":
        """Return the shells of all samples of this and the others.

        Raises:
            InvalidSampleError: they have other dimensions.
        """
        inner, outside = self.inner, self.outside
        for part in others:
            if part.inner.shape != inner.shape:
                raise InvalidSampleError("Shells of another version or width cannot be merged.")
            inner, outside = inner + part.inner, outside + part.outside
        return Shells(inner, outside)

    def core(self, variance: np.ndarray) -> np.ndarray:
        """Return the covariance of the inner samples, 40 to 85 % of the class, or of all of it; float64 (m, m).

        Args:
            variance: float64 (m,), as for `add`: of the whole class, along coordinates that are uncorrelated in it.
        """
        shares = np.cumsum(self.inner[:, 0, 0]) / max(1, self.count)
        fitting = np.flatnonzero(shares <= _MOST_OF_CLASS)
        if not len(fitting) or shares[fitting[-1]] < _LEAST_OF_CLASS:
            return np.diag(variance)
        total = self.inner[: int(fitting[-1]) + 1].sum(axis=0)
        mean = total[0, 1:] / total[0, 0]
        covariance = (total[1:, 1:] / total[0, 0] - np.outer(mean, mean)) / _PARTS**2
        scale = np.sqrt(np.maximum(variance, 0.0))
        return np.asarray(covariance * np.outer(scale, scale))


def _add_block(inner: np.ndarray, standard: np.ndarray) -> int:
    """Add samples, (n, m) in parts of a standard deviation, to their shells; return how many lie outside."""
    width = standard.shape[1]
    whole = np.rint(standard, out=standard)
    # Sums of squared whole numbers: exact near the borders, so the order of adding does not matter.
    distance = np.einsum("ij,ij->i", whole, whole)
    borders = np.array(SHELL_BORDERS) * (max(1, width) * _PARTS**2)
    shell = np.searchsorted(borders, distance).astype(np.uint8)
    order = np.argsort(shell, kind="stable")
    edges = [0, *np.cumsum(np.bincount(shell, minlength=len(inner) + 1)).tolist()]
    rows = np.empty((edges[len(inner)], width + 1))
    rows[:, 0] = 1.0
    rows[:, 1:] = whole.take(order[: len(rows)], axis=0)
    for place in range(len(inner)):
        if edges[place + 1] > edges[place]:
            part = rows[edges[place] : edges[place + 1]]
            inner[place] += (part.T @ part).astype(np.int64)
    return len(standard) - len(rows)
