"""Files that belong together and appear together: all of them, or none.

Each file is written whole beside its place and then renamed. Where a rename fails, those before it are undone. A crash
between two renames leaves files that do not fit each other; whoever reads them refuses them (a signature does not
verify over another manifest), and the next run writes all again.
"""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from millcert.errors import StoreError

_PUBLIC_MODE = 0o644
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.millcert-tmp")


def promote(files: Mapping[Path, bytes]) -> None:
    """Write files, replacing those that are there, in the given order; all or none.

    Raises:
        StoreError: one cannot be written; the files are then as they were.
    """
    staged: dict[Path, Path] = {}
    undo: dict[Path, Path | None] = {}
    try:
        for path, data in files.items():
            staged[path] = _staged(path, data)
        for path, temporary in staged.items():
            undo[path] = _kept(path)
            temporary.replace(path)
    except OSError as error:
        _restore(undo)
        raise StoreError(
            f"The files cannot be written: {error.strerror or error}.",
            hint="Nothing was changed. Check the folder's rights and the free space, then run again.",
        ) from error
    except BaseException:
        _restore(undo)
        raise
    finally:
        for leftover in (*staged.values(), *(kept for kept in undo.values() if kept)):
            leftover.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a run that was killed left behind: it would be hashed as if it were data."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def _staged(path: Path, data: bytes) -> Path:
    temporary = _beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PUBLIC_MODE)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _kept(path: Path) -> Path | None:
    """Keep what is at `path` under another name; None where nothing is."""
    if not os.path.lexists(path):
        return None
    kept = _beside(path)
    os.link(path, kept, follow_symlinks=False)
    return kept


def _restore(undo: Mapping[Path, Path | None]) -> None:
    for path, kept in undo.items():
        if kept is None:
            path.unlink(missing_ok=True)
        else:
            kept.replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.millcert-tmp")
