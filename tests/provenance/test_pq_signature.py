"""The post-quantum signature: it verifies, and stripped, altered, by another key or over other bytes it is refused."""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import IntegrityError, PolicyError, SignatureError, UntrustedSourceError, UsageError
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.oms_write import model_statement
from millcert.provenance.pq_signature import (
    MAX_PQ_BYTES,
    PqKey,
    mldsa65,
    parse_base64_pq_key,
    parse_pq_key,
    parse_pq_signature,
    verify_pq,
)
from millcert.provenance.signing_key import LocalKey
from millcert.provenance.source_signing import ByKey, SignedContent, sign_list, sign_model
from millcert.provenance.trust import KeyRule, SourceRule, VerifiedSource, provenance_paths, verify_source

VECTORS = Path(__file__).parents[1] / "vectors" / "0.1.0" / "pq-signature"
KEY, OTHER = PqKey(mldsa.MLDSA65PrivateKey.generate()), PqKey(mldsa.MLDSA65PrivateKey.generate())
CLASSICAL = LocalKey(ec.generate_private_key(ec.SECP256R1()))
A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
FOUND = Manifest("pets", (FileEntry("cat/1.png", 1, A), FileEntry("cat.txt", 1, B)))
LIST = FOUND.to_json()
SIGNED = KEY.sign(LIST)


def edited(**changes: Any) -> bytes:
    return json.dumps({**json.loads(SIGNED), **changes}).encode()


def refused(data: bytes | None, *, content: bytes = LIST) -> str:
    with pytest.raises((SignatureError, UntrustedSourceError)) as caught:
        verify_pq(data, content, (KEY.public,))
    return str(caught.value.reason)


def test_what_one_of_the_pinned_keys_signed_verifies() -> None:
    assert verify_pq(SIGNED, LIST, (OTHER.public, KEY.public)) == KEY.public
    assert verify_pq(SIGNED, LIST, (parse_pq_key(KEY.public.spki),)).sha256 == KEY.public.sha256


def test_each_way_to_take_it_away_or_swap_it_has_its_own_reason() -> None:
    signature = bytearray(base64.b64decode(json.loads(SIGNED)["signature"]))
    signature[100] ^= 1
    flipped = base64.b64encode(bytes(signature)).decode()
    assert refused(None) == "pq_missing"
    assert refused(edited(signature=flipped)) == "pq_signature"
    assert refused(edited(signature="")) == "pq_signature"
    assert refused(OTHER.sign(LIST)) == "pq_signer"
    assert refused(SIGNED, content=LIST + b"\n") == "pq_content"
    other = hashlib.sha256(LIST + b"\n").hexdigest()
    assert refused(edited(content_sha256=other), content=LIST + b"\n") == "pq_signature"
    assert refused(edited(key_id=OTHER.public.sha256)) == "pq_signer"
    lying = json.loads(OTHER.sign(LIST)) | {"key_id": KEY.public.sha256}
    assert refused(json.dumps(lying).encode()) == "pq_signature"


def test_a_signature_of_the_same_key_made_for_another_use_does_not_count() -> None:
    """Step 5: the context separates this format from every other use of the key."""
    plain = base64.b64encode(KEY.key.sign(LIST)).decode()
    assert refused(edited(signature=plain)) == "pq_signature"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": True},
        {"algorithm": "ML-DSA-44"},
        {"type": "x"},
        {"signature": "not base64"},
        {"signature": 1},
        {"extra": 1},
    ],
)
def test_another_form_is_refused(changes: dict[str, Any]) -> None:
    assert refused(edited(**changes)) == "pq_malformed"


def test_no_json_a_key_twice_and_a_file_too_large_are_refused() -> None:
    assert refused(b"no json") == "pq_malformed"
    assert refused(SIGNED[:-1] + b',"version":1}') == "pq_malformed"
    assert refused(SIGNED + b" " * MAX_PQ_BYTES) == "pq_malformed"


@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 7))
def test_no_flipped_bit_verifies(place: int, bit: int) -> None:
    """Rules 2 to 5: every byte of the file is bound, by form or by the signature."""
    data = bytearray(SIGNED)
    data[place] ^= 1 << bit
    with pytest.raises(IntegrityError):
        verify_pq(bytes(data), LIST, (KEY.public,))


