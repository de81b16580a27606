"""What a role reads of several columns: table values for `features`; texts, nested or not, for `text`."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Stands for a missing table value, NaN too: as exact as any other value, and no finite number of a real table.
MISSING = -(2.0**1023)
#: Texts become whole numbers from here on, 52 bits wide, so they meet no smaller number of the same column.
_TEXT_BASE = 2.0**52


def is_table_value(kind: pa.DataType) -> bool:
    """Say whether a column of this type can be one of the values of a table's row."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_temporal(kind)
        or _is_string(kind)
    )


def table_rows(columns: Sequence[pa.Array]) -> np.ndarray:
    """Return the values of a table's rows, float64 (n, columns), finite; equal values are equal numbers.

    A null and NaN are the value `MISSING`; text is a 52-bit hash; whole numbers beyond 2**53, decimals and times of
    that size are rounded to float64, so neighbours there count as equal; infinities are the largest numbers.
    """
    return np.stack([_numbers(column) for column in columns], axis=1)


def has_text(kind: pa.DataType) -> bool:
    """Say whether a column of this type holds text, itself or somewhere in its lists and structs."""
    if pa.types.is_dictionary(kind):
        return has_text(kind.value_type)
    if pa.types.is_struct(kind):
        return any(has_text(field.type) for field in kind)
    if _is_list(kind):
        return has_text(kind.value_type)
    return _is_string(kind)


def joined_text(columns: Sequence[pa.Array]) -> pa.StringArray:
    """Return the text of each row: of all columns and of what is nested in them, joined by line breaks.

    Args:
        columns: one or more, each with text in it (`has_text`), of one length.

    Numbers and booleans inside a structure are left out. A row whose columns are all null is null.
    """
    present = np.zeros(len(columns[0]), dtype=bool)
    for column in columns:
        present |= pc.is_valid(column).to_numpy(zero_copy_only=False)
    texts = [_text_of(column) for column in columns]
    joined = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\n")
    return joined if present.all() else pc.if_else(pa.array(present), joined, pa.scalar(None, pa.string()))


def _text_of(values: pa.Array) -> pa.StringArray:
    """Return texts without nulls."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _text_of(values.dictionary_decode())
    if pa.types.is_struct(kind):
        parts = [_text_of(child) for child in values.flatten() if has_text(child.type)]
        return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "\n")
    if _is_list(kind):
        values = values.cast(pa.list_(kind.value_type)) if not pa.types.is_list(kind) else values
        inner = pa.ListArray.from_arrays(values.offsets, _text_of(values.values))
        return pc.binary_join(inner, "\n")
    return pc.fill_null(pc.cast(values, pa.string()), "")


def _numbers(values: pa.Array) -> np.ndarray:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _numbers(values.dictionary_decode())
    if _is_string(kind):
        return _hashed(values)
    if pa.types.is_temporal(kind):
        values = pc.cast(values, pa.int32() if kind.bit_width == 32 else pa.int64())
    if pa.types.is_boolean(kind):
        values = pc.cast(values, pa.int8())
    missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    numbers = pc.cast(pc.fill_null(values, 0), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    found: np.ndarray = np.where(missing, MISSING, np.clip(numbers, -np.finfo(float).max, np.finfo(float).max))
    return found


def _hashed(values: pa.Array) -> np.ndarray:
    encoded = pc.fill_null(pc.cast(values, pa.string()), "").dictionary_encode()
    known = np.array([_hash(text) for text in encoded.dictionary.to_pylist()], dtype=np.float64)
    missing = pc.is_null(values).to_numpy(zero_copy_only=False)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    found: np.ndarray = np.where(missing, MISSING, known[codes] if len(known) else 0.0)
    return found


def _hash(text: str) -> float:
    return _TEXT_BASE + (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 12)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
