"""What an Arrow IPC file can expand to, found from its messages before any library opens it.

The format's own lengths come from the file's maker: the sizes before each compressed buffer, the offsets in the footer.
This module walks the messages in order and finds
  * that each body lies within the file;
  * what each record batch decodes to at once if it is compressed, and what all dictionaries do;
  * that the footer of a file lists exactly the batches that follow one another in it, so that a reader that goes by the
    footer and one that goes by the stream see the same rows.

Source: Arrow columnar format 1.5, "Serialization and Interprocess Communication"; FlatBuffers internals.
"""

import struct
from typing import NamedTuple

from millcert.errors import HostileDataError
from millcert.pipelines.formats.base import ReadLimits

MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY_BATCH, _RECORD_BATCH = 1, 2, 3
_START_OF_FILE = 8
_TAIL_BYTES = 4 + len(MAGIC)


class ArrowFormatError(ValueError):
    """The bytes are no Arrow IPC stream or file. Translated by the caller."""


class MessageFacts(NamedTuple):
    """What the messages say: where the record batches are, and the codec of the first compressed one (None: none)."""

    is_file: bool
    batch_offsets: tuple[int, ...]
    codec: str | None


class _Table:
    """A FlatBuffers table: fields by index, each read with bounds checked by `struct`."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = _inside(data, position)
        self._vtable = _inside(data, position - _unpack("<i", data, position))
        self._vtable_bytes = _unpack("<H", data, self._vtable)

    @classmethod
    def root(cls, data: memoryview) -> "_Table":
        return cls(data, _unpack("<I", data, 0))

    def whole(self, index: int, form: str) -> int:
        """Return a number; 0, the default of all that is read here, where it is absent."""
        place = self._place(index)
        return _unpack(form, self._data, place) if place else 0

    def table(self, index: int) -> "_Table | None":
        place = self._place(index)
        return _Table(self._data, place + _unpack("<I", self._data, place)) if place else None

    def structs(self, index: int, form: str) -> list[tuple[int, ...]]:
        """Return a vector of structs."""
        place = self._place(index)
        if not place:
            return []
        start = place + _unpack("<I", self._data, place)
        count, size = _unpack("<I", self._data, start), struct.calcsize(form)
        if count * size > len(self._data) - start - 4:
            raise ArrowFormatError("a vector is longer than its bytes")
        return list(struct.iter_unpack(form, self._data[start + 4 : start + 4 + count * size]))

    def _place(self, index: int) -> int:
        slot = 4 + 2 * index
        if slot + 2 > self._vtable_bytes:
            return 0
        offset = _unpack("<H", self._data, self._vtable + slot)
        return self._position + offset if offset else 0


def scan_messages(data: memoryview, limits: ReadLimits, *, name: str) -> MessageFacts:
    """Return where the record batches of a stream or file are, after checking what they decode to.

    Raises:
        ArrowFormatError: the messages do not hold together.
        HostileDataError: a message's header, a compressed batch, or the dictionaries are above the limits.

    Cost: about 20 microseconds a message; bodies are not read but for 8 bytes a compressed buffer.
    """
    is_file = bytes(data[: len(MAGIC)]) == MAGIC
    position, end = (_START_OF_FILE, _footer_start(data)) if is_file else (0, len(data))
    dictionaries: list[int] = []
    offsets: list[int] = []
    dictionary_bytes, codec = 0, None
    while True:
        start = position
        header, position = _read_header(data, position, end, limits, name)
        if header is None:
            break
        body_bytes = header.whole(3, "<q")
        if not 0 <= body_bytes <= end - position:
            raise ArrowFormatError("a message's body lies outside the file")
        body = data[position : position + body_bytes]
        kind, content = header.whole(1, "<B"), header.table(2)
        if kind in {_DICTIONARY_BATCH, _RECORD_BATCH} and content is not None:
            batch = content if kind == _RECORD_BATCH else content.table(1)
            decoded_bytes, batch_codec = _decoded_bytes(batch, body)
            codec = codec or batch_codec
            if kind == _RECORD_BATCH:
                offsets.append(start)
            else:
                dictionaries.append(start)
                dictionary_bytes += decoded_bytes
                decoded_bytes = dictionary_bytes
            if batch_codec is not None or kind == _DICTIONARY_BATCH:
                _refuse_large(decoded_bytes, limits, name)
        elif kind != _SCHEMA:
            raise ArrowFormatError(f"a message of kind {kind} is none that is read")
        position += body_bytes
    if is_file:
        _refuse_other_footer(data, end, dictionaries, offsets)
    return MessageFacts(is_file, tuple(offsets), codec)


def _read_header(data: memoryview, position: int, end: int, limits: ReadLimits, name: str) -> tuple[_Table | None, int]:
    """Return the message at a position and where its body starts; None at the end of the stream."""
    if position == end:
        return None, position
    prefix = bytes(data[position : position + 4])
    if prefix == _CONTINUATION:
        position += 4
    size = _unpack("<i", data, position)
    position += 4
    if size == 0:
        return None, position
    if not 0 < size <= end - position:
        raise ArrowFormatError("a message's header lies outside the file")
    if size > limits.max_metadata_bytes:
        raise HostileDataError(
            f"{name}: a message's header has {size} bytes; allowed are {limits.max_metadata_bytes}.",
            hint="See the limit max_metadata_bytes.",
            path=name,
        )
    return _Table.root(data[position : position + size]), position + size


def _decoded_bytes(batch: _Table | None, body: memoryview) -> tuple[int, str | None]:
    """Return what a batch decodes to, and its codec; None where it is not compressed."""
    if batch is None:
        raise ArrowFormatError("a batch has no header")
    compression = batch.table(3)
    if compression is None:
        return len(body), None
    total = 0
    for offset, length in batch.structs(2, "<qq"):
        if length == 0:
            continue
        if not (0 <= offset <= len(body) - 8 and 8 <= length <= len(body) - offset):
            raise ArrowFormatError("a buffer lies outside its body")
        claimed = _unpack("<q", body, offset)
        if claimed < -1:
            raise ArrowFormatError("a compressed buffer has a negative size")
        total += length if claimed == -1 else claimed
    return total, "zstd" if compression.whole(0, "<b") == 1 else "lz4"


def _refuse_large(decoded_bytes: int, limits: ReadLimits, name: str) -> None:
    if decoded_bytes > limits.max_block_bytes:
        raise HostileDataError(
            f"{name}: a compressed record batch, or the dictionaries, decode to {decoded_bytes} bytes at once; allowed "
            f"are {limits.max_block_bytes}.",
            hint="Write smaller record batches, or raise the limit max_block_bytes.",
            path=name,
        )


def _footer_start(data: memoryview) -> int:
    size = _unpack("<i", data, len(data) - _TAIL_BYTES) if len(data) >= _START_OF_FILE + _TAIL_BYTES else -1
    if bytes(data[-len(MAGIC) :]) != MAGIC or not 0 < size <= len(data) - _START_OF_FILE - _TAIL_BYTES:
        raise ArrowFormatError("the file has no footer")
    return len(data) - _TAIL_BYTES - size


def _refuse_other_footer(data: memoryview, start: int, dictionaries: list[int], offsets: list[int]) -> None:
    footer = _Table.root(data[start : len(data) - _TAIL_BYTES])
    for index, found in ((2, dictionaries), (3, offsets)):
        if [block[0] for block in footer.structs(index, "<qi4xq")] != found:
            raise ArrowFormatError("the footer does not list the batches of the file in their order")


def _unpack(form: str, data: memoryview, position: int) -> int:
    if position < 0:
        raise ArrowFormatError("a position lies before the start")
    try:
        return int(struct.unpack_from(form, data, position)[0])
    except struct.error as error:
        raise ArrowFormatError("a position lies behind the end") from error


def _inside(data: memoryview, position: int) -> int:
    if not 0 <= position < len(data):
        raise ArrowFormatError("a position lies outside its message")
    return position
