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
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from millcert.errors import DigestMismatchError, HostileDataError, StoreError, UsageError
from millcert.pipelines.formats.base import FORMATS, Format, ReadLimits, format_of_name
from millcert.pipelines.formats.huggingface import SPLITS, STATE, check_split, check_splits
from millcert.pipelines.spool_memory import HeldBytes
from millcert.provenance.digest import BOOKKEEPING
from millcert.provenance.digest_algorithms import DigestAlgorithm, ManyHashers

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
    "*.sig",
    "*.intoto.jsonl",
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

    file: seekable and readable; closed when the context of `read_verified` ends. sha256: hex. others: further
    digests of the same bytes, hex by algorithm, as they were asked for.
    """

    file: BinaryIO
    sha256: str
    size_bytes: int
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetFile:
    """One file of a data set.

    uri: what `read_verified` opens. name: POSIX path relative to what the user named. format: a format or "auxiliary".
    is_selection: named by a file or glob, so that files beside it may have been left out on purpose.
    """

    uri: str
    name: str
    size_bytes: int
    format: Kind
    is_selection: bool = False


@dataclass(frozen=True)
class _Found:
    uri: str
    name: str
    size_bytes: int
    is_selection: bool


@contextmanager
def read_verified(
    uri: str, *, expected_sha256: str | None, limits: ReadLimits, algorithms: Sequence[DigestAlgorithm] = ()
) -> Iterator[Spooled]:
    """Hold a file's bytes, hashed while they were read, for as long as the context lasts.

    Args:
        uri: any path that Beam's file systems open.
        expected_sha256: hex; None to find out.
        limits: `max_file_bytes` and `spool_memory_bytes` apply.
        algorithms: further digests to take of the same bytes.

    Raises:
        DigestMismatchError: the bytes are not the expected ones.
        HostileDataError: the file is larger than `max_file_bytes`.
        UsageError: there is no such file, or it is no regular file.
        StoreError: reading it, or writing the temporary copy, failed.

    Cost: one read, one SHA-256, and a copy on the worker's disk above `spool_memory_bytes`.
    """
    spooled = _spool(uri, limits, algorithms)
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


def match_files(
    patterns: Sequence[str], *, limits: ReadLimits | None = None, auxiliary: Sequence[str] = ()
) -> tuple[DatasetFile, ...]:
    """Return the files that the arguments name, sorted by name.

    An argument is a file, a glob (`**` crosses folders), or a folder, such as one of Hugging Face's `save_to_disk`.
    A file's name is relative to the folder, to the glob's prefix without wildcards, or is the base name of a file.

    Args:
        patterns: paths or URIs.
        limits: `max_file_bytes` applies.
        auxiliary: more names of files that stand beside the data, such as the policy's manifests; globs.

    Raises:
        UsageError: nothing matches; two files have one name; a file is of no known kind; a link or special file is
            found.
        HostileDataError: a file is too large; a Hugging Face folder does not hold what its `state.json` lists.
        StoreError: a listing failed.
    """
    if not patterns:
        raise UsageError("No data was named.", hint="Name files, globs or folders.")
    bounds = limits or ReadLimits()
    found: dict[str, DatasetFile] = {}
    unknown: list[str] = []
    for pattern in patterns:
        for each in _expand(pattern):
            is_beside = any(glob_matches(each.name, wanted) for wanted in auxiliary)
            kind = "auxiliary" if is_beside else kind_of(each.name)
            if kind is None:
                unknown.append(each.uri)
                continue
            if each.size_bytes > bounds.max_file_bytes:
                raise _too_large(each.uri, bounds)
            if each.name in found and found[each.name].uri != each.uri:
                raise UsageError(
                    f"Two files have the name {each.name!r} in the data set: {found[each.name].uri} and {each.uri}.",
                    hint="Name the folder above both, or put them into folders of different names.",
                    path=each.name,
                )
            found[each.name] = DatasetFile(each.uri, each.name, each.size_bytes, kind, each.is_selection)
    if unknown:
        listed = ", ".join(sorted(unknown)[:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        raise UsageError(
            f"{len(unknown)} files are of no kind that is read: {listed}.",
            hint=f"Data is {', '.join(FORMATS)} by its suffix. Take other files out of the folder, or name the data "
            f"by a glob: nothing is left out in silence.",
            paths=tuple(sorted(unknown)),
        )
    if not any(each.format != "auxiliary" for each in found.values()):
        raise UsageError(f"No data file matches {', '.join(patterns)}.", hint="Check the path and the suffixes.")
    _check_saved_splits(found)
    return tuple(sorted(found.values(), key=lambda each: each.name))


def kind_of(name: str) -> Kind | None:
    """Return what a file is by its name; None if nothing says so."""
    base = posixpath.basename(name)
    if any(fnmatch.fnmatchcase(base, pattern) for pattern in AUXILIARY):
        return "auxiliary"
    if any(part.startswith(".") for part in name.split("/")):
        return None
    return format_of_name(base)


def _check_saved_splits(found: Mapping[str, DatasetFile]) -> None:
    """Hold folders of Hugging Face's `save_to_disk` to what their own lists say."""
    for name, each in sorted(found.items()):
        folder, base = posixpath.split(name)
        if each.is_selection or base not in {STATE, SPLITS}:
            continue
        data = _read_small(each.uri)
        if base == STATE:
            present = [
                posixpath.basename(other.name)
                for other in found.values()
                if other.format == "arrow" and posixpath.dirname(other.name) == folder
            ]
            check_split(data, present, name=name)
        else:
            below = [
                posixpath.relpath(other.name, folder or ".") for other in found.values() if other.format == "arrow"
            ]
            check_splits(data, sorted({path.split("/")[0] for path in below if not path.startswith("..")}), name=name)


