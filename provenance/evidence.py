"""Evidence: all that shows, without network or database, what the gate said of some samples of its runs.

One canonical JSON object. `evidence_verify` reads it with the ledger's public key and nothing else; docs/verifier.html
is a second reader that shares no code with it.

Format: docs/formats/evidence.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from millcert.errors import UsageError
from millcert.provenance.absence import Absence, Neighbour
from millcert.provenance.checkpoint import encode_base64, parse_checkpoint, parse_note
from millcert.provenance.finding_leaf import FindingNeighbour
from millcert.provenance.ledger import Ledger, LoggedEntry
from millcert.provenance.lookup import FoundSample, SampleRun
from millcert.provenance.strict_json import canonical_json
from millcert.provenance.tlog_proof import parse_tlog_proof

#: 2 shows what the checks said of each sample; runs of before that have evidence of version 1.
VERSION = 2
OLD_VERSION = 1


def export_evidence(
    ledger: Ledger,
    answers: Sequence[tuple[SampleRun, Sequence[FoundSample], Sequence[bytes]]],
    *,
    cosigned: bytes | None = None,
) -> bytes:
    """Return the evidence for samples, present or absent, under the ledger's newest checkpoint.

    Args:
        ledger: open for reading.
        answers: for each run, the samples that are in it and the digests of those that are not.
        cosigned: a checkpoint of this ledger that witnesses cosigned; used in place of the newest one if it covers all.

    Raises:
        UsageError: there is nothing to show, or a digest is in the run that it should be absent from.
        InconclusiveError: samples were erased, so an absence cannot be shown.
        LedgerError: files or entries are not what the ledger says.

    Cost: about 1.5 kB a sample and 4 kB a run (bench/evidence.py).
    """
    if not answers:
        raise UsageError("There is no run, so there is nothing to show.", hint="The first `millcert vet` makes one.")
    size = ledger.size
    checkpoint = parse_tlog_proof(ledger.prove(answers[0][0].logged.index, size)).checkpoint
    last = max(run.logged.index for run, _, _ in answers)  # of all that a run says, its roots are logged last
    if cosigned is not None and last < (held := parse_checkpoint(parse_note(cosigned).text).size) <= size:
        size, checkpoint = held, cosigned
    has_findings = any(run.roots.has_findings for run, _, _ in answers)
    runs = [_run(ledger, size, run, samples, absent, has_findings=has_findings) for run, samples, absent in answers]
    return canonical_json(
        {"checkpoint": checkpoint.decode(), "runs": runs, "version": VERSION if has_findings else OLD_VERSION},
        what="evidence",
    )


def _run(
    ledger: Ledger,
    size: int,
    run: SampleRun,
    samples: Sequence[FoundSample],
    absent: Sequence[bytes],
    *,
    has_findings: bool,
) -> Mapping[str, Any]:
    roots = run.roots
    sources = {found.shard.source for found in samples}
    manifests = [logged for logged in map(ledger.get, roots.sources) if logged.entry.body.get("source") in sources]
    return {
        "absences": [_absence(run.absence(digest)) for digest in absent],
        "checks": [_statement(ledger, size, ledger.get(index)) for index in roots.checks],
        "roots": _statement(ledger, size, run.logged),
        "samples": [
            {**_sample(run, found), **({"findings": _findings(run, found)} if has_findings else {})}
            for found in samples
        ],
        "sources": [_statement(ledger, size, logged) for logged in manifests],
        "verdict": _statement(ledger, size, ledger.get(roots.verdict)),
    }


def _statement(ledger: Ledger, size: int, logged: LoggedEntry) -> Mapping[str, Any]:
    path = parse_tlog_proof(ledger.prove(logged.index, size)).path
    return {"index": logged.index, "leaf": logged.entry.leaf().decode(), "path": _hashes(path)}


def _sample(run: SampleRun, found: FoundSample) -> Mapping[str, Any]:
    return {
        "digest": found.digest.hex(),
        "path": _hashes(run.sample_path(found)),
        "row": found.row,
        "salt": found.salt.hex(),
        "shard": found.shard.line().decode(),
        "shard_index": found.number,
        "shard_path": _hashes(run.shard_path(found.number)),
    }


def _findings(run: SampleRun, found: FoundSample) -> Mapping[str, Any] | None:
    proof = run.findings(found)
    if proof is None:
        return None
    if proof.record:
        return {"path": _hashes(proof.path), "position": proof.position, "record": proof.record}
    return {"left": _finding_neighbour(proof.left), "right": _finding_neighbour(proof.right)}


def _finding_neighbour(neighbour: FindingNeighbour | None) -> Mapping[str, Any] | None:
    if neighbour is None:
        return None
    return {
        "commitment": neighbour.commitment.hex(),
        "key": neighbour.key.hex(),
        "path": _hashes(neighbour.path),
        "position": neighbour.position,
    }


def _absence(absence: Absence) -> Mapping[str, Any]:
    return {
        "digest": absence.digest.hex(),
        "index_salt": absence.index_salt.hex(),
        "left": _neighbour(absence.left),
        "right": _neighbour(absence.right),
    }


def _neighbour(neighbour: Neighbour | None) -> Mapping[str, Any] | None:
    if neighbour is None:
        return None
    return {
        "key": neighbour.key.hex(),
        "path": _hashes(neighbour.path),
        "position": neighbour.position,
        "salt": neighbour.salt.hex(),
    }


def _hashes(path: Sequence[bytes]) -> str:
    return encode_base64(b"".join(path))
