"""`millcert revoke`: take back what is trusted no more; `admit` and `vet` refuse all that it touches."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from millcert.cli.acting import act_out_option, key_option, name_of, next_line, reason_option, said_line, say, speaking
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.cli.acting import Speaker
    from millcert.provenance.blast_radius import BlastRadius
    from millcert.provenance.revocation import Revocation

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def revoke() -> None:
    """Take back what is trusted no more: a source, signer, file, sample or data set."""


def _act_options(command: F) -> F:
    for option in (json_option, state_option, act_out_option, key_option, reason_option):
        command = option(command)
    return command


_SINCE = click.option(
    "--since", default="", help="Only what was verified at or after this time (RFC 3339 in UTC).  [default: all]"
)


@revoke.command()
@click.argument("name")
@_SINCE
@_act_options
def source(
    name: str, since: str, reason: str, key_path: Path, out: Path | None, state: Path | None, as_json: bool
) -> None:
    """Revoke the source called NAME in the policy."""
    from millcert.provenance.questions import Suspect
    from millcert.provenance.revocation import Revocation

    with speaking(state, key_path, out) as speaker:
        wanted = [Revocation("source", name, reason, since=since)]
        _answer(speaker, wanted, _radius(speaker, Suspect(source=name)), out, as_json=as_json)


@revoke.command()
@click.argument("identity")
@click.option("--issuer", default="", help="Only as vouched for by this OIDC issuer.  [default: any]")
@_SINCE
@_act_options
def signer(
    identity: str,
    issuer: str,
    since: str,
    reason: str,
    key_path: Path,
    out: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Revoke what IDENTITY signed: an address, a URI, or key:sha256:..., as verdicts name it."""
    from millcert.provenance.questions import Suspect
    from millcert.provenance.revocation import Revocation

    with speaking(state, key_path, out) as speaker:
        wanted = [Revocation("signer", identity, reason, issuer=issuer, since=since)]
        _answer(speaker, wanted, _radius(speaker, Suspect(identity=identity)), out, as_json=as_json)


@revoke.command()
@click.argument("sha256")
@_act_options
def file(sha256: str, reason: str, key_path: Path, out: Path | None, state: Path | None, as_json: bool) -> None:
    """Revoke the file with this SHA-256 (hex), wherever it went."""
    from millcert.provenance.questions import Suspect

    with speaking(state, key_path, out) as speaker:
        radius = _radius(speaker, Suspect(sha256=sha256))
        _answer(speaker, _split("file", sha256, reason, radius), radius, out, as_json=as_json)


@revoke.command()
@click.option("--digest", required=True, help="The sample's digest in hex, as findings name it.")
@_act_options
def sample(digest: str, reason: str, key_path: Path, out: Path | None, state: Path | None, as_json: bool) -> None:
    """Revoke one sample in every run. The ledger gets a salted commitment; the digest stays in the state folder."""
    from millcert.provenance.blast_radius import radius_of
    from millcert.provenance.lookup import list_runs
    from millcert.provenance.named_sample import name_sample
    from millcert.provenance.questions import list_records
    from millcert.provenance.sample_query import ask_runs, parse_digest

    with speaking(state, key_path, out) as speaker:
        wanted = parse_digest(digest)
        answers = list(ask_runs(speaker.folder, list_runs(speaker.ledger), wanted))
        # Where nobody can tell, the sample may have been there.
        runs = {answer.logged.index for answer in answers if not answer.is_absent}
        touched = [record for record in list_records(speaker.ledger) if record.logged.index in runs]
        radius = radius_of(touched, speaker.standing)
        commitment = name_sample(speaker.folder, wanted)
        _answer(speaker, _split("sample", commitment, reason, radius), radius, out, as_json=as_json)


@revoke.command()
@click.argument("certificate", type=click.Path(path_type=Path))
@_act_options
def dataset(
    certificate: Path, reason: str, key_path: Path, out: Path | None, state: Path | None, as_json: bool
) -> None:
    """Revoke the data set that a CERTIFICATE file is about."""
    from millcert.cli.certified import read_certificate
    from millcert.provenance.blast_radius import radius_of
    from millcert.provenance.questions import list_records
    from millcert.provenance.revocation import Revocation

    with speaking(state, key_path, out) as speaker:
        known = read_certificate(certificate, speaker.folder, speaker.ledger)
        touched = [
            record
            for record in list_records(speaker.ledger)
            if any(one.entry.subject == known.manifest.root for one in record.certificates)
        ]
        wanted = [Revocation("dataset", known.manifest.root, reason)]
        _answer(speaker, wanted, radius_of(touched, speaker.standing), out, as_json=as_json)