def _read_small(uri: str) -> bytes:
    limits = ReadLimits(max_file_bytes=_CHUNK_BYTES)
    with read_verified(uri, expected_sha256=None, limits=limits) as spooled:
        return spooled.file.read()


def _spool(uri: str, limits: ReadLimits, algorithms: Sequence[DigestAlgorithm]) -> Spooled:
    memory = HeldBytes()
    target: BinaryIO = cast("BinaryIO", memory)
    try:
        digest = ManyHashers(algorithms)
        with open_source(uri) as source:
            size = _read_at_once(memory, source, digest, limits)
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                if size > limits.max_file_bytes:
                    raise _too_large(uri, limits)  # noqa: TRY301 - closing the copy is the same for all errors
                if not memory.closed and size > limits.spool_memory_bytes:
                    target = tempfile.TemporaryFile(prefix="millcert-")  # noqa: SIM115 - closed by read_verified
                    target.write(memory.view)
                    memory.close()
                target.write(chunk)
        target.flush()
    except BaseException as error:
        target.close()
        if isinstance(error, OSError):
            raise _store_error(uri, error) from error
        raise
    target.seek(0)
    return Spooled(target, digest.sha256, size, digest.others)


def _read_at_once(memory: HeldBytes, source: BinaryIO, digest: ManyHashers, limits: ReadLimits) -> int:
    """Read and hash a local file of known size into `memory`, without a copy; return how many bytes there were.

    A file that grew meanwhile goes on behind what was read.
    """
    try:
        size = os.fstat(source.fileno()).st_size
    except (OSError, AttributeError):  # not a local file
        return 0
    if not 0 < size <= min(limits.spool_memory_bytes, limits.max_file_bytes):
        return 0
    done = 0
    with memory.room(size) as view:
        while done < size and (got := source.readinto(view[done : done + _CHUNK_BYTES])):  # type: ignore[attr-defined]
            digest.update(view[done : done + got])
            done += got
    memory.grow(done)
    return done


def _too_large(uri: str, limits: ReadLimits) -> HostileDataError:
    return HostileDataError(
        f"{uri}: the file is larger than {limits.max_file_bytes} bytes.",
        hint="Raise the limit max_file_bytes, or split the file.",
        path=uri,
    )


