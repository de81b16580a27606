"""The key of what is kept of earlier runs' work: made once, destroyed to forget all of it, wherever it lies.

Who has the key can write work that a run believes, so it is as secret as the keys that sign verdicts, and stands beside
them in the state folder. Workers get keys derived from it, one a store.

Format: docs/formats/work-store.md.
"""

import hmac
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from millcert.errors import StoreError, UsageError
from millcert.provenance.keys import PRIVATE_MODE, create_file

KEY_BYTES = 32
#: The folder of the state folder's own store, and the key.
FOLDER_NAME = "work"
KEY_FILE = "work.key"


def work_key(state: Path) -> bytes:
    """Return the key of a state folder's work, made on first use.

    Raises:
        UsageError: the file holds no such key, or others can read it.
        StoreError: the folder cannot be used.
    """
    path = state / KEY_FILE
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.path.lexists(path):
            with suppress(FileExistsError):  # another process was first
                create_file(path, secrets.token_bytes(KEY_BYTES), PRIVATE_MODE)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            facts = os.fstat(descriptor)
            key, mode = stream.read(KEY_BYTES + 1) if stat.S_ISREG(facts.st_mode) else b"", stat.S_IMODE(facts.st_mode)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be used: {error.strerror}.", hint="Check the folder's rights.", path=str(path)
        ) from error
    if len(key) != KEY_BYTES or mode & 0o077:
        raise UsageError(
            f"{path} is no key, or others can read it (mode {mode:04o}).",
            hint="Delete it; it is made again, and what was kept under it is done again.",
            path=str(path),
        )
    return key


def derived_key(key: bytes, purpose: str) -> bytes:
    """Return the key for one purpose, such as one store, of a state folder's key; workers get no other."""
    return hmac.digest(key, b"millcert work key 1\n" + purpose.encode(), "sha256")


def forget_work(state: Path) -> None:
    """Destroy the key: nothing that was sealed with it, wherever it lies, can be read again. The folder goes with it.

    Raises:
        StoreError: it cannot be destroyed.
    """
    path = state / KEY_FILE
    try:
        with suppress(FileNotFoundError), path.open("r+b") as file:
            file.write(bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.unlink(missing_ok=True)
        shutil.rmtree(state / FOLDER_NAME, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be destroyed: {error.strerror}.", path=str(path)) from error
