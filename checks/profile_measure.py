"""One column of a batch measured for all its cells at once: hashed, sorted and summed as a whole, then cut by cell.

What it makes of a cell is the same as of the cell's rows alone (tests/checks/test_profile_measure.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import sketch_distinct, sketch_embedding, sketch_hash, sketch_quantiles, sketch_values
from millcert.checks.group_sums import sum_groups
from millcert.checks.metric_columns import ColumnView
from millcert.checks.profile import ColumnProfile, Kind, Numbers, ProfileSpec, Sizes, kind_of_type
from millcert.checks.sketch_embedding import MeanEmbedding
from millcert.checks.sketch_values import Values

_NUMERIC = ("int", "float", "date", "timestamp", "decimal")
_HASHED = ("bool", "int", "float", "string", "binary", "date", "timestamp", "decimal")
#: A column is taken for one of few values if its first rows have less than half as many distinct ones.
_PEEKED = 2048


class Groups(NamedTuple):
    """The cells of a batch.

    at: int64 (n,): the cell of each row, 0 to cells - 1. cells: how many there are, each with a row.
    """

    at: np.ndarray
    cells: int


def measure_column(column: pa.Array, groups: Groups, spec: ProfileSpec, sizes: Sizes) -> list[ColumnProfile]:
    """Return what each cell has of a column.

    Args:
        column: n values.
        groups: of the n rows.
        spec: of the profile.
        sizes: of the sketches.
    """
    kind = kind_of_type(column.type)
    if kind == "embedding":
        return _measure_embedding(column, groups, spec, sizes)
    if kind == "list":
        nulls = _count(groups, column.is_null().to_numpy(zero_copy_only=False))
        present = groups.at[column.is_valid().to_numpy(zero_copy_only=False)]
        lengths = pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False).astype(np.int64)
        numbers = _numbers(lengths, present, groups.cells, sizes)
        return [ColumnProfile("list", n, lengths=part) for n, part in zip(nulls, numbers, strict=True)]
    view = ColumnView(column)
    nulls = _count(groups, view.is_null) if view.null_count else [0] * groups.cells
    if kind not in _HASHED:
        return [ColumnProfile(kind, n) for n in nulls]
    return _measure_plain(view, kind, nulls, groups, spec, sizes)


def _measure_plain(
    view: ColumnView, kind: Kind, nulls: list[int], groups: Groups, spec: ProfileSpec, sizes: Sizes
) -> list[ColumnProfile]:
    at = groups.at[view.present_at] if view.null_count else groups.at
    nothing = [None] * groups.cells
    numbers: list[Numbers] | list[None] = nothing
    lengths: list[Numbers] | list[None] = nothing
    values: list[Values] | list[None] = nothing
    if kind in _NUMERIC:
        numbers = _numbers(_as_numbers(view, kind), at, groups.cells, sizes)
    if kind in ("string", "binary"):
        size = pc.utf8_length(view.present) if kind == "string" else pc.binary_length(view.present)
        lengths = _numbers(size.to_numpy(zero_copy_only=False).astype(np.int64), at, groups.cells, sizes)
    if kind == "float":
        hashes = sketch_hash.hash_values(view.present, spec.key)
        registers: list[np.ndarray | None] = list(
            sketch_distinct.registers_of_groups(hashes, at, groups.cells, sizes.registers)
        )
    else:
        distinct, inverse, example = _distinct(view.present, kind, spec)
        texts = example if spec.keeps_texts else None
        values = sketch_values.count_groups(distinct, inverse, at, groups.cells, texts, sizes.values, sizes.buckets)
        registers = _registers_beyond(distinct, inverse, at, values, sizes)
    return [
        ColumnProfile(kind, n, numbers=one, lengths=length, registers=each, values=value)
        for n, one, length, each, value in zip(nulls, numbers, lengths, registers, values, strict=True)
    ]


def _registers_beyond(
    distinct: np.ndarray, inverse: np.ndarray, at: np.ndarray, values: list[Values], sizes: Sizes
) -> list[np.ndarray | None]:
    """Return the registers of the cells whose values are not all listed."""
    is_beyond = np.array([not value.is_complete for value in values])
    if not is_beyond.any():
        return [None] * len(values)
    rows = slice(None) if is_beyond.all() else is_beyond[at]
    place = np.cumsum(is_beyond) - 1
    count = int(is_beyond.sum())
    found = iter(sketch_distinct.registers_of_groups(distinct[inverse[rows]], place[at[rows]], count, sizes.registers))
    return [next(found) if each else None for each in is_beyond.tolist()]


def _distinct(
    present: pa.Array, kind: Kind, spec: ProfileSpec
) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], tuple[str | None, ...]]]:
    """Return the distinct hashes, ascending; the place of each value's; and what gives the texts of some of them."""
    is_text = kind in ("string", "binary", "decimal")
    if is_text and len(present.slice(0, _PEEKED).unique()) * 2 < min(len(present), _PEEKED):
        encoded = present.dictionary_encode()
        shown, codes = encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False)
    else:
        shown, codes = present, None
    hashes, first, inverse = _unique(sketch_hash.hash_values(shown, spec.key))
    if codes is not None:
        inverse = inverse[codes]

    def texts(some: np.ndarray) -> tuple[str | None, ...]:
        return sketch_values.texts_of(shown.take(pa.array(first[some])))

    return hashes, inverse, texts


