"""One line of positions, one part or two? Two-Gaussian mixtures, Ashman's D, and a test of the valley between them.

Everything works on a histogram (positions and counts), so it costs the same for a thousand samples as for a billion.
"""

from dataclasses import dataclass

import numpy as np

#: Where the mixture starts: the share of samples below the first guess of the border. Poison is 0.5 % or 50 %, on
#: either side.
_START_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.995)
_ITERATIONS = 60
#: A part's standard deviation is at least this share of the whole's: keeps a part from shrinking onto one sample.
_LEAST_SPREAD = 0.02
_FEWEST_SAMPLES = 2.0
#: Windows of half the gap that are tried for the emptiest; any two that do not overlap are one test apart.
_WINDOWS = 65
#: Half-gap windows that fit between two parts without overlap, plus one: the tests that the emptiest window stands for.
VALLEY_TESTS = 3


@dataclass(frozen=True, eq=False)
class Histogram:
    """positions: float64 (b,), ascending, centres of bins; counts: float64 (b,), positive; width: of a bin."""

    positions: np.ndarray
    counts: np.ndarray
    width: float

    @property
    def samples(self) -> float:
        """How many samples there are."""
        return float(self.counts.sum())

    def reflected(self) -> "Histogram":
        """Return the mirror image: what was low is high."""
        return Histogram(-self.positions[::-1], self.counts[::-1], self.width)


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


def fit_two_parts(histogram: Histogram) -> tuple[TwoParts, ...]:
    """Return the mixtures that expectation maximisation ends in, from 13 fixed starts; none for a single position.

    All ends are returned, not the likeliest one: the likeliest mixture of a clean heavy-tailed class is a narrow
    Gaussian in a wide one, which hides a small part further out. The caller picks by what it looks for.

    Cost: about 5 ms for 1,000 bins.
    """
    positions, counts = histogram.positions, histogram.counts
    total = histogram.samples
    mean = float(counts @ positions) / total if total else 0.0
    spread = float(np.sqrt(counts @ (positions - mean) ** 2 / total)) if total else 0.0
    if len(positions) < 2 or spread == 0:
        return ()
    floor = max(_LEAST_SPREAD * spread, histogram.width / np.sqrt(12))
    below = np.cumsum(counts) / total
    upper = below[None, :] > np.array(_START_SHARES)[:, None]
    upper &= np.arange(len(positions)) > 0  # the lower part holds at least the first bin
    upper[:, -1] = True
    weights = upper.astype(np.float64)
    for _ in range(_ITERATIONS):
        share, means, spreads = _maximise(weights, positions, counts, floor)
        weights = _expect(share, means, spreads, positions)
    parts = []
    for row in range(len(weights)):
        if min(share[row], 1 - share[row]) * total < _FEWEST_SAMPLES:
            continue
        one = TwoParts(*(float(figure[row]) for figure in (means[0], spreads[0], means[1], spreads[1], share)))
        swapped = TwoParts(one.upper_mean, one.upper_spread, one.lower_mean, one.lower_spread, 1 - one.upper_share)
        parts.append(one if one.gap >= 0 else swapped)
    return tuple(part for part in parts if part.gap > 0)


def valley_p_value(histogram: Histogram, parts: TwoParts) -> float:
    """Return the chance of so empty a valley between the parts if there were only one part, in [0, 1].

    Null: the density does not rise again after the lower part's mean. Then a window nearer to that mean holds, on
    average, at least as many samples per length as a window further out. Compared: the emptiest window of half the gap
    between the means, and the window of one spread each side of the upper mean (an eighth of the gap at least: a few
    samples that happen to be close make no narrow part). Given the samples in both, the count in the valley is at least
    binomial with the share of its length. Multiplied by `VALLEY_TESTS` for the choice of the window.
    Our choice; power and false alarms in bench/robust_spectral.py.
    """
    from scipy.stats import binom  # scipy.stats takes a second to import

    half = parts.gap / 2
    starts = np.linspace(parts.lower_mean, parts.upper_mean - half, _WINDOWS)
    valley = float((_below(histogram, starts + half) - _below(histogram, starts)).min())
    reach = max(parts.upper_spread, parts.gap / 8)
    low, high = _below(histogram, np.array([parts.upper_mean - reach, parts.upper_mean + reach]))
    peak = float(high - low)
    share = half / (half + 2 * reach)
    return float(min(1.0, VALLEY_TESTS * binom.cdf(valley, valley + peak, share)))


def count_interval(histogram: Histogram, parts: TwoParts) -> tuple[float, float, float]:
    """Return the number of samples in the upper part: estimate, low, high.

    The estimate is the sum of posterior probabilities. The interval is for the samples at hand, not for a population:
    from the samples that are in the part with probability 0.975 or more to those with 0.025 or more, widened by 1.96
    standard deviations of the sum of the posterior memberships.
    """
    posterior = parts.upper_probability(histogram.positions)
    estimate = float(histogram.counts @ posterior)
    slack = 1.96 * float(np.sqrt(histogram.counts @ (posterior * (1 - posterior))))
    sure = float(histogram.counts[posterior >= 0.975].sum())
    possible = float(histogram.counts[posterior >= 0.025].sum())
    return estimate, max(0.0, min(sure, estimate - slack)), min(histogram.samples, max(possible, estimate + slack))


def border(histogram: Histogram, parts: TwoParts) -> float:
    """Return the position above which a sample more likely belongs to the upper part; an edge between two bins."""
    grid = np.arange(parts.lower_mean, parts.upper_mean + histogram.width, histogram.width)
    likely = np.flatnonzero(parts.upper_probability(grid) > 0.5)
    return float(grid[likely[0]] - histogram.width / 2)


def _half_square(positions: np.ndarray, mean: float | np.ndarray, spread: float | np.ndarray) -> np.ndarray:
    return 0.5 * ((positions - mean) / spread) ** 2


def _below(histogram: Histogram, edges: np.ndarray) -> np.ndarray:
    """Return how many samples lie below each edge."""
    before = np.concatenate([[0.0], np.cumsum(histogram.counts)])
    return before[np.searchsorted(histogram.positions, edges)]


def _maximise(
    weights: np.ndarray, positions: np.ndarray, counts: np.ndarray, floor: float
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Return share of the upper part (s,), and means and spreads of both parts, for s starts at once."""
    means, spreads, sizes = [], [], []
    for part in (1 - weights, weights):
        mass = part * counts
        size = np.maximum(mass.sum(axis=1), 1e-9)
        mean = mass @ positions / size
        variance = np.maximum(mass @ positions**2 / size - mean**2, 0)
        means.append(mean)
        spreads.append(np.maximum(np.sqrt(variance), floor))
        sizes.append(size)
    share = np.clip(sizes[1] / (sizes[0] + sizes[1]), 1e-9, 1 - 1e-9)
    return share, means, spreads


def _expect(share: np.ndarray, means: list[np.ndarray], spreads: list[np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Return the posterior of the upper part, shape (s, b)."""
    low, high = (
        (np.log(weight / spread))[:, None] - _half_square(positions[None, :], mean[:, None], spread[:, None])
        for weight, mean, spread in ((1 - share, means[0], spreads[0]), (share, means[1], spreads[1]))
    )
    return 1 / (1 + np.exp(np.clip(low - high, -700, 700)))
