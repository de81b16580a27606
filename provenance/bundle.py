"""Verification of a Sigstore bundle, offline, against a pinned trusted root. The only verifier that imports sigstore.

Never a network, a cache, a clock or the home folder. Every exception on the way is a refusal.

The proof, step by step; each block below repeats its number:
  1. The bundle is small, strict JSON with each value in its one form, exactly one log entry, and a certificate or a key
     (provenance/bundle_form.py). Without any entry another proof is owed (provenance/bundle_unlogged.py).
  2. The time of signing: every timestamp that a trusted authority signed, and the log's time, of which step 6 finds
     that the log signed it, or refuses. With a certificate there must be one.
  3. The trusted root, narrowed to what was valid at each of these times, ends included (provenance/bundle_time.py).
  4. The log proof says what it must besides hashes and signatures (provenance/bundle_log.py).
  5. A rule trusts the signer: the certificate's only name and its issuer, or the very key.
  6. The library, under the narrowed root: with a certificate its chain, its validity at each time and the SCT; always
     the inclusion proof, the checkpoint's signature and the signed entry timestamp.
  7. The signature is of that certificate's or rule's key over the content (provenance/public_key.py).
  8. The log entry is about this signature, key and content (provenance/bundle_entry.py).
Steps 7 and 8 are ours for all kinds of key and entry; the library has them for certificates and some kinds of entry.
The caller owes: the trusted root's digest comes from somewhere safe; the artifact is what will be used.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from millcert.errors import IntegrityError, MillcertError, SignatureError, UntrustedSourceError, UsageError
from millcert.provenance.bundle_entry import SignedThing, check_entry, entry_verifier
from millcert.provenance.bundle_form import (
    MAX_BUNDLE_BYTES,
    MAX_ENVELOPE_BUNDLE_BYTES,
    BundleForm,
    ContentKind,
    bundle_digest,
    read_form,
)
from millcert.provenance.bundle_identity import signer_of
from millcert.provenance.bundle_log import LogProof, check_log_proof
from millcert.provenance.bundle_time import narrowed_log, narrowed_root, rfc3339, trusted_times
from millcert.provenance.bundle_unlogged import Encoding, verify_unlogged
from millcert.provenance.public_key import Content, PublicKey, key_verifies
from millcert.provenance.trust_root import TrustRoot, load_trust_root
from millcert.provenance.trust_signers import KeyRule, Signer, SignerRule, VerifiedSignature, as_signers

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore_models.bundle.v1 import Bundle as BundleModel
    from sigstore_models.trustroot.v1 import TransparencyLogInstance, TrustedRoot

__all__ = [
    "MAX_BUNDLE_BYTES",
    "MAX_ENVELOPE_BUNDLE_BYTES",
    "TrustRoot",
    "VerifiedEnvelope",
    "VerifiedSignature",
    "load_trust_root",
    "verify_bundle",
    "verify_digest",
    "verify_envelope",
]

_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class VerifiedEnvelope:
    """A DSSE envelope whose signature verified. The caller decides whether the payload's type and content suffice."""

    payload_type: str
    payload: bytes
    signature: VerifiedSignature


def verify_bundle(
    artifact: bytes, bundle: bytes, *, root: TrustRoot | None, identity: Signer | Sequence[Signer]
) -> VerifiedSignature:
    """Verify that a trusted signer signed these bytes.

    Args:
        artifact: what was signed, whole.
        bundle: Sigstore bundle, JSON, version 0.1 to 0.3, with a message signature.
        root: the pinned trusted root; None suffices only for signers whose unlogged signatures are accepted.
        identity: who may have signed; any one of several.

    Raises:
        UntrustedSourceError: somebody else signed; `reason` is "signer".
        SignatureError: anything else does not verify; `reason` is a stable code, listed in docs/formats/trust.md.
        IntegrityError: the trusted root, though it is the pinned one, cannot be read; `reason` is "trusted_root".
        PolicyError: no signer is named.

    Cost: 3 ms (Rekor v1) to 8 ms (Rekor v2); the first call in a process 1.4 s more, to load sigstore.
    """
    signature, _ = _verify(bundle, root, identity, "messageSignature", Content.of(artifact))
    return signature


def verify_digest(
    sha256: str, bundle: bytes, *, root: TrustRoot | None, identity: Signer | Sequence[Signer]
) -> VerifiedSignature:
    """Verify that a trusted signer signed the bytes that have this digest.

    Arguments, errors and cost are those of `verify_bundle`, but for `sha256`: 64 lower-case hex digits. Ed25519 keys
    sign the whole message, so their signatures are refused here; `reason` is then "needs_message".

    Raises:
        UsageError: `sha256` is no digest.
    """
    if not _HEX64.fullmatch(sha256):
        raise UsageError(f"A SHA-256 digest has 64 lower-case hex digits, got {sha256[:80]!r}.")
    signature, _ = _verify(bundle, root, identity, "messageSignature", Content(bytes.fromhex(sha256)))
    return signature


