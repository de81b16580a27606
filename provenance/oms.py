"""OpenSSF model signing, read: version 1 and the form of version 0.2, signed keyless, by key, or by certificate.

The proof, step by step; each block below repeats its number:
  1. The envelope verifies, by a trusted signer (provenance/bundle.py). Version 0.2 signed its own encoding instead of
     DSSE's, by key and certificate; it counts here too, and only here: no DSSE encoding begins like it.
  2. The payload is a statement of one of the two predicate types, and lists files with digests.
  3. Version 1: the subject's digest is that of the listed digests, in the order of the list. It binds no names, so it
     is trusted no further. Where our name-binding root is there (provenance/oms_write.py), it is that of the list, too.
  4. The files are exactly the listed ones. What the signature calls ignored is unsigned; it may be there only if the
     caller says so, and is then named, never taken for data.
Shards (digests of parts of files) are refused: the gate hashes whole files. BLAKE2 is refused; SHA-256 and BLAKE3,
which the tool writes, and SHA-384 and SHA-512 are read, and count as far as the rule allows them.

Source: the model signing specification 1.0 and the signatures of releases 0.2.0 to 1.1.0; written from those, with no
code of theirs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

from millcert.errors import ManifestError, SignatureError
from millcert.provenance.attestation import AttestedSubject, read_statement
from millcert.provenance.bundle_entry import SignedEnvelope
from millcert.provenance.digest_algorithms import ALGORITHMS, DigestAlgorithm, FoundDigests, is_digest
from millcert.provenance.dsse import IN_TOTO_PAYLOAD_TYPE
from millcert.provenance.listing import DigestTable, Listing, add_path, compare_listing
from millcert.provenance.manifest import MAX_INTEGER, FileEntry, Manifest
from millcert.provenance.trust_root import TrustRoot
from millcert.provenance.trust_signers import Signer, VerifiedSignature

#: The file that the tool writes beside what it signed.
SIGNATURE_NAME = "model.sig"
PREDICATE_V1 = "https://model_signing/signature/v1.0"
PREDICATE_V0 = "https://model_signing/Digests/v0.1"

_READ = ", ".join(ALGORITHMS)
#: Where a signature of ours has sizes and the name-binding root; readers of version 1 pass over what they do not know.
EXTENSION = "millcert"
#: How version 1 names a model that is one file.
_SELF = "."


@dataclass(frozen=True)
class SignedModel:
    """Files that a trusted signer signed.

    manifest: the files, as a manifest of ours, whose root binds their names.
    ignored: files that were found and that the signature excludes; nobody vouches for them.
    """

    signature: VerifiedSignature
    manifest: Manifest
    ignored: tuple[str, ...]


def verify_model(
    files: Manifest,
    bundle: bytes,
    *,
    root: TrustRoot | None,
    identity: Signer | Sequence[Signer],
    is_ignoring_accepted: bool = False,
    is_selection: bool = False,
    allowed: Sequence[DigestAlgorithm] = ("sha256",),
    found: FoundDigests | None = None,
) -> SignedModel:
    """Verify that files are those of an OpenSSF model signature.

    Args:
        files: what was found, without the signature's own file; paths relative to the signed folder.
        bundle: content of the signature's file.
        root: the pinned trusted root; None suffices for signers by key and certificate, which are not logged.
        identity: who may have signed; keys must be accepted unlogged.
        is_ignoring_accepted: whether files that the signature ignores may be there.
        is_selection: `files` is a part that was chosen on purpose.
        allowed: the digests that count, as in `compare_listing`.
        found: digests of `files` besides SHA-256, as there.

    Raises:
        UntrustedSourceError, SignatureError: the signature does not verify, or says something else; `reason` is
            "predicate", "serialization", "digest_algorithm", "subject" or "manifest_root" besides those of a bundle and
            a statement.
        DigestMismatchError, ManifestError: the files are not those that were signed.
    """
    from millcert.provenance.bundle import verify_envelope  # loads sigstore

    # Step 1.
    envelope = verify_envelope(bundle, root=root, identity=identity, encoding=_encoded_v0)
    if envelope.payload_type != IN_TOTO_PAYLOAD_TYPE:
        _refuse("payload_type", f"The signature holds {envelope.payload_type!r:.100}, expected an in-toto statement.")
    # Steps 2 and 3.
    listing, ignoring = read_model_statement(envelope.payload)
    # Step 4.
    unlisted = [entry for entry in files.files if entry.path not in listing.paths]
    ignored = [entry.path for entry in unlisted if _is_ignored(entry.path, ignoring)] if is_ignoring_accepted else []
    left = Manifest(files.name, tuple(entry for entry in files.files if entry.path not in ignored))
    manifest = compare_listing(listing, left, is_selection=is_selection, allowed=allowed, found=found)
    return SignedModel(envelope.signature, manifest, tuple(ignored))


def read_model_statement(payload: bytes) -> tuple[Listing, tuple[str, ...]]:
    """Return the files that a statement lists, and the paths that it ignores (steps 2 and 3); verifies nothing.

    Raises:
        SignatureError: it is no statement of model signing, or of a kind that is not read.
        ManifestError: a path may not stand in a manifest, or is there twice.
    """
    subjects, predicate_type, predicate = read_statement(payload)
    if predicate_type == PREDICATE_V0:
        return _files_v0(subjects), ()
    if predicate_type != PREDICATE_V1:
        _refuse("predicate", f"The signature is {predicate_type!r:.100}; read are {PREDICATE_V1} and {PREDICATE_V0}.")
    serialization, resources = predicate.get("serialization"), predicate.get("resources")
    if not isinstance(serialization, dict) or not isinstance(resources, list) or not resources or len(subjects) != 1:
        _refuse("predicate", "The signature's predicate has no serialization, no resources, or several subjects.")
    if serialization.get("method") != "files":
        _refuse("serialization", f"The signature is over {serialization.get('method')!r:.40}; read are whole files.")
    if serialization.get("hash_type") not in ALGORITHMS:
        _refuse("digest_algorithm", f"The signature uses {serialization.get('hash_type')!r:.40}; read are {_READ}.")
    ignoring = serialization.get("ignore_paths", [])
    if not isinstance(ignoring, list) or not all(isinstance(path, str) for path in ignoring):
        _refuse("predicate", "The signature's ignore_paths is no list of paths.")
    found = _resources(resources, str(serialization.get("hash_type")))
    # Step 3. The signing tool orders by path segments, so "a/b" comes before "a.txt"; the list's own order counts.
    joined = b"".join(bytes.fromhex(digest) for _, digest in found.values())
    if subjects[0].digest.get("sha256") != hashlib.sha256(joined).hexdigest():
        _refuse("subject", "The signature's subject is not the digest of the files that it lists.")
    name = subjects[0].name
    if set(found) == {_SELF}:
        found = {name: found[_SELF]}
    size_bytes = _sizes(predicate.get(EXTENSION), name, found)
    table = DigestTable("signature")
    for path, (algorithm, digest) in found.items():
        table.add(path, algorithm, digest)
    return Listing(name or "model", table.sha256, size_bytes, others=table.others), tuple(ignoring)


def _sizes(extension: object, name: str, found: Mapping[str, tuple[str, str]]) -> Mapping[str, int]:
    """Return the sizes that a signature of ours lists besides, if its root binds them to the names and digests."""
    if extension is None:
        return {}
    sizes = extension.get("size_bytes") if isinstance(extension, dict) else None
    if not isinstance(extension, dict) or set(extension) != {"root", "size_bytes", "version"} or not _is_sizes(sizes):
        _refuse("predicate", f"The signature's {EXTENSION!r} is not as it should be.")
    is_sha256 = all(algorithm == "sha256" for algorithm, _ in found.values())
    if extension["version"] != 1 or len(sizes) != len(found) or not is_sha256:
        _refuse("predicate", f"The signature's {EXTENSION!r} is of another version, or about other files.")
    size_bytes = dict(zip(found, sizes, strict=True))
    manifest = Manifest(name, tuple(FileEntry(path, size_bytes[path], digest) for path, (_, digest) in found.items()))
    if extension["root"] != manifest.root:
        _refuse("manifest_root", "The signature's manifest root is not that of the files that it lists.")
    return size_bytes


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and 0 <= one <= MAX_INTEGER for one in value)


def _files_v0(subjects: Sequence[AttestedSubject]) -> Listing:
    table, seen = DigestTable("signature"), dict[str, str]()
    for one in subjects:
        if not set(one.digest) <= set(ALGORITHMS):
            _refuse("digest_algorithm", f"The signature has {', '.join(sorted(one.digest))[:80]} for {one.name!r:.80}.")
        add_path(seen, one.name, "", "signature")
        for algorithm, digest in one.digest.items():
            table.add(one.name, algorithm, _hex(algorithm, digest, one.name))
    return Listing("model", table.sha256, others=table.others)


def _resources(resources: Sequence[Any], hash_type: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    seen: dict[str, str] = {}
    for one in resources:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            _refuse("predicate", "The signature has a resource without a name.")
        algorithm = one.get("algorithm")
        if algorithm != hash_type:
            _refuse(
                "digest_algorithm",
                f"The signature says {hash_type} and uses {algorithm!r:.40} for {one['name']!r:.80}.",
            )
        add_path(seen, one["name"], "", "signature")
        found[one["name"]] = (algorithm, _hex(algorithm, one.get("digest"), one["name"]))
    if _SELF in found and len(found) > 1:
        raise ManifestError("The signature lists a folder as one of its own files.", hint="Sign the folder again.")
    return found


def _hex(algorithm: str, value: object, name: str) -> str:
    if not isinstance(value, str) or not is_digest(algorithm, value):
        _refuse("predicate", f"The signature has no {algorithm} for {name!r:.80}.")
    return value


def _is_ignored(path: str, ignoring: Sequence[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in ignoring)


def _encoded_v0(envelope: SignedEnvelope) -> bytes:
    """Return what version 0.2 signed: the payload as Python prints bytes, which has one form for each payload."""
    kind, payload = envelope.payload_type, envelope.payload
    return f"DSSEV1 {len(kind)} {kind} {len(payload)} {payload!r}".encode()


def _refuse(reason: str, message: str) -> NoReturn:
    raise SignatureError(message, hint="See docs/formats/oms.md for what is read.", reason=reason)
