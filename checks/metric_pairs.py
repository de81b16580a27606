"""Row conditions over two or more columns of one row, and the kernel that finds the rows that break them.

Two nulls are not equal in a pair and are equal in a record, as in Great Expectations on pandas. Columns of one
condition are of one family, or ints and floats together, which are then compared as float64.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import BatchView, ColumnView, family
from millcert.checks.metric_kernels import RowsFound, _FindsRows, found_rows
from millcert.errors import PolicyError

_ALL_MISSING = frozenset({"both_values_are_missing", "all_values_are_missing"})
_ANY_MISSING = frozenset({"either_value_is_missing", "any_value_is_missing"})


class RecordCondition(Protocol):
    """A frozen dataclass that judges rows of several columns."""

    def judge(self, columns: Sequence[ColumnView]) -> np.ndarray:
        """Return whether each row is as expected, bool (n,); columns may hold nulls."""
        ...


@dataclass(frozen=True)
class PairCompares:
    """Expects the first value to be equal to the second, greater, or either; a null never is."""

    comparison: str

    def judge(self, columns: Sequence[ColumnView]) -> np.ndarray:
        """See `RecordCondition`."""
        first, second = _comparable(columns)
        return _truth(getattr(pc, self.comparison)(first, second))


@dataclass(frozen=True)
class PairInSet:
    """Expects the two values to be one of some pairs; null stands as None in a pair."""

    pairs: frozenset[tuple[Any, Any]] | None

    def judge(self, columns: Sequence[ColumnView]) -> np.ndarray:
        """See `RecordCondition`."""
        n = len(columns[0].array)
        if self.pairs is None:
            return np.ones(n, dtype=bool)
        codes = []
        values = []
        for column in columns:
            encoded = column.present.dictionary_encode()
            code = np.zeros(n, dtype=np.int64)
            code[column.present_at] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64) + 1
            codes.append(code)
            values.append([None, *encoded.dictionary.to_pylist()])
        width = len(values[1])
        seen, which = np.unique(codes[0] * width + codes[1], return_inverse=True)
        answers = [(values[0][int(code) // width], values[1][int(code) % width]) in self.pairs for code in seen]
        return np.array(answers, dtype=bool)[which]


@dataclass(frozen=True)
class RecordSumsTo:
    """Expects the values of a row to add up to a number, left to right in float64; a null never does."""

    total: float

    def judge(self, columns: Sequence[ColumnView]) -> np.ndarray:
        """See `RecordCondition`."""
        sums = reduce(np.add, [_floats(column) for column in columns])
        return sums == self.total


@dataclass(frozen=True)
class RecordEqual:
    """Expects all values of a row to be equal; nulls are equal to nulls only."""

    def judge(self, columns: Sequence[ColumnView]) -> np.ndarray:
        """See `RecordCondition`."""
        arrays = _comparable(columns)
        return np.logical_and.reduce([_same(columns[0], columns[i], arrays[0], arrays[i]) for i in range(len(columns))])


@dataclass(frozen=True)
class RecordDistinct:
    """Expects all values of a row to be different; two nulls are not different."""

    def judge(self, columns: Sequence[ColumnView]) -> np.ndarray:
        """See `RecordCondition`."""
        arrays = _comparable(columns)
        same = [_same(columns[i], columns[j], arrays[i], arrays[j]) for i, j in combinations(range(len(columns)), 2)]
        return ~np.logical_or.reduce(same) if same else np.ones(len(arrays[0]), dtype=bool)


@dataclass(frozen=True)
class FindRecords(_FindsRows):
    """The rows that break a condition over several columns. Size: `limit` rows of these columns with places.

    ignore_row_if: which rows are passed over, in the words of Great Expectations.
    """

    columns: tuple[str, ...]
    condition: RecordCondition
    ignore_row_if: str
    limit: int

    def measure(self, view: BatchView) -> Iterator[tuple[str, RowsFound]]:
        """See `Kernel`."""
        columns = [view.column(name) for name in self.columns]
        considered = ~passed_over(columns, self.ignore_row_if)
        at = np.flatnonzero(considered)
        expected = self.condition.judge(columns)[at] if len(view) else np.ones(0, dtype=bool)
        listed = pa.StructArray.from_arrays(
            [column.array for column in columns], names=[str(i) for i in range(len(columns))]
        )
        yield "", found_rows(view, at, listed.take(pa.array(at)) if len(at) else listed, expected, None, self.limit)


def passed_over(columns: Sequence[ColumnView], ignore_row_if: str) -> np.ndarray:
    """Return which rows a condition passes over, bool (n,), by GX's words for it."""
    nulls = [column.is_null for column in columns]
    if ignore_row_if in _ALL_MISSING:
        return np.logical_and.reduce(nulls)
    if ignore_row_if in _ANY_MISSING:
        return np.logical_or.reduce(nulls)
    return np.zeros(len(nulls[0]), dtype=bool)


