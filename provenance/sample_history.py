"""All that is known of one sample: an auditor's first question, answered run by run with what proves it.

Steps of `sample_history`, for each run of the ledger:
  1. The state folder says where the sample is in the run, or that it is not, or that nobody can tell.
  2. That answer is made into evidence and verified with the ledger's key; what is returned is what the evidence shows.
  3. Beside it stand the entries that speak of it: certificates, models, overrides, revocations, erasures, each with
     whether it counts.
Where a sample was erased nobody can tell, and the tombstones of that run are the answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from millcert.errors import InconclusiveError, IntegrityError
from millcert.provenance.blast_radius import radius_of
from millcert.provenance.declared_use import DeclaredUse
from millcert.provenance.erasure import KIND as ERASURE
from millcert.provenance.erasure import Tombstone, tombstone_from
from millcert.provenance.evidence import export_evidence
from millcert.provenance.evidence_verify import RunEvidence, SampleEvidence, verify_evidence
from millcert.provenance.ledger import Ledger, LoggedEntry
from millcert.provenance.lookup import FoundSample, SampleRun
from millcert.provenance.named_sample import named_samples
from millcert.provenance.override import OverrideState, list_overrides, refuse_interest
from millcert.provenance.questions import RunRecord, list_records
from millcert.provenance.revocation import Facts, Revocation, all_revocations, touches
from millcert.provenance.sample_leaf import sample_leaf_hash
from millcert.provenance.sample_query import ask_run
from millcert.provenance.standing import JudgedAct, Standing
from millcert.provenance.state import StateFolder


@dataclass(frozen=True)
class Revoked:
    """A revocation that touches a run or the sample. lift: the act that ended it; None while it is in force.

    names_sample: it is about the sample itself, its file, its source or signer; otherwise about the run's data.
    """

    revocation: Revocation
    names_sample: bool
    lift: JudgedAct | None

    @property
    def lifted_at(self) -> str:
        """When it ended; "" while it is in force."""
        return "" if self.lift is None else self.lift.logged.entry.recorded_at


@dataclass(frozen=True)
class Erased:
    """A tombstone. by: who signed it, "" for nobody. fault: why it does not count as an act, "" if it does or need not.

    names_sample: the leaf that was asked for is among its leaves.
    """

    logged: LoggedEntry
    tombstone: Tombstone
    by: str
    fault: str
    names_sample: bool


@dataclass(frozen=True)
class RunHistory:
    """What is known of a sample in one run.

    status: "present", "absent", or "unknown" with the reason in `unknown`. evidence: the bytes that show it offline,
    and shown: what they show; None where nobody can tell. sources: the run's statements about the sample's sources,
    with signer, trusted root and time. overrides, revoked, erased: those that speak of the run or the sample; none
    where it is absent. used: leaves of the overrides that the run's verdict rests on. models: (use, act) on its output.
    """

    record: RunRecord
    status: str
    unknown: str
    evidence: bytes | None
    shown: RunEvidence | None
    sources: tuple[LoggedEntry, ...]
    overrides: tuple[OverrideState, ...] = ()
    used: tuple[str, ...] = ()
    revoked: tuple[Revoked, ...] = ()
    erased: tuple[Erased, ...] = ()
    models: tuple[tuple[DeclaredUse, JudgedAct], ...] = ()

    @property
    def samples(self) -> tuple[SampleEvidence, ...]:
        """The sample's places, as the evidence shows them."""
        return () if self.shown is None else self.shown.samples

    def indexes(self, standing: Standing) -> tuple[int, ...]:
        """Return the indexes of the entries beside the evidence that the answer rests on; of all, where there is none.

        Args:
            standing: that the question was asked with.
        """
        places = {one.leaf: one.logged.index for one in standing.judged}
        found = {one.index for one in self.record.certificates} | {one.logged.index for one in self.erased}
        found |= {one.revocation.index for one in self.revoked}
        found |= {one.lift.logged.index for one in self.revoked if one.lift is not None}
        found |= {state.index for state in self.overrides}
        found |= {places[leaf] for state in self.overrides for leaf in state.approvals}
        found |= {act.logged.index for _, act in self.models}
        found |= set() if self.evidence is not None else {self.record.logged.index, self.record.verdict.index}
        return tuple(sorted(found))


@dataclass(frozen=True)
class AskedSample:
    """What a question is about. leaf: of an erased row that was asked for by its place, hex; then digest is None."""

    digest: bytes | None
    leaf: str = ""
    run_id: str = ""


def sample_at(state: StateFolder, run: LoggedEntry, file: str, row: int) -> AskedSample:
    """Return the sample at a place of a run; of an erased one, the leaf that its tombstone names.

    Raises:
        UsageError: there is no such place, or no sample at it.
        StoreError, LedgerError: as `SampleRun`.
    """
    with SampleRun(state, run) as opened:
        try:
            return AskedSample(opened.at(file, row).digest)
        except InconclusiveError:
            number = next(number for number, shard in enumerate(opened.shards) if shard.file == file)
            return AskedSample(None, opened.tree(number).leaf(row).hex(), opened.roots.run_id)


