"""The mutable side store of a run's salts: what is deleted here makes leaves unlinkable, and changes no proof.

Files of a run's folder:
  index.salt    32 bytes
  seeds         32 bytes a block of 256 rows, file after file in the shard list's order; zeros where a block was opened
  opened/N      the 256 row salts of block N, 32 bytes each; zeros where a row was erased

Rules this module keeps:
  1. A block's seed is destroyed only after its other salts were written out, so a crash loses no salt of another row.
  2. A salt of zeros is "erased", never a salt.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from millcert.errors import LedgerError, StoreError
from millcert.provenance.keys import PRIVATE_MODE, sync_folder
from millcert.provenance.sample_leaf import BLOCK_ROWS, SALT_BYTES, RunSecret, row_salt

_NOTHING = bytes(SALT_BYTES)
_FOLDER_MODE = 0o700


def blocks_of(records: int) -> int:
    """Return how many blocks a file of so many records has."""
    return -(-records // BLOCK_ROWS)


def write_salts(folder: Path, secret: RunSecret, shards: Iterable[tuple[str, int]]) -> None:
    """Write the salts of a run, durably, to a new folder.

    Args:
        folder: must not exist.
        secret: of the run; it is not kept.
        shards: (file name, records) in the shard list's order.

    Raises:
        StoreError: the folder exists or cannot be written.
    """
    try:
        folder.mkdir(parents=True, mode=_FOLDER_MODE)
        (folder / "opened").mkdir(mode=_FOLDER_MODE)
        _write(folder / "index.salt", [secret.index_salt])
        _write(
            folder / "seeds",
            (secret.block_seed(file, block) for file, records in shards for block in range(blocks_of(records))),
        )
        sync_folder(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise _failed(folder, error) from error


def drop_salts(folder: Path) -> None:
    """Destroy all salts of a run; dropping what is gone does nothing.

    Raises:
        StoreError: something could not be removed; a retry is safe.
    """
    try:
        if folder.exists():
            for path in (folder / "seeds", folder / "index.salt"):
                _overwrite(path)
            for path in sorted((folder / "opened").glob("*")):
                _overwrite(path)
            shutil.rmtree(folder)
            sync_folder(folder.parent)
    except OSError as error:
        raise _failed(folder, error) from error


class SaltStore:
    """The salts of one run. `exists` is false where they were all destroyed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def exists(self) -> bool:
        """Whether the run still has salts."""
        return (self._folder / "index.salt").exists()

    def index_salt(self) -> bytes:
        """Return the salt of the index's keys.

        Raises:
            LedgerError: the file is damaged.
            StoreError: it cannot be read.
        """
        salt = self._read(self._folder / "index.salt", 0)
        if salt is None:
            raise LedgerError(f"The index salt in {self._folder} is damaged.", hint="Restore it from a copy.")
        return salt

    def row_salt(self, block: int, offset: int) -> bytes | None:
        """Return the salt of a row, or None if it was erased.

        Args:
            block: the block's number among all of the run.
            offset: of the row in the block, 0 to 255.

        Raises:
            LedgerError: the files are damaged.
            StoreError: they cannot be read.
        """
        opened = self._opened(block)
        if opened.exists():
            return self._read(opened, offset)
        seed = self._read(self._folder / "seeds", block)
        if seed is None:
            raise LedgerError(f"Salt block {block} of {self._folder} is lost.", hint="Restore it from a copy.")
        return row_salt(seed, offset)

    def forget(self, block: int, offset: int) -> None:
        """Destroy the salt of one row; the other salts stay. Forgetting twice does nothing.

        Raises:
            StoreError: the files cannot be written; a retry is safe.
        """
        opened = self._opened(block)
        try:
            if not opened.exists():
                salts = [self.row_salt(block, other) or _NOTHING for other in range(BLOCK_ROWS)]
                salts[offset] = _NOTHING
                temporary = opened.with_suffix(".new")
                temporary.unlink(missing_ok=True)
                _write(temporary, salts)
                temporary.rename(opened)
                sync_folder(opened.parent)
            # If we crash here, the opened block counts, and the seed is destroyed when this is called again.
            _put(opened, offset, _NOTHING)
            _put(self._folder / "seeds", block, _NOTHING)
        except OSError as error:
            raise _failed(self._folder, error) from error

    def _opened(self, block: int) -> Path:
        return self._folder / "opened" / str(block)

    def _read(self, path: Path, number: int) -> bytes | None:
        try:
            with path.open("rb") as file:
                file.seek(number * SALT_BYTES)
                salt = file.read(SALT_BYTES)
        except OSError as error:
            raise StoreError(f"The salts {path} cannot be read: {error.strerror}.", path=str(path)) from error
        if len(salt) != SALT_BYTES:
            raise LedgerError(f"The salts {path} end too early.", hint="Restore them from a copy.", path=str(path))
        return None if salt == _NOTHING else salt


def _write(path: Path, salts: Iterable[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        for salt in salts:
            file.write(salt)
        file.flush()
        os.fsync(file.fileno())


def _put(path: Path, number: int, salt: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, salt, number * SALT_BYTES)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _overwrite(path: Path) -> None:
    # A file system that copies on write, and a disk that levels wear, may keep the old bytes: see the format's page.
    if path.exists():
        with path.open("r+b") as file:
            left = path.stat().st_size
            while left:
                left -= file.write(bytes(min(left, 1 << 20)))
            file.flush()
            os.fsync(file.fileno())


def _failed(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The salts in {folder} cannot be written: {error.strerror or error}.",
        hint="Free space or rights, then run again.",
        path=str(folder),
    )
