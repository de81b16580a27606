"""The two pattern languages of trust rules, for paths and for identities, matched without regular expressions.

A pattern comes from the policy, but what it is matched against comes from the data: no input makes a match slow. The
cost is at most the product of both lengths.

Languages: docs/formats/trust.md.
"""

_MAX_PATTERN = 1024
_REFUSED_IN_PATH = frozenset("[]{}\\")
_ANY, _ANY_WITHIN = "**", "*"


def path_pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with a path pattern, or None where it is sound."""
    if not 0 < len(pattern) <= _MAX_PATTERN:
        return f"expected 1 to {_MAX_PATTERN} characters"
    segments = pattern.split("/")
    if any(segment in {"", ".", ".."} for segment in segments):
        return "it must be relative, without empty, . or .. segments"
    if not _REFUSED_IN_PATH.isdisjoint(pattern):
        return "brackets, braces and backslashes have no meaning here; only *, ? and ** have one"
    if any(_ANY in segment and segment != _ANY for segment in segments):
        return "** must be a whole segment, as in lab/** or **/*.parquet"
    return None


def path_matches(pattern: str, path: str) -> bool:
    """Tell whether a POSIX path is one that the pattern means.

    `*` stands for any characters but "/", `?` for one of them, a whole segment `**` for any number of segments, at
    least one if it is the last.
    """
    wanted, given = pattern.split("/"), path.split("/")
    if wanted[-1] == _ANY:
        wanted.append(_ANY_WITHIN)
    # Going back to the last ** only is enough: what stands between two ** may as well be matched at its first place.
    at = seen = 0
    retry_at, retry_seen = -1, 0
    while seen < len(given):
        if at < len(wanted) and wanted[at] == _ANY:
            retry_at, retry_seen = at, seen
            at += 1
        elif at < len(wanted) and _segment_matches(wanted[at], given[seen]):
            at, seen = at + 1, seen + 1
        elif retry_at >= 0:
            retry_seen += 1
            at, seen = retry_at + 1, retry_seen
        else:
            return False
    return all(segment == _ANY for segment in wanted[at:])


def literal_directory(pattern: str) -> str:
    """Return the folder that a path pattern starts with, as far as it has no wildcard; "" for the root."""
    literal: list[str] = []
    for segment in pattern.split("/")[:-1]:
        if "*" in segment or "?" in segment:
            break
        literal.append(segment)
    return "/".join(literal)


def identity_pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with an identity pattern, or None where it is sound."""
    if not 0 < len(pattern) <= _MAX_PATTERN:
        return f"expected 1 to {_MAX_PATTERN} characters"
    if "*" not in pattern:
        return "it has no *; write it as an identity"
    if "***" in pattern:
        return "only * and ** have a meaning"
    return _uri_fault(pattern) if "://" in pattern else _email_fault(pattern)


def identity_matches(pattern: str, identity: str) -> bool:
    """Tell whether the pattern matches all of an identity: `*` any characters but "/" and "@", `**` any at all."""
    parts = _identity_parts(pattern)
    alive = _past_stars(parts, {0})
    for character in identity:
        ahead = set()
        for at in alive:
            part = parts[at] if at < len(parts) else ""
            if part == _ANY or (part == _ANY_WITHIN and character not in "/@"):
                ahead.add(at)
            elif part == character:
                ahead.add(at + 1)
        alive = _past_stars(parts, ahead)
    return len(parts) in alive


def _uri_fault(pattern: str) -> str | None:
    scheme, _, rest = pattern.partition("://")
    host, slash, _ = rest.partition("/")
    if not scheme or not host or not slash or "*" in scheme + host:
        return "scheme and host of a URI must be literal, and a path must follow"
    return None


def _email_fault(pattern: str) -> str | None:
    local, _, domain = pattern.partition("@")
    if not local or "." not in domain or "*" in domain:
        return "an identity is a URI or an email address; an address's domain must be literal"
    if _ANY in local:
        return "in an email address ** could match a URI; use *"
    return None


def _segment_matches(pattern: str, text: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return pattern == text
    at = seen = 0
    retry_at, retry_seen = -1, 0
    while seen < len(text):
        if at < len(pattern) and pattern[at] == "*":
            retry_at, retry_seen = at, seen
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[seen]):
            at, seen = at + 1, seen + 1
        elif retry_at >= 0:
            retry_seen += 1
            at, seen = retry_at + 1, retry_seen
        else:
            return False
    return not pattern[at:].strip("*")


def _identity_parts(pattern: str) -> list[str]:
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        width = 2 if pattern.startswith(_ANY, at) else 1
        parts.append(pattern[at : at + width])
        at += width
    return parts


def _past_stars(parts: list[str], places: set[int]) -> set[int]:
    """Add the places that are reached because a star may stand for nothing."""
    reached: set[int] = set()
    for place in places:
        at = place
        reached.add(at)
        while at < len(parts) and parts[at] in (_ANY, _ANY_WITHIN):
            at += 1
            reached.add(at)
    return reached
