"""How a run's outputs appear: all at once, or not at all.

A run writes into a staging folder beside its output and nothing else. On a local file system one rename turns staging
into the output, after every file and folder was synced. Where a rename is not atomic (object stores), the certificate
is placed before the first admitted file and the verdict after the last, so at no instant is there an `admitted/` that
`millcert admit` would accept and that is not whole.

What is true after a crash at any line: either the old output (or none) is there untouched, or the new one is there
whole. Left-over staging folders are removed by the next run that holds the lock.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from millcert.errors import StoreError, UsageError

#: The order of a promotion that is not atomic: what proves comes first, what declares the end comes last.
FIRST = ("certificate.json",)
LAST = ("verdict.json",)


def is_local(uri: str) -> bool:
    """Say whether a path is on the local file system."""
    return "://" not in uri


def write_file(uri: str, data: bytes) -> None:
    """Write a small file; synced where that means something.

    Raises:
        StoreError: the file system refused; a retry is safe.
    """
    try:
        if is_local(uri):
            path = Path(uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        else:
            with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
                stream.write(data)
    except OSError as error:
        raise StoreError(f"Cannot write {uri}: {error}", hint="Free space or rights, then run again.") from error


@contextmanager
def staging_for(out: str, *, replace: bool) -> Iterator[str]:
    """Yield a fresh staging folder for `out`, which only this run writes to; remove it at the end, whatever happened.

    Raises:
        UsageError: `out` exists and `replace` is false, or another run is writing to it now.
        StoreError: the folder cannot be made.
    """
    if not is_local(out):
        refuse_existing(out, replace=replace)
        staging = f"{out.rstrip('/')}.staging-{os.urandom(8).hex()}"
        try:
            yield staging
        finally:
            _delete_remote(staging)
        return
    path = Path(out).absolute()
    with _locked(path):
        _restore(path)
        refuse_existing(out, replace=replace)
        for stale in path.parent.glob(f".{path.name}.staging-*"):
            shutil.rmtree(stale, ignore_errors=True)
        staging = tempfile.mkdtemp(prefix=f".{path.name}.staging-", dir=path.parent)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def refuse_existing(out: str, *, replace: bool) -> None:
    """Refuse to write over an earlier run unless asked to.

    Raises:
        UsageError: there is something at `out`.
    """
    if replace:
        return
    taken = Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())) if is_local(out) else _any(out)
    if taken:
        raise UsageError(f"{out} exists already.", hint="Choose another --out, or give --replace.")


def promote(published: str, out: str, *, after: Callable[[str], None] = lambda _: None) -> None:
    """Turn the folder `published` (inside staging) into `out`.

    `after` is called with the name of each step that was done; tests stop there.

    Raises:
        StoreError: the file system refused; `out` is as it was before (local), or refused by `millcert admit` (remote).
    """
    try:
        if is_local(out):
            _promote_by_rename(Path(published), Path(out).absolute(), after)
        else:
            promote_in_order(published, out, after=after)
    except OSError as error:
        raise StoreError(f"Cannot publish {out}: {error}", hint="Nothing was half-written; run again.") from error


def promote_in_order(published: str, out: str, *, after: Callable[[str], None] = lambda _: None) -> None:
    """Copy file by file: certificate first, verdict last. For file systems without an atomic rename of folders."""
    prefix = published.rstrip("/") + "/"
    found = [entry.path for entry in FileSystems.match([prefix + "**"])[0].metadata_list]
    names = sorted(path.removeprefix(prefix) for path in found)
    for name in sorted(names, key=lambda name: (name not in FIRST, name in LAST, name)):
        target = f"{out.rstrip('/')}/{name}"
        if is_local(target):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        FileSystems.copy([prefix + name], [target])
        after(name)


def _promote_by_rename(published: Path, out: Path, after: Callable[[str], None]) -> None:
    _sync_tree(published)
    after("synced")
    if out.exists():
        # A crash between the two renames leaves no output; the next run puts the old one back (`_restore`).
        out.rename(_set_aside(out))
        after("old set aside")
        published.rename(out)
        after("renamed")
        shutil.rmtree(_set_aside(out), ignore_errors=True)
    else:
        published.rename(out)
        after("renamed")
    _sync_folder(out.parent)


def _sync_tree(top: Path) -> None:
    for folder, _, names in os.walk(top):
        for name in names:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(folder))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.parent / f".{path.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise StoreError(f"Cannot write beside {path}: {error}", hint="Choose another --out, or free space.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_held = lock.exists() and lock.stat().st_ino == os.fstat(descriptor).st_ino
        except BlockingIOError:
            is_held = False
        if not is_held:
            raise UsageError(f"Another run is writing to {path} now.", hint="Wait for it, or choose another --out.")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _set_aside(out: Path) -> Path:
    return out.parent / f".{out.name}.replaced"


def _restore(out: Path) -> None:
    aside = _set_aside(out)
    if aside.exists() and out.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():
        aside.rename(out)


def _any(out: str) -> bool:
    try:
        return bool(FileSystems.match([out.rstrip("/") + "/**"], limits=[1])[0].metadata_list)
    except OSError as error:
        raise StoreError(f"Cannot list {out}: {error}", hint="Check the rights, then run again.") from error


def _delete_remote(folder: str) -> None:
    try:
        found = [entry.path for entry in FileSystems.match([folder + "/**"])[0].metadata_list]
        if found:
            FileSystems.delete(found)
    except OSError as error:
        raise StoreError(f"Cannot remove {folder}: {error}", hint="Remove it by hand; it holds no output.") from error
