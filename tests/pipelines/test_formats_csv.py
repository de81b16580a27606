"""CSV: where records end, what a field means, and what is said of records that break the rules."""

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import HostileDataError, UsageError
from millcert.pipelines.formats import Decoded, Malformed, ReadLimits, decode, read_schema

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])


def read(data: bytes, schema: pa.Schema = SCHEMA, limits: ReadLimits | None = None) -> list[Decoded]:
    return list(decode("csv", io.BytesIO(data), schema, limits or ReadLimits(), name="f.csv"))


def values_of(batches: list[Decoded]) -> list[tuple[object, ...]]:
    return [
        (row, *record.values())
        for each in batches
        for row, record in zip(each.rows.tolist(), each.batch.to_pylist(), strict=True)
    ]


def bad_of(batches: list[Decoded]) -> list[Malformed]:
    return [bad for each in batches for bad in each.malformed]


def inferred(data: bytes) -> pa.Schema:
    return read_schema("csv", io.BytesIO(data), ReadLimits(), name="f.csv").schema


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"1", "csv.column_count"),
        (b"1,2,3", "csv.column_count"),
        (b'1,5" nail', "csv.quote"),
        (b'1,"x"y', "csv.quote"),
        (b'1," x" ', "csv.quote"),
        (b"1,a\rb", "csv.quote"),
        (b"x,2", "csv.type"),
        (b"1.0,2", "csv.type"),
        (b"9223372036854775808,2", "csv.type"),
        (b"1,\xff", "utf8.invalid"),
    ],
)
@pytest.mark.parametrize("max_batch_rows", [1, 100])
def test_a_bad_record_is_put_aside_with_its_reason_row_line_and_offset(
    record: bytes, reason: str, max_batch_rows: int
) -> None:
    data = b'a,b\r\n7,"x\r\ny"\r\n\r\n' + record + b"\r\n8,z\r\n"
    got = read(data, limits=ReadLimits(max_batch_rows=max_batch_rows))
    assert values_of(got) == [(0, 7, "x\r\ny"), (2, 8, "z")]
    (bad,) = bad_of(got)
    assert (bad.row, bad.line, bad.byte_offset, bad.reason) == (1, 5, 17, reason)


def test_a_quote_that_never_closes_costs_one_record_where_the_file_is_small() -> None:
    got = read(b'a,b\n1,"open\n2,x\n3,y\n')
    assert values_of(got) == [(1, 2, "x"), (2, 3, "y")]
    assert [(bad.row, bad.line, bad.reason) for bad in bad_of(got)] == [(0, 2, "csv.quote")]


def test_an_empty_field_is_null_and_a_quoted_one_empty_text() -> None:
    assert values_of(read(b'a,b\n,\n1,""\n"2",x')) == [(0, None, None), (1, 1, ""), (2, 2, "x")]


def test_a_column_that_the_file_lacks_is_null_and_one_that_the_schema_lacks_is_refused() -> None:
    schema = pa.schema([("b", pa.string()), ("c", pa.float64()), ("a", pa.int64())])
    assert values_of(read(b"a,b\n1,x\n", schema)) == [(0, "x", None, 1)]
    with pytest.raises(UsageError, match="no column 'z'"):
        read(b"a,z\n1,x\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no header"),
        (b"\n\n", "no header"),
        (b"a,a\n", "'a' twice"),
        (b"a,\n", "without a name"),
        (b'a,"b\n', "malformed header"),
        (b"a,b" + b"x" * 100_000 + b"\n", "malformed header"),
    ],
)
def test_a_wrong_header_is_refused(data: bytes, message: str) -> None:
    limits = ReadLimits(max_metadata_bytes=50_000)
    with pytest.raises(UsageError, match=message):
        read(data, limits=limits)
    with pytest.raises(UsageError, match=message):
        read_schema("csv", io.BytesIO(data), limits)


def test_a_header_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(HostileDataError, match=r"f\.csv"):
        read(b"a,\xff\n1,2\n")


def test_a_byte_order_mark_is_not_part_of_the_first_name() -> None:
    assert inferred(b"\xef\xbb\xbfa,b\n1,x\n").names == ["a", "b"]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.binary(), pa.struct([("x", pa.int64())]), pa.time32("s")])
