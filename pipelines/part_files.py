"""The parts that a worker writes of one data file: one file together while they are small, else a file each.

    STEM.json     first line: what was written, as JSON, with the length of each part that follows; then those parts
    STEM.PART     a part of its own, where the parts together have more than TOGETHER_BYTES

A data set of very many small files costs the opening of files, not the bytes in them.
"""

import io
import json
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from millcert.errors import StoreError
from millcert.pipelines.output import open_output, translate_store_errors

#: Up to here all parts of a data file are written, and later read, as one.
TOGETHER_BYTES = 1 << 20

_TOGETHER = "together"


class PartFiles:
    """Opens the parts of one data file for writing; `end` writes what they are, last."""

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._held: dict[str, bytearray] | None = {}
        self._streams: dict[str, BinaryIO] = {}
        self._size = 0

    def open(self, part: str) -> BinaryIO:
        """Return a stream for a part that was not opened before."""
        if self._held is None:
            self._streams[part] = open_output(f"{self._stem}.{part}")
        else:
            self._held[part] = bytearray()
        return cast("BinaryIO", _Part(self, part))

    def write(self, part: str, data: bytes | memoryview) -> None:
        """Append to a part."""
        if self._held is None:
            self._streams[part].write(data)
            return
        self._held[part] += data
        self._size += len(data)
        if self._size > TOGETHER_BYTES:
            held, self._held = self._held, None
            for name, begun in held.items():
                self._streams[name] = open_output(f"{self._stem}.{name}")
                self._streams[name].write(begun)

    def close(self) -> None:
        """Close all streams; nothing more is written."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def end(self, facts: Mapping[str, Any]) -> None:
        """Close all parts and write down what they are.

        Raises:
            StoreError: the file system refused.
        """
        held = self._held or {}
        line = json.dumps({**facts, _TOGETHER: {name: len(data) for name, data in held.items()}}).encode()
        uri = f"{self._stem}.json"
        with translate_store_errors(uri):
            self.close()
            with open_output(uri) as stream:
                stream.write(b"".join([line, b"\n", *held.values()]))


class _Part(io.RawIOBase):
    def __init__(self, files: PartFiles, part: str) -> None:
        super().__init__()
        self._files = files
        self._part = part

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._files.write(self._part, data)
        return len(data)


def read_parts(stem: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what was written of a data file, and those of its parts that were written together.

    Raises:
        OSError: there is no such file.
        ValueError: it is not whole.
    """
    with FileSystems.open(f"{stem}.json", compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        data = bytes(stream.read())
    at = data.index(b"\n") + 1
    facts: dict[str, Any] = json.loads(data[:at])
    parts: dict[str, bytes] = {}
    for name, length in facts.pop(_TOGETHER, {}).items():
        parts[name] = data[at : at + length]
        at += length
    if at != len(data):
        raise ValueError(f"{len(data)} bytes where {at} were written")
    return facts, parts


def open_part(stem: str, part: str) -> Any:
    """Return a stream of a part that is a file of its own.

    Raises:
        StoreError: it is missing.
    """
    uri = f"{stem}.{part}"
    try:
        return FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    except OSError as error:
        raise StoreError(f"The part {uri} is missing from the run: {error}", hint="Run again.") from error
