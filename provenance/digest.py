"""SHA-256 of streams, files and folders: bounded memory, and no way to hash something else than was named.

Rules this module keeps:
  1. A digest is of a regular file's bytes: links, devices, pipes and sockets are refused, never followed.
  2. A file that changes while it is read has no digest.
  3. A folder's entries are every regular file below it, hidden ones too, but for the paths that the caller excludes.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from millcert.errors import DigestMismatchError, ManifestError, UsageError
from millcert.provenance.manifest import FileEntry

#: Large enough that calls cost nothing beside SHA-256 (1.2 GB a CPU-second), small enough for a worker's cache.
CHUNK_BYTES = 1024 * 1024
# The last element of a path is opened only if it is no link; a pipe is opened without waiting for its other end.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class FileDigest(NamedTuple):
    """What a file's bytes are.

    sha256: 64 lower-case hex digits. size_bytes: how many bytes were hashed.
    """

    sha256: str
    size_bytes: int


def sha256_stream(stream: BinaryIO) -> FileDigest:
    """Return the digest of a stream from where it stands to its end. Memory: one chunk."""
    hasher = hashlib.sha256()
    size_bytes = 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while count := stream.readinto(buffer):  # type: ignore[attr-defined] # every binary reader has it, BinaryIO does not say
        hasher.update(buffer[:count])
        size_bytes += count
    return FileDigest(hasher.hexdigest(), size_bytes)


def sha256_file(path: str | Path) -> FileDigest:
    """Return the digest of a regular file.

    Raises:
        UsageError: there is no such file, or it may not be read.
        ManifestError: it is a link or no regular file (rule 1).
        DigestMismatchError: it changed while it was read (rule 2).
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        if Path(path).is_symlink():
            raise _not_regular(path, "a symbolic link") from error
        raise UsageError(f"Cannot read {path}: {error.strerror}.", hint="Check the path and the rights.") from error
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        os.close(descriptor)
        raise _not_regular(path, "no regular file")
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        digest = sha256_stream(stream)
        after = os.fstat(descriptor)
    if digest.size_bytes != before.st_size or _state(before) != _state(after):
        raise DigestMismatchError(
            f"{path} changed while it was read: {before.st_size} bytes before, {digest.size_bytes} read.",
            hint="Wait until nobody writes to it, then run again.",
            path=str(path),
        )
    return digest


def hash_folder(folder: str | Path, *, exclude: frozenset[str] = frozenset()) -> tuple[FileEntry, ...]:
    """Return an entry for every file below a folder, in order of their paths.

    Args:
        folder: may itself be a link; nothing below it may.
        exclude: POSIX paths relative to `folder` that are left out.

    Raises:
        UsageError: there is no such folder, or it may not be read.
        ManifestError: something below is no regular file and no folder, or has a name that no manifest may hold.
        DigestMismatchError: a file changed while it was read.
    """
    top = Path(folder)
    entries = []
    for path in _files_below(top, ""):
        if path not in exclude:
            digest = sha256_file(top / path)
            entries.append(FileEntry(path, digest.size_bytes, digest.sha256))
    return tuple(sorted(entries, key=lambda entry: entry.path.encode()))


def _files_below(top: Path, inside: str) -> Iterator[str]:
    """Yield the relative paths of all files, names in order, refusing everything that is neither file nor folder."""
    try:
        with os.scandir(top / inside) as listing:
            found = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(
            f"Cannot list {top / inside}: {error.strerror}.", hint="Name a folder that may be read."
        ) from error
    for entry in found:
        path = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_symlink():
            raise _not_regular(top / path, "a symbolic link")
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(top, path)
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            raise _not_regular(top / path, "no regular file")


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _not_regular(path: str | Path, what: str) -> ManifestError:
    return ManifestError(
        f"{path} is {what}; a manifest lists regular files only.",
        hint="Replace it by a copy of the file that is meant, or move it away.",
        path=str(path),
    )
