"""From a profile to a suite that a person can review: what held of these data, as expectations of the next.

Every proposal holds on the data that it was made of. Ranges and lengths are widened by `margin`, so that the next data
of the same kind pass too; everything else is what was seen. A proposal is no judgement: data that are already bad give
a suite that lets them pass. Each expectation says in its `meta` what was seen.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks.functional_dependencies import Dependency
from millcert.checks.metric_columns import ColumnView, family
from millcert.checks.profile import Cell, ColumnProfile, Numbers, distinct_of
from millcert.checks.sketch_hash import hash_values
from millcert.errors import PolicyError

#: A column with more distinct values is no set. Our choice.
MOST_SET_VALUES = 50
#: Rows a distinct value, on average, for a set: fewer, and the next data would hold values that were not seen yet.
LEAST_ROWS_A_VALUE = 20
#: A column is tested for uniqueness where about this part of its values are distinct.
LEAST_DISTINCT_PART = 0.9
#: Texts that a pattern is guessed from; it is tested on all.
SAMPLED_TEXTS = 200

#: Ticks of a second, by the unit of a timestamp.
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a column without a zone has times without one

_LONGEST_SAMPLE = 256
_MOST_TOKENS = 24
_TOKEN = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]")
_CLASSES = (("0-9", re.compile("[0-9]")), ("A-Z", re.compile("[A-Z]")), ("a-z", re.compile("[a-z]")))
_HEX = re.compile("[0-9a-f]{8,}")


@dataclass
class Evidence:
    """What was found beside the profile, by column.

    samples: up to 200 distinct texts of a string column, those of the smallest hashes, so in no order of the data.
    patterns: a regular expression that every text matches. unique: columns of which no value stands twice.
    dependencies: functional ones that hold on every row.
    """

    samples: dict[str, dict[int, str]] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)
    unique: set[str] = field(default_factory=set)
    dependencies: list[Dependency] = field(default_factory=list)

    def sample(self, batch: pa.RecordBatch, key: bytes) -> None:
        """Take the texts of a batch into the samples."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if family(column.type) != "string":
                continue
            texts = ColumnView(column).present.unique()
            hashes = hash_values(texts, key)
            smallest = np.argsort(hashes, kind="stable")[:SAMPLED_TEXTS]
            found = self.samples.setdefault(name, {})
            found.update(zip(hashes[smallest].tolist(), texts.take(pa.array(smallest)).to_pylist(), strict=True))
            self.samples[name] = dict(sorted(found.items())[:SAMPLED_TEXTS])

    def guess_patterns(self) -> dict[str, str]:
        """Return the pattern that each sampled column may have; to be tested on all texts."""
        guessed = {name: pattern_of(list(texts.values())) for name, texts in self.samples.items()}
        return {name: pattern for name, pattern in guessed.items() if pattern is not None}


def may_be_unique(cell: Cell) -> list[str]:
    """Return the columns that may be unique, by their distinct counts."""
    found = []
    for name, column in cell.columns.items():
        present = cell.rows - column.nulls
        if column.kind in ("int", "string", "binary") and (distinct := distinct_of(column)) and present > 1:
            is_near = distinct >= LEAST_DISTINCT_PART * present
            found += [name] if is_near else []
    return found


def pattern_of(texts: Sequence[str]) -> str | None:
    """Return a regular expression that all texts match and few others, or None where they have no common form.

    Texts of one length in hex digits; else words between the same other characters, such as `^[a-z]+-[0-9]+$`: each
    word as the classes of characters that it has anywhere, or itself where it is always the same.
    """
    if len(texts) < 2 or any(len(text) > _LONGEST_SAMPLE or not text.isascii() or not text for text in texts):
        return None
    lengths = {len(text) for text in texts}
    if len(lengths) == 1 and all(_HEX.fullmatch(text) for text in texts):
        return f"^[0-9a-f]{{{lengths.pop()}}}$"
    rows = [_TOKEN.findall(text) for text in texts]
    if len({len(row) for row in rows}) != 1 or len(rows[0]) > _MOST_TOKENS:
        return None
    parts = []
    for words in zip(*rows, strict=True):
        if len(set(words)) == 1:
            parts.append(re.escape(words[0]))
        elif all(word[0].isalnum() for word in words):
            parts.append(f"[{_classes(words)}]{_repeats(words)}")
        else:
            return None
    return f"^{''.join(parts)}$"


