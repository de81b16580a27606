"""A log as a folder of files, C2SP tlog-tiles: where each part lies, and how it is read from a folder of a stranger.

Rules this module keeps:
  1. Paths are computed, never taken from the folder's contents; a link, pipe or device in a file's place is refused.
  2. No more is read than the part can have: 8,192 bytes a tile, 256 entries of 65,535 bytes a bundle.
  3. What is returned is not verified: `tile_audit` and `mirror` compare it with a signed checkpoint.

Source: C2SP tlog-tiles v0.1.0. Format: docs/formats/ledger-tiles.md.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.checkpoint import MAX_NOTE_BYTES
from millcert.provenance.ledger_entry import MAX_LEAF_BYTES
from millcert.provenance.merkle import HASH_BYTES
from millcert.provenance.tiles import TILE_WIDTH, TileReader

CHECKPOINT_NAME = "checkpoint"

#: Bytes of an entry's length in a bundle, big-endian.
_LENGTH_BYTES = 2

MAX_BUNDLE_BYTES = TILE_WIDTH * (_LENGTH_BYTES + MAX_LEAF_BYTES)

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class TileFolder:
    """The parts of a log that lie in a folder; nothing of it is verified.

    path: the folder; what HTTP clients know as the log's prefix.
    """

    path: Path

    def checkpoint(self) -> bytes:
        """Return the signed checkpoint.

        Raises:
            UsageError: there is none, so the folder is no log.
            LedgerError: it is longer than a checkpoint can be, or no file.
            StoreError: it cannot be read.
        """
        data = _read(self.path / CHECKPOINT_NAME, MAX_NOTE_BYTES)
        if data is None:
            raise UsageError(
                f"There is no checkpoint in {self.path}, so it is no log.",
                hint="Give the folder that `millcert ledger export` wrote, or a copy of a C2SP tiles log.",
                path=str(self.path),
            )
        return data

    def tile(self, level: int, number: int, width: int) -> bytes:
        """Return the first `width` (1 to 256) hashes of a tile; from the whole tile where the partial one is gone.

        Raises:
            LedgerError: there is no such tile, or it has another length.
            StoreError: it cannot be read.
        """
        data = self._part(tile_path(level, number), width, TILE_WIDTH * HASH_BYTES)
        expected = width * HASH_BYTES
        if len(data) not in {expected, TILE_WIDTH * HASH_BYTES}:
            raise LedgerError(
                f"Tile {number} of level {level} in {self.path} has {len(data)} bytes; expected {expected}.",
                hint="The copy is not whole: fetch it again.",
                level=level,
                tile=number,
            )
        return data[:expected]

    def entries(self, number: int, width: int) -> list[bytes]:
        """Return the first `width` (1 to 256) entries of a bundle.

        Raises:
            LedgerError: there is no such bundle, or it does not hold that many entries.
            StoreError: it cannot be read.
        """
        entries = split_bundle(self._part(bundle_path(number), width, MAX_BUNDLE_BYTES), number)
        if len(entries) not in {width, TILE_WIDTH}:
            raise LedgerError(
                f"Bundle {number} in {self.path} has {len(entries)} entries; expected {width}.",
                hint="The copy is not whole: fetch it again.",
                bundle=number,
            )
        return entries[:width]

    def tile_reader(self, size: int) -> TileReader:
        """Return a reader of the tiles of a tree of `size` leaves, for `tiles.node_reader`."""

        def read(level: int, number: int) -> bytes | None:
            width = width_at(level, number, size)
            return self.tile(level, number, width) if width else None

        return read

    def _part(self, name: str, width: int, limit: int) -> bytes:
        data = None
        if width < TILE_WIDTH:
            data = _read(self.path / partial_path(name, width), limit)
        if data is None:
            data = _read(self.path / name, limit)
        if data is None:
            raise LedgerError(
                f"{name} is missing in {self.path}; its checkpoint needs it.",
                hint="The copy is not whole: fetch it again.",
                part=name,
            )
        return data


def tile_path(level: int, number: int) -> str:
    """Return the path of a whole tile below the log's prefix."""
    return f"tile/{level}/{_number_path(number)}"


def bundle_path(number: int) -> str:
    """Return the path of a whole entry bundle below the log's prefix."""
    return f"tile/entries/{_number_path(number)}"


def partial_path(whole: str, width: int) -> str:
    """Return the path of the partial tile or bundle, `width` 1 to 255, beside the whole one."""
    return f"{whole}.p/{width}"


def width_at(level: int, number: int, size: int) -> int:
    """Return how many hashes (0 to 256) a tile has in a tree of `size` leaves."""
    return max(0, min(TILE_WIDTH, size // TILE_WIDTH**level - number * TILE_WIDTH))


def join_bundle(entries: Sequence[bytes]) -> bytes:
    """Return the bytes of a bundle: each entry behind its length.

    Raises:
        LedgerError: an entry is longer than 65,535 bytes.
    """
    for entry in entries:
        if len(entry) > MAX_LEAF_BYTES:
            raise LedgerError(f"An entry has {len(entry)} bytes; a bundle takes at most {MAX_LEAF_BYTES}.")
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def split_bundle(data: bytes, number: int) -> list[bytes]:
    """Return the entries in a bundle's bytes; `number` names it in an error.

    Raises:
        LedgerError: the bytes end inside an entry, or hold more than 256.
    """
    entries: list[bytes] = []
    place = 0
    while place < len(data):
        start = place + _LENGTH_BYTES
        end = start + int.from_bytes(data[place:start], "big")
        if end > len(data) or len(entries) == TILE_WIDTH:
            raise LedgerError(
                f"Bundle {number} of the log ends inside its entry {len(entries)}, or has more than {TILE_WIDTH}.",
                bundle=number,
            )
        entries.append(data[start:end])
        place = end
    return entries


def _number_path(number: int) -> str:
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03}")
    return "/".join(reversed(groups))


def _read(path: Path, limit: int) -> bytes | None:
    """Return a file's bytes, at most `limit`; None if there is no such file."""
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_a_file(path)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise _not_a_file(path) from error
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.", path=str(path)) from error
    if len(data) > limit:
        raise LedgerError(f"{path} has more than {limit:,} bytes; no such part of a log can.", path=str(path))
    return data


def _not_a_file(path: Path) -> LedgerError:
    return LedgerError(f"{path} is a link, a folder or a device; expected a file.", path=str(path))
