"""Sums of bounded rows by cell, (source, class), in one frame: what tests of cells' means are made of.

A row of these sums has the pull of other classes, the label directions, the whitened coordinates, and the square of
each of the three (`millcert.checks.class_frame.PlacedRows.bounded`): whole numbers, so exact in any order.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.cell_sums import CellBlock, CellSums, Segment, cell_blocks
from millcert.checks.class_frame import GRID, ClassFrame, PlacedRows
from millcert.checks.exact import row_exponents, whole_numbers
from millcert.checks.source_cells import ClassCells

#: Names of the spaces that cells are tested in, in the order of the columns of a placed row.
SPACES = ("pull_of_other_classes", "label_directions", "all_directions")


class BoundedCells(NamedTuple):
    """Of a class: sums of bounded rows on the grid, by source and half; int64 (m, m), their products."""

    cells: CellSums
    products: np.ndarray

    def merge(self, others: "Iterable[BoundedCells]") -> "BoundedCells":
        """Return the sums of all rows of this and the others."""
        parts = list(others)
        cells = self.cells.merge(part.cells for part in parts)  # refuses sums of other widths
        return BoundedCells(cells, sum((part.products for part in parts), self.products))


def spaces_of(frame: ClassFrame) -> tuple[slice, slice, slice]:
    """Return the columns of each space."""
    labels = 1 + frame.labels
    return slice(0, 1), slice(1, labels), slice(labels, labels + frame.whitened)


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
    width = 1 + frame.whitened + frame.labels
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


def class_cells(part: BoundedCells, frame: ClassFrame) -> ClassCells:
    """Return a class's cells as the tests want them, in standard deviations."""
    spaces = spaces_of(frame)
    sources, counts, full = part.cells.by_source()
    means = full[:, : spaces[-1].stop] / GRID
    scales = np.stack(
        [
            full[:, number - len(SPACES)] / GRID**2 - (means[:, space] ** 2).sum(axis=1)
            for number, space in enumerate(spaces)
        ],
        axis=1,
    )
    freedom = float(counts.sum()) - len(counts)
    within = part.products / GRID**2 - (means.T * counts) @ means
    within = (within + within.T) / (2 * max(1.0, freedom))
    return ClassCells(sources, counts, means, np.maximum(scales, 0.0), within, freedom)


def cells_in(acc: Mapping[str, Any], frame: ClassFrame, prefix: str = "class ") -> dict[str, ClassCells]:
    """Return the cells of each class that an accumulator has in a frame, by label, sorted."""
    return {label: class_cells(acc[prefix + label], frame) for label in sorted(frame.index) if prefix + label in acc}
