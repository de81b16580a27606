"""Where bytes come from: any file system that Beam knows, each file read once and decoded from what was hashed.

Rules:
  1. What is decoded is what was hashed: a file is streamed once through SHA-256 into memory or into a private temporary
     file that has no name, and only that copy is decoded.
  2. Nothing is left out in silence: a file under a data set's folder is read, known as auxiliary, or refused.
  3. A symbolic link is followed only where the user named it; under a folder it is refused, as are devices, pipes and
     sockets.
"""

import errno
import fnmatch
import hashlib
import io
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal, TypeAlias

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from millcert.errors import DigestMismatchError, HostileDataError, StoreError, UsageError
from millcert.pipelines.formats.base import FORMATS, Format, ReadLimits, format_of_name

_CHUNK_BYTES = 1 << 20
_GLOB = frozenset("*?[")

#: Files that stand beside data and hold none: they are listed and hashed, not decoded.
AUXILIARY = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "millcert-manifest.json",
    "*.sigstore.json",
    "*.sigstore",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "SHA256SUMS",
    "croissant.json",
    ".gitattributes",
    ".gitignore",
)

#: What a file of a data set is: a format, or a file that stands beside the data.
Kind: TypeAlias = Format | Literal["auxiliary"]


@dataclass(frozen=True)
class Spooled:
    """A file's bytes, held where nobody else can change them.

    file: seekable and readable; closed when the context of `read_verified` ends. sha256: hex.
    """

    file: BinaryIO
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class DatasetFile:
    """One file of a data set.

    uri: what `read_verified` opens. name: POSIX path relative to what the user named. format: a format or "auxiliary".
    """

    uri: str
    name: str
    size_bytes: int
    format: Kind


@contextmanager
def read_verified(uri: str, *, expected_sha256: str | None, limits: ReadLimits) -> Iterator[Spooled]:
    """Hold a file's bytes, hashed while they were read, for as long as the context lasts.

    Args:
        uri: any path that Beam's file systems open.
        expected_sha256: hex; None to find out.
        limits: `max_file_bytes` and `spool_memory_bytes` apply.

    Raises:
        DigestMismatchError: the bytes are not the expected ones.
        HostileDataError: the file is larger than `max_file_bytes`.
        UsageError: there is no such file, or it is no regular file.
        StoreError: reading it, or writing the temporary copy, failed.

    Cost: one read, one SHA-256, and a copy on the worker's disk above `spool_memory_bytes`.
    """
    spooled = _spool(uri, limits)
    try:
        if expected_sha256 is not None and spooled.sha256 != expected_sha256.lower():
            raise DigestMismatchError(
                f"{uri}: expected SHA-256 {expected_sha256}, found {spooled.sha256}.",
                hint="The file changed after its digest was taken. Fetch it again, or have its owner sign it anew.",
                path=uri,
                expected=expected_sha256,
                actual=spooled.sha256,
            )
        yield spooled
    finally:
        spooled.file.close()


