"""Trees in files have the roots and proofs of RFC 6962, whatever their size and the order of writing."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError, UsageError
from millcert.provenance.merkle import EMPTY_ROOT, root_of, verify_inclusion
from millcert.provenance.shard_tree import TreeFiles, TreeWriter, level_sizes


def leaves_of(count: int, seed: int = 0) -> list[bytes]:
    return [hashlib.sha256(b"%d/%d" % (seed, at)).digest() for at in range(count)]


def write(folder: Path, trees: list[list[bytes]], step: int = 100) -> list[tuple[int, bytes]]:
    ends = []
    with TreeWriter(lambda level: (folder / f"t.{level}").open("wb")) as writer:
        for leaves in trees:
            for start in range(0, len(leaves), step):
                writer.extend(b"".join(leaves[start : start + step]))
            ends.append(writer.end_tree())
    return ends


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 300, 511, 512, 513, 65_535, 65_536, 65_837])
def test_the_root_is_that_of_rfc_6962_at_every_border_of_tiles(size: int, tmp_path: Path) -> None:
    leaves = leaves_of(size)
    expected = root_of(leaves)

    assert write(tmp_path, [leaves], step=10_000) == [(size, expected)]
    with TreeFiles(tmp_path, "t") as files:
        tree = files.tree(size)
        assert tree.root() == expected
        for index in sorted({0, size // 3, size - 1} & set(range(size))):
            verify_inclusion(leaves[index], index, size, tree.path(index), expected)
            assert tree.leaf(index) == leaves[index]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=4), st.integers(1, 600))
def test_trees_one_behind_another_do_not_disturb_each_other(sizes: list[int], step: int) -> None:
    """A tree's root and proofs depend on its own leaves alone, not on what is before it, nor on the batches."""
    import tempfile

    trees = [leaves_of(size, seed) for seed, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ends = write(folder, trees, step)
        with TreeFiles(folder, "t") as files:
            bases = [0] * 8
            for leaves, (size, root) in zip(trees, ends, strict=True):
                assert (size, root) == (len(leaves), root_of(leaves))
                if size:
                    tree = files.tree(size, bases)
                    verify_inclusion(leaves[-1], size - 1, size, tree.path(size - 1), root)
                bases = [before + own for before, own in zip(bases, level_sizes(size), strict=True)]


def test_an_empty_tree_has_the_empty_root_and_no_leaf(tmp_path: Path) -> None:
    assert write(tmp_path, [[]]) == [(0, EMPTY_ROOT)]
    with TreeFiles(tmp_path, "t") as files, pytest.raises(UsageError):
        files.tree(0).path(0)


def test_a_missing_or_short_file_is_an_error_and_no_proof(tmp_path: Path) -> None:
    write(tmp_path, [leaves_of(600)])
    (tmp_path / "t.0").write_bytes((tmp_path / "t.0").read_bytes()[: 590 * 32])
    with TreeFiles(tmp_path, "t") as files:
        with pytest.raises(LedgerError, match="missing"):
            files.tree(600).leaf(595)
        with pytest.raises(LedgerError):
            files.tree(600).path(599)
    (tmp_path / "t.0").unlink()
    with TreeFiles(tmp_path, "t") as files, pytest.raises(LedgerError, match="cannot be read"):
        files.tree(600).path(0)
