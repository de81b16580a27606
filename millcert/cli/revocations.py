"""`millcert ledger revocations`: the signed list for machines that train without the ledger."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from millcert.cli.files import read_bounded, write_new
from millcert.cli.opened import opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError


@click.group()
def revocations() -> None:
    """Make and read revocation lists, for machines that train without the ledger."""


@revocations.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The list's new file.")
@click.option(
    "--valid-hours",
    type=click.IntRange(1, 240),
    default=168,
    show_default=True,
    help="How long it counts; at most ten days.",
)
@state_option
@json_option
def export(out: Path, valid_hours: int, state: Path | None, as_json: bool) -> None:
    """Write what is revoked now, signed by the gate's key, with an end."""
    from millcert.provenance.keys import load_key
    from millcert.provenance.revocation_list import export_list, verify_list

    folder, ledger = opened(state)
    gate = load_key(folder.path / "keys" / "gate.key")
    now = datetime.now(UTC)
    with ledger:
        data = export_list(ledger, gate, now=now, valid=timedelta(hours=valid_hours))
        found = verify_list(data, gate_keys=[gate.public_key()], ledger_vkeys=ledger.vkeys, now=now)
    write_new(out, data)
    text = (
        f"revocations  {found.checkpoint.origin}  {len(found.revocations)} in force, {len(found.withdrawn)} overrides "
        f"withdrawn\n  counts until {found.expires_at}: {out}\n"
        f"next: copy it to the machine that trains: millcert admit DATA --revocations {out.name}"
    )
    payload = {
        "version": 1,
        "path": str(out),
        "origin": found.checkpoint.origin,
        "size": found.checkpoint.size,
        "issued_at": found.issued_at,
        "expires_at": found.expires_at,
        "revocations": len(found.revocations),
        "withdrawn": len(found.withdrawn),
    }
    emit(payload, text, as_json=as_json)


@revocations.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--gate-key", "gate_key_path", type=click.Path(path_type=Path), required=True, help="The gate's key.")
@click.option("--ledger-key", "vkey_path", type=click.Path(path_type=Path), required=True, help="The ledger's key.")
@json_option
def show(file: Path, gate_key_path: Path, vkey_path: Path, as_json: bool) -> None:
    """Verify the list in FILE, offline, and show what it takes back."""
    from millcert.provenance.revocation_list import MAX_LIST_BYTES, verify_list
    from millcert.provenance.state import load_gate_keys, load_ledger_vkeys

    data = read_bounded(file, 2 * MAX_LIST_BYTES, what="revocation list", hint="Check the path.")
    if not data:
        raise UsageError(f"{file} is empty.", hint="Export it again.")
    found = verify_list(
        data,
        gate_keys=load_gate_keys([gate_key_path]),
        ledger_vkeys=load_ledger_vkeys([vkey_path]),
        now=datetime.now(UTC),
    )
    lines = [f"#{one.index:<6} {one.recorded_at}  {one.subject}: {one.reason}" for one in found.revocations]
    lines.append(f"{len(lines)} revocations of {found.checkpoint.origin}, counting until {found.expires_at}")
    lines.append("next: millcert admit DATA --revocations FILE")
    payload = {
        "version": 1,
        "origin": found.checkpoint.origin,
        "issued_at": found.issued_at,
        "expires_at": found.expires_at,
        "roles_sha256": found.roles_sha256,
        "revocations": [
            {**one.said(), "index": one.index, "leaf": one.leaf, "recorded_at": one.recorded_at, "by": one.by}
            for one in found.revocations
        ],
        "withdrawn": sorted(found.withdrawn),
    }
    emit(payload, "\n".join(lines), as_json=as_json)
