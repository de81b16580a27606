"""Writing what a file yields: to a staging folder on any Beam filesystem, hashed while it is written."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from millcert.errors import StoreError
from millcert.pipelines.formats import Decoded, ReadLimits
from millcert.pipelines.formats.writers import open_writer
from millcert.pipelines.publish import is_local
from millcert.pipelines.records import WorkItem
from millcert.pipelines.remote_file import create_remote
from millcert.pipelines.spool import Spooled

_COPY_BYTES = 1 << 20
_READ_ROWS = 4096


class Written(NamedTuple):
    """A file that a worker wrote. sha256: hex."""

    uri: str
    sha256: str
    size_bytes: int


_RECORD: ContextVar[list[Written] | None] = ContextVar("_RECORD", default=None)


class HashingStream(io.RawIOBase):
    """Hands bytes on to another stream and keeps their SHA-256 and number."""

    def __init__(self, target: BinaryIO) -> None:
        super().__init__()
        self._target = target
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        self._target.write(view)
        self._hash.update(view)
        self._size_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size_bytes

    def result(self) -> tuple[str, int]:
        """Return (sha256 hex, size in bytes)."""
        return self._hash.hexdigest(), self._size_bytes


class PartWriter:
    """A file that is made when its first row is written; a part without rows leaves no file.

    Usage: `with PartWriter(uri, schema) as part: part.write(batch)`. The bytes depend on the batches only.
    """

    def __init__(self, uri: str, schema: pa.Schema, *, as_stream: bool = False) -> None:
        """Name the file and the schema of its batches; `as_stream` asks for an Arrow IPC stream instead of Parquet."""
        self._uri = uri
        self._schema = schema
        self._as_stream = as_stream
        self._stack = ExitStack()
        self._hashed: HashingStream | None = None
        self._writer: Any = None
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    @property
    def sha256(self) -> str:
        """The digest of a stream, hex; "" without rows, and of Parquet; complete when the context has ended."""
        return "" if self._hashed is None else self._hashed.result()[0]

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch of the part's schema; an empty one does nothing.

        Raises:
            StoreError: the file system refused.
        """
        if not batch.num_rows:
            return
        with translate_store_errors(self._uri):
            if self._writer is None:
                self._writer = self._stack.enter_context(self._open())
            self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def _open(self) -> Any:
        target = self._stack.enter_context(open_output(self._uri))
        if self._as_stream:
            self._hashed = HashingStream(target)
            return pa.ipc.new_stream(self._hashed, self._schema)
        return pq.ParquetWriter(target, self._schema, compression="zstd", store_schema=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with translate_store_errors(self._uri):
            self._stack.close()


def read_part(uri: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a Parquet file that a run wrote, none where there is no such file.

    Raises:
        StoreError: the file system failed, or the file is damaged.
    """
    with translate_store_errors(uri, "read"):
        if not FileSystems.exists(uri):
            return
    with open_written(uri) as stream:
        yield from pq.ParquetFile(pa.PythonFile(stream, mode="r")).iter_batches(batch_size=_READ_ROWS)


class _RecordedStream(HashingStream):
    def __init__(self, target: BinaryIO, uri: str, record: list[Written], sha256: str) -> None:
        super().__init__(target)
        self._uri = uri
        self._record = record
        self._known = sha256

    def write(self, data: Any) -> int:
        if not self._known:
            return super().write(data)
        view = memoryview(data).cast("B")
        self._target.write(view)
        self._size_bytes += len(view)
        return len(view)

    def close(self) -> None:
        if not self.closed:
            self._target.close()
            super().close()
            self._record.append(Written(self._uri, self._known or self._hash.hexdigest(), self._size_bytes))


def copy_spooled(spooled: Spooled, uri: str) -> tuple[str, int]:
    """Write a verified file unchanged; return its SHA-256 (hex) and size in bytes.

    Raises:
        StoreError: the file system refused.
    """
    size_bytes = 0
    with translate_store_errors(uri), open_output(uri, sha256=spooled.sha256) as target:
        spooled.file.seek(0)
        while chunk := spooled.file.read(_COPY_BYTES):
            target.write(chunk)
            size_bytes += len(chunk)
    if size_bytes != spooled.size_bytes:
        raise StoreError(f"{uri}: {size_bytes} of {spooled.size_bytes} bytes were copied.", hint="Run again.")
    # What lies in the private copy is what was hashed when it was made.
    return spooled.sha256, size_bytes


def write_admitted(
    uri: str,
    item: WorkItem,
    spooled: Spooled,
    kept: Iterable[Decoded],
    limits: ReadLimits,
    columns: frozenset[str] | None = None,
) -> tuple[str, int]:
    """Write what is kept of a file, in the file's own format; return its SHA-256 (hex) and size in bytes.

    `columns` are those to write, None for all.

    Raises:
        StoreError: the file system refused.
        HostileDataError: the file breaks a bound while it is decoded again.
    """
    with translate_store_errors(uri), open_output(uri) as target:
        stream = HashingStream(target)
        with open_writer(item.format, stream, like=spooled.file, name=item.name, limits=limits, kept=columns) as writer:
            for decoded in kept:
                writer.write(decoded)
    return stream.result()


def part_id(name: str) -> str:
    """Return what a part of a data file is called: it says nothing of the data and is safe on every file system."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def part_name(name: str) -> str:
    """Return what the Parquet part of a data file is called."""
    return f"{part_id(name)}.parquet"


def open_output(uri: str, *, sha256: str = "") -> BinaryIO:
    """Open a file of the staging folder for writing, its folders made where that means something.

    Args:
        uri: of the file.
        sha256: hex, of what will be written, where that is known; `recorded_outputs` finds it out otherwise.
    """
    stream: BinaryIO
    if is_local(uri):
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("wb")
    else:
        stream = create_remote(uri)
    record = _RECORD.get()
    return stream if record is None else cast("BinaryIO", _RecordedStream(stream, uri, record, sha256))


@contextmanager
def recorded_outputs() -> Iterator[list[Written]]:
    """Yield a list that every file opened by `open_output` meanwhile joins when it is closed."""
    record: list[Written] = []
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


@contextmanager
def translate_store_errors(uri: str, doing: Literal["read", "write"] = "write") -> Iterator[None]:
    """Turn an operating system's refusal, or bytes that Arrow cannot read, into a StoreError that names the file."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        hint = "Free space or rights, then run again." if doing == "write" else "Run again; nothing was published."
        raise StoreError(f"Cannot {doing} {uri}: {error}", hint=hint) from error


@contextmanager
def open_written(uri: str) -> Iterator[BinaryIO]:
    """Open a file that a run wrote before for reading.

    Raises:
        StoreError: it cannot be read, or what is read of it inside the context is damaged; a retry is safe.
    """
    with (
        translate_store_errors(uri, "read"),
        FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as stream,
    ):
        yield stream


def read_whole(uri: str) -> bytes:
    """Return the bytes of a file that a run wrote before, which fits into memory.

    Raises:
        StoreError: it cannot be read; a retry is safe.
    """
    with open_written(uri) as stream:
        return bytes(stream.read())
