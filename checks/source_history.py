"""Which cells (one source's samples of one class) have moved since the last admitted version of the data.

What is kept of a version: its frame, and of each cell in it the count, the mean of the bounded rows, and their spread.
The next version's rows are placed in that very frame, so both means are of rows that were bounded alike.

The null, for each cell that both versions have, and each space:
  1. Sampling: Hotelling's T2 of the cell's two means, with the covariance pooled within the cells of its class now; an
     F distribution; of a score corrected for its skewness. A cell with a larger spread than its class keeps its own,
     in either version. Rows that are in both versions make the test conservative: the two means then differ less than
     those of separate samples.
  2. Differences between versions that honest sources show: what the other sources have moved beyond their sampling
     error is added to the error of the cell (`millcert.checks.source_scatter`). With fewer than three sources nothing
     tells an honest move from a bad one, and every move beyond sampling counts. Of few sources one that honestly moved
     much further than the others is named: it looks the same.
  3. Bonferroni over all cells and spaces that were compared. A move below `LEAST_MOVE` is no finding.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from millcert.checks.bounded_cells import spaces_of
from millcert.checks.class_frame import MOST_DOUBT, MOST_SIZE, ClassFrame
from millcert.checks.exact import ExactMatrix
from millcert.checks.score_cells import ScoreSpace, normal_deviates
from millcert.checks.source_cells import (
    FREEDOM_PER_COORDINATE,
    LEAST_SOURCES,
    Answer,
    CellShift,
    ClassCells,
    Space,
    columns_of,
    judge_distance,
    untested,
    whitening_of,
)
from millcert.checks.source_scatter import NO_SCATTER, Distances, Scatter, estimate_scatter
from millcert.errors import IntegrityError

#: Moves below it, in standard deviations within cells, beyond what sampling gives on average, are no finding: with
#: many samples any move is beyond chance. Our choice.
LEAST_MOVE = 0.1
#: Cells that are kept of a version, those with the most samples first: 60 MB at 160 coordinates.
MAX_CELLS = 65_536


@runtime_checkable
class KeepsHistory(Protocol):
    """A check whose sums are kept of an admitted version, where the policy asks to compare the next one with them."""

    def recall(self, model: Any, history: Mapping[str, Any] | None) -> Any:
        """Return the model after the first pass with what was kept; None where nothing was.

        Raises:
            IntegrityError: it is not what `history` returns.
            InvalidSampleError: it is of samples of another shape.
        """
        ...

    def history(self, model: Any) -> Mapping[str, Any]:
        """Return what to keep of this version, of JSON types, of a model that recalled something or None."""
        ...


class KeptCells(NamedTuple):
    """A class's cells in an earlier version: names, sorted; counts (S,), means (S, m) and scales (S, t) by source."""

    sources: tuple[str, ...]
    counts: np.ndarray
    means: np.ndarray
    scales: np.ndarray


class CellMove(NamedTuple):
    """What the tests say of a cell since the earlier version, and how many of its samples are others at the least."""

    shift: CellShift
    least: int


class SourceHistory(NamedTuple):
    """What is known of an earlier version: its frame and cells by label; None and {} where there is none."""

    frame: ClassFrame | None
    cells: Mapping[str, KeptCells]


def find_moves(
    now: Mapping[str, ClassCells], before: SourceHistory, *, false_alarm_rate: float, least_samples: int
) -> dict[tuple[str, str], CellMove]:
    """Return how far each cell has moved, by (source, class); a cell that both versions have not is not tested.

    Args:
        now: cells of this version in the earlier one's frame, by label.
        before: the earlier version.
        false_alarm_rate: the chance that any cell of an honest version is called moved.
        least_samples: a cell with fewer in either version is not tested.

    Cost: O(S K m**2), and O(S K m) more for each source with a cell that only scatter could explain.
    """
    if before.frame is None:
        return {}
    spaces = spaces_of(before.frame)
    pairs = {
        label: [
            _Move.of(cells, before.cells[label], space, least_samples, number) for number, space in enumerate(spaces)
        ]
        for label, cells in now.items()
        if label in before.cells and cells.freedom >= FREEDOM_PER_COORDINATE
    }
    family = max(1, sum(int(move.tested.sum()) for moves in pairs.values() for move in moves))
    level = false_alarm_rate / family
    common: dict[tuple[str, int], Scatter] = {}

    def scatter_of(source: str, moves: Sequence[_Move]) -> Scatter:
        """Return the largest of these spaces."""
        numbers = [move.number for move in moves]
        for number in numbers:
            if (source, number) not in common:
                parts = [each[number].of_others(source) for each in pairs.values()]
                common[source, number] = estimate_scatter(parts)
        own = (estimate_scatter([move.of_others(source)]) for move in moves)
        return max(*own, *(common[source, number] for number in numbers))

    found: dict[tuple[str, str], CellMove] = {}
    for label, moves in pairs.items():
        for place, source in enumerate(moves[0].sources):
            answers = []
            for move in moves:
                answer = move.judge(place, NO_SCATTER)
                if answer.p_value <= level:
                    # Time draws sources anywhere, not along some directions only; of spread it need not change any.
                    answer = move.judge(place, scatter_of(source, [move, *moves[:-1]]))
                answers.append(answer)
            shift = _shift(answers, level, family) if moves[0].tested[place] else untested(len(spaces))
            found[source, label] = CellMove(shift, int(moves[shift.space].least[place]))
    return found


