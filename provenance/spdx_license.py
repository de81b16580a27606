"""Licence expressions (SPDX), and whether an allow-list covers one.

Rules: `A OR B` is covered if one of them is, `A AND B` if both are. `A+` ("or any later version") is covered by `A+` or
`A`; `A WITH E` by itself or by `A`, because an exception only adds permissions. Nothing else is covered: no unknown
name, no free text, no empty expression.

Source: SPDX specification 2.3 annex D, licence expressions. Web addresses of spdx.org and of Creative Commons stand for
the identifiers that they mean, because data sets give those more often.
"""

import re
from collections.abc import Iterable

#: Bounds the work; real expressions have a handful of words.
MAX_TOKENS = 64

_TOKEN = re.compile(r"\(|\)|[^()\s]+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9.-]+(:[A-Za-z0-9.-]+)?\+?")
_SPDX_URL = re.compile(r"https?://(?:www\.)?spdx\.org/licenses/([A-Za-z0-9.+-]+?)(?:\.html|\.json)?/?")
_CC_URL = re.compile(
    r"https?://creativecommons\.org/licenses/([a-z-]+)/([0-9.]+)(?:/(?:legalcode|deed)(?:\.[a-z-]+)?)?/?"
)
_CC0_URL = re.compile(r"https?://creativecommons\.org/publicdomain/zero/1\.0(?:/(?:legalcode|deed)(?:\.[a-z-]+)?)?/?")
_OPERATORS = frozenset({"AND", "OR", "WITH", "(", ")"})


def is_license_covered(expression: str, allowed: Iterable[str]) -> bool:
    """Tell whether an allow-list covers a licence expression.

    Args:
        expression: as the publisher states it; "" where nothing is stated.
        allowed: identifiers, case-insensitive, such as "CC-BY-4.0" or "GPL-2.0-only WITH Classpath-exception-2.0".
    """
    tokens = [_identifier(token) for token in _TOKEN.findall(expression)]
    if not 0 < len(tokens) <= MAX_TOKENS:
        return False
    known = frozenset(" ".join(one.split()).casefold() for one in allowed)
    value, rest = _either(tokens, known)
    return value is True and not rest


def license_fault(identifier: str) -> str | None:
    """Return what is wrong with an entry of an allow-list, or None where it is sound."""
    words = identifier.split()
    if len(words) == 3 and words[1] == "WITH":
        words = [words[0], words[2]]
    if len(words) != 1 + (" WITH " in identifier) or not all(_IDENTIFIER.fullmatch(word) for word in words):
        return "expected one SPDX identifier, or one WITH an exception"
    return None


def _identifier(token: str) -> str:
    if match := _SPDX_URL.fullmatch(token):
        return match[1]
    if match := _CC_URL.fullmatch(token):
        return f"CC-{match[1].upper()}-{match[2]}"
    return "CC0-1.0" if _CC0_URL.fullmatch(token) else token


def _either(tokens: list[str], known: frozenset[str]) -> tuple[bool | None, list[str]]:
    """Read alternatives; None means that it is no expression."""
    value, rest = _both(tokens, known)
    while rest[:1] == ["OR"]:
        other, rest = _both(rest[1:], known)
        value = None if value is None or other is None else value or other
    return value, rest


def _both(tokens: list[str], known: frozenset[str]) -> tuple[bool | None, list[str]]:
    value, rest = _single(tokens, known)
    while rest[:1] == ["AND"]:
        other, rest = _single(rest[1:], known)
        value = None if value is None or other is None else value and other
    return value, rest


def _single(tokens: list[str], known: frozenset[str]) -> tuple[bool | None, list[str]]:
    if tokens[:1] == ["("]:
        value, rest = _either(tokens[1:], known)
        return (value, rest[1:]) if rest[:1] == [")"] else (None, [])
    if not tokens or tokens[0] in _OPERATORS or not _IDENTIFIER.fullmatch(tokens[0]):
        return None, []
    name = tokens[0].casefold()
    covered = name in known or name.removesuffix("+") in known
    if tokens[1:2] == ["WITH"]:
        if len(tokens) < 3 or tokens[2] in _OPERATORS or not _IDENTIFIER.fullmatch(tokens[2]):
            return None, []
        return covered or f"{name} with {tokens[2].casefold()}" in known, tokens[3:]
    return covered, tokens[1:]
