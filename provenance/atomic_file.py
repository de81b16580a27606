"""A file that is replaced whole or not at all, and survives a loss of power once it is."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from millcert.errors import StoreError
from millcert.provenance.keys import sync_folder


def replace_file(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Put what `write` writes at `path`; who reads it meanwhile sees the old file or the new one.

    Raises:
        StoreError: it cannot be written; the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            with temporary.open("xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Check the folder's rights and the disk's space, then try again.",
            path=str(path),
        ) from error
