"""`millcert ledger export`, `import`, `compare`: the ledger as C2SP tiles, mirrors of it, and split views."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millcert.cli.files import read_bounded
from millcert.cli.ledger_anchor import anchored_line
from millcert.cli.opened import chosen_ledger, opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from millcert.provenance.anchor import Anchor
    from millcert.provenance.checkpoint import VerifierKey
    from millcert.provenance.equivocation import LogView

_KEY_HELP = "The ledger's public key (name+hash+key); may be repeated."


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--drop-superseded", is_flag=True, help="Remove partial tiles whose whole ones are there now.")
@state_option
@json_option
def export(folder: Path, drop_superseded: bool, state: Path | None, as_json: bool) -> None:
    """Write the ledger to FOLDER as static files (C2SP tlog-tiles), which any web server can publish.

    A second export into the same folder adds what is new. The checkpoint is replaced last: readers never see half a
    ledger.
    """
    from millcert.provenance.tile_export import export_tiles
    from millcert.provenance.witnessing import cosigned_path, kept_checkpoint

    home, held = opened(state)
    with held:
        kept = kept_checkpoint(held, cosigned_path(home.ledger), at_least=0)
        done = export_tiles(held, folder, drop_superseded=drop_superseded, cosigned=kept)
    before = "a new folder" if done.previous_size is None else f"{done.previous_size:,} entries before"
    lines = (
        f"exported  {done.origin}  {done.size:,} entries ({before}), {done.written:,} files written to {folder}",
        *([f"  {done.removed:,} superseded files removed"] if done.removed else []),
        f"  next: publish {folder}, then: millcert ledger verify --tiles {folder} --key ledger.vkey",
    )
    payload = {
        "version": 1,
        "origin": done.origin,
        "size": done.size,
        "previous_size": done.previous_size,
        "written": done.written,
        "removed": done.removed,
    }
    emit(payload, "\n".join(lines), as_json=as_json)


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--key", "keys", type=click.Path(path_type=Path), multiple=True, help=_KEY_HELP)
@state_option
@json_option
def import_(folder: Path, keys: tuple[Path, ...], state: Path | None, as_json: bool) -> None:
    """Make or bring forward a mirror of the ledger in --state from the tiles in FOLDER.

    A mirror answers, proves and audits like the ledger itself, and can never append. The first import needs --key, from
    somewhere that you trust; later ones use the key that the mirror keeps.
    """
    from millcert.provenance.mirror import import_tiles
    from millcert.provenance.state import load_ledger_vkeys, state_folder
    from millcert.provenance.tile_folder import TileFolder

    mirror = state_folder(state)
    if not keys and not mirror.ledger_vkey.exists():
        raise UsageError(
            "A new mirror needs the ledger's public key; none is taken from the folder.", hint="Give --key FILE."
        )
    vkeys = load_ledger_vkeys(keys or [mirror.ledger_vkey])
    done = import_tiles(TileFolder(folder), mirror, vkeys, url=chosen_ledger())
    before = "new mirror" if done.previous_size is None else f"{done.previous_size:,} entries before"
    text = (
        f"imported  {done.origin}  {done.size:,} entries ({before})\n"
        f"  next: millcert ledger verify --state {mirror.path}   or   millcert ledger find --state {mirror.path}"
    )
    payload = {"version": 1, "origin": done.origin, "size": done.size, "previous_size": done.previous_size}
    emit(payload, text, as_json=as_json)


@click.command("compare", epilog="Exit codes: 0 one history, 3 two histories or not signed, 4 cannot be compared here.")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--tiles", type=click.Path(path_type=Path, file_okay=False), default=None, help="The log, as tiles.")
@click.option("--key", "keys", type=click.Path(path_type=Path), multiple=True, help=_KEY_HELP)
@state_option
@json_option
def compare(
    first: Path, second: Path, tiles: Path | None, keys: tuple[Path, ...], state: Path | None, as_json: bool
) -> None:
    """Say whether one history holds the signed checkpoints FIRST and SECOND, kept by two parties.

    Where their sizes differ, the log is needed: the ledger in --state, or --tiles. Two checkpoints of one size with two
    roots prove that the log showed two histories.
    """
    from millcert.provenance.equivocation import compare_checkpoints
    from millcert.provenance.state import load_ledger_vkeys, state_folder

    folder = state_folder(state)
    vkeys = load_ledger_vkeys(keys or [folder.ledger_vkey])
    first_note, second_note = _checkpoint(first), _checkpoint(second)
    with _view(tiles, state, vkeys, has_ledger=chosen_ledger() is not None or folder.ledger.exists()) as view:
        found = compare_checkpoints(first_note, second_note, vkeys, view)
    from millcert.provenance.checkpoint import encode_base64

    text = (
        f"one history  {found.newer.origin}  {found.older.size:,} entries, then {found.newer.size:,}\n"
        f"  next: keep the checkpoint of {found.newer.size:,} entries; it stands for both"
    )
    payload = {
        "version": 1,
        "origin": found.newer.origin,
        "sizes": [found.older.size, found.newer.size],
        "roots": [found.older.root.hex(), found.newer.root.hex()],
        "proof": [encode_base64(one) for one in found.proof],
    }
    emit(payload, text, as_json=as_json)


def verify_tiles(
    tiles: Path, keys: tuple[Path, ...], seen: bytes | None, anchored: "Anchor | None", *, as_json: bool
) -> None:
    """Recompute a log that lies in a folder and print what it is: what `ledger verify --tiles` does."""
    from millcert.provenance.state import load_ledger_vkeys
    from millcert.provenance.tile_audit import audit_tiles
    from millcert.provenance.tile_folder import TileFolder

    if not keys:
        raise UsageError("--tiles needs the log's public key; none is taken from the folder.", hint="Give --key FILE.")
    report = audit_tiles(TileFolder(tiles), load_ledger_vkeys(keys), [] if seen is None else [seen])
    checkpoint = report.checkpoint
    compared = ", ".join(str(size) for size in report.compared_sizes)
    lines = (
        f"whole  {checkpoint.origin}  {checkpoint.size:,} entries, {report.bundles:,} bundles, {report.tiles:,} tiles",
        f"  root: {checkpoint.root.hex()}",
        f"  extends the checkpoints seen before: {compared}" if compared else "  no checkpoint was seen before",
        *([] if anchored is None else [anchored_line(anchored)]),
        "  next: keep its checkpoint; later: millcert ledger verify --tiles DIR --key FILE --checkpoint COPY",
    )
    payload = {
        "version": 1,
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "checkpoint": report.note.decode(),
        "tiles": report.tiles,
        "bundles": report.bundles,
        "compared_sizes": list(report.compared_sizes),
        "anchored_at": None if anchored is None else anchored.anchored_at.isoformat(),
    }
    emit(payload, "\n".join(lines), as_json=as_json)


@contextmanager
def _view(
    tiles: Path | None, state: Path | None, vkeys: "Sequence[VerifierKey]", *, has_ledger: bool
) -> "Iterator[LogView | None]":
    from millcert.provenance.checkpoint import verify_checkpoint
    from millcert.provenance.equivocation import LogView
    from millcert.provenance.ledger_audit import require_newest
    from millcert.provenance.tile_folder import TileFolder
    from millcert.provenance.tiles import node_reader

    if tiles is not None:
        folder = TileFolder(tiles)
        checkpoint = verify_checkpoint(folder.checkpoint(), vkeys)
        yield LogView(checkpoint, node_reader(folder.tile_reader(checkpoint.size)))
    elif has_ledger:
        with opened(state)[1] as held, held.reading() as snapshot:
            checkpoint = require_newest(snapshot, held.origin, held.vkeys)
            yield LogView(checkpoint, node_reader(snapshot.tile))
    else:
        yield None


def _checkpoint(path: Path) -> bytes:
    from millcert.provenance.checkpoint import MAX_NOTE_BYTES

    return read_bounded(path, MAX_NOTE_BYTES, what="checkpoint", hint="Check FIRST and SECOND.")
