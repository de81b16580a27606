"""Functional dependencies between columns of few values: each value of one column goes with one value of another.

Exact: every row is looked at, by the values themselves and not by hashes. Bounded: only columns whose values the
profile lists completely (512 at its default), at most 32 of them, so at most 992 tables of some 512 entries.
A row without a value of the determining column says nothing; having no value is a value of the dependent one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.profile import Cell

#: Columns that are paired; later ones of the data are left out. Our choice: 992 pairs.
MOST_COLUMNS = 32
#: Rows a value of the determining column, on average: with fewer, dependencies hold by chance. Our choice.
LEAST_ROWS_A_VALUE = 20

_KINDS = ("bool", "int", "string", "date")
_UNSEEN = -2


class Dependency(NamedTuple):
    """`dependent` is a function of `determinant` on all rows. values: distinct ones of the determinant."""

    determinant: str
    dependent: str
    rows: int
    values: int


class DependencyTest:
    """Tests every pair of candidate columns; `add` takes the batches in any order."""

    def __init__(self, candidates: Sequence[str]) -> None:
        self._codes: dict[str, dict[Any, int]] = {name: {} for name in candidates}
        self._rows = dict.fromkeys(candidates, 0)
        pairs = [(one, other) for one in candidates for other in candidates if one != other]
        self._tables: dict[tuple[str, str], np.ndarray] = {pair: np.full(16, _UNSEEN, np.int64) for pair in pairs}

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at a batch's rows; pairs that break are looked at no more."""
        wanted = {name for pair in self._tables for name in pair}
        codes = {name: self._coded(name, batch.column(name)) for name in self._codes if name in wanted}
        for name, found in codes.items():
            self._rows[name] += int(np.count_nonzero(found >= 0))
        for pair, table in list(self._tables.items()):
            known = self._checked(table, codes[pair[0]], codes[pair[1]])
            if known is None:
                del self._tables[pair]
            else:
                self._tables[pair] = known

    def found(self) -> list[Dependency]:
        """Return the dependencies that hold on all rows, with enough rows behind them, sorted."""
        held = []
        for (one, other), _ in sorted(self._tables.items()):
            values, rows = len(self._codes[one]), self._rows[one]
            # A column of one value is determined by everything.
            is_told = len(self._codes[other]) > 1 and values > 1 and rows >= LEAST_ROWS_A_VALUE * values
            held += [Dependency(one, other, rows, values)] if is_told else []
        return held

    def _coded(self, name: str, column: pa.Array) -> np.ndarray:
        """Return the number of each row's value, int64 (n,); -1 where there is none."""
        known = self._codes[name]
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        encoded = plain.dictionary_encode()
        numbers = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
        places = pc.fill_null(encoded.indices, len(numbers)).to_numpy(zero_copy_only=False)
        return np.array([*numbers, -1], dtype=np.int64)[places]

    @staticmethod
    def _checked(table: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
        """Return the table, determinant -> dependent, with a batch's rows; None where they contradict it."""
        has_value = one >= 0
        one, other = one[has_value], other[has_value]
        if not len(one):
            return table
        short = int(one.max()) + 1 - len(table)
        grown = np.concatenate([table, np.full(max(0, 2 * short), _UNSEEN, np.int64)])
        first = np.full(len(grown), _UNSEEN, np.int64)
        first[one] = other
        expected = np.where(grown == _UNSEEN, first, grown)
        return expected if bool((expected[one] == other).all()) else None


def candidate_columns(cell: Cell) -> list[str]:
    """Return the columns of few values, by the profile of all rows, in the data's order: at most 32."""
    found = [
        name
        for name, column in cell.columns.items()
        if column.kind in _KINDS and column.values is not None and column.values.is_complete
        if len(column.values.hashes) > 1
    ]
    return found[:MOST_COLUMNS]
