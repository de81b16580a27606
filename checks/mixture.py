"""A line of positions divided in two: Gaussians of the two sides, Ashman's D, and how many samples the upper side has.

Everything works on a histogram (positions and counts), so it costs the same for a thousand samples as for a billion.
"""

from dataclasses import dataclass

import numpy as np

#: A side's standard deviation is at least this share of the gap: a few samples that happen to agree are no narrow part.
_LEAST_SPREAD = 0.02
#: Places between two means where a crossing is looked for.
_GRID = 513


@dataclass(frozen=True, eq=False)
class Histogram:
    """positions: float64 (b,), ascending: centres of bins, or samples; counts: float64 (b,), positive."""

    positions: np.ndarray
    counts: np.ndarray

    @property
    def samples(self) -> float:
        """How many samples there are."""
        return float(self.counts.sum())

    def reflected(self) -> "Histogram":
        """Return the mirror image: what was low is high."""
        return Histogram(-self.positions[::-1], self.counts[::-1])

    def below(self, edges: np.ndarray) -> np.ndarray:
        """Return how many samples lie below each edge, float64 like `edges`."""
        before = np.concatenate([[0.0], np.cumsum(self.counts)])
        return np.asarray(before[np.searchsorted(self.positions, edges)])


@dataclass(frozen=True)
class TwoParts:
    """Two Gaussians on a line, the lower first.

    lower_mean, lower_spread, upper_mean, upper_spread: means and standard deviations.
    upper_share: part of the samples in the upper Gaussian, in (0, 1).
    """

    lower_mean: float
    lower_spread: float
    upper_mean: float
    upper_spread: float
    upper_share: float

    @property
    def gap(self) -> float:
        """Distance of the means."""
        return self.upper_mean - self.lower_mean

    @property
    def ashman_d(self) -> float:
        """Gap over the root mean square spread; above 2 the parts are apart (Ashman et al. 1994, equation 7)."""
        return self.gap / float(np.sqrt((self.lower_spread**2 + self.upper_spread**2) / 2))

    @property
    def crossing(self) -> float:
        """Where between the means a sample is as likely of one part as of the other; at a mean where nowhere."""
        grid = np.linspace(self.lower_mean, self.upper_mean, _GRID)
        return float(grid[int(np.searchsorted(self.upper_probability(grid), 0.5))])

    def upper_probability(self, positions: np.ndarray) -> np.ndarray:
        """Return the posterior probability of the upper part: 0 below the lower mean, 1 above the upper mean.

        Between the means it is that of the mixture. A wide Gaussian would win far out on both sides.
        """
        low = (
            np.log1p(-self.upper_share)
            - np.log(self.lower_spread)
            - _half_square(positions, self.lower_mean, self.lower_spread)
        )
        high = (
            np.log(self.upper_share)
            - np.log(self.upper_spread)
            - _half_square(positions, self.upper_mean, self.upper_spread)
        )
        posterior = 1 / (1 + np.exp(np.clip(low - high, -700, 700)))
        posterior = np.where(positions <= self.lower_mean, 0.0, posterior)
        return np.where(positions >= self.upper_mean, 1.0, posterior)

    def reflected(self) -> "TwoParts":
        """Return the mirror image: the lower part is the upper."""
        return TwoParts(-self.upper_mean, self.upper_spread, -self.lower_mean, self.lower_spread, 1 - self.upper_share)


def between(histogram: Histogram, place: float) -> float:
    """Return the place that is nearest and lies between two bins, so that a bin's samples are all on one side."""
    above = int(np.searchsorted(histogram.positions, place))
    if 0 < above < len(histogram.positions):
        return float(histogram.positions[above - 1] + histogram.positions[above]) / 2
    return place


def divide(histogram: Histogram, border: float) -> TwoParts | None:
    """Return the Gaussians of the samples below and above a border; None where one side is empty.

    A mixture that expectation maximisation finds is not what is asked for: the likeliest one of a heavy-tailed class is
    a narrow Gaussian in a wide one, and it hides a part further out.
    """
    split = int(np.searchsorted(histogram.positions, border))
    sides = []
    for part in (slice(None, split), slice(split, None)):
        counts, positions = histogram.counts[part], histogram.positions[part]
        size = float(counts.sum())
        if not size:
            return None
        mean = float(counts @ positions) / size
        sides.append((mean, float(np.sqrt(counts @ (positions - mean) ** 2 / size)), size))
    (lower_mean, lower_spread, lower), (upper_mean, upper_spread, upper) = sides
    floor = _LEAST_SPREAD * (upper_mean - lower_mean)
    return TwoParts(lower_mean, max(lower_spread, floor), upper_mean, max(upper_spread, floor), upper / (lower + upper))


def count_interval(histogram: Histogram, parts: TwoParts, border: float) -> tuple[float, float, float]:
    """Return the number of samples in the upper part: estimate, low, high.

    The estimate is the samples above the border, as long as the mixture does not say otherwise: it is moved into the
    interval of the mixture, which is for the samples at hand, not for a population: from the samples that are in the
    part with probability 0.975 or more to those with 0.025 or more, widened by 1.96 standard deviations of the sum of
    the posterior memberships.
    """
    posterior = parts.upper_probability(histogram.positions)
    expected = float(histogram.counts @ posterior)
    slack = 1.96 * float(np.sqrt(histogram.counts @ (posterior * (1 - posterior))))
    sure = float(histogram.counts[posterior >= 0.975].sum())
    possible = float(histogram.counts[posterior >= 0.025].sum())
    above = float(histogram.counts[histogram.positions > border].sum())
    low, high = min(sure, expected - slack, above), max(possible, expected + slack, above)
    return above, max(0.0, low), min(histogram.samples, high)


def _half_square(positions: np.ndarray, mean: float, spread: float) -> np.ndarray:
    return np.asarray(0.5 * ((positions - mean) / spread) ** 2)
