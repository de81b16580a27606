"""YAML in, values and positions out: what is refused, and what a plain scalar means."""

import json
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from millcert.policy_faults import LISTED_FAULTS, PolicyFault, dotted, refuse
from millcert.policy_yaml import MAX_DEPTH, MAX_FAULTS, MAX_POLICY_BYTES, Document, Place, Plain, read_yaml, resolve


def only_fault(text: str) -> PolicyFault:
    _, faults = read_yaml(text, "p.yaml")
    assert len(faults) == 1, faults
    return faults[0]


@pytest.mark.parametrize(
    ("text", "line", "column", "key", "words"),
    [
        ("a: 1\na: 2\n", 2, 1, "a", "first in line 1"),
        ("x:\n  - a: 1\n    a: {b: [1]}\n", 3, 5, "x[0].a", "first in line 2"),
        ("a: &one 1\n", 1, 4, "a", "anchors"),
        ("a: &one [1]\n", 1, 4, "a", "anchors"),
        ("&k a: 1\n", 1, 1, "a", "anchors"),
        ("<<: {a: 1}\nb: 2\n", 1, 1, "<<", "merge keys"),
        ("a: !!python/object/apply:os.system [id]\n", 1, 4, "a", "tags"),
        ("a: !!str 1\n", 1, 4, "a", "tags"),
        ("? [a, b]\n: {c: [1]}\nd: 1\n", 1, 3, "", "a key must be text"),
        ("? {a: b}\n: 1\n", 1, 3, "", "a key must be text"),
        ("a: 1\n---\nb: 2\n", 2, 1, "", "second document"),
        ("", 1, 1, "", "expected a mapping"),
        ("# nothing\n", 1, 1, "", "expected a mapping"),
        ("- a\n", 1, 1, "", "expected a mapping"),
        ("text\n", 1, 1, "", "expected a mapping"),
        ("a: [1\nb: 2\n", 2, 2, "", "this is not YAML"),
        ("a:\n\t- b\n", 2, 1, "", "this is not YAML"),
        ("a: 1\nb: \x07\n", 2, 4, "", "U+0007"),
    ],
)
def test_what_makes_yaml_ambiguous_is_refused_where_it_stands(
    text: str, line: int, column: int, key: str, words: str
) -> None:
    fault = only_fault(text)

    assert (fault.path, fault.line, fault.column, fault.key) == ("p.yaml", line, column, key)
    assert words in fault.message


def test_an_alias_is_refused_besides_its_anchor() -> None:
    _, faults = read_yaml("a: &one {x: 1}\nb: *one\n*one : 2\n", "p.yaml")

    assert [(fault.line, fault.key) for fault in faults] == [(1, "a"), (2, "b"), (3, "")]


def test_aliases_cannot_expand() -> None:
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )

    document, faults = read_yaml(laughs, "p.yaml")

    assert faults
    assert len(str(document.tree)) < 1000


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "a: " + "{b: " * 5000, "? " + "[" * 5000, "- " * 5000 + "x"])
def test_deep_nesting_is_refused_and_exhausts_no_stack(text: str) -> None:
    _, faults = read_yaml(text, "p.yaml")

    assert faults[-1].message == f"nested deeper than {MAX_DEPTH} levels"


