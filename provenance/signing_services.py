"""Signing with Sigstore's services: keyless by an OIDC identity, or a log entry and timestamps for a key's signature.

The only module here that uses the network, and only where its owner signs. The clients are sigstore's; which services
they ask stands in a client trust configuration, one's own or that of the public instance, which sigstore fetches and
verifies through TUF. What comes back is never trusted: the caller verifies the bundle before it is written.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from millcert.errors import MillcertError, StoreError, UsageError
from millcert.provenance.bundle_write import KeySignature, public_pem
from millcert.provenance.checkpoint import encode_base64
from millcert.provenance.signing_key import is_ed25519
from millcert.provenance.trust_root import TrustRoot

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import Signer

_Value = TypeVar("_Value")
_KEY_DETAILS = {
    "sha256": "PKIX_ECDSA_P256_SHA_256",
    "sha384": "PKIX_ECDSA_P384_SHA_384",
    "sha512": "PKIX_ECDSA_P521_SHA_512",
}
_RSA_BITS = (2048, 3072, 4096)


@dataclass(frozen=True)
class SigningServices:
    """The services of one Sigstore instance. config: its client trust configuration, parsed."""

    config: "ClientTrustConfig"

    @property
    def trust_root(self) -> TrustRoot:
        """The instance's trusted root: what the signature must verify against."""
        data = self.config.trusted_root._inner.to_json().encode()  # noqa: SLF001 - no public way to its bytes
        return TrustRoot(data, hashlib.sha256(data).hexdigest())

    def sign_file(self, data: bytes, token: "IdentityToken") -> bytes:
        """Return a bundle over a file's bytes, by a certificate for the token's identity.

        Raises:
            StoreError: a service refused or failed.
        """
        return self._keyless(token, lambda signer: signer.sign_artifact(data).to_json().encode())

    def sign_statement(self, payload: bytes, token: "IdentityToken") -> bytes:
        """Return a bundle with an in-toto statement in an envelope, by a certificate for the token's identity.

        Raises:
            StoreError: a service refused or failed.
        """
        from sigstore.dsse import Statement

        return self._keyless(token, lambda signer: signer.sign_dsse(Statement(payload)).to_json().encode())

    def add(self, signed: KeySignature) -> Mapping[str, Any]:
        """Log a key's signature and have it timestamped; `Log.add` of provenance/bundle_write.py.

        Raises:
            UsageError: the key signs in a way that no log can check.
            StoreError: a service refused or failed.
        """
        if is_ed25519(signed.public):
            raise UsageError(
                "Transparency logs see the digest of what was signed, and an Ed25519 signature is over all of it.",
                hint="Sign with an EC or RSA key, or without --log.",
            )
        return _asked(lambda: self._add(signed))

    def _keyless(self, token: "IdentityToken", sign: Callable[["Signer"], _Value]) -> _Value:
        from sigstore.sign import SigningContext

        def run() -> _Value:
            with SigningContext.from_trust_config(self.config).signer(token) as signer:
                return sign(signer)

        return _asked(run)

    def _add(self, signed: KeySignature) -> Mapping[str, Any]:
        from sigstore._internal.rekor.client import RekorClient

        config = self.config.signing_config
        # Timestamps first: a log's own comes with its entry, and an entry that nobody can use is never taken back.
        stamps = [client.request_timestamp(signed.signature).as_bytes() for client in config.get_tsas()]
        log: Any = config.get_tlogs()[0]
        request = _request_v1(signed) if isinstance(log, RekorClient) else _request_v2(signed)
        entry = log.create_entry(request)
        material: dict[str, Any] = {"tlogEntries": [entry._inner.to_dict()]}  # noqa: SLF001 - no public way
        if stamps:
            found = [{"signedTimestamp": encode_base64(stamp)} for stamp in stamps]
            material["timestampVerificationData"] = {"rfc3161Timestamps": found}
        return material


