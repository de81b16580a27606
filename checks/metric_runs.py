"""Whether a column rises or falls from row to row, over rows that are read in pieces and in any order.

A stretch is a piece of one file with its first and last value and what was found inside. Stretches that touch are
joined; the rest waits until all are there, and then the joints are judged in the order (file, row). Nulls are passed
over, and the first value of all always stands, as in Great Expectations on pandas.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.metric_listing import NOTHING, Listing, list_first, merge_listings
from millcert.errors import InternalError


class Places(NamedTuple):
    """Where the rows of a batch are from.

    file: the file. rows: ascending record indices, shape (n,). span: first and last row of the batch, both in, which
    may be more than `rows` where only some of them are looked at.
    """

    file: str
    rows: np.ndarray
    span: tuple[int, int]


class Stretch(NamedTuple):
    """Rows `start` to `end` of one file, both in.

    first, last: the outer values that are not null, arrays of length 1, or None where all are null.
    first_row: where `first` stands.
    unexpected: how many values break the order towards the value before them in the stretch.
    listing: the first of those.
    """

    start: int
    end: int
    first: pa.Array | None
    last: pa.Array | None
    first_row: int
    unexpected: int
    listing: Listing


def breaks_order(numbers: np.ndarray, *, is_rising: bool, is_strict: bool) -> np.ndarray:
    """Return whether each number after the first breaks the order, bool (n - 1,). Infinity next to infinity does not.

    pandas subtracts neighbours, and the difference of two equal infinities is NaN, which it lets pass.
    """
    before, after = numbers[:-1], numbers[1:]
    if not is_rising:
        before, after = after, before
    broken = after <= before if is_strict else after < before
    if numbers.dtype.kind == "f":
        broken &= ~((before == after) & np.isinf(before))
    return broken


def measure_stretch(places: Places, at: np.ndarray, values: pa.Array, broken: np.ndarray, limit: int) -> Stretch:
    """Return the stretch of one batch.

    Args:
        places: where the batch is from.
        at: positions of the values that are not null, shape (m,).
        values: those values, shape (m,).
        broken: `breaks_order` of them, shape (m - 1,), or (0,).
        limit: how many places to list.
    """
    found = np.flatnonzero(broken) + 1
    listing = list_first(limit, places.file, places.rows, at[found], values.take(pa.array(found)))
    if not len(values):
        return Stretch(*places.span, None, None, 0, 0, NOTHING)
    return Stretch(
        *places.span,
        values.take(pa.array([0])),
        values.take(pa.array([len(values) - 1])),
        int(places.rows[at[0]]),
        len(found),
        listing,
    )


def merge_stretches(
    parts: Iterable[tuple[Stretch, ...]], file: str, limit: int, *, is_rising: bool, is_strict: bool
) -> tuple[Stretch, ...]:
    """Return the stretches of one file, sorted, those that touch joined."""
    stretches = sorted((stretch for part in parts for stretch in part), key=lambda stretch: stretch.start)
    joined: list[Stretch] = []
    for stretch in stretches:
        if joined and stretch.start <= joined[-1].end:
            raise InternalError(f"Rows {stretch.start} of {file!r} and on were measured twice.", path=file)
        if joined and stretch.start == joined[-1].end + 1:
            joined[-1] = join(joined[-1], stretch, file, limit, is_rising=is_rising, is_strict=is_strict)
        else:
            joined.append(stretch)
    return tuple(joined)


def join(
    before: Stretch,
    after: Stretch,
    file: str,
    limit: int,
    *,
    is_rising: bool,
    is_strict: bool,
) -> Stretch:
    """Return two stretches as one; `after` is the later one, of `file`."""
    unexpected, listings = before.unexpected + after.unexpected, [before.listing, after.listing]
    if before.last is not None and after.first is not None:
        numbers = np.concatenate([_number(before.last), _number(after.first)])
        if breaks_order(numbers, is_rising=is_rising, is_strict=is_strict)[0]:
            unexpected += 1
            listings.append(Listing((file,), np.array([after.first_row], dtype=np.int64), after.first))
    return Stretch(
        before.start,
        after.end,
        after.first if before.first is None else before.first,
        before.last if after.last is None else after.last,
        after.first_row if before.first is None else before.first_row,
        unexpected,
        merge_listings(limit, listings),
    )


def _number(value: pa.Array) -> np.ndarray:
    if pa.types.is_timestamp(value.type):
        value = value.cast(pa.int64())
    return value.to_numpy(zero_copy_only=False)
