"""Git-LFS pointers and a hub's revision metadata: which bytes a revision of a repository means.

Rules this module keeps:
  1. A pointer is the whole file, in the one form that the specification has; extensions are refused, because the digest
     is then of something else than the file.
  2. A revision is a full commit id that the caller pinned; a branch or tag means other bytes tomorrow.
  3. Large files have a SHA-256. Small ones have Git's SHA-1 of the blob only, which is no evidence: they are unsigned,
     and named.

Source: Git LFS specification v1, "The Pointer"; the dataset information that the Hugging Face hub's API gives with
`blobs=true` (sha, siblings with rfilename, size and lfs).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from millcert.errors import ManifestError
from millcert.provenance.listing import Listing, add_path
from millcert.provenance.strict_json import parse_json_object

#: The specification's bound on a pointer.
MAX_POINTER_BYTES = 1024
#: Metadata of a revision with some 100,000 files.
MAX_REVISION_BYTES = 256 * 1024 * 1024

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,15})\n"
)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEX64 = re.compile(r"[0-9a-f]{64}")


class Pointer(NamedTuple):
    """What a pointer stands for. sha256: hex. size_bytes: of the file itself."""

    sha256: str
    size_bytes: int


def parse_pointer(data: bytes) -> Pointer:
    """Return what a Git-LFS pointer stands for.

    Raises:
        ManifestError: it is no pointer in the one form of the specification.
    """
    match = _POINTER.fullmatch(data) if len(data) < MAX_POINTER_BYTES else None
    if match is None:
        raise ManifestError(
            "That is no Git-LFS pointer of version 1 with a SHA-256.",
            hint="A pointer with extensions, and a file that Git does not keep in LFS, are not read.",
        )
    return Pointer(match[1].decode(), int(match[2]))


def pointers_listing(name: str, pointers: Mapping[str, bytes]) -> Listing:
    """Return the files that pointers at these paths stand for; errors as `parse_pointer`, with the path.

    Args:
        name: of the repository.
        pointers: path -> content of the pointer, from a commit that the caller trusts.
    """
    found: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for path, data in pointers.items():
        try:
            pointer = parse_pointer(data)
        except ManifestError as error:
            raise ManifestError(f"{path!r:.200}: {error.message}", hint=error.hint, path=path) from error
        found[path], sizes[path] = pointer
    return Listing(name, found, sizes)


def parse_revision(data: bytes, *, repository: str, commit: str) -> Listing:
    """Return the files of one revision of a repository on the hub.

    Args:
        data: the hub's answer, JSON. Nothing signs it: it counts as far as the caller got it safely.
        repository: its id, such as "owner/name".
        commit: the full commit id that the caller pinned.

    Raises:
        ManifestError: no strict JSON, another repository or commit, or a file's entry is malformed.
    """
    if not _COMMIT.fullmatch(commit):
        raise ManifestError(
            f"A revision is pinned by its full commit id, got {commit[:80]!r}.",
            hint="A branch or a tag can be moved; give the 40 hex digits.",
        )
    document = parse_json_object(data, what="revision", max_bytes=MAX_REVISION_BYTES, error=ManifestError)
    for key, wanted in (("id", repository), ("sha", commit)):
        if document.get(key) != wanted:
            _refuse(f"has {key} {document.get(key)!r:.100}, expected {wanted!r}")
    siblings = document.get("siblings")
    if not isinstance(siblings, list) or not siblings:
        _refuse("lists no file")
    found: dict[str, str] = {}
    sizes: dict[str, int] = {}
    unhashed: dict[str, str] = {}
    for one in siblings:
        path, large = _sibling(one)
        if large is None:
            add_path(unhashed, path, "only Git's SHA-1, no SHA-256", "revision")
        else:
            add_path(found, path, large.sha256, "revision")
            sizes[path] = large.size_bytes
    return Listing(f"{repository}@{commit}", found, sizes, unhashed)


def _sibling(value: object) -> tuple[str, Pointer | None]:
    if not isinstance(value, dict) or not isinstance(value.get("rfilename"), str):
        _refuse("has a file without a name")
    path, large = value["rfilename"], value.get("lfs")
    if large is None:
        return path, None
    digest, size = _field(large, "sha256", path), _field(large, "size", path)
    if not isinstance(digest, str) or not _HEX64.fullmatch(digest) or type(size) is not int or size < 0:
        _refuse(f"has a malformed LFS entry for {path[:80]!r}")
    if value.get("size") not in (None, size):
        _refuse(f"has two sizes for {path[:80]!r}")
    return path, Pointer(digest, size)


def _field(value: object, key: str, path: str) -> Any:
    if not isinstance(value, dict):
        _refuse(f"has a malformed LFS entry for {path[:80]!r}")
    return value.get(key)


def _refuse(what: str) -> NoReturn:
    raise ManifestError(f"The revision {what}.", hint="Ask the hub for the revision again, with blobs=true.")
