"""Entries have one form, and say nothing that cannot be read back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError, UsageError
from millcert.provenance.ledger_entry import MAX_LEAF_BYTES, MAX_SUBJECT_CHARACTERS, Entry, parse_entry

WHEN = "2026-11-23T02:38:55Z"


def entry(**changes: Any) -> Entry:
    fields: dict[str, Any] = {"kind": "verdict", "subject": "a", "recorded_at": WHEN, "body": {}}
    return Entry(**{**fields, **changes})


def test_a_leaf_is_canonical_json() -> None:
    leaf = entry(body={"b": 1, "a": [True, None, "\u00e9"]}).leaf()

    assert leaf == (
        b'{"body":{"a":[true,null,"\xc3\xa9"],"b":1},"kind":"verdict",'
        b'"recorded_at":"2026-11-23T02:38:55Z","subject":"a"}'
    )


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=4), st.text(max_size=4) | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e9, 1e9)
    )
)
def test_an_entry_is_read_back_as_it_was_written(body: dict[str, Any]) -> None:
    written = entry(body=body)

    assert parse_entry(written.leaf()) == written


@pytest.mark.parametrize("kind", ["manifest", "check_summary", "verdict", "certificate", "sha2_root"])
def test_kinds_are_an_open_set_of_words(kind: str) -> None:
    assert entry(kind=kind).kind == kind


@pytest.mark.parametrize("kind", ["", "Verdict", "check-summary", "_a", "a_", "a__b", "1a", "a b", "a" * 65, "a\n"])
def test_a_kind_is_a_lower_snake_case_word(kind: str) -> None:
    with pytest.raises(UsageError, match="lower_snake_case"):
        entry(kind=kind)


@pytest.mark.parametrize("subject", ["", "a\nb", "\ud800", "a" * (MAX_SUBJECT_CHARACTERS + 1)])
def test_a_subject_is_some_printable_words(subject: str) -> None:
    with pytest.raises(UsageError, match="subject"):
        entry(subject=subject)


@pytest.mark.parametrize("when", ["2026-11-23T02:38:55Z", "2026-11-23T02:38:55.123456Z", "2024-02-29T00:00:00Z"])
def test_a_time_is_utc(when: str) -> None:
    assert entry(recorded_at=when).recorded_at == when


@pytest.mark.parametrize(
    "when", ["", "2026-11-23", "2026-11-23T02:38:55", "2026-11-23T02:38:55+01:00", "2026-02-30T00:00:00Z", WHEN + "\n"]
)
def test_another_form_of_time_is_refused(when: str) -> None:
    with pytest.raises(UsageError, match="recorded_at"):
        entry(recorded_at=when)


def test_an_entry_may_be_as_long_as_an_entry_bundle_can_say() -> None:
    """C2SP tlog-tiles: entries are prefixed with their length in 16 bits."""
    room = MAX_LEAF_BYTES - len(entry(body={"a": ""}).leaf())

    assert len(entry(body={"a": "x" * room}).leaf()) == 65_535
    with pytest.raises(UsageError, match="65536 bytes") as caught:
        entry(body={"a": "x" * (room + 1)}).leaf()
    assert "digest" in caught.value.hint


def test_a_body_without_a_canonical_form_is_refused() -> None:
    with pytest.raises(UsageError, match="canonical"):
        entry(body={"a": float("nan")}).leaf()


@pytest.mark.parametrize(
    "leaf",
    [
        b"",
        b"{}",
        b'{"body":{},"kind":"a","recorded_at":"2026-11-23T02:38:55Z","subject":"a","x":1}',
        b'{"body":[],"kind":"a","recorded_at":"2026-11-23T02:38:55Z","subject":"a"}',
        b'{"body":{},"kind":"A","recorded_at":"2026-11-23T02:38:55Z","subject":"a"}',
        b'{"body":{}, "kind":"a","recorded_at":"2026-11-23T02:38:55Z","subject":"a"}',
        b'{"kind":"a","body":{},"recorded_at":"2026-11-23T02:38:55Z","subject":"a"}',
        b'{"body":{"a":1.0},"kind":"a","recorded_at":"2026-11-23T02:38:55Z","subject":"a"}',
        b'{"body":{"a":9007199254740993},"kind":"a","recorded_at":"2026-11-23T02:38:55Z","subject":"a"}',
        b'{"body":{},"kind":"a","recorded_at":"2026-11-23T02:38:55Z","subject":"a","subject":"a"}',
    ],
)
def test_bytes_that_are_not_an_entry_in_its_one_form_are_refused(leaf: bytes) -> None:
    with pytest.raises(LedgerError):
        parse_entry(leaf)
