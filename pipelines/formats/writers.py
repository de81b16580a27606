"""Writing what is kept of a file, in the file's own format.

Text formats get the original bytes of each kept record; Parquet and Arrow get the kept rows in the file's own types,
with its schema metadata (Hugging Face's features live there). The same input gives the same bytes: no clock, no names,
and blocks are cut by content.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from millcert.errors import InternalError, UsageError
from millcert.pipelines.formats import arrow_ipc, delimited, parquet
from millcert.pipelines.formats.base import HEAD_BYTES, Decoded, ReadLimits, compression_of_head
from millcert.pipelines.formats.projection import project_header, project_schema, project_stored

_ROW_GROUP_BYTES = 64 << 20
_ROW_GROUP_ROWS = 1 << 20
_COPY_ERROR = "A batch without its stored form was given to a writer."


class ByteSink(Protocol):
    """What is needed of a file that is written from its start to its end."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""
        ...


class Writer(Protocol):
    """Takes what is kept, batch after batch, in the file's order."""

    def write(self, decoded: Decoded) -> None:
        """Write the rows of a batch that `decode` yielded, or part of it (`Decoded.keep`)."""
        ...


@contextmanager
def open_writer(
    format: str,  # noqa: A002 - the field's word
    sink: ByteSink,
    *,
    like: BinaryIO,
    name: str = "the file",
    limits: ReadLimits | None = None,
    kept: frozenset[str] | None = None,
) -> Iterator[Writer]:
    """Write a file of the same format, schema, header and compression as another; complete when the context ends.

    Args:
        format: as `detect_format` returned it for `like`.
        sink: takes the bytes; is not closed.
        like: the file that the batches are decoded from.
        name: of that file, for errors.
        limits: as for `decode`.
        kept: columns to write; None for all.

    Raises:
        UsageError: the format is none that is written.
        HostileDataError: `like` is damaged.
        OSError: the sink refused (callers translate it).
    """
    bounds = limits or ReadLimits()
    with ExitStack() as stack:
        if format in {"jsonl", "csv"}:
            header = delimited.read_header_bytes(like, bounds, name=name) if format == "csv" else b""
            target = stack.enter_context(_compressed(sink, like))
            target.write(header if kept is None or not header else project_header(header, kept))
            yield _projected(_TextWriter(target), kept, header)
        elif format == "parquet":
            stored, codec = parquet.stored_layout(like, bounds, name=name)
            stored = stored if kept is None else project_schema(stored, kept)
            output = stack.enter_context(pq.ParquetWriter(_File(sink), stored, compression=codec))
            writer = _ParquetWriter(output, stored)
            yield _projected(writer, kept)
            writer.finish()
        elif format == "arrow":
            stored, facts = arrow_ipc.stored_schema(like, bounds, name=name)
            stored = stored if kept is None else project_schema(stored, kept)
            options = pa.ipc.IpcWriteOptions(compression=facts.codec, use_threads=False)
            opener = pa.ipc.new_file if facts.is_file else pa.ipc.new_stream
            target_file = stack.enter_context(opener(_File(sink), stored, options=options))
            yield _projected(_ArrowWriter(target_file, stored), kept)
        else:
            raise UsageError(f"{name}: the format {format!r} is not written.")


def _projected(writer: Writer, kept: frozenset[str] | None, header: bytes = b"") -> Writer:
    return writer if kept is None else _ProjectingWriter(writer, kept, header)


class _ProjectingWriter:
    def __init__(self, writer: Writer, kept: frozenset[str], header: bytes) -> None:
        self._writer = writer
        self._kept = kept
        self._header = header

    def write(self, decoded: Decoded) -> None:
        self._writer.write(project_stored(decoded, self._kept, self._header))


class _TextWriter:
    def __init__(self, sink: ByteSink) -> None:
        self._sink = sink

    def write(self, decoded: Decoded) -> None:
        if decoded.raw is None:
            raise InternalError(_COPY_ERROR)
        self._sink.write(b"".join(decoded.raw.records()))


class _ArrowWriter:
    def __init__(self, output: pa.ipc.RecordBatchStreamWriter, stored: pa.Schema) -> None:
        self._output = output
        self._stored = stored

    def write(self, decoded: Decoded) -> None:
        if decoded.stored is None:
            raise InternalError(_COPY_ERROR)
        if decoded.stored.num_rows:
            self._output.write_batch(pa.RecordBatch.from_arrays(decoded.stored.columns, schema=self._stored))


class _ParquetWriter:
    """Gathers batches to row groups of about 64 MiB."""

    def __init__(self, output: pq.ParquetWriter, stored: pa.Schema) -> None:
        self._output = output
        self._stored = stored
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def write(self, decoded: Decoded) -> None:
        if decoded.stored is None:
            raise InternalError(_COPY_ERROR)
        if not decoded.stored.num_rows:
            return
        self._pending.append(pa.RecordBatch.from_arrays(decoded.stored.columns, schema=self._stored))
        self._pending_bytes += decoded.stored.nbytes
        if self._pending_bytes >= _ROW_GROUP_BYTES:
            self.finish()

    def finish(self) -> None:
        """Write the rows that are held."""
        if self._pending:
            table = pa.Table.from_batches(self._pending, schema=self._stored)
            self._output.write_table(table, row_group_size=_ROW_GROUP_ROWS)
        self._pending, self._pending_bytes = [], 0


class _File(io.RawIOBase):
    """A sink as pyarrow wants it: it may ask for the position, and its close does not close the sink."""

    def __init__(self, sink: ByteSink) -> None:
        super().__init__()
        self._sink = sink
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        self._sink.write(bytes(data))
        self._position += len(data)
        return len(data)


@contextmanager
def _compressed(sink: ByteSink, like: BinaryIO) -> Iterator[ByteSink]:
    like.seek(0)
    compression = compression_of_head(like.read(HEAD_BYTES))
    if compression == "gzip":
        with gzip.GzipFile(filename="", mode="wb", fileobj=_File(sink), mtime=0) as target:
            yield target
    elif compression == "zstd":
        with pa.CompressedOutputStream(pa.PythonFile(_File(sink), mode="w"), "zstd") as target:
            yield target
    else:
        yield sink
