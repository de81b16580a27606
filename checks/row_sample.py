"""A bounded sample of a class's coordinates that needs no digests: rows are drawn by a hash of what they hold."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256

import numpy as np

from millcert.checks.column_fold import ColumnFold
from millcert.checks.digest_sample import DigestSample
from millcert.checks.exact_features import mixed

#: Rows of a class, and bytes of the samples of all classes; the least is kept whatever the classes are.
MOST_ROWS, LEAST_ROWS = 2048, 256
MOST_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class RowSample:
    """How many samples a class has, and a sample of their coordinates, equal rows counted once; mergeable in any order.

    So many copies of one row, honest or not, make no crowd in it.

    waiting: hashes and coordinates of rows that may enter the sample, sorted out together when there are many.

    Size: 4 x width + 8 bytes a row of the sample, and at most as many again that wait.
    """

    samples: int
    held: DigestSample
    waiting: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @classmethod
    def zero(cls, classes: int, width: int) -> "RowSample":
        """Return the sample of nothing, which knows how many rows it may hold beside those of the other classes."""
        return cls.of_most(min(MOST_ROWS, max(LEAST_ROWS, MOST_BYTES // (classes * (4 * width + 8)))), width)

    @classmethod
    def of_most(cls, most: int, width: int) -> "RowSample":
        """Return the sample of nothing that may hold so many rows."""
        nothing = np.zeros((0, width), dtype=np.float32)
        return cls(0, DigestSample(np.zeros(0, dtype=np.uint64), nothing, most))

    def add(
        self, whole: np.ndarray, exponent: np.ndarray, place: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> "RowSample":
        """Return the sample with rows added.

        Args:
            whole: whole numbers of the rows, as `quantise_rows` splits them.
            exponent: their powers of two.
            place: makes their coordinates; it is asked only for rows that may be kept.
        """
        return self.add_keyed(row_keys(whole, exponent), whole, exponent, place)

    def add_keyed(
        self,
        keys: np.ndarray,
        whole: np.ndarray,
        exponent: np.ndarray,
        place: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> "RowSample":
        """Return the sample with rows added whose `row_keys` are known; otherwise as `add`."""
        total, most = self.samples + len(whole), self.held.most
        chosen: np.ndarray | None = None
        if len(self.held.keys) == most:
            chosen = np.flatnonzero(keys < self.held.keys[-1])
        elif len(keys) > most:
            chosen = _leading(keys, most)  # they alone would fill the sample
        if chosen is not None:
            keys, whole, exponent = keys[chosen], whole[chosen], exponent[chosen]
        if not len(keys):
            return RowSample(total, self.held, self.waiting)
        rows = place(whole, exponent).astype(np.float32, copy=False)
        return _bounded(RowSample(total, self.held, (*self.waiting, (keys, rows))))

    def merge(self, others: Iterable["RowSample"]) -> "RowSample":
        """Return the sample of all rows of this and the others."""
        parts = [self, *others]
        held = self.held.merge(part.held for part in parts[1:])
        waiting = tuple(rows for part in parts for rows in part.waiting)
        return _bounded(RowSample(sum(part.samples for part in parts), held, waiting))

    @property
    def rows(self) -> np.ndarray:
        """The coordinates in the sample, float32 (n, width), in the order of their hashes."""
        return self.settled().held.rows

    def settled(self) -> "RowSample":
        """Return the same with nothing waiting."""
        if not self.waiting:
            return self
        keys, rows = (np.concatenate(parts) for parts in zip(*self.waiting, strict=True))
        return RowSample(self.samples, self.held.merge([DigestSample.of_keys(keys, rows, self.held.most)]))


def _bounded(sample: RowSample) -> RowSample:
    return sample if sum(len(keys) for keys, _ in sample.waiting) <= sample.held.most else sample.settled()


def _leading(keys: np.ndarray, most: int) -> np.ndarray:
    """Return the places of the least keys, ascending: so many distinct ones, equal ones all."""
    least = keys <= np.partition(keys, most - 1)[most - 1]
    if len(np.unique(keys[least])) < most:
        distinct = np.unique(keys)
        least = keys <= distinct[min(most, len(distinct)) - 1]
    return np.flatnonzero(least)


def row_keys(whole: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Return a hash of each row, uint64 (n,): of a sum that is exact, so a row has the same in every batch."""
    total = (whole @ _weights(whole.shape[1])).astype(np.int64)
    return mixed(total.view(np.uint64) ^ (exponent.view(np.uint64) << np.uint64(56)))


@lru_cache(maxsize=8)
def _weights(width: int) -> np.ndarray:
    bits = shake_256(f"millcert row keys {width}".encode()).digest(2 * width)
    return np.frombuffer(bits, dtype="<i2").astype(np.float64)


@dataclass(frozen=True, eq=False)
class TwoSamples:
    """Samples of one class for two purposes, of one hash: coordinates of its own, and folded rows beside other classes.

    own: its coordinates. alike: rows, folded, as many as of any other class.
    """

    own: RowSample
    alike: RowSample

    def add(
        self,
        whole: np.ndarray,
        exponent: np.ndarray,
        place: Callable[[np.ndarray, np.ndarray], np.ndarray],
        fold: ColumnFold,
    ) -> "TwoSamples":
        """Return the samples with rows added, as `RowSample.add`."""
        keys = row_keys(whole, exponent)

        def folded(whole: np.ndarray, exponent: np.ndarray) -> np.ndarray:
            narrow = fold.rows(whole).astype(np.float32)  # 18 bits and one more a fold, 6 at most: it holds them
            return np.asarray(narrow * np.ldexp(np.float32(1), exponent)[:, None])

        own = self.own.add_keyed(keys, whole, exponent, place)
        return TwoSamples(own, self.alike.add_keyed(keys, whole, exponent, folded))

    def merge(self, others: Iterable["TwoSamples"]) -> "TwoSamples":
        """Return the samples of all rows of this and the others."""
        parts = list(others)
        own = self.own.merge(part.own for part in parts)
        return TwoSamples(own, self.alike.merge(part.alike for part in parts))
