"""JSON from outside, read in one way only, and JSON that we sign, written in one way only (RFC 8785).

Two parsers that read one text differently are how a signature comes to cover something else than what is used. So:
duplicate keys, NaN and infinities, bytes that are no UTF-8, and texts beyond a bound are refused.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import rfc8785

from millcert.errors import IntegrityError, UsageError

#: How deep objects and lists may nest: enough for every format here, far from the interpreter's recursion limit.
MAX_DEPTH = 64

_MAX_INTEGER = 2**53 - 1
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Mapping[str, Any], *, what: str) -> bytes:
    """Return the canonical form of a JSON object (RFC 8785, "JCS").

    Args:
        value: strings, finite numbers (integers within +-2**53), booleans, None, lists and string-keyed mappings.
        what: names the value in the error.

    Raises:
        UsageError: the value has no canonical form.
    """
    try:
        plain = dict(value)
        if _is_plain(plain):
            return _ENCODER.encode(plain).encode("utf-8")
        return rfc8785.dumps(plain)
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as error:
        raise UsageError(
            f"The {what} has no canonical JSON form: {error}.",
            hint="Use strings, finite numbers, integers within 2**53, booleans, null, lists and string-keyed objects.",
        ) from error


def _is_plain(value: object) -> bool:
    """Say whether the standard library writes a value as RFC 8785 does (a test compares them).

    It does so for ASCII keys, which it sorts alike, and without fractions, which it writes otherwise; seven times as
    fast. What is not plain, or wrong, goes the long way.
    """
    kind = type(value)  # exactly these: a subclass may write itself otherwise
    if value is None or kind is str or kind is bool:
        return True
    if isinstance(value, int) and kind is int:
        return -_MAX_INTEGER <= value <= _MAX_INTEGER
    if isinstance(value, dict) and kind is dict:
        return all(type(key) is str and key.isascii() and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple) and kind in (list, tuple):
        return all(map(_is_plain, value))
    return False


def parse_json_object(
    data: bytes, *, what: str, max_bytes: int, error: type[IntegrityError] = IntegrityError
) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Args:
        data: UTF-8 without a byte order mark.
        what: names the value in the error.
        max_bytes: bound on `data`, checked before anything is parsed.
        error: the class to raise.

    Raises:
        IntegrityError: (as `error`) too long, no UTF-8, no JSON object, a duplicate key, a number that is not finite,
            half a surrogate pair, or nested deeper than MAX_DEPTH.
    """
    if len(data) > max_bytes:
        raise error(f"The {what} has {len(data)} bytes; at most {max_bytes} are read.", max_bytes=max_bytes)

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def finite(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"the number {text[:40]} is too large")
        return value

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=refuse_constant,
            parse_float=finite,
        )
        _require_plain_object(value)
    except (ValueError, RecursionError) as fault:
        raise error(f"The {what} is not a strict JSON object: {fault}.") from fault
    return value


def require_fields(
    value: Mapping[str, Any],
    fields: Mapping[str, type],
    *,
    what: str,
    optional: Mapping[str, type] | None = None,
    error: type[IntegrityError] = IntegrityError,
) -> None:
    """Check that an object has exactly these fields with these types; optional ones may be absent.

    Raises:
        IntegrityError: (as `error`) a field is missing, unknown, or of another type (a boolean is no integer).
    """
    allowed = {**fields, **(optional or {})}
    missing = sorted(fields.keys() - value.keys())
    unknown = sorted(value.keys() - allowed.keys())
    if missing or unknown:
        raise error(
            f"The {what} has other fields than expected: "
            f"missing {', '.join(missing) or 'none'}; unknown {', '.join(map(ascii, unknown[:10])) or 'none'}.",
            missing=missing,
            unknown=unknown,
        )
    for name, item in value.items():
        expected = allowed[name]
        if not isinstance(item, expected) or (expected is int and isinstance(item, bool)):
            raise error(
                f"The {what}'s field {name!r} must be of type {expected.__name__}, got {type(item).__name__}.",
                field=name,
            )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key!a} appears twice")
        value[key] = item
    return value


def _require_plain_object(value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")  # noqa: TRY004 - the caller translates one
    layer: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                below.extend(item)  # the keys
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                item.encode()  # half a surrogate pair raises UnicodeEncodeError, a ValueError
        layer = below
        if not layer:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH}")
