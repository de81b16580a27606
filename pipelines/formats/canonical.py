"""Canonical Arrow types: one type for what the formats spell in several ways, so that data is equal whatever its file.

| stored | canonical |
|---|---|
| dictionary<T> | T |
| large_string, string_view | string |
| large_binary, binary_view | binary |
| large_list<T> | list<T> |
| an extension type | its storage |
| float16 | float32 |
| any field | nullable, without metadata; list items are named "item", map entries "key" and "value" |

Unions, run-end encoded, list views and month-day-nano intervals are refused.
"""

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from millcert.errors import UsageError
from millcert.pipelines.formats.base import ReadLimits

_PLAIN = (
    pt.is_null,
    pt.is_boolean,
    pt.is_integer,
    pt.is_float32,
    pt.is_float64,
    pt.is_decimal,
    pt.is_date,
    pt.is_time,
    pt.is_timestamp,
    pt.is_duration,
    pt.is_string,
    pt.is_binary,
    pt.is_fixed_size_binary,
)


def canonical_type(stored: pa.DataType, *, where: str = "") -> pa.DataType:  # noqa: C901, PLR0911 - one line a kind
    """Return the canonical type of a stored type.

    Raises:
        UsageError: the type is one that is not read; `where` names the field.
    """
    if isinstance(stored, pa.BaseExtensionType):
        return canonical_type(stored.storage_type, where=where)
    if pt.is_dictionary(stored):
        return canonical_type(stored.value_type, where=where)
    if pt.is_large_string(stored) or pt.is_string_view(stored):
        return pa.string()
    if pt.is_large_binary(stored) or pt.is_binary_view(stored):
        return pa.binary()
    if pt.is_float16(stored):
        return pa.float32()
    if pt.is_list(stored) or pt.is_large_list(stored):
        return pa.list_(pa.field("item", canonical_type(stored.value_type, where=f"{where}[]")))
    if pt.is_fixed_size_list(stored):
        return pa.list_(pa.field("item", canonical_type(stored.value_type, where=f"{where}[]")), stored.list_size)
    if pt.is_struct(stored):
        return pa.struct(list(_canonical_fields([stored.field(i) for i in range(stored.num_fields)], where)))
    if pt.is_map(stored):
        key = canonical_type(stored.key_type, where=f"{where}.key")
        return pa.map_(key, canonical_type(stored.item_type, where=f"{where}.value"))
    if any(is_plain(stored) for is_plain in _PLAIN):
        return stored
    raise UsageError(
        f"Column {where!r} has the type {stored}, which is not read.",
        hint="Store it as a list, struct or plain type.",
        column=where,
    )


def canonical_schema(stored: pa.Schema, limits: ReadLimits, *, name: str) -> pa.Schema:
    """Return the canonical schema of a file's schema.

    Raises:
        UsageError: a type is not read, two columns have one name, or there are too many or too deep ones.
    """
    check_shape(stored, limits, name=name)
    return pa.schema(list(_canonical_fields(list(stored), "")))


def check_shape(schema: pa.Schema, limits: ReadLimits, *, name: str) -> None:
    """Refuse a schema without columns, with more leaf columns than allowed, or nested deeper than allowed."""
    leaves = sum(_leaves(field.type, limits.max_nesting, name) for field in schema)
    if not 0 < leaves <= limits.max_columns:
        raise UsageError(
            f"{name}: expected 1 to {limits.max_columns} columns, found {leaves}.",
            hint="Raise the limit max_columns if the data is meant to be so wide.",
            path=name,
        )


def width_bytes(kind: pa.DataType) -> int:
    """Return what one null of a canonical type costs decoded: the size that input of no bytes expands to."""
    if pt.is_fixed_size_list(kind):
        return 1 + kind.list_size * width_bytes(kind.value_type)
    if pt.is_struct(kind):
        return 1 + sum(width_bytes(kind.field(i).type) for i in range(kind.num_fields))
    if pt.is_list(kind) or pt.is_map(kind) or pt.is_string(kind) or pt.is_binary(kind):
        return 5
    if pt.is_null(kind) or pt.is_boolean(kind):
        return 1
    return 1 + (kind.bit_width + 7) // 8


