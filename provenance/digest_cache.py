"""Digests of a folder's files, remembered: what did not change since is not hashed again. Never for the gate.

Rules this module keeps:
  1. A file's digest is taken from memory only if its path, size, time of change of content (mtime) and of anything
     (ctime), inode and device are all as they were before and after it was hashed. Who rewrites a file and sets its
     mtime back changes its ctime, which no ordinary call can set.
  2. A file that was changed within RACY_NS of its hashing, or in the future, is not remembered: a clock that ticks too
     slowly would show the next change as none (git calls such an entry racy).
  3. A stated part of what is remembered is hashed again in every run, the longest unproved first, so that each entry is
     proved in 1 / part runs at the latest. One that is wrong discredits the whole memory, and everything is hashed.
  4. The memory is bound to the folder and authenticated by a key of the state folder. One that is damaged, foreign,
     forged or too large is passed over and made anew, with a word for the caller to tell; it is never an error.
What it cannot see: bytes that change without the file system's knowledge (the raw device, a failing disk, root who sets
the clock back, a memory map that was open for writing before the file was hashed), until rule 3 comes to them.
`--no-cache` hashes everything.

Format: docs/formats/digest-cache.md.
"""

import fcntl
import hashlib
import hmac
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from millcert.errors import MillcertError, StoreError, UsageError
from millcert.provenance.atomic_file import replace_file
from millcert.provenance.digest import hash_folder
from millcert.provenance.keys import PRIVATE_MODE, create_file
from millcert.provenance.manifest import FileEntry

#: The part of the remembered files that each run hashes again. Our choice: every file within 20 runs.
PROVED_FRACTION = 0.05
#: How old a change must be when a file is hashed: the coarsest clock of a file system that is in use (FAT: 2 s).
RACY_NS = 2_000_000_000
#: A smaller file is always hashed: that costs less than to remember it (measured on 4 KiB: 14 beside 22 CPU-us).
MIN_BYTES = 32 * 1024
#: The largest memory of one folder, and how many folders are remembered. Our choice.
MAX_ENTRIES = 1_000_000
MAX_CACHE_BYTES = 512 * 1024 * 1024
MAX_FOLDERS = 64

FOLDER_NAME = "digests"
_KEY_FILE = "digests.key"
_KEY_BYTES = 32
_MAGIC = b"millcert digest cache 1\n"
_MAC_BYTES = 65
_FOREIGN = "the memory of digests is not one that this state folder wrote"


class FileState(NamedTuple):
    """What the file system says of a file."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


class Remembered(NamedTuple):
    """A file's digest with the state that it was taken in. proved: the run that hashed it last."""

    state: FileState
    sha256: str
    proved: int


@dataclass(frozen=True)
class HashedFolder:
    """A folder's entries, and how they came about.

    entries: by path. hashed: files that were read. reused: digests that were remembered. proved: of the files that were
    read, those whose digest was remembered as well. notes: sentences for the caller to tell.
    """

    entries: tuple[FileEntry, ...]
    hashed: int
    reused: int
    proved: int
    notes: tuple[str, ...] = ()


@dataclass
class _Run:
    """One run over a folder: what is known, and what was found of files that are hashed."""

    top: str
    known: Mapping[str, Remembered]
    proof: frozenset[str]
    states: dict[str, FileState] = field(default_factory=dict)
    kept: dict[str, Remembered] = field(default_factory=dict)

    def entry(self, path: str) -> FileEntry | None:
        """Return a file's entry from memory, None where it must be hashed."""
        try:
            found = os.lstat(f"{self.top}/{path}")
        except OSError:
            return None  # hashing it tells what is wrong
        if not stat.S_ISREG(found.st_mode) or found.st_size < MIN_BYTES:
            return None
        state = _state(found)
        known = self.known.get(path)
        if known is not None and known.state == state and path not in self.proof:
            self.kept[path] = known
            return FileEntry(path, state.size_bytes, known.sha256)
        self.states[path] = state
        return None


