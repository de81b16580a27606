"""Admission: is the data in this place, byte for byte, the data that the certificate is about?

Steps of `admit_path`:
  1. The names: the files under the path are exactly those of the manifest; nothing is added, missing, a link, or
     anything else than a file. Nothing is followed out of the path.
  2. The bytes: each file is opened without following links, and hashed from that very descriptor; size and SHA-256 are
     those of the manifest.
The caller owes: that nobody can write to the path between this and the training job's read. Point the job at a copy
that only it can write, or admit again after it.
"""

import errno
import hashlib
import hmac
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from millcert.errors import DigestMismatchError, IntegrityError, ManifestError, StoreError, UsageError
from millcert.provenance.certificate import Certificate
from millcert.provenance.manifest import FileEntry

#: Read size: large enough that the hash, not the call, is the cost.
_CHUNK_BYTES = 1024 * 1024

#: Deepest folder that is looked into. Our choice: manifests have a few levels; each level holds a descriptor open.
MAX_FOLDER_DEPTH = 64

#: More names than this are counted, not listed.
_SHOWN = 10

#: O_NONBLOCK: a pipe put in a file's place between the two steps must not hang the gate.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Admission:
    """Data that is what its certificate says, at the time of the call.

    path: where it lies.
    name: of the data set.
    root: manifest root, hex.
    files: how many were hashed.
    size_bytes: how many bytes were hashed.
    """

    path: str
    name: str
    root: str
    files: int
    size_bytes: int


def admit_path(path: Path, certificate: Certificate) -> Admission:
    """Hash every file under `path` and return the admission, or raise and say which file is not as certified.

    Args:
        path: the folder that the manifest's paths are relative to; or the file itself, where the manifest has one file
            and it bears that name.
        certificate: as `verify_certificate` returned it.

    Raises:
        UsageError: there is nothing at `path`.
        ManifestError: a file is added or missing, or is a link, folder, pipe, socket or device.
        DigestMismatchError: a file's size or bytes differ.
        StoreError: a file could not be read.

    Cost: one read of the data, about 0.8 s a GB and core; memory for one buffer and the names.
    """
    entries = {entry.path: entry for entry in certificate.manifest.files}
    with _opened_root(path) as (root, single):
        found = {single: "file"} if single is not None else dict(_walk(path, root, "", 0))
        _compare_names(path, entries, found)  # 1
        for entry in entries.values():  # 2
            _compare_bytes(path, root, entry)
    size_bytes = sum(entry.size_bytes for entry in entries.values())
    manifest = certificate.manifest
    return Admission(str(path), manifest.name, manifest.root, len(entries), size_bytes)


@contextmanager
def _opened_root(path: Path) -> Iterator[tuple[int, str | None]]:
    """Open the folder that paths are relative to; with the file's name where `path` is a file."""
    try:
        # The caller's own path may go through links; what lies under it may not.
        status = path.stat()
        is_file = stat.S_ISREG(status.st_mode)
        descriptor = os.open(path.parent if is_file else path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"There is no data at {path}.", hint="Give the folder that was admitted.", path=str(path)
        ) from error
    except OSError as error:
        raise _unreadable(path, str(path), error) from error
    try:
        yield descriptor, path.name if is_file else None
    finally:
        os.close(descriptor)


