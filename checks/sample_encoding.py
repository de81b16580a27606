"""The canonical encoding of a sample, one value at a time: the reference that docs/formats/sample-digest.md describes.

Rules this module keeps (the numbers of the format page):
  1. The encoding depends on the values, the field names and the logical types, and on nothing else: not on the file
     format, the physical Arrow type, the order of fields, nullability flags, metadata or the machine.
  2. It is injective: under one schema, two samples have the same bytes only if every value is the same. The only
     values that are merged on purpose are the NaNs of one float type.
  3. What cannot be encoded without loss is refused, never rounded or dropped.

`millcert.checks.sample_digest` encodes whole batches; the tests hold the two to the same bytes.
"""

import datetime as dt
import decimal
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa

from millcert.errors import HostileDataError, InvalidSampleError, MissingColumnError

#: First 32 bytes of what is hashed; with the 32 bytes of the schema id they fill one block of SHA-256 exactly.
SCHEMA_TAG = b"millcert sample schema v1".ljust(32, b"\x00")
SAMPLE_TAG = b"millcert sample v1".ljust(32, b"\x00")

#: Our choice: no data set that we have seen nests deeper than 8; a schema that does is there to exhaust the stack.
MAX_DEPTH = 64

NULL, BOOL = 0x00, 0x01
INT8, INT16, INT32, INT64 = 0x02, 0x03, 0x04, 0x05
UINT8, UINT16, UINT32, UINT64 = 0x06, 0x07, 0x08, 0x09
FLOAT16, FLOAT32, FLOAT64 = 0x0A, 0x0B, 0x0C
DECIMAL, DATE, TIME, DURATION = 0x0D, 0x0E, 0x0F, 0x10
TIMESTAMP_NAIVE, TIMESTAMP_UTC = 0x11, 0x12
STRING, BINARY = 0x13, 0x14
LIST, STRUCT, MAP = 0x15, 0x16, 0x17

_SIMPLE: dict[object, tuple[int, int]] = {
    pa.null(): (NULL, 0),
    pa.bool_(): (BOOL, 1),
    pa.int8(): (INT8, 1),
    pa.int16(): (INT16, 2),
    pa.int32(): (INT32, 4),
    pa.int64(): (INT64, 8),
    pa.uint8(): (UINT8, 1),
    pa.uint16(): (UINT16, 2),
    pa.uint32(): (UINT32, 4),
    pa.uint64(): (UINT64, 8),
    pa.float16(): (FLOAT16, 2),
    pa.float32(): (FLOAT32, 4),
    pa.float64(): (FLOAT64, 8),
    pa.date32(): (DATE, 8),
    pa.date64(): (DATE, 8),
}

#: Arrow time unit -> ticks in one second.
TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
NANOSECONDS = 1_000_000_000

#: The bits that stand for every NaN of a float type, by width in bytes: quiet, positive, no payload.
NAN_BITS = {2: 0x7E00, 4: 0x7FC00000, 8: 0x7FF8000000000000}

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - wall time on purpose: aware values are moved to UTC before


@dataclass(frozen=True)
class LogicalType:
    """A type after everything physical is taken away.

    code: the byte that stands for it in the schema's encoding.
    width: bytes of a value of fixed width, None where the width varies.
    precision, scale: of a decimal; 0 otherwise.
    children: a struct's fields sorted by name; ("item", T) of a list; ("key", K) and ("value", V) of a map.
    """

    code: int
    width: int | None
    precision: int = 0
    scale: int = 0
    children: tuple[tuple[str, "LogicalType"], ...] = ()

    def encoded(self) -> bytes:
        """Return the type's own encoding: prefix-free, so types in a row stay apart."""
        out = bytes([self.code])
        if self.code == DECIMAL:
            return out + struct.pack("<ii", self.precision, self.scale)
        if self.code == STRUCT:
            out += struct.pack("<Q", len(self.children))
            for name, child in self.children:
                raw = name.encode()
                out += struct.pack("<Q", len(raw)) + raw + child.encoded()
            return out
        return out + b"".join(child.encoded() for _, child in self.children)


def logical_schema(schema: pa.Schema) -> LogicalType:
    """Return the logical type of a sample: a struct of the schema's fields, sorted by the UTF-8 bytes of their names.

    Raises:
        MissingColumnError: a field has a type that has no encoding (union, interval).
        InvalidSampleError: two fields of one struct have the same name.
        HostileDataError: the schema nests deeper than 64 levels.
    """
    return _struct_type(schema, "", 0)


