"""A private certificate authority with a certificate transparency log, as Fulcio and its CT log behave.

A leaf certificate carries the identity as its only subject alternative name, the OIDC issuer in Fulcio's two
extensions, and one embedded SCT over the pre-certificate (RFC 6962 section 3.2).
"""

import hashlib
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from millcert.testing import der

_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_PRECERT_ENTRY = 1
_SHA256_ECDSA = bytes([4, 3])
#: How long a leaf is valid, as Fulcio's are, and how far its clock may be behind.
LEAF_LIFETIME = timedelta(minutes=10)
_CLOCK_SLACK = timedelta(seconds=5)

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def spki(key: PrivateKey) -> bytes:
    """Return the public key's SubjectPublicKeyInfo, DER."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_usage(*, signs_data: bool) -> x509.KeyUsage:
    """Return the key usage of a leaf (`signs_data`) or of an authority."""
    return x509.KeyUsage(
        digital_signature=signs_data,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs_data,
        crl_sign=not signs_data,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class CertificateKey:
    """A certificate and the key that it names."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(
    common_name: str, *, start: datetime, end: datetime, issuer: CertificateKey | None = None
) -> CertificateKey:
    """Return a root authority, or an intermediate under `issuer` that may sign code-signing leaves only."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "private.test"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else None), critical=True)
        .add_extension(key_usage(signs_data=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return CertificateKey(builder.sign(issuer.key if issuer else key, hashes.SHA384()), key)


@dataclass(frozen=True)
class LeafRequest:
    """What a leaf certificate says.

    names: subject alternative names; one that has "@" and no "://" is written as an email, any other as a URI.
    issuer: the OIDC issuer; `issuer_v2`, if given, stands in the newer extension instead of it.
    has_sct: whether an SCT is embedded.
    """

    names: tuple[str, ...]
    issuer: str
    not_before: datetime
    issuer_v2: str | None = None
    has_sct: bool = True


def issue_leaf(authority: CertificateKey, ct_key: ec.EllipticCurvePrivateKey, request: LeafRequest) -> CertificateKey:
    """Return a code-signing leaf with a fresh P-256 key and, unless the request says otherwise, an SCT by `ct_key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    return CertificateKey(issue_certificate(authority, ct_key, request, key.public_key()), key)


def issue_certificate(
    authority: CertificateKey,
    ct_key: ec.EllipticCurvePrivateKey,
    request: LeafRequest,
    public_key: ec.EllipticCurvePublicKey,
) -> x509.Certificate:
    """Return a leaf as `issue_leaf` does, for a key that somebody else holds."""
    serial_number = x509.random_serial_number()
    pre_certificate = _leaf_builder(authority, public_key, request, serial_number).sign(authority.key, hashes.SHA384())
    if not request.has_sct:
        return pre_certificate
    sct_list = _sct_list(pre_certificate.tbs_certificate_bytes, spki(authority.key), ct_key, request.not_before)
    builder = _leaf_builder(authority, public_key, request, serial_number).add_extension(
        x509.UnrecognizedExtension(_SCT_LIST, der.octets(sct_list)), critical=False
    )
    return builder.sign(authority.key, hashes.SHA384())


def _leaf_builder(
    authority: CertificateKey, public_key: ec.EllipticCurvePublicKey, request: LeafRequest, serial_number: int
) -> x509.CertificateBuilder:
    names: list[x509.GeneralName] = [
        x509.RFC822Name(name) if "@" in name and "://" not in name else x509.UniformResourceIdentifier(name)
        for name in request.names
    ]
    issuer_v2 = request.issuer if request.issuer_v2 is None else request.issuer_v2
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(serial_number)
        .not_valid_before(request.not_before - _CLOCK_SLACK)
        .not_valid_after(request.not_before + LEAF_LIFETIME)
        .add_extension(key_usage(signs_data=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.UnrecognizedExtension(_ISSUER_V1, request.issuer.encode()), critical=False)
        .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, der.utf8(issuer_v2)), critical=False)
    )


def _sct_list(tbs: bytes, issuer_spki: bytes, ct_key: ec.EllipticCurvePrivateKey, moment: datetime) -> bytes:
    """Return the TLS-encoded list of one SCT (RFC 6962 section 3.2 and 3.3)."""
    milliseconds = int(moment.timestamp() * 1000)
    signed = (
        struct.pack("!BBQH", 0, 0, milliseconds, _PRECERT_ENTRY)
        + hashlib.sha256(issuer_spki).digest()
        + len(tbs).to_bytes(3, "big")
        + tbs
        + b"\x00\x00"
    )
    signature = ct_key.sign(signed, ec.ECDSA(hashes.SHA256()))
    sct = (
        b"\x00"
        + hashlib.sha256(spki(ct_key)).digest()
        + struct.pack("!QH", milliseconds, 0)
        + _SHA256_ECDSA
        + struct.pack("!H", len(signature))
        + signature
    )
    framed = struct.pack("!H", len(sct)) + sct
    return struct.pack("!H", len(framed)) + framed
