"""The distinct values of a column with their counts, exactly, in parts that a cluster can merge apart from one another.

The values are kept, not hashes of them, so no two values can be confused and no one can forge a collision. Only a text
of more than `LONG_BYTES` bytes is kept as the SHA-256 of itself.

  1. A batch becomes a `Run` of its distinct values where they repeat, else `Rows`: values as they came, which nobody
     counts before all are together.
  2. What waits is dealt to 256 partitions by a hash (`millcert.checks.metric_partitions`) once there is enough of it.
     A worker may hand the dealt parts over at any time and go on with none, so its memory does not grow.
  3. Whoever has all parts of a partition reduces them to what the results need (`millcert.checks.metric_tally`).

Size: 8 bytes a number, or a text's own (at most 256), and 4 bytes for the place of each row in `Rows`; 8 to 16 more in
a `Run`. Great Expectations lists the first rows whose value stands more than once. Which values those are is known only
at the end, so each value keeps its first `keep` places.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import ColumnView, Encoded, family, kernel_type
from millcert.checks.metric_partitions import PARTITIONS, hash_keys, partition_of
from millcert.checks.metric_text import repeats

#: Texts longer than this are kept as their SHA-256.
LONG_BYTES = 256
#: What a long text's key starts with; 0xff is in no UTF-8, and no record starts with it.
LONG_PREFIX = b"\xff" * 40
#: What may wait to be dealt.
MAX_WAITING_ROWS, MAX_WAITING_BYTES = 500_000, 32 << 20
#: A dealt part is merged once it has more entries than this and than four times its largest run.
_MERGE_ENTRIES = 65_536
#: Entries that are dealt at once: their keys stay in the processor's cache.
_DEALT_ROWS = 65_536
#: Runs that wait in a part before they are merged.
_MAX_RUNS = 32


class Run(NamedTuple):
    """Distinct values of some rows.

    keys: distinct, no nulls, shape (d,).
    counts: how many rows have each, shape (d,).
    files: names, sorted; `place_file` points into them.
    place_key, place_file, place_row: the kept places, shape (p,): key index, file index, row; those of one key by
        (file, row).
    """

    keys: pa.Array
    counts: np.ndarray
    files: tuple[str, ...]
    place_key: np.ndarray
    place_file: np.ndarray
    place_row: np.ndarray


class Rows(NamedTuple):
    """Values as they came, one an entry; they may repeat.

    keys: no nulls, shape (n,).
    files: names, sorted; `file` points into them.
    file: file index of each entry, shape (n,); None where all are of the first.
    row: row of each entry, shape (n,); None where no places are kept.
    """

    keys: pa.Array
    files: tuple[str, ...]
    file: np.ndarray | None
    row: np.ndarray | None


#: A part: what has yet to be merged.
Distinct: TypeAlias = tuple[Run | Rows, ...]


def keys_of(values: pa.Array) -> pa.Array:
    """Return what stands for each value, equal where pandas finds the values equal; `values` has no nulls."""
    kind = family(values.type)
    if kind == "float":
        return pc.add(values, 0.0)  # -0.0 becomes 0.0
    if kind in ("string", "binary"):
        keys = values.cast(pa.binary())
        if len(keys) and pc.max(pc.binary_length(keys)).as_py() > LONG_BYTES:
            keys = _shorten(keys)
        return keys
    return values


def key_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type of the keys that stand for a column's values."""
    return keys_of(pa.array([], kernel_type(data_type))).type


def is_long(key: bytes) -> bool:
    """Return whether a key is the SHA-256 of a text."""
    return len(key) == len(LONG_PREFIX) + 32 and key.startswith(LONG_PREFIX)


def shown(keys: pa.Array, data_type: pa.DataType) -> pa.Array:
    """Return keys as values of the column's kernel type again; a long text reads "sha256:<hex>"."""
    if family(data_type) not in ("string", "binary"):
        return keys
    values = [b"sha256:" + key[len(LONG_PREFIX) :].hex().encode() if is_long(key) else key for key in keys.to_pylist()]
    return pa.array(values, pa.binary()).cast(data_type)


def member_keys(  # noqa: PLR0911 - a table of families
    key_type: pa.DataType, members: Sequence[Any]
) -> pa.Array:
    """Return members of a set, as `millcert.checks.metric_bounds.members` gives them, as keys of a type.

    Args:
        key_type: what `keys_of` gives for the column's values.
        members: those that the type cannot hold are left out.
    """
    match family(key_type):
        case "float":
            return keys_of(pa.array(members, pa.float64()))
        case "string" | "binary":
            return keys_of(pa.array(members, pa.string()))
        case "date":
            return pa.array(members, pa.int32()).cast(pa.date32())
        case "timestamp":
            return pa.array(members, pa.int64()).cast(key_type)
        case "int":
            limits = np.iinfo(key_type.to_pandas_dtype())
            return pa.array([member for member in members if limits.min <= member <= limits.max], key_type)
        case "bool":
            return pa.array([bool(member) for member in members if member in (0, 1)], pa.bool_())
        case _:
            decimals = (_decimal(key_type, member) for member in members)
            return pa.array([decimal for decimal in decimals if decimal is not None], key_type)


