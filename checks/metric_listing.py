"""The first k rows, by place, that something was found in: a part of fixed size that merges exactly in any order.

The order is (file path as text, row); it does not depend on batches, workers or the order in which files are read.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Listing(NamedTuple):
    """At most k places, ascending.

    files: the file of each place.
    rows: int64: the record index of each place.
    content: what stood there; None where nothing was found yet.
    """

    files: tuple[str, ...]
    rows: np.ndarray
    content: pa.Array | None


NOTHING = Listing((), np.zeros(0, dtype=np.int64), None)


def list_first(limit: int, file: str, rows: np.ndarray, positions: np.ndarray, values: pa.Array) -> Listing:
    """Return the listing of one batch.

    Args:
        limit: k.
        file: the file that the batch is from.
        rows: record index of every row of the batch, shape (n,).
        positions: where in the batch something was found, shape (m,).
        values: what stood there, shape (m,).
    """
    if limit <= 0 or not len(positions):
        return NOTHING
    found = rows[positions]
    if len(found) > 1 and not (found[1:] > found[:-1]).all():
        order = np.argsort(found, kind="stable")[:limit]
    else:
        order = np.arange(min(limit, len(found)))
    # take copies: a slice would carry the whole batch wherever the part is sent.
    return Listing((file,) * len(order), found[order], values.take(pa.array(order)))


def merge_listings(limit: int, listings: Iterable[Listing]) -> Listing:
    """Return the first k places of several listings."""
    full = [listing for listing in listings if listing.files]
    if len(full) <= 1:
        return full[0] if full else NOTHING
    if len(full) == 2 and len(full[0].files) == limit and _end(full[0], -1) < _end(full[1], 0):
        return full[0]  # as it is when a file is read on
    files = [file for listing in full for file in listing.files]
    rows = np.concatenate([listing.rows for listing in full])
    order = sort_places(files, rows)[:limit]
    values = pa.concat_arrays([listing.content for listing in full if listing.content is not None])
    return Listing(tuple(files[i] for i in order), rows[order], values.take(pa.array(order)))


def _end(listing: Listing, at: int) -> tuple[str, int]:
    return listing.files[at], int(listing.rows[at])


def sort_places(files: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Return the order that sorts places by (file, row)."""
    _, rank = np.unique(np.array(files, dtype=object), return_inverse=True)
    return np.lexsort((rows, rank))