def sample_history(
    ledger: Ledger,
    state: StateFolder,
    standing: Standing,
    asked: AskedSample,
    *,
    now: datetime,
    newest: int | None = None,
) -> Iterator[RunHistory]:
    """Yield what is known of a sample, run by run, oldest first.

    Args:
        ledger: open for reading.
        state: folder of the runs' trees and salts.
        standing: of the ledger's acts (`read_standing`).
        asked: by digest, or from `sample_at`; an erased place is asked of its own run only.
        now: with a time zone; overrides are judged at it.
        newest: only so many runs; None for all.

    Raises:
        StoreError: a run's files are not in the state folder.
        IntegrityError: by its subclass: files or entries are not what the ledger says, or an act says what no reader
            understands.

    Cost: a few proofs a run; memory of one run's answer.
    """
    named = named_samples(state)
    names = frozenset(name for name, digest in named.items() if digest == asked.digest)
    facts = _Acts(standing, list_overrides(standing, now), all_revocations(standing), names)
    records = [one for one in list_records(ledger) if asked.run_id in ("", one.roots.run_id)]
    for record in records if newest is None else records[-newest:]:
        yield _history(ledger, state, record, asked, facts)


def list_erasures(ledger: Ledger, standing: Standing) -> list[Erased]:
    """Return every tombstone, oldest first: what was erased, by whom and why. `fault` says which do not count.

    Raises:
        LedgerError: an entry is not what the tree says.
    """
    return _erased(ledger.find(kind=ERASURE, limit=ledger.size + 1), standing, leaves=())


@dataclass(frozen=True)
class _Acts:
    standing: Standing
    overrides: Sequence[OverrideState]
    revocations: Sequence[tuple[Revocation, JudgedAct | None]]
    names: frozenset[str]


def _history(ledger: Ledger, state: StateFolder, record: RunRecord, asked: AskedSample, acts: _Acts) -> RunHistory:
    if asked.digest is None:
        erased = tuple(one for one in _erased(record.erasures, acts.standing, [asked.leaf]) if _reaches(one))
        return RunHistory(record, "unknown", "The sample at that place was erased.", None, None, (), erased=erased)
    with SampleRun(state, record.logged) as run:
        reply = ask_run(run, asked.digest)  # 1
        evidence = None
        if reply.found:
            evidence = export_evidence(ledger, [(run, reply.found, [])])
        elif reply.is_absent:
            evidence = export_evidence(ledger, [(run, [], [asked.digest])])
        shown = None if evidence is None else verify_evidence(evidence, ledger.vkeys).runs[0]  # 2
    if reply.is_absent:
        return RunHistory(record, "absent", "", evidence, shown, ())
    names = {found.shard.source for found in reply.found}
    sources = tuple(one for one in record.sources if one.entry.body.get("source") in names)
    leaves = [sample_leaf_hash(found.salt, found.digest).hex() for found in reply.found]
    used = record.verdict.entry.body.get("overrides", [])
    return RunHistory(  # 3
        record=record,
        status="present" if reply.found else "unknown",
        unknown=reply.unknown,
        evidence=evidence,
        shown=shown,
        sources=sources,
        overrides=tuple(_overrides(record, acts, used)),
        used=tuple(used),
        revoked=tuple(_revoked(record, reply.found, sources, acts)),
        erased=tuple(_erased(record.erasures, acts.standing, leaves)),
        models=tuple((use, act) for use, act, _ in radius_of([record], acts.standing).models),
    )


def _overrides(record: RunRecord, acts: _Acts, used: Sequence[str]) -> Iterator[OverrideState]:
    """Yield the overrides that the verdict rests on, that are about this verdict or input, or that name the sample."""
    signers = {str(one.entry.body.get("identity") or "") for one in record.sources} - {""}
    for state in acts.overrides:
        override = state.override
        is_about = {
            "verdict": override.verdict_digest == record.verdict.entry.body.get("verdict_digest"),
            "check": override.input_root == record.roots.input_root,
            "samples": override.dataset == record.roots.dataset and bool(acts.names & set(override.samples)),
        }[override.scope]
        if is_about or state.leaf in used:
            yield refuse_interest(state, signers)


def _revoked(
    record: RunRecord, found: Sequence[FoundSample], sources: Sequence[LoggedEntry], acts: _Acts
) -> Iterator[Revoked]:
    """Yield the revocations that touch the sample or, by another part of the data, its run."""
    shared = Facts(
        sources=_signers(record.sources),
        output_root="",
        input_root=record.roots.input_root,
        files=frozenset(one.shard.sha256 for one in found),
        verified_at=record.verdict.entry.recorded_at,
        samples=acts.names,
    )
    own = replace(shared, sources=_signers(sources))
    outputs = {one.entry.subject for one in record.certificates}
    for revocation, end in acts.revocations:
        roots = outputs if revocation.target == "dataset" else {""}
        is_own = bool(found) and touches(replace(revocation, inputs=()), own)
        if is_own or any(touches(revocation, replace(shared, output_root=root)) for root in roots):
            yield Revoked(revocation, is_own, end)


def _signers(sources: Iterable[LoggedEntry]) -> tuple[tuple[str, str, str], ...]:
    bodies = [one.entry.body for one in sources]
    return tuple(
        (str(body.get("source") or ""), str(body.get("identity") or ""), str(body.get("issuer") or ""))
        for body in bodies
    )


def _erased(entries: Iterable[LoggedEntry], standing: Standing, leaves: Sequence[str]) -> list[Erased]:
    judged = {one.logged.index: one for one in standing.judged}
    found = []
    for logged in entries:
        act = judged.get(logged.index)  # none for a tombstone of the time before there were roles
        fault = "" if act is None else act.fault
        try:
            tombstone = tombstone_from(logged.entry)
        except IntegrityError:
            tombstone, fault = Tombstone("", "", "", (), ""), fault or "malformed"
        by = "" if act is None or act.person is None or not act.counts else act.person.name
        found.append(Erased(logged, tombstone, by, fault, bool(set(leaves) & set(tombstone.leaves))))
    return found


def _reaches(erased: Erased) -> bool:
    return erased.names_sample or erased.tombstone.scope == "run"
