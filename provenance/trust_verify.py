"""The verification of one source, under its rule.

The proof, step by step; each block below repeats its number:
  1. Without a bundle: the rule accepts that; files that differ from an unsigned list were damaged at least.
  2. With one: the rule names signers, and a trusted one signed the very list of files (or, for a model signature, the
     statement that holds it), in time.
     Where the rule pins post-quantum keys, one of them signed the same bytes, too (provenance/pq_signature.py).
  3. The files are exactly those of the list.
  4. The licence that the signed list states is one that the rule allows.
  5. Each attestation that the rule asks for is there, is about this list, and says what the rule asks for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from millcert.errors import ManifestError, SignatureError, UntrustedSourceError
from millcert.provenance.digest_algorithms import FoundDigests
from millcert.provenance.listing import Listing, compare_listing
from millcert.provenance.manifest import Manifest, compare_manifests, parse_manifest
from millcert.provenance.trust_root import TrustRoot
from millcert.provenance.trust_rules import SourceRule
from millcert.provenance.trust_signers import VerifiedSignature


@dataclass(frozen=True)
class VerifiedSource:
    """The outcome for one source.

    status: "verified": a trusted signer signed a manifest of exactly these bytes; "unknown": unsigned, as accepted.
    signature: None where the status is "unknown".
    manifest_root: of the signed manifest, or, where there is none, of what was found.
    manifest: what was signed; None where the status is "unknown".
    pq_key: SHA-256 of the post-quantum key that signed too, hex; "" where the rule asks for none.
    """

    source: str
    status: Literal["verified", "unknown"]
    signature: VerifiedSignature | None
    manifest_root: str
    manifest: Manifest | None = field(default=None, compare=False, repr=False)
    pq_key: str = ""


def verify_source(
    files: Manifest,
    manifest_bytes: bytes | None,
    bundle_bytes: bytes | None,
    rule: SourceRule,
    root: TrustRoot | None,
    *,
    is_selection: bool = False,
    attestations: Mapping[str, bytes] | None = None,
    pq_bytes: bytes | None = None,
    digests: FoundDigests | None = None,
) -> VerifiedSource:
    """Verify one source: signature, signer, every file's bytes, and what else its rule asks for.

    The caller owes: `files` was computed from the bytes that will be used, and holds every file that `rule` matches;
    the rule has not expired (`refuse_expired`).

    Args:
        files: what was found, paths relative to `rule.directory`.
        manifest_bytes: content of `rule.manifest_path`; None where there is no such file.
        bundle_bytes: content of `rule.bundle_path`; None where there is no such file.
        rule: who may sign.
        root: the pinned trusted root; None where the policy pins none.
        is_selection: `files` is a part that was chosen on purpose: files that only the manifest lists are not missing.
        attestations: content of the attestations that are there, by the place that the rule gives.
        pq_bytes: content of `rule.pq_path`; None where there is no such file.
        digests: of `files` under every algorithm of `rule.digests` but SHA-256, taken in the same read.

    Raises:
        UntrustedSourceError: no signature where one is needed, a signer that the rule does not trust, a signature where
            the rule names no signer, or a demand of the rule that is not met. `reason` is a stable code.
        SignatureError: the signature does not verify; `reason` is a stable code.
        ManifestError, DigestMismatchError: the manifest is malformed, or the files are not those that it lists.
    """
    if bundle_bytes is None:
        return _unsigned(files, manifest_bytes, rule, digests, is_selection=is_selection)  # 1
    if rule.signed_by is None:
        raise UntrustedSourceError(
            f"Source {rule.name!r} has a signature at {rule.bundle_path}, but its rule names no signer.",
            hint="Name the signer in the policy, or remove the bundle.",
            reason="no_signer_named",
            source=rule.name,
        )
    if manifest_bytes is None:
        raise ManifestError(
            f"Source {rule.name!r} has a signature at {rule.bundle_path} but no manifest at {rule.manifest_path}.",
            hint="Fetch the manifest that was signed.",
            source=rule.name,
        )
    if root is None and rule.needs_trust_root:
        raise SignatureError(
            f"Source {rule.name!r} has a signature, but no trusted root is pinned to verify it against.",
            hint="Pin a trusted root in the policy.",
            reason="no_trusted_root",
            source=rule.name,
        )
    if rule.form == "model_signing":
        from millcert.provenance.oms import verify_model

        model = verify_model(
            files,
            bundle_bytes,
            root=root,
            identity=rule.signed_by,
            is_selection=is_selection,
            allowed=rule.digests,
            found=digests,
        )
        signature, signed, stated = model.signature, model.manifest, ""
    else:
        from millcert.provenance.bundle import verify_bundle  # loads sigstore: a second, and only where a bundle is

        signature = verify_bundle(manifest_bytes, bundle_bytes, root=root, identity=rule.signed_by)  # 2
        signed, stated = _compared(rule, manifest_bytes, files, digests, is_selection=is_selection)  # 3
    pq_key = _require_pq(rule, manifest_bytes, pq_bytes)  # 2
    require_age(rule, signature)  # 2
    _require_license(rule, stated)  # 4
    _require_attestations(rule, manifest_bytes, signed, root, attestations or {})  # 5
    return VerifiedSource(rule.name, "verified", signature, signed.root, signed, pq_key)


def _unsigned(
    files: Manifest,
    manifest_bytes: bytes | None,
    rule: SourceRule,
    digests: FoundDigests | None,
    *,
    is_selection: bool,
) -> VerifiedSource:
    if not rule.unsigned_accepted:
        raise UntrustedSourceError(
            f"Source {rule.name!r} has no signature at {rule.bundle_path}, and its rule does not accept that.",
            hint="Ask its owner to sign the manifest, or accept the source as unsigned in the policy.",
            reason="unsigned",
            source=rule.name,
        )
    if manifest_bytes is None:
        return VerifiedSource(rule.name, "unknown", None, files.root)
    # Nobody vouches for the list, but files that differ from it were damaged on the way at least.
    claimed, _ = _compared(rule, manifest_bytes, files, digests, is_selection=is_selection)
    return VerifiedSource(rule.name, "unknown", None, claimed.root)


def _compared(
    rule: SourceRule, data: bytes, files: Manifest, digests: FoundDigests | None, *, is_selection: bool
) -> tuple[Manifest, str]:
    """Return the list that `data` holds, as a manifest, and the licence that it states, if the files are its files."""
    if rule.form == "manifest":
        manifest = parse_manifest(data)
        compare_manifests(manifest, files, is_selection=is_selection)
        return manifest, ""
    listing = _read_list(rule, data)
    signed = compare_listing(listing, files, is_selection=is_selection, allowed=rule.digests, found=digests)
    return signed, listing.license


def _read_list(rule: SourceRule, data: bytes) -> Listing:
    from millcert.provenance.checksums import parse_bagit_manifest, parse_checksums
    from millcert.provenance.croissant import parse_croissant

    if rule.form == "checksums":
        return parse_checksums(data, name=rule.manifest_path)
    return parse_bagit_manifest(data, name=rule.manifest_path) if rule.form == "bagit" else parse_croissant(data)


def _require_pq(rule: SourceRule, signed: bytes, pq_bytes: bytes | None) -> str:
    if not rule.pq_keys:
        return ""
    from millcert.provenance.bundle_form import envelope_content
    from millcert.provenance.pq_signature import verify_pq

    content = envelope_content(signed) if rule.form == "model_signing" else signed
    return verify_pq(pq_bytes, content, rule.pq_keys).sha256


def require_age(rule: SourceRule, signature: VerifiedSignature) -> None:
    """Refuse a signature that is not as old as its rule asks.

    Raises:
        UntrustedSourceError: it is too fresh, or nothing tells when it was made; `reason` is a stable code.
    """
    if rule.signed_before is None:
        return
    if signature.signed_at is None:
        raise UntrustedSourceError(
            f"Source {rule.name!r} must have been signed by {rule.signed_before}, and nothing tells when it was.",
            hint="Ask the owner for a signature with a trusted time.",
            reason="age_unknown",
            source=rule.name,
        )
    if datetime.fromisoformat(signature.signed_at) > rule.signed_before:
        raise UntrustedSourceError(
            f"Source {rule.name!r} was signed at {signature.signed_at}, after {rule.signed_before}: it is too fresh.",
            hint="Wait until others have seen it, or lower sources[].min_age_days.",
            reason="too_fresh",
            source=rule.name,
        )


def _require_license(rule: SourceRule, stated: str) -> None:
    from millcert.provenance.spdx_license import is_license_covered

    if rule.licenses is not None and not is_license_covered(stated, rule.licenses):
        raise UntrustedSourceError(
            f"Source {rule.name!r} states the licence {stated!r:.200}; allowed are {', '.join(rule.licenses)}.",
            hint="Add the licence to the policy's list if it may be used, or leave the source out.",
            reason="license",
            source=rule.name,
            license=stated,
        )


def _require_attestations(
    rule: SourceRule, data: bytes, signed: Manifest, root: TrustRoot | None, given: Mapping[str, bytes]
) -> None:
    from millcert.provenance.attestation import check_attestation, verify_attestation

    # Either digest binds every file: that of the list's bytes, which common tools take, and our manifest root.
    about = (hashlib.sha256(data).hexdigest(), signed.root)
    for wanted in rule.attestations:
        bundle = given.get(wanted.bundle)
        if bundle is None:
            raise UntrustedSourceError(
                f"Source {rule.name!r} has no attestation {wanted.predicate_type} at {wanted.bundle}.",
                hint="Ask the owner for it, or take it out of the policy.",
                reason="attestation_missing",
                source=rule.name,
            )
        check_attestation(verify_attestation(bundle, about, root=root, identity=wanted.signed_by), wanted)
