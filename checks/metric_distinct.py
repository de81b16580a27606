"""The distinct values of a column with their counts, exactly, in parts that a cluster can merge apart from one another.

The values are kept, not hashes of them, so no two values can be confused and no one can forge a collision. Only a text
of more than `LONG_BYTES` bytes is kept as the SHA-256 of itself. Values are dealt to 256 parts by a hash that serves
for nothing else. Memory grows with the number of distinct values, of all kinds of metric the only one that does: per
distinct value its bytes (at most 72; 8 for a number), 8 bytes of count, and 20 bytes a kept place, so ten million ids
of 32 characters weigh 0.64 GB in 256 parts of 2.5 MB.

Great Expectations lists the first rows whose value stands more than once. Which values those are is known only at the
end, so each value keeps its first `keep` places.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import family, ticks

#: Texts longer than this are kept as their SHA-256.
LONG_BYTES = 64
#: What a long text's key starts with; 0xff is in no UTF-8, and a key of a short text is at most 64 bytes.
LONG_PREFIX = b"\xff" * 40
PARTITIONS = 256
#: Runs that wait in a part before they are merged.
_MAX_RUNS = 32


class Run(NamedTuple):
    """Distinct values of some rows.

    keys: distinct, no nulls, shape (d,).
    counts: int64 (d,).
    files: names, sorted; `place_file` points into them.
    place_key, place_file, place_row: the kept places, shape (p,): key index, file index, row.
    """

    keys: pa.Array
    counts: np.ndarray
    files: tuple[str, ...]
    place_key: np.ndarray
    place_file: np.ndarray
    place_row: np.ndarray


#: A part: runs that have yet to be merged.
Distinct = tuple[Run, ...]


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


def shown(keys: pa.Array, data_type: pa.DataType) -> pa.Array:
    """Return keys as values of the column's kernel type again; a long text reads "sha256:<hex>"."""
    if family(data_type) not in ("string", "binary"):
        return keys
    values = [
        b"sha256:" + key[len(LONG_PREFIX) :].hex().encode() if len(key) > LONG_BYTES else key
        for key in keys.to_pylist()
    ]
    return pa.array(values, pa.binary()).cast(data_type)


def measure(values: pa.Array, file: str, rows: np.ndarray, keep: int) -> Iterator[tuple[int, Run]]:
    """Yield (partition, run) of one batch.

    Args:
        values: shape (n,), no nulls, in their kernel type.
        file: where they are from.
        rows: int64 (n,): their record index.
        keep: how many places each value keeps.
    """
    if not len(values):
        return
    encoded = values.dictionary_encode() if family(values.type) == "string" else keys_of(values).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    # Texts are turned into keys once for each distinct one; different texts have different keys.
    known = keys_of(encoded.dictionary)
    partition = partition_of(known)
    order = np.argsort(partition, kind="stable")
    known = known.take(pa.array(order))
    if len(order) == len(codes):  # all different: each has the one place where it stands
        counts = np.ones(len(order), dtype=np.int64)
        place_key = np.arange(len(order)) if keep > 0 else np.zeros(0, dtype=np.int64)
        place_row = rows[order] if keep > 0 else np.zeros(0, dtype=np.int64)
    else:
        counts = np.bincount(codes, minlength=len(order)).astype(np.int64)[order]
        place_key, place_row = _first_places(codes, rows, keep)
        new_code = np.empty(len(order), dtype=np.int64)
        new_code[order] = np.arange(len(order))
        place_key = new_code[place_key]
        by_key = np.argsort(place_key, kind="stable")
        place_key, place_row = place_key[by_key], place_row[by_key]
    ends = np.cumsum(np.bincount(partition, minlength=PARTITIONS))
    places = np.searchsorted(place_key, ends).tolist()
    place_file = np.zeros(len(place_key), dtype=np.int32)
    start = first = 0
    for part, (end, last) in enumerate(zip(ends.tolist(), places, strict=True)):
        if end > start:
            # Slices: whoever sends a part elsewhere compacts it first (`merge`), or it carries the whole batch with it.
            yield (
                part,
                Run(
                    known.slice(start, end - start),
                    counts[start:end],
                    (file,) if last > first else (),
                    place_key[first:last] - start,
                    place_file[first:last],
                    place_row[first:last],
                ),
            )
        start, first = end, last


