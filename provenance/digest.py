"""SHA-256 of streams, files and folders: bounded memory, and no way to hash something else than was named.

Rules this module keeps:
  1. A digest is of a regular file's bytes: links, devices, pipes and sockets are refused, never followed.
  2. A file that changes while it is read has no digest.
  3. A folder's entries are every regular file below it, hidden ones too, but for the paths that the caller excludes and
     what is in folders of the names in BOOKKEEPING: a clone's own, which the gate never reads either.
  4. Files are hashed by several threads, and neither the entries nor which fault is told depend on how many.

Speed: hashlib leaves the interpreter's lock while it hashes, so threads use all cores; bench/hashing.py compares with
hashlib alone and with sha256sum.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

from millcert.errors import DigestMismatchError, ManifestError, MillcertError, UsageError
from millcert.provenance.manifest import FileEntry

#: Folders that a clone keeps for itself: never data, at any depth, and not part of what a producer signs.
BOOKKEEPING = frozenset({".git", ".cache"})
#: Large enough that calls cost nothing beside SHA-256 (1.2 GB a CPU-second), small enough for a worker's cache.
CHUNK_BYTES = 1024 * 1024
#: From here on a thread of its own is worth handing a file over. Our choice: bench/hashing.py.
_SMALL_BYTES = 32 * 1024
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
    digest = _digest_of(path, None)
    if digest is None:
        raise AssertionError("Without a bound every file is read.")
    return digest


def _digest_of(path: str | Path, small_bytes: int | None) -> FileDigest | None:
    """Return a file's digest as `sha256_file` does; None, unread, where it has `small_bytes` or more."""
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        if Path(path).is_symlink():
            raise _not_regular(path, "a symbolic link") from error
        raise UsageError(f"Cannot read {path}: {error.strerror}.", hint="Check the path and the rights.") from error
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise _not_regular(path, "no regular file")
        if small_bytes is not None and before.st_size >= small_bytes:
            return None
        digest = _read_digest(descriptor, before.st_size)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not digest.size_bytes == before.st_size == after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise DigestMismatchError(
            f"{path} changed while it was read: {before.st_size} bytes before, {digest.size_bytes} read.",
            hint="Wait until nobody writes to it, then run again.",
            path=str(path),
        )
    return digest


def hash_folder(
    folder: str | Path,
    *,
    exclude: frozenset[str] = frozenset(),
    threads: int | None = None,
    known: Callable[[str], FileEntry | None] | None = None,
) -> tuple[FileEntry, ...]:
    """Return an entry for every file below a folder, in order of their paths.

    Args:
        folder: may itself be a link; nothing below it may.
        exclude: POSIX paths relative to `folder` that are left out.
        threads: how many hash; None for one a core. Memory: one chunk each.
        known: gives the entry of a path that need not be hashed, None for one that must be (`digest_cache`).

    Raises:
        UsageError: there is no such folder, or it may not be read.
        ManifestError: something below is no regular file and no folder, or has a name that no manifest may hold.
        DigestMismatchError: a file changed while it was read.
    """
    top = os.fspath(folder)
    paths = [path for path in _files_below(top) if path not in exclude]
    paths.sort(key=os.fsencode)
    outcomes: list[FileEntry | MillcertError | Future[FileEntry]] = []
    pool = ThreadPoolExecutor(max_workers=threads or _cores())
    try:
        for path in paths:
            if known is not None and (entry := known(path)) is not None:
                outcomes.append(entry)
                continue
            # Small files stay here: for most of their time the interpreter's lock is held, and threads would only wait.
            try:
                digest = _digest_of(f"{top}/{path}", _SMALL_BYTES)
                small = None if digest is None else FileEntry(path, digest.size_bytes, digest.sha256)
            except MillcertError as error:
                outcomes.append(error)  # a larger file that comes first may have a fault, too
                break
            outcomes.append(small or pool.submit(_hash_entry, top, path))
        return tuple(_entry(outcome) for outcome in outcomes)
    finally:
        pool.shutdown(cancel_futures=True)


def _hash_entry(top: str, path: str) -> FileEntry:
    digest = sha256_file(f"{top}/{path}")
    return FileEntry(path, digest.size_bytes, digest.sha256)


def _entry(outcome: "FileEntry | MillcertError | Future[FileEntry]") -> FileEntry:
    if isinstance(outcome, MillcertError):
        raise outcome
    return outcome.result() if isinstance(outcome, Future) else outcome


def _read_digest(descriptor: int, size_bytes: int) -> FileDigest:
    """Return the digest of an open file; a small one is read at once, without a buffer of its own."""
    if size_bytes < CHUNK_BYTES:
        # One byte more than there should be: a file that grew has another size then.
        data = os.read(descriptor, size_bytes + 1)
        if len(data) == size_bytes:
            return FileDigest(hashlib.sha256(data).hexdigest(), size_bytes)
        os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as stream:
        return sha256_stream(stream)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _files_below(top: str) -> list[str]:
    """Return the relative paths of all files; what is neither file nor folder is refused, first by name in a folder."""
    files: list[str] = []
    folders = [""]
    while folders:
        inside = folders.pop()
        here = f"{top}/{inside}"
        try:
            with os.scandir(here) as listing:
                found = sorted(listing, key=attrgetter("name"))
        except OSError as error:
            raise UsageError(
                f"Cannot list {here}: {error.strerror}.", hint="Name a folder that may be read."
            ) from error
        for entry in found:
            if entry.is_file(follow_symlinks=False):
                files.append(inside + entry.name)
            elif entry.is_dir(follow_symlinks=False):
                if entry.name not in BOOKKEEPING:
                    folders.append(f"{inside}{entry.name}/")
            else:
                raise _not_regular(entry.path, "a symbolic link" if entry.is_symlink() else "no regular file")
    return files


def _not_regular(path: str | Path, what: str) -> ManifestError:
    return ManifestError(
        f"{path} is {what}; a manifest lists regular files only.",
        hint="Replace it by a copy of the file that is meant, or move it away.",
        path=str(path),
    )
