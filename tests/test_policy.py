"""A policy: what is refused, where the faults are, what the digest binds, and who speaks for a file."""

import contextlib
import copy
import hashlib
import json
import os
import re
import typing
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.base import Role
from millcert.errors import PolicyError, UntrustedSourceError, UsageError
from millcert.policy import (
    MAX_NAMED_FILE_BYTES,
    LoadedPolicy,
    Policy,
    PolicyFault,
    load_policy,
    parse_policy,
    policy_digest,
)
from millcert.policy_explain import explain_file
from millcert.policy_faults import dotted

TRUSTED_ROOT = b'{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'
SUITE = b'{"name": "suite", "expectations": []}'
SCHEMA = b'{"label": "string"}'

#: Every section and key once.
FULL: dict[str, Any] = {
    "version": 1,
    "dataset": {
        "name": "digits",
        "columns": {"label": "label", "embedding_self": "embedding", "embedding_external": "clip", "source": "site"},
        "classes": ["0", "1"],
        "schema": "schema.json",
        "images": {"pixels": {"shape": [8, 8], "max_value": 16}},
        "max_malformed_fraction": 0.0,
    },
    "trust": {"trusted_root": "trusted_root.json", "trusted_root_sha256": hashlib.sha256(TRUSTED_ROOT).hexdigest()},
    "sources": [
        {
            "name": "lab-a",
            "path": "lab-a/**",
            "signed_by": {"issuer": "https://issuer.example", "identity": "lab-a@example.org"},
            "manifest": "lab-a/millcert-manifest.json",
            "bundle": "lab-a/millcert-manifest.sigstore.json",
        },
        {
            "name": "lab-b",
            "path": "lab-b/**",
            "signed_by": [
                {"issuer": "https://issuer.example", "identity": "lab-b@example.org"},
                {"issuer": "https://issuer.example", "identity_pattern": "*@lab-b.example"},
            ],
        },
        {"name": "scraped", "path": "scraped/**", "unsigned": "accept_as_unknown"},
    ],
    "expectations": {"suite": "suite.json", "on_failure": "warn"},
    "checks": [
        {
            "check": "robust_spectral",
            "max_flagged_fraction": 0.05,
            "over_limit": "reject",
            "on_flagged": "report",
            "config": {},
        }
    ],
    "verdict": {"max_quarantined_fraction": 0.1, "max_unknown_provenance_fraction": 0.5},
    "ledger": {"origin": "example.org/training-data"},
    "limits": {
        "max_file_bytes": 1000,
        "max_record_bytes": 1000,
        "max_batch_bytes": 1000,
        "max_decoded_bytes": 1000,
        "max_decoded_ratio": 10.5,
    },
}

REQUIRED: list[tuple[str | int, ...]] = [
    ("version",),
    ("dataset",),
    ("dataset", "name"),
    ("dataset", "max_malformed_fraction"),
    ("dataset", "images", "pixels", "shape"),
    ("dataset", "images", "pixels", "max_value"),
    ("trust",),
    ("trust", "trusted_root"),
    ("trust", "trusted_root_sha256"),
    ("sources",),
    ("sources", 0, "name"),
    ("sources", 0, "path"),
    ("sources", 0, "signed_by", "issuer"),
    ("sources", 1, "signed_by", 1, "issuer"),
    ("expectations", "suite"),
    ("checks",),
    ("checks", 0, "check"),
    ("checks", 0, "max_flagged_fraction"),
    ("verdict",),
    ("verdict", "max_quarantined_fraction"),
    ("verdict", "max_unknown_provenance_fraction"),
    ("ledger",),
    ("ledger", "origin"),
]


def full() -> dict[str, Any]:
    return copy.deepcopy(FULL)


def text_of(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def parse(document: object) -> Policy:
    return parse_policy(text_of(document), origin="p.yaml")


def faults_of(document: object) -> tuple[PolicyFault, ...]:
    return faults_in(document if isinstance(document, str) else text_of(document))


def faults_in(text: str) -> tuple[PolicyFault, ...]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, origin="p.yaml")
    faults = caught.value.faults
    assert isinstance(faults, tuple)
    return faults


