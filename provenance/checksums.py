"""SHA256SUMS and BagIt payload manifests: one line a file, the digest first.

Rules this module keeps:
  1. Every line is a digest and a path in the format's own form; a line that is neither is refused, not skipped.
  2. Only SHA-256. Lists of MD5 or SHA-1 are refused, whatever they are called.
  3. A leading "./" is dropped, as the tools write it; no other form of a path is changed.

Source: the output of GNU coreutils' sha256sum with its escapes, and of BSD's (`SHA256 (path) = digest`); RFC 8493
(BagIt 1.0) sections 2.1.3 and 5.
"""

import re
from typing import NoReturn

from millcert.errors import ManifestError
from millcert.provenance.listing import Listing, add_path

CHECKSUMS_NAME = "SHA256SUMS"
BAGIT_NAME = "manifest-sha256.txt"
#: About a million files. Our choice, as for our own manifests.
MAX_CHECKSUMS_BYTES = 256 * 1024 * 1024

_GNU = re.compile(r"(\\?)([0-9a-fA-F]+) [ *](.+)")
_BSD = re.compile(r"(\\?)([A-Z0-9-]+) \((.+)\) = ([0-9a-fA-F]+)")
_BAG = re.compile(r"([0-9a-fA-F]+)[ \t]+(.+)")
_SHA256_DIGITS = 64
_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\\\": "\\"}


def parse_checksums(data: bytes) -> Listing:
    r"""Return the files of a SHA256SUMS file.

    Raises:
        ManifestError: a line has another form or digest (rules 1 and 2), a path is there twice or may not stand in a
            manifest, or there is no line.
    """
    found: dict[str, str] = {}
    for number, line in _lines(data):
        if gnu := _GNU.fullmatch(line):
            escaped, digest, path = gnu.groups()
        elif bsd := _BSD.fullmatch(line):
            escaped, algorithm, path, digest = bsd.groups()
            if algorithm != "SHA256":
                _refuse(number, f"is of {algorithm}; only SHA-256 counts")
        else:
            _refuse(number, "is no digest and path")
        if escaped:
            path = re.sub(r"\\.", lambda match: _ESCAPES.get(match.group(), match.group()), path)
        add_path(found, path.removeprefix("./"), _digest(number, digest), "list of checksums")
    return Listing(CHECKSUMS_NAME, found)


def parse_bagit_manifest(data: bytes) -> Listing:
    """Return the payload files of a BagIt bag (`manifest-sha256.txt`), paths relative to the bag: all below data/.

    Errors are those of `parse_checksums`; a path outside data/ is one.
    """
    found: dict[str, str] = {}
    for number, line in _lines(data):
        match = _BAG.fullmatch(line)
        if match is None:
            _refuse(number, "is no digest and path")
        digest, path = match.groups()
        # RFC 8493 section 2.1.3: these three are percent-encoded, nothing else is.
        path = re.sub("%0A|%0a|%0D|%0d|%25", lambda code: chr(int(code.group()[1:], 16)), path)
        if not path.startswith("data/"):
            _refuse(number, f"names {path[:80]!r}, which is not in the bag's payload (data/)")
        add_path(found, path, _digest(number, digest), "bag's manifest")
    return Listing(BAGIT_NAME, found)


def _lines(data: bytes) -> list[tuple[int, str]]:
    if len(data) > MAX_CHECKSUMS_BYTES:
        raise ManifestError(f"The list of checksums has {len(data)} bytes; at most {MAX_CHECKSUMS_BYTES} are read.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError("The list of checksums is no UTF-8 text.", hint="Write it with UTF-8 names.") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise ManifestError("The list of checksums is empty.", hint="Ask the owner for the whole list.")
    return list(enumerate(lines, start=1))


def _digest(number: int, text: str) -> str:
    if len(text) != _SHA256_DIGITS:
        _refuse(number, f"has a digest of {len(text)} digits; only SHA-256, of {_SHA256_DIGITS}, counts")
    return text.lower()


def _refuse(number: int, what: str) -> NoReturn:
    raise ManifestError(
        f"Line {number} of the list of checksums {what}.", hint="See docs/formats/checksums.md.", line=number
    )
