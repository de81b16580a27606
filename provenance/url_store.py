"""Where fetched bytes are kept until all are there, and how they then appear: all at once.

Beside the output DIR stands `.DIR.fetching`, kept between runs:

| objects/<sha256> | bytes whose digest was that when they came; hashed again before they are used |
| part-* | what is being fetched; removed by the next run |
| new/ | the output while it is built; removed by the next run |

True after a crash at any line: the old output (or none) is there untouched, or the new one is there whole; in between
two renames the next run puts the old one back.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from millcert.errors import DigestMismatchError, ManifestError, StoreError, UsageError
from millcert.provenance.digest import FileDigest, sha256_file
from millcert.provenance.keys import sync_folder
from millcert.provenance.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from millcert.provenance.pq_signature import PQ_SUFFIX
from millcert.provenance.trust_rules import BUNDLE_SUFFIX, MANIFEST_NAME

#: What stands in an output besides the files that its manifest lists: never a file's own path.
OWN_NAMES = frozenset(MANIFEST_NAME + suffix for suffix in ("", BUNDLE_SUFFIX, PQ_SUFFIX))


class ObjectSink:
    """A file that takes one body and counts its digest; use it as `with store.sink() as sink`."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.NamedTemporaryFile(dir=folder, prefix="part-", delete=False)  # noqa: SIM115 - closed by `close`
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def restart(self) -> None:
        """Forget what was written."""
        with _store_errors(Path(self._file.name)):
            self._file.seek(0)
            self._file.truncate()
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, chunk: bytes) -> bool:
        """Take the next piece; always True.

        Raises:
            StoreError: the disk does not take it.
        """
        with _store_errors(Path(self._file.name)):
            self._file.write(chunk)
        self._hash.update(chunk)
        self.size_bytes += len(chunk)
        return True

    @property
    def sha256(self) -> str:
        """The digest of what was written, hex."""
        return self._hash.hexdigest()

    def keep(self, target: Path) -> None:
        """Give the bytes their name. What a loss of power leaves of them is hashed again before it is used.

        Raises:
            StoreError: the disk does not take them.
        """
        with _store_errors(target):
            self._file.flush()
            Path(self._file.name).chmod(0o644)
            Path(self._file.name).replace(target)

    def close(self) -> None:
        """Remove what was not kept."""
        self._file.close()
        with suppress(FileNotFoundError):
            Path(self._file.name).unlink()