def _shift(answers: Sequence[Answer], level: float, family: int) -> CellShift:
    raw = [answer.p_value for answer in answers]
    return CellShift(
        is_tested=True,
        p_values=tuple(min(1.0, p_value * family) for p_value in raw),
        distance=tuple(answer.distance for answer in answers),
        scatter=tuple(answer.scatter for answer in answers),
        is_shifted=min(raw) <= level,
        space=int(np.argmin(raw)),
    )


@dataclass(frozen=True, eq=False)
class _Move:
    """A class's cells that both versions have, in one space, whitened by the covariance within cells now.

    sources: (S,). square: (S,), squared distance of the two means. error: (S,), what sampling gives, a coordinate.
    least: int64 (S,), how many samples must be others: a bounded row lies at most its space's radius from the middle,
        so one that is exchanged moves the mean by no more than twice that over the samples.
    tested: bool (S,). width, freedom: of the space, and of the covariance. number: of the space. is_less: bool (S,),
        a score that only a larger mean makes suspect is less than it was.
    """

    sources: tuple[str, ...]
    square: np.ndarray
    error: np.ndarray
    least: np.ndarray
    tested: np.ndarray
    width: int
    freedom: float
    number: int
    is_less: np.ndarray

    @classmethod
    def of(cls, now: ClassCells, before: KeptCells, space: Space, least_samples: int, number: int) -> "_Move":
        """Return the moves of the cells of a class."""
        places = {source: place for place, source in enumerate(before.sources)}
        both = tuple(source for source in now.sources if source in places)
        here = np.array([now.sources.index(source) for source in both], dtype=np.int64)
        there = np.array([places[source] for source in both], dtype=np.int64)
        columns = columns_of(space)
        kept, whitening = whitening_of(now, columns)
        apart = (now.means[here] - before.means[there])[:, columns]
        gap = apart[:, kept - columns.start] @ whitening
        typical = float(now.counts @ now.scales[:, number]) / float(now.counts.sum())
        parts = []
        for counts, scales in ((now.counts[here], now.scales[here]), (before.counts[there], before.scales[there])):
            # Only a larger spread counts, as for a cell against the others.
            parts.append((np.maximum(scales[:, number] / typical, 1.0) if typical > 0 else 1.0) / counts)
        error = parts[0] + parts[1]
        square, is_less = (gap * gap).sum(axis=1), np.zeros(len(both), dtype=bool)
        reach = max(1, apart.shape[1]) ** 0.5
        if isinstance(space, ScoreSpace):
            # The skewness of a difference of means: their third cumulants are those of a row over the square counts.
            skewness = now.score(space).skewness() * (parts[0] ** 2 - parts[1] ** 2) / error**1.5
            deviates = normal_deviates(np.sign(apart[:, 0]) * np.sqrt(square / error), skewness)
            square, is_less = deviates**2 * error, (deviates < 0) & space.is_one_sided
            reach = MOST_SIZE if space.power else MOST_DOUBT
        spread = float(np.trace(now.covariance[columns, columns]))
        moved = np.sqrt(np.maximum((apart * apart).sum(axis=1) - spread * error, 0.0))
        least = np.maximum(1, (now.counts[here] * moved / (2 * reach)).astype(np.int64))
        tested = (now.counts[here] >= least_samples) & (before.counts[there] >= least_samples)
        return cls(both, square, error, least, tested, gap.shape[1], now.freedom, number, is_less)

    def judge(self, place: int, scatter: Scatter) -> Answer:
        """Return what the test says of a cell; nothing of a move that is too small to matter."""
        square, error = float(self.square[place]), float(self.error[place])
        if not self.width or self.is_less[place] or square - self.width * error < LEAST_MOVE**2:
            return Answer(1.0, float(np.sqrt(square)), 0.0)
        return judge_distance(square, error, self.width, self.freedom, scatter)

    def of_others(self, source: str) -> Distances:
        """Return the moves of all tested cells but a source's; none where there are too few to say what is usual."""
        others = [place for place in np.flatnonzero(self.tested).tolist() if self.sources[place] != source]
        if len(others) < LEAST_SOURCES - 1 or not self.width:
            return Distances((), np.zeros(0), np.zeros(0), 0)
        names = tuple(self.sources[place] for place in others)
        return Distances(names, self.square[others] / self.width, self.error[others], self.width)


