"""Bounds and sets arrive in the column's own form: exactly, or not at all."""

import math
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.metric_bounds import members, within, within_lengths
from millcert.checks.metric_compile import MetricRequest, condition_for, kernels_for
from millcert.checks.metric_conditions import Always, InSet, WithinTicks
from millcert.errors import PolicyError

US = pa.timestamp("us")
ZONED = pa.timestamp("ns", "Europe/Berlin")
BOUND = st.none() | st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from([math.inf, -math.inf])


@given(st.integers(-6, 6), BOUND, BOUND, st.booleans(), st.booleans())
def test_integers_are_within_bounds_exactly_where_python_says_so(
    value: int, low: Any, high: Any, strict_low: bool, strict_high: bool
) -> None:
    """Rule: a closed interval of integers means the same as the two comparisons, for any bound."""
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        return
    condition = within(
        pa.int64(), {"min_value": low, "max_value": high, "strict_min": strict_low, "strict_max": strict_high}
    )

    (expected,) = condition.judge(pa.array([value])).expected

    above = low is None or (value > low if strict_low else value >= low)
    below = high is None or (value < high if strict_high else value <= high)
    assert expected == (above and below)


@pytest.mark.parametrize(
    ("data_type", "bound", "ticks"),
    [
        (US, datetime(1970, 1, 1, 0, 0, 1), 1_000_000),
        (US, "1970-01-01T00:00:00.000001", 1),
        (US, date(1970, 1, 2), 86_400_000_000),
        (pa.timestamp("s"), datetime(1970, 1, 1, 0, 0, 0, 500_000), 1),
        (ZONED, datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        (ZONED, date(1970, 1, 1), 0),
        (pa.date32(), date(1970, 1, 3), 2),
        (pa.date32(), datetime(1969, 12, 31), -1),
        (pa.date32(), "1970-01-01", 0),
    ],
)
def test_times_become_ticks_of_the_column(data_type: pa.DataType, bound: Any, ticks: int) -> None:
    assert within(data_type, {"min_value": bound}) == WithinTicks(ticks, None)


@pytest.mark.parametrize(
    ("data_type", "parameters"),
    [
        (pa.int64(), {"min_value": "1"}),
        (pa.int64(), {"min_value": math.nan}),
        (pa.string(), {"min_value": "a"}),
        (pa.date32(), {"min_value": datetime(2020, 1, 1, tzinfo=timezone.utc)}),  # noqa: UP017 - with the others
        (US, {"min_value": "yesterday"}),
        (US, {"min_value": 1}),
        (pa.float64(), {}),
        (pa.float64(), {"min_value": 2, "max_value": 1}),
    ],
)
def test_what_cannot_be_compared_is_refused(data_type: pa.DataType, parameters: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        within(data_type, parameters)


@pytest.mark.parametrize("parameters", [{}, {"value": "x"}, {"min_value": math.nan}])
def test_lengths_are_compared_with_numbers(parameters: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        within_lengths(parameters)


@pytest.mark.parametrize(
    ("data_type", "values", "found"),
    [
        (pa.int64(), [1, 2.0, 2.5, "1", None, math.nan, math.inf, True], (1, 2, 1)),
        (pa.float64(), [1, 0.1, 10**400, 2**53 + 1, "x"], (1.0, 0.1)),
        (pa.string(), ["a", 1, None], ("a",)),
        (pa.decimal128(5, 2), [0.25, 1], (Decimal("0.25"), Decimal(1))),
        (pa.timestamp("s"), ["1970-01-01T00:00:01", "1970-01-01T00:00:01.5"], (1,)),
        (pa.bool_(), [True, 0, 2], (1, 0, 2)),
    ],
)
def test_members_that_no_value_equals_are_dropped(
    data_type: pa.DataType, values: list[Any], found: tuple[Any, ...]
) -> None:
    assert members(data_type, values) == found


def test_a_list_column_has_no_sets() -> None:
    with pytest.raises(PolicyError):
        members(pa.list_(pa.int64()), [1])


def test_decimals_are_bounded_exactly() -> None:
    values = pa.array([Decimal("0.10"), Decimal("0.11")])

    condition = within(values.type, {"min_value": 0.1, "max_value": 1, "strict_max": True})

    # The float 0.1 is a little above the decimal 0.10, and Python compares the two exactly.
    assert condition.judge(values).expected.tolist() == [False, True]


def request(name: str, **parameters: Any) -> MetricRequest:
    return MetricRequest(name, ("x",), parameters)


def test_no_set_at_all_is_vacuously_true() -> None:
    for name in ("column_values.in_set", "column_values.not_in_set"):
        assert condition_for(request(name, value_set=None), pa.int64()) == Always(is_expected=True)
    assert condition_for(request("column_values.not_in_set", value_set=[1]), pa.int64()) == InSet((1,), is_negated=True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request("column_values.lovely.unexpected_count"), "not supported"),
        (request("column_values.match_regex_list.unexpected_count", regex_list=["a"], match_on="some"), "match_on"),
        (request("column_values.match_regex.unexpected_count", regex=7), "patterns"),
        (request("column_values.match_strftime_format.unexpected_count", strftime_format=7), "strftime_format"),
        (request("column_values.nonnull.unexpected_count", fresh=1), "unknown parameters: fresh"),
        (MetricRequest("column.sum", ("nope",), {}), "no column 'nope'"),
        (MetricRequest("query.table", (), {}), "not supported"),
    ],
)
def test_a_metric_that_is_not_known_here_is_refused(asked: MetricRequest, words: str) -> None:
    schema = pa.schema([("x", pa.string())])

    with pytest.raises(PolicyError, match=words):
        kernels_for(asked, schema, 20)