@contextmanager
def open_source(uri: str) -> Iterator[BinaryIO]:
    """Open for reading, the bytes as stored. Nothing of them is verified, so no parser may see them.

    Raises:
        UsageError: it is no regular file.
        StoreError: a remote file cannot be opened.
        OSError: a local one cannot; `translate_read_errors` turns it into one of the above.
    """
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
    except (OSError, ValueError, BeamIOError) as error:
        raise StoreError(f"{uri}: opening failed: {error}", hint="Check the path and the credentials.") from error
    with remote:
        yield remote


@contextmanager
def translate_read_errors(uri: str) -> Iterator[None]:
    """Turn an operating system's refusal to read into an error of ours that names the file."""
    try:
        yield
    except OSError as error:
        raise _store_error(uri, error) from error


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


def _expand(pattern: str) -> Iterator[_Found]:
    """Yield the files that one argument names."""
    return _expand_local(pattern.removeprefix("file://"), pattern) if _is_local(pattern) else _expand_remote(pattern)


def _expand_local(path: str, pattern: str) -> Iterator[_Found]:
    if Path(path).is_dir():  # a link that the user named is followed
        yield from _walk(path.rstrip("/") or "/", path.rstrip("/") or "/", None)
        return
    if os.path.lexists(path):
        facts = _stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{pattern}: neither a regular file nor a folder.", path=pattern)
        yield _Found(path, Path(path).name, facts.st_size, is_selection=True)
        return
    prefix = _prefix(path)
    if prefix == path:
        raise UsageError(f"{pattern}: there is no such file or folder.", hint="Check the path.", path=pattern)
    base = prefix.rstrip("/") or ("/" if prefix else ".")
    found = list(_walk(base, base, path[len(prefix) :])) if Path(base).is_dir() else []
    if not found:
        raise UsageError(f"{pattern}: nothing matches.", hint="Check the path; quote globs.", path=pattern)
    yield from found


def _walk(root: str, folder: str, wanted: str | None) -> Iterator[_Found]:
    """Yield the regular files below a folder; those whose relative name matches `wanted` if that is given."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise StoreError(f"{folder}: listing failed: {error}", hint="Check the permissions.", path=folder) from error
    for entry in entries:
        name = posixpath.relpath(entry.path, root)
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in BOOKKEEPING:
                yield from _walk(root, entry.path, wanted)
            continue
        if wanted is not None and not glob_matches(name, wanted):
            continue
        if not entry.is_file(follow_symlinks=False):
            raise UsageError(
                f"{entry.path}: a link or special file stands among the data.",
                hint="Put the file itself there; a link could be turned to other bytes later.",
                path=entry.path,
            )
        yield _Found(entry.path, name, _stat(entry.path).st_size, is_selection=wanted is not None)


def _stat(path: str) -> os.stat_result:
    try:
        return Path(path).stat()
    except OSError as error:
        raise _store_error(path, error) from error


def _expand_remote(pattern: str) -> Iterator[_Found]:
    prefix = _prefix(pattern)
    exact = [each for each in _match(pattern) if each.path == pattern] if prefix == pattern else []
    if exact and not pattern.endswith("/"):
        yield _Found(pattern, posixpath.basename(pattern), exact[0].size_in_bytes, is_selection=True)
        return
    root = pattern.rstrip("/") + "/" if prefix == pattern else prefix
    wanted = pattern[len(prefix) :] if prefix != pattern else "**"
    is_empty = True
    for each in _match(root + "**"):
        name = each.path[len(root) :]
        # Object stores keep empty objects for folders.
        if name and not name.endswith("/") and glob_matches(name, wanted):
            is_empty = False
            yield _Found(each.path, name, each.size_in_bytes, is_selection=prefix != pattern)
    if is_empty:
        raise UsageError(f"{pattern}: nothing matches.", hint="Check the path; quote globs.", path=pattern)


def _match(pattern: str) -> list[FileMetadata]:
    try:
        return sorted(FileSystems.match([pattern])[0].metadata_list, key=lambda each: each.path)
    except (OSError, ValueError, BeamIOError) as error:
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
