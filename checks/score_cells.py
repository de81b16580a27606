"""Whether a cell's mean of one score differs from its class's more than a random part of the class would.

The null is that sources are drawn at random from the class (permuted sources): the mean of a part of it, without
replacement, has the class's own mean, and variance and skewness that follow from the class's, whatever the score's
distribution (Cramér, "Mathematical Methods of Statistics", 1946, section 27). Scores of rare rows are skewed, and means
of a few dozen of them too; so the tail is that of Pearson's type III distribution with this skewness, which is exact in
the limits of a normal and of a rare count. On the light side of it the normal tail is the larger one, and is taken.
"""

from typing import NamedTuple

import numpy as np

#: Below it a distribution is as good as normal.
_LEAST_SKEWNESS = 1e-3
_LEAST_TAIL = 1e-300
#: Of the mean square: what rounding leaves where all scores are one.
_LEAST_VARIANCE = 1e-12


class ScoreSpace(NamedTuple):
    """A space of one column, a score.

    column: of the means. power: its place among the cells' powers. is_one_sided: only a larger mean is suspect.
    """

    column: int
    power: int
    is_one_sided: bool = False


class ScoreMoments(NamedTuple):
    """Of cells of a class: counts, and each cell's mean score, mean square and mean cube; float64 (S,)."""

    counts: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    cube: np.ndarray

    def centred(self) -> "ScoreMoments":
        """Return the moments of the score less the class's mean: what differences are made of loses no digits."""
        middle = float(self.counts @ self.mean) / float(self.counts.sum())
        square = self.square - 2 * middle * self.mean + middle**2
        cube = self.cube - 3 * middle * self.square + 3 * middle**2 * self.mean - middle**3
        return ScoreMoments(self.counts, self.mean - middle, square, cube)

    def skewness(self) -> float:
        """Return the skewness of the score in the class; 0 where all its rows have one score."""
        weight = self.counts / self.counts.sum()
        mean, square, cube = (float(weight @ part) for part in (self.mean, self.square, self.cube))
        variance = square - mean**2
        has_spread = variance > _LEAST_VARIANCE * max(square, _LEAST_TAIL)
        return (cube - 3 * mean * square + 2 * mean**3) / variance**1.5 if has_spread else 0.0

    def deviates(self, places: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how far the means of cells lie from the rest of `others`, as normal deviates, and the error of each.

        Args:
            places: int64 (n,), the cells.
            others: bool (S,), the cells that, with the one that is asked about, are the class.

        Returns: float64 (n,), positive where the mean is larger, and (n,), the variance of the difference of the two
            means over that of the score.
        """
        weight = np.where(others, self.counts, 0.0)
        own = self.counts[places]
        rest = weight.sum() - weight[places]
        total = own + rest
        # The class is the rest and the cell, whether the cell is one of the others or not.
        mean, square, cube = (
            (float(weight @ part) - weight[places] * part[places] + own * part[places]) / total
            for part in (self.mean, self.square, self.cube)
        )
        variance = square - mean**2
        third = cube - 3 * mean * square + 2 * mean**3
        error = 1 / own + 1 / rest
        has_spread = variance > _LEAST_VARIANCE * np.maximum(square, _LEAST_TAIL)
        safe = np.where(has_spread, variance, 1.0)
        apart = (self.mean[places] - mean) * total / rest  # from the mean of the rest
        deviate = apart / np.sqrt(safe * error * total / np.maximum(total - 1, 1))
        skewness = third / safe**1.5 * (1 / own**2 - 1 / rest**2) / error**1.5
        return np.where(has_spread, normal_deviates(deviate, skewness), 0.0), error


def normal_deviates(deviate: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """Return normal deviates that are as unlikely as deviates of a sum with a skewness; of either sign, float64 (n,).

    Args:
        deviate: float64 (n,), standardised.
        skewness: float64 (n,).
    """
    from scipy.special import gammaincc, ndtri

    size, towards = np.abs(deviate), np.sign(deviate) * skewness
    is_skewed = (towards > _LEAST_SKEWNESS) & (size > 0)
    shape = 4 / np.where(is_skewed, towards, 1.0) ** 2
    tail = gammaincc(shape, shape + size * np.sqrt(shape))
    corrected = np.maximum(0.0, -ndtri(np.maximum(tail, _LEAST_TAIL)))
    found: np.ndarray = np.sign(deviate) * np.where(is_skewed, np.minimum(corrected, size), size)
    return found
