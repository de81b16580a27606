"""Keys are found among known ones exactly, also where two of them share a hash."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks import metric_members
from millcert.checks.metric_distinct import keys_of
from millcert.checks.metric_members import Members

KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)),
    (pa.uint64(), st.integers(0, 2**64 - 1) | st.integers(0, 3)),
    (pa.float64(), st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.5])),
    (pa.string(), st.text(max_size=3) | st.sampled_from(["a" * 70, "a" * 71])),
    (pa.binary(), st.binary(max_size=3)),
    (pa.bool_(), st.booleans()),
    (pa.date32(), st.dates(date(2020, 1, 1), date(2020, 1, 9))),
    (pa.timestamp("us"), st.datetimes(datetime(2020, 1, 1), datetime(2020, 1, 2))),
    (pa.decimal128(5, 2), st.integers(-99, 99).map(lambda cents: Decimal(cents) / 100)),
]


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_exactly_the_known_keys_are_found(
    data: st.DataObject, kind: tuple[pa.DataType, st.SearchStrategy[Any]]
) -> None:
    known, asked = (keys_of(pa.array(data.draw(st.lists(kind[1], max_size=12)), kind[0])) for _ in range(2))
    both = pa.concat_arrays([asked, known.slice(0, 2)])

    found = Members(known).contain(both)

    assert found.tolist() == [key in set(known.to_pylist()) for key in both.to_pylist()]


@pytest.mark.parametrize("hashes", [[7, 7, 7], [7, 8, 7]])
def test_keys_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch, hashes: list[int]) -> None:
    by_key = {b"a": hashes[0], b"b": hashes[1], b"c": hashes[2], b"d": 7}
    monkeypatch.setattr(
        metric_members, "hash_keys", lambda keys: np.array([by_key[key] for key in keys.to_pylist()], np.uint64)
    )

    members = Members(pa.array([b"a", b"b", b"c"]))

    assert members.contain(pa.array([b"d", b"c", b"b", b"a", b"d"])).tolist() == [False, True, True, True, False]