def history_values(frame: ClassFrame, cells: Mapping[str, ClassCells]) -> dict[str, Any]:
    """Return a version's frame and cells in it, of JSON types."""
    sizes = sorted(
        (-float(count), label, source)
        for label, each in cells.items()
        for source, count in zip(each.sources, each.counts, strict=True)
    )
    kept = {(label, source) for _, label, source in sizes[:MAX_CELLS]}
    found = {}
    for label, each in sorted(cells.items()):
        places = [place for place, source in enumerate(each.sources) if (label, source) in kept]
        if places:
            found[label] = {
                "sources": [each.sources[place] for place in places],
                "counts": [int(each.counts[place]) for place in places],
                "means": _text(each.means[places]),
                "scales": _text(each.scales[places]),
            }
    parts = {name: _text(getattr(frame, name)) for name in ("centres", "offsets", "sizes")}
    for name in ("weights", "ways"):
        matrix: ExactMatrix = getattr(frame, name)
        parts |= {name: _text(matrix.whole), f"{name}_scale": _text(matrix.scale)}
    return {
        "cells": found,
        "frame": {"classes": sorted(frame.index), "whitened": frame.whitened, "labels": frame.labels, **parts},
    }


def history_from(values: Mapping[str, Any]) -> SourceHistory:
    """Return what `history_values` made.

    Raises:
        IntegrityError: it is not that.
    """
    try:
        raw = values["frame"]
        classes, whitened, labels = list(map(str, raw["classes"])), int(raw["whitened"]), int(raw["labels"])
        width = len(_array(raw["weights"]))
        columns, known = whitened + labels, len(classes)
        frame = ClassFrame(
            ExactMatrix(_array(raw["weights"], width, columns), _array(raw["weights_scale"], columns)),
            {label: place for place, label in enumerate(classes)},
            _array(raw["centres"], known, columns),
            ExactMatrix(_array(raw["ways"], labels, known), _array(raw["ways_scale"], known)),
            _array(raw["offsets"], known),
            _array(raw["sizes"], known),
            whitened,
            labels,
        )
        cells = {
            str(label): KeptCells(
                tuple(map(str, each["sources"])),
                np.array([int(count) for count in each["counts"]], dtype=np.float64),
                _array(each["means"], len(each["sources"]), columns + 2),
                _array(each["scales"], len(each["sources"]), len(spaces_of(frame))),
            )
            for label, each in values["cells"].items()
        }
        _refuse_odd(classes, cells)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"What was kept of the last admitted version is damaged: {error}",
            hint="Restore it from that version's history.json.",
        ) from error
    return SourceHistory(frame, cells)


def _refuse_odd(classes: list[str], cells: Mapping[str, KeptCells]) -> None:
    if classes != sorted(set(classes)) or any(len(one.sources) != len(one.counts) for one in cells.values()):
        raise ValueError("classes or cells do not add up")


def _text(values: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(values, dtype="<f8")
    return {"shape": list(data.shape), "float64": base64.b64encode(data.tobytes()).decode()}


def _array(raw: Mapping[str, Any], *shape: int) -> np.ndarray:
    """Return an array of a shape, or of its own where none is given; finite."""
    found = tuple(map(int, raw["shape"]))
    if shape and found != shape:
        raise ValueError(f"expected an array of shape {shape}, got {found}")
    values = np.frombuffer(base64.b64decode(raw["float64"], validate=True), dtype="<f8").reshape(found)
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return values.astype(np.float64)
