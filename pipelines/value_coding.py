"""Values to bytes and back, without pickle: what accumulators, models and a worker's answers are made of.

A value is None, a boolean, number, decimal, text, bytes, tuple, list, dict, set, numpy array or scalar, Arrow array,
batch, table, schema or type, or an instance of a dataclass or NamedTuple of a package that the caller names. Anything
else is refused when it is encoded, never guessed. Decoding makes instances through their constructors and imports no
package but those named; who decodes has first checked who wrote the bytes (work_store.py).

`digest_of` puts dicts in the order of their keys, so equal values have one digest; `encode_value` keeps their order.

Format: docs/formats/work-store.md.
"""

import dataclasses
import hashlib
import importlib
import io
import struct
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.errors import InternalError

#: How deep values may stand in each other; accumulators use some 8 levels.
MAX_DEPTH = 40
#: The package whose classes are always known.
OUR_PACKAGE = "millcert"

_SIZE = struct.Struct("<Q")
_FLOAT = struct.Struct("<d")
_SEQUENCES: Mapping[bytes, Callable[[list[Any]], Any]] = {b"t": tuple, b"l": list, b"e": set, b"z": frozenset}


class UncodableError(InternalError):
    """A value has no form in bytes, or bytes hold no value. Who meets it computes again, so nobody is told."""


def encode_value(value: Any, packages: Collection[str] = ()) -> bytes:
    """Return the bytes of a value; dicts keep their order.

    Args:
        value: see the module's docstring.
        packages: top-level packages, besides ours, whose dataclasses and NamedTuples may stand in it.

    Raises:
        UncodableError: something in it has no form.
    """
    return _encoded(value, frozenset({OUR_PACKAGE, *packages}), is_sorted=False)


def digest_of(value: Any, packages: Collection[str] = ()) -> bytes:
    """Return the SHA-256 of a value: the same for equal values, in whatever order their dicts were filled.

    Raises:
        UncodableError: something in it has no form.
    """
    return hashlib.sha256(_encoded(value, frozenset({OUR_PACKAGE, *packages}), is_sorted=True)).digest()


def decode_value(data: bytes, packages: Collection[str] = ()) -> Any:
    """Return the value of bytes that `encode_value` made.

    Raises:
        UncodableError: they are no such bytes, or name a class of another package.
    """
    reader = _Reader(data, frozenset({OUR_PACKAGE, *packages}))
    try:
        value = reader.value()
    except UncodableError:
        raise
    except Exception as error:  # constructors and Arrow raise what they like on bytes that are not ours
        raise UncodableError(f"The bytes hold no value: {error}") from error
    if reader.at != len(data):
        raise UncodableError(f"{len(data) - reader.at} bytes stand behind the value.")
    return value


def _encoded(value: Any, packages: frozenset[str], *, is_sorted: bool) -> bytes:
    writer = _Writer(packages, is_sorted=is_sorted)
    writer.value(value)
    return writer.out.getvalue()


