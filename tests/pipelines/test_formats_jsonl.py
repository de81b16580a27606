"""JSONL: which lines are records, and what is said of those that are not."""

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millcert.errors import HostileDataError, UsageError
from millcert.pipelines.formats import Decoded, Malformed, ReadLimits, decode, read_schema

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("tags", pa.list_(pa.field("item", pa.int64()))),
        ("inner", pa.struct([("n", pa.int8())])),
        ("vector", pa.list_(pa.field("item", pa.float32()), 2)),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("price", pa.decimal128(10, 2)),
        ("is_new", pa.bool_()),
    ]
)


def read(data: bytes, schema: pa.Schema = SCHEMA, limits: ReadLimits | None = None) -> list[Decoded]:
    return list(decode("jsonl", io.BytesIO(data), schema, limits or ReadLimits(), name="f.jsonl"))


def rows_of(batches: list[Decoded]) -> list[int]:
    return [row for each in batches for row in each.rows.tolist()]


def bad_of(batches: list[Decoded]) -> list[Malformed]:
    return [bad for each in batches for bad in each.malformed]


def inferred(data: bytes, limits: ReadLimits | None = None) -> pa.Schema:
    return read_schema("jsonl", io.BytesIO(data), limits or ReadLimits(), name="f.jsonl").schema


