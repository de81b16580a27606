"""A list of web addresses from a table: CSV, JSONL, Parquet or Arrow, within the gate's own bounds on reading."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from millcert.errors import ManifestError, UsageError
from millcert.pipelines.formats import HEAD_BYTES, ReadLimits, decode, detect_format, read_schema
from millcert.provenance.url_list import UrlRow, check_rows, url_row

#: What a list may say of a row, and the columns that say it unless told otherwise.
COLUMNS = ("url", "sha256", "size", "fetched_at", "path")


def read_url_list(
    data: bytes, *, name: str, columns: Mapping[str, str] | None = None, limits: ReadLimits | None = None
) -> tuple[UrlRow, ...]:
    """Return the rows of a list.

    Args:
        data: the list's bytes: those over which its signature was verified.
        name: its file name; the suffix says the format.
        columns: for any of COLUMNS the table's own name of it. Columns that nobody names are passed over.
        limits: bounds on reading.

    Raises:
        UsageError: the table has no column of addresses, no row, or a format that is not read.
        ManifestError: a record cannot be read, or two rows want one path for other bytes.
        HostileDataError: the file is damaged or breaks a bound.

    Cost: two reads of the table; memory for its rows.
    """
    bounds = limits or ReadLimits()
    file = io.BytesIO(data)
    kind = detect_format(name, data[:HEAD_BYTES])
    facts = read_schema(kind, file, bounds, name=name)
    schema = facts.schema
    if facts.is_all_text:  # a digest of decimal digits alone is still text
        schema = pa.schema([(field.name, pa.string()) for field in schema])
    named = {column: (columns or {}).get(column, column) for column in COLUMNS}
    if named["url"] not in schema.names:
        raise UsageError(
            f"{name} has no column {named['url']!r}; it has {', '.join(schema.names[:20])}.",
            hint="Name the column of addresses with --url-column.",
        )
    return check_rows(_rows(decode(kind, file, schema, bounds, name=name), named, schema, name))


def _rows(decoded: Iterator[Any], named: Mapping[str, str], schema: pa.Schema, name: str) -> Iterator[UrlRow]:
    present = [named[column] if named[column] in schema.names else None for column in COLUMNS]
    for one in decoded:
        if one.malformed:
            bad = one.malformed[0]
            raise ManifestError(
                f"{name}: row {bad.row} cannot be read ({bad.reason}): {bad.detail}",
                hint="A list with a row that nobody can read is not what its curator meant.",
                row=bad.row,
            )
        values = [
            [None] * one.batch.num_rows if column is None else _cells(one.batch.column(column), column, name)
            for column in present
        ]
        for row, cells in zip(one.rows.tolist(), zip(*values, strict=True), strict=True):
            yield url_row(row, *cells)


def _cells(column: pa.Array, label: str, name: str) -> list[Any]:
    """Return a column's values; a type can hold ones that Python has not: the year 300,000, a time zone of no name."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, LookupError, pa.ArrowException) as error:
        raise ManifestError(
            f"{name}: the column {label!r} holds a {column.type} that cannot be read: {str(error)[:200]}.",
            hint="Write times as RFC 3339 in UTC.",
            column=label,
        ) from error
