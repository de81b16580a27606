"""`millcert override`: let through what the gate refused. One proposes, another approves, and it ends."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.acting import (
    act_out_option,
    as_of_now,
    key_option,
    name_of,
    next_line,
    reason_option,
    said_line,
    say,
    speaking,
)
from millcert.cli.files import read_bounded
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from millcert.cli.acting import Speaker
    from millcert.provenance.ledger import Ledger
    from millcert.provenance.override import OverrideState

#: Verdicts hold summaries: the largest that were seen have some 100 kB.
MAX_VERDICT_BYTES = 64 * 1024 * 1024


@click.group()
def override() -> None:
    """Let through what the gate refused: one person proposes, another approves, and it ends."""


@override.command()
@click.argument("verdict_path", metavar="VERDICT", type=click.Path(path_type=Path))
@click.option("--check", "checks", multiple=True, help="Lift this check's limit for this very input; may be repeated.")
@click.option(
    "--sample",
    "samples",
    multiple=True,
    help="With --check: do not hold back the sample with this digest (hex); may be repeated.",
)
@click.option("--whole-verdict", is_flag=True, help="Lift every reason of this verdict.")
@click.option("--days", type=click.IntRange(min=1), default=None, help="How long it counts.")
@click.option("--until", default=None, help="Until when it counts (RFC 3339 in UTC), in place of --days.")
@reason_option
@key_option
@act_out_option
@state_option
@json_option
def propose(
    verdict_path: Path,
    checks: tuple[str, ...],
    samples: tuple[str, ...],
    whole_verdict: bool,
    days: int | None,
    until: str | None,
    reason: str,
    key_path: Path,
    out: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Propose to override VERDICT, a published verdict.json: all of it, a check's limit, or samples of a check."""
    from millcert.provenance.named_sample import name_sample
    from millcert.provenance.override import Override, propose_act
    from millcert.provenance.sample_query import parse_digest
    from millcert.provenance.timestamp import instant, stamp

    if (days is None) == (until is None):
        raise UsageError("An override ends: give --days or --until.", hint="One of the two.")
    if whole_verdict == bool(checks):
        raise UsageError("Name what is overridden: --whole-verdict, or --check.", hint="One of the two.")
    with speaking(state, key_path, out) as speaker:
        verdict, digest = _read_verdict(verdict_path, speaker.ledger)
        _require_checks(verdict, checks)
        wanted = [parse_digest(one) for one in samples]
        ends = instant(until) if until is not None else speaker.now + timedelta(days=days or 0)
        proposed = Override(
            scope="verdict" if whole_verdict else "samples" if samples else "check",
            dataset=verdict["dataset"],
            verdict_digest=digest,
            input_root=verdict["input_root"],
            policy_digest=verdict["policy_digest"],
            reason=reason,
            expires_at=stamp(ends),
            checks=tuple(sorted(set(checks))),
            samples=tuple(sorted({name_sample(speaker.folder, one) for one in wanted})),
        )
        act = propose_act(proposed, ledger=speaker.ledger.origin, book=speaker.book, recorded_at=speaker.recorded_at)
        payload = say(speaker, [act], out)
    where = payload["indexes"][0] if payload["indexes"] else "INDEX"
    lines = [
        said_line(payload, _words(proposed)),
        f"  does not count before an approver, who is not {payload['by']}, approves it",
        next_line(payload, f"millcert override approve {where} --key KEY"),
    ]
    emit({**payload, "override": proposed.said()}, "\n".join(lines), as_json=as_json)


@override.command()
@click.argument("index", type=click.IntRange(min=0))
@key_option
@act_out_option
@state_option
@json_option
def approve(index: int, key_path: Path, out: Path | None, state: Path | None, as_json: bool) -> None:
    """Approve the override at ledger entry INDEX. Not for who proposed it, or signed the data."""
    from millcert.provenance.override import approve_act

    with speaking(state, key_path, out) as speaker:
        found = _override_at(speaker, index)
        _refuse_self_approval(speaker, found)
        payload = say(speaker, [approve_act(found, **speaker.about)], out)
    lines = [
        said_line(payload, _words(found.override)),
        f"  counts until {found.override.expires_at}",
        next_line(payload, "millcert vet the data again; the verdict will name the override"),
    ]
    emit({**payload, "override": found.override.said()}, "\n".join(lines), as_json=as_json)


@override.command()
@click.argument("index", type=click.IntRange(min=0))
@reason_option
@key_option
@act_out_option
@state_option
@json_option
def withdraw(index: int, reason: str, key_path: Path, out: Path | None, state: Path | None, as_json: bool) -> None:
    """End the override at ledger entry INDEX; certificates that rest on it are admitted no more."""
    from millcert.provenance.override import withdraw_act

    with speaking(state, key_path, out) as speaker:
        found = _override_at(speaker, index)
        payload = say(speaker, [withdraw_act(found, reason=reason, **speaker.about)], out)
    text = f"{said_line(payload, _words(found.override))}\n{next_line(payload, 'millcert override list')}"
    emit({**payload, "override": found.override.said()}, text, as_json=as_json)


