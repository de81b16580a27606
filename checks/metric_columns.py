"""A batch as the metric kernels see it: each column without its nulls, and the place of each row.

NaN counts as null, as Great Expectations on pandas counts it. A column is brought to one Arrow type per family, so that
a kernel meets each value in one form:

| family | Arrow types | form in a kernel |
|---|---|---|
| bool | bool | bool |
| int | int8..int64, uint8..uint64 | as it is |
| float | float16, float32, float64 | float64 (exact), -0.0 kept |
| string | string, large_string, string_view | string |
| binary | binary, large_binary, binary_view, fixed_size_binary | binary |
| date | date32 | date32 |
| timestamp | timestamp of any unit and zone | as it is |
| decimal | decimal128, decimal256 | as it is |
| other | lists, structs, times, durations, null, ... | as it is; only null counts are measured |
"""

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks.metric_text import repeats
from millcert.errors import MissingColumnError

Family: TypeAlias = Literal["bool", "int", "float", "string", "binary", "date", "timestamp", "decimal", "other"]


def family(data_type: pa.DataType) -> Family:  # noqa: C901, PLR0911 - a table of types, one line each
    """Return the family of an Arrow type; dictionaries count as what they encode."""
    types = pa.types
    if types.is_dictionary(data_type):
        return family(data_type.value_type)
    if types.is_boolean(data_type):
        return "bool"
    if types.is_integer(data_type):
        return "int"
    if types.is_floating(data_type):
        return "float"
    if types.is_string(data_type) or types.is_large_string(data_type) or types.is_string_view(data_type):
        return "string"
    if types.is_binary(data_type) or types.is_large_binary(data_type) or types.is_fixed_size_binary(data_type):
        return "binary"
    if types.is_binary_view(data_type):
        return "binary"
    if types.is_date32(data_type):
        return "date"
    if types.is_timestamp(data_type):
        return "timestamp"
    if types.is_decimal128(data_type) or types.is_decimal256(data_type):
        return "decimal"
    return "other"


