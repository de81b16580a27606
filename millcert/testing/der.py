"""Just enough DER (X.690) to write a timestamp token and a few certificate extensions, and to read a request."""

from datetime import UTC, datetime

_LONG_FORM = 0x80


def tagged(tag: int, *parts: bytes) -> bytes:
    """Return one element: tag, length, content."""
    content = b"".join(parts)
    size = len(content)
    if size < _LONG_FORM:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, _LONG_FORM | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of the parts in the given order."""
    return tagged(0x30, *parts)


def set_of(*parts: bytes) -> bytes:
    """SET OF: the parts in ascending order, as DER wants."""
    return tagged(0x31, *sorted(parts))


def octets(value: bytes) -> bytes:
    """OCTET STRING."""
    return tagged(0x04, value)


def utf8(value: str) -> bytes:
    """UTF8String."""
    return tagged(0x0C, value.encode())


def integer(value: int) -> bytes:
    """INTEGER, not negative."""
    return tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytes([first * 40 + second])
    for number in rest:
        groups = [number & 0x7F]
        number >>= 7  # noqa: PLW2901 - the usual way to write base 128
        while number:
            groups.append(0x80 | (number & 0x7F))
            number >>= 7  # noqa: PLW2901 - as above
        content += bytes(reversed(groups))
    return tagged(0x06, content)


def generalized_time(moment: datetime) -> bytes:
    """GeneralizedTime in UTC, whole seconds."""
    return tagged(0x18, moment.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())


def explicit(number: int, *parts: bytes) -> bytes:
    """A constructed element of the context class, such as `[0]`."""
    return tagged(0xA0 | number, *parts)


def element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element, and what follows it."""
    size, start = data[1], 2
    if size >= _LONG_FORM:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    return data[0], data[start : start + size], data[start + size :]


NULL = b"\x05\x00"
