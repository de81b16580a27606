"""Bad sources: one source's samples of a class differ from the same class in all other sources.

Poison that no detector sees sample by sample still moves the mean of the cell (source, class) that it came in by.

  1. Pass 1 sums each cell, and the products of all rows: a frame in which classes have unit spread, and the directions
     in which classes differ, along which wrong labels move a cell.
  2. Pass 2 sums each cell in that frame, every row clipped at its typical radius, so that no heavy tail reaches a mean.
     Each cell is tested against the rest of its class along the label directions and in all directions
     (`millcert.checks.source_cells`: Hotelling's T2, scatter between honest sources allowed for, Bonferroni), and by
     two scores of its samples: how much better another class explains them, and how large they are
     (`millcert.checks.score_cells`: permuted sources, skewness allowed for). Products of half cells tell which may
     have another covariance (`millcert.checks.shape_cells`).
  3. Pass 3 counts positions along each shift, of the cell and of the rest of its class: how many samples are too many,
     and, of another covariance, whether it is one. The direction for one half of the samples comes from the other
     half, so that noise does not look like a shift.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks.base import MAX_TOP_FEATURES, Accumulator, GroupEvidence, Role, Scores, Severity, merge_groups
from millcert.checks.bounded_cells import (
    SPACES,
    BoundedCells,
    add_cells,
    add_shapes,
    cells_in,
    placed_blocks,
    spaces_of,
    units_of,
)
from millcert.checks.cell_names import cell_name
from millcert.checks.cell_sums import CellSums, Segment, cell_blocks
from millcert.checks.class_frame import ClassFrame, clip_radius
from millcert.checks.class_moments import fold_for
from millcert.checks.columns import digests, matrix, strings
from millcert.checks.exact import row_exponents, whole_numbers
from millcert.checks.excess import Excess
from millcert.checks.moments import Moments
from millcert.checks.shape_cells import ShapeSums, shape_coordinates, shape_lines
from millcert.checks.source_cells import (
    CellShift,
    ClassCells,
    columns_of,
    find_shifts,
)
from millcert.checks.source_history import CellMove, SourceHistory, find_moves, history_from, history_values
from millcert.checks.source_lines import Line, Positions, add_positions, after_positions, shifted_line
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, PolicyError

View: TypeAlias = Literal["embedding_external", "embedding_self", "features"]

#: A cell with fewer samples is not tested: the mean of its clipped rows would not be near enough to normal.
LEAST_SAMPLES = 20
_MAX_LABEL_DIRECTIONS = 32
_TOTAL = "all"
#: Said of figures that compare with the last admitted version.
_SINCE = " since"
#: Groups of sums in the frame of the last admitted version.
_BEFORE = "before "


class _Everything(NamedTuple):
    """Pass 1: the moments of all rows; width: of the rows as they came."""

    width: int
    moments: Moments


@dataclass(frozen=True, eq=False)
class SourceShiftModel:
    """The model after pass `stage`. Cells are keyed (source, class); `lines` are those of shifted ones.

    before: what is known of the last admitted version, None where nothing is compared. moves: of cells since then.
    cells: by class, to be kept of this version; None where nothing is compared. shaped: cells whose shape is summed,
    in the columns of a placed row from and to `shape`.
    """

    stage: int
    width: int
    frame: ClassFrame
    samples: Mapping[tuple[str, str], int]
    shifts: Mapping[tuple[str, str], CellShift]
    lines: Mapping[tuple[str, str], Line]
    shape: tuple[int, int] = (0, 0)
    shaped: frozenset[tuple[str, str]] = frozenset()
    before: SourceHistory | None = None
    moves: Mapping[tuple[str, str], CellMove] = field(default_factory=dict)
    cells: Mapping[str, ClassCells] | None = None


@dataclass(frozen=True)
class SourceShift:
    """Name the source whose samples of a class differ from that class in all other sources, and flag the surplus.

    Needs: label, source, a view (float32, d), sample_digest (which half a sample is in).
        With `reference: last_admitted` in the policy, also each source's cells in its last admitted version
        (`millcert.checks.source_history`): a move since then names the source as well, and flags no sample.
    Passes: 3, and scoring. The third looks at classes with a shifted cell, or one that may have another covariance.
    Score: of a sample in a shifted cell, its position along the shift in standard deviations of the class. Elsewhere
        its distance from the class's centre in the directions in which classes differ, over the usual distance; never
        flagged.
    Accumulator: pass 1 8 x w x w bytes and 8 x w a cell and exponent, w = min(d, 512); pass 2 8 x m x m bytes a class
        and 16 x m a cell, m at most max_directions + 40, and 64 MiB at most for products of half cells (as many
        coordinates as fit, 128 at most); pass 3 64 kB at most a line, of which there are as many as shifted cells and
        512 at most of others. With a reference that of pass 2 twice, products apart, and 8 x m bytes a cell kept.
    Finds: wrong labels, triggers that the view can see, and foreign samples, where they come in by few of the sources.
        Of images the raw pixels (`features`) show triggers: patches, blends, adaptive blends, with a wrong or the right
        label, 40 among 140 samples of their cell, with 200 cells to choose from. Wrong labels show in an embedding,
        of any quality in which two of three classes are told apart: 40 of 140, of all classes or of one
        (bench/bad_sources.py). Samples too near to their mean or too far from it, and patterns that leave the mean as
        it was, by size and shape of the covariance.
    Does not find: poison spread evenly over sources; cells under 20 samples (of another covariance: 40); without a
        reference, classes with fewer than three sources of 20: which of two sources is the odd one, nobody can say;
        patterns of both signs that are faint in the view: of 20 % of noise in 40 of 140 raw images one time in four. A
        reference is compared with by mean and size, not by shape.
    False alarm that remains: an honest source that is unlike all the others. It looks the same, and should be known.
        Other class proportions are none, unless labels are noisy: a class that is rare in its source, beside one that
        people take for it, holds a larger part of wrong labels there, and is named for them.
    Source: Hotelling's T2 and its F distribution: Anderson, "An Introduction to Multivariate Statistical Analysis",
        3rd ed., section 5.3. The rest is our choice: `millcert.checks.source_cells`, `source_scatter`, `excess`. Cost:
        docs/moments.md.

    view: an embedding, where one that never saw this data shows wrong labels as they are; or features: pixels. (Columns
        of a table have many scales, so they are no view: the largest would drown the others.)
    false_alarm_rate: the chance that any cell of an honest data set is named, in (0, 0.1].
    max_directions: whitened coordinates that are tested, in [1, 256].
    seed: of the folds to 512 columns (`millcert.checks.column_fold`) of a wider view.
    """

    name: ClassVar[str] = "source_shift"
    version: ClassVar[str] = "3"
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
        if self.view not in ("embedding_external", "embedding_self", "features"):
            raise PolicyError(f"view must be features or an embedding, got {self.view!r}.")
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
        rows, sources, labels = matrix(batch, self.view), strings(batch, "source"), strings(batch, "label")
        half = digests(batch)[:, 0] & 1
        if not len(rows):
            return dict(acc)
        added = dict(acc)
        if model is None:
            self._sum(added, rows, sources, labels)
            return added
        _check_width(rows.shape[1], model.width)
        if model.stage == 2:
            shifted = {label for _, label in model.lines}
            wanted = np.isin(labels.to_numpy(zero_copy_only=False), sorted(shifted))
            if not wanted.any():
                return added
            rows, half = rows[wanted], half[wanted]
            sources, labels = sources.filter(pa.array(wanted)), labels.filter(pa.array(wanted))
        folded = self._folded(rows)
        for block, placed in placed_blocks(model.frame, folded, sources, labels, half):
            bounded = placed.bounded()
            if model.stage == 1:
                add_cells(added, block, bounded, model.frame)
                if model.shaped:
                    add_shapes(added, block, bounded, slice(*model.shape), model.shaped)
            else:
                add_positions(added, block, bounded, model.lines, model.shifts)
        if model.stage == 1 and model.before is not None and model.before.frame is not None:
            for block, placed in placed_blocks(model.before.frame, folded, sources, labels, half):
                add_cells(added, block, placed.bounded(), model.before.frame, _BEFORE)
        return added

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
        is_compared = model.before is not None and model.before.frame is not None
        rate = self.false_alarm_rate / 2 if is_compared else self.false_alarm_rate
        shifts, lines = after_positions(acc, model.shifts, model.lines, false_alarm_rate=rate)
        return replace(model, stage=3, shifts=shifts, lines=lines)

    def score(self, model: SourceShiftModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; 0 for a class not seen in `fit`."""
        rows, sources, labels = matrix(batch, self.view), strings(batch, "source"), strings(batch, "label")
        half = digests(batch)[:, 0] & 1
        score, threshold = np.zeros(len(rows)), np.full(len(rows), np.inf)
        cells: dict[tuple[str, str], int] = {}
        cell = np.zeros(len(rows), dtype=np.int64)
        if len(rows):
            _check_width(rows.shape[1], model.width)
        for block, placed in placed_blocks(model.frame, self._folded(rows), sources, labels, half):
            radius = clip_radius(placed.turned if placed.turned.shape[1] else placed.whitened)[1]
            bounded: np.ndarray | None = None
            for source, label, number, _, part in block.segments:
                places = block.places[part]
                cell[places] = cells.setdefault((source, label), len(cells))
                line = model.lines.get((source, label))
                if label not in model.frame.index:
                    continue
                if line is None or line.excess is None:
                    score[places] = radius[part]
                    continue
                bounded = placed.bounded() if bounded is None else bounded
                score[places] = line.positions(bounded[part], number)
                threshold[places] = line.excess.above
        names = pa.array([cell_name(*one) for one in cells], pa.string()).take(pa.array(cell))
        return Scores(score, threshold, score > threshold, names, self.reason)

    def evidence(self, model: SourceShiftModel) -> tuple[GroupEvidence, ...]:
        """Return each cell's tests.

        `statistic`: tested (0 or 1); for each space the distance from the rest in standard deviations, the part that
        other sources' scatter explains, and the corrected p-value. `p_value` is corrected for all cells and spaces.
        `top_features`: the spaces in which a shifted cell lies apart, with the distance there beyond the scatter.
        """
        found = []
        for cell, shift in model.shifts.items():
            (source, label), line, move = cell, model.lines.get(cell), model.moves.get(cell)
            samples, p_values = model.samples[cell], shift.p_values if shift.is_tested else ()
            excess = Excess(0.0, 0.0, 0.0, 0.0) if line is None or line.excess is None else line.excess
            figures = {"tested": float(shift.is_tested), **_figures(shift, "")}
            told = _spaces_that_told(shift, "")
            if move is not None:
                figures |= {"tested since": float(move.shift.is_tested), **_figures(move.shift, _SINCE)}
                p_values += move.shift.p_values if move.shift.is_tested else ()
                told += _spaces_that_told(move.shift, _SINCE)
                if move.shift.is_shifted and line is None:
                    excess = Excess(float(move.least), float(move.least), float(samples), 0.0)
            found.append(
                GroupEvidence(
                    cell_name(source, label),
                    label,
                    source,
                    samples,
                    figures,
                    shift.is_shifted or (move is not None and move.shift.is_shifted),
                    excess.estimate,
                    excess.low,
                    excess.high,
                    min(p_values, default=None),
                    told[:MAX_TOP_FEATURES],
                )
            )
        return tuple(sorted(found, key=lambda item: item.group))

    def recall(self, model: SourceShiftModel, history: Mapping[str, Any] | None) -> SourceShiftModel:
        """Return the model after pass 1 with the last admitted version's cells, which the others are compared with too.

        Raises:
            IntegrityError: `history` is not what this check keeps.
            InvalidSampleError: it is of an embedding of another width.
        """
        before = SourceHistory(None, {}) if history is None else history_from(history)
        if before.frame is not None:
            _check_width(len(before.frame.weights.whole), len(model.frame.weights.whole))
        return replace(model, before=before)

    def history(self, model: SourceShiftModel) -> dict[str, Any]:
        """Return what to keep of this version; the model is one that `recall` was asked of."""
        return history_values(model.frame, model.cells or {})

    def notices(self, model: SourceShiftModel) -> tuple[str, ...]:
        """Return what moved since the last admitted version, or that there is none to compare with."""
        if model.before is None:
            return ()
        if model.before.frame is None:
            return ("no admitted version to compare with",)
        moved = sorted({source for (source, _), move in model.moves.items() if move.shift.is_shifted})
        return (f"moved since the last admitted version: {', '.join(moved[:3])}",) if moved else ()

    def _folded(self, rows: np.ndarray) -> np.ndarray:
        """Return rows with at most `max_dimension` columns: sums and differences of numbers, one at a time."""
        return fold_for(rows.shape[1], 1, self.max_dimension, self.seed).rows(rows)

    def _sum(self, added: dict[str, Any], rows: np.ndarray, sources: pa.StringArray, labels: pa.StringArray) -> None:
        """Add a batch to the accumulator of pass 1."""
        folded = self._folded(rows)
        exponent = row_exponents(folded)
        every = added.get(_TOTAL, _Everything(rows.shape[1], Moments.zero(folded.shape[1])))
        _check_width(rows.shape[1], every.width)
        gathered: dict[str, list[tuple[Segment, np.ndarray]]] = {}
        for block in cell_blocks(sources, labels, np.zeros(len(rows), dtype=np.int64), exponent):
            powers = exponent[block.places]
            whole = whole_numbers(folded.take(block.places, axis=0), powers)
            every = every._replace(moments=every.moments.add_quantised(whole, powers))
            for segment, sums in zip(block.segments, block.sums(whole), strict=True):
                gathered.setdefault(segment.label, []).append((segment, sums))
        added[_TOTAL] = every
        for label, segments in gathered.items():
            name = f"class {label}"
            added[name] = added.get(name, CellSums.zero(folded.shape[1])).add(segments)

    def _after_sums(self, acc: Accumulator) -> SourceShiftModel:
        if _TOTAL not in acc:
            raise NotEnoughSamplesError("There are no samples.")
        classes = {name.removeprefix("class "): part for name, part in sorted(acc.items()) if name != _TOTAL}
        frame = ClassFrame.fit(
            acc[_TOTAL].moments,
            {label: (part.count(), part.mean()) for label, part in classes.items()},
            max_directions=self.max_directions,
            max_label_directions=_MAX_LABEL_DIRECTIONS,
        )
        samples = {
            (source, label): int(count)
            for label, part in classes.items()
            for source, count in zip(*part.by_source()[:2], strict=True)
        }
        shaped = frozenset(cell for cell, count in samples.items() if count >= 2 * LEAST_SAMPLES)
        first, cells = 1 + frame.labels, Counter(label for _, label in shaped)
        width = shape_coordinates(cells, frame.whitened)
        shape = (first, first + width)
        return SourceShiftModel(1, acc[_TOTAL].width, frame, samples, {}, {}, shape, shaped if width else frozenset())

    def _after_cells(self, acc: Accumulator, model: SourceShiftModel) -> SourceShiftModel:
        classes = cells_in(acc, model.frame)
        spaces, units, before = spaces_of(model.frame), units_of(model.frame), model.before
        is_compared = before is not None and before.frame is not None
        rate = self.false_alarm_rate / 2 if is_compared else self.false_alarm_rate
        shifts = find_shifts(classes, spaces, false_alarm_rate=rate, least_samples=LEAST_SAMPLES, beside=1)
        moves: dict[tuple[str, str], CellMove] = {}
        if before is not None and before.frame is not None:
            now = cells_in(acc, before.frame, _BEFORE)
            moves = find_moves(now, before, false_alarm_rate=rate, least_samples=LEAST_SAMPLES)
        lines: dict[tuple[str, str], Line] = {}
        for (source, label), shift in shifts.items():
            if shift.is_shifted:
                shifted = [other for other in classes[label].sources if shifts[other, label].is_shifted]
                lines[source, label] = shifted_line(
                    classes[label], source, shifted, acc[f"class {label}"].cells, columns_of(spaces[shift.space]), units
                )
        lines |= shape_lines(_unshifted(acc, shifts), model.shape[0], LEAST_SAMPLES)
        kept = None if before is None else classes
        return replace(model, stage=2, shifts=shifts, lines=lines, moves=moves, cells=kept)


