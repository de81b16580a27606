"""The digest of a sample: cross-format equality, fixed vectors, edge values, refusals."""

import base64
import datetime as dt
import decimal
import hashlib
import io
import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from millcert.checks import sample_digest
from millcert.checks.sample_digest import sample_digest_of, sample_digests, schema_id
from millcert.checks.sample_encoding import MAX_DEPTH, SAMPLE_TAG, encode_sample, logical_schema
from millcert.errors import HostileDataError, InvalidSampleError, MillcertError, MissingColumnError

VECTORS = sorted((Path(__file__).parent.parent / "vectors").glob("*/sample-digest/*.json"))
SIMPLE_TYPES: dict[str, pa.DataType] = {
    "null": pa.null(), "bool": pa.bool_(), "date": pa.date32(), "time": pa.time64("ns"), "duration": pa.duration("ns"),
    "timestamp": pa.timestamp("ns"), "timestamp_utc": pa.timestamp("ns", tz="UTC"), "string": pa.string(),
    "binary": pa.binary(), **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")()
    for sign in ("", "u") for bits in (8, 16, 32, 64)}, **{f"float{bits}": getattr(pa, f"float{bits}")()
    for bits in (16, 32, 64)},
}  # fmt: skip


def arrow_type(kind: Any) -> pa.DataType:
    """Return the Arrow type of a vector's type, which is a name or a one-key object."""
    if isinstance(kind, str):
        return SIMPLE_TYPES[kind]
    ((name, inner),) = kind.items()
    if name == "decimal":
        return pa.decimal256(*inner)
    if name == "list":
        return pa.list_(arrow_type(inner))
    if name == "map":
        return pa.map_(arrow_type(inner[0]), arrow_type(inner[1]))
    return pa.struct([(field, arrow_type(t)) for field, t in inner])


def plain(value: Any, kind: Any) -> Any:
    """Return the Python value of a vector's JSON value."""
    name = kind if isinstance(kind, str) else next(iter(kind))
    inner: Any = None if isinstance(kind, str) else kind[name]
    if value is None:
        return None
    if name == "binary":
        return base64.b64decode(value)
    if name.startswith("float"):
        return float(value)
    if name.startswith(("int", "uint", "time", "duration", "date")):
        return int(value)
    if name == "decimal":
        return decimal.Decimal(value)
    if name == "list":
        return [plain(item, inner) for item in value]
    if name == "map":
        return [(plain(k, inner[0]), plain(v, inner[1])) for k, v in value]
    if name == "struct":
        return {field: plain(value[field], t) for field, t in inner}
    return value


def hexes(batch: pa.RecordBatch) -> list[str]:
    return [bytes(row).hex() for row in sample_digests(batch)]


def one(array: pa.Array) -> str:
    return hexes(pa.record_batch({"x": array}))[0]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_a_published_vector_keeps_its_digest_for_ever(path: Path) -> None:
    vector = json.loads(path.read_text())
    schema = pa.schema([(name, arrow_type(kind)) for name, kind in vector["schema"]])
    row = {name: plain(vector["row"][name], kind) for name, kind in vector["schema"]}
    batch = pa.RecordBatch.from_struct_array(pa.array([row], pa.struct(list(schema))))

    assert logical_schema(schema).encoded().hex() == vector["schema_encoding"]
    assert schema_id(schema).hex() == vector["schema_id"]
    assert encode_sample(row, schema).hex() == vector["encoding"]
    assert hexes(batch) == [vector["sample_digest"]]
    assert sample_digest_of(row, schema).hex() == vector["sample_digest"]


def test_there_are_vectors() -> None:
    assert len(VECTORS) >= 10


