"""A bounded sample of labelled rows, the same in any order, on any number of workers: those with the least hashes.

It stands in for all rows where a model is tuned between two reads. A data set with no more rows than fit is its own
sample. Hashes are keyed, so that nobody who does not know the key can choose rows that are sure to be in it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millcert.checks.digest_sample import digest_heads, digest_keys, keyed
from millcert.errors import InvalidSampleError

#: Numbers that are kept in all: 32 MB of float32, and up to twice that between calls.
MAX_VALUES = 2**23
#: Rows that are kept at least, however wide.
LEAST_ROWS = 2**13
#: What the groups of an accumulator begin with; a group has the hashes of one range.
PREFIX = "rows:"
#: Groups, so that each is small enough to be sent.
_RANGES = 16


@dataclass(frozen=True, eq=False)
class LabelledSample:
    """Rows with the least hashes of one range; immutable, picklable, mergeable in any order.

    chunks: tables of key, uint64 (n,), the hash; digest, uint64 (n,), the digest's first 8 bytes; label, uint64 (n,),
        `label_keys`; rows, float32 (n, d). Not yet cut to `most`.
    bound: larger hashes cannot be among the least any more.
    most: rows to keep.

    Size: 4 x d + 24 bytes a row, at most 2 x `most` rows between calls.
    Source: bottom-k sampling, Cohen, Kaplan, PODC 2007. Rows of one hash are told apart by what they hold.
    """

    chunks: tuple[tuple[np.ndarray, ...], ...]
    bound: int
    most: int

    def merge(self, others: Iterable["LabelledSample"]) -> "LabelledSample":
        """Return the sample of all rows of this and the others.

        Raises:
            InvalidSampleError: rows have different widths.
        """
        parts = [self, *others]
        chunks = tuple(chunk for part in parts for chunk in part.chunks)
        if len({chunk[3].shape[1] for chunk in chunks}) > 1:
            raise InvalidSampleError(
                "Embeddings have different widths.", hint="All samples must have embeddings of one width."
            )
        grown = LabelledSample(chunks, min(part.bound for part in parts), self.most)
        return grown if sum(len(chunk[0]) for chunk in chunks) <= 2 * self.most else grown.cut()

    def cut(self) -> "LabelledSample":
        """Return the sample with no more than `most` rows, in one chunk."""
        table = tuple(np.concatenate(column) for column in zip(*self.chunks, strict=True))
        if len(table[0]) <= self.most:
            return LabelledSample((table,), self.bound, self.most)
        bound = np.partition(table[0], self.most - 1)[self.most - 1]
        inside, tied = np.flatnonzero(table[0] < bound), np.flatnonzero(table[0] == bound)
        if len(inside) + len(tied) > self.most:
            tied = tied[np.lexsort((*table[3][tied].T[::-1], table[2][tied], table[1][tied]))][
                : self.most - len(inside)
            ]
        kept = np.concatenate([inside, tied])
        return LabelledSample((tuple(column[kept] for column in table),), int(bound), self.most)


def label_keys(labels: Iterable[str]) -> np.ndarray:
    """Return what stands for each label in a sample, uint64 (n,): the first 8 bytes of its SHA-256."""
    digests = b"".join(hashlib.sha256(label.encode()).digest()[:8] for label in labels)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def sample_parts(
    acc: Mapping[str, object], digests: np.ndarray, label: pa.StringArray, rows: np.ndarray, seed: int
) -> dict[str, LabelledSample]:
    """Return the parts of a batch, by range of hashes, without the rows that `acc` has no room for.

    Args:
        acc: of the samples so far.
        digests: uint8 (n, 32).
        label: (n,).
        rows: float32 (n, d).
        seed: the key of the hashes.
    """
    most = max(1, max(LEAST_ROWS, MAX_VALUES // max(1, rows.shape[1])) // _RANGES)
    key = keyed(digest_keys(digests), seed)
    place = (key >> np.uint64(60)).astype(np.int64)
    bounds = np.full(_RANGES, np.iinfo(np.uint64).max, dtype=np.uint64)
    for index in range(_RANGES):
        known = acc.get(f"{PREFIX}{index:02}")
        if isinstance(known, LabelledSample):
            bounds[index] = known.bound
    near = np.flatnonzero(key <= bounds[place])
    encoded = label.take(pa.array(near)).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    names = label_keys(encoded.dictionary.to_pylist())[codes]
    digest = digest_heads(digests[near])
    parts = {}
    for index in np.unique(place[near]).tolist():
        own = np.flatnonzero(place[near] == index)
        table = (key[near][own], digest[own], names[own], rows[near[own]])
        parts[f"{PREFIX}{index:02}"] = LabelledSample((table,), int(bounds[index]), most)
    return parts


def whole_sample(acc: Mapping[str, object]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the digests' first 8 bytes, uint64 (m,), the labels, `label_keys` (m,), and the rows, float32 (m, d)."""
    parts = [acc[group] for group in sorted(acc) if group.startswith(PREFIX)]
    tables = [part.cut().chunks[0] for part in parts if isinstance(part, LabelledSample)]
    _, digest, label, rows = (np.concatenate(column) for column in zip(*tables, strict=True))
    return digest, label, rows
