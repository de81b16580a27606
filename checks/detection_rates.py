"""How well flags and scores find what was planted, with intervals."""

from typing import NamedTuple

import numpy as np

from millcert.errors import NotEnoughSamplesError

#: Two-sided 95 %.
_Z = 1.959963984540054


class Rate(NamedTuple):
    """A share with its 95 % interval, all in [0, 1]."""

    value: float
    low: float
    high: float


def proportion(hits: int, trials: int) -> Rate:
    """Return a share with Wilson's interval.

    Raises:
        NotEnoughSamplesError: there was no trial.

    Source: Wilson, JASA 22 (1927); Brown, Cai, DasGupta, Statistical Science 16 (2001), section 3.1.1.
    """
    if trials < 1:
        raise NotEnoughSamplesError("A share of nothing is undefined.")
    share, spread = hits / trials, _Z * _Z / trials
    centre = (share + spread / 2) / (1 + spread)
    reach = _Z * float(np.sqrt(share * (1 - share) / trials + spread / (4 * trials))) / (1 + spread)
    return Rate(share, max(0.0, centre - reach), min(1.0, centre + reach))


def auroc(score: np.ndarray, is_bad: np.ndarray) -> Rate:
    """Return the chance that a bad sample scores above a good one (a tie counts half), with an interval.

    Args:
        score: float (n,), finite.
        is_bad: bool (n,), with samples of both kinds.

    Source: the standard error is that of Hanley, McNeil, Radiology 143 (1982), equation 2.

    Raises:
        NotEnoughSamplesError: all samples are of one kind.
    """
    bad, good = score[is_bad], np.sort(score[~is_bad])
    if not len(bad) or not len(good):
        raise NotEnoughSamplesError("An AUROC needs good and bad samples.")
    below = np.searchsorted(good, bad).astype(np.float64) + np.searchsorted(good, bad, side="right")
    area = float(below.sum() / (2 * len(good) * len(bad)))
    first, second = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (len(bad) - 1) * (first - area * area) + (len(good) - 1) * (second - area * area)
    reach = _Z * float(np.sqrt(max(variance, 0.0) / (len(bad) * len(good))))
    return Rate(area, max(0.0, area - reach), min(1.0, area + reach))
