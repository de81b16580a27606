"""Mutants of signed documents: what a fuzzer of a verifier feeds it. The same seed gives the same mutants.

Half of them are edits of bytes, half are edits of the JSON that a document holds: these get past the parser.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

_NUMBERS = (0, -1, 1, 2**53, 2**64, 1.5)
_WORDS = ("", "0", "-1", "A", "AA==", "+1", " 1", "\x00", "\ud800")
_VALUES: tuple[Any, ...] = (None, True, False, *_NUMBERS, *_WORDS, [], {}, [[]])
_TEXTS = (b"\n", b"\x00", b"\xff", b'"', b"{", b"}", b"null", b"\\u0000", b"\xe2\x80\x94 ", b"  ")


def mutants(data: bytes, *, seed: int, count: int) -> Iterator[bytes]:
    """Yield mutants of a document; now and then one is the document itself.

    Args:
        data: the good document.
        seed: of all choices.
        count: how many.
    """
    choose = random.Random(seed)  # noqa: S311 - reproducible, and no secret
    try:
        document: Any = json.loads(data)
    except ValueError:
        document = None
    for _ in range(count):
        if isinstance(document, dict) and choose.random() < 0.5:
            yield _edited_json(document, choose)
        else:
            yield _edited_bytes(data, choose)


def _edited_bytes(data: bytes, choose: random.Random) -> bytes:
    edited = bytearray(data)
    for _ in range(choose.choice((1, 1, 1, 2, 5))):
        at = choose.randrange(len(edited) + 1)
        match choose.randrange(6):
            case 0 if at < len(edited):
                edited[at] ^= 1 << choose.randrange(8)
            case 1:
                del edited[at : at + choose.choice((1, 1, 4, 64))]
            case 2:
                edited[at:at] = choose.choice(_TEXTS)
            case 3:
                start = choose.randrange(len(edited) + 1)
                edited[at:at] = edited[start : start + choose.choice((1, 8, 200))]
            case 4 if at < len(edited):
                edited[at] = choose.randrange(256)
            case _:
                edited = edited[:at] if choose.random() < 0.1 else edited
    return bytes(edited)


def _edited_json(document: dict[str, Any], choose: random.Random) -> bytes:
    copied: dict[str, Any] = json.loads(json.dumps(document))
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        places = list(_places(copied))
        if places:
            _edit(*choose.choice(places), choose, places)
    text = json.dumps(copied, indent=choose.choice((None, None, 1)))
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every holder with each of its keys or positions."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _edit(holder: Any, key: Any, choose: random.Random, places: list[tuple[Any, Any]]) -> None:
    edits: tuple[Callable[[], object], ...] = (
        lambda: holder.__setitem__(key, choose.choice(_VALUES)),
        lambda: holder.__delitem__(key),
        lambda: holder.__setitem__(key, _edited_text(holder[key], choose)),
        lambda: holder.__setitem__(key, _edited_text(holder[key], choose)),
        lambda: holder.__setitem__(key, _taken(choose.choice(places))),
        lambda: holder.__setitem__(key, [holder[key], holder[key]]),
        lambda: holder.__setitem__("unknown" if isinstance(holder, dict) else key, choose.choice(_VALUES)),
        lambda: holder.append(holder[key]) if isinstance(holder, list) else holder.__setitem__(f"{key}x", holder[key]),
    )
    choose.choice(edits)()


def _edited_text(value: Any, choose: random.Random) -> Any:
    if not isinstance(value, str):
        return value + choose.choice((-1, 1)) if type(value) is int else value
    try:
        inside = bytearray(base64.b64decode(value, validate=True))
    except ValueError:
        inside = bytearray()
    if inside and choose.random() < 0.7:
        inside[choose.randrange(len(inside))] ^= 1 << choose.randrange(8)
        return base64.b64encode(inside).decode()
    at = choose.randrange(len(value) + 1)
    return value[:at] + choose.choice(("", "A", "0", " ", "=", "\n", "\u2014", "/../")) + value[at + 1 :]


def _taken(place: tuple[Any, Any]) -> Any:
    holder, key = place
    try:
        return json.loads(json.dumps(holder[key]))
    except (KeyError, IndexError):  # an edit before took it away
        return None
