"""`millcert source`: write the manifest that a source's owner signs, and verify one as the gate does."""

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millcert.cli.output import emit, json_option
from millcert.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from millcert.provenance.manifest import FileEntry

_MAX_SCHEMA_BYTES = 16 << 20
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def source() -> None:
    """Write and verify a source's manifest."""


@source.command("manifest")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--name", required=True, help="What the source or data set is called; signed with its files.")
@click.option("--out", type=_FILE, help="Where to write it.  [default: DIR/millcert-manifest.json]")
@click.option("--replace", "is_replaced", is_flag=True, help="Overwrite another manifest that is already there.")
@click.option("--rows", "has_rows", is_flag=True, help="State each data file's number of rows and row tree as well.")
@click.option("--schema", type=_FILE, help="With --rows: the columns' types of JSONL and CSV, as in a policy.")
@json_option
def write_manifest(
    folder: Path, name: str, out: Path | None, is_replaced: bool, has_rows: bool, schema: Path | None, as_json: bool
) -> None:
    """Hash every file below DIR and write the manifest that its owner signs.

    The manifest and its bundle are left out of it. Links and special files are refused.
    """
    from millcert.provenance.digest import hash_folder
    from millcert.provenance.manifest import Manifest
    from millcert.provenance.trust import MANIFEST_NAME

    if schema is not None and not has_rows:
        raise UsageError("--schema says how rows are read; it needs --rows.")
    target = out if out is not None else folder / MANIFEST_NAME
    entries = hash_folder(folder, exclude=_own_files(folder, target, _bundle_of(target)))
    manifest = Manifest(name, _with_rows(folder, entries, schema) if has_rows else entries)
    if not manifest.files:
        raise UsageError(f"There is no file below {folder}.", hint="Name the folder that holds the data.")
    data = manifest.to_json()
    _write(target, data, is_replaced=is_replaced)
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    emit(
        {
            "files": len(manifest.files),
            "manifest": str(target),
            "name": manifest.name,
            "root": manifest.root,
            "size_bytes": size_bytes,
        },
        f"manifest  {manifest.name}  {len(manifest.files):,} files, {size_bytes:,} bytes\n"
        f"  root: {manifest.root}\n"
        f"  file: {target}\n"
        f"next: sigstore sign {_quoted(target)}",
        as_json=as_json,
    )


@source.command("verify")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--manifest", type=_FILE, help="The signed manifest.  [default: DIR/millcert-manifest.json]")
@click.option("--bundle", type=_FILE, help="Its Sigstore bundle.  [default: the manifest's path and .sigstore.json]")
@click.option("--trusted-root", type=_FILE, required=True, help="The Sigstore trusted root, JSON.")
@click.option("--trusted-root-sha256", required=True, metavar="HEX", help="The digest that the trusted root must have.")
@click.option("--issuer", required=True, help="The OIDC issuer that vouches for the signer.")
@click.option("--identity", help="The signer: an email address or a URI, compared exactly.")
@click.option("--identity-pattern", help="The signer, with * for any characters but / and @, ** for any at all.")
@json_option
def verify(
    folder: Path,
    manifest: Path | None,
    bundle: Path | None,
    trusted_root: Path,
    trusted_root_sha256: str,
    issuer: str,
    identity: str | None,
    identity_pattern: str | None,
    as_json: bool,
) -> None:
    """Verify the signature over DIR's manifest, its signer, and every file below DIR. No network is used."""
    from millcert.provenance.bundle import MAX_BUNDLE_BYTES, load_trust_root, verify_bundle
    from millcert.provenance.digest import hash_folder
    from millcert.provenance.manifest import MAX_MANIFEST_BYTES, Manifest
    from millcert.provenance.trust import MANIFEST_NAME, SignerRule, SourceRule, verify_source

    if bool(identity) == bool(identity_pattern):
        raise PolicyError("Name the signer by one of --identity and --identity-pattern.")
    signer = SignerRule(issuer, identity, identity_pattern)
    manifest_path = manifest if manifest is not None else folder / MANIFEST_NAME
    bundle_path = bundle if bundle is not None else _bundle_of(manifest_path)
    rule = SourceRule(str(folder), "**", signed_by=(signer,), manifest=str(manifest_path), bundle=str(bundle_path))
    root_bytes = _read(trusted_root, MAX_BUNDLE_BYTES)
    if root_bytes is None:
        raise UsageError(f"There is no trusted root at {trusted_root}.")
    root = load_trust_root(root_bytes, trusted_root_sha256)
    manifest_bytes = _read(manifest_path, MAX_MANIFEST_BYTES)
    bundle_bytes = _read(bundle_path, MAX_BUNDLE_BYTES)
    if manifest_bytes is not None and bundle_bytes is not None:
        # Some milliseconds that spare the hashing of all files where the signature is bad.
        verify_bundle(manifest_bytes, bundle_bytes, root=root, identity=signer)
    files = Manifest("found", hash_folder(folder, exclude=_own_files(folder, manifest_path, bundle_path)))
    found = verify_source(files, manifest_bytes, bundle_bytes, rule, root)
    signature = found.signature
    if signature is None:
        raise AssertionError("A rule with a signer never gives an unsigned source.")
    emit(
        {
            "files": len(files.files),
            "manifest_root": found.manifest_root,
            "signature": asdict(signature),
            "source": found.source,
            "status": found.status,
        },
        f"verified  {folder}  {len(files.files):,} files\n"
        f"  signer: {signature.identity}\n"
        f"  issuer: {signature.issuer}\n"
        f"  signed: {signature.signed_at}, log entry {signature.log_index} of {signature.log_key_id[:16]}\n"
        f"  root:   {found.manifest_root}\n"
        f"next: name this signer and issuer for the source in the policy, then millcert vet",
        as_json=as_json,
    )


def _with_rows(folder: Path, entries: "tuple[FileEntry, ...]", schema: Path | None) -> "tuple[FileEntry, ...]":
    from millcert.pipelines.formats import ReadLimits, schema_from_json
    from millcert.pipelines.row_facts import with_row_facts

    text = None if schema is None else _read(schema, _MAX_SCHEMA_BYTES)
    if schema is not None and text is None:
        raise UsageError(f"There is no schema file at {schema}.")
    return with_row_facts(folder, entries, None if text is None else schema_from_json(text), ReadLimits())


def _bundle_of(manifest: Path) -> Path:
    from millcert.provenance.trust import BUNDLE_SUFFIX

    return manifest.with_name(manifest.name + BUNDLE_SUFFIX)


def _own_files(folder: Path, *paths: Path) -> frozenset[str]:
    """Return those of `paths` that are below the folder, relative to it; links in their folders are resolved."""
    top = folder.resolve()
    resolved = [path.parent.resolve() / path.name for path in paths]
    return frozenset(path.relative_to(top).as_posix() for path in resolved if path.is_relative_to(top))


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
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream:
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            Path(stream.name).chmod(0o644)
            Path(stream.name).replace(target)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
