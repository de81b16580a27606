r"""JSONL: one JSON object a line.

Rules:
  1. A line is what stands between two "\n"; it is one record. A line of blanks only is no record.
  2. Whether a line is a record does not depend on its neighbours. A block that the fast parser takes whole is good;
     of any other block each line is judged alone, by the strict parser for the reason, by the fast one for the verdict.
  3. Keys that the schema lacks, keys that stand twice, NaN, Infinity and invalid UTF-8 make a record malformed. A key
     that is absent is null.

Why the fast path is sound: the fast parser takes objects that follow each other without regard to lines. If each
line begins with "{" and ends with "}", a line break cannot stand within an object (between "}" and "{" there would
have to be a comma, and no text holds a bare line break), so as many objects as lines means one object on each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.types as pt

from millcert.errors import UsageError
from millcert.pipelines.formats.base import (
    Decoded,
    DecodedBudget,
    Malformed,
    RawSlice,
    ReadLimits,
    shorten,
    translate_errors,
)
from millcert.pipelines.formats.canonical import conform, widest_item_bytes, width_bytes
from millcert.pipelines.formats.json_strict import JsonFaultError, find_type_fault, parse_record
from millcert.pipelines.formats.text import LineBlock, line_blocks, open_text

_OPEN, _CLOSE, _RETURN = ord("{"), ord("}"), ord("\r")
_MIN_BLOCK_BYTES = 4096


def decode(
    file: BinaryIO, schema: pa.Schema, limits: ReadLimits, budget: DecodedBudget, *, name: str
) -> Iterator[Decoded]:
    """Yield the records of a JSONL file in a canonical schema.

    Raises:
        UsageError: the schema has a type that JSON has no agreed form for.
        HostileDataError: a compressed file is damaged, or the file decodes to too much.

    Cost: one read; some 500,000 short records a CPU-second (bench/read_formats.py has the figures).
    """
    parser = _Parser.of(schema, limits)
    row = 0
    with translate_errors(name, "JSONL file"):
        stream = open_text(file, name=name)
        for block in line_blocks(stream, parser.limits, block_bytes=parser.block_bytes):
            decoded, row = parser.decode_block(block, row)
            if decoded is not None:
                budget.spend(max(decoded.batch.nbytes, len(block.data)))
                yield decoded


def check_schema(schema: pa.Schema) -> None:
    """Refuse a schema with a type that JSON has no agreed form for.

    Raises:
        UsageError: such a type, with the column.
    """
    for field in schema:
        _wire_type(field.type, field.name)


def fits_whole(block: LineBlock, schema: pa.Schema, limits: ReadLimits) -> bool:
    """Return whether every line of a block that is a record has a schema, as the fast parser judges.

    False also where the block could expand so much that it may not be parsed at once.
    """
    lines, is_shaped = _records(block)
    parser = _Parser.of(schema, limits)
    if len(block.data) > parser.block_bytes or len(lines) > parser.limits.max_batch_rows:
        return False  # decoding it at once could break a bound
    return bool(is_shaped.all()) and parser.fits(block.data, len(lines))


@dataclass(frozen=True)
class _Parser:
    """What the blocks of one file share.

    wire: the schema as the fast parser can read it (dates as text, fixed-size lists as lists).
    block_bytes: how many bytes are decoded at once, so that the widest expansion stays within the limits.
    """

    schema: pa.Schema
    wire: pa.Schema
    limits: ReadLimits
    block_bytes: int

    @classmethod
    def of(cls, schema: pa.Schema, limits: ReadLimits) -> "_Parser":
        from dataclasses import replace

        wire = pa.schema([pa.field(field.name, _wire_type(field.type, field.name)) for field in schema])
        # The shortest record, "{}", decodes to the width of all columns; the shortest item, "0,", to an item's width.
        row_width = sum(width_bytes(field.type) for field in schema)
        growth = max(1, max((widest_item_bytes(field.type) for field in schema), default=0) // 2)
        tight = replace(
            limits,
            max_batch_rows=max(1, min(limits.max_batch_rows, limits.max_batch_bytes // max(1, row_width))),
            max_record_bytes=max(1, min(limits.max_record_bytes, limits.max_block_bytes // growth)),
        )
        block_bytes = max(_MIN_BLOCK_BYTES, limits.max_batch_bytes * 4 // max(4, growth))
        return cls(schema, wire, tight, min(block_bytes, limits.max_batch_bytes))

    def decode_block(self, block: LineBlock, row: int) -> tuple[Decoded | None, int]:
        """Return the block's records, the first of which has the index `row`; and the index after the last."""
        if block.skipped_bytes:
            detail = f"The line has {block.skipped_bytes} bytes, above {self.limits.max_record_bytes}."
            bad = Malformed(row, block.first_line, block.first_byte, "record.too_large", detail)
            empty = np.zeros(0, dtype=np.int64)
            return Decoded(empty, self._empty(), RawSlice(b"", empty, empty), None, (bad,)), row + 1
        lines, is_shaped = _records(block)
        if not len(lines):
            return None, row
        rows = np.arange(row, row + len(lines), dtype=np.int64)
        after = row + len(lines)
        batch = self._parse(block.data, len(lines)) if is_shaped.all() else None
        if batch is not None:
            raw = RawSlice(block.data, block.starts[lines], block.nexts[lines])
            return Decoded(rows, batch, raw), after
        faults = self._judge(block, lines)
        good = np.array([fault is None for fault in faults], dtype=bool)
        batch = self._parse_lines(block, lines[good])
        if batch is None:
            faults = self._judge_types(block, lines, faults)
            good = np.array([fault is None for fault in faults], dtype=bool)
            batch = self._parse_lines(block, lines[good])
        assert batch is not None
        raw = RawSlice(block.data, block.starts[lines[good]], block.nexts[lines[good]])
        malformed = tuple(
            Malformed(
                int(rows[i]),
                block.first_line + int(lines[i]),
                block.first_byte + int(block.starts[lines[i]]),
                fault.reason,
                fault.detail,
            )
            for i, fault in enumerate(faults)
            if fault is not None
        )
        return Decoded(rows[good], batch, raw, None, malformed), after

    def fits(self, data: bytes, count: int) -> bool:
        """Return whether `count` lines that have the shape of objects all have the schema."""
        return self._parse(data, count) is not None

    def _empty(self) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in self.schema], schema=self.schema)

    def _parse(self, data: bytes, count: int) -> pa.RecordBatch | None:
        """Return the records of `count` lines that have the shape of objects; None if any of them is not good."""
        if count == 0:
            return self._empty()
        if b"\x00" in data:
            return None
        try:
            table = pj.read_json(
                pa.BufferReader(data),
                read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
                parse_options=pj.ParseOptions(explicit_schema=self.wire, unexpected_field_behavior="error"),
            )
            if table.num_rows != count:
                return None
            table.validate(full=True)
            batches = table.combine_chunks().to_batches()
            batch = conform(_with_null_items(batches[0], self.schema), self.schema) if batches else self._empty()
        except (pa.ArrowException, UnicodeDecodeError, ValueError):
            return None
        if not all(_is_finite(column) for column in batch.columns):
            return None
        return batch

    def _parse_lines(self, block: LineBlock, lines: np.ndarray) -> pa.RecordBatch | None:
        pieces = [block.data[block.starts[i] : block.ends[i]].rstrip(b"\r") for i in lines.tolist()]
        return self._parse(b"\n".join(pieces), len(pieces))

    def _judge(self, block: LineBlock, lines: np.ndarray) -> list[JsonFaultError | None]:
        """Judge each line alone by the strict parser."""
        faults: list[JsonFaultError | None] = []
        for i in lines.tolist():
            try:
                record = parse_record(block.data[block.starts[i] : block.ends[i]])
                faults.append(find_type_fault(record, self.schema))
            except JsonFaultError as fault:
                faults.append(fault)
        return faults

    def _judge_types(
        self, block: LineBlock, lines: np.ndarray, faults: list[JsonFaultError | None]
    ) -> list[JsonFaultError | None]:
        """Find, by halving, the lines that are strict JSON but that the conversion to the schema refuses."""
        result = list(faults)
        pending = [[i for i, fault in enumerate(faults) if fault is None]]
        while pending:
            group = pending.pop()
            if not group or self._parse_lines(block, lines[group]) is not None:
                continue
            if len(group) == 1:
                result[group[0]] = JsonFaultError("json.type", self._conversion_fault(block, int(lines[group[0]])))
                continue
            middle = len(group) // 2
            pending += [group[:middle], group[middle:]]
        return result

    def _conversion_fault(self, block: LineBlock, line: int) -> str:
        """Return which column does not convert; its value is not quoted."""
        data = block.data[block.starts[line] : block.ends[line]]
        record = parse_record(data)
        for field in self.schema:
            one = _Parser(pa.schema([field]), pa.schema([self.wire.field(field.name)]), self.limits, self.block_bytes)
            options = pj.ParseOptions(explicit_schema=one.wire, unexpected_field_behavior="ignore")
            try:
                table = pj.read_json(pa.BufferReader(data), parse_options=options)
                batch = _with_null_items(table.combine_chunks().to_batches()[0], one.schema)
                conform(batch, one.schema).validate(full=True)
            except (pa.ArrowException, UnicodeDecodeError, ValueError):
                return f"A value in {field.name[:100]!r} does not convert to {field.type}."
        return shorten(ValueError(f"The record of {len(record)} keys does not convert to the schema."))


