r"""Where the records of a CSV file begin and end (RFC 4180), in bounded blocks.

Rules:
  1. A quote opens only at the start of a field; inside, two quotes are one; after the closing quote comes a comma or
     the end of the record. A record ends at a line feed (or CR LF) outside quotes. A bare CR outside quotes breaks
     the rules.
  2. A record that breaks rule 1 is malformed and ends at the next line feed after the break, so that one stray
     quote costs one record, not the file.
  3. A record above `max_record_bytes` is malformed and ends at the next line feed after that many bytes.
  4. An empty line is no record.

The fast path looks at all quotes of a block at once: if each one that should open stands after a comma or line feed,
and each one that should close before one, then the line feeds with an even number of quotes before them are the
records' ends.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from millcert.pipelines.formats.base import ReadLimits
from millcert.pipelines.formats.text import BOM, ByteStream, read_exactly

_QUOTE, _COMMA, _LF, _CR = b'",\n\r'

_FIELD = rb'(?:"(?:[^"]++|"")*+"|[^",\r\n]*+)'
_RECORD = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+")
_OPEN_FIELD = re.compile(rb'"(?:[^"]++|"")*+\Z')


class Fault(NamedTuple):
    """Why a record is malformed: a stable code and one sentence."""

    reason: str
    detail: str


class RecordBlock(NamedTuple):
    r"""Whole records of a file.

    data: their bytes. starts, ends, nexts: int64 (n,): where each record starts, where it ends without its line ending,
    where the next one starts. lines: int64 (n,), 1-based line of each start. first_byte: offset in the file of `data`.
    faults: by position, why a record is malformed. A record above the limit has no bytes here.
    """

    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    nexts: np.ndarray
    lines: np.ndarray
    first_byte: int
    faults: dict[int, Fault]


def record_blocks(stream: ByteStream, limits: ReadLimits, *, block_bytes: int) -> Iterator[RecordBlock]:
    """Yield the records of a stream, header included, in blocks of at most `max_batch_rows` records.

    Memory: `block_bytes`, or `max_record_bytes` where one record is longer.
    """
    carry = read_exactly(stream, len(BOM))
    offset, line = (len(BOM), 1) if carry == BOM else (0, 1)
    carry = b"" if carry == BOM else carry
    window_bytes, is_end = block_bytes, False
    while True:
        if not is_end and len(carry) < window_bytes:
            more = read_exactly(stream, window_bytes - len(carry))
            is_end = len(more) < window_bytes - len(carry)
            carry += more
        if not carry:
            return
        block = _split(carry, line, offset, is_end=is_end)
        used = int(block.nexts[-1]) if len(block.nexts) else 0
        if used == 0:
            if not is_end and len(carry) <= limits.max_record_bytes:
                window_bytes = min(2 * window_bytes, limits.max_record_bytes + 1 + block_bytes)
                continue
            carry, skipped, is_end = _skip_record(stream, carry, limits.max_record_bytes, is_end=is_end)
            yield _too_large(line, offset, skipped[0], limits.max_record_bytes)
            offset, line = offset + skipped[0], line + skipped[1]
        else:
            yield from _limited(block, limits)
            line += carry.count(b"\n", 0, used)
            offset += used
            carry = carry[used:]
        window_bytes = block_bytes


def _split(data: bytes, line: int, offset: int, *, is_end: bool) -> RecordBlock:
    """Return the whole records at the start of `data`; all of it if that is the end of the file."""
    view = np.frombuffer(data, dtype=np.uint8)
    breaks = np.flatnonzero(view == _LF)
    quotes = np.flatnonzero(view == _QUOTE)
    if _is_regular(view, quotes, is_end=is_end):
        ends = breaks[np.searchsorted(quotes, breaks) % 2 == 0]
        nexts = ends + 1
        if is_end and (not len(nexts) or nexts[-1] != len(data)):
            ends, nexts = np.append(ends, len(data)), np.append(nexts, len(data))
        faults: dict[int, Fault] = {}
    else:
        ends, nexts, faults = _split_slowly(data, is_end=is_end)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), nexts[:-1]])[: len(nexts)].astype(np.int64)
    lines = line + np.searchsorted(breaks, starts).astype(np.int64)
    has_return = (ends > starts) & (view[np.maximum(ends - 1, 0)] == _CR)
    ends = (ends - has_return).astype(np.int64)
    return RecordBlock(data, starts, ends, nexts.astype(np.int64), lines, offset, faults)


def _is_regular(view: np.ndarray, quotes: np.ndarray, *, is_end: bool) -> bool:
    """Return whether every quote and carriage return stands where rule 1 allows it."""
    last = len(view) - 1
    returns = np.flatnonzero(view == _CR)
    if len(returns):
        in_quotes = np.searchsorted(quotes, returns) % 2 == 1
        before_break = (returns < last) & (view[np.minimum(returns + 1, last)] == _LF)
        if not (in_quotes | before_break | ((returns == last) & (not is_end))).all():
            return False
    if not len(quotes):
        return True
    if is_end and len(quotes) % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    before = view[np.maximum(opening - 1, 0)]
    is_escape = np.zeros(len(opening), dtype=bool)
    is_escape[1:] = opening[1:] == closing[: len(opening) - 1] + 1
    if not ((opening == 0) | (before == _COMMA) | (before == _LF) | is_escape).all():
        return False
    after = view[np.minimum(closing + 1, last)]
    is_escaped = np.zeros(len(closing), dtype=bool)
    is_escaped[: len(opening) - 1] = is_escape[1:]
    return bool(((closing == last) | (after == _COMMA) | (after == _LF) | (after == _CR) | is_escaped).all())


def _split_slowly(data: bytes, *, is_end: bool) -> tuple[np.ndarray, np.ndarray, dict[int, Fault]]:
    """Return (ends, nexts, faults) record by record; the ends still include a carriage return."""
    ends: list[int] = []
    nexts: list[int] = []
    faults: dict[int, Fault] = {}
    position, size = 0, len(data)
    while position < size:
        match = _RECORD.match(data, position)
        stop = match.end() if match else position
        if data[stop : stop + 2] == b"\r\n":
            ends.append(stop + 1)
            nexts.append(stop + 2)
        elif data[stop : stop + 1] == b"\n":
            ends.append(stop)
            nexts.append(stop + 1)
        elif stop == size and is_end:
            ends.append(stop)
            nexts.append(stop)
        elif not is_end and (stop >= size - 1 or _OPEN_FIELD.match(data, stop)):
            break  # what follows may complete it
        else:
            faults[len(ends)] = Fault("csv.quote", "A quote or a carriage return stands where RFC 4180 allows none.")
            after = data.find(b"\n", stop)
            if after < 0 and not is_end:
                del faults[len(ends)]
                break
            ends.append(after if after >= 0 else size)
            nexts.append(after + 1 if after >= 0 else size)
        position = nexts[-1]
    return np.array(ends, dtype=np.int64), np.array(nexts, dtype=np.int64), faults


def _skip_record(
    stream: ByteStream, begun: bytes, max_bytes: int, *, is_end: bool
) -> tuple[bytes, tuple[int, int], bool]:
    """Rule 3: return (what follows the record, (its bytes, its line feeds), whether the stream ended)."""
    size = lines = 0
    data, is_over = begun, is_end
    while True:
        cut = data.find(b"\n", max(0, max_bytes - size)) + 1
        if cut:
            return data[cut:], (size + cut, lines + data.count(b"\n", 0, cut)), is_over
        size, lines = size + len(data), lines + data.count(b"\n")
        data = b"" if is_over else stream.read(1 << 20)
        if not data:
            return b"", (size, lines), True


def _too_large(line: int, offset: int, size_bytes: int, max_bytes: int) -> RecordBlock:
    zero = np.zeros(1, dtype=np.int64)
    fault = Fault("record.too_large", f"The record has {size_bytes} bytes, above {max_bytes}, or a quote never closes.")
    return RecordBlock(b"", zero, zero, zero, np.array([line], dtype=np.int64), offset, {0: fault})


def _limited(block: RecordBlock, limits: ReadLimits) -> Iterator[RecordBlock]:
    """Drop empty lines, mark long records, cut at `max_batch_rows`."""
    is_record = block.ends > block.starts
    kept = np.flatnonzero(is_record)
    place = {int(old): new for new, old in enumerate(kept.tolist())} if block.faults else {}
    faults = {place[old]: fault for old, fault in block.faults.items() if old in place}
    for index in np.flatnonzero((block.ends - block.starts)[kept] > limits.max_record_bytes).tolist():
        detail = f"The record has more than {limits.max_record_bytes} bytes."
        faults[index] = Fault("record.too_large", detail)
    for first in range(0, len(kept), limits.max_batch_rows):
        chosen = kept[first : first + limits.max_batch_rows]
        mine = {at - first: fault for at, fault in faults.items() if first <= at < first + len(chosen)}
        yield RecordBlock(
            block.data,
            block.starts[chosen],
            block.ends[chosen],
            block.nexts[chosen],
            block.lines[chosen],
            block.first_byte,
            mine,
        )
