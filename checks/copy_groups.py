"""Samples that share a key, as groups: exact counts of chosen keys, and which keys belong to one another.

1. The keys of the fullest cells (`millcert.checks.key_cells`) are recounted in a second read. There a key is known by
   its id: the rank of its cell, fullest first, then 43 bits of its hash, then its band. A sample's least id is the
   leader of all its keys; each key keeps the least leader that it met. Near copies share some keys and not others;
   through their leaders, which are the commonest keys among them, they come together.
2. Besides, the keys with the least hashes of all are counted exactly (Gibbons, VLDB 2001): each key has the same
   chance to be in that sample, however often it occurs, so sizes of groups are spread in it as they are in the data.
   These keys know their leaders too, so what is only a splinter of a larger group can be told.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact_features import mixed
from millcert.checks.key_cells import cell_of

_ID_BITS, _BAND_BITS = 47, 4
#: Keys in a sample of all keys: 3 MB.
SAMPLED_KEYS = 2**17
_SAMPLE_SALT = np.uint64(0xD1B54A32D192ED03)
#: What a sample without a candidate key has for an id.
NO_ID = np.int64(2**62)


@dataclass(frozen=True, eq=False)
class KeyIds:
    """Which keys are candidates, and their ids.

    cells: int64, ascending. ranks: int64, the place of each in the order of falling counts.
    """

    cells: np.ndarray
    ranks: np.ndarray

    @classmethod
    def of(cls, by_rank: np.ndarray) -> "KeyIds":
        """Return the ids for candidate cells, in the order of falling counts."""
        order = np.argsort(by_rank)
        return cls(by_rank[order], order.astype(np.int64))

    def ids(self, keys: np.ndarray) -> np.ndarray:
        """Return the ids of keys, uint64 (n, bands), as int64; `NO_ID` where the key is no candidate."""
        found = np.full(keys.shape, NO_ID)
        if len(self.cells):
            cells = cell_of(keys)
            place = np.minimum(np.searchsorted(self.cells, cells), len(self.cells) - 1)
            known = self.cells[place] == cells
            low = (mixed(~keys[known]) >> np.uint64(64 - _ID_BITS)).astype(np.int64)
            band = np.broadcast_to(np.arange(keys.shape[1]), keys.shape)[known]
            found[known] = (self.ranks[place[known]] << _ID_BITS) | (low & -(2**_BAND_BITS)) | band
        return found


def band_of(ids: np.ndarray) -> np.ndarray:
    """Return the bands of candidate keys, int64, from their ids."""
    return ids & (2**_BAND_BITS - 1)


@dataclass(frozen=True, eq=False)
class LedKeys:
    """How many samples have each key, and the least leader it met; immutable, exact, mergeable in any order.

    ids: int64, ascending. counts, leaders: int64; a leader is `NO_ID` where no sample with the key had a candidate.
    most: how many keys are kept, those with the least ids; a kept key's count is exact, since a key that is among the
        least of the whole is so in every part that has it.

    Size: 24 bytes a key.
    """

    ids: np.ndarray
    counts: np.ndarray
    leaders: np.ndarray
    most: int

    @classmethod
    def of(cls, ids: np.ndarray) -> "LedKeys":
        """Return the candidate keys of samples; all of them are kept.

        Args:
            ids: int64 (n, bands), `NO_ID` where there is none.
        """
        leaders = np.broadcast_to(ids.min(axis=1, initial=NO_ID)[:, None], ids.shape)
        chosen = ids != NO_ID
        counts = np.ones(int(chosen.sum()), dtype=np.int64)
        return _gathered(ids[chosen], counts, leaders[chosen], np.iinfo(np.int64).max)

    @classmethod
    def sampled(cls, keys: np.ndarray, ids: np.ndarray) -> "LedKeys":
        """Return the sample of all keys, uint64 (n, bands); `ids` are theirs, as for `of`."""
        leaders = np.broadcast_to(ids.min(axis=1, initial=NO_ID)[:, None], ids.shape).ravel()
        hashes = (mixed(keys.ravel() ^ _SAMPLE_SALT) >> np.uint64(1)).astype(np.int64)
        return _gathered(hashes, np.ones(len(hashes), dtype=np.int64), leaders, SAMPLED_KEYS)

    @property
    def fraction(self) -> float:
        """The chance of a key to be in the sample, in (0, 1]."""
        return 1.0 if len(self.ids) < self.most else (float(self.ids[-1]) + 1) / 2.0**63

    def merge(self, others: Iterable["LedKeys"]) -> "LedKeys":
        """Return the keys of all samples of this and the others."""
        parts = [self, *others]
        if len(parts) == 1:
            return self
        ids, counts, leaders = (
            np.concatenate(values)
            for values in zip(*((part.ids, part.counts, part.leaders) for part in parts), strict=True)
        )
        return _gathered(ids, counts, leaders, self.most)

    def components(self) -> np.ndarray:
        """Return for each key the least id among all keys that leaders join with it, int64, in the order of `ids`."""
        root = np.arange(len(self.ids))
        leader = np.searchsorted(self.ids, self.leaders)
        while True:
            # Each key takes the least root of its leader, and gives the leader its own where that is less.
            least = root.copy()
            np.minimum.at(least, leader, root)
            least = np.minimum(least, least[leader])
            least = least[least]
            if np.array_equal(least, root):
                return self.ids[root]
            root = least

    def reach(self, sampled: "LedKeys") -> np.ndarray:
        """Return the largest count among the candidates that each sampled key belongs with, or its own, int64."""
        components = self.components()
        _, place = np.unique(components, return_inverse=True)
        largest = np.zeros(len(self.ids) + 1, dtype=np.int64)
        np.maximum.at(largest, place, self.counts)
        if not len(self.ids):
            return sampled.counts
        at = np.minimum(np.searchsorted(self.ids, sampled.leaders), len(self.ids) - 1)
        is_led = self.ids[at] == sampled.leaders
        return np.maximum(sampled.counts, np.where(is_led, largest[place[at]], 0))


def _gathered(ids: np.ndarray, counts: np.ndarray, leaders: np.ndarray, most: int) -> LedKeys:
    found, place = np.unique(ids, return_inverse=True)
    total = np.zeros(len(found), dtype=np.int64)
    least = np.full(len(found), NO_ID)
    np.add.at(total, place, counts)
    np.minimum.at(least, place, leaders)
    return LedKeys(found[:most], total[:most], least[:most], most)
