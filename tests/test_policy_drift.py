"""The sections `profile` and `drift` of a policy: what they may say, and what they do in words."""

import pytest

from millcert.errors import PolicyError
from millcert.policy import parse_policy
from millcert.policy_drift_words import explain_drift, explain_fields

BASE = """
version: 1
dataset: {name: d, columns: {label: y, embedding_external: x}, max_malformed_fraction: 0}
sources: [{name: a, path: "**", unsigned: accept_as_unknown}]
checks: [{check: label_noise, max_flagged_fraction: 0.1}]
verdict: {max_quarantined_fraction: 0.1, max_unknown_provenance_fraction: 1}
ledger: {origin: example.org/ledger}
"""


def words(sections: str) -> str:
    return " ".join(explain_drift(parse_policy(BASE + sections, origin="p")))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ("", "compares it with nothing"),
        ("profile: {hash_key: k}", "It is compared with nothing."),
        ("profile: {hash_key: k, texts: leave_out}", "without the values"),
        ("profile: {hash_key: k, tokens: [text]}", "Tokens of text are counted against the label, as hashes."),
        ("profile: {hash_key: k}\ndrift: {reference: last_admitted}", "The first version, which has nothing before it"),
        ("profile: {hash_key: k}\ndrift: {reference: r.json, on_drift: warn}", "compared with r.json."),
        (
            "profile: {hash_key: k}\ndrift: {reference: r.json, ignore: [id, row]}",
            "These columns are not compared: id, row.",
        ),
        ("profile: {hash_key: k}\ndrift: {reference: r.json, on_source_change: warn}", "silent is reported"),
        (
            "profile: {hash_key: k}\ndrift: {reference: last_admitted, versions: 12, on_gradual: reject}",
            "followed over the last 12 admitted versions; a change little by little rejects",
        ),
    ],
)
def test_the_explanation_says_what_the_gate_will_do(sections: str, expected: str) -> None:
    assert expected in words(sections)


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ("drift: {reference: r.json}", "required because drift compares profiles"),
        ("profile: {hash_key: /k}", "relative to the policy file"),
        ("profile: {hash_key: k, texts: some}", "keep"),
        ("profile: {hash_key: k, tokens: []}", "at least 1"),
        ("profile: {hash_key: k}\ndrift: {reference: r, limits: {cramers_v: 0}}", "expected a number above 0"),
        ("profile: {hash_key: k}\ndrift: {reference: r, limits: {family_alpha: 1}}", "expected less than 1"),
        ("profile: {hash_key: k}\ndrift: {reference: r, limits: {psi: 0.1}}", "unknown key"),
        ("profile: {hash_key: k}\ndrift: {reference: r, ignore: []}", "at least 1"),
        ("profile: {hash_key: k}\ndrift: {reference: r, on_drift: pass}", "reject"),
        ("profile: {hash_key: k}\ndrift: {reference: r, versions: 1}", "expected 2 to 60"),
        ("profile: {hash_key: k}\ndrift: {reference: r, versions: 61}", "expected 2 to 60"),
        ("profile: {hash_key: k}\ndrift: {reference: r, on_gradual: reject}", "it needs `versions`"),
    ],
)
def test_what_the_sections_may_not_say_is_refused(sections: str, fault: str) -> None:
    with pytest.raises(PolicyError, match=fault):
        parse_policy(BASE + sections, origin="p")


def test_a_limit_that_is_no_number_is_one_fault() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(BASE + "profile: {hash_key: k}\ndrift: {reference: r, limits: {family_alpha: some}}", origin="p")

    assert "1 fault" in caught.value.message


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ("", "every column may be used"),
        ("fields: {columns: {x: to learn from, y: the class}}", "y: the class. Data with any other column is refused"),
        ("fields: {unlisted: drop, columns: {x: a, y: b}}", "Any other column is dropped"),
    ],
)
def test_the_explanation_says_which_columns_may_be_used(sections: str, expected: str) -> None:
    assert expected in " ".join(explain_fields(parse_policy(BASE + sections, origin="p")))
