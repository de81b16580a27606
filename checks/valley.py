"""Is there a valley between two humps on a line? A test of one hump against two, on counts, at many scales at once.

Null: the density has one mode, and beyond it never rises again. Then of two windows on the same side of the mode the
nearer one holds, on average, at least as many samples a length as the farther one; given the samples in both, the count
in the nearer is at least binomial with the share of its length. A valley is a nearer window with too few.

Windows are runs of cells whose lengths grow with the distance from the mode, as tails do, so a narrow part far out and
a broad one near by are tested alike. The idea of testing monotony on all pairs of windows at all scales is that of
Dümbgen and Walther, Annals of Statistics 36 (2008), section 3; here the windows adjoin one another and the union bound
takes the place of their constants.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from millcert.checks.mixture import Histogram, between

#: Cells an octave of (1 + distance from the mode, in spreads), and how many octaves: to 16,000 spreads.
CELLS_AN_OCTAVE = 8
_OCTAVES = 14
#: Valleys begin at least so many octaves out, so one spread: the mode's place is not known better than that.
_FIRST_OCTAVE = 1
#: Lengths of windows in cells.
_RUNS = (1, 2, 4, 8)
#: The mode is sought in the shortest interval with this share of the samples: a single one even where two parts are of
#: one size. A Gaussian's is 1.049 standard deviations long.
_DENSEST_SHARE = 0.4
_GAUSSIAN_LENGTH = 1.0488
#: Part of a valley that the border is the middle of: the emptiest such stretch.
_STRETCH = 1 / 3
_STEPS = 31
#: Logarithms of p-values end here: a float64 holds no less.
_LEAST_LOG = -700.0


class Middle(NamedTuple):
    """Where most samples of a line are. mode: a place; spread: their standard deviation, were they Gaussian; over 0."""

    mode: float
    spread: float


@dataclass(frozen=True)
class Valley:
    """The least likely valley of a line.

    log_p: natural logarithm of its p-value for one test, 0 at most. tests: how many tests could have come out so.
    start, end: where it is, ascending. border: the middle of its emptiest stretch.
    """

    log_p: float
    tests: int
    start: float
    border: float
    end: float


@dataclass(frozen=True, eq=False)
class _Windows:
    """All pairs of adjoining windows: cells [inner, middle) are the valley, [middle, outer) the hump behind it."""

    edges: np.ndarray
    inner: np.ndarray
    middle: np.ndarray
    outer: np.ndarray
    share: np.ndarray


def _windows() -> _Windows:
    fine = np.arange(_FIRST_OCTAVE * CELLS_AN_OCTAVE, _OCTAVES * CELLS_AN_OCTAVE + 1)
    edges = 2.0 ** (fine // CELLS_AN_OCTAVE) * (1 + (fine % CELLS_AN_OCTAVE) / CELLS_AN_OCTAVE) - 1
    pairs = [
        (start, start + near, start + near + far)
        for near in _RUNS
        for far in _RUNS
        for start in range(len(edges) - near - far)
    ]
    inner, middle, outer = np.array(pairs).T
    return _Windows(edges, inner, middle, outer, (edges[middle] - edges[inner]) / (edges[outer] - edges[inner]))


_ALL = _windows()


def middle_of(positions: np.ndarray) -> Middle | None:
    """Return the middle of sorted positions: of the shortest interval with 40 % of them; None where that is a point.

    Source: the shorth, Andrews et al. 1972; with less than half of the samples, for classes of two equal parts.
    """
    held = max(2, int(np.ceil(_DENSEST_SHARE * len(positions))))
    if len(positions) < held:
        return None
    lengths = positions[held - 1 :] - positions[: len(positions) - held + 1]
    start = int(lengths.argmin())
    if lengths[start] <= 0:
        return None
    return Middle(float(positions[start] + positions[start + held - 1]) / 2, float(lengths[start]) / _GAUSSIAN_LENGTH)


def find_valley(histogram: Histogram, middle: Middle, *, level: float) -> Valley | None:
    """Return the least likely valley on either side of the mode; None where nothing rises again.

    Args:
        histogram: positions of samples, or bins whose borders are those of the windows.
        middle: of these positions, or of a sample of them.
        level: natural logarithm of the level that a valley must reach, before the tests of this line are counted. Pairs
            of windows that cannot reach it, however empty the nearer one is, do not count as tests (Tarone, Biometrics
            46, 1990).

    Cost: about 0.3 ms.
    """
    deepest = deepest_valley(histogram, middle)
    if deepest is None:
        return None
    attainable = np.concatenate([total * np.log1p(-_ALL.share) for total in deepest.totals])
    return Valley(deepest.log_p, _tests(attainable, level), deepest.start, deepest.border, deepest.end)


@dataclass(frozen=True, eq=False)
class DeepestValley:
    """The least likely valley of a line before its tests are counted: what a search of many lines compares.

    log_p: as of a `Valley`. side: the histogram, or its mirror image, in which it lies above the mode.
    low, high: where it is there. is_mirrored: which of the two it is.
    totals: samples in each pair of windows, of either side.
    """

    log_p: float
    side: Histogram
    low: float
    high: float
    is_mirrored: bool
    totals: tuple[np.ndarray, ...]

    @property
    def start(self) -> float:
        """Its lower end."""
        return -self.high if self.is_mirrored else self.low

    @property
    def end(self) -> float:
        """Its upper end."""
        return -self.low if self.is_mirrored else self.high

    @property
    def border(self) -> float:
        """The middle of its emptiest stretch."""
        border = _emptiest(self.side, self.low, self.high)
        return -border if self.is_mirrored else border


def deepest_valley(histogram: Histogram, middle: Middle) -> DeepestValley | None:
    """Return the least likely valley on either side of the mode; None where nothing rises again.

    Cost: about 0.1 ms.
    """
    best: tuple[float, bool, Histogram, float, float] | None = None
    totals, counts = [], (0.0, 0.0, 0.5)
    for sign, side in ((1.0, histogram), (-1.0, histogram.reflected())):
        edges = sign * middle.mode + middle.spread * _ALL.edges
        below = side.below(edges)
        nearer, farther = below[_ALL.middle] - below[_ALL.inner], below[_ALL.outer] - below[_ALL.middle]
        totals.append(nearer + farther)
        emptier = np.flatnonzero(nearer < _ALL.share * totals[-1])  # in all others the bound is 0
        if not len(emptier):
            continue
        bound = _log_bound(nearer[emptier], farther[emptier], _ALL.share[emptier])
        least = int(bound.argmin())
        if bound[least] < (best[0] if best is not None else 0.0):
            place = int(emptier[least])
            low, high = float(edges[_ALL.inner[place]]), float(edges[_ALL.middle[place]])
            best = float(bound[least]), sign < 0, side, low, high
            counts = float(nearer[place]), float(farther[place]), float(_ALL.share[place])
    if best is None:
        return None
    _, is_mirrored, side, low, high = best
    return DeepestValley(_log_binomial(*counts), side, low, high, is_mirrored, tuple(totals))


def _tests(attainable: np.ndarray, level: float) -> int:
    """Return the least k so that at most k tests could reach the level over k, from the least each can attain."""
    able = np.sort(attainable[attainable <= level])
    ranks = np.arange(1, len(able) + 1)
    beyond = np.append(able[1:], np.inf) > level - np.log(ranks)
    return int(ranks[beyond][0]) if len(able) else 1


def log_level(significance: float, lines: int) -> float:
    """Return the level of one line for a family-wise significance over so many lines."""
    return float(np.log(significance / max(1, lines)))


def corrected_p(valley: Valley, lines: int) -> float:
    """Return the valley's p-value, corrected for the tests of its line and for the lines that were tested."""
    return float(min(1.0, np.exp(min(0.0, valley.log_p + np.log(float(valley.tests) * max(1, lines))))))