def storage_type(arrow_type: pa.DataType) -> pa.DataType:
    """Return the type that holds the values: an extension's storage, a dictionary's or a run's value type."""
    for _ in range(MAX_DEPTH):
        if isinstance(arrow_type, pa.BaseExtensionType):
            arrow_type = arrow_type.storage_type
        elif pa.types.is_dictionary(arrow_type) or pa.types.is_run_end_encoded(arrow_type):
            arrow_type = arrow_type.value_type
        else:
            return arrow_type
    raise HostileDataError(f"A type wraps others more than {MAX_DEPTH} times.", hint="Leave the file out.")


def logical_type(arrow_type: pa.DataType, where: str, depth: int = 0) -> LogicalType:
    """Return the logical type of an Arrow type; `where` names the field in errors. Raises as `logical_schema`."""
    if depth > MAX_DEPTH:
        raise HostileDataError(
            f"Field {where[:80]!r} nests deeper than {MAX_DEPTH} levels.", hint="Leave the file out.", field=where
        )
    t = storage_type(arrow_type)
    kind = _leaf_type(t) or _nested_type(t, where, depth + 1)
    if kind is None:
        raise MissingColumnError(
            f"Field {where!r} has type {arrow_type}, which has no canonical encoding.",
            hint="Convert the field to a type that docs/formats/sample-digest.md lists, or leave it out.",
            field=where,
            type=str(arrow_type),
        )
    return kind


def is_list(t: pa.DataType) -> bool:
    """Say whether a type is any of the five kinds of list."""
    is_ = pa.types
    return bool(
        is_.is_list(t)
        or is_.is_large_list(t)
        or is_.is_fixed_size_list(t)
        or is_.is_list_view(t)
        or is_.is_large_list_view(t)
    )


def encode_sample(values: Mapping[str, object], schema: pa.Schema) -> bytes:
    """Return the encoding of one sample: what is hashed after the tag and the schema id.

    Args:
        values: field name -> plain Python value (what pyarrow's `as_py` gives): None, bool, int, float, str, bytes,
            Decimal, date, time, datetime, timedelta, sequence, mapping; a map as a sequence of (key, value). A field
            that is not there is null. Times may be given as an int in the field's unit, which keeps nanoseconds.
        schema: the types of the fields.

    Raises:
        InvalidSampleError: a value is not of its field's type, or `values` has a field that the schema has not.
        MissingColumnError, HostileDataError: as `logical_schema`.
    """
    fields = {field.name: field.type for field in schema}
    return _encode_struct(values, fields, logical_schema(schema), "")


def _leaf_type(t: pa.DataType) -> LogicalType | None:
    is_ = pa.types
    kind = None
    if t in _SIMPLE:
        kind = LogicalType(*_SIMPLE[t])
    elif is_.is_string(t) or is_.is_large_string(t) or is_.is_string_view(t):
        kind = LogicalType(STRING, None)
    elif is_.is_binary(t) or is_.is_large_binary(t) or is_.is_binary_view(t) or is_.is_fixed_size_binary(t):
        kind = LogicalType(BINARY, None)
    elif is_.is_decimal(t):
        kind = LogicalType(DECIMAL, 32, t.precision, t.scale)
    elif is_.is_timestamp(t):
        kind = LogicalType(TIMESTAMP_UTC if t.tz is not None else TIMESTAMP_NAIVE, 12)
    elif is_.is_time(t) or is_.is_duration(t):
        kind = LogicalType(TIME if is_.is_time(t) else DURATION, 12)
    return kind


def _nested_type(t: pa.DataType, where: str, depth: int) -> LogicalType | None:
    if pa.types.is_struct(t):
        return _struct_type(t, where + ".", depth)
    if pa.types.is_map(t):
        key = logical_type(t.key_type, f"{where}{{key}}", depth)
        value = logical_type(t.item_type, f"{where}{{value}}", depth)
        return LogicalType(MAP, None, children=(("key", key), ("value", value)))
    if is_list(t):
        return LogicalType(LIST, None, children=(("item", logical_type(t.value_type, f"{where}[]", depth)),))
    return None


def _struct_type(fields: object, prefix: str, depth: int) -> LogicalType:
    try:
        named = [(field.name, field.type) for field in fields]  # type: ignore[attr-defined]  # Schema or StructType
    except UnicodeDecodeError as error:
        raise InvalidSampleError(f"A field name under {prefix!r} is not valid UTF-8.") from error
    named.sort(key=lambda pair: pair[0].encode())
    for (name, _), (following, _) in pairwise(named):
        if name == following:
            raise InvalidSampleError(
                f"Field {prefix + name!r} is there twice; a sample must name each field once.",
                hint="Rename one of them.",
                field=prefix + name,
            )
    children = tuple((name, logical_type(arrow_type, prefix + name, depth)) for name, arrow_type in named)
    return LogicalType(STRUCT, None, children=children)