PAIR_CONDITIONS = frozenset(
    {"column_pair_values.equal", "column_pair_values.a_greater_than_b", "column_pair_values.in_set"}
)
RECORD_CONDITIONS = frozenset(
    {"multicolumn_sum.equal", "multicolumn_values.equal", "select_column_values.unique.within_record"}
)


def pair_condition(base: str, types: Sequence[pa.DataType], parameters: Mapping[str, Any]) -> RecordCondition:
    """Return the condition of a pair metric.

    Raises:
        PolicyError: the two types cannot be compared.
    """
    if base == "column_pair_values.in_set":
        if not {family(data_type) for data_type in types} <= {"int", "float", "string"}:
            raise PolicyError(
                f"The metric {base} knows numbers and texts, not {', '.join(map(str, types))}.", metric=base
            )
        pairs = parameters.get("value_pairs_set")
        return PairInSet(None if pairs is None else frozenset((first, second) for first, second in pairs))
    _require_comparable(base, types)
    if base == "column_pair_values.equal":
        return PairCompares("equal")
    return PairCompares("greater_equal" if parameters.get("or_equal") else "greater")


def record_condition(base: str, types: Sequence[pa.DataType], parameters: Mapping[str, Any]) -> RecordCondition:
    """Return the condition of a multicolumn metric.

    Raises:
        PolicyError: the types cannot be compared, or not added.
    """
    _require_comparable(base, types)
    if base == "multicolumn_values.equal":
        return RecordEqual()
    if base == "select_column_values.unique.within_record":
        return RecordDistinct()
    if not {family(data_type) for data_type in types} <= {"int", "float"}:
        raise PolicyError(f"The metric {base} adds numbers; the columns are {', '.join(map(str, types))}.", metric=base)
    return RecordSumsTo(float(parameters["sum_total"]))


def _require_comparable(base: str, types: Sequence[pa.DataType]) -> None:
    families = {family(data_type) for data_type in types}
    is_one = len(families) == 1 and families <= {"int", "float", "string", "timestamp"}
    if family(types[0]) == "timestamp":
        is_one = is_one and len(set(types)) == 1
    if not is_one and families != {"int", "float"}:
        raise PolicyError(
            f"The metric {base} cannot compare columns of types {', '.join(map(str, types))}; "
            "it compares numbers, texts, or timestamps of one type.",
            metric=base,
        )


def _comparable(columns: Sequence[ColumnView]) -> list[pa.Array]:
    arrays = [column.array for column in columns]
    types = {array.type for array in arrays}
    if len(types) > 1:
        if any(pa.types.is_floating(each) for each in types):
            target = pa.float64()
        elif pa.uint64() not in types:
            target = pa.int64()
        else:  # what holds uint64, and a sign where another column may have one
            target = pa.uint64() if all(map(pa.types.is_unsigned_integer, types)) else pa.decimal128(20, 0)
        arrays = [array.cast(target, safe=not pa.types.is_floating(target)) for array in arrays]
    return arrays


def _same(left: ColumnView, right: ColumnView, left_values: pa.Array, right_values: pa.Array) -> np.ndarray:
    return _truth(pc.equal(left_values, right_values)) | (left.is_null & right.is_null)


def _truth(answers: pa.Array) -> np.ndarray:
    return answers.fill_null(fill_value=False).to_numpy(zero_copy_only=False)


def _floats(column: ColumnView) -> np.ndarray:
    numbers = np.full(len(column.array), np.nan)
    numbers[column.present_at] = column.present.to_numpy(zero_copy_only=False)
    return numbers
