r"""A pattern means what Python's `re.search` means, also where RE2 runs it."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.metric_regex import like_to_regex, search, to_re2
from millcert.errors import PolicyError

IN_BOTH = [
    "",
    "a",
    "^a",
    "a$",
    "^a$",
    "^$",
    "a|b$",
    "(ab)+c?",
    "(?:a|b){2,3}",
    "[a-c]",
    "[^a-c]",
    "[^\\d]x",
    ".",
    "a.b",
    "a*?b$",
    "\\d+",
    "\\w",
    "\\W",
    "\\D$",
    "[\\d_]",
    "\\Aa\\Z",
    "\\.\\*",
    "é+",
    "[à-ü]",
    "日本|x",
    "^(a|b$)",
    "\\x41",
    "[\\]^-]",
    "a{0}b",
    "x{2}",
    "(a$|b)",
    "\\n$",
    "(?P<name>a)b",
]
PYTHON_ONLY = [
    "a(?=b)",
    "(?<!a)b",
    "(a)\\1",
    "\\s",
    "\\S",
    "\\bword\\b",
    "\\B",
    "(?i)a",
    "(?s).",
    "(?m)^a",
    "a$b",
    "(a$)*",
    "a{1001}",
    "[\\s]",
    "(?>a|ab)c",
    "a++b",
    "(?i:a)",
    "$a",
    "[^\\W_]",
]
TEXTS = st.lists(
    st.text(alphabet=st.sampled_from("abcxA_ \t\n\r\x0b\x1c0129é日٣ü.*[]^-"), max_size=6)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6),
    max_size=12,
)


@pytest.mark.parametrize("pattern", IN_BOTH + PYTHON_ONLY)
@settings(max_examples=40)
@given(texts=TEXTS)
def test_a_match_is_found_exactly_where_python_finds_one(pattern: str, texts: list[str]) -> None:
    """Any pattern, any text."""
    found = search(pattern, pa.array(texts, pa.string()))

    assert found.tolist() == [re.search(pattern, text) is not None for text in texts]


@pytest.mark.parametrize("pattern", IN_BOTH)
def test_plain_patterns_run_on_re2(pattern: str) -> None:
    assert to_re2(pattern) is not None


@pytest.mark.parametrize("pattern", PYTHON_ONLY)
def test_what_re2_means_otherwise_stays_with_python(pattern: str) -> None:
    assert to_re2(pattern) is None


def test_digits_outside_ascii_are_digits() -> None:
    assert search("\\d", pa.array(["٣", "x"])).tolist() == [True, False]


def test_dollar_holds_before_a_last_newline_only() -> None:
    assert search("a$", pa.array(["a\n", "a\n\n", "a\nb", "a"])).tolist() == [True, False, False, True]


def test_a_broken_pattern_is_refused_by_name() -> None:
    with pytest.raises(PolicyError, match="cannot be compiled"):
        to_re2("(")


def test_a_surrogate_in_a_pattern_stays_with_python() -> None:
    assert to_re2("\ud800") is None
    assert search("[\ud800]|a", pa.array(["a", "b"])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("pattern", "escape", "text", "matches"),
    [
        ("a%", None, "abc", True),
        ("a%", None, "ba", False),
        ("a_c", None, "a\nc", True),
        ("a_c", None, "ac", False),
        ("a.c", None, "abc", False),
        ("A%", None, "abc", False),
        ("10!%", "!", "10%", True),
        ("10!%", "!", "10x", False),
        ("%", None, "", True),
        ("_", None, "😀", True),
    ],
)
def test_like_patterns_match_whole_texts(pattern: str, escape: str | None, text: str, *, matches: bool) -> None:
    found = search(like_to_regex(pattern, escape), pa.array([text]))

    assert found.tolist() == [matches]


@pytest.mark.parametrize(("pattern", "escape"), [("a!", "!"), ("a", "!!"), ("a", "")])
def test_a_wrong_escape_is_refused(pattern: str, escape: str) -> None:
    with pytest.raises(PolicyError):
        like_to_regex(pattern, escape)


def test_no_texts_give_no_answers() -> None:
    for pattern in ("a", "a(?=b)"):
        assert search(pattern, pa.array([], pa.string())).dtype == np.bool_
