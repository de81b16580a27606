"""Verification of evidence on a machine that has nothing: no network, no database, no data, no numpy.

Steps of `verify_evidence`:
  1. The bytes are canonical JSON (RFC 8785) of version 1 or 2 with exactly the known fields: all readers read the same.
  2. The checkpoint is signed by a known key of its own origin.
  3. Every statement is in the ledger, at its index, under that checkpoint.
  4. The first is a `shard_roots` entry; verdict, checks and sources are those that it names, the checks all of them.
  5. Each sample's shard is in the run, and the sample, salted, is at its row of that shard.
  6. Each sample's source is among the statements, and (version 2) what the checks said of it is in the run's tree of
     findings, or two neighbours show that they said nothing.
  7. Each absent sample lies between two neighbours of the run's index (`absence`).
The caller owes: that the keys come from its own configuration. What the evidence says is what the gate said; that the
gate was right, or that a sample was not erased since, it cannot say.

Format: docs/formats/evidence.md. A second reader that shares no code: docs/verifier.html.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from millcert.errors import InclusionError, IntegrityError, LedgerError, MillcertError, SignatureError, UsageError
from millcert.provenance.absence import Absence, Neighbour, verify_absence
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, decode_base64, verify_checkpoint
from millcert.provenance.cosignature import WitnessRule, require_witnesses
from millcert.provenance.finding_leaf import FindingNeighbour, FindingProof, verify_findings
from millcert.provenance.ledger_entry import MAX_LEAF_BYTES, Entry, parse_entry
from millcert.provenance.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from millcert.provenance.sample_leaf import sample_leaf_hash
from millcert.provenance.sample_run import RunRoots, parse_shard, roots_from
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields

VERSIONS = (1, 2)

#: Some 40,000 samples; more go into several files.
MAX_EVIDENCE_BYTES = 64 * 1024 * 1024

_HEX = re.compile(r"[0-9a-f]{64}")
_TOP = {"checkpoint": str, "runs": list, "version": int}
_RUN = {"absences": list, "checks": list, "roots": dict, "samples": list, "sources": list, "verdict": dict}
_STATEMENT = {"index": int, "leaf": str, "path": str}
_SAMPLE = {
    "digest": str,
    "path": str,
    "row": int,
    "salt": str,
    "shard": str,
    "shard_index": int,
    "shard_path": str,
}
_NEIGHBOUR = {"key": str, "path": str, "position": int, "salt": str}


@dataclass(frozen=True)
class SampleEvidence:
    """A sample that was in a run. digest: hex. signer: identity that signed its source, "" if nobody did.

    findings: what the checks said of it: check, score, threshold, reason, group, action; empty if they said nothing;
    None where the run does not keep that.
    """

    @property
    def outcome(self) -> str:
        """What became of it, as far as the checks decide: quarantined, or not held back; "" where nobody can tell."""
        if self.findings is None:
            return ""
        held = any(one["action"] == "quarantine" for one in self.findings)
        return "quarantined" if held else "not held back"

    digest: str
    file: str
    row: int
    source: str
    signer: str
    issuer: str
    source_status: str
    findings: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True)
class RunEvidence:
    """What evidence shows of one run. verdict, checks: bodies of the ledger's entries. index: of the verdict's.

    samples: that were in it. absent: digests (hex) of samples that were not.
    """

    index: int
    recorded_at: str
    verdict: Mapping[str, Any]
    checks: tuple[Mapping[str, Any], ...]
    samples: tuple[SampleEvidence, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """Evidence that was verified. checkpoint: of the ledger that everything is under."""

    checkpoint: Checkpoint
    runs: tuple[RunEvidence, ...]


def verify_evidence(data: bytes, vkeys: Sequence[VerifierKey], witnesses: WitnessRule | None = None) -> Evidence:
    """Return what evidence shows, if all of it verifies. Offline; the steps are at the top of this module.

    Args:
        data: the evidence file.
        vkeys: public keys of the ledgers that the caller trusts.
        witnesses: how many witnesses must have cosigned the checkpoint; None asks for none.

    Raises:
        IntegrityError: by its subclass; `reason` is one of the words in docs/formats/evidence.md.
        UsageError: no key was given.

    Cost: about 0.3 ms a run and 0.1 ms a sample.
    """
    if not vkeys:
        raise UsageError("No key to verify evidence with.", hint="Give the ledger's public key: --trust FILE.")
    parts = _object(data, _TOP, "evidence", MAX_EVIDENCE_BYTES)  # 1
    if parts["version"] not in VERSIONS or not parts["runs"]:
        _refuse("form", f"The evidence has version {parts['version']!r} or no run; this millcert reads {VERSIONS}.")
    try:
        checkpoint = verify_checkpoint(parts["checkpoint"].encode(), vkeys)  # 2
    except (LedgerError, SignatureError) as error:
        _refuse("checkpoint", error.message, SignatureError, cause=error)
    try:
        if witnesses is not None:
            require_witnesses(parts["checkpoint"].encode(), witnesses)
    except SignatureError as error:
        _refuse("witnesses", error.message, SignatureError, cause=error)
    return Evidence(checkpoint, tuple(_run(run, checkpoint, parts["version"]) for run in parts["runs"]))


def _run(run: Any, checkpoint: Checkpoint, version: int) -> RunEvidence:
    _fields(run, _RUN, "run")
    roots_entry, _ = _statement(run["roots"], checkpoint)  # 3
    verdict, index = _statement(run["verdict"], checkpoint)
    checks = [_statement(one, checkpoint) for one in run["checks"]]
    sources = [_statement(one, checkpoint) for one in run["sources"]]
    try:
        roots = roots_from(roots_entry)  # 4
    except LedgerError as error:
        _refuse("roots", error.message, cause=error)
    if index != roots.verdict or verdict.kind != "verdict":
        _refuse("verdict", "The verdict is not that of the run.")
    if tuple(place for _, place in checks) != roots.checks:
        _refuse("checks", "The checks are not all those of the run, in its order.")
    signers: dict[str, Entry] = {}
    for entry, place in sources:
        name = entry.body.get("source")
        if place not in roots.sources or not isinstance(name, str) or name in signers:
            _refuse("source", "A source's statement is not one of the run, or is there twice.")
        signers[name] = entry
    return RunEvidence(
        index=index,
        recorded_at=verdict.recorded_at,
        verdict=verdict.body,
        checks=tuple(entry.body for entry, _ in checks),
        samples=tuple(_sample(one, roots, signers, version) for one in run["samples"]),
        absent=tuple(_absent(one, roots) for one in run["absences"]),
    )


def _statement(statement: Any, checkpoint: Checkpoint) -> tuple[Entry, int]:
    _fields(statement, _STATEMENT, "statement")
    leaf = statement["leaf"].encode()
    index = statement["index"]
    path = _hashes(statement["path"])
    try:
        verify_inclusion(leaf_hash(leaf), index, checkpoint.size, path, checkpoint.root)
    except InclusionError as error:
        _refuse("statement", error.message, cause=error)
    if len(leaf) > MAX_LEAF_BYTES:
        _refuse("form", "A statement is longer than a ledger entry can be.")
    try:
        return parse_entry(leaf), index
    except LedgerError as error:
        _refuse("form", error.message, cause=error)


def _sample(sample: Any, roots: RunRoots, signers: Mapping[str, Entry], version: int) -> SampleEvidence:
    _fields(sample, _SAMPLE if version == 1 else {**_SAMPLE, "findings": object}, "sample")
    digest, salt = _digest(sample["digest"]), _digest(sample["salt"])
    line = sample["shard"].encode()
    root = bytes.fromhex(roots.shards_root)  # 5
    _included("shard", leaf_hash(line), sample["shard_index"], roots.shards, sample["shard_path"], root)
    try:
        shard = parse_shard(line)
    except LedgerError as error:
        _refuse("form", error.message, cause=error)
    root = bytes.fromhex(shard.root)
    _included("sample", sample_leaf_hash(salt, digest), sample["row"], shard.records, sample["path"], root)
    if shard.source not in signers:  # 6
        _refuse("source", f"The statement about source {shard.source!r} is missing.")
    body = signers[shard.source].body
    return SampleEvidence(
        digest=digest.hex(),
        file=shard.file,
        row=sample["row"],
        source=shard.source,
        signer=str(body.get("identity") or ""),
        issuer=str(body.get("issuer") or ""),
        source_status=str(body.get("status") or ""),
        findings=None if version == 1 else _findings(sample["findings"], salt, roots),
    )


def _findings(findings: Any, salt: bytes, roots: RunRoots) -> tuple[Mapping[str, Any], ...] | None:
    # A run that keeps findings shows them; one that does not has nothing to show.
    if (findings is None) == roots.has_findings:
        _refuse("finding", "What the checks said of a sample is missing, or of a run that does not keep it.")
    if findings is None:
        return None
    if isinstance(findings, dict) and "record" in findings:
        _fields(findings, {"path": str, "position": int, "record": str}, "finding")
        if not findings["record"]:
            _refuse("form", "A record of findings is empty.")
        proof = FindingProof(findings["record"], findings["position"], _hashes(findings["path"]))
    else:
        _fields(findings, {"left": object, "right": object}, "finding")
        proof = FindingProof("", left=_beside(findings["left"]), right=_beside(findings["right"]))
    try:
        return verify_findings(proof, salt, flagged=roots.flagged, root=bytes.fromhex(roots.findings_root))
    except InclusionError as error:
        _refuse(str(error.details["reason"]), error.message, cause=error)
    except (IntegrityError, UsageError) as error:
        _refuse("form", error.message, cause=error)


def _beside(neighbour: Any) -> FindingNeighbour | None:
    if neighbour is None:
        return None
    _fields(neighbour, {"commitment": str, "key": str, "path": str, "position": int}, "neighbour")
    return FindingNeighbour(
        neighbour["position"],
        _digest(neighbour["key"]),
        _digest(neighbour["commitment"]),
        _hashes(neighbour["path"]),
    )


def _absent(absence: Any, roots: RunRoots) -> str:
    # 7. A neighbour is an object or null, so the types are looked at one by one.
    if not isinstance(absence, dict) or set(absence) != {"digest", "index_salt", "left", "right"}:
        _refuse("form", "An absence has other fields than expected.")
    proof = Absence(
        _digest(absence["digest"]),
        _digest(absence["index_salt"]),
        _neighbour(absence["left"]),
        _neighbour(absence["right"]),
    )
    try:
        verify_absence(proof, size=roots.samples, root=bytes.fromhex(roots.index_root))
    except InclusionError as error:
        _refuse(str(error.details["reason"]), error.message, cause=error)
    return proof.digest.hex()


def _neighbour(neighbour: Any) -> Neighbour | None:
    if neighbour is None:
        return None
    _fields(neighbour, _NEIGHBOUR, "neighbour")
    return Neighbour(
        neighbour["position"], _digest(neighbour["key"]), _digest(neighbour["salt"]), _hashes(neighbour["path"])
    )


def _included(what: str, hashed: bytes, index: int, size: int, path: str, root: bytes) -> None:
    hashes = _hashes(path)
    try:
        verify_inclusion(hashed, index, size, hashes, root)
    except InclusionError as error:
        _refuse(what, f"The {what} is not where the evidence says: {error.message}", cause=error)


def _object(data: bytes, fields: Mapping[str, type], what: str, max_bytes: int) -> dict[str, Any]:
    try:
        value = parse_json_object(data, what=what, max_bytes=max_bytes)
        require_fields(value, fields, what=what)
        if canonical_json(value, what=what) != data:
            _refuse("form", f"The {what} is not in canonical form (RFC 8785).")
    except (IntegrityError, UsageError) as error:
        _refuse("form", error.message, cause=error)
    return value


def _fields(value: Any, fields: Mapping[str, type], what: str) -> None:
    if not isinstance(value, dict):
        _refuse("form", f"A {what} is no object.")
    try:
        require_fields(value, fields, what=what)
    except IntegrityError as error:
        _refuse("form", error.message, cause=error)


def _digest(text: Any) -> bytes:
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        _refuse("form", "Expected 32 bytes in lower-case hex.")
    return bytes.fromhex(text)


def _hashes(text: str) -> tuple[bytes, ...]:
    data = decode_base64(text)
    if data is None or len(data) % HASH_BYTES:
        _refuse("form", "A path is not hashes of 32 bytes in canonical base64.")
    return tuple(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES))


def _refuse(
    reason: str, message: str, kind: type[IntegrityError] = InclusionError, *, cause: MillcertError | None = None
) -> NoReturn:
    hint = "The evidence was altered, or put together from parts of others; ask for it again."
    raise kind(message, hint=hint, reason=reason) from cause