class FetchStore:
    """The place of one fetch's bytes; made by `fetch_store`, which holds its lock."""

    def __init__(self, out: Path, work: Path) -> None:
        self.out = out
        self._work = work
        self._objects = work / "objects"
        self._places: dict[str, Path] = {}
        self._right: set[str] = set()

    @contextmanager
    def sink(self) -> Iterator[ObjectSink]:
        """Yield a file for one body.

        Raises:
            StoreError: it cannot be made.
        """
        with _store_errors(self._work):
            sink = ObjectSink(self._work)
        try:
            yield sink
        finally:
            sink.close()

    def keep(self, sink: ObjectSink) -> None:
        """Keep a whole body under its digest.

        Raises:
            StoreError: the disk does not take it.
        """
        target = self._objects / sink.sha256
        sink.keep(target)
        self._places[sink.sha256] = target

    def size_of(self, sha256: str, path: str) -> int | None:
        """Return the size of bytes that are here already and, hashed again, still have their digest; else None.

        Args:
            sha256: the digest.
            path: where the output of an earlier run may have them.
        """
        held = self._objects / sha256
        for place in (self.out / path, held):
            found = _digest_of(place)
            if found is not None and found.sha256 == sha256:
                self._places[sha256] = place
                self._right |= {path} if place != held else set()
                return found.size_bytes
        with _store_errors(held):
            held.unlink(missing_ok=True)
        return None

    def is_whole(self, manifest: Manifest) -> bool:
        """Tell whether the output that is there has every file of a manifest, hashed in this run."""
        return all(
            entry.path in self._right
            or ((found := _digest_of(self.out / entry.path)) is not None and found.sha256 == entry.sha256)
            for entry in manifest.files
        )

    def discard(self) -> None:
        """Forget what was kept for a next run.

        Raises:
            StoreError: the file system refused.
        """
        with _store_errors(self._work):
            shutil.rmtree(self._work)

    def published(self) -> Manifest | None:
        """Return the manifest of the output that is there, None where there is no output.

        Raises:
            UsageError: what is there is no output of a fetch: it has no manifest, or files that are not in it.
        """
        if not os.path.lexists(self.out):
            return None
        foreign = f"{self.out} is not what an earlier fetch made"
        hint = "Choose another --out; only what millcert fetched is ever replaced."
        try:
            with (self.out / MANIFEST_NAME).open("rb") as stream:
                manifest = parse_manifest(stream.read(MAX_MANIFEST_BYTES + 1))
        except (OSError, ManifestError) as error:
            raise UsageError(f"{foreign}: it has no manifest.", hint=hint) from error
        listed = OWN_NAMES.union(entry.path for entry in manifest.files)
        for folder, names, files in os.walk(self.out):
            for name in [*files, *(one for one in names if (Path(folder) / one).is_symlink())]:
                path = (Path(folder) / name).relative_to(self.out).as_posix()
                if path not in listed:
                    raise UsageError(f"{foreign}: {path} is not in its manifest.", hint=hint)
        return manifest

    def promote(self, manifest: Manifest) -> None:
        """Turn the kept bytes into the output, whole.

        Raises:
            StoreError: the file system refused; the old output is there, or put back by the next run.
        """
        new = self._work / "new"
        with _store_errors(self.out):
            for entry in manifest.files:
                target = new / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(self._places[entry.sha256], target)
            new.mkdir(exist_ok=True)
            with (new / MANIFEST_NAME).open("xb") as stream:
                stream.write(manifest.to_json())
            os.sync()  # once for all: a call for each of many small files takes longer than to fetch them
            if os.path.lexists(self.out):
                self.out.rename(_aside(self.out))
            new.rename(self.out)
            sync_folder(self.out.parent)
            shutil.rmtree(_aside(self.out), ignore_errors=True)
        self.discard()


@contextmanager
def fetch_store(out: Path) -> Iterator[FetchStore]:
    """Yield the store of an output folder; one process at a time has it.

    Raises:
        UsageError: another fetch to the same folder is running, or what stands in the place of kept bytes is another's.
        StoreError: it cannot be made beside the folder.
    """
    out = out.parent.resolve() / out.name
    work = out.parent / f".{out.name}.fetching"
    with _locked(out):
        with _store_errors(out):
            _restore(out)
            _refuse_foreign(work)
            work.mkdir(mode=0o700, exist_ok=True)
            (work / "objects").mkdir(exist_ok=True)
            for stale in work.glob("part-*"):
                stale.unlink()
            if (work / "new").exists():
                shutil.rmtree(work / "new")
        store = FetchStore(out, work)
        try:
            yield store
        finally:
            for folder in (work / "objects", work):  # only where nothing is kept for the next run
                with suppress(OSError):
                    folder.rmdir()


def _refuse_foreign(work: Path) -> None:
    """Refuse a link or another user's folder: who owns it could swap bytes after they were hashed."""
    if not os.path.lexists(work):
        return
    found = work.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UsageError(
            f"{work} is no folder of this user's own, so what it holds is no kept part of a fetch.",
            hint="Somebody else put it there. Choose another --out, in a folder that only you write to.",
            path=str(work),
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    lock = out.parent / f".{out.name}.fetching.lock"
    with _store_errors(lock):
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Another fetch writes to {out} now.", hint="Wait for it.") from error
        yield
    finally:
        os.close(descriptor)  # the file stays: to remove it would let two processes hold two locks


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Cannot write {path}: {error.strerror or error}.",
            hint="Free space or rights, then run again; what is verified already is not fetched again.",
            path=str(path),
        ) from error


def _digest_of(path: Path) -> FileDigest | None:
    with suppress(UsageError, ManifestError, DigestMismatchError):
        return sha256_file(path)
    return None


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has none, copy it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)


def _aside(out: Path) -> Path:
    return out.parent / f".{out.name}.replaced"


def _restore(out: Path) -> None:
    aside = _aside(out)
    if not os.path.lexists(aside):
        return
    if os.path.lexists(out):
        shutil.rmtree(aside)
    else:
        aside.rename(out)