def test_a_type_without_an_agreed_form_in_csv_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(UsageError, match="no agreed form"):
        read(b"a\n1\n", pa.schema([("a", kind)]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", ""], pa.int64()),
        (["1", "2.5", "1e3"], pa.float64()),
        (["true", "False"], pa.bool_()),
        (["", ""], pa.null()),
        (["1", "x"], pa.string()),
        (["1", "true"], pa.string()),
        (["007"], pa.string()),
        (["+1"], pa.string()),
        ([" 1"], pa.string()),
        (["99999999999999999999"], pa.string()),
        (["1e999", "1"], pa.string()),
        (["nan"], pa.string()),
        (["2024-01-01"], pa.string()),
    ],
)
def test_a_column_has_the_least_type_that_takes_all_its_values(values: list[str], expected: pa.DataType) -> None:
    data = "a,b\n" + "".join(f"{value},x\n" for value in values)
    for _ in range(2):
        assert inferred(data.encode()).field("a").type == expected
        values.reverse()
        data = "a,b\n" + "".join(f"{value},x\n" for value in values)


def test_typed_columns_are_read() -> None:
    schema = pa.schema(
        [("d", pa.date32()), ("t", pa.timestamp("s")), ("p", pa.decimal128(6, 2)), ("k", pa.bool_()), ("u", pa.uint8())]
    )
    (got,) = read(b"d,t,p,k,u\n2024-02-29,2024-02-29 12:00:00,1.25,True,255\n,,,,\n2024-02-30,,,,\n,,,,256\n", schema)
    assert got.rows.tolist() == [0, 1]
    assert [bad.reason for bad in got.malformed] == ["csv.type", "csv.type"]
    assert "'d'" in got.malformed[0].detail
    assert "'u'" in got.malformed[1].detail


fields = st.text(st.sampled_from('ab,"\n\r é'), max_size=6)


@given(
    st.lists(st.tuples(fields, fields), max_size=20),
    st.integers(1, 8),
    st.integers(1, 200),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=150, deadline=None)
def test_what_a_strict_writer_writes_is_read_whatever_the_limits(
    records: list[tuple[str, str]], max_batch_rows: int, max_batch_bytes: int, line_end: str
) -> None:
    """RFC 4180 with every field quoted; rule 1 of base.py."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator=line_end)
    writer.writerows([("a", "b"), *records])
    text = pa.schema([("a", pa.string()), ("b", pa.string())])
    limits = ReadLimits(max_batch_rows=max_batch_rows, max_batch_bytes=max_batch_bytes)
    got = read(sink.getvalue().encode(), text, limits)
    assert bad_of(got) == []
    assert values_of(got) == [(i, *record) for i, record in enumerate(records)]


noise = st.lists(st.sampled_from([b'"', b",", b"\n", b"\r\n", b"\r", b"x", b"1", b"\xff", b'""']), max_size=30)


@given(noise.map(b"".join), st.integers(1, 4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_the_same_records_whatever_the_batches(body: bytes, max_batch_rows: int, is_long: bool) -> None:
    """Rules 1 and 2 of base.py: the verdict on a record does not depend on how records are batched."""
    # A long first record moves the rest over the border of a block.
    head = b"a,b\n" + (b"1," + b"y" * 4085 + b"\n" if is_long else b"")
    whole = read(head + body)
    parts = read(head + body, limits=ReadLimits(max_batch_rows=max_batch_rows, max_batch_bytes=1))
    assert values_of(parts) == values_of(whole)
    assert bad_of(parts) == bad_of(whole)
    rows = sorted([row for each in whole for row in [*each.rows.tolist(), *(bad.row for bad in each.malformed)]])
    assert rows == list(range(len(rows)))


def test_records_above_the_limit_are_put_aside_one_by_one() -> None:
    data = b"a,b\n1,x\n2," + b"y" * 9000 + b"\n3,z\n4," + b"y" * 200 + b"\n5,z\n"
    got = read(data, limits=ReadLimits(max_record_bytes=100, max_batch_bytes=4096))
    assert values_of(got) == [(0, 1, "x"), (2, 3, "z"), (4, 5, "z")]
    assert [(bad.row, bad.line, bad.byte_offset, bad.reason) for bad in bad_of(got)] == [
        (1, 3, 8, "record.too_large"),
        (3, 5, 9015, "record.too_large"),
    ]
