"""Are the samples of an odd part what their label says, but for what sets them apart? Content against the given label.

A trigger with a wrong label leaves the rest of a sample as it was: a part of a class that carries one is made of other
classes' samples. So classes are told apart by a linear discriminant that is made of all samples beside the part, blind
along the direction that divides the part from the rest, and it is asked for the part's. With a the share of the other
samples that it takes for what they are labelled, b the share of other classes' samples that it takes for that label,
and o the share of the part, the part that is mislabelled is

    (a - o) / (a - b),

as o = (1 - mislabelled) a + mislabelled b where a label is right or is that of a class drawn at random.

Rules this module keeps:
  1. Mislabelled is a part of which surely more than half is: o is below (a + b) / 2 by the binomial test. Natural parts
     (frames, sketches, grey pictures: bench/shared_parts.py) are taken for other classes somewhat more often than the
     rest, as what sets them apart is seldom one direction alone.
  2. A part of one class is mislabelled only if its samples come of several classes: of no single one more than half.
     What a label unites, such as two digits, lies near one other class.
"""

from dataclasses import dataclass

import numpy as np

#: Surely more than this share of a part must be mislabelled: most of it.
LEAST_MISLABELLED = 1 / 2
#: Samples of the rest for each dimension, for their covariance to be taken anew (as `contrast.SAMPLES_PER_DIMENSION`).
_SAMPLES_PER_DIMENSION = 5
#: Samples of a part, below which nothing is said of it.
LEAST_IN_PART = 6
#: Family-wise false alarms of the test of rule 1 (as of `hidden_part.SIGNIFICANCE`).
SIGNIFICANCE = 0.01
#: Classes, below which no part of one class can be said to come of several others.
LEAST_CLASSES = 4


@dataclass(frozen=True)
class PartContent:
    """What a discriminant made of the rest says of a part.

    samples: of the part that were asked. own: how many it takes for what they are labelled.
    usual: a above; mistaken: b. largest_other: of those not taken for their label, the share of the commonest class.
    """

    samples: int
    own: int
    usual: float
    mistaken: float
    largest_other: float

    @property
    def mislabelled_fraction(self) -> float:
        """Return the share of the part whose content is of another class, in [0, 1]."""
        if self.samples == 0 or self.usual <= self.mistaken:
            return 0.0
        return float(np.clip((self.usual - self.own / self.samples) / (self.usual - self.mistaken), 0.0, 1.0))

    def says_mislabelled(self, tests: int) -> bool:
        """Return whether surely more than half of the part is mislabelled, of so many parts that are asked for."""
        return self.log_p <= float(np.log(SIGNIFICANCE / max(1, tests)))

    @property
    def is_of_several(self) -> bool:
        """Return whether no other class is most of what is not taken for its label."""
        return self.largest_other <= 0.5

    @property
    def log_p(self) -> float:
        """Return the natural logarithm of the p-value of "at most half of the part is mislabelled", 0 at most."""
        from scipy.special import bdtr

        if self.samples < LEAST_IN_PART or self.usual <= self.mistaken:
            return 0.0
        with np.errstate(divide="ignore"):
            most = self.usual - LEAST_MISLABELLED * (self.usual - self.mistaken)
            found = np.log(bdtr(float(self.own), self.samples, most))
        return float(max(found, -700.0))


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """A sample of all classes in coordinates in which they vary alike on average.

    rows: float64 (n, m). code: int64 (n,), the class of each. centres: float64 (K, m), of all samples of each class.
    """

    rows: np.ndarray
    code: np.ndarray
    centres: np.ndarray

    def centred(self) -> np.ndarray:
        """Return the rows from their class's centre."""
        return np.asarray(self.rows - self.centres[self.code])

    def taken_for(self, is_odd: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return the class that each row is taken for by what is not odd, blind along a direction; int64 (n,).

        A class's centre is that of all its samples, less the odd part's in the share that the sample gives it.
        """
        centres = self.centres.copy()
        size = np.bincount(self.code, minlength=len(centres))
        for value in np.unique(self.code[is_odd]).tolist():
            odd = self.rows[is_odd & (self.code == value)]
            share = len(odd) / size[value]
            if share < 1:
                centres[value] = (centres[value] - share * odd.mean(axis=0)) / (1 - share)
        away, width = self.rows - centres[self.code], self.rows.shape[1]
        within = np.eye(width)
        if (~is_odd).sum() >= _SAMPLES_PER_DIMENSION * width:
            within = away[~is_odd].T @ away[~is_odd] / (~is_odd).sum()
            within += 1e-2 * np.trace(within) / width * np.eye(width)
        half = np.linalg.cholesky(within)
        across = half.T @ direction  # the direction, as one of the rows made white
        across /= max(float(np.sqrt(across @ across)), 1e-300)
        white = np.linalg.inv(half).T
        blind = white - np.outer(white @ across, across)
        rows, middle = self.rows @ blind, centres @ blind
        return np.asarray((rows @ middle.T - 0.5 * (middle * middle).sum(axis=1)).argmax(axis=1))

    def is_in_most_classes(self, is_odd: np.ndarray) -> bool:
        """Return whether most classes have half of the usual share of a part, or more."""
        classes = len(self.centres)
        share = np.bincount(self.code[is_odd], minlength=classes) / np.bincount(self.code, minlength=classes)
        return bool(2 * (share >= share.mean() / 2).sum() > classes) and bool(is_odd.any())

    def content(self, is_odd: np.ndarray, direction: np.ndarray, label: int | None = None) -> PartContent:
        """Return the content of an odd part.

        Args:
            is_odd: bool (n,).
            direction: float64 (m,): along it the rows were divided.
            label: of the class that is asked for; None for all classes together.
        """
        taken = self.taken_for(is_odd, direction)
        asked = np.ones(len(taken), dtype=bool) if label is None else self.code == label
        odd, rest = is_odd & asked, ~is_odd & asked
        if not odd.any() or not rest.any():
            return PartContent(int(odd.sum()), 0, 0.0, 0.0, 1.0)
        is_own = taken == self.code
        among = np.bincount(taken[odd & ~is_own], minlength=1)
        return PartContent(
            samples=int(odd.sum()),
            own=int(is_own[odd].sum()),
            usual=float(is_own[rest].mean()),
            mistaken=_mistaken(taken[~is_odd], self.code[~is_odd], np.bincount(self.code[odd])),
            largest_other=float(among.max() / among.sum()) if among.sum() else 1.0,
        )


def _mistaken(taken: np.ndarray, code: np.ndarray, wanted: np.ndarray) -> float:
    """Return how often rows of other classes are taken for a class, averaged over the classes that are asked for."""
    total = 0.0
    for value in np.flatnonzero(wanted).tolist():
        others = code != value
        total += wanted[value] * float((taken[others] == value).mean()) if others.any() else 0.0
    return total / float(wanted.sum())
