"""Has one class more marked samples than the classes of an honest data set differ by?

  1. The share of marked samples of each class is taken on the arcsine scale, where sampling spreads shares by
     1 / (4 samples), whatever they are.
  2. Null: a class's share scatters about the mean as the other classes' do, which sampling is the least part of. So
     Student's t tells how rarely it lies as far above them; where few samples are marked, the chance that so many of
     them fall into the class at random is often greater, and counts.
  3. Several marks of one sample, such as one border and a stricter one, are one question: their p-values are combined.
  4. Two attacked classes would hide one another, so the most outlying class is set aside and the rest asked anew.

Source: 1 Anscombe, Biometrika 35 (1948); 3 the Cauchy combination of Liu, Xie, JASA 115 (2020), which needs no
independence; 4 the generalised extreme studentised deviate of Rosner, Technometrics 25 (1983), of which each step is
corrected for the classes that it asks (Bonferroni).
"""

from typing import NamedTuple

import numpy as np

#: Other classes than the one that is asked about; with fewer the scatter is too uncertain to name anything.
LEAST_OTHERS = 4
#: Degrees of freedom are taken as at most so many, however many classes there are: that honest classes scatter as a
#: Gaussian is not known far out. Our choice: what ten classes have.
MOST_FREEDOM = 8
#: Classes that may stand out: a quarter of all, and at most so many.
_MOST_OUTLIERS, _OUTLIER_SHARE = 10, 4
#: A p-value near 1 may not outweigh a small one: the tangent has a pole there.
_LARGEST_P = 0.99


class Expected(NamedTuple):
    """Marked samples of a class as the other classes have them; float64, of the shape that was asked for.

    mean, low, high: `low` and `high` are so many standard deviations of a single class away as were asked for.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class ClassScatter(NamedTuple):
    """What the classes' shares of marked samples say.

    p_value: (K,), corrected for all classes and marks. stands_out: bool (K,).
    """

    p_value: np.ndarray
    stands_out: np.ndarray


def scatter_of(marked: np.ndarray, samples: np.ndarray, *, level: float) -> ClassScatter:
    """Return which classes have more marked samples than classes differ by.

    Args:
        marked: whole numbers (marks, K).
        samples: of each class, (K,), at least 1.
        level: chance that any class of an honest data set stands out, in (0, 1).

    With fewer than `LEAST_OTHERS` + 1 classes none stands out and all p-values are 1.
    Cost: O(marks x K) for each class that may stand out.
    """
    classes = len(samples)
    p_value, stands_out = np.ones(classes), np.zeros(classes, dtype=bool)
    if classes <= LEAST_OTHERS:
        return ClassScatter(p_value, stands_out)
    left, steps = np.arange(classes), []
    for step in range(max(1, min(classes // _OUTLIER_SHARE, _MOST_OUTLIERS))):
        found = np.minimum(1.0, len(left) * _combined(_p_values(marked[:, left], samples[left])))
        if not step:
            p_value = found.copy()
        worst = int(found.argmin())
        steps.append((int(left[worst]), float(found[worst])))
        left = np.delete(left, worst)
        if len(left) <= LEAST_OTHERS:
            break
    last = max((number for number, (_, p) in enumerate(steps) if p <= level), default=-1)
    for number, (place, _) in enumerate(steps[: last + 1]):
        # Where a later step finds something, the earlier ones were hidden by it.
        p_value[place], stands_out[place] = min(p for _, p in steps[number : last + 1]), True
    return ClassScatter(p_value, stands_out)


def expected(marked: np.ndarray, samples: np.ndarray, own_samples: int, deviations: float) -> Expected:
    """Return how many samples of one class would be marked if it were as the others.

    Args:
        marked: of the other classes, whole numbers (..., K).
        samples: of each of them, (K,).
        own_samples: of the class that is asked about.
        deviations: 0 or more.
    """
    shares, noise = _on_arcsine(marked, samples), _noise(samples)
    mean = shares.mean(axis=-1)
    spread = np.maximum(shares.var(axis=-1, ddof=1), noise.mean())
    own = max(0.0, float(_noise(np.array(own_samples))) - float(noise.mean()))
    reach = deviations * np.sqrt(spread * (1 + 1 / len(samples)) + own)
    return Expected(*(own_samples * np.sin(np.clip(mean + way, 0.0, np.pi / 2)) ** 2 for way in (0.0, -reach, reach)))


def deviations_of(share: float, others: int) -> float:
    """Return how many standard deviations hold a two-sided interval of 1 - `share` for a class beside `others`."""
    from scipy.stats import t

    return float(t.isf(share / 2, min(others - 1, MOST_FREEDOM)))


def _on_arcsine(marked: np.ndarray, samples: np.ndarray) -> np.ndarray:
    angle: np.ndarray = np.arcsin(np.sqrt((marked + 0.375) / (samples + 0.75)))
    return angle


def _noise(samples: np.ndarray) -> np.ndarray:
    noise: np.ndarray = 1.0 / (4.0 * samples + 2.0)
    return noise


def _p_values(marked: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return the p-value of each class against all others, (marks, K), not corrected."""
    from scipy.stats import binom, t

    others = len(samples) - 1
    shares, noise = _on_arcsine(marked, samples), _noise(samples)
    mean = (shares.sum(axis=1, keepdims=True) - shares) / others
    # Squares about the mean of all, so that nothing is lost to cancellation.
    centred = shares - shares.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1, keepdims=True) - centred**2 - centred**2 / others
    of_others = (noise.sum() - noise) / others
    variance = np.maximum(squares / (others - 1), of_others) * (1 + 1 / others) + np.maximum(0.0, noise - of_others)
    by_scatter = t.sf((shares - mean) / np.sqrt(variance), min(others - 1, MOST_FREEDOM))
    by_chance = binom.sf(marked - 1, marked.sum(axis=1, keepdims=True), samples / samples.sum())
    found: np.ndarray = np.maximum(by_scatter, by_chance)
    return found


def _combined(p_values: np.ndarray) -> np.ndarray:
    """Return one p-value of each column's."""
    # 1 / tan(pi p) is tan(pi (1/2 - p)) without loss near 0.
    statistic = (1.0 / np.tan(np.clip(p_values, 1e-300, _LARGEST_P) * np.pi)).mean(axis=0)
    found: np.ndarray = np.arctan2(1.0, statistic) / np.pi
    return found
