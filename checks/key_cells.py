"""How often keys occur, in bounded memory: a table of cells that never counts too low, and an exact sample of keys.

1. `KeyCells` counts keys in 4,194,304 cells by their hash. A cell's count is at least that of each of its keys, so no
   frequent key is missed; a second read recounts the keys of the fullest cells exactly (Cormode, Muthukrishnan,
   J. Algorithms 55, 2005, whose table has more rows: one is enough before a recount).
2. `KeySample` holds the keys with the least hashes, with their exact counts (Gibbons, VLDB 2001): each key has the
   same chance to be in it however often it occurs, so sizes of groups are spread in it as they are in the data.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact_features import mixed
from millcert.checks.flagging import Counts

#: Bits of a key's cell, and of the part of the table that travels as one record (2 MB at most).
CELL_BITS, PART_BITS = 22, 18
#: A part with more cells in use is held as a table.
_DENSE_FROM = 2**14


@dataclass(frozen=True, eq=False)
class KeyCells:
    """One part of the table; immutable, exact, mergeable in any order.

    cells: int64, ascending, and their counts; or no cells and the counts of all, int64 (2**18,).
    """

    cells: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray) -> "KeyCells":
        """Return the counts of cells within a part, int64 of any shape in [0, 2**18)."""
        found, counts = np.unique(cells, return_counts=True)
        return _settled(found.astype(np.int64), counts.astype(np.int64))

    def merge(self, others: Iterable["KeyCells"]) -> "KeyCells":
        """Return the counts of this and the others."""
        parts = [self, *others]
        if len(parts) == 1:
            return self
        if all(len(part.cells) for part in parts):
            first, *rest = (Counts(part.cells, part.counts) for part in parts)
            merged = first.merge(rest)
            return _settled(merged.keys, merged.counts)
        total = np.zeros(2**PART_BITS, dtype=np.int64)
        for part in parts:
            if len(part.cells):
                total[part.cells] += part.counts
            else:
                total += part.counts
        return KeyCells(np.zeros(0, dtype=np.int64), total)

    def at_least(self, least: int) -> Counts:
        """Return the cells with at least that count."""
        cells = self.cells if len(self.cells) else np.arange(len(self.counts))
        chosen = self.counts >= least
        return Counts(cells[chosen], self.counts[chosen])


def _settled(cells: np.ndarray, counts: np.ndarray) -> KeyCells:
    """Return the counts in the one form that their number asks for."""
    if len(cells) <= _DENSE_FROM:
        return KeyCells(cells, counts)
    total = np.zeros(2**PART_BITS, dtype=np.int64)
    total[cells] = counts
    return KeyCells(np.zeros(0, dtype=np.int64), total)


def cells_by_part(keys: np.ndarray, name: str) -> dict[str, KeyCells]:
    """Return the counts of keys by part, under `name` and the part's number."""
    cells = cell_of(keys).ravel()
    part, within = cells >> PART_BITS, cells & (2**PART_BITS - 1)
    return {f"{name} {number}": KeyCells.of(within[part == number]) for number in np.unique(part).tolist()}


def cell_of(keys: np.ndarray) -> np.ndarray:
    """Return the cell of each key, int64, of the keys' shape."""
    return (mixed(keys) >> np.uint64(64 - CELL_BITS)).astype(np.int64)


def fullest_cells(parts: Iterable[tuple[int, KeyCells]], least: int, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the fullest cells, their counts, and the least count that puts a key in one of them for sure.

    Args:
        parts: number of the part -> counts.
        least: cells below are left out.
        most: how many at most; all cells that tie at the border are left out.

    Returns: cells ordered by falling count, then by number.
    """
    found = [(number, part.at_least(least)) for number, part in parts]
    cells = np.concatenate([np.zeros(0, np.int64), *((number << PART_BITS) + part.keys for number, part in found)])
    counts = np.concatenate([np.zeros(0, np.int64), *(part.counts for _, part in found)])
    if len(cells) > most:
        least = int(np.sort(counts)[-most - 1]) + 1
        cells, counts = cells[counts >= least], counts[counts >= least]
    order = np.lexsort((cells, -counts))
    return cells[order], counts[order], least
