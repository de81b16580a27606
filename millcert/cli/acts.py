"""`millcert ledger acts`, `submit`, `declare-use`: what people said in the ledger, and saying it."""

from pathlib import Path

import click

from millcert.cli.acting import (
    act_out_option,
    judged_line,
    judged_payload,
    key_option,
    log_or_write,
    next_line,
    said_line,
    say,
    speaking,
)
from millcert.cli.files import read_bounded
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError


@click.command()
@click.option("--kind", default=None, help="Only this kind, such as revocation.")
@click.option("--ignored", is_flag=True, help="Only those that do not count.")
@click.option("--proof", is_flag=True, help="With --json: add each entry's proof (C2SP tlog-proof).")
@state_option
@json_option
def acts(kind: str | None, ignored: bool, proof: bool, state: Path | None, as_json: bool) -> None:
    """List what people said, by whom, under which roles, and whether it counts."""
    from millcert.provenance.standing import read_standing

    _, ledger = opened(state)
    with ledger:
        standing = read_standing(ledger)
        chosen = [
            one for one in standing.judged if kind in (None, one.logged.entry.kind) and not (ignored and one.counts)
        ]
        listed = [
            {
                **judged_payload(one),
                **({"proof": ledger.prove(one.logged.index).decode()} if proof else {}),
            }
            for one in chosen
        ]
    roles = "none" if standing.book is None else standing.book.sha256
    lines = [judged_line(one) for one in chosen]
    lines += [f"{len(chosen)} acts of {standing.origin}; roles in force: {roles}", "next: millcert ledger show INDEX"]
    payload = {
        "version": 1,
        "origin": standing.origin,
        "size": standing.size,
        "roles_sha256": None if standing.book is None else standing.book.sha256,
        "acts": listed,
    }
    emit(payload, "\n".join(lines), as_json=as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@state_option
@json_option
def submit(file: Path, state: Path | None, as_json: bool) -> None:
    """Log a signed act from FILE (`--out` of another command). Refused if it would not count."""
    from millcert.provenance.act import read_signed
    from millcert.provenance.ledger import LoggedEntry
    from millcert.provenance.ledger_entry import MAX_LEAF_BYTES
    from millcert.provenance.standing import judge_acts, read_standing

    entry = read_signed(read_bounded(file, MAX_LEAF_BYTES, what="signed act", hint="Check the path."))
    _, ledger = opened(state, for_appending=True)
    with ledger:
        standing = read_standing(ledger)
        known = [one.logged for one in standing.judged]
        trial = LoggedEntry(standing.size, bytes(32), entry)
        judged = judge_acts([*known, trial], ledger.origin, standing.size + 1).judged[-1]
        if not judged.counts:
            raise UsageError(
                f"The act would not count: {judged.message}.",
                hint="Nothing was logged. Have it signed again, by somebody with the role, under the roles in force.",
                reason=judged.fault,
            )
        by = "" if judged.person is None else judged.person.name
        payload = log_or_write(ledger, [entry], None, by=by)
    text = f"{said_line(payload, entry.subject)}\n{next_line(payload, 'millcert ledger acts')}"
    emit(payload, text, as_json=as_json)


@click.command("declare-use")
@click.option("--model", required=True, help="The model's name.")
@click.option("--model-digest", required=True, help="SHA-256 of the model, as its owner names it, hex.")
@click.option(
    "--certificate",
    "certificate_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Certificate of the data set that it was trained on.",
)
@key_option
@act_out_option
@state_option
@json_option
def declare_use(
    model: str,
    model_digest: str,
    certificate_path: Path,
    key_path: Path,
    out: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Say that a model was trained on a certified data set, so that a revocation finds the model."""
    from millcert.cli.certified import read_certificate
    from millcert.provenance.declared_use import DeclaredUse, use_act

    with speaking(state, key_path, out) as speaker:
        certificate = read_certificate(certificate_path, speaker.folder, speaker.ledger)
        leaf = speaker.ledger.get(certificate.index).leaf_hash.hex()
        use = DeclaredUse(model, model_digest, leaf, certificate.manifest.name, certificate.manifest.root)
        payload = say(speaker, [use_act(use, **speaker.about)], out)
    words = f"{model} was trained on {use.dataset} ({use.manifest_root[:16]})"
    text = f"{said_line(payload, words)}\n{next_line(payload, 'millcert ledger impact --source NAME')}"
    emit({**payload, "certificate": leaf, "dataset": use.dataset}, text, as_json=as_json)
