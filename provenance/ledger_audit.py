"""The audit of a whole ledger: everything is recomputed, and what was changed is named by its index.

Steps of `audit`:
  1. The newest checkpoint is signed by a known key of the ledger's origin, and says how many entries there are.
  2. Each entry, 0 to size - 1, is there, in its one form, under its own lookup words, and hashes to its place in the
     level-0 tile; nothing is there beyond.
  3. Each tile above is made of the tiles below; no tile is missing, no tile is extra.
  4. Each stored checkpoint is signed, and its root is the root of the tree at its size.
  5. Each checkpoint seen before is signed, is not larger than the ledger (rollback), and has the root of the tree at
     its size (fork).
The caller owes: keys from its own configuration, and checkpoints that were kept where the ledger's keeper cannot write.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from millcert.errors import ConsistencyError, LedgerError, MillcertError, RollbackError
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, verify_checkpoint
from millcert.provenance.ledger_contract import Row, Snapshot
from millcert.provenance.ledger_entry import parse_entry
from millcert.provenance.merkle import HASH_BYTES, TreeBuilder, leaf_hash, root_of, tree_root
from millcert.provenance.tiles import TILE_WIDTH, node_reader, split_tile, tile_widths

#: More faults than this are counted, not listed.
MAX_FAULTS = 20

_PAGE = 256
_FIRST_POSSIBLE_INDEX = -(2**63)


@dataclass(frozen=True)
class LedgerReport:
    """What a whole, unchanged ledger looks like.

    origin: the ledger's name.
    size: number of entries.
    root: root of the tree, 32 bytes.
    checkpoint: the newest signed checkpoint.
    checkpoints: how many signed checkpoints were verified.
    compared_sizes: sizes of the checkpoints seen before that the ledger was compared with.
    """

    origin: str
    size: int
    root: bytes
    checkpoint: bytes
    checkpoints: int
    compared_sizes: tuple[int, ...]


@dataclass
class _Faults:
    """Faults found so far; only as many are kept as are shown."""

    shown: list[str] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, text: str, index: int | None = None) -> None:
        self.count += 1
        if len(self.shown) < MAX_FAULTS:
            self.shown.append(text)
            if index is not None:
                self.indexes.append(index)

    def raise_if_any(self, origin: str) -> None:
        if not self.count:
            return
        more = f" and {self.count - len(self.shown)} more" if self.count > len(self.shown) else ""
        raise LedgerError(
            f"The ledger {origin} was changed: {'; '.join(self.shown)}{more}.",
            hint="Keep this copy as evidence, restore the newest whole copy, and find out who could write the file.",
            origin=origin,
            index=self.indexes[0] if self.indexes else None,
            indexes=tuple(self.indexes),
            faults=tuple(self.shown),
        )


def audit(
    snapshot: Snapshot, origin: str, vkeys: Sequence[VerifierKey], last_seen: Sequence[bytes] = ()
) -> LedgerReport:
    """Recompute a ledger from its entries and return what it is, or raise with everything that was changed.

    Args:
        snapshot: one state of the store.
        origin: the ledger's name.
        vkeys: its public keys.
        last_seen: signed checkpoints seen before, any number.

    Raises:
        LedgerError: an entry, tile or checkpoint was changed, added or taken away; `index` is the first entry's.
        SignatureError: the newest checkpoint, or one seen before, is not signed by a known key.
        RollbackError: the ledger is smaller than a checkpoint seen before.
        ConsistencyError: it has another history than a checkpoint seen before.

    Cost: about 30 microseconds an entry; memory for one page, and 32 bytes for every 256 entries.
    """
    newest = require_newest(snapshot, origin, vkeys)  # 1
    faults = _Faults()
    checkpoints = _audit_tree(snapshot, newest, vkeys, faults)
    faults.raise_if_any(origin)
    compared = tuple(compare_with_seen(snapshot, newest, origin, vkeys, note) for note in last_seen)  # 5
    stored = snapshot.newest_checkpoint()
    assert stored is not None  # `require_newest` read it in the same snapshot
    return LedgerReport(origin, newest.size, newest.root, stored[1], checkpoints, compared)


def require_newest(snapshot: Snapshot, origin: str, vkeys: Sequence[VerifierKey]) -> Checkpoint:
    """Return the newest checkpoint, verified; it must be of this ledger and of the size that it is stored under.

    Raises:
        LedgerError: there is none, or it is of another ledger or size.
        SignatureError: no known key signed it.
    """
    stored = snapshot.newest_checkpoint()
    if stored is None:
        raise LedgerError(f"The ledger {origin} has no checkpoint.", hint="Restore the ledger from its newest copy.")
    return verify_stored(stored, origin, vkeys)


def compare_with_seen(
    snapshot: Snapshot, newest: Checkpoint, origin: str, vkeys: Sequence[VerifierKey], note: bytes
) -> int:
    """Check that the ledger, at its newest checkpoint, extends one that was seen before; return the seen size.

    Raises:
        LedgerError: what was seen is no checkpoint of this ledger.
        SignatureError: no known key signed what was seen.
        RollbackError, ConsistencyError: see `audit`.

    Cost: log2(size) tiles.
    """
    seen = verify_checkpoint(note, vkeys)
    if seen.origin != origin:
        raise LedgerError(
            f"The checkpoint seen before is of the ledger {seen.origin!r}, not of {origin!r}.",
            hint="Give the checkpoint of this ledger.",
        )
    if seen.size > newest.size:
        raise RollbackError(
            f"The ledger {origin} has {newest.size} entries, but a signed checkpoint with {seen.size} was seen before.",
            hint="It was restored from an old copy: restore the newest one. Nothing may be appended until then.",
            expected=seen.size,
            actual=newest.size,
        )
    root = tree_root(seen.size, node_reader(snapshot.tile))
    if root != seen.root:
        raise ConsistencyError(
            f"The ledger {origin} has another history: at {seen.size} entries its root is {root.hex()}, "
            f"but a signed checkpoint seen before says {seen.root.hex()}.",
            hint="Two ledgers were signed with one key. Keep both as evidence and find out which entries differ.",
            expected=seen.root.hex(),
            actual=root.hex(),
        )
    return seen.size


def verify_stored(stored: tuple[int, bytes], origin: str, vkeys: Sequence[VerifierKey]) -> Checkpoint:
    """Return a checkpoint as stored, (size, note), verified; it must be of this ledger and of that size.

    Raises:
        LedgerError: it is of another ledger or size.
        SignatureError: no known key signed it.
    """
    size, note = stored
    checkpoint = verify_checkpoint(note, vkeys)
    if (checkpoint.origin, checkpoint.size) != (origin, size):
        raise LedgerError(
            f"The checkpoint stored for {size} entries of {origin!r} is of {checkpoint.size} entries of "
            f"{checkpoint.origin!r}."
        )
    return checkpoint


def _audit_tree(snapshot: Snapshot, newest: Checkpoint, vkeys: Sequence[VerifierKey], faults: _Faults) -> int:
    """Steps 2 to 4 in one read of the entries; return how many checkpoints were verified."""
    tree = TreeBuilder()
    checkpoints = _CheckpointWalk(snapshot, newest, vkeys, faults)
    checkpoints.compare(tree)
    above: list[bytes] = []
    for start in range(0, newest.size, TILE_WIDTH):
        width = min(TILE_WIDTH, newest.size - start)
        hashes = _audit_page(snapshot, start, width, faults)  # 2
        for one in hashes:
            tree.append(one)
            checkpoints.compare(tree)  # 4
        if width == TILE_WIDTH:
            above.append(root_of(hashes))
    for row in snapshot.rows(_FIRST_POSSIBLE_INDEX, 1):
        if row.index < 0:
            faults.add(f"entry {row.index} is before the first entry", row.index)
    for row in snapshot.rows(newest.size, 1):
        faults.add(f"entry {row.index} is beyond the newest checkpoint of {newest.size} entries", row.index)
    _audit_upper_tiles(snapshot, newest.size, above, faults)  # 3
    return checkpoints.verified


def _audit_page(snapshot: Snapshot, start: int, width: int, faults: _Faults) -> list[bytes]:
    """Compare the entries of one level-0 tile with the tile; return the hashes that the tree is built of."""
    number = start // TILE_WIDTH
    tile = split_tile(snapshot.tile(0, number) or b"")
    tile_is_whole = len(tile) == width and len(tile[-1]) == HASH_BYTES
    if not tile_is_whole:
        faults.add(f"tile {number} of level 0 is missing or has another number of hashes than entries")
    rows = {row.index: row for row in snapshot.rows(start, width) if row.index < start + width}
    hashes: list[bytes] = []
    for index in range(start, start + width):
        row = rows.get(index)
        expected = tile[index - start] if tile_is_whole else None
        fault = "was deleted" if row is None else _row_fault(row, expected)
        if fault is not None:
            faults.add(f"entry {index} {fault}", index)
        actual = leaf_hash(row.leaf) if row is not None else bytes(HASH_BYTES)
        hashes.append(actual if expected is None else expected)
    return hashes


def _row_fault(row: Row, expected: bytes | None) -> str | None:
    actual = leaf_hash(row.leaf)
    if actual != row.leaf_hash or (expected is not None and actual != expected):
        return "was edited"
    try:
        entry = parse_entry(row.leaf)
    except LedgerError as error:
        return f"is malformed ({error.message})"
    if (entry.kind, entry.subject) != (row.kind, row.subject):
        return "is filed under another kind or subject than its own"
    return None


def _audit_upper_tiles(snapshot: Snapshot, size: int, hashes: list[bytes], faults: _Faults) -> None:
    widths = tile_widths(size)
    expected_count = sum(-(-width // TILE_WIDTH) for width in widths.values())
    for level in list(widths)[1:]:
        above: list[bytes] = []
        for start in range(0, len(hashes), TILE_WIDTH):
            part = hashes[start : start + TILE_WIDTH]
            if snapshot.tile(level, start // TILE_WIDTH) != b"".join(part):
                faults.add(f"tile {start // TILE_WIDTH} of level {level} is not made of the tiles below")
            if len(part) == TILE_WIDTH:
                above.append(root_of(part))
        hashes = above
    if snapshot.tile_count() != expected_count:
        faults.add(f"there are {snapshot.tile_count()} tiles; {size} entries have {expected_count}")


class _CheckpointWalk:
    """The stored checkpoints, smallest first, compared with a growing tree."""

    def __init__(self, snapshot: Snapshot, newest: Checkpoint, vkeys: Sequence[VerifierKey], faults: _Faults) -> None:
        self._snapshot, self._newest, self._vkeys, self._faults = snapshot, newest, vkeys, faults
        self._page = snapshot.checkpoints(0, _PAGE)
        self._place = 0
        self._matched = 0
        self._has_diverged = False
        self.verified = 0

    def compare(self, tree: TreeBuilder) -> None:
        """Verify the checkpoint of the tree's size, if there is one."""
        stored = self._next()
        if stored is None or stored[0] != tree.size:
            return
        self._place += 1
        try:
            checkpoint = verify_stored(stored, self._newest.origin, self._vkeys)
        except MillcertError as error:
            self._faults.add(f"the checkpoint of {stored[0]} entries does not verify ({error.message})")
            return
        self.verified += 1
        if checkpoint.root == tree.root():
            self._matched = tree.size
        elif not self._has_diverged:
            self._has_diverged = True  # every later root differs too
            self._faults.add(
                f"the tree of {tree.size} entries has another root than its checkpoint, "
                f"so one of entries {self._matched} to {tree.size - 1} was changed together with its tile"
            )

    def _next(self) -> tuple[int, bytes] | None:
        if self._place == len(self._page) and self._page:
            self._page = self._snapshot.checkpoints(self._page[-1][0] + 1, _PAGE)
            self._place = 0
        return self._page[self._place] if self._place < len(self._page) else None
