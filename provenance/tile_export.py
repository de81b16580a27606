"""Export of the ledger as a folder of tiles (C2SP tlog-tiles), which any static file server can publish.

Rules this module keeps:
  1. The checkpoint is replaced last, in one step, after every part that it needs is on the disk: a reader sees the old
     log whole or the new log whole, also after a crash at any line.
  2. A second export reads and writes only what was added. A part that the published checkpoint covers is never written
     again; a folder that holds another log, or a newer one, is refused.
  3. What is written was compared with the signed checkpoint: an edited database is refused, not published.
  4. For every checkpoint that was signed since the last whole tile, the partial tiles and bundle are there, so that who
     holds such a checkpoint (in a certificate) can compare it.

Format: docs/formats/ledger-tiles.md.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from millcert.errors import LedgerError, RollbackError, StoreError, UsageError
from millcert.provenance.checkpoint import Checkpoint, parse_note, verify_checkpoint
from millcert.provenance.cosignature import merge_signatures, signature_lines
from millcert.provenance.keys import PUBLIC_MODE, sync_folder
from millcert.provenance.ledger_audit import compare_with_seen, require_newest
from millcert.provenance.ledger_contract import Snapshot
from millcert.provenance.ledger_log import Ledger
from millcert.provenance.merkle import HASH_BYTES, leaf_hash, root_of, tree_root
from millcert.provenance.tile_folder import (
    CHECKPOINT_NAME,
    TileFolder,
    bundle_path,
    join_bundle,
    partial_path,
    tile_path,
)
from millcert.provenance.tiles import TILE_WIDTH, node_reader, split_tile, tile_widths

_PAGE = 1000


@dataclass(frozen=True)
class Exported:
    """What an export did.

    origin: the ledger's name. size: entries that the published checkpoint covers. previous_size: those that the folder
    had before, None if it was no log. written: how many files are new. removed: superseded partial files.
    """

    origin: str
    size: int
    previous_size: int | None
    written: int
    removed: int


def export_tiles(
    ledger: Ledger, path: Path, *, drop_superseded: bool = False, cosigned: bytes | None = None
) -> Exported:
    """Write the ledger's tiles, entry bundles and newest checkpoint to a folder, made if it is not there.

    Args:
        ledger: open, with its public keys.
        path: the folder; empty, new, or an earlier export of this ledger.
        drop_superseded: remove partial tiles and bundles whose whole ones are there now. Clients may then have to
            fetch the whole ones; C2SP tlog-tiles allows it.
        cosigned: a checkpoint of this ledger with cosignatures; they are published too if it is the newest one.

    Raises:
        UsageError: the folder holds something that is no log.
        LedgerError: the folder holds another log, or the ledger is not what its newest checkpoint says.
        RollbackError, ConsistencyError: the folder holds a newer or another history of this ledger.
        SignatureError: the newest checkpoint, or the one in the folder, is not signed by a known key.
        StoreError: the folder cannot be written; the published checkpoint is still the old one, and a retry completes.

    Cost: about 0.02 ms of CPU a new entry (bench/tiles.py); memory for one bundle.
    """
    with _translated(path):
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path), ledger.reading() as snapshot:
            newest = require_newest(snapshot, ledger.origin, ledger.vkeys)
            _require_tree(snapshot, newest)
            previous = _published(path, ledger, snapshot, newest)
            writer = _Writer(path)
            _write_parts(snapshot, newest.size, previous or 0, writer)
            writer.settle()
            # If we crash before the next line, the folder is the old log with parts that nothing names yet.
            stored = snapshot.newest_checkpoint()
            assert stored is not None  # `require_newest` read it in the same snapshot
            _replace_checkpoint(path, stored[1], cosigned)
            removed = _drop_superseded(path, newest.size) if drop_superseded else 0
    return Exported(ledger.origin, newest.size, previous, writer.count, removed)


@dataclass
class _Writer:
    """New files below a folder; each appears whole, and all are on the disk after `settle`."""

    path: Path
    count: int = 0
    _files: list[Path] = field(default_factory=list)

    def write(self, name: str, data: bytes) -> None:
        target = self.path / name
        if target.is_file() and not target.is_symlink() and target.read_bytes() == data:
            return  # from an export that was interrupted
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_aside(target, data, is_durable=False)  # `settle` comes before anything names it
        self._files.append(target)
        self.count += 1
        if len(self._files) >= _PAGE:
            self.settle()

    def settle(self) -> None:
        """Make the files and their names durable."""
        folders: set[Path] = set()
        for file in self._files:
            sync_file(file)
            folders.update(one for one in file.parents if one == self.path or self.path in one.parents)
        for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
            sync_folder(folder)
        self._files.clear()


def sync_file(path: Path) -> None:
    """Make a file's bytes durable.

    Raises:
        OSError: it cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_tree(snapshot: Snapshot, newest: Checkpoint) -> None:
    root = tree_root(newest.size, node_reader(snapshot.tile))
    if root != newest.root:
        raise LedgerError(
            f"The ledger {newest.origin} has the root {root.hex()}; its newest checkpoint of {newest.size} entries "
            f"says {newest.root.hex()}.",
            hint="Nothing was exported. Run `millcert ledger verify` to see which entry was changed.",
            expected=newest.root.hex(),
            actual=root.hex(),
        )


