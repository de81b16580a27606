"""The digest of a sample: SHA-256 over a canonical encoding, the same for the same row in any file format.

`schema_id` names a schema, `sample_digests` digests a batch, `sample_digest_of` one row of plain Python values (the
reference; slow). The bytes are described in docs/formats/sample-digest.md and fixed by tests/vectors/*/sample-digest.

How a batch is encoded: column by column with numpy, into segments; row i is the concatenation of the i-th part of each
segment. Fixed-width data becomes a `Uniform` (n, w) matrix, text and lists a `Ragged` view of the Arrow buffer, and
neighbouring matrices are joined, so that a row of numbers and one text costs two slices and one hash, and an embedding
costs no Python work per element (bench/sample_digest.py).
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import add
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import sample_encoding as se
from millcert.errors import InvalidSampleError, MissingColumnError

#: Rows encoded at once: small enough for the cache, large enough that a numpy call costs nothing per row.
_ROWS = 8192
#: Bytes encoded at once, where rows are large.
_BYTES = 32 << 20
#: Dictionaries up to this size are copied (slices of bytes are the fastest); larger ones are only looked at.
_COPY_BYTES = 1 << 20

_TICKS = np.dtype([("seconds", "<i8"), ("nanoseconds", "<u4")])
_DTYPES = {
    se.BOOL: "u1", se.INT8: "i1", se.INT16: "i2", se.INT32: "i4", se.INT64: "i8",
    se.UINT8: "u1", se.UINT16: "u2", se.UINT32: "u4", se.UINT64: "u8",
    se.FLOAT16: "f2", se.FLOAT32: "f4", se.FLOAT64: "f8",
}  # fmt: skip


class Uniform(NamedTuple):
    """A part that is equally long in every row: uint8 (n, w)."""

    matrix: np.ndarray


class Ragged(NamedTuple):
    """A part of any length: row i has data[starts[i] : starts[i] + lengths[i]]; int64 (n,) both."""

    data: bytes | memoryview
    starts: np.ndarray
    lengths: np.ndarray


Segment: TypeAlias = Uniform | Ragged


def schema_id(schema: pa.Schema) -> bytes:
    """Return the 32-byte name of a schema: field names and logical types, in any order of fields.

    Raises:
        MissingColumnError: a field has a type that has no encoding (union, interval).
        InvalidSampleError: two fields have the same name.
        HostileDataError: the schema nests deeper than 64 levels.

    Source: docs/formats/sample-digest.md, section 4.
    """
    return hashlib.sha256(se.SCHEMA_TAG + se.logical_schema(schema).encoded()).digest()


def sample_digest_of(values: Mapping[str, object], schema: pa.Schema) -> bytes:
    """Return the 32-byte digest of one sample given as plain Python values.

    The values and what is refused: see `millcert.checks.sample_encoding.encode_sample`. Cost: some 20 microseconds for
    a small row; use `sample_digests` for more than a few.
    """
    return hashlib.sha256(se.SAMPLE_TAG + schema_id(schema) + se.encode_sample(values, schema)).digest()


def sample_digests(batch: pa.RecordBatch) -> np.ndarray:
    """Return the digests of a batch's rows, uint8 (n, 32), in the batch's order.

    Raises:
        InvalidSampleError: text is not valid UTF-8, a date64 is not a whole day, or an array is inconsistent.
        MissingColumnError, HostileDataError: as `schema_id`.

    Cost: about 1 microsecond a row of 200 bytes; memory of the order of 32 MiB beside the batch, or of one row where
    that is larger. A dictionary's values are not expanded.
    """
    kind = se.logical_schema(batch.schema)
    prefix = hashlib.sha256(se.SAMPLE_TAG + schema_id(batch.schema))
    columns = [batch.column(batch.schema.get_field_index(name)) for name, _ in kind.children]
    for (name, _), column in zip(kind.children, columns, strict=True):
        try:
            column.validate()
        except pa.ArrowException as error:
            raise InvalidSampleError(f"Field {name!r} is not a valid Arrow array: {error}", field=name) from error
    step = _step(batch)
    digests: list[bytes] = []
    for start in range(0, batch.num_rows, step):
        rows = min(step, batch.num_rows - start)
        segments = _struct([column.slice(start, rows) for column in columns], kind, rows, "")
        append, copy = digests.append, prefix.copy
        for row in _rows(segments):
            hasher = copy()
            hasher.update(row)
            append(hasher.digest())
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(batch.num_rows, 32)


def _step(batch: pa.RecordBatch) -> int:
    row_bytes = batch.get_total_buffer_size() // max(batch.num_rows, 1) + 1
    return max(1, min(_ROWS, max(64, _BYTES // row_bytes)))


def _struct(columns: Sequence[pa.Array], kind: se.LogicalType, rows: int, where: str) -> list[Segment]:
    """Encode a struct: one matrix of presence bytes, fixed-width values and lengths, then the payloads."""
    presence: list[np.ndarray | None] = []
    fixed: list[np.ndarray] = []
    payloads: list[list[Segment]] = []
    for (name, child), column in zip(kind.children, columns, strict=True):
        path = f"{where}.{name}" if where else name
        array = _plain(column, path)
        present = _present(array)
        presence.append(present)
        if child.width is None:
            payloads.append(_payload(array, child, present, path))
        else:
            fixed.append(_fixed(array, child, present, path))
    width = len(presence) + sum(values.dtype.itemsize for values in fixed) + 8 * len(payloads)
    header = np.empty((rows, width), dtype=np.uint8)
    for position, present in enumerate(presence):
        header[:, position] = 1 if present is None else present
    offset = len(presence)
    lengths = [_lengths(payload, rows).astype("<u8") for payload in payloads]
    for values in (*fixed, *lengths):
        if rows and values.dtype.itemsize:
            np.ndarray(rows, values.dtype, buffer=header, offset=offset, strides=(width,))[:] = values
        offset += values.dtype.itemsize
    return _joined([Uniform(header), *(segment for payload in payloads for segment in payload)])


def _payload(array: pa.Array, kind: se.LogicalType, present: np.ndarray | None, where: str) -> list[Segment]:
    """Encode an array of varying width; the payload of a null is empty."""
    if kind.code in {se.STRING, se.BINARY}:
        return [_text(array, kind, present, where)]
    if kind.code == se.STRUCT:
        names = [field.name for field in array.type]
        children = array.flatten()
        ordered = [children[names.index(name)] for name, _ in kind.children]
        segments = _struct(ordered, kind, len(array), where)
    else:
        segments = _list(array, kind, where)
    return segments if present is None else [_without_nulls(segment, present) for segment in segments]


def _list(array: pa.Array, kind: se.LogicalType, where: str) -> list[Segment]:
    """Encode lists and maps: count, null flag, presence bytes where there is a null, then the items."""
    item = kind.children[0][1]
    if kind.code == se.MAP:
        _refuse_bad_bounds(array, where)
        array = _map_as_list(array)
        item = se.LogicalType(se.STRUCT, None, children=kind.children)
    _refuse_bad_bounds(array, where)
    counts = _numbers(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
    ends = np.cumsum(counts)
    starts = ends - counts
    path = f"{where}[]"
    items = _plain(array.flatten(), path)
    present = _present(items)
    head = np.zeros((len(array), 9), dtype=np.uint8)
    head[:, :8] = counts.astype("<u8").view(np.uint8).reshape(-1, 8)
    segments: list[Segment] = [Uniform(head)]
    if present is not None:
        nulls = np.concatenate(([0], np.cumsum(present == 0)))
        flags = nulls[ends] > nulls[starts]
        head[:, 8] = flags
        segments.append(Ragged(present.tobytes(), starts, np.where(flags, counts, 0)))
    if item.width is None:
        payload = _payload(items, item, present, path)
        lengths = _lengths(payload, len(items))
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        segments.append(Ragged(lengths.astype("<u8").tobytes(), starts * 8, counts * 8))
        segments.append(Ragged(b"".join(_rows(payload)), bounds[starts], bounds[ends] - bounds[starts]))
        return segments
    values = np.ascontiguousarray(_fixed(items, item, present, path))
    if len(counts) and item.width and (counts == counts[0]).all():
        segments.append(Uniform(values.view(np.uint8).reshape(len(counts), -1)))
    else:
        segments.append(Ragged(values.tobytes(), starts * item.width, counts * item.width))
    return segments


def _fixed(array: pa.Array, kind: se.LogicalType, present: np.ndarray | None, where: str) -> np.ndarray:
    """Return an array's values, little endian, shape (n,), itemsize = the type's width; 0 where null."""
    t = array.type
    if kind.code in _DTYPES:
        values = _numbers(array.cast(pa.uint8()) if kind.code == se.BOOL else array, _DTYPES[kind.code])
        if kind.code in {se.FLOAT16, se.FLOAT32, se.FLOAT64}:
            values = _one_nan(values)
    elif kind.code == se.NULL:
        return np.zeros(len(array), dtype="V0")
    elif kind.code == se.DECIMAL:
        values = _decimals(array, t.bit_width // 8)
    elif kind.code == se.DATE:
        values = _days(array, present, where)
    else:
        values = _ticks(_numbers(array, f"i{t.bit_width // 8}"), se.TICKS_PER_SECOND[t.unit])
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    if present is not None:
        values = values.copy()
        values[present == 0] = np.zeros((), dtype=values.dtype)
    return values


def _one_nan(values: np.ndarray) -> np.ndarray:
    nan = np.isnan(values)
    if not nan.any():
        return values
    width = values.dtype.itemsize
    bits = values.view(f"u{width}").copy()
    bits[nan] = se.NAN_BITS[width]
    return bits


def _decimals(array: pa.Array, width: int) -> np.ndarray:
    raw = _numbers(array, f"V{width}").view(np.uint8).reshape(len(array), width)
    if sys.byteorder == "big":  # pragma: no cover - Arrow's buffers are native
        raw = raw[:, ::-1]
    wide = np.empty((len(array), 32), dtype=np.uint8)
    wide[:, :width] = raw
    wide[:, width:] = np.where(raw[:, -1:] & 0x80, 0xFF, 0)
    return wide.view("V32").reshape(len(array))


def _days(array: pa.Array, present: np.ndarray | None, where: str) -> np.ndarray:
    if pa.types.is_date32(array.type):
        return _numbers(array, "i4").astype("<i8")
    days, rest = np.divmod(_numbers(array, "i8"), 86_400_000)
    if (rest if present is None else rest[present == 1]).any():
        raise InvalidSampleError(
            f"Field {where!r} has a date64 that is not a whole day.", hint="Store it as a timestamp.", field=where
        )
    return days


def _ticks(values: np.ndarray, per_second: int) -> np.ndarray:
    seconds, rest = np.divmod(values.astype(np.int64), per_second)
    ticks = np.empty(len(values), dtype=_TICKS)
    ticks["seconds"] = seconds
    ticks["nanoseconds"] = rest * (se.NANOSECONDS // per_second)
    return ticks


def _text(array: pa.Array, kind: se.LogicalType, present: np.ndarray | None, where: str) -> Ragged:
    """Return text or bytes as they lie in the Arrow buffer; refuse text that is not UTF-8."""
    if pa.types.is_dictionary(array.type):
        words = _plain(array.dictionary, where)
        data, starts, lengths = _text(words, kind, None, where)
        index = _numbers(array.indices, str(array.indices.type.to_pandas_dtype().__name__))
        index = index if present is None else np.where(present == 1, index, 0)
        if not len(starts):  # every index is null
            starts = lengths = np.zeros(1, dtype=np.int64)
        starts, lengths = starts[index], lengths[index]
        view = memoryview(data) if len(data) > _COPY_BYTES else data
        return Ragged(view, starts, lengths if present is None else np.where(present == 1, lengths, 0))
    if kind.code == se.STRING:
        _refuse_bad_text(array, where)
    if pa.types.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        raw = _numbers(array, f"V{width}").tobytes()
        lengths = np.full(len(array), width, dtype=np.int64)
        starts = np.arange(len(array), dtype=np.int64) * width
    else:
        is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
        bounds = _offsets(array, "i8" if is_large else "i4")
        starts, lengths = bounds[:-1], np.diff(bounds)
        first, last = int(bounds[0]), int(bounds[-1])
        buffer = array.buffers()[2]
        raw = b"" if buffer is None else buffer.slice(first, last - first).to_pybytes()
        starts = starts - first
    return Ragged(raw, starts, lengths if present is None else np.where(present == 1, lengths, 0))


def _plain(array: pa.Array, where: str) -> pa.Array:
    """Take the physical wrapping off: extensions, dictionaries (text keeps its own), runs and views."""
    try:
        while isinstance(array, pa.ExtensionArray):
            array = array.storage
        t = array.type
        if pa.types.is_run_end_encoded(t):
            array.validate(full=True)
            return _plain(pc.run_end_decode(array), where)
        if pa.types.is_dictionary(t):
            return _plain_dictionary(array, where)
        if pa.types.is_string_view(t):
            return array.cast(pa.large_string())
        if pa.types.is_binary_view(t):
            return array.cast(pa.large_binary())
    except pa.ArrowNotImplementedError as error:
        raise MissingColumnError(
            f"Field {where!r} has type {array.type}, which the installed pyarrow cannot decode: {error}",
            hint="Store the field without this dictionary, run or view encoding.",
            field=where,
        ) from error
    except pa.ArrowException as error:
        raise InvalidSampleError(f"Field {where!r} is not a valid Arrow array: {error}", field=where) from error
    return array


def _plain_dictionary(array: pa.DictionaryArray, where: str) -> pa.Array:
    words = _plain(array.dictionary, where)
    if array.indices.null_count < len(array):
        lowest, highest = pc.min_max(array.indices).as_py().values()
        if lowest < 0 or highest >= len(words):
            raise InvalidSampleError(
                f"Field {where!r} has a dictionary index outside its dictionary of {len(words)} values.", field=where
            )
    is_text = not words.null_count and not pa.types.is_nested(words.type) and _is_text(words.type)
    return pa.DictionaryArray.from_arrays(array.indices, words) if is_text else _plain(words.take(array.indices), where)


def _is_text(t: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(t)
        or pa.types.is_large_string(t)
        or pa.types.is_binary(t)
        or pa.types.is_large_binary(t)
        or pa.types.is_fixed_size_binary(t)
    )


def _present(array: pa.Array) -> np.ndarray | None:
    """Return 1 where there is a value, uint8 (n,); None where no value is null."""
    if not array.null_count:
        return None
    return _numbers(array.is_valid().cast(pa.uint8()), "u1")


def _numbers(array: pa.Array, dtype: str | None = None) -> np.ndarray:
    """Look at a fixed-width array's values, whatever lies under nulls included."""
    kind = np.dtype(dtype if dtype is not None else array.type.to_pandas_dtype())
    buffer = array.buffers()[1]
    if not len(array) or not kind.itemsize:
        return np.zeros(len(array), dtype=kind)
    return np.frombuffer(buffer, dtype=kind, count=len(array), offset=array.offset * kind.itemsize)


