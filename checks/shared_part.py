"""A part that most classes have, such as all-to-all attacks leave: searched in what the classes vary in alike.

Such a part sets no class apart from the others, so a class measured by the others shows nothing. Put together, each
less its centre, the classes show it: as one direction along which most of them divide.

  1. From the sums of pass 1: the covariance within classes, the directions in which it is large enough to be measured,
     and units in which it is 1 in each.
  2. From a sample of each class, as large for all: `millcert.checks.direction_search`, then what the part is made of
     (`millcert.checks.label_content`). Natural parts that all classes have, such as pictures with a frame, are made of
     what their labels say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from millcert.checks.column_fold import ColumnFold
from millcert.checks.direction_search import dividing_directions
from millcert.checks.hidden_part import LEAST_ASHMAN_D, SIGNIFICANCE, HiddenPart, Line, find_hidden_part
from millcert.checks.label_content import LEAST_CLASSES, LabelledRows, PartContent
from millcert.checks.mixture import Histogram
from millcert.checks.moments import Moments
from millcert.checks.valley import Middle, middle_of

#: Samples of all classes together, and of one at least and at most.
MOST_ROWS, LEAST_OF_CLASS, MOST_OF_CLASS = 2048, 16, 1024
#: Directions that are searched at most, and samples for each, as `contrast.SAMPLES_PER_DIRECTION`.
MOST_DIRECTIONS, SAMPLES_PER_DIRECTION = 128, 16
#: Lines that a search gives, of which one is kept.
SEARCHED = 3
#: A direction with less than this part of the mean variance is flat: a unit that is dead in all classes.
_LEAST_VARIANCE = 1e-4
_RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class WithinClasses:
    """How all classes vary about their centres.

    fold: of the columns. basis: float64 (columns, m): along each of its columns the variance within classes is 1.
    centres: label -> float64 (m,), the class's mean along these.
    """

    fold: ColumnFold
    basis: np.ndarray
    centres: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class SharedLine:
    """A direction along which all classes have an odd part with contents of other classes.

    weights: float64 (columns,), of folded rows. offsets: of each class's centre along it.
    middle: of all classes' positions, each from its class's centre. dimension: of the space that it was chosen in.
    content: of the part.
    """

    weights: np.ndarray
    offsets: Mapping[str, float]
    middle: Middle
    dimension: int
    content: PartContent


class SampledLines(NamedTuple):
    """Lines of a class, and its samples along them.

    positions: of its own sample, float64 (n, lines). alike: of that which is as large for all classes.
    weights: of folded rows, float64 (columns, lines). dimension: of the space that the lines were chosen in.
    """

    positions: np.ndarray
    alike: np.ndarray
    weights: np.ndarray
    dimension: int


def rows_of_class(classes: int) -> int:
    """Return how many rows of each class are sampled."""
    return min(MOST_OF_CLASS, max(LEAST_OF_CLASS, MOST_ROWS // classes))


def within_classes(classes: Mapping[str, Moments], fold: ColumnFold) -> WithinClasses:
    """Return how classes vary about their centres, from the moments of all, of one width."""
    total = sum(part.count for part in classes.values())
    columns = fold.columns
    scatter = np.zeros((columns, columns))
    for _, part in sorted(classes.items()):
        if part.count:
            scatter += part.covariance() * (part.count / total)
    values, vectors = np.linalg.eigh(scatter)
    mean = float(np.trace(scatter)) / columns
    sampled = min(total, rows_of_class(len(classes)) * len(classes))
    kept = min(MOST_DIRECTIONS, sampled // SAMPLES_PER_DIRECTION, int((values > _LEAST_VARIANCE * mean).sum()))
    order = np.arange(columns)[::-1][:kept]
    basis = vectors[:, order] / np.sqrt(values[order] + _RIDGE * mean)
    centres = {label: part.mean() @ basis for label, part in sorted(classes.items()) if part.count}
    return WithinClasses(fold, basis, centres)


def labelled_rows(within: WithinClasses, sampled: Mapping[str, np.ndarray]) -> LabelledRows:
    """Return samples of folded rows, float64 (n, columns) by class, in the units of `within`; classes sorted."""
    labels = sorted(within.centres)
    rows = [sampled[label] @ within.basis for label in labels]
    code = np.repeat(np.arange(len(labels)), [len(part) for part in rows])
    return LabelledRows(np.concatenate(rows), code, np.stack([within.centres[label] for label in labels]))


def mislabelled_lines(
    within: WithinClasses, rows: LabelledRows, lines: Mapping[str, SampledLines], tests: int
) -> dict[str, tuple[float, ...]]:
    """Return for each class and line how mislabelled the odd part along it is, 0 where that is not sure.

    Args:
        within: as `rows` were made by.
        rows: a sample of all classes.
        lines: of the same classes.
        tests: how many parts of the data set are asked for their content, for the family-wise correction.

    Rule 2 of `millcert.checks.label_content` holds: a part that comes of one other class is not sure.
    """
    found: dict[str, tuple[float, ...]] = {}
    inverse = np.linalg.pinv(within.basis)
    for code, (label, sampled) in enumerate(sorted(lines.items())):
        asked, of_class = np.flatnonzero(rows.code == code), []
        back = inverse @ sampled.weights  # the lines, as near as `rows` have them
        for line in range(sampled.positions.shape[1]):
            apart = part_along(sampled.positions[:, line], tests, sampled.dimension)
            fraction = 0.0
            if apart is not None and len(lines) >= LEAST_CLASSES:
                is_odd = np.zeros(len(rows.code), dtype=bool)
                is_odd[asked] = sampled.alike[:, line] * apart[1].sign > apart[1].border
                content = rows.content(is_odd, back[:, line], code)
                if content.says_mislabelled(tests) and content.is_of_several:
                    fraction = content.mislabelled_fraction
            of_class.append(fraction)
        found[label] = tuple(of_class)
    return found


def shared_line(within: WithinClasses, rows: LabelledRows, tests: int) -> SharedLine | None:
    """Return the line along which all classes have a mislabelled part, if there is one.

    Args:
        within: as `rows` were made by.
        rows: a sample of all classes.
        tests: how many parts of the data set are asked for their content, for the family-wise correction.

    Cost: about 0.6 s for 2,048 x 128.
    """
    labels, centred = sorted(within.centres), rows.centred()
    best: tuple[float, SharedLine] | None = None
    directions = dividing_directions(centred, SEARCHED) if centred.shape[1] else np.zeros((0, 0))
    for place in range(directions.shape[1]):
        found = part_along(centred @ directions[:, place], SEARCHED, centred.shape[1])
        if found is None:
            continue
        middle, part, is_odd = found
        if not rows.is_in_most_classes(is_odd):
            continue
        content = rows.content(is_odd, directions[:, place])
        if not content.says_mislabelled(tests) or (best is not None and part.ashman_d <= best[0]):
            continue
        direction = directions[:, place]
        offsets = {label: float(within.centres[label] @ direction) for label in labels}
        best = part.ashman_d, SharedLine(within.basis @ direction, offsets, middle, centred.shape[1], content)
    return None if best is None else best[1]


def part_along(positions: np.ndarray, lines: int, dimension: int) -> tuple[Middle, HiddenPart, np.ndarray] | None:
    """Return the middle of a sample's positions, the odd part and who is in it; None where nothing stands apart."""
    ordered = np.sort(positions)
    middle = middle_of(ordered)
    if middle is None:
        return None
    line = Line(middle, middle.mode, 0.0, lines, dimension)
    part = find_hidden_part(Histogram(ordered, np.ones(len(ordered))), line)
    if part is None or part.ashman_d <= LEAST_ASHMAN_D or part.p_value > SIGNIFICANCE:
        return None
    return middle, part, positions * part.sign > part.border