def test_the_digest_is_sha256_of_tag_schema_id_and_encoding() -> None:
    schema = pa.schema([("id", pa.int8()), ("text", pa.string())])
    row = {"id": -1, "text": "hé"}

    encoding = b"\x01\x01" + b"\xff" + struct.pack("<Q", 3) + b"h\xc3\xa9"

    assert encode_sample(row, schema) == encoding
    assert sample_digest_of(row, schema) == hashlib.sha256(SAMPLE_TAG + schema_id(schema) + encoding).digest()
    assert len(SAMPLE_TAG) == 32


def mixed_table() -> pa.Table:
    schema = pa.schema([
        pa.field("id", pa.int64(), nullable=False),
        ("text", pa.string()),
        ("label", pa.int32()),
        ("score", pa.float64()),
        ("half", pa.float32()),
        ("ok", pa.bool_()),
        ("seen", pa.timestamp("ms")),
        ("when", pa.timestamp("us", tz="UTC")),
        ("day", pa.date32()),
        ("vector", pa.list_(pa.float32())),
        ("tags", pa.list_(pa.string())),
        ("chat", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("meta", pa.struct([("b", pa.int16()), ("a", pa.string())])),
    ])  # fmt: skip
    rows = [
        {
            "id": 2**60 + i, "text": None if i == 3 else "naïve 漢字 \u0000 " * i, "label": i % 3 if i else None,
            "score": [0.1, -0.0, 1e308, 5e-324, None][i % 5], "half": i / 3, "ok": i % 2 == 0,
            "seen": dt.datetime(1969, 12, 31, 23, 59, 59, 999000), "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            "day": dt.date(1900, 1, 1), "vector": [i * 0.1, None] if i == 4 else [i * 0.1] * 3,
            "tags": None if i == 2 else ["", None, "x" * i], "meta": None if i == 1 else {"b": i, "a": None},
            "chat": [{"role": "user", "content": "hi"}, None, {"role": None, "content": ""}][:i],
        }
        for i in range(6)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def through_parquet(table: pa.Table, *, with_arrow_schema: bool) -> pa.Table:
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=with_arrow_schema, use_dictionary=True, row_group_size=2)
    return pq.read_table(file)


def through_ipc(table: pa.Table) -> pa.Table:
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return pa.ipc.open_file(file.getvalue()).read_all()


def through_json(table: pa.Table) -> pa.Table:
    def text(value: object) -> object:
        if isinstance(value, dt.datetime):
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return (value - dt.date(1970, 1, 1)).days if isinstance(value, dt.date) else value

    rows = table.to_pylist()
    lines = "".join(json.dumps({name: text(value) for name, value in row.items()}) + "\n" for row in rows)
    schema = pa.schema([field.remove_metadata() for field in table.schema])
    options = pyarrow.json.ParseOptions(explicit_schema=schema)
    return pyarrow.json.read_json(io.BytesIO(lines.encode()), parse_options=options)


@pytest.mark.parametrize(
    "through",
    [
        lambda table: through_parquet(table, with_arrow_schema=True),
        lambda table: through_parquet(table, with_arrow_schema=False),
        through_ipc,
        through_json,
    ],
    ids=["parquet", "parquet without the Arrow schema", "arrow ipc", "jsonl with a schema"],
)
def test_the_same_rows_have_the_same_digests_in_every_format(through: Callable[[pa.Table], pa.Table]) -> None:
    table = mixed_table()
    wanted = hexes(table.to_batches()[0])

    read = through(table)

    assert schema_id(read.schema) == schema_id(table.schema)
    assert [digest for batch in read.to_batches() for digest in hexes(batch)] == wanted
    assert wanted == [sample_digest_of(row, table.schema).hex() for row in table.to_pylist()]


def test_metadata_nullability_and_time_zone_names_do_not_reach_the_schema_id() -> None:
    bare = pa.schema([("b", pa.list_(pa.int8())), ("a", pa.timestamp("s", tz="Asia/Tokyo"))])
    dressed = pa.schema(
        [
            pa.field("a", pa.timestamp("ns", tz="+01:00"), nullable=False, metadata={"x": "y"}),
            pa.field("b", pa.large_list(pa.field("element", pa.int8(), nullable=False))),
        ],
        metadata={"huggingface": "{}"},
    )

    assert schema_id(bare) == schema_id(dressed)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (pa.int32(), pa.int64()),
        (pa.int32(), pa.uint32()),
        (pa.float32(), pa.float64()),
        (pa.string(), pa.binary()),
        (pa.timestamp("us"), pa.timestamp("us", tz="UTC")),
        (pa.timestamp("us"), pa.duration("us")),
        (pa.decimal128(10, 2), pa.decimal128(10, 3)),
        (pa.decimal128(10, 2), pa.decimal128(11, 2)),
        (pa.map_(pa.string(), pa.int8()), pa.list_(pa.struct([("key", pa.string()), ("value", pa.int8())]))),
        (pa.struct([("a", pa.int8()), ("b", pa.int8())]), pa.struct([("a", pa.int8())])),
        (pa.null(), pa.string()),
    ],
)
def test_different_logical_types_have_different_digests_even_for_a_null(a: pa.DataType, b: pa.DataType) -> None:
    assert one(pa.nulls(1, a)) != one(pa.nulls(1, b))


