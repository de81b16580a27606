"""A manifest: the files of a data set or source, by name, size and digest, under one root that binds all of it.

Rules this module keeps:
  1. The root binds the format version, the name, the number of files, and each file's path, size and digests: no two
     different manifests have the same root (SHA-256, RFC 6962 domain separation).
  2. Every path is a plain relative POSIX path, and no two paths are one path on some file system.
  3. A manifest that was parsed says what its bytes say: unknown or repeated keys, other types and a wrong root are
     refused.
  4. A comparison is exact and names everything that differs; a file that is in one manifest only is never skipped.

Format: docs/formats/manifest.md.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NoReturn

from millcert.errors import DigestMismatchError, ManifestError
from millcert.provenance.merkle import leaf_hash, root_of
from millcert.provenance.strict_json import parse_json_object

#: The largest manifest that is parsed, about a million files. Our choice: bounds memory to some GB before any check.
MAX_MANIFEST_BYTES = 256 * 1024 * 1024
#: The longest path, in UTF-8 bytes: PATH_MAX of Linux.
MAX_PATH_BYTES = 4096
#: The longest data set name, in UTF-8 bytes.
MAX_NAME_BYTES = 255
#: The largest count or size: the largest integer that every JSON reader holds exactly (RFC 8785 section 3.2.2.3).
MAX_INTEGER = 2**53 - 1
#: First leaf's tag; another layout of leaves gets another tag.
_DOMAIN = "millcert-manifest"
_VERSION = 1
_HEX64 = re.compile(r"[0-9a-f]{64}")
_SCHEMA_ID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z._:+/-]{0,127}")
_DRIVE = re.compile(r"[A-Za-z]:")
# What nearly all paths look like; such a path breaks no rule of `check_path`, which takes five times as long to say so.
_USUAL_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. =,-]*(?:/[A-Za-z0-9_][A-Za-z0-9_. =,-]*)*")
#: Characters that hide or reorder what a reader sees: line separators and bidirectional controls.
_DECEPTIVE = frozenset("\u2028\u2029\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_SHOWN = 20


@dataclass(frozen=True)
class FileEntry:
    """One file of a manifest.

    path: relative POSIX path, 1 to 4096 UTF-8 bytes; no empty, `.` or `..` segment, no backslash, no control character.
    size_bytes: 0 to 2^53 - 1.
    sha256: of the file's bytes, 64 lower-case hex digits.
    rows: how many records the file has, if somebody decoded it; 0 to 2^53 - 1.
    row_tree_root: root of the RFC 6962 tree over the rows' sample digests, hex; None where the rows were not read.
    schema_id: names the encoding under which `row_tree_root` was computed.
    """

    path: str
    size_bytes: int
    sha256: str
    rows: int | None = None
    row_tree_root: str | None = None
    schema_id: str | None = None

    def __post_init__(self) -> None:
        check_path(self.path)
        _check_integer(self.size_bytes, f"size_bytes of {self.path!r}")
        _check_hex(self.sha256, f"sha256 of {self.path!r}")
        if self.rows is not None:
            _check_integer(self.rows, f"rows of {self.path!r}")
        if self.row_tree_root is not None:
            _check_hex(self.row_tree_root, f"row_tree_root of {self.path!r}")
        if self.schema_id is not None and not _is_schema_id(self.schema_id):
            _refuse(f"schema_id of {self.path!r} must be 1 to 128 letters, digits or ._:+/-, got {self.schema_id!r}.")


@dataclass(frozen=True)
class Manifest:
    """The files of one data set or source.

    name: of the data set, 1 to 255 UTF-8 bytes without control characters.
    files: at least 0 entries; put in order of their paths' UTF-8 bytes here, whatever order they come in.

    Raises:
        ManifestError: two paths are equal, or become equal on a file system that folds case or Unicode forms, or a path
            is both a file and a directory.
    """

    name: str
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        _check_text(self.name, "The name", MAX_NAME_BYTES)
        # The order is part of the value, not of the call: workers report files in any order.
        object.__setattr__(self, "files", tuple(sorted(self.files, key=_path_bytes)))
        _refuse_collisions(entry.path for entry in self.files)

    @cached_property
    def root(self) -> str:
        """The root that a certificate names: hex, 64 digits. Cost: about 5 microseconds a file, once."""
        head = {"files": len(self.files), "name": self.name, "type": _DOMAIN, "version": _VERSION}
        leaves = [leaf_hash(_canonical(head))]
        leaves += [leaf_hash(_canonical(_entry_json(entry))) for entry in self.files]
        return root_of(leaves).hex()

    def to_json(self) -> bytes:
        """Return the manifest's file: RFC 8785 JSON in UTF-8, without a final newline; equal manifests, equal bytes."""
        return _canonical(
            {
                "files": [_entry_json(entry) for entry in self.files],
                "name": self.name,
                "root": self.root,
                "version": _VERSION,
            }
        )


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest that `data` holds.

    White space and key order are free; everything else is as `to_json` writes it. `rows`, `row_tree_root` and
    `schema_id` may be left out, which means null.

    Raises:
        ManifestError: anything is not as docs/formats/manifest.md says; the message names what and where.

    Cost: about 20 microseconds a file.
    """
    document = parse_json_object(data, what="manifest", max_bytes=MAX_MANIFEST_BYTES, error=ManifestError)
    _check_keys(document, required={"version", "name", "files", "root"}, optional=set(), where="The manifest")
    version = document["version"]
    if type(version) is not int or version != _VERSION:
        _refuse(f"The manifest has version {version!r}; this millcert reads version {_VERSION}.")
    files = document["files"]
    if not isinstance(files, list):
        _refuse(f"files must be a list, got {type(files).__name__}.")
    entries = tuple(_parse_entry(item, index) for index, item in enumerate(files))
    for before, after in pairwise(entries):
        if _path_bytes(before) >= _path_bytes(after):
            _refuse(f"files must be in order of their paths' bytes, each once: {after.path!r} follows {before.path!r}.")
    name = document["name"]
    if not isinstance(name, str):
        _refuse(f"name must be text, got {type(name).__name__}.")
    manifest = Manifest(name, entries)
    root = document["root"]
    _check_hex(root, "root")
    if root != manifest.root:
        raise ManifestError(
            f"The manifest says its root is {root}, its content has {manifest.root}.",
            hint="The manifest was edited. Make it again with `millcert source manifest`.",
            expected=root,
            actual=manifest.root,
        )
    return manifest


def compare_manifests(signed: Manifest, actual: Manifest, *, is_selection: bool = False) -> None:
    """Refuse `actual` unless it has exactly the files of `signed`, with the same bytes.

    Names are not compared: what was measured has none of its own. `rows` and `row_tree_root` are compared where both
    sides have them and were computed under the same `schema_id`.

    Args:
        signed: what the owner says.
        actual: what was found.
        is_selection: `actual` is a part that was chosen on purpose, so files that only `signed` lists are not missing.

    Raises:
        DigestMismatchError: at least one file's bytes differ.
        ManifestError: files are missing, added or renamed, and all others are equal.
        Both carry `changed`, `missing`, `added` (tuples of paths) and `renamed` (tuple of (signed path, actual path)).
    """
    expected = {entry.path: entry for entry in signed.files}
    found = {entry.path: entry for entry in actual.files}
    changed = tuple(path for path, entry in expected.items() if path in found and _is_changed(entry, found[path]))
    renamed = _renamed(
        [entry for path, entry in expected.items() if path not in found],
        [entry for path, entry in found.items() if path not in expected],
    )
    old_paths = {old for old, _ in renamed}
    new_paths = {new for _, new in renamed}
    left_out = tuple(path for path in expected if path not in found and path not in old_paths)
    missing = () if is_selection else left_out
    added = tuple(path for path in found if path not in expected and path not in new_paths)
    if not (changed or missing or added or renamed):
        return
    parts = [_listing("changed", changed), _listing("missing", missing), _listing("added", added)]
    parts.append(_listing("renamed", tuple(f"{old} -> {new}" for old, new in renamed)))
    kind = DigestMismatchError if changed else ManifestError
    raise kind(
        f"The files are not those of the signed manifest {signed.name!r}: {'; '.join(part for part in parts if part)}.",
        hint="Fetch the files again, or have their owner sign a new manifest.",
        changed=changed,
        missing=missing,
        added=added,
        renamed=renamed,
        expected=signed.root,
        actual=actual.root,
    )


def check_path(path: str) -> None:
    """Refuse anything but a plain relative POSIX path.

    Raises:
        ManifestError: empty, too long, absolute, with a drive letter, a backslash, an empty, `.` or `..` segment, a
            control, line-separating or direction-changing character, or not encodable in UTF-8.
    """
    if type(path) is str and len(path) <= MAX_PATH_BYTES and _USUAL_PATH.fullmatch(path):
        return
    _check_text(path, "A path", MAX_PATH_BYTES)
    if "\\" in path:
        _refuse(f"The path {path!r} has a backslash; use / between segments.", path=path)
    if path.startswith("/") or _DRIVE.match(path):
        _refuse(f"The path {path!r} is absolute; expected one relative to the manifest.", path=path)
    for segment in path.split("/"):
        if segment in {"", ".", ".."}:
            _refuse(f"The path {path!r} has the segment {segment!r}; expected plain names between slashes.", path=path)


def _path_bytes(entry: FileEntry) -> bytes:
    return entry.path.encode()


def _entry_json(entry: FileEntry) -> dict[str, object]:
    return {
        "path": entry.path,
        "row_tree_root": entry.row_tree_root,
        "rows": entry.rows,
        "schema_id": entry.schema_id,
        "sha256": entry.sha256,
        "size_bytes": entry.size_bytes,
    }


def _canonical(value: Mapping[str, object]) -> bytes:
    # For ASCII keys, integers below 2^53 and text without control characters this is RFC 8785, eight times as fast
    # as a general encoder (tests/provenance/test_manifest.py holds the equality).
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parse_entry(item: object, index: int) -> FileEntry:
    where = f"files[{index}]"
    if not isinstance(item, dict):
        _refuse(f"{where} must be an object, got {type(item).__name__}.")
    _check_keys(
        item, required={"path", "size_bytes", "sha256"}, optional={"rows", "row_tree_root", "schema_id"}, where=where
    )
    try:
        return FileEntry(**item)
    except ManifestError as error:
        raise ManifestError(f"{where}: {error.message}", hint=error.hint, **error.details) from error


def _check_keys(value: Mapping[str, object], *, required: set[str], optional: set[str], where: str) -> None:
    missing = sorted(required - value.keys())
    unknown = sorted(value.keys() - required - optional)
    if missing:
        _refuse(f"{where} lacks {', '.join(missing)}.")
    if unknown:
        _refuse(f"{where} has unknown keys: {', '.join(repr(key) for key in unknown[:_SHOWN])}.")


def _check_text(text: object, what: str, max_bytes: int) -> None:
    if not isinstance(text, str):
        _refuse(f"{what} must be text, got {type(text).__name__}.")
    try:
        size_bytes = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ManifestError(f"{what} is not Unicode text: {text!r}.", hint="Rename it.") from error
    if not 1 <= size_bytes <= max_bytes:
        _refuse(f"{what} must have 1 to {max_bytes} bytes, got {size_bytes}: {text[:80]!r}.")
    if not text.isprintable() or not _DECEPTIVE.isdisjoint(text):
        for character in text:
            if unicodedata.category(character) == "Cc" or character in _DECEPTIVE:
                _refuse(
                    f"{what} has the character U+{ord(character):04X}, which hides or changes what is shown: {text!r}."
                )


def _check_integer(value: object, what: str) -> None:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        _refuse(f"{what} must be an integer from 0 to 2^53 - 1, got {value!r:.80}.")


def _check_hex(value: object, what: str) -> None:
    if not isinstance(value, str) or not _HEX64.fullmatch(value):
        _refuse(f"{what} must be 64 lower-case hex digits, got {value!r:.80}.")


def _is_schema_id(value: object) -> bool:
    return isinstance(value, str) and _SCHEMA_ID.fullmatch(value) is not None


def _refuse_collisions(paths: Iterable[str]) -> None:
    """Refuse paths that are one path where case or Unicode forms are folded, and files that are also directories."""
    seen: dict[str, str] = {}
    for path in paths:
        key = _folded(path)
        if key in seen:
            how = "is given twice" if seen[key] == path else f"and {seen[key]!r} are one file on some file systems"
            _refuse(f"The path {path!r} {how}.", path=path)
        seen[key] = path
    for key, path in seen.items():
        end = key.find("/")
        while end != -1:
            if key[:end] in seen:
                _refuse(f"The path {seen[key[:end]]!r} is a file and, in {path!r}, a directory.", path=path)
            end = key.find("/", end + 1)


def _folded(path: str) -> str:
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _is_changed(signed: FileEntry, actual: FileEntry) -> bool:
    if (signed.size_bytes, signed.sha256) != (actual.size_bytes, actual.sha256):
        return True
    if signed.schema_id is None or signed.schema_id != actual.schema_id:
        return False
    pairs = ((signed.rows, actual.rows), (signed.row_tree_root, actual.row_tree_root))
    return any(one is not None and other is not None and one != other for one, other in pairs)


def _renamed(missing: list[FileEntry], added: list[FileEntry]) -> tuple[tuple[str, str], ...]:
    """Pair files with the same bytes, in path order."""
    by_content: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for entry in reversed(added):
        by_content[entry.size_bytes, entry.sha256].append(entry.path)
    pairs = []
    for entry in missing:
        candidates = by_content[entry.size_bytes, entry.sha256]
        if candidates:
            pairs.append((entry.path, candidates.pop()))
    return tuple(pairs)


def _listing(word: str, paths: tuple[str, ...]) -> str:
    if not paths:
        return ""
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{len(paths)} {word} ({', '.join(paths[:_SHOWN])}{more})"


def _refuse(message: str, **details: object) -> NoReturn:
    raise ManifestError(message, hint="See docs/formats/manifest.md for what a manifest may hold.", **details)
