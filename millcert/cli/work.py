"""`millcert work`: what is kept of earlier runs' work on files, and taking it away."""

import time
from pathlib import Path

import click

from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

_DAY_SECONDS = 86_400

_place_option = click.option("--work", "place", help="Where the work is kept.  [default: the state folder]")
_state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of keys and ledger.  [default: $MILLCERT_HOME or .millcert]",
)


@click.group()
def work() -> None:
    """Show, shrink and forget what `vet --incremental` keeps of the work on files (docs/resume.md)."""


@work.command()
@_place_option
@_state_option
@json_option
def show(place: str | None, state: Path | None, *, as_json: bool) -> None:
    """Say how much is kept, and since when it was not used."""
    from millcert.pipelines.work_gc import list_entries

    where = _place(place, state)
    entries = list_entries(where)
    size_bytes = sum(entry.size_bytes for entry in entries)
    oldest = _days(entries[0].used) if entries else 0.0
    text = (
        f"work  {where}  {len(entries):,} entries, {size_bytes:,} bytes"
        + (f"; the longest unused for {oldest:.1f} days" if entries else "")
        + f"\nnext: {'millcert work gc --older-than 30' if entries else 'millcert vet ... --incremental'}"
    )
    payload = {
        "version": 1,
        "work": where,
        "entries": len(entries),
        "size_bytes": size_bytes,
        "longest_unused_days": oldest,
    }
    emit(payload, text, as_json=as_json)


@work.command()
@_place_option
@click.option("--older-than", type=click.FloatRange(min=0), help="Days; what was not used since goes.")
@click.option("--max-bytes", type=click.IntRange(min=0), help="So much of the longest unused goes that this is left.")
@_state_option
@json_option
def gc(
    place: str | None, older_than: float | None, max_bytes: int | None, state: Path | None, *, as_json: bool
) -> None:
    """Delete what was not used for long, or is too much. A run that misses it does the work again."""
    from millcert.pipelines.work_gc import choose_garbage, delete_entries, list_entries

    if older_than is None and max_bytes is None:
        raise UsageError("Nothing says what may go.", hint="Give --older-than DAYS, --max-bytes BYTES, or both.")
    where = _place(place, state)
    entries = list_entries(where)
    before = None if older_than is None else time.time() - older_than * _DAY_SECONDS
    gone = choose_garbage(entries, used_before=before, max_bytes=max_bytes)
    delete_entries(gone)
    freed = sum(entry.size_bytes for entry in gone)
    left = sum(entry.size_bytes for entry in entries) - freed
    text = (
        f"work  {where}  deleted {len(gone):,} of {len(entries):,} entries, {freed:,} bytes; {left:,} bytes are left\n"
        "next: millcert work show"
    )
    payload = {
        "version": 1,
        "work": where,
        "deleted": len(gone),
        "kept": len(entries) - len(gone),
        "freed_bytes": freed,
        "size_bytes": left,
    }
    emit(payload, text, as_json=as_json)


@work.command()
@_state_option
@json_option
def forget(state: Path | None, *, as_json: bool) -> None:
    """Destroy the key: nothing that was kept, wherever it lies, can be read again."""
    from millcert.provenance.state import state_folder
    from millcert.provenance.work_key import forget_work

    folder = state_folder(state)
    forget_work(folder.path)
    text = (
        f"forgotten  {folder.path}: no work of earlier runs can be read any more\n"
        "next: millcert work gc --work URI --max-bytes 0 deletes what lies in other places"
    )
    emit({"version": 1, "state": str(folder.path), "forgotten": True}, text, as_json=as_json)


def _place(place: str | None, state: Path | None) -> str:
    from millcert.provenance.state import state_folder
    from millcert.provenance.work_key import FOLDER_NAME

    return place.removeprefix("file://") if place else str(state_folder(state).path / FOLDER_NAME)


def _days(used: float) -> float:
    return max(0.0, time.time() - used) / _DAY_SECONDS
