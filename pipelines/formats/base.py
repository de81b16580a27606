"""What every reader shares: the formats, the bounds, and the shape of what is decoded.

Rules that every reader keeps:
  1. Where a batch ends depends on the file's bytes and the limits only.
  2. A record keeps its index although records before it are malformed: `rows` of all batches and `malformed` together
     are 0, 1, 2, ... without a gap.
  3. Memory is bounded by the limits, whatever the file claims or expands to.
  4. Nothing but errors of millcert.errors leaves a reader.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa

from millcert.errors import HostileDataError, MillcertError, StoreError, UsageError
from millcert.pipelines.spool_memory import HeldBytes

#: The formats that are read. Text formats may be compressed: `.jsonl.gz`, `.csv.zst`.
Format: TypeAlias = Literal["parquet", "jsonl", "csv", "arrow"]

FORMATS: tuple[Format, ...] = get_args(Format)

_MIB = 1 << 20

_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
_COMPRESSION_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
_COMPRESSION_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

#: How many bytes of a file `detect_format` wants to see.
HEAD_BYTES = 16


@dataclass(frozen=True)
class ReadLimits:
    """Bounds on what one file may cost. Sizes are bytes; the defaults are our choice (tests/pipelines/test_bombs.py).

    spool_memory_bytes: a file up to this size is held in memory, a larger one in a private temporary file.
    max_file_bytes: a larger file is refused.
    max_record_bytes: a larger record is malformed (`record.too_large`). A strict look at a JSON record takes up to 25
        times its size in memory.
    max_batch_bytes, max_batch_rows: a batch holds at most so much, except that it holds at least one record.
    max_block_bytes: what a format may force a reader to hold decoded at once (the pages of a Parquet row group's
        columns that are open together, one compressed Arrow record batch, one dictionary).
    max_decoded_bytes: what a file may decode to, in all.
    max_decoded_ratio: decoded size over file size, for files that decode to more than `decoded_floor_bytes`.
    max_metadata_bytes: a Parquet footer, an Arrow message header, a CSV header.
    max_columns: leaf columns of a schema. max_nesting: depth of its types.
    """

    spool_memory_bytes: int = 64 * _MIB
    max_file_bytes: int = 256 << 30
    max_record_bytes: int = 16 * _MIB
    max_batch_bytes: int = 8 * _MIB
    max_batch_rows: int = 16_384
    max_block_bytes: int = 512 * _MIB
    max_decoded_bytes: int = 4 << 40
    max_decoded_ratio: float = 200.0
    decoded_floor_bytes: int = 256 * _MIB
    max_metadata_bytes: int = 16 * _MIB
    max_columns: int = 4096
    max_nesting: int = 32

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise UsageError(f"ReadLimits.{name} must be above 0, got {getattr(self, name)}.", limit=name)

    def decoded_limit_bytes(self, file_size_bytes: int) -> int:
        """Return what a file of this size may decode to."""
        allowed = max(self.decoded_floor_bytes, int(self.max_decoded_ratio * file_size_bytes))
        return min(self.max_decoded_bytes, allowed)


@dataclass(frozen=True)
class SchemaFacts:
    """What a file says of its columns.

    schema: canonical types (see `millcert.pipelines.formats.canonical`), in the file's order.
    is_inferred: True where the format has no types and they were found by reading all values (JSONL, CSV).
    is_all_text: True where every value is text, so that any column may also be read as string (CSV).
    """

    schema: pa.Schema
    is_inferred: bool
    is_all_text: bool = False


@dataclass(frozen=True)
class Malformed:
    """A record that could not be decoded.

    row: its index in the file. line: 1-based line where it starts, for text. byte_offset: where it starts, for text, in
    the decompressed bytes. reason: stable dotted code. detail: one sentence; quotes no value of the data.
    """

    row: int
    line: int | None
    byte_offset: int | None
    reason: str
    detail: str


@dataclass(frozen=True)
class RawSlice:
    """The bytes of each decoded record of a text format, with its line ending where it has one.

    data: bytes of the block. starts, ends: int64 (n,), positions in `data`, one pair for each row of the batch.
    """

    data: bytes
    starts: np.ndarray
    ends: np.ndarray

    def record(self, index: int) -> bytes:
        """Return the bytes of one record."""
        return self.data[self.starts[index] : self.ends[index]]

    def records(self) -> Iterator[bytes]:
        """Yield the bytes of each record, in order."""
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield self.data[start:end]


@dataclass(frozen=True)
class Decoded:
    """A batch of decoded records, and the malformed ones of the same stretch of the file.

    rows: int64 (n,), ascending: the index in the file of each row of `batch`.
    batch: n rows in the asked schema.
    raw: for JSONL and CSV, the records' bytes. stored: for Parquet and Arrow, the same rows in the file's own types.
    """

    rows: np.ndarray
    batch: pa.RecordBatch
    raw: RawSlice | None = None
    stored: pa.RecordBatch | None = None
    malformed: tuple[Malformed, ...] = field(default=())

    def keep(self, mask: np.ndarray) -> "Decoded":
        """Return only the rows where `mask`, bool (n,), is true; malformed records are left out."""
        raw = None if self.raw is None else RawSlice(self.raw.data, self.raw.starts[mask], self.raw.ends[mask])
        stored = None if self.stored is None else filter_rows(self.stored, mask)
        return Decoded(self.rows[mask], filter_rows(self.batch, mask), raw, stored)


def filter_rows(batch: pa.RecordBatch, mask: np.ndarray) -> pa.RecordBatch:
    """Return the rows of a batch where `mask`, bool (n,), is true."""
    try:
        return batch.filter(pa.array(np.asarray(mask, dtype=bool)))
    except pa.ArrowNotImplementedError:
        # Arrow has no filter for views; runs of rows can be sliced and joined whatever their type.
        padded = np.concatenate([[False], mask, [False]]).astype(np.int8)
        starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
        runs = [batch.slice(start, stop - start) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        return pa.concat_batches(runs) if runs else batch.slice(0, 0)


class DecodedBudget:
    """Counts what a file has decoded to, and refuses it when that is out of proportion."""

    def __init__(self, name: str, file_size_bytes: int, limits: ReadLimits) -> None:
        self._name = name
        self._file_size_bytes = file_size_bytes
        self._limit_bytes = limits.decoded_limit_bytes(file_size_bytes)
        self._spent_bytes = 0

    @property
    def spent_bytes(self) -> int:
        """What was decoded so far."""
        return self._spent_bytes

    def spend(self, size_bytes: int) -> None:
        """Add to the count.

        Raises:
            HostileDataError: the file decodes to more than the limits allow for its size.
        """
        self._spent_bytes += size_bytes
        if self._spent_bytes > self._limit_bytes:
            raise HostileDataError(
                f"{self._name} has {self._file_size_bytes} bytes and decodes to more than {self._limit_bytes} bytes.",
                hint="If the data is meant to be so repetitive, raise the limits max_decoded_ratio or "
                "decoded_floor_bytes.",
                path=self._name,
                limit_bytes=self._limit_bytes,
            )


def detect_format(name: str, head: bytes) -> Format:
    """Return the format that the name's suffix and the first bytes agree on.

    Args:
        name: file name or path; the suffix is compared without case.
        head: the first HEAD_BYTES bytes, or the whole file if shorter.

    Raises:
        UsageError: the suffix is none that is read.
        HostileDataError: suffix and content disagree.
    """
    found = format_of_name(name)
    if found is None:
        raise UsageError(
            f"{name}: the suffix names no format that is read.",
            hint=f"Known: {', '.join(_SUFFIXES)}; .gz and .zst behind a text format.",
            path=name,
        )
    magic = _magic(head)
    compression = compression_of_name(name)
    expected = compression or (found if found in {"parquet", "arrow"} else "text")
    is_stream = found == "arrow" and head[:4] == b"\xff\xff\xff\xff"
    if magic != expected and not is_stream:
        raise HostileDataError(
            f"{name}: the suffix says {expected}, the first bytes say {magic}.",
            hint="Rename the file to what it is, or fetch it again.",
            path=name,
            expected=expected,
            actual=magic,
        )
    return found


def format_of_name(name: str) -> Format | None:
    """Return the format that a file's suffix names; None for an unknown suffix or a compressed binary format."""
    lowered = name.lower()
    compressed = compression_of_name(name) is not None
    if compressed:
        lowered = lowered.rpartition(".")[0]
    for suffix, found in _SUFFIXES.items():
        if lowered.endswith(suffix):
            return None if compressed and found in {"parquet", "arrow"} else found
    return None


