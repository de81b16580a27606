"""What a log entry's body says, and that it is about this signature, by this key, over this content. No sigstore here.

A log proves that it has an entry; only its body ties the entry to a signature. The library reads three kinds and, for a
bare key, none; here is one reading of all that Sigstore's client specification allows:

  kind                content signed                     entry binds
  hashedrekord 0.0.1  a file, or an envelope's encoding  digest, signature, key or certificate
  hashedrekord 0.0.2  the same (Rekor v2)                the same
  dsse 0.0.1          an envelope                        payload digest, the only signature, key or certificate
  intoto 0.0.2        an envelope                        payload digest and type, the only signature, key or certificate

Rules that `check_entry` keeps:
  1. The body is strict JSON, and of the kind and version that the bundle says it is.
  2. Everything that the table names is there and equal; a kind that is not in it, or not for this content, is refused.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from millcert.errors import SignatureError
from millcert.provenance.public_key import Content
from millcert.provenance.strict_json import parse_json_object

#: Real bodies have some kB; one of kind intoto may hold the payload, twice in base64.
MAX_BODY_BYTES = 8 * 1024 * 1024

_V2_HASHES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


@dataclass(frozen=True)
class SignedEnvelope:
    """The parts of a DSSE envelope that entries bind besides its signature."""

    payload_type: str
    payload: bytes


@dataclass(frozen=True)
class SignedThing:
    """What an entry must be about.

    content: what the signature is over: the file, or the envelope's pre-authentication encoding.
    signature: its bytes.
    verifier: the certificate or the SubjectPublicKeyInfo that signed, DER.
    envelope: None where a file was signed.
    """

    content: Content
    signature: bytes
    verifier: bytes
    envelope: SignedEnvelope | None


def check_entry(body: bytes, *, kind: str, version: str, thing: SignedThing) -> None:
    """Refuse an entry that is not about this signature.

    Args:
        body: the entry's canonical body, which the log's proof is over.
        kind: what the bundle says the entry is; nothing signs that.
        version: of the kind.
        thing: what was signed, by whom.

    Raises:
        SignatureError: a rule is broken; `reason` is "entry_kind", "entry" or "needs_message".
    """
    check = _CHECKS.get((kind, version))
    if check is None or (thing.envelope is None and kind != "hashedrekord"):
        known = ", ".join("/".join(one) for one in _CHECKS)
        _refuse(f"The log entry is of kind {kind:.40}/{version:.40}; read are {known}.", reason="entry_kind")
    document = _parsed(body)
    if (document.get("kind"), document.get("apiVersion")) != (kind, version):
        _refuse(f"The log entry's body is no {kind}/{version}.")
    check(_at(document, "spec"), thing)


def entry_verifier(body: bytes) -> bytes | None:
    """Return the key or certificate that an entry's body names, DER; None where it names none in a known way.

    Nothing is proved by it: it says whose signature this claims to be, so that an unknown signer can be named.
    """
    try:
        spec = _at(_parsed(body), "spec")
        if "hashedRekordV002" in spec:
            return _v2_verifier(_at(spec, "hashedRekordV002", "signature"))
        if "signature" in spec:
            return _pem(_at(spec, "signature", "publicKey").get("content"))
        if "signatures" in spec:
            return _pem(_only(spec, "signatures").get("verifier"))
        return _pem(_only(_at(spec, "content", "envelope"), "signatures").get("publicKey"))
    except SignatureError:
        return None


def _hashedrekord_v1(spec: Mapping[str, Any], thing: SignedThing) -> None:
    digest = _at(spec, "data", "hash")
    _require_digest(thing.content, str(digest.get("algorithm")), _hex(digest.get("value")))
    signature = _at(spec, "signature")
    _require_same(_base64(signature.get("content")), thing.signature, "signature")
    _require_same(_pem(_at(signature, "publicKey").get("content")), thing.verifier, "key")


def _hashedrekord_v2(spec: Mapping[str, Any], thing: SignedThing) -> None:
    record = _at(spec, "hashedRekordV002")
    data, signature = _at(record, "data"), _at(record, "signature")
    _require_digest(thing.content, _V2_HASHES.get(str(data.get("algorithm")), ""), _base64(data.get("digest")))
    _require_same(_base64(signature.get("content")), thing.signature, "signature")
    _require_same(_v2_verifier(signature), thing.verifier, "key")


def _dsse_v1(spec: Mapping[str, Any], thing: SignedThing) -> None:
    _require_payload(_at(spec, "payloadHash"), thing)
    signature = _only(spec, "signatures")
    _require_same(_base64(signature.get("signature")), thing.signature, "signature")
    _require_same(_pem(signature.get("verifier")), thing.verifier, "key")


def _intoto_v2(spec: Mapping[str, Any], thing: SignedThing) -> None:
    content = _at(spec, "content")
    _require_payload(_at(content, "payloadHash"), thing)
    envelope = _at(content, "envelope")
    if thing.envelope is None or envelope.get("payloadType") != thing.envelope.payload_type:
        _refuse("The log entry is about an envelope of another payload type.")
    # The log may keep the payload itself, in base64 twice; the digest above binds it either way.
    if envelope.get("payload"):
        _require_same(
            _base64(_base64(envelope["payload"]).decode("ascii", "replace")), thing.envelope.payload, "payload"
        )
    signature = _only(envelope, "signatures")
    _require_same(_base64(_base64(signature.get("sig")).decode("ascii", "replace")), thing.signature, "signature")
    _require_same(_pem(signature.get("publicKey")), thing.verifier, "key")


_CHECKS: dict[tuple[str, str], Callable[[Mapping[str, Any], SignedThing], None]] = {
    ("hashedrekord", "0.0.1"): _hashedrekord_v1,
    ("hashedrekord", "0.0.2"): _hashedrekord_v2,
    ("dsse", "0.0.1"): _dsse_v1,
    ("intoto", "0.0.2"): _intoto_v2,
}


def _require_payload(digest: Mapping[str, Any], thing: SignedThing) -> None:
    if thing.envelope is None or digest.get("algorithm") != "sha256":
        _refuse("The log entry has no SHA-256 of a payload.")
    _require_same(_hex(digest.get("value")), hashlib.sha256(thing.envelope.payload).digest(), "payload")


def _require_digest(content: Content, algorithm: str, digest: bytes) -> None:
    if algorithm not in {"sha256", "sha384", "sha512"}:
        _refuse(f"The log entry's digest is of kind {algorithm[:40]!r}; read are sha256, sha384 and sha512.")
    expected = content.digest(algorithm)
    if expected is None:
        _refuse(
            f"The log entry has a {algorithm} digest, and only the SHA-256 of what was signed is given.",
            reason="needs_message",
        )
    _require_same(digest, expected, "content")


def _require_same(found: bytes, expected: bytes, what: str) -> None:
    if found != expected:
        _refuse(f"The log entry is about another {what}.")


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        return parse_json_object(body, what="log entry", max_bytes=MAX_BODY_BYTES, error=SignatureError)
    except SignatureError as error:
        raise SignatureError(error.message, hint=error.hint, reason="entry") from error


def _at(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the object below these keys."""
    for key in keys:
        below = value.get(key)
        if not isinstance(below, dict):
            _refuse(f"The log entry's body has no object {key!r}.")
        value = below
    return value


