"""Digests of streams, files and folders: right, bounded, and never of something else than was named."""

import hashlib
import io
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import DigestMismatchError, ManifestError, UsageError
from millcert.provenance import digest as digest_module
from millcert.provenance.digest import CHUNK_BYTES, FileDigest, hash_folder, sha256_file, sha256_stream


@given(st.binary(max_size=2000))
def test_a_stream_has_the_digest_of_its_bytes(data: bytes) -> None:
    assert sha256_stream(io.BytesIO(data)) == FileDigest(hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_file_of_any_number_of_chunks_has_the_digest_of_its_bytes(tmp_path: Path, size_bytes: int) -> None:
    data = bytes(size_bytes)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == (hashlib.sha256(data).hexdigest(), size_bytes)


def test_a_stream_is_hashed_from_where_it_stands() -> None:
    stream = io.BytesIO(b"headbody")
    stream.seek(4)
    assert sha256_stream(stream) == (hashlib.sha256(b"body").hexdigest(), 4)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        sha256_file(tmp_path / "none")
    with pytest.raises(UsageError, match="Cannot list"):
        hash_folder(tmp_path / "none")


def test_a_link_is_refused_and_not_followed(tmp_path: Path) -> None:
    """Rule 1."""
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(ManifestError, match="a symbolic link"):
        sha256_file(tmp_path / "link")
    with pytest.raises(ManifestError, match="a symbolic link"):
        hash_folder(tmp_path)


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "up").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ManifestError, match="a symbolic link"):
        hash_folder(tmp_path / "data")


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="no regular file"):
        sha256_file(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="no regular file"):
        hash_folder(tmp_path)


def test_a_socket_and_a_folder_have_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(ManifestError, match="no regular file"):
            hash_folder(tmp_path)
    with pytest.raises(ManifestError, match="no regular file"):
        sha256_file(tmp_path)


@pytest.mark.parametrize("size_bytes", [6, CHUNK_BYTES + 1])
@pytest.mark.parametrize("change", ["grown", "shrunk", "overwritten"])
def test_a_file_that_changes_while_it_is_read_has_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int, change: str
) -> None:
    """Rule 2."""
    path = tmp_path / "file"
    path.write_bytes(b"b" * size_bytes)
    os.utime(path, ns=(1, 1))
    real = digest_module._read_digest

    def change_after_reading(descriptor: int, expected_bytes: int) -> FileDigest:
        found = real(descriptor, expected_bytes)
        content = {"grown": size_bytes + 1, "shrunk": size_bytes - 1, "overwritten": size_bytes}
        path.write_bytes(b"a" * content[change])
        return found

    monkeypatch.setattr(digest_module, "_read_digest", change_after_reading)
    with pytest.raises(DigestMismatchError, match="changed while it was read"):
        sha256_file(path)


@pytest.mark.parametrize("size_bytes", [10, CHUNK_BYTES + 10])
@pytest.mark.parametrize("expected", [5, 20])
def test_a_file_of_another_size_than_it_had_is_read_to_its_end(tmp_path: Path, size_bytes: int, expected: int) -> None:
    """What was hashed is then told with its own size, and the caller refuses."""
    (tmp_path / "file").write_bytes(b"x" * size_bytes)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        found = digest_module._read_digest(descriptor, expected)
    finally:
        os.close(descriptor)
    assert found == (hashlib.sha256(b"x" * size_bytes).hexdigest(), size_bytes)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_number_of_threads_changes_neither_entries_nor_the_fault_that_is_told(tmp_path: Path, threads: int) -> None:
    """Rule 4; small files and large ones take different ways."""
    for number, size_bytes in enumerate([10, 40_000, 5, 2_000_000, 0, 32 * 1024, 32 * 1024 - 1]):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * size_bytes)
    entries = hash_folder(tmp_path, threads=threads)
    assert [entry.path for entry in entries] == [f"{number}.bin" for number in range(7)]
    assert all(sha256_file(tmp_path / entry.path) == (entry.sha256, entry.size_bytes) for entry in entries)
    for name in ("1.bin\n", "4.bin\n"):  # a large and a small one that no manifest may hold
        (tmp_path / name).write_bytes(b"x" * (40_000 if name.startswith("1") else 1))
    with pytest.raises(ManifestError, match=r"'1\.bin"):
        hash_folder(tmp_path, threads=threads)


def test_a_folder_gives_every_file_below_it_in_order_of_path_bytes(tmp_path: Path) -> None:
    """Rule 3: hidden files too; empty folders have no entry."""
    for name in ("b.csv", "a/z.csv", "a/.hidden", "a.csv", "é.csv", "a/deep/er/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()

    entries = hash_folder(tmp_path, exclude=frozenset({"b.csv"}))

    assert [entry.path for entry in entries] == ["a.csv", "a/.hidden", "a/deep/er/file", "a/z.csv", "é.csv"]
    assert all(entry.sha256 == hashlib.sha256(entry.path.encode()).hexdigest() for entry in entries)
    assert [entry.size_bytes for entry in entries] == [len(entry.path.encode()) for entry in entries]


def test_a_name_that_no_manifest_may_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\nb").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"U\+000A"):
        hash_folder(tmp_path)


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(ManifestError, match="not Unicode text"):
        hash_folder(tmp_path)
