"""Path patterns of source rules."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.policy_path import matches, pattern_fault, relative_path_fault, why_not


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("lab-a/**", "lab-a/x.parquet"),
        ("lab-a/**", "lab-a/b/c/x.parquet"),
        ("**", "x.csv"),
        ("**", "a/b.csv"),
        ("**/*.csv", "x.csv"),
        ("**/*.csv", "a/b/x.csv"),
        ("a/**/z.csv", "a/z.csv"),
        ("a/**/z.csv", "a/b/c/z.csv"),
        ("a/**/**/z.csv", "a/z.csv"),
        ("*", "x.csv"),
        ("part-??.csv", "part-01.csv"),
        ("a/*/c", "a/b/c"),
        ("a.b/x", "a.b/x"),
        ("a/**", "a/.hidden"),
        ("a/*", "a/line\nbreak"),
        ("a*b", "ab"),
    ],
)
def test_a_pattern_matches(pattern: str, path: str) -> None:
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("lab-a/**", "lab-a"),
        ("lab-a/**", "lab-ab/x"),
        ("lab-a/**", "Lab-a/x"),
        ("lab-a/**", "x/lab-a/y"),
        ("*", "a/b"),
        ("*.csv", "a/b.csv"),
        ("a/*/c", "a/c"),
        ("a/*/c", "a/b/b/c"),
        ("a?b", "a/b"),
        ("a.b/x", "aXb/x"),
        ("part-??.csv", "part-1.csv"),
    ],
)
def test_a_pattern_does_not_match_and_says_why(pattern: str, path: str) -> None:
    assert not matches(pattern, path)
    assert why_not(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path", "words"),
    [
        ("lab-a/**", "lab-b/x", '"lab-b" is not "lab-a"'),
        ("a/*.csv", "a/b/c.csv", '"b" is not "*.csv"'),
        ("a/b/c", "a/b", "something deeper"),
        ("a/*", "a/b/c", "nothing that deep"),
        ("a/**/x", "a/y", "does not end as"),
        ("a/**", "a", "means what is below"),
    ],
)
def test_the_reason_names_where_pattern_and_path_part(pattern: str, path: str, words: str) -> None:
    assert words in why_not(pattern, path)


@pytest.mark.parametrize(
    "pattern", ["/a", "a//b", "../a", "a/./b", "a/", "", "gs://b/**", "C:/a", "a[0]", "{a,b}", "a\\b", "a**", "**b/c"]
)
def test_an_ambiguous_pattern_is_refused(pattern: str) -> None:
    assert pattern_fault(pattern)


@pytest.mark.parametrize("path", ["/a", "a/../b", "a\\b", "s3://b/x", "", "."])
def test_a_path_that_leaves_the_data_set_is_refused(path: str) -> None:
    assert relative_path_fault(path)


SEGMENTS = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
PATTERNS = st.lists(SEGMENTS | st.sampled_from(["*", "?", "**", "a*", "*b"]), min_size=1, max_size=4)


@given(PATTERNS, st.lists(SEGMENTS, min_size=1, max_size=4))
def test_matching_is_what_a_plain_recursion_says(pattern: list[str], path: list[str]) -> None:
    """`**` stands for any number of segments (for at least one at the end), * and ? stay within one segment."""
    assert matches("/".join(pattern), "/".join(path)) == _recursive(pattern, path)


def _recursive(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern == ["**"]:
        return bool(path)
    if pattern[0] == "**":
        return any(_recursive(pattern[1:], path[start:]) for start in range(len(path) + 1))
    return bool(path) and _one(pattern[0], path[0]) and _recursive(pattern[1:], path[1:])


def _one(pattern: str, segment: str) -> bool:
    if not pattern:
        return not segment
    if pattern[0] == "*":
        return any(_one(pattern[1:], segment[start:]) for start in range(len(segment) + 1))
    return bool(segment) and pattern[0] in {"?", segment[0]} and _one(pattern[1:], segment[1:])


def test_many_stars_do_not_make_matching_run_away() -> None:
    pattern = "/".join(itertools.chain.from_iterable(itertools.repeat(("**", "*a*a"), 6)))

    assert not matches(pattern, "/".join(["a" * 12] * 12) + "/b")
