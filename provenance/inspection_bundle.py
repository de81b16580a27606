"""What a Sigstore bundle, a DSSE envelope or an in-toto statement says of itself. Nothing verified, no sigstore.

Every value comes from whoever made the file. A part that cannot be read is told as such and hides no other part.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from millcert.errors import MillcertError, SignatureError
from millcert.provenance.attestation import PROVENANCE_PREDICATE_TYPE, read_statement
from millcert.provenance.bundle_entry import entry_verifier
from millcert.provenance.bundle_identity import signer_of
from millcert.provenance.checkpoint import decode_base64
from millcert.provenance.oms import EXTENSION, PREDICATE_V0, PREDICATE_V1, read_model_statement
from millcert.provenance.statement import VSA_PREDICATE_TYPE

UNREADABLE = "cannot be read"
_MAX_LOGGED_SECONDS = 253_402_300_799  # the year 9999


class Fact(NamedTuple):
    """One thing that a file says: a label of ours, and its value, of any characters."""

    label: str
    value: str


class Named(NamedTuple):
    """One thing that a file is about. digests: hex by algorithm."""

    name: str
    digests: Mapping[str, str]


def bundle_facts(document: Mapping[str, Any]) -> tuple[tuple[Fact, ...], tuple[Named, ...]]:
    """Return what a bundle says, and what it is about; `document` is any JSON object."""
    material = _object(document.get("verificationMaterial"))
    facts = [Fact("media type", str(document.get("mediaType")))]
    facts += _signer_facts(material)
    entries = material.get("tlogEntries")
    listed = entries if isinstance(entries, list) else []
    facts.append(
        Fact("log entries", str(len(listed)) if listed else "none: nothing shows when or whether it was logged")
    )
    for entry in listed:
        facts += _entry_facts(_object(entry))
    stamps = _object(material.get("timestampVerificationData")).get("rfc3161Timestamps")
    for stamp in stamps if isinstance(stamps, list) else []:
        facts.append(Fact("timestamp", _guarded(lambda stamp=stamp: _timestamp(_object(stamp)))))  # type: ignore[misc] # bound now
    signed = _object(document.get("messageSignature"))
    if signed:
        digest = _object(signed.get("messageDigest"))
        raw = decode_base64(str(digest.get("digest", "")))
        algorithm = str(digest.get("algorithm", "")).lower().replace("sha2_", "sha")
        return tuple(facts), (Named("the signed file", {algorithm: raw.hex() if raw else UNREADABLE}),)
    more, subjects = envelope_facts(_object(document.get("dsseEnvelope")))
    return (*facts, *more), subjects


def envelope_facts(envelope: Mapping[str, Any]) -> tuple[tuple[Fact, ...], tuple[Named, ...]]:
    """Return what a DSSE envelope says, and what the statement in it is about."""
    signatures = envelope.get("signatures")
    facts = [
        Fact("payload type", str(envelope.get("payloadType"))),
        Fact("signatures", str(len(signatures)) if isinstance(signatures, list) else UNREADABLE),
    ]
    payload = decode_base64(str(envelope.get("payload", "")))
    if payload is None:
        return (*facts, Fact("payload", UNREADABLE)), ()
    try:
        more, subjects = statement_facts(payload)
    except MillcertError as error:
        return (*facts, Fact("payload", f"no in-toto statement: {error.message}")), ()
    return (*facts, *more), subjects


def statement_facts(payload: bytes) -> tuple[tuple[Fact, ...], tuple[Named, ...]]:
    """Return what an in-toto statement says, and what it is about.

    Raises:
        SignatureError: it is no statement of version 1.
    """
    subjects, predicate_type, predicate = read_statement(payload)
    facts = [Fact("predicate type", predicate_type)]
    named = tuple(Named(one.name, one.digest) for one in subjects)
    if predicate_type in {PREDICATE_V0, PREDICATE_V1}:
        facts.append(Fact("form", "OpenSSF model signature"))
        return _model_facts(payload, facts, named, predicate)
    if predicate_type == PROVENANCE_PREDICATE_TYPE:
        facts.append(Fact("builder", _at(predicate, "runDetails", "builder", "id")))
    if predicate_type == VSA_PREDICATE_TYPE:
        facts.append(Fact("verifier", _at(predicate, "verifier", "id")))
        facts.append(Fact("result", _at(predicate, "verificationResult")))
        facts.append(Fact("levels", _at(predicate, "verifiedLevels")))
        facts.append(Fact("verified at", _at(predicate, "timeVerified")))
    return tuple(facts), named


def certificate_facts(certificate: x509.Certificate) -> tuple[Fact, ...]:
    """Return whom a certificate names, and from when to when."""
    facts = []
    try:
        identity, issuer = signer_of(certificate)
        facts += [Fact("identity", identity), Fact("issuer", issuer)]
    except (
        SignatureError,
        ValueError,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        facts.append(Fact("subject", _guarded(certificate.subject.rfc4514_string)))
    facts.append(Fact("certificate begins", _guarded(lambda: _shown(certificate.not_valid_before_utc))))
    facts.append(Fact("certificate ends", _guarded(lambda: _shown(certificate.not_valid_after_utc))))
    return tuple(facts)


def _model_facts(
    payload: bytes, facts: list[Fact], named: tuple[Named, ...], predicate: Mapping[str, Any]
) -> tuple[tuple[Fact, ...], tuple[Named, ...]]:
    try:
        listing, ignored = read_model_statement(payload)
    except MillcertError as error:
        return (*facts, Fact("files", f"{UNREADABLE}: {error.message}")), named
    facts += [Fact("name", listing.name), Fact("files", str(len(listing.paths)))]
    facts += [Fact("ignored", path) for path in ignored]
    root = _object(predicate.get(EXTENSION)).get("root")
    if root is not None:
        facts.append(Fact("name-binding root", str(root)))
    return tuple(facts), tuple(Named(path, listing.digests(path)) for path in listing.paths)


def _signer_facts(material: Mapping[str, Any]) -> list[Fact]:
    key = material.get("publicKey")
    if key is not None:
        return [Fact("signer", "a key"), Fact("key hint", str(_object(key).get("hint", "")))]
    chain = _object(material.get("x509CertificateChain")).get("certificates")
    links = chain if isinstance(chain, list) and chain else [material.get("certificate")]
    raw = decode_base64(str(_object(links[0]).get("rawBytes", "")))
    try:
        certificate = x509.load_der_x509_certificate(raw or b"")
    except (ValueError, x509.InvalidVersion):
        return [Fact("signer", f"a certificate that {UNREADABLE}")]
    return [Fact("signer", "a certificate"), *certificate_facts(certificate)]


def _entry_facts(entry: Mapping[str, Any]) -> list[Fact]:
    kind = _object(entry.get("kindVersion"))
    facts = [
        Fact("log entry", f"{entry.get('logIndex')}, {kind.get('kind')} {kind.get('version')}"),
    ]
    log_id = decode_base64(str(_object(entry.get("logId")).get("keyId", "")))
    facts.append(Fact("log id", log_id.hex() if log_id else UNREADABLE))
    if entry.get("integratedTime") not in (None, "0", 0):
        facts.append(Fact("logged at", _guarded(lambda: _logged_at(str(entry["integratedTime"])))))
    body = decode_base64(str(entry.get("canonicalizedBody", "")))
    verifier = None if body is None else entry_verifier(body)
    if verifier is not None:
        facts += _verifier_facts(verifier)
    return facts


def _verifier_facts(verifier: bytes) -> list[Fact]:
    """A key is named by its digest; a certificate has been told with the bundle already."""
    try:
        serialization.load_der_public_key(verifier)
    except (ValueError, UnsupportedAlgorithm):
        return []
    return [Fact("logged key", f"key:sha256:{hashlib.sha256(verifier).hexdigest()}")]


def _timestamp(stamp: Mapping[str, Any]) -> str:
    from rfc3161_client import decode_timestamp_response

    raw = decode_base64(str(stamp.get("signedTimestamp", "")))
    return _shown(decode_timestamp_response(raw or b"").tst_info.gen_time)


def _logged_at(text: str) -> str:
    seconds = int(text)
    if not 0 <= seconds <= _MAX_LOGGED_SECONDS:
        raise ValueError("out of range")
    return _shown(datetime.fromtimestamp(seconds, UTC))


def _shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _guarded(tell: Callable[[], str]) -> str:
    try:
        return tell()
    except (ValueError, OverflowError, TypeError):
        return UNREADABLE


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _at(value: Mapping[str, Any], *keys: str) -> str:
    found: Any = value
    for key in keys:
        found = _object(found).get(key)
    if isinstance(found, Sequence) and not isinstance(found, str):
        return ", ".join(map(str, found))
    return "none" if found is None else str(found)
