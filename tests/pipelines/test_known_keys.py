"""Values that stand more than once are found among all rows, however many they are: beyond a budget in a file."""

import json
import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.metric_distinct import keys_of
from millcert.checks.metric_members import Members
from millcert.checks.metric_partitions import hash_keys, partition_of
from millcert.errors import StoreError
from millcert.pipelines import expectation_rows, known_keys

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-40, 40)),
    (pa.uint64(), st.integers(0, 2**64 - 1) | st.integers(0, 40)),
    (pa.float64(), st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.5])),
    (pa.string(), st.text(max_size=3) | st.sampled_from(["a" * 300, "a" * 301])),
    (
        pa.timestamp("us", "UTC"),
        st.integers(0, 99).map(lambda s: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=s)),
    ),
    (pa.date32(), st.dates(date(2020, 1, 1), date(2020, 2, 9))),
    (pa.decimal128(5, 2), st.integers(-99, 99).map(lambda cents: Decimal(cents) / 100)),
    (pa.bool_(), st.booleans()),
]


def dealt(keys: pa.Array) -> list[pa.Array]:
    """Return distinct keys, those of one partition together."""
    keys = keys.unique()
    partitions = partition_of(hash_keys(keys))
    return [keys.filter(pa.array(partitions == each)) for each in np.unique(partitions)]


@settings(deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_keys_in_a_file_are_found_as_those_in_memory(
    data: st.DataObject, kind: tuple[pa.DataType, st.SearchStrategy[Any]]
) -> None:
    """Rule: exactly the known keys are found, whatever their type and number, and wherever they are kept."""
    known = keys_of(pa.array(data.draw(st.lists(kind[1], min_size=1, max_size=60)), kind[0]))
    asked = keys_of(pa.array(data.draw(st.lists(kind[1], max_size=60)), kind[0]))
    both = pa.concat_arrays([asked, known])

    filed = known_keys.known_keys(dealt(known), most_bytes=0)

    assert isinstance(filed, known_keys.FiledKeys)
    assert filed.contain(both).tolist() == Members(known.unique()).contain(both).tolist()
    assert filed.contain(both).tolist() == [key in set(known.to_pylist()) for key in both.to_pylist()]


def test_large_sections_are_read_by_blocks_and_found_exactly() -> None:
    """300,000 keys of 256 partitions would stand in two blocks each; of one partition they stand in hundreds."""
    numbers = np.arange(600_000)
    keys = pa.array(numbers[partition_of(hash_keys(pa.array(numbers))) == 7])
    known, others = keys.take(pa.array(np.arange(0, len(keys), 2))), keys.take(pa.array(np.arange(1, len(keys), 2)))
    many = pa.array(np.arange(5_000_000)[partition_of(hash_keys(pa.array(np.arange(5_000_000)))) == 7])

    filed = known_keys.known_keys([many], most_bytes=0)
    half = known_keys.known_keys([known], most_bytes=0)

    assert filed.contain(many).all()
    assert not filed.contain(pa.array([-1, 5_000_001, 2**62])).any()
    assert half.contain(known).all()
    assert not half.contain(others).any()


def test_a_digest_is_that_of_the_keys_and_no_others() -> None:
    parts = dealt(pa.array(range(2000)))
    fewer = dealt(pa.array(range(1999)))

    for most in (0, 1 << 20):
        digests = {known_keys.known_keys(each, most_bytes=most).digest for each in (parts, parts, fewer)}
        assert len(digests) == 2
    assert Members(*reversed(parts)).digest == Members(*parts).digest


def test_keys_within_the_budget_stay_in_memory() -> None:
    parts = dealt(pa.array(range(2000)))

    assert isinstance(known_keys.known_keys(iter(parts), most_bytes=16_000), Members)
    assert isinstance(known_keys.known_keys(iter(parts), most_bytes=15_999), known_keys.FiledKeys)


def test_a_file_that_was_cut_short_is_noticed() -> None:
    filed = known_keys.known_keys([pa.array([5])], most_bytes=0)
    assert isinstance(filed, known_keys.FiledKeys)
    os.truncate(filed._fd, 3)

    with pytest.raises(StoreError, match="cut short"):
        filed.contain(pa.array([5]))


def test_a_run_marks_the_same_rows_whether_repeated_values_are_in_memory_or_in_a_file(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": column}} for column in ("label", "text")
    ]
    (bench.top / "suite.json").write_text(json.dumps({"name": "suite", "expectations": asked}))
    bench.policy["expectations"] = {"suite": "suite.json", "on_failure": "warn"}
    held = bench.vet().verdict
    sidecar = (bench.out / "expectation_rows.parquet").read_bytes()

    monkeypatch.setattr(expectation_rows, "MOST_BYTES", 0)
    filed = bench.vet(replace=True).verdict

    assert Path(bench.out / "expectation_rows.parquet").read_bytes() == sidecar
    assert filed.digest == held.digest