def widest_item_bytes(kind: pa.DataType) -> int:
    """Return the largest `width_bytes` of what may be repeated within one record: items of lists and maps; else 0."""
    if pt.is_map(kind):
        inner = [kind.key_type, kind.item_type]
        own = width_bytes(kind.key_type) + width_bytes(kind.item_type)
    elif pt.is_list(kind) or pt.is_fixed_size_list(kind):
        inner, own = [kind.value_type], 0 if pt.is_fixed_size_list(kind) else width_bytes(kind.value_type)
    elif pt.is_struct(kind):
        inner, own = [kind.field(i).type for i in range(kind.num_fields)], 0
    else:
        return 0
    return max([own, *(widest_item_bytes(each) for each in inner)])


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with the columns and types of `schema`, a canonical schema that its own types lead to.

    Raises:
        pa.ArrowInvalid: a value does not fit (callers translate it).
    """
    columns = []
    for wanted in schema:
        column = batch.column(wanted.name)
        columns.append(column if column.type == wanted.type else column.cast(wanted.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def row_bytes(array: pa.Array) -> np.ndarray:
    """Return the decoded size in bytes of each value, int64 (n,), without decoding dictionaries or views.

    The array must have passed `validate(full=True)`. Items that have no bytes in the file (nulls of a fixed width) are
    counted, not made.

    Cost: O(n) plus the stored items of variable size below.
    """
    kind, count = array.type, len(array)
    if isinstance(kind, pa.BaseExtensionType):
        return row_bytes(array.storage)
    if pt.is_dictionary(kind):
        sizes = row_bytes(array.dictionary)
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return sizes[indices] if len(sizes) else np.zeros(count, dtype=np.int64)
    if _is_fixed(kind):
        return np.full(count, width_bytes(kind), dtype=np.int64)
    if pt.is_struct(kind):
        sizes = np.ones(count, dtype=np.int64)
        for index in range(kind.num_fields):
            sizes += row_bytes(array.field(index))
        return sizes
    if pt.is_fixed_size_list(kind):
        size = kind.list_size
        inner = row_bytes(array.values[array.offset * size : (array.offset + count) * size])
        return inner.reshape(count, size).sum(axis=1) + 1
    return _variable_bytes(array) + 5


def _variable_bytes(array: pa.Array) -> np.ndarray:
    kind, count = array.type, len(array)
    if pt.is_string_view(kind) or pt.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], dtype=np.int32, count=4 * (array.offset + count)).reshape(-1, 4)
        lengths = views[array.offset :, 0].astype(np.int64)
        lengths[array.is_null().to_numpy(zero_copy_only=False)] = 0  # a null's length field may hold anything
        return lengths
    offsets = _offsets(array)
    if pt.is_string(kind) or pt.is_binary(kind) or pt.is_large_string(kind) or pt.is_large_binary(kind):
        return np.diff(offsets)
    items = [array.keys, array.items] if pt.is_map(kind) else [array.values]
    first, last = int(offsets[0]), int(offsets[-1])
    result = np.zeros(count, dtype=np.int64)
    for item in items:
        if _is_fixed(item.type):
            result += np.diff(offsets) * width_bytes(item.type)
        else:
            total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(row_bytes(item[first:last]))])
            result += np.diff(total[offsets - first])
    return result


def _is_fixed(kind: pa.DataType) -> bool:
    """Return whether all values of a stored type decode to the same size."""
    if isinstance(kind, pa.BaseExtensionType):
        return _is_fixed(kind.storage_type)
    if pt.is_struct(kind):
        return all(_is_fixed(kind.field(i).type) for i in range(kind.num_fields))
    if pt.is_fixed_size_list(kind):
        return kind.list_size == 0 or _is_fixed(kind.value_type)
    is_plain = pt.is_null(kind) or pt.is_boolean(kind) or pt.is_primitive(kind) or pt.is_decimal(kind)
    return is_plain or pt.is_fixed_size_binary(kind)


def _offsets(array: pa.Array) -> np.ndarray:
    """Return the n + 1 offsets of a variable-size array as int64."""
    if len(array) == 0:
        return np.zeros(1, dtype=np.int64)
    kind = array.type
    is_large = pt.is_large_string(kind) or pt.is_large_binary(kind) or pt.is_large_list(kind)
    stop = array.offset + len(array) + 1
    raw = np.frombuffer(array.buffers()[1], dtype=np.int64 if is_large else np.int32, count=stop)
    return raw[array.offset :].astype(np.int64)


def is_same_type(first: pa.DataType, second: pa.DataType) -> bool:
    """Return whether two canonical types are equal up to the order of struct fields."""
    if pt.is_struct(first) and pt.is_struct(second):
        names = [first.field(i).name for i in range(first.num_fields)]
        if sorted(names) != sorted(second.field(i).name for i in range(second.num_fields)):
            return False
        return all(is_same_type(first.field(name).type, second.field(name).type) for name in names)
    if pt.is_list(first) and pt.is_list(second):
        return is_same_type(first.value_type, second.value_type)
    if pt.is_fixed_size_list(first) and pt.is_fixed_size_list(second):
        return first.list_size == second.list_size and is_same_type(first.value_type, second.value_type)
    return bool(first == second)


def refuse_other_schema(stored: pa.Schema, wanted: pa.Schema, limits: ReadLimits, *, name: str) -> None:
    """Refuse to decode a file with types of its own to a schema that is not its own.

    Raises:
        UsageError: a column is missing, is unknown to the schema, or has another type; names it.
    """
    own = canonical_schema(stored, limits, name=name)
    for column in dict.fromkeys([*wanted.names, *own.names]):
        here, there = own.get_field_index(column), wanted.get_field_index(column)
        found = "absent" if here < 0 else str(own.field(here).type)
        expected = "absent" if there < 0 else str(wanted.field(there).type)
        if here < 0 or there < 0 or not is_same_type(own.field(here).type, wanted.field(there).type):
            raise UsageError(
                f"{name}: the column {column[:100]!r} should be {expected[:200]}, it is {found[:200]}.",
                hint="All files of a data set must have one schema.",
                path=name,
                column=column,
            )


def _canonical_fields(fields: list[pa.Field], where: str) -> list[pa.Field]:
    seen: set[str] = set()
    result = []
    for each in fields:
        path = f"{where}.{each.name}" if where else each.name
        if each.name in seen:
            raise UsageError(f"Two columns are named {path!r}; expected different names.", column=path)
        seen.add(each.name)
        result.append(pa.field(each.name, canonical_type(each.type, where=path)))
    return result


def _leaves(kind: pa.DataType, depth_left: int, name: str) -> int:
    if depth_left <= 0:
        raise UsageError(f"{name}: a column's type is nested deeper than allowed.", hint="See max_nesting.", path=name)
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type, depth_left, name)
    if pt.is_dictionary(kind):
        return _leaves(kind.value_type, depth_left - 1, name)
    if kind.num_fields == 0:
        return 1
    return sum(_leaves(kind.field(i).type, depth_left - 1, name) for i in range(kind.num_fields))
