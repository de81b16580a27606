"""`millcert vet`: run the gate over a data set."""

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.dataset import read_bounded
from millcert.cli.opened import chosen_ledger, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.pipelines.driver import VetResult
    from millcert.pipelines.dry_run import JobGraph
    from millcert.verdict import Verdict

#: Clusters that the terminal lists; the report has more.
MAX_CLUSTERS = 10
MAX_SELFTEST_BYTES = 4 << 20
#: Characters that a label or a source's name could carry into a terminal: they end, hide or reorder a line.
_DECEPTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Exit codes: 0 admitted, 1 rejected, 2 usage or policy error, 3 integrity failure, 4 inconclusive, 5 a "
    "store or service failed (retry is safe), 70 a bug of millcert. Everything that is not 0 blocks training.",
)
@click.argument("arguments", metavar="DATASET... [BEAM OPTIONS]", nargs=-1, type=click.UNPROCESSED, required=True)
@click.option("--policy", "policy_path", required=True, type=click.Path(path_type=Path), help="The policy file.")
@click.option("--out", required=True, help="Folder to publish to; it must not exist, or see --replace.")
@state_option
@click.option("--replace", is_flag=True, help="Replace an earlier output at --out.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where a run to --out stopped; files that it was done with are not read again.",
)
@click.option(
    "--incremental",
    is_flag=True,
    help="Keep the work on files in the state folder, and use what earlier runs kept there (docs/resume.md).",
)
@click.option(
    "--keep-work/--no-keep-work",
    default=None,
    help="Keep the work on files until the run has ended, for --resume; by the size of the work unless given.",
)
@click.option("--work", help="Folder or URI to keep the work in, instead of the state folder; implies --incremental.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Local worker processes; by the size of the work unless given."
)
@click.option("--views", help="Folder of the views that `millcert embed` made of DATASET.")
@click.option(
    "--selftest",
    "selftest_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Bind the result of `millcert selftest --out` into the verdict and certificate.",
)
@click.option(
    "--dry-run",
    "--dry_run",
    "is_dry_run",
    is_flag=True,
    help="Plan the run and build the runner's job graph; read, submit and publish nothing.",
)
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@json_option
def vet(
    arguments: tuple[str, ...],
    policy_path: Path,
    out: str,
    state: Path | None,
    workers: int | None,
    views: str | None,
    selftest_path: Path | None,
    work: str | None,
    *,
    replace: bool,
    resume: bool,
    incremental: bool,
    keep_work: bool | None,
    is_dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Vet DATASET (files, folders or globs) under a policy and publish the verdict.

    Options that millcert does not know go to Apache Beam, such as --runner=FlinkRunner --flink_master=host:8081.
    """
    # Great Expectations 1.24 sends nothing; older and newer ones might.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # Beam and its parts log to the root logger from the moment they are imported, a worker's traceback at level error;
    # a user's terminal is for our progress and our own word on what went wrong.
    logging.basicConfig(level=logging.INFO if is_verbose() else logging.CRITICAL, format="%(name)s: %(message)s")
    from millcert.policy import load_policy

    loaded = load_policy(policy_path)  # before Beam is imported: a wrong policy is told in a moment
    from millcert.cli.progress import RunProgress
    from millcert.gate import vet as run_gate
    from millcert.pipelines.driver import VetOptions
    from millcert.pipelines.runner import split_arguments
    from millcert.provenance.state import state_folder

    datasets, beam_arguments = split_arguments(arguments)
    if not datasets:
        raise UsageError("No data set was named.", hint="Name files, folders or globs: millcert vet data/ --policy ...")
    options = VetOptions(
        datasets=datasets,
        out=out,
        state=state_folder(state).path,
        ledger_url=chosen_ledger(),
        replace=replace,
        workers=workers or 0,
        beam_arguments=beam_arguments,
        views=views,
        resume=resume,
        incremental=incremental,
        keep_work=keep_work,
        work=work or "",
        selftest=None if selftest_path is None else read_bounded(selftest_path, MAX_SELFTEST_BYTES),
    )
    if is_dry_run:
        from millcert.pipelines.dry_run import dry_run

        graph = dry_run(loaded, options)
        emit(_graph_payload(graph), describe_graph(graph), as_json=as_json)
        return
    result = run_gate(loaded, options, watcher=None if quiet else RunProgress())
    emit(_payload(result), describe(result), as_json=as_json)
    raise SystemExit(result.verdict.exit_code)


def is_verbose() -> bool:
    """Say whether `millcert -v` was asked for."""
    context = click.get_current_context(silent=True)
    return bool(context and getattr(context.find_root().obj, "is_verbose", False))


def _payload(result: "VetResult") -> dict[str, Any]:
    admitted = result.verdict.decision == "admitted"
    return {
        "version": 1,
        "decision": result.verdict.decision,
        "exit_code": result.verdict.exit_code,
        "verdict_digest": result.verdict.digest,
        "verdict": result.verdict.to_mapping(),
        "out": result.out,
        "certificate": f"{result.out}/certificate.json" if admitted else None,
        "report": f"{result.out}/report.html",
        "findings": result.findings,
        "malformed": result.malformed,
        "ledger": {"origin": result.recorded.origin, "index": result.recorded.index},
        "decided_at": result.decided_at,
        "work": [
            {
                "step": one.step,
                "items_done": one.done,
                "items_reused": one.reused,
                "read": list(one.read),
                "refused": one.refused,
                "failed": one.failed,
            }
            for one in result.work
        ],
    }


def _graph_payload(graph: "JobGraph") -> dict[str, Any]:
    return {
        "version": 1,
        "runner": graph.runner,
        "files": graph.files,
        "data_bytes": graph.data_bytes,
        "reads": graph.reads,
        "steps": graph.steps,
        "graph_bytes": graph.proto.ByteSize(),
        "fusion_breaks": list(graph.fusion_breaks),
        "images": list(graph.images),
        "min_ram_bytes": graph.min_ram_bytes,
        "shipped": [{"name": file.name, "sha256": file.sha256} for file in graph.shipped],
        "unreachable": list(graph.unreachable),
    }


def describe_graph(graph: "JobGraph") -> str:
    """Return what a dry run found, for a terminal."""
    lines = [
        f"dry run  {graph.runner}  nothing was read, submitted or published",
        f"  data: {graph.files:,} files, {graph.data_bytes:,} bytes, read {graph.reads} times",
        f"  graph: {graph.steps} steps, {graph.proto.ByteSize():,} bytes, {len(graph.fusion_breaks)} fusion breaks",
        f"  workers: at least {graph.min_ram_bytes / (1 << 30):g} GiB of memory"
        + "".join(f", {i}" for i in graph.images),
        *(f"  uploaded with the job: {file.name}, SHA-256 {file.sha256}" for file in graph.shipped),
        *(f"  out of the workers' reach: {path}" for path in graph.unreachable),
    ]
    todo = "put data and --out into a bucket, then run" if graph.unreachable else "run"
    return "\n".join([*lines, f"  next: {todo} the same command without --dry-run"])


def describe(result: "VetResult") -> str:
    """Return the answer for a terminal: the decision, why, what each check says, where things are, what to do next."""
    from millcert.pipelines.fuse import describe_cluster
    from millcert.pipelines.work_report import describe_work

    verdict = result.verdict
    counts = verdict.samples
    where = f"{counts.admitted:,} admitted + {counts.quarantined:,} quarantined + {counts.malformed:,} malformed"
    lines = [f"{verdict.decision}  {verdict.dataset}  {counts.seen:,} samples = {where}"]
    lines += [f"  reason: {reason.message}" for reason in verdict.reasons]
    for use in verdict.overrides:
        what = "; ".join(reason.message for reason in use.lifted) or f"{use.samples:,} samples released"
        lines.append(
            f"  override: {what} (proposed by {use.proposed_by}, approved by {', '.join(use.approved_by)}, until "
            f"{use.expires_at}: {use.reason})"
        )
    width = max([len(source.name) for source in verdict.sources] + [len(check.name) for check in verdict.checks] + [12])
    for source in verdict.sources:
        by = f"signed by {source.identity}" if source.status == "verified" else "unsigned, accepted by the policy"
        lines.append(
            f"  {source.name:<{width}}  {source.status.upper():<12} {source.samples:,} samples, "
            f"{source.flagged:,} flagged; {by}"
        )
        lines += [f"  {'':<{width}}  {'NOTICE':<12} {source.signer_change}"] if source.signer_change else []
    if verdict.expectations is not None:
        status = "PASSED" if verdict.expectations.success else "FAILED"
        lines.append(
            f"  {'expectations':<{width}}  {status:<12} {verdict.expectations.evaluated} evaluated, "
            f"{verdict.expectations.unsuccessful} unsuccessful"
        )
    lines += _drift_lines(verdict, width)
    for check in verdict.checks:
        lines.append(
            f"  {check.name:<{width}}  {check.status.upper():<12} {check.flagged:,} flagged "
            f"({check.flagged_fraction:.2%}, limit {check.max_flagged_fraction:.2%})"
        )
        lines += [
            f"  {'':<{width}}  {'':<12} suspicious: {group['group']}, about {_figure(group['estimated_count'])} "
            f"samples ({_figure(group['count_low'])} to {_figure(group['count_high'])})"
            for group in check.evidence[:5]
            if group["is_suspicious"] and check.severity == "reject"
        ]
    lines += [f"  {cluster.action}: {describe_cluster(cluster)}" for cluster in verdict.clusters[:MAX_CLUSTERS]]
    if verdict.cluster_count > MAX_CLUSTERS:
        lines.append(f"  {verdict.cluster_count - MAX_CLUSTERS:,} more clusters: see the report")
    for what, names in (("dropped columns", verdict.dropped_columns), ("not covered", verdict.not_covered)):
        lines += [f"  {what}: {', '.join(names)}"] if names else []
    if any(one.reused or one.refused or one.failed for one in result.work):
        lines += [f"  {line}" for line in describe_work(result.work)]
    if result.decided_at:
        lines.append(f"  finished: an earlier run logged this decision at {result.decided_at}; nothing twice")
    lines.append(f"  verdict: {verdict.digest}   ledger: {result.recorded.origin} #{result.recorded.index}")
    lines.append(f"  report: {result.out}/report.html   findings: {result.out}/findings.parquet")
    if verdict.decision == "admitted":
        lines.append(f"  next: millcert admit {result.out}/admitted --certificate {result.out}/certificate.json")
    else:
        lines.append(f"  next: open {result.out}/report.html, then mend the data or the policy and run again")
    return "\n".join(_DECEPTIVE.sub(lambda found: f"\\u{ord(found.group()):04x}", line) for line in lines)


def _drift_lines(verdict: "Verdict", width: int) -> list[str]:
    drift = verdict.drift
    if drift is None:
        return []
    if not drift.reference:
        return [f"  {'drift':<{width}}  {'NONE':<12} no version was admitted yet; nothing was compared"]
    status = "FOUND" if drift.found or drift.added or drift.removed or drift.changed else "PASSED"
    counts = f"{drift.found:,} of {drift.compared:,} comparisons"
    lines = [f"  {'drift':<{width}}  {status:<12} {counts} drift from the profile {drift.reference[:16]}"]
    lines += [
        f"  {'':<{width}}  {'':<12} {one['column'] or 'presence'} {one['part']} of {one['source'] or 'all rows'}: "
        f"{one['measure']} {_figure(one['value'])}, limit {one['limit']:g}, null quantile {one['null_quantile']:.4g}"
        for one in drift.outcomes[:5]
        if one["is_drift"]
    ]
    if drift.course is not None:
        over = f"{drift.course.found:,} changes over {len(drift.course.versions):,} earlier versions"
        lines.append(f"  {'':<{width}}  {'':<12} {over}")
        lines += [
            f"  {'':<{width}}  {'':<12} {one['pace']}: {one['column'] or 'presence'} {one['part']} of "
            f"{one['source'] or 'all rows'}, {one['measure']} {_figure(one['value'])}"
            for one in drift.course.changes[:5]
        ]
    return lines


def _figure(value: float | str) -> str:
    """Return a figure of a verdict for people; a verdict holds infinities as text."""
    return f"{float(value):g}"
