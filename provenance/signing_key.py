"""Private keys that sign a source: made, kept in a file, and used. What signs is checked before anything is written.

Rules this module keeps:
  1. A key file is PKCS #8 PEM, readable by its owner only, and never overwritten (provenance/keys.py); it may be
     encrypted, and then its password comes from the environment, never from an argument that others can see.
  2. Only kinds that a policy can name sign: ECDSA on P-256, P-384 or P-521, with the curve's own hash; RSA of 2048 bits
     or more, PKCS #1 v1.5 with SHA-256; Ed25519.
  3. A signature that the public key does not verify is never returned, wherever it was made.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from millcert.errors import PolicyError, StoreError, UsageError
from millcert.provenance.keys import PRIVATE_MODE, PUBLIC_MODE, create_file, public_key_path, read_key_file
from millcert.provenance.public_key import CURVE_HASH, Content, PublicKey, parse_public_key

#: Kinds of key that `make_signing_key` makes. ml-dsa-65 is for the second, post-quantum signature only.
KeyKind = Literal["p256", "p384", "p521", "ed25519", "rsa-3072", "ml-dsa-65"]

#: The longest that OpenSSL takes.
_MAX_PASSWORD_BYTES = 1023
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_Key = TypeVar("_Key")
_Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class SigningKey(Protocol):
    """Something that signs: a key in a file, or one that never leaves its device or service."""

    @property
    def public(self) -> PublicKey:
        """The public key that verifies what this one signs."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message, whole."""


@dataclass(frozen=True)
class LocalKey:
    """A private key in memory. key: of a kind that rule 2 has."""

    key: _Private

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(
            self.key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        digest = _HASHES[signing_hash(self.public)]
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), digest)
        return self.key.sign(message, ec.ECDSA(digest))


def signing_hash(public: PublicKey) -> str:
    """Return the hash that a key signs with (rule 2); sha256 also for Ed25519, which hashes the message by itself."""
    loaded = public.load()
    return CURVE_HASH[loaded.curve.name] if isinstance(loaded, ec.EllipticCurvePublicKey) else "sha256"


def is_ed25519(public: PublicKey) -> bool:
    """Tell whether a key signs whole messages only, so that no log that sees digests can check it."""
    return isinstance(public.load(), ed25519.Ed25519PublicKey)


def checked_signature(key: SigningKey, message: bytes) -> bytes:
    """Return a key's signature over a message, verified with its public half (rule 3).

    Raises:
        UsageError: the public key does not verify it: the private key is another one, or signs in another way.
        StoreError: the device or service failed.
    """
    signature = key.sign(message)
    if not key.public.verifies(signature, Content.of(message)):
        raise UsageError(
            f"What was signed does not verify with the public key {key.public.sha256}.",
            hint="Give the public half of that very key; RSA keys must sign PKCS #1 v1.5 with SHA-256.",
            public_key=key.public.sha256,
        )
    return signature


def load_signing_key(path: Path, *, password: str | None = None) -> LocalKey:
    """Return the private key at `path`.

    Args:
        path: PKCS #8 or traditional PEM, mode 0600 or less.
        password: of an encrypted file; None where it is not encrypted.

    Raises:
        UsageError: there is no such file, others can read it, the password is wrong or missing or not asked for, or
            the key is of a kind that rule 2 does not have.
        StoreError: the file cannot be read.
    """
    return load_key_file(path, password, _local_key)


def load_key_file(path: Path, password: str | None, accept: Callable[[object], _Key]) -> _Key:
    """Return what `accept` makes of the private key in a file; it raises PolicyError for a kind that it refuses.

    Raises:
        UsageError, StoreError: as `load_signing_key`.
    """
    data, secret = read_key_file(path, private=True), None if password is None else _password_bytes(password)
    try:
        key = serialization.load_pem_private_key(data, secret)
    except TypeError as error:
        text = "is encrypted, and no password was given" if password is None else "is not encrypted"
        hint = "Name the environment variable that holds its password: --password-env NAME."
        raise UsageError(
            f"The private key {path} {text}.", hint=hint if password is None else "Leave out --password-env."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"The private key {path} cannot be read: {str(error).splitlines()[0][:200]}.",
            hint="Is it PEM? Is the password right?",
            path=str(path),
        ) from error
    try:
        return accept(key)
    except PolicyError as error:
        raise UsageError(f"The private key {path} cannot sign here: {error.message}", hint=error.hint) from error


def _local_key(key: object) -> LocalKey:
    if not isinstance(key, _Private):
        kind = type(key).__name__.lstrip("_")
        raise PolicyError(f"it is a {kind}.", hint="Use P-256, Ed25519 or RSA; an ML-DSA key goes to --pq-key.")
    local = LocalKey(key)
    parse_public_key(local.public.spki)  # refuses what no policy could name
    return local


@dataclass(frozen=True)
class MadeKey:
    """A key pair that was just made.

    public_spki: the public key, SubjectPublicKeyInfo in DER.
    """

    private_path: Path
    public_path: Path
    public_spki: bytes

    @property
    def sha256(self) -> str:
        """The key's name."""
        return hashlib.sha256(self.public_spki).hexdigest()


def make_signing_key(path: Path, kind: KeyKind, *, password: str | None = None) -> MadeKey:
    """Make a key pair: the private half at `path` (0600), the public one beside it (.pub).

    Raises:
        UsageError: there is something at one of the two places; this millcert's cryptography has no such kind; the
            password is too long, empty or no text.
        StoreError: the folder cannot be written.
    """
    public_path = public_key_path(path)
    if public_path == path:
        raise UsageError(f"{path} is where the public half goes.", hint="Choose a name that does not end in .pub.")
    key = _generated(kind)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(_password_bytes(password))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    # The public half first: where it cannot be written, no private key is left behind that nobody can use.
    _create(public_path, public.public_bytes(serialization.Encoding.PEM, form), PUBLIC_MODE)
    try:
        _create(path, pem, PRIVATE_MODE)
    except BaseException:
        public_path.unlink(missing_ok=True)
        raise
    return MadeKey(path, public_path, public.public_bytes(serialization.Encoding.DER, form))


def _password_bytes(password: str) -> bytes:
    try:
        data = password.encode()
    except UnicodeEncodeError as error:  # what it quotes is part of the password
        raise UsageError("The password is no UTF-8 text.", hint="Set the variable to plain text.") from error
    if not 1 <= len(data) <= _MAX_PASSWORD_BYTES:
        raise UsageError(f"A password has 1 to {_MAX_PASSWORD_BYTES} bytes, this one {len(data)}.")
    return data


def _generated(kind: KeyKind) -> Any:
    if kind == "ml-dsa-65":
        from millcert.provenance.pq_signature import mldsa65

        return mldsa65().MLDSA65PrivateKey.generate()
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "rsa-3072":
        return rsa.generate_private_key(public_exponent=65537, key_size=3072)
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        create_file(path, data, mode)
    except FileExistsError as error:
        raise UsageError(
            f"There is something at {path} already; a key is never overwritten.",
            hint="Choose another name.",
            path=str(path),
        ) from error
    except OSError as error:
        raise StoreError(f"The key file {path} cannot be made: {error.strerror or error}.", path=str(path)) from error