def propose_suite(cell: Cell, schema: pa.Schema, evidence: Evidence, *, name: str, margin: float) -> dict[str, Any]:
    """Return a Great Expectations 1.x suite as JSON values.

    Args:
        cell: the profile of all rows, at least one.
        schema: of the data.
        evidence: patterns and uniqueness, tested on all rows.
        name: of the suite.
        margin: by which part of their spread ranges and lengths are widened, 0 or above.

    Raises:
        PolicyError: the margin is negative or not finite.
    """
    if not 0 <= margin < math.inf:
        raise PolicyError(f"The margin must be 0 or above, got {margin}.")
    expectations = [_expectation("table_columns_to_match_set", {"column_set": schema.names, "exact_match": True}, {})]
    for column in schema:
        expectations += _of_column(column, cell, evidence, margin)
    return {
        "name": name,
        "expectations": expectations,
        "meta": {
            "millcert": {
                "proposed_from_rows": cell.rows,
                "margin": margin,
                # Great Expectations has no expectation for them; they are for the reviewer.
                "functional_dependencies": [each._asdict() for each in evidence.dependencies],
            }
        },
    }


def _of_column(column: pa.Field, cell: Cell, evidence: Evidence, margin: float) -> list[dict[str, Any]]:
    name, found = column.name, cell.columns[column.name]
    present = cell.rows - found.nulls
    proposals = [*_of_type(column), *_of_nulls(name, found, cell.rows)]
    if not present:
        return proposals
    values = _set_of(found, present)
    if values is not None:
        proposals.append(_about(name, "values_to_be_in_set", {"value_set": values}, {"distinct": len(values)}))
    elif found.kind in ("int", "float", "decimal") and found.numbers is not None:
        if not (found.kind == "int" and name in evidence.unique):  # numbers that name rows go on by themselves
            proposals += _of_range(name, found.numbers, margin, is_rounded=found.kind == "decimal")
    elif found.kind in ("date", "timestamp") and found.numbers is not None:
        proposals += _of_time(column, found.numbers, margin)
    if values is None and found.kind == "string" and found.lengths is not None:
        proposals += _of_lengths(name, found.lengths, margin)
        if name in evidence.patterns:
            proposals.append(_about(name, "values_to_match_regex", {"regex": evidence.patterns[name]}, {}))
    if name in evidence.unique:
        proposals.append(_about(name, "values_to_be_unique", {}, {"values": present}))
    return proposals


def _of_type(column: pa.Field) -> list[dict[str, Any]]:
    kind = family(column.type)
    names = {"int": str(column.type), "float": "float64" if column.type == pa.float64() else "float32", "bool": "bool"}
    if kind not in names:
        return []  # a text's name in pandas depends on its version; the schema file holds the type of every column
    return [_about(column.name, "values_to_be_of_type", {"type_": names[kind]}, {})]


def _of_nulls(name: str, found: ColumnProfile, rows: int) -> list[dict[str, Any]]:
    if not found.nulls:
        return [_about(name, "values_to_not_be_null", {}, {"rows": rows})]
    part = found.nulls / rows
    # Three standard errors below what was seen, rounded down to a thousandth.
    least = 1 - part - 3 * math.sqrt(part * (1 - part) / rows)
    bound = {"min_value": max(0.0, math.floor(least * 1000) / 1000)}
    return [_about(name, "proportion_of_non_null_values_to_be_between", bound, {"nulls": found.nulls, "rows": rows})]


