"""Two clusters of a sample: k-means with two centres from fixed starts, how sharp the split is, and its null.

The null is elliptical: points of the sample's own distances from its centre, in its own covariance, but in directions
drawn at random. One lump of any tail has such a sample; how well two centres explain it is what chance explains. The
test is that of SigClust (Liu, Hayes, Nobel, Marron, J. Am. Stat. Assoc. 103, 2008) with that null for a Gaussian one.
"""

from hashlib import shake_256
from typing import NamedTuple

import numpy as np

_ROUNDS = 50
#: Samples drawn from the null.
NULL_DRAWS = 60
#: Points of which the silhouette is taken: it compares each with each.
_SILHOUETTE_POINTS = 1000


class Split(NamedTuple):
    """Two clusters.

    centres: float64 (2, d), that of the smaller first. share: of the smaller, in (0, 0.5].
    left: the part of the variance that is left within them, in [0, 1].
    """

    centres: np.ndarray
    share: float
    left: float


def split_in_two(points: np.ndarray) -> Split:
    """Return the best of three splits, started along the first three axes; points: float64 (n, d), n at least 2."""
    total = float(((points - points.mean(axis=0)) ** 2).sum())
    best: Split | None = None
    for axis in range(min(3, points.shape[1])):
        side = points[:, axis] > np.median(points[:, axis])
        for _ in range(_ROUNDS):
            if side.all() or not side.any():
                break
            centres = np.stack([points[~side].mean(axis=0), points[side].mean(axis=0)])
            moved = nearer_second(points, centres)
            if np.array_equal(moved, side):
                break
            side = moved
        if side.all() or not side.any():
            continue
        centres = np.stack([points[~side].mean(axis=0), points[side].mean(axis=0)])
        within = float(((points - centres[side.astype(np.int64)]) ** 2).sum())
        if side.mean() < 0.5:
            centres, side = centres[::-1], ~side
        found = Split(centres, float(1 - side.mean()), within / total if total > 0 else 1.0)
        if best is None or found.left < best.left:
            best = found
    return best if best is not None else Split(np.stack([points.mean(axis=0)] * 2), 0.5, 1.0)


def nearer_second(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return which points are nearer to the second centre, bool (n,)."""
    found: np.ndarray = margin(points, centres) < 0
    return found


def margin(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return how much nearer the first centre is, along the line of both; 0 half way; float64 (n,)."""
    away = centres[0] - centres[1]
    length = float(np.sqrt((away * away).sum()))
    middle = (centres[0] + centres[1]) / 2
    if length == 0:
        return np.zeros(len(points))
    # A sum by columns: its bits do not depend on how many points there are.
    total = np.zeros(len(points))
    for column in range(points.shape[1]):
        total += (points[:, column] - middle[column]) * (away[column] / length)
    return total


def silhouette(points: np.ndarray, centres: np.ndarray) -> float:
    """Return the mean silhouette of the split of the first 1,000 points, in [-1, 1] (Rousseeuw, 1987); 0 for none."""
    part = points[:_SILHOUETTE_POINTS]
    second = nearer_second(part, centres)
    if second.all() or not second.any():
        return 0.0
    squares = (part * part).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * part @ part.T, 0.0))
    sizes = np.array([(~second).sum(), second.sum()], dtype=np.float64)
    sums = np.stack([distance[:, ~second].sum(axis=1), distance[:, second].sum(axis=1)], axis=1)
    own = second.astype(np.int64)
    rows = np.arange(len(part))
    inside = sums[rows, own] / np.maximum(sizes[own] - 1, 1)
    outside = sums[rows, 1 - own] / sizes[1 - own]
    widths = (outside - inside) / np.maximum(np.maximum(inside, outside), 1e-300)
    return float(np.where(sizes[own] > 1, widths, 0.0).mean())


def split_p_value(points: np.ndarray, left: float, seed: int) -> float:
    """Return how likely one lump of these distances and this covariance is split as sharply.

    The logarithm of the variance left is taken as normal, by the mean and variance of 60 draws and Student's t.
    """
    from scipy.special import ndtri
    from scipy.stats import t

    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(points))
    usable = values > 1e-9 * max(float(values[-1]), 1e-300)
    scale = np.sqrt(values[usable])
    whitened = centred @ vectors[:, usable] / scale
    radius = np.sqrt((whitened * whitened).sum(axis=1))
    drawn = []
    for draw in range(NULL_DRAWS):
        name = f"millcert split null {seed} {draw} {whitened.shape}"
        bits = np.frombuffer(shake_256(name.encode()).digest(8 * whitened.size), "<u8").reshape(whitened.shape)
        normal = ndtri((bits.astype(np.float64) + 0.5) / 2.0**64)
        length = np.sqrt((normal * normal).sum(axis=1, keepdims=True))
        drawn.append(split_in_two(normal / length * radius[:, None] * scale).left)
    null = np.log(np.maximum(drawn, 1e-12))
    spread = float(null.std(ddof=1)) * float(np.sqrt(1 + 1 / NULL_DRAWS))
    if spread == 0:
        return 1.0
    return float(t.cdf((np.log(max(left, 1e-12)) - float(null.mean())) / spread, NULL_DRAWS - 1))