def _records(block: LineBlock) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the lines that are records, int64 (n,), and whether each has an object's shape, (n,)."""
    data = np.frombuffer(block.data, dtype=np.uint8)
    starts, ends = block.starts, block.ends.copy()
    is_empty = ends == starts
    last = data[np.maximum(ends - 1, 0)]
    ends[~is_empty & (last == _RETURN)] -= 1
    is_empty = ends == starts
    last = data[np.maximum(ends - 1, 0)]
    is_shaped = ~is_empty & (data[np.minimum(starts, len(data) - 1)] == _OPEN) & (last == _CLOSE)
    is_record = ~is_empty
    for i in np.flatnonzero(is_record & ~is_shaped).tolist():
        text = block.data[starts[i] : ends[i]].strip(b" \t\r")
        is_record[i] = bool(text)
        is_shaped[i] = text[:1] == b"{" and text[-1:] == b"}"
    lines = np.flatnonzero(is_record)
    return lines, is_shaped[lines]


def _is_finite(column: pa.Array) -> bool:
    kind = column.type
    if pt.is_floating(kind):
        return pc.all(pc.is_finite(column)).as_py() is not False
    if pt.is_list(kind) or pt.is_fixed_size_list(kind):
        return _is_finite(column.flatten())
    if pt.is_struct(kind):
        return all(_is_finite(column.field(i)) for i in range(kind.num_fields))
    return True