@revoke.command()
@click.argument("index", type=click.IntRange(min=0))
@_act_options
def lift(index: int, reason: str, key_path: Path, out: Path | None, state: Path | None, as_json: bool) -> None:
    """Lift the revocation at ledger entry INDEX. An approver's act."""
    from millcert.provenance.revocation import active_revocations, is_own, reinstatement_act

    with speaking(state, key_path, out) as speaker:
        found = next((one for one in active_revocations(speaker.standing) if one.index == index), None)
        if found is None:
            raise UsageError(f"No revocation at #{index} is in force.", hint="List them: millcert revoke list")
        name = name_of(speaker)
        if is_own(found, next((one for one in speaker.book.people if one.name == name), None)):
            raise UsageError(
                f"The revocation at #{index} is of what {name} signs; who submits does not let it in again.",
                hint="Another approver has to.",
                reason="own_revocation",
            )
        payload = say(speaker, [reinstatement_act(found, reason=reason, **speaker.about)], out)
    text = f"{said_line(payload, found.subject)}\n{next_line(payload, 'millcert ledger revocations export --out FILE')}"
    emit(payload, text, as_json=as_json)


@revoke.command(name="list")
@click.option("--all", "show_all", is_flag=True, help="Also those that were lifted.")
@state_option
@json_option
def list_command(show_all: bool, state: Path | None, as_json: bool) -> None:
    """List the revocations in force: what, by whom, when, why."""
    from millcert.provenance.revocation import all_revocations
    from millcert.provenance.standing import read_standing

    _, ledger = opened(state)
    with ledger:
        standing = read_standing(ledger)
    shown = [(one, end) for one, end in all_revocations(standing) if show_all or end is None]
    lines, listed = [], []
    for one, end in shown:
        lifted = "" if end is None else f"  lifted at {end.logged.entry.recorded_at}"
        lines.append(f"#{one.index:<6} {one.recorded_at}  {one.subject}  by {one.by}: {one.reason}{lifted}")
        about = {"index": one.index, "leaf": one.leaf, "recorded_at": one.recorded_at, "by": one.by}
        listed.append({**one.said(), **about, "lifted_at": None if end is None else end.logged.entry.recorded_at})
    lines += [f"{len(shown)} revocations of {standing.origin}", "next: millcert ledger revocations export --out FILE"]
    emit({"version": 1, "origin": standing.origin, "revocations": listed}, "\n".join(lines), as_json=as_json)


def _radius(speaker: "Speaker", suspect: Any) -> "BlastRadius":
    from millcert.provenance.blast_radius import blast_radius

    return blast_radius(speaker.ledger, speaker.folder, suspect, speaker.standing)


def _split(target: Any, value: str, reason: str, radius: "BlastRadius") -> "list[Revocation]":
    """Return revocations that together name every input; one where there is none."""
    from millcert.provenance.revocation import MAX_INPUTS, Revocation

    roots = radius.input_roots
    parts = [roots[start : start + MAX_INPUTS] for start in range(0, len(roots), MAX_INPUTS)] or [()]
    return [Revocation(target, value, reason, inputs=part) for part in parts]


def _answer(
    speaker: "Speaker", wanted: "list[Revocation]", radius: "BlastRadius", out: Path | None, *, as_json: bool
) -> None:
    from millcert.provenance.revocation import revocation_act

    payload = say(speaker, [revocation_act(one, **speaker.about) for one in wanted], out)
    models = sorted({use.model for use, _, _ in radius.models})
    counts = f"{len(radius.runs)} runs, {len(radius.datasets)} data sets, {len(radius.certificates)} certificates"
    lines = [said_line(payload, wanted[0].subject), f"  touches {counts}, {len(models)} models that declared use"]
    lines += [f"  data set {name}" for name in radius.datasets]
    lines += [f"  model {name}" for name in models]
    lines.append(next_line(payload, "millcert ledger revocations export --out FILE, for machines without the ledger"))
    payload |= {
        "runs": [run.roots.run_id for run in radius.runs],
        "datasets": list(radius.datasets),
        "certificates": list(radius.certificates),
        "models": models,
    }
    emit(payload, "\n".join(lines), as_json=as_json)
