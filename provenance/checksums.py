"""SHA256SUMS and its kin, and BagIt payload manifests: one line a file, the digest first.

Rules this module keeps:
  1. Every line is a digest and a path in the format's own form; a line that is neither is refused, not skipped.
  2. Only SHA-256, SHA-384, SHA-512 and BLAKE3. Lists of MD5 or SHA-1 are refused, whatever they are called.
  3. What a digest is of is what its line says (`SHA512 (path) = digest`), else what the list's own name says
     (`SHA512SUMS`, `B3SUMS`, `manifest-sha512.txt`), else what its length says, which means SHA-2.
  4. A leading "./" is dropped, as the tools write it; no other form of a path is changed.

Source: the output of GNU coreutils' sha256sum with its escapes, of BSD's (`SHA256 (path) = digest`), and of b3sum; RFC
8493 (BagIt 1.0) sections 2.1.3, 2.4 and 5.
"""

import re
from collections.abc import Mapping
from typing import NoReturn

from millcert.errors import ManifestError
from millcert.provenance.digest_algorithms import DigestAlgorithm, algorithm_of_length, is_digest
from millcert.provenance.listing import DigestTable, Listing

#: The list's usual name, by what its digests are.
CHECKSUMS_NAMES: Mapping[DigestAlgorithm, str] = {
    "sha256": "SHA256SUMS",
    "sha384": "SHA384SUMS",
    "sha512": "SHA512SUMS",
    "blake3": "B3SUMS",
}
#: The same of a bag's payload manifest.
BAGIT_NAMES: Mapping[DigestAlgorithm, str] = {
    "sha256": "manifest-sha256.txt",
    "sha384": "manifest-sha384.txt",
    "sha512": "manifest-sha512.txt",
    "blake3": "manifest-blake3.txt",
}
#: About a million files. Our choice, as for our own manifests.
MAX_CHECKSUMS_BYTES = 256 * 1024 * 1024

_GNU = re.compile(r"(\\?)([0-9a-fA-F]+) [ *](.+)")
_BSD = re.compile(r"(\\?)([A-Z0-9-]+) \((.+)\) = ([0-9a-fA-F]+)")
_BAG = re.compile(r"([0-9a-fA-F]+)[ \t]+(.+)")
_TAGS: Mapping[str, DigestAlgorithm] = {
    "SHA256": "sha256",
    "SHA2-256": "sha256",
    "SHA384": "sha384",
    "SHA2-384": "sha384",
    "SHA512": "sha512",
    "SHA2-512": "sha512",
    "BLAKE3": "blake3",
}
_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\\\": "\\"}


def parse_checksums(data: bytes, *, name: str = CHECKSUMS_NAMES["sha256"]) -> Listing:
    r"""Return the files of a SHA256SUMS file, or one of its kin.

    Args:
        data: the list.
        name: of its file, which tells what digests without a tag are (rule 3).

    Raises:
        ManifestError: a line has another form or digest (rules 1 and 2), a path is there twice with one algorithm or
            may not stand in a manifest, or there is no line.
    """
    table = DigestTable("list of checksums")
    named = _named(name, CHECKSUMS_NAMES)
    for number, line in _lines(data):
        algorithm = named
        if gnu := _GNU.fullmatch(line):
            escaped, digest, path = gnu.groups()
        elif bsd := _BSD.fullmatch(line):
            escaped, tag, path, digest = bsd.groups()
            algorithm = _TAGS.get(tag)
            if algorithm is None:
                _refuse(number, f"is of {tag}; only {', '.join(sorted(set(_TAGS.values())))} count")
        else:
            _refuse(number, "is no digest and path")
        if escaped:
            path = re.sub(r"\\.", lambda match: _ESCAPES.get(match.group(), match.group()), path)
        _add(table, number, path.removeprefix("./"), algorithm, digest)
    return Listing(CHECKSUMS_NAMES["sha256"], table.sha256, others=table.others)


def parse_bagit_manifest(data: bytes, *, name: str = BAGIT_NAMES["sha256"]) -> Listing:
    """Return the payload files of a BagIt bag (`manifest-sha256.txt`), paths relative to the bag: all below data/.

    Arguments and errors are those of `parse_checksums`; a path outside data/ is one.
    """
    table = DigestTable("bag's manifest")
    named = _named(name, BAGIT_NAMES)
    for number, line in _lines(data):
        match = _BAG.fullmatch(line)
        if match is None:
            _refuse(number, "is no digest and path")
        digest, path = match.groups()
        # RFC 8493 section 2.1.3: these three are percent-encoded, nothing else is.
        path = re.sub("%0A|%0a|%0D|%0d|%25", lambda code: chr(int(code.group()[1:], 16)), path)
        if not path.startswith("data/"):
            _refuse(number, f"names {path[:80]!r}, which is not in the bag's payload (data/)")
        _add(table, number, path, named, digest)
    return Listing(BAGIT_NAMES["sha256"], table.sha256, others=table.others)


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


def _named(name: str, names: Mapping[DigestAlgorithm, str]) -> DigestAlgorithm | None:
    """Return what a list's own name says that its digests are; None where it says nothing."""
    return next((algorithm for algorithm, usual in names.items() if name.rpartition("/")[2] == usual), None)


def _add(table: DigestTable, number: int, path: str, algorithm: DigestAlgorithm | None, digest: str) -> None:
    meant = algorithm or algorithm_of_length(len(digest))
    if meant is None or not is_digest(meant, digest.lower()):
        kind = meant or "sha256, sha384 or sha512"
        _refuse(number, f"has a digest of {len(digest)} digits, which is no {kind}; nothing else counts")
    table.add(path, meant, digest.lower())


def _refuse(number: int, what: str) -> NoReturn:
    raise ManifestError(
        f"Line {number} of the list of checksums {what}.", hint="See docs/formats/checksums.md.", line=number
    )
