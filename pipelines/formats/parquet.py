"""Parquet: row groups streamed in slices whose size is bounded before they are decoded.

Steps:
  1. The footer's size and the depth of its schema are checked before the library parses it.
  2. Each column chunk's pages are scanned: they give bounds that do not rest on the footer (parquet_pages.py).
  3. The number of rows to decode at a time follows from the bounds, so that no step decodes more than allowed.
  4. What is decoded is validated, measured and cut (slices.py).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from millcert.errors import HostileDataError, UsageError
from millcert.pipelines.formats.base import (
    Decoded,
    DecodedBudget,
    ReadLimits,
    SchemaFacts,
    buffer_of,
    translate_errors,
)
from millcert.pipelines.formats.canonical import canonical_schema, refuse_other_schema
from millcert.pipelines.formats.parquet_footer import Footer, Group, parse_footer
from millcert.pipelines.formats.parquet_pages import ChunkFacts, longest_row, scan_chunk
from millcert.pipelines.formats.slices import bounded_slices

_MAGIC, _TAIL_BYTES = b"PAR1", 8


def read_schema(file: BinaryIO, limits: ReadLimits, *, name: str) -> SchemaFacts:
    """Return the canonical schema of a Parquet file.

    Raises:
        HostileDataError: it is no Parquet file, or its footer breaks a bound.
        UsageError: it is encrypted, or has a type that is not read.
    """
    stored, _ = stored_layout(file, limits, name=name)
    return SchemaFacts(canonical_schema(stored, limits, name=name), is_inferred=False)


def stored_layout(file: BinaryIO, limits: ReadLimits, *, name: str) -> tuple[pa.Schema, str]:
    """Return the file's own schema with its metadata, and its codec: what a copy of the file is written with."""
    with translate_errors(name, "Parquet file"):
        parquet, footer = _open(buffer_of(file), limits, name)
        codec = footer.groups[0].chunks[0].codec if footer.groups else "snappy"
        return parquet.schema_arrow, "lz4" if codec == "lz4_raw" else codec


def read_footer(file: BinaryIO, limits: ReadLimits, *, name: str) -> Footer:
    """Return what the footer of a Parquet file says, after `decode`'s own checks of it.

    Raises:
        HostileDataError: it is no Parquet file, or its footer breaks a bound.
        UsageError: it is encrypted.
    """
    with translate_errors(name, "Parquet file"):
        return _open(buffer_of(file), limits, name)[1]


def plan_steps(file: BinaryIO, limits: ReadLimits, *, name: str) -> tuple[int, ...]:
    """Return how many rows of each row group may be decoded at once: steps 1 to 3, done once for several reads.

    Raises:
        HostileDataError: the footer lies, or decoding would break a bound.
        UsageError: it is encrypted.
    """
    with translate_errors(name, "Parquet file"):
        buffer = buffer_of(file)
        data = memoryview(buffer).cast("B")
        return tuple(_rows_at_a_time(data, group, limits, name) for group in _open(buffer, limits, name)[1].groups)


def decode(
    file: BinaryIO,
    schema: pa.Schema,
    limits: ReadLimits,
    budget: DecodedBudget,
    *,
    name: str,
    groups: tuple[int, int] | None = None,
    columns: frozenset[str] | None = None,
    steps: tuple[int, ...] = (),
) -> Iterator[Decoded]:
    """Yield the rows of a Parquet file, or of its row groups [first, end) alone: the same batches either way.

    With `columns`, only these are decoded, measured and validated: other rows may be malformed then, and batches end
    elsewhere. It is for a file of which all columns were decoded before, without a malformed record. With `steps`,
    what `plan_steps` found of these very bytes under these limits, the footer and the pages are not looked through
    again.

    Raises:
        HostileDataError: a page is damaged, the footer lies, or decoding breaks a bound.

    Cost: one read; memory up to `max_record_bytes` plus the open pages, at most `max_block_bytes`.
    """
    with translate_errors(name, "Parquet file"):
        buffer = buffer_of(file)
        parquet, footer = (_library(buffer), None) if steps else _open(buffer, limits, name)
        refuse_other_schema(parquet.schema_arrow, schema, limits, name=name)
        data = memoryview(buffer).cast("B")  # Arrow calls its bytes signed
        names = _chosen(parquet.schema_arrow, columns)
        if names is not None:
            schema = pa.schema([field for field in schema if field.name in names])
        counts = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
        if footer is not None:
            counts = [group.rows for group in footer.groups]
        first, end = groups or (0, len(counts))
        row = sum(counts[:first])
        for index, count in enumerate(counts[first:end], first):
            if footer is None:
                step = steps[index]
            else:
                group = footer.groups[index]
                wanted = group if names is None else _with_columns(group, frozenset(names))
                step = _rows_at_a_time(data, wanted, limits, name)
            seen = 0
            batches = parquet.iter_batches(batch_size=step, row_groups=[index], columns=names, use_threads=False)
            for batch in _read(batches, name):
                yield from bounded_slices(batch, row + seen, schema, limits, budget, name=name)
                seen += batch.num_rows
            if seen != count:
                raise HostileDataError(
                    f"{name}: the footer says {count} rows in row group {index}, it holds {seen}.", path=name
                )
            row += seen