def compression_of_name(name: str) -> str | None:
    """Return "gzip" or "zstd" if the last suffix says so, else None."""
    return next((kind for suffix, kind in _COMPRESSION_SUFFIXES.items() if name.lower().endswith(suffix)), None)


def compression_of_head(head: bytes) -> str | None:
    """Return "gzip" or "zstd" if the first bytes say so, else None. No JSONL and no UTF-8 CSV starts like that."""
    return next((kind for magic, kind in _COMPRESSION_MAGIC.items() if head.startswith(magic)), None)


def _magic(head: bytes) -> str:
    if head.startswith((b"PAR1", b"PARE")):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    return compression_of_head(head) or "text"


def buffer_of(file: BinaryIO) -> pa.Buffer:
    """Return a file's bytes as an Arrow buffer, without a copy: a view of memory, or a private memory map.

    A memory map of a file that another process truncates ends the process, so give the file of `read_verified`, which
    nobody else can reach.
    """
    import io
    import mmap

    if isinstance(file, HeldBytes):
        return pa.py_buffer(file.view)
    if isinstance(file, io.BytesIO):
        return pa.py_buffer(file.getvalue())  # shares the bytes that it was made of
    try:
        number = file.fileno()
    except (OSError, AttributeError):
        file.seek(0)
        return pa.py_buffer(file.read())
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        return pa.py_buffer(b"")
    return pa.py_buffer(mmap.mmap(number, size, access=mmap.ACCESS_READ))


@contextmanager
def translate_errors(name: str, what: str) -> Iterator[None]:
    """Turn whatever a decoding library raises on bad bytes into a HostileDataError that names the file.

    Raises:
        HostileDataError: the bytes are no valid `what`.
        StoreError: the operating system could not read them.
    """
    try:
        yield
    except MillcertError:
        raise
    except MemoryError as error:
        raise HostileDataError(
            f"{name}: decoding this {what} asks for more memory than there is.", path=name
        ) from error
    except (pa.ArrowException, ValueError, KeyError, IndexError, OverflowError, TypeError, EOFError) as error:
        raise HostileDataError(
            f"{name}: not a valid {what}: {shorten(error)}",
            hint="Fetch the file again; if its digest is the signed one, its producer must repair it.",
            path=name,
        ) from error
    except OSError as error:
        # pyarrow raises plain OSError both for corrupt data and for a failing disk; only the second has an errno.
        if error.errno is not None:
            raise StoreError(f"{name}: reading failed: {shorten(error)}", path=name) from error
        raise HostileDataError(
            f"{name}: not a valid {what}: {shorten(error)}",
            hint="Fetch the file again; if its digest is the signed one, its producer must repair it.",
            path=name,
        ) from error


def shorten(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters, printable."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return "".join(char if char.isprintable() else "?" for char in text[:200])