def _unique(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct hashes, ascending; the place in `hashes` of one of each; and of each its place among them.

    As `np.unique`, whose stable sort is five times slower.
    """
    order = np.argsort(hashes)
    ordered = hashes[order]
    is_first = np.ones(len(hashes), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    inverse = np.empty(len(hashes), dtype=np.int64)
    inverse[order] = np.cumsum(is_first) - 1
    return ordered[is_first], order[is_first], inverse


def _as_numbers(view: ColumnView, kind: Kind) -> np.ndarray:
    if kind == "float":
        return view.present_floats
    if kind == "decimal":
        return np.array([float(value) for value in view.present.to_pylist()], dtype=np.float64)
    return view.present_ticks


def _numbers(numbers: np.ndarray, at: np.ndarray, count: int, sizes: Sizes) -> list[Numbers]:
    sums = sum_groups(numbers, at, count)
    if numbers.dtype.kind == "f":
        is_finite = np.isfinite(numbers)
        if not is_finite.all():
            numbers, at = numbers[is_finite], at[is_finite]
    sketches = sketch_quantiles.sketch_groups(numbers, at, count, sizes.quantiles)
    lows, highs = _ends(numbers, at, count)
    return [Numbers(*each) for each in zip(sums, sketches, lows, highs, strict=True)]


def _ends(numbers: np.ndarray, at: np.ndarray, count: int) -> tuple[list[float | int | None], list[float | int | None]]:
    """Return the smallest and the largest number of each cell."""
    lows: list[float | int | None] = [None] * count
    highs: list[float | int | None] = [None] * count
    if not len(numbers):
        return lows, highs
    order = np.argsort(at.astype(np.uint16) if count <= 1 << 16 else at, kind="stable") if count > 1 else slice(None)
    # Adding 0 turns -0.0 into 0.0, so that the ends do not depend on which of the two came first.
    ordered = numbers[order] + 0
    rows = np.bincount(at, minlength=count)
    used = np.flatnonzero(rows)
    starts = (np.cumsum(rows) - rows)[used]
    for ends, least in ((lows, np.minimum), (highs, np.maximum)):
        for place, value in zip(used.tolist(), least.reduceat(ordered, starts).tolist(), strict=True):
            ends[place] = value
    return lows, highs


def _measure_embedding(column: pa.Array, groups: Groups, spec: ProfileSpec, sizes: Sizes) -> list[ColumnProfile]:
    present = column.drop_null()
    at = groups.at[column.is_valid().to_numpy(zero_copy_only=False)] if column.null_count else groups.at
    width = column.type.list_size
    rows = present.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(present), width)
    # The sketch squares them and must stay finite.
    is_used = (np.abs(rows) < 2.0**400).all(axis=1)
    rows, at = rows[is_used], at[is_used]
    units, norms = sketch_embedding.unit_rows(rows)
    numbers = _numbers(norms, at, groups.cells, sizes)
    used = np.bincount(at, minlength=groups.cells)
    nulls = (np.bincount(groups.at, minlength=groups.cells) - used).tolist()
    sums = sketch_embedding.embed_groups(units, at, groups.cells, spec.frequencies, spec.key)
    return [
        ColumnProfile("embedding", n, numbers=one, embedding=MeanEmbedding(width, rows_of, each))
        for n, one, rows_of, each in zip(nulls, numbers, used.tolist(), sums, strict=True)
    ]


def _count(groups: Groups, mask: np.ndarray) -> list[int]:
    found: list[int] = np.bincount(groups.at[mask], minlength=groups.cells).tolist()
    return found
