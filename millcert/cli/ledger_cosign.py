"""`millcert ledger cosign`: have the witnesses of a policy cosign the ledger's newest checkpoint."""

from pathlib import Path

import click

from millcert.cli.files import write_new
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError


@click.command(
    "cosign", epilog="Exit codes: 0 cosigned, 3 a witness has another history, 5 too few witnesses answered."
)
@click.option("--policy", "policy_path", required=True, type=click.Path(path_type=Path), help="It names the witnesses.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Write the cosigned checkpoint to a new file."
)
@state_option
@json_option
def cosign(policy_path: Path, out: Path | None, state: Path | None, as_json: bool) -> None:
    """Ask the policy's witnesses to cosign the newest checkpoint, and keep it.

    `millcert vet` does so after each run. Do it before an export or evidence, where entries were added since.
    """
    from millcert.policy import load_policy
    from millcert.provenance.checkpoint import parse_checkpoint, parse_note
    from millcert.provenance.cosignature import require_witnesses
    from millcert.provenance.witnessing import cosigned_checkpoint, cosigned_path

    witnessing = load_policy(policy_path).policy.ledger.witnessing()
    if witnessing is None:
        raise UsageError(
            f"The policy {policy_path} names no witnesses.",
            hint="Name them under `ledger.witnesses`, and `witnesses_required`; see docs/policy.md.",
        )
    folder, held = opened(state)
    with held:
        note = cosigned_checkpoint(held, witnessing, cosigned_path(folder.ledger))
        origin = held.origin
    if out is not None:
        write_new(out, note)
    checkpoint = parse_checkpoint(parse_note(note).text)
    names = sorted({one.witness for one in require_witnesses(note, witnessing.rule)})
    text = (
        f"cosigned  {origin}  {checkpoint.size:,} entries, by {', '.join(names)}\n"
        f"  next: {f'keep {out}' if out is not None else 'millcert ledger export DIR'}"
    )
    payload = {
        "version": 1,
        "origin": origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "witnesses": names,
        "checkpoint": note.decode(),
    }
    emit(payload, text, as_json=as_json)
