"""A private Sigstore for tests and demonstrations: signs offline, and the real verifier accepts what it signs.

`PrivateSigstore()` makes, with fresh keys, all that a signature needs: certificate authority, certificate transparency
log, transparency logs of both kinds, timestamp authority, and the trusted root that names them. Nothing here talks to a
network, and nothing here is trusted by anyone who does not pin that trusted root. Never pin one for real data.

Each field of `Flaw` breaks one promise and leaves the rest whole, so that a test of a verifier can tell which check it
exercised.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from millcert.testing.sigstore_authority import (
    CertificateKey,
    LeafRequest,
    PrivateKey,
    issue_certificate,
    issue_leaf,
    make_authority,
    spki,
)
from millcert.testing.sigstore_entries import (
    EnvelopeEntry,
    Party,
    SigningKey,
    certificate_party,
    dsse_v1,
    hashedrekord_v1,
    hashedrekord_v2,
    intoto_v2,
    key_party,
    sign_message,
)
from millcert.testing.sigstore_log import V1_INDEX_OFFSET, TransparencyLog, base64_text, make_log_key
from millcert.testing.sigstore_timestamp import TimestampAuthority, make_timestamp_authority

#: Which kind of transparency log an entry goes to.
Rekor = Literal[1, 2]
#: Part of the trusted root whose window of validity a test can set.
Instance = Literal["tlog", "ct", "ca", "tsa"]
#: Start and end in seconds from `now`; None is open.
Window = tuple[int, int | None]

_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_ROOT_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
_DAY_SECONDS = 24 * 60 * 60
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a bundle; the default is nothing.

    Offsets are seconds from the kit's `now`. A `None` leaves the true value. `has_timestamp_beside_set` is no flaw: it
    gives a Rekor v1 entry an RFC 3161 timestamp too.
    """

    certificate_seconds: int = 0
    integrated_seconds: int = 0
    timestamp_seconds: int = 0
    has_set: bool = True
    has_timestamp: bool = True
    has_timestamp_beside_set: bool = False
    has_inclusion_proof: bool = True
    has_sct: bool = True
    has_other_ct_key: bool = False
    has_other_authority: bool = False
    has_other_timestamp_authority: bool = False
    has_other_log_key: bool = False
    has_other_signing_key: bool = False
    extra_names: tuple[str, ...] = ()
    issuer_v2: str | None = None
    log_id: bytes | None = None
    log_index: int | None = None
    proof_index: int | None = None
    proof_size: int | None = None
    checkpoint_size: str | None = None
    checkpoint_origin: str | None = None
    logged_data: bytes | None = None


_NO_FLAW = Flaw()


