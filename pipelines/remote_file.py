"""Writing an object to a store: also an empty one, and with errors that say what failed.

Beam 2.77 writes to S3 in parts, and S3 refuses a file of no parts; so an empty object is put by a call of its own. Its
S3 client's errors are no OSError, so that callers would take a refused write for a bug.
"""

import io
from types import TracebackType
from typing import Any, BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

_S3 = "s3://"


def create_remote(uri: str) -> BinaryIO:
    """Open an object for writing; it appears when the stream is closed.

    Raises:
        OSError: from the stream's methods: the store refused.
        ValueError: Beam knows no file system for it.
    """
    return cast("BinaryIO", _RemoteFile(uri))


class _RemoteFile(io.RawIOBase):
    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._target: Any = None if uri.startswith(_S3) else self._created()
        self._position = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._target is None:
            super().close()  # nothing was written, so nothing appears
            return
        self.close()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if not len(view):
            return 0
        if self._target is None:
            self._target = self._created()
        with _OsErrors(self._uri):
            self._target.write(view)
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        with _OsErrors(self._uri):
            if self._target is not None:
                self._target.close()
            else:
                _put_empty(self._uri)

    def _created(self) -> Any:
        with _OsErrors(self._uri):
            return FileSystems.create(self._uri, compression_type=CompressionTypes.UNCOMPRESSED)


class _OsErrors:
    """Turns what a store's client raises into an OSError."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, OSError | ValueError):
            raise OSError(f"{self._uri}: {error}") from error


def _put_empty(uri: str) -> None:
    from apache_beam.io.aws.s3io import S3IO, parse_s3_path

    bucket, key = parse_s3_path(uri)
    options = FileSystems.get_filesystem(uri)._options  # noqa: SLF001 - what Beam's own client is made of
    S3IO(options=options).client.client.put_object(Bucket=bucket, Key=key, Body=b"")
