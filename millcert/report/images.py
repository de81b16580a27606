"""Small images for a report: what may be shown, and a PNG writer for arrays of numbers.

Rules this module keeps:
  1. Bytes become an image only if their first bytes are those of PNG, JPEG, GIF or WebP, they are at most 64 KiB, and
     the size in pixels that their header states is sane; the type in the data URI is the one that the bytes have.
  2. Everything else is described in words. SVG is never an image here: it is a document that can hold script.
"""

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from millcert.report.model import PixelArray

MAX_IMAGE_BYTES = 64 * 1024
#: Our choice: a browser needs 4 bytes a pixel, so an image costs its reader at most 4 MiB.
MAX_SIDE = 2048
MAX_PIXELS = 1024 * 1024
_BYTE = 255


class ImageHeader(NamedTuple):
    """What an image's first bytes say. kind: the part after "image/" of its media type."""

    kind: str
    width: int
    height: int


def image_header(data: bytes) -> ImageHeader | None:
    """Return type and size of PNG, JPEG, GIF or WebP bytes; None if they are none of these or the header is broken."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return ImageHeader("png", *struct.unpack_from(">II", data, 16))
    if data[:6] in {b"GIF87a", b"GIF89a"} and len(data) >= 10:
        return ImageHeader("gif", *struct.unpack_from("<HH", data, 6))
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_header(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp_header(data)
    return None


def why_not_shown(data: bytes) -> str:
    """Return why bytes are not drawn, in words; "" if they may be."""
    header = image_header(data)
    if header is None:
        return "not a PNG, JPEG, GIF or WebP image"
    described = f"{header.kind} image of {header.width:,} x {header.height:,} pixels"
    if not header.width or not header.height:
        return f"{described}, which is empty"
    if max(header.width, header.height) > MAX_SIDE or header.width * header.height > MAX_PIXELS:
        return f"{described}, too large to show"
    if len(data) > MAX_IMAGE_BYTES:
        return f"{described}, larger than {MAX_IMAGE_BYTES // 1024} KiB"
    return ""


def data_uri(data: bytes) -> Markup:
    """Return the data URI of bytes for which `why_not_shown` is ""."""
    header = image_header(data)
    kind = header.kind if header is not None else "png"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")  # noqa: S704 - kind is ours, Base64 has no markup


def encode_png(image: PixelArray) -> bytes:
    """Return a grey or RGB array as PNG (8 bits a sample, no filter). Source: PNG, third edition, sections 5 and 11."""
    stride = image.width * image.channels
    rows = b"".join(b"\x00" + image.pixels[i : i + stride] for i in range(0, len(image.pixels), stride))
    colour_type = 0 if image.channels == 1 else 2
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def pixels_of(values: Sequence[float], *, width: int, height: int, channels: int = 1) -> PixelArray:
    """Return numbers as an image: 0..1 and 0..255 as they are, anything else stretched from its least to its most.

    Args:
        values: height x width x channels numbers, row by row. NaN and infinities are drawn black.
        width: in pixels.
        height: in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        InternalError: the number of values is not width x height x channels.
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0), max(finite, default=0)
    if low >= 0 and high <= _BYTE:
        low, scale = 0, 1.0 if high > 1 else float(_BYTE)
    else:
        scale = _BYTE / (high - low) if high > low else 0.0
    drawn = bytes(round((value - low) * scale) if math.isfinite(value) else 0 for value in values)
    return PixelArray(width, height, channels, drawn)


def _jpeg_header(data: bytes) -> ImageHeader | None:
    """Walk the segments to the start of frame. Source: ITU-T T.81, annex B."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ImageHeader("jpeg", width, height)
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _webp_header(data: bytes) -> ImageHeader | None:
    """Read the first chunk. Source: RFC 9649, sections 2.5 to 2.7."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return ImageHeader("webp", int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return ImageHeader("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("webp", width & 0x3FFF, height & 0x3FFF)
    return None