def test_a_field_name_is_part_of_the_digest() -> None:
    assert hexes(pa.record_batch({"x": ["v"]})) != hexes(pa.record_batch({"y": ["v"]}))


@pytest.mark.parametrize("width", [2, 4, 8])
def test_every_nan_is_one_value_and_minus_zero_is_not_zero(width: int) -> None:
    kind = {2: pa.float16(), 4: pa.float32(), 8: pa.float64()}[width]
    mantissa = {2: 10, 4: 23, 8: 52}[width]
    exponent = ((1 << (8 * width - 1 - mantissa)) - 1) << mantissa
    nans = [exponent | 1, exponent | (1 << (mantissa - 1)), exponent | (1 << (8 * width - 1)) | 7]
    bits = np.array([*nans, 1 << (8 * width - 1), 0], dtype=f"u{width}")
    array = pa.Array.from_buffers(kind, 5, [None, pa.py_buffer(bits.tobytes())])

    digests = hexes(pa.record_batch({"x": array}))

    assert len(set(digests[:3])) == 1
    assert digests[0] == sample_digest_of({"x": math.nan}, pa.schema([("x", kind)])).hex()
    assert len(set(digests)) == 3


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("make", [pa.timestamp, pa.duration])
def test_the_ends_of_a_time_unit_are_kept_without_loss(make: Callable[[str], pa.DataType], unit: str) -> None:
    ends = [-(2**63), -1, 0, 2**63 - 1]
    kind = make(unit)

    digests = hexes(pa.record_batch({"x": pa.array(ends, pa.int64()).cast(kind)}))

    assert digests == [sample_digest_of({"x": end}, pa.schema([("x", kind)])).hex() for end in ends]
    assert len(set(digests)) == 4


def test_a_nanosecond_timestamp_of_pandas_keeps_its_nanoseconds() -> None:
    pd = pytest.importorskip("pandas")
    schema = pa.schema([("x", pa.timestamp("ns")), ("y", pa.timestamp("ns", tz="UTC")), ("z", pa.duration("ns"))])
    raw = {"x": 1_700_000_000_123_456_789, "y": -1, "z": -5}

    row = {"x": pd.Timestamp(raw["x"]), "y": pd.Timestamp(raw["y"], tz="Asia/Tokyo"), "z": pd.Timedelta(raw["z"])}

    assert sample_digest_of(row, schema) == sample_digest_of(raw, schema)


def test_an_extension_type_counts_as_its_storage() -> None:
    raw = pa.array([b"0123456789abcdef", None], pa.binary(16))

    wrapped = pa.ExtensionArray.from_storage(pa.uuid(), raw)

    assert hexes(pa.record_batch({"x": wrapped})) == hexes(pa.record_batch({"x": raw}))


