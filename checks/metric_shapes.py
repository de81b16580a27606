r"""Many texts, few shapes: characters that a regular expression cannot tell apart are written as one, then told once.

A regular expression without back-references looks at a character only by asking whether it is in one of the sets that
its parse tree names: its literals, classes, categories, the newline of `.` and `$`, the word characters of `\b`. Two
characters that are in the same sets are one to it, so whether it finds a match does not change when one is written for
the other. `^[0-9a-f]{32}$` sees digests as one text, 32 times "0"; ids and paths of one form become as few. Each shape
is asked once, by whichever engine would have been asked of each text.

Only for texts of ASCII; patterns with flags or back-references have no shapes.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]  # the only public way to a pattern's parse tree is gone
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks.metric_text import bytes_of, is_ascii, of_bytes, offsets_of, repeats, sample

#: Fewer texts than these are asked one by one.
_MIN_TEXTS = 1_024
#: Bytes that are translated at once: what is read, and what is written, stays in the processor's cache.
_CHUNK_BYTES = 131_072
_ASCII = frozenset(map(chr, range(128)))

_CATEGORIES = {
    _constants.CATEGORY_DIGIT: r"\d",
    _constants.CATEGORY_NOT_DIGIT: r"\D",
    _constants.CATEGORY_SPACE: r"\s",
    _constants.CATEGORY_NOT_SPACE: r"\S",
    _constants.CATEGORY_WORD: r"\w",
    _constants.CATEGORY_NOT_WORD: r"\W",
}
_NEWLINE = frozenset("\n")
_WORD = frozenset(character for character in _ASCII if re.match(r"\w", character))
_ANCHORS: dict[Any, frozenset[str]] = {
    _constants.AT_BEGINNING: frozenset(),
    _constants.AT_BEGINNING_STRING: frozenset(),
    _constants.AT_END: _NEWLINE,
    _constants.AT_END_STRING: frozenset(),
    _constants.AT_BOUNDARY: _WORD,
    _constants.AT_NON_BOUNDARY: _WORD,
}


#: Operations around another pattern, and where that stands in what belongs to them.
_BODY_AT: dict[Any, int] = {
    _constants.MAX_REPEAT: 2,
    _constants.MIN_REPEAT: 2,
    _constants.POSSESSIVE_REPEAT: 2,
    _constants.ASSERT: 1,
    _constants.ASSERT_NOT: 1,
}


class _NoShapesError(Exception):
    """The pattern looks at more than the sets that a character is in."""


def shapes_of(pattern: str, texts: pa.Array) -> tuple[pa.Array, np.ndarray | None] | None:
    """Return the shapes of texts under a pattern, and which one each text has; None for all the first.

    Args:
        pattern: Python syntax, valid.
        texts: string array without nulls, shape (n,).

    Returns:
        None where the texts do not have few shapes, by a sample.

    Cost: 0.5 ns a byte, and 15 ns a text unless all have one shape.
    """
    if len(texts) < _MIN_TEXTS or not is_ascii(texts):
        return None
    table = folding(pattern)
    if table is None or not repeats(_folded(sample(texts, _MIN_TEXTS), table)):
        return None
    if _is_one_shape(texts, table):
        return _folded(texts.slice(0, 1), table), None
    encoded = _folded(texts, table).dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy(zero_copy_only=False)


@lru_cache(maxsize=256)
def folding(pattern: str) -> bytes | None:
    """Return what stands for each byte: the least ASCII character that the pattern cannot tell from it.

    None where there is no such table, or where it would change nothing.
    """
    tree = _parser.parse(pattern)
    if tree.state.flags != re.UNICODE.value:
        return None
    try:
        sets = list(_sets(tree))
    except _NoShapesError:
        return None
    first: dict[tuple[bool, ...], int] = {}
    table = bytearray(range(256))
    for code in range(128):
        table[code] = first.setdefault(tuple(chr(code) in each for each in sets), code)
    return bytes(table) if len(first) < 128 else None


def _is_one_shape(texts: pa.Array, table: bytes) -> bool:
    """Return whether all texts are of one length and fold to one text; stops at the first chunk that says no."""
    offsets = offsets_of(texts)
    length = int(offsets[1] - offsets[0])
    if not length or not bool((np.diff(offsets) == length).all()):
        return False
    rows = bytes_of(texts).reshape(len(texts), length)
    step = max(1, _CHUNK_BYTES // length)
    first = np.frombuffer(rows[0].tobytes().translate(table) * step, dtype=np.uint8)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step].tobytes().translate(table)
        if not bool((np.frombuffer(chunk, dtype=np.uint8) == first[: len(chunk)]).all()):
            return False
    return True


def _folded(texts: pa.Array, table: bytes) -> pa.Array:
    content = bytes_of(texts)
    # Arrow's allocator keeps what it freed; numpy's would ask the system for new pages each time.
    folded = np.frombuffer(pa.allocate_buffer(len(content)), dtype=np.uint8)
    for start in range(0, len(content), _CHUNK_BYTES):
        chunk = content[start : start + _CHUNK_BYTES].tobytes().translate(table)
        folded[start : start + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
    return of_bytes(texts, folded)


def _sets(items: Any) -> Iterator[frozenset[str]]:  # noqa: C901 - a table of operations
    """Yield the sets of ASCII characters that a parse tree asks about."""
    for op, value in items:
        match op:
            case _constants.LITERAL | _constants.NOT_LITERAL:
                yield frozenset({chr(value)})
            case _constants.ANY:
                yield _NEWLINE
            case _constants.IN:
                yield frozenset().union(*_members(value))
            case _constants.AT:
                yield _ANCHORS[value]
            case _constants.BRANCH:
                for branch in value[1]:
                    yield from _sets(branch)
            case _constants.SUBPATTERN:
                _, added, removed, body = value
                if added or removed:
                    raise _NoShapesError
                yield from _sets(body)
            case _constants.ATOMIC_GROUP:
                yield from _sets(value)
            case _ if op in _BODY_AT:
                yield from _sets(value[_BODY_AT[op]])
            case _:
                raise _NoShapesError


def _members(items: Any) -> Iterator[frozenset[str]]:
    for op, value in items:
        match op:
            case _constants.NEGATE:
                pass
            case _constants.LITERAL:
                yield frozenset({chr(value)})
            case _constants.RANGE:
                yield frozenset(map(chr, range(value[0], min(value[1], 127) + 1)))
            case _constants.CATEGORY if value in _CATEGORIES:
                yield frozenset(character for character in _ASCII if re.match(_CATEGORIES[value], character))
            case _:
                raise _NoShapesError