def _log_bound(nearer: np.ndarray, farther: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the Chernoff bound of the binomial tail, natural logarithms, 0 where the nearer window is full enough.

    Source: Hoeffding, J. Am. Stat. Assoc. 58 (1963), theorem 1. It only picks the pair; its p-value is exact.
    """
    total = nearer + farther
    part = np.minimum(nearer / np.maximum(total, 1.0), share)
    empty = np.where(part > 0, part * np.log(np.where(part > 0, part, 1.0) / share), 0.0)
    return np.asarray(-total * (empty + (1 - part) * np.log((1 - part) / (1 - share))))


def _log_binomial(nearer: float, farther: float, share: float) -> float:
    """Return the logarithm of a binomial tail. scipy.stats has it too, at a hundred times the cost a call."""
    from scipy.special import bdtr

    with np.errstate(divide="ignore"):
        return float(np.clip(np.log(bdtr(nearer, int(nearer + farther), share)), _LEAST_LOG, 0.0))


def _emptiest(histogram: Histogram, low: float, high: float) -> float:
    """Return the middle of the emptiest stretch between two places, or of all of these; it lies between two bins."""
    width = (high - low) * _STRETCH
    starts = np.linspace(low, high - width, _STEPS)
    held = histogram.below(starts + width) - histogram.below(starts)
    return between(histogram, float(starts[held == held.min()].mean()) + width / 2)
