"""`millcert source`: what an owner writes and signs, and what the gate then verifies."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from millcert.cli.files import replace_whole
from millcert.cli.output import emit, json_option
from millcert.cli.source_fetch import fetch, recheck
from millcert.cli.source_hashing import cache_options, hashed_folder, remembered
from millcert.cli.source_inspect import inspect
from millcert.cli.source_places import FILE, FOLDER, bundle_of, own_files, pq_of, quoted
from millcert.cli.source_sign import keygen, sign
from millcert.cli.source_verify import verify
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.manifest import FileEntry

_MAX_SCHEMA_BYTES = 16 << 20


@click.group()
def source() -> None:
    """Write, sign and verify a source's list of files."""


source.add_command(inspect)
source.add_command(keygen)
source.add_command(sign)
source.add_command(verify)
source.add_command(fetch)
source.add_command(recheck)


@source.command("manifest")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--name", required=True, help="What the source or data set is called; signed with its files.")
@click.option("--out", type=FILE, help="Where to write it.  [default: DIR/millcert-manifest.json]")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite another manifest that is already there.")
@click.option("--rows", "has_rows", is_flag=True, help="State each data file's number of rows and row tree as well.")
@click.option("--schema", type=FILE, help="With --rows: the columns' types of JSONL and CSV, as in a policy.")
@cache_options
@json_option
def write_manifest(
    folder: Path,
    name: str,
    out: Path | None,
    is_replaced: bool,
    has_rows: bool,
    schema: Path | None,
    state: Path | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Hash every file below DIR and write the manifest that its owner signs.

    The manifest and its signatures are left out of it. Links and special files are refused.
    """
    from millcert.provenance.manifest import Manifest
    from millcert.provenance.trust import MANIFEST_NAME

    if schema is not None and not has_rows:
        raise UsageError("--schema says how rows are read; it needs --rows.")
    target = out if out is not None else folder / MANIFEST_NAME
    own = own_files(folder, target, bundle_of(target), pq_of(target))
    hashed = hashed_folder(folder, own, state=state, no_cache=no_cache)
    entries = hashed.entries
    manifest = Manifest(name, _with_rows(folder, entries, schema) if has_rows else entries)
    if not manifest.files:
        raise UsageError(f"There is no file below {folder}.", hint="Name the folder that holds the data.")
    data = manifest.to_json()
    _write(target, data, is_replaced=is_replaced)
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    emit(
        {
            "files": len(manifest.files),
            "files_remembered": hashed.reused,
            "manifest": str(target),
            "name": manifest.name,
            "root": manifest.root,
            "size_bytes": size_bytes,
        },
        f"manifest  {manifest.name}  {len(manifest.files):,} files, {size_bytes:,} bytes{remembered(hashed)}\n"
        f"  root: {manifest.root}\n"
        f"  file: {target}\n"
        f"next: sigstore sign {quoted(target)}, or millcert source sign {quoted(folder)} --help",
        as_json=as_json,
    )


def _with_rows(folder: Path, entries: "tuple[FileEntry, ...]", schema: Path | None) -> "tuple[FileEntry, ...]":
    from millcert.pipelines.formats import ReadLimits, schema_from_json
    from millcert.pipelines.row_facts import with_row_facts

    text = None if schema is None else _read(schema, _MAX_SCHEMA_BYTES)
    if schema is not None and text is None:
        raise UsageError(f"There is no schema file at {schema}.")
    return with_row_facts(folder, entries, None if text is None else schema_from_json(text), ReadLimits())


def _read(path: Path, max_bytes: int) -> bytes | None:
    """Return a file's bytes, None where there is none; one byte above the bound is enough to be refused later."""
    try:
        with path.open("rb") as stream:
            return stream.read(max_bytes + 1)
    except FileNotFoundError:
        return None


def _write(target: Path, data: bytes, *, is_replaced: bool) -> None:
    """Write all or nothing; the same bytes again are no change."""
    old = _read(target, len(data))
    if old == data:
        return
    if old is not None and not is_replaced:
        raise UsageError(
            f"There is another manifest at {target}.",
            hint="Use --replace to overwrite it; its bundle then fits no more.",
        )
    replace_whole(target, data)