def _unshifted(acc: Accumulator, shifts: Mapping[tuple[str, str], CellShift]) -> dict[str, ShapeSums]:
    """Return the products of signs of each class, of the cells that no other test has named."""
    found = {}
    for name, part in acc.items():
        if isinstance(part, ShapeSums):
            label = name.removeprefix("shape ")
            kept = {cell for cell in part.counts if shifts[cell[0], label].is_tested}
            kept -= {cell for cell in kept if shifts[cell[0], label].is_shifted}
            found[label] = ShapeSums(
                {cell: count for cell, count in part.counts.items() if cell in kept},
                {cell: product for cell, product in part.products.items() if cell in kept},
            )
    return found


def _merged(parts: list[Any]) -> Any:
    first, *others = parts
    if not others:
        return first
    if isinstance(first, CellSums):
        return first.merge(others)
    if isinstance(first, _Everything):
        for part in others:
            _check_width(part.width, first.width)
        return first._replace(moments=first.moments.merge(part.moments for part in others))
    if isinstance(first, (BoundedCells, ShapeSums)):
        return first.merge(others)
    return Positions.merged(parts)


def _check_width(width: int, expected: int) -> None:
    if width != expected:
        raise InvalidSampleError(
            f"Embeddings have width {width}; others of this data set have {expected}.",
            hint="All samples must have embeddings of one model.",
        )


def _figures(shift: CellShift, since: str) -> dict[str, float]:
    figures = {}
    for number, space in enumerate(SPACES[: len(shift.p_values)]):
        figures[f"distance in {space}{since}"] = shift.distance[number]
        figures[f"scatter in {space}{since}"] = shift.scatter[number]
        figures[f"p_value in {space}{since}"] = shift.p_values[number]
    return figures


def _spaces_that_told(shift: CellShift, since: str) -> tuple[tuple[str, float], ...]:
    if not shift.is_shifted:
        return ()
    order = sorted(range(len(shift.p_values)), key=lambda number: (shift.p_values[number], number))
    found = [(SPACES[number] + since, max(0.0, shift.distance[number] - shift.scatter[number])) for number in order]
    return tuple(one for number, one in zip(order, found, strict=True) if shift.p_values[number] < 1)


CHECK = SourceShift
