"""CSV: RFC 4180 with a header, commas, double quotes and UTF-8.

Rules:
  1. The first record names the columns; names are not empty and differ.
  2. An empty field is null; a quoted empty field is empty text.
  3. A record with more or fewer fields than the header is malformed, as is one whose value does not convert to its
     column's type. Whether it is does not depend on its neighbours.
  4. Without a schema a column's type is the least of the lattice in millcert.pipelines.formats.inference that takes all
     its values; where two have none above both, the column is text, as all of CSV is. Numbers with leading zeros,
     plus signs or blanks are text.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.types as pt

from millcert.errors import UsageError
from millcert.pipelines.formats.base import (
    Decoded,
    DecodedBudget,
    Malformed,
    RawSlice,
    ReadLimits,
    SchemaFacts,
    translate_errors,
)
from millcert.pipelines.formats.canonical import conform, width_bytes
from millcert.pipelines.formats.csv_records import Fault, RecordBlock, record_blocks
from millcert.pipelines.formats.inference import TypeConflictError, meet
from millcert.pipelines.formats.text import BOM, open_text

_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_BOOLEAN_PATTERN = "^(true|True|TRUE|false|False|FALSE)$"
_WHOLE_PATTERN = "^-?(0|[1-9][0-9]*)$"
_NUMBER_PATTERN = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_MIN_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class _Header:
    names: tuple[str, ...]
    stored: bytes  # with byte order mark and line ending


def decode(
    file: BinaryIO, schema: pa.Schema, limits: ReadLimits, budget: DecodedBudget, *, name: str
) -> Iterator[Decoded]:
    """Yield the records of a CSV file in a canonical schema.

    Raises:
        UsageError: the schema has a nested type or one without a form in text; the header is wrong or names a column
            that the schema lacks.
        HostileDataError: a compressed file is damaged, or the file decodes to too much.

    Cost: one read.
    """
    for field in schema:
        _refuse_type(field.type, field.name)
    with translate_errors(name, "CSV file"):
        header, blocks = _open(file, limits, schema, name)
        unknown = [column for column in header.names if schema.get_field_index(column) < 0]
        if unknown:
            raise UsageError(f"{name}: the schema has no column {unknown[0][:100]!r}.", path=name, column=unknown[0])
        parser = _Parser(header.names, schema)
        row = 0
        for block in blocks:
            decoded = parser.decode_block(block, row)
            row += len(block.starts)
            budget.spend(max(decoded.batch.nbytes, int((block.ends - block.starts).sum())))
            yield decoded


def read_schema(file: BinaryIO, limits: ReadLimits, budget: DecodedBudget, *, name: str) -> SchemaFacts:
    """Return the columns of a CSV file with the types that take all their values (rule 4).

    Raises:
        UsageError: the header is wrong, or there are too many columns.
        HostileDataError: a compressed file is damaged or decodes to too much.

    Cost: one read.
    """
    with translate_errors(name, "CSV file"):
        header, blocks = _open(file, limits, None, name)
        text = pa.schema([pa.field(column, pa.string()) for column in header.names])
        parser = _Parser(header.names, text)
        found: list[pa.DataType] = [pa.null()] * len(header.names)
        for block in blocks:
            decoded = parser.decode_block(block, 0)
            budget.spend(max(decoded.batch.nbytes, int((block.ends - block.starts).sum())))
            found = [
                kind if pt.is_string(kind) else _meet_text(kind, _type_of_texts(column))
                for kind, column in zip(found, decoded.batch.columns, strict=True)
            ]
    schema = pa.schema([pa.field(column, kind) for column, kind in zip(header.names, found, strict=True)])
    return SchemaFacts(schema, is_inferred=True, is_all_text=True)


def read_header_bytes(file: BinaryIO, limits: ReadLimits, *, name: str) -> bytes:
    """Return the header as stored, with byte order mark and line ending.

    Raises:
        UsageError: there is none, or it is wrong.
    """
    with translate_errors(name, "CSV file"):
        return _open(file, limits, None, name)[0].stored


def _open(
    file: BinaryIO, limits: ReadLimits, schema: pa.Schema | None, name: str
) -> tuple[_Header, Iterator[RecordBlock]]:
    header = _read_header(file, limits, name)
    width = 5 * len(header.names) if schema is None else sum(width_bytes(field.type) for field in schema)
    # The shortest record, only commas, decodes to the width of all columns.
    tight = replace(limits, max_batch_rows=max(1, min(limits.max_batch_rows, limits.max_batch_bytes // width)))
    blocks = record_blocks(open_text(file, name=name), tight, block_bytes=max(_MIN_BLOCK_BYTES, limits.max_batch_bytes))
    return header, _without_header(blocks)


def _read_header(file: BinaryIO, limits: ReadLimits, name: str) -> _Header:
    tight = replace(limits, max_record_bytes=min(limits.max_record_bytes, limits.max_metadata_bytes), max_batch_rows=1)
    stream = open_text(file, name=name)
    block = next(record_blocks(stream, tight, block_bytes=_MIN_BLOCK_BYTES), None)
    if block is None or block.faults:
        reason = "has no header" if block is None else f"has a malformed header: {block.faults[0].detail}"
        raise UsageError(f"{name}: the file {reason}", hint="The first record must name the columns.", path=name)
    stored = block.data[block.starts[0] : block.nexts[0]]
    text = block.data[block.starts[0] : block.ends[0]].decode("utf-8")
    names = tuple(next(csv.reader(io.StringIO(text, newline=""), strict=True)))
    twice = next((each for each in names if names.count(each) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None or "" in names:
        raise UsageError(
            f"{name}: the header has {'a column without a name' if twice is None else f'{twice[:100]!r} twice'}.",
            hint="Give each column its own name.",
            path=name,
        )
    if len(names) > limits.max_columns:
        raise UsageError(f"{name}: {len(names)} columns; allowed are {limits.max_columns}.", path=name)
    return _Header(names, (BOM if block.first_byte else b"") + stored)


def _without_header(blocks: Iterator[RecordBlock]) -> Iterator[RecordBlock]:
    is_first = True
    for block in blocks:
        if is_first:
            is_first = False
            faults = {at - 1: fault for at, fault in block.faults.items()}
            rest = RecordBlock(
                block.data,
                block.starts[1:],
                block.ends[1:],
                block.nexts[1:],
                block.lines[1:],
                block.first_byte,
                faults,
            )
            if len(rest.starts):
                yield rest
            continue
        yield block


class _Parser:
    """Decodes blocks of one file."""

    def __init__(self, names: tuple[str, ...], schema: pa.Schema) -> None:
        self._names = names
        self._schema = schema
        self._types = {name: schema.field(name).type for name in names}

    def decode_block(self, block: RecordBlock, row: int) -> Decoded:
        count = len(block.starts)
        rows = np.arange(row, row + count, dtype=np.int64)
        every = np.arange(count)
        batch = self._parse(block, every) if not block.faults else None
        faults: dict[int, Fault] = dict(block.faults)
        good = every
        if batch is None:
            faults |= {at: fault for at in every.tolist() if at not in faults and (fault := self._judge(block, at))}
            good = np.array([at for at in every.tolist() if at not in faults], dtype=np.int64)
            batch = self._parse(block, good)
        if batch is None:
            faults |= self._judge_types(block, good)
            good = np.array([at for at in every.tolist() if at not in faults], dtype=np.int64)
            batch = self._parse(block, good)
        assert batch is not None
        malformed = tuple(
            Malformed(
                int(rows[at]),
                int(block.lines[at]),
                block.first_byte + int(block.starts[at]),
                faults[at].reason,
                faults[at].detail,
            )
            for at in sorted(faults)
        )
        raw = RawSlice(block.data, block.starts[good], block.nexts[good])
        return Decoded(rows[good], batch, raw, None, malformed)

    def _parse(self, block: RecordBlock, records: np.ndarray) -> pa.RecordBatch | None:
        """Return some records of a block in the schema; None if any of them is not good."""
        if not len(records):
            return self._with_all_columns({}, 0)
        first, last = int(records[0]), int(records[-1])
        if last - first + 1 == len(records):
            data = block.data[block.starts[first] : block.nexts[last]]
        else:
            data = b"\n".join(block.data[block.starts[at] : block.ends[at]] for at in records.tolist())
        try:
            table = pcsv.read_csv(
                pa.BufferReader(data),
                read_options=pcsv.ReadOptions(
                    column_names=list(self._names), use_threads=False, block_size=len(data) + 2
                ),
                parse_options=pcsv.ParseOptions(newlines_in_values=True),
                convert_options=pcsv.ConvertOptions(
                    column_types=self._types,
                    null_values=[""],
                    true_values=list(_TRUE),
                    false_values=list(_FALSE),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            if table.num_rows != len(records):
                return None
            table.validate(full=True)
        except (pa.ArrowException, ValueError):
            return None
        columns = {name: table.column(name).combine_chunks() for name in self._names}
        return self._with_all_columns(columns, len(records))

    def _with_all_columns(self, columns: dict[str, pa.Array], count: int) -> pa.RecordBatch:
        arrays = [
            columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in self._schema
        ]
        return conform(pa.RecordBatch.from_arrays(arrays, names=self._schema.names), self._schema)

    def _judge(self, block: RecordBlock, at: int) -> Fault | None:
        """Return what is wrong with a record whatever its types; None if nothing is."""
        data = block.data[block.starts[at] : block.ends[at]]
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            return Fault("utf8.invalid", f"Byte {error.start} of the record is not valid UTF-8.")
        found = len(next(csv.reader(io.StringIO(text, newline=""), strict=True)))
        if found != len(self._names):
            return Fault("csv.column_count", f"The record has {found} fields, the header {len(self._names)}.")
        return None

    def _judge_types(self, block: RecordBlock, good: np.ndarray) -> dict[int, Fault]:
        """Find, by halving, the records that do not convert."""
        faults: dict[int, Fault] = {}
        pending = [good]
        while pending:
            group = pending.pop()
            if not len(group) or self._parse(block, group) is not None:
                continue
            if len(group) > 1:
                middle = len(group) // 2
                pending += [group[:middle], group[middle:]]
                continue
            at = int(group[0])
            faults[at] = Fault("csv.type", self._conversion_fault(block, at))
        return faults

    def _conversion_fault(self, block: RecordBlock, at: int) -> str:
        """Return which column does not convert; its value is not quoted."""
        one = slice(at, at + 1)
        record = RecordBlock(
            block.data, block.starts[one], block.ends[one], block.nexts[one], block.lines[one], block.first_byte, {}
        )
        text = {name: pa.string() for name in self._names}
        for name, kind in self._types.items():
            schema = pa.schema(list((text | {name: kind}).items()))
            if _Parser(self._names, schema)._parse(record, np.zeros(1, dtype=np.int64)) is None:  # noqa: SLF001
                return f"The value in {name[:100]!r} does not convert to {kind}."
        return "The record does not convert to the schema."


def _meet_text(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    try:
        return meet(first, second, "")
    except TypeConflictError:
        return pa.string()


def _type_of_texts(column: pa.Array) -> pa.DataType:
    """Return the least type that takes all texts of a column."""
    texts = column.drop_null()
    if not len(texts):
        return pa.null()
    if _all_match(texts, _BOOLEAN_PATTERN):
        return pa.bool_()
    if not _all_match(texts, _NUMBER_PATTERN):
        return pa.string()
    try:
        if _all_match(texts, _WHOLE_PATTERN):
            texts.cast(pa.int64())
            return pa.int64()
        is_finite = pc.all(pc.is_finite(texts.cast(pa.float64()))).as_py()
    except pa.ArrowInvalid:
        return pa.string()  # beyond int64: an identifier, most likely
    return pa.float64() if is_finite else pa.string()


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _refuse_type(kind: pa.DataType, where: str) -> None:
    known = (pt.is_null, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_timestamp, pt.is_string)
    if not (any(is_known(kind) for is_known in known) or pt.is_date32(kind)):
        raise UsageError(
            f"Column {where!r} has the type {kind}, which has no agreed form in CSV.",
            hint="Use text, a number, a date32 or a timestamp; or store the data as JSONL or Parquet.",
            column=where,
        )
