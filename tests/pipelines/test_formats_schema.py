"""One schema for a data set: merged from files, and written in a policy's schema file."""

import io

import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import HostileDataError, PolicyError, UsageError
from millcert.pipelines.formats import (
    ReadLimits,
    SchemaFacts,
    decode,
    detect_format,
    merge_schemas,
    read_schema,
    schema_from_json,
    schema_to_json,
)
from millcert.pipelines.formats.schema import type_from_text, type_to_text


def typed(**fields: pa.DataType) -> SchemaFacts:
    return SchemaFacts(pa.schema(list(fields.items())), is_inferred=False)


def found(**fields: pa.DataType) -> SchemaFacts:
    return SchemaFacts(pa.schema(list(fields.items())), is_inferred=True)


def text(**fields: pa.DataType) -> SchemaFacts:
    return SchemaFacts(pa.schema(list(fields.items())), is_inferred=True, is_all_text=True)


INNER = pa.struct([("x", pa.int64()), ("y", pa.string())])
TURNED = pa.struct([("y", pa.string()), ("x", pa.int64())])


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([typed(a=pa.int64(), b=INNER), typed(b=TURNED, a=pa.int64())], typed(a=pa.int64(), b=INNER)),
        ([found(a=pa.int64()), found(b=pa.null()), found(a=pa.float64())], found(a=pa.float64(), b=pa.null())),
        ([text(a=pa.int64()), text(a=pa.bool_())], text(a=pa.string())),
        ([typed(a=pa.decimal128(9, 2)), found(a=pa.float64())], typed(a=pa.decimal128(9, 2))),
        ([typed(a=pa.uint8(), b=pa.string()), found(a=pa.int64())], typed(a=pa.uint8(), b=pa.string())),
        ([typed(a=pa.string()), text(a=pa.int64())], typed(a=pa.string())),
        ([typed(a=pa.date32()), found(a=pa.string())], typed(a=pa.date32())),
        ([typed(a=pa.timestamp("s")), found(a=pa.string())], typed(a=pa.timestamp("s"))),
        ([found(a=pa.list_(pa.float64())), typed(a=pa.list_(pa.float32(), 4))], typed(a=pa.list_(pa.float32(), 4))),
        ([typed(a=INNER), found(a=pa.struct([("y", pa.string())]))], typed(a=INNER)),
        ([typed(a=pa.bool_()), found(a=pa.null())], typed(a=pa.bool_())),
    ],
)  # fmt: skip
def test_schemas_that_agree_are_merged(facts: list[SchemaFacts], expected: SchemaFacts) -> None:
    assert merge_schemas([(f"{i}.x", each) for i, each in enumerate(facts)]).equals(expected.schema)


@pytest.mark.parametrize(
    "facts",
    [
        [typed(a=pa.int64()), typed(a=pa.int32())],
        [typed(a=pa.int64()), typed(a=pa.int64(), b=pa.int64())],
        [typed(a=pa.int64(), b=pa.int64()), typed(a=pa.int64())],
        [typed(a=INNER), typed(a=pa.struct([("x", pa.int64())]))],
        [typed(a=pa.list_(pa.int64(), 2)), typed(a=pa.list_(pa.int64(), 3))],
        [typed(a=pa.list_(pa.int64())), typed(a=pa.list_(pa.string()))],
        [found(a=pa.int64()), found(a=pa.string())],
        [found(a=pa.list_(pa.int64())), found(a=pa.list_(pa.string()))],
        [found(a=pa.int64()), text(a=pa.string())],
        [typed(a=pa.string()), found(a=pa.int64())],
        [typed(a=pa.int64()), found(a=pa.float64())],
        [typed(a=pa.int64()), found(z=pa.int64())],
        [typed(a=pa.int64()), found(a=pa.list_(pa.int64()))],
        [typed(a=pa.int64()), found(a=pa.struct([("x", pa.int64())]))],
        [typed(a=INNER), found(a=pa.struct([("q", pa.int64())]))],
    ],
)
def test_schemas_that_disagree_are_refused_with_both_files_and_the_field(facts: list[SchemaFacts]) -> None:
    with pytest.raises(UsageError, match=r"0\.x and 1\.x disagree on the column '(a|b|z)"):
        merge_schemas([(f"{i}.x", each) for i, each in enumerate(facts)])


def test_no_file_has_no_schema() -> None:
    with pytest.raises(UsageError, match="no file"):
        merge_schemas([])


plain = st.sampled_from(
    [
        *(pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float32(), pa.float64(), pa.string(), pa.binary()),
        *(pa.date32(), pa.date64(), pa.time32("ms"), pa.time64("ns"), pa.timestamp("us"), pa.duration("s")),
        *(pa.timestamp("ns", "Europe/Zurich"), pa.decimal128(38, -3), pa.decimal256(76, 10), pa.binary(16)),
    ]
)
types = st.recursive(
    plain,
    lambda inner: st.one_of(
        inner.map(lambda kind: pa.list_(pa.field("item", kind))),
        st.tuples(inner, st.integers(0, 9)).map(lambda pair: pa.list_(pa.field("item", pair[0]), pair[1])),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(lambda each: pa.struct(list(each.items()))),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=4), types, min_size=1, max_size=4))
