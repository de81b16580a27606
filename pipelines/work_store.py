"""The work store: what workers found out about single files, sealed, under names made of all that it depends on.

Rules this module keeps:
  1. An entry's name is the SHA-256 of what its content depends on (work_keys.py); the content is bound to the name.
  2. Every byte is encrypted and authenticated with a key of the state folder (AES-256-GCM). Who can write to the
     store, and has no key, can make an entry disappear and nothing else: one that is damaged, cut short, forged, or
     was moved from another name is passed over and counted, and the work is done again. Who can only read it learns
     sizes.
  3. An entry appears whole or not at all where a rename is atomic; elsewhere rule 2 tells a part from the whole.
     Nothing is synced: what a loss of power leaves is no entry.
  4. A store that fails is no reason for a run to fail; it is counted, and the run does all the work itself.

Format: docs/formats/work-store.md.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from millcert.pipelines.publish import is_local
from millcert.pipelines.remote_file import create_remote
from millcert.provenance.keys import PRIVATE_MODE

MAGIC = b"millcert work 1\n"

_CHUNK_BYTES = 1 << 20
_NONCE_BYTES, _TAG_BYTES, _LENGTH_BYTES = 12, 16, 4


class WorkStore:
    """Entries below a folder on any Beam file system.

    refused: entries that were there and were not ours. failed: reads and writes that the file system refused.
    """

    def __init__(self, root: str, key: bytes) -> None:
        self._root = root.rstrip("/")
        self._cipher = AESGCM(key)
        self.refused = 0
        self.failed = 0

    def get(self, name: str) -> bytes | None:
        """Return the content of an entry; None where there is none that can be trusted."""
        chunks: list[bytes] = []
        if not self._read(name, chunks.append):
            return None
        try:
            with pa.input_stream(pa.py_buffer(b"".join(chunks)), compression="zstd") as stream:
                return bytes(stream.read())
        except (OSError, pa.ArrowException):
            self.refused += 1
            return None

    def put(self, name: str, data: bytes) -> int:
        """Keep the content of an entry; return how many bytes it takes, 0 where it could not be kept."""
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return self._write(name, pa.BufferReader(sink.getvalue()))

    def get_file(self, name: str, target: IO[bytes]) -> bool:
        """Write the content of an entry to a stream; say whether it was there and whole."""
        return self._read(name, target.write)

    def put_file(self, name: str, source: Any) -> int:
        """Keep what a stream holds; return how many bytes that takes, 0 where it could not be kept."""
        return self._write(name, source)

    def path_of(self, name: str) -> str:
        """Return where an entry is."""
        return f"{self._root}/{name[:2]}/{name}"

    def _read(self, name: str, take: Any) -> bool:
        try:
            with _open(self.path_of(name)) as stream:
                for chunk in self._opened(name, stream):
                    take(chunk)
        except FileNotFoundError:
            return False
        except (InvalidTag, ValueError):
            self.refused += 1
            return False
        except (OSError, BeamIOError):
            self.failed += 1
            return False
        if is_local(self._root):
            with suppress(OSError):
                os.utime(self.path_of(name))  # what is used is young: `millcert work gc` goes by age
        return True

    def _opened(self, name: str, stream: Any) -> Iterator[bytes]:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError("no entry")
        number, is_last = 0, False
        while not is_last:
            size = int.from_bytes(stream.read(_LENGTH_BYTES), "big")
            is_last, size = bool(size >> 31), size & 0x7FFFFFFF
            if size > _CHUNK_BYTES + _NONCE_BYTES + _TAG_BYTES:
                raise ValueError("no chunk")
            sealed = stream.read(size)
            if len(sealed) != size or size < _NONCE_BYTES + _TAG_BYTES:
                raise ValueError("the entry ends inside a chunk")
            about = _about(name, number, is_last=is_last)
            yield self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
            number += 1
        if stream.read(1):
            raise ValueError("bytes stand behind the entry")

    def _write(self, name: str, source: Any) -> int:
        path = self.path_of(name)
        try:
            if not is_local(path):
                with create_remote(path) as stream:
                    return self._seal(name, source, stream)
            folder = Path(path).parent
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = folder / f".{name}.{secrets.token_hex(8)}"
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
                with os.fdopen(descriptor, "wb") as file:
                    size = self._seal(name, source, file)
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        except (OSError, BeamIOError):
            self.failed += 1
            return 0
        return size

    def _seal(self, name: str, source: Any, target: Any) -> int:
        target.write(MAGIC)
        written, number, chunk = len(MAGIC), 0, bytes(source.read(_CHUNK_BYTES))
        while True:
            following = bytes(source.read(_CHUNK_BYTES)) if len(chunk) == _CHUNK_BYTES else b""
            nonce = secrets.token_bytes(_NONCE_BYTES)
            sealed = nonce + self._cipher.encrypt(nonce, chunk, _about(name, number, is_last=not following))
            target.write((len(sealed) | (0 if following else 1 << 31)).to_bytes(_LENGTH_BYTES, "big") + sealed)
            written += _LENGTH_BYTES + len(sealed)
            if not following:
                return written
            number, chunk = number + 1, following


def _about(name: str, number: int, *, is_last: bool) -> bytes:
    return MAGIC + name.encode() + b"\n" + number.to_bytes(8, "big") + (b"\1" if is_last else b"\0")


def _open(path: str) -> Any:
    if is_local(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError("no regular file")
        return os.fdopen(descriptor, "rb")
    if not FileSystems.exists(path):
        raise FileNotFoundError(path)
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
