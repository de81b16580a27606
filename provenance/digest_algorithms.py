"""The digests of a file that can count, and how to take several of them in one read.

SHA-256 is always taken: it is what manifests, certificates and the ledger hold. A publisher's list may have others.
They are taken over the very bytes, in the same read, so a file whose SHA-512 is the listed one is bound by its SHA-256
from then on. MD5, SHA-1, BLAKE2 and truncated digests are not here and count nowhere.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, get_args

from millcert.errors import DigestMismatchError, ManifestError, UsageError
from millcert.provenance.manifest import FileEntry

DigestAlgorithm = Literal["sha256", "sha384", "sha512", "blake3"]
#: The digests that a rule may allow.
ALGORITHMS: tuple[DigestAlgorithm, ...] = get_args(DigestAlgorithm)
#: Path -> algorithm -> digest in hex, for files that were hashed with more than SHA-256.
FoundDigests = Mapping[str, Mapping[str, str]]

_DIGITS: Mapping[str, int] = {"sha256": 64, "sha384": 96, "sha512": 128, "blake3": 64}
_HEX = re.compile(r"[0-9a-f]+")
_CHUNK_BYTES = 1024 * 1024


class Hasher(Protocol):
    """What takes one digest, as hashlib's objects do."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far, hex."""


def new_hasher(algorithm: DigestAlgorithm) -> Hasher:
    """Return a fresh hasher.

    Raises:
        UsageError: it is BLAKE3, and the package for it is not installed.
    """
    if algorithm != "blake3":
        hasher: Hasher = hashlib.new(algorithm)
        return hasher
    try:
        from blake3 import blake3
    except ImportError as error:
        raise UsageError(
            "BLAKE3 digests need a package that is not installed.", hint="Install it: pip install 'millcert[blake3]'."
        ) from error
    found: Hasher = blake3()
    return found


class ManyHashers:
    """Takes several digests of one run of bytes. algorithms: besides which SHA-256 is always taken."""

    def __init__(self, algorithms: Iterable[DigestAlgorithm] = ()) -> None:
        self._hashers = {name: new_hasher(name) for name in sorted({"sha256", *algorithms})}

    def update(self, data: bytes | memoryview) -> None:
        """Take more bytes."""
        for hasher in self._hashers.values():
            hasher.update(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 of all bytes so far, hex."""
        return self._hashers["sha256"].hexdigest()

    @property
    def others(self) -> Mapping[str, str]:
        """The other digests, hex, by algorithm."""
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items() if name != "sha256"}


def is_digest(algorithm: str, text: object) -> bool:
    """Tell whether a text is a digest of that algorithm, in lower-case hex."""
    return isinstance(text, str) and len(text) == _DIGITS.get(algorithm) and _HEX.fullmatch(text) is not None


def algorithm_of_length(digits: int) -> DigestAlgorithm | None:
    """Return what a digest of so many hex digits is taken for where nothing names it: one of the SHA-2 family."""
    by_digits: Mapping[int, DigestAlgorithm] = {64: "sha256", 96: "sha384", 128: "sha512"}
    return by_digits.get(digits)


def other_digests(
    folder: str | Path, entries: Sequence[FileEntry], algorithms: Sequence[DigestAlgorithm]
) -> FoundDigests:
    """Return further digests of files that were hashed before.

    Each file's SHA-256 is taken again in the same read and must be the one that its entry has, so that both are of the
    same bytes.

    Args:
        folder: what the entries' paths are relative to.
        entries: as `hash_folder` returned them.
        algorithms: which; SHA-256 needs no asking.

    Raises:
        UsageError: a package is missing, or a file cannot be read.
        ManifestError, DigestMismatchError: a file became something else meanwhile.
    """
    wanted = [name for name in algorithms if name != "sha256"]
    if not wanted:
        return {}
    new_hashers: Callable[[], ManyHashers] = lambda: ManyHashers(wanted)  # noqa: E731 - fails here, not in a thread
    new_hashers()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = pool.map(lambda entry: _digests(Path(folder) / entry.path, entry, new_hashers()), entries)
        return {entry.path: digests for entry, digests in zip(entries, found, strict=True)}


def _digests(path: Path, entry: FileEntry, hashers: ManyHashers) -> Mapping[str, str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.", hint="Check the path and the rights.") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ManifestError(f"{path} is no regular file any more.", hint="Run again when nobody writes there.")
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            hashers.update(chunk)
    finally:
        os.close(descriptor)
    if hashers.sha256 != entry.sha256:
        raise DigestMismatchError(
            f"{path} changed between two reads.",
            hint="Wait until nobody writes to it, then run again.",
            path=entry.path,
            expected=entry.sha256,
            actual=hashers.sha256,
        )
    return hashers.others
