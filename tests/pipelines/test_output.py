"""Writing what a file yields, and reading it back."""

import hashlib
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.errors import StoreError
from millcert.pipelines.output import HashingStream, PartWriter, copy_spooled, read_part
from millcert.pipelines.spool import Spooled

SCHEMA = pa.schema([("x", pa.int64())])


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"x": list(values)}, schema=SCHEMA)


def test_a_part_without_rows_leaves_no_file(tmp_path: Path) -> None:
    with PartWriter(str(tmp_path / "parts" / "a.parquet"), SCHEMA) as part:
        part.write(rows())

    assert list(tmp_path.iterdir()) == []
    assert list(read_part(str(tmp_path / "parts" / "a.parquet"))) == []


def test_a_part_comes_back_and_the_same_batches_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with PartWriter(str(tmp_path / name), SCHEMA) as part:
            part.write(rows(1, 2))
            part.write(rows(3))
        assert part.rows == 3

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pa.Table.from_batches(read_part(str(tmp_path / "a"))).column("x").to_pylist() == [1, 2, 3]


def test_a_file_system_that_refuses_is_a_store_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    inside = str(tmp_path / "file" / "part")

    with pytest.raises(StoreError, match="file/part"), PartWriter(inside, SCHEMA) as part:
        part.write(rows(1))
    with pytest.raises(StoreError, match="file/part"):
        copy_spooled(Spooled(BytesIO(b"x"), "", 1), inside)
    with pytest.raises(StoreError, match="Cannot read"):
        list(read_part(str(tmp_path)))


def test_a_damaged_part_is_a_store_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"PAR1, but not really")

    with pytest.raises(StoreError, match=r"Cannot read .*part"):
        list(read_part(str(tmp_path / "part")))


def test_a_part_as_a_stream_knows_its_digest(tmp_path: Path) -> None:
    with PartWriter(str(tmp_path / "a"), SCHEMA, as_stream=True) as part:
        part.write(rows(3))

    data = (tmp_path / "a").read_bytes()
    assert part.sha256 == hashlib.sha256(data).hexdigest()
    assert pa.ipc.open_stream(data).read_all().column("x").to_pylist() == [3]


def test_what_is_copied_is_whole_and_what_was_hashed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    digest = hashlib.sha256(data).hexdigest()
    spooled = Spooled(BytesIO(data), digest, len(data))
    spooled.file.seek(100)

    assert copy_spooled(spooled, str(tmp_path / "out" / "x")) == (digest, len(data))
    assert (tmp_path / "out" / "x").read_bytes() == data
    with pytest.raises(StoreError, match="2304000 of 2304001 bytes"):
        copy_spooled(Spooled(BytesIO(data), digest, len(data) + 1), str(tmp_path / "out" / "y"))


def test_a_hashing_stream_knows_its_position() -> None:
    target = BytesIO()
    stream = HashingStream(target)

    assert stream.writable()
    assert stream.write(memoryview(b"abc")) == 3
    assert stream.tell() == 3
    assert stream.result() == (hashlib.sha256(b"abc").hexdigest(), 3)


def test_a_part_is_a_plain_parquet_file(tmp_path: Path) -> None:
    with PartWriter(str(tmp_path / "a"), SCHEMA) as part:
        part.write(rows(7))

    assert pq.read_schema(tmp_path / "a").equals(SCHEMA)
