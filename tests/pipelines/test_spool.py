"""Files are hashed while they are read once, and data sets are listed without leaving anything out in silence."""

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import DigestMismatchError, HostileDataError, StoreError, UsageError
from millcert.pipelines.formats import ReadLimits
from millcert.pipelines.spool import DatasetFile, glob_matches, match_files, read_verified


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names_of(files: tuple[DatasetFile, ...]) -> list[tuple[str, str]]:
    return [(each.name, each.format) for each in files]


@pytest.mark.parametrize("spool_memory_bytes", [1, 1 << 20])
def test_a_file_is_held_with_the_digest_of_what_was_read(tmp_path: Path, spool_memory_bytes: int) -> None:
    data = os.urandom(3_000_000)
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    limits = ReadLimits(spool_memory_bytes=spool_memory_bytes)
    for uri in (str(path), f"file://{path}"):
        with read_verified(uri, expected_sha256=digest.upper(), limits=limits) as spooled:
            path.write_bytes(b"changed after it was hashed")
            assert (spooled.sha256, spooled.size_bytes) == (digest, len(data))
            assert spooled.file.read() == data
            assert spooled.file.seek(5) == 5
            path.write_bytes(data)
        assert spooled.file.closed


@pytest.mark.parametrize("listed_bytes", [0, 5, 2_000_000, 5_000_000])
def test_a_file_whose_size_changes_while_it_is_opened_is_held_as_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed_bytes: int
) -> None:
    data = os.urandom(3_000_000)
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    fstat = os.fstat

    def stale(number: int) -> os.stat_result:
        found = fstat(number)
        return os.stat_result((*found[:6], listed_bytes, *found[7:])) if found.st_size == len(data) else found

    monkeypatch.setattr(os, "fstat", stale)
    with read_verified(str(path), expected_sha256=None, limits=ReadLimits()) as spooled:
        assert (spooled.sha256, spooled.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        assert spooled.file.read() == data


def test_other_bytes_than_expected_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    with (
        pytest.raises(DigestMismatchError, match="expected SHA-256") as caught,
        read_verified(str(path), expected_sha256="0" * 64, limits=ReadLimits()),
    ):
        pass
    assert caught.value.actual == hashlib.sha256(b"{}\n").hexdigest()


def test_a_file_above_the_limit_is_refused_while_it_is_read_and_when_it_is_listed(tmp_path: Path) -> None:
    make(tmp_path, "a.jsonl")
    limits = ReadLimits(max_file_bytes=3)
    with (
        pytest.raises(HostileDataError, match="larger than 3"),
        read_verified(str(tmp_path / "a.jsonl"), expected_sha256=None, limits=limits),
    ):
        pass
    with pytest.raises(HostileDataError, match="larger than 3"):
        match_files([str(tmp_path)], limits=limits)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, kind in [("pipe.jsonl", UsageError), ("missing.jsonl", UsageError), (".", UsageError)]:
        with (
            pytest.raises(kind),
            read_verified(str(tmp_path / name), expected_sha256=None, limits=ReadLimits()),
        ):
            pass
    with pytest.raises(UsageError, match="neither a regular file"):
        match_files([str(tmp_path / "pipe.jsonl")])
    with pytest.raises(UsageError, match="link or special file"):
        match_files([str(tmp_path)])


class FullDisk:
    """A temporary file on a full disk."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        """Nothing was held."""


def test_a_full_disk_is_a_store_error_that_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jsonl")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: FullDisk())
    with (
        pytest.raises(StoreError, match="no space left"),
        read_verified(str(tmp_path / "a.jsonl"), expected_sha256=None, limits=ReadLimits(spool_memory_bytes=1)),
    ):
        pass


def test_a_file_that_may_not_be_read_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jsonl")

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(StoreError, match="reading or copying failed"),
        read_verified(str(tmp_path / "a.jsonl"), expected_sha256=None, limits=ReadLimits()),
    ):
        pass


def test_a_uri_that_no_file_system_knows_is_a_store_error() -> None:
    with (
        pytest.raises(StoreError, match="opening failed"),
        read_verified("nowhere://bucket/a.jsonl", expected_sha256=None, limits=ReadLimits()),
    ):
        pass
    for pattern in ("nowhere://bucket/a.jsonl", "nowhere://bucket/*.jsonl"):
        with pytest.raises(StoreError, match="listing failed"):
            match_files([pattern])


def test_a_folder_is_listed_by_relative_names(tmp_path: Path) -> None:
    make(
        tmp_path,
        "b/2.parquet",
        "a.csv",
        "b/1.jsonl.gz",
        "README.md",
        "LICENSE",
        "m.sigstore.json",
        ".git/x",
        "b/SHA256SUMS",
    )
    found = match_files([str(tmp_path) + "/"])
    assert names_of(found) == [
        ("LICENSE", "auxiliary"),
        ("README.md", "auxiliary"),
        ("a.csv", "csv"),
        ("b/1.jsonl.gz", "jsonl"),
        ("b/2.parquet", "parquet"),
        ("b/SHA256SUMS", "auxiliary"),
        ("m.sigstore.json", "auxiliary"),
    ]
    assert {each.is_selection for each in found} == {False}
    assert found[2].size_bytes == len("a.csv")
    assert Path(found[2].uri).read_bytes() == b"a.csv"


def test_globs_and_files_are_named_relative_to_what_they_name(tmp_path: Path) -> None:
    make(tmp_path, "x/b/2.parquet", "x/a.csv", "x/b/c/3.csv", "x/notes.txt")
    assert names_of(match_files([f"{tmp_path}/x/*.csv"])) == [("a.csv", "csv")]
    assert names_of(match_files([f"{tmp_path}/x/**/*.csv"])) == [("a.csv", "csv"), ("b/c/3.csv", "csv")]
    assert names_of(match_files([f"{tmp_path}/x/b/**"])) == [("2.parquet", "parquet"), ("c/3.csv", "csv")]
    assert names_of(match_files([f"{tmp_path}/x/b/2.parquet"])) == [("2.parquet", "parquet")]
    assert all(each.is_selection for each in match_files([f"{tmp_path}/x/*.csv", f"{tmp_path}/x/b/2.parquet"]))
    # The same file twice is one file.
    assert len(match_files([f"{tmp_path}/x/*.csv", f"{tmp_path}/x/a.csv"])) == 1


@pytest.mark.parametrize(
    ("made", "patterns", "message"),
    [
        ([], [], "No data was named"),
        ([], ["missing.csv"], "no such file"),
        (["a.csv"], ["*.parquet"], "nothing matches"),
        (["a.csv"], ["missing/*.csv"], "nothing matches"),
        (["README.md"], ["."], "No data file matches"),
        (["a.csv", "notes.txt", "x.PDF"], ["."], "2 files are of no kind"),
        (["a.csv", ".hidden.csv"], ["."], "1 files are of no kind"),
        (["a.parquet.gz"], ["."], "1 files are of no kind"),
        (["x/a.csv", "y/a.csv"], ["x/a.csv", "y/a.csv"], "Two files have the name 'a.csv'"),
    ],
)
def test_what_cannot_be_listed_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str], patterns: list[str], message: str
) -> None:
    """Rule 2: nothing is left out in silence."""
    make(tmp_path, *made)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        match_files(patterns)


def test_names_that_the_policy_gives_are_auxiliary(tmp_path: Path) -> None:
    make(tmp_path, "a.csv", "sub/list.txt")
    assert names_of(match_files([str(tmp_path)], auxiliary=["sub/*.txt"])) == [
        ("a.csv", "csv"),
        ("sub/list.txt", "auxiliary"),
    ]


def test_a_link_is_followed_only_where_the_user_named_it(tmp_path: Path) -> None:
    make(tmp_path, "real/a.csv")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "b.csv").symlink_to(tmp_path / "real" / "a.csv")
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nothing")
    assert names_of(match_files([str(tmp_path / "folder"), str(tmp_path / "b.csv")])) == [
        ("a.csv", "csv"),
        ("b.csv", "csv"),
    ]
    with pytest.raises(UsageError, match="link or special file"):
        match_files([str(tmp_path)])
    with pytest.raises(UsageError, match="no such file"):
        match_files([str(tmp_path / "dangling.csv")])


def save_split(folder: Path, files: list[str], **state: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, pa.schema([("a", pa.int64())])) as out,
        ):
            out.write_batch(pa.record_batch({"a": [1]}))
    entries = {"_data_files": [{"filename": name} for name in files], "_format_type": None, "_split": "train"}
    (folder / "state.json").write_text(json.dumps(entries | state))
    (folder / "dataset_info.json").write_text("{}")


SHARDS = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]


def test_a_saved_dataset_dict_is_listed_by_split(tmp_path: Path) -> None:
    save_split(tmp_path / "train", SHARDS)
    save_split(tmp_path / "test", SHARDS[:1])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [name for name, kind in names_of(match_files([str(tmp_path)])) if kind == "arrow"] == [
        f"test/{SHARDS[0]}",
        f"train/{SHARDS[0]}",
        f"train/{SHARDS[1]}",
    ]
    assert len(match_files([str(tmp_path / "train")])) == 4


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ({"_data_files": [{"filename": SHARDS[0]}]}, HostileDataError),
        ({"_data_files": [{"filename": name} for name in [*SHARDS, "data-00002.arrow"]]}, HostileDataError),
        ({"_data_files": [{"filename": name} for name in reversed(SHARDS)]}, HostileDataError),
        ({"_data_files": [{"filename": f"../{SHARDS[0]}"}]}, HostileDataError),
        ({"_data_files": SHARDS}, HostileDataError),
        ({"_data_files": None}, HostileDataError),
        ({"_indices_files": [{"filename": "indices.arrow"}]}, UsageError),
        ({"_format_type": "exec"}, UsageError),
    ],
)
def test_a_saved_split_that_the_library_would_read_otherwise_is_refused(
    tmp_path: Path, state: dict[str, object], kind: type[Exception]
) -> None:
    save_split(tmp_path, SHARDS, **state)
    with pytest.raises(kind, match=r"state\.json"):
        match_files([str(tmp_path)])


@pytest.mark.parametrize("text", ['{"splits": ["train"]}', '{"splits": "train"}', '{"splits": [], "splits": []}', "{"])
def test_splits_that_are_not_those_listed_are_refused(tmp_path: Path, text: str) -> None:
    save_split(tmp_path / "train", SHARDS)
    save_split(tmp_path / "test", SHARDS)
    (tmp_path / "dataset_dict.json").write_text(text)
    with pytest.raises(HostileDataError, match=r"dataset_dict\.json"):
        match_files([str(tmp_path)])


parts = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map("/".join)


@given(parts)
def test_a_name_matches_itself_and_double_star(name: str) -> None:
    """`*` stays within a folder, `**` crosses any number of them, none included."""
    assert glob_matches(name, name)
    assert glob_matches(name, "**")
    assert glob_matches(name, "**/" + name)
    assert glob_matches(name, "*") == ("/" not in name)
    assert glob_matches(name, "[ab]*") == ("/" not in name)
