"""The entry and the shard list have one form, and anything else is refused."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from millcert.errors import LedgerError, UsageError
from millcert.provenance.ledger_entry import Entry, parse_entry
from millcert.provenance.merkle import leaf_hash, node_hash
from millcert.provenance.sample_run import (
    RunRoots,
    Shard,
    format_shards,
    parse_shard,
    parse_shards,
    roots_from,
    shards_root,
)

A = Shard("a.jsonl", 3, 2, "aa" * 32, "ab" * 32, "north")
B = Shard("b/é.parquet", 9, 9, "ba" * 32, "bb" * 32, "south")
LISTED = format_shards([A, B])
ROOTS = RunRoots(
    dataset="pets",
    input_root="cd" * 32,
    records=12,
    samples=11,
    shards=2,
    shards_root=shards_root([A, B]).hex(),
    shards_sha256=hashlib.sha256(LISTED).hexdigest(),
    index_root="ef" * 32,
    verdict=4,
    checks=(2, 3),
    sources=(0,),
)
NOW = "2026-11-23T02:38:55Z"


def test_the_roots_come_back_from_the_bytes_that_are_logged() -> None:
    entry = parse_entry(ROOTS.entry(NOW).leaf())

    assert roots_from(entry) == ROOTS
    assert entry.subject == ROOTS.input_root


def test_the_shard_tree_has_the_list_s_lines_as_leaves() -> None:
    first, second = LISTED.splitlines()

    assert shards_root([A, B]) == node_hash(leaf_hash(first), leaf_hash(second))
    assert parse_shards(LISTED, ROOTS) == (A, B)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("index_root", "EF" * 32),
        ("input_root", "12" * 32),
        ("verdict", -1),
        ("verdict", "4"),
        ("checks", [1, True]),
        ("sources", ["0"]),
        ("records", 3),
        ("shards", -1),
        ("format", "millcert-samples-2"),
        ("more", 1),
    ],
)
def test_an_entry_with_a_value_that_cannot_be_is_refused(name: str, value: Any) -> None:
    entry = ROOTS.entry(NOW)

    with pytest.raises(LedgerError):
        roots_from(Entry(entry.kind, entry.subject, NOW, {**entry.body, name: value}))


def test_another_kind_of_entry_is_refused() -> None:
    entry = ROOTS.entry(NOW)

    with pytest.raises(LedgerError, match="shard_roots"):
        roots_from(Entry("verdict", entry.subject, NOW, entry.body))


@pytest.mark.parametrize(
    "line",
    [
        A.line().replace(b'"records":3', b'"records":1'),
        A.line().replace(b'"root":"aa', b'"root":"AA'),
        A.line().replace(b":3,", b": 3,"),
        A.line().replace(b'"samples":2', b'"samples":"2"'),
        b"{}",
        b"not json",
        A.line().replace(b'"records":3', b'"records":9007199254740993'),
    ],
)
def test_a_line_that_is_not_a_shard_in_its_one_form_is_refused(line: bytes) -> None:
    with pytest.raises(LedgerError):
        parse_shard(line)


def test_an_edited_list_is_not_the_one_in_the_ledger() -> None:
    with pytest.raises(LedgerError, match="not the one in the ledger"):
        parse_shards(LISTED.replace(b"north", b"nowhe"), ROOTS)


@pytest.mark.parametrize("shards", [[B, A], [A, A], [replace(A, file="x" * 70_000)]])
def test_shards_out_of_order_twice_or_with_endless_names_are_refused(shards: list[Shard]) -> None:
    with pytest.raises(UsageError):
        format_shards(shards)
