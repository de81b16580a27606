"""Bounded slices: stored record batches in, validated canonical batches of bounded size out.

Steps, for each stored batch:
  1. Validate everything that a stored batch claims (offsets, indices, UTF-8), because it comes from an attacker.
  2. Measure each row's decoded size without decoding it.
  3. Cut at `max_batch_rows` and `max_batch_bytes`; put aside rows above `max_record_bytes`.
  4. Only then decode dictionaries and views.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from millcert.errors import HostileDataError
from millcert.pipelines.formats.base import Decoded, DecodedBudget, Malformed, ReadLimits, filter_rows, shorten
from millcert.pipelines.formats.canonical import conform, row_bytes


def bounded_slices(
    stored: pa.RecordBatch, first_row: int, schema: pa.Schema, limits: ReadLimits, budget: DecodedBudget, *, name: str
) -> Iterator[Decoded]:
    """Yield the rows of a stored batch as decoded batches within the limits.

    Args:
        stored: a batch as the library returned it; its values are not trusted.
        first_row: index in the file of its first row.
        schema: canonical schema to decode to.
        limits: bounds.
        budget: counts what the file decodes to.
        name: of the file, for errors.

    Raises:
        HostileDataError: offsets or indices point outside their buffers, or the file decodes to too much.
    """
    for start in range(0, stored.num_rows, limits.max_batch_rows):
        window = stored.slice(start, limits.max_batch_rows)
        good, malformed = _without_bad_text(window, first_row + start, name)
        yield from _cut(good, malformed, schema, limits, budget)


def _without_bad_text(
    window: pa.RecordBatch, first_row: int, name: str
) -> tuple[tuple[np.ndarray, pa.RecordBatch], list[Malformed]]:
    """Step 1: return (rows, batch) of the rows that are valid, and the malformed ones."""
    rows = np.arange(first_row, first_row + window.num_rows, dtype=np.int64)
    if _text_fault(window, name) is None:
        return (rows, window), []
    good = np.ones(window.num_rows, dtype=bool)
    malformed = []
    for index in _bad_rows(window, 0, window.num_rows, name):
        good[index] = False
        detail = "A text value is not valid UTF-8."
        malformed.append(Malformed(int(rows[index]), None, None, "utf8.invalid", detail))
    kept = filter_rows(window, good)
    if _text_fault(kept, name) is not None:
        raise HostileDataError(f"{name}: a dictionary holds text that is not valid UTF-8.", path=name)
    return (rows[good], kept), malformed


def _bad_rows(window: pa.RecordBatch, start: int, stop: int, name: str) -> Iterator[int]:
    """Yield the rows in [start, stop) that are not valid, by halving. Cost: O(bad rows x log n) validations."""
    if start == stop or _text_fault(window.slice(start, stop - start), name) is None:
        return
    if stop - start == 1:
        yield start
        return
    middle = (start + stop) // 2
    yield from _bad_rows(window, start, middle, name)
    yield from _bad_rows(window, middle, stop, name)


def _text_fault(window: pa.RecordBatch, name: str) -> str | None:
    """Return what is wrong with the text of a window, or None; refuse a window whose structure is wrong."""
    try:
        window.validate(full=True)
    except pa.ArrowException as error:
        if "UTF8" in str(error):
            return shorten(error)
        raise HostileDataError(
            f"{name}: the columns do not hold together: {shorten(error)}",
            hint="The file is damaged or made to break readers; fetch it again.",
            path=name,
        ) from error
    return None


def _cut(
    good: tuple[np.ndarray, pa.RecordBatch],
    malformed: list[Malformed],
    schema: pa.Schema,
    limits: ReadLimits,
    budget: DecodedBudget,
) -> Iterator[Decoded]:
    """Steps 2 to 4."""
    rows, stored = good
    sizes = np.zeros(stored.num_rows, dtype=np.int64)
    for column in stored.columns:
        sizes += row_bytes(column)
    is_too_large = sizes > limits.max_record_bytes
    if is_too_large.any():
        for index in np.flatnonzero(is_too_large).tolist():
            detail = f"The record has {int(sizes[index])} bytes decoded, above {limits.max_record_bytes}."
            malformed.append(Malformed(int(rows[index]), None, None, "record.too_large", detail))
        malformed.sort(key=lambda each: each.row)
        rows, sizes, stored = rows[~is_too_large], sizes[~is_too_large], filter_rows(stored, ~is_too_large)
    total = np.cumsum(sizes)
    start, pending = 0, tuple(malformed)
    while start < len(rows):
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + limits.max_batch_bytes, side="right")))
        budget.spend(int(total[stop - 1]) - before)
        part = stored.slice(start, stop - start)
        upto = int(rows[stop - 1]) if stop < len(rows) else None
        now = tuple(each for each in pending if upto is None or each.row < upto)
        pending = pending[len(now) :]
        yield Decoded(rows[start:stop], conform(part, schema), None, part, now)
        start = stop
    if pending:
        yield Decoded(rows[:0], conform(stored.slice(0, 0), schema), None, stored.slice(0, 0), pending)
