"""A private timestamp authority: RFC 3161 responses, CMS by hand."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from millcert.testing import der
from millcert.testing.sigstore_authority import CertificateKey, key_usage, make_authority

_SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.NULL)
_ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
_TST_INFO = der.oid("1.2.840.113549.1.9.16.1.4")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_CONTENT_TYPE = der.oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2 = der.oid("1.2.840.113549.1.9.16.2.47")
_POLICY = der.oid("1.3.6.1.4.1.57264.2")


@dataclass(frozen=True)
class TimestampAuthority:
    """A self-signed root and a leaf that may sign timestamps only."""

    root: CertificateKey
    leaf: CertificateKey

    def timestamp(self, message: bytes, moment: datetime) -> bytes:
        """Return a granted TimeStampResp over `message` at `moment`, DER (RFC 3161 section 2.4.2)."""
        return self.timestamp_digest(hashlib.sha256(message).digest(), moment)

    def timestamp_digest(self, sha256: bytes, moment: datetime, *, nonce: bytes = b"") -> bytes:
        """Return what `timestamp` does, over a digest; `nonce` is the request's INTEGER element, DER, b"" for none."""
        info = der.sequence(
            der.integer(1),
            _POLICY,
            der.sequence(_SHA256, der.octets(sha256)),
            der.integer(secrets.randbits(63)),
            der.generalized_time(moment),
            nonce,
        )
        certificate = self.leaf.certificate.public_bytes(serialization.Encoding.DER)
        issuer = self.leaf.certificate.issuer.public_bytes()
        serial_number = der.integer(self.leaf.certificate.serial_number)
        certificate_id = der.sequence(
            der.octets(hashlib.sha256(certificate).digest()),
            der.sequence(der.sequence(der.explicit(4, issuer)), serial_number),
        )
        attributes = [
            der.sequence(_CONTENT_TYPE, der.set_of(_TST_INFO)),
            der.sequence(_MESSAGE_DIGEST, der.set_of(der.octets(hashlib.sha256(info).digest()))),
            der.sequence(_SIGNING_CERTIFICATE_V2, der.set_of(der.sequence(der.sequence(certificate_id)))),
        ]
        # RFC 5652 section 5.4: what is signed is the attributes as a SET, though they are sent as [0].
        signature = self.leaf.key.sign(der.set_of(*attributes), ec.ECDSA(hashes.SHA256()))
        signer = der.sequence(
            der.integer(1),
            der.sequence(issuer, serial_number),
            _SHA256,
            der.explicit(0, *sorted(attributes)),
            _ECDSA_SHA256,
            der.octets(signature),
        )
        signed_data = der.sequence(
            der.integer(3),
            der.set_of(_SHA256),
            der.sequence(_TST_INFO, der.explicit(0, der.octets(info))),
            der.explicit(0, certificate),
            der.set_of(signer),
        )
        granted = der.sequence(der.integer(0))
        return der.sequence(granted, der.sequence(_SIGNED_DATA, der.explicit(0, signed_data)))


def make_timestamp_authority(*, start: datetime, end: datetime) -> TimestampAuthority:
    """Return a timestamp authority whose certificates are valid from `start` to `end`."""
    root = make_authority("tsa-root", start=start, end=end)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tsa")]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_data=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return TimestampAuthority(root, CertificateKey(certificate, key))
