"""Trees in files: the leaf hashes of many trees one behind another, with what makes a proof cheap.

File `NAME.0` holds the leaf hashes, 32 bytes each, in order; file `NAME.l` holds, for each whole group of 256 hashes of
`NAME.l-1` that belong to one tree, their root: the full tiles of C2SP tlog-tiles. A proof reads at most one tile a
level, whatever the tree's size; memory, while writing and while reading, is a few tiles.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from millcert.errors import LedgerError, UsageError
from millcert.provenance.closing import Closing
from millcert.provenance.merkle import HASH_BYTES, inclusion_proof, leaf_hash, tree_root
from millcert.provenance.tiles import TILE_HEIGHT, TILE_WIDTH

_TILE_BYTES = TILE_WIDTH * HASH_BYTES

#: 256**8 leaves are more than any tree has.
MAX_LEVELS = 8


class TreeWriter(Closing):
    """Writes one tree after another to the files of a name; `open_level(l)` gives the stream of `NAME.l`, once.

    Cost: about one hash a leaf.
    """

    def __init__(self, open_level: Callable[[int], Any]) -> None:
        self._open_level = open_level
        self._streams: list[Any] = [open_level(0)]
        self._pending: list[bytearray] = [bytearray()]
        self._size = 0

    def extend(self, hashes: bytes) -> None:
        """Append leaf hashes to the tree, concatenated."""
        self._size += len(hashes) // HASH_BYTES
        self._add(0, hashes)

    def extend_tiles(self, roots: bytes) -> None:
        """Append whole tiles of 256 leaves by their roots, concatenated; somebody else wrote the leaves.

        Raises:
            UsageError: the tree does not end with a whole tile.
        """
        if self._pending[0]:
            raise UsageError(f"A whole tile cannot begin at leaf {self._size}.")
        self._size += len(roots) // HASH_BYTES * TILE_WIDTH
        self._add(1, roots)

    def end_tree(self) -> tuple[int, bytes]:
        """End the tree; return its size and root. The next `extend` begins another one."""
        size, pending = self._size, self._pending

        def read_node(level: int, index: int) -> bytes:
            # The root of the whole is made of the ragged right edge alone, and that is what is pending.
            tile_level, height = divmod(level, TILE_HEIGHT)
            offset = ((index << height) % TILE_WIDTH) * HASH_BYTES
            return tile_root(bytes(pending[tile_level][offset : offset + (HASH_BYTES << height)]))

        root = tree_root(size, read_node)
        self._size, self._pending = 0, [bytearray() for _ in self._streams]
        return size, root

    def close(self) -> None:
        """Close the streams."""
        for stream in self._streams:
            stream.close()

    def _add(self, level: int, hashes: bytes) -> None:
        if level == len(self._streams):
            self._streams.append(self._open_level(level))
            self._pending.append(bytearray())
        self._streams[level].write(hashes)
        pending = self._pending[level]
        pending += hashes
        whole = len(pending) // _TILE_BYTES
        if whole:
            tiles = bytes(memoryview(pending)[: whole * _TILE_BYTES])
            del pending[: whole * _TILE_BYTES]
            self._add(level + 1, b"".join(_roots(tiles, TILE_HEIGHT)))


class TreeFiles(Closing):
    """The files of a name, open for reading; `tree(...)` looks at one of the trees in them."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._descriptors: dict[int, int] = {}

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors.values():
            with suppress(OSError):
                os.close(descriptor)
        self._descriptors.clear()

    def tree(self, size: int, bases: Sequence[int] = ()) -> "StoredTree":
        """Return the tree of `size` leaves that begins, at level l, behind `bases[l]` hashes of other trees."""
        return StoredTree(self, size, bases)

    def read(self, level: int, first: int, count: int) -> bytes:
        """Return `count` hashes of a level, or as many as there are.

        Raises:
            LedgerError: the file is missing or cannot be read.
        """
        path = self._folder / f"{self._name}.{level}"
        try:
            if level not in self._descriptors:
                self._descriptors[level] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._descriptors[level], count * HASH_BYTES, first * HASH_BYTES)
        except OSError as error:
            raise LedgerError(
                f"The tree file {path} cannot be read: {error.strerror}.",
                hint="The run's folder in the state folder is not whole; restore it.",
                path=str(path),
            ) from error


class StoredTree:
    """One tree in tree files. What is read is not checked here: a proof is, against a root that is known."""

    def __init__(self, files: TreeFiles, size: int, bases: Sequence[int]) -> None:
        self._files = files
        self._bases = tuple(bases)
        self._node = lru_cache(maxsize=128)(self._read_node)  # neighbours in a tree share most of their paths
        self.size = size

    def leaf(self, index: int) -> bytes:
        """Return the hash of a leaf.

        Raises:
            LedgerError: the file is too short.
        """
        found = self._files.read(0, self._base(0) + index, 1)
        if len(found) != HASH_BYTES:
            raise LedgerError(f"Leaf {index} is missing from the tree files.", hint="Restore the run's folder.")
        return found

    def root(self) -> bytes:
        """Return the root, from the topmost nodes that are stored."""
        return tree_root(self.size, self._node)

    def path(self, index: int) -> tuple[bytes, ...]:
        """Return the audit path of a leaf, from the leaf upward.

        Raises:
            UsageError: the index is not in the tree.
            LedgerError: a file is missing or too short.
        """
        return inclusion_proof(index, self.size, self._node)

    def _base(self, level: int) -> int:
        return self._bases[level] if level < len(self._bases) else 0

    def _read_node(self, level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        first, count = self._base(tile_level) + (index << height), 1 << height
        hashes = self._files.read(tile_level, first, count)
        if len(hashes) != count * HASH_BYTES:
            raise LedgerError("The tree files end too early.", hint="Restore the run's folder in the state folder.")
        return tile_root(hashes)


def tile_root(hashes: bytes) -> bytes:
    """Return the root over a power of two of concatenated hashes."""
    (root,) = _roots(hashes, (len(hashes) // HASH_BYTES).bit_length() - 1)
    return root


def _roots(hashes: bytes, height: int) -> list[bytes]:
    """Return the roots of the perfect trees of `height` that stand one behind another."""
    sha256 = hashlib.sha256
    layer = [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]
    for _ in range(height):
        pairs = iter(layer)
        layer = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return layer


def level_sizes(size: int) -> tuple[int, ...]:
    """Return how many hashes a tree of `size` leaves has in each file."""
    return tuple(size >> (TILE_HEIGHT * level) for level in range(MAX_LEVELS))


def list_leaf(line: bytes) -> bytes:
    """Return the leaf hash of a line of the shard list."""
    return leaf_hash(line)
