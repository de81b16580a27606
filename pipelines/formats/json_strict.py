"""Strict JSON: what is wrong with a line, and which type a value has.

Stricter than RFC 8259 where that leaves parsers to differ: a key may stand once, text must be Unicode scalar values,
and NaN and Infinity, which are no JSON, are refused as everywhere.
"""

import json
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.types as pt

#: Digits that a whole number may have; more are refused before they are converted (that is quadratic).
_MAX_DIGITS = 400


class JsonFaultError(ValueError):
    """A line is no record. `reason` is a stable code, `detail` one sentence without the data."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise JsonFaultError("json.duplicate_key", "A key stands twice in one object.")
    return result


def _constant(text: str) -> NoReturn:
    raise JsonFaultError("json.non_finite", f"{text} is no JSON value.")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise JsonFaultError("json.number", f"A whole number has more than {_MAX_DIGITS} digits.")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise JsonFaultError("json.number", "A number is beyond the range of float64.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_whole, parse_float=_number)


def parse_record(line: bytes) -> dict[str, Any]:
    """Return the object on a line.

    Raises:
        JsonFaultError: the line is no single JSON object, or breaks a rule of this module.
    """
    value = parse_document(line, "line")
    if not isinstance(value, dict):
        raise JsonFaultError("json.not_object", "The line is valid JSON but no object.")
    return value


def parse_document(data: bytes, what: str = "file") -> Any:
    """Return the value that some bytes are; `what` they are, for the error.

    Raises:
        JsonFaultError: they are no single JSON value, or break a rule of this module.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonFaultError("utf8.invalid", f"Byte {error.start} of the {what} is not valid UTF-8.") from error
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise JsonFaultError(
            "json.nesting", f"The {'record' if what == 'line' else what} is nested too deep."
        ) from error
    except json.JSONDecodeError as error:
        raise JsonFaultError("json.syntax", f"{error.msg} at character {error.pos} of the {what}.") from error
    if "\\u" in text or "\\U" in text:
        _refuse_surrogates(value)
    return value


def find_type_fault(record: dict[str, Any], schema: pa.Schema) -> JsonFaultError | None:
    """Return what keeps a parsed record from having a schema; None if its kinds of values fit."""
    for key, value in record.items():
        index = schema.get_field_index(key)
        if index < 0:
            return JsonFaultError("json.unknown_key", "The record has a key that the schema does not have.")
        fault = _value_fault(value, schema.field(index).type, key)
        if fault is not None:
            return fault
    return None


def _value_fault(value: Any, kind: pa.DataType, where: str) -> JsonFaultError | None:  # noqa: PLR0911 - a line a kind
    if value is None:
        return None
    if pt.is_struct(kind):
        if not isinstance(value, dict):
            return _mismatch(where, kind, value)
        for key, inner in value.items():
            index = kind.get_field_index(key)
            if index < 0:
                return JsonFaultError(
                    "json.unknown_key", f"An object in {where!r} has a key that the schema does not have."
                )
            fault = _value_fault(inner, kind.field(index).type, f"{where}.{key}")
            if fault is not None:
                return fault
        return None
    if pt.is_list(kind) or pt.is_fixed_size_list(kind):
        if not isinstance(value, list):
            return _mismatch(where, kind, value)
        if pt.is_fixed_size_list(kind) and len(value) != kind.list_size:
            detail = f"{where!r} must have {kind.list_size} items, it has {len(value)}."
            return JsonFaultError("json.list_size", detail)
        faults = (_value_fault(item, kind.value_type, f"{where}[]") for item in value)
        return next((fault for fault in faults if fault is not None), None)
    return None if _fits(value, kind) else _mismatch(where, kind, value)


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Return False where a value is surely of another kind; range and spelling are left to the Arrow conversion."""
    if pt.is_boolean(kind):
        return isinstance(value, bool)
    if pt.is_integer(kind):
        low, high = integer_range(kind)
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if pt.is_floating(kind):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if pt.is_decimal(kind):
        return isinstance(value, int | float | str) and not isinstance(value, bool)
    if pt.is_null(kind):
        return False
    return isinstance(value, str)


def integer_range(kind: pa.DataType) -> tuple[int, int]:
    """Return the least and the greatest value of an integer type."""
    if pt.is_signed_integer(kind):
        return -(1 << (kind.bit_width - 1)), (1 << (kind.bit_width - 1)) - 1
    return 0, (1 << kind.bit_width) - 1


def _mismatch(where: str, kind: pa.DataType, value: Any) -> JsonFaultError:
    names = {
        bool: "a boolean",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    found = names.get(type(value), "null")
    if found == "a whole number" and pt.is_integer(kind):
        found = "a whole number out of its range"
    return JsonFaultError("json.type", f"{where[:100]!r} must be {kind}, it is {found}.")


def _refuse_surrogates(value: Any) -> None:
    """Refuse text that holds half of a surrogate pair, which has no UTF-8."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            try:
                each.encode("utf-8")
            except UnicodeEncodeError as error:
                raise JsonFaultError("json.surrogate", "A text has half of a surrogate pair.") from error
        elif isinstance(each, dict):
            pending.extend(each)
            pending.extend(each.values())
        elif isinstance(each, list):
            pending.extend(each)