def test_only_an_ml_dsa_65_key_can_be_pinned() -> None:
    text = base64.b64encode(KEY.public.spki).decode()
    assert parse_base64_pq_key(text) == KEY.public
    other = mldsa.MLDSA44PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    for bad in (
        other.public_bytes(serialization.Encoding.PEM, form),
        CLASSICAL.public.spki,
        b"x",
        b"x" * 20_000,
    ):
        with pytest.raises(PolicyError):
            parse_pq_key(bad)
    with pytest.raises(PolicyError):
        parse_base64_pq_key("no base64")
    with pytest.raises(PolicyError):
        verify_pq(SIGNED, LIST, ())


def test_a_cryptography_without_ml_dsa_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("cryptography.hazmat.primitives.asymmetric.mldsa")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    with pytest.raises(UsageError, match="pip install"):
        mldsa65()


def test_the_vector_of_version_0_1_0_verifies() -> None:
    content = (VECTORS / "millcert-manifest.json").read_bytes()
    key = parse_pq_key((VECTORS / "signer.pub").read_bytes())
    data = (VECTORS / "millcert-manifest.json.pq.json").read_bytes()
    assert verify_pq(data, content, (key,)) == key
    assert parse_pq_signature(data).key_id == key.sha256


# Under a rule

RULE = SourceRule(
    "pets", "**", signed_by=(KeyRule(CLASSICAL.public, is_unlogged_accepted=True),), pq_keys=(KEY.public,)
)
MODEL_RULE = SourceRule(
    "pets", "**", signed_by=RULE.signed_by, pq_keys=(KEY.public,), form="model_signing", bundle="model.sig"
)
STATEMENT = model_statement(FOUND)


def by_rule(rule: SourceRule, signed: SignedContent, listing: bytes, pq: bytes | None) -> VerifiedSource:
    return verify_source(FOUND, listing, signed.bundle, rule, None, pq_bytes=pq)


@pytest.mark.parametrize("form", ["manifest", "model_signing"])
def test_a_rule_that_requires_it_refuses_a_stripped_swapped_or_strange_one(form: str) -> None:
    signer = ByKey(CLASSICAL)
    if form == "manifest":
        rule, signed, other = RULE, sign_list(LIST, signer, pq=KEY), sign_list(LIST, signer, pq=OTHER)
        elsewhere = sign_list(Manifest("other", FOUND.files).to_json(), signer, pq=KEY)
        listing = LIST
    else:
        rule, signed, other = MODEL_RULE, sign_model(STATEMENT, signer, pq=KEY), sign_model(STATEMENT, signer, pq=OTHER)
        elsewhere = sign_model(model_statement(Manifest("other", FOUND.files)), signer, pq=KEY)
        listing = signed.bundle
    assert by_rule(rule, signed, listing, signed.pq).pq_key == KEY.public.sha256
    reasons = []
    for pq in (None, other.pq, elsewhere.pq):
        with pytest.raises(IntegrityError) as caught:
            by_rule(rule, signed, listing, pq)
        reasons.append(caught.value.reason)
    assert reasons == ["pq_missing", "pq_signer", "pq_content"]


def test_a_rule_that_does_not_ask_for_it_is_met_without(tmp_path: Path) -> None:
    signed = sign_list(LIST, ByKey(CLASSICAL), pq=KEY)
    rule = SourceRule("pets", "**", signed_by=RULE.signed_by)
    for pq in (None, signed.pq, b"{}"):
        assert by_rule(rule, signed, LIST, pq).pq_key == ""


def test_the_classical_signature_still_counts() -> None:
    stranger = LocalKey(ec.generate_private_key(ec.SECP256R1()))
    signed = sign_list(LIST, ByKey(stranger), pq=KEY)
    with pytest.raises((SignatureError, UntrustedSourceError)):
        by_rule(RULE, signed, LIST, signed.pq)


def test_its_file_is_evidence_and_no_data() -> None:
    rule = SourceRule("pets", "pets/**", signed_by=RULE.signed_by)
    assert "pets/millcert-manifest.json.pq.json" in provenance_paths([rule])


def test_a_second_signature_of_a_source_that_nobody_signs_contradicts_itself() -> None:
    with pytest.raises(PolicyError, match="second signature"):
        SourceRule("pets", "**", unsigned_accepted=True, pq_keys=(KEY.public,))
