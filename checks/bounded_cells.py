"""Sums of bounded rows by cell, (source, class), in one frame: what tests of cells' means and spread are made of.

A row of these sums has its doubt, the label directions, the whitened coordinates and its size, then their squares and
cubes (`millcert.checks.class_frame.PlacedRows.bounded`): whole numbers, so exact in any order.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.cell_sums import CellBlock, CellSums, Segment, cell_blocks
from millcert.checks.class_frame import DOUBT_GRID, GRID, SIZE_GRID, ClassFrame, PlacedRows
from millcert.checks.exact import row_exponents, whole_numbers
from millcert.checks.score_cells import ScoreSpace
from millcert.checks.shape_cells import ShapeSums, signs
from millcert.checks.source_cells import ClassCells, Space, columns_of

#: Names of the spaces that cells are tested in, in the order of `spaces_of`; shape is `millcert.checks.shape_cells`.
SPACES = ("wrong_labels", "label_directions", "all_directions", "spread", "shape")
#: Columns of powers that follow the columns of a placed row.
_POWERS = 6


class BoundedCells(NamedTuple):
    """Of a class: sums of bounded rows on the grid, by source and half; int64 (m, m), their products."""

    cells: CellSums
    products: np.ndarray

    def merge(self, others: "Iterable[BoundedCells]") -> "BoundedCells":
        """Return the sums of all rows of this and the others."""
        parts = list(others)
        cells = self.cells.merge(part.cells for part in parts)  # refuses sums of other widths
        return BoundedCells(cells, sum((part.products for part in parts), self.products))


def spaces_of(frame: ClassFrame) -> tuple[Space, ...]:
    """Return the spaces, by the columns of a placed row: more wrong labels, other means, another spread."""
    labels = 1 + frame.labels
    size = labels + frame.whitened
    return ScoreSpace(0, 0, is_one_sided=True), slice(1, labels), slice(labels, size), ScoreSpace(size, 1)


def units_of(frame: ClassFrame) -> np.ndarray:
    """Return what one is in each column of a placed row, float64 (1 + q + p + 1,)."""
    return np.array([DOUBT_GRID, *([GRID] * (frame.labels + frame.whitened)), SIZE_GRID])


def placed_blocks(
    frame: ClassFrame, rows: np.ndarray, sources: pa.StringArray, labels: pa.StringArray, half: np.ndarray
) -> Iterator[tuple[CellBlock, PlacedRows]]:
    """Yield rows, block by block, with their places in the frame; class 0's for a class that the frame does not have.

    Args:
        frame: of rows of this width.
        rows: float32 or float64 (n, d).
        sources: (n,).
        labels: (n,).
        half: (n,), 0 or 1.
    """
    for block in cell_blocks(sources, labels, half, np.zeros(len(rows), dtype=np.int64)):
        part = rows.take(block.places, axis=0)
        exponent = row_exponents(part)
        codes = np.concatenate(
            [np.full(of_class.stop - of_class.start, frame.index.get(label, 0)) for label, of_class in block.classes()]
        )
        yield block, frame.place(whole_numbers(part, exponent), exponent, codes)


def add_cells(
    added: dict[str, Any], block: CellBlock, bounded: np.ndarray, frame: ClassFrame, prefix: str = "class "
) -> None:
    """Add a block to the accumulator, under the prefix and the class; of classes that the frame has."""
    width = bounded.shape[1] - _POWERS
    gathered: dict[str, list[tuple[Segment, np.ndarray]]] = {}
    for segment, sums in zip(block.segments, block.sums(bounded), strict=True):
        gathered.setdefault(segment.label, []).append((segment, sums))
    for label, of_class in block.classes():
        if label not in frame.index:
            continue
        part = bounded[of_class, :width]
        products = (part.T @ part).astype(np.int64)  # below 2**34 a product: exact in any order
        before = added.get(prefix + label)
        cells = CellSums.zero(bounded.shape[1]) if before is None else before.cells
        products = products if before is None else before.products + products
        added[prefix + label] = BoundedCells(cells.add(gathered[label]), products)


def add_shapes(
    added: dict[str, Any], block: CellBlock, bounded: np.ndarray, columns: slice, wanted: Container[tuple[str, str]]
) -> None:
    """Add products of a block's signs to the accumulator, under "shape" and the class.

    Args:
        added: the accumulator.
        block: rows.
        bounded: as placed.
        columns: the coordinates.
        wanted: cells, (source, class), that are summed.
    """
    unit = signs(bounded[:, columns])
    gathered: dict[str, list[ShapeSums]] = {}
    for segment in block.segments:
        if (segment.source, segment.label) in wanted:
            rows, cell = unit[segment.part], (segment.source, segment.half)
            gathered.setdefault(segment.label, []).append(ShapeSums({cell: len(rows)}, {cell: rows.T @ rows}))
    for label, parts in gathered.items():
        name = f"shape {label}"
        first, *others = [added[name], *parts] if name in added else parts
        added[name] = first.merge(others)


def class_cells(part: BoundedCells, frame: ClassFrame) -> ClassCells:
    """Return a class's cells as the tests want them: coordinates in standard deviations, scores as they are."""
    spaces, units = spaces_of(frame), units_of(frame)
    sources, counts, full = part.cells.by_source()
    means, powers = full[:, : len(units)] / units, full[:, len(units) :]
    squares = powers[:, :2] / GRID**2
    grids = np.array([DOUBT_GRID, SIZE_GRID])[:, None]
    scores = powers[:, 2:].reshape(-1, 2, 2) / grids ** np.array([2, 3])
    squares = np.stack([scores[:, 0, 0], squares[:, 0], squares[:, 1], scores[:, 1, 0]], axis=1)
    lengths = np.stack([(means[:, columns_of(space)] ** 2).sum(axis=1) for space in spaces], axis=1)
    freedom = float(counts.sum()) - len(counts)
    within = part.products / np.outer(units, units) - (means.T * counts) @ means
    within = (within + within.T) / (2 * max(1.0, freedom))
    return ClassCells(sources, counts, means, np.maximum(squares - lengths, 0.0), within, freedom, scores)


def cells_in(acc: Mapping[str, Any], frame: ClassFrame, prefix: str = "class ") -> dict[str, ClassCells]:
    """Return the cells of each class that an accumulator has in a frame, by label, sorted."""
    return {label: class_cells(acc[prefix + label], frame) for label in sorted(frame.index) if prefix + label in acc}
