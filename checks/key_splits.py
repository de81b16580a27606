"""Which keys occur in several splits, in bounded memory: a bitmap for each split, then an exact recount.

A key has one bit of 67,108,864 in the bitmap of each split that has it. A bit that is set in two splits may stand for
two keys; so a second read notes exactly, for the keys of such bits alone, which splits they are in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact_features import mixed

#: Bits of a place in a bitmap, and of the part that travels as one record (512 kB at most).
PLACE_BITS, PART_BITS = 26, 22
#: Keys that are noted exactly, those with the least hashes: 16 MB in 16 records.
NOTED_KEYS = 2**20
NOTED_PARTS = 16

_DENSE_FROM = 2**16
_SALT = np.uint64(0xA24BAED4963EE407)


@dataclass(frozen=True, eq=False)
class KeyBits:
    """One part of a bitmap: the places that are set, int64 ascending; or, where they are many, packed bits."""

    places: np.ndarray
    packed: np.ndarray

    @classmethod
    def of(cls, places: np.ndarray) -> "KeyBits":
        """Return the bits at places within a part, int64 in [0, 2**22)."""
        return _settled(np.unique(places))

    def merge(self, others: Iterable["KeyBits"]) -> "KeyBits":
        """Return the bits that are set in this or another."""
        parts = [self, *others]
        if len(parts) == 1:
            return self
        if not any(len(part.packed) for part in parts):
            return _settled(np.unique(np.concatenate([part.places for part in parts])))
        packed = np.zeros(2**PART_BITS // 8, dtype=np.uint8)
        for part in parts:
            packed |= part.packed if len(part.packed) else _packed(part.places)
        return KeyBits(np.zeros(0, dtype=np.int64), packed)

    def has(self, places: np.ndarray) -> np.ndarray:
        """Return whether the bits at places are set, bool (n,)."""
        if len(self.packed):
            return ((self.packed[places >> 3] >> (7 - (places & 7)).astype(np.uint8)) & 1).astype(bool)
        return np.isin(places, self.places)


@dataclass(frozen=True, eq=False)
class KeyMasks:
    """Which splits each key is in; immutable, exact, mergeable in any order.

    ids: int64, ascending, at most 65,536. masks: int64, bit i stands for split i.
    """

    ids: np.ndarray
    masks: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, masks: np.ndarray) -> "KeyMasks":
        """Return the masks of keys, which may come several times."""
        found, place = np.unique(ids, return_inverse=True)
        total = np.zeros(len(found), dtype=np.int64)
        np.bitwise_or.at(total, place, masks)
        most = NOTED_KEYS // NOTED_PARTS
        return cls(found[:most], total[:most])

    def merge(self, others: Iterable["KeyMasks"]) -> "KeyMasks":
        """Return the masks of all keys of this and the others."""
        parts = [self, *others]
        return KeyMasks.of(*(np.concatenate(one) for one in zip(*((p.ids, p.masks) for p in parts), strict=True)))

    @property
    def is_full(self) -> bool:
        """Whether keys may have been left out."""
        return len(self.ids) >= NOTED_KEYS // NOTED_PARTS


def bits_by_part(keys: np.ndarray) -> dict[int, KeyBits]:
    """Return the bits of keys by number of the part."""
    places = _places(keys).ravel()
    part, within = places >> PART_BITS, places & (2**PART_BITS - 1)
    return {number: KeyBits.of(within[part == number]) for number in np.unique(part).tolist()}


def in_several(keys: np.ndarray, bitmaps: Mapping[int, Mapping[int, KeyBits]]) -> np.ndarray:
    """Return whether the bit of each key is set in two splits or more, bool, of the keys' shape.

    Args:
        keys: uint64.
        bitmaps: split -> part -> its bits.
    """
    places = _places(keys)
    part, within = places >> PART_BITS, places & (2**PART_BITS - 1)
    often = np.zeros(keys.shape, dtype=np.int64)
    for bits in bitmaps.values():
        for number in np.unique(part).tolist():
            if number in bits:
                chosen = part == number
                often[chosen] += bits[number].has(within[chosen])
    return often >= 2


def key_ids(keys: np.ndarray) -> np.ndarray:
    """Return the ids of keys, int64, of the keys' shape."""
    return (mixed(keys ^ _SALT) >> np.uint64(1)).astype(np.int64)


def _places(keys: np.ndarray) -> np.ndarray:
    return (mixed(keys) >> np.uint64(64 - PLACE_BITS)).astype(np.int64)


def _settled(places: np.ndarray) -> KeyBits:
    if len(places) <= _DENSE_FROM:
        return KeyBits(places, np.zeros(0, dtype=np.uint8))
    return KeyBits(np.zeros(0, dtype=np.int64), _packed(places))


def _packed(places: np.ndarray) -> np.ndarray:
    bits = np.zeros(2**PART_BITS, dtype=bool)
    bits[places] = True
    return np.packbits(bits)