def test_dictionaries_inside_and_of_nested_types_are_unwrapped() -> None:
    words = pa.array(["a", "b", "a", None, "a"])
    offsets = pa.array([0, 2, 2, 5], pa.int32())
    structs = pa.array([{"a": 1}, {"a": None}])
    large = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.uint8()), pa.array(["y" * 2_000_000, "z"]))
    with_null_word = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["q", None]))
    all_null = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int8()), pa.array([], pa.string()))

    for wrapped, bare in [
        (pa.ListArray.from_arrays(offsets, words.dictionary_encode()), pa.ListArray.from_arrays(offsets, words)),
        (pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int8()), structs), structs.take([1, 0, None])),
        (large, large.dictionary_decode()),
        (with_null_word, pa.array(["q", None, None])),
        (all_null, pa.array([None, None], pa.string())),
    ]:
        assert hexes(pa.record_batch({"x": wrapped})) == hexes(pa.record_batch({"x": bare}))


def test_what_lies_under_a_null_does_not_reach_the_digest() -> None:
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 3], pa.int32()), pa.array([1, 8, 9], pa.int8()), mask=pa.array([False, True])
    )
    structs = pa.StructArray.from_arrays([pa.array([1, 9], pa.int8())], ["a"], mask=pa.array([False, True]))
    bitmap = pa.py_buffer(b"\x01")
    numbers = pa.Array.from_buffers(pa.int8(), 2, [bitmap, pa.py_buffer(b"\x01\x09")])
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    texts = pa.Array.from_buffers(pa.string(), 2, [bitmap, offsets, pa.py_buffer(b"a\xff")])

    assert one(lists[1:]) == one(pa.array([None], lists.type))
    assert one(structs[1:]) == one(pa.array([None], structs.type))
    assert one(numbers[1:]) == one(pa.array([None], pa.int8()))
    assert one(texts[1:]) == one(pa.array([None], pa.string()))


def test_batches_of_no_rows_and_no_columns_are_digested() -> None:
    no_columns = pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([])))

    assert sample_digests(empty()).shape == (0, 32)
    assert hexes(no_columns) == [sample_digest_of({}, pa.schema([])).hex()] * 2
    assert sample_digests(no_columns).dtype == np.uint8


def test_an_empty_array_without_buffers_is_digested() -> None:
    bare = pa.Array.from_buffers(pa.string(), 0, [None, pa.py_buffer(b""), pa.py_buffer(b"")])

    assert sample_digests(pa.record_batch({"x": bare})).shape == (0, 32)
    assert one(raw_list([0, 0], pa.list_(pa.string()), bare)) == one(pa.array([[]], pa.list_(pa.string())))


def empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=mixed_table().schema)


@pytest.mark.parametrize("kind", [pa.binary(0), pa.list_(pa.int8(), 0), pa.list_(pa.null(), 2), pa.list_(pa.null())])
def test_types_without_bytes_are_digested(kind: pa.DataType) -> None:
    value: Any = b"" if kind == pa.binary(0) else [None] * (2 if kind == pa.list_(pa.null(), 2) else 0)

    digests = hexes(pa.record_batch({"x": pa.array([value, None], kind)}))

    assert digests == [sample_digest_of({"x": v}, pa.schema([("x", kind)])).hex() for v in (value, None)]


def test_rows_beyond_one_step_are_digested_like_the_first() -> None:
    batch = pa.record_batch({"x": np.arange(20_000), "y": [str(i) for i in range(20_000)]})

    digests = sample_digests(batch)

    assert bytes(digests[19_999]) == sample_digest_of({"x": 19_999, "y": "19999"}, batch.schema)
    assert bytes(digests[8192]) == sample_digest_of({"x": 8192, "y": "8192"}, batch.schema)
    assert len({bytes(row) for row in digests}) == 20_000


