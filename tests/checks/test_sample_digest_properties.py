"""The encoding of a sample is injective, and nothing physical reaches it."""

import datetime as dt
import decimal
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks import sample_encoding as se
from millcert.checks.sample_digest import sample_digest_of, sample_digests, schema_id

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ZONE = "Asia/Kathmandu"


def ints(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    low = -(1 << (bits - 1)) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


def decimals(precision: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    limit = 10**precision - 1
    context = decimal.Context(prec=100)
    return st.integers(-limit, limit).map(lambda n: decimal.Decimal(n).scaleb(-scale, context))


WHOLE_SECONDS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)).map(lambda t: t.replace(microsecond=0))
LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    (pa.int8(), ints(8)),
    (pa.int16(), ints(16)),
    (pa.int32(), ints(32)),
    (pa.int64(), ints(64)),
    (pa.uint8(), ints(8, signed=False)),
    (pa.uint16(), ints(16, signed=False)),
    (pa.uint32(), ints(32, signed=False)),
    (pa.uint64(), ints(64, signed=False)),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.decimal32(9, 2), decimals(9, 2)),
    (pa.decimal64(18, 18), decimals(18, 18)),
    (pa.decimal128(38, 5), decimals(38, 5)),
    (pa.decimal256(70, -3), decimals(70, -3)),
    (pa.date32(), st.dates()),
    (pa.date64(), st.dates()),
    (pa.time32("s"), st.times().map(lambda t: t.replace(microsecond=0))),
    (pa.time64("us"), st.times()),
    (pa.duration("us"), st.timedeltas(dt.timedelta(days=-9999), dt.timedelta(days=9999))),
    (pa.timestamp("s"), WHOLE_SECONDS),
    (pa.timestamp("us"), st.datetimes()),
    (pa.timestamp("us", tz=ZONE), st.datetimes(dt.datetime(1700, 1, 1), timezones=st.just(dt.UTC))),
    (pa.string(), TEXT),
    (pa.large_string(), TEXT),
    (pa.string_view(), TEXT),
    (pa.binary(), st.binary(max_size=20)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.large_binary(), st.binary(max_size=20)),
    (pa.binary_view(), st.binary(max_size=20)),
]

Typed = tuple[pa.DataType, st.SearchStrategy[Any]]
LIST_KINDS: list[Callable[[pa.DataType], pa.DataType]] = [
    pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda t: pa.list_(t, 2),
]  # fmt: skip


def nullable(typed: Typed) -> st.SearchStrategy[Any]:
    return st.none() | typed[1]


def a_list(typed: Typed, kind: int) -> Typed:
    fewest, most = (2, 2) if kind == 4 else (0, 3)
    return LIST_KINDS[kind](typed[0]), st.lists(nullable(typed), min_size=fewest, max_size=most)


def a_struct(fields: dict[str, Typed]) -> Typed:
    kind = pa.struct([(name, typed[0]) for name, typed in fields.items()])
    return kind, st.fixed_dictionaries({name: nullable(typed) for name, typed in fields.items()})


def a_map(typed: Typed) -> Typed:
    return pa.map_(pa.string(), typed[0]), st.lists(st.tuples(TEXT, nullable(typed)), max_size=3)


TYPED: st.SearchStrategy[Typed] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.builds(a_list, inner, st.integers(0, 4)),
        st.builds(a_struct, st.dictionaries(TEXT, inner, max_size=3)),
        st.builds(a_map, inner),
    ),
    max_leaves=4,
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Schema, list[dict[str, Any]]]:
    fields = draw(st.dictionaries(TEXT, TYPED, min_size=1, max_size=4))
    schema = pa.schema([(name, typed[0]) for name, typed in fields.items()])
    row = st.fixed_dictionaries({name: nullable(typed) for name, typed in fields.items()})
    return schema, draw(st.lists(row, max_size=5))


