"""Row conditions: which values of a column an expectation does not expect.

A condition judges values that are not null, by value alone, so it gives the same answer in any batch. What it means is
what the expectation means on pandas; where pandas compares a float32 column or an integer with a bound, we compare
exactly. Bounds and sets arrive here already brought to the column's family (`millcert.checks.metric_bounds`).
"""

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.metric_columns import family, ticks
from millcert.checks.metric_regex import each_distinct, search
from millcert.checks.metric_text import lengths_of

#: Values that a condition raised on, beside the ones that it judged.
NO_ERRORS = None


class Verdicts:
    """What a condition says of m values.

    expected: bool (m,): whether each value is what the expectation expects.
    failed: bool (m,) where the condition could not be evaluated, or None where it could on all.
    """

    __slots__ = ("expected", "failed")

    def __init__(self, expected: np.ndarray, failed: np.ndarray | None = None) -> None:
        self.expected = expected
        self.failed = failed


class Condition(Protocol):
    """A frozen dataclass that judges values of one column."""

    def judge(self, values: pa.Array) -> Verdicts:
        """Return the verdict on each value; `values` has no nulls and is in its kernel type."""
        ...


@dataclass(frozen=True)
class Always:
    """Expects every value, or none: for what the column's type alone decides."""

    is_expected: bool

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return Verdicts(np.full(len(values), self.is_expected))


@dataclass(frozen=True)
class WithinTicks:
    """Expects ints, bools, dates or timestamps from `least` to `most`, both in; None is no bound."""

    least: int | None
    most: int | None

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return Verdicts(_within(ticks(values), self.least, self.most))


@dataclass(frozen=True)
class WithinLengths:
    """Expects texts of `least` to `most` characters (code points), both in; None is no bound."""

    least: int | None
    most: int | None

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return Verdicts(_within(lengths_of(_text(values)), self.least, self.most))


@dataclass(frozen=True)
class WithinFloats:
    """Expects floats between two bounds; a strict bound is not itself within."""

    least: float | None
    most: float | None
    strict_least: bool
    strict_most: bool

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        numbers = values.to_numpy(zero_copy_only=False)
        expected = np.ones(len(numbers), dtype=bool)
        if self.least is not None:
            expected &= numbers > self.least if self.strict_least else numbers >= self.least
        if self.most is not None:
            expected &= numbers < self.most if self.strict_most else numbers <= self.most
        return Verdicts(expected)


@dataclass(frozen=True)
class WithinDecimals:
    """Expects decimals between two bounds, compared exactly."""

    least: Decimal | None
    most: Decimal | None
    strict_least: bool
    strict_most: bool

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return Verdicts(each_distinct(values, self._holds))

    def _holds(self, value: Decimal) -> bool:
        if self.least is not None and (value <= self.least if self.strict_least else value < self.least):
            return False
        return self.most is None or not (value >= self.most if self.strict_most else value > self.most)


@dataclass(frozen=True)
class InSet:
    """Expects members of a set, or with `is_negated` everything else.

    members: of the column's family; timestamps and dates in ticks. Any order.
    """

    members: tuple[Any, ...]
    is_negated: bool = False

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        found = self._found(values)
        return Verdicts(~found if self.is_negated else found)

    def _found(self, values: pa.Array) -> np.ndarray:
        if not self.members:
            return np.zeros(len(values), dtype=bool)
        kind = family(values.type)
        if kind == "string":
            known = pa.array(self.members, values.type)
            return pc.is_in(values, value_set=known).to_numpy(zero_copy_only=False)
        if kind == "decimal":
            members = frozenset(self.members)
            return each_distinct(values, members.__contains__)
        numbers = values.to_numpy(zero_copy_only=False) if kind == "float" else ticks(values)
        return np.isin(numbers, _members_array(self.members, numbers.dtype))


