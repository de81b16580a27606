"""What came of each row of a list: the result file beside a fetched folder, one JSON object a line.

Rules this module keeps:
  1. The first line says which list it is about, by the digest of its bytes; a line follows for every row, in order.
  2. The file is replaced whole or not at all.
  3. A result file that is read back is strict: it is the memory that a later recheck compares with.

Format: docs/formats/url-list.md.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from millcert.errors import IntegrityError, StoreError, UsageError
from millcert.provenance.strict_json import parse_json_object

VERSION = 1
_TYPE = "millcert-url-results"
#: More than one row can hold: address, path, detail and what its server says are bounded where they are made.
_MAX_LINE_BYTES = 256 * 1024


@dataclass(frozen=True)
class UrlResult:
    """What came of one row.

    outcome: of a fetch: "verified", "split_view" (other bytes than the list says), "no_hash", "refused", "gone",
        "unreachable"; of a recheck also "same", "changed", "re_registered".
    is_dropped: the row did not come out well, and the caller had said that such rows are left out.
    path: where its bytes are, "" where they are not.
    checked_at: when, RFC 3339 in UTC. The rest: as in `url_transport.Answer`; sha256 and size_bytes of what was served.
    signs: of a recheck, what else is not as it was: "key", "issuer", "addresses".
    """

    row: int
    url: str
    outcome: str
    reason: str = ""
    detail: str = ""
    is_dropped: bool = False
    path: str = ""
    expected_sha256: str = ""
    sha256: str = ""
    size_bytes: int = 0
    status: int = 0
    checked_at: str = ""
    host: str = ""
    addresses: tuple[str, ...] = ()
    key_sha256: str = ""
    issuer: str = ""
    signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListIdentity:
    """Which list: its file name, the digest of its bytes, and who signed it ("" where nobody was asked)."""

    name: str
    sha256: str
    identity: str
    issuer: str


def write_results(path: Path, about: ListIdentity, results: Iterable[UrlResult]) -> None:
    """Write a result file, all or nothing.

    Raises:
        StoreError: it cannot be written; an older one is untouched.
    """
    from millcert.provenance.atomic_file import replace_file

    def lines(stream: IO[bytes]) -> None:
        stream.write(_line({"type": _TYPE, "version": VERSION, "list": asdict(about)}))
        for result in results:
            stream.write(_line(asdict(result)))

    replace_file(path, lines)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_results(path: Path) -> tuple[str, dict[int, UrlResult]]:
    """Return the digest of the list that a result file is about, and its results by row.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it is no result file, or a damaged one.
        StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = parse_json_object(_next(stream), what="result file", max_bytes=_MAX_LINE_BYTES)
            about = head.get("list")
            if (head.get("type"), head.get("version")) != (_TYPE, VERSION) or not isinstance(about, dict):
                raise IntegrityError(f"{path} is no result file of a fetch.", path=str(path))
            found: dict[int, UrlResult] = {}
            while line := _next(stream):
                value = parse_json_object(line, what="result file", max_bytes=_MAX_LINE_BYTES)
                result = _result(value, path)
                found[result.row] = result
            return str(about.get("sha256", "")), found
    except FileNotFoundError as error:
        raise UsageError(f"There is no result file at {path}.", hint="`source fetch` writes it.") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.", path=str(path)) from error


def _next(stream: IO[bytes]) -> bytes:
    return stream.readline(_MAX_LINE_BYTES + 1)


_KINDS = {field.name: field.type for field in fields(UrlResult)}


def _result(value: Mapping[str, Any], path: Path) -> UrlResult:
    given = dict(value)
    for name in ("addresses", "signs"):
        items = given.get(name, [])
        given[name] = tuple(items) if isinstance(items, list) and all(isinstance(one, str) for one in items) else None
    wrong = [
        name
        for name, kind in _KINDS.items()
        if name not in given or not isinstance(given[name], kind if isinstance(kind, type) else tuple)
    ]
    if wrong or set(given) != set(_KINDS):
        raise IntegrityError(
            f"{path} is damaged: a line lacks or misstates {', '.join(wrong) or 'nothing, but has other keys'}.",
            hint="Fetch again, or recheck without it.",
            path=str(path),
        )
    return UrlResult(**given)
