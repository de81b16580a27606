"""Part of a Merkle tree that somebody else puts together: the roots of the perfect subtrees of a run of leaves.

A worker that reads rows [a, b) of a file knows neither the leaves before nor those behind, but every subtree of RFC
6962 that lies in its run whole. There are at most 2 log2(b - a) of them, so some kilobytes stand for a run of any
length, and runs joined in order (`TreeBuilder.append_subtree`) give the very tree that one reader would have built.
This is the "compact range" of transparency logs.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple


class Subtree(NamedTuple):
    """A perfect subtree of 2**height leaves, by its root."""

    height: int
    root: bytes


class RangeBuilder:
    """The subtrees of a run of leaves that begins at leaf `first` of its tree, in memory O(log n)."""

    def __init__(self, first: int) -> None:
        self._first = self._end = first
        self._nodes: list[Subtree] = []

    @property
    def size(self) -> int:
        """How many leaves were appended."""
        return self._end - self._first

    def extend(self, hashed_leaves: Iterable[bytes]) -> None:
        """Append leaves by their leaf hashes, in order. Cost: about one hash a leaf."""
        sha256, layer = hashlib.sha256, list(hashed_leaves)
        start, height = self._end, 0
        self._end += len(layer)
        lefts: list[Subtree] = []
        rights: list[Subtree] = []
        while layer:
            if start & 1:
                # Its left sibling is the last that was there, or is of another run.
                if self._nodes and self._nodes[-1].height == height:
                    layer.insert(0, self._nodes.pop().root)
                    start -= 1
                else:
                    lefts.append(Subtree(height, layer.pop(0)))
                    start += 1
            if len(layer) & 1:
                rights.append(Subtree(height, layer.pop()))
            pairs = iter(layer)
            layer = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            start, height = start >> 1, height + 1
        self._nodes += [*lefts, *reversed(rights)]

    def subtrees(self) -> tuple[Subtree, ...]:
        """Return the subtrees from left to right; they cover all leaves so far."""
        return tuple(self._nodes)