def _set_of(found: ColumnProfile, present: int) -> list[Any] | None:
    values = found.values
    if found.kind not in ("int", "string") or values is None or not values.is_complete:
        return None
    if len(values.texts) > MOST_SET_VALUES or len(values.texts) * LEAST_ROWS_A_VALUE > present:
        return None
    if any(text is None for text in values.texts):
        return None
    texts = [text for text in values.texts if text is not None]
    return sorted(int(text) for text in texts) if found.kind == "int" else sorted(texts)


def _of_time(column: pa.Field, numbers: Numbers, margin: float) -> list[dict[str, Any]]:
    """Return from when on; not until when, as time moves on by itself."""
    low, high = numbers.low, numbers.high
    if not isinstance(low, int) or not isinstance(high, int):
        return []
    seen = [_instant(low, column.type, round_up=False), _instant(high, column.type, round_up=True)]
    least = _instant(low - math.ceil(margin * (high - low)), column.type, round_up=False)
    if least is None or None in seen:
        return []
    return [_about(column.name, "values_to_be_between", {"min_value": least}, {"low": seen[0], "high": seen[1]})]


def _instant(tick: int, data_type: pa.DataType, *, round_up: bool) -> str | None:
    """Return a date or time as ISO 8601, to the microsecond; None beyond the years 1 to 9999."""
    try:
        if pa.types.is_date(data_type):
            return (_EPOCH.date() + timedelta(days=tick)).isoformat()
        whole = tick * 1_000_000
        microseconds = -(-whole // _PER_SECOND[data_type.unit]) if round_up else whole // _PER_SECOND[data_type.unit]
        moment = _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
    return (moment.replace(tzinfo=UTC) if data_type.tz else moment).isoformat()


def _of_range(name: str, numbers: Numbers, margin: float, *, is_rounded: bool) -> list[dict[str, Any]]:
    low, high = numbers.low, numbers.high
    if low is None or high is None or numbers.sums.plus_infinities or numbers.sums.minus_infinities:
        return []
    step: float = margin * (high - low)
    if not math.isfinite(step):
        return []
    if isinstance(low, int):
        step = math.ceil(step)
    least, most = low - step, high + step
    if is_rounded:  # the ends are the nearest floats
        least, most = math.nextafter(least, -math.inf), math.nextafter(most, math.inf)
    # What never was negative does not become so by the margin, nor positive.
    bounds = {"min_value": max(least, 0) if low >= 0 else least, "max_value": min(most, 0) if high <= 0 else most}
    if not all(math.isfinite(bound) for bound in bounds.values()):
        return []
    return [_about(name, "values_to_be_between", bounds, {"low": low, "high": high})]


def _of_lengths(name: str, lengths: Numbers, margin: float) -> list[dict[str, Any]]:
    low, high = int(lengths.low or 0), int(lengths.high or 0)
    if low == high:
        return [_about(name, "value_lengths_to_equal", {"value": low}, {})]
    bounds = {
        "min_value": max(math.floor(low - margin * (high - low)), min(low, 1)),
        "max_value": math.ceil(high + margin * (high - low)),
    }
    return [_about(name, "value_lengths_to_be_between", bounds, {"low": low, "high": high})]


def _about(column: str, kind: str, kwargs: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    return _expectation(f"column_{kind}", {"column": column, **kwargs}, seen)


def _expectation(kind: str, kwargs: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": f"expect_{kind}", "kwargs": dict(kwargs)}
    return {**entry, "meta": {"millcert": {"seen": dict(seen)}}} if seen else entry


def _classes(words: Sequence[str]) -> str:
    return "".join(text for text, found in _CLASSES if any(found.search(word) for word in words))


def _repeats(words: Sequence[str]) -> str:
    lengths = {len(word) for word in words}
    return "+" if len(lengths) > 1 else ("" if lengths == {1} else f"{{{lengths.pop()}}}")
