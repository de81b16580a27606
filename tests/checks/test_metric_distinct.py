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

from millcert.checks import metric_distinct, metric_tally
from millcert.checks.metric_columns import ColumnView
from millcert.checks.metric_counting import CountDistinct
from millcert.checks.metric_distinct import (
    LONG_BYTES,
    Distinct,
    Rows,
    Run,
    append,
    append_dealt,
    deal,
    is_full,
    measure,
    measure_column,
    member_keys,
    merge,
    shown,
)
from millcert.checks.metric_partitions import PARTITIONS, hash_keys, partition_of, slice_of
from millcert.checks.metric_records import decode_record, encode_records
from millcert.checks.metric_tally import EMPTY, Tally, Wanted, combine
from millcert.errors import InternalError

KEEP = 3
TEXTS_GO_TO = [0, 237, 56, 5, 148]
PLACED = st.lists(st.tuples(st.sampled_from(["b", "a"]), st.text("ab", max_size=2)), max_size=40)


def parts_of(rows: Sequence[tuple[str, int, Any]], data_type: pa.DataType, size: int) -> dict[int, list[Distinct]]:
    """Measure rows (file, row, value) in batches of `size` rows of one file; each batch is dealt on its own."""
    parts: dict[int, list[Distinct]] = defaultdict(list)
    for name in {file for file, _, _ in rows}:
        own = [(row, value) for file, row, value in rows if file == name]
        for start in range(0, len(own), size):
            batch = own[start : start + size]
            values = pa.array([value for _, value in batch], data_type)
            for partition, part in deal(measure(values, name, np.array([row for row, _ in batch]), KEEP), KEEP):
                parts[partition].append(part)
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


def said(found: Tally) -> Any:
    """Return all that a tally says, in a canonical form."""
    rows = list(zip(found.listing.files, found.listing.rows.tolist(), strict=True))
    listed = [] if found.listing.content is None else found.listing.content.to_pylist()
    table = None if found.table is None else dict(zip(found.table[0].to_pylist(), found.table[1].tolist(), strict=True))
    return (
        (found.considered, found.distinct, found.unexpected, rows, listed),
        sorted([] if found.repeated is None else found.repeated.to_pylist()),
        (found.most, found.modes, [] if found.first_modes is None else found.first_modes.to_pylist()),
        table,
        [(d.others, d.first_others.to_pylist(), sorted(d.found.to_pylist())) for d in found.differences],
    )


EVERYTHING = Wanted(is_repeated=True, is_modes=True, is_table=True, sets=(("a", "zz"), ()))


@pytest.mark.parametrize("is_in_slices", [False, True])
@given(rows=PLACED, size=st.integers(1, 7), cuts=st.sets(st.integers(0, 40)))
def test_a_tally_is_what_a_dict_would_say(
    rows: list[tuple[str, str]], size: int, cuts: set[int], *, is_in_slices: bool
) -> None:
    """Rule: however the values came, were dealt, merged or left as they were, the results are those of the rows."""
    kernel = CountDistinct("x", KEEP, EVERYTHING)
    numbers: Counter[str] = Counter()
    waiting: Distinct = ()
    parts: dict[str, list[Any]] = defaultdict(list)
    places: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for number, (file, value) in enumerate(rows):
        if number in cuts:
            for name, part in kernel.deal(waiting):
                parts[name].append(part)
            waiting = ()
        new = measure(pa.array([value]), file, np.array([numbers[file]]), KEEP)
        waiting = append(waiting, merge([new], KEEP) if number % 3 == 0 else new, KEEP)
        places[value.encode()].append((file, numbers[file]))
        numbers[file] += 1
    for name, part in kernel.deal(waiting):
        parts[name].append(part)

    with pytest.MonkeyPatch.context() as limits:
        limits.setattr(metric_tally, "MAX_ENTRIES", size if is_in_slices else 1_000)
        found = kernel.conclude({name: kernel.merge(name, several) for name, several in parts.items()})

    counts = {key: len(own) for key, own in places.items()}
    repeated = sorted(key for key, count in counts.items() if count > 1)
    first = sorted((place, key) for key in repeated for place in places[key])[:KEEP]
    most = max(counts.values(), default=0)
    modes = sorted(key for key, count in counts.items() if count == most)
    if not rows:
        assert said(found) == said(EMPTY)
        return
    others = sorted(set(counts) - {b"a", b"zz"})
    assert said(found) == (
        (
            len(rows),
            len(counts),
            sum(counts[key] for key in repeated),
            [place for place, _ in first],
            [key for _, key in first],
        ),
        repeated,
        (most, len(modes), modes),
        counts,
        [(len(others), others, sorted(set(counts) & {b"a", b"zz"})), (len(counts), sorted(counts), [])],
    )


def test_what_repeats_is_counted_a_batch_and_what_does_not_waits_as_it_came() -> None:
    few = measure_column(ColumnView(pa.array(["a", "b"] * 1_000)), "f", np.arange(2_000), KEEP)
    many = measure_column(ColumnView(pa.array([f"{i}" for i in range(2_000)])), "f", np.arange(2_000), KEEP)

    assert [(type(each), len(each.keys)) for each in few] == [(Run, 2)]
    assert [(type(each), len(each.keys)) for each in many] == [(Rows, 2_000)]
    assert isinstance(few[0], Run)
    assert few[0].place_row.tolist() == [0, 2, 4, 1, 3, 5]
    assert measure_column(ColumnView(pa.array([None], pa.string())), "f", np.arange(1), KEEP) == ()


