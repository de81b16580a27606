"""From what the passes found to a verdict. Pure: no clock, no file, no Beam.

Steps (each block below repeats its number):
  1. Every file that was to be read was read, and every sample is in exactly one of admitted, quarantined, malformed.
  2. The files are still what their sources signed, row counts and row trees included where the manifest states them;
     a signer who is not that of the last admitted version is told, and rejects where the policy says so.
  3. Expectations: the suite's own success, by severity; and the drift from the reference profile.
  4. Checks: each against its limit; a check that could not be fitted leaves the verdict inconclusive. Then all of them
     together: a backdoor or a bad source rejects.
  5. Limits of the whole: malformed, quarantined, unknown provenance; nothing left is no data set.
  6. The decision: any reason to reject rejects; else any missing evidence is inconclusive; else admitted.
  7. Overrides: what two people let through is lifted, and the verdict names it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from millcert.checks.base import GivesNotice, GroupEvidence
from millcert.checks.coverage import families_seen, not_covered
from millcert.checks.drift_question import DriftSides
from millcert.checks.rate_history import FAMILY_ALPHA, KeepsRates, beyond_chance
from millcert.checks.sample_digest import schema_id
from millcert.errors import InconclusiveError, InternalError, MillcertError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.expectation_rows import QUARANTINE_ROWS
from millcert.pipelines.fuse import clusters_of, summarise
from millcert.pipelines.gx_process import evaluate_apart
from millcert.pipelines.models import EXPECTATIONS, Models
from millcert.pipelines.overriding import lift_reasons, released_uses
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.profiling import NOT_PROFILED, Profiled
from millcert.pipelines.rating import NOT_RATED, Rated, rises_in_words
from millcert.pipelines.records import CheckFailure, Fault, FileOutcome, ShardFacts, fault_from
from millcert.pipelines.row_digest import rows_digest
from millcert.provenance.manifest import FileEntry, Manifest, compare_manifests
from millcert.provenance.trust_history import SignerChange, signer_changes
from millcert.verdict import (
    CheckStatus,
    CheckSummary,
    Decision,
    ExpectationSummary,
    Reason,
    SampleCounts,
    SourceSummary,
    Verdict,
)

#: Groups of evidence that a verdict lists for one check; suspicious ones first. All of them are counted.
MAX_EVIDENCE = 100


class Ruling(NamedTuple):
    """The verdict with what is published beside it; or faults, and no verdict.

    suite_result: Great Expectations' own result JSON, None without a suite.
    """

    verdict: Verdict | None
    faults: tuple[Fault, ...]
    input_manifest: Manifest | None
    output_manifest: Manifest | None
    suite_result: Mapping[str, Any] | None


class _Judged(NamedTuple):
    rejects: list[Reason]
    missing: list[Reason]


def rule(
    plan: VetPlan,
    dataset: DatasetFacts,
    models: Models,
    shards: Sequence[ShardFacts],
    outcomes: Sequence[FileOutcome],
    faults: Sequence[Fault],
    profiled: Profiled = NOT_PROFILED,
    rated: Rated = NOT_RATED,
) -> Ruling:
    """Return the ruling on a run.

    Args:
        plan: of the run.
        dataset: what was verified and planned before any sample was read.
        models: after the last pass.
        shards: one a data file, from the first full read.
        outcomes: one a data file, from the scoring read.
        faults: of all reads.
        profiled: what the data's profile says.
        rated: what the rates that checks keep say.
    """
    every_fault = sorted({*dataset.faults, *faults, *profiled.faults, *rated.faults})
    if every_fault:
        return Ruling(None, tuple(every_fault), None, None, None)
    try:
        return _rule(plan, dataset, models, _by_name(plan, shards), _by_name(plan, outcomes), profiled, rated)
    except MillcertError as error:
        return Ruling(None, (fault_from(error),), None, None, None)


def _rule(
    plan: VetPlan,
    dataset: DatasetFacts,
    models: Models,
    shards: Mapping[str, ShardFacts],
    outcomes: Mapping[str, FileOutcome],
    profiled: Profiled,
    rated: Rated,
) -> Ruling:
    # 1. Every file was read to its end, twice, with the same result.
    for name, outcome in outcomes.items():
        _refuse_gap(plan, dataset.item(name).sha256, models, shards[name], outcome)
    counts = SampleCounts(
        seen=sum(outcome.rows for outcome in outcomes.values()),
        admitted=sum(outcome.admitted for outcome in outcomes.values()),
        quarantined=sum(outcome.quarantined for outcome in outcomes.values()),
        malformed=sum(outcome.malformed for outcome in outcomes.values()),
        unknown_provenance=sum(
            outcome.rows for outcome in outcomes.values() if dataset.sources[outcome.source].status == "unknown"
        ),
    )
    # 2. The input as it was read, rows and all.
    identifier = schema_id(dataset.schema).hex()
    given = _input_manifest(plan, dataset, shards, identifier)
    _compare_rows(plan, dataset, given)
    judged = _Judged([], [])
    changes = _signer_changes(plan, dataset, judged)
    # 3. to 5.
    expectations, suite_result = _expectations(
        plan,
        dataset,
        models,
        tuple(outcomes.values()),
        judged,
        profiled.sides,
        has_samples=counts.seen > counts.malformed,
    )
    checks = tuple(_check(planned, models, outcomes, judged, rated) for planned in plan.checks)
    clusters = clusters_of(plan, models, outcomes.values())
    listed, grave = summarise(plan, clusters)
    judged.rejects.extend(grave)
    judged.rejects.extend(profiled.rejects)
    judged.rejects.extend(rated.rejects)
    judged.missing.extend(profiled.missing)
    _limits(plan, counts, sum(outcome.doubted for outcome in outcomes.values()), judged)
    # 6. The decision.
    decision: Decision = "rejected" if judged.rejects else "inconclusive" if judged.missing else "admitted"
    released = sum((Counter(outcome.released) for outcome in outcomes.values()), Counter[str]())
    output = _output_manifest(plan, dataset, shards, outcomes, identifier) if decision == "admitted" else None
    verdict = Verdict(
        version=2,
        dataset=plan.dataset,
        decision=decision,
        reasons=(*judged.rejects, *judged.missing),
        policy_digest=plan.policy_digest,
        trusted_root_sha256="" if plan.trust_root is None else plan.trust_root.sha256,
        code_version=plan.code_version,
        schema_id=identifier,
        input_root=given.root,
        output_root="" if output is None else output.root,
        files=len(given.files),
        size_bytes=sum(entry.size_bytes for entry in given.files),
        reads=plan.reads,
        samples=counts,
        sources=_sources(dataset, outcomes, changes),
        expectations=expectations,
        checks=checks,
        not_covered=not_covered(
            families_seen(planned.check, planned.check.evidence(model))
            for planned in plan.checks
            if not isinstance(model := models.get(planned.name), CheckFailure)
        ),
        overrides=released_uses(plan, released, dataset.signers),
        clusters=listed,
        cluster_count=len(clusters),
        selftest_sha256=plan.selftest_sha256,
        views_sha256=plan.views_sha256,
        profile_digest=profiled.digest,
        drift=profiled.drift,
        dropped_columns=dataset.dropped,
        rates_digest=rated.digest,
        rates=rated.summary,
    )
    # 7. What two people let through, each named by its ledger entry.
    lifted = lift_reasons(plan, verdict, dataset.signers)
    if lifted.decision == "admitted" and output is None:
        output = _output_manifest(plan, dataset, shards, outcomes, identifier)
        lifted = replace(lifted, output_root=output.root)
    return Ruling(lifted, (), given, output, suite_result)


def _refuse_gap(plan: VetPlan, sha256: str, models: Models, shard: ShardFacts, outcome: FileOutcome) -> None:
    name = outcome.name
    if outcome.rows != shard.records:
        raise InternalError(f"{name}: {shard.records} records at the first read, {outcome.rows} at the last.")
    if not outcome.output_row_tree_root and (outcome.admitted, outcome.output_sha256) != (shard.records, sha256):
        raise InternalError(f"{name}: all of it is said to be admitted, but something else was written.")
    for planned in plan.checks:
        is_fitted = not isinstance(models[planned.name], CheckFailure)
        scored = outcome.scored.get(planned.name, 0)
        if scored != (outcome.rows - outcome.malformed if is_fitted else 0):
            raise InternalError(f"{name}: check {planned.name} scored {scored:,} of its {outcome.rows:,} rows.")


def _by_name(plan: VetPlan, records: Sequence[Any]) -> dict[str, Any]:
    found = {record.name: record for record in records}
    expected = {item.name for item in plan.items}
    if set(found) != expected or len(found) != len(records):
        missing = sorted(expected - set(found))
        raise InternalError(f"{len(records)} of {len(expected)} files were read; missing: {missing[:5]}.")
    return dict(sorted(found.items()))


def _input_manifest(
    plan: VetPlan, dataset: DatasetFacts, shards: Mapping[str, ShardFacts], identifier: str
) -> Manifest:
    entries = []
    for name, item in sorted(dataset.files.items()):
        shard = shards.get(name)
        entries.append(
            FileEntry(name, item.size_bytes, item.sha256)
            if shard is None
            else FileEntry(name, item.size_bytes, item.sha256, shard.rows, shard.row_tree_root, identifier)
        )
    return Manifest(plan.dataset, tuple(entries))


def _compare_rows(plan: VetPlan, dataset: DatasetFacts, given: Manifest) -> None:
    entries = {entry.path: entry for entry in given.files}
    for planned in plan.sources:
        signed = dataset.signed.get(planned.rule.name)
        if signed is None:
            continue
        actual = tuple(
            replace(seen, path=entry.path)
            for entry in signed.files
            if (seen := entries.get(planned.prefix + entry.path)) is not None
        )
        compare_manifests(signed, Manifest(signed.name, actual), is_selection=planned.is_selection)


def _signer_changes(plan: VetPlan, dataset: DatasetFacts, judged: _Judged) -> Mapping[str, SignerChange]:
    before = {each.rule.name: each.last_signer for each in plan.sources if each.last_signer is not None}
    changes = {change.source: change for change in signer_changes(before, dataset.sources)}
    for name, change in changes.items():
        if plan.source(name).on_signer_change == "reject":
            judged.rejects.append(Reason("source.signer_changed", change.message))
    return changes


def _output_manifest(
    plan: VetPlan,
    dataset: DatasetFacts,
    shards: Mapping[str, ShardFacts],
    outcomes: Mapping[str, FileOutcome],
    identifier: str,
) -> Manifest:
    entries = [
        FileEntry(
            name,
            outcome.output_size_bytes,
            outcome.output_sha256,
            outcome.admitted,
            outcome.output_row_tree_root or shards[name].row_tree_root,
            identifier,
        )
        for name, outcome in outcomes.items()
    ]
    for auxiliary in plan.auxiliary:
        item = dataset.item(auxiliary.name)
        entries.append(FileEntry(item.name, item.size_bytes, item.sha256))
    return Manifest(plan.dataset, tuple(sorted(entries, key=lambda entry: entry.path.encode())))


def _expectations(
    plan: VetPlan,
    dataset: DatasetFacts,
    models: Models,
    outcomes: Sequence[FileOutcome],
    judged: _Judged,
    sides: DriftSides | None,
    *,
    has_samples: bool,
) -> tuple[ExpectationSummary | None, Mapping[str, Any] | None]:
    # 3. Expectations.
    if plan.suite is None:
        return None, None
    metrics = models.get(EXPECTATIONS)
    # A suite about the schema or the profile alone measures nothing of its own.
    if dataset.metrics is None or (metrics is None and has_samples and dataset.metrics.kernels):
        raise InternalError("The policy names a suite, but nothing was measured for it.")
    acc = metrics or dataset.metrics.empty()
    try:
        second = dataset.metrics.second(acc).merge(outcome.metrics for outcome in outcomes)
        result = evaluate_apart(plan.suite, dataset.metrics, acc, dataset.schema, second, sides)
    except InconclusiveError as error:
        judged.missing.append(Reason("expectations.inconclusive", error.message))
        return None, None
    failed = [outcome for outcome in result.outcomes if not outcome.success]
    grave = [outcome for outcome in failed if outcome.severity == "critical"]
    holds_rows = plan.suite_on_failure == QUARANTINE_ROWS
    if holds_rows:  # what is about rows has its rows held back; what is about a table or a column still rejects
        about_rows = {check.number for check in dataset.metrics.row_checks}
        grave = [outcome for outcome in grave if outcome.number not in about_rows]
    if grave and plan.suite_on_failure in ("reject", QUARANTINE_ROWS):
        names = ", ".join(f"{outcome.type}({outcome.column})" for outcome in grave[:5])
        judged.rejects.append(Reason("expectations.failed", f"{len(grave)} critical expectations failed: {names}"))
    failing = [outcome.failing for outcome in outcomes if outcome.failing is not None]
    summary = ExpectationSummary(
        suite_digest=plan.suite.digest,
        success=not failed,
        evaluated=len(result.outcomes),
        unsuccessful=len(failed),
        on_failure=plan.suite_on_failure,
        outcomes=tuple(
            json.loads(json.dumps(outcome._asdict(), default=str))
            | ({"quarantined": sum(one.held_by.get(outcome.number, 0) for one in outcomes)} if holds_rows else {})
            for outcome in result.outcomes
        ),
        failing_rows=sum(one.rows for one in failing),
        rows_digest=rows_digest(plan.suite.digest, failing),
    )
    return summary, result.json


def _check(
    planned: PlannedCheck, models: Models, outcomes: Mapping[str, FileOutcome], judged: _Judged, rated: Rated
) -> CheckSummary:
    # 4. Checks.
    check, model = planned.check, models.get(planned.name)
    scored = sum(outcome.scored.get(planned.name, 0) for outcome in outcomes.values())
    flagged = sum(outcome.flagged.get(planned.name, 0) for outcome in outcomes.values())
    fraction = flagged / scored if scored else 0.0
    evidence: tuple[GroupEvidence, ...] = ()
    status: CheckStatus = "passed"
    message = ""
    if isinstance(model, CheckFailure):
        status, message = "inconclusive", model.message
        judged.missing.append(Reason("check.inconclusive", f"{planned.name}: {model.message}"))
    else:
        evidence = check.evidence(model)
        if flagged:
            status = "warned"
            message = f"{flagged:,} of {scored:,} samples flagged"
        if is_over_limit(planned, flagged, scored):
            message = f"{flagged:,} of {scored:,} samples flagged; the policy allows {planned.max_flagged_fraction:g}"
            status = "failed" if planned.over_limit == "reject" else status
        told = [*rises_in_words(rated, planned.name), *(check.notices(model) if isinstance(check, GivesNotice) else ())]
        if told:
            status = "warned" if status == "passed" else status
            message = "; ".join([message, *told] if message else told)
        if status == "failed":  # an override names the reason by the check's message
            judged.rejects.append(Reason("check.over_limit", f"{planned.name}: {message}"))
    suspicious = [group for group in evidence if group.is_suspicious]
    shown = sorted(evidence, key=lambda group: (not group.is_suspicious, -group.estimated_count, group.group))
    return CheckSummary(
        name=planned.name,
        version=check.version,
        config_digest=planned.config_digest,
        severity=check.severity,
        status=status,
        scored=scored,
        flagged=flagged,
        flagged_fraction=fraction,
        max_flagged_fraction=planned.max_flagged_fraction,
        on_flagged=planned.on_flagged,
        over_limit=planned.over_limit,
        message=message,
        groups=len(evidence),
        suspicious_groups=len(suspicious),
        estimated_count=sum(group.estimated_count for group in suspicious),
        evidence=tuple(group._asdict() for group in shown[:MAX_EVIDENCE]),
        check=check.name if planned.called else "",
        reference=planned.reference_digest,
    )


def is_over_limit(planned: PlannedCheck, flagged: int, scored: int) -> bool:
    """Return whether a check flags more than the policy allows.

    The flags of a check that keeps rates are as many as it estimates to be wrong, so their number is an estimate: it is
    over the limit where a true rate at the limit would give as many by chance in fewer than 1 of 100 data sets.
    """
    if not scored or flagged / scored <= planned.max_flagged_fraction:
        return False
    if not isinstance(planned.check, KeepsRates):
        return True
    return beyond_chance(flagged, scored, planned.max_flagged_fraction) < FAMILY_ALPHA


def _limits(plan: VetPlan, counts: SampleCounts, doubted: int, judged: _Judged) -> None:
    # 5. Limits of the whole. Wrong labels alone never reject: they say nothing of what is left.
    if counts.admitted == 0:
        judged.rejects.append(Reason("samples.none_admitted", f"of {counts.seen:,} samples none could be admitted"))
    held = f"quarantined, {doubted:,} with nothing but a doubted label not counted" if doubted else "quarantined"
    limits = (
        ("samples.malformed", "malformed", counts.malformed, plan.max_malformed_fraction),
        ("samples.quarantined", held, counts.quarantined - doubted, plan.max_quarantined_fraction),
        (
            "samples.unknown_provenance",
            "of unknown provenance",
            counts.unknown_provenance,
            plan.max_unknown_provenance_fraction,
        ),
    )
    for code, words, count, limit in limits:
        if counts.seen and count / counts.seen > limit:
            judged.rejects.append(
                Reason(
                    code,
                    f"{count:,} of {counts.seen:,} samples ({count / counts.seen:.2%}) are {words}; limit {limit:g}",
                )
            )


def _sources(
    dataset: DatasetFacts, outcomes: Mapping[str, FileOutcome], changes: Mapping[str, SignerChange]
) -> tuple[SourceSummary, ...]:
    summaries = []
    for name in sorted(dataset.sources):
        verified = dataset.sources[name]
        mine = [outcome for outcome in outcomes.values() if outcome.source == name]
        signature = verified.signature
        summaries.append(
            SourceSummary(
                name=name,
                status=verified.status,
                identity="" if signature is None else signature.identity,
                issuer="" if signature is None else signature.issuer,
                signed_at="" if signature is None else signature.signed_at or "",
                manifest_root=verified.manifest_root,
                files=sum(item.source == name for item in dataset.files.values()),
                samples=sum(outcome.rows for outcome in mine),
                flagged=sum(outcome.flagged_any for outcome in mine),
                malformed=sum(outcome.malformed for outcome in mine),
                signer_change="" if name not in changes else changes[name].message,
            )
        )
    return tuple(summaries)
