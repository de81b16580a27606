"""DVC files, read as a hint: which MD5 somebody wrote down. A hint never suffices, and nothing here returns a listing.

MD5 is broken, the file is not signed, and old versions took the MD5 of a text with changed line ends. So what a hint is
good for is a remark: "the file differs from what DVC recorded", or "it does not".

Source: DVC user guide, .dvc files: outs with md5 (or a hash name), size, path.
"""

import re
from typing import Any, NamedTuple, NoReturn

import yaml

from millcert.errors import ManifestError
from millcert.provenance.manifest import check_path

#: Real files have some hundred bytes; the parser takes a second for 200 kB.
MAX_DVC_BYTES = 64 * 1024

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_REFUSED_EVENTS = (yaml.events.AliasEvent,)


class DvcHint(NamedTuple):
    """What DVC recorded of one output.

    path: relative to the .dvc file. md5: 32 hex digits, with ".dir" where it is of a folder's list. size_bytes: None
    where it is not recorded.
    """

    path: str
    md5: str
    size_bytes: int | None


def parse_dvc(data: bytes) -> tuple[DvcHint, ...]:
    """Return what a .dvc file recorded.

    Raises:
        ManifestError: no plain YAML of that form, or a path that leaves its folder.
    """
    outs = _document(data).get("outs")
    if not isinstance(outs, list) or not outs:
        _refuse("has no outs")
    return tuple(_hint(one) for one in outs)


def _document(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_DVC_BYTES:
        _refuse(f"has {len(data)} bytes; at most {MAX_DVC_BYTES} are read")
    try:
        text = data.decode("utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, _REFUSED_EVENTS) or getattr(event, "anchor", None):
                _refuse("has an anchor or an alias")
        # BaseLoader makes texts, lists and mappings of texts only: no value is guessed, no object is made.
        value = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader constructs no objects
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"The DVC file is no YAML: {error}.", hint="Fetch it again.") from error
    if not isinstance(value, dict):
        _refuse("is no mapping")
    return value


def _hint(value: object) -> DvcHint:
    if not isinstance(value, dict):
        _refuse("has an output that is no mapping")
    path, digest, size = value.get("path"), value.get("md5"), value.get("size")
    if not isinstance(path, str) or not isinstance(digest, str) or not _MD5.fullmatch(digest):
        _refuse("has an output without a path or an MD5")
    if size is not None and not (isinstance(size, str) and _SIZE.fullmatch(size)):
        _refuse(f"has a size that is no number for {path[:80]!r}")
    check_path(path)
    return DvcHint(path, digest, None if size is None else int(size))


def _refuse(what: str) -> NoReturn:
    raise ManifestError(f"The DVC file {what}.", hint="It is a hint at most; nothing depends on it.")
