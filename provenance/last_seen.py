"""The last checkpoint that this client saw, kept in a file beside the ledger: how it notices a rollback or a fork.

Rules this module keeps:
  1. The file is replaced whole, and only by a checkpoint of at least its size; of processes that race, the larger wins.
  2. A file that cannot be read as a checkpoint is an error: it is never taken for "nothing seen yet".
Whoever can replace the ledger may replace this file too; keep a copy where the ledger's keeper cannot write.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from millcert.errors import StoreError
from millcert.provenance.checkpoint import MAX_NOTE_BYTES, parse_checkpoint, parse_note
from millcert.provenance.keys import sync_folder


@dataclass(frozen=True)
class LastSeen:
    """The file of one ledger's last seen checkpoint.

    path: the file; it need not exist. A lock file is kept beside it.
    """

    path: Path

    def read(self) -> bytes | None:
        """Return the signed note, or None if no checkpoint was seen yet; verifies nothing.

        Raises:
            StoreError: the file is there but cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_NOTE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error

    def advance(self, note: bytes) -> None:
        """Keep a verified checkpoint, unless one of at least its size is kept already.

        Raises:
            LedgerError: the file holds no checkpoint.
            StoreError: the file cannot be written; the old one is kept.
        """
        self._put(note, may_replace_equal=False)

    def supersede(self, note: bytes) -> None:
        """Keep a verified checkpoint, also in place of one of its size: it bears further signatures.

        Raises:
            LedgerError: the file holds no checkpoint.
            StoreError: the file cannot be written; the old one is kept.
        """
        self._put(note, may_replace_equal=True)

    def _put(self, note: bytes, *, may_replace_equal: bool) -> None:
        with self.locked():
            kept = self.read()
            if kept is not None and _size(kept) >= _size(note) + may_replace_equal:
                return
            temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
            try:
                with temporary.open("xb") as file:
                    file.write(note)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
                # A later name may get lost with the power: then the one before is there, as after a crash up to here.
                if kept is None:
                    sync_folder(self.path.parent)
            except OSError as error:
                with suppress(OSError):
                    temporary.unlink()
                raise self._failed(error) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that serialises processes on this ledger's files; it ends with the process at the latest.

        Raises:
            StoreError: the lock file cannot be made.
        """
        try:
            descriptor = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._failed(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"The last seen checkpoint {self.path} cannot be read or kept: {error.strerror or error}.",
            hint="Check the folder's owner and mode and the disk's space, then try again.",
            path=str(self.path),
        )


def _size(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size
