"""Whom a Fulcio certificate names: one identity, and the issuer that vouched for it. No sigstore here.

Source: Fulcio's certificate specification, and its object identifiers 1.3.6.1.4.1.57264.1.1 (raw text) and .1.8 (DER).
"""

from typing import NoReturn

from cryptography import x509
from cryptography.hazmat import asn1

from millcert.errors import SignatureError

_ISSUER_V1 = "1.3.6.1.4.1.57264.1.1"
_ISSUER_V2 = "1.3.6.1.4.1.57264.1.8"


def signer_of(certificate: x509.Certificate) -> tuple[str, str]:
    """Return the certificate's identity and issuer; verifies nothing.

    Raises:
        SignatureError: not exactly one name of a known kind, no issuer, or two different ones; `reason` is
            "certificate_names" or "certificate_issuer".
        ValueError, ExtensionNotFound: an extension is missing or cannot be read; the caller translates.
    """
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


def _refuse(reason: str, message: str) -> NoReturn:
    raise SignatureError(message, hint="Ask the owner to sign again.", reason=reason)
