"""Text files as streams of bounded blocks: decompression, byte order mark, lines with their place.

A gzip or zstd file is told by its first bytes. It is decompressed in steps, so a bomb costs no more than a block before
the file's budget refuses it.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from millcert.pipelines.formats.base import HEAD_BYTES, ReadLimits, buffer_of, compression_of_head, translate_errors

BOM = b"\xef\xbb\xbf"
_NEWLINE, _RETURN = 10, 13


class ByteStream(Protocol):
    """What is needed of a file that is read from its start to its end."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none only at the end."""
        ...


class LineBlock(NamedTuple):
    r"""Whole lines of a file.

    data: the lines' bytes. starts: int64 (n,), where each line starts in `data`. ends: where it ends, without "\n".
    nexts: where the next one starts. first_line: number of the first line, from 1. first_byte: its offset in the file.
    skipped_bytes: 0; or the length of one line above the limit, which then is all that the block stands for (n = 1 and
    `data` is empty).
    """

    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    nexts: np.ndarray
    first_line: int
    first_byte: int
    skipped_bytes: int = 0


def open_text(file: BinaryIO, *, name: str) -> ByteStream:
    """Return the decompressed bytes of a text file as a stream, from its start.

    Raises:
        HostileDataError: (while reading, through `translate_errors` of the caller) the compressed data is damaged.
    """
    file.seek(0)
    compression = compression_of_head(file.read(HEAD_BYTES))
    file.seek(0)
    if compression is None:
        return file
    with translate_errors(name, f"{compression} file"):
        return _Decompressed(pa.CompressedInputStream(pa.BufferReader(buffer_of(file)), compression))


def read_exactly(stream: ByteStream, size_bytes: int) -> bytes:
    """Return `size_bytes` bytes, fewer only at the end of the stream."""
    first = stream.read(size_bytes)
    if len(first) == size_bytes or not first:
        return first
    parts, missing = [first], size_bytes - len(first)
    while missing:
        more = stream.read(missing)
        if not more:
            break
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


def line_blocks(stream: ByteStream, limits: ReadLimits, *, block_bytes: int) -> Iterator[LineBlock]:
    """Yield the lines of a stream in blocks of at most `max_batch_rows` lines.

    A block holds up to `block_bytes`, or one longer line; a line above `max_record_bytes` comes as a block of its own
    that only has its length. A byte order mark at the start is left out (its bytes count in offsets).
    """
    line, offset = 1, 0
    carry = read_exactly(stream, len(BOM))
    if carry == BOM:
        carry, offset = b"", len(BOM)
    is_end = False
    while not is_end or carry:
        if not is_end and len(carry) < block_bytes:
            more = read_exactly(stream, block_bytes - len(carry))
            is_end = len(more) < block_bytes - len(carry)
            carry += more
        cut = carry.rfind(b"\n") + 1
        if cut == 0 and not is_end:
            carry, skipped_bytes, is_end = _finish_line(stream, carry, limits.max_record_bytes)
            if skipped_bytes:
                yield _skipped(line, offset, skipped_bytes)
                line, offset = line + 1, offset + skipped_bytes
                continue
            cut = carry.rfind(b"\n") + 1
        data, carry = (carry, b"") if is_end else (carry[:cut], carry[cut:])
        if not data:
            continue
        for block in _split(data, line, offset, limits.max_batch_rows):
            yield from _without_long_lines(block, limits.max_record_bytes)
            line = block.first_line + len(block.starts)
        offset += len(data)


class _Decompressed:
    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        return self._stream.read(size)


def _finish_line(stream: ByteStream, begun: bytes, max_bytes: int) -> tuple[bytes, int, bool]:
    """Read on to the end of a line that fills a block: (line and what follows, 0, end), or (rest, its length, end)."""
    whole = io.BytesIO()
    whole.write(begun)
    size = len(begun)
    while True:
        more = stream.read(1 << 20)
        cut = more.find(b"\n") + 1
        size += cut or len(more)
        if size <= max_bytes + 2:
            whole.write(more)
        if not more or cut:
            break
    if size > max_bytes + 2:
        return more[cut:] if cut else b"", size, not more
    return whole.getvalue(), 0, not more


def _skipped(line: int, offset: int, size_bytes: int) -> LineBlock:
    zero = np.zeros(1, dtype=np.int64)
    return LineBlock(b"", zero, zero, zero, line, offset, size_bytes)


def _split(data: bytes, line: int, offset: int, max_lines: int) -> Iterator[LineBlock]:
    nexts = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _NEWLINE).astype(np.int64) + 1
    ends = nexts - 1
    if not len(nexts) or nexts[-1] != len(data):
        nexts, ends = np.append(nexts, len(data)), np.append(ends, len(data))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), nexts[:-1]])
    for first in range(0, len(starts), max_lines):
        last = min(first + max_lines, len(starts)) - 1
        base = int(starts[first])
        part = slice(first, last + 1)
        yield LineBlock(
            data[base : int(nexts[last])],
            starts[part] - base,
            ends[part] - base,
            nexts[part] - base,
            line + first,
            offset + base,
        )


def _without_long_lines(block: LineBlock, max_bytes: int) -> Iterator[LineBlock]:
    """Split a block at lines above the limit, which a block may hold when the limit is below the block's size."""
    long = np.flatnonzero(block.ends - block.starts > max_bytes)
    first = 0
    for index in [*long.tolist(), len(block.starts)]:
        if index > first:
            part, base = slice(first, index), int(block.starts[first])
            yield LineBlock(
                block.data[base : int(block.nexts[index - 1])],
                block.starts[part] - base,
                block.ends[part] - base,
                block.nexts[part] - base,
                block.first_line + first,
                block.first_byte + base,
            )
        if index < len(block.starts):
            size = int(block.nexts[index] - block.starts[index])
            yield _skipped(block.first_line + index, block.first_byte + int(block.starts[index]), size)
        first = index + 1