def hash_folder_cached(
    folder: Path,
    *,
    cache: Path | None,
    exclude: frozenset[str] = frozenset(),
    threads: int | None = None,
    now_ns: int | None = None,
) -> HashedFolder:
    """Return an entry for every file below a folder, as `hash_folder`, with what is remembered of it.

    Args:
        folder: may itself be a link; nothing below it may.
        cache: folder of the memories, made if it is not there; None hashes everything and remembers nothing.
        exclude: POSIX paths relative to `folder` that are left out.
        threads: how many hash; None for one a core.
        now_ns: when the run begins, nanoseconds since 1970; None for the clock's time.

    Raises:
        UsageError, ManifestError, DigestMismatchError: as `hash_folder`.

    Cost: a look at each file, and the hashing of those that changed and of PROVED_FRACTION of the others.
    """
    if cache is None:
        entries = hash_folder(folder, exclude=exclude, threads=threads)
        return HashedFolder(entries, len(entries), 0, 0)
    started = time.time_ns() if now_ns is None else now_ns
    notes: list[str] = []
    memory = _Memory.open(cache, folder, notes)
    run = _Run(os.fspath(folder), memory.entries, memory.due())
    entries = hash_folder(folder, exclude=exclude, threads=threads, known=run.entry)
    wrong = sorted(path for path in _differing(entries, run, memory.entries))
    if wrong:
        notes.append(
            f"{wrong[0]} has other bytes than were remembered, though the file system says that it did not change; "
            "nothing that was remembered counts, everything was hashed again"
        )
        run = _Run(os.fspath(folder), {}, frozenset())
        entries = hash_folder(folder, exclude=exclude, threads=threads, known=run.entry)
    proved = sum(path in run.proof and run.known[path].state == state for path, state in run.states.items())
    fresh = {
        entry.path: Remembered(run.states[entry.path], entry.sha256, memory.run)
        for entry in entries
        if entry.path in run.states and _is_settled(run, entry, started)
    }
    memory.save({**run.kept, **fresh}, notes)
    return HashedFolder(entries, len(entries) - len(run.kept), len(run.kept), proved, tuple(notes))


def _differing(entries: Iterable[FileEntry], run: _Run, known: Mapping[str, Remembered]) -> Iterable[str]:
    """Yield the files that were hashed, did not change by their state, and have another digest than remembered."""
    for entry in entries:
        state, before = run.states.get(entry.path), known.get(entry.path)
        if state is not None and before is not None and before.state == state and before.sha256 != entry.sha256:
            yield entry.path


def _is_settled(run: _Run, entry: FileEntry, started: int) -> bool:
    """Tell whether a file that was hashed may be remembered (rules 1 and 2)."""
    before = run.states[entry.path]
    try:
        after = _state(os.lstat(f"{run.top}/{entry.path}"))
    except OSError:
        return False
    return before == after and max(before.mtime_ns, before.ctime_ns) < started - RACY_NS


def _state(found: os.stat_result) -> FileState:
    return FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


