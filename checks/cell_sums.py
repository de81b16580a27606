"""Sums over cells, (source, class), for all cells of a batch at once: exact, in any order.

Rows come sorted by cell, so one reduction over whole numbers gives the sums of all cells of a block. They stay below
2**53 as float64 for any number of rows that fits in one (2**35 rows of 18 bits).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.class_rows import text_codes
from millcert.errors import InvalidSampleError, NotEnoughSamplesError

#: Rows of a block: a few megabytes, which stay in the processor's cache. Changes no result.
BLOCK_ROWS = 2048


class Segment(NamedTuple):
    """Rows `part` of a block, all of one source, class, half (0 or 1) and mark."""

    source: str
    label: str
    half: int
    mark: int
    part: slice


class CellBlock(NamedTuple):
    """Rows of a batch, by class, source, half, then mark.

    places: int64 (n,), row numbers in the batch; within a segment they ascend.
    segments: of the rows, in order; a segment that is longer than a block goes on in the next.
    """

    places: np.ndarray
    segments: list[Segment]

    def sums(self, whole: np.ndarray) -> np.ndarray:
        """Return the sum of each segment's rows, float64 (segments, m); exact for whole numbers below 2**42."""
        starts = [segment.part.start for segment in self.segments]
        return np.asarray(np.add.reduceat(whole, starts, axis=0))

    def classes(self) -> Iterator[tuple[str, slice]]:
        """Yield each class with its rows in the block."""
        start = 0
        for segment, after in zip(self.segments, [*self.segments[1:], None], strict=True):
            if after is None or after.label != segment.label:
                yield segment.label, slice(start, segment.part.stop)
                start = segment.part.stop


def cell_blocks(
    sources: pa.StringArray, labels: pa.StringArray, half: np.ndarray, mark: np.ndarray
) -> Iterator[CellBlock]:
    """Yield the rows of a batch, at most 2,048 at a time.

    Args:
        sources: (n,), without nulls.
        labels: likewise.
        half: (n,), 0 or 1.
        mark: int64 (n,), what else tells sums apart: exponents.
    """
    if not len(half):
        return
    (source_names, source), (label_names, label) = text_codes(sources), text_codes(labels)
    least = int(mark.min())
    marks, halves = int(mark.max()) - least + 1, 2 * len(source_names)
    cells = ((label * len(source_names) + source) * 2 + half) * marks + (mark - least)
    order = np.argsort(cells.astype(np.uint16) if halves * len(label_names) * marks < 2**16 else cells, kind="stable")
    cells = cells[order]
    for start in range(0, len(order), BLOCK_ROWS):
        part = cells[start : start + BLOCK_ROWS]
        borders = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
        segments = []
        for first, last in pairwise(borders):
            cell, offset = divmod(int(part[first]), marks)
            name, rest = divmod(cell, halves)
            segments.append(
                Segment(source_names[rest // 2], label_names[name], rest % 2, offset + least, slice(first, last))
            )
        yield CellBlock(order[start : start + BLOCK_ROWS], segments)


@dataclass(frozen=True, eq=False)
class CellSums:
    """How many rows each source has of one class, and their sums; immutable, picklable, mergeable in any order.

    width: columns of the sums.
    counts: (source, half) -> rows.
    sums: (source, half, exponent) -> float64 (width,), whole numbers: the sum over its rows is `sums * 2**exponent`.

    Size: 8 x width bytes a source, half and exponent.
    """

    width: int
    counts: Mapping[tuple[str, int], int]
    sums: Mapping[tuple[str, int, int], np.ndarray]

    @classmethod
    def zero(cls, width: int) -> "CellSums":
        """Return the sums of no rows."""
        return cls(width, {}, {})

    def add(self, segments: Iterable[tuple[Segment, np.ndarray]]) -> "CellSums":
        """Return the sums with those of segments of this class added.

        Raises:
            InvalidSampleError: sums of another width.
        """
        counts, sums = dict(self.counts), dict(self.sums)
        for segment, added in segments:
            if len(added) != self.width:
                _refuse(len(added), self.width)
            key, mark = (segment.source, segment.half), (segment.source, segment.half, segment.mark)
            counts[key] = counts.get(key, 0) + segment.part.stop - segment.part.start
            before = sums.get(mark)
            sums[mark] = added.copy() if before is None else before + added
        return CellSums(self.width, counts, sums)

    def merge(self, others: Iterable["CellSums"]) -> "CellSums":
        """Return the sums of all rows of this and the others.

        Raises:
            InvalidSampleError: the widths differ.
        """
        counts, sums = dict(self.counts), dict(self.sums)
        for other in others:
            if other.width != self.width:
                _refuse(other.width, self.width)
            for cell, count in other.counts.items():
                counts[cell] = counts.get(cell, 0) + count
            for mark, added in other.sums.items():
                sums[mark] = sums[mark] + added if mark in sums else added
        return CellSums(self.width, counts, sums)

    def count(self, source: str | None = None, half: int | None = None) -> int:
        """Return the number of rows: of a half of a source, or of all."""
        return sum(self.counts.values()) if source is None or half is None else self.counts.get((source, half), 0)

    def mean(self, source: str | None = None, half: int | None = None) -> np.ndarray:
        """Return the mean row of a half of a source, or of all, float64 (width,).

        Raises:
            NotEnoughSamplesError: there is no such row.
        """
        rows = self.count(source, half)
        if not rows:
            raise NotEnoughSamplesError("The mean of no samples is undefined.")
        by_exponent: dict[int, np.ndarray] = {}
        for (name, part, exponent), sums in self.sums.items():
            if source is None or half is None or (name, part) == (source, half):
                by_exponent[exponent] = by_exponent.get(exponent, 0.0) + sums  # whole numbers: any order is exact
        return _scaled(by_exponent, self.width) / rows

    def by_source(self) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """Return the sources, sorted, their counts, float64 (S,), and their mean rows, float64 (S, width)."""
        sources = tuple(sorted({source for source, _ in self.counts}))
        place = {source: number for number, source in enumerate(sources)}
        counts = np.zeros(len(sources))
        for (source, _), count in self.counts.items():
            counts[place[source]] += count
        by_exponent: dict[int, np.ndarray] = {}
        for (source, _, exponent), sums in self.sums.items():
            if exponent not in by_exponent:
                by_exponent[exponent] = np.zeros((len(sources), self.width))
            by_exponent[exponent][place[source]] += sums
        return sources, counts, _scaled(by_exponent, self.width) / counts[:, None]


def _scaled(by_exponent: Mapping[int, np.ndarray], width: int) -> np.ndarray:
    """Return the sum of whole numbers times powers of two, added in the order of the powers."""
    total = np.zeros(width)
    for exponent in sorted(by_exponent):
        total = total + by_exponent[exponent] * 2.0**exponent
    return total


def _refuse(found: int, expected: int) -> None:
    raise InvalidSampleError(
        f"Embeddings have width {found}; others of this data set have {expected}.",
        hint="All samples must have embeddings of one model.",
    )
