"""From which size on a group of copies is no natural one, judged by the sizes of the data's own smaller groups.

Honest data has copies too: quotations, boilerplate, common short texts. How often such things recur follows a power law
(Zipf, 1949; Newman, Contemporary Physics 46, 2005): the number of groups of size k falls as k to the power -s. So:
  1. s comes from the groups below a size m alone (a law cut off at m), at the heavy end of its 95 % interval. It is
     fitted to all groups from single samples on, and again to the groups from pairs on where there are ten: of both the
     one that expects more large groups counts.
  2. That law says how many groups of m or more there should be; how many there are is compared as Poisson counts. The
     sizes that are tested are fixed, a factor of the root of 2 apart, with Bonferroni over them; the bands all see the
     same groups, so their median counts, at twice its p-value (Rueger, Metrika 25, 1978).
  3. The size that is most surprising is a flood's least size, if it is significant and at most `MAX_NATURAL` of its
     groups are expected.
  4. Where copies come by one source, a group may be smaller: from the size on of which less than `DOUBTFUL` groups are
     expected it is a flood if it is concentrated in a source as copies that fall to sources at random are not.
A flood of many groups is found as one of one: all its groups lie above m, and none takes part in the fit, nor does what
is only a splinter of them.
"""

from typing import NamedTuple

import numpy as np

from millcert.checks.flagging import Counts

#: The part of the groups called a flood that may be natural by the fitted law.
MAX_NATURAL = 0.05
#: Natural groups of a size or larger below which copies by one source are judged by the source too.
DOUBTFUL = 0.5
#: Groups from pairs on before their own law is fitted.
LEAST_PAIRS = 10
#: Exponents looked at. At 1 a law has no mean and no end; nothing is a flood below it.
_EXPONENTS = np.linspace(1.005, 24.0, 4600)
#: Half of the 95 % quantile of a chi-squared with one degree of freedom (profile likelihood).
_LIKELIHOOD_DROP = 1.9207


class FloodSizes(NamedTuple):
    """What the sizes say.

    least: the least size of a flood, None where there is none.
    doubtful: the least size that a source may make a flood, None where there is none.
    expected, found: groups of the size `least` or larger, a band.
    p_value: corrected, of the size `least`; 1 where there is none.
    """

    least: int | None
    doubtful: int | None
    expected: float
    found: float
    p_value: float


class LargeGroups(NamedTuple):
    """The groups of at least `least` samples, each a key: counts, band: int64 (g,)."""

    least: int
    counts: np.ndarray
    band: np.ndarray


def flood_sizes(
    sizes: np.ndarray, reach: np.ndarray, fraction: float, large: LargeGroups, *, bands: int, false_alarm_rate: float
) -> FloodSizes:
    """Return from which size on groups are a flood.

    Args:
        sizes: int64, of the sampled keys: how many samples have each.
        reach: int64, of each: the size of the largest group that it belongs with, or its own.
        fraction: the chance of a key to be sampled, in (0, 1].
        large: the groups from some size on.
        bands: keys of a sample.
        false_alarm_rate: the chance that anything is called a flood where the law holds.

    Cost: a table of 4,600 exponents for each size that is tested.
    """
    from scipy.stats import poisson

    tested = _tested_sizes(large)
    tests = len(tested) * (2 if bands > 1 else 1)
    answers: dict[int, tuple[float, float, float]] = {}
    for size in tested:
        found = float(np.sort(np.bincount(large.band[large.counts >= size], minlength=bands))[(bands - 1) // 2])
        expected = _expected(Counts.zero().add(sizes[reach < size]), size, bands) / fraction
        p_value = min(1.0, tests * float(poisson.sf(found - 1, expected))) if np.isfinite(expected) else 1.0
        answers[size] = (p_value, expected, found)
    doubtful = min((size for size, (_, expected, _) in answers.items() if expected < DOUBTFUL), default=None)
    fit = [
        (p_value, size)
        for size, (p_value, expected, found) in answers.items()
        if p_value <= false_alarm_rate and expected <= MAX_NATURAL * found
    ]
    if not fit:
        return FloodSizes(None, doubtful, 0.0, 0.0, 1.0)
    p_value, least = min(fit)
    return FloodSizes(least, doubtful, answers[least][1], answers[least][2], p_value)


def _tested_sizes(large: LargeGroups) -> list[int]:
    most = int(large.counts.max(initial=0))
    found, step = [], 0
    while (size := int(np.ceil(large.least * 2 ** (step / 2)))) <= most:
        found.append(size)
        step += 1
    return found


def _expected(below: Counts, size: int, bands: int) -> float:
    """Return how many groups of a size or larger the sampled smaller groups let expect, a band."""
    most = 0.0 if len(below.keys) else np.inf
    for start in (1, 2):
        groups = below.at(start, size)
        weight = groups.counts / bands
        if start > 1 and weight.sum() < LEAST_PAIRS:
            continue
        if weight.sum():
            most = max(most, _extrapolated(groups.keys, weight, start, size))
    return most


def _extrapolated(sizes: np.ndarray, weight: np.ndarray, start: int, size: int) -> float:
    from scipy.special import zeta

    tail = zeta(_EXPONENTS, float(size))
    inner = zeta(_EXPONENTS, float(start)) - tail
    with np.errstate(divide="ignore"):
        likelihood = -_EXPONENTS * float(weight @ np.log(sizes)) - float(weight.sum()) * np.log(inner)
    heavy = int(np.flatnonzero(likelihood >= likelihood.max() - _LIKELIHOOD_DROP)[0])
    if heavy == 0:
        return float("inf")  # no exponent that has a mean is refused: anything may be natural
    return float(weight.sum() * tail[heavy] / inner[heavy])
