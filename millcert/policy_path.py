"""Path patterns of source rules: which files of a data set a rule speaks for.

A pattern is a relative POSIX path. `*` stands for any characters but "/", `?` for one of them, and a whole segment `**`
for any number of segments, none included; "lab/**" matches all below lab, but not a file named lab. Everything else is
literal and case counts. Brackets, braces and backslashes are refused: other tools give them meanings.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator

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
    """Tell whether a file's manifest path (POSIX, relative to the data set's root) is one that the pattern means."""
    return _compiled(pattern).fullmatch(path) is not None


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
        if re.fullmatch(_segment(segment), given[position], re.DOTALL) is None:
            return f'"{given[position]}" is not "{segment}"'
    return f'"{pattern}" means nothing that deep'


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Translate to a regular expression; repeated stars are one, so that matching stays polynomial."""
    segments = [segment for segment, group in itertools.groupby(pattern.split("/")) for _ in _kept(segment, group)]
    expression = ""
    for segment in segments[:-1]:
        expression += "(?:[^/]+/)*" if segment == "**" else _segment(segment) + "/"
    expression += "(?:[^/]+/)*[^/]+" if segments[-1] == "**" else _segment(segments[-1])
    return re.compile(expression, re.DOTALL)


def _kept(segment: str, group: Iterator[str]) -> Iterable[str]:
    return ("**",) if segment == "**" else group


def _segment(segment: str) -> str:
    return "".join(_translate(character) for character in segment)


def _translate(character: str) -> str:
    return {"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character))
