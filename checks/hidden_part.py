"""Is a part of a class hidden along a line: apart from the rest, and further than classes are from one another?

The three rules (a, b, c) and their cuts stand here; `millcert.checks.detectors.robust_spectral` says what they are for.
"""

from dataclasses import dataclass

from millcert.checks.mixture import Histogram, TwoParts, border, count_interval, fit_two_parts, valley_p_value

#: Rule a: Ashman's D above which two parts count as apart. Ashman et al. (1994) ask for 2; mixtures fitted to clean
#: heavy-tailed classes reach 3 (research, oracle-free table), so 4.
LEAST_ASHMAN_D = 4.0
#: Rule b: family-wise false alarms of the valley test over the classes of a data set.
SIGNIFICANCE = 0.01
#: Rule c: two independent class centres are sqrt(2) times as far from one another as one is from the mean of many.
LEAST_GAP_OVER_DISTANCE = 2**0.5
#: Where the smaller part is above this share of its class, the part that stands away from the other classes is the odd
#: one; below, the smaller part is.
SURE_MINORITY = 1 / 3


@dataclass(frozen=True)
class HiddenPart:
    """The best candidate for a hidden part along one line, in units of the line's histogram.

    is_hidden: all three rules hold.
    sign: -1 where the odd part is the lower one; the other fields are for positions times `sign`.
    border: positions x sign above it belong to the odd part.
    half_gap: half the distance of the two means.
    ashman_d, gap, odd_fraction: of the mixture.
    p_value: of the valley test, corrected for all tests.
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


def find_hidden_part(histogram: Histogram, *, others: float, gap_needed: float, tests: int) -> HiddenPart | None:
    """Return the best candidate along a line, hidden or not; None where the line has no two parts.

    Args:
        histogram: positions of a class's samples.
        others: where the mean of all other classes lies on the line.
        gap_needed: rule c, in the line's units.
        tests: number of classes judged, for the family-wise correction.
    """
    candidates = []
    for parts in fit_two_parts(histogram):
        holds_a, holds_c = parts.ashman_d > LEAST_ASHMAN_D, parts.gap > gap_needed
        p_value = _valley(histogram, parts, tests) if holds_a and holds_c else 1.0
        candidates.append(_candidate(histogram, parts, others, p_value, is_far=holds_a and holds_c))
    return max(candidates, key=lambda candidate: candidate.rank, default=None)


def _candidate(histogram: Histogram, parts: TwoParts, others: float, p_value: float, *, is_far: bool) -> HiddenPart:
    sign = 1.0 if _upper_is_odd(parts, others) else -1.0
    if sign < 0:
        histogram, parts = histogram.reflected(), parts.reflected()
    estimate, low, high = count_interval(histogram, parts)
    return HiddenPart(
        is_hidden=is_far and p_value <= SIGNIFICANCE,
        sign=sign,
        border=border(histogram, parts),
        half_gap=parts.gap / 2,
        ashman_d=parts.ashman_d,
        gap=parts.gap,
        odd_fraction=parts.upper_share,
        p_value=p_value,
        estimate=estimate,
        low=low,
        high=high,
    )


def _valley(histogram: Histogram, parts: TwoParts, tests: int) -> float:
    """Return the corrected p-value of the valley on the way from the larger part to the smaller."""
    if parts.upper_share > 0.5:
        histogram, parts = histogram.reflected(), parts.reflected()
    return min(1.0, tests * valley_p_value(histogram, parts))


def _upper_is_odd(parts: TwoParts, others: float) -> bool:
    if min(parts.upper_share, 1 - parts.upper_share) <= SURE_MINORITY:
        return parts.upper_share <= SURE_MINORITY
    # Neither the other classes nor the clean part of this one have the trigger: along its direction they lie together.
    return abs(parts.upper_mean - others) >= abs(parts.lower_mean - others)
