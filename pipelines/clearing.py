"""Revocations and a run: what is revoked is refused before it is read where that can be told, else before it counts."""

from collections.abc import Sequence
from pathlib import Path

from millcert.errors import InternalError, StoreError
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.ruling import RunResult
from millcert.pipelines.sample_set import SampleSet, samples_entry
from millcert.provenance.ledger import Entry, LoggedEntry
from millcert.provenance.lookup import SampleRun
from millcert.provenance.named_sample import named_samples
from millcert.provenance.revocation import Facts, Revocation, refuse_revoked
from millcert.provenance.state import StateFolder


def refuse_revoked_sources(plan: VetPlan, revocations: Sequence[Revocation], verified_at: str) -> None:
    """Refuse a plan that has a revoked source, before any of its data is read.

    Raises:
        RevokedError: a source's name was revoked.
    """
    named = [one for one in revocations if one.target == "source"]
    sources = tuple((planned.rule.name, "", "") for planned in plan.sources)
    facts = Facts(sources=sources, output_root="", input_root="", files=frozenset(), verified_at=verified_at)
    refuse_revoked(named, facts, what=f"A source of {plan.dataset!r}")


def refuse_revoked_run(
    result: RunResult,
    samples: SampleSet,
    entries: Sequence[Entry],
    state: Path,
    revocations: Sequence[Revocation],
    verified_at: str,
) -> None:
    """Refuse a run that a revocation touches, before it is recorded: its signers, files, samples, input and output.

    Args:
        result: of the run, with a verdict.
        samples: as settled in the state folder.
        entries: of the run, the last one its verdict.
        state: the state folder.
        revocations: in force.
        verified_at: the run's time.

    Raises:
        RevokedError: a revocation touches it.
        StoreError: the digest of a revoked sample is not in the state folder, so nobody can tell.
    """
    verdict, given = result.verdict, result.input_manifest
    if verdict is None or given is None:
        raise InternalError("A run without a verdict cannot be compared with revocations.")
    output = () if result.output_manifest is None else result.output_manifest.files
    facts = Facts(
        sources=tuple((source.name, source.identity, source.issuer) for source in verdict.sources),
        output_root=verdict.output_root,
        input_root=verdict.input_root,
        files=frozenset(entry.sha256 for entry in (*given.files, *output)),
        verified_at=verified_at,
        samples=_revoked_samples(samples, entries, StateFolder(state), revocations),
    )
    refuse_revoked(revocations, facts, what=f"The data set {verdict.dataset!r}")


def _revoked_samples(
    samples: SampleSet, entries: Sequence[Entry], state: StateFolder, revocations: Sequence[Revocation]
) -> frozenset[str]:
    """Return the commitments of those revoked samples that the run has; a look-up each."""
    wanted = [one for one in revocations if one.target == "sample"]
    if not wanted:
        return frozenset()
    digests = named_samples(state)
    missing = [one for one in wanted if one.value not in digests]
    if missing:
        raise StoreError(
            f"The digest of the revoked sample {missing[0].value[:16]} (ledger entry {missing[0].index}) is not in the "
            "state folder, so nobody can tell whether the data has it.",
            hint="Restore `salts/named` from a copy; if the sample was erased, have the revocation lifted.",
        )
    # Not logged yet: the entry stands where it will, and only its words are used.
    trial = LoggedEntry(-1, bytes(32), samples_entry(samples, entries, [0] * len(entries)))
    with SampleRun(state, trial) as run:
        return frozenset(one.value for one in wanted if run.find(digests[one.value]))
