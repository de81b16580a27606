"""`millcert witness`: make, run and look into a witness of ledgers (C2SP tlog-witness)."""

import sys
from pathlib import Path

import click

from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

_ALGORITHMS = {"ed25519": 0x04, "ml-dsa-44": 0x06}


@click.group()
def witness() -> None:
    """Watch ledgers of others: cosign what only grows, refuse a rollback or a fork."""


@witness.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="The witness's name: a URL without its scheme, such as witness.example/w1.")
@click.option(
    "--algorithm",
    "algorithms",
    type=click.Choice(list(_ALGORITHMS)),
    multiple=True,
    help="Of its keys; may be repeated.  [default: both]",
)
@json_option
def init(folder: Path, name: str, algorithms: tuple[str, ...], as_json: bool) -> None:
    """Make a witness in FOLDER and print its public keys."""
    from millcert.provenance.cosignature import format_witness_vkey
    from millcert.provenance.witness_folder import VKEY_NAME, create_witness

    made = create_witness(folder, name, [_ALGORITHMS[one] for one in algorithms or _ALGORITHMS])
    vkeys = [format_witness_vkey(key) for key in made]
    vkey_file = folder / VKEY_NAME
    hint = f"next: give {vkey_file} to who verifies, then: millcert witness serve {folder} --log THEIR-ledger.vkey"
    text = "\n".join((*vkeys, hint))
    emit({"version": 1, "name": name, "vkeys": vkeys}, text, as_json=as_json)


@witness.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--log",
    "logs",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Public keys (name+hash+key) of ledgers to cosign; may be repeated.",
)
@click.option("--listen", default="127.0.0.1:8765", show_default=True, help="HOST:PORT; a port of 0 takes a free one.")
@click.option("--quiet", is_flag=True, help="No line for each request on standard error.")
def serve(folder: Path, logs: tuple[Path, ...], listen: str, quiet: bool) -> None:
    """Answer `add-checkpoint` over HTTP until interrupted.

    By itself it speaks plain HTTP and listens on loopback; put a reverse proxy with TLS in front of it.
    """
    from millcert.provenance.state import load_ledger_vkeys
    from millcert.provenance.witness_folder import open_witness
    from millcert.provenance.witness_server import WitnessServer

    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit():
        raise UsageError(f"Expected HOST:PORT, got {listen!r}.", hint="Such as --listen 127.0.0.1:8765.")
    known = load_ledger_vkeys(logs)
    by_origin = {key.name: [one for one in known if one.name == key.name] for key in known}
    opened = open_witness(folder, by_origin)

    def tell(line: str) -> None:
        if not quiet:
            sys.stderr.write(f"{line}\n")

    with WitnessServer(opened, (host, int(port)), log=tell) as server:
        click.echo(f"{opened.name}  {server.url}  {len(by_origin)} ledgers: {', '.join(sorted(by_origin))}")
        click.echo(f"  next: name {server.url} under `ledger.witnesses` of a policy; interrupt to stop")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)


@witness.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Print the last checkpoint of each ledger, and every proof of a lying one."""
    from millcert.provenance.witness import WitnessState
    from millcert.provenance.witness_folder import STATE_NAME, VKEY_NAME, read_witness_vkeys

    name = read_witness_vkeys(folder / VKEY_NAME)[0].name
    has_state = (folder / STATE_NAME).exists()
    state = WitnessState(folder / STATE_NAME) if has_state else None
    seen = state.seen() if state is not None else []
    conflicts = state.conflicts() if state is not None else []
    lines = [
        f"{name}  {len(seen)} ledgers",
        *(
            f"  {one.checkpoint.origin}  {one.checkpoint.size:,} entries, root {one.checkpoint.root.hex()}"
            for one in seen
        ),
        *(
            f"  LYING {one.origin}: two roots at {one.size:,} entries; see --json for both checkpoints"
            for one in conflicts
        ),
        "next: " + ("send both checkpoints to who relies on it" if conflicts else f"millcert witness serve {folder}"),
    ]
    payload = {
        "version": 1,
        "name": name,
        "logs": [
            {
                "origin": one.checkpoint.origin,
                "size": one.checkpoint.size,
                "root": one.checkpoint.root.hex(),
                "checkpoint": one.note.decode(),
            }
            for one in seen
        ],
        "conflicts": [
            {"origin": one.origin, "size": one.size, "checkpoints": [one.kept.decode(), one.note.decode()]}
            for one in conflicts
        ],
    }
    emit(payload, "\n".join(lines), as_json=as_json)
