"""Path patterns of source rules: which files of a data set a rule speaks for.

A pattern is a relative POSIX path. `*` stands for any characters but "/", `?` for one of them, and a whole segment `**`
for any number of segments, none included; "lab/**" matches all below lab, but not a file named lab. Everything else is
literal and case counts. Brackets, braces and backslashes are refused: other tools give them meanings.
"""

import functools
import re
from collections.abc import Callable, Sequence

_SPECIAL = frozenset("[]{}\\")


def pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with a pattern, or None where it is sound."""
    fault = relative_path_fault(pattern)
    if fault is not None:
        return fault
    if bad := sorted(_SPECIAL & set(pattern)):
        return f"{' '.join(bad)} is refused in a pattern; only *, ? and ** have a meaning"
    if any("**" in segment and segment != "**" for segment in pattern.split("/")):
        return "** must be a whole segment, as in lab/** or **/*.parquet"
    return None


def relative_path_fault(path: str) -> str | None:
    """Return why `path` is no path below the data set's root, or None where it is one."""
    if path.startswith("/") or "://" in path or re.match(r"[A-Za-z]:", path):
        return "expected a path relative to the data set's root"
    if any(segment in {"", ".", ".."} for segment in path.split("/")):
        return "empty segments, . and .. are refused in a path"
    if "\\" in path:
        return "expected / between segments, got a backslash"
    return None


def matches(pattern: str, path: str) -> bool:
    """Tell whether a file's manifest path (POSIX, relative to the data set's root) is one that the pattern means.

    Cost: at most length of pattern times length of path, whatever the pattern.
    """
    return _match(_segments(pattern), path.split("/"), "**", _segment_matches)


def why_not(pattern: str, path: str) -> str:
    """Return in words where a pattern and a path that it does not match part."""
    wanted, given = pattern.split("/"), path.split("/")
    for position, segment in enumerate(wanted):
        if segment == "**":
            return (
                f'it does not end as "{pattern}" does' if position < len(given) else f'"{pattern}" means what is below'
            )
        if position == len(given):
            return f'"{pattern}" means something deeper'
        if not _segment_matches(segment, given[position]):
            return f'"{given[position]}" is not "{segment}"'
    return f'"{pattern}" means nothing that deep'


@functools.lru_cache(maxsize=1024)
def _segments(pattern: str) -> tuple[str, ...]:
    """Return a pattern's segments; a ** at the end stands for at least one, so it is followed by any one."""
    segments = tuple(pattern.split("/"))
    return (*segments, "*") if segments[-1] == "**" else segments


def _segment_matches(pattern: str, segment: str) -> bool:
    return pattern in {"*", segment} or _match(pattern, segment, "*", _character_matches)


def _character_matches(pattern: str, character: str) -> bool:
    return pattern in {"?", character}


def _match(pattern: Sequence[str], text: Sequence[str], star: str, is_match: Callable[[str, str], bool]) -> bool:
    """Match greedily: on a mismatch only the last star takes one item more, as an earlier one could gain nothing."""
    at, position = 0, 0
    after_star, taken = -1, 0
    while position < len(text):
        if at < len(pattern) and pattern[at] == star:
            at += 1
            after_star, taken = at, position
        elif at < len(pattern) and is_match(pattern[at], text[position]):
            at += 1
            position += 1
        elif after_star >= 0:
            taken += 1
            at, position = after_star, taken
        else:
            return False
    return all(rest == star for rest in pattern[at:])
