"""The sorted index finds every record and every gap, before and after records were erased."""

import tempfile
from bisect import bisect_left
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError, UsageError
from millcert.provenance.leaf_index import LeafIndex, Record, bucket_name

KEYS = st.lists(st.sampled_from([bytes([first]) * 31 + bytes([last]) for first in (0, 1, 255) for last in (0, 1, 9)]))


def write(folder: Path, keys: list[bytes]) -> list[Record]:
    records = sorted(Record(key, at % 3, at) for at, key in enumerate(keys))
    for record in records:
        with (folder / bucket_name(record.key[0])).open("ab") as file:
            file.write(record.to_bytes())
    return records


@settings(max_examples=60, deadline=None)
@given(KEYS, st.binary(min_size=32, max_size=32))
def test_position_and_find_agree_with_a_sorted_list(keys: list[bytes], other: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        records = write(Path(name), keys)
        with LeafIndex(Path(name), len(keys)) as index:
            assert [index.record(at) for at in range(len(keys))] == records
            for key in {*keys, other}:
                assert index.position(key) == bisect_left([record.key for record in records], key)
                expected = [(at, record) for at, record in enumerate(records) if record.key == key]
                assert list(index.find(key)) == expected


@settings(max_examples=60, deadline=None)
@given(KEYS, st.data())
def test_erasing_keeps_the_order_and_leaves_nothing_of_the_record(keys: list[bytes], data: st.DataObject) -> None:
    """After any erasures in any order: keys ascend, other records are found as before, erased keys are nowhere."""
    with tempfile.TemporaryDirectory() as name:
        records = write(Path(name), keys)
        gone = data.draw(st.lists(st.sampled_from(range(len(keys))), unique=True)) if keys else []
        with LeafIndex(Path(name), len(keys)) as index:
            for position in gone:
                index.erase(position)
            now = [index.record(at) for at in range(len(keys))]
            kept = {at: record for at, record in enumerate(records) if at not in gone}

            assert [record.key for record in now] == sorted(record.key for record in now)
            assert {at: record for at, record in enumerate(now) if not record.is_erased} == kept
            for record in kept.values():
                assert [found for _, found in index.find(record.key)] == [
                    one for one in kept.values() if one.key == record.key
                ]
            left = {record.key for record in kept.values()} | {bytes([first]) + bytes(31) for first in (0, 1, 255)}
            assert {record.key for record in now} <= left


def test_an_index_of_another_size_than_the_ledger_says_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [bytes(32)])

    with pytest.raises(LedgerError, match="1 records, the ledger says 2"):
        LeafIndex(tmp_path, 2)


def test_a_torn_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00").write_bytes(bytes(43))

    with pytest.raises(LedgerError, match="43 bytes"):
        LeafIndex(tmp_path, 1)


def test_a_file_that_went_away_is_an_error_and_no_absence(tmp_path: Path) -> None:
    write(tmp_path, [bytes(32)])
    with LeafIndex(tmp_path, 1) as index:
        (tmp_path / "00").unlink()
        with pytest.raises(LedgerError, match="cannot be read"):
            index.position(bytes(32))


@pytest.mark.parametrize("position", [-1, 1])
def test_a_position_outside_is_refused(position: int, tmp_path: Path) -> None:
    write(tmp_path, [bytes(32)])
    with LeafIndex(tmp_path, 1) as index, pytest.raises(UsageError):
        index.record(position)
