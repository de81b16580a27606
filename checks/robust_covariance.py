"""The covariance of a class's inner samples, in one pass and without knowing quantiles first.

Trimming the outer 20 % asks for a quantile of distances, and a quantile is no sum. Instead the samples fall into eight
shells by distance, each shell keeps its own moments, and the inner shells that hold at most 85 % of the class are added
up afterwards. Over-trimming is what finds poison, under-trimming is what fails (design, section 5), so the exact share
does not matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact import sum_squares
from millcert.checks.moments import Moments
from millcert.errors import InvalidSampleError

#: Borders of the shells, in mean squared distance a direction: it averages 1 over all samples of a class.
SHELL_BORDERS = (0.3, 0.45, 0.6, 0.75, 0.9, 1.1, 1.4)
#: The core is the largest union of inner shells with at most this share of the samples ...
_MOST_OF_CLASS = 0.85
#: ... or the whole class, where that would be less than this share.
_LEAST_OF_CLASS = 0.4


@dataclass(frozen=True, eq=False)
class Shells:
    """Moments of a class's samples by their distance from its mean; immutable, mergeable in any order.

    shells: 8 moments of dimension m, the innermost first.

    Size: 64 x (m + m * m) bytes an exponent: 77 kB at m = 24 with two exponents.
    """

    shells: tuple[Moments, ...]

    @classmethod
    def zero(cls, dimension: int) -> "Shells":
        """Return the shells of no samples."""
        return cls((Moments.zero(dimension),) * (len(SHELL_BORDERS) + 1))

    @property
    def count(self) -> int:
        """How many samples were added."""
        return sum(shell.count for shell in self.shells)

    def add(self, centred: np.ndarray, variance: np.ndarray) -> "Shells":
        """Return the shells with samples added.

        Args:
            centred: float64 (n, m), uncorrelated coordinates less the class's mean.
            variance: float64 (m,), their variances; where 0, the coordinate does not count.
        """
        scale = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
        distance = sum_squares(centred * scale) / max(1, len(variance))
        shell = np.searchsorted(SHELL_BORDERS, distance)
        return Shells(
            tuple(
                part.add_rows(centred[shell == place]) if (shell == place).any() else part
                for place, part in enumerate(self.shells)
            )
        )

    def merge(self, others: Iterable["Shells"]) -> "Shells":
        """Return the shells of all samples of this and the others.

        Raises:
            InvalidSampleError: they have other dimensions.
        """
        parts = list(others)
        if any(len(part.shells) != len(self.shells) for part in parts):
            raise InvalidSampleError("Shells of another version cannot be merged.")
        return Shells(
            tuple(part.merge(other.shells[place] for other in parts) for place, part in enumerate(self.shells))
        )

    def core(self) -> Moments:
        """Return the moments of the inner samples: 40 to 85 % of the class, or all of it."""
        shares = np.cumsum([shell.count for shell in self.shells]) / max(1, self.count)
        fitting = np.flatnonzero(shares <= _MOST_OF_CLASS)
        inner = int(fitting[-1]) if len(fitting) and shares[fitting[-1]] >= _LEAST_OF_CLASS else len(self.shells) - 1
        return self.shells[0].merge(self.shells[1 : inner + 1])
