"""What is kept of a file is written in its own format, with its own bytes, types and metadata."""

import gzip
import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from millcert.errors import InternalError, UsageError
from millcert.pipelines.formats import Decoded, ReadLimits, decode, open_writer, read_schema

LIMITS = ReadLimits(max_batch_rows=3)


def copied(fmt: str, data: bytes, keep: Callable[[int], bool]) -> bytes:
    file, sink = io.BytesIO(data), io.BytesIO()
    schema = read_schema(fmt, file, LIMITS).schema
    with open_writer(fmt, sink, like=file) as writer:
        for each in decode(fmt, file, schema, LIMITS):
            writer.write(each.keep(np.array([keep(row) for row in each.rows.tolist()], dtype=bool)))
    return sink.getvalue()


def is_even(row: int) -> bool:
    return row % 2 == 0


TABLE = pa.table(
    {
        "d": pa.array(["a", "b", None, "a", "c", "b", "a"]).dictionary_encode(),
        "l": pa.array([[i] * i for i in range(7)], pa.large_list(pa.int16())),
        "t": pa.array([f"text {i}" for i in range(7)], pa.large_string()),
    }
).replace_schema_metadata({"huggingface": '{"info": {"features": {}}}'})


@pytest.mark.parametrize("compression", ["zstd", "none", "snappy"])
def test_parquet_keeps_its_schema_metadata_and_codec(compression: str) -> None:
    source = io.BytesIO()
    pq.write_table(TABLE, source, compression=compression)
    once, twice = (copied("parquet", source.getvalue(), is_even) for _ in range(2))
    result = pq.ParquetFile(io.BytesIO(once))
    assert once == twice
    assert result.schema_arrow.equals(pq.ParquetFile(source).schema_arrow, check_metadata=True)
    assert result.read().to_pylist() == TABLE.to_pylist()[::2]
    assert result.metadata.row_group(0).column(1).compression == (
        "UNCOMPRESSED" if compression == "none" else compression.upper()
    )


@pytest.mark.parametrize("opener", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
def test_arrow_keeps_its_container_schema_metadata_and_codec(
    opener: Callable[..., pa.ipc.RecordBatchStreamWriter], compression: str | None
) -> None:
    source = io.BytesIO()
    with opener(source, TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(TABLE, max_chunksize=4)
    once, twice = (copied("arrow", source.getvalue(), is_even) for _ in range(2))
    assert once == twice
    assert once.startswith(b"ARROW1") == source.getvalue().startswith(b"ARROW1")
    reader = pa.ipc.open_file(once) if once.startswith(b"ARROW1") else pa.ipc.open_stream(once)
    assert reader.schema.equals(TABLE.schema, check_metadata=True)
    assert reader.read_all().to_pylist() == TABLE.to_pylist()[::2]


def test_jsonl_keeps_the_bytes_of_each_line() -> None:
    lines = [b'{"a": 1.0,   "b": "\\u0061"}\r\n', b'{"a": 2}\n', b"\n", b' {"b":"x"} \n', b"broken\n", b'{"a":3}']
    assert copied("jsonl", b"".join(lines), lambda _: True) == b"".join([lines[0], lines[1], lines[3], lines[5]])
    assert copied("jsonl", b"".join(lines), is_even) == b"".join([lines[0], lines[3], lines[5]])


def test_csv_keeps_its_header_and_the_bytes_of_each_record() -> None:
    records = [b'\xef\xbb\xbf"a",b\r\n', b'1,"x\r\ny"\r\n', b"2\r\n", b"3,\r\n", b'4,""']
    assert copied("csv", b"".join(records), lambda _: True) == b"".join([*records[:2], *records[3:]])
    assert copied("csv", b"".join(records), lambda _: False) == records[0]


@pytest.mark.parametrize("fmt", ["jsonl", "csv"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_text_file_stays_compressed_and_names_no_time(fmt: str, compression: str) -> None:
    plain = b"a\n1\n2\n3\n" if fmt == "csv" else b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    packed = gzip.compress(plain) if compression == "gzip" else pa.compress(plain, "zstd", asbytes=True)
    once, twice = (copied(fmt, packed, is_even) for _ in range(2))
    assert once == twice
    unpacked = (
        gzip.decompress(once)
        if compression == "gzip"
        else pa.CompressedInputStream(pa.BufferReader(once), "zstd").read()
    )
    assert unpacked == (b"a\n1\n3\n" if fmt == "csv" else b'{"a": 1}\n{"a": 3}\n')


def test_large_parquet_parts_become_several_row_groups() -> None:
    count = 20
    table = pa.table({"x": [bytes([i]) * (8 << 20) for i in range(count)]})
    source, sink = io.BytesIO(), io.BytesIO()
    pq.write_table(table, source, compression="zstd", use_dictionary=False, row_group_size=5)
    limits = ReadLimits(decoded_floor_bytes=1 << 30)
    with open_writer("parquet", sink, like=source) as writer:
        for each in decode("parquet", source, table.schema, limits):
            writer.write(each)
    result = pq.ParquetFile(sink)
    assert result.metadata.num_row_groups > 1
    assert result.metadata.num_rows == count


def test_a_file_of_which_nothing_is_kept_is_still_a_file_of_its_format() -> None:
    source = io.BytesIO()
    pq.write_table(TABLE, source)
    assert pq.read_table(io.BytesIO(copied("parquet", source.getvalue(), lambda _: False))).num_rows == 0


def test_a_batch_of_another_format_is_a_bug_and_an_unknown_format_a_usage_error() -> None:
    bare = Decoded(np.zeros(1, dtype=np.int64), pa.record_batch({"a": [1]}))
    files = {"jsonl": io.BytesIO(b'{"a": 1}\n'), "parquet": io.BytesIO(), "arrow": io.BytesIO()}
    pq.write_table(pa.table({"a": [1]}), files["parquet"])
    with pa.ipc.new_stream(files["arrow"], pa.schema([("a", pa.int64())])):
        pass
    for fmt, like in files.items():
        with pytest.raises(InternalError), open_writer(fmt, io.BytesIO(), like=like) as writer:
            writer.write(bare)
    with pytest.raises(UsageError), open_writer("avro", io.BytesIO(), like=io.BytesIO()):
        pass
