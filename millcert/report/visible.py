"""Text of strangers made safe to look at: escaped, shortened, and with every invisible character shown.

Rules this module keeps:
  1. What it returns is HTML in which the only tags are ours.
  2. A character that a reader cannot see, or that moves other characters (controls, bidirectional overrides, zero-width
     and tag characters, lone surrogates, piles of accents), is written as its code point in a frame.
  3. What is cut off is counted.
"""

import itertools
import math
import unicodedata

from markupsafe import Markup, escape

#: Our choice: enough to judge a sample by, and 200 findings stay below some megabytes.
TEXT_LIMIT = 1000
SHORT_LIMIT = 300
_MAX_ACCENTS = 3
_MAX_EXACT_BITS = 256
#: What a code point in a frame takes of the limit: as much as the letters that it is written with.
_CODE_COST = 8
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")

#: Look like nothing, though their category says that they are letters, marks or symbols.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def shown(text: str, limit: int = SHORT_LIMIT) -> Markup:
    """Return text as HTML in its own direction, at most `limit` characters of it."""
    return Markup("<bdi>{}</bdi>").format(Markup("").join(_pieces(text, limit)))


def shown_lines(text: str) -> Markup:
    """Return longer text as HTML; line ends are marked and kept."""
    return Markup("<bdi>{}</bdi>").format(Markup("").join(_pieces(text, TEXT_LIMIT, keeps_lines=True)))


def plain(text: str, limit: int = SHORT_LIMIT) -> Markup:
    """Return text for an attribute or a title: escaped, without tags, invisible characters as [U+202E]."""
    characters = _characters(text, limit)
    out = "".join(f"[{_code(c)}]" if hides else c for c, hides in characters)
    return escape(out + _cut(text, len(characters)))


def number(value: float | None) -> str:
    """Return a number in words that stay short: thousands separated, floats with 6 digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        bits = value.bit_length()
        return f"{value:,}" if bits <= _MAX_EXACT_BITS else f"an integer of {bits:,} bits"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return f"{value:.6g}"


def percent(fraction: float | None) -> str:
    """Return a fraction in [0, 1] as a percentage."""
    return "none" if fraction is None else f"{number(float(f'{100 * fraction:.4g}'))} %"


def size(size_bytes: int) -> str:
    """Return a number of bytes for people."""
    step = min(max(size_bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{size_bytes / 1024**step:,.1f} {_UNITS[step]} ({size_bytes:,} bytes)" if step else f"{size_bytes:,} bytes"


def _pieces(text: str, limit: int, *, keeps_lines: bool = False) -> list[Markup]:
    characters = _characters(text, limit)
    pieces: list[Markup] = []
    for hides, run in itertools.groupby(characters, key=lambda pair: pair[1]):
        word = "".join(character for character, _ in run)
        if not hides:
            pieces.append(escape(word))
            continue
        # One frame for each line, so that a line end can stand between them.
        for line in word.splitlines(keepends=True) if keeps_lines else [word]:
            codes = " ".join(_code(character) for character in line)
            pieces.append(Markup('<span class="code">{}</span>').format(codes))
            if keeps_lines and line.endswith("\n"):
                pieces.append(Markup("\n"))
    if len(text) > len(characters):
        pieces.append(Markup('<span class="cut">{}</span>').format(_cut(text, len(characters))))
    return pieces


def _characters(text: str, limit: int) -> list[tuple[str, bool]]:
    """Return each character with whether it must be written as its code point, until the limit is spent."""
    out: list[tuple[str, bool]] = []
    accents, spent = 0, 0
    for character in text[:limit]:
        if spent >= limit:
            break
        category = unicodedata.category(character)
        accents = accents + 1 if category in {"Mn", "Me"} else 0
        hides = (
            category in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
            or (category == "Zs" and character != " ")
            or character in _BLANKS
            or 0xFE00 <= ord(character) <= 0xFE0F
            or 0xE0100 <= ord(character) <= 0xE01EF
            or accents > _MAX_ACCENTS
        )
        spent += _CODE_COST if hides else 1
        out.append((character, hides))
    return out


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def _cut(text: str, taken: int) -> str:
    return f" [{len(text) - taken:,} more characters]" if len(text) > taken else ""
