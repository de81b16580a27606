"""From a run's result to the report's data: which figures and which samples are shown."""

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.errors import InternalError
from millcert.pipelines.driver import Published
from millcert.pipelines.output import part_name, read_part
from millcert.pipelines.profiling import PROFILE_FILE, read_profile
from millcert.pipelines.ruling import ScoreHistogram
from millcert.pipelines.score import bin_edge
from millcert.policy_model import ImageShape
from millcert.report.distributions import distributions_of
from millcert.report.images import pixels_of
from millcert.report.model import (
    Check,
    Cluster,
    Counts,
    Course,
    CourseChange,
    Distribution,
    Drift,
    DriftRow,
    Expectation,
    Finding,
    Group,
    Histogram,
    MalformedRow,
    Provenance,
    Reason,
    ReportData,
    SampleField,
    SampleValue,
    Source,
    Work,
)
from millcert.report.render import render_report
from millcert.verdict import CheckSummary, ClusterSummary, CourseSummary, DriftSummary, OverrideUse, Verdict

#: Arguments of an expectation that name its columns, and how much is shown of the others.
_COLUMNS = ("column", "column_A", "column_B", "column_list")
_MOST_ARGUMENTS = 300

#: Findings shown with their sample: the most suspect of each check.
MAX_FINDINGS_A_CHECK = 40
MAX_MALFORMED = 100
#: A list in a sample is shown up to here; an embedding says nothing to a reader.
MAX_LIST_SHOWN = 16

_ORDER = [("score", "descending"), ("file", "ascending"), ("row", "ascending")]


def build_report(published: Published, images: Mapping[str, ImageShape]) -> str:
    """Return the report of a run as one HTML page.

    Args:
        published: the run's result and the folder of what is about to be published.
        images: column -> how its numbers are drawn.
    """
    return render_report(report_data(published, images))


def _override_words(use: OverrideUse) -> str:
    what = "; ".join(reason.message for reason in use.lifted) or f"{use.samples:,} samples released from quarantine"
    by = f"proposed by {use.proposed_by}, approved by {', '.join(use.approved_by)}"
    return f"Overridden: {what}. {by}, until {use.expires_at}: {use.reason}. Ledger leaf {use.leaf[:16]}."


def report_data(published: Published, images: Mapping[str, ImageShape]) -> ReportData:
    """Return what the report shows. Memory: the shown findings and one batch of a quarantine file."""
    verdict = published.result.verdict
    if verdict is None:
        raise InternalError("A run without a verdict has no report.")
    histograms = {histogram.check: histogram for histogram in published.result.histograms}
    findings, total = _findings(published, images)
    return ReportData(
        dataset=verdict.dataset,
        decision=verdict.decision,
        reasons=(
            *(Reason(reason.code, reason.message) for reason in verdict.reasons),
            *(Reason("override.used", _override_words(use)) for use in verdict.overrides),
        ),
        counts=Counts(
            verdict.samples.seen, verdict.samples.admitted, verdict.samples.quarantined, verdict.samples.malformed
        ),
        files=verdict.files,
        size_bytes=verdict.size_bytes,
        provenance=_provenance(published, verdict),
        sources=tuple(
            Source(
                name=source.name,
                status=source.status,
                identity=source.identity,
                issuer=source.issuer,
                files=source.files,
                samples=source.samples,
                flagged=source.flagged,
                malformed=source.malformed,
                message=source.signer_change,
            )
            for source in verdict.sources
        ),
        expectations=_expectations(published, verdict),
        checks=tuple(_check(check, histograms.get(check.name)) for check in verdict.checks),
        clusters=tuple(_cluster(cluster) for cluster in verdict.clusters),
        clusters_total=verdict.cluster_count,
        not_covered=verdict.not_covered,
        findings=findings,
        findings_total=total,
        malformed=tuple(_malformed(published)),
        next_commands=_next_commands(published, verdict),
        code_version=verdict.code_version,
        drift=None if verdict.drift is None else _drift(verdict.drift),
        distributions=tuple(_distributions(published, verdict)),
        dropped_columns=verdict.dropped_columns,
        work=tuple(Work(one.step, one.done, one.reused) for one in published.result.work),
    )


def _drift(drift: DriftSummary) -> Drift:
    return Drift(
        reference=drift.reference,
        compared=drift.compared,
        found=drift.found,
        skipped=drift.skipped,
        rows=tuple(_drift_row(outcome) for outcome in drift.outcomes),
        columns=(
            *(f"{name} came" for name in drift.added),
            *(f"{name} went" for name in drift.removed),
            *drift.changed,
        ),
        new_sources=drift.new_sources,
        silent_sources=drift.silent_sources,
        course=None if drift.course is None else _course(drift.course),
    )


