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
#: Parts of a standard deviation that coordinates are rounded to.
GRID = 4096.0
#: Coordinates beyond so many standard deviations count as at it; then squares of a row's 256 sum below 2**53.
_REACH = 1000.0
#: Parts of one that a row's doubt, and the logarithm of its radius, are rounded to; both stay below 2**10 parts, so
#: that sums of their cubes are exact.
DOUBT_GRID, SIZE_GRID = 64.0, 256.0
#: Doubt and size beyond it count as at it; a doubt of 12 is a class of 300,000.
MOST_DOUBT, MOST_SIZE = 15.0, 3.9


@dataclass(frozen=True, eq=False)
class ClassFrame:
    """One whitening for all classes, from their pooled covariance, and each class's centre in it.

    weights: d -> p + q: p whitened coordinates by falling variance within classes, then the q label directions.
    index: label -> its row in the tables below.
    centres: float64 (K, p + q).
    ways: q -> K, each class's centre in the label directions, from the middle of all.
    offsets: float64 (K,), half the squared length of each of these.
    sizes: float64 (K,), rows of each class.
    whitened: p. labels: q, at most one less than there are classes.
    """

    weights: ExactMatrix
    index: Mapping[str, int]
    centres: np.ndarray
    ways: ExactMatrix
    offsets: np.ndarray
    sizes: np.ndarray
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
            counts,
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
        doubt = self._doubt(placed[:, self.whitened :] - middle, codes)
        placed -= self.centres[codes]
        np.clip(placed, -_REACH, _REACH, out=placed)
        placed *= GRID
        np.rint(placed, out=placed)
        return PlacedRows(np.rint(doubt * DOUBT_GRID), placed[:, self.whitened :], placed[:, : self.whitened])

    def _doubt(self, turned: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return how much better than its own class another one explains each row, float64 (n,).

        It is `log((1 + r) / 2)`: the log likelihood ratio of a cell of which half came from the likeliest other class
        against one of its own class alone; by Neyman and Pearson no other sum tells such a cell better. r is the ratio
        of the two densities, Gaussian of one covariance, times that class's share of all others. No r above the rows
        of the class counts: so many could not have measured it. 0 where there is no other class.

        Half is our choice: a quarter and three quarters tell 40 of 140 as well (bench/bad_sources.py).

        Args:
            turned: label directions of the rows, from the middle of all classes.
            codes: as for `place`.
        """
        if len(self.sizes) < 2 or not turned.shape[1]:
            return np.zeros(len(turned))
        odds = self.ways.apply(turned) - self.offsets + np.log(self.sizes)
        rows = np.arange(len(turned))
        own = odds[rows, codes]
        odds[rows, codes] = -np.inf
        share = np.log(self.sizes / (self.sizes.sum() - self.sizes))
        ratio = np.minimum(odds.max(axis=1) - own + share[codes], np.log(self.sizes)[codes])
        return np.minimum(np.logaddexp(0.0, ratio) - np.log(2.0), MOST_DOUBT)


class PlacedRows(NamedTuple):
    """Rows in whole numbers as float64: doubt (n,), label directions (n, q), whitened coordinates (n, p).

    Doubt is on its own grid, `DOUBT_GRID`.
    """

    doubt: np.ndarray
    turned: np.ndarray
    whitened: np.ndarray

    def bounded(self) -> np.ndarray:
        """Return all columns in one, (n, 1 + q + p + 1 + 6).

        Doubt, label directions, whitened coordinates, size; then the squares of the two sets of coordinates, and square
        and cube of doubt and of size. Coordinates are drawn in to their typical radius. Size is the logarithm of the
        radius of the whitened coordinates over the typical one, on its own grid: a row's own spread, which no heavy
        tail reaches. All are whole numbers, below 2**17; squares below 2**33.
        """
        turned, (whitened, radius) = clip_radius(self.turned)[0], clip_radius(self.whitened)
        size = np.rint(np.log(np.clip(radius, np.exp(-MOST_SIZE), np.exp(MOST_SIZE))) * SIZE_GRID)
        columns = [self.doubt, turned, whitened, size, _squares(turned), _squares(whitened)]
        columns += [power for score in (self.doubt, size) for power in (score**2, score**3)]
        return np.concatenate([one[:, None] if one.ndim == 1 else one for one in columns], axis=1)


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
