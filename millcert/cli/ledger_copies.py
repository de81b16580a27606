"""`millcert ledger backup`, `restore` and `compact`: copies of a ledger, and the room that it takes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from millcert.cli.opened import chosen_ledger, state_option
from millcert.cli.output import emit, json_option

if TYPE_CHECKING:
    from millcert.provenance.ledger import LedgerReport


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@state_option
@json_option
def backup(out: Path, state: Path | None, as_json: bool) -> None:
    """Write the ledger of this moment to the new SQLite file OUT, whichever database it is in, and audit the file.

    Appends go on meanwhile. Keys are not in it: keep a copy of the state folder's keys apart from the backups.
    """
    from millcert.provenance.ledger_backup import back_up
    from millcert.provenance.state import load_ledger_vkeys, state_folder

    folder = state_folder(state)
    report = back_up(folder.ledger, chosen_ledger(), out, vkeys=load_ledger_vkeys([folder.ledger_vkey]))
    _told("backed up", report, out, f"millcert ledger verify --ledger {out}", as_json=as_json)


@click.command()
@click.argument("source", metavar="BACKUP", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path),
    default=None,
    help="The ledger's public key.  [default: ledger.vkey in the state folder]",
)
@state_option
@json_option
def restore(source: Path, key_path: Path | None, state: Path | None, as_json: bool) -> None:
    """Fill a database that holds no ledger from BACKUP, after auditing it; --ledger names the database.

    A backup that lacks entries which this client saw signed is refused: going on from it would be a second history.
    """
    from millcert.provenance.ledger_backup import restore as fill
    from millcert.provenance.state import load_ledger_vkeys, state_folder

    folder = state_folder(state)
    report = fill(source, folder.ledger, chosen_ledger(), vkeys=load_ledger_vkeys([key_path or folder.ledger_vkey]))
    next_step = "millcert ledger verify --checkpoint COPY, with a checkpoint that was kept elsewhere"
    _told("restored", report, source, next_step, as_json=as_json)


@click.command()
@state_option
@json_option
def compact(state: Path | None, as_json: bool) -> None:
    """Give back room that no entry, tile or checkpoint uses. History is compared before and after, byte for byte."""
    from millcert.provenance.ledger_backup import compact as give_back
    from millcert.provenance.state import state_folder

    done = give_back(state_folder(state).ledger, chosen_ledger())
    text = (
        f"compacted  {done.before_bytes:,} to {done.after_bytes:,} bytes\n"
        f"  {done.size:,} entries, their tiles and checkpoints are what they were: {done.digest}\n"
        "  next: millcert ledger verify"
    )
    payload = {
        "version": 1,
        "before_bytes": done.before_bytes,
        "after_bytes": done.after_bytes,
        "size": done.size,
        "digest": done.digest,
    }
    emit(payload, text, as_json=as_json)


def _told(done: str, report: "LedgerReport", file: Path, next_step: str, *, as_json: bool) -> None:
    text = (
        f"{done}  {report.origin}  {report.size:,} entries, {report.checkpoints:,} signed checkpoints: {file}\n"
        f"  root: {report.root.hex()}\n"
        f"  next: {next_step}"
    )
    payload = {
        "version": 1,
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "checkpoints": report.checkpoints,
        "file": str(file),
    }
    emit(payload, text, as_json=as_json)
