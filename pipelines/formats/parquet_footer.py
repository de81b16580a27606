"""A Parquet footer, read by hand: what the page scan needs of it.

The library's own view of a footer ends the process when a column's metadata is missing (Arrow 25: an exception that no
one catches), so nothing of it is asked before this module has been through all of it.

Source: Apache Parquet format 2.11, parquet.thrift: FileMetaData, SchemaElement, RowGroup, ColumnChunk, ColumnMetaData.
"""

from collections.abc import Iterator
from typing import NamedTuple

from millcert.pipelines.formats.parquet_thrift import CompactReader, ThriftError, Value

PHYSICAL = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
CODECS = ("none", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4_raw")
_REQUIRED, _REPEATED = 0, 2
_CONVERTED_DECIMAL, _LOGICAL_DECIMAL = 5, 5
_LIST, _STRUCT = 9, 12


class Leaf(NamedTuple):
    """A leaf column. length: bytes of a fixed-length value, else 0. The levels are the greatest that it can have."""

    path: str
    physical: str
    length: int
    max_repetition: int
    max_definition: int
    is_decimal: bool


class Chunk(NamedTuple):
    """One leaf column of one row group. start, size_bytes: where its pages stand in the file."""

    leaf: Leaf
    codec: str
    values: int
    start: int
    size_bytes: int


class Group(NamedTuple):
    """One row group."""

    rows: int
    chunks: tuple[Chunk, ...]


class Footer(NamedTuple):
    """depth: of the schema's tree, the root not counted."""

    depth: int
    leaves: tuple[Leaf, ...]
    groups: tuple[Group, ...]


def parse_footer(data: memoryview, *, max_columns: int) -> Footer:
    """Return what a footer says.

    Args:
        data: the Thrift structure, FileMetaData.
        max_columns: more leaf columns are refused.

    Raises:
        ThriftError: it is malformed, or has what is not read (encryption, data in other files).

    Cost: some 40 microseconds for each column of each row group.
    """
    reader = CompactReader(data)
    depth = 0
    leaves: tuple[Leaf, ...] = ()
    groups: tuple[Group, ...] = ()
    seen: set[int] = set()
    last = 0
    while True:
        last, kind = reader.read_field(last)
        if kind == 0:
            break
        if last in seen:
            raise ThriftError("the footer has a field twice")
        seen.add(last)
        if last == 2 and kind == _LIST:
            depth, leaves = _read_schema(reader, max_columns)
        elif last == 4 and kind == _LIST:
            groups = tuple(_read_groups(reader, leaves))
        elif last == 8:
            raise ThriftError("the file is encrypted")
        else:
            reader.skip_value(kind)
    if not leaves:
        raise ThriftError("the footer has no columns")
    return Footer(depth, leaves, groups)


class _Open(NamedTuple):
    left: int
    path: str
    repetition: int
    definition: int


def _read_schema(reader: CompactReader, max_columns: int) -> tuple[int, tuple[Leaf, ...]]:
    """Return the depth and the leaves, without recursion: the tree is listed in depth-first order."""
    length, item = reader.read_list_header()
    if item != _STRUCT or length == 0:
        raise ThriftError("the footer's schema is no list of elements")
    root = reader.read_struct()
    groups = [_Open(_whole(root, 5), "", 0, 0)]
    leaves: list[Leaf] = []
    deepest = 0
    for _ in range(length - 1):
        while groups and groups[-1].left == 0:
            groups.pop()
        if not groups:
            raise ThriftError("the schema has elements outside its root")
        parent = groups[-1]._replace(left=groups[-1].left - 1)
        groups[-1] = parent
        deepest = max(deepest, len(groups))
        element = reader.read_struct()
        repetition = _whole(element, 3)
        repeated = parent.repetition + (repetition == _REPEATED)
        defined = parent.definition + (repetition != _REQUIRED)
        path = _name(element) if len(groups) == 1 else parent.path
        children = _whole(element, 5, default=0)
        if children:
            groups.append(_Open(children, path, repeated, defined))
        elif 1 in element:
            leaves.append(_leaf(element, path, repeated, defined))
        if len(leaves) > max_columns or len(groups) > 1 << 10:
            raise ThriftError(f"the schema has more than {max_columns} columns, or is nested without end")
    if any(group.left for group in groups):
        raise ThriftError("the schema ends before its groups do")
    return deepest, tuple(leaves)


def _leaf(element: dict[int, Value], path: str, repetition: int, definition: int) -> Leaf:
    logical = element.get(10)
    is_decimal = element.get(6) == _CONVERTED_DECIMAL or (isinstance(logical, dict) and _LOGICAL_DECIMAL in logical)
    physical = _choice(PHYSICAL, _whole(element, 1))
    length = _whole(element, 2, default=0) if physical == "FIXED_LEN_BYTE_ARRAY" else 0
    return Leaf(path, physical, length, repetition, definition, is_decimal)


def _read_groups(reader: CompactReader, leaves: tuple[Leaf, ...]) -> Iterator[Group]:
    length, item = reader.read_list_header()
    if length and item != _STRUCT:
        raise ThriftError("the row groups are no list of structures")
    for _ in range(length):
        yield _read_group(reader, leaves)


def _read_group(reader: CompactReader, leaves: tuple[Leaf, ...]) -> Group:
    chunks: tuple[Chunk, ...] = ()
    rows, last = -1, 0
    seen: set[int] = set()
    while True:
        last, kind = reader.read_field(last)
        if kind == 0:
            break
        if last in seen:
            raise ThriftError("a row group has a field twice")
        seen.add(last)
        if last == 1 and kind == _LIST:
            length, item = reader.read_list_header()
            if length != len(leaves) or item != _STRUCT:
                raise ThriftError(f"a row group has {length} columns, the schema {len(leaves)}")
            chunks = tuple(_chunk(reader.read_struct(), leaf) for leaf in leaves)
        elif last == 3:
            value = reader.read_value(kind)
            rows = value if isinstance(value, int) else -1
        else:
            reader.skip_value(kind)
    if rows < 0 or not chunks:
        raise ThriftError("a row group has no columns or no number of rows")
    return Group(rows, chunks)


def _chunk(column: dict[int, Value], leaf: Leaf) -> Chunk:
    if 1 in column:
        raise ThriftError("a column's data stands in another file")
    if 8 in column or 9 in column:
        raise ThriftError("a column is encrypted")
    facts = column.get(3)
    if not isinstance(facts, dict):
        raise ThriftError("a column has no metadata")
    if _choice(PHYSICAL, _whole(facts, 1)) != leaf.physical:
        raise ThriftError("a column has another type than the schema says")
    start = _whole(facts, 9)
    dictionary = _whole(facts, 11, default=0)
    if 0 < dictionary < start:
        start = dictionary
    return Chunk(leaf, _choice(CODECS, _whole(facts, 4)), _whole(facts, 5), start, _whole(facts, 7))


def _choice(names: tuple[str, ...], number: int) -> str:
    if number >= len(names):
        raise ThriftError(f"{number} is no code of {names[0]}, ..., {names[-1]}")
    return names[number]


def _name(element: dict[int, Value]) -> str:
    name = element.get(4)
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else ""


def _whole(fields: dict[int, Value], number: int, *, default: int | None = None) -> int:
    value = fields.get(number, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ThriftError(f"field {number} is missing or negative")
    return value
