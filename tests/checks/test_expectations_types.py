"""Columns of the rarer Arrow types: our results are those of Great Expectations on the pandas frame of the same table.

Times with zones, decimals, dictionaries, large texts and text views, binaries, lists and structs. Known differences: a
dictionary is judged as its values (pandas puts equally common ones in the order of the dictionary, which differs from
file to file), and of decimals with nulls GX on pandas computes no sum, where ours is exact.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.checks.test_expectations_identity import assert_identical, by_great_expectations, by_us, expectation

TEXTS = st.none() | st.sampled_from(["", "a", "ab", "é", "日本", "12"])
TIMES = st.none() | st.integers(0, 4).map(lambda hours: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=hours))
DECIMALS = st.integers(-8, 8).map(lambda quarters: Decimal(quarters) / 4)
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "i": (pa.int64(), st.integers(0, 2)),
    "large": (pa.large_string(), TEXTS),
    "view": (pa.string_view(), TEXTS),
    "coded": (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    "utc": (pa.timestamp("us", "UTC"), TIMES),
    "berlin": (pa.timestamp("ns", "Europe/Berlin"), TIMES),
    "cents": (pa.decimal128(7, 2), DECIMALS),
    "bytes": (pa.large_binary(), st.none() | st.binary(max_size=2)),
    "list": (pa.list_(pa.int64()), st.none() | st.just([1, 2])),
    "struct": (pa.struct([("a", pa.int64()), ("b", pa.string())]), st.none() | st.just({"a": 1, "b": "x"})),
}


def random_table() -> st.SearchStrategy[pa.Table]:
    rows = st.lists(st.tuples(*(strategy for _, strategy in COLUMNS.values())), max_size=12)
    return rows.map(
        lambda rows: pa.table(
            {name: pa.array([row[i] for row in rows], kind) for i, (name, (kind, _)) in enumerate(COLUMNS.items())}
        )
    )


def every_expectation() -> list[dict[str, Any]]:
    texts, times, some = (
        ["large", "view", "coded"],
        [("utc", "+00:00"), ("berlin", "+01:00")],
        {"value_set": ["a", "é"]},
    )
    distinct = [*texts, "utc", "berlin", "cents"]
    return [
        *(expectation("column_values_to_not_be_null", column=c, mostly=0.5) for c in COLUMNS),
        *(expectation("column_values_to_be_null", column=c) for c in COLUMNS),
        *(expectation("column_proportion_of_non_null_values_to_be_between", column=c, min_value=0.5) for c in COLUMNS),
        *(expectation("column_values_to_be_unique", column=c) for c in distinct),
        *(expectation("column_unique_value_count_to_be_between", column=c, max_value=3) for c in distinct),
        *(
            expectation("column_most_common_value_to_be_in_set", column=c, value_set=["a"])
            for c in distinct
            if c != "coded"
        ),
        *(expectation("column_values_to_be_in_set", column=c, **some) for c in texts),
        *(expectation("column_values_to_match_regex", column=c, regex=r"^\w+$") for c in texts),
        *(expectation("column_values_to_not_match_regex", column=c, regex="a") for c in texts),
        *(expectation("column_value_lengths_to_be_between", column=c, min_value=1, max_value=2) for c in texts),
        *(expectation("column_distinct_values_to_equal_set", column=c, value_set=["a"]) for c in texts),
        *(expectation("compound_columns_to_be_unique", column_list=[c, "i"]) for c in texts),
        *(
            expectation(
                "column_values_to_be_between",
                column="i",
                max_value=1,
                row_condition=f"{c} == 'a'",
                condition_parser="pandas",
            )
            for c in texts
        ),
        *(
            expectation(kind, column=c, **{end: f"2020-01-01T02:00:00{zone}"})
            for c, zone in times
            for kind, end in [
                ("column_values_to_be_between", "min_value"),
                ("column_min_to_be_between", "min_value"),
                ("column_max_to_be_between", "max_value"),
            ]
        ),
        *(expectation("column_values_to_be_increasing", column=c) for c, _ in times),
        expectation("column_values_to_be_between", column="cents", min_value=0.3),
        expectation("column_values_to_be_in_set", column="cents", value_set=[0.25, -1.75]),
        expectation("column_min_to_be_between", column="cents", min_value=-1.75),
    ]


EVERY = every_expectation()


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    table=random_table(),
    chosen=st.sets(st.integers(0, len(EVERY) - 1), min_size=20, max_size=30),
    result_format=st.sampled_from(["BOOLEAN_ONLY", "BASIC", "SUMMARY"]),
    cut=st.floats(0, 1),
    size=st.integers(1, 5),
)
def test_rarer_types_give_the_json_of_great_expectations(
    table: pa.Table, chosen: set[int], result_format: str, cut: float, size: int
) -> None:
    """Rule: also for these, whatever the files and batches."""
    asked = [EVERY[i] for i in sorted(chosen)]
    first = int(cut * table.num_rows)

    ours, places = by_us(table, asked, result_format, [first, table.num_rows - first], size)

    assert_identical(ours.json["results"], by_great_expectations(table, asked, result_format, places), table)