def _only(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the only object of a list: a second signature would be one that nobody verified."""
    items = value.get(key)
    if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict):
        _refuse(f"The log entry's body must have exactly one object in {key!r}.")
    return items[0]


def _v2_verifier(signature: Mapping[str, Any]) -> bytes:
    verifier = _at(signature, "verifier")
    held = [key for key in ("x509Certificate", "publicKey") if key in verifier]
    if len(held) != 1:
        _refuse("The log entry's body must name one certificate or one key.")
    return _base64(_at(verifier, held[0]).get("rawBytes"))


def _hex(value: object) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else _refuse("The log entry's body lacks a digest.")
    except ValueError as error:
        raise SignatureError(f"The log entry's digest is no hex: {value!r:.80}.", reason="entry") from error


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        _refuse("The log entry's body lacks a value in base64.")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"The log entry's body has bad base64: {value[:40]!r}.", reason="entry") from error


def _pem(value: object) -> bytes:
    """Return the DER of the one certificate or public key in base64 of PEM."""
    data = _base64(value)
    try:
        if b"BEGIN CERTIFICATE" in data:
            return x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"The log entry's body has a key that cannot be read: {error}.", reason="entry") from error
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _refuse(message: str, *, reason: str = "entry") -> NoReturn:
    raise SignatureError(message, hint="The entry was swapped. Ask the owner to sign again.", reason=reason)
