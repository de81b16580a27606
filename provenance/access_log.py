"""The access log: who asked the ledger what, and when. A hash chain beside the ledger, with what was asked kept keyed.

Rules this module keeps:
  1. A line is appended, durable, before its question is answered; each names the hash of the line before it.
  2. What was asked for is never written as text: numbers and switches are, words are a keyed digest (HMAC-SHA-256), so
     that the log holds nobody's data, and who has the key can still ask whether something was ever asked for.
  3. A reader who cannot write the folder has a copy, and leaves no trace; that is said here, not hidden.
A chain does not miss its own end: `head` says how many lines there are and their last hash, to be put into the ledger
(`access_log` entry) or kept elsewhere.

Format: docs/formats/access-log.md.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millcert.errors import IntegrityError, LedgerError, StoreError, UsageError
from millcert.provenance.keys import PRIVATE_MODE, create_file
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields
from millcert.provenance.timestamp import is_timestamp

KIND = "access_log"

#: What stands for the line before the first.
BEGINNING = "0" * 64

_LOG_FILE = "access.log"
_KEY_FILE = Path("keys") / "access.key"
_KEY_BYTES = 32
_MAX_LINE_BYTES = 64 * 1024
_FIELDS = {"asked": dict, "at": str, "by": str, "command": str, "number": int, "previous": str}


@dataclass(frozen=True)
class Access:
    """One line. number: from 0. asked: option -> number, switch, or keyed digest in hex. sha256: of the line, hex."""

    number: int
    at: str
    by: str
    command: str
    asked: Mapping[str, Any]
    previous: str
    sha256: str


@dataclass(frozen=True)
class Head:
    """Where a log ends. lines: how many there are. sha256: of the last one, hex; `BEGINNING` for none."""

    lines: int
    sha256: str


class AccessLog:
    """The access log of one state folder; nothing of it need exist."""

    def __init__(self, state: Path) -> None:
        self._path = state / _LOG_FILE
        self._key_path = state / _KEY_FILE

    def record(self, *, at: str, by: str, command: str, asked: Mapping[str, Any]) -> bool:
        """Append a line; return False where the folder cannot be written by this user (rule 3).

        Args:
            at: RFC 3339 in UTC.
            by: who asks: the account's name on this machine.
            command: the command, without its arguments.
            asked: option -> value; None is left out, words are keyed.

        Raises:
            StoreError: the folder could be written, but the line was not kept: the question must not be answered.
            IntegrityError: the last line is damaged, so nothing can follow it.
        """
        if not os.access(self._path.parent, os.W_OK):
            return False
        key = self._key()
        with self._locked() as descriptor:
            head = self._head_of(descriptor)
            value = {
                "asked": {name: _keyed(key, name, item) for name, item in asked.items() if item is not None},
                "at": at,
                "by": by,
                "command": command,
                "number": head.lines,
                "previous": head.sha256,
            }
            line = canonical_json(value, what="access log line") + b"\n"
            try:
                # One write at the end of the file: a crash leaves the line whole, or a torn end that `_head_of` tells.
                os.lseek(descriptor, 0, os.SEEK_END)
                os.write(descriptor, line)
                os.fsync(descriptor)
            except OSError as error:
                raise self._failed(error) from error
        return True

    def lines(self) -> Iterator[Access]:
        """Yield every line, oldest first, the chain checked from its beginning.

        Raises:
            IntegrityError: a line was edited, cut out or put in; `number` says which.
            StoreError: the file cannot be read.
        """
        previous, number = BEGINNING, 0
        try:
            with self._path.open("rb") as file:
                while raw := file.readline(_MAX_LINE_BYTES + 1):
                    access = _parse(raw, number)
                    if access.previous != previous or access.number != number:
                        raise _broken(number)
                    yield access
                    previous, number = access.sha256, number + 1
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from error

    def head(self) -> Head:
        """Return where the log ends, the whole chain checked."""
        last = Head(0, BEGINNING)
        for access in self.lines():
            last = Head(access.number + 1, access.sha256)
        return last

    def keyed(self, name: str, value: str) -> str:
        """Return what a word that was asked for under an option looks like in the log, hex.

        Raises:
            UsageError: this folder has no key of the log.
        """
        if not self._key_path.exists():
            raise UsageError(f"There is no key of the access log at {self._key_path}.", hint="Nothing was asked yet.")
        return str(_keyed(self._key(), name, value))

    def require_holds(self, lines: int, sha256: str) -> None:
        """Check that the log still begins with what was once its whole.

        Raises:
            LedgerError: it has fewer lines, or others.
        """
        if lines == 0:
            return
        for access in self.lines():
            if access.number + 1 == lines:
                if access.sha256 == sha256:
                    return
                break
        raise LedgerError(
            f"The access log no longer begins with the {lines} lines that it once had.",
            hint="Somebody cut or replaced it; look for a copy.",
            lines=lines,
        )

    def _head_of(self, descriptor: int) -> Head:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return Head(0, BEGINNING)
        tail = os.pread(descriptor, _MAX_LINE_BYTES + 1, max(0, size - _MAX_LINE_BYTES - 1))
        if not tail.endswith(b"\n"):
            # A crash in the middle of a line: nobody was answered, so the torn end goes.
            whole = tail.rfind(b"\n") + 1
            os.ftruncate(descriptor, size - len(tail) + whole)
            return self._head_of(descriptor)
        access = _parse(tail[:-1].rpartition(b"\n")[2] + b"\n", -1)
        return Head(access.number + 1, access.sha256)

    def _key(self) -> bytes:
        try:
            if not self._key_path.exists():
                self._key_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with suppress(FileExistsError):
                    create_file(self._key_path, secrets.token_bytes(_KEY_BYTES), PRIVATE_MODE)
            key = self._key_path.read_bytes()
        except OSError as error:
            raise self._failed(error) from error
        if len(key) != _KEY_BYTES:
            raise UsageError(f"{self._key_path} is no key of an access log.", hint="Restore it from a copy.")
        return key

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_MODE)
        except OSError as error:
            raise self._failed(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"The access log {self._path} cannot be read or kept: {error.strerror or error}.",
            hint="Nothing was answered. Look at the disk's space and the folder's owner.",
            path=str(self._path),
        )


def anchor_entry(head: Head, recorded_at: str) -> Entry:
    """Return the ledger entry that says how far an access log had come: cutting it is noticed from then on."""
    return Entry(KIND, f"access-log:{head.sha256}", recorded_at, {"lines": head.lines, "sha256": head.sha256})


def _keyed(key: bytes, name: str, value: Any) -> Any:
    """Return a value as the log holds it: numbers and switches as they are, all else keyed (rule 2)."""
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [_keyed(key, name, item) for item in value]
    return hmac.digest(key, f"{name}\x00{value}".encode("utf-8", "surrogateescape"), "sha256").hex()


def _parse(raw: bytes, number: int) -> Access:
    line = raw[:-1]
    try:
        value = parse_json_object(line, what="access log line", max_bytes=_MAX_LINE_BYTES)
        require_fields(value, _FIELDS, what="access log line")
        is_sound = raw.endswith(b"\n") and is_timestamp(value["at"]) and value["number"] >= 0
        is_sound = is_sound and canonical_json(value, what="access log line") == line
    except (IntegrityError, UsageError) as error:
        raise _broken(number) from error
    if not is_sound:
        raise _broken(number)
    return Access(**value, sha256=hashlib.sha256(line).hexdigest())


def _broken(number: int) -> IntegrityError:
    return IntegrityError(
        f"Line {number} of the access log is not the one that the chain has there."
        if number >= 0
        else "The last line of the access log is damaged.",
        hint="Somebody edited, cut or added lines; look for a copy.",
        number=number,
    )
