"""The audit of a log that lies in a folder (C2SP tlog-tiles): every entry, tile and the signed root are recomputed.

Steps of `audit_tiles`:
  1. The checkpoint is signed by a known key of its own origin.
  2. Each bundle has as many entries as the checkpoint's size says, and each hashes to its place in a level-0 tile.
  3. Each tile above is made of the tiles below.
  4. The root over all of it is the checkpoint's.
  5. Each checkpoint seen before is signed by a known key of that origin, is not larger (rollback), and has the root of
     this tree at its size (fork).
What an entry says is not looked at: any log's folder can be audited. The caller owes: keys from its own configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from millcert.errors import ConsistencyError, LedgerError, RollbackError
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, verify_checkpoint
from millcert.provenance.merkle import leaf_hash, root_of, tree_root
from millcert.provenance.tile_folder import TileFolder
from millcert.provenance.tiles import TILE_WIDTH, node_reader, split_tile


@dataclass(frozen=True)
class TileReport:
    """What a whole, unchanged folder of tiles looks like.

    checkpoint: the signed checkpoint, parsed. note: its bytes.
    tiles: how many hash tiles were recomputed. bundles: how many entry bundles.
    compared_sizes: sizes of the checkpoints seen before that the log was compared with.
    """

    checkpoint: Checkpoint
    note: bytes
    tiles: int
    bundles: int
    compared_sizes: tuple[int, ...]


def audit_tiles(
    folder: TileFolder, vkeys: Sequence[VerifierKey], seen: Sequence[bytes] = (), *, note: bytes | None = None
) -> TileReport:
    """Recompute a log from its entries and return what it is, or raise at the first part that was changed.

    Args:
        folder: where it lies; nobody needs to be trusted with it.
        vkeys: the log's public keys.
        seen: signed checkpoints seen before, any number.
        note: the signed checkpoint to audit under; the folder's own if None.

    Raises:
        LedgerError: an entry, a tile or the root is not what the checkpoint says; `index` is the first entry's.
        SignatureError: a checkpoint is not signed by a known key of its origin.
        RollbackError, ConsistencyError: the log is not what was seen of it before.
        UsageError: the folder has no checkpoint, or no key was given.

    Cost: about 2 microseconds an entry of 100 bytes; memory for one bundle (at most 16 MiB) and 32 bytes for every
    256 entries.
    """
    note = folder.checkpoint() if note is None else note
    checkpoint = verify_checkpoint(note, vkeys)  # 1
    hashes: list[bytes] = []
    tiles = bundles = 0
    for start in range(0, checkpoint.size, TILE_WIDTH):
        width = min(TILE_WIDTH, checkpoint.size - start)
        leaves = _leaf_hashes(folder, start // TILE_WIDTH, width)  # 2
        bundles, tiles = bundles + 1, tiles + 1
        if width == TILE_WIDTH:
            hashes.append(root_of(leaves))
    tiles += _audit_upper(folder, hashes)  # 3
    root = tree_root(checkpoint.size, node_reader(folder.tile_reader(checkpoint.size)))
    if root != checkpoint.root:  # 4
        raise LedgerError(
            f"The log in {folder.path} has the root {root.hex()}; its checkpoint of {checkpoint.size} entries says "
            f"{checkpoint.root.hex()}.",
            hint="The folder belongs to another checkpoint, or was changed as a whole. Keep it as evidence.",
            expected=checkpoint.root.hex(),
            actual=root.hex(),
        )
    compared = tuple(_compare(folder, checkpoint, vkeys, one) for one in seen)  # 5
    return TileReport(checkpoint, note, tiles, bundles, compared)


def _leaf_hashes(folder: TileFolder, number: int, width: int) -> list[bytes]:
    tile = split_tile(folder.tile(0, number, width))
    leaves = [leaf_hash(entry) for entry in folder.entries(number, width)]
    for place, (leaf, expected) in enumerate(zip(leaves, tile, strict=True)):
        if leaf != expected:
            index = number * TILE_WIDTH + place
            raise LedgerError(
                f"Entry {index} of the log in {folder.path} does not hash to its place in tile {number} of level 0.",
                hint="The entry or the tile was changed. Fetch both again from the log.",
                index=index,
                expected=expected.hex(),
                actual=leaf.hex(),
            )
    return leaves


def _audit_upper(folder: TileFolder, hashes: list[bytes]) -> int:
    """Compare the tiles above level 0 with the roots of those below; return how many there are."""
    level = count = 0
    while hashes:
        level += 1
        above: list[bytes] = []
        for start in range(0, len(hashes), TILE_WIDTH):
            part = hashes[start : start + TILE_WIDTH]
            if folder.tile(level, start // TILE_WIDTH, len(part)) != b"".join(part):
                raise LedgerError(
                    f"Tile {start // TILE_WIDTH} of level {level} in {folder.path} is not made of the tiles below.",
                    hint="The tile was changed. Fetch it again from the log.",
                    level=level,
                    tile=start // TILE_WIDTH,
                )
            count += 1
            if len(part) == TILE_WIDTH:
                above.append(root_of(part))
        hashes = above
    return count


def _compare(folder: TileFolder, checkpoint: Checkpoint, vkeys: Sequence[VerifierKey], note: bytes) -> int:
    seen = verify_checkpoint(note, vkeys)
    if seen.origin != checkpoint.origin:
        raise LedgerError(
            f"The checkpoint seen before is of the log {seen.origin!r}, not of {checkpoint.origin!r}.",
            hint="Give the checkpoint of this log.",
        )
    if seen.size > checkpoint.size:
        raise RollbackError(
            f"The log in {folder.path} has {checkpoint.size} entries, but a signed checkpoint with {seen.size} was "
            f"seen before.",
            hint="The folder is an old copy, or the log was rolled back: fetch the newest one.",
            expected=seen.size,
            actual=checkpoint.size,
        )
    root = tree_root(seen.size, node_reader(folder.tile_reader(checkpoint.size)))
    if root != seen.root:
        raise ConsistencyError(
            f"The log in {folder.path} has another history: at {seen.size} entries its root is {root.hex()}, but a "
            f"signed checkpoint seen before says {seen.root.hex()}.",
            hint="Two histories were signed with one key. Keep both checkpoints as evidence.",
            expected=seen.root.hex(),
            actual=root.hex(),
        )
    return seen.size