def _encode_struct(values: object, types: Mapping[str, pa.DataType], kind: LogicalType, where: str) -> bytes:
    if not isinstance(values, Mapping):
        raise _refusal(values, "a mapping", where)
    unknown = [name for name in values if name not in types]
    if unknown:
        raise InvalidSampleError(f"The sample has a field {unknown[0]!r} under {where!r} that its schema has not.")
    presence, fixed, lengths, payloads = b"", b"", b"", b""
    for name, child in kind.children:
        value = values.get(name)
        presence += b"\x00" if value is None else b"\x01"
        encoded = b"" if value is None else _encode(value, types[name], child, f"{where}.{name}" if where else name)
        if child.width is None:
            lengths += struct.pack("<Q", len(encoded))
            payloads += encoded
        else:
            fixed += encoded.ljust(child.width, b"\x00")
    return presence + fixed + lengths + payloads


def _encode_list(values: Sequence[object], item_type: pa.DataType, kind: LogicalType, where: str) -> bytes:
    presence, fixed, lengths, payloads = b"", b"", b"", b""
    for value in values:
        presence += b"\x00" if value is None else b"\x01"
        encoded = b"" if value is None else _encode(value, item_type, kind, f"{where}[]")
        if kind.width is None:
            lengths += struct.pack("<Q", len(encoded))
            payloads += encoded
        else:
            fixed += encoded.ljust(kind.width, b"\x00")
    has_null = b"\x00" in presence
    return struct.pack("<Q?", len(values), has_null) + (presence if has_null else b"") + fixed + lengths + payloads


def _encode(value: object, arrow_type: pa.DataType, kind: LogicalType, where: str) -> bytes:
    return _ENCODERS[kind.code](value, storage_type(arrow_type), kind, where)


def _null(value: object, _t: pa.DataType, _kind: LogicalType, where: str) -> bytes:
    raise _refusal(value, "null", where)


def _bool(value: object, _t: pa.DataType, _kind: LogicalType, where: str) -> bytes:
    if not isinstance(value, bool):
        raise _refusal(value, "a bool", where)
    return bytes([value])


def _list(value: object, t: pa.DataType, kind: LogicalType, where: str) -> bytes:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _refusal(value, "a sequence", where)
    if pa.types.is_fixed_size_list(t) and len(value) != t.list_size:
        raise _refusal(value, f"{t.list_size} items", where)
    return _encode_list(value, t.value_type, kind.children[0][1], where)


def _struct(value: object, t: pa.DataType, kind: LogicalType, where: str) -> bytes:
    return _encode_struct(value, {field.name: field.type for field in t}, kind, where)


def _text(value: object, _t: pa.DataType, _kind: LogicalType, where: str) -> bytes:
    if not isinstance(value, str):
        raise _refusal(value, "text", where)
    try:
        return value.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise InvalidSampleError(f"Field {where!r} has text that is not valid UTF-8.", field=where) from error


def _binary(value: object, t: pa.DataType, _kind: LogicalType, where: str) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _refusal(value, "bytes", where)
    raw = bytes(value)
    if pa.types.is_fixed_size_binary(t) and len(raw) != t.byte_width:
        raise _refusal(value, f"{t.byte_width} bytes", where)
    return raw


def _map(value: object, t: pa.DataType, kind: LogicalType, where: str) -> bytes:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, Sequence) or any(not isinstance(p, tuple) or len(p) != 2 for p in pairs):
        raise _refusal(value, "a sequence of (key, value)", where)
    entry = pa.struct([("key", t.key_type), ("value", t.item_type)])
    entries = [{"key": key, "value": item} for key, item in pairs]
    return _encode_list(entries, entry, LogicalType(STRUCT, None, children=kind.children), where)


def _integer(value: object, _t: pa.DataType, kind: LogicalType, where: str) -> bytes:
    width = kind.width or 0
    signed = kind.code <= INT64
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refusal(value, "an integer", where)
    try:
        return value.to_bytes(width, "little", signed=signed)
    except OverflowError as error:
        raise InvalidSampleError(
            f"Field {where!r} has {_shown(value)}, which does not fit {8 * width} bits.", field=where
        ) from error


