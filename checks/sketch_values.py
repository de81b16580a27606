"""Which values and how often: exact while they are few, and with a stated bound on what is not listed beyond.

Two parts, both functions of the multiset of values alone, so that batches, workers and order do not show:
  1. The `limit` distinct values with the smallest keyed hashes, each with its exact count. A value that is among the
     smallest of all is among the smallest of every part that has it, so no count is ever lost by merging. While there
     are no more distinct values than that, this is the whole table, and the values themselves are kept too.
  2. Beyond the limit: the rows of each of 256 buckets of the hash (fewer where there are many cells). They bound any
     value that is not listed: it cannot stand more often than its bucket's rows less the listed ones.
Heavy-hitter summaries (Misra-Gries, space-saving) name more values, but what they keep depends on the order of merges.

Source: Bar-Yossef et al., RANDOM 2002 (the k smallest hashes); Cormode and Muthukrishnan, J. Algorithms 55 (2005) (the
bound by buckets).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
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
    buckets: int64 (b,): rows by the lowest bits of their hash, b a power of two up to 256; none while `is_complete`.
    """

    hashes: np.ndarray
    counts: np.ndarray
    texts: tuple[str | None, ...]
    is_complete: bool
    buckets: np.ndarray


NO_BUCKETS = np.zeros(0, dtype=np.int64)


def count_groups(
    distinct: np.ndarray,
    inverse: np.ndarray,
    groups: np.ndarray,
    count: int,
    texts: Callable[[np.ndarray], tuple[str | None, ...]] | None,
    limit: int,
    buckets: int,
) -> list[Values]:
    """Return the value counts of each group of a batch, as of its rows alone; one sort for all groups.

    Args:
        distinct: uint64 (d,): distinct keyed hashes, ascending.
        inverse: int64 (n,): the place of each row's hash among them.
        groups: int64 (n,), 0 to count - 1.
        count: how many groups there are.
        texts: gives the texts of some of `distinct`, by place; None leaves texts out.
        limit: how many distinct values are listed of each group.
        buckets: how many there are where values are left out; a power of two up to `BUCKETS`.
    """
    shift = np.uint64(32)
    rows, repeats = np.unique((groups.astype(np.uint64) << shift) | inverse.astype(np.uint64), return_counts=True)
    whose, place = (rows >> shift).astype(np.int64), (rows & np.uint64(0xFFFFFFFF)).astype(np.int64)
    ends = np.searchsorted(whose, np.arange(count + 1))
    is_beyond = np.diff(ends) > limit
    tables = np.zeros((count, buckets), dtype=np.int64)
    if is_beyond.any():
        own = is_beyond[whose]
        low = (distinct[place[own]] & np.uint64(buckets - 1)).astype(np.int64)
        # bincount adds in float64: exact below 2^53 rows.
        flat = np.bincount(whose[own] * buckets + low, weights=repeats[own], minlength=count * buckets)
        tables = flat.astype(np.int64).reshape(count, buckets)
    named = _named(place[~is_beyond[whose]], texts)
    found = []
    for at, (start, end) in enumerate(pairwise(ends.tolist())):
        stop = min(end, start + limit)
        hashes, counts = distinct[place[start:stop]], repeats[start:stop].astype(np.int64)
        if is_beyond[at]:
            found.append(Values(hashes, counts, (), is_complete=False, buckets=tables[at]))
        else:
            shown = tuple(named.get(one) for one in place[start:stop].tolist())
            found.append(Values(hashes, counts, shown, is_complete=True, buckets=NO_BUCKETS))
    return found


def count_values(hashes: np.ndarray, values: pa.Array, limit: int, *, keeps_texts: bool) -> Values:
    """Return the value counts of a batch.

    Args:
        hashes: uint64 (n,): keyed hashes of the values.
        values: in their kernel type, no nulls, shape (n,).
        limit: how many distinct values are listed.
        keeps_texts: False leaves the values themselves out, whatever their number.
    """
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)

    def texts(some: np.ndarray) -> tuple[str | None, ...]:
        return texts_of(values.take(pa.array(first[some])))

    whole = np.zeros(len(hashes), dtype=np.int64)
    return count_groups(distinct, inverse, whole, 1, texts if keeps_texts else None, limit, BUCKETS)[0]


def merge_values(parts: Sequence[Values], limit: int, buckets: int = BUCKETS) -> Values:
    """Return the value counts of all rows; at least one part, all made with at least this limit and these buckets."""
    if len(parts) == 1:
        unique, counts, listed = parts[0].hashes, parts[0].counts, parts[0].texts
        is_complete = parts[0].is_complete and len(unique) <= limit
    else:
        hashes = np.concatenate([part.hashes for part in parts])
        unique, first, place = np.unique(hashes, return_index=True, return_inverse=True)
        # bincount adds in float64: exact below 2^53 rows.
        counts = np.bincount(place, weights=np.concatenate([part.counts for part in parts]), minlength=len(unique))
        counts = counts.astype(np.int64)
        is_complete = all(part.is_complete for part in parts) and len(unique) <= limit
        every = [text for part in parts for text in part.texts] if is_complete else []
        listed = tuple(every[at] for at in first.tolist()) if is_complete else ()
    if is_complete:
        return Values(unique, counts, listed, is_complete=True, buckets=NO_BUCKETS)
    beyond = [part for part in parts if not part.is_complete]
    fewest = min([buckets, *(len(part.buckets) for part in beyond)])
    rows = np.sum([buckets_of(part, fewest) for part in parts], axis=0)
    # Behind the last hash that a part lists, it may have more of a value than is known.
    known = min((int(part.hashes[-1]) for part in beyond), default=2**64 - 1)
    is_known = min(limit, int(np.searchsorted(unique, np.uint64(known), side="right")))
    return Values(unique[:is_known], counts[:is_known], (), is_complete=False, buckets=rows)


def buckets_of(values: Values, buckets: int) -> np.ndarray:
    """Return the rows of each bucket, int64 (buckets,), no more of them than the values have."""
    if values.is_complete:
        low = (values.hashes & np.uint64(buckets - 1)).astype(np.int64)
        return np.bincount(low, weights=values.counts, minlength=buckets).astype(np.int64)
    return values.buckets.reshape(-1, buckets).sum(axis=0)


def unlisted_bound(values: Values) -> int:
    """Return how often any value that is not listed can stand at most; 0 where all are listed."""
    if values.is_complete:
        return 0
    size = len(values.buckets)
    listed = np.bincount((values.hashes & np.uint64(size - 1)).astype(np.int64), weights=values.counts, minlength=size)
    return int((values.buckets - listed.astype(np.int64)).max())


def top_values(values: Values, count: int) -> list[tuple[str, int]]:
    """Return the most frequent listed values: text (or "hash:<hex>") and exact count; ties by hash."""
    order = np.argsort(-values.counts, kind="stable")[:count].tolist()
    shown = values.texts or (None,) * len(values.hashes)
    return [
        (f"hash:{int(values.hashes[at]):016x}" if (text := shown[at]) is None else text, int(values.counts[at]))
        for at in order
    ]


def _named(places: np.ndarray, texts: Callable[[np.ndarray], tuple[str | None, ...]] | None) -> dict[int, str | None]:
    if texts is None or not len(places):
        return {}
    used = np.flatnonzero(np.bincount(places))
    return dict(zip(used.tolist(), texts(used), strict=True))


def texts_of(values: pa.Array) -> tuple[str | None, ...]:
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
