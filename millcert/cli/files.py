"""Small files that a command reads and writes: bounded, whole or not at all, and refused in words."""

import os
import tempfile
from pathlib import Path

from millcert.errors import StoreError, UsageError


def read_bounded(path: Path, limit: int, *, what: str, hint: str) -> bytes:
    """Return at most `limit` + 1 bytes of a file: one byte above the bound is enough for a parser to refuse it.

    Raises:
        UsageError: there is no such file; `what` names it in the message, `hint` says what to check.
        StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"There is no {what} at {path}.", hint=hint, path=str(path)) from error
    except OSError as error:
        raise StoreError(f"The {what} {path} cannot be read: {error.strerror}.", path=str(path)) from error


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole or not at all.

    Raises:
        UsageError: there is a file already.
        StoreError: it cannot be written.
    """
    from millcert.provenance.keys import PUBLIC_MODE, create_file

    try:
        create_file(path, data, PUBLIC_MODE)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already.", hint="Choose another --out.", path=str(path)) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.", path=str(path)) from error


def replace_whole(target: Path, data: bytes) -> None:
    """Write a file, or in place of one that is there: whoever reads it sees the old bytes or the new ones.

    Raises:
        OSError: it cannot be written (the root explains it); what was there is untouched.
    """
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream:
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            Path(stream.name).chmod(0o644)
            Path(stream.name).replace(target)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise
