"""How the commands that look at a source hash it: with the digests that the state folder remembers, unless told not to.

The gate never comes here: it hashes what it decodes, and a signature vouches for what was just read.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from millcert.cli.opened import state_option

if TYPE_CHECKING:
    from millcert.provenance.digest_cache import HashedFolder

F = TypeVar("F", bound=Callable[..., Any])


def cache_options(command: F) -> F:
    """Add `--no-cache` and `--state`; the function gets them as `no_cache: bool` and `state: Path | None`."""
    no_cache = click.option("--no-cache", is_flag=True, help="Hash every file, also those that did not change.")
    return no_cache(state_option(command))


def hashed_folder(folder: Path, exclude: frozenset[str], *, state: Path | None, no_cache: bool) -> "HashedFolder":
    """Return a folder's entries; what is wrong with what was remembered is told on standard error.

    Digests are remembered in a state folder that is there or was named; none is made for them alone, and none that
    lies in the folder itself is used.

    Raises:
        UsageError, ManifestError, DigestMismatchError: as `hash_folder`.
    """
    from millcert.provenance.digest_cache import FOLDER_NAME, hash_folder_cached
    from millcert.provenance.state import state_folder

    place = state_folder(state).path
    # A memory among the files would be one of them, and change with every look.
    is_among = place.resolve().is_relative_to(folder.resolve())
    is_made = state is not None or place.is_dir()
    cache = place / FOLDER_NAME if is_made and not is_among and not no_cache else None
    found = hash_folder_cached(folder, cache=cache, exclude=exclude)
    for note in found.notes:
        sys.stderr.write(f"note: {note}\n")
    return found


def remembered(found: "HashedFolder") -> str:
    """Return in words how many digests were remembered; "" where none was."""
    if not found.reused:
        return ""
    return f"; {found.reused:,} unchanged since they were hashed, {found.proved:,} others hashed again to prove it"
