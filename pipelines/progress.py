"""How far the job is: workers append small records to one local file, the driver sums them.

It works wherever driver and workers share a machine (in process, worker processes, LOOPBACK). A worker that cannot
open the file says nothing; progress never decides anything.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

_RECORD = struct.Struct("<IQQ")  # pass number, rows, bytes


@dataclass(frozen=True)
class Progress:
    """Sums so far. rows, bytes: over all passes; passes: rows seen by pass number."""

    rows: int
    bytes: int
    rows_by_pass: dict[int, int]


class ProgressReporter:
    """A worker's end: `advance` appends one record; appends this small are atomic on a local file system."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None

    def advance(self, number: int, *, rows: int = 0, size_bytes: int = 0) -> None:
        """Say that pass `number` handled that many more rows and bytes."""
        if not self._path:
            return
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.write(self._descriptor, _RECORD.pack(number, rows, size_bytes))
        except OSError:
            self._path = ""

    def close(self) -> None:
        """Close the file; the reporter says nothing afterwards."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._path = ""


def read_progress(path: Path, offset: int, before: Progress) -> tuple[int, Progress]:
    """Return the new offset and the sums after the records from `offset` on."""
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
    except OSError:
        return offset, before
    whole = len(data) // _RECORD.size * _RECORD.size
    rows, size, by_pass = before.rows, before.bytes, dict(before.rows_by_pass)
    for number, more_rows, more_bytes in _RECORD.iter_unpack(data[:whole]):
        rows += more_rows
        size += more_bytes
        by_pass[number] = by_pass.get(number, 0) + more_rows
    return offset + whole, Progress(rows, size, by_pass)