def _course(course: CourseSummary) -> Course:
    names = [field.name for field in fields(CourseChange)]
    changes = [
        {name: change[name] for name in names} | {"course": tuple(change["course"])} for change in course.changes
    ]
    return Course(len(course.versions), course.found, tuple(CourseChange(**change) for change in changes))


def _drift_row(outcome: Mapping[str, Any]) -> DriftRow:
    plain = {field.name: outcome[field.name] for field in fields(DriftRow) if field.name != "figures"}
    return DriftRow(**plain, figures=tuple(sorted(outcome["figures"].items())))


def _distributions(published: Published, verdict: Verdict) -> list[Distribution]:
    if not verdict.profile_digest:
        return []
    planned = published.plan.drift
    uri = "" if planned is None else planned.reference_uri
    current = read_profile(f"{published.folder}/{PROFILE_FILE}")
    moved = () if verdict.drift is None else verdict.drift.outcomes
    first = [outcome["column"] for outcome in moved if outcome["is_drift"]]
    return distributions_of(current, read_profile(uri) if uri else None, first)


def _provenance(published: Published, verdict: Verdict) -> Provenance:
    return Provenance(
        manifest_root=verdict.input_root,
        policy_digest=verdict.policy_digest,
        output_root=verdict.output_root,
        schema_id=verdict.schema_id,
        trusted_root_sha256=verdict.trusted_root_sha256,
        verdict_digest=verdict.digest,
        ledger_origin=published.recorded.origin,
        ledger_index=published.recorded.index,
        checkpoint=published.recorded.checkpoint,
        certificate_file="certificate.json" if published.recorded.certificate else "",
    )


def _expectations(published: Published, verdict: Verdict) -> tuple[Expectation, ...]:
    """Return the suite's results, what does not hold first: a long list is cut at its end."""
    if verdict.expectations is None:
        return ()
    suite = published.plan.suite
    asked = [] if suite is None else [_arguments(entry["kwargs"]) for entry in suite.expectations]
    found = [
        Expectation(
            kind=outcome["type"],
            column=outcome["column"],
            success=outcome["success"],
            observed="" if outcome["observed"] is None else str(outcome["observed"]),
            unexpected_count=outcome["unexpected_count"],
            unexpected_fraction=outcome["unexpected_fraction"],
            method=outcome["exactness"],
            message=outcome["detail"],
            arguments=asked[outcome["number"]] if asked else "",
        )
        for outcome in verdict.expectations.outcomes
    ]
    return tuple(sorted(found, key=lambda one: one.success is True))


def _arguments(kwargs: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in kwargs.items() if name not in _COLUMNS and value is not None}
    text = ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in shown.items())
    return text if len(text) <= _MOST_ARGUMENTS else f"{text[:_MOST_ARGUMENTS]} ..."


def _check(check: CheckSummary, histogram: ScoreHistogram | None) -> Check:
    return Check(
        name=f"{check.name} ({check.check})" if check.check else check.name,
        version=check.version,
        severity=check.severity,
        status=check.status,
        scored=check.scored,
        flagged=check.flagged,
        max_flagged_fraction=check.max_flagged_fraction,
        groups=check.groups,
        evidence=tuple(_group(group) for group in check.evidence),
        message=check.message,
        histogram=None if histogram is None or not histogram.counts else _histogram(histogram),
    )


def _group(group: Mapping[str, Any]) -> Group:
    return Group(
        group=group["group"],
        label=group["label"],
        source=group["source"],
        samples=group["samples"],
        statistic=tuple(sorted((name, float(value)) for name, value in group["statistic"].items())),
        is_suspicious=group["is_suspicious"],
        estimated_count=float(group["estimated_count"]),
        count_low=float(group["count_low"]),
        count_high=float(group["count_high"]),
        p_value=None if group["p_value"] is None else float(group["p_value"]),
        top_features=tuple((str(name), float(value)) for name, value in group.get("top_features", ())),
    )


def _cluster(cluster: ClusterSummary) -> Cluster:
    return Cluster(
        kind=cluster.kind,
        action=cluster.action,
        labels=tuple(cluster.labels.items()),
        sources=tuple(cluster.sources.items()),
        samples=cluster.samples,
        votes=tuple(cluster.votes.items()),
        estimated_count=float(cluster.estimated_count),
        count_low=float(cluster.count_low),
        count_high=float(cluster.count_high),
        p_value=None if cluster.p_value is None else float(cluster.p_value),
        figures=tuple(
            (check, tuple(sorted((name, float(value)) for name, value in figures.items())))
            for check, figures in cluster.figures.items()
        ),
    )


def _histogram(histogram: ScoreHistogram) -> Histogram:
    lowest, highest = min(histogram.counts), max(histogram.counts)
    numbers = range(lowest, highest + 1)
    counts = [histogram.counts.get(number, (0, 0)) for number in numbers]
    return Histogram(
        edges=tuple(bin_edge(number) for number in range(lowest, highest + 2)),
        counts=tuple(samples for samples, _ in counts),
        flagged_counts=tuple(flagged for _, flagged in counts),
        threshold=histogram.threshold,
    )


