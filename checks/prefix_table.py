"""Counts by group and key, kept within a bound by dropping low bits of the keys: a function of the multiset alone.

A row is one uint64: the group in the upper bits, 44 bits of key below it. While the rows are at most `limit`, keys are
whole; beyond, all keys lose the fewest low bits at which the rows fit. The rows at a level are a function of the set of
(group, key) pairs, and those of a part are among those of the whole: so merges in any order give the same table.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

KEY_BITS = 44
#: Groups that fit above the key.
MAX_GROUPS = 1 << (64 - KEY_BITS)

_KEY = np.uint64((1 << KEY_BITS) - 1)
_SHIFT = np.uint64(KEY_BITS)


class PrefixTable(NamedTuple):
    """Counts of (group, key).

    level: how many low bits of the 44 are dropped, 0 to 44.
    rows: uint64 (e,), strictly ascending: group << 44 | key >> level.
    counts: int64 (e,), above 0.
    """

    level: int
    rows: np.ndarray
    counts: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        """The group of each row, int64 (e,)."""
        return (self.rows >> _SHIFT).astype(np.int64)

    @property
    def keys(self) -> np.ndarray:
        """The key of each row without its dropped bits, uint64 (e,)."""
        return self.rows & _KEY


NO_ROWS = PrefixTable(0, np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))


def count_rows(groups: np.ndarray, keys: np.ndarray, limit: int) -> PrefixTable:
    """Return the counts of pairs, shape (n,) each: groups below `MAX_GROUPS`, keys uint64 below 2^44."""
    rows, counts = np.unique((groups.astype(np.uint64) << _SHIFT) | keys, return_counts=True)
    return _fitted(PrefixTable(0, rows, counts.astype(np.int64)), limit)


def merge_tables(tables: Iterable[PrefixTable], limit: int) -> PrefixTable:
    """Return the counts of all; their groups mean the same."""
    parts = [table for table in tables if len(table.rows)]
    if not parts:
        return NO_ROWS
    level = max(part.level for part in parts)
    parts = [at_level(part, level) for part in parts]
    if len(parts) == 1:
        return _fitted(parts[0], limit)
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    return _fitted(_joined(level, rows[order], np.concatenate([part.counts for part in parts])[order]), limit)


def regrouped(table: PrefixTable, groups: np.ndarray) -> PrefixTable:
    """Return the table with other numbers for its groups; `groups` maps old to new, distinct."""
    rows = (groups[table.groups].astype(np.uint64) << _SHIFT) | table.keys
    order = np.argsort(rows, kind="stable")
    return PrefixTable(table.level, rows[order], table.counts[order])


def at_level(table: PrefixTable, level: int) -> PrefixTable:
    """Return the table with at least so many bits dropped."""
    if level <= table.level:
        return table
    drop = np.uint64(level - table.level)
    return _joined(level, (table.rows & ~_KEY) | ((table.rows & _KEY) >> drop), table.counts)


def _fitted(table: PrefixTable, limit: int) -> PrefixTable:
    if len(table.rows) <= limit:
        return table
    # Neighbours of one group join at the bit length of their difference; those of two groups never do.
    lengths = bit_lengths(table.rows[1:] ^ table.rows[:-1])
    # After dropping d bits there are 1 + (how many lengths exceed d) rows.
    beyond = np.cumsum(np.bincount(lengths, minlength=65)[::-1])[::-1]
    fits = np.flatnonzero(1 + np.append(beyond[1:], 0) <= limit)
    drop = min(int(fits[0]), KEY_BITS - table.level)
    return at_level(table, table.level + drop)


def _joined(level: int, rows: np.ndarray, counts: np.ndarray) -> PrefixTable:
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = rows[1:] != rows[:-1]
    if is_first.all():
        return PrefixTable(level, rows, counts)
    starts = np.flatnonzero(is_first)
    return PrefixTable(level, rows[starts], np.add.reduceat(counts, starts))


def bit_lengths(words: np.ndarray) -> np.ndarray:
    """Return the bit length of each uint64, int64 (n,)."""
    high, low = words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)
    # frexp of a whole number below 2^32 is exact.
    of_high, of_low = (np.frexp(half.astype(np.float64))[1].astype(np.int64) for half in (high, low))
    return np.where(high > 0, of_high + 32, of_low)
