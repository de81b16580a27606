"""The Merkle tree of RFC 6962: hashes, roots, proofs, and the verification of proofs. Standard library only.

Rules this module keeps:
  1. A leaf and an inner node never hash alike: leaves are prefixed with 0x00, inner nodes with 0x01.
  2. A proof verifies only if it uses every hash it carries, in one way: no hash may be missing, added or reordered.
  3. A proof about nothing proves nothing: index >= size, and consistency from size 0, are refused.

Sizes and indexes are in leaves; hashes are 32-byte SHA-256 digests.
Source: RFC 6962 section 2.1; the verification algorithms are those of RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

from millcert.errors import ConsistencyError, InclusionError, UsageError

HASH_BYTES = 32

#: The root of the tree without leaves: SHA-256 of nothing.
EMPTY_ROOT = hashlib.sha256(b"").digest()

#: Longest proof that can verify: trees have fewer than 2**63 leaves, and a consistency proof has one hash more.
MAX_PROOF_HASHES = 64

#: `read_node(level, index)` returns the root of the perfect subtree over leaves [index << level, (index + 1) << level).
NodeReader = Callable[[int, int], bytes]


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf's data (RFC 6962: SHA-256(0x00 || data))."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962: SHA-256(0x01 || left || right))."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class TreeBuilder:
    """A tree that is only appended to, in memory O(log n): one root for each perfect subtree ("compact range").

    Cost: amortised two hashes a leaf; `root` at most log2(n) hashes.
    """

    def __init__(self) -> None:
        self._size = 0
        self._peaks: list[bytes] = []  # roots of perfect subtrees, largest first, as the bits of the size

    @property
    def size(self) -> int:
        """How many leaves were appended."""
        return self._size

    def append(self, hashed_leaf: bytes) -> None:
        """Append a leaf by its `leaf_hash`."""
        self._peaks.append(hashed_leaf)
        filled = self._size
        while filled & 1:
            right = self._peaks.pop()
            self._peaks[-1] = node_hash(self._peaks[-1], right)
            filled >>= 1
        self._size += 1

    def extend(self, hashed_leaves: Iterable[bytes]) -> None:
        """Append many leaves, in order; twice as fast a leaf as `append`, for memory of twice the leaves given.

        Layer by layer: the peak that ends a layer goes before what was added to it, pairs become the layer above, and
        one without a pair is the layer's new peak.
        """
        sha256, layer = hashlib.sha256, list(hashed_leaves)
        remaining, peaks = self._size, []
        self._size += len(layer)
        while layer:
            if remaining & 1:
                layer.insert(0, self._peaks.pop())
            if len(layer) & 1:
                peaks.append(layer.pop())
            pairs = iter(layer)
            layer = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            remaining >>= 1
        self._peaks += reversed(peaks)

    def append_subtree(self, height: int, root: bytes) -> None:
        """Append 2**height leaves at once, by the root of their subtree.

        Raises:
            UsageError: the tree has no room for a whole subtree of that height here.
        """
        if self._size % (1 << height):
            raise UsageError(f"A subtree of 2**{height} leaves cannot begin at leaf {self._size}.")
        self._peaks.append(root)
        filled = self._size >> height
        while filled & 1:
            right = self._peaks.pop()
            self._peaks[-1] = node_hash(self._peaks[-1], right)
            filled >>= 1
        self._size += 1 << height

    def root(self) -> bytes:
        """Return the root over all leaves so far; the tree may grow afterwards."""
        return _fold(self._peaks)


def root_of(leaf_hashes: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes (not leaf data), in order; EMPTY_ROOT for none."""
    tree = TreeBuilder()
    tree.extend(leaf_hashes)
    return tree.root()


def perfect_root(hashes: bytes) -> bytes:
    """Return the root over a power of two of leaf or node hashes, concatenated: `root_of`, five times as fast.

    Raises:
        UsageError: the number of hashes is no power of two.
    """
    count, rest = divmod(len(hashes), HASH_BYTES)
    if rest or count.bit_count() != 1:
        raise UsageError(f"Expected 2**n hashes of {HASH_BYTES} bytes, got {len(hashes)} bytes.")
    sha256 = hashlib.sha256
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH_BYTES]).digest() for at in pairs])
    return hashes


def tree_root(size: int, read_node: NodeReader) -> bytes:
    """Return the root of the first `size` leaves of a stored tree; reads at most log2(size) + 1 nodes."""
    return _range_root(0, size, read_node)


