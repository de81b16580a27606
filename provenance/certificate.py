"""The certificate: a signed, logged statement that one data set passed the gate, complete in one file.

Steps of `verify_certificate`:
  1. The bytes are a strict JSON object of version 1 with exactly the known fields.
  2. The manifest is whole, and its root is computed anew.
  3. Both envelopes are signed by a key of the gate, as in-toto statements.
  4. Both statements are of their expected predicate types, and about that very root and name.
  5. The summary says PASSED, and both statements agree on policy, input, output and code.
  6. The leaf is a certificate entry that binds the digests of both envelopes, the root, and the verdict's digest.
  7. The leaf is in the ledger: the proof leads to a checkpoint that a known key of the ledger signed.
  8. Where the caller asks for witnesses: as many distinct ones cosigned that checkpoint.
The caller owes: that the keys come from its own configuration, never from the certificate; that the data is the data
(`admit_path`); and whether the certificate was revoked since (the ledger says, the certificate cannot).

Format: docs/formats/certificate.md.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millcert.errors import InclusionError, SignatureError, UsageError
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, decode_base64, encode_base64
from millcert.provenance.cosignature import Cosignature, WitnessRule, require_witnesses
from millcert.provenance.dsse import Envelope, envelope_from, sign_envelope, verify_envelope
from millcert.provenance.ledger import Ledger
from millcert.provenance.ledger_entry import Entry, parse_entry
from millcert.provenance.manifest import Manifest, parse_manifest
from millcert.provenance.statement import (
    ADMITTED_LEVEL,
    CHECKS_PREDICATE_TYPE,
    PASSED,
    VSA_PREDICATE_TYPE,
    DatasetChecks,
    Statement,
    Subject,
    VerificationSummary,
    parse_dataset_checks,
    parse_statement,
    parse_verification_summary,
    resource_uri_of,
)
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields
from millcert.provenance.tlog_proof import parse_tlog_proof, prove_under, verify_tlog_proof

VERSION = 1

#: The kind of a certificate's leaf.
LEAF_KIND = "certificate"

#: Bound on a certificate: the largest manifest, two statements, and their base64.
MAX_CERTIFICATE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Certificate:
    """A verified certificate.

    manifest: the files that were admitted.
    summary: the gate's yes, as a SLSA verification summary.
    checks: what the gate looked at and found.
    index: place of the certificate's leaf in the ledger.
    checkpoint: of the ledger, covering the leaf.
    cosignatures: of the witnesses that the caller asked for, verified.
    """

    manifest: Manifest
    summary: VerificationSummary
    checks: DatasetChecks
    index: int
    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...] = ()


def issue_certificate(
    *,
    manifest: Manifest,
    verdict: Mapping[str, Any],
    policy_digest: str,
    trusted_root_digest: str | None,
    input_root: str,
    code_version: str,
    time_verified: str,
    key: Ed25519PrivateKey,
    ledger: Ledger,
    cosigned: Callable[[Ledger], bytes] | None = None,
) -> bytes:
    """Sign that a data set was admitted, log it, and return the certificate's bytes (canonical JSON).

    Signatures and log entry depend on the arguments alone, and the proof is under the first checkpoint that covers the
    entry: a retry after a crash returns the same bytes and logs nothing twice.

    Args:
        manifest: of the admitted files.
        verdict: the gate's verdict as JSON values; its `decision` must be "admitted".
        policy_digest: SHA-256 of the policy, hex.
        trusted_root_digest: SHA-256 of the Sigstore trusted root, hex; None if none was used.
        input_root: manifest root of what was judged, hex.
        code_version: of millcert.
        time_verified: RFC 3339 in UTC; a retry must give the same.
        key: the gate's.
        ledger: open for appending.
        cosigned: returns the newest checkpoint with the cosignatures that are asked for; the proof is then under it.

    Raises:
        UsageError: the verdict does not admit, or a value is malformed.
        StoreError, LedgerError: the ledger could not take the entry, or too few witnesses cosigned it; there is no
            certificate then.
    """
    if verdict.get("decision") != "admitted":
        raise UsageError(
            f"Only an admitted data set gets a certificate; the verdict's decision is {verdict.get('decision')!r}.",
            hint="Look at the verdict's reasons.",
        )
    subject = Subject(manifest.name, manifest.root)
    summary = VerificationSummary(
        verifier_version=code_version,
        time_verified=time_verified,
        resource_uri=resource_uri_of(manifest.name),
        policy_sha256=policy_digest,
        input_sha256=(input_root,),
        result=PASSED,
        levels=(ADMITTED_LEVEL,),
    )
    checks = DatasetChecks(verdict, policy_digest, trusted_root_digest, code_version, input_root, manifest.root)
    _refuse_unreadable(summary, checks)
    vsa = sign_envelope(Statement(subject, VSA_PREDICATE_TYPE, summary.to_predicate()).to_json(), key)
    findings = sign_envelope(Statement(subject, CHECKS_PREDICATE_TYPE, checks.to_predicate()).to_json(), key)
    entry = _leaf_entry(manifest, summary, checks, vsa, findings)
    index = ledger.append([entry]).indexes[0]
    # If we crash here, the entry is logged without a certificate; the retry finds it and completes.
    if cosigned is None:
        proof = ledger.prove(index, ledger.covering_size(index))
    else:
        proof = prove_under(ledger, index, cosigned(ledger))
    return canonical_json(
        {
            "version": VERSION,
            "manifest": json.loads(manifest.to_json()),
            "vsa": vsa.to_mapping(),
            "checks": findings.to_mapping(),
            "ledger": {"leaf": encode_base64(entry.leaf()), "proof": proof.decode()},
        },
        what="certificate",
    )


def verify_certificate(
    data: bytes,
    *,
    gate_keys: Sequence[Ed25519PublicKey],
    ledger_vkeys: Sequence[VerifierKey],
    witnesses: WitnessRule | None = None,
) -> Certificate:
    """Return what a certificate says, if all of it is true as far as signatures and log can show.

    Works offline. See the top of this module for the steps, and for what remains for the caller.

    Args:
        data: the certificate file.
        gate_keys: public keys of the gates that the caller trusts; one must have signed both statements.
        ledger_vkeys: public keys of the ledgers that the caller trusts.
        witnesses: how many witnesses must have cosigned; None asks for none.

    Raises:
        SignatureError: the certificate is malformed, a signature does not verify, the parts do not belong together, or
            too few witnesses cosigned.
        ManifestError: the manifest is malformed or was edited.
        LedgerError, InclusionError: the leaf is not in the ledger, or is no certificate entry.
        UsageError: a kind of key is missing.

    Cost: about 60 microseconds a file of the manifest, and 1 ms.
    """
    if not gate_keys or not ledger_vkeys:
        raise UsageError(
            "A certificate is verified with the gate's and the ledger's public keys; one of them is missing.",
            hint="Give --gate-key FILE and --ledger-key FILE, or --state DIR with both.",
        )
    parts = _parse(data)  # 1
    # The embedded manifest is an object of the certificate; its own parser reads bytes.
    manifest = parse_manifest(json.dumps(parts["manifest"]).encode())  # 2
    vsa, findings = envelope_from(parts["vsa"]), envelope_from(parts["checks"])  # 3
    vsa_payload, findings_payload = verify_envelope(vsa, gate_keys), verify_envelope(findings, gate_keys)
    first = parse_statement(vsa_payload, predicate_type=VSA_PREDICATE_TYPE)  # 4
    second = parse_statement(findings_payload, predicate_type=CHECKS_PREDICATE_TYPE)
    subject = Subject(manifest.name, manifest.root)
    if first.subject != subject or second.subject != subject:
        raise SignatureError(
            f"The signed statements are about {first.subject.name!r} with root {first.subject.sha256} and "
            f"{second.subject.name!r} with {second.subject.sha256}; the manifest is {manifest.name!r} with "
            f"{manifest.root}.",
            hint="The certificate was put together from parts of others.",
            expected=first.subject.sha256,
            actual=manifest.root,
        )
    summary = parse_verification_summary(first.predicate)  # 5
    checks = parse_dataset_checks(second.predicate)
    _require_agreement(manifest, summary, checks)
    leaf = decode_base64(parts["ledger"]["leaf"])  # 6
    if leaf is None:
        raise InclusionError("The certificate's leaf is not canonical base64.")
    try:
        expected = _leaf_entry(manifest, summary, checks, vsa, findings)
    except UsageError as error:
        raise SignatureError(f"The certificate's statements are malformed: {error.message}") from error
    if parse_entry(leaf) != expected:
        raise InclusionError(
            "The certificate's leaf does not bind its statements, manifest and verdict.",
            hint="The certificate was put together from parts of others.",
        )
    proof = parts["ledger"]["proof"].encode()  # 7
    checkpoint = verify_tlog_proof(proof, leaf, ledger_vkeys)
    parsed = parse_tlog_proof(proof)
    cosignatures = () if witnesses is None else require_witnesses(parsed.checkpoint, witnesses)  # 8
    return Certificate(manifest, summary, checks, parsed.index, checkpoint, cosignatures)


def checkpoint_in(data: bytes) -> bytes:
    """Return the signed checkpoint that a certificate carries; verifies nothing of either.

    Raises:
        SignatureError: the bytes are no certificate.
        LedgerError: its proof is malformed.
    """
    return parse_tlog_proof(_parse(data)["ledger"]["proof"].encode()).checkpoint


def _parse(data: bytes) -> dict[str, Any]:
    what = "certificate"
    parts = parse_json_object(data, what=what, max_bytes=MAX_CERTIFICATE_BYTES, error=SignatureError)
    version = parts.get("version")
    if type(version) is not int or version != VERSION:
        raise SignatureError(
            f"The certificate has version {version!r}; this millcert reads version {VERSION}.",
            hint="Was the right file given? A newer certificate needs a newer millcert.",
        )
    fields = {"version": int, "manifest": dict, "vsa": dict, "checks": dict, "ledger": dict}
    require_fields(parts, fields, what=what, error=SignatureError)
    require_fields(parts["ledger"], {"leaf": str, "proof": str}, what="certificate's ledger part", error=SignatureError)
    return parts


def _refuse_unreadable(summary: VerificationSummary, checks: DatasetChecks) -> None:
    """Refuse to sign what `verify_certificate` would not read: a wrong digest or time is the caller's mistake."""
    try:
        parse_verification_summary(summary.to_predicate())
        parse_dataset_checks(checks.to_predicate())
    except SignatureError as error:
        raise UsageError(f"Not signed: {error.message}") from error


