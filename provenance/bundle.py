"""Verification of a Sigstore bundle, offline, against a pinned trusted root. The only importer of sigstore.

Never a network, a cache, a clock or the home folder. Every exception on the way is a refusal.

The proof, step by step; each block below repeats its number:
  1. The bundle is small, strict JSON, with a certificate (no bare key) and exactly one log entry.
  2. The time of signing: every timestamp that a trusted timestamp authority signed, and the log's time, of which step 6
     finds that the log signed it, or refuses.
  3. The trusted root, narrowed to what was valid at each of these times, ends included: the one log that the entry
     names, the certificate transparency logs, the authorities. The library alone takes keys whose time was over.
  4. The log proof says what it must besides hashes and signatures (provenance/bundle_log.py).
  5. The certificate has exactly one name, an email address or a URI, and one issuer, and a rule trusts both.
  6. The library, under the narrowed root: the certificate's chain and its validity at each time; the SCT; step 5; the
     inclusion proof; the checkpoint's signature; the signed entry timestamp; the artifact's signature; that the entry
     is this signature's.
The caller owes: the trusted root's digest comes from somewhere safe; the artifact is what will be used.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from millcert.errors import IntegrityError, MillcertError, PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.bundle_log import LogProof, check_log_proof
from millcert.provenance.strict_json import parse_json_object
from millcert.provenance.trust import SignerRule, TrustRoot, VerifiedSignature, load_trust_root

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle
    from sigstore_models.trustroot.v1 import TransparencyLogInstance, TrustedRoot

__all__ = [
    "MAX_BUNDLE_BYTES",
    "TrustRoot",
    "VerifiedEnvelope",
    "VerifiedSignature",
    "load_trust_root",
    "verify_bundle",
    "verify_envelope",
]

#: Real bundles have about 10 kB; one with an envelope has its payload besides.
MAX_BUNDLE_BYTES = 4 * 1024 * 1024

#: Kinds of log entry that say which signature they are about, in a way that the library compares.
_ENTRY_KINDS = (("hashedrekord", "0.0.1"), ("hashedrekord", "0.0.2"), ("dsse", "0.0.1"))
_KINDS_TEXT = ", ".join("/".join(kind) for kind in _ENTRY_KINDS)
_ISSUER_V1 = "1.3.6.1.4.1.57264.1.1"
_ISSUER_V2 = "1.3.6.1.4.1.57264.1.8"


@dataclass(frozen=True)
class VerifiedEnvelope:
    """A DSSE envelope whose signature verified. The caller decides whether the payload's type and content suffice."""

    payload_type: str
    payload: bytes
    signature: VerifiedSignature


def verify_bundle(
    artifact: bytes, bundle: bytes, *, root: TrustRoot, identity: SignerRule | Sequence[SignerRule]
) -> VerifiedSignature:
    """Verify that a trusted signer signed these bytes.

    Args:
        artifact: what was signed, whole.
        bundle: Sigstore bundle, JSON, version 0.1 to 0.3, with a message signature and a certificate.
        root: the pinned trusted root.
        identity: who may have signed; any one of several.

    Raises:
        UntrustedSourceError: somebody else signed; `reason` is "signer".
        SignatureError: anything else does not verify; `reason` is a stable code, listed in docs/formats/trust.md.
        IntegrityError: the trusted root, though it is the pinned one, cannot be read; `reason` is "trusted_root".
        PolicyError: no signer is named.

    Cost: 3 ms (Rekor v1) to 8 ms (Rekor v2); the first call in a process 1.4 s more, to load sigstore.
    """
    signers = _signers(identity)
    try:
        checked = _check(bundle, root, "messageSignature")
        checked.verifier.verify_artifact(artifact, checked.bundle, _SignerPolicy(signers))
        return _answer(checked, bundle, root)
    except MillcertError:
        raise
    except Exception as error:
        raise _refusal(error) from error