def _chosen(stored: pa.Schema, columns: frozenset[str] | None) -> list[str] | None:
    """Return which columns to ask the library for; None for all.

    It takes a name with a dot for a path into a column, and would decode what nobody bounded.
    """
    if not columns or any("." in name for name in stored.names):
        return None
    return [name for name in stored.names if name in columns] or None


def _with_columns(group: Group, names: frozenset[str]) -> Group:
    return group._replace(chunks=tuple(chunk for chunk in group.chunks if chunk.leaf.path in names))


def _read(batches: Iterator[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except pa.ArrowInvalid as error:
        if "Expected all lists to be of size" not in str(error):
            raise
        raise UsageError(
            f"{name}: a column has a null among fixed-size lists, which Arrow does not read from Parquet.",
            hint="Write the column as a plain list, or fill the nulls.",
            path=name,
        ) from error


def _open(buffer: pa.Buffer, limits: ReadLimits, name: str) -> tuple[pq.ParquetFile, Footer]:
    """Step 1."""
    data = memoryview(buffer).cast("B")  # Arrow calls its bytes signed
    tail = bytes(data[-_TAIL_BYTES:])
    if tail[4:] == b"PARE":
        raise UsageError(f"{name}: the Parquet file is encrypted.", hint="Give it decrypted.", path=name)
    if len(data) < len(_MAGIC) + _TAIL_BYTES or bytes(data[:4]) != _MAGIC or tail[4:] != _MAGIC:
        raise HostileDataError(f"{name}: not a Parquet file: its magic bytes are missing.", path=name)
    footer_bytes = int.from_bytes(tail[:4], "little")
    if footer_bytes > min(limits.max_metadata_bytes, len(data) - len(_MAGIC) - _TAIL_BYTES):
        raise HostileDataError(
            f"{name}: the footer claims {footer_bytes} bytes; allowed are {limits.max_metadata_bytes} and no more "
            f"than the file has.",
            hint="Raise the limit max_metadata_bytes, or write fewer row groups.",
            path=name,
        )
    start = len(data) - _TAIL_BYTES - footer_bytes
    footer = _parsed(bytes(data[start : start + footer_bytes]), limits.max_columns)
    # A list takes two levels of groups and a map two, so the stored tree may be about twice as deep as the type.
    if footer.depth > 2 * limits.max_nesting + 1:
        raise HostileDataError(
            f"{name}: the schema is nested {footer.depth} levels deep.", hint="See max_nesting.", path=name
        )
    parquet = _library(buffer)
    if parquet.metadata.num_columns != len(footer.leaves) or parquet.num_row_groups != len(footer.groups):
        raise HostileDataError(f"{name}: two readings of the footer differ.", path=name)
    return parquet, footer


def _library(buffer: pa.Buffer) -> pq.ParquetFile:
    """Return a file that was looked through as the library sees it."""
    footer_bytes = int.from_bytes(bytes(memoryview(buffer).cast("B")[-_TAIL_BYTES:])[:4], "little")
    return pq.ParquetFile(
        pa.BufferReader(buffer),
        pre_buffer=False,
        thrift_string_size_limit=max(1, footer_bytes),
        thrift_container_size_limit=max(1, footer_bytes),
        page_checksum_verification=True,
    )


@lru_cache(maxsize=2)
def _parsed(footer: bytes, max_columns: int) -> Footer:
    """Return a footer as it is parsed; a large file is opened once a span, and its footer is the slow part of that."""
    return parse_footer(memoryview(footer), max_columns=max_columns)


def _rows_at_a_time(data: memoryview, group: Group, limits: ReadLimits, name: str) -> int:
    """Steps 2 and 3: return how many rows may be decoded at once."""
    budget_bytes = max(limits.max_batch_bytes, limits.max_record_bytes)
    unscanned_bytes = limits.max_block_bytes // 2
    facts: list[ChunkFacts] = []
    for chunk in group.chunks:
        bounds = scan_chunk(data, chunk, max_page_bytes=limits.max_block_bytes)
        if bounds.values_per_row == 1 and bounds.values != group.rows:
            raise HostileDataError(
                f"{name}: column {chunk.leaf.path[:100]!r} has {bounds.values} values for {group.rows} rows.", path=name
            )
        if bounds.values_per_row is None:
            if bounds.total_bytes <= unscanned_bytes:
                # Even if one row held the whole chunk, it would fit: the mean is good enough a guess.
                unscanned_bytes -= bounds.total_bytes
                per_row = -(-bounds.values // max(1, group.rows))
            else:
                per_row = longest_row(data, chunk, max_page_bytes=limits.max_block_bytes)
            bounds = bounds._replace(values_per_row=max(1, per_row))
        facts.append(bounds)
    open_bytes = sum(each.open_bytes for each in facts)
    widest_bytes = sum((each.values_per_row or 1) * each.bytes_per_value for each in facts)
    if max(open_bytes, widest_bytes) > limits.max_block_bytes:
        raise HostileDataError(
            f"{name}: a row group needs {max(open_bytes, widest_bytes)} bytes decoded at once; allowed are "
            f"{limits.max_block_bytes}.",
            hint="Write smaller pages or smaller rows, or raise the limit max_block_bytes.",
            path=name,
        )
    return max(1, min(limits.max_batch_rows, budget_bytes // max(1, widest_bytes)))
