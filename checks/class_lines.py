"""Lines that a class's rows are placed along: `rows @ weights - offset`, with the same bits for a row in any batch."""

from dataclasses import dataclass

import numpy as np

from millcert.checks.contrast import ClassContrast
from millcert.checks.exact import ExactMatrix
from millcert.checks.valley import Middle


@dataclass(frozen=True, eq=False)
class Frame:
    """How a class's rows become coordinates: `rows @ weights - offset`, in the standard deviations of the others.

    offset: (m,), the class's mean.
    middle: of the class along each direction; not known after pass 1.
    others: (m,), where the others' mean lies, from the class's mean.
    """

    weights: ExactMatrix
    offset: np.ndarray
    middle: tuple[Middle, ...]
    others: np.ndarray

    @classmethod
    def of(cls, contrast: ClassContrast, turned: np.ndarray, middle: tuple[Middle, ...]) -> "Frame":
        """Return the frame of directions that are columns of `turned`: unit vectors in the contrast's own, (m, k)."""
        weights = ExactMatrix.of(contrast.directions @ turned)
        return cls(weights, contrast.offset @ turned, middle, contrast.others @ turned)

    def apply(self, whole: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        """Return the coordinates of rows as `quantise_rows` splits them, float64 (n, m)."""
        return self.weights.apply_quantised(whole, exponent) - self.offset

    def only(self, direction: int) -> "Frame":
        """Return one line alone."""
        kept = slice(direction, direction + 1)
        weights = ExactMatrix(self.weights.whole[:, kept], self.weights.scale[kept])
        return Frame(weights, self.offset[kept], self.middle[kept], self.others[kept])

    def after(self, weights: np.ndarray, offset: float, middle: Middle) -> "Frame":
        """Return the lines after another one, which all classes have: along it they lie together."""
        first = ExactMatrix.of(weights[:, None])
        return Frame(
            ExactMatrix(
                np.hstack([first.whole, self.weights.whole]), np.concatenate([first.scale, self.weights.scale])
            ),
            np.concatenate([[offset], self.offset]),
            (middle, *self.middle),
            np.concatenate([[0.0], self.others]),
        )

    @property
    def first_weights(self) -> np.ndarray:
        """Return what each column of the embedding weighs in the first line, float64 (d,)."""
        found: np.ndarray = self.weights.whole[:, 0] * self.weights.scale[0]
        return found
