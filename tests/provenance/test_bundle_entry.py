"""Bodies of log entries: each kind binds signature, key and content, and a body that says less or else is refused."""

import base64
import copy
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from millcert.errors import PolicyError, SignatureError
from millcert.provenance.bundle_entry import SignedEnvelope, SignedThing, check_entry, entry_verifier
from millcert.provenance.bundle_form import read_form
from millcert.provenance.dsse import pae
from millcert.provenance.public_key import Content, key_fault, key_verifies
from millcert.testing.sigstore_entries import (
    dsse_v1,
    hashedrekord_v1,
    hashedrekord_v2,
    intoto_v2,
    key_party,
    public_der,
)

KEY = ec.generate_private_key(ec.SECP256R1())
PARTY = key_party(KEY)
ENVELOPE = SignedEnvelope("application/vnd.in-toto+json", b"{}")
FILE = Content.of(b"data")
ENCODED = Content.of(pae(ENVELOPE.payload_type, ENVELOPE.payload))
AS_JSON = {"payloadType": ENVELOPE.payload_type}
OVER_FILE = SignedThing(FILE, b"signature", PARTY.der, None)
OVER_ENVELOPE = SignedThing(ENCODED, b"signature", PARTY.der, ENVELOPE)

BODIES: dict[tuple[str, str], tuple[dict[str, Any], SignedThing]] = {
    ("hashedrekord", "0.0.1"): (hashedrekord_v1(PARTY, b"signature", FILE.sha256), OVER_FILE),
    ("hashedrekord", "0.0.2"): (hashedrekord_v2(PARTY, b"signature", FILE.sha256), OVER_FILE),
    ("dsse", "0.0.1"): (dsse_v1(PARTY, b"signature", AS_JSON, b"{}"), OVER_ENVELOPE),
    ("intoto", "0.0.2"): (intoto_v2(PARTY, b"signature", AS_JSON, b"{}"), OVER_ENVELOPE),
}


def check(kind: tuple[str, str], body: Any, thing: SignedThing | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    check_entry(data, kind=kind[0], version=kind[1], thing=thing or BODIES[kind][1])


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_about_this_signature_passes_and_names_its_key(kind: tuple[str, str]) -> None:
    body, _ = BODIES[kind]
    check(kind, body)
    assert entry_verifier(json.dumps(body).encode()) == PARTY.der


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*path, key), *places(item, (*path, key)))]


#: What nothing can verify: digests of an envelope's uncanonical JSON, and the word for a key's kind.
FREE = {"envelopeHash", "keyDetails"}


@pytest.mark.parametrize("other", [None, "AAAA", "é", {}, [], 7])
@pytest.mark.parametrize("kind", BODIES)
def test_a_body_in_which_any_part_is_something_else_is_refused(kind: tuple[str, str], other: Any) -> None:
    """Every part but those that nothing can verify; `hash` of intoto is one of these."""
    body, _ = BODIES[kind]
    for place in places(body):
        if FREE & set(place) or place[:3] == ("spec", "content", "hash"):
            continue
        changed = copy.deepcopy(body)
        holder: Any = changed
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = other
        with pytest.raises(SignatureError) as caught:
            check(kind, changed)
        assert caught.value.reason == "entry", place


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_about_another_signature_key_or_content_is_refused(kind: tuple[str, str]) -> None:
    body, thing = BODIES[kind]
    other_envelope = None if thing.envelope is None else SignedEnvelope("text/plain", b"[]")
    others = [
        SignedThing(thing.content, b"another", thing.verifier, thing.envelope),
        SignedThing(thing.content, thing.signature, b"another", thing.envelope),
        SignedThing(Content.of(b"other"), thing.signature, thing.verifier, other_envelope),
    ]
    for other in others:
        with pytest.raises(SignatureError) as caught:
            check(kind, body, other)
        assert caught.value.reason == "entry"


@pytest.mark.parametrize(
    ("kind", "thing"),
    [
        (("dsse", "0.0.1"), OVER_FILE),
        (("intoto", "0.0.2"), OVER_FILE),
        (("intoto", "0.0.1"), OVER_ENVELOPE),
        (("rekord", "0.0.1"), OVER_FILE),
    ],
)
def test_a_kind_that_is_not_read_or_not_for_this_content_is_refused(kind: tuple[str, str], thing: SignedThing) -> None:
    with pytest.raises(SignatureError) as caught:
        check(kind, BODIES.get(kind, ({}, thing))[0], thing)
    assert caught.value.reason == "entry_kind"


def test_the_kind_beside_the_body_must_be_the_bodys_own() -> None:
    """Nothing signs the kind that stands in the bundle."""
    body = BODIES["hashedrekord", "0.0.1"][0]
    with pytest.raises(SignatureError, match=r"no hashedrekord/0\.0\.2"):
        check(("hashedrekord", "0.0.2"), body)


