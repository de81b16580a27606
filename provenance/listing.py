"""A list of files with digests that some other format makes, and its comparison with what was found.

Publishers sign SHA256SUMS, Croissant files or OpenSSF model signatures; each says for some files what bytes they have.
Rules this module keeps:
  1. A list counts only as far as it has real digests of algorithms that the rule allows (SHA-256 unless it says more).
     A file with another digest, a placeholder or none is unsigned, and refuses the list: a reader who skips it lets
     anything stand in its place.
  2. A file with several digests must meet all that are allowed, and SHA-256 in any case.
  3. Paths are as strict as in our own manifest: relative, POSIX, no two of them one on some file system.
  4. The comparison is exact. What a format calls ignored is unsigned data.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from millcert.errors import InternalError, ManifestError, UntrustedSourceError
from millcert.provenance.digest_algorithms import DigestAlgorithm, FoundDigests
from millcert.provenance.manifest import FileEntry, Manifest, check_path, compare_manifests

_SHOWN = 20


@dataclass(frozen=True)
class Listing:
    """What another format says about files.

    name: what the publisher calls the data.
    sha256: path -> digest of the file's bytes, 64 lower-case hex digits; paths relative to the list's own folder.
    size_bytes: of some of them; a format that lists no sizes has none.
    unhashed: files that it names without a digest that could count, with the reason in words.
    license: what it says the licence is, "" where it says nothing.
    others: path -> algorithm -> digest in hex, of algorithms other than SHA-256; a file may be in both or in one.

    Raises:
        ManifestError: a path may not stand in a manifest.
    """

    name: str
    sha256: Mapping[str, str]
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    unhashed: Mapping[str, str] = field(default_factory=dict)
    license: str = ""
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in (*self.sha256, *self.others, *self.unhashed):
            check_path(path)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that have a digest, each once."""
        return tuple(dict.fromkeys((*self.sha256, *self.others)))

    def digests(self, path: str) -> Mapping[str, str]:
        """Return a file's digests by algorithm."""
        own = {"sha256": self.sha256[path]} if path in self.sha256 else {}
        return {**own, **self.others.get(path, {})}


def add_path(paths: dict[str, str], path: str, digest: str, what: str) -> None:
    """Put a file into a list that is being read; a path that is there twice says two things at once.

    Raises:
        ManifestError: it is there already.
    """
    if path in paths:
        raise ManifestError(f"The {what} names {path!r} twice.", hint="Ask the owner for a list that has it once.")
    paths[path] = digest


class DigestTable:
    """Digests by path and algorithm, while a list is being read. what: names the list in errors."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._paths: dict[str, dict[str, str]] = {}
        self.sha256: dict[str, str] = {}
        self.others: dict[str, dict[str, str]] = {}

    def add(self, path: str, algorithm: str, digest: str) -> None:
        """Put a digest in; errors as `add_path`."""
        held = self._paths.setdefault(algorithm, {})
        add_path(held, path, digest, self._what)
        if algorithm == "sha256":
            self.sha256[path] = digest
        else:
            self.others.setdefault(path, {})[algorithm] = digest


def compare_listing(
    listing: Listing,
    files: Manifest,
    *,
    is_selection: bool = False,
    allowed: Sequence[DigestAlgorithm] = ("sha256",),
    found: FoundDigests | None = None,
) -> Manifest:
    """Refuse files that are not exactly those of a list; return the list as a manifest, sizes as found.

    Args:
        listing: what the publisher says.
        files: what was found, paths relative to the list's folder.
        is_selection: `files` is a part that was chosen on purpose, so files that only the list has are not missing. Of
            these the returned manifest has those whose SHA-256 the list states.
        allowed: the algorithms that count.
        found: digests of `files` besides SHA-256, taken in the same read; of every allowed algorithm.

    Raises:
        UntrustedSourceError: the list has files without a digest that counts (rule 1); `reason` is "no_hash" or
            "digest_algorithm".
        DigestMismatchError, ManifestError: as `compare_manifests`.
    """
    _refuse_uncounted(listing, allowed)
    by_path = {entry.path: entry for entry in files.files}
    by_content = {entry.sha256: entry for entry in files.files}
    others = _by_digest(by_path, found or {})
    entries = []
    for path in listing.paths:
        digests = listing.digests(path)
        counted = {name: digest for name, digest in digests.items() if name in allowed and name != "sha256"}
        if path in by_path and not counted.keys() <= (found or {}).get(path, {}).keys():
            raise InternalError(f"{path!r} was not hashed with {', '.join(sorted(counted))}.")
        known = _sha256(digests.get("sha256"), counted, others, is_found=path in by_path)
        if known is None and is_selection and path not in by_path:
            continue
        # Where nothing that was found has the listed digest, a value that no file has stands for it: it only tells.
        digest = known or hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()
        # The digest binds the bytes, so where the list has no size the found one stands for it; 0 where none was found.
        same = by_content.get(digest, by_path.get(path))
        size_bytes = listing.size_bytes.get(path, same.size_bytes if same else 0)
        entries.append(FileEntry(path, size_bytes, digest))
    signed = Manifest(listing.name, tuple(entries))
    compare_manifests(signed, files, is_selection=is_selection)
    return signed


def _refuse_uncounted(listing: Listing, allowed: Sequence[DigestAlgorithm]) -> None:
    if listing.unhashed:
        shown = "; ".join(f"{path}: {why}" for path, why in sorted(listing.unhashed.items())[:_SHOWN])
        raise UntrustedSourceError(
            f"{listing.name!r} names {len(listing.unhashed)} files without a digest that counts ({shown}).",
            hint="Ask the owner to add SHA-256 digests, or accept the source as unsigned in the policy.",
            reason="no_hash",
            unhashed=tuple(sorted(listing.unhashed)),
        )
    bad = [path for path in listing.paths if not set(allowed) & listing.digests(path).keys()]
    if bad:
        shown = "; ".join(f"{path}: {', '.join(sorted(listing.digests(path)))}" for path in bad[:_SHOWN])
        raise UntrustedSourceError(
            f"{listing.name!r} names {len(bad)} files without a digest of {', '.join(allowed)} ({shown}).",
            hint="Ask the owner for such digests, or allow the others in the policy (sources[].digests).",
            reason="digest_algorithm",
            paths=tuple(bad),
        )


def _by_digest(files: Mapping[str, FileEntry], found: FoundDigests) -> Mapping[tuple[str, str], str]:
    """Return (algorithm, digest) -> SHA-256, for every other digest of the files that were found."""
    return {
        (algorithm, digest): entry.sha256
        for path, entry in files.items()
        for algorithm, digest in found.get(path, {}).items()
    }


def _sha256(
    stated: str | None, counted: Mapping[str, str], others: Mapping[tuple[str, str], str], *, is_found: bool
) -> str | None:
    """Return the SHA-256 of the bytes that a list means; None where no file with its digests was found.

    Rule 2: all digests that count must be of the same bytes. A stated SHA-256 is among them whether or not it is among
    the allowed ones: it is there, and comparing it costs nothing.
    """
    meant = {others.get((name, digest)) for name, digest in counted.items()}
    if stated is not None:
        return None if is_found and meant - {stated} else stated
    return meant.pop() if len(meant) == 1 else None
