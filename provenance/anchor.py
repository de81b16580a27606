"""Anchors: a checkpoint with a timestamp of an authority that is not the ledger's keeper (RFC 3161).

A witness says that the ledger only grew; an anchor says since when: everything under the checkpoint was logged before
the authority's time. It is a file, needs nobody online to verify, and any RFC 3161 tool reads its token.

Rules this module keeps:
  1. The token is over the checkpoint's note text (origin, size, root), so cosignatures may be added later.
  2. It counts only under certificates that the caller pinned: a root at least, and the authority's own if given. The
     token's certificate must chain to them at its own time, and be one for timestamps only.
  3. Every exception inside the library is a refusal.

Format: docs/formats/anchor.md.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization

from millcert.errors import SignatureError, UsageError
from millcert.provenance.checkpoint import (
    MAX_NOTE_BYTES,
    Checkpoint,
    VerifierKey,
    decode_base64,
    encode_base64,
    parse_note,
    verify_checkpoint,
)
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

VERSION = 1

#: A token has some 5 kB, with the authority's chain inside.
MAX_TOKEN_BYTES = 64 * 1024

#: JSON escapes, base64, and room.
MAX_ANCHOR_BYTES = 2 * MAX_NOTE_BYTES + 2 * MAX_TOKEN_BYTES

MAX_CHAIN_BYTES = 256 * 1024
_MAX_CERTIFICATES = 16


_SEQUENCE = 0x30

#: Object identifiers, DER without tag and length: digest -> signature algorithms that are made with it.
_RSA = bytes.fromhex("2a864886f70d010101")
_SIGNED_WITH = {
    bytes.fromhex(f"6086480165030402{digest}"): (
        bytes.fromhex(f"2a8648ce3d0403{ecdsa}"),
        bytes.fromhex(f"2a864886f70d0101{rsa}"),
    )
    for digest, ecdsa, rsa in (("01", "02", "0b"), ("02", "03", "0c"), ("03", "04", "0d"))
}


@dataclass(frozen=True)
class AnchorAuthority:
    """The certificates of a timestamp authority, pinned by the caller.

    roots: self-issued authorities, at least one. intermediates: other authorities. leaf: the certificate that signs;
    None takes the one in the token if it chains to the roots.
    """

    roots: "tuple[Certificate, ...]"
    intermediates: "tuple[Certificate, ...]" = ()
    leaf: "Certificate | None" = None


@dataclass(frozen=True)
class Anchor:
    """A verified anchor. note: the signed checkpoint. anchored_at: the authority's time, in UTC."""

    checkpoint: Checkpoint
    note: bytes
    anchored_at: datetime


def load_authority(pem: bytes) -> AnchorAuthority:
    """Return the authority in a PEM file: its root, and what else of its chain is pinned.

    Raises:
        UsageError: no certificates, more than 16, none of them a root, or two that could sign.
    """
    from cryptography.x509 import BasicConstraints, ExtensionNotFound, load_pem_x509_certificates

    try:
        certificates = load_pem_x509_certificates(pem)
    except ValueError as error:
        raise UsageError("The timestamp authority's file holds no certificates in PEM.") from error
    roots, intermediates, leaves = [], [], []
    for certificate in certificates:
        try:
            is_authority = certificate.extensions.get_extension_for_class(BasicConstraints).value.ca
        except (ExtensionNotFound, ValueError):
            is_authority = False
        if not is_authority:
            leaves.append(certificate)
        elif certificate.issuer == certificate.subject:
            roots.append(certificate)
        else:
            intermediates.append(certificate)
    if not roots or len(leaves) > 1 or len(certificates) > _MAX_CERTIFICATES:
        raise UsageError(
            f"A timestamp authority is pinned by its root and at most one signing certificate; the file has "
            f"{len(roots)} roots and {len(leaves)} signing certificates.",
            hint="Put the authority's chain into one PEM file.",
        )
    return AnchorAuthority(tuple(roots), tuple(intermediates), leaves[0] if leaves else None)


def timestamp_request(note: bytes) -> bytes:
    """Return the DER of an RFC 3161 request over a checkpoint: SHA-256, with a nonce, asking for the certificate.

    Raises:
        LedgerError: the note is none.
    """
    from rfc3161_client import TimestampRequestBuilder
    from rfc3161_client.base import HashAlgorithm

    builder = TimestampRequestBuilder().data(parse_note(note).text.encode()).hash_algorithm(HashAlgorithm.SHA256)
    return builder.nonce(nonce=True).cert_request(cert_request=True).build().as_bytes()


def make_anchor(note: bytes, token: bytes, vkeys: list[VerifierKey], authority: AnchorAuthority) -> bytes:
    """Return the bytes of an anchor, verified before they are given out.

    Raises:
        LedgerError, SignatureError: it does not verify.
    """
    value = {"checkpoint": note.decode(), "timestamp": encode_base64(token), "version": VERSION}
    data = canonical_json(value, what="anchor")
    verify_anchor(data, vkeys, authority)
    return data