def batch_of(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    arrays = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def hexes(batch: pa.RecordBatch) -> list[str]:
    return [bytes(row).hex() for row in sample_digests(batch)]


class Decoder:
    """Reads an encoding back from the format page alone: if this works, no two samples share an encoding."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, count: int) -> bytes:
        part = self.raw[self.at : self.at + count]
        assert len(part) == count
        self.at += count
        return part

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def type(self) -> se.LogicalType:
        code = self.take(1)[0]
        if code == se.DECIMAL:
            return se.LogicalType(code, 32, *struct.unpack("<ii", self.take(8)))
        if code == se.STRUCT:
            fields = tuple((self.take(self.u64()).decode(), self.type()) for _ in range(self.u64()))
            return se.LogicalType(code, None, children=fields)
        if code == se.LIST:
            return se.LogicalType(code, None, children=(("item", self.type()),))
        if code == se.MAP:
            return se.LogicalType(code, None, children=(("key", self.type()), ("value", self.type())))
        widths = {0: 0, 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 2, 8: 4, 9: 8, 10: 2, 11: 4, 12: 8, 14: 8}
        return se.LogicalType(code, widths.get(code, 12 if 15 <= code <= 18 else None))

    def slots(self, presence: bytes, kinds: list[se.LogicalType]) -> list[object]:
        fixed = [self.take(kind.width) if kind.width is not None else b"" for kind in kinds]
        lengths = [self.u64() if kind.width is None else 0 for kind in kinds]
        values: list[object] = []
        for here, kind, raw, length in zip(presence, kinds, fixed, lengths, strict=True):
            payload = self.take(length)
            if not here:
                assert not any(raw)
                assert not payload
            values.append(value_of(kind, raw or payload) if here else None)
        return values

    def end(self) -> None:
        assert self.at == len(self.raw)


def value_of(kind: se.LogicalType, raw: bytes) -> object:
    decoder = Decoder(raw)
    if kind.code == se.STRUCT:
        names, kinds = [name for name, _ in kind.children], [child for _, child in kind.children]
        values = decoder.slots(decoder.take(len(kinds)), kinds)
        decoder.end()
        return dict(zip(names, values, strict=True))
    if kind.code in {se.LIST, se.MAP}:
        item = kind.children[0][1] if kind.code == se.LIST else se.LogicalType(se.STRUCT, None, children=kind.children)
        count, flag = decoder.u64(), decoder.take(1)[0]
        presence = decoder.take(count) if flag else b"\x01" * count
        assert bool(flag) == (0 in presence)
        values = decoder.slots(presence, [item] * count)
        decoder.end()
        return [(v["key"], v["value"]) for v in values] if kind.code == se.MAP else values  # type: ignore[index]
    return raw


def expected(value: Any, kind: se.LogicalType, arrow: pa.DataType) -> object:
    """Return what the decoder must find: nested values as they are, leaves as the bytes of a row of that one field."""
    t = arrow
    if value is None:
        return None
    if kind.code == se.STRUCT:
        types = {field.name: field.type for field in t}
        return {name: expected(value[name], child, types[name]) for name, child in kind.children}
    if kind.code == se.LIST:
        return [expected(item, kind.children[0][1], t.value_type) for item in value]
    if kind.code == se.MAP:
        (_, key), (_, item) = kind.children
        return [(expected(k, key, t.key_type), expected(v, item, t.item_type)) for k, v in value]
    alone = se.encode_sample({"x": value}, pa.schema([("x", arrow)]))
    return alone[1 if kind.width is not None else 9 :]


@settings(max_examples=150, deadline=None)
@given(tables())
def test_the_batch_encoder_gives_the_digests_of_the_reference(table: tuple[pa.Schema, list[dict[str, Any]]]) -> None:
    """The fast path and the reference describe one encoding."""
    schema, rows = table

    found = hexes(batch_of(schema, rows))

    assert found == [sample_digest_of(row, schema).hex() for row in rows]


@settings(max_examples=100, deadline=None)
@given(tables())
def test_an_encoding_can_be_read_back_so_no_two_samples_share_one(
    table: tuple[pa.Schema, list[dict[str, Any]]],
) -> None:
    """Rule 2: the encoding is injective under one schema."""
    schema, rows = table
    kind = se.logical_schema(schema)
    arrow = pa.struct(list(schema))

    for row in rows:
        assert value_of(kind, se.encode_sample(row, schema)) == expected(row, kind, arrow)


@settings(max_examples=100, deadline=None)
@given(tables())
def test_a_schema_can_be_read_back_from_what_its_id_hashes(table: tuple[pa.Schema, list[dict[str, Any]]]) -> None:
    """Rule 2 for schemas: two logical schemas never share an id's input."""
    kind = se.logical_schema(table[0])
    decoder = Decoder(kind.encoded())

    assert decoder.type() == kind
    decoder.end()


@pytest.mark.parametrize(("kind", "values"), [pytest.param(*leaf, id=str(leaf[0])) for leaf in LEAVES])
def test_a_leaf_has_one_encoding_for_each_value(kind: pa.DataType, values: st.SearchStrategy[Any]) -> None:
    """Rule 2 for leaves: different values, different bytes; equal values, equal bytes; only NaNs are merged."""
    schema = pa.schema([("x", kind)])

    @settings(max_examples=20, deadline=None)
    @given(nullable((kind, values)), nullable((kind, values)))
    def holds(a: Any, b: Any) -> None:
        same = repr(a) == repr(b) or (a == b and not isinstance(a, float))
        assert (se.encode_sample({"x": a}, schema) == se.encode_sample({"x": b}, schema)) == same

    holds()


@settings(max_examples=80, deadline=None)
@given(tables(), st.integers(0, 5), st.integers(0, 5), st.randoms(use_true_random=False))
def test_slices_batches_and_field_order_do_not_reach_the_digest(
    table: tuple[pa.Schema, list[dict[str, Any]]], start: int, length: int, random: Any
) -> None:
    """Rule 1: offsets, batch borders and the order of fields are physical."""
    schema, rows = table
    batch = batch_of(schema, rows)
    whole = hexes(batch)
    names = list(schema.names)
    random.shuffle(names)

    assert hexes(batch.slice(start, length)) == whole[start : start + length]
    assert [h for i in range(len(rows)) for h in hexes(batch.slice(i, 1))] == whole
    assert hexes(batch.select(names)) == whole
    assert schema_id(batch.select(names).schema) == schema_id(schema)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | TEXT, max_size=8), st.lists(st.none() | ints(16), max_size=8))
def test_physical_types_do_not_reach_the_digest(words: list[str | None], numbers: list[int | None]) -> None:
    """Rule 1: dictionaries, runs, views, large and fixed-size types are physical."""
    texts = [pa.array(words, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())]
    texts += [texts[0].dictionary_encode(), texts[1].dictionary_encode()]
    runs = pa.compute.run_end_encode(pa.array(numbers, pa.int16()))
    plain = [pa.array(numbers, pa.int16()), pa.array(numbers, pa.int16()).dictionary_encode(), runs]
    pairs = [None if n is None else [n, None] for n in numbers]
    lists = [pa.array(pairs, make(pa.int16())) for make in LIST_KINDS]

    for arrays in (texts, plain, lists):
        assert len({tuple(hexes(pa.record_batch({"x": array}))) for array in arrays}) == 1
        assert len({schema_id(pa.schema([("x", array.type)])) for array in arrays}) == 1
