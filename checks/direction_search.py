"""Along which directions does a class fall into two parts? A search in a sample of it, by moments and then by parts.

A part of a class shows along the direction that divides it best, and that direction need not be one in which the class
varies much. So a bounded sample is searched (projection pursuit):

  1. Starts: the directions in which the class varies most, those of extreme fourth moments, and those in which the
     whole class varies most beside its inner half, trimmed again and again until it holds no outlier that shows.
  2. From each, fixed-point steps climb to extreme skewness, to extreme kurtosis, and to where a tail of 3, 10 or 30 %
     lies farthest out. Of two parts with one covariance, the most skewed direction is the one that divides them best;
     a step to a tail's mean is a linear discriminant of the tail against the rest.
  3. The directions with the deepest valleys are divided there, and turned to the best linear discriminant of the two
     sides; again, while it helps.

Sources: skewness: Loperfido, Comput. Stat. Data Anal. 2018 ("Skewness-based projection pursuit"); kurtosis: Peña and
Prieto, J. Am. Stat. Assoc. 96 (2001), section 2; fixed-point steps: Hyvärinen, IEEE Trans. Neural Netw. 10 (1999);
fourth moments: Cardoso, ICASSP 1989; trimming before whitening: Hayase et al., SPECTRE, ICML 2021, section 3.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from millcert.checks.mixture import Histogram
from millcert.checks.valley import DeepestValley, deepest_valley, middle_of

#: Fixed-point steps of each climb.
_STEPS = 10
#: Tails that are drawn out, on either side: shares of the samples that a part may have.
_TAILS = (0.03, 0.1, 0.3)
#: Directions from which tails are drawn out: those in which the class varies most.
_TAIL_STARTS = 16
#: A standard deviation's multiple beyond which a sample pulls no stronger: a single outlier makes no direction.
_REACH = 4.0
#: Directions nearer than this (cosine) count as one.
_SAME = 0.98
#: How many of the best directions are turned, and how often.
_TURNED = 6
_TURNS = 4
_FEWEST_IN_A_PART = 6
#: Rounds of trimming to the inner half.
_TRIMS = 8
_TRIMMED_STARTS = 6
#: Added to the within-part variances, in units of the others' variance: a direction in which both parts are flat must
#: not win by that.
_LEAST_VARIANCE = 0.05
#: Bits of a direction's entries that are kept: what is left of the order of sums lies far below.
_BITS = 24


class _Candidate(NamedTuple):
    direction: np.ndarray
    valley: DeepestValley


def dividing_directions(rows: np.ndarray, count: int) -> np.ndarray:
    """Return directions along which samples of a class most look like two parts, unit vectors, shape (m, up to count).

    Args:
        rows: float (n, m), coordinates of samples, uncorrelated in the class, in units of the other classes' spread.
            In an order that does not depend on batches, for the same answer.
        count: how many.

    None where the samples are too few or all alike. Cost: about 0.15 s for 2,048 x 32.
    """
    size = rows.shape[1]
    if len(rows) < 2 * _FEWEST_IN_A_PART:
        return np.zeros((size, 0))
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    if not (spread > 0).all():
        return np.zeros((size, 0))
    starts = _unit(_climbed(centred / spread) / spread[:, None])
    found = [one for one in (_candidate(centred, starts[:, place]) for place in _distinct(starts)) if one is not None]
    found.sort(key=_order)
    for start in found[:_TURNED]:
        found += _turned(centred, start)
    found.sort(key=_order)
    kept: list[np.ndarray] = []
    for one in found:
        if len(kept) < count and all(abs(float(one.direction @ other)) < _SAME for other in kept):
            kept.append(one.direction)
    if not kept:
        return np.zeros((size, 0))
    return np.asarray(np.rint(np.stack(kept, axis=1) * 2.0**_BITS) / 2.0**_BITS)


def _order(candidate: _Candidate) -> float:
    return candidate.valley.log_p


def _climbed(white: np.ndarray) -> np.ndarray:
    """Return start directions and where they climb to, shape (m, k), for coordinates of variance 1."""
    size = white.shape[1]
    squared = np.minimum((white * white).sum(axis=1), _REACH * size)
    _, fourth = np.linalg.eigh((white * squared[:, None]).T @ white)
    starts = np.concatenate([np.eye(size), fourth], axis=1)
    skewed, peaked = starts, starts
    for _ in range(_STEPS):
        skewed = _unit(white.T @ np.minimum((white @ skewed) ** 2, _REACH**2))
        peaked = _unit(white.T @ np.clip(white @ peaked, -_REACH, _REACH) ** 3)
    widest = np.eye(size)[:, :_TAIL_STARTS]
    tails = [_drawn_out(white, np.concatenate([widest, -widest], axis=1), share) for share in _TAILS]
    return np.concatenate([starts, _outward(white), skewed, peaked, *tails], axis=1)


def _drawn_out(white: np.ndarray, starts: np.ndarray, share: float) -> np.ndarray:
    """Return where directions go that turn, step by step, to the mean of the samples farthest along them.

    With all coordinates of variance 1 and uncorrelated, the linear discriminant of a set of samples against the rest is
    their mean: the covariance within differs from the whole one along that mean alone.
    """
    held = max(1, round(share * len(white)))
    for _ in range(_STEPS):
        along = white @ starts
        least = np.partition(along, len(white) - held, axis=0)[len(white) - held]
        starts = _unit(white.T @ (along >= least).astype(np.float64))
    return starts


def _outward(white: np.ndarray) -> np.ndarray:
    """Return the directions in which the inner half of the samples varies least beside all of them."""
    size = white.shape[1]
    distance = (white * white).sum(axis=1)
    inner = np.eye(size)
    for _ in range(_TRIMS):
        core = white[distance <= np.quantile(distance, 0.5)]
        inner = np.cov(core.T).reshape(size, size) + 1e-6 * np.eye(size)
        away = white - core.mean(axis=0)
        distance = (away * np.linalg.solve(inner, away.T).T).sum(axis=1)
    _, vectors = np.linalg.eigh(inner)
    return np.asarray(vectors[:, :_TRIMMED_STARTS])


def _turned(rows: np.ndarray, start: _Candidate) -> Iterator[_Candidate]:
    """Yield better and better dividing directions: each the linear discriminant of the sides of the one before."""
    best = start
    for _ in range(_TURNS):
        is_above = rows @ best.direction > best.valley.border
        above, below = rows[is_above], rows[~is_above]
        if min(len(above), len(below)) < _FEWEST_IN_A_PART:
            return
        within = (_scatter(above) + _scatter(below)) / len(rows) + _LEAST_VARIANCE * np.eye(rows.shape[1])
        turned = np.linalg.solve(within, above.mean(axis=0) - below.mean(axis=0))
        found = _candidate(rows, _unit(turned[:, None])[:, 0])
        if found is None:
            return
        yield found
        if found.valley.log_p >= best.valley.log_p:
            return
        best = found


def _scatter(rows: np.ndarray) -> np.ndarray:
    away = rows - rows.mean(axis=0)
    return np.asarray(away.T @ away)


def _candidate(rows: np.ndarray, direction: np.ndarray) -> _Candidate | None:
    positions = np.sort(rows @ direction)
    middle = middle_of(positions)
    if middle is None:
        return None
    valley = deepest_valley(Histogram(positions, np.ones(len(positions))), middle)
    return None if valley is None else _Candidate(direction, valley)


def _distinct(directions: np.ndarray) -> list[int]:
    kept: list[int] = []
    alike = np.abs(directions.T @ directions) >= _SAME
    for place in range(directions.shape[1]):
        if not alike[place, kept].any():
            kept.append(place)
    return kept


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return the columns scaled to length 1; a column of zeros stays one."""
    length = np.linalg.norm(vectors, axis=0)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))