def _require_agreement(manifest: Manifest, summary: VerificationSummary, checks: DatasetChecks) -> None:
    if summary.result != PASSED or checks.verdict.get("decision") != "admitted":
        raise SignatureError(
            f"The data set was not admitted: the summary says {summary.result}, the verdict "
            f"{checks.verdict.get('decision')!r}.",
            hint="Do not train on it.",
        )
    said = (summary.policy_sha256, summary.input_sha256, summary.verifier_version, manifest.root, manifest.name)
    also = (checks.policy_sha256, (checks.input_root,), checks.code_version, checks.output_root)
    if said[:4] != also or summary.resource_uri != resource_uri_of(manifest.name):
        raise SignatureError(
            "The two statements do not agree on policy, input, output, code version or name.",
            hint="The certificate was put together from parts of others.",
        )


def _leaf_entry(
    manifest: Manifest, summary: VerificationSummary, checks: DatasetChecks, vsa: Envelope, findings: Envelope
) -> Entry:
    """Return the entry that a certificate's leaf must be.

    Raises:
        UsageError: the verdict has no canonical form.
    """
    verdict = canonical_json(checks.verdict, what="verdict")
    return Entry(
        LEAF_KIND,
        manifest.root,
        summary.time_verified,
        {
            "checks_sha256": findings.digest,
            "dataset": manifest.name,
            "input_root": checks.input_root,
            "manifest_root": manifest.root,
            "policy_digest": summary.policy_sha256,
            "verdict_digest": hashlib.sha256(verdict).hexdigest(),
            "vsa_sha256": vsa.digest,
        },
    )