def _published(path: Path, ledger: Ledger, snapshot: Snapshot, newest: Checkpoint) -> int | None:
    """Return the size of the log in the folder, if the ledger extends it; None if the folder is no log yet."""
    if not os.path.lexists(path / CHECKPOINT_NAME):
        strange = sorted(one.name for one in path.iterdir() if not one.name.startswith(".") and one.name != "tile")
        if strange:
            raise UsageError(
                f"{path} holds {strange[0]!r} and no checkpoint, so it is no export of a ledger.",
                hint="Give a new or empty folder.",
                path=str(path),
            )
        return None
    note = TileFolder(path).checkpoint()
    size = verify_checkpoint(note, ledger.vkeys).size
    if size > newest.size:
        raise RollbackError(
            f"{path} has {size} entries of {ledger.origin}, the ledger only {newest.size}.",
            hint="The ledger was restored from an old copy: restore the newest one. Nothing was exported.",
            expected=size,
            actual=newest.size,
        )
    return compare_with_seen(snapshot, newest, ledger.origin, ledger.vkeys, note)


def _write_parts(snapshot: Snapshot, size: int, done: int, writer: _Writer) -> None:
    """Write the tiles and bundles of a tree of `size` leaves that one of `done` leaves does not have."""
    for number in range(done // TILE_WIDTH, -(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - number * TILE_WIDTH)
        entries = _entries(snapshot, number, width)
        if width == TILE_WIDTH:
            writer.write(bundle_path(number), join_bundle(entries))
        else:
            for part in _signed_widths(snapshot, max(done, number * TILE_WIDTH), size):
                writer.write(partial_path(bundle_path(number), part), join_bundle(entries[:part]))
                writer.write(partial_path(tile_path(0, number), part), _tile(snapshot, 0, number, part))
    for level, width in tile_widths(size).items():
        filled = done // TILE_WIDTH**level
        for number in range(filled // TILE_WIDTH, -(-width // TILE_WIDTH)):
            part = min(TILE_WIDTH, width - number * TILE_WIDTH)
            tile = _tile(snapshot, level, number, part)
            if part == TILE_WIDTH:
                writer.write(tile_path(level, number), tile)
            elif level:  # some checkpoint was signed at almost each of these widths; they are small
                for smaller in range(max(1, filled - number * TILE_WIDTH), part + 1):
                    writer.write(partial_path(tile_path(level, number), smaller), tile[: smaller * HASH_BYTES])


def _entries(snapshot: Snapshot, number: int, width: int) -> list[bytes]:
    """Return the leaves of a bundle, if the tree has just these bytes."""
    start = number * TILE_WIDTH
    rows = {row.index: row.leaf for row in snapshot.rows(start, width)}
    hashes = split_tile(_tile(snapshot, 0, number, width))
    for place, expected in enumerate(hashes):
        leaf = rows.get(start + place)
        if leaf is None or leaf_hash(leaf) != expected:
            raise LedgerError(
                f"Entry {start + place} of the ledger is not what the tree says: it was edited, deleted or put in.",
                hint="Nothing was published. Run `millcert ledger verify` to see all that was changed.",
                index=start + place,
            )
    return [rows[start + place] for place in range(width)]


def _tile(snapshot: Snapshot, level: int, number: int, width: int) -> bytes:
    """Return the first `width` hashes of a tile; of a whole one, only if the tile above says the same.

    Partial tiles, and the topmost ones, are what the root was recomputed from (`_require_tree`).
    """
    data = (snapshot.tile(level, number) or b"")[: width * HASH_BYTES]
    is_sound = len(data) == width * HASH_BYTES
    if is_sound and width == TILE_WIDTH:
        above, place = divmod(number, TILE_WIDTH)
        parent = (snapshot.tile(level + 1, above) or b"")[place * HASH_BYTES : (place + 1) * HASH_BYTES]
        is_sound = root_of(split_tile(data)) == parent
    if not is_sound:
        raise LedgerError(
            f"Tile {number} of level {level} of the ledger is not what the tree says.",
            hint="Nothing was published. Run `millcert ledger verify` to see all that was changed.",
            level=level,
            tile=number,
        )
    return data


def _signed_widths(snapshot: Snapshot, start: int, size: int) -> Iterator[int]:
    """Yield the widths of the last level-0 tile for which a checkpoint above `start` was signed, smallest first."""
    for signed, _ in snapshot.checkpoints(start + 1, TILE_WIDTH):
        if signed <= size:
            yield signed % TILE_WIDTH


def _replace_checkpoint(path: Path, note: bytes, cosigned: bytes | None) -> None:
    """Publish a checkpoint with the cosignatures that were published of it before, and those that are new."""
    target = path / CHECKPOINT_NAME
    published = TileFolder(path).checkpoint() if os.path.lexists(target) else None
    for other in (published, cosigned):
        if other is not None and parse_note(other).text == parse_note(note).text:
            note = merge_signatures(note, signature_lines(other))
    if published == note:
        return
    _write_aside(target, note, is_durable=True)
    sync_folder(path)


def _write_aside(target: Path, data: bytes, *, is_durable: bool) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PUBLIC_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if is_durable:
                os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _drop_superseded(path: Path, size: int) -> int:
    """Remove partial files whose whole tile or bundle is there; return how many."""
    removed = 0
    for level in ("entries", *map(str, tile_widths(size))):
        for folder in sorted((path / "tile" / level).rglob("*.p")):
            if not folder.with_suffix("").is_file():
                continue
            for file in sorted(folder.iterdir()):
                file.unlink()
                removed += 1
            folder.rmdir()
    return removed


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one export at a time write to a folder; the lock ends with the process at the latest."""
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The export to {path} failed: {error.strerror or error}.",
            hint="The published checkpoint is still the one before. Check space and permissions, then export again.",
            path=str(path),
        ) from error
