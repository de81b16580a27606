"""Confident learning's K x K tables: whole numbers for pairs (given class, likely class), without their zeros.

With 10,000 classes a full table has 1e8 entries; the data fills at most one a sample.

The steps are written out here and not called in cleanlab: that import costs seconds and pandas on every worker, one of
the two functions is private there, and both take all labels and full tables where counts are enough.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

#: Entries that are summed as one full array; the larger a table, the more of its empty parts are skipped.
_DENSE_ENTRIES = 2**16


@dataclass(frozen=True, eq=False)
class ClassCells:
    """A K x K table of int64 by rows, without its zeros; immutable, picklable, mergeable in any order.

    width: K.
    code: int64 (m,), ascending: row * K + column.
    value: int64 (m,), not zero.

    Size: 16 bytes an entry.
    """

    width: int
    code: np.ndarray
    value: np.ndarray

    @classmethod
    def zero(cls, width: int) -> "ClassCells":
        """Return the empty table."""
        return cls(width, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

    @classmethod
    def count(cls, width: int, row: np.ndarray, column: np.ndarray) -> "ClassCells":
        """Return how often each pair occurs; row and column are int64 (n,), in [0, width)."""
        code, value = np.unique(row * width + column, return_counts=True)
        return cls(width, code, value.astype(np.int64))

    @classmethod
    def of_table(cls, table: np.ndarray) -> "ClassCells":
        """Return the cells of a full table, int64 (K, K)."""
        code = np.flatnonzero(table)
        return cls(len(table), code, table.ravel()[code].astype(np.int64))

    @property
    def nbytes(self) -> int:
        """Size in bytes, without object headers."""
        return self.code.nbytes + self.value.nbytes

    @property
    def row(self) -> np.ndarray:
        """The row of each entry, int64 (m,)."""
        return self.code // self.width

    @property
    def column(self) -> np.ndarray:
        """The column of each entry, int64 (m,)."""
        return self.code % self.width

    def table(self) -> np.ndarray:
        """Return the full table, int64 (K, K)."""
        full = np.zeros(self.width * self.width, dtype=np.int64)
        full[self.code] = self.value
        return full.reshape(self.width, self.width)

    def merge(self, others: Iterable["ClassCells"]) -> "ClassCells":
        """Return the sum of this and the others, of one width."""
        parts = [self, *others]
        code, place = np.unique(np.concatenate([part.code for part in parts]), return_inverse=True)
        value = np.zeros(len(code), dtype=np.int64)
        np.add.at(value, place, np.concatenate([part.value for part in parts]))
        return ClassCells(self.width, code, value)

    def row_of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns and values of one row, ascending by column."""
        part = slice(*np.searchsorted(self.code, [index * self.width, (index + 1) * self.width]))
        return self.code[part] - index * self.width, self.value[part]

    def row_sums(self) -> np.ndarray:
        """Return the sum of each row, int64 (K,)."""
        sums = np.zeros(self.width, dtype=np.int64)
        np.add.at(sums, self.row, self.value)
        return sums

    def diagonal(self) -> np.ndarray:
        """Return the entries (i, i), int64 (K,)."""
        diagonal = np.zeros(self.width, dtype=np.int64)
        on = np.flatnonzero(self.row == self.column)
        diagonal[self.row[on]] = self.value[on]
        return diagonal

    def with_diagonal(self, diagonal: np.ndarray) -> "ClassCells":
        """Return the table with other entries (i, i), int64 (K,)."""
        off = self.row != self.column
        own = np.flatnonzero(diagonal)
        code = np.concatenate([self.code[off], own * (self.width + 1)])
        value = np.concatenate([self.value[off], diagonal[own].astype(np.int64)])
        order = np.argsort(code)
        return ClassCells(self.width, code[order], value[order])

    def where(self, kept: np.ndarray) -> "ClassCells":
        """Return the table of some entries, bool (m,)."""
        return ClassCells(self.width, self.code[kept], self.value[kept])


