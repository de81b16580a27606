"""Two checkpoints of one log, compared: does one history hold both, or did the log say two things?

Two parties that each keep the last checkpoint that they saw find a split view by exchanging them. Two signed
checkpoints of one size with two roots prove it to anybody who has the log's public key, without the log's help.

Steps of `compare_checkpoints`:
  1. Both are signed by a known key of their own origin, and of one origin.
  2. Sizes are equal: the roots are equal, or it is equivocation.
  3. Sizes differ: the log, as the caller has it, must be at least as large as the larger one and have both roots. A
     size at which the log has another root is equivocation too, with the log's own checkpoint as the second witness.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from millcert.errors import ConsistencyError, InconclusiveError, LedgerError
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, verify_checkpoint
from millcert.provenance.merkle import EMPTY_ROOT, NodeReader, consistency_proof, tree_root, verify_consistency


@dataclass(frozen=True)
class LogView:
    """A log as the caller has it: a verified checkpoint, and a reader of its tree's nodes."""

    checkpoint: Checkpoint
    read_node: NodeReader


@dataclass(frozen=True)
class Consistent:
    """Two checkpoints of one history. proof: what `merkle.verify_consistency` takes, empty for equal sizes."""

    older: Checkpoint
    newer: Checkpoint
    proof: tuple[bytes, ...]


class EquivocationError(ConsistencyError):
    """A log signed two histories. `sizes` and `roots` (hex) name the two statements; keep both checkpoints."""

    code = "integrity.equivocation"


def compare_checkpoints(
    first: bytes, second: bytes, vkeys: Sequence[VerifierKey], view: LogView | None = None
) -> Consistent:
    """Return in what order one history holds two signed checkpoints, or raise.

    Args:
        first: a signed checkpoint; which of the two is older does not matter.
        second: another.
        vkeys: the log's public keys.
        view: the log; needed only where the sizes differ.

    Raises:
        EquivocationError: the log signed two histories.
        LedgerError: no checkpoints, or of two logs.
        SignatureError: a checkpoint is not signed by a known key of its origin.
        InconclusiveError: the sizes differ, and there is no log, or too small a one, to compare them in.
    """
    parsed = [verify_checkpoint(note, vkeys) for note in (first, second)]  # 1
    older, newer = sorted(parsed, key=lambda one: one.size)
    if older.origin != newer.origin:
        raise LedgerError(
            f"The checkpoints are of two logs, {parsed[0].origin!r} and {parsed[1].origin!r}.",
            hint="Give two checkpoints of one log.",
        )
    if older.size == newer.size:  # 2
        if older.root != newer.root:
            raise _equivocation(older, newer)
        return Consistent(older, newer, ())
    if older.size == 0:
        return Consistent(older, newer, ())  # every log extends the empty one
    if view is None or view.checkpoint.size < newer.size:  # 3
        has = "no log is given" if view is None else f"the log given has {view.checkpoint.size} entries"
        raise InconclusiveError(
            f"Checkpoints of {older.size} and {newer.size} entries can be compared only in the log, and {has}.",
            hint="Give the ledger (--state DIR), or its tiles (--tiles DIR), with at least the newer one's entries.",
        )
    if view.checkpoint.origin != older.origin:
        raise LedgerError(f"The log given is {view.checkpoint.origin!r}, not {older.origin!r}.")
    for one in (older, newer):
        root = tree_root(one.size, view.read_node) if one.size else EMPTY_ROOT
        if root != one.root:
            held = Checkpoint(one.origin, one.size, root)
            raise _equivocation(one, held, held_by=view.checkpoint)
    proof = consistency_proof(older.size, newer.size, view.read_node)
    verify_consistency(older.size, newer.size, proof, older.root, newer.root)
    return Consistent(older, newer, proof)


def _equivocation(one: Checkpoint, other: Checkpoint, held_by: Checkpoint | None = None) -> EquivocationError:
    says = "another signed checkpoint" if held_by is None else f"the log signed at {held_by.size} entries"
    return EquivocationError(
        f"The log {one.origin} showed two histories: at {one.size} entries a signed checkpoint has the root "
        f"{one.root.hex()}, {says} has {other.root.hex()}.",
        hint="Keep both checkpoints: together they prove it to anybody who has the log's public key. Trust neither.",
        origin=one.origin,
        sizes=(one.size, other.size),
        roots=(one.root.hex(), other.root.hex()),
    )
