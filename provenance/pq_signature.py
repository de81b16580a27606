"""A second, post-quantum signature beside the classical one: ML-DSA-65 over the same bytes.

Both must verify where a policy asks for both, so the pair stands until ECDSA (or RSA, Ed25519) and ML-DSA are broken.

The proof, step by step; each block below repeats its number:
  1. The signature's file is there. That it was taken away cannot be told from its never having been made, so a policy
     that asks for it refuses either.
  2. It is small, strict JSON of version 1 with a signature of the one algorithm.
  3. Its key id is that of a key that the policy pins; the id chooses among pinned keys and is trusted no further.
  4. It is over the very bytes that the classical signature is over.
  5. The signature verifies with the pinned key under this format's context, which no other use of the key has.

Source: FIPS 204 (ML-DSA, sections 5.2 and 5.3: signing with a context string). Format: docs/formats/pq-signature.md.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from millcert.errors import PolicyError, SignatureError, UntrustedSourceError, UsageError
from millcert.provenance.checkpoint import decode_base64, encode_base64
from millcert.provenance.signing_key import load_key_file
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields

#: What is added to the name of the file whose bytes (or whose envelope) are signed.
PQ_SUFFIX = ".pq.json"
PQ_TYPE = "millcert-pq-signature"
ALGORITHM = "ML-DSA-65"
#: A file has about 4.6 kB.
MAX_PQ_BYTES = 64 * 1024

_VERSION = 1
_CONTEXT = b"millcert-pq-signature/v1"
_MAX_KEY_BYTES = 16 * 1024
_PEM_BEGIN = b"-----BEGIN PUBLIC KEY-----"


@dataclass(frozen=True)
class PqPublicKey:
    """An ML-DSA-65 public key. spki: SubjectPublicKeyInfo in DER, as `parse_pq_key` returns it."""

    spki: bytes

    @cached_property
    def sha256(self) -> str:
        """The key's id: SHA-256 of the SubjectPublicKeyInfo, hex."""
        return hashlib.sha256(self.spki).hexdigest()

    def __str__(self) -> str:
        return f"{ALGORITHM} key:sha256:{self.sha256}"


@dataclass(frozen=True)
class PqSignature:
    """What a signature's file says; parsed, not verified.

    key_id: of the key that is said to have signed, hex. content_sha256: of the bytes that are said to be signed, hex.
    """

    key_id: str
    content_sha256: str
    signature: bytes


@dataclass(frozen=True)
class PqKey:
    """An ML-DSA-65 private key."""

    key: Any

    @property
    def public(self) -> PqPublicKey:
        """The public half."""
        return PqPublicKey(_spki(self.key.public_key()))

    def sign(self, content: bytes) -> bytes:
        """Return the file with this key's signature over some bytes; two signatures over the same bytes differ."""
        signature: bytes = self.key.sign(content, _CONTEXT)
        return canonical_json(
            {
                "algorithm": ALGORITHM,
                "content_sha256": hashlib.sha256(content).hexdigest(),
                "key_id": self.public.sha256,
                "signature": encode_base64(signature),
                "type": PQ_TYPE,
                "version": _VERSION,
            },
            what="post-quantum signature",
        )


