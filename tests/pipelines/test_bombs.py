"""Small files that decode to much more are refused, within bounded memory."""

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from millcert.errors import HostileDataError, MillcertError, UsageError
from millcert.pipelines.formats import Decoded, ReadLimits, decode, read_schema

MIB = 1 << 20
#: Tight, so that the tests need little; the ratios are those of the defaults.
TIGHT = ReadLimits(
    max_batch_bytes=MIB,
    max_record_bytes=2 * MIB,
    max_block_bytes=16 * MIB,
    decoded_floor_bytes=32 * MIB,
    max_metadata_bytes=MIB,
)


#: Buffers point to the pool that they came from, so no pool may go before the process does.
POOLS: list[pa.MemoryPool] = []


@contextmanager
def bounded_memory(limit_bytes: int = 100 * MIB) -> Iterator[None]:
    """Count what is allocated within, in Arrow's own pool and in Python (NumPy's arrays included)."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield
    finally:
        peak_bytes = pool.max_memory() + tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert peak_bytes < limit_bytes, f"{peak_bytes / MIB:.0f} MiB, {pool.max_memory()} in Arrow"


@pytest.fixture
def peak() -> Iterator[None]:
    """Bound what the whole test allocates."""
    with bounded_memory():
        yield


def drain(fmt: str, data: bytes, schema: pa.Schema, limits: ReadLimits = TIGHT) -> int:
    rows = 0
    for decoded in decode(fmt, io.BytesIO(data), schema, limits):
        assert decoded.batch.nbytes <= limits.max_batch_bytes + limits.max_record_bytes
        rows += len(decoded.rows)
    return rows


def parquet_bytes(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def dictionary_bomb(*, entry_bytes: int, rows: int) -> bytes:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), ["x" * entry_bytes])
    return parquet_bytes(pa.table({"text": column}), compression="zstd")


def test_a_parquet_dictionary_that_decodes_to_a_gigabyte_is_refused(peak: None) -> None:
    """The 787-byte bomb: one long dictionary entry, pointed at from every row."""
    data = dictionary_bomb(entry_bytes=MIB, rows=1000)
    assert len(data) < 1000
    with pytest.raises(HostileDataError, match="decodes to more than"):
        drain("parquet", data, pa.schema([("text", pa.string())]))


def test_the_default_limits_refuse_the_gigabyte_dictionary_too(peak: None) -> None:
    data = dictionary_bomb(entry_bytes=MIB, rows=1000)
    with pytest.raises(HostileDataError, match="decodes to more than"):
        drain("parquet", data, pa.schema([("text", pa.string())]), ReadLimits())


def test_parquet_runs_that_decode_to_a_gigabyte_are_refused(peak: None) -> None:
    """Run-length encoded indices: 8 bytes a row from none in the file."""
    part = pa.table({"n": np.zeros(2_000_000, dtype=np.int64)})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, part.schema, compression="zstd") as writer:
        for _ in range(5):
            writer.write_table(part, row_group_size=2_000_000)
    assert len(sink.getvalue()) < 50_000
    with pytest.raises(HostileDataError, match="decodes to more than"):
        drain("parquet", sink.getvalue(), part.schema)


def test_one_parquet_row_that_holds_a_gigabyte_is_refused_before_it_is_decoded(peak: None) -> None:
    """A row may span pages; its length is found from the repetition levels."""
    items = pa.array(np.zeros(6_000_000, dtype=np.int64))
    column = pa.ListArray.from_arrays(pa.array([0, 1, 5_999_999, 6_000_000], pa.int32()), items)
    for page_version in ("1.0", "2.0"):
        data = parquet_bytes(pa.table({"n": column}), compression="zstd", data_page_version=page_version)
        with pytest.raises(HostileDataError, match="decoded at once"):
            drain("parquet", data, pa.schema([("n", pa.list_(pa.field("item", pa.int64())))]))


def test_a_parquet_page_that_decompresses_to_too_much_is_refused(peak: None) -> None:
    data = parquet_bytes(
        pa.table({"text": ["x" * 20 * MIB]}), compression="zstd", use_dictionary=False, data_page_size=1 << 30
    )
    assert len(data) < 100_000
    with pytest.raises(HostileDataError, match=r"more than|decoded at once"):
        drain("parquet", data, pa.schema([("text", pa.string())]))


def test_a_parquet_row_above_the_limit_is_put_aside_and_the_rest_is_read() -> None:
    table = pa.table({"text": ["a", "x" * 3 * MIB, "b"]})
    got = list(decode("parquet", io.BytesIO(parquet_bytes(table)), table.schema, TIGHT))
    assert [row for each in got for row in each.rows.tolist()] == [0, 2]
    assert [(m.row, m.reason) for each in got for m in each.malformed] == [(1, "record.too_large")]


def replace_once(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    return data.replace(old, new)


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def test_a_footer_that_lies_about_its_values_is_refused() -> None:
    """Column metadata says 5,000 values where the pages hold 4,000; sizes in a footer are claims."""
    data = parquet_bytes(pa.table({"n": np.arange(4000)}), use_dictionary=False, compression="none")
    start = data.rindex(b"schema") - 60
    lying = data[:start] + replace_once(data[start:], varint(2 * 4000), varint(2 * 5000))
    with pytest.raises(HostileDataError):
        drain("parquet", lying, pa.schema([("n", pa.int64())]))


def test_a_dictionary_page_that_claims_billions_of_entries_is_refused(peak: None) -> None:
    data = parquet_bytes(pa.table({"text": ["a", "b"] * 10}), compression="none")
    # The page's header: field 7 (dictionary header) holds field 1 = 2 entries (zigzag 4), field 2 = PLAIN.
    lying = replace_once(data, b"\x4c\x15\x04\x15\x00", b"\x4c\x15" + varint(2 * (2**31 - 1)) + b"\x15\x00")
    with pytest.raises(HostileDataError):
        drain("parquet", lying, pa.schema([("text", pa.string())]))


def test_a_schema_nested_without_end_is_refused_before_the_library_recurses() -> None:
    element = b"\x35\x00\x18\x01a\x15\x02\x00"  # a required group named "a" with one child
    depth = 100_000
    leaf = b"\x15\x02\x25\x00\x18\x01z\x00"
    root = b"\x48\x01r\x15\x02\x00"
    schema = b"\x15\x02\x19\xfc" + varint(depth + 2) + root + element * depth + leaf
    footer = schema + b"\x16\x00\x19\x0c\x00"
    data = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(HostileDataError, match="nested"):
        read_schema("parquet", io.BytesIO(data), ReadLimits())


def test_a_footer_above_the_limit_is_refused() -> None:
    data = b"PAR1" + b"\x00" * (2 * MIB) + (2 * MIB).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(HostileDataError, match="footer claims"):
        read_schema("parquet", io.BytesIO(data), TIGHT)


@pytest.mark.parametrize("opener", [pa.ipc.new_file, pa.ipc.new_stream])
def test_a_compressed_arrow_batch_that_decodes_to_too_much_is_refused(
    peak: None, opener: Callable[..., pa.ipc.RecordBatchStreamWriter]
) -> None:
    batch = pa.record_batch({"n": np.zeros(20 * MIB // 8, dtype=np.int64)})
    sink = io.BytesIO()
    with opener(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    assert len(sink.getvalue()) < 10_000
    with pytest.raises(HostileDataError, match="at once"):
        drain("arrow", sink.getvalue(), batch.schema)


def test_a_compressed_arrow_buffer_that_claims_an_exabyte_is_refused(peak: None) -> None:
    batch = pa.record_batch({"n": np.zeros(1000, dtype=np.int64)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    lying = replace_once(sink.getvalue(), (8000).to_bytes(8, "little"), (1 << 60).to_bytes(8, "little"))
    with pytest.raises(HostileDataError, match="at once"):
        drain("arrow", lying, batch.schema)


def test_an_arrow_dictionary_that_decodes_to_a_gigabyte_is_refused(peak: None) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, dtype=np.int8)), ["x" * MIB])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("text", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], names=["text"]))
    with pytest.raises(HostileDataError, match="decodes to more than"):
        drain("arrow", sink.getvalue(), pa.schema([("text", pa.string())]))


def test_arrow_views_of_one_long_text_are_refused(peak: None) -> None:
    view = MIB.to_bytes(4, "little") + b"xxxx" + bytes(8)
    buffers = [None, pa.py_buffer(view * 1000), pa.py_buffer(b"x" * MIB)]
    views = pa.Array.from_buffers(pa.string_view(), 1000, buffers)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("text", pa.string_view())])) as writer:
        writer.write_batch(pa.record_batch([views], names=["text"]))
    assert len(sink.getvalue()) < 2 * MIB
    with pytest.raises(HostileDataError, match="decodes to more than"):
        drain("arrow", sink.getvalue(), pa.schema([("text", pa.string())]))


def test_arrow_nulls_without_bytes_are_counted_and_not_made() -> None:
    """A null column has no buffers, so its length is free: a few hundred bytes claim any number of rows."""
    batch = pa.RecordBatch.from_arrays([pa.nulls(1 << 26)], names=["n"])
    wide = pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.nulls(1 << 26), 1 << 25)], names=["n"])
    many = pa.record_batch([pa.ListArray.from_arrays(pa.array([0, 1 << 26], pa.int32()), pa.nulls(1 << 26))], ["n"])
    for each in (batch, wide, many):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, each.schema) as writer:
            writer.write_batch(each)
        assert len(sink.getvalue()) < 10_000
        schema = read_schema("arrow", io.BytesIO(sink.getvalue()), TIGHT).schema
        reasons: set[str] = set()
        with bounded_memory():
            try:
                for decoded in decode("arrow", io.BytesIO(sink.getvalue()), schema, TIGHT):
                    reasons |= {bad.reason for bad in decoded.malformed}
            except HostileDataError:
                reasons.add("decodes to too much")
        assert len(reasons) == 1
        assert reasons <= {"record.too_large", "decodes to too much"}


@pytest.mark.parametrize("fmt", ["jsonl", "csv"])
def test_a_gzip_bomb_is_refused(fmt: str) -> None:
    line = b'{"text": "' + b"x" * 1000 + b'"}\n' if fmt == "jsonl" else b"x" * 1000 + b"\n"
    head = b"" if fmt == "jsonl" else b"text\n"
    packed = gzip.compress(head + line * 60_000, 9)
    assert len(packed) < 200_000
    schema = pa.schema([("text", pa.string())])
    for read in (lambda: drain(fmt, packed, schema), lambda: read_schema(fmt, io.BytesIO(packed), TIGHT)):
        with bounded_memory(20 * MIB), pytest.raises(HostileDataError, match="decodes to more than"):
            read()


def test_a_line_without_end_costs_no_more_than_the_limit(peak: None) -> None:
    """A line above max_record_bytes is counted, not held; the records around it are read."""
    data = b'{"a": 1}\n{"a": "' + b"x" * (30 * MIB) + b'"}\n{"a": 3}\n'
    got = list(decode("jsonl", io.BytesIO(data), pa.schema([("a", pa.int64())]), TIGHT))
    assert [row for each in got for row in each.rows.tolist()] == [0, 2]
    (bad,) = [m for each in got for m in each.malformed]
    assert (bad.row, bad.line, bad.byte_offset, bad.reason) == (1, 2, 9, "record.too_large")


def test_deeply_nested_json_is_malformed_and_not_followed(peak: None) -> None:
    schema = pa.schema([("a", pa.list_(pa.field("item", pa.int64())))])
    data = b'{"a": [1]}\n{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b'}\n{"b": ' + b'{"c":' * 50_000 + b"\n"
    got = list(decode("jsonl", io.BytesIO(data), schema, TIGHT))
    assert [(m.row, m.reason) for each in got for m in each.malformed] == [(1, "json.nesting"), (2, "json.nesting")]


def test_a_type_nested_deeper_than_the_limit_is_refused_in_inference() -> None:
    data = b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}\n"
    with pytest.raises(UsageError, match="nested deeper"):
        read_schema("jsonl", io.BytesIO(data), TIGHT)


def test_records_that_name_ever_new_keys_are_refused(peak: None) -> None:
    data = b"".join(json.dumps({f"k{i}": 1}).encode() + b"\n" for i in range(5000))
    with pytest.raises(UsageError, match="columns"):
        read_schema("jsonl", io.BytesIO(data), ReadLimits(max_columns=100))


def test_empty_records_of_a_wide_schema_are_cut_by_their_decoded_size(peak: None) -> None:
    """Three bytes a record, 9,000 decoded: rows at once follow from the schema's width."""
    schema = pa.schema([(f"c{i}", pa.int64()) for i in range(1000)])
    small = replace(TIGHT, decoded_floor_bytes=8 * MIB)
    with pytest.raises(HostileDataError, match="decodes to more than"):
        drain("jsonl", b"{}\n" * 2000, schema, small)
    with pytest.raises(HostileDataError, match="decodes to more than"):
        drain("csv", b"c0,c1\n" + b",\n" * 2000, schema, small)


