"""Distinct values on their way from the workers to whoever merges a partition: in files, not through the runner.

A runner holds what is grouped: the local one in the driver's memory, 12 bytes a row for a column of ids. So a worker
writes the parts that grow with the data to a file of the staging folder, one behind the other, and sends only where
they stand. Whoever merges a partition reads its parts from there, a few at once, as often as it needs them. A name is
new for each write, so a bundle that is tried again leaves a file that nobody refers to; all go with the staging folder.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from apache_beam.io.filesystems import FileSystems

from millcert.checks.base import Accumulator
from millcert.checks.metric_tally import Tally
from millcert.errors import StoreError
from millcert.pipelines.output import open_output, translate_store_errors
from millcert.pipelines.value_coding import decode_value, encode_value

#: Repeated values of a partition that are put away; fewer travel with the rest.
MANY_REPEATED = 1000


class Spilled(NamedTuple):
    """Where the part of one group stands: `size_bytes` bytes of a file from `start`, with their SHA-256 (hex)."""

    uri: str
    start: int
    size_bytes: int
    sha256: str


def spill(staging: str, groups: Mapping[str, Any]) -> dict[str, Spilled]:
    """Write parts to one new file; return where each stands, by group.

    Raises:
        StoreError: the file cannot be written; a retry is safe.
    """
    uri = f"{staging}/spill/{os.urandom(16).hex()}"
    placed: dict[str, Spilled] = {}
    start = 0
    with translate_store_errors(uri), open_output(uri) as stream:
        for group, part in groups.items():
            data = encode_value(part)
            stream.write(data)
            placed[group] = Spilled(uri, start, len(data), hashlib.sha256(data).hexdigest())
            start += len(data)
    return placed


def put_away(staging: str, acc: Accumulator) -> Accumulator:
    """Return reduced parts without their repeated values where these are many: only the read that scores needs them.

    Raises:
        StoreError: they cannot be written; a retry is safe.
    """
    return {
        group: part._replace(repeated=None, elsewhere=spill(staging, {group: part.repeated})[group])
        if isinstance(part, Tally) and part.repeated is not None and len(part.repeated) >= MANY_REPEATED
        else part
        for group, part in acc.items()
    }


def repeated_of(tally: Tally) -> Any:
    """Return the repeated values of a reduced part, also where `put_away` wrote them.

    Raises:
        StoreError: they cannot be read; a retry is safe.
    """
    return tally.repeated if tally.elsewhere is None else recalled(tally.elsewhere)


class Accumulators:
    """The accumulators of grouped parts, which a runner may keep outside of memory and hand out again and again."""

    def __init__(self, parts: Iterable[tuple[str, Accumulator]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Accumulator]:
        for _, accumulator in self._parts:
            yield {group: recalled(part) if isinstance(part, Spilled) else part for group, part in accumulator.items()}


def recalled(spilled: Spilled) -> Any:
    """Return a part that was written.

    Raises:
        StoreError: it cannot be read, or is not what was written; a new run is safe.
    """
    uri = spilled.uri
    with translate_store_errors(uri), FileSystems.open(uri, compression_type="uncompressed") as stream:
        stream.seek(spilled.start)
        data = bytes(stream.read(spilled.size_bytes))
    if hashlib.sha256(data).hexdigest() != spilled.sha256:
        raise StoreError(
            f"{uri} does not hold what a worker wrote there at {spilled.start}.",
            hint="Check the disk or bucket of the staging folder, then run again.",
            path=uri,
        )
    return decode_value(data)
