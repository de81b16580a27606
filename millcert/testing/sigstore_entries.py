"""Who signs in the kit, and the bodies of log entries about what they signed, in each kind that real logs write."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from millcert.testing.sigstore_authority import CertificateKey
from millcert.testing.sigstore_log import base64_text

#: How a log writes a signed envelope down.
EnvelopeEntry = Literal["dsse", "intoto", "hashedrekord"]
#: Keys that can sign in the kit.
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_CURVE_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_KEY_DETAILS = {
    "secp256r1": "PKIX_ECDSA_P256_SHA_256",
    "secp384r1": "PKIX_ECDSA_P384_SHA_384",
    "secp521r1": "PKIX_ECDSA_P521_SHA_512",
}


@dataclass(frozen=True)
class Party:
    """One who signs.

    key: signs. material: what a bundle says of the signer. pem, der: the certificate, or the public key.
    verifier_name: what Rekor v2 calls it.
    """

    key: SigningKey
    material: Mapping[str, Any]
    pem: bytes
    der: bytes
    verifier_name: Literal["x509Certificate", "publicKey"]

    def sign(self, message: bytes) -> bytes:
        """Return the signature that the key's kind is for."""
        return sign_message(self.key, message)


def sign_message(key: SigningKey, message: bytes) -> bytes:
    """Return a signature: ECDSA with the curve's hash, RSA PKCS #1 v1.5 with SHA-256, or Ed25519."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(message, ec.ECDSA(_CURVE_HASHES[key.curve.name]))


def public_der(key: SigningKey) -> bytes:
    """Return the public key's SubjectPublicKeyInfo, DER: what a rule of a policy names."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def certificate_party(leaf: CertificateKey) -> Party:
    """Return the party that signs by a certificate."""
    der = leaf.certificate.public_bytes(serialization.Encoding.DER)
    pem = leaf.certificate.public_bytes(serialization.Encoding.PEM)
    return Party(leaf.key, {"certificate": {"rawBytes": base64_text(der)}}, pem, der, "x509Certificate")


def key_party(key: SigningKey) -> Party:
    """Return the party that signs by a bare key; the bundle has a hint of it only."""
    der = public_der(key)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Party(key, {"publicKey": {"hint": base64_text(hashlib.sha256(der).digest())}}, pem, der, "publicKey")


def hashedrekord_v1(party: Party, signature: bytes, digest: bytes) -> dict[str, Any]:
    """Return the body of a hashedrekord/0.0.1 entry over a SHA-256 digest."""
    return {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
            "signature": {"content": base64_text(signature), "publicKey": {"content": base64_text(party.pem)}},
        },
    }


def hashedrekord_v2(party: Party, signature: bytes, digest: bytes) -> dict[str, Any]:
    """Return the body of a hashedrekord/0.0.2 entry over a SHA-256 digest."""
    verifier = {"keyDetails": _key_details(party.key), party.verifier_name: {"rawBytes": base64_text(party.der)}}
    return {
        "apiVersion": "0.0.2",
        "kind": "hashedrekord",
        "spec": {
            "hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": base64_text(digest)},
                "signature": {"content": base64_text(signature), "verifier": verifier},
            }
        },
    }


def dsse_v1(party: Party, signature: bytes, envelope: Mapping[str, Any], payload: bytes) -> dict[str, Any]:
    """Return the body of a dsse/0.0.1 entry that says it is about `payload`."""
    envelope_hash = hashlib.sha256(json.dumps(envelope).encode()).hexdigest()
    return {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": envelope_hash},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": base64_text(signature), "verifier": base64_text(party.pem)}],
        },
    }


def intoto_v2(party: Party, signature: bytes, envelope: Mapping[str, Any], payload: bytes) -> dict[str, Any]:
    """Return the body of an intoto/0.0.2 entry as the log keeps it: values in base64 twice, the payload left out."""
    twice = base64_text(base64.b64encode(signature))
    return {
        "apiVersion": "0.0.2",
        "kind": "intoto",
        "spec": {
            "content": {
                "envelope": {
                    "payloadType": envelope["payloadType"],
                    "signatures": [{"publicKey": base64_text(party.pem), "sig": twice}],
                },
                "hash": {"algorithm": "sha256", "value": hashlib.sha256(json.dumps(envelope).encode()).hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            }
        },
    }


def _key_details(key: SigningKey) -> str:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "PKIX_ED25519"
    return "PKIX_RSA_PKCS1V15_2048_SHA256" if isinstance(key, rsa.RSAPrivateKey) else _KEY_DETAILS[key.curve.name]
