"""Bad sources: one source's samples of a class differ from the same class in all other sources.

Poison that no detector sees sample by sample still moves the mean of the cell (source, class) that it came in by.

  1. Pass 1 sums each cell, and the products of all rows: a frame in which classes have unit spread, and the directions
     in which classes differ, along which wrong labels move a cell.
  2. Pass 2 sums each cell in that frame, every row clipped at its typical radius, so that no heavy tail reaches a mean.
     Each cell is tested against the rest of its class along the label directions and in all directions,
     and by how far other classes pull its samples
     (`millcert.checks.source_cells`: Hotelling's T2, scatter between honest sources allowed for, Bonferroni).
  3. Pass 3 counts positions along each shift, of the cell and of the rest of its class: how many samples are too many.
     The direction for one half of the samples comes from the other half, so that noise does not look like a shift.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity, merge_groups
from millcert.checks.cell_names import cell_name, rows_by_cell
from millcert.checks.class_frame import ClassFrame, clip_radius
from millcert.checks.columns import digests, matrix, strings
from millcert.checks.contrast import random_signs
from millcert.checks.exact import ExactMatrix, quantise_rows, sum_squares
from millcert.checks.excess import Excess, bin_of, count_excess
from millcert.checks.flagging import Counts
from millcert.checks.moments import Moments
from millcert.checks.source_cells import CellShift, ClassCells, find_shifts, rest_mean, shift_direction
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, PolicyError

View: TypeAlias = Literal["embedding_external", "embedding_self"]

#: Names of the two spaces that cells are tested in, in the order of the columns of a placed row.
SPACES = ("pull_of_other_classes", "label_directions", "all_directions")
#: A cell with fewer samples is not tested: the mean of its clipped rows would not be near enough to normal.
LEAST_SAMPLES = 20
_MAX_LABEL_DIRECTIONS = 32
_TOTAL = "all"


class _Named(NamedTuple):
    """Pass 1: the moments of a cell, or of everything; width: of the embeddings before any projection."""

    source: str
    label: str
    width: int
    moments: Moments


class _Halves(NamedTuple):
    """Pass 2, of a cell: moments of clipped rows, of each half of the samples."""

    source: str
    label: str
    halves: tuple[Moments, Moments]


class _Positions(NamedTuple):
    """Pass 3, of a shifted cell: positions along the shift, of the cell's samples and of the rest of its class."""

    own: Counts
    rest: Counts


