"""Samples whose labels are trusted, to show beside a doubted one: a bounded sample of them, and the nearest of it.

Rules this module keeps:
  1. Which samples are kept depends on their digests and a seed: the same ones in any order, on any number of workers;
     who does not know the seed cannot choose samples that are sure to be shown.
  2. What is kept has a bound that grows neither with the data nor with the number of classes.
  3. Distances are exact products of whole numbers, rounded to 6 digits, so the same neighbours come in any batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millcert.checks.base import NEIGHBOUR_TYPE
from millcert.checks.digest_sample import digest_keys, keyed
from millcert.checks.exact import ExactMatrix

#: Numbers that are kept in all: 512 KiB of float32.
MAX_VALUES = 2**17
#: Samples of one class that are kept at most.
MAX_OF_A_CLASS = 64
#: Neighbours that a finding names.
SHOWN = 3
#: What the groups of an accumulator begin with.
PREFIX = "confident:"
#: Rows compared at a time.
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class ConfidentSamples:
    """Some samples of one class, or of all: those with the least hashes of their digests; mergeable in any order.

    keys: uint64 (m,), the hashes, ascending. digests: uint8 (m, 32), each once. label: int64 (m,).
    rows: float32 (m, d). most: at most so many.

    Size: 48 + 4 x d bytes a sample.
    Source: bottom-k sampling, see `millcert.checks.digest_sample`.
    """

    keys: np.ndarray
    digests: np.ndarray
    label: np.ndarray
    rows: np.ndarray
    most: int

    def merge(self, others: Iterable["ConfidentSamples"]) -> "ConfidentSamples":
        """Return the samples of this and the others."""
        parts = [self, *others]
        return _least(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.digests for part in parts]),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.rows for part in parts]),
            self.most,
        )


@dataclass(frozen=True, eq=False)
class ConfidentNeighbours:
    """The samples that were kept, ready to be compared with.

    digests: uint8 (m, 32). label: int64 (m,). rows: the exact form of their rows, (d, m). square: float64 (m,), of
    their lengths.
    """

    digests: np.ndarray
    label: np.ndarray
    rows: ExactMatrix
    square: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[ConfidentSamples]) -> "ConfidentNeighbours | None":
        """Return what is found by the parts of all classes; None where nothing is kept."""
        kept = [part for part in parts if len(part.label)]
        if not kept:
            return None
        rows = np.concatenate([part.rows for part in kept]).astype(np.float64)
        return cls(
            np.concatenate([part.digests for part in kept]),
            np.concatenate([part.label for part in kept]),
            ExactMatrix.of(rows.T),
            (rows * rows).sum(axis=1),
        )

    def nearest(self, rows: np.ndarray, classes: tuple[str, ...]) -> pa.ListArray:
        """Return the nearest `SHOWN` samples of each row, list of `NEIGHBOUR_TYPE` (n,), nearest first.

        Args:
            rows: float32 (n, d).
            classes: the names of labels.

        Cost: m x d multiplications a row.
        """
        shown = min(SHOWN, len(self.label))
        place, distance = np.zeros((2, len(rows), shown))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS].astype(np.float64)
            square = (part * part).sum(axis=1)[:, None] + self.square - 2 * self.rows.apply(part)
            # Rows are rounded to 15 bits at the least (`quantise_rows`), so less of their lengths is no distance.
            scale = 2.0**-15 * ((part * part).sum(axis=1)[:, None] + self.square)
            far = np.where(square > scale, square, 0.0)
            order = np.argsort(far, axis=1, kind="stable")[:, :shown]
            place[start : start + _ROWS] = order
            distance[start : start + _ROWS] = np.sqrt(np.take_along_axis(far, order, axis=1))
        chosen = place.astype(np.int64).ravel()
        names = pa.array(classes, pa.string())
        values = pa.StructArray.from_arrays(
            [
                pa.array([self.digests[at].tobytes() for at in chosen.tolist()], pa.binary(32)),
                names.take(pa.array(self.label[chosen])),
                pa.array([float(f"{value:.6g}") for value in distance.ravel().tolist()], pa.float64()),
            ],
            fields=list(NEIGHBOUR_TYPE),
        )
        return pa.ListArray.from_arrays(pa.array(np.arange(len(rows) + 1) * shown, pa.int32()), values)


def confident_parts(
    digests: np.ndarray, label: np.ndarray, rows: np.ndarray, classes: int, seed: int
) -> Mapping[str, ConfidentSamples]:
    """Return the samples to keep of a batch, by class, or all together where there are too many classes.

    Args:
        digests: uint8 (n, 32).
        label: int64 (n,), what the sample was given and is confidently of.
        rows: float32 (n, d).
        classes: K.
        seed: keys the hashes.
    """
    room = max(1, MAX_VALUES // max(1, rows.shape[1]))
    most = min(MAX_OF_A_CLASS, room // classes)
    if not len(label):
        return {}
    keys = keyed(digest_keys(digests), seed)
    if not most:
        return {PREFIX: _least(keys, digests, label, rows, min(room, MAX_OF_A_CLASS * classes))}
    found = {}
    for index in np.unique(label).tolist():
        own = label == index
        found[f"{PREFIX}{index}"] = _least(keys[own], digests[own], label[own], rows[own], most)
    return found


def no_neighbours(count: int) -> pa.ListArray:
    """Return as many nulls."""
    return pa.nulls(count, pa.list_(NEIGHBOUR_TYPE))


def _least(keys: np.ndarray, digests: np.ndarray, label: np.ndarray, rows: np.ndarray, most: int) -> ConfidentSamples:
    names = np.ascontiguousarray(digests).view("S32").ravel()
    order = np.lexsort((names, keys))
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = names[order][1:] != names[order][:-1]
    kept = order[first][:most]
    return ConfidentSamples(keys[kept], digests[kept], label[kept], rows[kept].astype(np.float32), most)
