"""JSON in one way only."""

from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError, UsageError
from millcert.provenance.strict_json import MAX_DEPTH, canonical_json, parse_json_object, require_fields

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def parse(data: bytes) -> dict[str, Any]:
    return parse_json_object(data, what="thing", max_bytes=1000, error=LedgerError)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    data = canonical_json(value, what="thing")

    assert parse_json_object(data, what="thing", max_bytes=10_000) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"text"',
        b"{",
        b"{} {}",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
        b'{"a":' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        b'{"a":' + b"[" * 490 + b"]" * 490 + b"}",
        b'{"a":"' + b"a" * 1000 + b'"}',
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(LedgerError, match="thing"):
        parse(data)


def test_the_interpreter_is_not_led_into_its_recursion_limit() -> None:
    bomb = b'{"a":' + b"[" * 200_000

    with pytest.raises(LedgerError):
        parse_json_object(bomb, what="thing", max_bytes=1_000_000, error=LedgerError)


def test_finite_numbers_are_read() -> None:
    assert parse(b'{"a":1.5,"b":-2e3}') == {"a": 1.5, "b": -2000.0}


def test_nesting_up_to_the_bound_is_read() -> None:
    assert parse(b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}")


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            VALUES | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
            lambda inner: (
                st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_the_short_way_writes_what_the_canonical_one_writes(value: dict[str, Any]) -> None:
    """Entries of one ledger come from both ways: a byte's difference would make one statement two."""
    assert canonical_json(value, what="thing") == rfc8785.dumps(value)


@pytest.mark.parametrize("character", [chr(code) for code in (*range(0x21), 0x22, 0x5C, 0x7F, 0x80, 0x2028, 0x1F600)])
def test_every_escape_is_the_canonical_one(character: str) -> None:
    value = {"a": character, "b": [f"x{character}y", -(2**53) + 1, 2**53 - 1, True, None]}

    assert canonical_json(value, what="thing") == rfc8785.dumps(value)


def test_a_value_that_holds_itself_has_no_canonical_form() -> None:
    value: dict[str, Any] = {}
    value["a"] = value

    with pytest.raises(UsageError, match="no canonical JSON form"):
        canonical_json(value, what="thing")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60, {1, 2}, b"bytes", "\ud800"])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="no canonical JSON form"):
        canonical_json({"a": value}, what="thing")


def test_fields_are_exact() -> None:
    require_fields({"a": 1}, {"a": int}, what="thing", optional={"b": str})
    require_fields({"a": 1, "b": "x"}, {"a": int}, what="thing", optional={"b": str})


@pytest.mark.parametrize("value", [{}, {"a": 1, "c": 1}, {"a": "1"}, {"a": True}, {"a": 1, "b": 2}])
def test_other_fields_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(LedgerError, match="thing"):
        require_fields(value, {"a": int}, what="thing", optional={"b": str}, error=LedgerError)
