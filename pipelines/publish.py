"""How a run's outputs appear: all at once, or not at all.

A run writes into a staging folder beside its output and nothing else. On a local file system one rename turns staging
into the output, after every file and folder was synced. Where a rename is not atomic (object stores), the certificate
is placed before the first admitted file and the verdict after the last, so at no instant is there an `admitted/` that
`millcert admit` would accept and that is not whole.

What is true after a crash at any line: either the old output (or none) is there untouched, or the new one is there
whole. Left-over staging folders are removed by the next run that holds the lock; one that resumes takes from them
what it can use (work_keeping.py), and removes them when it is done.
"""

import fcntl
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from millcert.errors import StoreError, UsageError
from millcert.pipelines.remote_file import create_remote

#: The order of a promotion that is not atomic: what proves comes first, what declares the end comes last.
FIRST = ("certificate.json",)
LAST = ("verdict.json",)
#: All that a run publishes. A folder that holds anything else is not an earlier output and is never replaced.
PUBLISHED = frozenset(
    {
        "admitted",
        "certificate.json",
        "expectation_rows.parquet",
        "expectations.json",
        "findings.parquet",
        "history.json",
        "malformed.parquet",
        "manifest.json",
        "profile.dsse.json",
        "profile.json",
        "quarantine",
        "rates.json",
        "report.html",
        "verdict.json",
    }
)


def is_local(uri: str) -> bool:
    """Say whether a path is on the local file system; see `local_path` for "file://"."""
    return "://" not in uri


def local_path(uri: str) -> str:
    """Return a "file://" URI as a plain path, because Beam has no file system for it; anything else as it is."""
    return uri.removeprefix("file://")


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
            with create_remote(uri) as stream:
                stream.write(data)
    except OSError as error:
        raise StoreError(f"Cannot write {uri}: {error}", hint="Free space or rights, then run again.") from error


@contextmanager
def staging_for(
    out: str,
    *,
    replace: bool,
    marker: str = LAST[0],
    keeps_left: bool = False,
    is_unfinished: bool = False,
    is_worth_keeping: Callable[[BaseException, str], bool] = lambda _, __: False,
) -> Iterator[str]:
    """Yield a fresh staging folder for `out`, which only this run writes to; remove it at the end, whatever happened.

    Args:
        out: where to publish.
        replace: an earlier output there may be replaced.
        marker: the file that tells an earlier output of ours.
        keeps_left: folders that earlier runs left are removed when this run is done, not before (`left_stagings`).
        is_unfinished: what is at `out` was being published when a run was killed; it is completed or replaced.
        is_worth_keeping: says of what ended a run, and of its folder, whether it stays for a run that resumes.

    Raises:
        UsageError: `out` exists and `replace` is false, or another run is writing to it now.
        StoreError: the folder cannot be made.
    """
    if not is_local(out):
        refuse_existing(out, replace=replace, marker=marker, is_unfinished=is_unfinished)
        staging = f"{out.rstrip('/')}.staging-{os.urandom(8).hex()}"
        left = [] if not keeps_left else left_stagings(out)
        try:
            yield staging
        except BaseException as error:
            if not is_worth_keeping(error, staging):
                _delete_remote(staging)
            raise
        for folder in [staging, *left]:
            _delete_remote(folder)
        return
    path = Path(out).resolve()
    with _locked(path):
        try:
            _restore(path)
            refuse_existing(out, replace=replace, marker=marker, is_unfinished=is_unfinished)
            left = left_stagings(out)
            if not keeps_left:
                _remove_all(left)
            staging = tempfile.mkdtemp(prefix=f".{path.name}.staging-", dir=path.parent)
        except OSError as error:
            raise StoreError(f"Cannot prepare {path}: {error}", hint="Free space or rights, then run again.") from error
        try:
            yield staging
        except BaseException as error:
            if not is_worth_keeping(error, staging):
                _remove_all([staging])
            raise
        _remove_all([staging, *left])


def left_stagings(out: str) -> list[str]:
    """Return the staging folders that earlier runs to `out` left behind, the youngest first.

    Raises:
        StoreError: the store cannot be listed.
    """
    if is_local(out):
        path = Path(out).resolve()
        found = [stale for stale in path.parent.glob(f".{glob.escape(path.name)}.staging-*") if stale.is_dir()]
        return [str(stale) for stale in sorted(found, key=lambda stale: (-stale.stat().st_mtime_ns, stale.name))]
    start = f"{out.rstrip('/')}.staging-"
    ages: dict[str, float] = {}
    try:
        listed = FileSystems.match([f"{start}**"])[0].metadata_list
    except OSError as error:
        raise StoreError(f"Cannot list {start}*: {error}", hint="Check the rights, then run again.") from error
    for entry in listed:
        folder = start + entry.path.removeprefix(start).split("/")[0]
        ages[folder] = max(ages.get(folder, 0.0), entry.last_updated_in_seconds)
    return sorted(ages, key=lambda folder: (-ages[folder], folder))