def test_numbers_that_repeat_are_counted_when_they_are_dealt() -> None:
    part = measure(pa.array([1, 2, 3] * 1_000), "f", np.arange(3_000), KEEP)

    dealt = [each for _, several in deal(part, KEEP) for each in several]

    assert all(isinstance(each, Run) for each in dealt)
    assert sorted(each.counts.tolist() for each in dealt if isinstance(each, Run)) == [[1_000]] * 3


def test_what_waits_is_dealt_once_there_is_enough_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    part = measure(pa.array(np.arange(100)), "f", np.arange(100), KEEP)

    assert not is_full(part)
    monkeypatch.setattr(metric_distinct, "MAX_WAITING_ROWS", 100)
    assert is_full(part)
    monkeypatch.setattr(metric_distinct, "MAX_WAITING_ROWS", 1_000)
    monkeypatch.setattr(metric_distinct, "MAX_WAITING_BYTES", 800)
    assert is_full(part)


def test_a_dealt_part_is_merged_once_that_may_make_it_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_distinct, "_MERGE_ENTRIES", 50)
    part: Distinct = ()
    for start in range(0, 400, 10):
        part = append_dealt(part, measure(pa.array([1, 2] * 5), "f", np.arange(start, start + 10), KEEP), KEEP)

    (run,) = merge([part], KEEP)

    assert sum(len(each.keys) for each in part) <= 60
    assert run.counts.tolist() == [200, 200]
    assert run.place_row.tolist() == [0, 2, 4, 1, 3, 5]


def test_a_partition_that_was_reduced_takes_nothing_more() -> None:
    kernel = CountDistinct("x", KEEP, EVERYTHING)
    part = measure(pa.array(["a"]), "f", np.arange(1), KEEP)
    reduced = kernel.total([part])

    assert kernel.total([reduced]) is reduced
    assert kernel.merge("00", [reduced]) is reduced
    with pytest.raises(InternalError, match="before all of it"):
        kernel.merge("00", [reduced, part])


def test_unique_values_leave_their_number_alone() -> None:
    """What travels on from a partition does not grow with the column."""
    values = pa.array([f"{i:030d}" for i in range(20_000)])
    kernel = CountDistinct("x", KEEP, Wanted(is_repeated=True))
    small = kernel.total([measure(values, "f", np.arange(20_000), KEEP)])

    assert (small.considered, small.distinct, small.unexpected) == (20_000, 20_000, 0)
    assert len(pickle.dumps(small)) < 1_000
    assert said(combine([small, EMPTY], KEEP)) == said(small)


@pytest.mark.parametrize(
    ("data_type", "members", "expected"),
    [
        (pa.int8(), (1, 300), [1]),
        (pa.bool_(), (0, 2, 1), [False, True]),
        (pa.float64(), (-0.0, 1.5), [0.0, 1.5]),
        (pa.binary(), ("é",), ["é".encode()]),
    ],
)
def test_members_of_a_set_become_keys(data_type: pa.DataType, members: tuple[Any, ...], expected: list[Any]) -> None:
    assert member_keys(data_type, members).to_pylist() == expected


def test_many_runs_are_merged_while_they_come() -> None:
    part: Distinct = ()
    for row in range(100):
        part = append(part, merge([measure(pa.array(["same"]), "f", np.array([row]), KEEP)], KEEP), KEEP)

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
def test_values_spread_over_all_partitions_and_their_slices(values: pa.Array) -> None:
    sizes = [0] * PARTITIONS
    for partition, part in deal(measure(values, "f", np.arange(len(values)), 0), 0):
        sizes[partition] += sum(len(each.keys) for each in part)

    assert sum(sizes) == len(values)
    assert max(sizes) < 6 * len(values) / PARTITIONS
    assert max(np.bincount(slice_of(hash_keys(values), 10))) < 2 * len(values) / 10


def test_a_key_goes_to_the_same_partition_for_ever() -> None:
    """Parts of other machines and versions merge by name, so the deal is part of the format."""
    keys = pa.array([b"", b"a", b"millcert", b"\xff" * 72, b"\xff" * 71])

    assert partition_of(hash_keys(keys)).tolist() == TEXTS_GO_TO
    assert partition_of(hash_keys(keys.slice(1))).tolist() == TEXTS_GO_TO[1:]
    assert partition_of(hash_keys(pa.array([0, 1, 2, -1]))).tolist() == [0, 86, 219, 180]
    assert partition_of(hash_keys(pa.array([0.0, 1.5]))).tolist() == [0, 231]


def test_a_long_text_is_kept_as_its_digest() -> None:
    long = ["x" * (LONG_BYTES + 1), "x" * (LONG_BYTES + 2), "x" * (LONG_BYTES + 1), "short"]

    ((run,),) = [merge([measure(pa.array(long), "f", np.arange(4), KEEP)], KEEP)]
    keys = run.keys

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
    _, (part,) = next(deal(measure(values, "f", np.arange(20_000), KEEP), KEEP))

    assert len(part.keys) < 200
    assert len(pickle.dumps(part)) < 100 * len(part.keys) + 2_000


def test_both_zeros_are_one_value_and_no_values_are_none() -> None:
    (run,) = merge([measure(pa.array([0.0, -0.0]), "f", np.arange(2), KEEP)], KEEP)

    assert run.counts.tolist() == [2]
    assert measure(pa.array([], pa.string()), "f", np.arange(0), KEEP) == ()
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
    values = pa.array(["y" * 300])
    keys = encode_records([ColumnView(values)])
    (part,) = measure(keys, "f", np.arange(1), KEEP)

    (text,) = decode_record(part.keys[0].as_py(), [pa.string()])

    assert text.startswith("sha256:")
    assert len(text) == 71
