"""Where a source's list and signatures stand, for the commands that write and verify them."""

import shlex
from pathlib import Path

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def bundle_of(manifest: Path) -> Path:
    """Return where the bundle over a list is unless somebody says otherwise."""
    from millcert.provenance.trust import BUNDLE_SUFFIX

    return manifest.with_name(manifest.name + BUNDLE_SUFFIX)


def pq_of(listing: Path) -> Path:
    """Return where the post-quantum signature over a list, or over a model signature's envelope, is."""
    from millcert.provenance.pq_signature import PQ_SUFFIX

    return listing.with_name(listing.name + PQ_SUFFIX)


def own_files(folder: Path, *paths: Path) -> frozenset[str]:
    """Return those of `paths` that are below the folder, relative to it; links in their folders are resolved."""
    top = folder.resolve()
    resolved = [path.parent.resolve() / path.name for path in paths]
    return frozenset(path.relative_to(top).as_posix() for path in resolved if path.is_relative_to(top))


def quoted(text: Path | str) -> str:
    """Return a word as a shell takes it."""
    return shlex.quote(str(text))
