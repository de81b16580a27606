"""Croissant 1.0 and 1.1, read for its digests: which files a data set has, and their SHA-256 (or others of its kin).

Nothing is loaded, extracted or fetched through it. Rules this module keeps:
  1. A FileObject of the distribution that is not inside another one is a file; its digests must be real ones. A missing
     digest, a placeholder (a widely used hub writes a web address there) or MD5 alone makes the file unsigned. The
     format names sha256 and md5; sha384, sha512 and blake3 are read where a publisher adds them in the same way.
  2. A FileObject inside another (`containedIn`) and a FileSet have the bytes of what contains them; they add nothing. A
     FileSet that is in no FileObject with a digest is unsigned.
  3. A live data set is refused: it says of itself that its files change.
  4. A file is found by its `contentUrl`: a relative path as it is; of a web address the last segment of the path.

Source: Croissant format specification 1.0 and 1.1 (MLCommons), resources and `isLiveDataset`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from millcert.errors import ManifestError
from millcert.provenance.digest_algorithms import ALGORITHMS, is_digest
from millcert.provenance.listing import DigestTable, Listing, add_path
from millcert.provenance.strict_json import parse_json_object

CROISSANT_NAME = "croissant.json"
#: Metadata has kB; a distribution of many single files some MB.
MAX_CROISSANT_BYTES = 64 * 1024 * 1024

_MAX_NESTING = 8
_VERSIONS = frozenset({"http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/1.1"})


def parse_croissant(data: bytes) -> Listing:
    """Return the files of a Croissant file; those that rule 1 calls unsigned are in `unhashed`.

    Raises:
        ManifestError: no strict JSON, another version, live (rule 3), no distribution, or a file whose place is
            malformed or claimed twice.
    """
    document = parse_json_object(data, what="Croissant file", max_bytes=MAX_CROISSANT_BYTES, error=ManifestError)
    versions = _texts(document.get("conformsTo", document.get("dct:conformsTo")))
    if not _VERSIONS.intersection(versions):
        _refuse(f"conforms to {', '.join(versions)[:200] or 'nothing'}; read are {', '.join(sorted(_VERSIONS))}")
    # Rule 3.
    if _property(document, "isLiveDataset") not in (None, False):
        _refuse("is of a live data set, whose files change after it was signed")
    table = DigestTable("Croissant file")
    seen: dict[str, str] = {}
    unhashed: dict[str, str] = {}
    hashed_ids: set[str] = set()
    file_sets: list[Mapping[str, Any]] = []
    for resource in _distribution(document):
        kind = _kind(resource)
        if kind == "FileSet":
            file_sets.append(resource)
        elif kind != "FileObject":
            _refuse(f"has a resource of kind {kind[:40]!r}")
        elif not _property(resource, "containedIn"):
            path, digests = _path(resource), _digests(resource)
            add_path(seen, path, "", "Croissant file")
            bad = {name: digest for name, digest in digests.items() if not is_digest(name, digest)}
            if bad or not digests:
                unhashed[path] = _why(resource, bad)
                continue
            hashed_ids.add(_id(resource))
            for algorithm, digest in digests.items():
                table.add(path, algorithm, digest)
    _require_containers(document, file_sets, hashed_ids, unhashed)
    if not seen and not unhashed:
        _refuse("lists no file")
    name = document.get("name")
    title = name if isinstance(name, str) and name else "data set"
    return Listing(title, table.sha256, {}, unhashed, _license(document), table.others)


def _digests(resource: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a file states under each algorithm that could count, hex digits in lower case."""
    stated = {name: _property(resource, name) for name in ALGORITHMS}
    return {
        name: value.lower() if isinstance(value, str) else value for name, value in stated.items() if value is not None
    }


def _require_containers(
    document: Mapping[str, Any], sets: list[Mapping[str, Any]], hashed: set[str], unhashed: dict[str, str]
) -> None:
    """Rule 2: all that holds a FileSet must lead to FileObjects with a digest."""
    parents = {_id(resource): _references(resource) for resource in _distribution(document)}
    for resource in sets:
        if not _is_held(_references(resource), parents, hashed):
            unhashed[f"FileSet {_id(resource)[:100]}".replace("/", " ").strip()] = "no container with a SHA-256"


def _is_held(holders: tuple[str, ...], parents: Mapping[str, tuple[str, ...]], hashed: set[str]) -> bool:
    """Tell whether every way up ends at a digest; a way that ends elsewhere, or goes round, does not."""
    layer = set(holders)
    for _ in range(_MAX_NESTING):
        if not layer:
            return False
        layer -= hashed
        if not layer:
            return True
        if any(not parents.get(one) for one in layer):
            return False
        layer = {above for one in layer for above in parents[one]}
    return False


def _distribution(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    resources = document.get("distribution")
    if isinstance(resources, dict):
        resources = [resources]
    if not isinstance(resources, list) or not all(isinstance(one, dict) for one in resources):
        _refuse("has no distribution, or one that is no list of objects")
    yield from resources


def _path(resource: Mapping[str, Any]) -> str:
    # Rule 4.
    url = _property(resource, "contentUrl")
    if not isinstance(url, str) or not url:
        _refuse(f"has a file {_id(resource)[:80]!r} without a contentUrl")
    parts = urlsplit(url)
    if parts.scheme == "" and parts.netloc == "":
        return url
    if parts.scheme not in {"http", "https", "git+https"}:
        _refuse(f"has a file at {url[:80]!r}, which is neither a path nor a web address")
    last = unquote(parts.path.rstrip("/").rpartition("/")[2])
    if not last or "/" in last:
        _refuse(f"has a file at {url[:80]!r}, which ends in no file name")
    return last


def _why(resource: Mapping[str, Any], bad: Mapping[str, object]) -> str:
    for name, value in bad.items():
        return f"its {name} is no digest but {value!r:.80}"
    return "only an MD5" if _property(resource, "md5") else "no digest"


def _license(document: Mapping[str, Any]) -> str:
    texts = _texts(_property(document, "license"))
    # Several licences are a choice nowhere in the format, so all of them are asked for.
    return " AND ".join(texts)


def _property(value: Mapping[str, Any], name: str) -> Any:
    """Return a property under its name or its name with a prefix; two of them would say two things."""
    held = [key for key in (name, f"cr:{name}", f"sc:{name}", f"schema:{name}") if key in value]
    if len(held) > 1:
        _refuse(f"has {' and '.join(held)} side by side")
    return value[held[0]] if held else None


def _kind(resource: Mapping[str, Any]) -> str:
    return str(resource.get("@type", "")).rpartition(":")[2].rpartition("/")[2]


def _id(resource: Mapping[str, Any]) -> str:
    return str(resource.get("@id", resource.get("name", "")))


def _references(resource: Mapping[str, Any]) -> tuple[str, ...]:
    held = _property(resource, "containedIn")
    items = held if isinstance(held, list) else [] if held is None else [held]
    return tuple(_id(item) if isinstance(item, dict) else str(item) for item in items)


def _texts(value: object) -> list[str]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [str(item.get("@id", item.get("url", ""))) if isinstance(item, dict) else str(item) for item in items]


def _refuse(what: str) -> NoReturn:
    raise ManifestError(f"The Croissant file {what}.", hint="See docs/formats/croissant.md for what is read.")
