"""Is a part of a class hidden along a line: apart from the rest, and further than classes are from one another?

Three rules (a, b, c) and their cuts stand here; `millcert.checks.detectors.robust_spectral` says what they are for.
"""

from dataclasses import dataclass, replace

import numpy as np

from millcert.checks.mixture import Histogram, TwoParts, between, count_interval, divide
from millcert.checks.valley import Middle, Valley, corrected_p, find_valley, log_level

#: Rule a: Ashman's D above which two parts count as apart. Ashman et al. (1994) ask for 2; the halves of one Gaussian
#: have 2.6, and mixtures fitted to clean heavy-tailed classes reach 3 (research, oracle-free table), so 4.
LEAST_ASHMAN_D = 4.0
#: Rule b: family-wise false alarms of the valley test over the classes of a data set.
SIGNIFICANCE = 0.01
#: Rule c: two independent class centres are sqrt(2) times as far from one another as one is from the mean of many.
LEAST_GAP_OVER_DISTANCE = 2**0.5
#: Where the smaller part is above this share of its class, the part that stands away from the other classes is the odd
#: one; below, the smaller part is.
SURE_MINORITY = 1 / 3
#: Fewer samples are no part of a class.
FEWEST_IN_A_PART = 6
_ROUNDS = 8


@dataclass(frozen=True)
class HiddenPart:
    """The best candidate for a hidden part along one line, in units of the line's histogram.

    is_hidden: all three rules hold.
    sign: -1 where the odd part is the lower one; the other fields are for positions times `sign`.
    border: positions x sign above it belong to the odd part.
    half_gap: half the distance of the two means.
    ashman_d, gap, odd_fraction: of the two parts; D less what the choice of the direction adds to it.
    p_value: of the valley test, corrected for all tests; not for the search of the direction, which rule a answers for.
    estimate, low, high: samples in the odd part.
    """

    is_hidden: bool
    sign: float
    border: float
    half_gap: float
    ashman_d: float
    gap: float
    odd_fraction: float
    p_value: float
    estimate: float
    low: float
    high: float

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Order of candidates: evidence first, then what is apart at all, then by D."""
        return self.is_hidden, self.p_value <= SIGNIFICANCE, self.ashman_d


@dataclass(frozen=True)
class Line:
    """What is known of a line before its histogram.

    middle: mode and spread of the class along it.
    others: where the mean of all other classes lies.
    gap_needed: rule c, in the line's units; 0 where rule d was found to hold in its place.
    lines: how many lines are tested in all, for the family-wise correction.
    dimension: of the space that the direction was chosen in.
    """

    middle: Middle
    others: float
    gap_needed: float
    lines: int
    dimension: int


def find_hidden_part(histogram: Histogram, line: Line) -> HiddenPart | None:
    """Return the best candidate along a line, hidden or not; None where the line has no two parts."""
    valley = find_valley(histogram, line.middle, level=log_level(SIGNIFICANCE, line.lines))
    if valley is None:
        return None
    border, parts = _divided(histogram, valley)
    if parts is None:
        return None
    sign = 1.0
    if not _upper_is_odd(parts, line.others):
        histogram, parts, border, sign = histogram.reflected(), parts.reflected(), -border, -1.0
    estimate, low, high = count_interval(histogram, parts, border)
    ends = sorted((sign * valley.start, sign * valley.end))
    least, most = histogram.samples - histogram.below(np.array(ends[::-1]))
    p_value, apart = corrected_p(valley, line.lines), _unbiased_d(parts, histogram.samples, line.dimension)
    return HiddenPart(
        is_hidden=apart > LEAST_ASHMAN_D and p_value <= SIGNIFICANCE and parts.gap > line.gap_needed,
        sign=sign,
        border=border,
        half_gap=parts.gap / 2,
        ashman_d=apart,
        gap=parts.gap,
        odd_fraction=parts.upper_share,
        p_value=p_value,
        estimate=estimate,
        low=min(low, float(least)),
        high=max(high, float(most)),
    )


def in_class(part: HiddenPart, histogram: Histogram) -> HiddenPart | None:
    """Return what a class has of an odd part that all classes share; None where it has less than a part's samples.

    Args:
        part: of all classes together, along one line.
        histogram: of the class, along the same line.

    The interval is as wide, for the class's number, as that of all.
    """
    above = float(histogram.counts[histogram.positions * part.sign > part.border].sum())
    if above < FEWEST_IN_A_PART:
        return None
    low, high = (bound / max(part.estimate, 1.0) * above for bound in (part.low, part.high))
    return replace(
        part, odd_fraction=above / histogram.samples, estimate=above, low=low, high=min(high, histogram.samples)
    )


def _divided(histogram: Histogram, valley: Valley) -> tuple[float, TwoParts | None]:
    """Return the border and the parts on its sides: it moves to where both parts are as likely, within the valley.

    Each round divides anew (classification maximum likelihood: Celeux and Govaert, Comput. Stat. Data Anal. 14, 1992).
    Free to leave the valley, it would drift to the middle of a heavy tail.
    """
    border, parts = valley.border, divide(histogram, valley.border)
    for _ in range(_ROUNDS):
        if parts is None:
            break
        moved = between(histogram, float(np.clip(parts.crossing, valley.start, valley.end)))
        anew = divide(histogram, moved)
        if moved == border or anew is None:
            break
        border, parts = moved, anew
    return border, parts


def _unbiased_d(parts: TwoParts, samples: float, dimension: int) -> float:
    """Return D less what turning the direction to these very samples adds to its square.

    Source: the bias of the sample Mahalanobis distance, m (1/n1 + 1/n2): Lachenbruch and Mickey, Technometrics 10
    (1968), the estimate DS less its factor, which is near 1 here.
    """
    upper = samples * parts.upper_share
    bias = dimension * (1 / max(upper, 1.0) + 1 / max(samples - upper, 1.0))
    return float(max(0.0, parts.ashman_d**2 - bias) ** 0.5)


def _upper_is_odd(parts: TwoParts, others: float) -> bool:
    if min(parts.upper_share, 1 - parts.upper_share) <= SURE_MINORITY:
        return parts.upper_share <= SURE_MINORITY
    # Neither the other classes nor the clean part of this one have the trigger: along its direction they lie together.
    return abs(parts.upper_mean - others) >= abs(parts.lower_mean - others)