GOOD = [
    b'{"id": 1}',
    b"{}",
    b' \t{"id": 2, "text": "a\\u0000b\\ud83d\\ude00 }{"}\t ',
    b'{"inner": {"n": 5}, "tags": [1, null], "vector": [0.5, 1], "score": 1}',
    b'{"inner": {}, "tags": [], "vector": null, "score": -0.0}',
    b'{"day": "2024-02-29", "at": "2024-02-29T12:00:00Z", "price": "1.25", "is_new": true}',
    b'{"price": 1.25, "at": "2024-02-29 12:00:00.123456+01:00", "score": 1e300}',
]
BAD = [
    (b'{"id": 1,}', "json.syntax"),
    (b'{"id": 01}', "json.syntax"),
    (b'{"id": 1} x', "json.syntax"),
    (b'{"id": 1}{"id": 2}', "json.syntax"),
    (b'{"id": 1}\x00', "json.syntax"),
    (b'{"text": "a\x01"}', "json.syntax"),
    (b"{'id': 1}", "json.syntax"),
    (b"\xef\xbb\xbf{}", "json.syntax"),
    (b"[1]", "json.not_object"),
    (b'"text"', "json.not_object"),
    (b"null", "json.not_object"),
    (b'{"id": 1, "id": 1}', "json.duplicate_key"),
    (b'{"id": 1, "\\u0069d": 2}', "json.duplicate_key"),
    (b'{"inner": {"n": 1, "n": 2}}', "json.duplicate_key"),
    (b'{"score": NaN}', "json.non_finite"),
    (b'{"score": -Infinity}', "json.non_finite"),
    (b'{"vector": [NaN, 1]}', "json.non_finite"),
    (b'{"score": 1e999}', "json.number"),
    (b'{"other": 1}', "json.unknown_key"),
    (b'{"inner": {"other": 1}}', "json.unknown_key"),
    (b'{"id": 1.0}', "json.type"),
    (b'{"id": true}', "json.type"),
    (b'{"id": "1"}', "json.type"),
    (b'{"id": 9223372036854775808}', "json.type"),
    (b'{"inner": {"n": 128}}', "json.type"),
    (b'{"inner": [1]}', "json.type"),
    (b'{"tags": {"a": 1}}', "json.type"),
    (b'{"tags": [1, "2"]}', "json.type"),
    (b'{"text": 1}', "json.type"),
    (b'{"is_new": 1}', "json.type"),
    (b'{"score": "1"}', "json.type"),
    (b'{"price": true}', "json.type"),
    (b'{"price": "1.255"}', "json.type"),
    (b'{"day": "2023-02-29"}', "json.type"),
    (b'{"at": "soon"}', "json.type"),
    (b'{"vector": [1]}', "json.list_size"),
    (b'{"text": "\xff"}', "utf8.invalid"),
    (b'{"text": "\xed\xa0\x80"}', "utf8.invalid"),
    (b'{"text": "\\ud800"}', "json.surrogate"),
    (b'{"\\udfff": 1}', "json.surrogate"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_put_aside_with_its_reason_row_line_and_offset(line: bytes, reason: str) -> None:
    data = b'{"id": 0}\r\n\n' + line + b'\n{"id": 2}'
    got = read(data)
    assert rows_of(got) == [0, 2]
    (bad,) = bad_of(got)
    assert (bad.row, bad.line, bad.byte_offset, bad.reason) == (1, 3, 12, reason)
    assert len(bad.detail) < 300
    assert "soon" not in bad.detail


@pytest.mark.parametrize("line", GOOD)
def test_a_good_line_is_read_alone(line: bytes) -> None:
    assert rows_of(read(line)) == [0]


lines = st.sampled_from(GOOD) | st.sampled_from([line for line, _ in BAD]) | st.sampled_from([b"", b"  ", b"\r"])


@given(st.lists(lines, max_size=25), st.integers(1, 30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_verdict_on_a_line_does_not_depend_on_its_neighbours(
    chosen: list[bytes], max_batch_rows: int, has_last_break: bool
) -> None:
    """Rule 2 of jsonl.py, and rule 1 and 2 of base.py."""
    known = dict(BAD)
    data = b"\n".join(chosen) + (b"\n" if has_last_break else b"")
    # At the very start of a file a byte order mark is left out; within, it is no JSON.
    data = b"\n" + data
    records = [line for line in chosen if line.strip()]
    got = read(data, limits=ReadLimits(max_batch_rows=max_batch_rows))
    assert rows_of(got) == [i for i, line in enumerate(records) if line not in known]
    assert [(b.row, b.reason) for b in bad_of(got)] == [
        (i, known[line]) for i, line in enumerate(records) if line in known
    ]
    for each in got:
        assert each.raw is not None
        assert [raw.strip() for raw in each.raw.records()] == [records[row].strip() for row in each.rows.tolist()]


alphabet = st.sampled_from([*'{}[]",:\\ \t\n\r\x00ab01.-eE+', "null", "true", "NaN", "Infinity", "\\u0061", "é"])


@given(st.lists(alphabet, max_size=14).map("".join))
@example('{"a":1}{"a"\n:1}')
@example('{"a":1\n}')
@example('{"a":{}\n}')
@settings(max_examples=400, deadline=None)
def test_a_line_is_a_record_exactly_where_strict_json_and_the_schema_say_so(text: str) -> None:
    """RFC 8259, one object a line, keys once: the fast path agrees with the standard library made strict."""
    schema = pa.schema([("a", pa.int64()), ("b", pa.struct([("a", pa.int64())]))])
    data = text.encode()
    got = read(b"\n" + data, schema)
    expected = [is_record(line) for line in data.split(b"\n") if line.strip(b" \t\r")]
    assert rows_of(got) == [i for i, ok in enumerate(expected) if ok]


def is_record(line: bytes) -> bool:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    def constant(_: str) -> None:
        raise ValueError

    def is_whole(value: Any) -> bool:
        return value is None or (type(value) is int and -(2**63) <= value < 2**63)

    try:
        value = json.loads(line, object_pairs_hook=once, parse_constant=constant)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or not value.keys() <= {"a", "b"}:
        return False
    inner = value.get("b")
    is_inner = inner is None or (isinstance(inner, dict) and inner.keys() <= {"a"} and is_whole(inner.get("a")))
    return is_whole(value.get("a")) and is_inner


def test_a_byte_order_mark_at_the_start_is_left_out() -> None:
    got = read(b'\xef\xbb\xbf{"id": 7}\n{"id": "x"}\n')
    assert got[0].batch.column("id").to_pylist() == [7]
    assert bad_of(got)[0].byte_offset == 13


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_without_records_has_no_batch_with_rows(data: bytes) -> None:
    assert rows_of(read(data)) == []
    with pytest.raises(UsageError, match="no record"):
        inferred(data)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_file_is_read_like_the_plain_one(compression: str) -> None:
    plain = b"".join(json.dumps({"id": i, "text": f"row {i}"}).encode() + b"\n" for i in range(5000))
    packed = gzip.compress(plain) if compression == "gzip" else pa.compress(plain, "zstd", asbytes=True)
    for _ in range(2):
        file = io.BytesIO(packed)
        got = list(decode("jsonl", file, SCHEMA, ReadLimits(max_batch_bytes=10_000)))
        assert pa.Table.from_batches([each.batch for each in got]).equals(
            pa.Table.from_batches([each.batch for each in read(plain)])
        )
        assert not file.closed


def test_a_damaged_compressed_file_is_refused() -> None:
    packed = bytearray(gzip.compress(b'{"id": 1}\n' * 10_000))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(HostileDataError, match=r"f\.jsonl"):
        read(bytes(packed))


@pytest.mark.parametrize("kind", [pa.binary(), pa.time64("us"), pa.duration("s"), pa.map_(pa.string(), pa.int64())])
def test_a_type_without_an_agreed_form_in_json_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(UsageError, match="no agreed form"):
        read(b"{}\n", pa.schema([("a", kind)]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n{"a": 2.5}\n', {"a": pa.float64()}),
        (b'{"a": null}\n{"a": true}\n', {"a": pa.bool_()}),
        (b'{"a": null}\n', {"a": pa.null()}),
        (b'{"b": 1}\n{"a": "2024-01-01"}\n', {"b": pa.int64(), "a": pa.string()}),
        (b'{"a": []}\n{"a": [1]}\n{"a": [0.5, null]}\n', {"a": pa.list_(pa.field("item", pa.float64()))}),
        (b'{"a": {"x": 1}}\n{"a": {"y": "s"}}\n', {"a": pa.struct([("x", pa.int64()), ("y", pa.string())])}),
        (b'{"a": 1}\nnot json\n{"a": 1, "a": 2}\n', {"a": pa.int64()}),
        (b'{"a": 99999999999999999999}\n{"a": 0.5}\n', {"a": pa.float64()}),
    ],
)
def test_types_meet_in_the_lattice(data: bytes, expected: dict[str, pa.DataType]) -> None:
    assert inferred(data).equals(pa.schema(list(expected.items())))


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}\n{"a": "x"}\n',
        b'{"a": true}\n{"a": 1}\n',
        b'{"a": [1]}\n{"a": {"x": 1}}\n',
        b'{"a": [1, "x"]}\n',
        b'{"a": {"x": 1}}\n{"a": {"x": "y"}}\n',
    ],
)
def test_types_that_do_not_meet_are_refused_by_name_and_line(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"f\.jsonl, line \d: 'a") as caught:
        inferred(data)
    assert "schema file" in caught.value.hint


def test_a_whole_number_beyond_int64_is_refused_and_not_rounded() -> None:
    with pytest.raises(UsageError, match="beyond int64"):
        inferred(b'{"a": {"n": [1, 99999999999999999999]}}\n{"a": null}\n')


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 2.0]) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), values, max_size=3), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_inference_does_not_depend_on_blocks_or_order_and_every_record_fits_what_it_finds(
    records: list[dict[str, Any]], random: Any
) -> None:
    """The meet is associative and commutative; what was inferred from records decodes them all."""

    def outcome(chosen: list[dict[str, Any]], limits: ReadLimits) -> dict[str, str] | None:
        data = b"".join(json.dumps(each).encode() + b"\n" for each in chosen)
        try:
            found = inferred(data, limits)
        except UsageError:
            return None
        got = read(data, found)
        assert bad_of(got) == []
        assert rows_of(got) == list(range(len(chosen)))
        return {field.name: canonical(field.type) for field in found}

    def canonical(kind: pa.DataType) -> str:
        if pa.types.is_struct(kind):
            inner = sorted(f"{kind.field(i).name}:{canonical(kind.field(i).type)}" for i in range(kind.num_fields))
            return f"struct<{','.join(inner)}>"
        return f"list<{canonical(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)

    shuffled = list(records)
    random.shuffle(shuffled)
    whole = outcome(records, ReadLimits())
    assert outcome(records, ReadLimits(max_batch_rows=1)) == whole
    assert outcome(shuffled, ReadLimits(max_batch_rows=2)) == whole


def test_a_late_record_widens_the_schema_of_many() -> None:
    early = b"".join(json.dumps({"a": i}).encode() + b"\n" for i in range(3000))
    assert inferred(early + b'{"a": 0.5, "b": null}\n', ReadLimits(max_batch_rows=1000)).equals(
        pa.schema([("a", pa.float64()), ("b", pa.null())])
    )


def test_keep_leaves_only_the_chosen_rows_and_their_bytes() -> None:
    (got,) = read(b'{"id": 0}\n{"id": "x"}\n{"id": 2}\r\n{"id": 3}')
    kept = got.keep(got.rows != 0)
    assert kept.rows.tolist() == [2, 3]
    assert kept.batch.column("id").to_pylist() == [2, 3]
    assert kept.raw is not None
    assert [kept.raw.record(0), kept.raw.record(1)] == [b'{"id": 2}\r\n', b'{"id": 3}']
    assert kept.malformed == ()