def test_list_items_of_a_wide_struct_are_cut_by_their_decoded_size(peak: None) -> None:
    item = pa.struct([pa.field(f"c{i}", pa.int64()) for i in range(1000)])
    schema = pa.schema([("a", pa.list_(pa.field("item", item)))])
    line = b'{"a": [' + b",".join([b"{}"] * 100_000) + b"]}\n"
    got = list(decode("jsonl", io.BytesIO(line), schema, TIGHT))
    assert [m.reason for each in got for m in each.malformed] == ["record.too_large"]


def test_a_huge_number_of_columns_is_refused() -> None:
    names = [f"c{i}" for i in range(300)]
    limits = ReadLimits(max_columns=200)
    table = pa.table({name: [1] for name in names})
    csv_sink, arrow_sink = io.BytesIO(), io.BytesIO()
    pcsv.write_csv(table, csv_sink)
    with pa.ipc.new_stream(arrow_sink, table.schema) as writer:
        writer.write_table(table)
    files = {
        "parquet": parquet_bytes(table),
        "csv": csv_sink.getvalue(),
        "arrow": arrow_sink.getvalue(),
        "jsonl": json.dumps(dict.fromkeys(names, 1)).encode(),
    }
    for fmt, data in files.items():
        with pytest.raises(MillcertError, match="columns"):
            read_schema(fmt, io.BytesIO(data), limits)


def test_a_csv_field_without_end_costs_no_more_than_the_limit(peak: None) -> None:
    """A quote that never closes swallows at most max_record_bytes; the header before it stands."""
    data = b'a,b\n1,x\n2,"' + b"line\n" * (6 * MIB) + b"3,y\n"
    got: list[Decoded] = []
    for each in decode("csv", io.BytesIO(data), pa.schema([("a", pa.int64()), ("b", pa.string())]), TIGHT):
        got.append(each)
        if any(m.reason == "record.too_large" for m in each.malformed):
            break
    assert got[0].rows.tolist() == [0]
    bad = next(each for batch in got for each in batch.malformed)
    assert (bad.row, bad.line) == (1, 3)


def test_whole_numbers_of_a_million_digits_are_not_converted(peak: None) -> None:
    data = b'{"a": ' + b"9" * 1_000_000 + b"}\n"
    (got,) = decode("jsonl", io.BytesIO(data), pa.schema([("a", pa.int64())]), TIGHT)
    assert [m.reason for m in got.malformed] == ["json.number"]