def _remove_all(folders: Sequence[str]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_existing(out: str, *, replace: bool, marker: str = LAST[0], is_unfinished: bool = False) -> None:
    """Refuse to write over an earlier run unless asked to, or unless it is `is_unfinished`.

    Raises:
        UsageError: there is something at `out`; or, with `replace`, something that no run of ours published.
    """
    if is_local(out):
        path = Path(out).resolve()
        found = {entry.name for entry in path.iterdir()} if path.is_dir() else {""} if path.exists() else set()
    else:
        found = {name.split("/")[0] for name in _remote_names(out)}
    if found and not replace and not is_unfinished:
        raise UsageError(f"{out} exists already.", hint="Choose another --out, or give --replace.")
    foreign = sorted(found - PUBLISHED) if marker == LAST[0] else []
    if foreign or (found and marker not in found and not is_unfinished):
        raise UsageError(
            f"{out} is not the output of an earlier run"
            + (f": it holds {', '.join(foreign[:5])}." if any(foreign) else "."),
            hint="Choose another --out; only what millcert published is ever replaced.",
        )


def refuse_overlap(out: str, datasets: Sequence[str], state: Path) -> None:
    """Refuse an output among the data, and data or keys inside an output: publishing would read or remove them.

    Raises:
        UsageError: one of the local folders holds the other.
    """
    if not is_local(out):
        return
    target = Path(out).resolve()
    local = [Path(dataset).resolve() for dataset in datasets if is_local(dataset)]
    inside = [path for path in [*local, state.resolve()] if path.is_relative_to(target)]
    around = [path for path in local if path.is_dir() and target.is_relative_to(path)]
    if inside or around:
        raise UsageError(
            f"{inside[0]} lies inside the output {target}." if inside else f"The output {target} lies inside the data.",
            hint="Choose an --out beside the data and the state folder.",
        )


def promote(published: str, out: str, *, after: Callable[[str], None] = lambda _: None) -> None:
    """Turn the folder `published` (inside staging) into `out`.

    `after` is called with the name of each step that was done; tests stop there.

    Raises:
        StoreError: the file system refused; `out` is as it was before (local), or refused by `millcert admit` (remote).
    """
    try:
        if is_local(out):
            _promote_by_rename(Path(published), Path(out).resolve(), after)
        else:
            _remove_earlier(out, after)
            promote_in_order(published, out, after=after)
    except OSError as error:
        raise StoreError(f"Cannot publish {out}: {error}", hint="Nothing was half-written; run again.") from error


def promote_in_order(published: str, out: str, *, after: Callable[[str], None] = lambda _: None) -> None:
    """Copy file by file: certificate first, verdict last. For file systems without an atomic rename of folders."""
    prefix = published.rstrip("/") + "/"
    for name in sorted(_remote_names(published), key=lambda name: (name not in FIRST, name in LAST, name)):
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


def _remote_names(folder: str) -> list[str]:
    """Return the names of all files below a remote folder, relative to it, sorted."""
    prefix = folder.rstrip("/") + "/"
    try:
        return sorted(entry.path.removeprefix(prefix) for entry in FileSystems.match([prefix + "**"])[0].metadata_list)
    except OSError as error:
        raise StoreError(f"Cannot list {folder}: {error}", hint="Check the rights, then run again.") from error
    except ValueError as error:
        raise UsageError(
            f"Beam knows no file system for {folder}: {error}", hint="Install its extra: gcp, aws or azure."
        ) from error


def _remove_earlier(out: str, after: Callable[[str], None]) -> None:
    """Remove an earlier remote output, its certificate first: from then on nothing in it is admitted."""
    names = _remote_names(out)
    for some in ([name for name in names if name in FIRST], [name for name in names if name not in FIRST]):
        if some:
            FileSystems.delete([f"{out.rstrip('/')}/{name}" for name in some])
            after("old removed")


def _delete_remote(folder: str) -> None:
    """Remove a remote staging folder; what went wrong before is told rather than what goes wrong here."""
    is_failing = sys.exc_info()[0] is not None
    try:
        found = [f"{folder}/{name}" for name in _remote_names(folder)]
        if found:
            FileSystems.delete(found)
    except (OSError, StoreError) as error:
        if is_failing:
            return
        raise StoreError(f"Cannot remove {folder}: {error}", hint="Remove it by hand; it holds no output.") from error
