"""`millcert ledger sample` and `erased`: all that is known of one sample, and all that was erased, with proofs."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.acting import as_of_now
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.cli.sample_names import digest_of_record, digests_of_text, only_one, parse_place, read_text
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.ledger import Ledger
    from millcert.provenance.override import OverrideState
    from millcert.provenance.sample_history import AskedSample, Erased, Revoked, RunHistory
    from millcert.provenance.state import StateFolder


@click.command()
@click.option(
    "--row", "place", metavar="FILE:ROW", default=None, help="By its place: file as in the manifest, row from 0."
)
@click.option("--digest", default=None, help="By its sample digest in hex.")
@click.option("--record", metavar="JSON", default=None, help="By its content: a JSON object of all columns, or @FILE.")
@click.option("--text", default=None, help="By a text that is all of a column of it (or @FILE); goes with --data.")
@click.option("--data", default=None, help="The data as it was vetted: rows with --text, or column types of --record.")
@click.option("--run", "run_id", default=None, help="With --row, the place in this run: the beginning of its id.")
@click.option("--at", default=None, help="Judge overrides as of this time (RFC 3339 in UTC).  [default: now]")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Only so many newest runs.")
@click.option("--proof", is_flag=True, help="With --json: add evidence of each run, and each entry's proof.")
@state_option
@json_option
def sample(
    place: str | None,
    digest: str | None,
    record: str | None,
    text: str | None,
    data: str | None,
    run_id: str | None,
    at: str | None,
    limit: int,
    proof: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Say all that is known of one sample: was it in any run, whose was it, what was said of it, is it still good?

    Run by run: source, signer, trusted root and time; checks, scores and verdict; overrides, revocations, erasures,
    certificates and models. What is said of presence and absence was verified against the ledger's checkpoint.
    """
    from millcert.provenance.sample_history import sample_history
    from millcert.provenance.sample_query import parse_digest
    from millcert.provenance.standing import read_standing

    only_one({"--row": place, "--digest": digest, "--record": record, "--text": text})
    if (text is not None and data is None) or (data is not None and text is None and record is None):
        raise UsageError("--text needs --data, and --data goes with --text or --record.", hint="Give both.")
    if run_id is not None and place is None:
        raise UsageError("--run goes with --row.", hint="A digest is asked of every run.")
    if text is not None and data is not None:
        digests = digests_of_text(read_text(text), data)
    elif record is not None:
        digests = [digest_of_record(read_text(record), data)]
    else:
        digests = [] if digest is None else [parse_digest(digest)]
    now = as_of_now(at)
    folder, ledger = opened(state)
    lines, listed = list[str](), list[dict[str, Any]]()
    with ledger:
        standing = read_standing(ledger)
        for asked in _asked(ledger, folder, digests, place, run_id):
            name = asked.leaf if asked.digest is None else asked.digest.hex()
            runs = list(sample_history(ledger, folder, standing, asked, now=now, newest=limit))
            present = sum(one.status == "present" for one in runs)
            for one in runs:
                lines += _run_lines(one)
            lines.append(f"sample {name} was in {present} of {len(runs)} runs of {ledger.origin}")
            about = {"digest": None if asked.digest is None else name, "leaf": asked.leaf or None}
            payloads = [
                {**_run_payload(one, proof=proof), **_proofs(ledger, one.indexes(standing), proof=proof)}
                for one in runs
            ]
            listed.append({**about, "present": present, "runs": payloads})
        origin, size = ledger.origin, ledger.size
    shown = digests[0].hex() if digests else listed[0]["digest"]
    lines.append(
        "next: millcert ledger erased"
        if shown is None
        else f"next: millcert evidence export --digest {shown} --out FILE"
    )
    payload = {"version": 1, "origin": origin, "size": size, "at": now.isoformat(), "samples": listed}
    emit(payload, "\n".join(lines), as_json=as_json)


@click.command()
@click.option("--run", "run_id", default="", help="Only of this run: the beginning of its id.")
@click.option("--proof", is_flag=True, help="With --json: add each entry's proof (C2SP tlog-proof).")
@state_option
@json_option
def erased(run_id: str, proof: bool, state: Path | None, as_json: bool) -> None:
    """List what was erased: of which run and data set, how much, when, by whom, why, and whether that counts."""
    from millcert.provenance.sample_history import list_erasures
    from millcert.provenance.standing import read_standing

    _, ledger = opened(state)
    with ledger:
        found = [one for one in list_erasures(ledger, read_standing(ledger)) if one.tombstone.run.startswith(run_id)]
        listed = [_erased_payload(one) for one in found]
        proofs = _proofs(ledger, (one.logged.index for one in found), proof=proof)
        origin = ledger.origin
    lines = [_erased_line(one) for one in found]
    lines += [f"{len(found)} erasures of {origin}", "next: millcert ledger show INDEX"]
    emit({"version": 1, "origin": origin, "erasures": listed, **proofs}, "\n".join(lines), as_json=as_json)


def _asked(
    ledger: "Ledger", folder: "StateFolder", digests: list[bytes], place: str | None, run_id: str | None
) -> "list[AskedSample]":
    from millcert.provenance.lookup import list_runs, run_of
    from millcert.provenance.sample_history import AskedSample, sample_at
    from millcert.provenance.sample_query import newest_with

    if place is None:
        return [AskedSample(one) for one in digests]
    file, row = parse_place(place)
    runs = list_runs(ledger)
    return [sample_at(folder, newest_with(folder, runs, file) if run_id is None else run_of(runs, run_id), file, row)]


