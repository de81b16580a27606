"""Whole numbers as short text: LEB128 variable-length bytes in base64, one text for one list of numbers.

Source: DWARF 5, section 7.6 (LEB128); RFC 4648, section 4 (base64); zigzag for signed numbers as in Protocol Buffers.
"""

import base64
import binascii

import numpy as np

from millcert.errors import IntegrityError

_MAX_BYTES = 10


def pack(numbers: np.ndarray) -> str:
    """Return numbers, shape (n,), whole, 0 to 2^64 - 1, as text."""
    words = numbers.astype(np.uint64)
    if not len(words) or words.max() < 0x80:  # as most counts are
        return base64.b64encode(words.astype(np.uint8).tobytes()).decode()
    used = -(-int(words.max()).bit_length() // 7)
    groups = words[:, None] >> (np.uint64(7) * np.arange(used, dtype=np.uint64))
    is_used = groups > 0
    is_used[:, 0] = True
    has_more = np.zeros_like(is_used)
    has_more[:, :-1] = is_used[:, 1:]
    data = (groups & np.uint64(0x7F)).astype(np.uint8) | (has_more.astype(np.uint8) << 7)
    return base64.b64encode(data[is_used].tobytes()).decode()


def unpack(text: object, most: int) -> np.ndarray:
    """Return the numbers that `pack` wrote, uint64 (n,).

    Args:
        text: what stands in a file.
        most: how many numbers there may be.

    Raises:
        IntegrityError: it is no such text, holds more numbers, or is not the one text for them.
    """
    if not isinstance(text, str):
        raise IntegrityError(f"Expected packed numbers, found {type(text).__name__}.")
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError("Packed numbers are not valid base64.") from error
    is_end = data < 0x80
    if len(data) <= most and is_end.all():  # as most counts are: every number is one byte
        if base64.b64encode(data.tobytes()).decode() != text:
            raise _not_shortest()
        return data.astype(np.uint64)
    ends = np.flatnonzero(is_end)
    if len(ends) > most:
        raise IntegrityError(f"Expected at most {most} packed numbers, found {len(ends)}.")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if len(ends) else ends
    lengths = ends - starts + 1
    if len(data) != (int(ends[-1]) + 1 if len(ends) else 0) or (len(ends) and lengths.max() > _MAX_BYTES):
        raise IntegrityError("Packed numbers end within a number, or have one of more than 64 bits.")
    numbers = np.zeros(len(ends), dtype=np.uint64)
    for place in range(int(lengths.max()) if len(ends) else 0):
        has = lengths > place
        numbers[has] |= (data[starts[has] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    # Shortest: no leading zero byte, 64 bits at most, no stray bits behind the last byte.
    is_long = lengths > 1
    is_short = (data[ends[is_long]] != 0).all() and (data[ends[lengths == _MAX_BYTES]] <= 1).all()
    if not is_short or base64.b64encode(data.tobytes()).decode() != text:
        raise _not_shortest()
    return numbers


def _not_shortest() -> IntegrityError:
    return IntegrityError("Packed numbers are not in their shortest form.")


def pack_ascending(numbers: np.ndarray) -> str:
    """Return distinct ascending numbers as text: the first, then each less the one before."""
    words = numbers.astype(np.uint64)
    return pack(np.concatenate([words[:1], np.diff(words)]))


def unpack_ascending(text: object, most: int) -> np.ndarray:
    """Return the numbers that `pack_ascending` wrote, uint64 (n,), strictly ascending.

    Raises:
        IntegrityError: as `unpack`, or the numbers do not ascend.
    """
    numbers = np.cumsum(unpack(text, most), dtype=np.uint64)
    if len(numbers) > 1 and not (numbers[1:] > numbers[:-1]).all():
        raise IntegrityError("Packed numbers do not ascend.")
    return numbers


def pack_signed(numbers: np.ndarray) -> str:
    """Return int64 numbers as text: 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    words = numbers.astype(np.int64)
    return pack(((words << 1) ^ (words >> 63)).view(np.uint64))


def unpack_signed(text: object, most: int) -> np.ndarray:
    """Return the numbers that `pack_signed` wrote, int64 (n,).

    Raises:
        IntegrityError: as `unpack`.
    """
    words = unpack(text, most)
    return (words >> np.uint64(1)).view(np.int64) ^ -(words & np.uint64(1)).view(np.int64)