@override.command(name="list")
@click.option("--at", default=None, help="As of this time (RFC 3339 in UTC).  [default: now]")
@click.option("--proof", is_flag=True, help="With --json: add the proofs (C2SP tlog-proof) of proposal and approvals.")
@state_option
@json_option
def list_command(at: str | None, proof: bool, state: Path | None, as_json: bool) -> None:
    """List who overrode what, why, until when, who approved it, and whether it counts."""
    from millcert.provenance.override import list_overrides
    from millcert.provenance.standing import read_standing

    now = as_of_now(at)
    _, ledger = opened(state)
    with ledger:
        standing = read_standing(ledger)
        found = list_overrides(standing, now)
        places = {one.leaf: one.logged.index for one in standing.judged}
        listed = [
            {
                **one.override.said(),
                "index": one.index,
                "leaf": one.leaf,
                "proposed_at": one.proposed_at,
                "proposed_by": one.proposer,
                "approved_by": list(one.approvers),
                "state": one.state,
                "message": one.message,
                **(_proofs(ledger, [one.index, *(places[leaf] for leaf in one.approvals)]) if proof else {}),
            }
            for one in found
        ]
        origin = ledger.origin
    lines = [
        f"#{one.index:<6} {one.state.upper():<13} {_words(one.override)} until {one.override.expires_at}  "
        f"by {one.proposer}: {one.override.reason}  ({one.message})"
        for one in found
    ]
    lines += [f"{len(found)} overrides of {origin}", "next: millcert override approve INDEX --key KEY"]
    payload = {"version": 1, "origin": origin, "overrides": listed}
    emit(payload, "\n".join(lines), as_json=as_json)


def _proofs(ledger: "Ledger", indexes: list[int]) -> dict[str, Any]:
    return {"proofs": {str(index): ledger.prove(index).decode() for index in indexes}}


def _read_verdict(path: Path, ledger: "Ledger") -> tuple[dict[str, Any], str]:
    """Return a verdict and its digest, if the ledger says that the gate gave it."""
    import hashlib

    from millcert.provenance.strict_json import parse_json_object, require_fields

    data = read_bounded(path, MAX_VERDICT_BYTES, what="verdict", hint="Give the verdict.json that was published.")
    digest = hashlib.sha256(data).hexdigest()
    verdict = parse_json_object(data, what="verdict", max_bytes=MAX_VERDICT_BYTES)
    needed = {"dataset": str, "decision": str, "input_root": str, "policy_digest": str, "checks": list}
    require_fields({name: verdict[name] for name in needed if name in verdict}, needed, what="verdict")
    logged = ledger.find(kind="verdict", subject=verdict["input_root"], limit=ledger.size + 1)
    if not any(one.entry.body.get("verdict_digest") == digest for one in logged):
        raise IntegrityError(
            f"The verdict {path} ({digest[:16]}) is not one that this ledger has.",
            hint="Give the verdict.json as it was published, and the --state folder of the gate that published it.",
            actual=digest,
        )
    return verdict, digest


def _require_checks(verdict: dict[str, Any], checks: tuple[str, ...]) -> None:
    known = {str(one.get("name")) for one in verdict["checks"] if isinstance(one, dict)}
    if unknown := sorted(set(checks) - known):
        raise UsageError(
            f"The verdict has no check {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}.",
            hint="An override names a check of the verdict.",
        )


def _override_at(speaker: "Speaker", index: int) -> "OverrideState":
    from millcert.provenance.override import list_overrides

    found = next((one for one in list_overrides(speaker.standing, speaker.now) if one.index == index), None)
    if found is None:
        raise UsageError(f"There is no override at #{index}.", hint="List them: millcert override list")
    if found.state in {"expired", "withdrawn", "too_long"}:
        raise UsageError(
            f"The override at #{index} is over: {found.message}.", hint="Propose another one.", reason=found.state
        )
    return found


def _refuse_self_approval(speaker: "Speaker", found: "OverrideState") -> None:
    from millcert.provenance.questions import list_records

    name = name_of(speaker)
    person = next((one for one in speaker.book.people if one.name == name), None)
    aliases = frozenset() if person is None else person.aliases
    if name == found.proposer:
        raise UsageError(
            f"{name} proposed this override and cannot approve it.",
            hint="Another approver, with another key, has to.",
            reason="self_approved",
        )
    for record in list_records(speaker.ledger):
        if record.roots.input_root == found.override.input_root:
            signers = {str(one.entry.body.get("identity") or "") for one in record.sources}
            if mine := sorted(aliases & signers):
                raise UsageError(
                    f"{name} signed the data ({mine[0]}) and cannot approve an override about it.",
                    hint="Another approver has to: who submits does not approve.",
                    reason="self_approved",
                )


def _words(wanted: Any) -> str:
    if wanted.scope == "verdict":
        return f"the verdict {wanted.verdict_digest[:16]} on {wanted.dataset}"
    what = f"check {', '.join(wanted.checks)}"
    samples = f"{len(wanted.samples)} samples of " if wanted.scope == "samples" else ""
    return f"{samples}{what} on {wanted.dataset}"
