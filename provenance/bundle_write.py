"""Sigstore bundles (v0.3) that a key signs: over a file, or over a DSSE envelope, with a log entry or without.

What is written here is what provenance/bundle.py reads; the library cannot read bundles by key at all. Without a log
entry a bundle has no trusted time, and a policy must accept that of this very key.

Source: Sigstore's protobuf-specs, bundle v0.3; the key's hint is the SHA-256 of its PEM in hex, as OpenSSF model
signing writes and compares it. The hint proves nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.hazmat.primitives import serialization

from millcert.provenance.checkpoint import encode_base64
from millcert.provenance.dsse import pae
from millcert.provenance.public_key import PublicKey
from millcert.provenance.signing_key import SigningKey, checked_signature, signing_hash

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"

_ALGORITHMS = {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}


@dataclass(frozen=True)
class KeySignature:
    """A signature by a key that is to be logged.

    message: what was signed, whole.
    hash_name: sha256, sha384 or sha512: the hash that the signature is with.
    envelope: the DSSE envelope whose encoding the message is, JSON; "" where a file was signed.
    """

    public: PublicKey
    message: bytes
    hash_name: str
    signature: bytes
    envelope: str = ""

    @property
    def digest(self) -> bytes:
        """Digest of the message under `hash_name`."""
        return hashlib.new(self.hash_name, self.message).digest()


class Log(Protocol):
    """A transparency log that takes signatures by key."""

    def add(self, signed: KeySignature) -> Mapping[str, Any]:
        """Log a signature and return the bundle's `tlogEntries` and `timestampVerificationData`, JSON values.

        Raises:
            UsageError: the log takes no signature of that kind.
            StoreError: the log or the timestamp authority failed.
        """


def sign_file(data: bytes, key: SigningKey, *, log: Log | None = None) -> bytes:
    """Return a bundle with a key's signature over a file's bytes.

    Args:
        data: the file, whole.
        key: signs.
        log: where the signature is logged; None for none.

    Raises:
        UsageError, StoreError: as `checked_signature` and `Log.add`.
    """
    signature = checked_signature(key, data)
    signed = KeySignature(key.public, data, signing_hash(key.public), signature)
    body = {
        "messageDigest": {"algorithm": _ALGORITHMS[signed.hash_name], "digest": encode_base64(signed.digest)},
        "signature": encode_base64(signature),
    }
    return _bundle(key.public, {"messageSignature": body}, log, signed)


def sign_payload(payload: bytes, payload_type: str, key: SigningKey, *, log: Log | None = None) -> bytes:
    """Return a bundle with a DSSE envelope by a key; arguments and errors as in `sign_file`."""
    message = pae(payload_type, payload)
    signature = checked_signature(key, message)
    envelope = {
        "payload": encode_base64(payload),
        "payloadType": payload_type,
        "signatures": [{"sig": encode_base64(signature)}],
    }
    signed = KeySignature(key.public, message, signing_hash(key.public), signature, json.dumps(envelope))
    return _bundle(key.public, {"dsseEnvelope": envelope}, log, signed)


def public_pem(key: PublicKey) -> bytes:
    """Return a public key as SubjectPublicKeyInfo in PEM."""
    loaded = serialization.load_der_public_key(key.spki)
    return loaded.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _bundle(public: PublicKey, content: Mapping[str, Any], log: Log | None, signed: KeySignature) -> bytes:
    material: dict[str, Any] = {"publicKey": {"hint": hashlib.sha256(public_pem(public)).hexdigest()}}
    material |= {"tlogEntries": []} if log is None else log.add(signed)
    document = {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, **content}
    return json.dumps(document, indent=2).encode() + b"\n"