def test_large_rows_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.record_batch({"x": ["y" * 1000] * 500})
    wanted = hexes(batch)

    monkeypatch.setattr(sample_digest, "_BYTES", 1)

    assert hexes(batch) == wanted


@pytest.mark.parametrize(
    "kind",
    [pa.month_day_nano_interval(), pa.sparse_union([pa.field("a", pa.int8())]), pa.list_(pa.month_day_nano_interval())],
    ids=str,
)
def test_a_type_without_encoding_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(MissingColumnError, match=r"where\w*") as refusal:
        schema_id(pa.schema([("where", kind)]))

    assert str(pa.month_day_nano_interval()) in str(refusal.value) or "union" in str(refusal.value)


def test_two_fields_of_one_name_are_refused_at_every_level() -> None:
    twice = pa.struct([pa.field("a", pa.int8()), pa.field("a", pa.int8())])

    with pytest.raises(InvalidSampleError, match=r"'o\.a' is there twice"):
        schema_id(pa.schema([("o", twice)]))
    with pytest.raises(InvalidSampleError, match="'a' is there twice"):
        schema_id(pa.schema(list(twice)))


def test_a_schema_that_nests_without_end_is_refused() -> None:
    kind = pa.int8()
    for _ in range(MAX_DEPTH):
        kind = pa.list_(kind)
    schema_id(pa.schema([("x", kind)]))

    with pytest.raises(HostileDataError, match="deeper than 64"):
        schema_id(pa.schema([("x", pa.list_(kind))]))


def raw_text(data: bytes, offsets: list[int]) -> pa.Array:
    buffer = pa.py_buffer(np.array(offsets, np.int32).tobytes())
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, buffer, pa.py_buffer(data)])


def raw_list(offsets: list[int], kind: pa.DataType, child: pa.Array) -> pa.Array:
    buffer = pa.py_buffer(np.array(offsets, np.int32).tobytes())
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, buffer], children=[child])


def test_text_that_is_not_utf8_is_refused_and_named_and_its_neighbours_are_not() -> None:
    array = raw_text(b"ab\xffcd", [0, 2, 3, 5])

    with pytest.raises(InvalidSampleError, match="'x' has text that is not valid UTF-8"):
        one(array)
    assert one(array[:1]) == one(pa.array(["ab"]))
    assert one(array[2:]) == one(pa.array(["cd"]))
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), array)
    assert one(nested[2:]) == one(pa.array([["cd"]]))
    with pytest.raises(InvalidSampleError, match=r"'x\[\]'"):
        one(nested[1:])


@pytest.mark.parametrize(
    "array",
    [
        raw_text(b"abc", [2, 0, 3]),
        raw_list([0, 5, -5, 1], pa.list_(pa.int8()), pa.array([1], pa.int8())),
        raw_list(
            [0, 5, -5, 1], pa.map_(pa.int8(), pa.int8()),
            pa.StructArray.from_arrays([pa.array([1], pa.int8())] * 2, fields=[
                pa.field("key", pa.int8(), nullable=False), pa.field("value", pa.int8())]),
        ),
        pa.ListViewArray.from_arrays(pa.array([0], pa.int32()), pa.array([7], pa.int32()), pa.array([1], pa.int8())),
        pa.DictionaryArray.from_arrays(pa.array([5], pa.int8()), pa.array(["a"]), safe=False),
        pa.DictionaryArray.from_arrays(pa.array([-1], pa.int8()), pa.array(["a"]), safe=False),
    ],
    ids=["order", "list order", "map order", "view", "index", "negative index"],
)  # fmt: skip
def test_an_array_that_points_outside_its_buffers_is_refused(array: pa.Array) -> None:
    with pytest.raises(InvalidSampleError, match="'x"):
        one(array)


