"""What a Parquet column chunk can expand to, found from its pages before any value is decoded.

A footer's sizes are claims; pages are what the reader will decode. For each chunk this module finds
  values            sum of its pages' values; must equal the footer's claim
  open_bytes        largest data page plus the dictionary page, decompressed: what is held while it is read
  bytes_per_value   no run of v values decodes to more than v * bytes_per_value + 2 * open_bytes
  values_per_row    no row has more values than this (1 unless nested; None where it was not looked for)

bytes_per_value by encoding: fixed width for numbers; the longest dictionary entry for dictionary pages (this is what a
787-byte file of 1 GB of strings breaks); decoded page size over values for plain text; the whole page for
DELTA_BYTE_ARRAY, whose values share prefixes.

Source: Apache Parquet format 2.11, parquet.thrift and Encodings.md.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.pipelines.formats.parquet_delta import check_length_counts
from millcert.pipelines.formats.parquet_footer import Chunk
from millcert.pipelines.formats.parquet_thrift import PageHeader, ThriftError, read_page_header

_DATA_V1, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
_PLAIN, _PLAIN_DICTIONARY, _DELTA_LENGTH, _DELTA_BYTE_ARRAY, _RLE_DICTIONARY = 0, 2, 6, 7, 8
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_DECIMAL_BYTES = 32
#: Offset, validity and levels that go with each decoded value.
_OVERHEAD_BYTES = 12


class ChunkFacts(NamedTuple):
    """Bounds on what one column chunk decodes to; see the module's docstring."""

    values: int
    open_bytes: int
    bytes_per_value: int
    values_per_row: int | None

    @property
    def total_bytes(self) -> int:
        """Return an upper bound of the chunk decoded."""
        return self.values * self.bytes_per_value + 2 * self.open_bytes


class _Page(NamedTuple):
    header: PageHeader
    start: int  # of the body


def scan_chunk(data: memoryview, chunk: Chunk, *, max_page_bytes: int) -> ChunkFacts:
    """Return the bounds of a chunk from its page headers and its dictionary page.

    Args:
        data: the whole file.
        chunk: the footer's entry of the chunk.
        max_page_bytes: larger pages are refused.

    Raises:
        ThriftError: pages do not add up to what the footer says, lie outside the file, or are too large.

    Cost: about 15 microseconds a page, and one decompression of the dictionary page.
    """
    pages = _pages(data, chunk, max_page_bytes)
    is_nested = chunk.leaf.max_repetition > 0
    width = _fixed_width(chunk)
    per_value, largest, dictionary_bytes, longest_entry = 0, 0, 0, 0
    for page in pages:
        header = page.header
        if header.kind == _DICTIONARY:
            dictionary_bytes = header.decoded_bytes
            if header.values * _least_entry_bytes(chunk) > header.decoded_bytes:
                raise ThriftError("a dictionary claims more entries than it has bytes for")
            longest_entry = _longest_entry(data, page, chunk) if width is None else 0
        elif header.kind in {_DATA_V1, _DATA_V2}:
            largest = max(largest, header.decoded_bytes)
            if header.encoding in {_DELTA_LENGTH, _DELTA_BYTE_ARRAY}:
                _check_lengths(data, page, chunk)
            per_value = max(per_value, _bytes_per_value(header, width, longest_entry))
    return ChunkFacts(
        values=chunk.values,
        open_bytes=largest + dictionary_bytes,
        bytes_per_value=per_value + _OVERHEAD_BYTES,
        values_per_row=None if is_nested else 1,
    )


def longest_row(data: memoryview, chunk: Chunk, *, max_page_bytes: int) -> int:
    """Return how many values the longest row of a nested chunk has, from its repetition levels.

    Raises:
        ThriftError: as `scan_chunk`; or levels that do not add up.

    Cost: decompresses the V1 pages of the chunk.
    """
    bits = int(chunk.leaf.max_repetition).bit_length()
    longest = running = 0
    for page in _pages(data, chunk, max_page_bytes):
        header = page.header
        if header.kind not in {_DATA_V1, _DATA_V2}:
            continue
        if header.kind == _DATA_V1 and header.level_encoding != 3:
            return chunk.values  # the retired bit-packed levels: no better bound is looked for
        longest, running = _count_levels(_level_bytes(data, page, chunk), bits, header.values, longest, running)
    return max(longest, running)


def _pages(data: memoryview, chunk: Chunk, max_page_bytes: int) -> list[_Page]:
    start, stop = chunk.start, chunk.start + chunk.size_bytes
    if not 0 <= start <= stop <= len(data):
        raise ThriftError("a column chunk lies outside the file")
    pages: list[_Page] = []
    values, position, window = 0, start, data[:stop]
    while values < chunk.values:
        header = read_page_header(window, position)
        body = position + header.header_bytes
        position = body + header.stored_bytes
        if position > stop:
            raise ThriftError("a page reaches beyond its column chunk")
        if max(header.decoded_bytes, header.stored_bytes) > max_page_bytes:
            raise ThriftError(f"a page has {header.decoded_bytes} bytes decoded, more than {max_page_bytes}")
        if header.kind == _DICTIONARY and pages:
            raise ThriftError("a dictionary page is not the first of its column chunk")
        if header.kind in {_DATA_V1, _DATA_V2}:
            values += header.values
        pages.append(_Page(header, body))
    if values != chunk.values:
        raise ThriftError(f"the footer says {chunk.values} values, the pages hold {values}")
    return pages