def _decimal(key_type: pa.DataType, member: Any) -> Any:
    try:
        return pa.scalar(member).cast(key_type).as_py()
    except pa.ArrowInvalid:
        return None


def measure_column(column: ColumnView, file: str, rows: np.ndarray, keep: int) -> Distinct:
    """Return the part of one column of one batch; `rows` are the record indices of the batch."""
    if column.encoded is None:
        return measure(column.present, file, rows[column.present_at] if keep else rows[:0], keep)
    return (_counted(column.encoded, file, rows[column.present_at] if keep else rows[:0], keep),)


def measure(values: pa.Array, file: str, rows: np.ndarray, keep: int) -> Distinct:
    """Return the part of some values.

    Args:
        values: shape (n,), no nulls, in their kernel type.
        file: where they are from.
        rows: int64 (n,): their record index; read only where places are kept.
        keep: how many places each value keeps.
    """
    if not len(values):
        return ()
    return (Rows(_own(keys_of(values)), (file,), None, narrow(rows) if keep else None),)


def append(part: Distinct, new: Distinct, keep: int) -> Distinct:
    """Return a part with more; merges its runs once many wait."""
    both = (*part, *new)
    runs = [each for each in both if isinstance(each, Run)]
    if len(runs) <= _MAX_RUNS:
        return both
    return (*(each for each in both if isinstance(each, Rows)), *merge([tuple(runs)], keep))


def append_dealt(part: Distinct, new: Distinct, keep: int) -> Distinct:
    """Return the part of a partition with more; merged once that may make it much smaller."""
    both = (*part, *new)
    largest = max((len(each.keys) for each in both if isinstance(each, Run)), default=0)
    if sum(len(each.keys) for each in both) > max(_MERGE_ENTRIES, 4 * largest):
        return merge([both], keep)
    return both


def is_full(part: Distinct) -> bool:
    """Return whether a part that waits is large enough to be dealt."""
    entries = sum(len(each.keys) for each in part)
    return entries >= MAX_WAITING_ROWS or sum(each.keys.nbytes for each in part) >= MAX_WAITING_BYTES


def deal(part: Distinct, keep: int) -> Iterator[tuple[int, Distinct]]:
    """Yield (partition, part) of all that waits; the parts share no memory with one another."""
    rows = [each for each in part if isinstance(each, Rows)]
    runs = [each for each in part if isinstance(each, Run)]
    merged: list[Run | Rows] = []
    if rows:
        all_rows = together(rows)
        merged += merge([(all_rows,)], keep) if repeats(all_rows.keys) else (all_rows,)
    if runs:
        merged += merge([tuple(runs)], keep)
    dealt: dict[int, list[Run | Rows]] = {}
    for each in merged:
        for partition, piece in _dealt(each):
            dealt.setdefault(partition, []).append(piece)
    for partition in sorted(dealt):
        yield partition, tuple(dealt[partition])


def merge(parts: Iterable[Distinct], keep: int) -> tuple[Run, ...]:
    """Return one part of at most one run."""
    pieces = [each for part in parts for each in part if len(each.keys)]
    if not pieces:
        return ()
    if len(pieces) == 1 and isinstance(pieces[0], Run):
        return (pieces[0],)
    encoded = pa.concat_arrays([piece.keys for piece in pieces]).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.zeros(len(encoded.dictionary), dtype=np.int64)
    files = tuple(sorted({file for piece in pieces for file in piece.files}))
    at = {file: i for i, file in enumerate(files)}
    key, file, row = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    start = 0
    for piece in pieces:
        own = codes[start : start + len(piece.keys)]
        start += len(piece.keys)
        renamed = np.array([at[name] for name in piece.files], dtype=np.int64)
        if isinstance(piece, Run):
            counts[own] += piece.counts
            if keep <= 0:
                continue
            key.append(own[piece.place_key])
            file.append(renamed[piece.place_file])
            row.append(piece.place_row)
            continue
        counts += np.bincount(own, minlength=len(counts))
        if keep > 0 and piece.row is not None:
            key.append(own)
            file.append(np.full(len(own), renamed[0]) if piece.file is None else renamed[piece.file])
            row.append(piece.row)
    place_key, place_file, place_row = np.concatenate(key), np.concatenate(file), np.concatenate(row)
    order = np.lexsort((place_row, place_file, place_key))
    kept = order[_rank_in_group(place_key[order]) < keep]
    places = narrow(place_key[kept]), narrow(place_file[kept]), narrow(place_row[kept])
    return (Run(encoded.dictionary, narrow(counts), files, *places),)


