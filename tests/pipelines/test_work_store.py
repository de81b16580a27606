"""The work store gives back what was kept under a name, or nothing."""

import io
import os
from pathlib import Path

import pytest

from millcert.errors import StoreError, UsageError
from millcert.pipelines.work_gc import choose_garbage, delete_entries, list_entries
from millcert.pipelines.work_store import WorkStore
from millcert.provenance.work_key import KEY_FILE, derived_key, forget_work, work_key

NAME, OTHER = "ab" * 32, "ab" * 31 + "cd"
LONG = bytes(range(256)) * 10_000  # three chunks


def store(top: Path, key: bytes = b"k" * 32) -> WorkStore:
    return WorkStore(str(top / "work"), key)


@pytest.mark.parametrize("data", [b"", b"short", LONG], ids=["nothing", "short", "three chunks"])
def test_what_was_kept_comes_back(tmp_path: Path, data: bytes) -> None:
    into = io.BytesIO()

    assert store(tmp_path).put(NAME, data)
    assert store(tmp_path).put_file(OTHER, io.BytesIO(data))

    assert store(tmp_path).get(NAME) == data
    assert store(tmp_path).get_file(OTHER, into)
    assert into.getvalue() == data


def test_a_name_under_which_nothing_was_kept_has_nothing(tmp_path: Path) -> None:
    empty = store(tmp_path)

    assert empty.get(NAME) is None
    assert (empty.refused, empty.failed) == (0, 0)


def damaged(how: str, whole: bytes) -> bytes:
    middle = len(whole) // 2
    return {
        "a bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "the end is missing": whole[:-20],
        "a chunk is missing": whole[:16] + whole[16 + 4 + 12 + (1 << 20) + 16 :],
        "the last chunk is missing": whole[: 16 + 2 * (4 + 12 + (1 << 20) + 16)],
        "more stands behind it": whole + b"x",
        "no entry at all": b"\x80\x04K\x01.",
        "empty": b"",
        "a huge chunk": whole[:16] + b"\x7f\xff\xff\xff" + whole[20:],
        "a tiny chunk": whole[:16] + b"\x80\0\0\x04abcd",
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "a bit", "the end is missing", "a chunk is missing", "the last chunk is missing", "more stands behind it",
        "no entry at all", "empty", "a huge chunk", "a tiny chunk",
    ],
)  # fmt: skip
def test_an_entry_that_is_damaged_cut_or_forged_is_no_entry_and_is_counted(tmp_path: Path, how: str) -> None:
    written = store(tmp_path)
    written.put_file(NAME, io.BytesIO(LONG))
    path = Path(written.path_of(NAME))
    path.write_bytes(damaged(how, path.read_bytes()))
    read = store(tmp_path)

    assert not read.get_file(NAME, io.BytesIO())
    assert read.refused == 1


def test_an_entry_of_another_key_or_under_another_name_is_no_entry(tmp_path: Path) -> None:
    """Who can write to the store cannot answer one question with the answer to another."""
    written = store(tmp_path)
    written.put(NAME, b"of ab")
    Path(written.path_of(OTHER)).write_bytes(Path(written.path_of(NAME)).read_bytes())
    foreign = store(tmp_path, b"f" * 32)

    assert written.get(OTHER) is None
    assert foreign.get(NAME) is None
    assert (written.refused, foreign.refused) == (1, 1)


def test_an_entry_says_nothing_without_the_key(tmp_path: Path) -> None:
    written = store(tmp_path)
    written.put_file(NAME, io.BytesIO(b"jane.doe@example.org" * 1000))

    data = Path(written.path_of(NAME)).read_bytes()

    assert b"jane" not in data
    assert Path(written.path_of(NAME)).stat().st_mode & 0o077 == 0


def test_a_link_or_folder_in_the_place_of_an_entry_is_not_followed(tmp_path: Path) -> None:
    written = store(tmp_path)
    written.put(NAME, b"data")
    path = Path(written.path_of(NAME))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    Path(written.path_of(OTHER)).mkdir(parents=True)

    assert written.get(NAME) is None
    assert written.get(OTHER) is None


def test_a_store_that_cannot_be_written_is_counted_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("in the way")
    broken = store(tmp_path)

    assert not broken.put(NAME, b"data")
    assert broken.get(NAME) is None
    assert broken.failed == 2


def test_a_failed_write_leaves_no_part_behind(tmp_path: Path) -> None:
    class Failing(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError("the disk went away")

    written = store(tmp_path)

    assert not written.put_file(NAME, Failing())
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


def test_the_key_is_made_once_and_destroyed_for_good(tmp_path: Path) -> None:
    key = work_key(tmp_path)
    (tmp_path / "work" / "ab").mkdir(parents=True)

    assert work_key(tmp_path) == key
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0
    forget_work(tmp_path)
    forget_work(tmp_path)
    assert not (tmp_path / "work").exists()
    assert work_key(tmp_path) != key


def test_stores_have_keys_of_their_own(tmp_path: Path) -> None:
    key = work_key(tmp_path)

    assert len({key, derived_key(key, "run"), derived_key(key, "kept a"), derived_key(key, "kept b")}) == 4


@pytest.mark.parametrize("fault", ["readable", "short"])
def test_a_key_that_is_none_or_that_others_can_read_is_refused(tmp_path: Path, fault: str) -> None:
    work_key(tmp_path)
    path = tmp_path / KEY_FILE
    if fault == "readable":
        path.chmod(0o644)
    else:
        path.write_bytes(b"short")

    with pytest.raises(UsageError):
        work_key(tmp_path)


def test_a_state_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError):
        work_key(tmp_path / "file" / "state")


def test_what_was_not_used_for_long_goes_and_nothing_else(tmp_path: Path) -> None:
    written = store(tmp_path)
    names = [f"{number:064x}" for number in range(4)]
    for number, name in enumerate(names):
        written.put(name, bytes(100))
        written.put(f"{name}.rows", bytes(100))
        for path in (tmp_path / "work").rglob(f"{name}*"):
            os.utime(path, (1000 * number, 1000 * number))
    (tmp_path / "work" / "00" / "notes.txt").write_text("not ours")
    entries = list_entries(str(tmp_path / "work"))

    gone = choose_garbage(entries, used_before=500.0, max_bytes=2 * entries[0].size_bytes)
    delete_entries(gone)

    assert [entry.name for entry in entries] == names
    assert [entry.name for entry in gone] == names[:2]
    assert [entry.name for entry in list_entries(str(tmp_path / "work"))] == names[2:]
    assert (tmp_path / "work" / "00" / "notes.txt").exists()


def test_a_store_that_nobody_knows_is_told() -> None:
    with pytest.raises(UsageError):
        list_entries("nosuch://bucket/work")