def kernel_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type in which a kernel meets values of `data_type` (the table above)."""
    if pa.types.is_dictionary(data_type):
        return kernel_type(data_type.value_type)
    kind = family(data_type)
    if kind == "float":
        return pa.float64()
    if kind == "string":
        return pa.string()
    if kind == "binary":
        return pa.binary()
    return data_type


def ticks(values: pa.Array) -> np.ndarray:
    """Return ints, bools, dates (days) and timestamps (units) as integers, shape (n,); `values` has no nulls.

    uint64 stays unsigned, everything else is int64.
    """
    kind = family(values.type)
    if kind == "date":
        values = values.cast(pa.int32())
    elif kind == "bool":
        values = values.cast(pa.int8())
    elif kind == "timestamp":
        values = values.cast(pa.int64())
    plain = values.to_numpy(zero_copy_only=False)
    return plain if plain.dtype == np.uint64 else plain.astype(np.int64, copy=False)


class Encoded(NamedTuple):
    """The m values of a column that are not null, each distinct one once.

    values: distinct, each of them in the column, shape (d,). codes: which one each value is, shape (m,).
    counts: how often each stands, int64 (d,).
    """

    values: pa.Array
    codes: np.ndarray
    counts: np.ndarray


class ColumnView:
    """One column of one batch of n rows. What several kernels need of it is worked out once, when first asked for."""

    def __init__(self, array: pa.Array) -> None:
        self._given = array
        self.data_type: pa.DataType = kernel_type(array.type)

    @cached_property
    def array(self) -> pa.Array:
        """The column in its kernel type, shape (n,)."""
        array = self._given
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return array if array.type == self.data_type else array.cast(self.data_type)

    @cached_property
    def null_count(self) -> int:
        """How many values are null or NaN."""
        if family(self.data_type) == "float":
            return int(np.count_nonzero(self.is_null))
        return int(self._given.null_count if self._is_plain_dictionary else self.array.null_count)

    @cached_property
    def is_null(self) -> np.ndarray:
        """Whether a value is null or NaN, bool, shape (n,)."""
        if family(self.data_type) == "float":
            return np.isnan(self._raw_floats)
        given = self._given.indices if self._is_plain_dictionary else self.array
        return np.asarray(given.is_null().to_numpy(zero_copy_only=False))

    @cached_property
    def present(self) -> pa.Array:
        """The values that are not null, in order."""
        if family(self.data_type) == "float" and self.null_count:
            return pa.array(self.present_floats)
        return self.array.drop_null() if self.null_count else self.array

    @property
    def present_count(self) -> int:
        """How many values are not null."""
        return len(self._given) - self.null_count

    @cached_property
    def present_at(self) -> np.ndarray:
        """The position in the batch of each value of `present`."""
        return np.arange(len(self._given)) if not self.null_count else np.flatnonzero(~self.is_null)

    @cached_property
    def encoded(self) -> Encoded | None:
        """`present` by its distinct values, or None where these are too many for that to pay."""
        if self._is_plain_dictionary:
            values, indices = self._dictionary, self._given.indices.drop_null()
        elif family(self.data_type) in ("string", "decimal") and repeats(self.present):
            found = self.present.dictionary_encode()
            values, indices = found.dictionary, found.indices
        else:
            return None
        codes = indices.to_numpy(zero_copy_only=False)
        counts = np.bincount(codes, minlength=len(values))
        if not counts.all():  # a dictionary may hold more than the batch does
            used = np.flatnonzero(counts)
            place = np.zeros(len(values), dtype=np.int64)
            place[used] = np.arange(len(used))
            values, codes, counts = values.take(pa.array(used)), place[codes], counts[used]
        return Encoded(values, codes, counts)

    @cached_property
    def present_ticks(self) -> np.ndarray:
        """`ticks` of `present`."""
        return ticks(self.present)

    @cached_property
    def present_floats(self) -> np.ndarray:
        """`present` of a float column as float64, shape (m,)."""
        numbers = self._raw_floats.astype(np.float64, copy=False)
        return numbers[~self.is_null] if self.null_count else numbers

    @cached_property
    def float_ends(self) -> tuple[float, float] | None:
        """The smallest and the largest value of a float column, None of none."""
        if not self.present_count:
            return None
        numbers = self._raw_floats[~self.is_null] if self.null_count else self._raw_floats
        return float(numbers.min()), float(numbers.max())

    @cached_property
    def _raw_floats(self) -> np.ndarray:
        """The column as it came, NaN where null: not every question needs it as float64."""
        given = self._given.dictionary_decode() if pa.types.is_dictionary(self._given.type) else self._given
        return np.asarray(given.to_numpy(zero_copy_only=False))

    @cached_property
    def _is_plain_dictionary(self) -> bool:
        """Whether the column came as a dictionary that is worth using: few values, each once, none null or NaN."""
        if not pa.types.is_dictionary(self._given.type) or family(self.data_type) == "float":
            return False
        values = self._given.dictionary
        is_small = len(values) <= len(self._given) // 4
        return is_small and not values.null_count and len(self._dictionary.unique()) == len(values)

    @cached_property
    def _dictionary(self) -> pa.Array:
        values = self._given.dictionary
        return values if values.type == self.data_type else values.cast(self.data_type)


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose columns of string or binary views, which Arrow cannot pick rows of, are plain ones."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    columns = [column.cast(plain[column.type]) if column.type in plain else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


class BatchView:
    """A batch of n rows with their places.

    file: the manifest path of the file that the rows are from.
    rows: int64, shape (n,): the record index of each row in its file.
    span: first and last row of the batch as it was read, also where only some of its rows are here; None of no rows.
    """

    def __init__(self, batch: pa.RecordBatch, file: str, rows: np.ndarray, span: tuple[int, int] | None = None) -> None:
        self.batch = batch
        self.file = file
        self.rows = np.asarray(rows, dtype=np.int64)
        self.span = (int(self.rows[0]), int(self.rows[-1])) if span is None and len(self.rows) else span
        self._columns: dict[str, ColumnView] = {}
        self._parts: dict[object, tuple[np.ndarray, BatchView]] = {}

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def where(self, key: object, mask_of: "Callable[[BatchView], np.ndarray]") -> "BatchView":
        """Return the view of some of the rows, made once a batch for each `key`; `mask_of` picks them."""
        return self.picked(key, mask_of)[1]

    def picked(self, key: object, mask_of: "Callable[[BatchView], np.ndarray]") -> "tuple[np.ndarray, BatchView]":
        """Return which rows `mask_of` picks, bool (n,), and the view of them, both made once for each `key`."""
        if key not in self._parts:
            mask = mask_of(self)
            part = _without_views(self.batch).filter(pa.array(mask))
            self._parts[key] = mask, type(self)(part, self.file, self.rows[mask], self.span)
        return self._parts[key]

    def column(self, name: str) -> ColumnView:
        """Return the view of a column, made once a batch.

        Raises:
            MissingColumnError: the batch has no such column, or more than one.
        """
        if name not in self._columns:
            position = self.batch.schema.get_field_index(name)
            if position < 0:
                raise MissingColumnError(
                    f"The expectations read the column {name!r}; the batch from {self.file!r} has "
                    f"{', '.join(self.batch.schema.names) or 'none'}.",
                    column=name,
                    path=self.file,
                )
            self._columns[name] = ColumnView(self.batch.column(position))
        return self._columns[name]
