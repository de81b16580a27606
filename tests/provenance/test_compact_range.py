"""Runs of leaves, joined in order, are the tree that one reader builds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import UsageError
from millcert.provenance.compact_range import RangeBuilder
from millcert.provenance.merkle import TreeBuilder, leaf_hash, root_of


@given(st.integers(0, 300), st.lists(st.integers(0, 300), max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_runs_cut_anywhere_join_to_the_tree_of_one_reader(size: int, cuts: list[int], steps: list[int]) -> None:
    """RFC 6962, 2.1: the tree depends on the leaves alone, wherever runs and batches end."""
    leaves = [leaf_hash(number.to_bytes(2, "big")) for number in range(size)]
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    tree = TreeBuilder()

    for first, end in pairwise(edges):
        run, at, turn = RangeBuilder(first), first, 0
        while at < end:
            step = min(steps[turn % len(steps)], end - at)
            run.extend(leaves[at : at + step])
            at, turn = at + step, turn + 1
        assert sum(1 << node.height for node in run.subtrees()) == end - first
        assert len(run.subtrees()) <= 2 * max(1, (end - first).bit_length())
        for node in run.subtrees():
            tree.append_subtree(*node)

    assert tree.size == size
    assert tree.root() == root_of(leaves)


def test_a_subtree_that_would_begin_inside_another_is_refused() -> None:
    tree = TreeBuilder()
    tree.append(leaf_hash(b"a"))

    with pytest.raises(UsageError, match="cannot begin at leaf 1"):
        tree.append_subtree(1, leaf_hash(b"b"))
