"""Which keys are among some known ones, asked batch by batch: the known ones are put in order once.

Arrow's `is_in` hashes the whole set again at every call, so of five million repeated ids it took 250 MB and a second a
batch. Numbers are found by bisection among numbers; other keys among their hashes, and then the keys themselves are
compared, so that keys of one hash are still told apart.

Size: 8 bytes a number, whatever its type; a text's own, its offset and 8 bytes. Cost: 0.2 microseconds a key among
five million numbers.
"""

import hashlib
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import family, ticks
from millcert.checks.metric_partitions import hash_keys


class KnownKeys(Protocol):
    """Keys that can be looked up, wherever they are kept."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the keys: the same of the same keys, in whatever order they came."""
        ...

    def contain(self, keys: pa.Array) -> np.ndarray:
        """Return which of n keys of the same type are among the known ones, bool (n,)."""
        ...


class Members:
    """Some known keys in one or more arrays, as `metric_distinct.keys_of` gives them; distinct, no nulls."""

    def __init__(self, *parts: pa.Array) -> None:
        kind = parts[0].type
        self._is_number = family(kind) in ("int", "float", "date", "timestamp")
        digest = hashlib.sha256(str(kind).encode())
        if self._is_number:
            self._sorted = np.concatenate([_numbers(part) for part in parts])
            self._sorted.sort()
            digest.update(self._sorted.tobytes())
        else:
            keys = pa.concat_arrays(parts)
            hashes = hash_keys(keys)
            order = np.argsort(hashes, kind="stable")
            self._sorted, self._keys = hashes[order], keys.take(pa.array(order))
            # Keys of one hash stand in the order in which they came: each counts apart from its place.
            each = sorted(hashlib.sha256(str(key).encode()).digest() for key in keys.to_pylist())
            digest.update(b"".join(each))
        self.digest = digest.hexdigest()

    def contain(self, keys: pa.Array) -> np.ndarray:
        """Return which of n keys of the same type are among the known ones, bool (n,)."""
        if not len(self._sorted) or not len(keys):
            return np.zeros(len(keys), dtype=bool)
        asked = _numbers(keys) if self._is_number else hash_keys(keys)
        at = np.minimum(np.searchsorted(self._sorted, asked), len(self._sorted) - 1)
        found: np.ndarray = self._sorted[at] == asked
        if self._is_number or not found.any():
            return found
        where = np.flatnonzero(found)
        own = keys.take(pa.array(where))
        is_same = pc.equal(self._keys.take(pa.array(at[where])), own).to_numpy(zero_copy_only=False)
        if not is_same.all():  # another known key of one hash may be the one
            others = self._keys.filter(pa.array(np.isin(self._sorted, asked[where[~is_same]])))
            is_same |= pc.is_in(own, value_set=others).to_numpy(zero_copy_only=False)
        found[where] = is_same
        return found


def _numbers(keys: pa.Array) -> np.ndarray:
    return np.asarray(keys.to_numpy(zero_copy_only=False)) if family(keys.type) == "float" else ticks(keys)
