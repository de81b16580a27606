"""Digests of a large file's blocks, so that a worker that reads a part of it can check the very bytes that it parses.

    parts/blocks/ID      SHA-256 of each block of BLOCK_BYTES of the file, the last one shorter, one behind another

Rules:
  1. The pass that hashes a file for its source's signature makes the digests of its blocks of the same bytes, in the
     same read. The list's own SHA-256 travels with the file's (`WorkItem.blocks_sha256`), through the runner and never
     through the staging folder, and the whole list must meet it before a digest of it is used.
  2. A reader of a part holds each block in private memory, checks it there, and shows it to nobody before. What it did
     not ask for is not there: the rest of the file's length reads as zeros.
  3. A retry writes an identical list under the same name.
"""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple

from millcert.errors import DigestMismatchError, HostileDataError, StoreError, UsageError
from millcert.pipelines.formats.base import ReadLimits
from millcert.pipelines.output import open_output, part_id, translate_store_errors
from millcert.pipelines.spool import open_source, read_verified, translate_read_errors
from millcert.pipelines.spool_memory import HeldBytes
from millcert.provenance.digest_algorithms import DigestAlgorithm, ManyHashers

BLOCK_BYTES = 1 << 20
_DIGEST_BYTES = 32
#: Linux' word for "promise no memory for pages that are never touched"; Python 3.11 has no name for it.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if os.uname().sysname == "Linux" else 0)


class HashedFile(NamedTuple):
    """The digests of a file, hex. others: further ones by algorithm. blocks_sha256: of the list of blocks, or ""."""

    sha256: str
    size_bytes: int
    others: Mapping[str, str]
    blocks_sha256: str


class SparseBytes(HeldBytes):
    """Memory as long as a file of which only parts are there; pages that nobody filled take none.

    Up to `memory_bytes` of parts are held in memory, more in a private temporary file.
    """

    def __init__(self, size_bytes: int, filled_bytes: int, memory_bytes: int) -> None:
        super().__init__()
        super().close_block()
        self._size = size_bytes
        self._map = _mapped(size_bytes, is_in_memory=filled_bytes <= memory_bytes)
        self._block = self._map  # type: ignore[assignment]

    def close(self) -> None:
        """Let go of the memory once nothing points into it."""
        if not self.closed:
            self._block = bytearray()
            with suppress(BufferError):  # a batch still holds it, and it goes with that
                self._map.close()
        super().close()


def _mapped(size_bytes: int, *, is_in_memory: bool) -> mmap.mmap:
    if is_in_memory:
        with suppress(OSError):  # the system promises no more than it has: a file it is
            return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    with tempfile.TemporaryFile(prefix="millcert-") as file:
        file.truncate(size_bytes)
        return mmap.mmap(file.fileno(), size_bytes)