@pytest.mark.parametrize(
    ("array", "honest", "lie"),
    [
        (pa.array(["a" * 0x123, "b" * 0x333]), (0x123, 0x456), (0x123, 0x7FFFFFF)),
        (pa.RunEndEncodedArray.from_arrays(pa.array([3, 0x1234], pa.int32()), [1, 2]), (3, 0x1234), (0x1235, 0x1234)),
    ],
    ids=["text", "runs"],
)
def test_an_ipc_file_whose_offsets_lie_is_refused(
    array: pa.Array, honest: tuple[int, int], lie: tuple[int, int]
) -> None:
    file = io.BytesIO()
    batch = pa.record_batch({"x": array})
    with pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)
    raw = file.getvalue()
    at = raw.rindex(struct.pack("<ii", *honest))

    read = pa.ipc.open_stream(raw[:at] + struct.pack("<ii", *lie) + raw[at + 8 :]).read_next_batch()

    with pytest.raises(InvalidSampleError, match="'x' is not a valid Arrow array"):
        sample_digests(read)


def test_a_date64_that_is_not_a_whole_day_is_refused() -> None:
    array = pa.array([86_400_000, 1], pa.int64()).view(pa.date64())

    assert one(array[:1]) == one(pa.array([1], pa.int32()).cast(pa.date32()))
    with pytest.raises(InvalidSampleError, match="not a whole day"):
        one(array)
    with pytest.raises(InvalidSampleError, match="whole day"):
        sample_digest_of({"x": 1}, pa.schema([("x", pa.date64())]))


def test_an_encoding_that_pyarrow_cannot_take_apart_is_refused_by_name() -> None:
    views = pa.array([{"a": "x"}], pa.struct([("a", pa.string_view())]))
    array = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), views)
    try:
        views.take([0])
    except pa.ArrowNotImplementedError:
        with pytest.raises(MissingColumnError, match="'x'"):
            one(array)
    else:  # a pyarrow that can: then it must be right
        assert one(array) == one(pa.array([{"a": "x"}]))


def test_wrappers_without_end_are_refused() -> None:
    kind = pa.int8()
    for _ in range(MAX_DEPTH):
        kind = pa.dictionary(pa.int8(), kind)

    with pytest.raises(HostileDataError, match="wraps others"):
        schema_id(pa.schema([("x", kind)]))


def test_a_field_name_that_is_not_utf8_is_refused() -> None:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, pa.schema([("nnnn", pa.int8())])):
        pass

    schema = pa.ipc.open_stream(file.getvalue().replace(b"nnnn", b"nn\xffn")).schema

    with pytest.raises(InvalidSampleError, match="not valid UTF-8"):
        schema_id(schema)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int8(), 128), (pa.uint8(), -1), (pa.int8(), True), (pa.int8(), 1.0), (pa.bool_(), 1), (pa.null(), 0),
        (pa.float32(), 1e39), (pa.float64(), 10**5000), (pa.int64(), 10**5000),
        (pa.decimal128(3, 1), decimal.Decimal(10**5000)),
        (pa.string(), 10**5000), (pa.float64(), "1"), (pa.float64(), True), (pa.string(), b"a"),
        (pa.string(), "\ud800"), (pa.binary(), "a"), (pa.binary(2), b"a"), (pa.list_(pa.int8()), "ab"),
        (pa.list_(pa.int8()), 3), (pa.list_(pa.int8(), 2), [1]), (pa.struct([("a", pa.int8())]), [1]),
        (pa.struct([("a", pa.int8())]), {"b": 1}), (pa.map_(pa.string(), pa.int8()), ["ab"]),
        (pa.map_(pa.string(), pa.int8()), 7), (pa.decimal128(3, 1), decimal.Decimal("0.25")),
        (pa.decimal128(3, 1), decimal.Decimal(100)), (pa.decimal128(3, 1), decimal.Decimal("NaN")),
        (pa.decimal128(3, 1), 1.5), (pa.decimal128(3, 1), decimal.Decimal("1E+999999")),
        (pa.decimal128(3, 1), decimal.Decimal("1E-999999")), (pa.date32(), dt.datetime(2026, 1, 1)),
        (pa.date32(), "2026-01-01"), (pa.time64("us"), dt.time(tzinfo=dt.UTC)), (pa.time32("s"), dt.time(1, 1, 1, 1)),
        (pa.timestamp("us"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)), (pa.timestamp("s"), "now"),
        (pa.timestamp("us", tz="UTC"), dt.datetime(2026, 1, 1)), (pa.timestamp("s"), True),
        (pa.duration("s"), dt.timedelta(milliseconds=1)), (pa.date32(), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, int | decimal.Decimal) else str(value),
)  # fmt: skip
def test_a_value_that_is_not_of_its_fields_type_is_refused(kind: pa.DataType, value: object) -> None:
    with pytest.raises(InvalidSampleError, match="'x'") as refusal:
        sample_digest_of({"x": value}, pa.schema([("x", kind)]))

    assert isinstance(refusal.value, MillcertError)
    assert len(str(refusal.value)) < 300


