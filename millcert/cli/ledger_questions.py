"""`millcert ledger impact`, `as-of`, `changes`, `unsigned`: an auditor's questions, with the proofs of the answers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option

if TYPE_CHECKING:
    from millcert.provenance.ledger import Ledger, LoggedEntry
    from millcert.provenance.questions import RunRecord

F = TypeVar("F", bound=Callable[..., Any])


def _proof_option(command: F) -> F:
    return click.option("--proof", is_flag=True, help="With --json: add each entry's proof (C2SP tlog-proof).")(command)


@click.command()
@click.option("--source", default=None, help="Name of a source in the policy.")
@click.option("--identity", default=None, help="Who signed a source.")
@click.option("--file", default=None, help="A file, named as in the manifest.")
@click.option("--sha256", default=None, help="A file's SHA-256 in hex.")
@click.option("--check", default=None, help="A check's name, or name@version.")
@_proof_option
@state_option
@json_option
def impact(
    source: str | None,
    identity: str | None,
    file: str | None,
    sha256: str | None,
    check: str | None,
    proof: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """List what a source, signer, file or check reached: runs, data sets, certificates, and models that declared use.

    The blast radius. A file is a shard: name it as in the manifest, or by its SHA-256.
    """
    from millcert.provenance.blast_radius import blast_radius
    from millcert.provenance.questions import Suspect, unresolved
    from millcert.provenance.standing import read_standing

    suspect = Suspect(source, identity, file, sha256, check)
    folder, ledger = opened(state)
    with ledger:
        reached = blast_radius(ledger, folder, suspect, read_standing(ledger))
        touched = reached.runs
        unknown = [logged.index for logged in unresolved(ledger)]
        payload = {
            "runs": [_run_payload(record, ledger, proof=proof) for record in touched],
            "datasets": list(reached.datasets),
            "certificates": list(reached.certificates),
            "models": [
                {
                    "model": use.model,
                    "model_sha256": use.model_sha256,
                    "dataset": use.dataset,
                    "certificate": index,
                    "declared_by": "" if act.person is None else act.person.name,
                    **_proofs([act.logged], ledger, proof=proof),
                }
                for use, act, index in reached.models
            ],
            "unresolved": unknown,
        }
        origin = ledger.origin
    rows = [_run_line(record) for record in touched]
    rows += [
        f"model {use.model} ({use.model_sha256[:16]}) declared use of {use.dataset}" for use, _, _ in reached.models
    ]
    if unknown:
        rows.append(
            f"verdicts of runs without shard roots, so not looked into: {', '.join(f'#{at}' for at in unknown)}"
        )
    counts = (
        f"{len(reached.datasets)} data sets, {len(reached.certificates)} certificates, {len(reached.models)} models"
    )
    rows.append(f"{len(touched)} runs of {origin}: {counts}")
    rows.append("next: millcert revoke source NAME --reason WHY --key KEY")
    emit({"version": 1, "origin": origin, **payload}, "\n".join(rows), as_json=as_json)


@click.command("as-of")
@click.argument("time")
@_proof_option
@state_option
@json_option
def as_of(time: str, proof: bool, state: Path | None, as_json: bool) -> None:
    """List, for each data set, the newest run at TIME, and the roles, revocations and overrides in force then.

    TIME is RFC 3339 in UTC, such as 2026-11-23T02:38:55Z, and is compared with the times that the entries have.
    """
    from millcert.provenance.override import list_overrides
    from millcert.provenance.questions import in_force
    from millcert.provenance.revocation import active_revocations
    from millcert.provenance.standing import read_standing, standing_at
    from millcert.provenance.timestamp import instant

    _, ledger = opened(state)
    with ledger:
        newest = in_force(ledger, time)
        runs = [_run_payload(record, ledger, proof=proof) for record in newest.values()]
        standing = standing_at(read_standing(ledger), instant(time))
        revocations = active_revocations(standing)
        overrides = [one for one in list_overrides(standing, instant(time)) if one.state == "approved"]
        indexes = [one.index for one in revocations] + [one.index for one in overrides]
        acts = [ledger.get(index) for index in indexes]
        proofs = _proofs(acts, ledger, proof=proof)
        origin = ledger.origin
    roles = None if standing.book is None else standing.book.sha256
    rows = [_run_line(record) for record in newest.values()]
    rows += [f"#{one.index:<6} revoked {one.subject[:80]}  by {one.by}: {one.reason}" for one in revocations]
    rows += [
        f"#{one.index:<6} override of {one.override.scope} on {one.override.dataset} until {one.override.expires_at}  "
        f"by {one.proposer}, approved by {', '.join(one.approvers)}: {one.override.reason}"
        for one in overrides
    ]
    counts = f"{len(newest)} data sets, {len(revocations)} revocations, {len(overrides)} overrides"
    rows += [f"{counts} of {origin} at {time}; roles {roles or 'none'}", "next: millcert ledger show INDEX"]
    payload = {
        "version": 1,
        "origin": origin,
        "time": time,
        "runs": runs,
        "roles_sha256": roles,
        "revocations": [{**one.said(), "index": one.index, "by": one.by} for one in revocations],
        "overrides": [{**one.override.said(), "index": one.index, "by": one.proposer} for one in overrides],
        **proofs,
    }
    emit(payload, "\n".join(rows), as_json=as_json)


@click.command()
@click.argument("old", type=click.IntRange(min=1))
@click.argument("new", type=click.IntRange(min=1), required=False)
@_proof_option
@state_option
@json_option
def changes(old: int, new: int | None, proof: bool, state: Path | None, as_json: bool) -> None:
    """List what was added between a ledger of OLD entries and one of NEW (now), and prove that nothing else changed."""
    from millcert.provenance.questions import changes_between

    _, ledger = opened(state)
    with ledger:
        found = changes_between(ledger, old, ledger.size if new is None else new)
        proofs = _proofs(found.entries, ledger, proof=proof)
        origin = ledger.origin
    rows = [_entry_line(logged) for logged in found.entries]
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds) or "nothing"
    rows.append(f"{origin} from {found.old} to {found.new} entries: {kinds}")
    rows.append("next: compare both checkpoints: millcert ledger verify --checkpoint COPY")
    payload = {
        "version": 1,
        "origin": origin,
        "old": found.old,
        "new": found.new,
        "kinds": dict(found.kinds),
        "entries": [_entry_payload(logged) for logged in found.entries],
        "consistency": [one.hex() for one in found.consistency],
        **proofs,
    }
    emit(payload, "\n".join(rows), as_json=as_json)


@click.command()
@_proof_option
@state_option
@json_option
def unsigned(proof: bool, state: Path | None, as_json: bool) -> None:
    """List the sources that went into a run without a verified signature."""
    from millcert.provenance.questions import without_provenance

    _, ledger = opened(state)
    with ledger:
        found = without_provenance(ledger)
        listed = [
            {
                "run": record.roots.run_id,
                "dataset": record.roots.dataset,
                "decision": record.verdict.entry.body.get("decision"),
                "source": source.entry.body.get("source"),
                "status": source.entry.body.get("status"),
                "samples": source.entry.body.get("samples"),
                "entry": _entry_payload(source),
                **_proofs([source], ledger, proof=proof),
            }
            for record, source in found
        ]
        origin = ledger.origin
    rows = [
        f"#{source.index:<6} {source.entry.recorded_at}  {record.roots.dataset}  "
        f"{source.entry.body.get('source')}: {source.entry.body.get('status')}"
        for record, source in found
    ]
    rows.append(f"{len(found)} sources without a verified signature in runs of {origin}")
    rows.append("next: millcert source sign, then millcert vet")
    emit({"version": 1, "origin": origin, "sources": listed}, "\n".join(rows), as_json=as_json)


def _run_line(record: "RunRecord") -> str:
    from millcert.provenance.erasure import tombstone_from

    body, tombstones = record.verdict.entry.body, [tombstone_from(one.entry) for one in record.erasures]
    is_whole = any(one.scope == "run" for one in tombstones)
    erased = "all" if is_whole else str(len({leaf for one in tombstones for leaf in one.leaves}))
    certificates = ", ".join(f"#{one.index}" for one in record.certificates) or "none"
    about = f"#{record.verdict.index:<6} {record.verdict.entry.recorded_at}  {record.roots.dataset}"
    after = f"  {erased} samples erased" if record.erasures else ""
    return f"{about}  {body.get('decision')}  certificate {certificates}{after}"


def _entry_line(logged: "LoggedEntry") -> str:
    return f"#{logged.index:<6} {logged.entry.recorded_at}  {logged.entry.kind:<14} {logged.entry.subject}"


def _run_payload(record: "RunRecord", ledger: "Ledger", *, proof: bool) -> dict[str, Any]:
    return {
        "run": record.roots.run_id,
        "dataset": record.roots.dataset,
        "decision": record.verdict.entry.body.get("decision"),
        "recorded_at": record.verdict.entry.recorded_at,
        "input_root": record.roots.input_root,
        "output_root": record.verdict.entry.body.get("output_root"),
        "certificates": [one.index for one in record.certificates],
        "erasures": [one.index for one in record.erasures],
        "entries": [_entry_payload(logged) for logged in record.entries],
        **_proofs(record.entries, ledger, proof=proof),
    }


def _entry_payload(logged: "LoggedEntry") -> dict[str, Any]:
    entry = logged.entry
    return {
        "index": logged.index,
        "kind": entry.kind,
        "subject": entry.subject,
        "recorded_at": entry.recorded_at,
        "body": dict(entry.body),
    }


def _proofs(entries: "Sequence[LoggedEntry]", ledger: "Ledger", *, proof: bool) -> dict[str, Any]:
    return {"proofs": {str(one.index): ledger.prove(one.index).decode() for one in entries}} if proof else {}
