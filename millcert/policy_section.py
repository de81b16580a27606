"""What every section of a policy file is made of: a closed, frozen model, the types of its values, and its faults.

Pydantic stops at a section's first broken rule between keys, and speaks of types; a `Section` reports every fault of
its keys and between them at once, in words of the file.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from millcert.errors import PolicyError
from millcert.policy_faults import KeyPath
from millcert.policy_yaml import Plain, resolve

#: A rule's finding: where, relative to the section, and what is wrong.
Fault: TypeAlias = tuple[KeyPath, str]

#: Integers above it are not the same in every JSON reader (RFC 8785 section 3.2.2.3, RFC 7493 section 2.2).
MAX_INTEGER = 2**53 - 1

_MAX_TEXT = 4096
#: Control characters, halves of surrogate pairs, and what hides or reorders text for the people who review a policy
#: (Unicode line and paragraph separators, bidirectional controls).
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def _text(value: str) -> str:
    if bad := _UNPRINTABLE.search(value):
        raise ValueError(f"the character U+{ord(bad.group()):04X} is refused in text")
    return value


def _number(value: object) -> object:
    if isinstance(value, Plain):
        try:
            value = resolve(value)
        except ValueError as error:
            raise ValueError(f"expected a number, but {error}") from error
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {shown(value)}")  # noqa: TRY004 - pydantic collects ValueError only
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return value


def whole_number(value: object) -> object:
    """Return a whole number, also from the text of a plain scalar; ValueError says what was found instead."""
    value = _number(value)
    if not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {value}")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def parsable(value: str, parse: Callable[[str], object]) -> str:
    """Return a value that `parse` takes; a PolicyError of it is raised as a ValueError, which pydantic collects."""
    try:
        parse(value)
    except PolicyError as error:
        raise ValueError(error.message) from error
    return value


def _public_key(value: str) -> str:
    from millcert.provenance.public_key import parse_base64_key

    return parsable(value, parse_base64_key)


def _fraction(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"expected a fraction from 0 to 1 (not percent), got {value:g}")
    return value + 0.0  # -0.0 becomes 0.0: one canonical form


def shown(value: object) -> str:
    """Return a value as a fault names it: short, and on one line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {str(value[:60])!r}"
    return repr(value)[:60]


def _json_values(value: object) -> object:
    """Resolve the plain scalars of free-form configuration; every fault with its place."""
    faults: list[Fault] = []
    resolved = _json_value(value, (), faults)
    if faults:
        raise ValidationError.from_exception_data("config", [_custom(loc, text) for loc, text in faults])
    return resolved


def _json_value(value: object, place: KeyPath, faults: list[Fault]) -> object:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item, (*place, str(key)), faults) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item, (*place, position), faults) for position, item in enumerate(value)]
    try:
        if isinstance(value, Plain):
            value = resolve(value)
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = _number(value)
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise ValueError(f"expected a whole number up to {MAX_INTEGER}, got {value}")  # noqa: TRY301 - one handler
    except ValueError as error:
        faults.append((place, str(error)))
    return value


def _custom(place: KeyPath, message: str) -> InitErrorDetails:
    # Pydantic fills {placeholders} of the template, so the message goes in as a value.
    error = PydanticCustomError("policy_fault", "{message}", {"message": message})
    return InitErrorDetails(type=error, loc=place, input=None)


def _phrase(error: ErrorDetails) -> str:
    """Return one of pydantic's errors in our words."""
    kind, context, got = error["type"], error.get("ctx", {}), shown(error["input"])
    phrases = {
        "missing": "the key is required",
        "string_type": f"expected text, got {got}",
        "string_too_short": "expected text, got none",
        "string_too_long": f"expected at most {context.get('max_length')} characters",
        "string_pattern_mismatch": f"expected text like {context.get('pattern')}, got {got}",
        "literal_error": f"expected {context.get('expected')}, got {got}",
        "model_type": f"expected a mapping of keys, got {got}",
        "model_attributes_type": f"expected a mapping of keys, got {got}",
        "mapping_type": f"expected a mapping of keys, got {got}",
        "dict_type": f"expected a mapping of keys, got {got}",
        "tuple_type": f"expected a list, got {got}",
        "list_type": f"expected a list, got {got}",
        "too_long": f"expected a list of at most {context.get('max_length')}, got {context.get('actual_length')}",
        "greater_than": f"expected a number above {context.get('gt')}, got {got}",
        "less_than_equal": f"expected a number up to {context.get('le')}, got {got}",
        "value_error": str(context.get("error", error["msg"])),
    }
    return phrases.get(kind, error["msg"])


#: Comes last in an annotation: constraints behind a function are not in the JSON Schema.
PRINTABLE = AfterValidator(_text)

Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=_MAX_TEXT), PRINTABLE]


def _beside_policy(value: str) -> str:
    if value.startswith("/") or "://" in value or "\\" in value:
        raise ValueError(f"expected a path relative to the policy file, got {shown(value)}")
    return value


PolicyPath: TypeAlias = Annotated[Text, AfterValidator(_beside_policy)]
#: SubjectPublicKeyInfo in one line of base64.
PublicKey: TypeAlias = Annotated[Text, AfterValidator(_public_key)]
Fraction: TypeAlias = Annotated[
    float, BeforeValidator(_number), AfterValidator(_fraction), Field(json_schema_extra={"minimum": 0, "maximum": 1})
]
Count: TypeAlias = Annotated[int, BeforeValidator(whole_number), Field(gt=0, le=MAX_INTEGER)]
Positive: TypeAlias = Annotated[float, BeforeValidator(_number), Field(gt=0)]


def at_least(length: int) -> WrapValidator:
    """Refuse a shorter list. Counts what was written; pydantic's own bound counts only the items without a fault."""

    def refuse_shorter(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        if isinstance(value, (list, tuple)) and len(value) < length:
            raise ValueError(f"expected a list of at least {length}, got {len(value)}")
        return handler(value)

    return WrapValidator(refuse_shorter)


FreeForm: TypeAlias = Annotated[Mapping[str, JsonValue], BeforeValidator(_json_values)]


class Section(BaseModel):
    """A mapping of the policy file: frozen, closed, and all of its faults come at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, ser_json_inf_nan="strings")

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """Yield the faults between this section's keys. `raw` is not validated: anything may be missing or wrong."""
        del raw
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _report_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        found = [_custom(place, message) for place, message in (*cls._unknown_keys(data), *cls.rules(data))]
        try:
            validated = handler(data)
        except ValidationError as error:
            others = (e for e in error.errors(include_url=False) if e["type"] != "extra_forbidden")
            found += [_custom(e["loc"], _phrase(e)) for e in others]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return validated

    @classmethod
    def _unknown_keys(cls, data: Mapping[str, Any]) -> Iterator[Fault]:
        known = [info.alias or name for name, info in cls.model_fields.items()]
        for key in data:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                also = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
                yield (str(key),), f"unknown key; {also}"
