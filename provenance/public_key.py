"""Public keys that sign without a certificate, and signatures by any key over content known whole or by its digest.

Rules this module keeps:
  1. A key is its SubjectPublicKeyInfo, and its name is the SHA-256 of that: no label, hint or file name stands for it.
  2. Kinds: ECDSA on P-256, P-384 or P-521; RSA of 2048 bits or more, PKCS #1 v1.5; Ed25519. Nothing else verifies.
  3. ECDSA hashes with the curve's own hash (SHA-256, SHA-384, SHA-512), or with SHA-256, which common tools use for all
     curves; RSA with SHA-256. Both are sound; none of them is chosen by what the signer sends.

Source: FIPS 186-5 sections 5 to 7; the key types of Sigstore's algorithm registry.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from millcert.errors import PolicyError, SignatureError

#: The hash that a curve's signatures use, by the curve's name.
CURVE_HASH = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_MIN_RSA_BITS = 2048
_MAX_KEY_BYTES = 16 * 1024
_PEM_BEGIN = b"-----BEGIN PUBLIC KEY-----"

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True)
class Content:
    """What a signature is over.

    sha256: digest of the message, 32 bytes. message: the whole of it; None where only the digest is known, which is
    enough for keys that sign a SHA-256 digest.
    """

    sha256: bytes
    message: bytes | None = None

    @classmethod
    def of(cls, message: bytes) -> "Content":
        """Return the content of a whole message."""
        return cls(hashlib.sha256(message).digest(), message)

    def digest(self, algorithm: str) -> bytes | None:
        """Return the digest under sha256, sha384 or sha512; None where it cannot be known from SHA-256 alone."""
        if algorithm == "sha256":
            return self.sha256
        if self.message is None or algorithm not in _HASHES:
            return None
        return hashlib.new(algorithm, self.message).digest()


@dataclass(frozen=True)
class PublicKey:
    """A public key that may verify signatures. spki: SubjectPublicKeyInfo, DER, as `parse_public_key` returns it."""

    spki: bytes

    @cached_property
    def sha256(self) -> str:
        """The key's name: SHA-256 of the SubjectPublicKeyInfo, hex."""
        return hashlib.sha256(self.spki).hexdigest()

    def load(self) -> object:
        """Return the key as cryptography has it.

        Raises:
            PolicyError: it is of a kind that rule 2 does not have.
        """
        return _load(self.spki)

    def verifies(self, signature: bytes, content: Content) -> bool:
        """Tell whether this key made the signature over the content.

        Raises:
            SignatureError: the kind of key needs the whole message, and only its digest is known; `reason` is
                "needs_message".
        """
        return key_verifies(_load(self.spki), signature, content)


def parse_public_key(data: bytes) -> PublicKey:
    """Return the key in PEM ("PUBLIC KEY") or DER (SubjectPublicKeyInfo).

    Raises:
        PolicyError: it is malformed, or of a kind that rule 2 does not have.
    """
    try:
        if len(data) > _MAX_KEY_BYTES:
            raise ValueError(f"more than {_MAX_KEY_BYTES} bytes")  # noqa: TRY301 - one translation below
        loaded = (
            serialization.load_pem_public_key(data) if _PEM_BEGIN in data else serialization.load_der_public_key(data)
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PolicyError(
            f"That is no public key: {error}.", hint="Give a SubjectPublicKeyInfo, in PEM or DER."
        ) from error
    if fault := key_fault(loaded):
        raise PolicyError(f"The public key is refused: {fault}.", hint="Use P-256, Ed25519, or RSA of 2048 bits.")
    # What was loaded is written again, so that one key has one name however it was encoded.
    return PublicKey(
        loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def parse_base64_key(text: str) -> PublicKey:
    """Return the key in one line of base64: the body of a PEM file, as policies hold it.

    Raises:
        PolicyError: it is no canonical base64, or no key (see `parse_public_key`).
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PolicyError(f"A key is given as base64 in one line, got {text[:40]!r}.") from error
    return parse_public_key(data)


def key_fault(key: object) -> str | None:
    """Return why a loaded key may not verify anything (rule 2), None where it may."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey):
        return None if key.curve.name in CURVE_HASH else f"the curve {key.curve.name} is not read"
    if isinstance(key, rsa.RSAPublicKey):
        return None if key.key_size >= _MIN_RSA_BITS else f"RSA of {key.key_size} bits is too short"
    return f"keys of type {type(key).__name__.lstrip('_')} are not read"


def key_verifies(key: object, signature: bytes, content: Content) -> bool:
    """Tell whether a loaded key made the signature over the content; errors as in `PublicKey.verifies`."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        if content.message is None:
            raise SignatureError(
                "An Ed25519 signature is over the whole message, and only its digest is given.",
                hint="Verify the file itself.",
                reason="needs_message",
            )
        try:
            key.verify(signature, content.message)
        except InvalidSignature:
            return False
        return True
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVE_HASH:
        return any(_ecdsa_verifies(key, signature, name, content) for name in (CURVE_HASH[key.curve.name], "sha256"))
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        try:
            key.verify(signature, content.sha256, padding.PKCS1v15(), Prehashed(_HASHES["sha256"]))
        except InvalidSignature:
            return False
        return True
    return False


def _ecdsa_verifies(key: ec.EllipticCurvePublicKey, signature: bytes, name: str, content: Content) -> bool:
    digest = content.digest(name)
    if digest is None:
        return False
    try:
        key.verify(signature, digest, ec.ECDSA(Prehashed(_HASHES[name])))
    except InvalidSignature:
        return False
    return True


def _load(spki: bytes) -> _Key:
    loaded = serialization.load_der_public_key(spki)
    if fault := key_fault(loaded):
        raise PolicyError(f"The public key is refused: {fault}.")
    return loaded  # type: ignore[return-value] # key_fault let through these kinds only