def verify_envelope(bundle: bytes, *, root: TrustRoot, identity: SignerRule | Sequence[SignerRule]) -> VerifiedEnvelope:
    """Verify that a trusted signer signed the DSSE envelope in a bundle, and return its payload.

    Arguments, errors and cost are those of `verify_bundle`. Log entries of kind dsse/0.0.1 and hashedrekord/0.0.2 are
    read; the older intoto kinds are refused.
    """
    signers = _signers(identity)
    try:
        checked = _check(bundle, root, "dsseEnvelope")
        payload_type, payload = checked.verifier.verify_dsse(checked.bundle, _SignerPolicy(signers))
        return VerifiedEnvelope(payload_type, payload, _answer(checked, bundle, root))
    except MillcertError:
        raise
    except Exception as error:
        raise _refusal(error) from error


@dataclass(frozen=True)
class _Checked:
    """What steps 1 to 4 leave for step 6: the bundle, a verifier under the narrowed root, and what they found."""

    bundle: "Bundle"
    verifier: Any
    signed_at: datetime
    log_index: int


def _check(data: bytes, root: TrustRoot, content: str) -> _Checked:
    """Steps 1 to 4."""
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier

    # Step 1.
    _check_form(data, content)
    bundle = Bundle.from_json(data)
    entry = bundle.log_entry._inner  # noqa: SLF001 - the library shows entries to nobody
    if (entry.kind_version.kind, entry.kind_version.version) not in _ENTRY_KINDS:
        kind = f"{entry.kind_version.kind}/{entry.kind_version.version}"
        _refuse("entry_kind", f"The log entry is of kind {kind:.80}; read are {_KINDS_TEXT}.")
    whole = _parse_root(root)
    # Step 2.
    times = [result.time for result in Verifier(trusted_root=TrustedRoot(whole))._establish_time(bundle)]  # noqa: SLF001 - the library authenticates times nowhere else
    if not times:
        _refuse("no_trusted_time", "The bundle has no timestamp of a trusted authority and no signed log time.")
    # Step 3.
    log = _log_of(whole, entry.log_id.key_id, times)
    narrowed = _narrow(whole, log, times)
    # Step 4.
    proof = entry.inclusion_proof
    log_index = check_log_proof(
        LogProof(
            log_index=int(entry.log_index),
            is_index_signed=bool(entry.inclusion_promise and entry.integrated_time),
            is_index_global=entry.kind_version.version == "0.0.1",
            proof_index=int(proof.log_index),
            tree_size=int(proof.tree_size),
            root_hash=bytes(proof.root_hash),
            checkpoint=proof.checkpoint.envelope if proof.checkpoint else "",
        ),
        log_url=log.base_url,
    )
    return _Checked(bundle, Verifier(trusted_root=TrustedRoot(narrowed)), min(times), log_index)


class _SignerPolicy:
    """Step 5, as the library's step between certificate and log."""

    def __init__(self, signers: tuple[SignerRule, ...]) -> None:
        self._signers = signers

    def verify(self, cert: "Certificate") -> None:
        # Step 5.
        identity, issuer = _signer_of(cert)
        if not any(rule.matches(issuer=issuer, identity=identity) for rule in self._signers):
            trusted = "; ".join(str(rule) for rule in self._signers)
            raise UntrustedSourceError(
                f"The signer is {identity} by {issuer}; trusted are: {trusted}.",
                hint="If this signer should be trusted, name it in the policy.",
                reason="signer",
                identity=identity,
                issuer=issuer,
            )


def _signers(identity: SignerRule | Sequence[SignerRule]) -> tuple[SignerRule, ...]:
    signers = (identity,) if isinstance(identity, SignerRule) else tuple(identity)
    if not signers:
        raise PolicyError("A signature cannot be verified without a signer who is trusted.")
    return signers


def _check_form(data: bytes, content: str) -> None:
    try:
        document = parse_json_object(data, what="bundle", max_bytes=MAX_BUNDLE_BYTES, error=SignatureError)
    except SignatureError as error:
        raise SignatureError(error.message, hint="Is this the bundle?", reason="bundle_malformed") from error
    material = document.get("verificationMaterial")
    if isinstance(material, dict) and "publicKey" in material:
        _refuse(
            "managed_key",
            "The bundle is signed with a bare key; signatures by key are not supported yet.",
            hint="Sign with an identity (keyless).",
        )
    if content not in document:
        found = "a DSSE envelope" if "dsseEnvelope" in document else "no message signature"
        wanted = "a DSSE envelope" if content == "dsseEnvelope" else "a signature over the file itself"
        _refuse("content", f"The bundle holds {found}; expected {wanted}.", hint="Sign with `sigstore sign FILE`.")


