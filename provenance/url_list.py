"""Lists of web addresses: what each row asks for, and which rows may be fetched at all.

A list that was curated once is downloaded for years, and nothing binds what an address serves to what the curator saw
(Carlini et al. 2023, arXiv:2302.10149: split-view and front-running poisoning). So:
  1. A row counts by the SHA-256 of the bytes that the curator saw. Another digest, a placeholder or none is `no_hash`.
  2. An address is https, names a host, and carries no credentials; two parsers must agree on what it names.
  3. What a row's bytes are called comes from the list, or is their digest; never from a server. No path is one of a
     version control's own (`.git/config` can run commands), and no two are one on some file system.

Format: docs/formats/url-list.md.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from millcert.errors import ManifestError, UsageError
from millcert.provenance.digest import BOOKKEEPING
from millcert.provenance.manifest import MAX_INTEGER, FileEntry, Manifest, check_path
from millcert.provenance.timestamp import is_timestamp

#: The largest list that is read, in bytes and rows. Our choice: some GB of memory at most, as for a manifest.
MAX_LIST_BYTES = 512 * 1024 * 1024
MAX_ROWS = 1_000_000
#: The longest address, in characters. RFC 9110 section 4.1 asks for 8,000 at least.
MAX_URL_CHARACTERS = 8192

_HEX64 = re.compile(r"[0-9a-fA-F]{64}")
# RFC 3986 without what no request may carry: blanks, controls, quotes, backslashes, other scripts.
_URL = re.compile(r"https://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_SUFFIX = re.compile(r"(\.[a-z0-9]{1,10})?\.(gz|zst|bz2|xz)$|\.[a-z0-9]{1,10}$")


class Place(NamedTuple):
    """Where an address points. host: lower case, an IPv6 address without brackets. target: path and query."""

    host: str
    port: int
    target: str


@dataclass(frozen=True)
class UrlRow:
    """One row of a list.

    number: 0-based place in the list. url: as the list has it.
    sha256: 64 lower-case hex digits; "" where the row has no SHA-256.
    size_bytes: None where the list does not say.
    fetched_at: when the curator fetched it, RFC 3339 in UTC; "" where the list does not say.
    path: where its bytes belong, relative to the output.
    fault: why it may not be fetched, in words; "" where it may.
    """

    number: int
    url: str
    sha256: str
    size_bytes: int | None
    fetched_at: str
    path: str
    fault: str


def url_row(number: int, url: object, sha256: object, size: object, fetched_at: object, path: object) -> UrlRow:
    """Return a row from a table's values as they are; whatever is wrong with them is the row's `fault`.

    Raises:
        ManifestError: it gives a path that may not stand in a manifest.
    """
    text = url if isinstance(url, str) else ""
    digest = sha256.lower() if isinstance(sha256, str) and _HEX64.fullmatch(sha256) else ""
    fault = url_fault(text)
    size_bytes, size_fault = _size(size)
    if isinstance(fetched_at, datetime) and fetched_at.tzinfo is not None:
        fetched_at = fetched_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    when = fetched_at if isinstance(fetched_at, str) else ""
    if when and not is_timestamp(when):
        size_fault = size_fault or f"fetched_at must be RFC 3339 in UTC, got {when[:80]!r}"
    if path is not None and path != "":
        if not isinstance(path, str):
            raise ManifestError(f"Row {number}: path must be text, got {type(path).__name__}.", row=number)
        _check_place(path, number)
    name = path if isinstance(path, str) and path else _name(digest, text)
    return UrlRow(number, text, digest, size_bytes, when, name, fault or size_fault)


def _check_place(path: str, number: int) -> None:
    """Refuse a path that may not stand in a manifest, or that tools of version control would obey (rule 3)."""
    check_path(path)
    if not BOOKKEEPING.isdisjoint(path.lower().split("/")):
        raise ManifestError(
            f"Row {number} wants the path {path!r}; {' and '.join(sorted(BOOKKEEPING))} are never data.",
            hint="Give the file another path.",
            row=number,
        )


def _size(size: object) -> tuple[int | None, str]:
    if size is None or size == "":
        return None, ""
    try:
        value = int(size) if isinstance(size, (int, str)) and not isinstance(size, bool) else -1
    except ValueError:
        value = -1
    if not 0 <= value <= MAX_INTEGER:
        return None, f"size must be a count of bytes, got {str(size)[:80]!r}"
    return value, ""


def _name(digest: str, url: str) -> str:
    if not digest:
        return ""
    found = _SUFFIX.search(urlsplit(url).path.lower()) if not url_fault(url) else None
    return f"{digest[:2]}/{digest}{found.group() if found else ''}"


def url_fault(url: str) -> str:
    """Return why an address is refused, "" where it is not (rule 2)."""
    if not url:
        return "there is no address"
    if len(url) > MAX_URL_CHARACTERS:
        return f"the address has {len(url)} characters; at most {MAX_URL_CHARACTERS} are taken"
    if url[:8].lower() != "https://":
        return "only https addresses are fetched"
    if not _URL.fullmatch(url):
        return "the address has a character that must be percent-encoded"
    try:
        place_of(url)
    except UsageError as error:
        return error.message
    return ""


def place_of(url: str) -> Place:
    """Return host, port and target of an address that has no other fault.

    Raises:
        UsageError: it has none, has credentials, or two parsers disagree on it.
    """
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        one, other = urlsplit(url), parse_url(url)
        ports = one.port, other.port
    except (ValueError, LocationParseError) as error:
        raise UsageError(f"the address cannot be parsed: {error}") from error
    if one.username is not None or one.password is not None or other.auth is not None:
        raise UsageError("the address carries credentials")
    host = (one.hostname or "").lower()
    bracketed = f"[{host}]" if ":" in host else host
    if not _HOST.fullmatch(bracketed) or (other.host or "").lower() != bracketed or ports[0] != ports[1]:
        raise UsageError("the address names no host, or not the same one to every reader")
    if ports[0] == 0:
        raise UsageError("the address names port 0")
    query = "" if other.query is None else f"?{other.query}"
    return Place(host, ports[0] or 443, (other.path or "/") + query)


def check_rows(rows: Iterable[UrlRow]) -> tuple[UrlRow, ...]:
    """Return the rows of a list.

    Raises:
        UsageError: there is none, or more than MAX_ROWS.
        ManifestError: two rows with other bytes want the same path, or paths that are one on some file system.

    Cost: some microseconds a row.
    """
    found: list[UrlRow] = []
    owner: dict[str, UrlRow] = {}
    for row in rows:
        if len(found) == MAX_ROWS:
            raise UsageError(f"The list has more than {MAX_ROWS:,} rows.", hint="Split it, and fetch the parts.")
        found.append(row)
        first = owner.setdefault(row.path, row) if row.sha256 else row
        if first.sha256 != row.sha256:
            raise ManifestError(
                f"Rows {first.number} and {row.number} want the path {row.path!r} for other bytes.",
                hint="Give each file a path of its own.",
                rows=(first.number, row.number),
            )
    if not found:
        raise UsageError("The list has no row.")
    Manifest("list", tuple(FileEntry(path, 0, row.sha256) for path, row in owner.items()))  # refuses collisions
    return tuple(found)


def by_digest(rows: Sequence[UrlRow]) -> list[list[UrlRow]]:
    """Return the rows in groups that ask for the same bytes, groups and rows in the list's order."""
    groups: dict[str, list[UrlRow]] = {}
    for row in rows:
        groups.setdefault(row.sha256, []).append(row)
    return list(groups.values())
