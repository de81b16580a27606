"""Small files that a command reads and writes: bounded, never overwritten, and refused in words."""

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
