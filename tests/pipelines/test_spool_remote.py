"""Data sets on a remote file system, through Beam's own interface; and spooled files as readers see them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

from millcert.errors import HostileDataError, StoreError, UsageError
from millcert.pipelines.formats import ReadLimits, decode, read_schema
from millcert.pipelines.formats.base import buffer_of, translate_errors
from millcert.pipelines.spool import match_files, read_verified

OBJECTS: dict[str, bytes] = {}


class MemoryObjects(FileSystem):  # type: ignore[misc] # Beam carries no types
    """An object store: flat names, no folders."""

    @classmethod
    def scheme(cls) -> str:
        return "memtest"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        if "broken" in dir_or_prefix:
            raise BeamIOError("listing is not to be had")
        for path, data in OBJECTS.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data))

    def open(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        if path not in OBJECTS:
            raise BeamIOError("no such object")
        return io.BytesIO(OBJECTS[path])

    def mkdirs(self, path: str) -> None:
        raise NotImplementedError

    def create(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        raise NotImplementedError

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def exists(self, path: str) -> bool:
        return path in OBJECTS

    def size(self, path: str) -> int:
        return len(OBJECTS[path])

    def last_updated(self, path: str) -> float:
        raise NotImplementedError

    def checksum(self, path: str) -> str:
        raise NotImplementedError

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, len(OBJECTS[path]))

    def delete(self, paths: list[str]) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def objects() -> Iterator[None]:
    OBJECTS.clear()
    for name in ("set/a.csv", "set/b/1.jsonl", "set/b/c/2.jsonl", "set/README.md", "set/empty/", "other/z.csv"):
        OBJECTS[f"memtest://bucket/{name}"] = name.encode()
    yield
    OBJECTS.clear()


@pytest.mark.parametrize(
    ("pattern", "names", "is_selection"),
    [
        ("memtest://bucket/set", ["README.md", "a.csv", "b/1.jsonl", "b/c/2.jsonl"], False),
        ("memtest://bucket/set/", ["README.md", "a.csv", "b/1.jsonl", "b/c/2.jsonl"], False),
        ("memtest://bucket/set/a.csv", ["a.csv"], True),
        ("memtest://bucket/set/b/*.jsonl", ["1.jsonl"], True),
        ("memtest://bucket/set/**/*.jsonl", ["b/1.jsonl", "b/c/2.jsonl"], True),
    ],
)
def test_objects_are_named_like_local_files(pattern: str, names: list[str], is_selection: bool) -> None:
    found = match_files([pattern])
    assert [each.name for each in found] == names
    assert {each.is_selection for each in found} == {is_selection}
    assert all(each.size_bytes == len(OBJECTS[each.uri]) for each in found)


@pytest.mark.parametrize("pattern", ["memtest://bucket/none", "memtest://bucket/set/*.parquet"])
def test_a_remote_name_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="nothing matches"):
        match_files([pattern])


def test_a_remote_object_is_held_as_it_was_hashed_and_a_lost_one_is_a_store_error() -> None:
    with read_verified("memtest://bucket/set/a.csv", expected_sha256=None, limits=ReadLimits()) as spooled:
        assert spooled.file.read() == b"set/a.csv"
    with (
        pytest.raises(StoreError, match="opening failed"),
        read_verified("memtest://bucket/lost.csv", expected_sha256=None, limits=ReadLimits()),
    ):
        pass
    with pytest.raises(StoreError, match="listing failed"):
        match_files(["memtest://broken/x"])


@pytest.mark.parametrize("spool_memory_bytes", [1, 1 << 20])
def test_batches_outlive_the_spooled_file_that_they_were_decoded_from(tmp_path: Path, spool_memory_bytes: int) -> None:
    table = pa.table({"a": list(range(5000)), "b": [f"text {i}" for i in range(5000)]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    limits = ReadLimits(spool_memory_bytes=spool_memory_bytes)
    for fmt in ("parquet", "arrow"):
        with read_verified(str(tmp_path / f"a.{fmt}"), expected_sha256=None, limits=limits) as spooled:
            schema = read_schema(fmt, spooled.file, limits).schema
            got = [each.batch for each in decode(fmt, spooled.file, schema, limits)]
        assert pa.Table.from_batches(got).equals(table)


def test_an_empty_file_on_disk_and_a_file_without_a_number_are_buffers_too(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as empty:
        assert buffer_of(empty).size == 0
    (tmp_path / "some").write_bytes(b"abc")
    with io.BufferedReader(io.BytesIO(b"abc")) as bare:
        assert buffer_of(bare).to_pybytes() == b"abc"


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (MemoryError(), HostileDataError),
        (OSError("corrupt"), HostileDataError),
        (OSError(5, "Input/output error"), StoreError),
        (pa.ArrowInvalid("bad\nsecond line"), HostileDataError),
    ],
)
def test_what_a_library_raises_becomes_an_error_of_ours_that_names_the_file(
    raised: Exception, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=r"f\.x") as caught, translate_errors("f.x", "file"):
        raise raised
    assert "second line" not in str(caught.value)
