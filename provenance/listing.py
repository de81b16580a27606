"""A list of files with digests that some other format makes, and its comparison with what was found.

Publishers sign SHA256SUMS, Croissant files or OpenSSF model signatures; each says for some files what bytes they have.
Rules this module keeps:
  1. A list counts only as far as it has real SHA-256 digests. A file with another digest, a placeholder or none is
     unsigned, and refuses the list: a reader who skips it lets anything stand in its place.
  2. Paths are as strict as in our own manifest: relative, POSIX, no two of them one on some file system.
  3. The comparison is exact. What a format calls ignored is unsigned data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from millcert.errors import ManifestError, UntrustedSourceError
from millcert.provenance.manifest import FileEntry, Manifest, check_path, compare_manifests

_SHOWN = 20


@dataclass(frozen=True)
class Listing:
    """What another format says about files.

    name: what the publisher calls the data.
    sha256: path -> digest of the file's bytes, 64 lower-case hex digits; paths relative to the list's own folder.
    size_bytes: of some of them; a format that lists no sizes has none.
    unhashed: files that it names without a SHA-256, with the reason in words.
    license: what it says the licence is, "" where it says nothing.

    Raises:
        ManifestError: a path may not stand in a manifest.
    """

    name: str
    sha256: Mapping[str, str]
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    unhashed: Mapping[str, str] = field(default_factory=dict)
    license: str = ""

    def __post_init__(self) -> None:
        for path in (*self.sha256, *self.unhashed):
            check_path(path)


def add_path(paths: dict[str, str], path: str, digest: str, what: str) -> None:
    """Put a file into a list that is being read; a path that is there twice says two things at once.

    Raises:
        ManifestError: it is there already.
    """
    if path in paths:
        raise ManifestError(f"The {what} names {path!r} twice.", hint="Ask the owner for a list that has it once.")
    paths[path] = digest


def compare_listing(listing: Listing, files: Manifest, *, is_selection: bool = False) -> Manifest:
    """Refuse files that are not exactly those of a list; return the list as a manifest, sizes as found.

    Args:
        listing: what the publisher says.
        files: what was found, paths relative to the list's folder.
        is_selection: `files` is a part that was chosen on purpose, so files that only the list has are not missing.

    Raises:
        UntrustedSourceError: the list has files without a SHA-256 (rule 1); `reason` is "no_hash".
        DigestMismatchError, ManifestError: as `compare_manifests`.
    """
    if listing.unhashed:
        shown = "; ".join(f"{path}: {why}" for path, why in sorted(listing.unhashed.items())[:_SHOWN])
        raise UntrustedSourceError(
            f"{listing.name!r} names {len(listing.unhashed)} files without a SHA-256 digest ({shown}).",
            hint="Ask the owner to add the digests, or accept the source as unsigned in the policy.",
            reason="no_hash",
            unhashed=tuple(sorted(listing.unhashed)),
        )
    by_path = {entry.path: entry.size_bytes for entry in files.files}
    by_content = {entry.sha256: entry.size_bytes for entry in files.files}
    entries = []
    for path, digest in listing.sha256.items():
        # The digest binds the bytes, so where the list has no size the found one stands for it; 0 where none was found.
        size_bytes = listing.size_bytes.get(path, by_content.get(digest, by_path.get(path, 0)))
        entries.append(FileEntry(path, size_bytes, digest))
    signed = Manifest(listing.name, tuple(entries))
    compare_manifests(signed, files, is_selection=is_selection)
    return signed
