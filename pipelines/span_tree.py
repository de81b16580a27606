"""The tree of a file's salted leaves, whose leaves several workers write: each has whole tiles, one joins them.

A span writes two levels of its own: all its leaves, and the roots of those groups of 256 that lie in it whole. The
joining step reads less than 256 leaves at each edge, and the roots; so it costs a 256th of what the leaves cost.
"""

import io
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

from millcert.errors import StoreError
from millcert.pipelines.output import translate_store_errors
from millcert.pipelines.part_files import PartFiles, open_part
from millcert.provenance.merkle import HASH_BYTES
from millcert.provenance.shard_tree import TreeWriter
from millcert.provenance.tiles import TILE_WIDTH


class Nowhere(io.RawIOBase):
    """Takes bytes and keeps none."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Take bytes."""
        return len(data)


class SpanTree:
    """Writes the leaves of a span and the roots of its whole tiles, as `TreeWriter` does those of a tree.

    Args:
        open_level: gives the stream of a level, once each; 0 and, where there is a whole tile, 1.
        first: the index of the first leaf in the file's tree.
    """

    def __init__(self, open_level: Callable[[int], BinaryIO], first: int) -> None:
        self._leaves = open_level(0)
        self._head_bytes = -first % TILE_WIDTH * HASH_BYTES
        self._size = 0

        def open_inner(level: int) -> Any:
            if level == 0:
                return self._leaves
            return open_level(level) if level == 1 else Nowhere()

        self._tree = TreeWriter(open_inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tree.close()

    def extend(self, hashes: bytes) -> None:
        """Append leaf hashes, concatenated."""
        self._size += len(hashes) // HASH_BYTES
        head = hashes[: self._head_bytes]
        self._head_bytes -= len(head)
        self._leaves.write(head)
        if len(hashes) > len(head):
            self._tree.extend(hashes[len(head) :])

    def end_tree(self) -> tuple[int, bytes]:
        """Return how many leaves there are, and no root: the span has none."""
        return self._size, b""


class SpanJoiner:
    """Joins the trees of a file's spans, in order: writes the levels above the leaves and finds the root."""

    def __init__(self, files: PartFiles) -> None:
        self._files = files
        self._first = 0
        self.levels = 1
        self._tree = TreeWriter(self._open_level)

    def add(self, stem: str, together: Mapping[str, bytes], records: int) -> None:
        """Add the next span.

        Args:
            stem: how the names of its parts begin.
            together: those of its parts that were written as one.
            records: how many leaves it has.

        Raises:
            StoreError: a part is missing or too short.
        """
        head = min(records, -self._first % TILE_WIDTH)
        whole, tail = divmod(records - head, TILE_WIDTH)
        self._tree.extend(_read(stem, together, "rows.0", 0, head))
        if whole:
            self._tree.extend_tiles(_read(stem, together, "rows.1", 0, whole))
        self._tree.extend(_read(stem, together, "rows.0", records - tail, tail))
        self._first += records

    def end(self) -> tuple[int, bytes]:
        """Return the size and root of the file's tree."""
        with translate_store_errors("the leaves"):
            found = self._tree.end_tree()
            self._tree.close()
        return found

    def _open_level(self, level: int) -> BinaryIO:
        self.levels = max(self.levels, level + 1)
        return Nowhere() if level == 0 else self._files.open(f"rows.{level}")  # type: ignore[return-value]


def _read(stem: str, together: Mapping[str, bytes], part: str, first: int, count: int) -> bytes:
    """Return `count` hashes of a part."""
    start, size = first * HASH_BYTES, count * HASH_BYTES
    if not size:
        return b""
    if part in together:
        data = together[part][start : start + size]
    else:
        with open_part(stem, part) as stream:
            stream.seek(start)
            data = bytes(stream.read(size))
    if len(data) != size:
        raise StoreError(f"The part {stem}.{part} is shorter than was written.", hint="Run again.")
    return data
