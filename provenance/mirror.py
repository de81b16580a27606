"""A mirror: a ledger's database made from a folder of tiles, which answers and proves but can never append.

Rules this module keeps:
  1. Nothing enters the database that the folder's signed checkpoint does not cover: every entry is hashed, and the root
     over all of them is the signed one, or nothing is kept.
  2. A second import only adds. A folder that is older than the mirror (rollback) or has another history (fork) is
     refused, and the mirror stays as it was.
  3. A ledger's own state folder, the one with its private key, is never made a mirror.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from millcert.errors import ConsistencyError, LedgerError, RollbackError, StoreError, UsageError
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, parse_note, verify_checkpoint
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger import keep_vkey, open_store, vkey_path
from millcert.provenance.ledger_audit import require_newest
from millcert.provenance.ledger_contract import LedgerStore, Row, Transaction
from millcert.provenance.ledger_entry import parse_entry
from millcert.provenance.ledger_log import FORMAT
from millcert.provenance.merkle import leaf_hash, tree_root
from millcert.provenance.state import StateFolder
from millcert.provenance.tile_folder import TileFolder
from millcert.provenance.tiles import TILE_WIDTH, extend_tiles, node_reader


@dataclass(frozen=True)
class Imported:
    """What an import did. previous_size: entries that the mirror had before; None if it is new."""

    origin: str
    size: int
    previous_size: int | None


def import_tiles(
    folder: TileFolder, state: StateFolder, vkeys: Sequence[VerifierKey], *, url: str | None = None
) -> Imported:
    """Make or bring forward the mirror in a state folder from a folder of tiles.

    Args:
        folder: where the log lies; nobody needs to be trusted with it.
        state: of the mirror; made if it is not there. Its `ledger.vkey` gets the key that signed.
        vkeys: the log's public keys, from the caller's own configuration.
        url: where the mirror's database is, as `open_ledger` takes it; None means in the state folder.

    Raises:
        UsageError: the state folder is the ledger's own, or holds another ledger; the folder is no log.
        LedgerError: an entry is not what the checkpoint says, or is no entry of millcert; `index` names it.
        SignatureError: the checkpoint is not signed by a known key of its origin.
        RollbackError, ConsistencyError: the log is not what the mirror has of it.
        StoreError: the database or the folder failed; the mirror is as it was before.

    Cost: about 0.05 ms of CPU an entry that is new (bench/tiles.py).
    """
    if (state.path / "keys" / "ledger.key").exists():
        raise UsageError(
            f"{state.path} is the ledger's own state folder; a mirror lives in one of its own.",
            hint="Give --state another folder.",
            path=str(state.path),
        )
    note = folder.checkpoint()
    checkpoint = verify_checkpoint(note, vkeys)
    signatures = {(one.name, one.key_id) for one in parse_note(note).signatures}
    signer = next(key for key in vkeys if key.name == checkpoint.origin and (key.name, key.key_id) in signatures)
    try:
        state.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"The mirror's folder {state.path} cannot be made: {error.strerror}.") from error
    last_seen = LastSeen(state.ledger.with_suffix(".checkpoint"))
    with last_seen.locked():
        is_new = url is None and not state.ledger.exists()
        store = open_store(state.ledger, url, read_only=False, create=True)
        try:
            previous = _import(store, folder, checkpoint, note, vkeys)
        except BaseException:
            store.close()
            if is_new:  # an empty database is no ledger: leave none behind
                state.ledger.unlink(missing_ok=True)
            raise
        store.close()
    keep_vkey(vkey_path(state.ledger), signer)
    last_seen.advance(note)
    return Imported(checkpoint.origin, checkpoint.size, previous)


def _import(
    store: LedgerStore, folder: TileFolder, checkpoint: Checkpoint, note: bytes, vkeys: Sequence[VerifierKey]
) -> int | None:
    with store.writing() as transaction:
        # If anything below fails, or we crash before the end of this block, nothing was written.
        if transaction.is_new():
            transaction.create({"format": FORMAT, "origin": checkpoint.origin})
            previous = None
        else:
            previous = _require_own(transaction, checkpoint, vkeys)
        _append_entries(transaction, folder, previous or 0, checkpoint.size)
        root = tree_root(checkpoint.size, node_reader(transaction.tile))
        if root != checkpoint.root:
            raise ConsistencyError(
                f"The entries in {folder.path} have the root {root.hex()}; the signed checkpoint of {checkpoint.size} "
                f"entries says {checkpoint.root.hex()}.",
                hint="Nothing was imported: an entry was changed, or the log has another history than this mirror. "
                "See which: millcert ledger verify --tiles DIR --key FILE",
                expected=checkpoint.root.hex(),
                actual=root.hex(),
            )
        if previous != checkpoint.size:
            transaction.insert_checkpoint(checkpoint.size, note)
    return previous


def _require_own(transaction: Transaction, checkpoint: Checkpoint, vkeys: Sequence[VerifierKey]) -> int:
    """Return the mirror's size, if it is a mirror of this very log and not ahead of it."""
    origin = transaction.setting("origin")
    if origin != checkpoint.origin:
        raise UsageError(
            f"The mirror is of {origin!r}; the folder holds {checkpoint.origin!r}.",
            hint="Give --state another folder.",
            expected=origin,
            actual=checkpoint.origin,
        )
    kept = require_newest(transaction, checkpoint.origin, vkeys)
    if kept.size > checkpoint.size:
        raise RollbackError(
            f"The folder has {checkpoint.size} entries of {checkpoint.origin}; the mirror already has {kept.size}.",
            hint="The folder is an old copy, or the log was rolled back. The mirror stays as it is.",
            expected=kept.size,
            actual=checkpoint.size,
        )
    root = tree_root(kept.size, node_reader(transaction.tile))
    if root != kept.root:
        raise LedgerError(
            f"The mirror has the root {root.hex()} at {kept.size} entries; its own checkpoint says {kept.root.hex()}.",
            hint="Somebody edited the mirror's database: make a new one.",
            expected=kept.root.hex(),
            actual=root.hex(),
        )
    return kept.size


def _append_entries(transaction: Transaction, folder: TileFolder, start: int, size: int) -> None:
    while start < size:
        number, skipped = divmod(start, TILE_WIDTH)
        width = min(TILE_WIDTH, size - number * TILE_WIDTH)
        leaves = folder.entries(number, width)[skipped:]
        rows = [_row(start + place, leaf) for place, leaf in enumerate(leaves)]
        hashes = [row.leaf_hash for row in rows]
        known = transaction.indexes_of(hashes)
        if known or len(set(hashes)) != len(hashes):
            raise LedgerError(
                f"The log has an entry twice, among entries {start} to {start + len(rows) - 1}; a ledger never does.",
                hint="Nothing was imported. This is no ledger of millcert, or its keeper's program is broken.",
                index=start,
            )
        tiles = extend_tiles(start, hashes, transaction.tile)
        transaction.insert_rows(rows)
        for (level, tile), data in sorted(tiles.items()):
            transaction.put_tile(level, tile, data)
        start += len(rows)


def _row(index: int, leaf: bytes) -> Row:
    try:
        entry = parse_entry(leaf)
    except LedgerError as error:
        raise LedgerError(
            f"Entry {index} of the log is no entry of millcert: {error.message}",
            hint="A mirror takes ledgers of millcert. To audit any C2SP log: millcert ledger verify --tiles DIR",
            index=index,
        ) from error
    return Row(index, leaf_hash(leaf), entry.kind, entry.subject, leaf)
