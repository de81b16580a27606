"""The k-th lowest value of each cell, exactly, where k is known before the values are read.

A cell is whatever the caller counts in, such as "given cat, looks like dog". Ties are broken by a key that belongs to
the sample and not to its place, so the cut does not depend on the order of rows. Samples with the same value and the
same key cannot be told apart: all are inside the cut, or none.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from millcert.errors import InternalError

#: One kept value. `tie` orders equal values; `given` and `can_be_flagged` travel along for the caller.
RECORD = np.dtype(
    [("cell", np.int32), ("value", np.float64), ("tie", np.uint64), ("given", np.float64), ("can_be_flagged", np.bool_)]
)

#: Records below which a part is not worth sorting; twice the limits is the other bound.
_SMALLEST_COMPACTION = 1024
#: Values looked at in one go, so that memory does not grow with the batch.
_MAX_VALUES = 2**20


@dataclass(frozen=True, eq=False)
class Cutoffs:
    """Where each cell is cut: the largest (value, tie) inside.

    value: float64 (cells,); -inf where the cell takes nothing.
    tie: uint64 (cells,).
    """

    value: np.ndarray
    tie: np.ndarray

    def reaches(self, values: np.ndarray, tie: np.ndarray) -> np.ndarray:
        """Return which values are inside the cut of their cell, bool (m, cells).

        Args:
            values: float64 (m, cells).
            tie: uint64 (m,).
        """
        inside: np.ndarray = (values < self.value) | ((values == self.value) & (tie[:, None] <= self.tie))
        return inside


@dataclass(frozen=True, eq=False)
class LowestValues:
    """The `limits[c]` lowest values of each cell c so far; immutable, picklable, mergeable in any order.

    Make one with `LowestValues.zero`; `add` and `merge` return new values.

    limits: int64 (cells,), how many values each cell keeps.
    chunks: tables of RECORD, not yet cut to the limits.
    bound: float64 (cells,); larger values cannot be among the lowest any more.

    Size: 29 bytes a record, at most 2 x sum(limits) + 1024 records between calls.
    """

    limits: np.ndarray
    chunks: tuple[np.ndarray, ...]
    bound: np.ndarray

    @classmethod
    def zero(cls, limits: np.ndarray) -> "LowestValues":
        """Return the part of no samples."""
        return cls(limits, (), np.where(limits > 0, np.inf, -np.inf))

    @property
    def highest_bound(self) -> float:
        """A value that nothing is kept above, in any cell."""
        return float(self.bound.max(initial=-np.inf))

    @property
    def nbytes(self) -> int:
        """Size in bytes, without object headers."""
        return self.limits.nbytes + self.bound.nbytes + sum(chunk.nbytes for chunk in self.chunks)

    def add(self, values: np.ndarray, tie: np.ndarray, given: np.ndarray, can_be_flagged: np.ndarray) -> "LowestValues":
        """Return the part with samples added.

        Args:
            values: float64 (m, cells), finite.
            tie: uint64 (m,).
            given: float64 (m,), kept with the record.
            can_be_flagged: bool (m,), kept with the record.
        """
        part = self
        step = max(1, _MAX_VALUES // max(1, values.shape[1]))
        for start in range(0, len(values), step):
            rows = slice(start, start + step)
            row, cell = np.nonzero(values[rows] <= part.bound)
            if not len(row):
                continue
            records = np.empty(len(row), dtype=RECORD)
            records["cell"] = cell
            records["value"] = values[rows][row, cell]
            records["tie"] = tie[rows][row]
            records["given"] = given[rows][row]
            records["can_be_flagged"] = can_be_flagged[rows][row]
            part = part._with(records)
        return part

    def merge(self, others: Iterable["LowestValues"]) -> "LowestValues":
        """Return the part of all samples of this and the others.

        Raises:
            InternalError: the others have other limits, so they come of another model.
        """
        part = self
        for other in others:
            if not np.array_equal(part.limits, other.limits):
                raise InternalError("Cannot merge the lowest values under different limits.")
            part = part._with(*other.chunks)
        return part

    def records(self) -> np.ndarray:
        """Return the kept records, RECORD (r,), by cell, then value, then tie.

        Among equal (value, tie) at the cut, those that can be flagged come first, and of these the lowest `given`.
        """
        if not self.chunks:
            return np.empty(0, dtype=RECORD)
        table = np.concatenate(self.chunks)
        order = np.lexsort((table["value"], table["cell"]))
        cell, value = table["cell"][order], table["value"][order]
        if ((cell[1:] == cell[:-1]) & (value[1:] == value[:-1])).any():  # else the other keys have no say
            keys = (table["given"], ~table["can_be_flagged"], table["tie"], table["value"], table["cell"])
            order = np.lexsort(keys)
        table = table[order]
        first = np.searchsorted(table["cell"], table["cell"])
        kept: np.ndarray = table[np.arange(len(table)) - first < self.limits[table["cell"]]]
        return kept

    def cutoffs(self) -> Cutoffs:
        """Return the cut of each cell: its `limits[c]`-th lowest value, or its highest where it has fewer."""
        value = np.full(len(self.limits), -np.inf)
        tie = np.zeros(len(self.limits), dtype=np.uint64)
        table = self.records()
        last = np.flatnonzero(np.diff(table["cell"], append=-1))
        value[table["cell"][last]] = table["value"][last]
        tie[table["cell"][last]] = table["tie"][last]
        return Cutoffs(value, tie)

    def _with(self, *chunks: np.ndarray) -> "LowestValues":
        grown = LowestValues(self.limits, (*self.chunks, *chunks), self.bound)
        if sum(map(len, grown.chunks)) <= 2 * int(self.limits.sum()) + _SMALLEST_COMPACTION:
            return grown
        table = grown.records()
        bound = self.bound.copy()
        last = np.flatnonzero(np.diff(table["cell"], append=-1))
        cells, sizes = table["cell"][last], np.diff(last, prepend=-1)
        is_full = sizes == self.limits[cells]
        bound[cells[is_full]] = table["value"][last][is_full]
        return LowestValues(self.limits, (table,), bound)
