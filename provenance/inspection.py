"""What a file of evidence says of itself: its form, who is said to have signed, when, over what. Nothing verified.

For somebody who was sent a file and wants to know what it is, or why a verification refused it.
Rules this module keeps:
  1. Nothing here is a proof, and nothing here decides: everything is the file's own word.
  2. The form is told from the content, never from the name, and a file that is of no known form, or a private key, is
     refused.
  3. Any input is either read or refused with an error of ours; what cannot be read inside a file that can is said so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from millcert.errors import IntegrityError, ManifestError, MillcertError, PolicyError, UsageError
from millcert.provenance.bundle_form import MAX_ENVELOPE_BUNDLE_BYTES
from millcert.provenance.checksums import parse_bagit_manifest, parse_checksums
from millcert.provenance.croissant import parse_croissant
from millcert.provenance.dvc import parse_dvc
from millcert.provenance.hub import parse_pointer
from millcert.provenance.inspection_bundle import (
    UNREADABLE,
    Fact,
    Named,
    bundle_facts,
    certificate_facts,
    envelope_facts,
)
from millcert.provenance.inspection_bundle import statement_facts as _statement_facts
from millcert.provenance.listing import Listing
from millcert.provenance.manifest import MAX_MANIFEST_BYTES, parse_manifest
from millcert.provenance.pq_signature import PQ_TYPE, parse_pq_key, parse_pq_signature
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.strict_json import parse_json_object

#: The largest file that is looked at.
MAX_INSPECTED_BYTES = MAX_MANIFEST_BYTES


@dataclass(frozen=True)
class Inspection:
    """What a file says; all of it unverified.

    form: in words, such as "Sigstore bundle". facts: in the order of telling; a value is one line of any characters.
    subjects: the files or things that it is about, with their digests by algorithm.
    """

    form: str
    facts: tuple[Fact, ...]
    subjects: tuple[Named, ...] = ()


def inspect_evidence(data: bytes) -> Inspection:
    """Return what a file says of itself.

    Args:
        data: the file, at most MAX_INSPECTED_BYTES.

    Raises:
        IntegrityError: it is of a known form, and malformed.
        UsageError: it is of no form that is known, too large, or a private key.
    """
    if len(data) > MAX_INSPECTED_BYTES:
        raise UsageError(f"The file has more than {MAX_INSPECTED_BYTES:,} bytes; it is no evidence.")
    if b"PRIVATE KEY-----" in data[:4096]:
        raise UsageError("That is a private key.", hint="Keep it to yourself; its public half has the name .pub.")
    if data.lstrip()[:1] == b"{":
        return _json(data)
    return _text(data)


def _json(data: bytes) -> Inspection:
    document = parse_json_object(data, what="file", max_bytes=MAX_INSPECTED_BYTES, error=ManifestError)
    kinds: list[tuple[bool, Callable[[], Inspection]]] = [
        ("verificationMaterial" in document, lambda: _bundle(data, document)),
        ({"payload", "payloadType", "signatures"} <= document.keys(), lambda: _envelope(document)),
        ("_type" in document, lambda: Inspection("in-toto statement, not signed", *_statement_facts(data))),
        (document.get("type") == PQ_TYPE, lambda: _pq(data)),
        ({"files", "name", "root", "version"} <= document.keys(), lambda: _manifest(data)),
        ("distribution" in document or "conformsTo" in document, lambda: _croissant(data)),
        ("certificateAuthorities" in document or "tlogs" in document, lambda: _trusted_root(document)),
    ]
    for is_it, read in kinds:
        if is_it:
            return read()
    raise _unknown(f"a JSON object with the keys {', '.join(map(ascii, sorted(document)[:8]))}")


def _bundle(data: bytes, document: Mapping[str, Any]) -> Inspection:
    if len(data) > MAX_ENVELOPE_BUNDLE_BYTES:
        raise UsageError(f"A bundle has at most {MAX_ENVELOPE_BUNDLE_BYTES:,} bytes.")
    facts, subjects = bundle_facts(document)
    return Inspection("Sigstore bundle", facts, subjects)


def _envelope(document: Mapping[str, Any]) -> Inspection:
    facts, subjects = envelope_facts(document)
    return Inspection("DSSE envelope, without a bundle", facts, subjects)


def _pq(data: bytes) -> Inspection:
    found = parse_pq_signature(data)
    facts = (
        Fact("algorithm", "ML-DSA-65"),
        Fact("key", f"key:sha256:{found.key_id}"),
        Fact("over content with SHA-256", found.content_sha256),
    )
    return Inspection("post-quantum signature", facts)


def _manifest(data: bytes) -> Inspection:
    manifest = parse_manifest(data)
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    facts = (
        Fact("name", manifest.name),
        Fact("root", manifest.root),
        Fact("files", str(len(manifest.files))),
        Fact("bytes", str(size_bytes)),
    )
    subjects = tuple(Named(entry.path, {"sha256": entry.sha256}) for entry in manifest.files)
    return Inspection("millcert manifest, version 1", facts, subjects)


def _croissant(data: bytes) -> Inspection:
    listing = parse_croissant(data)
    return _listing("Croissant file", listing, Fact("name", listing.name), Fact("licence", listing.license or "none"))


def _listing(form: str, listing: Listing, *facts: Fact) -> Inspection:
    subjects = tuple(Named(path, listing.digests(path)) for path in listing.paths)
    unhashed = tuple(Fact(f"without a digest: {path}", why) for path, why in sorted(listing.unhashed.items()))
    return Inspection(form, (*facts, Fact("files", str(len(subjects))), *unhashed), subjects)


def _trusted_root(document: Mapping[str, Any]) -> Inspection:
    facts = [Fact("media type", str(document.get("mediaType")))]
    places = {"tlogs": "baseUrl", "ctlogs": "baseUrl", "certificateAuthorities": "uri", "timestampAuthorities": "uri"}
    for key, url in places.items():
        listed = document.get(key)
        for one in listed if isinstance(listed, list) else []:
            facts += [Fact(key, str(one.get(url)) if isinstance(one, dict) else UNREADABLE)]
    return Inspection("Sigstore trusted root", tuple(facts))


def _text(data: bytes) -> Inspection:
    if b"-----BEGIN CERTIFICATE-----" in data[:4096]:
        try:
            return Inspection("certificate", certificate_facts(x509.load_pem_x509_certificate(data)))
        except (ValueError, x509.InvalidVersion) as error:
            raise ManifestError(f"The certificate cannot be read: {error}.") from error
    if b"-----BEGIN PUBLIC KEY-----" in data[:4096]:
        return _public_key(data)
    if data.startswith(b"version https://git-lfs"):
        pointer = parse_pointer(data)
        facts = (Fact("size in bytes", str(pointer.size_bytes)),)
        return Inspection("Git-LFS pointer", facts, (Named("the file itself", {"sha256": pointer.sha256}),))
    if data.startswith((b"outs:", b"md5:", b"deps:", b"wdir:")):
        hints = parse_dvc(data)
        facts = (Fact("digests", "MD5, a hint that nothing may depend on"),)
        return Inspection("DVC file", facts, tuple(Named(hint.path, {"md5": hint.md5}) for hint in hints))
    return _lines(data)


def _public_key(data: bytes) -> Inspection:
    try:
        loaded = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ManifestError(f"The public key cannot be read: {error}.") from error
    kind = type(loaded).__name__.lstrip("_")
    for parse in (parse_public_key, parse_pq_key):
        try:
            key = parse(data)
        except (PolicyError, UsageError):
            continue
        return Inspection("public key", (Fact("kind", kind), Fact("key", f"key:sha256:{key.sha256}")))
    raise ManifestError(
        f"A public key of kind {kind} counts nowhere here.", hint="Use P-256, Ed25519, RSA or ML-DSA-65."
    )


def _lines(data: bytes) -> Inspection:
    """A list of checksums has lines of digest and path; so has a bag's manifest, with all paths below data/."""
    # A name that is none of the usual ones: the digests are told by their length, as nothing else tells.
    try:
        listing = parse_checksums(data, name="")
    except IntegrityError:
        try:
            return _listing("BagIt payload manifest", parse_bagit_manifest(data, name=""))
        except MillcertError as error:
            raise _unknown("no list of checksums either") from error
    is_bag = bool(listing.paths) and all(path.startswith("data/") for path in listing.paths)
    return _listing("BagIt payload manifest or list of checksums" if is_bag else "list of checksums", listing)


def _unknown(found: str) -> UsageError:
    return UsageError(
        f"The file is of no form that is known here; it is {found}.",
        hint="Known are Sigstore bundles, model signatures, DSSE envelopes, in-toto statements, manifests, Croissant, "
        "post-quantum signatures, checksums, BagIt, Git-LFS pointers, DVC files, trusted roots, keys, certificates.",
    )