def _parse_root(root: TrustRoot) -> "TrustedRoot":
    from sigstore_models.trustroot.v1 import TrustedRoot

    try:
        return TrustedRoot.from_json(root.data)
    except Exception as error:
        raise IntegrityError(
            f"The trusted root {root.sha256} cannot be read: {error}.",
            hint="Pin a Sigstore trusted root (trusted_root.json).",
            reason="trusted_root",
        ) from error


def _log_of(root: "TrustedRoot", log_id: bytes, times: Sequence[datetime]) -> "TransparencyLogInstance":
    named = [log for log in root.tlogs if log.log_id.key_id == log_id]
    if not named:
        _refuse("log_unknown", f"The entry is of the log {log_id.hex()}, which the trusted root does not have.")
    valid = [log for log in named if _is_valid(log.public_key.valid_for, times)]
    if not valid:
        _refuse("log_not_valid", f"The log {named[0].base_url} was not valid at {_rfc3339(min(times))}.")
    return valid[0]


def _narrow(root: "TrustedRoot", log: "TransparencyLogInstance", times: Sequence[datetime]) -> "TrustedRoot":
    ct_logs = [one for one in root.ctlogs if _is_valid(one.public_key.valid_for, times)]
    if not ct_logs:
        _refuse("ct_log_not_valid", f"No certificate transparency log was valid at {_rfc3339(min(times))}.")
    authorities = [one for one in root.certificate_authorities if _is_valid(one.valid_for, times)]
    if not authorities:
        _refuse("authority_not_valid", f"No certificate authority was valid at {_rfc3339(min(times))}.")
    return root.model_copy(update={"tlogs": [log], "ctlogs": ct_logs, "certificate_authorities": authorities})


def _is_valid(window: Any, times: Sequence[datetime]) -> bool:
    """Tell whether a window (start, end or None; both included) holds all times. No window at all is never valid."""
    if window is None or window.start is None:
        return False
    return all(window.start <= time and (window.end is None or time <= window.end) for time in times)


def _signer_of(certificate: "Certificate") -> tuple[str, str]:
    """Return the certificate's identity and issuer.

    Raises:
        SignatureError: not exactly one name of a known kind, no issuer, or two different ones.
    """
    from cryptography import x509
    from cryptography.hazmat import asn1

    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], (x509.RFC822Name, x509.UniformResourceIdentifier)):
        _refuse("certificate_names", "The certificate must have exactly one name, an email address or a URI.")
    issuers: set[str] = set()
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.UnrecognizedExtension):
            if extension.oid.dotted_string == _ISSUER_V1:
                issuers.add(value.value.decode("utf-8"))
            elif extension.oid.dotted_string == _ISSUER_V2:
                issuers.add(asn1.decode_der(str, value.value))
    if len(issuers) != 1:
        _refuse("certificate_issuer", f"The certificate must name one issuer, it names {len(issuers)}.")
    return names[0].value, issuers.pop()


def _answer(checked: _Checked, bundle: bytes, root: TrustRoot) -> VerifiedSignature:
    identity, issuer = _signer_of(checked.bundle.signing_certificate)
    return VerifiedSignature(
        identity=identity,
        issuer=issuer,
        signed_at=_rfc3339(checked.signed_at),
        log_index=checked.log_index,
        log_key_id=checked.bundle.log_entry._inner.log_id.key_id.hex(),  # noqa: SLF001 - as in step 3
        bundle_sha256=hashlib.sha256(bundle).hexdigest(),
        trusted_root_sha256=root.sha256,
    )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _refusal(error: Exception) -> SignatureError:
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
    said = " ".join(str(error).split())[:500] or type(error).__name__
    return SignatureError(
        f"The signature does not verify: {said}.",
        hint="Fetch the file and its bundle again, or ask the owner to sign again.",
        reason=reason,
    )


def _refuse(reason: str, message: str, *, hint: str = "Ask the owner to sign again.") -> NoReturn:
    raise SignatureError(message, hint=hint, reason=reason)