def verify_anchor(data: bytes, vkeys: list[VerifierKey], authority: AnchorAuthority) -> Anchor:
    """Return what an anchor shows: that this checkpoint was there at that time.

    1. The bytes are canonical JSON of version 1 with exactly the known fields.
    2. The checkpoint is signed by a known key of its own origin.
    3. The token is granted, over the checkpoint's text, and signed by the authority, within its certificates' windows.
    The caller owes: the comparison of the checkpoint with the ledger, and the choice of the authority.

    Raises:
        LedgerError: no checkpoint.
        SignatureError: anything else that does not hold.
        UsageError: no key was given.

    Cost: about 1 ms.
    """
    what = "anchor"
    parts = parse_json_object(data, what=what, max_bytes=MAX_ANCHOR_BYTES, error=SignatureError)  # 1
    require_fields(parts, {"checkpoint": str, "timestamp": str, "version": int}, what=what, error=SignatureError)
    if type(parts["version"]) is not int or parts["version"] != VERSION:
        raise SignatureError(f"The anchor has version {parts['version']!r}; this millcert reads {VERSION}.")
    if canonical_json(parts, what=what) != data:
        raise SignatureError("The anchor is not in canonical form (RFC 8785).")
    token = decode_base64(parts["timestamp"])
    if token is None or len(token) > MAX_TOKEN_BYTES:
        raise SignatureError(f"The anchor's timestamp is not base64 of at most {MAX_TOKEN_BYTES} bytes.")
    note = parts["checkpoint"].encode()
    checkpoint = verify_checkpoint(note, vkeys)  # 2
    return Anchor(checkpoint, note, _time_of(token, parse_note(note).text.encode(), authority))  # 3


def _require_granted(token: bytes, response: Any) -> None:
    if response.as_bytes() != token:  # DER has one form; anything behind it is nobody's statement
        raise SignatureError("The timestamp is not in its one form (DER).")
    if response.status != 0:  # PKIStatus granted (RFC 3161 section 2.4.2)
        raise SignatureError(f"The timestamp authority refused: status {response.status}.")


def _require_pinned(embedded: set[bytes], authority: AnchorAuthority) -> None:
    """Refuse certificates in the token that nobody would look at: all but the signing one must be pinned."""
    pinned = [*authority.roots, *authority.intermediates, *([authority.leaf] if authority.leaf else [])]
    strange = embedded - {one.public_bytes(serialization.Encoding.DER) for one in pinned}
    if len(strange) > (authority.leaf is None):
        raise SignatureError(
            f"The timestamp holds {len(strange)} certificates that are not pinned.",
            hint="Put the authority's whole chain, with its signing certificate, into the pinned file.",
        )


def _require_one_form(token: bytes, signed_data: Any) -> None:
    """Refuse another value in the fields that no signature covers: CMS versions, and the name of the algorithm.

    Source: RFC 5652 sections 5.1 and 5.3; RFC 5754 sections 3.2 and 3.3 name the algorithms.
    """
    _, (_, content_info) = _children(_children(token)[0][1])
    _, (_, explicit) = _children(content_info)
    signed = _children(_children(explicit)[0][1])
    signer = _children(_children(signed[-1][1])[0][1])
    versions = {signed_data.version, *(one.version for one in signed_data.signer_infos)}
    digest = _children(signer[2][1])[0][1]
    algorithm = next(content for tag, content in signer[4:] if tag == _SEQUENCE)
    name = _children(algorithm)[0][1]
    if versions != {1, 3} or signed_data.version != 3 or name not in {_RSA, *_SIGNED_WITH.get(digest, ())}:
        raise SignatureError("The timestamp names a version or an algorithm that its signature is not of.")


def _children(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of each DER value in `data`, which a strict parser has read before."""
    found: list[tuple[int, bytes]] = []
    while data:
        length, start = data[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[2:start], "big")
        found.append((data[0], data[start : start + length]))
        data = data[start + length :]
    return found


def _time_of(token: bytes, message: bytes, authority: AnchorAuthority) -> datetime:
    from rfc3161_client import VerifierBuilder, decode_timestamp_response

    try:
        response: Any = decode_timestamp_response(token)
        _require_granted(token, response)
        _require_one_form(token, response.signed_data)
        _require_pinned(response.signed_data.certificates, authority)
        builder = VerifierBuilder(roots=list(authority.roots), intermediates=list(authority.intermediates))
        if authority.leaf is not None:
            builder = builder.tsa_certificate(authority.leaf)
        builder.build().verify_message(response, message)
        moment: datetime = response.tst_info.gen_time
    except SignatureError:
        raise
    except Exception as error:
        raise SignatureError(
            f"The timestamp on the checkpoint does not verify: {error}.",
            hint="It is over another checkpoint, by another authority, or was altered.",
        ) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
