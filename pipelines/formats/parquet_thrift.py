"""Thrift's compact protocol, as far as Parquet uses it, and page headers.

Source: Apache Parquet format 2.11, parquet.thrift; Thrift compact protocol specification. A field may not stand twice
in a struct, so that no second reader can see another value than this one.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

Value: TypeAlias = "int | float | bool | bytes | list[Value] | dict[int, Value]"

_MAX_DEPTH = 16
_BOOL_TRUE, _BOOL_FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class ThriftError(ValueError):
    """The bytes are no Thrift compact structure of the kind that Parquet writes. Translated by the caller."""


class PageHeader(NamedTuple):
    """What a page claims. Sizes are bytes, as stored and after decompression.

    kind: 0 data page V1, 1 index page, 2 dictionary page, 3 data page V2. rows: None for V1.
    encoding: of the values. level_encoding: of V1's repetition levels. level_bytes: V2's (repetition, definition).
    """

    header_bytes: int
    kind: int
    stored_bytes: int
    decoded_bytes: int
    values: int
    encoding: int
    level_encoding: int
    level_bytes: tuple[int, int]
    is_compressed: bool


class CompactReader:
    """A cursor over bytes in Thrift's compact protocol."""

    def __init__(self, data: memoryview, position: int = 0) -> None:
        self._data = data
        self.position = position

    def read_varint(self) -> int:
        """Return an unsigned LEB128 number below 2^64."""
        result, shift = 0, 0
        while shift < 64:
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7
        raise ThriftError("a number is longer than 64 bits")

    def read_integer(self) -> int:
        """Return a zigzag number."""
        raw = self.read_varint()
        return (raw >> 1) ^ -(raw & 1)

    def read_field(self, last: int) -> tuple[int, int]:
        """Return (field id, type) of the next field of a struct; (0, 0) at its end."""
        byte = self._byte()
        if byte == 0:
            return 0, 0
        delta = byte >> 4
        number = last + delta if delta else self.read_integer()
        return number, byte & 0x0F

    def read_list_header(self) -> tuple[int, int]:
        """Return (length, item type); a list cannot be longer than the bytes that are left."""
        byte = self._byte()
        length = byte >> 4
        if length == 15:
            length = self.read_varint()
        if length > len(self._data) - self.position:
            raise ThriftError("a list is longer than its bytes")
        return length, byte & 0x0F

    def read_value(self, kind: int, depth: int = 0) -> Value:  # noqa: PLR0911 - a line a type
        """Return a value of a type: a struct as a dict by field id, a list as a list."""
        if depth > _MAX_DEPTH:
            raise ThriftError("structs are nested too deep")
        if kind in {_BOOL_TRUE, _BOOL_FALSE}:
            return kind == _BOOL_TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in {_I16, _I32, _I64}:
            return self.read_integer()
        if kind == _DOUBLE:
            return float(struct.unpack("<d", self._take(8))[0])
        if kind == _BINARY:
            return bytes(self._take(self.read_varint()))
        if kind in {_LIST, _SET}:
            length, item = self.read_list_header()
            return [self._item(item, depth + 1) for _ in range(length)]
        if kind == _STRUCT:
            return self.read_struct(depth + 1)
        raise ThriftError(f"a field has the unknown type {kind}")

    def read_struct(self, depth: int = 0) -> dict[int, Value]:
        """Return a struct as a dict by field id."""
        result: dict[int, Value] = {}
        last = 0
        while True:
            number, kind = self.read_field(last)
            if kind == 0:
                return result
            if number in result:
                raise ThriftError("a struct has a field twice")
            result[number] = self.read_value(kind, depth)
            last = number

    def skip_value(self, kind: int, depth: int = 0) -> None:
        """Pass over a value without building it."""
        if depth > _MAX_DEPTH:
            raise ThriftError("structs are nested too deep")
        if kind in {_LIST, _SET}:
            length, item = self.read_list_header()
            for _ in range(length):
                self._item(item, depth + 1, is_wanted=False)
        elif kind == _STRUCT:
            last = 0
            while True:
                last, field = self.read_field(last)
                if field == 0:
                    return
                self.skip_value(field, depth + 1)
        else:
            self.read_value(kind, depth)

    def read_bytes(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        return bytes(self._take(count))

    def _item(self, kind: int, depth: int, *, is_wanted: bool = True) -> Value:
        if kind in {_BOOL_TRUE, _BOOL_FALSE}:
            return self._byte() == _BOOL_TRUE  # inside a list a bool is a byte of its own
        if is_wanted:
            return self.read_value(kind, depth)
        self.skip_value(kind, depth)
        return False

    def _byte(self) -> int:
        if self.position >= len(self._data):
            raise ThriftError("the bytes end within a structure")
        byte = self._data[self.position]
        self.position += 1
        return byte

    def _take(self, count: int) -> memoryview:
        if count > len(self._data) - self.position:
            raise ThriftError("the bytes end within a value")
        taken = self._data[self.position : self.position + count]
        self.position += count
        return taken


def read_page_header(data: memoryview, position: int) -> PageHeader:
    """Return the page header at a position.

    Raises:
        ThriftError: it is malformed or lacks a field that its kind must have.
    """
    reader = CompactReader(data, position)
    header = reader.read_struct()
    kind = _whole(header, 1)
    body = _struct(header, {0: 5, 1: 6, 2: 7, 3: 8}.get(kind, 0))
    levels = (0, 0)
    if kind == 3:
        levels = (_whole(body, 6), _whole(body, 5))
    return PageHeader(
        header_bytes=reader.position - position,
        kind=kind,
        stored_bytes=_whole(header, 3),
        decoded_bytes=_whole(header, 2),
        values=_whole(body, 1, default=0) if kind == 1 else _whole(body, 1),
        encoding=-1 if kind == 1 else _whole(body, 4 if kind == 3 else 2),
        level_encoding=_whole(body, 4) if kind == 0 else 3,
        level_bytes=levels,
        is_compressed=bool(body.get(7, True)) if kind == 3 else True,
    )


def _whole(fields: Mapping[int, Value], number: int, *, default: int | None = None) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int) or value < 0:
        raise ThriftError(f"field {number} is missing or negative")
    return value


def _struct(fields: Mapping[int, Value], number: int) -> Mapping[int, Value]:
    value = fields.get(number)
    if not isinstance(value, dict):
        raise ThriftError(f"the page has no header {number} for its kind")
    return value
