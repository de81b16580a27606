"""Types found by reading all values of a text file, for JSONL and CSV.

The lattice, in which two types meet at the least type above both:

    null < boolean
    null < int64 < (whole number beyond int64) < float64
    null < string
    null < list<T>            item types meet
    null < struct<...>        fields meet by name, and stand in the order in which they were first seen

Two types with none above both are a conflict, and so is a column whose greatest type is "whole number beyond int64":
which of the two is wrong is for a person to say, by naming the type in a schema file. Nothing is turned into text
behind the user's back. Dates stay text. Since the meet is associative and commutative, the answer does not depend on
blocks.
"""

from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from millcert.errors import UsageError
from millcert.pipelines.formats.base import ReadLimits

#: Stands for "whole number beyond int64" while values are read; never leaves `settle`.
BEYOND_INT64 = pa.decimal256(76, 0)
_INT64 = range(-(1 << 63), 1 << 63)
_NUMBER_RANK = {pa.int64(): 0, BEYOND_INT64: 1, pa.float64(): 2}


class TypeConflictError(ValueError):
    """Two values of one field have no common type. `field` is its path, `types` the two types."""

    def __init__(self, field: str, first: pa.DataType, second: pa.DataType) -> None:
        super().__init__(f"{field!r} is {_words(first)} in one place and {_words(second)} in another")
        self.field = field
        self.types = (first, second)


def type_of(value: Any, where: str, limits: ReadLimits, depth: int = 0) -> pa.DataType:  # noqa: PLR0911 - a line a kind
    """Return the type of a parsed JSON value.

    Raises:
        TypeConflictError: the items of a list have no common type.
        UsageError: the value is nested deeper than `max_nesting`.
    """
    if depth > limits.max_nesting:
        raise UsageError(f"{where[:100]!r} is nested deeper than {limits.max_nesting}.", hint="See max_nesting.")
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if value in _INT64 else BEYOND_INT64
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, list):
        return pa.list_(pa.field("item", _item_type(value, f"{where}[]", limits, depth + 1)))
    fields = [pa.field(key, type_of(inner, f"{where}.{key}", limits, depth + 1)) for key, inner in value.items()]
    return pa.struct(fields)


def meet(first: pa.DataType, second: pa.DataType, where: str) -> pa.DataType:
    """Return the least type above both.

    Raises:
        TypeConflictError: there is none.
    """
    if first == second or pt.is_null(second):
        return first
    if pt.is_null(first):
        return second
    if first in _NUMBER_RANK and second in _NUMBER_RANK:
        return max(first, second, key=_NUMBER_RANK.__getitem__)
    if pt.is_list(first) and pt.is_list(second):
        return pa.list_(pa.field("item", meet(first.value_type, second.value_type, f"{where}[]")))
    if pt.is_struct(first) and pt.is_struct(second):
        return pa.struct(meet_fields(_fields(first), _fields(second), where))
    raise TypeConflictError(where, first, second)


def meet_fields(first: dict[str, pa.DataType], second: dict[str, pa.DataType], where: str) -> list[pa.Field]:
    """Return the fields of both, each with the least type above its two; those of `first` come first."""
    result = dict(first)
    for name, kind in second.items():
        path = f"{where}.{name}" if where else name
        result[name] = meet(result[name], kind, path) if name in result else kind
    return [pa.field(name, kind) for name, kind in result.items()]


def settle(schema: pa.Schema, *, name: str) -> pa.Schema:
    """Return the schema of all values; refuse whole numbers that no int64 holds.

    Raises:
        UsageError: a column has such numbers and no fractions.
    """
    for field in schema:
        _refuse_beyond(field.type, field.name, name)
    return schema


def _item_type(items: list[Any], where: str, limits: ReadLimits, depth: int) -> pa.DataType:
    kinds = set(map(type, items))
    if kinds == {float}:  # the common case by far: an embedding
        return pa.float64()
    if kinds == {str}:
        return pa.string()
    found = pa.null()
    for item in items:
        found = meet(found, type_of(item, where, limits, depth), where)
    return found


def _fields(kind: pa.DataType) -> dict[str, pa.DataType]:
    return {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}


def _refuse_beyond(kind: pa.DataType, where: str, name: str) -> None:
    if kind == BEYOND_INT64:
        raise UsageError(
            f"{name}: {where[:100]!r} has a whole number beyond int64, and no fraction that would make it float64.",
            hint="Name the column's type in a schema file: uint64, a decimal, or string.",
            path=name,
            column=where,
        )
    if pt.is_list(kind):
        _refuse_beyond(kind.value_type, f"{where}[]", name)
    if pt.is_struct(kind):
        for key, inner in _fields(kind).items():
            _refuse_beyond(inner, f"{where}.{key}", name)


def _words(kind: pa.DataType) -> str:
    return "a whole number beyond int64" if kind == BEYOND_INT64 else str(kind)[:200]
