"""Damaged files never leak a foreign exception, and never change what a record says without notice of its place."""

import contextlib
import io
import json
import random
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from millcert.errors import HostileDataError, MillcertError, UsageError
from millcert.pipelines.formats import ReadLimits, decode, open_writer, read_schema

LIMITS = ReadLimits(
    max_batch_rows=16,
    max_batch_bytes=4096,
    max_record_bytes=1 << 16,
    max_block_bytes=1 << 20,
    decoded_floor_bytes=1 << 20,
    max_metadata_bytes=1 << 16,
)
COUNT = 50
FLAT = pa.table(
    {
        "id": np.arange(COUNT),
        "text": [f'text, "{i}"\n' if i % 5 else None for i in range(COUNT)],
        "score": [i / 7 for i in range(COUNT)],
        "label": ["cat" if i % 3 else "dog" for i in range(COUNT)],
    }
)
NESTED = pa.table(
    {
        **dict(zip(FLAT.column_names, FLAT.columns, strict=True)),
        "kind": pa.array(["a", "b"] * (COUNT // 2)).dictionary_encode(),
        "tags": [[f"t{i}"] * (i % 3) for i in range(COUNT)],
        "inner": [{"n": i, "deep": [{"s": "x"}]} if i % 4 else None for i in range(COUNT)],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(COUNT * 3, dtype=np.float32)), 3),
    }
)


def parquet(**options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(NESTED, sink, row_group_size=20, **options)
    return sink.getvalue()


def arrow(opener: Callable[..., pa.ipc.RecordBatchStreamWriter], compression: str | None) -> bytes:
    sink = io.BytesIO()
    table = NESTED.append_column("view", NESTED.column("text").cast(pa.string_view()))
    with opener(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=20)
    return sink.getvalue()


def csv() -> bytes:
    sink = io.BytesIO()
    pcsv.write_csv(FLAT, sink)
    return sink.getvalue()


FILES: dict[str, tuple[str, bytes]] = {
    "parquet-snappy": ("parquet", parquet()),
    "parquet-plain": ("parquet", parquet(compression="none", use_dictionary=False)),
    "parquet-v2": ("parquet", parquet(compression="zstd", data_page_version="2.0")),
    "parquet-checked": ("parquet", parquet(write_page_checksum=True)),
    "parquet-delta": (
        "parquet",
        parquet(
            compression="none",
            use_dictionary=False,
            column_encoding={"text": "DELTA_BYTE_ARRAY", "label": "DELTA_LENGTH_BYTE_ARRAY"},
        ),
    ),
    "arrow-file": ("arrow", arrow(pa.ipc.new_file, None)),
    "arrow-stream": ("arrow", arrow(pa.ipc.new_stream, None)),
    "arrow-zstd": ("arrow", arrow(pa.ipc.new_stream, "zstd")),
    "jsonl": ("jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in NESTED.to_pylist())),
    "jsonl-zstd": (
        "jsonl",
        pa.compress(b"".join(json.dumps(row).encode() + b"\n" for row in FLAT.to_pylist()), "zstd", asbytes=True),
    ),
    "csv": ("csv", csv()),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        place = chance.randrange(len(out))
        action = chance.randrange(5)
        if action == 0:
            out[place] ^= 1 << chance.randrange(8)
        elif action == 1:
            out[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif action == 2:
            out[place : place + 8] = chance.choice([2**31 - 1, 2**62, -1, 2**32]).to_bytes(8, "little", signed=True)
        elif action == 3:
            del out[place : place + chance.randrange(1, 9)]
        else:
            out[place:place] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 5)))
        if not out:
            break
    return bytes(out)


def read_all(fmt: str, data: bytes) -> None:
    """Do with a file all that a run does."""
    file = io.BytesIO(data)
    schema = read_schema(fmt, file, LIMITS, name="f").schema
    expected = 0
    with open_writer(fmt, io.BytesIO(), like=file, name="f", limits=LIMITS) as writer:
        for each in decode(fmt, file, schema, LIMITS, name="f"):
            seen = sorted([*each.rows.tolist(), *(bad.row for bad in each.malformed)])
            assert seen == list(range(expected, expected + len(seen)))
            expected += len(seen)
            each.batch.validate(full=True)
            each.batch.to_pylist()
            writer.write(each.keep(each.rows % 2 == 0))


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_undamaged_files_are_read(name: str) -> None:
    read_all(*FILES[name])


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("rounds", [60, pytest.param(1500, marks=pytest.mark.long)])
def test_a_damaged_file_is_read_or_refused_with_an_error_of_ours(name: str, rounds: int) -> None:
    """Rule 4 of base.py, and rule 2: rows and malformed records together are 0, 1, 2, ... without a gap."""
    fmt, data = FILES[name]
    chance = random.Random(f"{name} {rounds}")
    for _ in range(rounds):
        with contextlib.suppress(MillcertError):
            read_all(fmt, mutated(data, chance))


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_truncated_file_is_read_or_refused_with_an_error_of_ours(name: str) -> None:
    fmt, data = FILES[name]
    for size in [0, 1, 3, 4, 7, 8, 9, 12, 100, len(data) // 2, len(data) - 9, len(data) - 1]:
        with contextlib.suppress(UsageError, HostileDataError):
            read_all(fmt, data[:size])


def test_a_flipped_bit_in_a_page_with_a_checksum_is_refused() -> None:
    data = bytearray(FILES["parquet-checked"][1])
    start = data.index(b"cat")
    data[start] ^= 1
    with pytest.raises(MillcertError, match=r"crc|CRC|checksum"):
        read_all("parquet", bytes(data))