def mldsa65() -> ModuleType:
    """Return cryptography's ML-DSA module.

    Raises:
        UsageError: the installed cryptography has none.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa
    except ImportError as error:
        raise UsageError(
            "The installed cryptography has no ML-DSA.", hint="Install one that has: pip install 'cryptography>=48'."
        ) from error
    return mldsa


def load_pq_key(path: Path, *, password: str | None = None) -> PqKey:
    """Return the ML-DSA-65 private key at `path`; arguments and errors as in `load_signing_key`."""

    def accept(key: object) -> PqKey:
        if not isinstance(key, mldsa65().MLDSA65PrivateKey):
            raise PolicyError("it is no ML-DSA-65 key.", hint="Make one: millcert source keygen --kind ml-dsa-65.")
        return PqKey(key)

    return load_key_file(path, password, accept)


def parse_pq_key(data: bytes) -> PqPublicKey:
    """Return the ML-DSA-65 public key in PEM or DER (SubjectPublicKeyInfo, RFC 9881).

    Raises:
        PolicyError: it is malformed or of another kind.
    """
    try:
        if len(data) > _MAX_KEY_BYTES:
            raise ValueError(f"more than {_MAX_KEY_BYTES} bytes")  # noqa: TRY301 - one translation below
        key = serialization.load_pem_public_key(data) if _PEM_BEGIN in data else serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PolicyError(f"That is no post-quantum public key: {error}.", hint="Give it in PEM or DER.") from error
    if not isinstance(key, mldsa65().MLDSA65PublicKey):
        raise PolicyError(f"The key is no {ALGORITHM} public key.", hint="Only ML-DSA-65 counts as post-quantum here.")
    return PqPublicKey(_spki(key))


def parse_base64_pq_key(text: str) -> PqPublicKey:
    """Return the key in one line of base64, as policies hold it; errors as in `parse_pq_key`."""
    try:
        return parse_pq_key(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise PolicyError(f"A key is given as base64 in one line, got {text[:40]!r}.") from error


def parse_pq_signature(data: bytes) -> PqSignature:
    """Return what a signature's file says (step 2); verifies nothing.

    Raises:
        SignatureError: a rule of the format is broken; `reason` is "pq_malformed".
    """
    # Step 2.
    what = "post-quantum signature"
    fields = {
        "algorithm": str,
        "content_sha256": str,
        "key_id": str,
        "signature": str,
        "type": str,
        "version": int,
    }
    try:
        value = parse_json_object(data, what=what, max_bytes=MAX_PQ_BYTES, error=SignatureError)
        require_fields(value, fields, what=what, error=SignatureError)
    except SignatureError as error:
        raise SignatureError(error.message, hint=error.hint, reason="pq_malformed") from error
    found = (value["type"], value["version"], value["algorithm"])
    if found != (PQ_TYPE, _VERSION, ALGORITHM):
        _refuse("pq_malformed", f"The {what} is {found!r:.200}; read is version {_VERSION} with {ALGORITHM}.")
    signature = decode_base64(value["signature"])
    if signature is None:
        _refuse("pq_malformed", f"The {what} is no canonical base64.")
    return PqSignature(value["key_id"], value["content_sha256"], signature)


def verify_pq(data: bytes | None, content: bytes, keys: Sequence[PqPublicKey]) -> PqPublicKey:
    """Return the pinned key that signed some bytes with ML-DSA-65.

    Args:
        data: the signature's file; None where there is none.
        content: what must be signed: the list of files, or a model signature's envelope in its DSSE encoding.
        keys: those that the policy pins; any one of them.

    Raises:
        UntrustedSourceError: another key signed; `reason` is "pq_signer".
        SignatureError: anything else does not hold; `reason` is "pq_missing", "pq_malformed", "pq_content" or
            "pq_signature".
        PolicyError: no key is given.

    Cost: below 1 ms over a manifest of 1,000 files (bench/verify.py).
    """
    if not keys:
        raise PolicyError("A post-quantum signature cannot be verified without a key.")
    # Step 1.
    if data is None:
        _refuse("pq_missing", "The policy asks for a post-quantum signature, and there is none.")
    # Step 2.
    found = parse_pq_signature(data)
    # Step 3.
    key = next((one for one in keys if one.sha256 == found.key_id), None)
    if key is None:
        raise UntrustedSourceError(
            f"The post-quantum signature names the key {found.key_id[:64]!r}; pinned are {', '.join(map(str, keys))}.",
            hint="If this key should be trusted, pin it in the policy.",
            reason="pq_signer",
            key_id=found.key_id,
        )
    # Step 4.
    if found.content_sha256 != hashlib.sha256(content).hexdigest():
        _refuse("pq_content", "The post-quantum signature says that it is over other bytes.")
    # Step 5.
    try:
        serialization_key: Any = serialization.load_der_public_key(key.spki)
        serialization_key.verify(found.signature, content, _CONTEXT)
    except InvalidSignature as error:
        raise SignatureError(
            f"The post-quantum signature is not of {key} over these bytes.",
            hint="Ask the owner to sign again.",
            reason="pq_signature",
        ) from error
    return key


def _spki(key: Any) -> bytes:
    spki: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spki


def _refuse(reason: str, message: str) -> NoReturn:
    raise SignatureError(message, hint="Ask the owner to sign again with --pq-key.", reason=reason)