def narrow(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of 0 or more in 4 bytes each where they fit, else in 8."""
    fits = not len(numbers) or int(numbers.max()) < 2**32
    return numbers.astype(np.uint32 if fits else np.int64)


def together(rows: Sequence[Rows]) -> Rows:
    """Return several `Rows` as one; at least one."""
    if len(rows) == 1:
        return rows[0]
    files = tuple(sorted({name for each in rows for name in each.files}))
    at = {name: i for i, name in enumerate(files)}
    keys = pa.concat_arrays([each.keys for each in rows])
    if any(each.row is None for each in rows):
        return Rows(keys, files, None, None)
    row = np.concatenate([each.row for each in rows if each.row is not None])
    if len(files) == 1:
        return Rows(keys, files, None, row)
    renamed = [np.array([at[name] for name in each.files], dtype=np.uint32) for each in rows]
    file = [
        np.full(len(each.keys), names[0]) if each.file is None else names[each.file]
        for each, names in zip(rows, renamed, strict=True)
    ]
    return Rows(keys, files, np.concatenate(file), row)


def _counted(encoded: Encoded, file: str, rows: np.ndarray, keep: int) -> Run:
    place_key, place_row = _first_places(encoded.codes, rows, keep)
    place_file = np.zeros(len(place_key), dtype=np.uint32)
    keys = _own(keys_of(encoded.values))
    return Run(keys, narrow(encoded.counts), (file,), narrow(place_key), place_file, narrow(place_row))


def _dealt(each: Run | Rows) -> Iterator[tuple[int, Run | Rows]]:
    """Yield (partition, what of it goes there)."""
    if isinstance(each, Run):
        yield from _dealt_run(each)
        return
    pieces: dict[int, list[tuple[pa.Array, np.ndarray | None, np.ndarray | None]]] = {}
    for start in range(0, len(each.keys), _DEALT_ROWS):
        keys = each.keys.slice(start, _DEALT_ROWS)
        order, cuts = _deal_order(keys)
        keys = keys.take(pa.array(order))
        file, row = (
            None if numbers is None else numbers[start : start + len(order)][order] for numbers in (each.file, each.row)
        )
        for partition, (first, last) in enumerate(pairwise(cuts)):
            if last > first:
                own = (None if numbers is None else numbers[first:last] for numbers in (file, row))
                pieces.setdefault(partition, []).append((keys.slice(first, last - first), *own))
    for partition, several in pieces.items():
        several_files, several_rows = [piece[1] for piece in several], [piece[2] for piece in several]
        yield (
            partition,
            Rows(
                pa.concat_arrays([each.keys.slice(0, 0), *(piece[0] for piece in several)]),
                each.files,
                None if each.file is None else np.concatenate([own for own in several_files if own is not None]),
                None if each.row is None else np.concatenate([own for own in several_rows if own is not None]),
            ),
        )


def _deal_order(keys: pa.Array) -> tuple[np.ndarray, list[int]]:
    """Return the order of keys by partition, and where each of the 256 begins, and the last one ends."""
    partition = partition_of(hash_keys(keys))
    ends = np.cumsum(np.bincount(partition, minlength=PARTITIONS)).tolist()
    return np.argsort(partition, kind="stable"), [0, *ends]


def _dealt_run(each: Run) -> Iterator[tuple[int, Run]]:
    order, cuts = _deal_order(each.keys)
    keys, counts = each.keys.take(pa.array(order)), each.counts[order]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    place_key = place[each.place_key]
    by_key = np.argsort(place_key, kind="stable")
    place_key, place_file, place_row = place_key[by_key], each.place_file[by_key], each.place_row[by_key]
    place_cuts = np.searchsorted(place_key, cuts).tolist()
    for part, (start, end) in enumerate(pairwise(cuts)):
        if end > start:
            first, last = place_cuts[part : part + 2]
            yield (
                part,
                Run(
                    _own(keys.slice(start, end - start)),
                    counts[start:end].copy(),
                    each.files if last > first else (),
                    (place_key[first:last] - start).astype(np.uint32),
                    place_file[first:last].copy(),
                    place_row[first:last].copy(),
                ),
            )


def _own(keys: pa.Array) -> pa.Array:
    """Return keys that share no memory: a slice would carry its whole batch wherever it is sent."""
    return pa.concat_arrays([keys, keys.slice(0, 0)])


def _shorten(keys: pa.Array) -> pa.Array:
    encoded = keys.dictionary_encode()
    short = [
        LONG_PREFIX + hashlib.sha256(key).digest() if len(key) > LONG_BYTES else key
        for key in encoded.dictionary.to_pylist()
    ]
    return pa.array(short, pa.binary()).take(encoded.indices)


def _first_places(codes: np.ndarray, rows: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    if keep <= 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    is_ascending = len(rows) < 2 or bool((rows[1:] > rows[:-1]).all())
    small = codes.astype(np.uint16) if int(codes.max(initial=0)) < 2**16 else codes  # sorted in linear time
    order = np.argsort(small, kind="stable") if is_ascending else np.lexsort((rows, codes))
    kept = order[_rank_in_group(codes[order]) < keep]
    return codes[kept].astype(np.int64), rows[kept]


def _rank_in_group(sorted_codes: np.ndarray) -> np.ndarray:
    """Return 0, 1, 2, ... within each stretch of equal codes."""
    n = len(sorted_codes)
    is_start = np.ones(n, dtype=bool)
    is_start[1:] = sorted_codes[1:] != sorted_codes[:-1]
    index = np.arange(n)
    return index - np.maximum.accumulate(np.where(is_start, index, 0))