def verify_envelope(
    bundle: bytes,
    *,
    root: TrustRoot | None,
    identity: Signer | Sequence[Signer],
    encoding: Encoding | None = None,
) -> VerifiedEnvelope:
    """Verify that a trusted signer signed the DSSE envelope in a bundle, and return its payload.

    Arguments, errors and cost are those of `verify_bundle`; `encoding` is a second encoding of the envelope that counts
    too, for unlogged signatures of old formats. The caller owes a look at the payload's type and content.
    """
    signature, form = _verify(bundle, root, identity, "dsseEnvelope", None, encoding)
    if form.envelope is None:
        raise AssertionError("An envelope that verified is there.")
    return VerifiedEnvelope(form.envelope.payload_type, form.envelope.payload, signature)


def _verify(
    data: bytes,
    root: TrustRoot | None,
    identity: Signer | Sequence[Signer],
    kind: ContentKind,
    content: Content | None,
    encoding: Encoding | None = None,
) -> tuple[VerifiedSignature, BundleForm]:
    signers = as_signers(identity)
    try:
        # Step 1.
        form = read_form(data, kind, content)
        if not form.is_logged:
            return verify_unlogged(form, data, signers, encoding=encoding), form
        return _verify_logged(form, data, root, signers), form
    except MillcertError:
        raise
    except BaseException as error:
        # A panic in a library's Rust code is no Exception in Python, and would end a worker where a refusal is due.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _refusal(error) from error


def _verify_logged(
    form: BundleForm, data: bytes, pinned: TrustRoot | None, signers: tuple[Signer, ...]
) -> VerifiedSignature:
    """Steps 1 to 8 for a bundle with a log entry."""
    if pinned is None:
        _refuse("no_trusted_root", "No trusted root is pinned to verify the bundle's log entry against.")
    model = _parse_bundle(form, data)
    whole = _parse_root(pinned)
    material = model.verification_material
    entry = material.tlog_entries[0]
    # Step 2.
    stamps = material.timestamp_verification_data
    timestamps = [stamp.signed_timestamp for stamp in stamps.rfc3161_timestamps] if stamps else []
    times = trusted_times(timestamps, form.signature, entry, whole)
    if not times and not form.has_key:
        _refuse("no_trusted_time", "The bundle has no timestamp of a trusted authority and no signed log time.")
    # Step 3.
    log = narrowed_log(whole, entry.log_id.key_id, times)
    # Step 4.
    log_index = _check_proof(entry, log)
    # Steps 5 and 6.
    by = (
        _key_signer(entry, whole, log, signers)
        if form.has_key
        else _certificate_signer(model, whole, log, times, signers)
    )
    # Step 7.
    if not key_verifies(by.key, form.signature, form.content):
        _refuse("signature", f"The signature is not of {by.identity} over this content.")
    # Step 8.
    check_entry(
        entry.canonicalized_body,
        kind=entry.kind_version.kind,
        version=entry.kind_version.version,
        thing=SignedThing(form.content, form.signature, by.verifier, form.envelope),
    )
    return VerifiedSignature(
        identity=by.identity,
        issuer=by.issuer,
        signed_at=rfc3339(min(times)) if times else None,
        log_index=log_index,
        log_key_id=entry.log_id.key_id.hex(),
        bundle_sha256=bundle_digest(data),
        trusted_root_sha256=pinned.sha256,
    )


@dataclass(frozen=True)
class _By:
    """Who signed, as steps 5 and 6 found: key is a loaded public key, verifier its DER or the certificate's."""

    identity: str
    issuer: str
    key: object
    verifier: bytes


def _parse_bundle(form: BundleForm, data: bytes) -> "BundleModel":
    """Step 1, as the library's models have it."""
    from sigstore_models.bundle.v1 import Bundle as BundleModel

    try:
        model = BundleModel.from_json(data)
    except ValueError as error:
        raise SignatureError(
            f"The bundle is malformed: {_said(error)}.", hint="Is this the bundle?", reason="bundle_malformed"
        ) from error
    # The models skip characters that are no base64, and read "+3" and " 3" as 3: one value would have many forms.
    if model.to_dict() != _without_nulls(form.document):
        _refuse("bundle_malformed", "The bundle has a number or base64 text that is not in its one form.")
    if len(model.verification_material.tlog_entries) != 1:
        _refuse("bundle_malformed", "The bundle must have exactly one log entry.")
    _refuse_roots(model)
    return model


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _check_proof(entry: Any, log: "TransparencyLogInstance") -> int:
    proof = entry.inclusion_proof
    if proof is None:
        _refuse("bundle_malformed", "The bundle's log entry has no inclusion proof.")
    return check_log_proof(
        LogProof(
            log_index=int(entry.log_index),
            is_index_signed=bool(entry.inclusion_promise and entry.integrated_time),
            is_index_global=(entry.kind_version.kind, entry.kind_version.version) != ("hashedrekord", "0.0.2"),
            proof_index=int(proof.log_index),
            tree_size=int(proof.tree_size),
            root_hash=bytes(proof.root_hash),
            checkpoint=proof.checkpoint.envelope if proof.checkpoint else "",
        ),
        log_url=log.base_url,
    )


