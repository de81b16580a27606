"""Bounds and set members of a suite, brought to the family of the column that they are compared with.

What Python and pandas cannot compare (a text with a number, a time without a zone with one that has it) is refused
here, while the suite is planned, instead of failing or, worse, never matching on the data.
"""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa

from millcert.checks.metric_columns import family
from millcert.checks.metric_conditions import (
    Condition,
    WithinDecimals,
    WithinFloats,
    WithinLengths,
    WithinTicks,
)
from millcert.errors import PolicyError

_UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - ticks of a column without zone count from a time without zone
#: A bound that no int64 or uint64 reaches.
_BEYOND = 2**70


def within(data_type: pa.DataType, parameters: dict[str, Any]) -> Condition:
    """Return the condition of "values to be between" for a column.

    Args:
        data_type: the column's Arrow type.
        parameters: min_value, max_value, strict_min, strict_max as Great Expectations hands them to its metric.

    Raises:
        PolicyError: no bound, crossed bounds, a bound of another kind than the column, or a column without an order.
    """
    kind = family(data_type)
    least, most = parameters.get("min_value"), parameters.get("max_value")
    strict_least, strict_most = bool(parameters.get("strict_min")), bool(parameters.get("strict_max"))
    if least is None and most is None:
        raise PolicyError("Neither min_value nor max_value is given.")
    low, high = (None if bound is None else _comparable(data_type, bound) for bound in (least, most))
    if low is not None and high is not None and low > high:
        raise PolicyError(f"min_value {least!r} is greater than max_value {most!r}.")
    if kind == "float":
        low, high = (None if bound is None else _as_float(bound) for bound in (low, high))
        return WithinFloats(low, high, strict_least, strict_most)
    if kind == "decimal":
        low, high = (None if bound is None else Decimal(bound) for bound in (low, high))
        return WithinDecimals(low, high, strict_least, strict_most)
    return WithinTicks(*_integers_within(low, high, strict_least=strict_least, strict_most=strict_most))


def within_lengths(parameters: dict[str, Any]) -> Condition:
    """Return the condition of "value lengths to be between" (min_value, ...) or "to equal" (value).

    Raises:
        PolicyError: no bound, or a bound that is no number.
    """
    if "value" in parameters:
        parameters = {"min_value": parameters["value"], "max_value": parameters["value"]}
    low, high = parameters.get("min_value"), parameters.get("max_value")
    if low is None and high is None:
        raise PolicyError("Neither min_value nor max_value nor value is given.")
    for bound in (low, high):
        if bound is not None and not _is_number(bound):
            raise PolicyError(f"A length is compared with {bound!r}, which is no number.")
    strict_least, strict_most = bool(parameters.get("strict_min")), bool(parameters.get("strict_max"))
    return WithinLengths(*_integers_within(low, high, strict_least=strict_least, strict_most=strict_most))


def members(data_type: pa.DataType, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the members of a set that a value of the column can equal, in the column's form; null has no equal.

    A text never equals a number and is dropped on the wrong column, as pandas does; times must read as ISO 8601.

    Raises:
        PolicyError: the column's type has no equality, or a text on a date or timestamp column is no date.
    """
    kind = family(data_type)
    if kind in ("other", "binary"):
        raise PolicyError(f"Values of type {data_type} cannot be compared with a set.")
    found: list[Any] = []
    for value in values:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if kind == "string":
            found += [value] if isinstance(value, str) else []
        elif kind in ("date", "timestamp"):
            moment = _ticks_of(data_type, value)
            found += [int(moment)] if moment.denominator == 1 else []
        elif _is_number(value):
            found += _numbers(kind, value)
    return tuple(found)


def _numbers(kind: str, value: float | Decimal) -> list[Any]:
    if kind == "float":
        number = _as_float(value)
        return [number] if number == value else []
    if isinstance(value, float) and math.isinf(value):
        return []
    if kind == "decimal":
        return [Decimal(value)]
    return [int(value)] if value == int(value) else []


def _comparable(data_type: pa.DataType, bound: Any) -> Any:
    kind = family(data_type)
    if kind in ("date", "timestamp"):
        return _ticks_of(data_type, bound)
    if kind in ("bool", "int", "float", "decimal") and _is_number(bound):
        return bound
    raise PolicyError(
        f"Values of type {data_type} cannot be compared with {bound!r} ({type(bound).__name__}).",
        hint="Give a bound of the column's own kind.",
    )


def _ticks_of(data_type: pa.DataType, moment: Any) -> Fraction:
    """Return a date or time in the column's units since 1970, exactly."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as error:
            raise PolicyError(f"{moment!r} is no date or time in ISO 8601.") from error
    if not isinstance(moment, date):
        raise PolicyError(f"Values of type {data_type} cannot be compared with {moment!r}.")
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001 - a date has no zone
        if family(data_type) == "timestamp" and data_type.tz is not None:
            moment = moment.replace(tzinfo=UTC)
    if family(data_type) == "date":
        if moment.tzinfo is not None or moment.time() != datetime.min.time():
            raise PolicyError(f"A date column cannot be compared with the time {moment.isoformat()}.")
        return Fraction((moment - _EPOCH).days)
    if (moment.tzinfo is None) != (data_type.tz is None):
        raise PolicyError(
            f"{moment.isoformat()} and a column of type {data_type} cannot be compared: one has a zone.",
            hint="Give the time with an offset exactly if the column has a zone.",
        )
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
    return Fraction(microseconds * _UNITS_PER_SECOND[data_type.unit], 1_000_000)


def _integers_within(low: Any, high: Any, *, strict_least: bool, strict_most: bool) -> tuple[int | None, int | None]:
    """Return the integers between two bounds as a closed interval; None is no bound."""
    least: int | None = None
    most: int | None = None
    if low is not None:
        if isinstance(low, float) and math.isinf(low):
            least = None if low < 0 else _BEYOND
        else:
            least = math.floor(low) + 1 if strict_least else math.ceil(low)
    if high is not None:
        if isinstance(high, float) and math.isinf(high):
            most = None if high > 0 else -_BEYOND
        else:
            most = math.ceil(high) - 1 if strict_most else math.floor(high)
    return least, most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not (isinstance(value, float) and math.isnan(value))


def _as_float(value: float | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