def test_a_payload_that_the_log_kept_must_be_this_one() -> None:
    body = copy.deepcopy(BODIES["intoto", "0.0.2"][0])
    for payload, is_same in ((b"{}", True), (b"[]", False)):
        twice = base64.b64encode(base64.b64encode(payload)).decode()
        body["spec"]["content"]["envelope"]["payload"] = twice
        if is_same:
            check(("intoto", "0.0.2"), body)
            continue
        with pytest.raises(SignatureError, match="another payload"):
            check(("intoto", "0.0.2"), body)


def test_a_longer_digest_than_the_one_that_is_known_needs_the_message() -> None:
    body = copy.deepcopy(BODIES["hashedrekord", "0.0.1"][0])
    body["spec"]["data"]["hash"] = {"algorithm": "sha512", "value": hashlib.sha512(b"data").hexdigest()}
    check(("hashedrekord", "0.0.1"), body)
    with pytest.raises(SignatureError) as caught:
        check(("hashedrekord", "0.0.1"), body, SignedThing(Content(FILE.sha256), b"signature", PARTY.der, None))
    assert caught.value.reason == "needs_message"
    body["spec"]["data"]["hash"]["algorithm"] = "md5"
    with pytest.raises(SignatureError, match="of kind 'md5'"):
        check(("hashedrekord", "0.0.1"), body)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"spec":{},"spec":{}}', b'{"spec":{}}', b"\xff"])
def test_a_body_that_names_no_key_in_a_known_way_names_none(body: bytes) -> None:
    assert entry_verifier(body) is None
    with pytest.raises(SignatureError):
        check(("hashedrekord", "0.0.1"), body)


# Keys and forms


def test_keys_of_other_kinds_verify_nothing() -> None:
    weak: list[Any] = [
        dsa.generate_private_key(1024).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        rsa.generate_private_key(65537, 1024).public_key(),
    ]
    for key in weak:
        assert key_fault(key) is not None
        assert not key_verifies(key, b"signature", FILE)


def test_a_wrong_signature_of_each_kind_of_key_is_no_signature() -> None:
    good: list[Any] = [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
    ]
    for key in good:
        assert not key_verifies(key.public_key(), b"signature", FILE)
        assert not key_verifies(key.public_key(), b"", FILE)
    assert not key_verifies(good[2].public_key(), b"signature", Content(FILE.sha256))


def test_a_policy_key_that_was_not_checked_is_checked_when_it_is_used() -> None:
    from millcert.provenance.public_key import PublicKey

    with pytest.raises(PolicyError, match="secp256k1"):
        PublicKey(public_der(ec.generate_private_key(ec.SECP256K1()))).verifies(b"signature", FILE)


def form(**changes: Any) -> bytes:
    document = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {"payload": "e30=", "payloadType": "x", "signatures": [{"sig": "AAAA"}]},
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


MESSAGE = {"messageDigest": {"algorithm": "SHA2_256", "digest": "AAAA"}, "signature": "AAAA"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (form(mediaType="application/json"), "bundle_malformed"),
        (form(mediaType=None), "bundle_malformed"),
        (form(verificationMaterial={}), "bundle_malformed"),
        (form(verificationMaterial={"publicKey": {}, "certificate": {}}), "bundle_malformed"),
        (form(verificationMaterial={"x509CertificateChain": {"certificates": []}}), "bundle_malformed"),
        (form(messageSignature=MESSAGE), "bundle_malformed"),
        (form(dsseEnvelope={"payload": "e30=", "payloadType": "x", "signatures": []}), "bundle_malformed"),
        (form(dsseEnvelope={"payload": "e30=", "payloadType": 7, "signatures": [{}]}), "bundle_malformed"),
        (form(dsseEnvelope={"payload": "e30", "payloadType": "x", "signatures": [{}]}), "bundle_malformed"),
        (form(dsseEnvelope=[]), "bundle_malformed"),
    ],
)
def test_a_form_that_is_not_one_of_a_bundle_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(SignatureError) as caught:
        read_form(data, "dsseEnvelope", None)
    assert caught.value.reason == reason


@pytest.mark.parametrize("digest", [7, {"algorithm": "MD5"}, {"algorithm": "SHA2_256"}])
def test_a_message_digest_that_cannot_be_read_is_refused(digest: Any) -> None:
    data = form(dsseEnvelope=None, messageSignature={**MESSAGE, "messageDigest": digest})
    with pytest.raises(SignatureError) as caught:
        read_form(data, "messageSignature", FILE)
    assert caught.value.reason == "bundle_malformed"


def test_a_signature_over_a_file_needs_the_file() -> None:
    data = form(dsseEnvelope=None, messageSignature=MESSAGE)
    with pytest.raises(SignatureError) as caught:
        read_form(data, "messageSignature", None)
    assert caught.value.reason == "content"