@dataclass(frozen=True)
class Matches:
    """Expects texts in which regular expressions find a match, as Python's `re.search` does.

    patterns: at least one.
    is_all_needed: whether every pattern must match, or one.
    is_negated: expects the texts that this does not hold of.
    """

    patterns: tuple[str, ...]
    is_all_needed: bool = False
    is_negated: bool = False

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        texts = _text(values)
        each = [search(pattern, texts) for pattern in self.patterns]
        found = np.logical_and.reduce(each) if self.is_all_needed else np.logical_or.reduce(each)
        return Verdicts(~found if self.is_negated else found)


@dataclass(frozen=True)
class ParsesAsTime:
    """Expects texts that `datetime.strptime` reads with a format."""

    time_format: str

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return Verdicts(each_distinct(values, self._holds))

    def _holds(self, text: str) -> bool:
        try:
            datetime.strptime(text, self.time_format)  # noqa: DTZ007 - only whether it parses is asked
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class ParsesAsDate:
    """Expects texts that `dateutil.parser.parse` reads as a date or time.

    Any other error than the two that mean "no date" makes the expectation inconclusive, as it fails in GX.
    """

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return _judge_distinct(values, _parses_as_date)


@dataclass(frozen=True)
class ParsesAsJson:
    """Expects texts that are JSON, as Python's `json.loads` reads it (NaN and Infinity included)."""

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return Verdicts(each_distinct(values, _parses_as_json))


@dataclass(frozen=True)
class MatchesJsonSchema:
    """Expects JSON texts that a JSON Schema accepts; a text that is no JSON makes the expectation inconclusive.

    schema: the JSON Schema as JSON text.
    """

    schema: str

    def judge(self, values: pa.Array) -> Verdicts:
        """See `Condition`."""
        return _judge_distinct(values, _validator_of(self.schema))


def _text(values: pa.Array) -> pa.Array:
    """Return values as Python's `str` writes them: texts, integers and bools only."""
    kind = family(values.type)
    if kind == "string":
        return values
    if kind == "bool":
        return pc.if_else(values, "True", "False")
    return values.cast(pa.string())


def _within(numbers: np.ndarray, least: int | None, most: int | None) -> np.ndarray:
    expected = np.ones(len(numbers), dtype=bool)
    if least is not None:
        expected &= numbers >= least
    if most is not None:
        expected &= numbers <= most
    return expected


def _members_array(members: tuple[Any, ...], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return np.array([float(member) for member in members], dtype=dtype)
    bounds = np.iinfo(dtype)
    return np.array([m for m in members if bounds.min <= m <= bounds.max], dtype=dtype)


def _judge_distinct(values: pa.Array, ask: Any) -> Verdicts:
    """Ask once for each distinct value; `ask` answers True, False or None for "could not be evaluated"."""
    encoded = values.dictionary_encode()
    answers = [ask(value) for value in encoded.dictionary.to_pylist()]
    at = encoded.indices.to_numpy(zero_copy_only=False)
    expected = np.array([answer is True for answer in answers], dtype=bool)[at]
    failed = np.array([answer is None for answer in answers], dtype=bool)[at]
    return Verdicts(expected, failed if failed.any() else NO_ERRORS)


def _parses_as_date(text: str) -> bool | None:
    from dateutil.parser import parse  # type: ignore[import-untyped] # it carries no types

    try:
        parse(text)
    except (ValueError, OverflowError):
        return False
    except (TypeError, AttributeError, IndexError, KeyError, RecursionError):
        return None
    return True


def _parses_as_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@lru_cache(maxsize=16)
def _validator_of(schema: str) -> Any:
    import jsonschema  # type: ignore[import-untyped] # it carries no types

    document = json.loads(schema)
    validator = jsonschema.validators.validator_for(document)(document)

    def ask(text: str) -> bool | None:
        try:
            return bool(validator.is_valid(json.loads(text)))
        except (ValueError, RecursionError):
            return None

    return ask
