"""DSSE envelopes: known keys, the expected type, and bytes that have one form."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import SignatureError, UsageError
from millcert.provenance import dsse
from millcert.provenance.checkpoint import encode_base64
from millcert.provenance.dsse import (
    IN_TOTO_PAYLOAD_TYPE,
    MAX_SIGNATURES,
    Envelope,
    Signature,
    envelope_from,
    key_id_of,
    pae,
    parse_envelope,
    sign_envelope,
    verify_envelope,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key()
PAYLOAD = b'{"a":1}'
ENVELOPE = sign_envelope(PAYLOAD, KEY)


def test_the_encoding_that_is_signed_is_that_of_the_specification() -> None:
    """DSSE protocol.md, test vector: DSSEv1 29 http://example.com/HelloWorld 11 hello world."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("", b"") == b"DSSEv1 0  0 "
    assert pae("\u00e9", b"\xff") == b"DSSEv1 2 \xc3\xa9 1 \xff"


@given(st.tuples(st.text(max_size=8), st.binary(max_size=8)), st.tuples(st.text(max_size=8), st.binary(max_size=8)))
def test_two_different_messages_never_encode_alike(one: tuple[str, bytes], other: tuple[str, bytes]) -> None:
    """DSSE: lengths in front, so nothing can move between type and payload."""
    assert (pae(*one) == pae(*other)) == (one == other)


def test_a_signed_payload_comes_back_for_the_key_that_signed_it() -> None:
    assert verify_envelope(ENVELOPE, [PUBLIC]) == PAYLOAD
    assert verify_envelope(ENVELOPE, [OTHER.public_key(), PUBLIC]) == PAYLOAD
    assert sign_envelope(PAYLOAD, KEY) == ENVELOPE
    assert ENVELOPE.signatures[0].key_id == key_id_of(PUBLIC)


def test_an_envelope_is_read_back_as_it_was_written() -> None:
    again = parse_envelope(ENVELOPE.to_json())

    assert again == ENVELOPE
    assert again.digest == ENVELOPE.digest


def test_another_key_is_refused_and_a_key_is_needed() -> None:
    with pytest.raises(SignatureError, match="No signature"):
        verify_envelope(ENVELOPE, [OTHER.public_key()])
    with pytest.raises(UsageError, match="No key"):
        verify_envelope(ENVELOPE, [])


def test_a_payload_of_another_type_is_refused_even_if_it_is_signed() -> None:
    other = sign_envelope(PAYLOAD, KEY, payload_type="text/plain")

    assert verify_envelope(other, [PUBLIC], payload_type="text/plain") == PAYLOAD
    with pytest.raises(SignatureError, match="expected 'application/vnd"):
        verify_envelope(other, [PUBLIC])
    with pytest.raises(SignatureError):
        verify_envelope(Envelope(PAYLOAD, IN_TOTO_PAYLOAD_TYPE, other.signatures), [PUBLIC])


def test_the_key_id_chooses_nothing() -> None:
    """DSSE: KEYID is an unauthenticated hint and must not be used for security decisions."""
    relabelled = Envelope(PAYLOAD, IN_TOTO_PAYLOAD_TYPE, (Signature("stranger", ENVELOPE.signatures[0].signature),))
    forged = sign_envelope(PAYLOAD, OTHER)
    claimed = Envelope(PAYLOAD, IN_TOTO_PAYLOAD_TYPE, (Signature(key_id_of(PUBLIC), forged.signatures[0].signature),))

    assert verify_envelope(relabelled, [PUBLIC]) == PAYLOAD
    with pytest.raises(SignatureError):
        verify_envelope(claimed, [PUBLIC])


def test_one_good_signature_among_strangers_is_enough() -> None:
    strangers = (Signature("", b"short"), sign_envelope(PAYLOAD, OTHER).signatures[0])

    mixed = Envelope(PAYLOAD, IN_TOTO_PAYLOAD_TYPE, (*strangers, *ENVELOPE.signatures))

    assert verify_envelope(parse_envelope(mixed.to_json()), [PUBLIC]) == PAYLOAD


@settings(deadline=None)
@given(st.data())
def test_every_flipped_bit_of_payload_or_signature_is_refused(data: st.DataObject) -> None:
    where = data.draw(st.sampled_from(["payload", "signature"]))
    original = PAYLOAD if where == "payload" else ENVELOPE.signatures[0].signature
    changed = bytearray(original)
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    payload = bytes(changed) if where == "payload" else PAYLOAD
    signature = bytes(changed) if where == "signature" else ENVELOPE.signatures[0].signature

    with pytest.raises(SignatureError):
        verify_envelope(Envelope(payload, IN_TOTO_PAYLOAD_TYPE, (Signature("", signature),)), [PUBLIC])


def with_changes(**changes: Any) -> dict[str, Any]:
    return {**ENVELOPE.to_mapping(), **changes}


@pytest.mark.parametrize(
    "value",
    [
        {},
        with_changes(extra=1),
        with_changes(payload=1),
        with_changes(payload="e30"),
        with_changes(payload="e3 0="),
        with_changes(payload="_-8="),
        with_changes(payloadType=None),
        with_changes(signatures=[]),
        with_changes(signatures={}),
        with_changes(signatures=["a"]),
        with_changes(signatures=[{"keyid": "a"}]),
        with_changes(signatures=[{"sig": "!"}]),
        with_changes(signatures=[{"sig": "e30=", "keyid": 1}]),
        with_changes(signatures=[{"sig": "e30=", "keyid": "a\n"}]),
        with_changes(signatures=[{"sig": "e30=", "cert": ""}]),
        with_changes(signatures=[{"sig": "e30="}] * (MAX_SIGNATURES + 1)),
    ],
)
def test_what_is_not_exactly_an_envelope_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(SignatureError):
        envelope_from(value)
    with pytest.raises(SignatureError):
        parse_envelope(json.dumps(value).encode())


def test_a_duplicate_key_is_refused() -> None:
    """Two parsers that keep different ones of two payloads would verify one and use the other."""
    text = ENVELOPE.to_json().decode()

    with pytest.raises(SignatureError, match="twice"):
        parse_envelope(text.replace("{", '{"payload":"' + encode_base64(b"other") + '",', 1).encode())


def test_an_envelope_beyond_its_bound_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsse, "MAX_ENVELOPE_BYTES", 10)

    with pytest.raises(SignatureError, match="at most 10"):
        parse_envelope(ENVELOPE.to_json())
