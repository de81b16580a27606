"""Attestations of others: about the very thing, of the right type, by the right signer, or refused."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from millcert.errors import PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.attestation import (
    PROVENANCE_PREDICATE_TYPE,
    Attestation,
    AttestationRule,
    check_attestation,
    verify_attestation,
)
from millcert.provenance.statement import VSA_PREDICATE_TYPE
from millcert.provenance.trust import SignerRule, load_trust_root
from millcert.testing.sigstore import PrivateSigstore

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
CURATOR = SignerRule("https://accounts.private.test", "curator@data.example")
KIT = PrivateSigstore(now=datetime(2026, 3, 4, tzinfo=UTC))
ROOT = load_trust_root(KIT.trusted_root(), hashlib.sha256(KIT.trusted_root()).hexdigest())
PROVENANCE = {
    "buildDefinition": {"buildType": "https://b.example/v1", "externalParameters": {}, "later": 1},
    "runDetails": {"builder": {"id": "https://builder.example"}},
}
VSA = {
    "verifier": {"id": "https://verifier.example"},
    "timeVerified": "2026-03-04T00:00:00Z",
    "resourceUri": "urn:pets",
    "policy": {"uri": "urn:policy"},
    "verificationResult": "PASSED",
    "verifiedLevels": ["SLSA_BUILD_LEVEL_3"],
}


def statement(predicate_type: str = PROVENANCE_PREDICATE_TYPE, predicate: Any = PROVENANCE, **changes: Any) -> bytes:
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a.csv", "digest": {"sha256": A}}, {"name": "b.csv", "digest": {"sha256": B}}],
        "predicateType": predicate_type,
        "predicate": predicate,
        **changes,
    }
    return json.dumps({key: item for key, item in value.items() if item is not None}).encode()


def attested(payload: bytes, **options: Any) -> Attestation:
    bundle = KIT.sign_dsse(payload, identity=str(CURATOR.identity), issuer=CURATOR.issuer)
    return verify_attestation(bundle, **{"sha256": A, "root": ROOT, "identity": CURATOR, **options})


def test_an_attestation_about_the_file_verifies() -> None:
    found = attested(statement())
    assert [one.name for one in found.subjects] == ["a.csv", "b.csv"]
    assert found.predicate == PROVENANCE
    assert found.signature.identity == CURATOR.identity
    assert attested(statement(), sha256=["0" * 64, B]).predicate_type == PROVENANCE_PREDICATE_TYPE


def test_a_subject_is_found_by_digest_and_where_asked_for_by_its_own_name() -> None:
    assert attested(statement(), name="a.csv").predicate == PROVENANCE
    for options in ({"name": "b.csv"}, {"sha256": "0" * 64}, {"sha256": B, "name": "a.csv"}):
        with pytest.raises(SignatureError) as caught:
            attested(statement(), **options)
        assert caught.value.reason == "subject"


@pytest.mark.parametrize(
    "payload",
    [
        statement(_type=None),
        statement(_type="https://in-toto.io/Statement/v0.1"),
        statement(_type="https://in-toto.io/Statement/v2"),
        statement(subject=[]),
        statement(subject=None),
        statement(subject=["a"]),
        statement(subject=[{"name": "a", "digest": {}}]),
        statement(subject=[{"name": 7, "digest": {"sha256": A}}]),
        statement(subject=[{"name": "a", "digest": {"sha256": A.upper()}}]),
        statement(predicate_type=""),
        statement(predicate=[]),
        b"[]",
        b'{"_type":"a","_type":"b"}',
        b"\xff",
    ],
)
def test_what_is_no_statement_of_version_1_is_refused(payload: bytes) -> None:
    with pytest.raises(SignatureError) as caught:
        attested(payload)
    assert caught.value.reason == "statement"


def test_another_payload_type_and_another_signer_are_refused() -> None:
    bundle = KIT.sign_dsse(
        statement(), identity=str(CURATOR.identity), issuer=CURATOR.issuer, payload_type="application/json"
    )
    with pytest.raises(SignatureError) as caught:
        verify_attestation(bundle, A, root=ROOT, identity=CURATOR)
    assert caught.value.reason == "payload_type"
    with pytest.raises(UntrustedSourceError):
        attested(statement(), identity=SignerRule(CURATOR.issuer, "x@data.example"))


def rule(predicate_type: str, **demands: Any) -> AttestationRule:
    return AttestationRule(predicate_type, "a.sigstore.json", (CURATOR,), **demands)


@pytest.mark.parametrize(
    ("predicate_type", "predicate", "asked"),
    [
        (PROVENANCE_PREDICATE_TYPE, PROVENANCE, rule(PROVENANCE_PREDICATE_TYPE)),
        (PROVENANCE_PREDICATE_TYPE, PROVENANCE, rule(PROVENANCE_PREDICATE_TYPE, builder="https://builder.example")),
        (VSA_PREDICATE_TYPE, VSA, rule(VSA_PREDICATE_TYPE, verifier="https://verifier.example")),
        (VSA_PREDICATE_TYPE, VSA, rule(VSA_PREDICATE_TYPE, levels=("SLSA_BUILD_LEVEL_3",))),
        ("https://own.example/v1", {}, rule("https://own.example/v1")),
    ],
)
def test_what_a_rule_asks_for_is_found(predicate_type: str, predicate: Any, asked: AttestationRule) -> None:
    check_attestation(attested(statement(predicate_type, predicate)), asked)


@pytest.mark.parametrize(
    ("predicate_type", "predicate", "asked", "reason"),
    [
        (VSA_PREDICATE_TYPE, VSA, rule(PROVENANCE_PREDICATE_TYPE), "predicate"),
        (PROVENANCE_PREDICATE_TYPE, {}, rule(PROVENANCE_PREDICATE_TYPE), "predicate"),
        (PROVENANCE_PREDICATE_TYPE, {**PROVENANCE, "runDetails": {}}, rule(PROVENANCE_PREDICATE_TYPE), "predicate"),
        (
            PROVENANCE_PREDICATE_TYPE,
            PROVENANCE,
            rule(PROVENANCE_PREDICATE_TYPE, builder="https://other.example"),
            "attestation",
        ),
        (VSA_PREDICATE_TYPE, {**VSA, "verificationResult": "FAILED"}, rule(VSA_PREDICATE_TYPE), "attestation"),
        (VSA_PREDICATE_TYPE, {**VSA, "verificationResult": ""}, rule(VSA_PREDICATE_TYPE), "predicate"),
        (VSA_PREDICATE_TYPE, {**VSA, "verifiedLevels": "SLSA_BUILD_LEVEL_3"}, rule(VSA_PREDICATE_TYPE), "predicate"),
        (VSA_PREDICATE_TYPE, VSA, rule(VSA_PREDICATE_TYPE, levels=("SLSA_BUILD_LEVEL_4",)), "attestation"),
        (VSA_PREDICATE_TYPE, VSA, rule(VSA_PREDICATE_TYPE, verifier="https://other.example"), "attestation"),
    ],
)
def test_what_a_rule_asks_for_and_does_not_find_is_refused(
    predicate_type: str, predicate: Any, asked: AttestationRule, reason: str
) -> None:
    with pytest.raises((SignatureError, UntrustedSourceError)) as caught:
        check_attestation(attested(statement(predicate_type, predicate)), asked)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "make",
    [
        lambda: AttestationRule("", "a", (CURATOR,)),
        lambda: AttestationRule("https://x.example", "a", ()),
        lambda: rule(VSA_PREDICATE_TYPE, builder="x"),
        lambda: rule(PROVENANCE_PREDICATE_TYPE, verifier="x"),
        lambda: rule(PROVENANCE_PREDICATE_TYPE, levels=("x",)),
    ],
)
def test_a_demand_that_no_attestation_could_meet_is_a_policy_error(make: Any) -> None:
    with pytest.raises(PolicyError):
        make()