def _run_lines(one: "RunHistory") -> list[str]:
    body, roots = one.record.verdict.entry.body, one.record.roots
    about = f"#{one.record.verdict.index:<6} {one.record.verdict.entry.recorded_at}  {roots.dataset}"
    lines = [f"{one.status.upper():<8} {about}  {body.get('decision')}"]
    lines += [f"  {one.unknown}"] if one.unknown else []
    for found in one.samples:
        signer = f"signed by {found.signer}" if found.signer else found.source_status or "unsigned"
        lines.append(
            f"  {found.file} row {found.row}  source {found.source}, {signer}; {found.outcome or 'outcome not kept'}"
        )
        lines += [
            f"    {said['check']}: {said['action']}, {said['reason']}, score {said['score']} over {said['threshold']}"
            for said in found.findings or ()
        ]
    if one.status == "absent":
        return lines
    for source in one.sources:
        said = source.entry.body
        root, signed_at = str(said.get("trusted_root_sha256") or "none")[:16], said.get("signed_at") or "no stated time"
        lines.append(f"  source {said.get('source')}: {said.get('status')}, signed at {signed_at}, trusted root {root}")
    checks = (check.entry.body for check in one.record.checks)
    lines += [f"  check {said.get('name')} {said.get('version', '')}: {said.get('status', 'run')}" for said in checks]
    lines += [f"  certificate #{certificate.index}" for certificate in one.record.certificates]
    lines += [f"  model {use.model} declared use" for use, _ in one.models]
    lines += [_override_line(state, one.used) for state in one.overrides]
    lines += [_revoked_line(revoked) for revoked in one.revoked]
    lines += [f"  {_erased_line(gone)}" for gone in one.erased]
    return lines


def _override_line(state: "OverrideState", used: Iterable[str]) -> str:
    override = state.override
    rests = ", the verdict rests on it" if state.leaf in used else ""
    return (
        f"  override #{state.index} of {override.scope} {state.state.upper()} until {override.expires_at}{rests}  "
        f"by {state.proposer}: {override.reason}  ({state.message})"
    )


def _revoked_line(one: "Revoked") -> str:
    said = one.revocation
    what = "this sample" if one.names_sample else "its run"
    end = f", lifted at {one.lifted_at}" if one.lifted_at else ""
    return (
        f"  REVOKED ({what}{end}) #{said.index} {said.subject[:80]}  by {said.by} at {said.recorded_at}: {said.reason}"
    )


def _erased_line(one: "Erased") -> str:
    said = one.tombstone
    count = "all samples" if said.scope == "run" else f"{len(said.leaves)} samples"
    by = f"by {one.by}" if one.by else "unsigned"
    fault = f"  IGNORED ({one.fault})" if one.fault else ""
    this = ", this one among them" if one.names_sample else ""
    about = f"#{one.logged.index:<6} {one.logged.entry.recorded_at}  {said.dataset} run {said.run[:16]}"
    return f"erased {about}: {count}{this}, {by}: {said.reason}{fault}"


def _run_payload(one: "RunHistory", *, proof: bool) -> dict[str, Any]:
    from dataclasses import asdict

    record = one.record
    return {
        "run": record.roots.run_id,
        "dataset": record.roots.dataset,
        "status": one.status,
        "unknown": one.unknown,
        "recorded_at": record.verdict.entry.recorded_at,
        "verdict_index": record.verdict.index,
        "verdict": dict(record.verdict.entry.body),
        "samples": [{**asdict(found), "outcome": found.outcome} for found in one.samples],
        "sources": [{"index": source.index, **source.entry.body} for source in one.sources],
        "checks": [{"index": check.index, **check.entry.body} for check in record.checks],
        "certificates": [certificate.index for certificate in record.certificates],
        "models": [{**asdict(use), "index": act.logged.index} for use, act in one.models],
        "overrides": [
            {
                **state.override.said(),
                "index": state.index,
                "leaf": state.leaf,
                "state": state.state,
                "message": state.message,
                "proposed_by": state.proposer,
                "approved_by": list(state.approvers),
                "is_used": state.leaf in one.used,
            }
            for state in one.overrides
        ],
        "revocations": [
            {
                **revoked.revocation.said(),
                "index": revoked.revocation.index,
                "by": revoked.revocation.by,
                "recorded_at": revoked.revocation.recorded_at,
                "names_sample": revoked.names_sample,
                "lifted_at": revoked.lifted_at or None,
            }
            for revoked in one.revoked
        ],
        "erasures": [_erased_payload(gone) for gone in one.erased],
        **({"evidence": None if one.evidence is None else one.evidence.decode()} if proof else {}),
    }


def _erased_payload(one: "Erased") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **asdict(one.tombstone),
        "index": one.logged.index,
        "recorded_at": one.logged.entry.recorded_at,
        "by": one.by,
        "fault": one.fault,
        "names_sample": one.names_sample,
    }


def _proofs(ledger: "Ledger", indexes: Iterable[int], *, proof: bool) -> dict[str, Any]:
    """Return index -> leaf and proof (C2SP tlog-proof), so that who reads the answer needs no ledger."""
    if not proof:
        return {}
    return {
        "proofs": {
            str(index): {"leaf": ledger.get(index).entry.leaf().decode(), "proof": ledger.prove(index).decode()}
            for index in sorted(indexes)
        }
    }
