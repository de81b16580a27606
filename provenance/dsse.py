"""DSSE envelopes: a payload, its type, and Ed25519 signatures over both.

Steps of `verify_envelope`:
  1. The payload type is the one that the caller expects; it is signed, and never taken from the envelope alone.
  2. At least one signature verifies, over the pre-authentication encoding, with a key that the caller knows.
The key id in an envelope is a label: it chooses nothing and proves nothing. Verify the payload before parsing it.

Source: DSSE v1.0.2 (protocol.md, envelope.md). Stricter here: exact fields, canonical base64, one form of the bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millcert.errors import SignatureError, UsageError
from millcert.provenance.checkpoint import decode_base64, encode_base64
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields

#: The media type of in-toto statements (in-toto attestation framework, envelope layer).
IN_TOTO_PAYLOAD_TYPE = "application/vnd.in-toto+json"

#: Bound on an envelope. Our choice: a statement holds summaries, not samples.
MAX_ENVELOPE_BYTES = 64 * 1024 * 1024

#: Bound on the signatures that are tried: each costs an Ed25519 verification for each known key.
MAX_SIGNATURES = 16


@dataclass(frozen=True)
class Signature:
    """One signature of an envelope. key_id: a hint only; "" if there is none."""

    key_id: str
    signature: bytes


@dataclass(frozen=True)
class Envelope:
    """A payload with its type and signatures; parsed, not verified.

    payload: the signed bytes.
    payload_type: their media type, signed too.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the envelope as JSON values."""
        return {
            "payload": encode_base64(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": one.key_id, "sig": encode_base64(one.signature)} for one in self.signatures],
        }

    def to_json(self) -> bytes:
        """Return the canonical JSON (RFC 8785) of the envelope: the bytes that `digest` is of."""
        return canonical_json(self.to_mapping(), what="DSSE envelope")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hex; binds payload, type and all signatures."""
        return hashlib.sha256(self.to_json()).hexdigest()


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding that is signed: lengths in front, so nothing can move between fields."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return a key's id: SHA-256 of its SubjectPublicKeyInfo in DER, hex."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def sign_envelope(payload: bytes, key: Ed25519PrivateKey, *, payload_type: str = IN_TOTO_PAYLOAD_TYPE) -> Envelope:
    """Return an envelope with one signature. The same input gives the same envelope."""
    signature = Signature(key_id_of(key.public_key()), key.sign(pae(payload_type, payload)))
    return Envelope(payload, payload_type, (signature,))


def parse_envelope(data: bytes) -> Envelope:
    """Read an envelope from JSON; verifies nothing.

    Raises:
        SignatureError: the bytes are no envelope (see `envelope_from`), hold a duplicate key, or are too long.
    """
    value = parse_json_object(data, what="DSSE envelope", max_bytes=MAX_ENVELOPE_BYTES, error=SignatureError)
    return envelope_from(value)


def envelope_from(value: Mapping[str, Any]) -> Envelope:
    """Read an envelope from JSON values that were parsed strictly; verifies nothing.

    Raises:
        SignatureError: other fields than payload, payloadType and signatures (keyid, sig), base64 that is not the
            canonical one of the standard alphabet, or no signature, or more than 16.
    """
    what = "DSSE envelope"
    fields = {"payload": str, "payloadType": str, "signatures": list}
    require_fields(value, fields, what=what, error=SignatureError)
    payload = decode_base64(value["payload"])
    if payload is None:
        raise SignatureError(f"The {what}'s payload is not canonical base64.")
    if not 1 <= len(value["signatures"]) <= MAX_SIGNATURES:
        raise SignatureError(f"The {what} must have 1 to {MAX_SIGNATURES} signatures, got {len(value['signatures'])}.")
    return Envelope(payload, value["payloadType"], tuple(_signature_from(one) for one in value["signatures"]))


def verify_envelope(
    envelope: Envelope, keys: Sequence[Ed25519PublicKey], *, payload_type: str = IN_TOTO_PAYLOAD_TYPE
) -> bytes:
    """Return the payload, if a known key signed it as the expected type.

    Args:
        envelope: parsed.
        keys: whom the caller trusts for this payload, from its own configuration; any one of them is enough.
        payload_type: what the payload must be.

    Raises:
        SignatureError: another payload type, or no signature of a known key verifies.
        UsageError: no key was given.

    Cost: one Ed25519 verification (0.1 ms) for each signature and key, until one verifies.
    """
    if not keys:
        raise UsageError("No key to verify the signature with.", hint="Give the gate's public key: --gate-key FILE.")
    if envelope.payload_type != payload_type:  # 1
        raise SignatureError(
            f"The DSSE envelope holds {envelope.payload_type[:100]!r}, expected {payload_type!r}.",
            expected=payload_type,
            actual=envelope.payload_type,
        )
    message = pae(payload_type, envelope.payload)
    for one in envelope.signatures:  # 2
        if any(_is_signed(key, one.signature, message) for key in keys):
            return envelope.payload
    raise SignatureError(
        f"No signature of the DSSE envelope verifies with the {len(keys)} known key(s); "
        f"it names {', '.join(one.key_id[:16] or 'no key' for one in envelope.signatures)}.",
        hint="Check that this is the certificate of your gate, and that --gate-key is the gate's current public key.",
        key_ids=tuple(one.key_id for one in envelope.signatures),
    )


def _is_signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _signature_from(value: object) -> Signature:
    if not isinstance(value, dict):
        raise SignatureError(f"A signature of a DSSE envelope must be an object, got {type(value).__name__}.")
    require_fields(value, {"sig": str}, what="DSSE signature", optional={"keyid": str}, error=SignatureError)
    signature = decode_base64(value["sig"])
    if signature is None:
        raise SignatureError("A signature of the DSSE envelope is not canonical base64.")
    key_id = value.get("keyid", "")
    if not key_id.isprintable():
        raise SignatureError("A key id of the DSSE envelope has characters that do not print.")
    return Signature(key_id, signature)
