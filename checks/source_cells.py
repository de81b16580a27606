"""Which cells (one source's samples of one class) have another mean than the same class has in all other sources.

The null, for each cell and each set of coordinates ("space"; a score is a space of its own, with the null of
`millcert.checks.score_cells` in place of the first step):
  1. Sampling: Hotelling's two-sample T2 of the cell against the rest of its class, with the covariance pooled within
     cells: an F distribution, whatever the sizes. Rows come bounded (clipped at their typical radius), so that heavy
     tails do not reach the mean. A cell with a larger spread than its class keeps its own.
  2. Differences between honest sources: what the other sources' means scatter beyond their sampling error is added to
     the error of the cell (`millcert.checks.source_scatter`).
  3. Bonferroni over all cells and spaces that were tested.
The most significant cell of a class is taken out of it before the others are judged again: a large bad source moves
the rest that the others are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from millcert.checks.score_cells import ScoreMoments, ScoreSpace
from millcert.checks.source_scatter import NO_SCATTER, Distances, Scatter, estimate_scatter, worst_dimension

#: Fewer sources have no odd one out.
LEAST_SOURCES = 3
#: Degrees of freedom of the pooled covariance for each coordinate that is used.
FREEDOM_PER_COORDINATE = 4
#: A direction with less than this part of the largest variance is flat: rounding noise.
_LEAST_VARIANCE = 1e-9

#: Columns of the means, or a score.
Space: TypeAlias = slice | ScoreSpace


@dataclass(frozen=True, eq=False)
class ClassCells:
    """One class in all its sources.

    sources: names, sorted; arrays below are in this order.
    counts: float64 (S,).
    means: float64 (S, m), of bounded rows.
    scales: float64 (S, t): spread of each cell in each space, in any unit that is one for all cells.
    covariance: float64 (m, m), pooled within cells.
    freedom: its degrees of freedom.
    powers: float64 (S, scores, 2), mean square and mean cube of each score.
    """

    sources: tuple[str, ...]
    counts: np.ndarray
    means: np.ndarray
    scales: np.ndarray
    covariance: np.ndarray
    freedom: float
    powers: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 2)))

    def score(self, space: ScoreSpace) -> ScoreMoments:
        """Return the moments of a score."""
        square, cube = self.powers[:, space.power].T
        return ScoreMoments(self.counts, self.means[:, space.column], square, cube).centred()


@dataclass(frozen=True)
class CellShift:
    """What the tests say of one cell.

    is_tested: False where the cell or its class is too small; then all p-values are 1.
    p_values: by space, family-wise corrected, in [0, 1].
    distance: between the cell's mean and the rest's, by space, in standard deviations within cells.
    scatter: the part of it that the other sources' scatter explains, by space, in the same unit.
    is_shifted: a p-value is at most the false alarm rate.
    space: the one with the smallest p-value.
    """

    is_tested: bool
    p_values: tuple[float, ...]
    distance: tuple[float, ...]
    scatter: tuple[float, ...]
    is_shifted: bool
    space: int


def find_shifts(
    classes: Mapping[str, ClassCells],
    spaces: Sequence[Space],
    *,
    false_alarm_rate: float,
    least_samples: int,
    beside: int = 0,
) -> dict[tuple[str, str], CellShift]:
    """Return what the tests say of each cell, by (source, class).

    Args:
        classes: by label.
        spaces: a test is made in each. A class with few samples uses the first columns only.
        false_alarm_rate: the chance that any honest cell of the data set is called shifted.
        least_samples: a cell with fewer is not tested, nor is one whose class has fewer elsewhere, or fewer than three
            sources of that size.
        beside: tests that are made of each cell elsewhere, which the rate is shared with.

    Cost: O(S K m**2), and O(S K m) more for each source with a cell that only scatter could explain.
    """
    tested = {label: _testable(cells, least_samples) for label, cells in classes.items()}
    family = max(1, (len(spaces) + beside) * sum(int(places.sum()) for places in tested.values()))
    level = false_alarm_rate / family
    tests = {
        label: [_test_of(cells, space, number) for number, space in enumerate(spaces)]
        for label, cells in classes.items()
        if tested[label].any()
    }
    common: dict[tuple[str, int], Scatter] = {}

    def common_scatter(source: str, number: int) -> Scatter:
        if (source, number) not in common:
            parts = []
            for label, each in tests.items():
                others = np.array([other != source for other in classes[label].sources])
                parts.append(_distances(classes[label], each[number], others))
            common[source, number] = estimate_scatter(parts)
        return common[source, number]

    found: dict[tuple[str, str], CellShift] = {}
    for label, cells in classes.items():
        shifts = _judge(cells, tests.get(label, []), tested[label], _Level(level, family), common_scatter)
        if not shifts:
            shifts = [untested(len(spaces))] * len(cells.sources)
        found |= {(source, label): shift for source, shift in zip(cells.sources, shifts, strict=True)}
    return found


def columns_of(space: Space) -> slice:
    """Return the columns of a space."""
    return slice(space.column, space.column + 1) if isinstance(space, ScoreSpace) else space


def rest_mean(cells: ClassCells, place: int, left_out: Sequence[int] = ()) -> np.ndarray:
    """Return the mean of a class in all sources but the one at `place` and those left out, float64 (m,)."""
    kept = np.ones(len(cells.counts), dtype=bool)
    kept[[place, *left_out]] = False
    weights = np.where(kept, cells.counts, 0.0)
    mean: np.ndarray = weights @ cells.means / weights.sum()
    return mean


def shift_direction(cells: ClassCells, space: slice, shift: np.ndarray) -> np.ndarray:
    """Return the direction in a space that tells a shift best, of standard deviation 1 within cells; zeros if none.

    Args:
        cells: the class.
        space: columns of its means.
        shift: float64, one for each column of the space.
    """
    kept, whitening = whitening_of(cells, space)
    turned = whitening @ (whitening.T @ shift[kept - space.start])
    length = float(np.sqrt(max(0.0, turned @ shift[kept - space.start])))
    direction = np.zeros(len(shift))
    if length > 0:
        direction[kept - space.start] = turned / length
    return direction


class _Level(NamedTuple):
    """one_test: the largest p-value of a single test that counts; family: how many tests there are."""

    one_test: float
    family: int


class Answer(NamedTuple):
    """What one test says: p-value, distance in standard deviations within cells, and what scatter explains of it."""

    p_value: float
    distance: float
    scatter: float


def judge_distance(square: float, error: float, width: int, freedom: float, scatter: Scatter) -> Answer:
    """Return what Hotelling's T2 says of the distance of two means.

    Args:
        square: squared distance, in variances within cells.
        error: what sampling alone gives of it on average, a coordinate.
        width: coordinates, at least 1.
        freedom: degrees of freedom of the covariance within cells.
        scatter: between honest sources.
    """
    from scipy.special import fdtrc

    spare = freedom - width + 1
    added = scatter.variance / error
    share = added / (1 + added)
    upper = float(worst_dimension(np.array(added), width))
    lower = 1 / ((1 - share) ** 2 / spare + share**2 / scatter.freedom)
    ratio = square / (width * error) * spare / freedom / (1 + added)
    return Answer(float(fdtrc(upper, lower, ratio)), float(np.sqrt(square)), float(np.sqrt(scatter.variance * width)))


def judge_score(
    moments: ScoreMoments, place: int, others: np.ndarray, freedom: float, scatter: Scatter, *, is_one_sided: bool
) -> Answer:
    """Return what permuted sources say of the mean score of the cell at `place` against those of `others`.

    Args:
        moments: of the class.
        place: of the cell.
        others: bool (S,).
        freedom: degrees of freedom of the class's variance.
        scatter: between honest sources, in variances of the score.
        is_one_sided: only a larger mean is suspect.
    """
    (deviate,), (error,) = moments.deviates(np.array([place]), others)
    answer = judge_distance(float(deviate**2 * error), float(error), 1, freedom, scatter)
    if not is_one_sided:
        return answer
    return answer._replace(p_value=answer.p_value / 2) if deviate > 0 else Answer(1.0, 0.0, 0.0)


def _testable(cells: ClassCells, least_samples: int) -> np.ndarray:
    large = cells.counts >= least_samples
    enough = large.sum() >= LEAST_SOURCES and cells.freedom >= FREEDOM_PER_COORDINATE
    return large & (cells.counts.sum() - cells.counts >= least_samples) & enough


def _judge(
    cells: ClassCells,
    tests: "Sequence[_Test]",
    tested: np.ndarray,
    level: _Level,
    common_scatter: Callable[[str, int], Scatter],
) -> list[CellShift]:
    """Return the shifts of one class, none where nothing of it can be tested."""
    active = np.ones(len(tested), dtype=bool)
    judged = [untested(len(tests))] * len(tested)
    while tests and active.sum() >= LEAST_SOURCES:  # which of two differs from the other, nobody can say
        shifts: dict[int, CellShift] = {}
        for place in np.flatnonzero(tested & active).tolist():
            answers = [test.compare(place, active) for test in tests]
            for number, test in enumerate(tests):
                if answers[number].p_value <= level.one_test:
                    source = cells.sources[place]
                    others = active & (np.arange(len(active)) != place)
                    own = estimate_scatter([_distances(cells, test, others)])
                    answers[number] = test.compare(place, active, max(own, common_scatter(source, number)))
            shifts[place] = _shift(answers, level)
        best = min(shifts, key=lambda place: (min(shifts[place].p_values), place), default=-1)
        if best < 0 or not shifts[best].is_shifted:
            for place, shift in shifts.items():
                judged[place] = shift
            break
        judged[best] = shifts[best]
        active[best] = False
    return judged if tests else []


def _distances(cells: ClassCells, space: "_Test", others: np.ndarray) -> Distances:
    places = np.flatnonzero(others)
    if len(places) < LEAST_SOURCES - 1 or not space.width:
        return Distances((), np.zeros(0), np.zeros(0), 0)
    square, error = space.gap(places, others)
    return Distances(tuple(cells.sources[place] for place in places), square / space.width, error, space.width)


def _shift(answers: Sequence[Answer], level: _Level) -> CellShift:
    raw = [answer.p_value for answer in answers]
    return CellShift(
        is_tested=True,
        p_values=tuple(min(1.0, p_value * level.family) for p_value in raw),
        distance=tuple(answer.distance for answer in answers),
        scatter=tuple(answer.scatter for answer in answers),
        is_shifted=min(raw) <= level.one_test,
        space=int(np.argmin(raw)),
    )


def untested(spaces: int) -> CellShift:
    """Return what there is to say of a cell that is not tested."""
    none = (0.0,) * spaces
    return CellShift(is_tested=False, p_values=(1.0,) * spaces, distance=none, scatter=none, is_shifted=False, space=0)


def whitening_of(cells: ClassCells, space: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of a space that a class can support, and what whitens them."""
    wanted = np.arange(cells.means.shape[1])[space]
    variance = np.einsum("ii->i", cells.covariance)[wanted]
    kept = wanted[variance > 0][: max(1, int(cells.freedom) // FREEDOM_PER_COORDINATE)]
    values, vectors = np.linalg.eigh(cells.covariance[np.ix_(kept, kept)])
    usable = values > _LEAST_VARIANCE * float(values.max(initial=0.0))
    return kept, vectors[:, usable] / np.sqrt(values[usable])


@dataclass(frozen=True, eq=False)
class _Space:
    """A class's means in the coordinates of one space, whitened by the covariance within cells.

    counts: (S,); means: (S, width); scale: (S,), spread of each cell against that of the class; freedom: as in
    ClassCells.
    """

    counts: np.ndarray
    means: np.ndarray
    scale: np.ndarray
    freedom: float

    @property
    def width(self) -> int:
        return self.means.shape[1]

    @classmethod
    def of(cls, cells: ClassCells, space: slice, number: int) -> "_Space":
        """Return the space; degenerate coordinates are left out."""
        kept, whitening = whitening_of(cells, space)
        means = cells.means[:, kept] @ whitening
        own = cells.scales[:, number]
        typical = float(cells.counts @ own) / float(cells.counts.sum())
        # Only a larger spread counts: a small cell's is too noisy to make its mean look better known.
        scale = np.maximum(own / typical, 1.0) if typical > 0 else np.ones_like(own)
        return cls(cells.counts, means, scale, cells.freedom)

    def compare(self, place: int, active: np.ndarray, scatter: Scatter = NO_SCATTER) -> Answer:
        """Return what the test says of the cell at `place` against all other active cells."""
        if not self.width:
            return Answer(1.0, 0.0, 0.0)
        others = active.copy()
        others[place] = False
        square, error = self.gap(np.array([place]), others)
        return judge_distance(float(square[0]), float(error[0]), self.width, self.freedom, scatter)

    def gap(self, places: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the squared distance of cells from the rest of `others`, and its expected square a coordinate."""
        weights = np.where(others, self.counts, 0.0)
        rest = weights.sum() - weights[places]
        sums = weights @ self.means - weights[places, None] * self.means[places]
        gap = self.means[places] - sums / rest[:, None]
        spread = (float(weights @ self.scale) - weights[places] * self.scale[places]) / rest
        return (gap * gap).sum(axis=1), self.scale[places] / self.counts[places] + spread / rest


@dataclass(frozen=True, eq=False)
class _Score:
    """A class's means of a score; freedom: as in ClassCells."""

    moments: ScoreMoments
    freedom: float
    is_one_sided: bool
    width: int = 1

    def compare(self, place: int, active: np.ndarray, scatter: Scatter = NO_SCATTER) -> Answer:
        """Return what the test says of the cell at `place` against all other active cells."""
        others = active & (np.arange(len(active)) != place)
        return judge_score(self.moments, place, others, self.freedom, scatter, is_one_sided=self.is_one_sided)

    def gap(self, places: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the squared distance of cells from the rest of `others`, and its expected square."""
        deviates, error = self.moments.deviates(places, others)
        return deviates**2 * error, error


_Test: TypeAlias = _Space | _Score


def _test_of(cells: ClassCells, space: Space, number: int) -> _Test:
    if isinstance(space, ScoreSpace):
        return _Score(cells.score(space), cells.freedom, space.is_one_sided)
    return _Space.of(cells, space, number)
