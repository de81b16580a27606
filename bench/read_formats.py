"""How fast files become record batches: rows per CPU-second, beside the plain library on the same bytes.

The plain library does less: it numbers no rows, judges no line alone, and holds no bound. Ratios are what counts.

Usage: python bench/read_formats.py [runs]
"""

import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from millcert.pipelines.formats import ReadLimits, decode, read_schema

ROWS = 100_000
WIDTH = 64
LIMITS = ReadLimits()
LINE = b"\n"


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, pyarrow {pa.__version__}")
    print(f"{ROWS:,} rows; rows per CPU-second, best of {runs}")
    samples = [
        {
            "id": row,
            "text": "the quick brown fox jumps over the lazy dog " * 3 + str(row),
            "label": "cat",
            "score": row / 7,
        }
        for row in range(ROWS)
    ]
    table = pa.Table.from_pylist(samples)
    rng = np.random.default_rng(0)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=ROWS * WIDTH).astype(np.float32)), WIDTH)
    jsonl = LINE.join(json.dumps(sample).encode() for sample in samples) + LINE
    spoilt = LINE.join(line if number % 1000 else b'{"id": "x"}' for number, line in enumerate(jsonl.split(LINE)[:-1]))
    csv, parquet, arrow = as_csv(table), as_parquet(table), as_arrow(table)
    wide = as_parquet(pa.table({"embedding": vectors, "label": pa.array(["a"] * ROWS)}))
    rivals: list[tuple[str, Callable[[], Any], str, Callable[[], Any] | None]] = [
        ("JSONL", lambda: read("jsonl", jsonl), "pyarrow.json", lambda: plain_json(jsonl, table.schema)),
        (
            "JSONL",
            lambda: read("jsonl", jsonl),
            "json.loads",
            lambda: [json.loads(line) for line in jsonl.split(LINE)[:-1]],
        ),
        ("JSONL, 0.1 % bad lines", lambda: read("jsonl", spoilt, table.schema), "", None),
        ("JSONL schema", lambda: read_schema("jsonl", io.BytesIO(jsonl), LIMITS), "", None),
        ("CSV", lambda: read("csv", csv), "pyarrow.csv", lambda: plain_csv(csv)),
        ("Parquet", lambda: read("parquet", parquet), "iter_batches", lambda: plain_parquet(parquet)),
        (f"Parquet, {WIDTH}-d vectors", lambda: read("parquet", wide), "iter_batches", lambda: plain_parquet(wide)),
        ("Arrow stream", lambda: read("arrow", arrow), "", None),
    ]
    for name, ours, rival, theirs in rivals:
        mine = ROWS / best(ours, runs)
        line = f"{name:26} millcert {mine:12,.0f}"
        if theirs is not None:
            other = ROWS / best(theirs, runs)
            line += f"   {rival:13} {other:12,.0f}   ratio {mine / other:.2f}"
        print(line)


def read(kind: str, data: bytes, schema: pa.Schema | None = None) -> None:
    """Decode a file in memory to its end, under its own schema unless one is given."""
    chosen = schema or read_schema(kind, io.BytesIO(data), LIMITS).schema
    for _ in decode(kind, io.BytesIO(data), chosen, LIMITS):
        pass


def plain_json(data: bytes, schema: pa.Schema) -> pa.Table:
    """Read JSONL with pyarrow alone, on one thread."""
    return pa_json.read_json(
        io.BytesIO(data),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=8 << 20),
        parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    )


def plain_csv(data: bytes) -> pa.Table:
    """Read CSV with pyarrow alone, on one thread."""
    return pa_csv.read_csv(
        io.BytesIO(data),
        read_options=pa_csv.ReadOptions(use_threads=False),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
    )


def plain_parquet(data: bytes) -> None:
    """Read Parquet with pyarrow alone, on one thread."""
    for _ in pq.ParquetFile(io.BytesIO(data)).iter_batches(16_384, use_threads=False):
        pass


def as_csv(table: pa.Table) -> bytes:
    """Return the table as CSV."""
    sink = io.BytesIO()
    pa_csv.write_csv(table, sink)
    return sink.getvalue()


def as_parquet(table: pa.Table) -> bytes:
    """Return the table as Parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def as_arrow(table: pa.Table) -> bytes:
    """Return the table as an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def best(work: Callable[[], Any], runs: int) -> float:
    """Return the least CPU seconds of several runs."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


if __name__ == "__main__":
    main()