def _next_commands(published: Published, verdict: Verdict) -> tuple[str, ...]:
    lookup = f"millcert ledger show {published.recorded.index}"
    if verdict.decision == "admitted":
        return ("millcert admit admitted --certificate certificate.json", lookup, "millcert ledger verify")
    return (lookup, "millcert policy explain policy.yaml")


def _findings(published: Published, images: Mapping[str, ImageShape]) -> tuple[tuple[Finding, ...], int]:
    best: dict[str, list[Mapping[str, Any]]] = {}
    total = 0
    for batch in read_part(f"{published.folder}/findings.parquet"):
        total += batch.num_rows
        for name in pc.unique(batch.column("check")).to_pylist():
            mine = batch.filter(pc.equal(batch.column("check"), name))
            # At most so many of a batch can be shown; only they become Python values.
            top = mine.take(pc.sort_indices(mine, sort_keys=_ORDER)[:MAX_FINDINGS_A_CHECK]).to_pylist()
            best[name] = heapq.nsmallest(
                MAX_FINDINGS_A_CHECK,
                [*best.get(name, []), *top],
                key=lambda row: (-row["score"], row["file"].encode(), row["row"]),
            )
    chosen = [row for name in sorted(best) for row in best[name]]
    samples = _samples(published, {(row["file"], row["row"]) for row in chosen}, images)
    shown = tuple(
        Finding(
            file=row["file"],
            row=row["row"],
            sample_digest=row["sample_digest"].hex(),
            source=row["source"],
            label=row["label"] or "",
            check=row["check"],
            score=row["score"],
            threshold=row["threshold"],
            reason=row["reason"],
            sample=samples.get((row["file"], row["row"]), ()),
            kind=row["kind"],
            votes=tuple(row["votes"]),
            suggestion=_suggestion(row),
            neighbours=tuple(
                f"{near['label']} at {near['distance']:.3g} ({near['sample_digest'].hex()[:16]})"
                for near in row["neighbours"] or ()
            ),
        )
        for row in chosen
    )
    return shown, total


def _suggestion(row: Mapping[str, Any]) -> str:
    """Return what a check of labels suggests, in words; "" of others."""
    if row["given_probability"] is None:
        return ""
    given = f"the given label has probability {row['given_probability']:.3g}"
    if row["suggested_label"] is None:
        return f"{given}; no other is likelier"
    return f"{given}, {row['suggested_label']} has {row['suggested_probability']:.3g}: look at it"


def _samples(
    published: Published, places: set[tuple[str, int]], images: Mapping[str, ImageShape]
) -> dict[tuple[str, int], tuple[SampleField, ...]]:
    """Return the samples at these places: held back ones from the quarantine, others from the run's own parts."""
    found: dict[tuple[str, int], tuple[SampleField, ...]] = {}
    for file in sorted({file for file, _ in places}):
        wanted = np.array([row for name, row in places if name == file], np.int64)
        for uri in (f"{published.folder}/quarantine/{file}.parquet", f"{published.parts}/reported/{part_name(file)}"):
            for row in _rows(read_part(uri), wanted):
                found[file, row["millcert_row"]] = tuple(_fields(row, images))
    return found


def _rows(batches: Iterable[pa.RecordBatch], wanted: np.ndarray) -> Iterator[Mapping[str, Any]]:
    for batch in batches:
        chosen = np.isin(batch.column("millcert_row").to_numpy(), wanted)
        if chosen.any():
            yield from batch.filter(pa.array(chosen)).to_pylist()


def _fields(row: Mapping[str, Any], images: Mapping[str, ImageShape]) -> Iterator[SampleField]:
    for name, value in row.items():
        if not name.startswith("millcert_"):
            yield SampleField(name, _value(value, images.get(name)))


def _value(value: Any, image: ImageShape | None) -> SampleValue:
    if image is not None and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        height, width, *channels = image.shape
        if len(value) == height * width * (channels[0] if channels else 1):
            scaled = [255 * float(number or 0) / image.max_value for number in value]
            return pixels_of(scaled, width=width, height=height, channels=channels[0] if channels else 1)
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value[:MAX_LIST_SHOWN]):
        return tuple(value[:MAX_LIST_SHOWN])
    return str(value)[:1000]


def _malformed(published: Published) -> Iterator[MalformedRow]:
    rows = (row for batch in read_part(f"{published.folder}/malformed.parquet") for row in batch.to_pylist())
    for row in islice(rows, MAX_MALFORMED):
        place = "" if row["line"] is None else f"line {row['line']}, byte {row['byte_offset']}: "
        yield MalformedRow(row["file"], row["row"], row["reason"], place + row["detail"])