def test_a_field_that_the_schema_has_not_is_refused_and_a_missing_one_is_null() -> None:
    schema = pa.schema([("a", pa.int8()), ("b", pa.int8())])

    assert sample_digest_of({"a": 1}, schema) == sample_digest_of({"b": None, "a": 1}, schema)
    with pytest.raises(InvalidSampleError, match="'c'"):
        sample_digest_of({"a": 1, "c": 2}, schema)


def test_a_map_may_be_given_as_a_mapping_and_keeps_its_order() -> None:
    schema = pa.schema([("m", pa.map_(pa.string(), pa.int8()))])

    assert sample_digest_of({"m": {"a": 1, "b": 2}}, schema) == sample_digest_of({"m": [("a", 1), ("b", 2)]}, schema)
    assert sample_digest_of({"m": {"b": 2, "a": 1}}, schema) != sample_digest_of({"m": {"a": 1, "b": 2}}, schema)


def test_decimals_of_every_width_and_of_zero_are_one_value() -> None:
    kinds = [pa.decimal32(9, 2), pa.decimal64(9, 2), pa.decimal128(9, 2), pa.decimal256(9, 2)]
    values = [decimal.Decimal("-1.50"), decimal.Decimal(0), None, decimal.Decimal("9999999.99")]

    digests = {tuple(hexes(pa.record_batch({"x": pa.array(values, kind)}))) for kind in kinds}
    spelled = [decimal.Decimal("-1.5"), decimal.Decimal("0E+50"), None, decimal.Decimal("999999999E-2")]

    assert digests == {tuple(sample_digest_of({"x": v}, pa.schema([("x", kinds[0])])).hex() for v in spelled)}


def test_runs_are_expanded() -> None:
    array = pa.array([1, 1, None, 2])

    assert hexes(pa.record_batch({"x": pc.run_end_encode(array)})) == hexes(pa.record_batch({"x": array}))


def test_the_example_of_the_format_page_is_a_vector() -> None:
    root = Path(__file__).parent.parent
    vector = json.loads((root / "vectors/0.1.0/sample-digest/flat.json").read_text())
    page = (root.parent / "docs/formats/sample-digest.md").read_text()
    example = page[page.index("## 9. Example") : page.index("## 10. Vectors")]

    hex_words = "".join(re.findall(r"^  ([0-9a-f ]+?)(?:   .*)?$", example, re.MULTILINE)).replace(" ", "")
    fields = "".join(
        re.sub(r"[^0-9a-f]", "", line.split('"')[0]) for line in re.findall(r'^     (.*".*)$', example, re.MULTILINE)
    )

    assert vector["schema_id"] in hex_words
    assert vector["sample_digest"] in hex_words
    assert vector["encoding"] in hex_words
    assert vector["schema_encoding"] == "160400000000000000" + fields