class _Memory:
    """What is remembered of one folder. run: the number of this run, from 1."""

    def __init__(self, path: Path, top: str, key: bytes) -> None:
        self.path = path
        self.top = top
        self.entries: dict[str, Remembered] = {}
        self.run = 1
        self._key = key

    @classmethod
    def open(cls, cache: Path, folder: Path, notes: list[str]) -> "_Memory":
        """Return what is remembered; nothing, with a note, where that cannot be trusted (rule 4)."""
        top = os.path.realpath(folder)
        path = cache / hashlib.sha256(os.fsencode(top)).hexdigest()
        try:
            memory = cls(path, top, _load_key(cache))
        except (MillcertError, OSError) as error:
            notes.append(f"digests are not remembered: {error}")
            return cls(path, top, b"")
        try:
            data = _read(path)
        except FileNotFoundError:
            return memory
        except OSError as error:
            notes.append(f"the memory of digests cannot be read ({error.strerror}); it is made anew")
            return memory
        try:
            memory._parse(data)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            memory.entries, memory.run = {}, 1
            what = _FOREIGN if str(error) == _FOREIGN else "the memory of digests is damaged"
            notes.append(f"{what}; it is made anew")
        return memory

    def due(self) -> frozenset[str]:
        """Return the paths that are hashed again in this run (rule 3)."""
        count = math.ceil(PROVED_FRACTION * len(self.entries))

        def order(path: str) -> tuple[int, bytes]:
            # Among equals the key decides, so nobody who lacks it knows which come next.
            return self.entries[path].proved, hmac.digest(self._key, f"{self.run} {path}".encode(), "sha256")

        return frozenset(sorted(self.entries, key=order)[:count])

    def save(self, entries: Mapping[str, Remembered], notes: list[str]) -> None:
        """Keep what is known now; a memory that cannot be kept is a note."""
        if not self._key:
            return
        # The largest files are worth most.
        largest = sorted(entries, key=lambda path: (-entries[path].state.size_bytes, path))[:MAX_ENTRIES]
        rows = [[path, *entries[path].state, entries[path].sha256, entries[path].proved] for path in sorted(largest)]
        document = {"entries": rows, "folder": self.top, "run": self.run}
        body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        mac = hmac.digest(self._key, _MAGIC + body, "sha256").hex().encode() + b"\n"
        try:
            with _locked(self.path.parent):
                replace_file(self.path, lambda stream: stream.writelines([_MAGIC, mac, body]))
                _forget_oldest(self.path.parent)
        except (StoreError, OSError) as error:
            notes.append(f"digests could not be remembered: {error}")

    def _parse(self, data: bytes) -> None:
        head = len(_MAGIC)
        if not data.startswith(_MAGIC) or len(data) < head + _MAC_BYTES or len(data) > MAX_CACHE_BYTES:
            raise ValueError("no memory of digests")
        mac, body = data[head : head + _MAC_BYTES - 1], data[head + _MAC_BYTES :]
        if not hmac.compare_digest(mac, hmac.digest(self._key, _MAGIC + body, "sha256").hex().encode()):
            raise ValueError(_FOREIGN)
        document: dict[str, Any] = json.loads(body)
        if document["folder"] != self.top:
            raise ValueError(_FOREIGN)
        self.run = document["run"] + 1
        self.entries = {
            path: Remembered(FileState(size, mtime, ctime, inode, device), sha256, proved)
            for path, size, mtime, ctime, inode, device, sha256, proved in document["entries"]
        }


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(MAX_CACHE_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _load_key(cache: Path) -> bytes:
    """Return the key that authenticates memories, made on first use.

    Raises:
        UsageError: the file holds no such key, or others can read it.
        OSError: the folder cannot be used.
    """
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = cache / _KEY_FILE
    if not os.path.lexists(path):
        with suppress(FileExistsError):  # another process was first
            create_file(path, secrets.token_bytes(_KEY_BYTES), PRIVATE_MODE)
    key = _read(path)
    mode = path.stat().st_mode
    if len(key) != _KEY_BYTES or mode & 0o077:
        raise UsageError(
            f"{path} is no key, or others can read it (mode {stat.S_IMODE(mode):04o}).",
            hint="Delete the folder; it is made again.",
        )
    return key


class _locked:  # noqa: N801 - reads as the statement that it is
    """Hold the lock of the memories; it ends with the process at the latest."""

    def __init__(self, cache: Path) -> None:
        self._descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _forget_oldest(cache: Path) -> None:
    memories = [path for path in cache.iterdir() if len(path.name) == 64 and not path.name.startswith(".")]
    newest_first = sorted(memories, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    for path in newest_first[MAX_FOLDERS:]:
        path.unlink(missing_ok=True)
