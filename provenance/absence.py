"""Proof that a sample was not in a run: the two neighbours in the sorted index, and nothing between them.

Steps of `verify_absence`:
  1. The sample's key lies strictly between the keys of the neighbours.
  2. The neighbours' positions follow one another; a missing one means that the other is the first or the last record.
  3. Both are leaves of the index's tree, at these positions.
The caller owes: the index's root and size, from a logged `shard_roots` entry. What remains open: the ledger's keeper
states that the index is sorted and complete; who holds the data can recompute it (docs/formats/sample-leaves.md).
"""

from dataclasses import dataclass

from millcert.errors import InclusionError
from millcert.provenance.merkle import EMPTY_ROOT, verify_inclusion
from millcert.provenance.sample_leaf import index_key, index_leaf_hash


@dataclass(frozen=True)
class Neighbour:
    """A record of the index beside the gap.

    position: in the index. key: 32 bytes. salt: of its row. path: audit path in the index's tree.
    """

    position: int
    key: bytes
    salt: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Absence:
    """The gap where a sample's key would be. left is None before the first record, right behind the last."""

    digest: bytes
    index_salt: bytes
    left: Neighbour | None
    right: Neighbour | None


def verify_absence(absence: Absence, *, size: int, root: bytes) -> None:
    """Check that the sample with this digest is not in an index. Returns nothing, or raises.

    Args:
        absence: the proof.
        size: how many records the index has.
        root: of the index's tree.

    Raises:
        InclusionError: the proof does not show it; `reason` is `absence_order`, `absence_gap` or `absence_path`.
    """
    key, left, right = index_key(absence.index_salt, absence.digest), absence.left, absence.right
    if (left is not None and left.key >= key) or (right is not None and right.key <= key):  # 1
        raise InclusionError("The sample's key is not between those of its neighbours.", reason="absence_order")
    first = -1 if left is None else left.position  # 2
    second = size if right is None else right.position
    if second != first + 1 or (size == 0 and root != EMPTY_ROOT):
        raise InclusionError("The neighbours are not beside one another in the index.", reason="absence_gap")
    for neighbour in (left, right):  # 3
        if neighbour is not None:
            hashed = index_leaf_hash(neighbour.salt, neighbour.key)
            try:
                verify_inclusion(hashed, neighbour.position, size, neighbour.path, root)
            except InclusionError as error:
                raise InclusionError(
                    f"Record {neighbour.position} is not in the run's index.", reason="absence_path"
                ) from error
