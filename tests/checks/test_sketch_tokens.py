"""Words of texts, and tokens against labels in bounded memory whatever the batches."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.prefix_table import KEY_BITS, NO_ROWS, PrefixTable, count_rows, merge_tables
from millcert.checks.sketch_hash import hash_values
from millcert.checks.sketch_tokens import (
    NO_TOKENS,
    TokenTable,
    count_tokens,
    has_tokens,
    hash_tokens,
    merge_tokens,
)
from millcert.checks.token_words import MAX_WORD_BYTES, words_of

KEY = b"k" * 32
TEXTS = st.lists(st.text(alphabet="aB1_ .,!\n\x00éß世界Σ", max_size=12), max_size=8)


def words_by_python(text: str) -> list[bytes]:
    """The definition: runs of word bytes or of punctuation bytes."""
    found = re.findall(rb"[0-9A-Za-z_\x80-\xff]+|[!-/:-@\[-^`{-~]+", text.encode().lower())
    return [word[:MAX_WORD_BYTES] for word in found]


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_words_are_runs_of_word_or_punctuation_bytes_and_never_cross_texts(texts: list[str]) -> None:
    found = [
        (row, word)
        for rows, words in words_of(pa.array(texts, pa.string()))
        for row, word in zip(rows.tolist(), words.to_pylist(), strict=True)
    ]

    assert found == [(row, word) for row, text in enumerate(texts) for word in words_by_python(text)]


def test_long_texts_are_taken_apart_in_parts_and_a_long_word_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millcert.checks.token_words._BYTES", 8)
    texts = pa.array(["one two", "x" * 500, "", "three"]).slice(1)

    parts = list(words_of(texts))

    assert len(parts) > 1
    found = [word for _, words in parts for word in words.to_pylist()]
    assert found == [b"x" * MAX_WORD_BYTES, b"three"]
    assert [row for rows, _ in parts for row in rows.tolist()] == [0, 2]


def table_of(texts: list[str], labels: list[str], limit: int) -> TokenTable:
    names = list(dict.fromkeys(labels))
    at = np.array([names.index(label) for label in labels], dtype=np.int64)
    return count_tokens(pa.array(texts, pa.string()), at, names, limit=limit, key=KEY)


def assert_same(one: TokenTable, other: TokenTable) -> None:
    assert one.labels == other.labels
    assert one.table.level == other.table.level
    np.testing.assert_array_equal(one.table.rows, other.table.rows)
    np.testing.assert_array_equal(one.table.counts, other.table.counts)


ROWS = st.lists(st.tuples(st.text(alphabet="abc ", max_size=9), st.sampled_from("xyz")), min_size=1, max_size=30)


@given(ROWS, st.integers(3, 40), st.integers(0, 30), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_table_is_that_of_its_rows_whatever_the_batches_and_their_order(
    rows: list[tuple[str, str]], limit: int, cut: int, random: object
) -> None:
    """Rule 1 of `millcert.checks.profile`."""
    whole = table_of([text for text, _ in rows], [label for _, label in rows], limit)
    parts = [part for part in (rows[cut:], rows[:cut]) if part]

    merged = merge_tokens([table_of([t for t, _ in part], [c for _, c in part], limit) for part in parts], limit)

    assert_same(merged, whole)
    assert len(whole.table.rows) <= limit


def test_counts_are_rows_and_not_occurrences() -> None:
    found = table_of(["a a b", "A", "b", ""], ["x", "x", "y", "y"], 100)

    hashes = (hash_values(pa.array([b"a", b"b"]), KEY) >> np.uint64(64 - KEY_BITS)).tolist()
    rows = zip(found.table.groups.tolist(), found.table.keys.tolist(), found.table.counts.tolist(), strict=True)
    pairs = {(found.labels[group], key): count for group, key, count in rows}
    assert pairs == {("x", hashes[0]): 2, ("x", hashes[1]): 1, ("y", hashes[1]): 1}


def test_beyond_the_bound_counts_of_tokens_with_equal_upper_bits_are_added() -> None:
    words = [f"w{number}" for number in range(1000)]

    found = table_of([" ".join(words)] * 3, ["x", "y", "y"], 256)

    assert 64 < len(found.table.rows) <= 256
    hashes = (hash_values(pa.array(words), KEY) >> np.uint64(64 - KEY_BITS)) >> np.uint64(found.table.level)
    by_hash = Counter(hashes.tolist())
    for group, key, count in zip(found.table.groups, found.table.keys, found.table.counts, strict=True):
        assert count == by_hash[int(key)] * (group + 1)


def test_lists_of_texts_and_numbers_are_tokens_as_they_are() -> None:
    lists = pa.array([["a", "b", None], None, ["a", "a"]])
    numbers = pa.array([[1, 2], [2]], pa.large_list(pa.int32()))
    label = np.zeros(3, dtype=np.int64)

    texts = count_tokens(lists, label, ["x"], limit=10, key=KEY)
    counted = count_tokens(numbers, label[:2], ["x"], limit=10, key=KEY)

    assert sorted(texts.table.counts.tolist()) == [1, 2]
    assert sorted(counted.table.counts.tolist()) == [1, 2]
    assert has_tokens(lists.type)
    assert has_tokens(numbers.type)
    assert not has_tokens(pa.list_(pa.float32()))
    assert not has_tokens(pa.int64())


def test_the_token_of_a_hash_is_found_in_the_data() -> None:
    found = table_of(["a bc", "bc"], ["x", "x"], 10)
    frequent = int(found.table.keys[np.argmax(found.table.counts)])

    named = {
        bytes(word.as_py()): int(code)
        for words, codes in hash_tokens(pa.array(["a bc", "bc"]), KEY)
        for word, code in zip(words, codes, strict=True)
    }

    assert named[b"bc"] == frequent


def test_nothing_merges_to_nothing() -> None:
    assert merge_tables([NO_ROWS], 5) == NO_ROWS
    assert merge_tokens([NO_TOKENS], 5) == NO_TOKENS
    assert_same(table_of(["", " "], ["x", "y"], 5), NO_TOKENS)


def test_groups_alone_stay_when_no_bit_is_left() -> None:
    table = count_rows(np.array([0, 1, 1]), np.array([0, 0, (1 << KEY_BITS) - 1], dtype=np.uint64), 2)

    assert isinstance(table, PrefixTable)
    assert table.level == KEY_BITS
    assert table.counts.tolist() == [1, 2]
