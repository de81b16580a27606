"""Witnesses in a policy: each fault at its place, and what the gate makes of them."""

import base64
import copy
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.checks.registry import get_check
from millcert.errors import PolicyError
from millcert.policy import Policy, parse_policy
from millcert.policy_explain import explain_policy
from millcert.provenance.cosignature import format_witness_vkey, witness_key_of

ONE = format_witness_vkey(witness_key_of("w.example/1", Ed25519PrivateKey.from_private_bytes(b"1" * 32)))
TWO = format_witness_vkey(witness_key_of("w.example/2", Ed25519PrivateKey.from_private_bytes(b"2" * 32)))
OTHER = format_witness_vkey(witness_key_of("w.example/1", Ed25519PrivateKey.from_private_bytes(b"3" * 32)))
SAME = format_witness_vkey(witness_key_of("w.example/9", Ed25519PrivateKey.from_private_bytes(b"1" * 32)))
LOG_KEY = "w+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode()

POLICY: dict[str, Any] = {
    "version": 1,
    "dataset": {
        "name": "small",
        "columns": {"label": "label", "embedding_external": "e"},
        "max_malformed_fraction": 0.0,
    },
    "sources": [{"name": "all", "path": "**", "unsigned": "accept_as_unknown"}],
    "checks": [{"check": "label_noise", "max_flagged_fraction": 0.1}],
    "verdict": {"max_quarantined_fraction": 0.1, "max_unknown_provenance_fraction": 1.0},
    "ledger": {
        "origin": "example.com/l",
        "witnesses": [{"url": "https://w.example/1", "vkeys": [ONE]}, {"url": "https://w.example/2", "vkeys": [TWO]}],
        "witnesses_required": 2,
    },
}


def parsed(ledger: dict[str, Any]) -> Policy:
    policy = copy.deepcopy(POLICY)
    policy["ledger"] = ledger
    return parse_policy(yaml.safe_dump(policy), origin="policy.yaml")


def test_the_witnesses_of_a_policy_are_whom_the_gate_asks() -> None:
    ledger = {**POLICY["ledger"], "witnesses": [{"url": "http://127.0.0.1:1/", "vkeys": [ONE, OTHER]}]}
    witnessing = parsed({**ledger, "witnesses_required": 1}).ledger.witnessing()

    assert witnessing is not None
    assert (witnessing.required, [site.name for site in witnessing.sites]) == (1, ["w.example/1"])
    assert len(witnessing.rule.keys) == 2
    assert parsed({"origin": "example.com/l"}).ledger.witnessing() is None


def test_what_the_policy_asks_of_witnesses_is_told_in_words() -> None:
    checks = {0: get_check("label_noise", {})}
    told = " ".join(str(paragraph) for paragraph in explain_policy(parsed(POLICY["ledger"]), checks))

    assert "2 of these witnesses cosigned the ledger: w.example/1, w.example/2" in told


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"witnesses_required": 3}, "ledger.witnesses_required", "3 witnesses are required, and 2 are known"),
        ({"witnesses_required": 0}, "ledger.witnesses_required", "above 0"),
        ({"witnesses_required": 1.5}, "ledger.witnesses_required", "whole number"),
        ({"witnesses_required": None}, "ledger.witnesses_required", "no value"),
        ({"witnesses": []}, "ledger.witnesses", "at least 1"),
        ({"witnesses": "w"}, "ledger.witnesses", "a list"),
        ({"witnesses": [{"url": "https://w", "vkeys": []}]}, "ledger.witnesses[0].vkeys", "at least 1"),
        ({"witnesses": [{"url": "https://w", "vkeys": [LOG_KEY]}]}, "ledger.witnesses[0].vkeys[0]", "of type 4 or 6"),
        ({"witnesses": [{"url": "https://w", "vkeys": [ONE[:-4]]}]}, "ledger.witnesses[0].vkeys[0]", "29 bytes"),
        ({"witnesses": [{"url": "ftp://w", "vkeys": [ONE]}]}, "ledger.witnesses[0].url", "http or https"),
        ({"witnesses": [{"url": "https://w", "vkeys": [ONE, TWO]}]}, "ledger.witnesses[0].vkeys", "bear one name"),
        ({"witnesses": [{"vkeys": [ONE]}]}, "ledger.witnesses[0].url", "required"),
        ({"witnesses": [{"url": "https://w", "vkeys": [ONE], "key": 1}]}, "ledger.witnesses[0].key", "unknown key"),
        (
            {"witnesses": [{"url": "https://w", "vkeys": [ONE]}, {"url": "https://v", "vkeys": [SAME]}]},
            "ledger.witnesses_required",
            "there twice",
        ),
        (
            {"witnesses": [{"url": "https://w", "vkeys": [ONE]}, {"url": "https://v", "vkeys": [OTHER]}]},
            "ledger.witnesses_required",
            "2 witnesses are required, and 1 are known",
        ),
    ],
)
def test_a_fault_of_the_witnesses_is_told_at_its_place(change: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parsed({**POLICY["ledger"], **change})

    faults: Any = caught.value.faults
    assert any(fault.key == key and message in fault.message for fault in faults), faults


@pytest.mark.parametrize("key", ["witnesses", "witnesses_required"])
def test_witnesses_and_their_number_come_together(key: str) -> None:
    ledger = {name: value for name, value in POLICY["ledger"].items() if name != key}

    with pytest.raises(PolicyError, match=f"{key}.*is required because"):
        parsed(ledger)
