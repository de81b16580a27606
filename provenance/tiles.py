"""Tiles: how the tree's hashes are kept, 256 to a tile, so that any proof reads few of them.

Tile n of level l holds the roots of perfect subtrees of 256**l leaves, numbers n * 256 to n * 256 + 255. Level 0 is the
leaf hashes. The last tile of a level may be partial; it grows at its end and never changes otherwise.

Source: C2SP tlog-tiles (height 8).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from millcert.errors import LedgerError
from millcert.provenance.merkle import HASH_BYTES, NodeReader, perfect_root

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT

#: `read_tile(level, n)` returns the stored hashes, concatenated; None if there is no such tile.
TileReader = Callable[[int, int], bytes | None]


def extend_tiles(size: int, leaf_hashes: Sequence[bytes], read_tile: TileReader) -> dict[tuple[int, int], bytes]:
    """Return the tiles, by (level, n), that change when leaves are appended to a tree of `size` leaves.

    Raises:
        LedgerError: a partial tile that must grow does not hold exactly the hashes of `size` leaves.

    Cost: about one hash a leaf; reads at most one tile a level.
    """
    written: dict[tuple[int, int], bytes] = {}
    level, first, hashes = 0, size, list(leaf_hashes)
    while hashes:
        above: list[bytes] = []
        done = 0
        while done < len(hashes):
            number, filled = divmod(first + done, TILE_WIDTH)
            fresh = hashes[done : done + TILE_WIDTH - filled]
            kept = _exact_tile(level, number, filled, read_tile) if filled else b""
            tile = kept + b"".join(fresh)
            written[level, number] = tile
            done += len(fresh)
            if len(tile) == TILE_WIDTH * HASH_BYTES:
                above.append(perfect_root(tile))
        level, first, hashes = level + 1, first // TILE_WIDTH, above
    return written


def node_reader(read_tile: TileReader) -> NodeReader:
    """Return a reader of any perfect subtree's root, for `merkle.inclusion_proof` and its like.

    The reader raises LedgerError where a tile is missing or too short. It keeps the few tiles that one proof reads, so
    make a new reader after a tile was written.
    """
    read = lru_cache(maxsize=16)(read_tile)

    def read_node(level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        number, offset = divmod(index << height, TILE_WIDTH)
        tile = read(tile_level, number) or b""
        part = tile[offset * HASH_BYTES : (offset + (1 << height)) * HASH_BYTES]
        if len(part) != HASH_BYTES << height:
            raise _damaged(tile_level, number)
        return perfect_root(part)

    return read_node


def split_tile(tile: bytes) -> list[bytes]:
    """Return the hashes of a tile, or of a part of it."""
    return [tile[start : start + HASH_BYTES] for start in range(0, len(tile), HASH_BYTES)]


def tile_widths(size: int) -> dict[int, int]:
    """Return how many hashes each level has in a tree of `size` leaves, for the levels that have any."""
    widths: dict[int, int] = {}
    level = 0
    while size:
        widths[level] = size
        level, size = level + 1, size // TILE_WIDTH
    return widths


def _exact_tile(level: int, number: int, width: int, read_tile: TileReader) -> bytes:
    tile = read_tile(level, number)
    if tile is None or len(tile) != width * HASH_BYTES:
        raise _damaged(level, number)
    return tile


def _damaged(level: int, number: int) -> LedgerError:
    return LedgerError(
        f"Tile {number} of level {level} of the ledger is missing or has another number of hashes than the tree.",
        hint="Run `millcert ledger verify` to see what was changed, and restore the ledger from its newest copy.",
        level=level,
        tile=number,
    )