def test_a_schema_survives_its_text(fields: dict[str, pa.DataType]) -> None:
    """schema_from_json is the inverse of schema_to_json, which gives one text for one schema."""
    schema = schema_from_json(schema_to_json(pa.schema([*fields.items(), ("not empty", pa.int8())])))
    schema = schema.remove(len(fields))
    assert schema.equals(pa.schema(list(fields.items())))
    assert schema_to_json(schema) == schema_to_json(pa.schema(list(fields.items())))


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("struct<a: int64, b: list< string >>", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
        (" fixed_size_list<float32,384> ", pa.list_(pa.float32(), 384)),
        ('timestamp[us,"UTC"]', pa.timestamp("us", "UTC")),
        ("decimal128(10,2)", pa.decimal128(10, 2)),
    ],
)  # fmt: skip
def test_blanks_and_plain_names_are_understood(words: str, kind: pa.DataType) -> None:
    assert type_from_text(words) == kind
    assert type_from_text(type_to_text(kind)) == kind


@pytest.mark.parametrize(
    "words",
    [
        "", "int", "list", "list<int64", "list<int64>>", "list<>", "struct<a>", "struct<a: int64,>", "struct<a: int64",
        "timestamp", "timestamp[x]", "timestamp[us, UTC]", 'timestamp[us, ""]', "decimal128(99, 2)", "decimal128(5)",
        "fixed_size_binary[-1]", "fixed_size_list<int64, -1>", "time32[ns]", "int64 $",
        "list<" * 100 + "int64" + ">" * 100,
    ],
)  # fmt: skip
def test_a_type_that_is_not_understood_is_refused(words: str) -> None:
    with pytest.raises(PolicyError):
        type_from_text(words)


@pytest.mark.parametrize("data", ["", "[]", "{}", "[1]", '"int64"', '{"a": 1}', '{"a": "x"}', "[" * 100_000])
def test_a_schema_file_that_is_no_object_of_types_is_refused(data: str) -> None:
    with pytest.raises(PolicyError):
        schema_from_json(data)


def test_all_faults_of_a_schema_file_are_reported_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        schema_from_json('{"a": "int64", "a": "string", "b": 1, "c": "number"}')
    assert len(caught.value.details["faults"]) == 3  # type: ignore[arg-type]


def test_a_type_that_is_not_canonical_has_no_text() -> None:
    with pytest.raises(UsageError, match="not canonical"):
        type_to_text(pa.large_string())


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.PARQUET", b"PAR1xxxx", "parquet"),
        ("a.arrow", b"ARROW1\x00\x00", "arrow"),
        ("a.arrow", b"\xff\xff\xff\xff\x10", "arrow"),
        ("a.ndjson", b'{"a": 1}', "jsonl"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "jsonl"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfd", "csv"),
        ("a.csv", b"", "csv"),
    ],
)
def test_a_format_is_what_suffix_and_content_agree_on(name: str, head: bytes, expected: str) -> None:
    assert detect_format(name, head) == expected


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.txt", b"", UsageError),
        ("a.parquet.gz", b"\x1f\x8b", UsageError),
        ("a.csv", b"PAR1", HostileDataError),
        ("a.parquet", b"a,b\n", HostileDataError),
        ("a.arrow", b"PAR1", HostileDataError),
        ("a.jsonl.gz", b'{"a": 1}', HostileDataError),
        ("a.jsonl", b"\x1f\x8b", HostileDataError),
    ],
)
def test_a_suffix_that_content_denies_is_refused(name: str, head: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        detect_format(name, head)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3, 4]).cast(pa.int64()).dictionary_encode(),
        pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
        pa.RunEndEncodedArray.from_arrays([2], [1]),
        pa.array([[1]], pa.list_view(pa.int64())),
    ],
)
def test_only_types_that_can_be_bounded_are_read(column: pa.Array) -> None:
    sink = io.BytesIO()
    batch = pa.record_batch([column], names=["a"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    if pa.types.is_dictionary(column.type):
        assert read_schema("arrow", sink, ReadLimits()).schema.field("a").type == pa.int64()
        return
    with pytest.raises(UsageError, match="not read"):
        read_schema("arrow", sink, ReadLimits())


def test_a_file_of_another_schema_is_refused_when_it_is_decoded() -> None:
    sink = io.BytesIO()
    batch = pa.record_batch({"a": [1], "b": ["x"]})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    for other in (pa.schema([("a", pa.int64())]), pa.schema([("a", pa.string()), ("b", pa.string())])):
        with pytest.raises(UsageError, match="column"):
            list(decode("arrow", sink, other, ReadLimits()))


def test_two_columns_of_one_name_are_refused() -> None:
    sink = io.BytesIO()
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(UsageError, match="Two columns"):
        read_schema("arrow", sink, ReadLimits())


def test_an_unknown_format_and_a_limit_of_nothing_are_usage_errors() -> None:
    with pytest.raises(UsageError):
        read_schema("avro", io.BytesIO(), ReadLimits())
    with pytest.raises(UsageError):
        decode("avro", io.BytesIO(), pa.schema([]), ReadLimits())
    with pytest.raises(UsageError):
        ReadLimits(max_batch_rows=0)
