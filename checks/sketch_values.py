"""Which values and how often: exact while they are few, and with a stated bound on what is not listed beyond.

Two parts, both functions of the multiset of values alone, so that batches, workers and order do not show:
  1. The `limit` distinct values with the smallest keyed hashes, each with its exact count. A value that is among the
     smallest of all is among the smallest of every part that has it, so no count is ever lost by merging. While there
     are no more distinct values than that, this is the whole table, and the values themselves are kept too.
  2. The rows of each of 256 buckets of the hash. Beyond the limit they bound any value that is not listed: it cannot
     stand more often than its bucket's rows less the listed ones.
Heavy-hitter summaries (Misra-Gries, space-saving) name more values, but what they keep depends on the order of merges.

Source: Bar-Yossef et al., RANDOM 2002 (the k smallest hashes); Cormode and Muthukrishnan, J. Algorithms 55 (2005) (the
bound by buckets).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import family, ticks

BUCKETS = 256
#: A longer text is not kept, only its hash and count.
SHOWN_BYTES = 64


class Values(NamedTuple):
    """The value counts of some rows.

    hashes: uint64 (k,), distinct, ascending: the smallest ones.
    counts: int64 (k,): the exact number of rows of each.
    texts: one a hash while `is_complete`: the value as text, None where it is longer than 64 bytes, is no text or was
        not to be kept; () once values were left out, so that a column of many values leaves none of them behind.
    is_complete: whether these are all distinct values.
    buckets: int64 (256,): rows by the lowest byte of their hash.
    """

    hashes: np.ndarray
    counts: np.ndarray
    texts: tuple[str | None, ...]
    is_complete: bool
    buckets: np.ndarray


def count_values(hashes: np.ndarray, values: pa.Array, limit: int, *, keeps_texts: bool) -> Values:
    """Return the value counts of a batch.

    Args:
        hashes: uint64 (n,): keyed hashes of the values.
        values: in their kernel type, no nulls, shape (n,).
        limit: how many distinct values are listed.
        keeps_texts: False leaves the values themselves out, whatever their number.
    """
    buckets = np.bincount((hashes & np.uint64(BUCKETS - 1)).astype(np.int64), minlength=BUCKETS).astype(np.int64)
    unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    is_complete = len(unique) <= limit
    texts: tuple[str | None, ...] = ()
    if is_complete:
        texts = _texts(values.take(pa.array(first))) if keeps_texts else (None,) * len(unique)
    return Values(unique[:limit], counts[:limit].astype(np.int64), texts, is_complete, buckets)


def merge_values(parts: Sequence[Values], limit: int) -> Values:
    """Return the value counts of all rows; at least one part, all made with this limit."""
    if len(parts) == 1:
        return parts[0]
    hashes = np.concatenate([part.hashes for part in parts])
    unique, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    # bincount adds in float64: exact below 2^53 rows.
    counts = np.bincount(place, weights=np.concatenate([part.counts for part in parts])).astype(np.int64)
    is_complete = all(part.is_complete for part in parts) and len(unique) <= limit
    texts: tuple[str | None, ...] = ()
    if is_complete:
        listed = [text for part in parts for text in part.texts]
        texts = tuple(listed[at] for at in first.tolist())
    buckets = np.sum([part.buckets for part in parts], axis=0)
    return Values(unique[:limit], counts[:limit], texts, is_complete, buckets)


def unlisted_bound(values: Values) -> int:
    """Return how often any value that is not listed can stand at most; 0 where all are listed."""
    if values.is_complete:
        return 0
    listed = np.bincount(
        (values.hashes & np.uint64(BUCKETS - 1)).astype(np.int64), weights=values.counts, minlength=BUCKETS
    )
    return int((values.buckets - listed.astype(np.int64)).max())


def top_values(values: Values, count: int) -> list[tuple[str, int]]:
    """Return the most frequent listed values: text (or "hash:<hex>") and exact count; ties by hash."""
    order = np.argsort(-values.counts, kind="stable")[:count].tolist()
    shown = values.texts or (None,) * len(values.hashes)
    return [
        (f"hash:{int(values.hashes[at]):016x}" if (text := shown[at]) is None else text, int(values.counts[at]))
        for at in order
    ]


def _texts(values: pa.Array) -> tuple[str | None, ...]:
    """Return values as text; numbers of all kinds in decimal."""
    kind = family(values.type)
    if kind == "string":
        is_short = pc.less_equal(pc.binary_length(values), SHOWN_BYTES)
        return tuple(pc.if_else(is_short, values, None).to_pylist())
    if kind == "bool":
        return tuple(values.cast(pa.string()).to_pylist())
    if kind in ("int", "date", "timestamp"):
        return tuple(str(tick) for tick in ticks(values).tolist())
    if kind == "decimal":
        return tuple(values.cast(pa.string()).to_pylist())
    return (None,) * len(values)