def _offsets(array: pa.Array, dtype: str) -> np.ndarray:
    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(len(array) + 1, dtype=np.int64)
    width = np.dtype(dtype).itemsize
    bounds = np.frombuffer(buffer, dtype=dtype, count=len(array) + 1, offset=array.offset * width)
    return bounds.astype(np.int64)


def _refuse_bad_text(array: pa.Array, where: str) -> None:
    try:
        array.validate(full=True)
    except pa.ArrowException as error:
        raise InvalidSampleError(
            f"Field {where!r} has text that is not valid UTF-8, or broken offsets: {error}",
            hint="Store bytes that are not text in a binary field.",
            field=where,
        ) from error


def _refuse_bad_bounds(array: pa.Array, where: str) -> None:
    """Refuse lists whose offsets would read outside their values: they come from a hostile file."""
    t = array.type
    size = len(array.values)
    if pa.types.is_fixed_size_list(t):
        is_bad = (array.offset + len(array)) * t.list_size > size
    elif pa.types.is_list_view(t) or pa.types.is_large_list_view(t):
        starts, counts = _numbers(array.offsets).astype(np.int64), _numbers(array.sizes).astype(np.int64)
        is_bad = bool(((starts < 0) | (counts < 0) | (starts > size - counts)).any())
    else:
        bounds = _offsets(array, "i8" if pa.types.is_large_list(t) else "i4")
        is_bad = bool(bounds[0] < 0 or bounds[-1] > size or (np.diff(bounds) < 0).any())
    if is_bad:
        raise InvalidSampleError(f"Field {where!r} has list offsets outside its {size} values.", field=where)


