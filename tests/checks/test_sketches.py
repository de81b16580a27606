"""Sketches: functions of the multiset of values alone, within their stated errors."""

import base64
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks import sketch_distinct, sketch_embedding, sketch_hash, sketch_packing, sketch_quantiles
from millcert.checks.sketch_quantiles import NO_QUANTILES, Quantiles
from millcert.checks.sketch_values import (
    BUCKETS,
    Values,
    buckets_of,
    count_values,
    merge_values,
    top_values,
    unlisted_bound,
)
from millcert.errors import IntegrityError, PolicyError

KEY = bytes(range(32))
FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60)
TEXTS = st.lists(st.text(max_size=6), min_size=1, max_size=40)


def same(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(left, right, strict=True))


# The hash


@given(st.lists(st.binary(max_size=200), max_size=30), st.integers(0, 5))
def test_a_hash_depends_on_the_value_alone(values: list[bytes], start: int) -> None:
    """Slices, neighbours and their lengths do not show."""
    array = pa.array(values, pa.binary())

    hashes = sketch_hash.hash_values(array, KEY)

    assert hashes[start:].tolist() == sketch_hash.hash_values(array.slice(start), KEY).tolist()
    assert hashes.tolist() == [sketch_hash.hash_values(pa.array([value]), KEY)[0] for value in values]


def test_a_hash_is_the_published_function_of_key_and_bytes() -> None:
    """A second implementation of docs/formats/profile.md, in plain Python."""
    import hashlib

    stream = hashlib.shake_256(b"millcert sketch hash v1\0" + KEY).digest(8 * 68)
    weights = [int.from_bytes(stream[at : at + 8], "little") for at in range(0, len(stream), 8)]

    def expected(data: bytes) -> int:
        if len(data) > 128:
            return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=KEY).digest(), "little")
        words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
        lanes = []
        for lane in (weights[:34], weights[34:]):
            total = lane[0] + lane[1] * len(data) + sum(m * s for m, s in zip(lane[2:], words, strict=False))
            lanes.append((total % 2**64) >> 32)
        word = lanes[0] << 32 | lanes[1]
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        return word ^ (word >> 31)

    for data in (b"", b"a", b"a\0", b"mill certificate", bytes(128), bytes(129)):
        assert int(sketch_hash.hash_values(pa.array([data]), KEY)[0]) == expected(data)
    assert int(sketch_hash.hash_values(pa.array([-2]), KEY)[0]) == expected((-2).to_bytes(8, "little", signed=True))


def test_no_two_of_a_million_values_share_a_hash_and_another_key_gives_others() -> None:
    values = pa.array([f"user-{number}" for number in range(200_000)])

    hashes = sketch_hash.hash_values(values, KEY)

    assert len(np.unique(hashes)) == len(values)
    assert not np.intersect1d(hashes, sketch_hash.hash_values(values, bytes(32))).size


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.5, -0.0, 0.0]),
        pa.array([True, False]),
        pa.array([1, 2**63, 2**64 - 1], pa.uint64()),
        pa.array([0, 86_400_000_000], pa.timestamp("us", tz="UTC")),
        pa.array([1, 2], pa.date32()),
        pa.array([1, 2]).cast(pa.decimal128(38, 2)),
    ],
    ids=lambda values: str(values.type),
)
def test_every_kind_of_value_has_a_hash_and_both_zeros_are_one(values: pa.Array) -> None:
    distinct = len({str(value + 0 if isinstance(value, float) else value) for value in values.to_pylist()})

    assert len(np.unique(sketch_hash.hash_values(values, KEY))) == distinct


@pytest.mark.parametrize("text", ["", "00" * 31, "zz" * 32, "AA" * 32])
def test_a_key_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        sketch_hash.parse_key(text)


def test_a_key_is_its_hex_digits() -> None:
    assert sketch_hash.parse_key(KEY.hex()) == KEY


# Quantiles


@given(FLOATS, st.integers(2, 20), st.integers(1, 6))
def test_a_quantile_sketch_does_not_show_how_the_numbers_came(numbers: list[float], limit: int, pieces: int) -> None:
    """Rule 1: the same buckets for any pieces, merged in any order."""
    whole = sketch_quantiles.sketch_numbers(np.array(numbers), limit)
    parts = [sketch_quantiles.sketch_numbers(np.array(numbers[at::pieces]), limit) for at in range(pieces)]

    pairwise = sketch_quantiles.NO_QUANTILES
    for part in reversed(parts):
        pairwise = sketch_quantiles.merge_quantiles([pairwise, part], limit)

    assert len(whole.keys) <= limit
    assert same(whole, sketch_quantiles.merge_quantiles(parts, limit))
    assert same(whole, pairwise)


@given(FLOATS, st.integers(2, 20), st.floats(0, 1))
def test_a_quantile_lies_within_its_bounds(numbers: list[float], limit: int, fraction: float) -> None:
    sketch = sketch_quantiles.sketch_numbers(np.array(numbers), limit)

    low, high = sketch_quantiles.quantile_bounds(sketch, fraction)

    rank = max(1, math.ceil(fraction * len(numbers))) - 1
    assert low <= sorted(numbers)[rank] <= high