def append(part: Distinct, run: Run, keep: int) -> Distinct:
    """Return a part with one more run; merges them once enough wait."""
    runs = (*part, run)
    return merge([runs], keep) if len(runs) > _MAX_RUNS else runs


def merge(parts: Iterable[Distinct], keep: int) -> Distinct:
    """Return one part of one run, which shares no memory with the batches that it is from."""
    runs = [run for part in parts for run in part]
    if len(runs) <= 1:
        return tuple(_compacted(run) for run in runs)
    encoded = pa.concat_arrays([run.keys for run in runs]).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    # bincount adds in float64: exact below 2^53 rows.
    counts = np.bincount(codes, weights=np.concatenate([run.counts for run in runs])).astype(np.int64)
    starts = np.cumsum([0] + [len(run.keys) for run in runs])
    files = tuple(sorted({file for run in runs for file in run.files}))
    at = {file: i for i, file in enumerate(files)}
    place_key = np.concatenate([codes[starts[i] + run.place_key] for i, run in enumerate(runs)])
    place_file = np.concatenate(
        [np.array([at[file] for file in run.files], dtype=np.int32)[run.place_file] for run in runs]
    )
    place_row = np.concatenate([run.place_row for run in runs])
    order = np.lexsort((place_row, place_file, place_key))
    kept = order[_rank_in_group(place_key[order]) < keep]
    return (Run(encoded.dictionary, counts, files, place_key[kept], place_file[kept], place_row[kept]),)


def _compacted(run: Run) -> Run:
    if not run.keys.offset and run.counts.base is None:
        return run
    return Run(
        pa.concat_arrays([run.keys, run.keys.slice(0, 0)]),
        run.counts.copy(),
        run.files,
        run.place_key.copy(),
        run.place_file.copy(),
        run.place_row.copy(),
    )


def partition_of(keys: pa.Array) -> np.ndarray:
    """Return the partition of each key, uint8 (n,), the same for the same key on every machine."""
    kind = family(keys.type)
    if kind == "float":
        words = keys.to_numpy(zero_copy_only=False).view(np.uint64).copy()
    elif kind in ("binary", "decimal"):
        words = _hash_bytes(keys if kind == "binary" else keys.cast(pa.string()).cast(pa.binary()))
    else:
        words = ticks(keys).astype(np.uint64)
    # The finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), which spreads near numbers over all parts.
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (words >> np.uint64(56)).astype(np.uint8)


def _shorten(keys: pa.Array) -> pa.Array:
    encoded = keys.dictionary_encode()
    short = [
        LONG_PREFIX + hashlib.sha256(key).digest() if len(key) > LONG_BYTES else key
        for key in encoded.dictionary.to_pylist()
    ]
    return pa.array(short, pa.binary()).take(encoded.indices)


def _hash_bytes(keys: pa.Array) -> np.ndarray:
    """Return a number for each byte string: the sum of each byte times a weight of its position."""
    lengths = pc.binary_length(keys).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    if not total:
        return lengths.astype(np.uint64)
    first = np.frombuffer(keys.buffers()[1], dtype=np.int32, count=len(keys) + 1)[keys.offset]
    text = np.frombuffer(keys.buffers()[2], dtype=np.uint8)[first : first + total]
    weights = (np.arange(1, int(lengths.max()) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)
    position = np.arange(total) - np.repeat(starts, lengths)
    sums = np.concatenate([[np.uint64(0)], np.cumsum((text.astype(np.uint64) + np.uint64(1)) * weights[position])])
    return sums[starts + lengths] - sums[starts]


def _first_places(codes: np.ndarray, rows: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    if keep <= 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    is_ascending = len(rows) < 2 or bool((rows[1:] > rows[:-1]).all())
    order = np.argsort(codes, kind="stable") if is_ascending else np.lexsort((rows, codes))
    kept = order[_rank_in_group(codes[order]) < keep]
    return codes[kept].astype(np.int64), rows[kept]


def _rank_in_group(sorted_codes: np.ndarray) -> np.ndarray:
    """Return 0, 1, 2, ... within each stretch of equal codes."""
    n = len(sorted_codes)
    is_start = np.ones(n, dtype=bool)
    is_start[1:] = sorted_codes[1:] != sorted_codes[:-1]
    index = np.arange(n)
    return index - np.maximum.accumulate(np.where(is_start, index, 0))
