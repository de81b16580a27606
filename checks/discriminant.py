"""Class probabilities in closed form: a linear discriminant from sums alone, with nothing iterative.

Design, section 5; measured in bench/label_noise.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from millcert.checks.exact import ExactMatrix
from millcert.checks.moments import Moments
from millcert.errors import NotEnoughSamplesError

Target: TypeAlias = Literal["identity", "variances"]

#: Shrinkage is never below this, so that a covariance without full rank can be inverted.
LOWEST_SHRINKAGE = 1e-6


@dataclass(frozen=True, eq=False)
class Discriminant:
    """A linear discriminant: `log p(class | x) = (x - centre) @ weights + offset + const`.

    Make one with `Discriminant.fit`.

    centre: float64 (d,), the mean of the training rows.
    weights: (d, K).
    offset: float64 (K,); -inf for a class without training rows.
    shrinkage: the part of the covariance that was replaced by its target.
    """

    centre: np.ndarray
    weights: ExactMatrix
    offset: np.ndarray
    shrinkage: float

    @classmethod
    def fit(
        cls,
        pooled: Moments,
        class_moments: Sequence[Moments],
        *,
        columns: int,
        shrinkage: float | None,
        target: Target = "identity",
    ) -> "Discriminant":
        """Return the discriminant of classes with one covariance and priors equal to their shares.

        Args:
            pooled: moments of all training rows, with products.
            class_moments: of each class's training rows, all of which are in `pooled`; may be empty.
            columns: how many of the classes, from the first, get a column in the answer.
            shrinkage: in (0, 1], or None for the oracle-approximating rule (`oracle_shrinkage`).
            target: what the covariance is shrunk towards: a multiple of the identity, or each column's own variance, so
                that the units of columns do not matter.

        Raises:
            NotEnoughSamplesError: fewer than two classes have rows, or no class has any spread.

        Cost: O(d**3 + K d**2).
        Source: Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", section 4.3.
        """
        counts = np.array([part.count for part in class_moments], dtype=np.float64)
        present = counts > 0
        if np.count_nonzero(present[:columns]) < 2:
            raise NotEnoughSamplesError(
                f"A discriminant needs at least 2 classes to train on, found {np.count_nonzero(present[:columns])}.",
                hint="Give more samples or fewer folds.",
            )
        centre = pooled.mean()
        means = np.stack([part.mean() if part.count else centre for part in class_moments])
        deltas = means - centre
        within = pooled.covariance() - (deltas.T * (counts / counts.sum())) @ deltas
        freedom = counts.sum() - np.count_nonzero(present)
        within = _as_covariance(within) * (counts.sum() / max(freedom, 1.0))
        spread = float(np.trace(within)) / len(within)
        if freedom < 1 or not spread > _rounding_spread(pooled):
            raise NotEnoughSamplesError(
                "The samples of each class are all alike, so distances between classes have no scale.",
                hint="Check that the embedding varies.",
            )
        variances = spread_of_columns(within) if target == "variances" else np.full(len(within), spread)
        scale = np.sqrt(variances)
        share = oracle_shrinkage(within / np.outer(scale, scale), freedom) if shrinkage is None else shrinkage
        share = max(share, LOWEST_SHRINKAGE)
        covariance = (1 - share) * within
        covariance[np.diag_indices(len(within))] += share * variances
        weights = np.linalg.solve(covariance, deltas[:columns].T)
        quadratic = np.einsum("kd,dk->k", deltas[:columns], weights)
        with np.errstate(divide="ignore"):  # log 0: a class without training rows has no probability
            offset = np.log(counts[:columns] / counts.sum()) - quadratic / 2
        return cls(centre, ExactMatrix.of(weights), offset, share)

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Return class probabilities, float64 (n, K), rows sum to 1; the same bits for a row in any batch.

        Args:
            rows: shape (n, d), finite.
        """
        return softmax(self.logits(rows))

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Return log-probabilities up to a number of each row's own, float64 (n, K); arguments as `probabilities`."""
        logits: np.ndarray = self.weights.apply(rows.astype(np.float64) - self.centre) + self.offset
        return logits


def spread_of_columns(covariance: np.ndarray) -> np.ndarray:
    """Return the variance of each column, float64 (d,); that of a column of constants is a small part of the mean's."""
    variances = np.diag(covariance)
    return np.maximum(variances, LOWEST_SHRINKAGE * float(variances.mean()))


def oracle_shrinkage(covariance: np.ndarray, freedom: float) -> float:
    """Return the oracle-approximating shrinkage towards a multiple of the identity, in (0, 1].

    It needs the covariance and the number of rows only, so it follows from sums that merge; the rule of Ledoit and Wolf
    needs fourth moments.

    Args:
        covariance: float64 (d, d), not zero.
        freedom: degrees of freedom of the covariance, at least 1.

    Source: Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE Covariance Estimation", IEEE Transactions on
        Signal Processing 58 (2010), equation 23. Written for one mean; `freedom` takes the place of n.
    """
    width = len(covariance)
    trace_squared = float(np.trace(covariance)) ** 2
    square_trace = float(np.sum(covariance * covariance))
    numerator = (1 - 2 / width) * square_trace + trace_squared
    denominator = (freedom + 1 - 2 / width) * (square_trace - trace_squared / width)
    return 1.0 if denominator <= 0 else min(1.0, numerator / denominator)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return exp(logits) over its row sum, (n, K); the sum runs from the first column to the last in any batch."""
    shifted = np.exp(np.ascontiguousarray(logits - logits.max(axis=1, keepdims=True)))
    probabilities: np.ndarray = shifted / np.cumsum(shifted, axis=1)[:, -1:]
    return probabilities


def _as_covariance(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix made symmetric, negative variances (rounding) set to zero."""
    symmetric = (matrix + matrix.T) / 2
    diagonal = np.einsum("ii->i", symmetric)
    np.maximum(diagonal, 0.0, out=diagonal)
    return symmetric


def _rounding_spread(pooled: Moments) -> float:
    """Return the variance that rounding alone can leave in a column of constants."""
    return 1e-13 * float(np.trace(pooled.second_moment())) / pooled.dimension