def _map_as_list(array: pa.MapArray) -> pa.Array:
    t = array.type
    entries = pa.struct([("key", t.key_type), ("value", t.item_type)])
    values = pa.StructArray.from_arrays([array.keys, array.items], fields=list(entries))
    return pa.Array.from_buffers(
        pa.list_(entries), len(array), array.buffers()[:2], offset=array.offset, children=[values]
    )


def _lengths(segments: Iterable[Segment], rows: int) -> np.ndarray:
    """Return how many bytes each row takes over all segments, int64 (n,)."""
    total = np.zeros(rows, dtype=np.int64)
    for segment in segments:
        total += segment.matrix.shape[1] if isinstance(segment, Uniform) else segment.lengths
    return total


def _without_nulls(segment: Segment, present: np.ndarray) -> Segment:
    if isinstance(segment, Uniform):
        rows, width = segment.matrix.shape
        lengths = np.where(present == 1, width, 0)
        return Ragged(segment.matrix.tobytes(), np.arange(rows, dtype=np.int64) * width, lengths)
    return segment._replace(lengths=np.where(present == 1, segment.lengths, 0))


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbouring matrices into one."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if isinstance(segment, Uniform) and isinstance(last, Uniform):
            joined[-1] = Uniform(np.concatenate((last.matrix, segment.matrix), axis=1))
        else:
            joined.append(segment)
    return joined


def _rows(segments: Sequence[Segment]) -> Iterator[bytes]:
    """Yield each row's bytes: the concatenation of its part of every segment."""
    parts = [_parts(segment) for segment in segments]
    if len(parts) == 1:
        return map(bytes, parts[0])  # no copy where they are bytes
    if len(parts) == 2 and isinstance(segments[0], Uniform):
        return map(add, *parts)
    return map(b"".join, zip(*parts, strict=True))


def _parts(segment: Segment) -> Sequence[bytes | memoryview]:
    if isinstance(segment, Uniform):
        rows, width = segment.matrix.shape
        if not width:
            return [b""] * rows
        # One call makes all rows into bytes objects, at a quarter of the cost of slices.
        opaque: list[bytes] = np.ascontiguousarray(segment.matrix).view(f"V{width}").reshape(rows).tolist()
        return opaque
    data = segment.data
    ends = (segment.starts + segment.lengths).tolist()
    return [data[start:end] for start, end in zip(segment.starts.tolist(), ends, strict=True)]