def places(node: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield place
    steps: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(node, dict):
        steps = iter(node.items())
    elif isinstance(node, list):
        steps = iter(enumerate(node))
    for step, item in steps:
        yield from places(item, (*place, step))


def at(document: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        document = document[step]
    return document


def key_line(text: str, place: tuple[str | int, ...]) -> int:
    """Find the 1-based line of a key, or of a list item, with PyYAML's own composer as the oracle."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 0
    for step in place:
        assert node is not None
        if isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line
        else:
            key, node = next(pair for pair in node.value if pair[0].value == step)
            line = key.start_mark.line
    return line + 1


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "trusted_root.json").write_bytes(TRUSTED_ROOT)
    (tmp_path / "suite.json").write_bytes(SUITE)
    (tmp_path / "schema.json").write_bytes(SCHEMA)
    (tmp_path / "policy.yaml").write_text(text_of(FULL))
    return tmp_path


# What a policy is.


def test_a_policy_with_every_key_is_read() -> None:
    policy = parse(FULL)

    assert policy.dataset.name == "digits"
    assert policy.dataset.schema_file == "schema.json"
    assert policy.dataset.images["pixels"].shape == (8, 8)
    assert [rule.is_signed for rule in policy.sources] == [True, True, False]
    assert policy.sources[0].signed_by is not None
    assert policy.sources[0].signed_by[0].identity == "lab-a@example.org"
    assert policy.roles() == FULL["dataset"]["columns"]
    assert policy.limits.max_decoded_ratio == 10.5


def test_the_smallest_policy_has_strict_defaults() -> None:
    policy = parse(minimal())

    assert policy.expectations is None
    assert policy.trust is None
    assert policy.checks[0].over_limit is None
    assert policy.checks[0].on_flagged == "quarantine"
    assert policy.limits.max_file_bytes is None
    assert parse({**minimal(), "expectations": {"suite": "s.json"}}).expectations is not None
    assert parse({**minimal(), "expectations": {"suite": "s.json"}}).expectations.on_failure == "reject"  # type: ignore[union-attr] # just asserted


@pytest.mark.parametrize("on_failure", [None, "reject", "quarantine_rows"])
def test_a_suite_alone_is_a_policy(on_failure: str | None) -> None:
    document = minimal()
    del document["checks"]
    document["expectations"] = {"suite": "s.json"} | ({} if on_failure is None else {"on_failure": on_failure})

    policy = parse(document)

    assert policy.checks == ()
    assert "checks" not in policy.to_document()
    assert Policy.model_validate(policy.to_document()) == policy


@pytest.mark.parametrize("suite", [{}, {"expectations": {"suite": "s.json", "on_failure": "warn"}}])
def test_a_policy_in_which_nothing_tests_the_data_is_refused(suite: dict[str, Any]) -> None:
    document = minimal() | suite
    del document["checks"]

    (fault,) = faults_of(document)

    assert (fault.key, fault.line) == ("checks", 1)
    assert "the section is required where no suite" in fault.message


@pytest.mark.parametrize("suite", [{}, {"expectations": {"suite": "s.json"}}])
def test_an_empty_list_of_checks_is_refused_also_beside_a_suite(suite: dict[str, Any]) -> None:
    assert [fault.key for fault in faults_of(minimal() | suite | {"checks": []})] == ["checks"]


def minimal() -> dict[str, Any]:
    document = {key: value for key, value in full().items() if key in {"version", "dataset", "verdict", "ledger"}}
    columns = {"label": "label", "embedding_self": "embedding"}
    document["dataset"] = {"name": "d", "max_malformed_fraction": 0, "columns": columns}
    document["sources"] = [{"name": "all", "path": "**", "unsigned": "accept_as_unknown"}]
    document["checks"] = [{"check": "robust_spectral", "max_flagged_fraction": 0.05}]
    return document


def test_the_roles_are_those_of_the_checks_less_the_one_that_is_computed() -> None:
    assert set(Policy.ROLES) == set(typing.get_args(Role)) - {"sample_digest"}


def test_a_policy_cannot_be_changed() -> None:
    policy = parse(FULL)

    with pytest.raises(ValueError, match="frozen"):
        policy.verdict.max_quarantined_fraction = 1.0  # type: ignore[misc] # the point


def test_a_policy_made_in_python_is_held_to_the_same_rules() -> None:
    policy = parse(FULL)

    with pytest.raises(ValueError, match="already the name"):
        Policy.model_validate({**policy.to_document(), "sources": (policy.sources[0], policy.sources[0])})
    assert Policy.model_validate(policy) is policy


def test_text_that_yaml_takes_for_something_else_stays_text() -> None:
    text = (
        text_of(FULL).replace("label: label", "label: no").replace("- '0'\n  - '1'", "- 0755\n  - on\n  - 2026-01-01")
    )

    policy = parse_policy(text, origin="p.yaml")

    assert policy.roles()["label"] == "no"
    assert policy.dataset.classes == ("0755", "on", "2026-01-01")


# Properties.

FRACTIONS = st.floats(0, 1) | st.sampled_from([0, 1])
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=12)
SOURCES = st.one_of(
    st.fixed_dictionaries({"unsigned": st.just("accept_as_unknown")}),
    st.fixed_dictionaries(
        {
            "signed_by": st.lists(
                st.fixed_dictionaries({"issuer": st.just("https://i.example"), "identity": TEXTS}),
                min_size=1,
                max_size=3,
            )
        },
        optional={"manifest": NAMES, "bundle": NAMES},
    ),
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    sources = [{"name": name, "path": f"{number}/**", **draw(SOURCES)} for number, name in enumerate(names)]
    document = minimal()
    document["sources"] = sources
    document["dataset"] |= draw(
        st.fixed_dictionaries(
            {"max_malformed_fraction": FRACTIONS},
            optional={
                "classes": st.lists(TEXTS, min_size=2, max_size=4, unique=True),
                "schema": st.just("schema.json"),
                "images": st.dictionaries(
                    TEXTS,
                    st.fixed_dictionaries(
                        {
                            "shape": st.lists(st.integers(1, 4096), min_size=2, max_size=2),
                            "max_value": st.floats(0.5, 255),
                        }
                    ),
                    max_size=2,
                ),
            },
        )
    )
    document["checks"][0] |= draw(
        st.fixed_dictionaries(
            {"max_flagged_fraction": FRACTIONS},
            optional={"over_limit": st.sampled_from(["reject", "warn"]), "on_flagged": st.just("report")},
        )
    )
    document["verdict"] = draw(st.fixed_dictionaries(dict.fromkeys(FULL["verdict"], FRACTIONS)))
    document["limits"] = draw(
        st.fixed_dictionaries(
            {}, optional={"max_file_bytes": st.integers(1, 2**53 - 1), "max_decoded_ratio": st.floats(1, 1e9)}
        )
    )
    if any("signed_by" in source for source in sources):
        document["trust"] = dict(FULL["trust"])
    return document


@settings(max_examples=60, deadline=None)
@given(documents())
def test_a_policy_comes_back_from_its_document_and_from_yaml(document: dict[str, Any]) -> None:
    """Rule 4: a validated policy has one canonical JSON form, whatever the YAML looked like."""
    policy = parse(document)

    again = parse(policy.to_document())

    assert again == policy
    assert policy_digest(again, {}) == policy_digest(policy, {})


@settings(max_examples=60, deadline=None)
@given(documents(), st.data())
def test_a_key_that_is_not_known_is_refused_wherever_it_stands(document: dict[str, Any], data: st.DataObject) -> None:
    """Rule 2: unknown keys are refused."""
    closed = [
        place for place in places(document) if isinstance(at(document, place), dict) and place[-1:] != ("images",)
    ]
    place = data.draw(st.sampled_from(closed))
    at(document, place)["zz_unknown"] = "x"

    faults = faults_of(document)

    line = next(number for number, line in enumerate(text_of(document).splitlines(), 1) if "zz_unknown" in line)
    assert [(fault.key, fault.line) for fault in faults] == [(dotted((*place, "zz_unknown")), line)]


@pytest.mark.parametrize(
    "place", [p for p in places(FULL) if isinstance(at(FULL, p), dict) and p[-1:] not in {("images",), ("config",)}]
)
def test_every_section_is_closed(place: tuple[str | int, ...]) -> None:
    document = full()
    at(document, place)["zz_unknown"] = 1

    assert [fault.key for fault in faults_of(document)] == [dotted((*place, "zz_unknown"))]


def test_a_misspelt_key_is_answered_with_the_right_one() -> None:
    document = full()
    document["verdict"]["max_quarantine_fraction"] = document["verdict"].pop("max_quarantined_fraction")

    messages = {fault.key: fault.message for fault in faults_of(document)}

    assert messages["verdict.max_quarantine_fraction"] == "unknown key; did you mean max_quarantined_fraction?"
    assert messages["verdict.max_quarantined_fraction"] == "the key is required"


@pytest.mark.parametrize("place", REQUIRED)
def test_a_required_key_that_is_missing_is_refused_at_its_section(place: tuple[str | int, ...]) -> None:
    document = full()
    del at(document, place[:-1])[place[-1]]
    text = text_of(document)

    faults = faults_in(text)

    line = key_line(text, place[:-1]) if len(place) > 1 else 1
    assert (dotted(place), line) in {(fault.key, fault.line) for fault in faults}


@pytest.mark.parametrize("place", [place for place in places(FULL) if place and place[-1] != "config"])
def test_a_key_without_a_value_is_refused(place: tuple[str | int, ...]) -> None:
    """An editing slip such as `expectations:` must not switch a part of the gate off."""
    document = full()
    at(document, place[:-1])[place[-1]] = None
    text = text_of(document)

    faults = faults_in(text)

    assert (dotted(place), key_line(text, place)) in {(fault.key, fault.line) for fault in faults}


@pytest.mark.parametrize(
    "place",
    [
        p
        for p in places(FULL)
        if p and not isinstance(at(FULL, p), str) and p[-1] != "config" and p[:2] != ("dataset", "classes")
    ]
    + [("sources", 0, "unsigned"), ("checks", 0, "over_limit"), ("checks", 0, "on_flagged"), ("checks", 0, "config")],
)
def test_a_value_of_another_kind_is_refused_where_it_stands(place: tuple[str | int, ...]) -> None:
    document = full()
    at(document, place[:-1])[place[-1]] = "zz wrong"
    text = text_of(document)

    faults = faults_in(text)

    line = next(number for number, line in enumerate(text.splitlines(), 1) if "zz wrong" in line)
    assert (dotted(place), line) in {(fault.key, fault.line) for fault in faults}


@pytest.mark.parametrize("place", [place for place in places(FULL) if isinstance(at(FULL, place), str)])
def test_text_with_a_control_character_is_refused_where_it_stands(place: tuple[str | int, ...]) -> None:
    document = full()
    at(document, place[:-1])[place[-1]] += "\u202e"

    assert dotted(place) in {fault.key for fault in faults_of(document)}


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("dataset", "classes", 0), "a\u2028b", "U+2028 is refused"),
        (("sources", 0, "manifest"), "a\\m.json", "got a backslash"),
        (("sources", 0, "manifest"), "/m.json", "relative to the data set's root"),
        (("version",), 2, "expected 1, got 2"),
        (("version",), True, "expected a number"),
        (("version",), 1.0, "expected a whole number"),
        (("dataset", "name"), "Digits", "expected text like"),
        (("dataset", "name"), "", "expected text like"),
        (("dataset", "classes"), ["a"], "at least 2, got 1"),
        (("dataset", "classes", 1), "0", "stands here again"),
        (("dataset", "schema"), "/etc/schema.json", "relative to the policy file"),
        (("dataset", "columns", "embedding_external"), "embedding", "already has the role embedding_self"),
        (("dataset", "max_malformed_fraction"), 5, "from 0 to 1 (not percent), got 5"),
        (("dataset", "max_malformed_fraction"), -0.1, "from 0 to 1"),
        (("dataset", "max_malformed_fraction"), True, "expected a number"),
        (("dataset", "max_malformed_fraction"), float("nan"), "expected a number"),
        (("dataset", "max_malformed_fraction"), float("inf"), "expected a number"),
        (("dataset", "max_malformed_fraction"), [0.1], "expected a number, got a list"),
        (("dataset", "images", "pixels", "shape"), [8], "at least 2, got 1"),
        (("dataset", "images", "pixels", "shape"), [8, 8, 3, 1], "at most 3"),
        (("dataset", "images", "pixels", "shape", 0), 5000, "at most 4096"),
        (("dataset", "images", "pixels", "shape", 0), 0, "above 0"),
        (("dataset", "images", "pixels", "max_value"), 0, "above 0"),
        (("trust", "trusted_root_sha256"), "A" * 64, "expected text like"),
        (("sources",), [], "at least 1, got 0"),
        (("sources",), {}, "expected a list, got a mapping"),
        (("sources", 0), "x", "expected a mapping of keys"),
        (("sources", 1, "name"), "lab-a", "already the name of sources[0]"),
        (("sources", 2, "path"), "lab-a/**", "already the path of sources[0]"),
        (("sources", 0, "path"), "../x", "without empty, . or .. segments"),
        (("sources", 0, "path"), "a[0]", "have no meaning here"),
        (("sources", 0, "manifest"), "../m.json", ".. are refused"),
        (("sources", 0, "signed_by"), [], "at least 1, got 0"),
        (("sources", 0, "signed_by", "issuer"), "http://issuer.example", "expected text like"),
        (("sources", 1, "signed_by", 1, "identity_pattern"), "**", "an identity is a URI or an email address"),
        (("sources", 1, "signed_by", 1, "identity_pattern"), "lab@b.example", "it has no *"),
        (("sources", 0, "signed_by", "identity_pattern"), "x", "not both"),
        (("sources", 2, "unsigned"), "accept", "expected 'accept_as_unknown'"),
        (("sources", 2, "manifest"), "m.json", "only a signed source has one"),
        (("sources", 0, "unsigned"), "accept_as_unknown", "not both"),
        (("checks",), [], "at least 1, got 0"),
        (("checks", 0, "check"), "robust_spectrum", "robust_spectrum"),
        (("checks", 0, "over_limit"), "ignore", "expected 'reject' or 'warn'"),
        (("checks", 0, "config"), [], "expected a mapping"),
        (("ledger", "origin"), "example.org/training data", "expected text like"),
        (("ledger", "origin"), "example.org+x", "expected text like"),
        (("ledger", "origin"), "x" * 300, "at most 256 characters"),
        (("limits", "max_file_bytes"), 0, "above 0"),
        (("limits", "max_file_bytes"), 1.5, "whole number"),
        (("limits", "max_file_bytes"), 2**53, "up to"),
    ],
)
def test_a_wrong_value_is_named_in_words(place: tuple[str | int, ...], value: object, words: str) -> None:
    document = full()
    at(document, place[:-1])[place[-1]] = value

    found = [(fault.key, fault.message) for fault in faults_of(document)]

    assert any(dotted(place).startswith(key) and words in message for key, message in found), found


def test_a_third_channel_count_is_bounded() -> None:
    document = full()
    document["dataset"]["images"]["pixels"]["shape"] = [8, 8, 2]

    assert [fault.key for fault in faults_of(document)] == ["dataset.images.pixels.shape[2]"]


def test_a_source_must_say_who_vouches_for_it() -> None:
    document = full()
    del document["sources"][2]["unsigned"]
    text = text_of(document)

    fault = faults_in(text)[0]

    assert (fault.key, fault.line) == ("sources[2]", key_line(text, ("sources", 2)))
    assert fault.message == "give signed_by or unsigned; neither is there"


def test_a_trusted_root_that_nothing_uses_is_refused() -> None:
    document = {**minimal(), "trust": FULL["trust"]}

    assert [fault.key for fault in faults_of(document)] == ["trust"]


def test_two_checks_of_one_name_are_refused_and_one_with_its_own_is_not() -> None:
    document = full()
    document["checks"].append({"check": "robust_spectral", "max_flagged_fraction": 0.5})

    assert [fault.key for fault in faults_of(document)] == ["checks[1].check"]
    document["checks"][1]["as"] = "again"
    assert [rule.name for rule in parse_policy(text_of(document), origin="p").checks] == ["robust_spectral", "again"]


def test_a_check_whose_columns_have_no_name_is_refused() -> None:
    document = full()
    del document["dataset"]["columns"]["embedding_self"]

    fault = faults_of(document)[0]

    assert fault.key == "checks[0].check"
    assert "dataset.columns.embedding_self" in fault.message


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("{zz_unknown: 1}", "checks[0].config.zz_unknown"),
        ("{a: yes}", "checks[0].config.a"),
        ("{a: {b: [1, .inf]}}", "checks[0].config.a.b[1]"),
        ("{a: 9007199254740992}", "checks[0].config.a"),
        ('{a: "\\ud800"}', "checks[0].config.a"),
    ],
)
def test_faults_of_a_check_s_own_configuration_are_faults_of_the_policy(config: str, key: str) -> None:
    faults = faults_in(text_of(FULL).replace("config: {}", f"config: {config}"))

    assert any(fault.key.startswith(key) for fault in faults), faults


def test_every_wrong_field_of_a_check_is_named_at_its_line() -> None:
    text = text_of(FULL).replace("config: {}", "config:\n      zz_one: 1\n      zz_two: 2")

    faults = faults_in(text)

    assert [fault.key for fault in faults] == ["checks[0].config.zz_one", "checks[0].config.zz_two"]
    assert faults[1].line == faults[0].line + 1
    assert "no such field" in faults[0].message


def test_a_rule_between_fields_of_a_check_is_a_fault_of_its_config() -> None:
    document = minimal()
    document["checks"] = [{"check": "label_noise", "max_flagged_fraction": 0.1, "config": {"folds": 1}}]
    document["dataset"]["columns"]["embedding_external"] = "clip"

    (fault,) = faults_of(document)

    assert fault.key == "checks[0].config"
    assert "label_noise" in fault.message


def test_all_faults_come_at_once_in_the_order_of_the_file() -> None:
    document = full()
    document["dataset"]["name"] = "Digits"
    document["sources"][0]["name"] = "lab-b"
    document["sources"][2]["zz"] = 1
    document["checks"][0]["max_flagged_fraction"] = 7
    document["ledger"]["origin"] = "a b"
    text = text_of(document).replace("version: 1", "version: 1\nversion: 1")

    with pytest.raises(PolicyError) as caught:
        parse_policy(text, origin="p.yaml")

    faults = typing.cast("tuple[PolicyFault, ...]", caught.value.faults)
    assert [fault.key for fault in faults] == [
        "version",
        "dataset.name",
        "sources[1].name",
        "sources[2].zz",
        "checks[0].max_flagged_fraction",
        "ledger.origin",
    ]
    assert all(str(fault) in caught.value.message for fault in faults)
    assert caught.value.exit_code == 2


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_document_makes_anything_but_a_policy_error(data: st.DataObject) -> None:
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=4,
    )
    document = full()
    place = data.draw(st.sampled_from([place for place in places(document) if place]))
    at(document, place[:-1])[place[-1]] = data.draw(junk)

    with contextlib.suppress(PolicyError):
        assert parse(document) == parse(document)


# Which rule speaks for a file.


def test_a_file_belongs_to_the_one_rule_that_matches() -> None:
    assert parse(FULL).source_of("lab-a/x/y.parquet").name == "lab-a"


def test_a_file_that_no_rule_or_several_rules_match_is_refused() -> None:
    document = full()
    document["sources"].append({"name": "csv", "path": "**/*.csv", "unsigned": "accept_as_unknown"})
    policy = parse(document)

    with pytest.raises(UntrustedSourceError, match="no rule of the policy matches"):
        policy.source_of("other/x.parquet")
    with pytest.raises(UntrustedSourceError, match="scraped, csv all match"):
        policy.source_of("scraped/x.csv")


# Files and the digest.


def test_loading_reads_every_named_file_once(home: Path) -> None:
    loaded = load_policy(home / "policy.yaml")

    assert isinstance(loaded, LoadedPolicy)
    assert loaded.base_dir == home
    assert loaded.files == {
        "dataset.schema": SCHEMA,
        "expectations.suite": SUITE,
        "trust.trusted_root": TRUSTED_ROOT,
    }
    assert loaded.digest == policy_digest(loaded.policy, loaded.files)


def test_the_digest_is_fixed() -> None:
    """Digests stand in ledgers and certificates: another value for the same policy breaks them all."""
    document = minimal() | {"checks": [{"check": "robust_spectral", "max_flagged_fraction": 0.05}]}

    assert policy_digest(parse(document), {}) == "a4ceb3d025cde0d315f0c731408a62afdac2a604f2d6f5801f6be69a36cf214f"


def test_spelling_comments_and_order_do_not_change_the_digest(home: Path) -> None:
    digest = load_policy(home / "policy.yaml").digest
    turned = dict(reversed(FULL.items()))
    text = "# a comment\n" + json.dumps(turned, indent=1).replace("0.05", "5e-2").replace(
        '"max_value": 16', '"max_value": 16.0'
    )
    (home / "policy.yaml").write_text(text)

    assert load_policy(home / "policy.yaml").digest == digest


@pytest.mark.parametrize("name", ["suite.json", "schema.json"])
def test_one_byte_of_a_named_file_changes_the_digest(home: Path, name: str) -> None:
    digest = load_policy(home / "policy.yaml").digest
    (home / name).write_bytes((home / name).read_bytes() + b" ")

    assert load_policy(home / "policy.yaml").digest != digest


CHANGES: list[tuple[tuple[str | int, ...], object]] = [
    (("dataset", "name"), "digits2"),
    (("dataset", "columns", "label"), "target"),
    (("dataset", "classes"), ["1", "0"]),
    (("dataset", "max_malformed_fraction"), 1e-9),
    (("sources", 0, "path"), "lab-c/**"),
    (("sources", 0, "signed_by", "identity"), "x"),
    (("expectations", "on_failure"), "reject"),
    (("checks", 0, "max_flagged_fraction"), 0.06),
    (("checks", 0, "over_limit"), "warn"),
    (("verdict", "max_unknown_provenance_fraction"), 1),
    (("ledger", "origin"), "example.org/other"),
    (("limits", "max_file_bytes"), 1001),
]


@pytest.mark.parametrize(("place", "value"), CHANGES)
def test_every_decision_of_the_policy_is_in_the_digest(place: tuple[str | int, ...], value: object) -> None:
    document = full()
    at(document, place[:-1])[place[-1]] = value

    assert policy_digest(parse(document), {}) != policy_digest(parse(FULL), {})


def test_a_trusted_root_with_another_digest_is_refused_at_the_pin(home: Path) -> None:
    (home / "trusted_root.json").write_bytes(b"{}")

    with pytest.raises(PolicyError) as caught:
        load_policy(home / "policy.yaml")

    (fault,) = typing.cast("tuple[PolicyFault, ...]", caught.value.faults)
    assert fault.key == "trust.trusted_root_sha256"
    assert fault.line == key_line(text_of(FULL), ("trust", "trusted_root_sha256"))
    assert hashlib.sha256(b"{}").hexdigest() in fault.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        (b"no json", "expected a JSON object"),
        (b"[]", "expected a JSON object"),
        (b"\xff", "expected a JSON object"),
        (b"[" * 100_000, "expected a JSON object"),
        (b" " * (MAX_NAMED_FILE_BYTES + 1), "more than"),
    ],
    ids=["missing", "text", "list", "no-utf8", "deep", "big"],
)
def test_a_named_file_that_cannot_be_used_is_a_fault_of_its_line(home: Path, content: bytes | None, words: str) -> None:
    if content is None:
        (home / "suite.json").unlink()
    else:
        (home / "suite.json").write_bytes(content)

    with pytest.raises(PolicyError) as caught:
        load_policy(home / "policy.yaml")

    (fault,) = typing.cast("tuple[PolicyFault, ...]", caught.value.faults)
    assert (fault.key, fault.line) == ("expectations.suite", key_line(text_of(FULL), ("expectations", "suite")))
    assert words in fault.message


def test_a_named_file_is_a_regular_file(home: Path) -> None:
    (home / "suite.json").unlink()
    os.mkfifo(home / "suite.json")

    with pytest.raises(PolicyError, match="there is no file"):
        load_policy(home / "policy.yaml")


def test_faults_of_named_files_come_with_all_others(home: Path) -> None:
    (home / "suite.json").unlink()
    document = full()
    document["dataset"]["name"] = "Digits"
    (home / "policy.yaml").write_text(text_of(document))

    with pytest.raises(PolicyError) as caught:
        load_policy(home / "policy.yaml")

    faults = typing.cast("tuple[PolicyFault, ...]", caught.value.faults)
    assert [fault.key for fault in faults] == ["dataset.name", "expectations.suite"]


def test_a_named_file_is_found_from_the_policy_s_own_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)

    loaded = load_policy(Path(home.name) / "policy.yaml")

    assert loaded.base_dir == home


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "folder"])
def test_a_policy_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "policy.yaml")

    with pytest.raises(UsageError, match="Cannot read the policy file"):
        load_policy(tmp_path / "policy.yaml")


def test_bytes_that_are_no_text_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_bytes(b"version: 1\nab\xff")

    with pytest.raises(PolicyError) as caught:
        load_policy(tmp_path / "policy.yaml")

    (fault,) = typing.cast("tuple[PolicyFault, ...]", caught.value.faults)
    assert (fault.line, fault.column, fault.message) == (2, 3, "expected UTF-8 text")


def test_a_huge_policy_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_bytes(b"#" * (3 << 20))

    with pytest.raises(PolicyError, match="expected at most"):
        load_policy(tmp_path / "policy.yaml")


# Sources: who signs, and what else is asked.

KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAExRRST79+PsrRBnGAI4cMu6Omz2Jh"
    "fwlMW+gIutNKVRaMyS4rQKvgngc5p8UbLj55pVHhIoAxi/SRgURZI0J3Xw=="
)
ASKING = {
    "name": "asking",
    "path": "asking/**",
    "form": "croissant",
    "signed_by": {"issuer": "https://issuer.example", "identity": "a@example.org"},
    "tier": "high",
    "expires": "2027-01-31",
    "min_age_days": 3,
    "licenses": ["CC-BY-4.0"],
    "attestations": [
        {
            "type": "slsa_verification_summary",
            "bundle": "asking/vsa.sigstore.json",
            "signed_by": {"issuer": "https://issuer.example", "identity": "b@example.org"},
            "verifier": "https://verifier.example",
            "levels": ["L1"],
        },
    ],
}


def with_source(**changes: Any) -> dict[str, Any]:
    document = full()
    given = {**copy.deepcopy(ASKING), **changes}
    document["sources"].append({key: value for key, value in given.items() if value is not None})
    return document


def test_a_source_that_asks_for_more_becomes_the_rule_that_the_gate_acts_on() -> None:
    rule = parse(with_source()).sources[-1].to_trust_rule(datetime(2026, 3, 4, tzinfo=UTC))

    assert (rule.form, rule.tier, rule.expires, rule.licenses) == (
        "croissant",
        "high",
        date(2027, 1, 31),
        ("CC-BY-4.0",),
    )
    assert rule.signed_before == datetime(2026, 3, 1, tzinfo=UTC)
    assert rule.manifest_path == "asking/croissant.json"
    (wanted,) = rule.attestations
    assert (wanted.predicate_type, wanted.bundle) == (
        "https://slsa.dev/verification_summary/v1",
        "asking/vsa.sigstore.json",
    )
    assert (wanted.verifier, wanted.levels) == ("https://verifier.example", ("L1",))


@pytest.mark.parametrize(
    ("signer", "words"),
    [
        ({"key": KEY}, "key:sha256:4cb32c48"),
        ({"key": KEY, "unlogged": "accept"}, "logged or not"),
        ({"issuer": "https://i.example", "identity": "a@b.example"}, "a@b.example (vouched for by https://i.example)"),
    ],
)
def test_each_way_to_name_a_signer_is_one_of_the_gates_and_is_explained(signer: dict[str, str], words: str) -> None:
    policy = parse(with_source(signed_by=signer, tier=None))
    rule = policy.sources[-1].to_trust_rule(datetime(2026, 3, 4, tzinfo=UTC))

    assert rule.signed_by is not None
    assert words in explain_file(policy, "asking/a.csv").why
    assert rule.needs_trust_root


def test_an_explanation_of_a_file_says_what_is_asked_of_it() -> None:
    why = explain_file(parse(with_source()), "asking/a.csv").why

    for words in ("a Croissant file", "2027-01-31", "3 days", "CC-BY-4.0", "with L1", "asking/vsa.sigstore.json"):
        assert words in why
    kinds = {
        "asking/croissant.json": "Croissant file",
        "asking/croissant.json.sigstore.json": "bundle",
        "asking/vsa.sigstore.json": "attestation",
    }
    for path, kind in kinds.items():
        assert explain_file(parse(with_source()), path).why == f"it is the {kind} of asking"


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"expires": "2027-02-30"}, "expires", "expected a day"),
        ({"expires": "soon"}, "expires", "expected a day"),
        ({"min_age_days": 0}, "min_age_days", "above 0"),
        ({"licenses": []}, "licenses", "at least 1"),
        ({"licenses": ["MIT OR X"]}, "licenses[0]", "SPDX identifier"),
        ({"form": "manifest"}, "licenses", "only a source of form croissant"),
        ({"form": "zip"}, "form", "expected 'manifest'"),
        ({"form": "model_signing", "licenses": None, "manifest": "asking/m"}, "manifest", "list and bundle in one"),
        ({"attestations": []}, "attestations", "at least 1"),
        (
            {"signed_by": {"issuer": "https://i.example", "identity_pattern": "*@b.example"}},
            "identity_pattern",
            "tier high",
        ),
        ({"signed_by": {"key": KEY, "unlogged": "accept"}}, "unlogged", "tier high"),
        ({"signed_by": {"key": KEY, "issuer": "https://i.example"}}, "issuer", "not both"),
        ({"signed_by": {"key": "AAAA"}}, "key", "no public key"),
        ({"signed_by": {"key": KEY + "\n"}}, "key", "refused in text"),
        ({"signed_by": {"authorities": ["AAAA"], "subject": "CN=x"}, "tier": None}, "authorities[0]", "a certificate"),
        ({"signed_by": {"authorities": [KEY]}, "tier": None}, "subject", "required"),
        (
            {"signed_by": {"issuer": "https://i.example", "identity": "a@b.c", "unlogged": "accept"}},
            "unlogged",
            "a key",
        ),
        ({"signed_by": {"issuer": "https://i.example", "identity": "a@b.c", "subject": "CN=x"}}, "subject", "none"),
        ({"signed_by": None, "unsigned": "accept_as_unknown", "tier": "high"}, "unsigned", "never unsigned"),
        ({"signed_by": None, "unsigned": "accept_as_unknown"}, "attestations", "only a signed source"),
    ],
)
def test_a_demand_that_cannot_be_met_or_read_is_named_at_its_key(
    changes: dict[str, Any], place: str, words: str
) -> None:
    found = [(fault.key, fault.message) for fault in faults_of(with_source(**changes))]

    assert any(key.startswith("sources[3]") and place in key and words in message for key, message in found), found


@pytest.mark.parametrize("key", ["builder", "verifier", "levels"])
def test_an_attestation_is_not_asked_for_what_its_type_does_not_have(key: str) -> None:
    document = with_source()
    document["sources"][-1]["attestations"][0] = {
        **{name: value for name, value in ASKING["attestations"][0].items() if name not in {"verifier", "levels"}},  # type: ignore[index] # a list of mappings
        "type": "https://own.example/v1",
        key: ["L1"] if key == "levels" else "x",
    }

    assert any(fault.key.endswith(key) and "only slsa" in fault.message for fault in faults_of(document))


def test_a_policy_of_unlogged_signatures_alone_needs_no_trusted_root() -> None:
    document = full()
    del document["trust"]
    document["sources"] = [{"name": "lab", "path": "**", "signed_by": {"key": KEY, "unlogged": "accept"}}]
    assert parse(document).trust is None
    document["sources"][0]["signed_by"] = {"key": KEY}
    assert any(fault.key == "trust" for fault in faults_of(document))


# The page.

PAGE = Path(__file__).parents[1] / "docs" / "policy.md"


def test_the_example_of_the_page_is_a_policy() -> None:
    example, checks, roles = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    columns = {"label": "label", "embedding_external": "clip", "features": "pixels"}
    document = minimal() | yaml.safe_load(checks)
    document["dataset"]["columns"] = columns
    named = parse_policy(text_of(document), origin="page").checks
    assert [rule.name for rule in named] == ["source_shift", "pixels"]
    assert parse_policy(example + roles, origin="page").responsibilities is not None

    assert parse_policy(example, origin="docs/policy.md").dataset.name == "digits"


def test_the_page_names_every_key() -> None:
    page = PAGE.read_text()

    def keys(schema: dict[str, Any]) -> Iterator[str]:
        for section in (schema, *schema["$defs"].values()):
            yield from section.get("properties", {})

    assert [key for key in keys(Policy.model_json_schema(by_alias=True)) if f"{key}`" not in page] == []