@given(FLOATS, st.integers(2, 20))
def test_the_level_is_the_smallest_that_fits(numbers: list[float], limit: int) -> None:
    sketch = sketch_quantiles.sketch_numbers(np.array(numbers), limit)
    finer = sketch_quantiles.sketch_numbers(np.array(numbers), 10**6)

    assert sketch.counts.sum() == len(numbers)
    if sketch.level > sketch_quantiles.LEAST_LEVEL:
        assert len(sketch_quantiles.at_level(finer, sketch.level - 1).keys) > limit
    assert same(sketch, sketch_quantiles.at_level(finer, sketch.level))


def test_buckets_are_as_narrow_as_the_documentation_says() -> None:
    numbers = np.random.default_rng(1).normal(0, 1, 200_000)

    sketch = sketch_quantiles.sketch_numbers(numbers, 1024)
    ends = sketch_quantiles.intervals(sketch.level, sketch.keys)

    assert np.max(ends[:, 1] - ends[:, 0]) <= np.abs(ends).max() * 2.0 ** (sketch.level - 52)
    median = sketch_quantiles.quantile_bounds(sketch, 0.84)
    assert median[0] <= np.quantile(numbers, 0.84) <= median[1]
    assert median[1] - median[0] <= 0.04


def test_the_ends_of_the_outermost_buckets_are_finite() -> None:
    largest = np.finfo(np.float64).max
    sketch = sketch_quantiles.sketch_numbers(np.array([-largest, 0, 1, largest]), 2)

    assert np.isfinite(sketch_quantiles.intervals(sketch.level, sketch.keys)).all()


def test_the_sketch_of_nothing_merges() -> None:
    assert same(NO_QUANTILES, sketch_quantiles.merge_quantiles([], 4))
    one: Quantiles = sketch_quantiles.sketch_numbers(np.array([1.0]), 4)
    assert same(one, sketch_quantiles.merge_quantiles([NO_QUANTILES, one], 4))


# Distinct counts


@pytest.mark.parametrize("count", [0, 1, 10, 1_000, 3_000, 10_000, 300_000])
def test_distinct_counts_are_within_five_standard_errors(count: int) -> None:
    hashes = sketch_hash.hash_numbers(np.arange(count), KEY)

    found = sketch_distinct.estimate_distinct(sketch_distinct.registers_of(hashes))

    assert found == pytest.approx(count, rel=5 * 1.04 / 64)


def test_registers_of_parts_merge_to_those_of_all() -> None:
    hashes = sketch_hash.hash_numbers(np.arange(5_000), KEY)
    parts = [sketch_distinct.registers_of(hashes[at::7]) for at in range(7)]

    merged = parts[0]
    for part in parts[1:]:
        merged = sketch_distinct.merge_registers(merged, part)

    assert np.array_equal(merged, sketch_distinct.registers_of(hashes))


def test_a_hash_without_any_set_bit_has_the_highest_rank() -> None:
    registers = sketch_distinct.registers_of(np.array([0], dtype=np.uint64))

    assert registers[0] == sketch_distinct.MAX_RANK
    assert sketch_distinct.estimate_distinct(registers) == pytest.approx(1, abs=0.01)
    assert sketch_distinct.estimate_distinct(np.full(4096, 53, dtype=np.uint8)) > 1e18


# Value counts


def counted(values: list[str], limit: int, *, keeps_texts: bool = True) -> Values:
    array = pa.array(values, pa.string())
    return count_values(sketch_hash.hash_values(array, KEY), array, limit, keeps_texts=keeps_texts)


@given(TEXTS, st.integers(1, 12), st.integers(1, 6))
def test_value_counts_do_not_show_how_the_values_came(values: list[str], limit: int, pieces: int) -> None:
    whole = counted(values, limit)
    parts = [counted(values[at::pieces], limit) for at in range(pieces)]

    pairwise = parts[-1]
    for part in parts[-2::-1]:
        pairwise = merge_values([pairwise, part], limit)

    assert same(whole, merge_values(parts, limit))
    assert same(whole, pairwise)


@given(TEXTS, st.integers(1, 12))
def test_listed_counts_are_exact_and_no_other_value_exceeds_the_bound(values: list[str], limit: int) -> None:
    whole = counted(values, limit)
    hashes = {text: int(sketch_hash.hash_values(pa.array([text]), KEY)[0]) for text in values}
    listed = dict(zip(whole.hashes.tolist(), whole.counts.tolist(), strict=True))

    for text, value in hashes.items():
        assert listed.get(value, values.count(text)) == values.count(text)
        if value not in listed:
            assert values.count(text) <= unlisted_bound(whole)
    assert whole.is_complete == (len(hashes) <= limit)
    if whole.is_complete:
        assert unlisted_bound(whole) == 0
        assert dict(top_values(whole, limit)) == {text: values.count(text) for text in hashes}


