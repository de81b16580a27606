"""Tiles against a published log, byte for byte, and against RFC 6962 at every size near a tile's edge."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError
from millcert.provenance.checkpoint import parse_vkey, verify_checkpoint
from millcert.provenance.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from millcert.provenance.tiles import extend_tiles, node_reader, split_tile, tile_widths

TESSERA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tessera-log"
TESSERA_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"

EDGES = [0, 1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 70_000]
HASHES = [leaf_hash(number.to_bytes(4, "big")) for number in range(70_000)]


class Tiles:
    """A tile store in memory."""

    def __init__(self) -> None:
        self.stored: dict[tuple[int, int], bytes] = {}

    def read(self, level: int, number: int) -> bytes | None:
        return self.stored.get((level, number))

    def extend(self, size: int, hashes: list[bytes]) -> None:
        self.stored.update(extend_tiles(size, hashes, self.read))


def entries_of_bundle(data: bytes) -> list[bytes]:
    entries = []
    while data:
        length = int.from_bytes(data[:2], "big")
        entries.append(data[2 : 2 + length])
        data = data[2 + length :]
    return entries


@pytest.mark.data
@pytest.mark.skipif(not TESSERA.is_dir(), reason="../shared/data/tessera-log is not there")
def test_a_published_log_is_reproduced_byte_for_byte() -> None:
    """C2SP tlog-tiles: 15 sizes, each with its tile, its entry bundle and its signed root."""
    tiles = Tiles()
    bundle = entries_of_bundle((TESSERA / "tile/entries/000.p/15").read_bytes())

    for size in range(1, 16):
        tiles.extend(size - 1, [leaf_hash(bundle[size - 1])])

        checkpoint = verify_checkpoint((TESSERA / f"checkpoint.{size}").read_bytes(), [parse_vkey(TESSERA_KEY)])
        assert tree_root(size, node_reader(tiles.read)) == checkpoint.root
        assert tiles.read(0, 0) == (TESSERA / f"tile/0/000.p/{size}").read_bytes()
        assert entries_of_bundle((TESSERA / f"tile/entries/000.p/{size}").read_bytes()) == bundle[:size]


@pytest.mark.parametrize("size", EDGES)
def test_a_tree_in_tiles_has_the_root_of_the_tree(size: int) -> None:
    tiles = Tiles()

    tiles.extend(0, HASHES[:size])

    assert tree_root(size, node_reader(tiles.read)) == root_of(HASHES[:size])


def test_the_tiles_of_a_size_are_those_that_the_specification_counts() -> None:
    """C2SP tlog-tiles: a tree of size 70,000 has 273 full level 0 tiles, one of width 112, one full level 1 tile..."""
    tiles = Tiles()

    tiles.extend(0, HASHES)

    widths = {place: len(split_tile(hashes)) for place, hashes in tiles.stored.items()}
    assert [width for (level, _), width in sorted(widths.items()) if level == 0] == [256] * 273 + [112]
    assert [width for (level, _), width in sorted(widths.items()) if level == 1] == [256, 17]
    assert [width for (level, _), width in sorted(widths.items()) if level == 2] == [1]
    assert tile_widths(70_000) == {0: 70_000, 1: 273, 2: 1}
    assert tile_widths(256) == {0: 256, 1: 1}
    assert tile_widths(0) == {}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 300), max_size=6))
def test_appending_in_parts_gives_the_tiles_of_appending_at_once(parts: list[int]) -> None:
    grown, whole, size = Tiles(), Tiles(), 0

    for part in parts:
        grown.extend(size, HASHES[size : size + part])
        size += part
    whole.extend(0, HASHES[:size])

    assert grown.stored == whole.stored


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 1500))
def test_proofs_read_from_tiles_verify(data: st.DataObject, size: int) -> None:
    tiles = Tiles()
    tiles.extend(0, HASHES[:size])
    read_node, root = node_reader(tiles.read), root_of(HASHES[:size])
    index, old_size = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))

    verify_inclusion(HASHES[index], index, size, inclusion_proof(index, size, read_node), root)
    old_root = root_of(HASHES[:old_size])
    verify_consistency(old_size, size, consistency_proof(old_size, size, read_node), old_root, root)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 31, b"\x00" * 32, b"\x00" * 96])
def test_a_partial_tile_of_another_width_is_never_extended(damage: bytes) -> None:
    tiles = Tiles()
    tiles.extend(0, HASHES[:2])
    tiles.stored[0, 0] = damage

    with pytest.raises(LedgerError, match="Tile 0 of level 0"):
        tiles.extend(2, HASHES[2:3])


def test_a_missing_tile_is_named() -> None:
    tiles = Tiles()
    tiles.extend(0, HASHES[:600])
    del tiles.stored[0, 2]

    with pytest.raises(LedgerError, match="Tile 2 of level 0") as caught:
        tree_root(600, node_reader(tiles.read))

    assert caught.value.details == {"level": 0, "tile": 2}
    with pytest.raises(LedgerError, match="Tile 2 of level 0"):
        tiles.extend(600, HASHES[600:601])