def inclusion_proof(index: int, size: int, read_node: NodeReader) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index` in the tree of the first `size` leaves, from the leaf upward.

    Raises:
        UsageError: the index is not in the tree.
    """
    if not 0 <= index < size:
        raise UsageError(
            f"Leaf {index} is not in a tree of {size} leaves.",
            hint="Indexes start at 0 and end below the size.",
            index=index,
            size=size,
        )
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_root(middle, end, read_node))
            end = middle
        else:
            path.append(_range_root(start, middle, read_node))
            start = middle
    return tuple(reversed(path))


def consistency_proof(old_size: int, new_size: int, read_node: NodeReader) -> tuple[bytes, ...]:
    """Return the proof that the tree of `new_size` leaves starts with the tree of `old_size` leaves.

    Raises:
        UsageError: the sizes are not 0 < old_size <= new_size; an empty tree is consistent with every tree.
    """
    if not 0 < old_size <= new_size:
        raise UsageError(
            f"Expected 0 < old size <= new size, got {old_size} and {new_size}.",
            hint="Give the smaller checkpoint first; every tree extends the empty one, so that needs no proof.",
            old_size=old_size,
            new_size=new_size,
        )
    path: list[bytes] = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_range_root(middle, end, read_node))
            end = middle
        else:
            path.append(_range_root(start, middle, read_node))
            start = middle
    if start > 0:  # else the last subtree is the whole old tree, whose root the verifier has
        path.append(_range_root(start, end, read_node))
    return tuple(reversed(path))


def verify_inclusion(hashed_leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf is at `index` of the tree with `size` leaves and this root. Returns nothing, or raises.

    Args:
        hashed_leaf: `leaf_hash` of the leaf's data.
        index: place of the leaf, 0 <= index < size.
        size: how many leaves the tree has.
        proof: the audit path, from the leaf upward.
        root: what a trusted checkpoint says.

    Raises:
        InclusionError: anything else than exactly the right path.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise InclusionError(f"Leaf {index} cannot be in a tree of {size} leaves.", index=index, size=size)
    if not _well_formed(proof, hashed_leaf, root):
        raise InclusionError(f"The inclusion proof of leaf {index} has a hash that is not 32 bytes.", index=index)
    position, last = index, size - 1
    computed = hashed_leaf
    for sibling in proof:
        if last == 0:
            raise InclusionError(f"The inclusion proof of leaf {index} is too long.", index=index, size=size)
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last != 0:
        raise InclusionError(f"The inclusion proof of leaf {index} is too short.", index=index, size=size)
    if not hmac.compare_digest(computed, root):
        raise InclusionError(
            f"The inclusion proof of leaf {index} leads to another root than that of the tree of {size} leaves.",
            hint="The entry, its index or the proof was changed.",
            index=index,
            size=size,
            expected=root.hex(),
            actual=computed.hex(),
        )


def verify_consistency(old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that the newer tree starts with the older one. Returns nothing, or raises.

    Raises:
        ConsistencyError: the proof does not show it; old_size 0 is refused because it would show nothing.

    Source: RFC 9162 section 2.1.4.2.
    """
    if not 0 < old_size <= new_size:
        raise ConsistencyError(
            f"No proof can lead from {old_size} to {new_size} leaves: expected 0 < old size <= new size.",
            old_size=old_size,
            new_size=new_size,
        )
    if not _well_formed(proof, old_root, new_root):
        raise ConsistencyError("The consistency proof has a hash that is not 32 bytes.")
    sizes = f"from {old_size} to {new_size} leaves"
    if old_size == new_size:
        if proof:
            raise ConsistencyError(f"The consistency proof {sizes} must be empty.", old_size=old_size)
        _require_root(old_root, new_root, sizes)
        return
    if not proof:
        raise ConsistencyError(f"The consistency proof {sizes} is empty.", old_size=old_size, new_size=new_size)
    is_perfect = old_size & (old_size - 1) == 0
    hashes = [old_root, *proof] if is_perfect else list(proof)
    computed_old, computed_new, left_over = _climb(old_size - 1, new_size - 1, hashes)
    if left_over != 0:
        raise ConsistencyError(
            f"The consistency proof {sizes} has too {'few' if left_over > 0 else 'many'} hashes.",
            old_size=old_size,
            new_size=new_size,
        )
    _require_root(computed_old, old_root, sizes)
    _require_root(computed_new, new_root, sizes)


def _climb(position: int, last: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes, int]:
    """Return both roots that the hashes lead to, and the levels left to climb (0 is right, -1 is too many hashes)."""
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return old, new, -1
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    return old, new, last


def _require_root(computed: bytes, root: bytes, sizes: str) -> None:
    if not hmac.compare_digest(computed, root):
        raise ConsistencyError(
            f"The consistency proof {sizes} does not lead to the roots of the two checkpoints.",
            hint="The newer tree does not extend the older one: history was rewritten.",
            expected=root.hex(),
            actual=computed.hex(),
        )


def _well_formed(proof: Sequence[bytes], *others: bytes) -> bool:
    return len(proof) <= MAX_PROOF_HASHES and all(len(one) == HASH_BYTES for one in (*proof, *others))


def _split(count: int) -> int:
    """Return the largest power of two below `count` (>= 2): how many leaves go left."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, end: int, read_node: NodeReader) -> bytes:
    """Return the root of leaves [start, end), where start is a multiple of the largest perfect subtree inside."""
    peaks: list[bytes] = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(read_node(level, start >> level))
        start += 1 << level
    return _fold(peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root