def test_a_flood_of_one_value_among_many_shows_in_the_bound_even_where_it_is_not_listed() -> None:
    values = [str(number) for number in range(5_000)]
    flooded = next(text for text in values if f"hash:{_hash(text):016x}" not in dict(top_values(counted(values, 8), 8)))

    assert unlisted_bound(counted(values, 8)) < 100
    assert unlisted_bound(counted([*values, *[flooded] * 1_000], 8)) >= 1_000


def _hash(text: str) -> int:
    return int(sketch_hash.hash_values(pa.array([text]), KEY)[0])


def test_texts_are_kept_only_where_they_are_few_short_and_wanted() -> None:
    assert counted(["a", "b"], 2).texts != ()
    assert counted(["a", "b", "c"], 2).texts == ()
    assert counted(["x" * 65], 2).texts == (None,)
    assert counted(["a"], 2, keeps_texts=False).texts == (None,)
    assert top_values(counted(["a", "a"], 2, keeps_texts=False), 1) == [(f"hash:{_hash('a'):016x}", 2)]


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pa.array([7, 7]), ("7",)),
        (pa.array([True]), ("true",)),
        (pa.array([1], pa.date32()), ("1",)),
        (pa.array([1]).cast(pa.decimal128(38, 1)), ("1.0",)),
        (pa.array([b"\xff"]), (None,)),
    ],
)
def test_values_of_every_kind_have_their_text(array: pa.Array, texts: tuple[str | None, ...]) -> None:
    found = count_values(sketch_hash.hash_values(array, KEY), array, 4, keeps_texts=True)

    assert found.texts == texts
    assert not len(found.buckets)
    assert buckets_of(found, BUCKETS).sum() == len(array)


# Embeddings


def test_mean_features_tell_the_kernel_s_distance_of_two_distributions() -> None:
    """|mean difference|^2 estimates the squared MMD, here of two points: 2 - 2 exp(-|x - y|^2 / (2 w^2))."""
    one, other = np.array([[1.0, 0.0, 0.0]]), np.array([[math.cos(0.4), math.sin(0.4), 0.0]])

    means = [sketch_embedding.mean_of_features(sketch_embedding.embed_rows(rows, 2048, KEY)) for rows in (one, other)]

    squared = float(np.sum((one - other) ** 2))
    expected = 2 - 2 * math.exp(-squared / (2 * sketch_embedding.BANDWIDTH**2))
    assert np.sum((means[0] - means[1]) ** 2) == pytest.approx(expected, abs=0.06)
    assert np.sum(means[0] ** 2) == pytest.approx(1, abs=1e-4)


@given(st.permutations(range(9)), st.integers(1, 8))
def test_sums_of_features_do_not_show_batches_or_order(order: list[int], cut: int) -> None:
    rows, _ = sketch_embedding.unit_rows(np.random.default_rng(3).normal(size=(9, 5)).astype(np.float32))
    whole = sketch_embedding.embed_rows(rows, 16, KEY)

    parts = [
        sketch_embedding.embed_rows(rows[order[:cut]], 16, KEY),
        sketch_embedding.embed_rows(rows[order[cut:]], 16, KEY),
    ]

    assert same(whole, sketch_embedding.merge_embeddings(*parts))


def test_a_row_of_zeros_has_no_direction_and_no_length() -> None:
    units, lengths = sketch_embedding.unit_rows(np.array([[0.0, 0.0], [3.0, 4.0]]))

    assert units.tolist() == [[0, 0], [0.6, 0.8]]
    assert lengths.tolist() == [0, 5]


# Packing


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_packed_numbers_come_back(numbers: list[int]) -> None:
    array = np.array(numbers, dtype=np.uint64)

    assert sketch_packing.unpack(sketch_packing.pack(array), 30).tolist() == numbers
    ascending = np.unique(array)
    assert sketch_packing.unpack_ascending(sketch_packing.pack_ascending(ascending), 30).tolist() == ascending.tolist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_packed_signed_numbers_come_back(numbers: list[int]) -> None:
    array = np.array(numbers, dtype=np.int64)

    assert sketch_packing.unpack_signed(sketch_packing.pack_signed(array), 30).tolist() == numbers


@pytest.mark.parametrize(
    "text",
    [
        5,
        "no base64!",
        "gA==",  # ends within a number
        base64.b64encode(bytes([0x80, 0x00])).decode(),  # zero in two bytes
        base64.b64encode(bytes([0x80] * 10 + [0x01])).decode(),  # 71 bits
        base64.b64encode(bytes([0xFF] * 9 + [0x7F])).decode(),  # 70 bits
        base64.b64encode(bytes(4)).decode(),  # more numbers than allowed
    ],
)
def test_texts_that_are_no_packed_numbers_are_refused(text: object) -> None:
    with pytest.raises(IntegrityError):
        sketch_packing.unpack(text, 3)


def test_numbers_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(IntegrityError, match="ascend"):
        sketch_packing.unpack_ascending(sketch_packing.pack(np.array([5, 0])), 3)