class BlockReader:
    """The verified parts of one file. file: seekable, as long as the file."""

    def __init__(self, uri: str, size_bytes: int, digests: bytes, file: SparseBytes) -> None:
        self._uri = uri
        self._digests = digests
        self._size_bytes = size_bytes
        self._there = bytearray(len(digests) // _DIGEST_BYTES)
        self.file = file

    def require(self, parts: Sequence[tuple[int, int]]) -> None:
        """Read and check the blocks that hold the parts [start, end); those that are there already are not read again.

        Raises:
            DigestMismatchError: a block is not what was hashed.
            StoreError, UsageError: reading failed.
        """
        wanted = sorted(
            {
                number
                for start, end in parts
                for number in range(max(0, start) // BLOCK_BYTES, -(-min(end, self._size_bytes) // BLOCK_BYTES))
                if not self._there[number]
            }
        )
        if not wanted:
            return
        with translate_read_errors(self._uri), open_source(self._uri) as source:
            for number in wanted:
                self._read(source, number)

    def _read(self, source: object, number: int) -> None:
        start = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, self._size_bytes - start)
        source.seek(start)  # type: ignore[attr-defined]
        data = source.read(size)  # type: ignore[attr-defined]
        found = hashlib.sha256(data).digest()
        expected = self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
        if len(data) != size or found != expected:
            raise DigestMismatchError(
                f"{self._uri}: expected SHA-256 {expected.hex()} of the {size} bytes from {start} on, found "
                f"{found.hex()}.",
                hint="The file changed after it was hashed. Run again when nobody writes to it.",
                path=self._uri,
                expected=expected.hex(),
                actual=found.hex(),
            )
        self.file.fill(start, data)
        self._there[number] = 1


def hash_in_blocks(
    uri: str, limits: ReadLimits, algorithms: Sequence[DigestAlgorithm], *, blocks_uri: str = ""
) -> HashedFile:
    """Hash a file without keeping a copy.

    Args:
        uri: any path that Beam's file systems open.
        limits: `max_file_bytes` applies.
        algorithms: further digests to take of the same bytes.
        blocks_uri: where the list of block digests goes; "" for none.

    Raises:
        HostileDataError: the file is larger than `max_file_bytes`.
        UsageError: there is no such file, or it is no regular file.
        StoreError: reading it, or writing the list, failed.

    Cost: one read, one SHA-256, a second one for the blocks; memory: 1 MiB, and 32 bytes for each block.
    """
    digest, size, blocks = ManyHashers(algorithms), 0, bytearray()
    with translate_read_errors(uri), open_source(uri) as source:
        for block in _blocks(source):
            digest.update(block)
            size += len(block)
            if size > limits.max_file_bytes:
                raise HostileDataError(
                    f"{uri}: the file is larger than {limits.max_file_bytes} bytes.",
                    hint="Raise the limit max_file_bytes, or split the file.",
                    path=uri,
                )
            if blocks_uri:
                blocks += hashlib.sha256(block).digest()
    if not blocks_uri:
        return HashedFile(digest.sha256, size, digest.others, "")
    with translate_store_errors(blocks_uri), open_output(blocks_uri) as target:
        target.write(blocks)
    return HashedFile(digest.sha256, size, digest.others, hashlib.sha256(blocks).hexdigest())


def _blocks(source: object) -> Iterator[bytes]:
    """Yield a stream's bytes in whole blocks, the last one shorter."""
    while True:
        block = source.read(BLOCK_BYTES)  # type: ignore[attr-defined]
        while 0 < len(block) < BLOCK_BYTES and (more := source.read(BLOCK_BYTES - len(block))):  # type: ignore[attr-defined]
            block += more
        if not block:
            return
        yield block


def copy_verified(uri: str, target_uri: str, *, expected_sha256: str) -> tuple[str, int]:
    """Copy a file as it is into the staging folder, hashed on the way; return its SHA-256 (hex) and size in bytes.

    Raises:
        DigestMismatchError: it is not what was hashed; the copy must not be used.
        StoreError, UsageError: reading or writing failed.
    """
    digest, size = hashlib.sha256(), 0
    with (
        translate_read_errors(uri),
        open_source(uri) as source,
        translate_store_errors(target_uri),
        open_output(target_uri, sha256=expected_sha256) as target,
    ):
        for block in _blocks(source):
            digest.update(block)
            target.write(block)
            size += len(block)
    if digest.hexdigest() != expected_sha256:
        raise DigestMismatchError(
            f"{uri}: expected SHA-256 {expected_sha256}, found {digest.hexdigest()}.",
            hint="The file changed after it was hashed. Run again when nobody writes to it.",
            path=uri,
            expected=expected_sha256,
            actual=digest.hexdigest(),
        )
    return expected_sha256, size


@contextmanager
def read_blocks(
    uri: str, size_bytes: int, *, blocks_uri: str, blocks_sha256: str, limits: ReadLimits, filled_bytes: int
) -> Iterator[BlockReader]:
    """Hold parts of a file, each verified by the digests of its blocks, for as long as the context lasts.

    Args:
        uri: of the file.
        size_bytes: of the file, as it was hashed.
        blocks_uri: where the list of block digests is.
        blocks_sha256: hex, of the list.
        limits: `spool_memory_bytes` applies to what is held.
        filled_bytes: how much of the file will be asked for.

    Raises:
        DigestMismatchError: the list is not the one that was made when the file was hashed.
        StoreError: it is missing, or there is no room.
    """
    digests = _list_of(blocks_uri, blocks_sha256)
    if len(digests) != -(-size_bytes // BLOCK_BYTES) * _DIGEST_BYTES:
        raise StoreError(f"The list of blocks {blocks_uri} is of another file.", hint="Run again.")
    with translate_read_errors(uri):
        file = SparseBytes(size_bytes, filled_bytes, limits.spool_memory_bytes)
    try:
        yield BlockReader(uri, size_bytes, digests, file)
    finally:
        file.close()


@lru_cache(maxsize=2)
def _list_of(blocks_uri: str, blocks_sha256: str) -> bytes:
    """Return a list of block digests; the spans of a file come one after another, so it is kept for a while."""
    limits = ReadLimits(max_file_bytes=1 << 62)
    try:
        with read_verified(blocks_uri, expected_sha256=blocks_sha256, limits=limits) as spooled:
            return spooled.file.read()
    except UsageError as error:
        raise StoreError(f"The digests of a file's blocks are missing: {error.message}", hint="Run again.") from error


def blocks_place(staging: str, file: str) -> str:
    """Return where the list of a file's block digests is."""
    return f"{staging}/parts/blocks/{part_id(file)}"