class _Writer:
    def __init__(self, packages: frozenset[str], *, is_sorted: bool) -> None:
        self.out = io.BytesIO()
        self._packages = packages
        self._is_sorted = is_sorted
        self._depth = 0

    def value(self, value: Any) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UncodableError(f"The value stands more than {MAX_DEPTH} levels deep.")
        self._plain(value)
        self._depth -= 1

    def _plain(self, value: Any) -> None:
        kind = type(value)
        if value is None or kind is bool:
            self.out.write({None: b"N", True: b"T", False: b"F"}[value])
        elif kind is int:
            self._tagged(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
        elif kind is float:
            self.out.write(b"f" + _FLOAT.pack(value))
        elif kind is str:
            self._tagged(b"s", value.encode("utf-8", "surrogatepass"))
        elif kind is bytes:
            self._tagged(b"b", value)
        elif kind is tuple or kind is list:
            self._series(b"t" if kind is tuple else b"l", value)
        elif kind is set or kind is frozenset:
            self._parts(b"e" if kind is set else b"z", sorted(self._apart(item) for item in value))
        elif kind is dict:
            self._mapping(value)
        elif kind is slice:
            self.out.write(b"x")
            self._series(b"t", (value.start, value.stop, value.step))
        else:
            self._special(value)

    def _special(self, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic):
            self._array(value)
        elif type(value) is Decimal:
            self._tagged(b"m", str(value).encode())
        elif isinstance(value, pa.ChunkedArray):
            self._arrow(b"K", pa.table([value], names=["value"]))
        elif isinstance(value, pa.Array):
            self._arrow(b"A", pa.table([value], names=["value"]))
        elif isinstance(value, pa.Table):
            self._arrow(b"W", value)
        elif isinstance(value, pa.RecordBatch):
            self._arrow(b"R", pa.Table.from_batches([value]))
        elif isinstance(value, pa.Schema):
            self._tagged(b"S", value.serialize())
        elif isinstance(value, pa.DataType):
            self._tagged(b"D", pa.schema([("value", value)]).serialize())
        elif isinstance(value, pa.Scalar):
            self._arrow(b"V", pa.table([pa.array([value], value.type)], names=["value"]))
        else:
            self._instance(value)

    def _tagged(self, tag: bytes, data: Any) -> None:
        self.out.write(tag + _SIZE.pack(len(data)))
        self.out.write(data)

    def _series(self, tag: bytes, values: Collection[Any]) -> None:
        self.out.write(tag + _SIZE.pack(len(values)))
        for value in values:
            self.value(value)

    def _parts(self, tag: bytes, parts: list[bytes]) -> None:
        self.out.write(tag + _SIZE.pack(len(parts)))
        self.out.writelines(parts)

    def _apart(self, value: Any) -> bytes:
        writer = _Writer(self._packages, is_sorted=self._is_sorted)
        writer._depth = self._depth
        writer.value(value)
        return writer.out.getvalue()

    def _mapping(self, value: dict[Any, Any]) -> None:
        pairs = [(self._apart(key), item) for key, item in value.items()]
        if self._is_sorted:
            pairs.sort(key=lambda pair: pair[0])
        self.out.write(b"d" + _SIZE.pack(len(pairs)))
        for key, item in pairs:
            self.out.write(key)
            self.value(item)

    def _array(self, value: Any) -> None:
        kind = value.dtype
        if kind == np.dtype(object):
            self.out.write(b"o")
            self._series(b"t", value.shape)
            self._series(b"l", value.ravel().tolist())
            return
        if kind.hasobject:
            raise UncodableError("A structured array with objects has no form in bytes.")
        self.out.write(b"g" if isinstance(value, np.generic) else b"a")
        # A structured type is its fields; a plain one its own short text.
        self.value(kind.descr if kind.names else kind.str)
        self._series(b"t", value.shape)
        data = np.ascontiguousarray(value).tobytes()
        self.out.write(_SIZE.pack(len(data)))
        self.out.write(data)

    def _arrow(self, tag: bytes, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        self._tagged(tag, sink.getvalue())

    def _instance(self, value: Any) -> None:
        kind = type(value)
        name = f"{kind.__module__}:{kind.__qualname__}"
        fields = _fields_of(kind)
        if fields is None or kind.__module__.split(".")[0] not in self._packages:
            raise UncodableError(f"A {name} has no form in bytes.")
        self._tagged(b"c", name.encode())
        self.out.write(_SIZE.pack(len(fields)))
        for field in fields:
            self._tagged(b"s", field.encode())
            self.value(getattr(value, field))


class _Reader:
    def __init__(self, data: bytes, packages: frozenset[str]) -> None:
        self.at = 0
        self._data = data
        self._packages = packages
        self._depth = 0

    def value(self) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UncodableError(f"The value stands more than {MAX_DEPTH} levels deep.")
        found = self._plain(self._take(1))
        self._depth -= 1
        return found

    def _plain(self, tag: bytes) -> Any:
        if tag in _SIMPLE:
            return _SIMPLE[tag](self)
        if tag in _SEQUENCES:
            return _SEQUENCES[tag]([self.value() for _ in range(self._count())])
        if tag == b"d":
            return {self.value(): self.value() for _ in range(self._count())}
        if tag == b"c":
            return self._instance()
        return self._array(tag) if tag in b"oag" else self._arrow(tag)

    def number(self) -> Any:
        return _FLOAT.unpack(self._take(_FLOAT.size))[0]

    def sized(self) -> bytes:
        return self._take(self._count())

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise UncodableError("The bytes end inside a value.")
        taken = self._data[self.at : self.at + size]
        self.at += size
        return taken

    def _count(self) -> int:
        return int(_SIZE.unpack(self._take(_SIZE.size))[0])

    def _array(self, tag: bytes) -> Any:
        if tag == b"o":
            shape, items = self.value(), self.value()
            found = np.empty(len(items), dtype=object)
            found[:] = items
            return found.reshape(shape)
        described, shape = self.value(), self.value()
        array = np.frombuffer(self.sized(), np.dtype(described)).reshape(shape)
        # A view of the entry's bytes cannot be written to; who was given an array of their own may.
        return array.copy() if tag == b"a" else array[()]

    def _arrow(self, tag: bytes) -> Any:
        data = pa.py_buffer(self.sized())
        if tag in b"SD":
            schema = pa.ipc.read_schema(data)
            return schema if tag == b"S" else schema.field(0).type
        table = pa.ipc.open_stream(data).read_all()
        if tag == b"W":
            return table
        if tag == b"R":
            return table.combine_chunks().to_batches()[0] if table.num_rows else _no_rows(table.schema)
        column = table.column(0)
        if tag == b"K":
            return column
        if tag not in b"AV":
            raise UncodableError(f"{tag!r} is no kind of value.")
        return column.combine_chunks() if tag == b"A" else column[0]

    def _instance(self) -> Any:
        name = self.sized().decode()
        module, _, qualname = name.partition(":")
        if module.split(".")[0] not in self._packages:
            raise UncodableError(f"{name} is of a package that is not asked for.")
        kind: Any = importlib.import_module(module)
        for part in qualname.split("."):
            kind = getattr(kind, part)
        given = {self.value(): self.value() for _ in range(self._count())}
        if not isinstance(kind, type) or kind.__module__ != module or tuple(given) != _fields_of(kind):
            raise UncodableError(f"{name} is no class that has the fields {', '.join(map(str, given))}.")
        return kind(**given)


_SIMPLE: Mapping[bytes, Callable[[_Reader], Any]] = {
    b"N": lambda _: None,
    b"T": lambda _: True,
    b"F": lambda _: False,
    b"i": lambda reader: int.from_bytes(reader.sized(), "little", signed=True),
    b"f": _Reader.number,
    b"s": lambda reader: reader.sized().decode("utf-8", "surrogatepass"),
    b"b": _Reader.sized,
    b"m": lambda reader: Decimal(reader.sized().decode()),
    b"x": lambda reader: slice(*reader.value()),
}


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _fields_of(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a dataclass or NamedTuple that make up its constructor; None of other classes."""
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        return tuple(field.name for field in fields) if all(field.init for field in fields) else None
    return tuple(kind._fields) if issubclass(kind, tuple) and hasattr(kind, "_fields") else None
