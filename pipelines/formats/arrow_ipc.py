"""Arrow IPC, files and streams (`.arrow`, `.feather` version 2; Hugging Face's shards are streams).

Steps:
  1. The messages are walked and bounded before the library opens the file (arrow_messages.py).
  2. Batches are views of the file's bytes; offsets and indices in them are validated before anything follows them.
  3. They are measured and cut (slices.py).
"""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.ipc

from millcert.errors import HostileDataError
from millcert.pipelines.formats.arrow_messages import MessageFacts, scan_messages
from millcert.pipelines.formats.base import (
    Decoded,
    DecodedBudget,
    ReadLimits,
    SchemaFacts,
    buffer_of,
    translate_errors,
)
from millcert.pipelines.formats.canonical import canonical_schema, refuse_other_schema
from millcert.pipelines.formats.slices import bounded_slices


def read_schema(file: BinaryIO, limits: ReadLimits, *, name: str) -> SchemaFacts:
    """Return the canonical schema of an Arrow IPC file or stream.

    Raises:
        HostileDataError: it is neither, or breaks a bound.
        UsageError: it has a type that is not read.
    """
    stored, _ = stored_schema(file, limits, name=name)
    return SchemaFacts(canonical_schema(stored, limits, name=name), is_inferred=False)


def stored_schema(file: BinaryIO, limits: ReadLimits, *, name: str) -> tuple[pa.Schema, MessageFacts]:
    """Return the file's own schema with its metadata, and how it is laid out: what a copy is written with."""
    with translate_errors(name, "Arrow file"):
        reader, facts = _open(file, limits, name)
        return reader.schema, facts


def decode(
    file: BinaryIO, schema: pa.Schema, limits: ReadLimits, budget: DecodedBudget, *, name: str
) -> Iterator[Decoded]:
    """Yield the rows of an Arrow IPC file or stream.

    Raises:
        HostileDataError: messages, offsets or indices do not hold together, or decoding breaks a bound.

    Cost: one read; memory for one compressed batch and the dictionaries, each at most `max_block_bytes`.
    """
    with translate_errors(name, "Arrow file"):
        reader, facts = _open(file, limits, name)
        refuse_other_schema(reader.schema, schema, limits, name=name)
        row = 0
        for index in range(len(facts.batch_offsets)):
            batch = reader.get_batch(index) if facts.is_file else reader.read_next_batch()
            # A null column has no bytes, so this number is a claim like any other; the cut below bounds what it costs.
            yield from bounded_slices(batch, row, schema, limits, budget, name=name)
            row += batch.num_rows
        if facts.is_file and reader.num_record_batches != len(facts.batch_offsets):
            raise HostileDataError(f"{name}: the footer and the messages disagree.", path=name)


def _open(
    file: BinaryIO, limits: ReadLimits, name: str
) -> tuple[pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader, MessageFacts]:
    """Step 1."""
    buffer = buffer_of(file)
    facts = scan_messages(memoryview(buffer).cast("B"), limits, name=name)
    options = pa.ipc.IpcReadOptions(
        use_threads=False, ensure_native_endian=True, ensure_alignment=pa.ipc.Alignment.DataTypeSpecific
    )
    source = pa.BufferReader(buffer)
    reader = pa.ipc.open_file(source, options=options) if facts.is_file else pa.ipc.open_stream(source, options=options)
    if facts.is_file and not pa.ipc.read_schema(pa.BufferReader(buffer.slice(8))).equals(
        reader.schema, check_metadata=True
    ):
        raise HostileDataError(f"{name}: the schema at the start and the one in the footer differ.", path=name)
    # Recursion over nested types happens in the library; a depth that is allowed here is safe there.
    canonical_schema(reader.schema, limits, name=name)
    return reader, facts
