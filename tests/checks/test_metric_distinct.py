"""Distinct values with counts and first places: exact, whatever the batches, their order and the partitions."""

import pickle  # noqa: TID251 - parts travel between workers this way; the test reads only what it wrote
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.metric_columns import ColumnView
from millcert.checks.metric_distinct import (
    LONG_BYTES,
    PARTITIONS,
    Distinct,
    append,
    measure,
    merge,
    partition_of,
    shown,
)
from millcert.checks.metric_records import decode_record, encode_records

KEEP = 3
PLACED = st.lists(st.tuples(st.sampled_from(["b", "a"]), st.text("ab", max_size=2)), max_size=40)


def parts_of(rows: Sequence[tuple[str, int, Any]], data_type: pa.DataType, size: int) -> dict[int, list[Distinct]]:
    """Measure rows (file, row, value) in batches of `size` rows of one file."""
    parts: dict[int, list[Distinct]] = defaultdict(list)
    for name in {file for file, _, _ in rows}:
        own = [(row, value) for file, row, value in rows if file == name]
        for start in range(0, len(own), size):
            batch = own[start : start + size]
            values = pa.array([value for _, value in batch], data_type)
            for partition, run in measure(values, name, np.array([row for row, _ in batch]), KEEP):
                parts[partition].append((run,))
    return parts


def counts_and_places(parts: dict[int, list[Distinct]]) -> dict[Any, tuple[int, list[tuple[str, int]]]]:
    found: dict[Any, tuple[int, list[tuple[str, int]]]] = {}
    for several in parts.values():
        for run in merge(several, KEEP):
            for i, key in enumerate(run.keys.to_pylist()):
                own = run.place_key == i
                places = [(run.files[f], int(r)) for f, r in zip(run.place_file[own], run.place_row[own], strict=True)]
                assert key not in found
                found[key] = (int(run.counts[i]), places)
    return found


@given(PLACED, st.integers(1, 7), st.integers(1, 7))
def test_counts_and_first_places_do_not_depend_on_batches(rows: list[tuple[str, str]], one: int, other: int) -> None:
    """Rule: the merged table is a function of the rows alone, and it is the one a dict would hold."""
    numbers: Counter[str] = Counter()
    placed = []
    for file, value in rows:
        placed.append((file, numbers[file], value))
        numbers[file] += 1

    found = counts_and_places(parts_of(placed, pa.string(), one))

    assert found == counts_and_places(parts_of(placed[::-1], pa.string(), other))
    expected: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for file, row, value in placed:
        expected[value.encode()].append((file, row))
    assert found == {key: (len(places), sorted(places)[:KEEP]) for key, places in expected.items()}


def test_many_runs_are_merged_while_they_come() -> None:
    part: Distinct = ()
    for row in range(100):
        for _, run in measure(pa.array(["same"]), "f", np.array([row]), KEEP):
            part = append(part, run, KEEP)

    (run,) = merge([part], KEEP)

    assert len(part) < 40
    assert run.counts.tolist() == [100]
    assert run.place_row.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(np.arange(5_000)),
        pa.array(np.arange(5_000, dtype=np.float64)),
        pa.array([f"id-{i:06d}" for i in range(5_000)]),
        pa.array(np.arange(5_000)).cast(pa.timestamp("us")),
        pa.array(np.arange(5_000, dtype=np.uint64) * 2**50),
        pa.array(np.arange(5_000)).cast(pa.decimal128(38, 0)),
    ],
    ids=lambda values: str(values.type),
)
def test_values_spread_over_all_partitions(values: pa.Array) -> None:
    sizes = [0] * PARTITIONS
    for partition, run in measure(values, "f", np.arange(len(values)), 0):
        sizes[partition] += len(run.keys)

    assert sum(sizes) == len(values)
    assert max(sizes) < 6 * len(values) / PARTITIONS


