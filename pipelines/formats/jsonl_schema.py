"""The schema of a JSONL file: the meet of the types of all its records, found in one bounded read.

A block whose lines all fit the schema found so far cannot change it, and that is what the fast parser tells; only
other blocks are looked at value by value. Records that are malformed whatever the schema is are left out: they are
reported when the file is decoded.
"""

from typing import BinaryIO

import pyarrow as pa

from millcert.errors import UsageError
from millcert.pipelines.formats.base import DecodedBudget, ReadLimits, SchemaFacts, translate_errors
from millcert.pipelines.formats.canonical import check_shape
from millcert.pipelines.formats.inference import BEYOND_INT64, TypeConflictError, meet_fields, settle, type_of
from millcert.pipelines.formats.json_strict import JsonFaultError, parse_record
from millcert.pipelines.formats.jsonl import fits_whole
from millcert.pipelines.formats.text import LineBlock, line_blocks, open_text

#: Lines that are looked at value by value before the fast parser is tried.
_FIRST_LINES = 256


def read_schema(file: BinaryIO, limits: ReadLimits, budget: DecodedBudget, *, name: str) -> SchemaFacts:
    """Return the schema that all records of a JSONL file have.

    Raises:
        UsageError: two records give one field types that do not meet, there are too many fields, or there is no
            record at all.
        HostileDataError: a compressed file is damaged or decodes to too much.

    Cost: one read at about the speed of `decode`.
    """
    found: dict[str, pa.DataType] = {}
    with translate_errors(name, "JSONL file"):
        for block in line_blocks(open_text(file, name=name), limits, block_bytes=limits.max_batch_bytes):
            budget.spend(len(block.data))
            if not block.skipped_bytes:
                found = _with_block(found, block, limits, name)
    if not found:
        raise UsageError(f"{name}: no record has a field, so the file has no schema.", path=name)
    schema = settle(pa.schema(list(found.items())), name=name)
    return SchemaFacts(schema, is_inferred=True)


def _with_block(
    found: dict[str, pa.DataType], block: LineBlock, limits: ReadLimits, name: str
) -> dict[str, pa.DataType]:
    first = 0
    if not found:
        first = min(_FIRST_LINES, len(block.starts))
        found = _with_lines(found, block, range(first), limits, name)
    rest = range(first, len(block.starts))
    if not rest or _is_known(found, block, first, limits):
        return found
    return _with_lines(found, block, rest, limits, name)


def _is_known(found: dict[str, pa.DataType], block: LineBlock, first: int, limits: ReadLimits) -> bool:
    # The fast parser would read "beyond int64" as a decimal, and take fractions for it.
    if any(str(BEYOND_INT64) in str(kind) for kind in found.values()):
        return False
    base = int(block.starts[first])
    part = block._replace(
        data=block.data[base:],
        starts=block.starts[first:] - base,
        ends=block.ends[first:] - base,
        nexts=block.nexts[first:] - base,
    )
    return fits_whole(part, pa.schema(list(found.items())), limits)


def _with_lines(
    found: dict[str, pa.DataType], block: LineBlock, lines: range, limits: ReadLimits, name: str
) -> dict[str, pa.DataType]:
    for i in lines:
        line = block.data[block.starts[i] : block.ends[i]]
        if not line.strip(b" \t\r"):
            continue
        try:
            record = parse_record(line)
        except JsonFaultError:
            continue
        try:
            kinds = {key: type_of(value, key, limits) for key, value in record.items()}
            if all(found.get(key) == kind for key, kind in kinds.items()):
                continue
            fields = meet_fields(found, kinds, "")
        except TypeConflictError as error:
            raise UsageError(
                f"{name}, line {block.first_line + i}: {error}.",
                hint="Name the columns' types in a schema file; records that do not fit are then put aside one by one.",
                path=name,
                line=block.first_line + i,
                column=error.field,
            ) from error
        schema = pa.schema(fields)
        check_shape(schema, limits, name=name)
        found = {field.name: field.type for field in schema}
    return found
