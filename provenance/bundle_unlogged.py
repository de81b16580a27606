"""Signatures that no transparency log has: by a bare key, or under a certificate authority of one's own. No sigstore.

They have no trusted time and nobody can see that the key was misused, so a rule must accept them by name. OpenSSF model
signing's key and certificate modes make them.

The proof, step by step; each block below repeats its number:
  1. Some rule accepts unlogged signatures of this material (a key, or a certificate).
  2. With a certificate: it leads to an authority of the rule through the bundle's other certificates, each issuer an
     authority that was valid when the certificate began; it may sign data; and its subject is the rule's.
     Nothing tells when it signed, so its own end means nothing, and it cannot be revoked.
  3. The signature is of the rule's or the certificate's key over the content.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from millcert.errors import PolicyError, SignatureError, UntrustedSourceError
from millcert.provenance.bundle_entry import SignedEnvelope
from millcert.provenance.bundle_form import BundleForm, bundle_digest
from millcert.provenance.checkpoint import decode_base64
from millcert.provenance.public_key import Content, key_verifies, parse_public_key
from millcert.provenance.trust_signers import AuthorityRule, KeyRule, Signer, VerifiedSignature

#: Another way than DSSE's to encode an envelope for signing, which the caller's format knows.
Encoding = Callable[[SignedEnvelope], bytes]

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)
_MAX_CHAIN = 8
#: Extensions that are evaluated here, or that say nothing about who may sign what. Any other critical one refuses.
_READ_EXTENSIONS = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)


def verify_unlogged(
    form: BundleForm, data: bytes, signers: Sequence[Signer], *, encoding: Encoding | None = None
) -> VerifiedSignature:
    """Verify a signature without a log entry.

    Args:
        form: the bundle's parts.
        data: its bytes, for the record.
        signers: who may have signed; any one of several.
        encoding: a second encoding of the envelope that counts too.

    Raises:
        SignatureError: it does not verify, or no rule accepts it without a log; `reason` is "unlogged", "signature",
            "certificate_chain" or "bundle_malformed".
        UntrustedSourceError: it is by somebody whom no rule names; `reason` is "signer".
    """
    contents = [form.content]
    if encoding is not None and form.envelope is not None:
        contents.append(Content.of(encoding(form.envelope)))
    identity = _by_key(form, signers, contents) if form.has_key else _by_certificate(form, signers, contents)
    return VerifiedSignature(
        identity=identity,
        issuer="",
        signed_at=None,
        log_index=None,
        log_key_id="",
        bundle_sha256=bundle_digest(data),
        trusted_root_sha256="",
    )


def _by_key(form: BundleForm, signers: Sequence[Signer], contents: Sequence[Content]) -> str:
    # Steps 1 and 3.
    keys = [rule for rule in signers if isinstance(rule, KeyRule)]
    for rule in keys:
        if any(rule.key.verifies(form.signature, content) for content in contents):
            if rule.is_unlogged_accepted:
                return rule.identity
            _refuse_unlogged()
    shown = _shown_key(form)
    if shown is not None and shown not in {rule.identity for rule in keys}:
        _refuse_signer(shown, signers)
    if not keys:
        _refuse_signer("a bare key", signers)
    return _refuse("signature", "The signature is not of a trusted key over this content.")


def _by_certificate(form: BundleForm, signers: Sequence[Signer], contents: Sequence[Content]) -> str:
    # Step 1.
    rules = [rule for rule in signers if isinstance(rule, AuthorityRule)]
    if not rules:
        _refuse_unlogged()
    leaf, *others = _certificates(form)
    subject = leaf.subject.rfc4514_string()
    # Step 2.
    named = [rule for rule in rules if rule.identity == subject]
    if not named:
        _refuse_signer(subject, signers)
    _require_signing(leaf)
    if not any(_leads(leaf, others, rule) for rule in named):
        _refuse("certificate_chain", f"The certificate of {subject} leads to no authority of the policy.")
    # Step 3.
    if not any(key_verifies(leaf.public_key(), form.signature, content) for content in contents):
        _refuse("signature", "The signature is not of the certificate's key over this content.")
    return subject


def _certificates(form: BundleForm) -> list[x509.Certificate]:
    chain = form.material.get("x509CertificateChain")
    links = chain.get("certificates") if isinstance(chain, dict) else [form.material.get("certificate")]
    if not isinstance(links, list) or not 1 <= len(links) <= _MAX_CHAIN:
        _refuse("bundle_malformed", f"The bundle must have 1 to {_MAX_CHAIN} certificates.")
    found = []
    for link in links:
        raw = link.get("rawBytes") if isinstance(link, dict) else None
        data = decode_base64(raw) if isinstance(raw, str) else None
        try:
            found.append(x509.load_der_x509_certificate(data or b""))
        except ValueError as error:
            raise SignatureError(
                f"A certificate of the bundle cannot be read: {error}.", reason="bundle_malformed"
            ) from error
    return found


def _require_signing(leaf: x509.Certificate) -> None:
    usage = _extension(leaf, x509.KeyUsage)
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is None or not usage.digital_signature:
        _refuse("certificate_chain", "The certificate may not sign data: its key usage does not say so.")
    if purposes is not None and ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        _refuse("certificate_chain", "The certificate is for other purposes than signing code and data.")


def _leads(leaf: x509.Certificate, others: Sequence[x509.Certificate], rule: AuthorityRule) -> bool:
    """Tell whether a path of issuers leads to one of the rule's authorities; each certificate is used once."""
    anchors = [x509.load_der_x509_certificate(data) for data in rule.authorities]
    moment = leaf.not_valid_before_utc
    paths: list[tuple[x509.Certificate, ...]] = [(leaf,)]
    # At most one path a certificate and length: names and signatures leave no more, and _MAX_CHAIN bounds both.
    while paths:
        path = paths.pop()
        if not _is_understood(path[-1]):
            continue
        depth = len(path) - 1
        if any(_issued(anchor, path[-1], moment, depth) and _is_understood(anchor) for anchor in anchors):
            return True
        paths += [(*path, one) for one in others if one not in path and _issued(one, path[-1], moment, depth)]
    return False


