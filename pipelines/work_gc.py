"""What a work store holds, and taking away from it what was not used for long, or is too much.

Nothing depends on an entry: a run that does not find it does the work again. Only files that are named as entries are
touched, so a folder that holds something else besides keeps it.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from millcert.errors import StoreError, UsageError
from millcert.pipelines.publish import is_local

#: Entries, and files that were being written when a run was killed.
_ENTRY = re.compile(r"[0-9a-f]{2}/\.?([0-9a-f]{64})(?:\.(?:files|rows|copy))?(?:\.[0-9a-f]{16})?")


class Entry(NamedTuple):
    """All files of one work. used: when it was written or used last, seconds since 1970."""

    name: str
    paths: tuple[str, ...]
    size_bytes: int
    used: float


def list_entries(place: str) -> list[Entry]:
    """Return what a store holds, the longest unused first.

    Raises:
        StoreError: it cannot be listed.
        UsageError: Beam knows no file system for it.
    """
    root = place.rstrip("/")
    try:
        files = list(_local_files(Path(root)) if is_local(root) else _remote_files(root))
    except (OSError, BeamIOError) as error:
        raise StoreError(f"Cannot list {place}: {error}", hint="Check the path and the rights.") from error
    except ValueError as error:
        raise UsageError(f"Beam knows no file system for {place}: {error}", hint="Install its extra.") from error
    grouped: dict[str, list[tuple[str, int, float]]] = {}
    for path, size_bytes, used in files:
        named = _ENTRY.fullmatch(path.removeprefix(f"{root}/"))
        if named is not None:
            grouped.setdefault(named[1], []).append((path, size_bytes, used))
    entries = [
        Entry(name, tuple(path for path, _, _ in found), sum(size for _, size, _ in found), max(u for _, _, u in found))
        for name, found in grouped.items()
    ]
    return sorted(entries, key=lambda entry: (entry.used, entry.name))


def choose_garbage(
    entries: Iterable[Entry], *, used_before: float | None = None, max_bytes: int | None = None
) -> list[Entry]:
    """Return the entries that go.

    Args:
        entries: of a store, the longest unused first.
        used_before: seconds since 1970; what was used last before that goes.
        max_bytes: of the longest unused, so many go that the rest is no larger.
    """
    every = list(entries)
    gone = [entry for entry in every if used_before is not None and entry.used < used_before]
    rest = [entry for entry in every if entry not in gone]
    left = sum(entry.size_bytes for entry in rest)
    for entry in rest:
        if max_bytes is None or left <= max_bytes:
            break
        gone.append(entry)
        left -= entry.size_bytes
    return gone


def delete_entries(entries: Iterable[Entry]) -> None:
    """Delete entries.

    Raises:
        StoreError: one cannot be deleted.
    """
    for entry in entries:
        try:
            for path in entry.paths:
                if is_local(path):
                    Path(path).unlink(missing_ok=True)
                else:
                    FileSystems.delete([path])
        except (OSError, BeamIOError) as error:
            raise StoreError(f"Cannot delete {entry.paths[0]}: {error}", hint="Check the rights.") from error


def _local_files(root: Path) -> Iterable[tuple[str, int, float]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            facts = path.lstat()
            yield str(path), facts.st_size, facts.st_mtime


def _remote_files(root: str) -> Iterable[tuple[str, int, float]]:
    for found in FileSystems.match([f"{root}/**"])[0].metadata_list:
        yield found.path, found.size_in_bytes, found.last_updated_in_seconds
