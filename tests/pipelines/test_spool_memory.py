import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from millcert.pipelines import spool_memory
from millcert.pipelines.formats import ReadLimits
from millcert.pipelines.formats.base import buffer_of
from millcert.pipelines.row_hashes import as_matrix, row_hashes
from millcert.pipelines.spool import read_verified
from millcert.pipelines.spool_memory import HeldBytes


@pytest.fixture(autouse=True)
def _no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_memory, "_FREE", [])


def _held(data: bytes) -> HeldBytes:
    held = HeldBytes()
    held.write(data)
    return held


def test_held_bytes_read_and_seek_as_a_file_does() -> None:
    data = bytes(range(200))
    held, real = _held(data), io.BytesIO(data)
    for offset, whence, size in ((0, 0, 10), (-5, 2, 3), (2, 1, 100), (50, 0, -1), (0, 2, 1), (190, 0, 50)):
        assert held.seek(offset, whence) == real.seek(offset, whence)
        assert held.read(size) == real.read(size)
        assert held.tell() == real.tell()
    held.seek(0)
    target = bytearray(300)
    assert held.readinto(target) == 200
    assert bytes(target[:200]) == held.view
    assert held.readable()
    assert held.seekable()
    assert held.writable()
    assert held.readall() == b""


def test_a_block_that_grows_keeps_what_was_written() -> None:
    held, expected = HeldBytes(), b""
    for length in (1, 0, 7, 4000, 3, 9000):
        held.write(bytes([length % 251]) * length)
        expected += bytes([length % 251]) * length
    assert bytes(held.view) == expected


def test_a_later_file_does_not_change_what_points_into_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"a" * 5000)
    second.write_bytes(b"b" * 5000)
    limits = ReadLimits()

    with read_verified(str(first), expected_sha256=None, limits=limits) as spooled:
        kept = buffer_of(spooled.file)
    with read_verified(str(second), expected_sha256=None, limits=limits) as spooled:
        assert buffer_of(spooled.file).to_pybytes() == b"b" * 5000

    assert isinstance(kept, pa.Buffer)
    assert kept.to_pybytes() == b"a" * 5000


def test_memory_is_used_again_once_nothing_points_into_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    places = []
    for size in (5000, 4000, 4999):
        file.write_bytes(b"x" * size)
        with read_verified(str(file), expected_sha256=None, limits=ReadLimits()) as spooled:
            buffer = buffer_of(spooled.file)
            assert buffer.size == size
            places.append(buffer.address)
            del buffer
    assert len(set(places)) == 1


def test_no_more_than_two_blocks_wait_for_a_file() -> None:
    several = [_held(b"x" * 10) for _ in range(5)]
    for held in several:
        held.close()
        held.close()
    assert len(spool_memory._FREE) == 2


def test_a_row_hash_is_that_of_the_columns_joined() -> None:
    rows = np.arange(6 * 32, dtype=np.uint8).reshape(6, 32)
    offsets = np.arange(6, dtype=np.uint8)[:, np.newaxis]
    found = row_hashes(6, b"\x02", rows, offsets)
    assert found == [hashlib.sha256(b"\x02" + rows[at].tobytes() + bytes((at,))).digest() for at in range(6)]
    assert as_matrix(found).tobytes() == b"".join(found)
    assert row_hashes(0, b"\x02", rows[:0]) == []