@dataclass
class PrivateSigstore:
    """One private Sigstore instance.

    now: the time at which everything happens; whole seconds, the present if left out.
    domain: its hosts are `rekor.`, `log2026-1.rekor.`, `fulcio.`, `ctfe.` and `timestamp.` under it.

    Cost: about 10 ms to make, 3 ms a signature.
    """

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    domain: str = "private.test"

    def __post_init__(self) -> None:
        start, end = self.now - timedelta(days=30), self.now + timedelta(days=3650)
        self._root = make_authority("root", start=start, end=end)
        self._authority = make_authority("intermediate", start=start, end=end, issuer=self._root)
        self._ct_key = ec.generate_private_key(ec.SECP256R1())
        self._tsa = make_timestamp_authority(start=start, end=end)
        self._logs: dict[Rekor, TransparencyLog] = {
            1: TransparencyLog(1, f"rekor.{self.domain}", make_log_key(1)),
            2: TransparencyLog(2, f"log2026-1.rekor.{self.domain}", make_log_key(2)),
        }
        self._window = (start, end)

    def trusted_root(self, *, windows: Mapping[Instance, Window] | None = None) -> bytes:
        """Return the trusted root, JSON.

        Args:
            windows: validity of some instances, in seconds from `now`; all others start a day ago and do not end.
        """
        window = {name: self._valid_for((windows or {}).get(name)) for name in ("tlog", "ct", "ca", "tsa")}
        ct_id = hashlib.sha256(spki(self._ct_key)).digest()
        document = {
            "mediaType": _ROOT_TYPE,
            "tlogs": [
                _log_instance(f"https://{log.host}", log.key, log.log_id, window["tlog"]) for log in self._logs.values()
            ],
            "ctlogs": [_log_instance(f"https://ctfe.{self.domain}", self._ct_key, ct_id, window["ct"])],
            "certificateAuthorities": [
                _authority_instance(f"https://fulcio.{self.domain}", [self._authority, self._root], window["ca"])
            ],
            "timestampAuthorities": [
                _authority_instance(f"https://timestamp.{self.domain}", [self._tsa.leaf, self._tsa.root], window["tsa"])
            ],
        }
        return json.dumps(document, indent=2, sort_keys=True).encode()

    def sign_artifact(
        self, data: bytes, *, identity: str, issuer: str, rekor: Rekor = 2, flaw: Flaw = _NO_FLAW
    ) -> bytes:
        """Return a bundle (v0.3 JSON) with a signature over `data`.

        Args:
            data: the artifact.
            identity: an email address, or a URI such as a workflow's.
            issuer: the OIDC issuer that is said to have vouched for it.
            rekor: the log's kind: 1 gives a signed entry timestamp, 2 an RFC 3161 timestamp.
            flaw: what is wrong with the bundle.
        """
        return self._artifact(certificate_party(self._leaf(identity, issuer, flaw)), data, rekor, flaw)

    def sign_artifact_by_key(self, data: bytes, key: SigningKey, *, rekor: Rekor = 1, flaw: Flaw = _NO_FLAW) -> bytes:
        """Return a bundle as `sign_artifact` does, signed by a bare key and without any certificate."""
        return self._artifact(key_party(key), data, rekor, flaw)

    def sign_dsse(
        self,
        payload: bytes,
        *,
        identity: str,
        issuer: str,
        payload_type: str = _PAYLOAD_TYPE,
        rekor: Rekor = 1,
        entry: EnvelopeEntry = "dsse",
        flaw: Flaw = _NO_FLAW,
    ) -> bytes:
        """Return a bundle (v0.3 JSON) with a DSSE envelope over `payload`; arguments as in `sign_artifact`.

        Rekor v1 logs it as `entry` says: dsse/0.0.1, which every verifier reads, intoto/0.0.2, or hashedrekord/0.0.1;
        v2 always as hashedrekord/0.0.2.
        """
        party = certificate_party(self._leaf(identity, issuer, flaw))
        return self._envelope(party, payload, payload_type, (rekor, entry), flaw)

    def sign_dsse_by_key(
        self,
        payload: bytes,
        key: SigningKey,
        *,
        payload_type: str = _PAYLOAD_TYPE,
        rekor: Rekor = 1,
        entry: EnvelopeEntry = "dsse",
        flaw: Flaw = _NO_FLAW,
    ) -> bytes:
        """Return a bundle as `sign_dsse` does, signed by a bare key and without any certificate."""
        return self._envelope(key_party(key), payload, payload_type, (rekor, entry), flaw)

    def issue(self, public_key: ec.EllipticCurvePublicKey, *, identity: str, issuer: str) -> list[x509.Certificate]:
        """Return a certificate for a key that the caller holds, and those above it up to the root, as Fulcio does."""
        request = LeafRequest((identity,), issuer, self.now)
        leaf = issue_certificate(self._authority, self._ct_key, request, public_key)
        return [leaf, self._authority.certificate, self._root.certificate]

    def log(self, body: Mapping[str, Any], *, rekor: Rekor) -> dict[str, Any]:
        """Put an entry into a log and return what a bundle holds of it (TransparencyLogEntry, JSON values)."""
        return self._entry(body, rekor, _NO_FLAW)

    def timestamp(self, sha256: bytes, *, nonce: bytes = b"") -> bytes:
        """Return an RFC 3161 response over a digest; `nonce` as the request has it, a DER element."""
        return self._tsa.timestamp_digest(sha256, self.now, nonce=nonce)

    def _artifact(self, party: Party, data: bytes, rekor: Rekor, flaw: Flaw) -> bytes:
        signature = _signed(party, data, flaw)
        digest = hashlib.sha256(data).digest()
        logged = digest if flaw.logged_data is None else hashlib.sha256(flaw.logged_data).digest()
        body = hashedrekord_v1(party, signature, logged) if rekor == 1 else hashedrekord_v2(party, signature, logged)
        bundle = self._bundle(party, signature, body, rekor, flaw)
        bundle["messageSignature"] = {
            "messageDigest": {"algorithm": "SHA2_256", "digest": base64_text(digest)},
            "signature": base64_text(signature),
        }
        return json.dumps(bundle).encode()

    def _envelope(
        self, party: Party, payload: bytes, payload_type: str, logged_as: tuple[Rekor, EnvelopeEntry], flaw: Flaw
    ) -> bytes:
        encoded = f"DSSEv1 {len(payload_type.encode())} {payload_type} {len(payload)} ".encode() + payload
        signature = _signed(party, encoded, flaw)
        envelope = {
            "payload": base64_text(payload),
            "payloadType": payload_type,
            "signatures": [{"sig": base64_text(signature)}],
        }
        rekor, entry = logged_as
        logged = payload if flaw.logged_data is None else flaw.logged_data
        digest = hashlib.sha256(encoded if flaw.logged_data is None else flaw.logged_data).digest()
        if rekor == 2:
            body = hashedrekord_v2(party, signature, digest)
        elif entry == "hashedrekord":
            body = hashedrekord_v1(party, signature, digest)
        else:
            body = (dsse_v1 if entry == "dsse" else intoto_v2)(party, signature, envelope, logged)
        bundle = self._bundle(party, signature, body, rekor, flaw)
        bundle["dsseEnvelope"] = envelope
        return json.dumps(bundle).encode()

    def _valid_for(self, window: Window | None) -> dict[str, str]:
        start, end = window or (-_DAY_SECONDS, None)
        valid_for = {"start": _rfc3339(self.now + timedelta(seconds=start))}
        if end is not None:
            valid_for["end"] = _rfc3339(self.now + timedelta(seconds=end))
        return valid_for

    def _leaf(self, identity: str, issuer: str, flaw: Flaw) -> CertificateKey:
        start, end = self._window
        authority = self._authority
        if flaw.has_other_authority:
            root = make_authority("root", start=start, end=end)
            authority = make_authority("intermediate", start=start, end=end, issuer=root)
        ct_key = ec.generate_private_key(ec.SECP256R1()) if flaw.has_other_ct_key else self._ct_key
        request = LeafRequest(
            names=(identity, *flaw.extra_names),
            issuer=issuer,
            not_before=self.now + timedelta(seconds=flaw.certificate_seconds),
            issuer_v2=flaw.issuer_v2,
            has_sct=flaw.has_sct,
        )
        return issue_leaf(authority, ct_key, request)

    def _bundle(
        self, party: Party, signature: bytes, body: Mapping[str, Any], rekor: Rekor, flaw: Flaw
    ) -> dict[str, Any]:
        material: dict[str, Any] = {
            **party.material,
            "tlogEntries": [self._entry(body, rekor, flaw)],
        }
        if flaw.has_timestamp_beside_set if rekor == 1 else flaw.has_timestamp:
            moment = self.now + timedelta(seconds=flaw.timestamp_seconds)
            token = self._timestamp_authority(flaw).timestamp(signature, moment)
            material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": base64_text(token)}]}
        return {"mediaType": _BUNDLE_TYPE, "verificationMaterial": material}

    def _timestamp_authority(self, flaw: Flaw) -> TimestampAuthority:
        if not flaw.has_other_timestamp_authority:
            return self._tsa
        start, end = self._window
        return make_timestamp_authority(start=start, end=end)

    def _entry(self, body: Mapping[str, Any], rekor: Rekor, flaw: Flaw) -> dict[str, Any]:
        log = self._logs[rekor]
        key = make_log_key(rekor) if flaw.has_other_log_key else None
        encoded = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        index = log.append(encoded)
        log_index = index + V1_INDEX_OFFSET if rekor == 1 else index
        entry: dict[str, Any] = {
            "logIndex": str(log_index if flaw.log_index is None else flaw.log_index),
            "logId": {"keyId": base64_text(flaw.log_id or log.log_id)},
            "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
            "canonicalizedBody": base64_text(encoded),
        }
        if flaw.has_inclusion_proof:
            envelope = log.checkpoint(origin=flaw.checkpoint_origin, size=flaw.checkpoint_size, key=key)
            entry["inclusionProof"] = {
                "logIndex": str(index if flaw.proof_index is None else flaw.proof_index),
                "rootHash": base64_text(log.root()),
                "treeSize": str(len(log.leaves) if flaw.proof_size is None else flaw.proof_size),
                "hashes": [base64_text(node) for node in log.path(index)],
                "checkpoint": {"envelope": envelope},
            }
        if rekor == 1:
            moment = int((self.now + timedelta(seconds=flaw.integrated_seconds)).timestamp())
            entry["integratedTime"] = str(moment)
            if flaw.has_set:
                promise = log.entry_timestamp(encoded, log_index=log_index, integrated_time=moment, key=key)
                entry["inclusionPromise"] = {"signedEntryTimestamp": base64_text(promise)}
        return entry


def _signed(party: Party, message: bytes, flaw: Flaw) -> bytes:
    return (
        sign_message(ec.generate_private_key(ec.SECP256R1()), message)
        if flaw.has_other_signing_key
        else party.sign(message)
    )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _log_instance(url: str, key: PrivateKey, log_id: bytes, valid_for: Mapping[str, str]) -> dict[str, Any]:
    is_ed25519 = isinstance(key, ed25519.Ed25519PrivateKey)
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": base64_text(spki(key)),
            "keyDetails": "PKIX_ED25519" if is_ed25519 else "PKIX_ECDSA_P256_SHA_256",
            "validFor": valid_for,
        },
        "logId": {"keyId": base64_text(log_id)},
    }


def _authority_instance(url: str, chain: list[CertificateKey], valid_for: Mapping[str, str]) -> dict[str, Any]:
    return {
        "subject": {"organization": "private.test", "commonName": "private"},
        "uri": url,
        "certChain": {"certificates": [{"rawBytes": base64_text(_der(link.certificate))} for link in chain]},
        "validFor": valid_for,
    }