def _bytes_per_value(header: PageHeader, width: int | None, longest_entry: int) -> int:
    if width is not None:
        return width
    if header.encoding in {_PLAIN_DICTIONARY, _RLE_DICTIONARY}:
        return longest_entry
    if header.encoding in {_PLAIN, _DELTA_LENGTH}:
        return -(-header.decoded_bytes // max(1, header.values))
    return header.decoded_bytes


def _fixed_width(chunk: Chunk) -> int | None:
    """Return the decoded width of a value; None for text and binary of any length."""
    if chunk.leaf.is_decimal:
        return _DECIMAL_BYTES + chunk.leaf.length
    if chunk.leaf.physical == "FIXED_LEN_BYTE_ARRAY":
        return chunk.leaf.length
    return _WIDTHS.get(chunk.leaf.physical)


def _least_entry_bytes(chunk: Chunk) -> int:
    """Return how many bytes an entry of a dictionary page has at least."""
    if chunk.leaf.physical == "FIXED_LEN_BYTE_ARRAY":
        return max(1, chunk.leaf.length)
    return _WIDTHS.get(chunk.leaf.physical, 4)


def _check_lengths(data: memoryview, page: _Page, chunk: Chunk) -> None:
    """Refuse a delta-encoded page that makes a reader decode more lengths than the page has values."""
    header = page.header
    stored = data[page.start : page.start + header.stored_bytes]
    if header.kind == _DATA_V2:
        levels = sum(header.level_bytes)
        values = stored[levels:]
        decoded_bytes = header.decoded_bytes - levels
        body = _decompressed(values, decoded_bytes, chunk) if header.is_compressed else bytes(values)
        start = 0
    else:
        body, start = _decompressed(stored, header.decoded_bytes, chunk), 0
        for level in (chunk.leaf.max_repetition, chunk.leaf.max_definition):
            if body is not None and level > 0:
                start += 4 + int.from_bytes(body[start : start + 4], "little")
    if body is None:
        raise ThriftError("a delta-encoded page cannot be decompressed")
    if start < len(body):
        check_length_counts(body, start, header.values, has_prefixes=header.encoding == _DELTA_BYTE_ARRAY)


def _decompressed(stored: memoryview, decoded_bytes: int, chunk: Chunk) -> bytes | None:
    """Return a page's bytes; None where the codec cannot be told from the footer or refuses."""
    if chunk.codec == "none":
        return bytes(stored)
    name = "lz4_raw" if chunk.codec == "lz4" else chunk.codec
    try:
        return pa.Codec(name).decompress(stored, decompressed_size=decoded_bytes, asbytes=True)
    except (pa.ArrowException, OSError, ValueError):
        return None


def _longest_entry(data: memoryview, page: _Page, chunk: Chunk) -> int:
    """Return the length of the longest entry of a text dictionary; the whole page where it cannot be read."""
    header = page.header
    body = _decompressed(data[page.start : page.start + header.stored_bytes], header.decoded_bytes, chunk)
    if body is None:
        return header.decoded_bytes
    longest, position, end = 0, 0, len(body)
    while position + 4 <= end:
        length = int.from_bytes(body[position : position + 4], "little")
        longest = max(longest, length)
        position += 4 + length
    return longest if position == end else max(longest, header.decoded_bytes)


def _level_bytes(data: memoryview, page: _Page, chunk: Chunk) -> bytes:
    header = page.header
    body = data[page.start : page.start + header.stored_bytes]
    if header.kind == _DATA_V2:
        return bytes(body[: header.level_bytes[0]])
    decoded = _decompressed(body, header.decoded_bytes, chunk)
    if decoded is None or len(decoded) < 4:
        raise ThriftError("the levels of a nested column cannot be read")
    length = int.from_bytes(decoded[:4], "little")
    return decoded[4 : 4 + length]


def _count_levels(levels: bytes, bits: int, values: int, longest: int, running: int) -> tuple[int, int]:
    """Return (longest row so far, length of the row that is still open) after a page's repetition levels.

    The levels are in the hybrid of runs and bit-packed groups of eight; a level of 0 starts a row.
    """
    position, seen, step = 0, 0, (bits + 7) // 8
    while seen < values:
        header, position = _varint(levels, position)
        if header & 1:
            groups = header >> 1
            packed = levels[position : position + groups * bits]
            position += groups * bits
            flat = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
            is_inner: np.ndarray = np.any(flat[: len(flat) // bits * bits].reshape(-1, bits), axis=1)
            starts = np.logical_not(is_inner)[: values - seen]
            if not len(starts):
                raise ThriftError("the levels of a nested column end early")
            seen += len(starts)
            where = np.flatnonzero(starts)
            if len(where):
                longest = max(longest, running + int(where[0]), int(np.diff(where).max(initial=0)))
                running = len(starts) - int(where[-1])
            else:
                running += len(starts)
        else:
            count = min(header >> 1, values - seen)
            level = int.from_bytes(levels[position : position + step], "little")
            position += step
            if count == 0:
                raise ThriftError("the levels of a nested column have an empty run")
            seen += count
            if level:
                running += count
            else:
                longest, running = max(longest, running), 1
    return longest, running


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while shift < 64:
        if position >= len(data):
            raise ThriftError("the levels of a nested column end early")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise ThriftError("a number is longer than 64 bits")