def _issued(issuer: x509.Certificate, subject: x509.Certificate, moment: datetime, depth: int) -> bool:
    """Tell whether `issuer` is an authority, valid at that moment, that issued `subject` with `depth` links below."""
    limits, usage = _extension(issuer, x509.BasicConstraints), _extension(issuer, x509.KeyUsage)
    if limits is None or not limits.ca or (limits.path_length is not None and limits.path_length < depth):
        return False
    if usage is not None and not usage.key_cert_sign:
        return False
    if not issuer.not_valid_before_utc <= moment <= issuer.not_valid_after_utc:
        return False
    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_understood(certificate: x509.Certificate) -> bool:
    return all(one.oid in _READ_EXTENSIONS for one in certificate.extensions if one.critical)


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _shown_key(form: BundleForm) -> str | None:
    """Return the name of the key that the bundle itself shows, if it shows one; it proves nothing."""
    shown = form.material["publicKey"]
    raw = shown.get("rawBytes") if isinstance(shown, dict) else None
    data = decode_base64(raw) if isinstance(raw, str) else None
    try:
        return None if data is None else KeyRule(parse_public_key(data)).identity
    except PolicyError:
        return None


def _refuse_unlogged() -> NoReturn:
    _refuse(
        "unlogged",
        "No transparency log has the signature, and no rule accepts that of this signer.",
        hint="Ask the owner to sign with a log, or accept unlogged signatures of that key in the policy.",
    )


def _refuse_signer(identity: str, signers: Sequence[Signer]) -> NoReturn:
    raise UntrustedSourceError(
        f"The signature claims to be of {identity}; trusted are: {'; '.join(map(str, signers))}.",
        hint="If this signer should be trusted, name it in the policy.",
        reason="signer",
        identity=identity,
        issuer="",
    )


def _refuse(reason: str, message: str, *, hint: str = "Ask the owner to sign again.") -> NoReturn:
    raise SignatureError(message, hint=hint, reason=reason)
