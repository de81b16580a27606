"""Coordinates in which classes are centred and have unit spread, and the directions in which classes differ.

Placed rows lie on a grid of whole numbers, `GRID` of them a standard deviation, so that sums, products and lengths of
them are exact in any order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from millcert.checks.exact import ExactMatrix
from millcert.checks.moments import Moments
from millcert.errors import NotEnoughSamplesError

#: A direction whose variance is below this part of the largest is flat: rounding noise of the sums.
_LEAST_VARIANCE = 1e-6
#: Samples for each direction of the frame.
_SAMPLES_PER_DIRECTION = 4
#: Standard deviations at which a pull towards another class is cut off: a Gaussian class keeps all of its own samples,
#: and three wrong labels among twenty are no significant mean.
MAX_PULL = 4.0
#: Parts of a standard deviation that coordinates are rounded to.
GRID = 4096.0
#: Coordinates beyond so many standard deviations count as at it; then squares of a row's 256 sum below 2**53.
_REACH = 1000.0


@dataclass(frozen=True, eq=False)
class ClassFrame:
    """One whitening for all classes, from their pooled covariance, and each class's centre in it.

    weights: d -> p + q: p whitened coordinates by falling variance within classes, then the q label directions.
    index: label -> its row in the tables below.
    centres: float64 (K, p + q).
    ways: q -> K, each class's centre in the label directions, from the middle of all.
    offsets: float64 (K,), half the squared length of each of these.
    nearest: float64 (K,), squared distance of the nearest other class there; 0 where there is none.
    whitened: p. labels: q, at most one less than there are classes.
    """

    weights: ExactMatrix
    index: Mapping[str, int]
    centres: np.ndarray
    ways: ExactMatrix
    offsets: np.ndarray
    nearest: np.ndarray
    whitened: int
    labels: int

    @classmethod
    def fit(
        cls,
        everything: Moments,
        classes: Mapping[str, tuple[int, np.ndarray]],
        *,
        max_directions: int,
        max_label_directions: int,
    ) -> "ClassFrame":
        """Return the frame.

        Args:
            everything: moments of all rows, with products.
            classes: label -> rows and their mean, (d,).
            max_directions: the most whitened coordinates that are kept.
            max_label_directions: the most label directions.

        Raises:
            NotEnoughSamplesError: the rows of each class are all alike, or there are too few.

        Cost: O(d**3 + K d**2).
        """
        counts = np.array([count for count, _ in classes.values()], dtype=np.float64)
        freedom = int(counts.sum()) - len(counts)
        if freedom < _SAMPLES_PER_DIRECTION:
            raise NotEnoughSamplesError(f"{int(counts.sum())} samples of {len(counts)} classes are too few.")
        means = np.stack([mean for _, mean in classes.values()])
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
        centres = means @ weights
        turned = centres[:, kept:] - centres[:, kept:].mean(axis=0)
        offsets = (turned * turned).sum(axis=1) / 2
        return cls(
            ExactMatrix.of(weights),
            {label: place for place, label in enumerate(classes)},
            centres,
            ExactMatrix.of(turned.T),
            offsets,
            _nearest(turned),
            kept,
            wanted,
        )

    def place(self, whole: np.ndarray, exponent: np.ndarray, codes: np.ndarray) -> "PlacedRows":
        """Return rows, as `quantise_rows` split them, in the frame.

        Args:
            whole: float64 (n, d).
            exponent: int64 (n,).
            codes: int64 (n,), places of the rows' classes in `index`.
        """
        placed = self.weights.apply_quantised(whole, exponent)
        middle = self.centres[:, self.whitened :].mean(axis=0)
        pull = self._pull(placed[:, self.whitened :] - middle, codes)
        placed -= self.centres[codes]
        np.clip(placed, -_REACH, _REACH, out=placed)
        placed *= GRID
        np.rint(placed, out=placed)
        return PlacedRows(np.rint(pull * GRID), placed[:, self.whitened :], placed[:, : self.whitened])

    def _pull(self, turned: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return how strongly rows are drawn to the likeliest other class, float64 (n,).

        It is the log odds of that class under one covariance and equal priors, standardised as those of the nearest
        class: mean 0 and variance 1 where there are two Gaussian classes. Bounded to `MAX_PULL` either way; 0 where
        there is no other class.

        Args:
            turned: label directions of the rows, from the middle of all classes.
            codes: as for `place`.
        """
        nearest = self.nearest[codes]
        if not nearest.any():
            return np.zeros(len(turned))
        odds = self.ways.apply(turned) - self.offsets
        rows = np.arange(len(turned))
        own = odds[rows, codes]
        odds[rows, codes] = -np.inf
        safe = np.where(nearest > 0, nearest, 1.0)
        pull = (odds.max(axis=1) - own + safe / 2) / np.sqrt(safe)
        return np.where(nearest > 0, np.clip(pull, -MAX_PULL, MAX_PULL), 0.0)


class PlacedRows(NamedTuple):
    """Rows on the grid, whole numbers as float64: pull (n,), label directions (n, q), whitened coordinates (n, p)."""

    pull: np.ndarray
    turned: np.ndarray
    whitened: np.ndarray

    def bounded(self) -> np.ndarray:
        """Return all columns in one, (n, 1 + q + p + 3): pull, label directions, whitened; then the square of each.

        Directions are drawn in to their typical radius. All are whole numbers, below 2**17; squares below 2**33.
        """
        parts = [self.pull[:, None], clip_radius(self.turned)[0], clip_radius(self.whitened)[0]]
        return np.concatenate([*parts, *(_squares(part)[:, None] for part in parts)], axis=1)


def clip_radius(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows on the grid drawn in to at most their typical radius, sqrt(width), and the radius of each before.

    The radius is in units of the typical one. Clipped rows are bounded, so the mean of a few dozen has light tails
    whatever the rows' own (the spatial sign is the limit: Oja, "Multivariate Nonparametric Methods with R", 2010).
    """
    width = rows.shape[1]
    if not width:
        return rows, np.zeros(len(rows))
    radius = np.sqrt(_squares(rows) / (width * GRID**2))
    clipped = rows / np.maximum(radius, 1.0)[:, None]
    return np.rint(clipped, out=clipped), radius


def _squares(whole: np.ndarray) -> np.ndarray:
    """Return the sum of squares of each row of whole numbers: exact, so in any order."""
    return np.asarray(np.einsum("ij,ij->i", whole, whole))


def _nearest(centres: np.ndarray) -> np.ndarray:
    """Return the squared distance of each centre to the nearest one elsewhere, float64 (K,); 0 where there is none."""
    found = np.zeros(len(centres))
    for place, centre in enumerate(centres):
        apart = ((centres - centre) ** 2).sum(axis=1)
        if (apart > 0).any():
            found[place] = apart[apart > 0].min()
    return found
