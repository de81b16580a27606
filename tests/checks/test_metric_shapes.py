r"""A pattern asked of each shape finds a match exactly where Python finds one in each text."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.metric_columns import ColumnView
from millcert.checks.metric_regex import search
from millcert.checks.metric_shapes import folding, shapes_of
from millcert.checks.metric_text import bytes_of, is_ascii, lengths_of, repeats

PATTERNS = [
    "^[0-9a-f]{2}$",
    "[^\\Da]",
    "[\\D7]x",
    "[\\s\\w]_",
    "\\bab\\b",
    "\\B",
    "a(?=\\d)",
    "(?<!a)b",
    "a$|^b",
    "(?>a|ab)c",
    "a++b",
    ".b",
    "(?:a|\\d{2,3})*c",
    "\\W\\S",
    "[à-ü]|x",
]
TEXTS = st.lists(st.text(alphabet=st.sampled_from("abcx09 7_\n\x1c-"), max_size=5), min_size=1, max_size=8)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=30)
@given(texts=TEXTS)
def test_shapes_answer_for_their_texts(pattern: str, texts: list[str]) -> None:
    """Rule: characters in the same sets of a pattern are one to it."""
    many = pa.array(texts * 1_100).slice(3)

    shapes = shapes_of(pattern, many)

    assert shapes is not None
    assert search(pattern, many).tolist() == ([re.search(pattern, text) is not None for text in texts] * 1_100)[3:]


def test_each_pair_of_characters_that_a_table_joins_is_one_to_the_pattern() -> None:
    for pattern in PATTERNS:
        table = folding(pattern)
        assert table is not None
        for code in range(128):
            for text in ("{}", "a{}b", "{}{}", "7{}"):
                own, other = text.replace("{}", chr(code)), text.replace("{}", chr(table[code]))
                assert (re.search(pattern, own) is None) == (re.search(pattern, other) is None), (pattern, own)


@pytest.mark.parametrize("pattern", ["(a)\\1", "(?i)a", "(?i:a)b", "(a)?(?(1)b|c)", "(?s)."])
def test_what_looks_at_more_than_sets_has_no_shapes(pattern: str) -> None:
    assert folding(pattern) is None
    assert search(pattern, pa.array(["aa", "b"] * 1_000)).tolist() == [
        re.search(pattern, text) is not None for text in ["aa", "b"] * 1_000
    ]


def test_texts_of_one_shape_are_one() -> None:
    shapes = shapes_of("^[0-9a-f]{4}$", pa.array([f"{i:04x}" for i in range(2_000)]))

    assert shapes is not None
    assert shapes[0].to_pylist() == ["0000"]
    assert shapes[1] is None


def test_texts_of_many_shapes_are_asked_one_by_one() -> None:
    texts = pa.array(["".join("a-"[(i >> bit) & 1] for bit in range(12)) for i in range(4_096)])

    assert shapes_of("a-", texts) is None
    assert search("a-", texts).tolist() == ["a-" in text for text in texts.to_pylist()]


def test_few_texts_and_texts_beyond_ascii_have_no_shapes() -> None:
    assert shapes_of("a", pa.array(["a"] * 10)) is None
    assert shapes_of("a", pa.array(["a", "é"] * 1_000)) is None


def test_lengths_are_of_characters_and_slices_keep_to_their_own_bytes() -> None:
    texts = pa.array(["日本", "ab", "", "abc"])

    assert lengths_of(texts).tolist() == [2, 2, 0, 3]
    assert lengths_of(texts.slice(1)).tolist() == [2, 0, 3]
    assert bytes_of(texts.slice(1, 1)).tobytes() == b"ab"
    assert not is_ascii(texts)
    assert is_ascii(texts.slice(1))
    assert is_ascii(pa.array([], pa.string()))
    assert not repeats(texts)


@given(
    values=st.lists(st.none() | st.sampled_from(["a", "b", "c"]), min_size=1, max_size=10),
    is_dictionary=st.booleans(),
)
def test_a_column_by_its_distinct_values_is_the_column(values: list[str | None], *, is_dictionary: bool) -> None:
    """However it came, and whatever its dictionary holds besides."""
    array = pa.array([*values, "gone"] * 300).slice(0, 300 * len(values))
    array = array.dictionary_encode() if is_dictionary else array
    view = ColumnView(array.slice(1))

    encoded = view.encoded

    if encoded is None:
        assert view.present_count < 1_024
        assert not is_dictionary
        return
    assert np.array(encoded.values)[encoded.codes].tolist() == view.present.to_pylist()
    assert encoded.counts.tolist() == [view.present.to_pylist().count(value) for value in encoded.values.to_pylist()]
    assert view.present_count == len(view.present)
    assert view.is_null.tolist() == [value is None for value in view.array.to_pylist()]


def test_dictionaries_with_nulls_or_values_twice_are_read_plainly() -> None:
    codes = pa.array([0, 1, 2] * 400, pa.int32())
    with_null = pa.DictionaryArray.from_arrays(codes, pa.array(["a", None, "b"]))
    twice = pa.DictionaryArray.from_arrays(codes, pa.array(["a", "a", "b"]))

    assert ColumnView(with_null).null_count == 400
    assert ColumnView(with_null).present.to_pylist() == ["a", "b"] * 400
    encoded = ColumnView(twice).encoded
    assert encoded is not None
    assert encoded.values.to_pylist() == ["a", "b"]
    assert encoded.counts.tolist() == [800, 400]