def _float(value: object, _t: pa.DataType, kind: LogicalType, where: str) -> bytes:
    width = kind.width or 0
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _refusal(value, "a number", where)
    if value != value:  # noqa: PLR0124 - the definition of NaN
        return NAN_BITS[width].to_bytes(width, "little")
    try:
        return struct.pack({2: "<e", 4: "<f", 8: "<d"}[width], float(value))
    except OverflowError as error:
        raise InvalidSampleError(
            f"Field {where!r} has {_shown(value)}, which is too large for {8 * width} bits.", field=where
        ) from error


def _decimal(value: object, _t: pa.DataType, kind: LogicalType, where: str) -> bytes:
    if not isinstance(value, decimal.Decimal) or not value.is_finite():
        raise _refusal(value, "a finite Decimal", where)
    sign, digits, exponent = value.as_tuple()
    wanted = f"at most {kind.precision} digits, {kind.scale} after the point"
    shift = int(exponent) + kind.scale
    if len(digits) > 1000 or (any(digits) and abs(shift) > 1000):  # far outside, and slow to compute with
        raise _refusal(value, wanted, where)
    number = int("".join(map(str, digits)))
    unscaled, rest = divmod(number * 10 ** max(shift, 0), 10 ** max(-shift, 0)) if number else (0, 0)
    if rest or unscaled >= 10**kind.precision:
        raise _refusal(value, wanted, where)
    return (-unscaled if sign else unscaled).to_bytes(32, "little", signed=True)


def _date(value: object, t: pa.DataType, _kind: LogicalType, where: str) -> bytes:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        days, rest = value.toordinal() - _EPOCH.toordinal(), 0
    elif isinstance(value, int) and not isinstance(value, bool):
        days, rest = divmod(value, 86_400_000) if pa.types.is_date64(t) else (value, 0)
    else:
        raise _refusal(value, "a date", where)
    if rest:
        raise _refusal(value, "a whole day", where)
    return struct.pack("<q", days)


def _ticks(value: object, t: pa.DataType, kind: LogicalType, where: str) -> bytes:
    nanoseconds = _nanoseconds(value, t, kind, where)
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    step = NANOSECONDS // TICKS_PER_SECOND[t.unit]
    if rest % step:
        raise _refusal(value, f"a multiple of 1 {t.unit}", where)
    return struct.pack("<qI", seconds, rest)


def _nanoseconds(value: object, t: pa.DataType, kind: LogicalType, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value * (NANOSECONDS // TICKS_PER_SECOND[t.unit])
    if kind.code == TIME and isinstance(value, dt.time) and value.tzinfo is None:
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return seconds * NANOSECONDS + value.microsecond * 1000
    if kind.code == DURATION and isinstance(value, dt.timedelta):
        return _span(value)
    if kind.code in {TIMESTAMP_NAIVE, TIMESTAMP_UTC} and isinstance(value, dt.datetime):
        if (value.tzinfo is None) != (kind.code == TIMESTAMP_NAIVE):
            raise _refusal(
                value, "a time with a zone" if kind.code == TIMESTAMP_UTC else "a time without a zone", where
            )
        naive = value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)
        # pandas' Timestamp is a datetime that keeps three more digits in an attribute of its own.
        return _span(naive - _EPOCH, nanosecond=getattr(naive, "nanosecond", 0))
    raise _refusal(value, f"a value of {t}", where)


def _span(span: dt.timedelta, *, nanosecond: int = 0) -> int:
    extra = getattr(span, "nanoseconds", nanosecond)
    return (span.days * 86_400 + span.seconds) * NANOSECONDS + span.microseconds * 1000 + int(extra)


def _shown(value: object) -> str:
    """Describe a value in a few words; an integer of thousands of digits has no text in Python."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return f"{type(value).__name__} {str(value)[:40]!r}"


def _refusal(value: object, wanted: str, where: str) -> InvalidSampleError:
    return InvalidSampleError(
        f"Field {where!r} must be {wanted}, got {_shown(value)}.",
        hint="Read the sample with the schema that its digest was made with.",
        field=where,
    )


#: code -> encoder of one present value of that logical type.
_ENCODERS: dict[int, Callable[[object, pa.DataType, LogicalType, str], bytes]] = {
    NULL: _null,
    BOOL: _bool,
    **dict.fromkeys(range(INT8, UINT64 + 1), _integer),
    **dict.fromkeys(range(FLOAT16, FLOAT64 + 1), _float),
    DECIMAL: _decimal,
    DATE: _date,
    **dict.fromkeys(range(TIME, TIMESTAMP_UTC + 1), _ticks),
    STRING: _text,
    BINARY: _binary,
    LIST: _list,
    STRUCT: _struct,
    MAP: _map,
}
