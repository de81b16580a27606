"""Memory that verified files are held in, kept from one file to the next.

Fresh memory costs more than hashing what is read into it: the kernel clears every page before it is written again. A
block is used again only when nothing points into it any more, neither a batch nor a buffer; otherwise it is left to
those that do, and goes with them.
"""

import io
from typing import Any

#: Blocks that no file uses now. A worker thread has at most a few files open at a time; more than that are let go.
_FREE: list[bytearray] = []
_MAX_FREE = 2


class HeldBytes(io.RawIOBase):
    """A file's bytes in memory: seekable, readable, and seen as a whole without a copy by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self._block = _FREE.pop() if _FREE else bytearray()
        if not _is_unused(self._block):
            self._block = bytearray()
        self._size = 0
        self._at = 0

    def room(self, size: int) -> memoryview:
        """Return room for `size` bytes behind the last one; release it before anything else is called.

        What is put there belongs to the file once `grow` says so.
        """
        missing = self._size + size - len(self._block)
        if missing > 0 and self._size:
            self._block.extend(bytes(max(missing, len(self._block))))
        elif missing > 0:
            self._block = bytearray(size)
        return memoryview(self._block)[self._size : self._size + size]

    def grow(self, size: int) -> None:
        """Say that `size` bytes of the room were filled."""
        self._size += size

    def write(self, data: Any) -> int:
        """Append bytes, whatever the place."""
        with memoryview(data).cast("B") as source:
            with self.room(len(source)) as room:
                room[:] = source
            self.grow(len(source))
            return len(source)

    def writable(self) -> bool:
        """Return True."""
        return True

    @property
    def view(self) -> memoryview:
        """The bytes, read-only; whoever holds it keeps the block."""
        return memoryview(self._block)[: self._size].toreadonly()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, target: Any) -> int:
        """Read up to as much as `target` takes."""
        into = memoryview(target).cast("B")
        count = max(0, min(len(into), self._size - self._at))
        into[:count] = memoryview(self._block)[self._at : self._at + count]
        self._at += count
        return count

    def readall(self) -> bytes:
        """Read all that is left."""
        return self.read()

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes, all that is left where it is negative or None."""
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        data = bytes(memoryview(self._block)[self._at : end]) if end > self._at else b""
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, as files do."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def fill(self, start: int, data: bytes) -> None:
        """Put bytes where the block has room for them."""
        with memoryview(self._block) as block:
            block[start : start + len(data)] = data

    def close(self) -> None:
        """Give the block back."""
        if not self.closed:
            self.close_block()
        super().close()

    def close_block(self) -> None:
        """Give the block back and hold none."""
        block, self._block = self._block, bytearray()
        if block and len(_FREE) < _MAX_FREE:
            _FREE.append(block)


def _is_unused(block: bytearray) -> bool:
    """Say whether no view of a block is left: Python refuses to resize one that has any."""
    if not block:
        return True
    try:
        last = block.pop()
    except BufferError:
        return False
    block.append(last)
    return True