def _with_null_items(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with the lists whose items are all null as lists of nulls; refuse other items in them."""
    columns = [_null_items(batch.column(field.name), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def _null_items(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pt.is_list(kind) or pt.is_fixed_size_list(kind):
        items = array.values
        if pt.is_null(kind.value_type):
            if items.null_count != len(items):
                raise pa.ArrowInvalid("a list of nulls has another item")
            inner: pa.Array = pa.nulls(len(items))
        else:
            inner = _null_items(items, kind.value_type)
        if inner is items:
            return array
        return pa.ListArray.from_arrays(array.offsets, inner, mask=array.is_null() if array.null_count else None)
    if pt.is_struct(kind) and kind.num_fields:
        before = [array.field(kind.field(i).name) for i in range(kind.num_fields)]
        after = [_null_items(each, kind.field(i).type) for i, each in enumerate(before)]
        if all(new is old for new, old in zip(after, before, strict=True)):
            return array
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(after, names, mask=array.is_null() if array.null_count else None)
    return array


def _wire_type(kind: pa.DataType, where: str) -> pa.DataType:
    if pt.is_date32(kind):
        return pa.string()
    if pt.is_fixed_size_list(kind) or pt.is_list(kind):
        # Arrow 25 reads lists of nulls wrongly; as lists of anything else they come out right.
        item = pa.bool_() if pt.is_null(kind.value_type) else _wire_type(kind.value_type, f"{where}[]")
        return pa.list_(pa.field("item", item))
    if pt.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([pa.field(each.name, _wire_type(each.type, f"{where}.{each.name}")) for each in fields])
    known = (pt.is_null, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_timestamp, pt.is_string)
    if not any(is_known(kind) for is_known in known):
        raise UsageError(
            f"Column {where!r} has the type {kind}, which has no agreed form in JSON.",
            hint="Use text, a number, a date32, a timestamp, a list or a struct; or store the data as Parquet.",
            column=where,
        )
    return kind