def _walk(path: Path, folder: int, prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yield (relative path, what it is) of all that is no folder, without following a link."""
    if depth > MAX_FOLDER_DEPTH:
        raise ManifestError(
            f"The folder {prefix!r} under {path} lies deeper than {MAX_FOLDER_DEPTH} levels.",
            hint="No manifest of ours is so deep; look at what was put there.",
            path=prefix,
        )
    try:
        with os.scandir(folder) as scan:
            children = sorted(scan, key=lambda child: child.name)
        for child in children:
            name = prefix + child.name
            if not child.is_dir(follow_symlinks=False):
                is_file = child.is_file(follow_symlinks=False)
                yield name, "link" if child.is_symlink() else "file" if is_file else "special"
                continue
            below = os.open(child.name, _FOLDER_FLAGS, dir_fd=folder)
            try:
                yield from _walk(path, below, name + "/", depth + 1)
            finally:
                os.close(below)
    except OSError as error:
        raise _unreadable(path, prefix, error) from error


def _compare_names(path: Path, entries: dict[str, FileEntry], found: dict[str, str]) -> None:
    links = [name for name, kind in found.items() if kind == "link"]
    specials = [name for name, kind in found.items() if kind == "special"]
    added = [name for name, kind in found.items() if kind == "file" and name not in entries]
    missing = [name for name in entries if name not in found]
    parts = (
        ("a link (links are never followed)", links),
        ("neither a file nor a folder", specials),
        ("not in the certificate's manifest", added),
        ("missing", missing),
    )
    faults = [f"{_listed(names)}: {what}" for what, names in parts if names]
    if not faults:
        return
    first = next(names for _, names in parts if names)[0]
    raise ManifestError(
        f"The files under {path} are not those that were certified: {'; '.join(faults)}.",
        hint="Copy the admitted folder again as it was published, and train on nothing else.",
        path=first,
        links=tuple(links),
        specials=tuple(specials),
        added=tuple(added),
        missing=tuple(missing),
    )


def _compare_bytes(path: Path, root: int, entry: FileEntry) -> None:
    try:
        descriptor = _open_beneath(root, entry.path)
    except OSError as error:
        raise _unreadable(path, entry.path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            _refuse(path, entry, "is no longer a file", ManifestError)
        if status.st_size != entry.size_bytes:
            _refuse(
                path,
                entry,
                f"has {status.st_size} bytes, certified are {entry.size_bytes}",
                DigestMismatchError,
                expected=entry.size_bytes,
                actual=status.st_size,
            )
        actual = _sha256(descriptor, entry.size_bytes)
    except OSError as error:
        raise _unreadable(path, entry.path, error) from error
    finally:
        os.close(descriptor)
    if not hmac.compare_digest(actual, entry.sha256):
        _refuse(
            path,
            entry,
            f"has SHA-256 {actual}, certified is {entry.sha256}",
            DigestMismatchError,
            expected=entry.sha256,
            actual=actual,
        )


def _open_beneath(root: int, path: str) -> int:
    """Open a file by a relative path, following no link in any of its parts."""
    *folders, name = path.split("/")
    current = os.dup(root)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER_FLAGS, dir_fd=current)
            os.close(current)
            current = below
        return os.open(name, _FILE_FLAGS, dir_fd=current)
    finally:
        os.close(current)


def _sha256(descriptor: int, size_bytes: int) -> str:
    """Hash a file to its end, or to one byte beyond what it may have: a file that grows is not read for ever."""
    digest = hashlib.sha256()
    remaining = size_bytes + 1
    while remaining > 0:
        chunk = os.read(descriptor, min(_CHUNK_BYTES, remaining))
        if not chunk:
            break
        digest.update(chunk)
        remaining -= len(chunk)
    return digest.hexdigest()


def _refuse(path: Path, entry: FileEntry, what: str, kind: type[IntegrityError], **details: object) -> NoReturn:
    raise kind(
        f"The file {entry.path!r} under {path} {what}.",
        hint="It changed after it was certified. Copy the admitted folder again, and train on nothing else.",
        path=entry.path,
        **details,
    )


def _unreadable(path: Path, name: str, error: OSError) -> IntegrityError | StoreError:
    """Say what an unreadable file means: a link in a folder's place is an attack, a failing disk is not."""
    if isinstance(error, NotADirectoryError | FileNotFoundError) or error.errno == errno.ELOOP:  # O_NOFOLLOW met a link
        return ManifestError(
            f"{name!r} under {path} changed while it was read: {error.strerror}.",
            hint="Somebody writes to this folder. Copy it where only the job can write, and admit it there.",
            path=name,
        )
    return StoreError(
        f"{name!r} under {path} could not be read: {error.strerror or error}.",
        hint="Check permissions and the disk, then try again.",
        path=name,
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