def _key_signer(entry: Any, whole: "TrustedRoot", log: "TransparencyLogInstance", signers: tuple[Signer, ...]) -> _By:
    """Steps 5 and 6 for a bare key: the one that the log entry names, if a rule has it."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key
    from sigstore._internal.trust import KeyringPurpose
    from sigstore.models import TransparencyLogEntry, TrustedRoot

    # Step 5.
    spki = entry_verifier(entry.canonicalized_body)
    rule = next((rule for rule in signers if isinstance(rule, KeyRule) and rule.key.spki == spki), None)
    if rule is None or spki is None:
        claimed = KeyRule(PublicKey(spki)).identity if spki else "a key that cannot be read"
        _refuse_signer(claimed, "", signers)
    # Step 6.
    narrowed = TrustedRoot(whole.model_copy(update={"tlogs": [log]}))
    TransparencyLogEntry(entry)._verify(narrowed.rekor_keyring(KeyringPurpose.VERIFY))  # noqa: SLF001 - no public way
    return _By(rule.identity, "", load_der_public_key(spki), spki)


def _certificate_signer(
    model: "BundleModel",
    whole: "TrustedRoot",
    log: "TransparencyLogInstance",
    times: Sequence[datetime],
    signers: tuple[Signer, ...],
) -> _By:
    """Steps 5 and 6 for a certificate: the library's checks with our policy between them."""
    from cryptography.hazmat.primitives.serialization import Encoding as KeyEncoding
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore_models.rekor.v1 import KindVersion

    entry = model.verification_material.tlog_entries[0]
    if entry.kind_version.kind == "intoto":
        # The library takes log times of its own kinds only. Nothing signs the kind; step 8 reads the one in the body.
        own = entry.model_copy(update={"kind_version": KindVersion(kind="dsse", version="0.0.1")})
        material = model.verification_material.model_copy(update={"tlog_entries": [own]})
        model = model.model_copy(update={"verification_material": material})
    bundle = Bundle(model)
    verifier = Verifier(trusted_root=TrustedRoot(narrowed_root(whole, log, times)))
    policy = _SignerPolicy(signers)
    verifier._verify_common_signing_cert(bundle, policy)  # noqa: SLF001 - the public ways read fewer kinds of entry
    certificate = bundle.signing_certificate
    identity, issuer = signer_of(certificate)
    return _By(identity, issuer, certificate.public_key(), certificate.public_bytes(KeyEncoding.DER))


def _refuse_roots(model: "BundleModel") -> None:
    """Refuse a bundle that brings a root of its own: roots come from the trusted root only."""
    from cryptography.x509 import load_der_x509_certificate

    chain = model.verification_material.x509_certificate_chain
    for link in chain.certificates[1:] if chain else ():
        certificate = load_der_x509_certificate(link.raw_bytes)
        if certificate.subject == certificate.issuer:
            _refuse("certificate_chain", "The bundle has a root certificate among its own.")


class _SignerPolicy:
    """Step 5, as the library's step between certificate and log."""

    def __init__(self, signers: tuple[Signer, ...]) -> None:
        self._signers = signers

    def verify(self, cert: "Certificate") -> None:
        # Step 5.
        identity, issuer = signer_of(cert)
        rules = [rule for rule in self._signers if isinstance(rule, SignerRule)]
        if not any(rule.matches(issuer=issuer, identity=identity) for rule in rules):
            _refuse_signer(identity, issuer, self._signers)


def _parse_root(root: TrustRoot) -> "TrustedRoot":
    from sigstore_models.trustroot.v1 import TrustedRoot

    try:
        return TrustedRoot.from_json(root.data)
    except Exception as error:
        raise IntegrityError(
            f"The trusted root {root.sha256} cannot be read: {_said(error)}.",
            hint="Pin a Sigstore trusted root (trusted_root.json).",
            reason="trusted_root",
        ) from error


def _refusal(error: BaseException) -> SignatureError:
    """Return our refusal for whatever the library raised: its own errors, and the stray ones that it lets through."""
    from sigstore.errors import CertValidationError, VerificationError
    from sigstore.models import InvalidBundle

    if isinstance(error, InvalidBundle):
        reason = "bundle_malformed"
    elif isinstance(error, CertValidationError):
        reason = "certificate_chain"
    elif isinstance(error, VerificationError):
        reason = "not_verified"
    else:
        reason = "library_error"
    return SignatureError(
        f"The signature does not verify: {_said(error)}.",
        hint="Fetch the file and its bundle again, or ask the owner to sign again.",
        reason=reason,
    )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _refuse_signer(identity: str, issuer: str, signers: tuple[Signer, ...]) -> NoReturn:
    by = f" by {issuer}" if issuer else ""
    raise UntrustedSourceError(
        f"The signer is {identity}{by}; trusted are: {'; '.join(str(rule) for rule in signers)}.",
        hint="If this signer should be trusted, name it in the policy.",
        reason="signer",
        identity=identity,
        issuer=issuer,
    )


def _refuse(reason: str, message: str, *, hint: str = "Ask the owner to sign again.") -> NoReturn:
    raise SignatureError(message, hint=hint, reason=reason)
