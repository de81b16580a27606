"""`millcert evidence`: prove what the gate said of a sample, verify such a proof anywhere, and erase samples."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.files import read_bounded, write_new
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.cli.witnessed import witness_options, witness_rule
from millcert.errors import InconclusiveError, UsageError

if TYPE_CHECKING:
    from millcert.provenance.evidence_verify import RunEvidence
    from millcert.provenance.ledger import Ledger, LoggedEntry
    from millcert.provenance.lookup import FoundSample, SampleRun
    from millcert.provenance.state import StateFolder

_RUN = click.option("--run", "run_id", default=None, help="Only this run: the beginning of its id.")
_DIGEST = click.option("--digest", "digests", multiple=True, help="A sample digest in hex; may be given again.")
_FILE = click.option("--file", "file", default=None, help="The sample's file, named as in the manifest; with --row.")
_ROW = click.option("--row", type=click.IntRange(min=0), default=None, help="Its row in the file, from 0.")


@click.group()
def evidence() -> None:
    """Prove what the gate said of a sample, verify such a proof, erase samples."""


@evidence.command()
@_DIGEST
@_FILE
@_ROW
@_RUN
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Write the evidence to a new file.")
@state_option
@json_option
def export(
    digests: tuple[str, ...],
    file: str | None,
    row: int | None,
    run_id: str | None,
    out: Path,
    state: Path | None,
    as_json: bool,
) -> None:
    """Write one file that shows, offline, in which runs samples were and in which they were not.

    A sample is named by its digest (asked of every run) or by --file and --row (of the newest run that has the file).
    The file holds sample digests and file names; it is verified before it is given out.
    """
    from millcert.provenance.evidence import export_evidence
    from millcert.provenance.evidence_verify import verify_evidence
    from millcert.provenance.witnessing import cosigned_path, kept_checkpoint

    folder, ledger = opened(state)
    with ledger, ExitStack() as stack:
        answers, unknown = _answers(stack, folder, ledger, digests, (file, row), run_id)
        kept = kept_checkpoint(ledger, cosigned_path(folder.ledger), at_least=0)
        data = export_evidence(ledger, answers, cosigned=kept)
        verify_evidence(data, ledger.vkeys)
        origin = ledger.origin
    write_new(out, data)
    found = sum(len(samples) for _, samples, _ in answers)
    absent = sum(len(gone) for _, _, gone in answers)
    lines = [f"evidence  {origin}  {out}  {len(data):,} bytes", f"  {found} samples present, {absent} absences shown"]
    lines += [f"  not shown: {reason}" for reason in unknown]
    lines.append(f"  next: millcert evidence verify {out} --trust {folder.ledger_vkey}")
    payload = {
        "version": 1,
        "origin": origin,
        "path": str(out),
        "size_bytes": len(data),
        "present": found,
        "absent": absent,
        "not_shown": unknown,
    }
    emit(payload, "\n".join(lines), as_json=as_json)


@evidence.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--trust",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="File with the ledger's public key, one name+hash+key a line; may be given again.",
)
@witness_options
@json_option
def verify(
    path: Path,
    trust: tuple[Path, ...],
    witness_keys: tuple[Path, ...],
    witnesses_required: int | None,
    as_json: bool,
) -> None:
    """Verify evidence, offline: needs the ledger's public key and nothing else."""
    from millcert.provenance.evidence_verify import MAX_EVIDENCE_BYTES, verify_evidence
    from millcert.provenance.state import load_ledger_vkeys

    data = read_bounded(path, MAX_EVIDENCE_BYTES, what="evidence", hint="Check the path.")
    shown = verify_evidence(data, load_ledger_vkeys(trust), witness_rule(witness_keys, witnesses_required))
    samples = sum(len(run.samples) for run in shown.runs)
    absent = sum(len(run.absent) for run in shown.runs)
    lines = [
        f"verified  {shown.checkpoint.origin}  {len(shown.runs)} runs, {samples} samples present, {absent} absences",
    ]
    lines += [line for run in shown.runs for line in _run_lines(run)]
    lines.append("  next: compare the checkpoint with one from elsewhere: millcert ledger verify --checkpoint COPY")
    payload = {
        "version": 1,
        "origin": shown.checkpoint.origin,
        "size": shown.checkpoint.size,
        "root": shown.checkpoint.root.hex(),
        "runs": [_run_payload(run) for run in shown.runs],
    }
    emit(payload, "\n".join(lines), as_json=as_json)


