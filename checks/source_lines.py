"""Where the samples of a cell lie along the line on which it differs from its class: which, and how many, are too many.

The line for one half of the samples comes from the other half, so that noise does not look like a shift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from millcert.checks.bounded_cells import SPACES
from millcert.checks.cell_names import cell_name
from millcert.checks.cell_sums import CellBlock, CellSums, Segment
from millcert.checks.exact import ExactMatrix
from millcert.checks.excess import Excess, bin_of, count_excess
from millcert.checks.flagging import Counts
from millcert.checks.shape_cells import ShapeLine, judge_shape
from millcert.checks.source_cells import Answer, CellShift, ClassCells, rest_mean, shift_direction


class Positions(NamedTuple):
    """Pass 3, of a half of a cell with a line: positions along it, of the cell's samples and of the rest's."""

    own: Counts
    rest: Counts

    @classmethod
    def merged(cls, parts: "Sequence[Positions]") -> "Positions":
        """Return the counts of all parts, of which there is at least one."""
        first, *others = parts
        return cls(first.own.merge(part.own for part in others), first.rest.merge(part.rest for part in others))


_NOWHERE = Positions(Counts.zero(), Counts.zero())


@dataclass(frozen=True, eq=False)
class ShiftLine:
    """A shifted cell and the line along which its samples are ranked.

    columns: of a placed row. units: of these columns. weights: one a half, for the samples of that half.
    offset: (2,), to be taken off.
    """

    columns: slice
    units: np.ndarray
    weights: tuple[ExactMatrix, ExactMatrix]
    offset: tuple[float, float]
    excess: Excess | None = None

    def positions(self, placed: np.ndarray, half: int) -> np.ndarray:
        """Return positions along the shift in standard deviations of the class, float64 (n,); 0 is the rest's mean.

        Args:
            placed: bounded rows, whole numbers; all of one half.
            half: 0 or 1.
        """
        found: np.ndarray = self.weights[half].apply(placed[:, self.columns] / self.units)[:, 0] - self.offset[half]
        return found


Line: TypeAlias = ShiftLine | ShapeLine


def shifted_line(
    cells: ClassCells, source: str, shifted: list[str], sums: CellSums, space: slice, units: np.ndarray
) -> ShiftLine:
    """Return the line of a shifted cell; each half of its samples is ranked by the shift of the other half."""
    place = cells.sources.index(source)
    rest = rest_mean(cells, place, [cells.sources.index(other) for other in shifted])
    width = len(rest)
    weights, offsets = [], []
    for number in (0, 1):
        other = 1 - number
        mean = sums.mean(source, other)[:width] / units if sums.count(source, other) else cells.means[place]
        direction = shift_direction(cells, space, (mean - rest)[space])
        weights.append(ExactMatrix.of(direction[:, None]))
        offsets.append(float(rest[space] @ direction))
    return ShiftLine(space, units[space], (weights[0], weights[1]), (offsets[0], offsets[1]))


def add_positions(
    added: dict[str, Any],
    block: CellBlock,
    bounded: np.ndarray,
    lines: Mapping[tuple[str, str], "Line"],
    shifts: Mapping[tuple[str, str], CellShift],
) -> None:
    """Add a block to the accumulator of pass 3: to the counts of the lines of its classes."""
    by_label: dict[str, list[tuple[str, Line]]] = {}
    for (source, label), line in lines.items():
        by_label.setdefault(label, []).append((source, line))
    none = Counts.zero()
    gathered: dict[tuple[str, int], list[Segment]] = {}
    for segment in block.segments:
        if segment.label in by_label:
            gathered.setdefault((segment.label, segment.half), []).append(segment)
    for (label, half), segments in gathered.items():
        placed = np.concatenate([bounded[segment.part] for segment in segments])
        sizes = [segment.part.stop - segment.part.start for segment in segments]
        is_shifted = np.repeat([shifts[segment.source, label].is_shifted for segment in segments], sizes)
        for source, line in by_label[label]:
            is_own = np.repeat([segment.source == source for segment in segments], sizes)
            bins = bin_of(line.positions(placed, half))
            new = Positions(none.add(bins[is_own]), none.add(bins[~is_own & ~is_shifted]))
            name = f"cell {half} {cell_name(source, label)}"
            added[name] = Positions.merged([added[name], new]) if name in added else new


def after_positions(
    acc: Mapping[str, Any],
    shifts: Mapping[tuple[str, str], CellShift],
    lines: Mapping[tuple[str, str], "Line"],
    *,
    false_alarm_rate: float,
) -> tuple[dict[tuple[str, str], CellShift], dict[tuple[str, str], "Line"]]:
    """Return what is known of each cell after pass 3: its shape, too, and how many samples of a line are too many.

    Args:
        acc: of pass 3.
        shifts: by (source, class), of all other spaces.
        lines: likewise.
        false_alarm_rate: the chance that any honest cell of the data set is called shifted, in all spaces together.

    Returns: shifts with the shape, and the lines of shifted cells.
    """
    tests = sum(line.tested(half) for line in lines.values() if isinstance(line, ShapeLine) for half in (0, 1))
    found: dict[tuple[str, str], CellShift] = {}
    kept: dict[tuple[str, str], Line] = {}
    for cell, shift in shifts.items():
        line, answer, p_value = lines.get(cell), Answer(1.0, 0.0, 0.0), 1.0
        halves = [acc.get(f"cell {half} {cell_name(*cell)}", _NOWHERE) for half in (0, 1)]
        if isinstance(line, ShapeLine):
            answer = min(judge_shape(line, *halves[half]) for half in (0, 1) if line.tested(half))
            p_value = min(1.0, answer.p_value * tests * len(SPACES))
        is_new = not shift.is_shifted and p_value <= false_alarm_rate
        found[cell] = replace(
            shift,
            p_values=(*shift.p_values, p_value),
            distance=(*shift.distance, answer.distance),
            scatter=(*shift.scatter, answer.scatter),
            is_shifted=shift.is_shifted or is_new,
            space=len(SPACES) - 1 if is_new else shift.space,
        )
        if line is not None and found[cell].is_shifted:
            whole = Positions.merged(halves)
            kept[cell] = replace(line, excess=count_excess(whole.own, whole.rest))
    return found, kept