def load_services(config: bytes | None) -> SigningServices:
    """Return the services that a client trust configuration names.

    Args:
        config: JSON (`application/vnd.dev.sigstore.clienttrustconfig.v0.1+json`); None for the public instance, whose
            configuration is then fetched.

    Raises:
        UsageError: the configuration cannot be read, or names no service that is valid now.
        StoreError: it cannot be fetched.
    """
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig

    if config is None:
        return SigningServices(_asked(ClientTrustConfig.production))
    try:
        parsed = ClientTrustConfig.from_json(config.decode())
        parsed.trusted_root  # noqa: B018 - both are read when they are asked for
        parsed.signing_config  # noqa: B018 - as above
    except (ValueError, Error) as error:
        raise UsageError(
            f"The trust configuration cannot be read: {_said(error)}.",
            hint="Give a client trust configuration: trusted root and signing configuration in one JSON file.",
        ) from error
    return SigningServices(parsed)


def ambient_token() -> "IdentityToken":
    """Return the identity token that the environment offers: GitHub Actions, GCP, Buildkite, GitLab, CircleCI.

    Raises:
        UsageError: there is none.
        StoreError: there should be one, and it cannot be had.
    """
    from sigstore.oidc import IdentityError, detect_credential

    try:
        raw = detect_credential()
    except IdentityError as error:
        raise StoreError(
            f"The environment's identity cannot be had: {_said(error)}.",
            hint="Does the job have the right to ask for it (GitHub Actions: permissions: id-token: write)?",
        ) from error
    if raw is None:
        raise UsageError(
            "There is no ambient identity: this is no job of a CI system that gives one.",
            hint="Run it there, name a variable with a token (--identity-token-env), or sign with a key (--key).",
        )
    return given_token(raw)


def given_token(raw: str) -> "IdentityToken":
    """Return an identity token that somebody already has.

    Raises:
        UsageError: it is malformed, for another audience than "sigstore", or its time is over.
    """
    from sigstore.oidc import IdentityError, IdentityToken

    try:
        return IdentityToken(raw)
    except IdentityError as error:
        raise UsageError(f"The identity token is refused: {_said(error)}.", hint="Get a fresh one.") from error


def _asked(ask: Callable[[], _Value]) -> _Value:
    """Return what a client of sigstore gives, with each way that it fails as ours."""
    try:
        return ask()
    except MillcertError:
        raise
    except Exception as error:  # the clients let through errors of five libraries
        raise StoreError(
            f"A Sigstore service failed or refused: {type(error).__name__}: {_said(error)}.",
            hint="Nothing was written. Try again; a log may then have two entries, which is harmless.",
        ) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _request_v1(signed: KeySignature) -> Mapping[str, Any]:
    """Return what Rekor v1 is asked to log."""
    pem = encode_base64(public_pem(signed.public))
    if signed.envelope:
        proposed = {"envelope": signed.envelope, "verifiers": [pem]}
        return {"apiVersion": "0.0.1", "kind": "dsse", "spec": {"proposedContent": proposed}}
    spec = {
        "data": {"hash": {"algorithm": signed.hash_name, "value": signed.digest.hex()}},
        "signature": {"content": encode_base64(signed.signature), "publicKey": {"content": pem}},
    }
    return {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec}


def _request_v2(signed: KeySignature) -> Mapping[str, Any]:
    """Return what Rekor v2 is asked to log: a digest, also of an envelope's encoding."""
    verifier = {
        "publicKey": {"rawBytes": encode_base64(signed.public.spki)},
        "keyDetails": _key_details(signed),
    }
    signature = {"content": encode_base64(signed.signature), "verifier": verifier}
    return {"hashedRekordRequestV002": {"digest": encode_base64(signed.digest), "signature": signature}}


def _key_details(signed: KeySignature) -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = signed.public.load()
    if not isinstance(key, rsa.RSAPublicKey):
        return _KEY_DETAILS[signed.hash_name]
    if key.key_size not in _RSA_BITS:
        raise UsageError(
            f"The log takes RSA keys of {', '.join(map(str, _RSA_BITS))} bits, not of {key.key_size}.",
            hint="Sign with such a key, with an EC key, or without --log.",
        )
    return f"PKIX_RSA_PKCS1V15_{key.key_size}_SHA256"
