"""Readers and writers of file formats: bytes in, record batches out, within stated bounds.

The formats are Parquet, Arrow IPC (file and stream), JSONL and CSV, the last two also compressed with gzip or zstd.
Everything works on local seekable files; where the bytes come from is the business of millcert.pipelines.spool.
"""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from millcert.errors import UsageError
from millcert.pipelines.formats import arrow_ipc, delimited, jsonl, jsonl_schema, parquet
from millcert.pipelines.formats.base import (
    HEAD_BYTES,
    Decoded,
    DecodedBudget,
    Format,
    Malformed,
    RawSlice,
    ReadLimits,
    SchemaFacts,
    detect_format,
)
from millcert.pipelines.formats.schema import merge_schemas, schema_from_json, schema_to_json
from millcert.pipelines.formats.writers import Writer, open_writer

__all__ = [
    "HEAD_BYTES",
    "Decoded",
    "DecodedBudget",
    "Format",
    "Malformed",
    "RawSlice",
    "ReadLimits",
    "SchemaFacts",
    "Writer",
    "decode",
    "detect_format",
    "merge_schemas",
    "open_writer",
    "read_schema",
    "schema_from_json",
    "schema_to_json",
]


def read_schema(format: str, file: BinaryIO, limits: ReadLimits, *, name: str = "the file") -> SchemaFacts:  # noqa: A002 - the field's word
    """Return what a file says of its columns: from its header where it has types, else from all its values.

    Args:
        format: as `detect_format` returned it.
        file: seekable, at any position; the file of `read_verified`, which nobody else can change.
        limits: bounds.
        name: of the file, for errors.

    Raises:
        UsageError: a type is not read, or the values of a column have no common type.
        HostileDataError: the file is damaged or breaks a bound.
        StoreError: reading failed.
    """
    if format == "parquet":
        return parquet.read_schema(file, limits, name=name)
    if format == "jsonl":
        return jsonl_schema.read_schema(file, limits, _budget(file, limits, name), name=name)
    if format == "csv":
        return delimited.read_schema(file, limits, _budget(file, limits, name), name=name)
    if format == "arrow":
        return arrow_ipc.read_schema(file, limits, name=name)
    raise UsageError(f"{name}: the format {format!r} is not read.")


def decode(
    format: str,  # noqa: A002 - the field's word
    file: BinaryIO,
    schema: pa.Schema,
    limits: ReadLimits,
    *,
    name: str = "the file",
    groups: tuple[int, int] | None = None,
    budget: DecodedBudget | None = None,
    columns: frozenset[str] | None = None,
    steps: tuple[int, ...] = (),
) -> Iterator[Decoded]:
    """Yield the records of a file as batches in one schema; see the rules in millcert.pipelines.formats.base.

    Args:
        format: as `detect_format` returned it.
        file: seekable, at any position; the file of `read_verified`, which nobody else can change.
        schema: canonical, from `merge_schemas` or `schema_from_json`.
        limits: bounds.
        name: of the file, for errors.
        groups: [first, end) of a Parquet file's row groups, None for all.
        budget: counts what is decoded; one of its own where None.
        columns: of a Parquet file without malformed records, to decode these alone; other formats decode all.
        steps: of a Parquet file, what `parquet.plan_steps` said of these very bytes; () to find it out.

    Raises:
        UsageError: the schema does not fit the file's own types, or the format cannot carry one of its types.
        HostileDataError: the file is damaged or breaks a bound. Batches may have been yielded before that.
        StoreError: reading failed.
    """
    budget = _budget(file, limits, name) if budget is None else budget
    if format == "parquet":
        return parquet.decode(file, schema, limits, budget, name=name, groups=groups, columns=columns, steps=steps)
    if format == "jsonl":
        return jsonl.decode(file, schema, limits, budget, name=name)
    if format == "csv":
        return delimited.decode(file, schema, limits, budget, name=name)
    if format == "arrow":
        return arrow_ipc.decode(file, schema, limits, budget, name=name)
    raise UsageError(f"{name}: the format {format!r} is not read.")


def _budget(file: BinaryIO, limits: ReadLimits, name: str) -> DecodedBudget:
    return DecodedBudget(name, file.seek(0, 2), limits)
