"""How many samples of a cell are too many on one side of a line, compared with the same class elsewhere."""

from typing import NamedTuple

import numpy as np

from millcert.checks.flagging import Counts

#: Bins of a standardised position: 1/64 wide, from -16 to 16; what lies beyond counts in the end bins.
BINS_PER_UNIT, _REACH = 64, 16
#: Parts of the rest that lie below the border at which the cell is compared.
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
#: Normal quantile of a 95 % interval at each of six borders at once, for one of them is chosen: 1 - 0.025 / 6.
_NORMAL_QUANTILE = 2.638257


class Excess(NamedTuple):
    """estimate, low, high: the number of surplus samples with its 95 % interval; above: the position they lie above."""

    estimate: float
    low: float
    high: float
    above: float


def bin_of(position: np.ndarray) -> np.ndarray:
    """Return the bins of standardised positions, int64, for `Counts`."""
    return np.floor(np.clip(position, -_REACH, _REACH) * BINS_PER_UNIT).astype(np.int64)


def count_excess(own: Counts, rest: Counts) -> Excess:
    """Return how many samples of a cell lie too far up.

    The clean part of the cell is taken to lie as the rest does. Of it, a known share lies below a border; what the cell
    has there, over that share, is how large its clean part is. Borders further up are more exact, but the surplus may
    lie below them: the one with the largest lower bound is taken.

    Args:
        own: `bin_of` counts of the cell, at least one.
        rest: of the rest of the class, at least one.

    Source: the null proportion of Storey, J. R. Stat. Soc. B 64 (2002), section 3, with the rest in place of a uniform
        distribution.
    """
    total = own.total
    below = np.cumsum(rest.counts) / rest.total
    best, most = Excess(0.0, 0.0, 0.0, float(_REACH)), 0.0
    for share in _SHARES:
        place = int(np.searchsorted(below, share))
        exact = float(below[place])
        clean = int(own.at(-(2**40), int(rest.keys[place]) + 1).counts.sum()) / exact
        error = _NORMAL_QUANTILE * float(
            np.sqrt(clean * (1 - exact) / exact + clean**2 * (1 - exact) / exact / rest.total)
        )
        low, high = max(0.0, total - clean - error), min(float(total), max(0.0, total - clean) + error)
        most = max(most, high)
        if share == _SHARES[0] or low > best.low:
            best = Excess(max(0.0, total - clean), low, high, best.above)
    from_top = np.cumsum(own.counts[::-1])[::-1]
    wanted = round(best.estimate)
    enough = np.flatnonzero(from_top >= wanted) if wanted else np.zeros(0, dtype=np.int64)
    best = best._replace(high=most)
    return best._replace(above=float(own.keys[enough[-1]]) / BINS_PER_UNIT if len(enough) else best.above)
