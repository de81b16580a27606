"""Salts come back as they were drawn, and what was forgotten never does, wherever a crash cuts in."""

from pathlib import Path

import pytest

from millcert.errors import LedgerError, StoreError
from millcert.provenance import salt_store
from millcert.provenance.salt_store import SaltStore, drop_salts, write_salts
from millcert.provenance.sample_leaf import RunSecret, row_salt

SECRET = RunSecret(b"q" * 32)
SHARDS = [("a", 300), ("empty", 0), ("b", 256)]
#: (file, block in the file) in the order of the store's blocks.
BLOCKS = [("a", 0), ("a", 1), ("b", 0)]


def everything(store: SaltStore) -> list[bytes | None]:
    return [store.row_salt(block, offset) for block in range(len(BLOCKS)) for offset in range(256)]


def drawn() -> list[bytes | None]:
    return [row_salt(SECRET.block_seed(file, block), offset) for file, block in BLOCKS for offset in range(256)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_salts(tmp_path / "run", SECRET, SHARDS)
    return tmp_path / "run"


def test_all_salts_come_back_and_only_their_owner_can_read_them(folder: Path) -> None:
    store = SaltStore(folder)

    assert store.exists
    assert store.index_salt() == SECRET.index_salt
    assert everything(store) == drawn()
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*")])


def test_the_run_s_secret_is_nowhere(folder: Path) -> None:
    assert all(SECRET.secret not in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_forgotten_salt_is_gone_and_the_others_stay(folder: Path) -> None:
    expected = drawn()
    expected[256 + 7] = expected[256 + 9] = expected[0] = None
    store = SaltStore(folder)
    for block, offset in [(1, 7), (1, 9), (1, 7), (0, 0)]:
        store.forget(block, offset)

    assert everything(SaltStore(folder)) == expected


def test_nothing_that_makes_a_forgotten_salt_stays_on_disk(folder: Path) -> None:
    seed, salt = SECRET.block_seed("a", 1), row_salt(SECRET.block_seed("a", 1), 7)

    SaltStore(folder).forget(1, 7)

    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert seed not in data
    assert salt not in data


def test_a_crash_before_the_seed_is_destroyed_loses_no_other_salt_and_a_retry_completes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 1: a block's seed is destroyed only after its other salts were written out."""

    def crash(path: Path, number: int, salt: bytes) -> None:
        raise OSError(5, "Input/output error")

    expected = drawn()
    expected[300] = None
    with monkeypatch.context() as patch:
        patch.setattr(salt_store, "_put", crash)
        with pytest.raises(StoreError):
            SaltStore(folder).forget(1, 300 - 256)
    assert everything(SaltStore(folder)) == expected

    SaltStore(folder).forget(1, 300 - 256)

    assert everything(SaltStore(folder)) == expected
    assert SECRET.block_seed("a", 1) not in (folder / "seeds").read_bytes()


def test_dropping_destroys_all_salts_and_dropping_again_does_nothing(folder: Path) -> None:
    SaltStore(folder).forget(0, 1)

    drop_salts(folder)
    drop_salts(folder)

    assert not folder.exists()
    assert not SaltStore(folder).exists


def test_a_folder_that_is_there_is_never_written_over(folder: Path) -> None:
    with pytest.raises(StoreError):
        write_salts(folder, SECRET, SHARDS)


def test_damaged_or_missing_salts_are_errors_and_no_erasure(folder: Path) -> None:
    (folder / "seeds").write_bytes(bytes(32) + bytes(31))
    (folder / "index.salt").write_bytes(bytes(32))
    store = SaltStore(folder)

    with pytest.raises(LedgerError, match="lost"):
        store.row_salt(0, 0)
    with pytest.raises(LedgerError, match="too early"):
        store.row_salt(1, 0)
    with pytest.raises(LedgerError, match="damaged"):
        store.index_salt()
    (folder / "seeds").unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        store.row_salt(0, 0)