def calibrate_joint(confident_joint: ClassCells, label_counts: np.ndarray) -> ClassCells:
    """Return the joint count of given and true labels; row i sums to about `label_counts[i]`.

    Args:
        confident_joint: entry (i, j) counts rows given i and confidently of j. Each class is taken to have at least one
            correctly labelled sample.
        label_counts: int64 (K,).

    Rounding keeps each row's total; which of several equal remainders is rounded the other way is left to numpy's
    sort, as in cleanlab, and so can differ by one count between processor families.

    Cost: K rows of K numbers, one at a time.
    Source: JAIR 70 (2021), equation 3.
    """
    joint = confident_joint.with_diagonal(np.maximum(confident_joint.diagonal(), 1))
    share = joint.value / joint.row_sums()[joint.row] * label_counts[joint.row]
    # The order of this sum is that of the full table with true labels in its rows, to the last bit as in cleanlab.
    share = share / _sum_by_true_class(joint, share) * int(label_counts.sum())
    code, value = [], []
    for index, full in _full_rows(joint, share):
        whole = _round_keeping_total(full)
        column = np.flatnonzero(whole)
        code.append(index * joint.width + column)
        value.append(whole[column])
    return ClassCells(joint.width, np.concatenate(code), np.concatenate(value))


def prune_limits(calibrated_joint: ClassCells, *, min_examples_per_class: int, frac_noise: float = 1.0) -> ClassCells:
    """Return how many samples each cell may give up.

    Entry (i, j) off the diagonal: samples given i to prune because they look like j. Entry (i, i): samples of i that
    are kept. Where a class would keep fewer than `min_examples_per_class`, its diagonal is raised to that, and what
    was added is taken in equal parts from the other entries of its row; then `frac_noise` of each entry is taken and
    the rest kept; fractions are dropped.
    """
    diagonal = calibrated_joint.diagonal()
    kept = np.maximum(diagonal, min_examples_per_class)
    row, off = calibrated_joint.row, calibrated_joint.row != calibrated_joint.column
    entries = np.bincount(row, minlength=calibrated_joint.width)
    taken = (kept - diagonal) / np.maximum(entries - 1.0, 1.0)
    value = np.where(off, np.maximum(calibrated_joint.value - taken[row], 0), 0.0)
    pruned = value * frac_noise
    spared = np.zeros(calibrated_joint.width)
    for index, full in _full_rows(calibrated_joint, value - pruned) if frac_noise < 1 else ():
        spared[index] = np.sum(full)  # of the full row: the order of numpy's sum, and so cleanlab's last bit
    limits = ClassCells(calibrated_joint.width, calibrated_joint.code, pruned.astype(np.int64))
    return limits.where(limits.value > 0).with_diagonal((kept + spared).astype(np.int64))


def _full_rows(cells: ClassCells, values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each row that has entries, with its values, float64 (K,), 0 where there is no entry."""
    present, first = np.unique(cells.row, return_index=True)
    stops = np.append(first, len(cells.code))[1:]
    for index, start, stop in zip(present.tolist(), first.tolist(), stops.tolist(), strict=True):
        full = np.zeros(cells.width)
        full[cells.code[start:stop] - index * cells.width] = values[start:stop]
        yield index, full


def _sum_by_true_class(cells: ClassCells, share: np.ndarray) -> float:
    """Return the sum of numbers in the order of columns, then rows, bit for bit as `np.sum` of the full table."""
    place = cells.column * cells.width + cells.row
    order = np.argsort(place)
    return _sum_sparse(place[order], share[order], 0, cells.width * cells.width)


def _sum_sparse(place: np.ndarray, values: np.ndarray, start: int, stop: int) -> float:
    """Return `np.sum` of the array that is `values` at `place` and 0 elsewhere, from start to stop.

    numpy halves an array, at multiples of 8, until a part is small, so any half can be summed alone: the same bits.
    """
    if not len(place):
        return 0.0
    if stop - start <= _DENSE_ENTRIES:
        full = np.zeros(stop - start)
        full[place - start] = values
        return float(np.sum(full))
    half = (stop - start) // 2
    middle = start + half - half % 8
    cut = int(np.searchsorted(place, middle))
    return _sum_sparse(place[:cut], values[:cut], start, middle) + _sum_sparse(place[cut:], values[cut:], middle, stop)


def _round_keeping_total(values: np.ndarray) -> np.ndarray:
    """Return the values as integers with the sum of the values, rounded; the worst-rounded ones give way."""
    whole = values.round()
    target = np.sum(values).round()
    while (missing := int(target - np.sum(whole))) != 0:
        order = np.argsort(values - whole)
        if missing > 0:
            whole[order[::-1][:missing]] += 1
        else:
            whole[order[:-missing]] -= 1
    return whole.astype(np.int64)