def test_a_text_above_the_bound_is_refused_unread() -> None:
    fault = only_fault("é" * (MAX_POLICY_BYTES // 2) + "x")

    assert f"{MAX_POLICY_BYTES:,}" in fault.message


def test_reading_stops_after_enough_faults() -> None:
    _, faults = read_yaml("a: 1\n" * 1000, "p.yaml")

    assert len(faults) == MAX_FAULTS


def test_lone_surrogates_are_no_crash() -> None:
    document, faults = read_yaml("a: \ud800\n", "p.yaml")

    assert not document.is_whole
    assert "U+D800" in faults[0].message


def test_a_byte_order_mark_does_not_shift_positions() -> None:
    document, faults = read_yaml("\ufeffa: 1\n", "p.yaml")

    assert not faults
    assert document.values[("a",)] == Place(1, 4)


@pytest.mark.parametrize(
    "word", ["no", "on", "0755", "0x1F", "1:30", "2026-01-01", "1_000", "1.0", "true", "=", ".inf"]
)
def test_a_plain_scalar_keeps_its_text(word: str) -> None:
    document, faults = read_yaml(f"a: {word}\n", "p.yaml")

    assert not faults
    assert document.tree == {"a": word}
    assert isinstance(document.tree["a"], Plain)


def test_an_empty_value_is_none_and_quotes_make_text() -> None:
    document, _ = read_yaml("a:\nb: ~\nc: null\nd: ''\ne: 'null'\nf: |\n  null\n", "p.yaml")

    assert document.tree == {"a": None, "b": None, "c": None, "d": "", "e": "null", "f": "null\n"}
    assert not any(isinstance(value, Plain) for value in document.tree.values())


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-7", -7), ("0.10", 0.1), ("5e-2", 0.05), ("1E3", 1000.0), ("true", True), ("false", False)],
)
def test_a_json_scalar_is_its_value(text: str, value: object) -> None:
    resolved = resolve(Plain(text))

    assert resolved == value
    assert type(resolved) is type(value)


@pytest.mark.parametrize("text", ["abc", "a-1", "lab-a", "v1.2", "1 2", "10.0.0.x", "robust_spectral", "https://x:1/"])
def test_other_text_is_text(text: str) -> None:
    assert resolve(Plain(text)) == text
    assert type(resolve(Plain(text))) is str


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "No", "ON", "off", "y", "N", "True", "FALSE"),
        *("010", "0o10", "0x1F", "0b11", "1_000", "1:30", "190:20:30", "+1", ".5", "1.", "-.5", "0.1_0"),
        *(".inf", "-.INF", ".nan", ".NaN", "1e999", "2026-01-01", "2001-12-14t21:59:43.10-05:00"),
        *("9" * 30, "1." + "0" * 100),
    ],
)
def test_what_readers_of_yaml_disagree_on_is_refused_where_a_value_is_wanted(text: str) -> None:
    with pytest.raises(ValueError):
        resolve(Plain(text))


def test_a_null_resolves_to_none() -> None:
    assert resolve(Plain("null")) is None


@given(st.text(max_size=12) | st.from_regex(r"[-+.0-9eExo_:]{1,10}", fullmatch=True))
def test_a_plain_scalar_never_resolves_to_something_that_another_reader_reads_differently(text: str) -> None:
    """Rule 3: only JSON's own spelling counts for numbers and bools."""
    try:
        value = resolve(Plain(text))
    except ValueError:
        return
    if isinstance(value, str):
        assert value == text
        assert not isinstance(yaml.safe_load(json.dumps(text)), (int, float))
    else:
        assert value is None or json.loads(text) == value


TREES = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc<", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), TREES, max_size=4))
def test_what_yaml_writes_is_read_back_with_a_place_for_every_value(tree: dict[str, object]) -> None:
    """Rule 4: every key and value has its line and column."""
    document, faults = read_yaml(yaml.safe_dump(tree, default_style='"', allow_unicode=True), "p.yaml")

    assert not faults
    assert document.tree == tree
    assert set(_places(tree, ())) == set(document.values)


def _places(node: object, place: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    yield place
    items: list[tuple[str | int, object]] = []
    if isinstance(node, dict):
        items = list(node.items())
    elif isinstance(node, list):
        items = list(enumerate(node))
    for step, item in items:
        yield from _places(item, (*place, step))


@given(st.text(max_size=60) | st.text("{}[]:,-?&*!|>'\"%@`#\n a0", max_size=60))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    """Rule 1, and: collects faults instead of raising."""
    document, faults = read_yaml(text, "p.yaml")

    assert document.is_whole or faults


def test_a_place_that_is_not_in_the_file_is_found_at_the_section_around_it() -> None:
    document, _ = read_yaml("a:\n  b: [1]\n", "p.yaml")

    assert document.locate(("a", "b", 0)) == Place(2, 7)
    assert document.locate(("a", "c")) == Place(1, 1)
    assert document.locate(("a", "b"), at_key=True) == Place(2, 3)
    assert Document(None, {}, {}, frozenset(), is_whole=False).locate(("a",)) == Place(1, 1)


def test_a_place_reads_like_code() -> None:
    assert dotted(("checks", 0, "config", "a")) == "checks[0].config.a"


def test_a_very_long_list_of_faults_is_cut_in_the_text_and_whole_in_the_error() -> None:
    faults = [PolicyFault("p.yaml", line, 1, "k", "wrong") for line in range(1, LISTED_FAULTS + 4)]

    with pytest.raises(Exception, match="and 3 more") as caught:
        refuse(faults, "p.yaml")

    assert len(caught.value.faults) == len(faults)  # type: ignore[attr-defined] # given at the raise