def match_files(patterns: Sequence[str]) -> tuple[DatasetFile, ...]:
    """Return the files that the arguments name, sorted by name.

    An argument is a file, a glob (`**` crosses folders), or a folder, such as one of Hugging Face's `save_to_disk`. A
    file's name is relative to the folder, to the glob's prefix without wildcards, or is the base name of a file argument.

    Raises:
        UsageError: nothing matches; two files have one name; a file is of no known kind; a link or special file is
            found.
        StoreError: a listing failed.
    """
    if not patterns:
        raise UsageError("No data was named.", hint="Name files, globs or folders.")
    found: dict[str, DatasetFile] = {}
    unknown: list[str] = []
    for pattern in patterns:
        for uri, name, size_bytes in _expand(pattern):
            kind = kind_of(name)
            if kind is None:
                unknown.append(uri)
                continue
            if name in found and found[name].uri != uri:
                raise UsageError(
                    f"Two files have the name {name!r} in the data set: {found[name].uri} and {uri}.",
                    hint="Name the folder above both, or put them into folders of different names.",
                    path=name,
                )
            found[name] = DatasetFile(uri, name, size_bytes, kind)
    if unknown:
        listed = ", ".join(sorted(unknown)[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        raise UsageError(
            f"{len(unknown)} files are of no kind that is read: {listed}.",
            hint=f"Data is {', '.join(FORMATS)} by its suffix. Take other files out of the folder, or name the data by a "
            f"glob: nothing is left out in silence.",
            paths=tuple(sorted(unknown)),
        )
    if not any(each.format != "auxiliary" for each in found.values()):
        raise UsageError(f"No data file matches {', '.join(patterns)}.", hint="Check the path and the suffixes.")
    return tuple(sorted(found.values(), key=lambda each: each.name))


def kind_of(name: str) -> Kind | None:
    """Return what a file is by its name; None if nothing says so."""
    base = posixpath.basename(name)
    if any(fnmatch.fnmatchcase(base, pattern) for pattern in AUXILIARY):
        return "auxiliary"
    if any(part.startswith(".") for part in name.split("/")):
        return None
    return format_of_name(base)


def _spool(uri: str, limits: ReadLimits) -> Spooled:
    digest, size, memory = hashlib.sha256(), 0, io.BytesIO()
    target: BinaryIO = memory
    try:
        with _open(uri) as source:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                if size > limits.max_file_bytes:
                    raise HostileDataError(
                        f"{uri}: the file is larger than {limits.max_file_bytes} bytes.",
                        hint="Raise the limit max_file_bytes, or split the file.",
                        path=uri,
                    )
                if target is memory and size > limits.spool_memory_bytes:
                    target = tempfile.TemporaryFile(prefix="millcert-")  # noqa: SIM115 - closed by read_verified
                    target.write(memory.getvalue())
                    memory.close()
                target.write(chunk)
        target.flush()
    except BaseException as error:
        target.close()
        if isinstance(error, OSError):
            raise _store_error(uri, error) from error
        raise
    target.seek(0)
    return Spooled(target, digest.hexdigest(), size)


@contextmanager
def _open(uri: str) -> Iterator[BinaryIO]:
    """Open for reading, the bytes as stored."""
    if _is_local(uri):
        path = uri.removeprefix("file://")
        # O_NONBLOCK: opening a pipe that nobody writes to must not hang.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as local:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise UsageError(f"{uri}: not a regular file.", hint="Name files, not devices or pipes.", path=uri)
            yield local
        return
    try:
        remote = FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    except (OSError, ValueError) as error:
        raise StoreError(f"{uri}: opening failed: {error}", hint="Check the path and the credentials.") from error
    with remote:
        yield remote


def _store_error(uri: str, error: OSError) -> UsageError | StoreError:
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return UsageError(f"{uri}: there is no such file.", hint="Check the path.", path=uri)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreError(
            f"{uri}: no space left for the temporary copy in {tempfile.gettempdir()}.",
            hint="Free space, or set TMPDIR to a larger disk.",
            path=uri,
        )
    return StoreError(f"{uri}: reading or copying failed: {error}", hint="Try again.", path=uri)


def _is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def _expand(pattern: str) -> Iterator[tuple[str, str, int]]:
    """Yield (uri, name, size) of the files that one argument names."""
    if _is_local(pattern):
        yield from _expand_local(pattern.removeprefix("file://"), pattern)
    else:
        yield from _expand_remote(pattern)


def _expand_local(path: str, pattern: str) -> Iterator[tuple[str, str, int]]:
    path = os.fspath(path)
    if os.path.isdir(path):  # a link that the user named is followed
        root = path.rstrip("/") or "/"
        yield from _walk(root, root)
        return
    if os.path.lexists(path):
        facts = _stat(path, follow=True)
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{pattern}: neither a regular file nor a folder.", path=pattern)
        yield path, os.path.basename(path), facts.st_size
        return
    prefix = _prefix(path)
    if prefix == path:
        raise UsageError(f"{pattern}: there is no such file or folder.", hint="Check the path.", path=pattern)
    base = prefix.rstrip("/") or ("/" if prefix else ".")
    wanted = path[len(prefix) :]
    matched = False
    if os.path.isdir(base):
        for uri, name, size_bytes in _walk(base, base, wanted):
            matched = True
            yield uri, name, size_bytes
    if not matched:
        raise UsageError(f"{pattern}: nothing matches.", hint="Check the path; quote globs.", path=pattern)


def _walk(root: str, folder: str, wanted: str | None = None) -> Iterator[tuple[str, str, int]]:
    """Yield the regular files below a folder, sorted; those whose relative name matches `wanted` if that is given."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise StoreError(f"{folder}: listing failed: {error}", hint="Check the permissions.", path=folder) from error
    for entry in entries:
        name = posixpath.relpath(entry.path, root)
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and entry.name in {".git", ".cache"}:
            continue  # a clone's own bookkeeping, never data
        if is_folder:
            yield from _walk(root, entry.path, wanted)
            continue
        if wanted is not None and not glob_matches(name, wanted):
            continue
        facts = _stat(entry.path, follow=False)
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(
                f"{entry.path}: a link or special file stands among the data.",
                hint="Put the file itself there; a link could be turned to other bytes later.",
                path=entry.path,
            )
        yield entry.path, name, facts.st_size


def _stat(path: str, *, follow: bool) -> os.stat_result:
    try:
        return os.stat(path, follow_symlinks=follow)
    except OSError as error:
        raise _store_error(path, error) from error


def _expand_remote(pattern: str) -> Iterator[tuple[str, str, int]]:
    prefix = _prefix(pattern)
    if prefix != pattern:
        root, wanted = prefix, pattern[len(prefix) :]
        for each in _match(root + "**"):
            name = each.path[len(root) :]
            if glob_matches(name, wanted):
                yield each.path, name, each.size_in_bytes
        return
    exact = [] if pattern.endswith("/") else [each for each in _match(pattern) if each.path == pattern]
    for each in exact:
        yield each.path, posixpath.basename(each.path), each.size_in_bytes
    if not exact:
        root = pattern.rstrip("/") + "/"
        for each in _match(root + "**"):
            name = each.path[len(root) :]
            if name and not name.endswith("/"):  # object stores keep empty objects for folders
                yield each.path, name, each.size_in_bytes


def _match(pattern: str) -> list[FileMetadata]:
    try:
        return sorted(FileSystems.match([pattern])[0].metadata_list, key=lambda each: each.path)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{pattern}: listing failed: {error}", hint="Check the path, the credentials and the extra for it."
        ) from error


def _prefix(pattern: str) -> str:
    """Return a pattern up to the last "/" before its first wildcard; all of it if it has none."""
    first = next((index for index, char in enumerate(pattern) if char in _GLOB), None)
    return pattern if first is None else pattern[: pattern.rfind("/", 0, first) + 1]


def glob_matches(name: str, pattern: str) -> bool:
    """Return whether a relative name matches a glob: `*` and `?` stay within a folder, `**` crosses folders."""
    return _parts_match(name.split("/"), pattern.split("/"))


def _parts_match(names: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_parts_match(names[skip:], patterns[1:]) for skip in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _parts_match(names[1:], patterns[1:])
