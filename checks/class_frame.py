"""Coordinates in which classes are centred and have unit spread, and the directions in which classes differ."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact import ExactMatrix, sum_squares
from millcert.checks.moments import Moments
from millcert.errors import NotEnoughSamplesError

#: A direction whose variance is below this part of the largest is flat: rounding noise of the sums.
_LEAST_VARIANCE = 1e-6
#: Samples for each direction of the frame.
_SAMPLES_PER_DIRECTION = 4
#: Standard deviations at which a pull towards another class is cut off: a Gaussian class keeps all of its own samples,
#: and three wrong labels among twenty are no significant mean.
MAX_PULL = 4.0


@dataclass(frozen=True, eq=False)
class ClassFrame:
    """One whitening for all classes, from their pooled covariance, and each class's centre in it.

    weights: d -> p + q: p whitened coordinates by falling variance within classes, then the q label directions.
    centres: label -> float64 (p + q,).
    whitened: p. labels: q, at most one less than there are classes.
    """

    weights: ExactMatrix
    centres: Mapping[str, np.ndarray]
    whitened: int
    labels: int

    @classmethod
    def fit(
        cls, everything: Moments, classes: Mapping[str, Moments], *, max_directions: int, max_label_directions: int
    ) -> "ClassFrame":
        """Return the frame.

        Args:
            everything: moments of all rows, with products.
            classes: of each class's rows.
            max_directions: the most whitened coordinates that are kept.
            max_label_directions: the most label directions.

        Raises:
            NotEnoughSamplesError: the rows of each class are all alike, or there are too few.

        Cost: O(d**3 + K d**2).
        """
        counts = np.array([part.count for part in classes.values()], dtype=np.float64)
        freedom = int(counts.sum()) - len(counts)
        if freedom < _SAMPLES_PER_DIRECTION:
            raise NotEnoughSamplesError(f"{int(counts.sum())} samples of {len(counts)} classes are too few.")
        means = np.stack([part.mean() for part in classes.values()])
        offsets = means - everything.mean()
        within = everything.covariance() - (offsets.T * (counts / counts.sum())) @ offsets
        values, vectors = np.linalg.eigh((within + within.T) / 2)
        values, vectors = values[::-1], vectors[:, ::-1]
        floor = max(_LEAST_VARIANCE * float(values[0]), 1e-13 * float(np.trace(everything.second_moment())))
        usable = min(int((values > floor).sum()), max(1, freedom // _SAMPLES_PER_DIRECTION))
        if values[0] <= floor:
            raise NotEnoughSamplesError(
                "The samples of each class are all alike, so distances have no scale.",
                hint="Check that the embedding varies.",
            )
        whitening = vectors[:, :usable] / np.sqrt(values[:usable])
        apart = (offsets @ whitening) * np.sqrt(counts / counts.sum())[:, None]
        _, strength, turned = np.linalg.svd(apart, full_matrices=False)
        wanted = min(len(counts) - 1, max_label_directions, int((strength > 1e-9).sum()))
        kept = min(usable, max_directions)
        weights = np.concatenate([whitening[:, :kept], whitening @ turned[:wanted].T], axis=1)
        centres = {label: mean @ weights for label, mean in zip(classes, means, strict=True)}
        return cls(ExactMatrix.of(weights), centres, kept, wanted)

    def place(self, whole: np.ndarray, exponent: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of one class, as `quantise_rows` split them, in whitened coordinates and label directions."""
        placed = self.weights.apply_quantised(whole, exponent) - self.centres[label]
        return placed[:, : self.whitened], placed[:, self.whitened :]

    def pull(self, turned: np.ndarray, label: str) -> np.ndarray:
        """Return how strongly rows of a class are drawn to the likeliest other class, float64 (n,).

        It is the log odds of that class under one covariance and equal priors, standardised as those of the nearest
        class: mean 0 and variance 1 where there are two Gaussian classes. Bounded to `MAX_PULL` either way; 0 where
        there is no other class.

        Args:
            turned: label directions of the rows, as `place` returns them.
            label: the class of the rows.
        """
        own = self.centres[label][self.whitened :]
        ways = np.stack(
            [centre[self.whitened :] - own for other, centre in self.centres.items() if other != label] or [0 * own]
        )
        squares = sum_squares(ways)
        ways, squares = ways[squares > 0], squares[squares > 0]
        if not len(ways):
            return np.zeros(len(turned))
        odds = (ExactMatrix.of(ways.T).apply(turned) - squares / 2).max(axis=1)
        nearest = float(squares.min())
        bounded: np.ndarray = np.clip((odds + nearest / 2) / np.sqrt(nearest), -MAX_PULL, MAX_PULL)
        return bounded


def clip_radius(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whitened rows drawn in to at most their typical radius, sqrt(width), and the radius of each before.

    The radius is in units of the typical one. Clipped rows are bounded, so the mean of a few dozen has light tails
    whatever the rows' own (the spatial sign is the limit: Oja, "Multivariate Nonparametric Methods with R", 2010).
    """
    width = rows.shape[1]
    if not width:
        return rows, np.zeros(len(rows))
    radius = np.sqrt(sum_squares(rows) / width)
    return rows / np.maximum(radius, 1.0)[:, None], radius
