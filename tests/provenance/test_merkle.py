"""The Merkle tree against the vectors of another implementation, and against RFC 6962 read literally."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from millcert.errors import ConsistencyError, InclusionError, UsageError
from millcert.provenance.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    NodeReader,
    TreeBuilder,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    perfect_root,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "merkle"


def vector_files(kind: str) -> list[Path]:
    return sorted((VECTORS / kind).rglob("*.json"))


def vector_name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def decode(text: str) -> bytes:
    return base64.b64decode(text or "")


def literal_root(hashes: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 writes it, over leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(literal_root(hashes[:split]), literal_root(hashes[split:]))


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(index.to_bytes(8, "big")) for index in range(count)]


def reader_of(hashes: list[bytes]) -> NodeReader:
    def read_node(level: int, index: int) -> bytes:
        subtree = hashes[index << level : (index + 1) << level]
        assert len(subtree) == 1 << level, "only perfect subtrees may be read"
        return literal_root(subtree)

    return read_node


@pytest.mark.data
@pytest.mark.skipif(not VECTORS.is_dir(), reason="../shared/data/merkle is not there")
def test_all_98_vectors_are_there() -> None:
    found = len(vector_files("inclusion")) + len(vector_files("consistency"))

    assert found == 98


@pytest.mark.data
@pytest.mark.parametrize("path", vector_files("inclusion"), ids=vector_name)
def test_an_inclusion_vector_is_judged_as_its_authors_say(path: Path) -> None:
    vector: dict[str, Any] = json.loads(path.read_text())
    proof = [decode(text) for text in vector["proof"] or []]
    arguments = (decode(vector["leafHash"]), vector["leafIdx"], vector["treeSize"], proof, decode(vector["root"]))

    if vector["wantErr"]:
        with pytest.raises(InclusionError):
            verify_inclusion(*arguments)
    else:
        verify_inclusion(*arguments)


@pytest.mark.data
@pytest.mark.parametrize("path", vector_files("consistency"), ids=vector_name)
def test_a_consistency_vector_is_judged_as_its_authors_say(path: Path) -> None:
    vector: dict[str, Any] = json.loads(path.read_text())
    proof = [decode(text) for text in vector["proof"] or []]
    arguments = (vector["size1"], vector["size2"], proof, decode(vector["root1"]), decode(vector["root2"]))

    if vector["wantErr"]:
        with pytest.raises(ConsistencyError):
            verify_consistency(*arguments)
    else:
        verify_consistency(*arguments)


def test_the_empty_tree_has_the_root_of_the_rfc() -> None:
    assert root_of([]) == EMPTY_ROOT == tree_root(0, reader_of([]))
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_leaf_never_hashes_like_the_node_above_it() -> None:
    """Rule 1: domain separation."""
    left, right = leaves(2)

    assert leaf_hash(left + right) != node_hash(left, right)


@settings(deadline=None)
@given(st.integers(0, 70))
def test_a_tree_built_leaf_by_leaf_has_the_root_of_the_rfc(count: int) -> None:
    """RFC 6962 2.1: MTH(D[n]) = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n])), k the largest power of two below n."""
    hashes = leaves(count)
    tree = TreeBuilder()

    roots = []
    for one in hashes:
        tree.append(one)
        roots.append(tree.root())

    assert roots == [literal_root(hashes[: size + 1]) for size in range(count)]
    assert tree.size == count
    assert root_of(hashes) == literal_root(hashes) == tree_root(count, reader_of(hashes))


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=6))
def test_a_tree_built_in_blocks_is_the_tree_built_leaf_by_leaf(blocks: list[int]) -> None:
    hashes = leaves(sum(blocks))
    tree = TreeBuilder()

    start = 0
    for count in blocks:
        tree.extend(iter(hashes[start : start + count]))
        start += count
        assert tree.root() == literal_root(hashes[:start])

    tree.append(b"x" * 32)
    assert (tree.size, tree.root()) == (start + 1, literal_root([*hashes, b"x" * 32]))


def test_a_builder_holds_one_hash_for_each_perfect_subtree() -> None:
    tree = TreeBuilder()
    tree.extend(leaves(1023))

    assert len(tree._peaks) == 10


@settings(deadline=None)
@given(st.data(), st.integers(1, 70))
def test_every_leaf_is_provable_and_only_at_its_index(data: st.DataObject, size: int) -> None:
    """RFC 6962 2.1.1: the audit path is the shortest list of nodes needed to compute the root."""
    hashes = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    elsewhere = data.draw(st.integers(-1, size))

    proof = inclusion_proof(index, size, reader_of(hashes))

    assert len(proof) <= size.bit_length()
    verify_inclusion(hashes[index], index, size, proof, literal_root(hashes))
    if elsewhere != index:
        with pytest.raises(InclusionError):
            verify_inclusion(hashes[index], elsewhere, size, proof, literal_root(hashes))


@settings(deadline=None)
@given(st.data(), st.integers(1, 70))
def test_every_older_tree_is_provably_a_prefix(data: st.DataObject, new_size: int) -> None:
    """RFC 6962 2.1.2: a consistency proof verifies that the first m leaves are equal in both trees."""
    hashes = leaves(new_size)
    old_size = data.draw(st.integers(1, new_size))

    proof = consistency_proof(old_size, new_size, reader_of(hashes))

    verify_consistency(old_size, new_size, proof, literal_root(hashes[:old_size]), literal_root(hashes))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(2, 40))
def test_any_change_to_an_inclusion_proof_is_refused(data: st.DataObject, size: int) -> None:
    """Rule 2: a proof verifies only if it uses every hash it carries, in one way."""
    hashes = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof = list(inclusion_proof(index, size, reader_of(hashes)))

    changed = mutated(data, proof)

    with pytest.raises(InclusionError):
        verify_inclusion(hashes[index], index, size, changed, literal_root(hashes))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(2, 40))
def test_any_change_to_a_consistency_proof_is_refused(data: st.DataObject, new_size: int) -> None:
    """Rule 2, for consistency."""
    hashes = leaves(new_size)
    old_size = data.draw(st.integers(1, new_size - 1))
    proof = list(consistency_proof(old_size, new_size, reader_of(hashes)))

    changed = mutated(data, proof)

    with pytest.raises(ConsistencyError):
        verify_consistency(old_size, new_size, changed, literal_root(hashes[:old_size]), literal_root(hashes))


def mutated(data: st.DataObject, proof: list[bytes]) -> list[bytes]:
    kind = data.draw(st.sampled_from(["flip", "drop", "add", "repeat", "swap", "shorten", "flood"]))
    place = data.draw(st.integers(0, len(proof) - 1))
    if kind == "flip":
        bit = data.draw(st.integers(0, 255))
        one = bytearray(proof[place])
        one[bit // 8] ^= 1 << bit % 8
        return [*proof[:place], bytes(one), *proof[place + 1 :]]
    if kind == "drop":
        return [*proof[:place], *proof[place + 1 :]]
    if kind == "add":
        return [*proof[:place], bytes(32), *proof[place:]]
    if kind == "repeat":
        return [*proof, proof[-1]]
    if kind == "swap":
        other = data.draw(st.integers(0, len(proof) - 1))
        assume(proof[place] != proof[other])
        swapped = list(proof)
        swapped[place], swapped[other] = swapped[other], swapped[place]
        return swapped
    if kind == "shorten":
        return [*proof[:place], proof[place][:-1], *proof[place + 1 :]]
    return proof + [bytes(32)] * MAX_PROOF_HASHES


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_a_rewritten_leaf_breaks_consistency(old_size: int, more: int) -> None:
    hashes = leaves(old_size)
    rewritten = [leaf_hash(b"rewritten"), *leaves(old_size + more)[1:]]
    proof = consistency_proof(old_size, old_size + more, reader_of(rewritten))

    with pytest.raises(ConsistencyError):
        verify_consistency(old_size, old_size + more, proof, literal_root(hashes), literal_root(rewritten))


@pytest.mark.parametrize(("old_size", "new_size"), [(0, 0), (0, 3), (4, 3), (-1, 3)])
def test_a_consistency_proof_that_would_show_nothing_is_refused(old_size: int, new_size: int) -> None:
    """Rule 3."""
    with pytest.raises(ConsistencyError):
        verify_consistency(old_size, new_size, [], EMPTY_ROOT, EMPTY_ROOT)
    with pytest.raises(UsageError):
        consistency_proof(old_size, new_size, reader_of(leaves(3)))


@pytest.mark.parametrize("index", [-1, 3, 4])
def test_no_proof_is_made_for_a_leaf_outside_the_tree(index: int) -> None:
    with pytest.raises(UsageError):
        inclusion_proof(index, 3, reader_of(leaves(3)))


def test_equal_sizes_with_different_roots_are_a_fork() -> None:
    with pytest.raises(ConsistencyError, match="rewritten"):
        verify_consistency(3, 3, [], root_of(leaves(3)), leaf_hash(b"fork"))


@pytest.mark.parametrize("count", [1, 2, 4, 64, 256])
def test_the_root_of_a_perfect_tree_is_the_root_of_the_tree(count: int) -> None:
    hashes = [leaf_hash(bytes([number])) for number in range(count)]

    assert perfect_root(b"".join(hashes)) == root_of(hashes)


@pytest.mark.parametrize("size", [0, 31, 33, 96])
def test_a_tree_that_is_not_perfect_has_no_such_root(size: int) -> None:
    with pytest.raises(UsageError):
        perfect_root(bytes(size))