@evidence.command()
@_DIGEST
@_FILE
@_ROW
@_RUN
@click.option("--whole-run", is_flag=True, help="Erase every sample of --run: destroy all its salts.")
@click.option("--reason", required=True, help="On what ground, without personal data; it is logged for ever.")
@click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path),
    default=None,
    help="Your private key (Ed25519, PEM); needed once roles are in force: who erases signs for it.",
)
@state_option
@json_option
def erase(
    digests: tuple[str, ...],
    file: str | None,
    row: int | None,
    run_id: str | None,
    whole_run: bool,
    reason: str,
    key_path: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Make samples' leaves unlinkable for ever, and say so in the ledger. Needs the ledger's private key.

    Proofs of all other samples, and the ledger, verify as before. The data itself is not touched. Once roles are in
    force, only who may say an `erasure` may erase, and signs it.
    """
    from millcert.provenance.erasure import erase_run, erase_samples, find_eraser, forget_named
    from millcert.provenance.keys import load_key
    from millcert.provenance.sample_query import ask_runs, parse_digest
    from millcert.provenance.work_key import forget_work

    folder, ledger = opened(state, for_appending=True)
    stamp = _now()
    runs_touched, erased = 0, 0
    gone = [parse_digest(digest) for digest in digests]
    with ledger, ExitStack() as stack:
        eraser = find_eraser(ledger, None if key_path is None else load_key(key_path))
        if whole_run:
            if run_id is None or digests or file is not None:
                raise UsageError("--whole-run goes with --run, and with no sample.", hint="Give --run ID --whole-run.")
            run = stack.enter_context(_run(folder, _runs(ledger, run_id)[0]))
            erased, runs_touched = run.roots.samples, 1
            erase_run(run, folder, ledger, reason=reason, recorded_at=stamp, eraser=eraser)
        else:
            for run, samples in _present(stack, folder, ledger, digests, (file, row), run_id):
                if samples:
                    erase_samples(run, samples, ledger, reason=reason, recorded_at=stamp, eraser=eraser)
                    erased, runs_touched = erased + len(samples), runs_touched + 1
                    gone += [found.digest for found in samples]
        size = ledger.size
        # A sample that is still somewhere keeps its name: what revokes it must go on finding it.
        runs = _runs(ledger, None)
        nowhere = [one for one in set(gone) if not any(answer.found for answer in ask_runs(folder, runs, one))]
        forgotten = forget_named(folder, nowhere)
    if not runs_touched and not forgotten:
        raise UsageError("No run has such a sample, so nothing was erased.", hint="Check the digest.")
    forget_work(folder.path)  # the rows' digests are among what `vet --incremental` keeps
    payload = {
        "version": 1,
        "erased": erased,
        "runs": runs_touched,
        "ledger_size": size,
        "signed": eraser.key is not None,
        "forgotten_commitments": list(forgotten),
    }
    lines = [f"erased  {erased} samples in {runs_touched} runs"]
    lines += [
        f"  {name[:16]}: no longer linked to the sample; what revokes or releases it does not find it in new data"
        for name in forgotten
    ]
    lines.append("  next: erase them from the data and its copies; backups of the salts undo this")
    emit(payload, "\n".join(lines), as_json=as_json)


@evidence.command()
@_RUN
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Also compare the findings that were published in this folder with those of its run.",
)
@state_option
@json_option
def audit(run_id: str | None, output: Path | None, state: Path | None, as_json: bool) -> None:
    """Recompute all leaves, trees, indexes and findings of the runs, and compare them with the ledger's roots.

    Findings are also counted: as many of each check as its own entry in the ledger says that it flagged.
    """
    from millcert.provenance.sample_audit import audit_run

    folder, ledger = opened(state)
    rows, listed = [], []
    with ledger:
        published = None if output is None else _verdict_digest(output)
        for logged in _runs(ledger, run_id):
            with _run(folder, logged) as run:
                found = audit_run(run, [ledger.get(index).entry for index in run.roots.checks])
                is_output = ledger.get(run.roots.verdict).entry.body.get("verdict_digest") == published
                if output is not None and published is not None and is_output:
                    _compare(run, output)
                    published = None
                about = {"run": run.roots.run_id, "dataset": run.roots.dataset, "index": logged.index}
            counts = {"records": found.records, "samples": found.samples, "erased": found.erased}
            listed.append({**about, **counts, "flagged": found.flagged, "published_compared": is_output})
            rows.append(
                f"whole  #{logged.index}  {about['dataset']}  {found.samples:,} samples, {found.erased:,} erased, "
                f"{found.records - found.samples:,} records that are no samples, {found.flagged:,} flagged"
                f"{', as published' if is_output else ''}"
            )
        origin = ledger.origin
    if published is not None:
        raise UsageError(
            f"No run that was looked at gave the verdict in {output}.",
            hint="Give the output folder of a run of this ledger, and no other --run.",
        )
    rows.append("next: millcert ledger verify")
    emit({"version": 1, "origin": origin, "runs": listed}, "\n".join(rows), as_json=as_json)


def _verdict_digest(output: Path) -> str:
    import hashlib

    from millcert.cli.override import MAX_VERDICT_BYTES

    hint = "Give the folder that `millcert vet --out` wrote."
    return hashlib.sha256(
        read_bounded(output / "verdict.json", MAX_VERDICT_BYTES, what="verdict", hint=hint)
    ).hexdigest()


def _compare(run: "SampleRun", output: Path) -> None:
    from millcert.pipelines.finding_records import published_records
    from millcert.provenance.finding_audit import compare_published

    compare_published(run, published_records(str(output / "findings.parquet")))


def _answers(
    stack: ExitStack,
    folder: "StateFolder",
    ledger: "Ledger",
    digests: tuple[str, ...],
    place: tuple[str | None, int | None],
    run_id: str | None,
) -> tuple[list[tuple["SampleRun", list["FoundSample"], list[bytes]]], list[str]]:
    """Return what each run shows, and why some show nothing."""
    from millcert.provenance.sample_query import ask_run, parse_digest

    wanted = [parse_digest(digest) for digest in digests]
    if place != (None, None):
        _require_either(digests, place)
        run, found = _at_place(stack, folder, ledger, place, run_id)
        return [(run, [found], [])], []
    _require_either(digests, place)
    answers, unknown = [], []
    for logged in _runs(ledger, run_id):
        run = stack.enter_context(_run(folder, logged))
        replies = [ask_run(run, digest) for digest in wanted]
        unknown += [f"run {run.roots.run_id[:16]}: {reply.unknown}" for reply in replies if reply.unknown]
        samples = [found for reply in replies for found in reply.found]
        absent = [digest for digest, reply in zip(wanted, replies, strict=True) if reply.is_absent]
        if samples or absent:
            answers.append((run, samples, absent))
    if unknown and not answers:
        raise InconclusiveError(
            unknown[0], hint="See the ledger's erasure entries: millcert ledger find --kind erasure"
        )
    return answers, unknown


def _present(
    stack: ExitStack,
    folder: "StateFolder",
    ledger: "Ledger",
    digests: tuple[str, ...],
    place: tuple[str | None, int | None],
    run_id: str | None,
) -> list[tuple["SampleRun", list["FoundSample"]]]:
    """Return the samples to erase, run by run; completes what an earlier erasure left half done."""
    from millcert.provenance.sample_query import parse_digest

    wanted = [parse_digest(digest) for digest in digests]
    _require_either(digests, place)
    if place != (None, None):
        run, found = _at_place(stack, folder, ledger, place, run_id)
        return [(run, [found])]
    present = []
    for logged in _runs(ledger, run_id):
        run = stack.enter_context(_run(folder, logged))
        if run.salts.exists:
            for digest in wanted:
                run.drop_erased(digest)
            present.append((run, [found for digest in wanted for found in run.find(digest)]))
    return present


def _at_place(
    stack: ExitStack, folder: "StateFolder", ledger: "Ledger", place: tuple[str | None, int | None], run_id: str | None
) -> tuple["SampleRun", "FoundSample"]:
    from millcert.provenance.sample_query import newest_with

    file, row = place
    if file is None or row is None:
        raise UsageError("A sample's place is --file and --row together.", hint="Give both, or --digest.")
    run = stack.enter_context(_run(folder, newest_with(folder, _runs(ledger, run_id), file)))
    return run, run.at(file, row)


def _require_either(digests: tuple[str, ...], place: tuple[str | None, int | None]) -> None:
    if bool(digests) == (place != (None, None)):
        raise UsageError("Name samples by --digest, or by --file and --row.", hint="Give one of the two.")


def _runs(ledger: "Ledger", run_id: str | None) -> list["LoggedEntry"]:
    from millcert.provenance.lookup import list_runs, run_of

    runs = list_runs(ledger)
    if not runs:
        raise UsageError("The ledger has no run with samples.", hint="The first `millcert vet` makes one.")
    return runs if run_id is None else [run_of(runs, run_id)]


def _run(folder: "StateFolder", logged: "LoggedEntry") -> "SampleRun":
    from millcert.provenance.lookup import SampleRun

    return SampleRun(folder, logged)


def _run_lines(run: "RunEvidence") -> list[str]:
    checks = ", ".join(f"{check.get('name')} {str(check.get('status', '')).upper()}" for check in run.checks)
    lines = [
        f"  #{run.index}  {run.verdict.get('dataset')}  {run.verdict.get('decision')}  {run.recorded_at}",
        f"    checks: {checks or 'none'}",
    ]
    for sample in run.samples:
        signer = f"signed by {sample.signer}" if sample.signer else sample.source_status or "unsigned"
        lines.append(f"    present  {sample.digest[:16]}  {sample.file} row {sample.row}  ({sample.source}, {signer})")
        lines += [
            f"      {one['check']}: {one['action']}, {one['reason']}, score {one['score']} over {one['threshold']}"
            for one in sample.findings or ()
        ]
        if sample.findings == ():
            lines.append("      no check said anything of it")
    lines += [f"    absent   {digest[:16]}" for digest in run.absent]
    return lines


def _run_payload(run: "RunEvidence") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "index": run.index,
        "recorded_at": run.recorded_at,
        "verdict": dict(run.verdict),
        "checks": [dict(check) for check in run.checks],
        "samples": [{**asdict(sample), "outcome": sample.outcome} for sample in run.samples],
        "absent": list(run.absent),
    }


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
