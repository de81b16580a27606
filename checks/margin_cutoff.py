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


@dataclass(frozen=True, eq=False)
class Cutoffs:
    """Where each cell is cut: the largest (value, tie) inside.

    value: float64 (cells,); -inf where the cell takes nothing.
    tie: uint64 (cells,).
    """

    value: np.ndarray
    tie: np.ndarray

    @classmethod
    def none(cls, cells: int) -> "Cutoffs":
        """Return cuts that take nothing."""
        return cls(np.full(cells, -np.inf), np.zeros(cells, dtype=np.uint64))

    def reached(self, cell: np.ndarray, value: np.ndarray, tie: np.ndarray) -> np.ndarray:
        """Return which values are inside the cut of their cell, bool (m,).

        Args:
            cell: int64 (m,).
            value: float64 (m,).
            tie: uint64 (m,).
        """
        cut = self.value[cell]
        inside: np.ndarray = (value < cut) | ((value == cut) & (tie <= self.tie[cell]))
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
    def zero(cls, limits: np.ndarray, bound: np.ndarray | None = None) -> "LowestValues":
        """Return the part of no samples.

        Args:
            limits: int64 (cells,).
            bound: float64 (cells,), where it is known before the values are read; None for no bound.
        """
        return cls(limits, (), np.where(limits > 0, np.inf if bound is None else bound, -np.inf))

    @property
    def nbytes(self) -> int:
        """Size in bytes, without object headers."""
        return self.limits.nbytes + self.bound.nbytes + sum(chunk.nbytes for chunk in self.chunks)

    def add(
        self, cell: np.ndarray, value: np.ndarray, tie: np.ndarray, given: np.ndarray, can_be_flagged: np.ndarray
    ) -> "LowestValues":
        """Return the part with values added; those above their cell's bound are left out.

        Args:
            cell: int64 (m,).
            value: float64 (m,), finite.
            tie: uint64 (m,).
            given: float64 (m,), kept with the record.
            can_be_flagged: bool (m,), kept with the record.
        """
        near = np.flatnonzero(value <= self.bound[cell])
        if not len(near):
            return self
        records = np.empty(len(near), dtype=RECORD)
        for name, column in zip(RECORD.names or (), (cell, value, tie, given, can_be_flagged), strict=True):
            records[name] = column[near]
        return self._with(records)

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
        """Return the kept records, RECORD (r,), in no order.

        Among equal (value, tie) at the cut, those that can be flagged come first, and of these the lowest `given`.

        Cost: sorts the records of cells with more than they keep.
        """
        if not self.chunks:
            return np.empty(0, dtype=RECORD)
        table = np.concatenate(self.chunks) if len(self.chunks) > 1 else self.chunks[0]
        cell = np.ascontiguousarray(table["cell"])
        is_over = (np.bincount(cell, minlength=len(self.limits)) > self.limits)[cell]
        if not is_over.any():
            return table
        return np.concatenate([table[~is_over], _lowest(table[is_over], self.limits)])

    def cutoffs(self) -> Cutoffs:
        """Return the cut of each cell: its `limits[c]`-th lowest value, or its highest where it has fewer."""
        table, cuts = self.records(), Cutoffs.none(len(self.limits))
        np.maximum.at(cuts.value, table["cell"], table["value"])
        last = table[table["value"] == cuts.value[table["cell"]]]
        np.maximum.at(cuts.tie, last["cell"], last["tie"])
        return cuts

    def _with(self, *chunks: np.ndarray) -> "LowestValues":
        grown = LowestValues(self.limits, (*self.chunks, *chunks), self.bound)
        if sum(map(len, grown.chunks)) <= 2 * int(self.limits.sum()) + _SMALLEST_COMPACTION:
            return grown
        table = grown.records()
        highest = np.full(len(self.limits), -np.inf)
        np.maximum.at(highest, table["cell"], table["value"])
        is_full = np.bincount(table["cell"], minlength=len(self.limits)) == self.limits
        bound = np.where(is_full & (self.limits > 0), np.minimum(highest, self.bound), self.bound)
        return LowestValues(self.limits, (table,), bound)


def _lowest(table: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the records that cells with more than their limit keep."""
    order = np.lexsort((table["value"], table["cell"]))
    cell, value = table["cell"][order], table["value"][order]
    if ((cell[1:] == cell[:-1]) & (value[1:] == value[:-1])).any():  # else the other keys have no say
        keys = (table["given"], ~table["can_be_flagged"], table["tie"], table["value"], table["cell"])
        order = np.lexsort(keys)
    first = np.searchsorted(cell, cell)
    return table[order[np.arange(len(table)) - first < limits[cell]]]
