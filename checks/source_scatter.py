"""How far honest sources' means lie apart beyond their sampling error, and what that does to a test of one more source.

The scatter is taken to be along one line: of all shapes, the one in which an honest source lies furthest out by chance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: The scatter is read off this quantile of the sources' distances, so up to a quarter of them may be bad.
_QUANTILE = 0.75
_NORMAL_QUANTILE = 0.6744897501960817
#: Of the degrees of freedom of a variance, how many its estimate by that quantile keeps (against the mean square).
_EFFICIENCY = 0.6
#: Standard error of that quantile, in standard deviations over the root of the count: sqrt(3) / 4 over the density.
_QUANTILE_ERROR = 1.363
#: Standard errors above its value without scatter before any scatter is allowed for: chance alone gives half a one.
_SURE = 2.0
_HALVINGS = 40


class Distances(NamedTuple):
    """Squared distances of sources' means from the rest of their class.

    source: names, n.
    square: float64 (n,), a coordinate, in variances within cells.
    error: float64 (n,), what sampling alone gives on average.
    width: coordinates.
    """

    source: tuple[str, ...]
    square: np.ndarray
    error: np.ndarray
    width: int


class Scatter(NamedTuple):
    """variance: between sources, a coordinate, in variances within cells; freedom: how well it is known."""

    variance: float
    freedom: float


NO_SCATTER = Scatter(0.0, 1.0)


def estimate_scatter(parts: Sequence[Distances]) -> Scatter:
    """Return the scatter under which the upper quartile of all distances is what it should be.

    It is 0 unless the quartile lies two standard errors above what sampling alone gives: scatter that so many cells do
    not show is too small to lead a test astray, and what chance gives would hide small shifts.

    Args:
        parts: one a class; a source counts in each class, but is one source for `freedom`.
    """
    parts = [part for part in parts if len(part.source)]
    if not parts:
        return NO_SCATTER
    source = np.array([name for part in parts for name in part.source])
    square = np.concatenate([part.square for part in parts])
    error = np.concatenate([part.error for part in parts])
    width = np.concatenate([np.full(len(part.source), part.width) for part in parts])
    floor = float(np.median(error))  # more precise than the others is not better: one source must not decide alone

    def weights(scatter: float) -> np.ndarray:
        return 1 / (error + floor + scatter) ** 2

    def excess(scatter: float) -> float:
        expected = _quantile_ratio(worst_dimension(scatter / error, width)) * (error + scatter)
        return _weighted_quantile(square / expected, weights(scatter)) - 1

    even = weights(0.0)
    spread = np.sqrt(2 / np.average(width, weights=even) * (even * even).sum()) / even.sum()
    low, high = 0.0, float(square.max()) if excess(0.0) > _SURE * _QUANTILE_ERROR * spread else 0.0
    for _ in range(_HALVINGS if high > 0 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    _, which = np.unique(source, return_inverse=True)
    weight = np.bincount(which, weights=weights(high))
    return Scatter(high, max(1.0, _EFFICIENCY * float(weight.sum() ** 2 / (weight * weight).sum())))


def worst_dimension(added: np.ndarray, width: np.ndarray | int) -> np.ndarray:
    """Return the degrees of freedom of a squared distance whose scatter between sources is all along one line.

    Args:
        added: that scatter over the sampling error, both a coordinate.
        width: the coordinates.

    Source: Satterthwaite's matching of the first two moments, Biometrics Bulletin 2 (1946).
    """
    return (1 + added) ** 2 * width / (1 + 2 * added + added**2 * width)


def _quantile_ratio(freedom: np.ndarray) -> np.ndarray:
    """Return the upper quartile of a chi-square over its degrees of freedom, 1 or more (Wilson and Hilferty, 1931)."""
    part = 2 / (9 * freedom)
    return (1 - part + _NORMAL_QUANTILE * np.sqrt(part)) ** 3


def _weighted_quantile(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    weight = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(weight, _QUANTILE * weight[-1])])