def test_a_key_goes_to_the_same_partition_for_ever() -> None:
    """Parts of other machines and versions merge by name, so the deal is part of the format."""
    keys = pa.array([b"", b"a", b"millcert", b"\xff" * 72])

    assert partition_of(keys).tolist() == [0, 238, 144, 34]
    assert partition_of(keys.slice(1)).tolist() == [238, 144, 34]
    assert partition_of(pa.array([0, 1, 2, -1])).tolist() == [0, 86, 219, 180]
    assert partition_of(pa.array([0.0, 1.5])).tolist() == [0, 231]


def test_a_long_text_is_kept_as_its_digest() -> None:
    long = ["x" * (LONG_BYTES + 1), "x" * (LONG_BYTES + 2), "x" * (LONG_BYTES + 1), "short"]

    keys = pa.concat_arrays([run.keys for _, run in measure(pa.array(long), "f", np.arange(4), KEEP)])

    assert len(keys) == 3
    assert max(len(key) for key in keys.to_pylist()) < 80
    texts = shown(keys, pa.string()).to_pylist()
    assert "short" in texts
    assert sum(text.startswith("sha256:") for text in texts) == 2


def test_binary_that_looks_like_a_digest_is_shown_as_it_is() -> None:
    values = [b"\xff" * 50, b"\xff" * LONG_BYTES]

    assert shown(pa.array(values), pa.binary()).to_pylist() == values


def test_a_part_carries_only_its_own_bytes() -> None:
    """A slice of an Arrow array pickles with the whole buffer behind it; a part must not."""
    values = pa.array([f"{i:030d}" for i in range(20_000)])
    (part,) = merge([(next(run for _, run in measure(values, "f", np.arange(20_000), KEEP)),)], KEEP)

    assert len(pickle.dumps(part)) < 200 * len(part.keys) + 2_000


def test_both_zeros_are_one_value_and_no_values_are_none() -> None:
    (part,) = list(measure(pa.array([0.0, -0.0]), "f", np.arange(2), KEEP))

    assert part[1].counts.tolist() == [2]
    assert list(measure(pa.array([], pa.string()), "f", np.arange(0), KEEP)) == []
    assert merge([], KEEP) == ()


RECORDS = st.lists(
    st.tuples(
        st.none() | st.integers(-3, 3),
        st.none() | st.text("a\x00\x01", max_size=3),
        st.none() | st.sampled_from([0.0, -0.0, 1.5, float("nan")]),
        st.none() | st.booleans(),
    ),
    max_size=12,
)


@given(RECORDS)
def test_two_rows_have_one_key_exactly_where_pandas_finds_duplicates(records: list[tuple[Any, ...]]) -> None:
    """Rule: `DataFrame.duplicated(keep=False)`, for which NaN, None and NaN again are one."""
    types = [pa.int64(), pa.string(), pa.float64(), pa.bool_()]
    columns = [pa.array([row[i] for row in records], types[i]) for i in range(4)]
    frame = pa.table(columns, names=list("abcd")).to_pandas()

    keys = encode_records([ColumnView(column) for column in columns]).to_pylist()

    counts = Counter(keys)
    assert [counts[key] > 1 for key in keys] == frame.duplicated(keep=False).tolist()


@given(RECORDS)
def test_a_short_record_reads_back_from_its_key(records: list[tuple[Any, ...]]) -> None:
    """Decoding gives pandas' values, with its own null of each type."""
    import pandas as pd

    types = [pa.int64(), pa.string(), pa.float64(), pa.bool_()]
    columns = [pa.array([row[i] for row in records], types[i]) for i in range(4)]
    for record, key in zip(records, encode_records([ColumnView(c) for c in columns]).to_pylist(), strict=True):
        for value, found in zip(record, decode_record(key, types), strict=True):
            assert pd.isna(found) if pd.isna(value) else found == value


def test_a_long_record_reads_back_as_its_digest() -> None:
    values = pa.array(["y" * 100])
    keys = encode_records([ColumnView(values)])
    (part,) = list(measure(keys, "f", np.arange(1), KEEP))

    (text,) = decode_record(part[1].keys[0].as_py(), [pa.string()])

    assert text.startswith("sha256:")
    assert len(text) == 71
