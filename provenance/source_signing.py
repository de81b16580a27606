"""Sign a source's list of files, or an OpenSSF model statement, and verify what came out before anybody sees it.

Rules this module keeps:
  1. Nothing is returned that the gate's own verifier refuses: a service that answers with something else, a timestamp
     authority that was left out, or a key that is another one than named is found here, not by the consumer.
  2. The post-quantum signature, if one is asked for, is over the very bytes that the classical one is over.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millcert.errors import IntegrityError, PolicyError, StoreError
from millcert.provenance.bundle_form import envelope_content
from millcert.provenance.bundle_identity import signer_of
from millcert.provenance.bundle_write import sign_file, sign_payload
from millcert.provenance.checkpoint import decode_base64
from millcert.provenance.dsse import IN_TOTO_PAYLOAD_TYPE
from millcert.provenance.signing_key import SigningKey
from millcert.provenance.signing_services import SigningServices
from millcert.provenance.trust_root import TrustRoot
from millcert.provenance.trust_signers import KeyRule, Signer, SignerRule, VerifiedSignature

if TYPE_CHECKING:
    from sigstore.oidc import IdentityToken

    from millcert.provenance.pq_signature import PqKey


@dataclass(frozen=True)
class ByKey:
    """Sign with a key. services: where the signature is logged and timestamped; None for no log."""

    key: SigningKey
    services: SigningServices | None = None


@dataclass(frozen=True)
class Keyless:
    """Sign with a certificate for the identity that a token proves."""

    services: SigningServices
    token: "IdentityToken"


@dataclass(frozen=True)
class SignedContent:
    """A signature that verified.

    bundle: the Sigstore bundle, JSON. signature: what the verifier made of it. pq: the post-quantum signature's file;
    None where none was asked for. root: the trusted root that it verified against; None without a log.
    """

    bundle: bytes
    signature: VerifiedSignature
    pq: bytes | None
    root: TrustRoot | None


def sign_list(data: bytes, signer: ByKey | Keyless, *, pq: "PqKey | None" = None) -> SignedContent:
    """Sign a list of files: the bundle is over the list's bytes.

    Args:
        data: the list, such as a manifest's JSON.
        signer: who signs.
        pq: signs the same bytes besides.

    Raises:
        UsageError: the key cannot sign in a way that verifies.
        StoreError: a device or service failed, or gave what does not verify (rule 1).
    """
    if isinstance(signer, ByKey):
        bundle = sign_file(data, signer.key, log=signer.services)
    else:
        bundle = signer.services.sign_file(data, signer.token)
    return _checked(bundle, data, signer, pq, statement=False)


def sign_model(statement: bytes, signer: ByKey | Keyless, *, pq: "PqKey | None" = None) -> SignedContent:
    """Sign an in-toto statement in an envelope; arguments and errors as in `sign_list`."""
    if isinstance(signer, ByKey):
        bundle = sign_payload(statement, IN_TOTO_PAYLOAD_TYPE, signer.key, log=signer.services)
    else:
        bundle = signer.services.sign_statement(statement, signer.token)
    return _checked(bundle, statement, signer, pq, statement=True)


def _checked(
    bundle: bytes, data: bytes, signer: ByKey | Keyless, pq: "PqKey | None", *, statement: bool
) -> SignedContent:
    from millcert.provenance.bundle import verify_bundle, verify_envelope

    root = None if signer.services is None else signer.services.trust_root
    try:
        rule = _rule(bundle, signer)
        if statement:
            envelope = verify_envelope(bundle, root=root, identity=rule)
            if envelope.payload != data:
                raise StoreError("What was signed is another statement than the one that was given.")
            signature, content = envelope.signature, envelope_content(bundle)
        else:
            signature, content = verify_bundle(data, bundle, root=root, identity=rule), data
    except (IntegrityError, PolicyError) as error:
        raise StoreError(
            f"What the services gave does not verify: {error.message}",
            hint="Nothing was written. Try again; if it stays so, the trust configuration does not fit the services.",
        ) from error
    return SignedContent(bundle, signature, None if pq is None else pq.sign(content), root)


def _rule(bundle: bytes, signer: ByKey | Keyless) -> Signer:
    """Return the rule that the signature must meet. A certificate's own names: that they are right, verifying shows."""
    if isinstance(signer, ByKey):
        return KeyRule(signer.key.public, is_unlogged_accepted=signer.services is None)
    from cryptography.x509 import load_der_x509_certificate

    raw = json.loads(bundle)["verificationMaterial"]["certificate"]["rawBytes"]
    identity, issuer = signer_of(load_der_x509_certificate(decode_base64(raw) or b""))
    return SignerRule(issuer, identity)
