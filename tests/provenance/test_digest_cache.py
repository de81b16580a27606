"""Remembered digests: as good as hashing where the file system tells the truth, proved in turn where it may not."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millcert.errors import ManifestError
from millcert.provenance import digest_cache
from millcert.provenance.digest import hash_folder
from millcert.provenance.digest_cache import HashedFolder, Remembered, hash_folder_cached

#: Files are made now and looked at as if much later, so that none of them is racy.
LATER = 60_000_000_000


@pytest.fixture(autouse=True)
def every_size_is_remembered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "small" not in request.node.name:
        monkeypatch.setattr(digest_cache, "MIN_BYTES", 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for number in range(40):
        path = folder / f"{number % 4}" / f"{number:02d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%04d" % number * 10)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "state" / "digests"


def run(data: Path, cache: Path | None, later: int = LATER) -> HashedFolder:
    found = hash_folder_cached(data, cache=cache, now_ns=time.time_ns() + later)
    assert found.entries == hash_folder(data)
    return found


def wait_for_another_time(folder: Path) -> None:
    """Return when the file system's clock has moved on: the next change has another time than all before.

    Files of these tests are remembered though they are racy (rule 2), so on a coarse clock a change might show no time.
    """
    probe = folder / "probe"
    probe.write_bytes(b"")
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first:
        probe.write_bytes(b"")
    probe.unlink()


def memory_of(cache: Path) -> Path:
    (path,) = [path for path in cache.iterdir() if len(path.name) == 64]
    return path


def test_what_did_not_change_is_not_hashed_again_but_for_the_part_that_is_proved(data: Path, cache: Path) -> None:
    first, second = run(data, cache), run(data, cache)
    assert (first.hashed, first.reused, first.proved, first.notes) == (40, 0, 0, ())
    assert (second.hashed, second.reused, second.proved, second.notes) == (2, 38, 2, ())


def test_small_files_are_hashed_every_time(data: Path, cache: Path) -> None:
    (data / "large.bin").write_bytes(b"x" * 40_000)
    (data / "larger.bin").write_bytes(b"x" * 50_000)
    assert run(data, cache).hashed == 42
    found = run(data, cache)
    assert (found.hashed, found.reused, found.proved) == (41, 1, 1)


def test_without_a_cache_everything_is_hashed_and_nothing_is_kept(data: Path, tmp_path: Path) -> None:
    found = run(data, None)
    assert (found.hashed, found.reused) == (40, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_every_file_is_proved_within_twenty_runs(data: Path, cache: Path) -> None:
    """Rule 3."""
    run(data, cache)
    proved: set[str] = set()
    for _ in range(20):
        memory = digest_cache._Memory.open(cache, data, [])
        proved |= memory.due()
        assert run(data, cache).proved == 2
    assert proved == {entry.path for entry in hash_folder(data)}


def test_other_bytes_of_the_same_size_and_mtime_are_seen_by_ctime(data: Path, cache: Path) -> None:
    run(data, cache)
    path = data / "0" / "00.bin"
    before = path.stat()
    wait_for_another_time(cache)
    path.write_bytes(b"swap" * 10)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    run(data, cache)


def test_another_file_moved_into_its_place_is_seen_by_inode(data: Path, cache: Path, tmp_path: Path) -> None:
    run(data, cache)
    path, other = data / "0" / "00.bin", tmp_path / "other"
    before = path.stat()
    other.write_bytes(b"swap" * 10)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    run(data, cache)


def test_a_file_that_changed_a_moment_ago_is_not_remembered(data: Path, cache: Path) -> None:
    """Rule 2: the next change might not move its time."""
    assert run(data, cache, later=0).hashed == 40
    assert run(data, cache, later=0).reused == 0
    assert run(data, cache, later=-LATER).reused == 0
    run(data, cache)
    assert run(data, cache).reused == 38


@pytest.mark.parametrize("where", ["due", "not due"])
def test_a_wrong_memory_is_found_out_and_nothing_of_it_counts(data: Path, cache: Path, where: str) -> None:
    """What only rule 3 can find: bytes that changed while everything that the file system says stayed."""
    run(data, cache)
    memory = digest_cache._Memory.open(cache, data, [])
    due = min(memory.due())
    path = due if where == "due" else min(set(memory.entries) - memory.due())
    lying = {**memory.entries, path: memory.entries[path]._replace(sha256="0" * 64)}
    memory.run -= 1
    memory.save(lying, [])

    runs = 0
    while True:
        found = hash_folder_cached(data, cache=cache, now_ns=time.time_ns() + LATER)
        runs += 1
        if found.notes:
            break
        assert where == "not due"
        assert runs < 20
    assert path in found.notes[0]
    assert (found.hashed, found.reused) == (40, 0)
    assert found.entries == hash_folder(data)
    assert run(data, cache).notes == ()


def damaged() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    yield "empty", lambda _: b""
    yield "cut", lambda data: data[:-1]
    yield "other magic", lambda data: b"X" + data[1:]
    yield "other mac", lambda data: data.replace(data[24:28], b"0000" if data[24:28] != b"0000" else b"1111", 1)
    yield "one digit", lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    yield "head only", lambda data: data[:30]
    yield "too large", lambda data: data + b" " * 5000


@pytest.mark.parametrize(("name", "damage"), list(damaged()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_damaged_memory_is_passed_over_with_a_word_and_made_anew(
    data: Path, cache: Path, name: str, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, cache)
    path = memory_of(cache)
    path.write_bytes(damage(path.read_bytes()))
    if name == "too large":
        monkeypatch.setattr(digest_cache, "MAX_CACHE_BYTES", path.stat().st_size - 100)
    found = run(data, cache)
    assert (found.hashed, found.reused) == (40, 0)
    assert found.notes[0].endswith("it is made anew")
    monkeypatch.setattr(digest_cache, "MAX_CACHE_BYTES", 1 << 20)
    assert run(data, cache).reused == 38


@pytest.mark.parametrize(
    "value", [b"{}", b'{"run": 1, "folder": "FOLDER", "entries": [["a", 1]]}', b"[", b"[" * 100_000]
)
def test_a_memory_that_is_signed_and_makes_no_sense_is_passed_over(data: Path, cache: Path, value: bytes) -> None:
    import hmac

    run(data, cache)
    key = (cache / "digests.key").read_bytes()
    magic = b"millcert digest cache 1\n"
    value = value.replace(b"FOLDER", os.fsencode(os.path.realpath(data)))
    memory_of(cache).write_bytes(magic + hmac.digest(key, magic + value, "sha256").hex().encode() + b"\n" + value)
    assert "damaged" in run(data, cache).notes[0]


def test_a_memory_of_another_folder_or_another_key_does_not_count(data: Path, cache: Path, tmp_path: Path) -> None:
    run(data, cache)
    other = tmp_path / "other"
    shutil.copytree(data, other)
    mine = memory_of(cache)
    run(other, cache)
    (theirs,) = [path for path in cache.iterdir() if len(path.name) == 64 and path != mine]
    theirs.write_bytes(mine.read_bytes())
    assert "not one that this state folder wrote" in run(other, cache).notes[0]
    (cache / "digests.key").write_bytes(b"k" * 32)
    assert "not one that this state folder wrote" in run(data, cache).notes[0]


@pytest.mark.parametrize("what", ["readable", "short", "a link", "no folder", "memory is a folder"])
def test_a_place_that_cannot_be_trusted_or_used_is_told_and_everything_is_hashed(
    data: Path, cache: Path, tmp_path: Path, what: str
) -> None:
    run(data, cache)
    key = cache / "digests.key"
    if what == "readable":
        key.chmod(0o644)
    elif what == "short":
        key.write_bytes(b"k")
    elif what == "a link":
        (tmp_path / "elsewhere").write_bytes(key.read_bytes())
        key.unlink()
        key.symlink_to(tmp_path / "elsewhere")
    elif what == "no folder":
        shutil.rmtree(cache)
        cache.write_text("")
    else:
        path = memory_of(cache)
        path.unlink()
        path.mkdir()
    found = run(data, cache)
    assert (found.hashed, found.reused) == (40, 0)
    assert found.notes


def test_a_link_among_the_files_is_refused_as_without_a_cache(data: Path, cache: Path) -> None:
    run(data, cache)
    (data / "0" / "00.bin").unlink()
    (data / "0" / "00.bin").symlink_to(data / "1" / "01.bin")
    with pytest.raises(ManifestError):
        hash_folder_cached(data, cache=cache)


def test_processes_at_once_agree(data: Path, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: hash_folder_cached(data, cache=cache, now_ns=time.time_ns() + LATER), range(8)))
    assert {one.entries for one in found} == {hash_folder(data)}
    assert all(one.notes == () for one in found)
    assert [path for path in cache.iterdir() if path.name.startswith(".digest")] == []


def test_memories_are_bounded(data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_cache, "MAX_ENTRIES", 10)
    monkeypatch.setattr(digest_cache, "MAX_FOLDERS", 2)
    (data / "0" / "00.bin").write_bytes(b"x" * 10_000)
    run(data, cache)
    assert len(digest_cache._Memory.open(cache, data, []).entries) == 10
    assert "0/00.bin" in digest_cache._Memory.open(cache, data, []).entries
    for name in ("b", "c"):
        shutil.copytree(data / "1", tmp_path / name)
        run(tmp_path / name, cache)
    assert len([path for path in cache.iterdir() if len(path.name) == 64]) == 2


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "swap", "move", "drop", "touch", "look"]), st.integers(0, 3), st.integers(0, 2)
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_to_the_files_the_digests_are_those_of_their_bytes(tmp_path: Path, steps: list[Step]) -> None:
    """Rule 1, over writes that keep size and mtime, moves, removals and looks in between."""
    top = tmp_path / "property"
    shutil.rmtree(top, ignore_errors=True)
    data, cache = top / "data", top / "cache"
    data.mkdir(parents=True)
    for number in range(4):
        (data / str(number)).write_bytes(b"0000")
    for what, which, value in steps:
        path, other = data / str(which), data / str(value)
        if what == "look":
            run(data, cache)
            wait_for_another_time(top)
        elif what == "drop":
            path.unlink(missing_ok=True)
        elif what == "move" and other.exists():
            other.replace(path)
        elif what == "touch" and path.exists():
            os.utime(path, ns=(1, value))
        elif what in {"write", "swap"}:
            times = (path.stat().st_atime_ns, path.stat().st_mtime_ns) if path.exists() else (1, 1)
            path.write_bytes(b"%04d" % value)
            if what == "swap":
                os.utime(path, ns=times)
    run(data, cache)


def test_a_state_that_differs_in_any_part_is_another_state(data: Path, cache: Path) -> None:
    run(data, cache)
    memory = digest_cache._Memory.open(cache, data, [])
    path = min(set(memory.entries) - memory.due())
    known: Remembered = memory.entries[path]
    for name in known.state._fields:
        changes: dict[str, Any] = {name: getattr(known.state, name) + 1}
        other = {**memory.entries, path: known._replace(state=known.state._replace(**changes), sha256="0" * 64)}
        memory.save(other, [])
        run(data, cache)
