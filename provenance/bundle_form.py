"""What a Sigstore bundle holds, read strictly; verifies nothing. No sigstore here.

Rules this module keeps:
  1. A bundle is small, strict JSON of a known media type, with one kind of content and one kind of material.
  2. An envelope has exactly one signature: a second would be one that nobody verifies.
  3. Base64 is the canonical one, so that one value has one form.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from millcert.errors import SignatureError
from millcert.provenance.bundle_entry import SignedEnvelope
from millcert.provenance.checkpoint import decode_base64
from millcert.provenance.dsse import pae
from millcert.provenance.public_key import Content
from millcert.provenance.strict_json import parse_json_object

#: Real bundles over a file have about 10 kB; an envelope has its payload besides, which may list a data set's files.
MAX_BUNDLE_BYTES = 4 * 1024 * 1024
#: The same for a bundle with an envelope.
MAX_ENVELOPE_BUNDLE_BYTES = 64 * 1024 * 1024

#: What is signed: a file, or a DSSE envelope.
ContentKind = Literal["messageSignature", "dsseEnvelope"]

_MEDIA_TYPES = frozenset(
    {
        "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        "application/vnd.dev.sigstore.bundle+json;version=0.3",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
    }
)
_DIGESTS = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


@dataclass(frozen=True)
class BundleForm:
    """A bundle's parts.

    document: all of it, JSON values.
    material: its `verificationMaterial`.
    content: what the signature must be over. envelope: None where that is a file.
    signature: its bytes.
    """

    document: Mapping[str, Any]
    material: Mapping[str, Any]
    content: Content
    envelope: SignedEnvelope | None
    signature: bytes

    @property
    def is_logged(self) -> bool:
        """Whether the bundle has log entries at all."""
        return bool(self.material.get("tlogEntries"))

    @property
    def has_key(self) -> bool:
        """Whether a bare key signed, and no certificate."""
        return "publicKey" in self.material


def read_form(data: bytes, kind: ContentKind, content: Content | None) -> BundleForm:
    """Return a bundle's parts.

    Args:
        data: the bundle, JSON.
        kind: what must be signed.
        content: the file that must be signed; None with an envelope, which holds its own.

    Raises:
        SignatureError: a rule is broken; `reason` is "bundle_malformed", "content" or "message_digest".
    """
    document = _strict(data)
    material = document.get("verificationMaterial")
    if kind not in document:
        found = "a DSSE envelope" if "dsseEnvelope" in document else "no message signature"
        wanted = "a DSSE envelope" if kind == "dsseEnvelope" else "a signature over the file itself"
        _refuse("content", f"The bundle holds {found}; expected {wanted}.", hint="Sign with `sigstore sign FILE`.")
    body = document[kind]
    if not isinstance(material, dict) or not isinstance(body, dict):
        _refuse("bundle_malformed", "The bundle lacks its verification material or what it is over.")
    if document.get("mediaType") not in _MEDIA_TYPES:
        _refuse("bundle_malformed", f"The bundle is of an unknown type: {document.get('mediaType')!r:.80}.")
    held = [key for key in ("publicKey", "certificate", "x509CertificateChain") if material.get(key) is not None]
    if len(held) != 1 or len({"messageSignature", "dsseEnvelope"} & document.keys()) != 1:
        _refuse("bundle_malformed", "The bundle must have one key or certificate, and one signature or envelope.")
    chain = material.get("x509CertificateChain")
    if chain is not None and not (isinstance(chain, dict) and chain.get("certificates")):
        _refuse("bundle_malformed", "The bundle's certificate chain is empty.")
    if kind == "dsseEnvelope":
        envelope, signature = _envelope(body)
        encoded = pae(envelope.payload_type, envelope.payload)
        return BundleForm(document, material, Content.of(encoded), envelope, signature)
    if content is None:
        _refuse("content", "A signature over a file needs the file.")
    return BundleForm(document, material, content, None, _message_signature(body, content))


def envelope_content(bundle: bytes) -> bytes:
    """Return what a bundle with an envelope is a signature over: the envelope's DSSE encoding.

    Raises:
        SignatureError: the bundle has none, or is malformed.
    """
    message = read_form(bundle, "dsseEnvelope", None).content.message
    if message is None:
        raise AssertionError("An envelope's content is known whole.")
    return message


def _strict(data: bytes) -> Mapping[str, Any]:
    try:
        return parse_json_object(data, what="bundle", max_bytes=MAX_BUNDLE_BYTES, error=SignatureError)
    except SignatureError as error:
        raise SignatureError(error.message, hint="Is this the bundle?", reason="bundle_malformed") from error


def _message_signature(body: Mapping[str, Any], content: Content) -> bytes:
    claimed = body.get("messageDigest")
    if claimed is not None:
        if not isinstance(claimed, dict) or claimed.get("algorithm") not in _DIGESTS:
            _refuse("bundle_malformed", "The bundle's message digest is malformed, or of an unknown kind.")
        expected = content.digest(_DIGESTS[claimed["algorithm"]])
        if expected is not None and expected != _bytes(claimed.get("digest"), "message digest"):
            _refuse("message_digest", "The bundle is about another file: its message digest differs.")
    return _bytes(body.get("signature"), "signature")


def _envelope(body: Mapping[str, Any]) -> tuple[SignedEnvelope, bytes]:
    signatures, payload_type = body.get("signatures"), body.get("payloadType")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        _refuse("bundle_malformed", "The bundle's envelope must have exactly one signature.")
    if not isinstance(payload_type, str):
        _refuse("bundle_malformed", "The bundle's envelope has no payload type.")
    payload = _bytes(body.get("payload"), "payload")
    return SignedEnvelope(payload_type, payload), _bytes(signatures[0].get("sig"), "signature")


def _bytes(value: object, what: str) -> bytes:
    data = decode_base64(value) if isinstance(value, str) else None
    if data is None:
        _refuse("bundle_malformed", f"The bundle's {what} is no canonical base64.")
    return data


def bundle_digest(data: bytes) -> str:
    """Return the digest under which a verified bundle is recorded: SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()


def _refuse(reason: str, message: str, *, hint: str = "Ask the owner to sign again.") -> NoReturn:
    raise SignatureError(message, hint=hint, reason=reason)