@dataclass(frozen=True, eq=False)
class _Line:
    """A shifted cell and the line along which its samples are ranked.

    columns: of a placed row. weights: one a half, for the samples of that half. offset: (2,), to be taken off.
    """

    columns: slice
    weights: tuple[ExactMatrix, ExactMatrix]
    offset: tuple[float, float]
    excess: Excess | None = None

    def positions(self, placed: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Return positions along the shift in standard deviations of the class, float64 (n,); 0 is the rest's mean."""
        found = np.zeros(len(placed))
        for number in (0, 1):
            rows = np.flatnonzero(half == number)
            found[rows] = self.weights[number].apply(placed[rows, self.columns])[:, 0] - self.offset[number]
        return found


@dataclass(frozen=True, eq=False)
class SourceShiftModel:
    """The model after pass `stage`. Cells are keyed (source, class); `lines` are those of shifted ones."""

    stage: int
    width: int
    frame: ClassFrame
    samples: Mapping[tuple[str, str], int]
    shifts: Mapping[tuple[str, str], CellShift]
    lines: Mapping[tuple[str, str], _Line]


@dataclass(frozen=True)
class SourceShift:
    """Name the source whose samples of a class differ from that class in all other sources, and flag the surplus.

    Needs: label, source, a view (float32, d), sample_digest (which half a sample is in).
    Passes: 3, and scoring.
    Score: of a sample in a shifted cell, its position along the shift in standard deviations of the class. Elsewhere
        its distance from the class's centre in the directions in which classes differ, over the usual distance; never
        flagged.
    Accumulator: pass 1 8 x w x w bytes and 8 x w a cell, w = min(d, 512); pass 2 8 x m x m bytes a class and 16 x m a
        cell, m at most max_directions + 32; pass 3 32 kB at most a shifted cell.
    Finds: wrong labels, triggers that the view can see, and foreign samples, where they come in by few of the sources:
        40 wrong samples among 140 of their cell are found about every other time on an embedding of medium quality,
        with 200 cells to choose from (bench/detection.py).
    Does not find: poison spread evenly over sources; a change of spread without a change of mean; cells under 20
        samples; classes with fewer than three sources of 20. Which of two sources is the odd one, nobody can say.
    False alarm that remains: an honest source that is unlike all the others. It looks the same, and should be known.
    Source: Hotelling's T2 and its F distribution: Anderson, "An Introduction to Multivariate Statistical Analysis",
        3rd ed., section 5.3. The rest is our choice: `millcert.checks.source_cells`, `source_scatter`, `excess`.

    view: an embedding; one that never saw this data shows wrong labels as they are.
    false_alarm_rate: the chance that any cell of an honest data set is named, in (0, 0.1].
    max_directions: whitened coordinates that are tested, in [1, 256].
    seed: of the random projection to 512 columns that wider embeddings pass first.
    """

    name: ClassVar[str] = "source_shift"
    version: ClassVar[str] = "1"
    severity: ClassVar[Severity] = "reject"
    covers: ClassVar[frozenset[str]] = frozenset({"bad_source", "targeted_label_flips"})
    #: Of the default configuration; an instance has its own.
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "source", "embedding_external", "sample_digest"})
    reason: ClassVar[str] = "source_shift.surplus_along_shift"
    max_dimension: ClassVar[int] = 512

    view: View = "embedding_external"
    false_alarm_rate: float = 0.001
    max_directions: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.view not in ("embedding_external", "embedding_self"):
            raise PolicyError(f"view must be embedding_external or embedding_self, got {self.view!r}.")
        if not 0 < self.false_alarm_rate <= 0.1:
            raise PolicyError(f"false_alarm_rate must be in (0, 0.1], got {self.false_alarm_rate}.")
        if not 1 <= self.max_directions <= 256:
            raise PolicyError(f"max_directions must be in [1, 256], got {self.max_directions}.")
        object.__setattr__(self, "columns", frozenset[Role]({"label", "source", self.view, "sample_digest"}))

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 3

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: SourceShiftModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        rows, half = matrix(batch, self.view), digests(batch)[:, 0] & 1
        cells = rows_by_cell(strings(batch, "source"), strings(batch, "label"))
        if not len(rows):
            return dict(acc)
        whole, exponent = self._quantised(rows, model)
        if model is None:
            parts = self._sums(rows.shape[1], whole, exponent, cells)
        else:
            parts = {}
            for source, label, places in cells:
                placed = _placed(model, whole[places], exponent[places], label)
                if model.stage == 1:
                    parts[f"cell {cell_name(source, label)}"] = _halves(source, label, placed, half[places])
                    every = parts.setdefault(f"class {label}", Moments.zero(_products_width(model)))
                    parts[f"class {label}"] = every.add_rows(placed[:, : _products_width(model)])
                else:
                    for name, positions in _along_lines(model, source, label, placed, half[places]):
                        before = parts.get(name)
                        parts[name] = positions if before is None else _merged([before, positions])
        return self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, _merged)

    def fit(self, acc: Accumulator, model: SourceShiftModel | None) -> SourceShiftModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: no samples, or samples that do not differ within classes.
            InvalidSampleError: embeddings of several widths.
        """
        if model is None:
            return self._after_sums(acc)
        if model.stage == 1:
            return self._after_cells(acc, model)
        lines = {
            cell: replace(line, excess=count_excess(acc[name].own, acc[name].rest))
            for cell, line in model.lines.items()
            for name in (f"cell {cell_name(*cell)}",)
        }
        return replace(model, stage=3, lines=lines)

    def score(self, model: SourceShiftModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; 0 for a class not seen in `fit`."""
        rows, half = matrix(batch, self.view), digests(batch)[:, 0] & 1
        sources, labels = strings(batch, "source"), strings(batch, "label")
        score, threshold = np.zeros(len(rows)), np.full(len(rows), np.inf)
        names = np.full(len(rows), "", dtype=object)
        whole, exponent = self._quantised(rows, model)
        for source, label, places in rows_by_cell(sources, labels):
            names[places] = cell_name(source, label)
            if label not in model.frame.centres:
                continue
            line = model.lines.get((source, label))
            if line is None or line.excess is None:
                whitened, turned = model.frame.place(whole[places], exponent[places], label)
                score[places] = clip_radius(turned if turned.shape[1] else whitened)[1]
            else:
                placed = _placed(model, whole[places], exponent[places], label)
                score[places] = line.positions(placed, half[places])
                threshold[places] = line.excess.above
        return Scores(score, threshold, score > threshold, pa.array(names.tolist(), pa.string()), self.reason)

    def evidence(self, model: SourceShiftModel) -> tuple[GroupEvidence, ...]:
        """Return each cell's tests.

        `statistic`: tested (0 or 1); for each space the distance from the rest in standard deviations, the part that
        other sources' scatter explains, and the corrected p-value. `p_value` is corrected for all cells and spaces.
        `top_features`: the spaces in which a shifted cell lies apart, with the distance there beyond the scatter.
        """
        found = []
        for (source, label), shift in model.shifts.items():
            line, samples = model.lines.get((source, label)), model.samples[source, label]
            excess = Excess(0.0, 0.0, 0.0, 0.0) if line is None or line.excess is None else line.excess
            figures = {"tested": float(shift.is_tested)}
            for number, space in enumerate(SPACES):
                figures[f"distance in {space}"] = shift.distance[number]
                figures[f"scatter in {space}"] = shift.scatter[number]
                figures[f"p_value in {space}"] = shift.p_values[number]
            found.append(
                GroupEvidence(
                    cell_name(source, label),
                    label,
                    source,
                    samples,
                    figures,
                    shift.is_shifted,
                    excess.estimate,
                    excess.low,
                    excess.high,
                    min(shift.p_values) if shift.is_tested else None,
                    _spaces_that_told(shift),
                )
            )
        return tuple(sorted(found, key=lambda item: item.group))

    def _quantised(self, rows: np.ndarray, model: SourceShiftModel | None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows as whole numbers, wide ones projected."""
        if model is not None:
            _check_width(rows.shape[1], model.width)
        whole, exponent = quantise_rows(rows)
        if rows.shape[1] <= self.max_dimension:
            return whole, exponent
        projection = ExactMatrix.of(random_signs(rows.shape[1], self.max_dimension, self.seed))
        return quantise_rows(projection.apply_quantised(whole, exponent))

    def _sums(
        self, width: int, whole: np.ndarray, exponent: np.ndarray, cells: list[tuple[str, str, np.ndarray]]
    ) -> dict[str, Any]:
        kept = whole.shape[1]
        parts: dict[str, Any] = {_TOTAL: _Named("", "", width, Moments.zero(kept).add_quantised(whole, exponent))}
        for source, label, places in cells:
            sums = Moments.zero(kept, keeps_products=False).add_quantised(whole[places], exponent[places])
            parts[f"cell {cell_name(source, label)}"] = _Named(source, label, width, sums)
        return parts

    def _after_sums(self, acc: Accumulator) -> SourceShiftModel:
        if _TOTAL not in acc:
            raise NotEnoughSamplesError("There are no samples.")
        cells = {(part.source, part.label): part for name, part in acc.items() if name != _TOTAL}
        widths = {part.width for part in acc.values()}
        if len(widths) > 1:
            raise InvalidSampleError("Embeddings have several widths.", column=self.view, widths=sorted(widths))
        classes: dict[str, Moments] = {}
        for (_, label), part in sorted(cells.items()):
            classes[label] = part.moments if label not in classes else classes[label].merge([part.moments])
        frame = ClassFrame.fit(
            acc[_TOTAL].moments,
            dict(sorted(classes.items())),
            max_directions=self.max_directions,
            max_label_directions=_MAX_LABEL_DIRECTIONS,
        )
        samples = {cell: part.moments.count for cell, part in cells.items()}
        return SourceShiftModel(1, widths.pop(), frame, samples, {}, {})

    def _after_cells(self, acc: Accumulator, model: SourceShiftModel) -> SourceShiftModel:
        halves = {(part.source, part.label): part.halves for name, part in acc.items() if name.startswith("cell ")}
        classes = {}
        for label in model.frame.centres:
            of_class = {source: parts for (source, other), parts in sorted(halves.items()) if other == label}
            classes[label] = _class_cells(of_class, acc[f"class {label}"], model)
        spaces = _spaces(model)
        shifts = find_shifts(classes, spaces, false_alarm_rate=self.false_alarm_rate, least_samples=LEAST_SAMPLES)
        lines = {}
        for (source, label), shift in shifts.items():
            if shift.is_shifted:
                shifted = [other for other in classes[label].sources if shifts[other, label].is_shifted]
                lines[source, label] = _line(
                    classes[label], source, shifted, halves[source, label], spaces[shift.space]
                )
        return replace(model, stage=2, shifts=shifts, lines=lines)


def _placed(model: SourceShiftModel, whole: np.ndarray, exponent: np.ndarray, label: str) -> np.ndarray:
    """Return rows in the frame, bounded: pull, label directions, whitened coordinates; then the square of each."""
    whitened, turned = model.frame.place(whole, exponent, label)
    parts = [model.frame.pull(turned, label)[:, None], clip_radius(turned)[0], clip_radius(whitened)[0]]
    return np.concatenate([*parts, *(sum_squares(part)[:, None] for part in parts)], axis=1)


def _products_width(model: SourceShiftModel) -> int:
    return 1 + model.frame.whitened + model.frame.labels


def _spaces(model: SourceShiftModel) -> tuple[slice, slice, slice]:
    labels = 1 + model.frame.labels
    return slice(0, 1), slice(1, labels), slice(labels, labels + model.frame.whitened)


def _halves(source: str, label: str, placed: np.ndarray, half: np.ndarray) -> _Halves:
    zero = Moments.zero(placed.shape[1], keeps_products=False)
    return _Halves(source, label, (zero.add_rows(placed[half == 0]), zero.add_rows(placed[half == 1])))


def _class_cells(cells: Mapping[str, tuple[Moments, Moments]], every: Moments, model: SourceShiftModel) -> ClassCells:
    both = [first.merge([second]) for first, second in cells.values()]
    counts = np.array([part.count for part in both], dtype=np.float64)
    full = np.stack([part.mean() for part in both])
    means = full[:, : _products_width(model)]
    scales = np.stack(
        [
            full[:, number - len(SPACES)] - (means[:, space] ** 2).sum(axis=1)
            for number, space in enumerate(_spaces(model))
        ],
        axis=1,
    )
    freedom = float(counts.sum()) - len(counts)
    within = every.products() - (means.T * counts) @ means
    within = (within + within.T) / (2 * max(1.0, freedom))
    return ClassCells(tuple(cells), counts, means, np.maximum(scales, 0.0), within, freedom)


def _line(cells: ClassCells, source: str, shifted: list[str], halves: tuple[Moments, Moments], space: slice) -> _Line:
    """Return the line of a shifted cell; each half of its samples is ranked by the shift of the other half."""
    place = cells.sources.index(source)
    rest = rest_mean(cells, place, [cells.sources.index(other) for other in shifted])
    width = len(rest)
    weights, offsets = [], []
    for number in (0, 1):
        other = halves[1 - number]
        mean = other.mean()[:width] if other.count else cells.means[place]
        direction = shift_direction(cells, space, (mean - rest)[space])
        weights.append(ExactMatrix.of(direction[:, None]))
        offsets.append(float(rest[space] @ direction))
    return _Line(space, (weights[0], weights[1]), (offsets[0], offsets[1]))


def _along_lines(
    model: SourceShiftModel, source: str, label: str, placed: np.ndarray, half: np.ndarray
) -> Iterable[tuple[str, _Positions]]:
    """Return what the samples of a cell add to the counts of the shifted cells of its class."""
    for (shifted, of_class), line in model.lines.items():
        if of_class != label or (shifted != source and (source, label) in model.lines):
            continue
        counts = Counts.zero().add(bin_of(line.positions(placed, half)))
        none = Counts.zero()
        yield (
            f"cell {cell_name(shifted, label)}",
            _Positions(counts, none) if shifted == source else _Positions(none, counts),
        )


def _merged(parts: list[Any]) -> Any:
    first, *others = parts
    if not others or isinstance(first, Moments):
        return first.merge(others) if isinstance(first, Moments) else first
    if isinstance(first, _Named):
        widths = {part.width for part in parts}
        if len(widths) > 1:
            _check_width(max(widths), min(widths))
        return first._replace(moments=first.moments.merge(part.moments for part in others))
    if isinstance(first, _Halves):
        one, two = (first.halves[number].merge(part.halves[number] for part in others) for number in (0, 1))
        return first._replace(halves=(one, two))
    return _Positions(first.own.merge(part.own for part in others), first.rest.merge(part.rest for part in others))


def _check_width(width: int, expected: int) -> None:
    if width != expected:
        raise InvalidSampleError(
            f"Embeddings have width {width}; others of this data set have {expected}.",
            hint="All samples must have embeddings of one model.",
        )


def _spaces_that_told(shift: CellShift) -> tuple[tuple[str, float], ...]:
    if not shift.is_shifted:
        return ()
    order = sorted(range(len(SPACES)), key=lambda number: (shift.p_values[number], number))
    found = [(SPACES[number], max(0.0, shift.distance[number] - shift.scatter[number])) for number in order]
    return tuple(one for number, one in zip(order, found, strict=True) if shift.p_values[number] < 1)


CHECK = SourceShift
