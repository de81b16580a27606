"""The ledger: an append-only Merkle tree of entries, in the C2SP tlog formats.

Rules this module keeps:
  1. A leaf, once a checkpoint covers it, never changes, and no leaf is there twice.
  2. Checkpoint n+1 extends checkpoint n, and every checkpoint that this client saw, or it is not signed.
  3. After a crash at any line, the next `append` of the same entries reaches rules 1 and 2 through the same code: what
     was kept is found by its hash, what was lost is appended.
  4. What is read is checked against the tree before it is returned.

Formats: docs/formats/ledger.md.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.checkpoint import (
    Checkpoint,
    VerifierKey,
    sign_checkpoint,
)
from millcert.provenance.closing import Closing
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger_audit import LedgerReport, audit, compare_with_seen, require_newest, verify_stored
from millcert.provenance.ledger_contract import (
    NEWEST_SCHEMA,
    LedgerStore,
    Row,
    Snapshot,
    Transaction,
    require_known_schema,
)
from millcert.provenance.ledger_entry import Entry, LoggedEntry, parse_entry
from millcert.provenance.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    TreeBuilder,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
)
from millcert.provenance.tiles import TILE_WIDTH, TileReader, extend_tiles, node_reader
from millcert.provenance.tlog_proof import format_tlog_proof

FORMAT = "millcert-ledger-1"

DEFAULT_FIND_LIMIT = 100

#: Rows that `scan` holds at once: 65 MB of the longest leaves, some 0.5 MB of common ones.
SCAN_ROWS = 1000


@dataclass(frozen=True)
class Appended:
    """What `append` did.

    indexes: place of each entry, in the order they were given; that of the first time for an entry already logged.
    checkpoint: the signed checkpoint that covers them all.
    """

    indexes: tuple[int, ...]
    checkpoint: bytes


class Ledger(Closing):
    """One ledger, open in this process; use `open_ledger` to make one, and close it (or use it in `with`).

    Several processes may have the same ledger open, for reading and for appending.

    store: where it is kept.
    origin: its name.
    vkeys: the public keys that its checkpoints are verified with.
    key: signs new checkpoints; None: read only.
    last_seen: the file of the last checkpoint that this client saw.
    """

    def __init__(
        self,
        store: LedgerStore,
        *,
        origin: str,
        vkeys: Sequence[VerifierKey],
        key: Ed25519PrivateKey | None,
        last_seen: LastSeen,
    ) -> None:
        self._store = store
        self._origin = origin
        self._vkeys = tuple(vkeys)
        self._key = key
        self._last_seen = last_seen

    def close(self) -> None:
        """Close the store; the ledger cannot be used afterwards."""
        self._store.close()

    @property
    def origin(self) -> str:
        """The ledger's name."""
        return self._origin

    @property
    def vkeys(self) -> tuple[VerifierKey, ...]:
        """The public keys that the ledger's checkpoints and proofs are verified with."""
        return self._vkeys

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint covers."""
        with self._store.reading() as snapshot:
            return self._newest_note(snapshot)[0]

    def checkpoint(self) -> bytes:
        """Return the newest signed checkpoint, as stored; verify it with `verify_checkpoint` or `Ledger.verify`."""
        with self._store.reading() as snapshot:
            return self._newest_note(snapshot)[1]

    def reading(self) -> AbstractContextManager[Snapshot]:
        """Open one state of the store, as found: for an export, which verifies what it reads."""
        return self._store.reading()

    def append(self, entries: Sequence[Entry]) -> Appended:
        """Add entries, all or none, and sign the checkpoint that covers them.

        An entry whose bytes are in the ledger already is not added again: its index is returned. So a retry after a
        crash, with the same entries, completes what was begun and repeats nothing.

        Raises:
            UsageError: the ledger is open for reading only, there is no entry, or an entry is too long.
            StoreError: nothing was half-written; a retry is safe.
            LedgerError, SignatureError: the ledger is not what its newest checkpoint says; nothing was signed.
            RollbackError, ConsistencyError: it is not what this client saw before; nothing was signed.

        Cost: one durable commit and one small file, about 4 ms; 0.03 ms of CPU an entry in batches of 1,000.
        """
        key = self._require_key()
        if not entries:
            raise UsageError("There is no entry to append.", hint="Give at least one.")
        leaves = [entry.leaf() for entry in entries]
        hashes = [leaf_hash(leaf) for leaf in leaves]
        with self._store.writing() as transaction:
            # If we crash before the end of this block, nothing was written.
            read_tile = lru_cache(maxsize=16)(transaction.tile)  # nobody else writes until the end of this block
            newest, note = self._require_signable(transaction, read_tile)
            known = transaction.indexes_of(hashes)
            rows: list[Row] = []
            for entry, leaf, hashed in zip(entries, leaves, hashes, strict=True):
                if hashed not in known:
                    known[hashed] = newest.size + len(rows)
                    rows.append(Row(known[hashed], hashed, entry.kind, entry.subject, leaf))
            if rows:
                note = self._write(transaction, read_tile, newest.size, rows, key)
        # If we crash here, the entries are kept, and a retry returns their indexes.
        self._last_seen.advance(note)
        return Appended(tuple(known[hashed] for hashed in hashes), note)

    def get(self, index: int) -> LoggedEntry:
        """Return one entry.

        Raises:
            UsageError: there is no such index.
            LedgerError: the entry is not what the tree says.
        """
        with self._store.reading() as snapshot:
            size = self._newest_note(snapshot)[0]
            _require_index(index, size)
            return _logged(snapshot, index, size, snapshot.rows(index, 1))

    def find(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        text: str | None = None,
        limit: int = DEFAULT_FIND_LIMIT,
    ) -> list[LoggedEntry]:
        """Return the entries that match all that is given, by index.

        Args:
            kind: exact.
            subject: exact.
            text: anywhere in the entry's canonical JSON, letter case ignored; reads every entry.
            limit: at most so many, at least 1.

        Raises:
            UsageError: the limit is below 1.
            LedgerError: an entry that matches is not what the tree says.
        """
        if limit < 1:
            raise UsageError(f"The limit must be at least 1, got {limit}.")
        with self._store.reading() as snapshot:
            size = self._newest_note(snapshot)[0]
            rows = snapshot.find(kind=kind, subject=subject, text=text, limit=limit)
            return [_logged(snapshot, row.index, size, [row]) for row in rows]

    def scan(self, is_wanted: Callable[[bytes], bool]) -> list[LoggedEntry]:
        """Return the entries whose leaf is wanted, and know that none was left out: every leaf is read and hashed.

        `find` proves what it returns; this proves also what it does not, against the newest checkpoint's root and the
        last checkpoint that this client saw. Use it where a missing entry would let something through.

        Raises:
            LedgerError: the leaves are not those of the newest checkpoint.
            SignatureError, RollbackError, ConsistencyError: as `verify`.

        Cost: about 15 microseconds an entry (bench/admission.py); memory for what is wanted.
        """
        tree, wanted = TreeBuilder(), []
        with self._store.reading() as snapshot:
            newest = require_newest(snapshot, self._origin, self._vkeys)
            seen = self._last_seen.read()
            if seen is not None:
                compare_with_seen(snapshot, newest, self._origin, self._vkeys, seen)
            while rows := snapshot.rows(tree.size, SCAN_ROWS):
                for row in rows:
                    hashed = leaf_hash(row.leaf)
                    if is_wanted(row.leaf):
                        wanted.append((tree.size, hashed, row.leaf))
                    tree.append(hashed)
        if tree.size != newest.size or tree.root() != newest.root:
            raise LedgerError(
                f"The ledger {self._origin} has {tree.size} entries with root {tree.root().hex()}; its newest "
                f"checkpoint says {newest.size} with root {newest.root.hex()}.",
                hint="Run `millcert ledger verify` to see which entry was changed.",
                expected=newest.root.hex(),
                actual=tree.root().hex(),
            )
        return [LoggedEntry(index, hashed, parse_entry(leaf)) for index, hashed, leaf in wanted]

    def prove(self, index: int, size: int | None = None) -> bytes:
        """Return the proof (C2SP tlog-proof text) that the entry at `index` is in the ledger.

        Args:
            index: of the entry.
            size: of the checkpoint to prove under; None means the newest.

        Raises:
            UsageError: there is no such entry, no checkpoint of that size, or the entry came after it.
            LedgerError: a tile that the proof needs is damaged.
        """
        with self._store.reading() as snapshot:
            size, note = self._note_of(snapshot, size)
            path = inclusion_proof(index, size, node_reader(snapshot.tile))
            return format_tlog_proof(index, path, note)

    def covering_size(self, index: int) -> int:
        """Return the size of the first checkpoint that covers an entry: proofs under it are the same for ever.

        Raises:
            UsageError: there is no such entry.
        """
        with self._store.reading() as snapshot:
            _require_index(index, self._newest_note(snapshot)[0])
            return snapshot.checkpoints(index + 1, 1)[0][0]

    def prove_consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return the proof, for `merkle.verify_consistency`, that the ledger of one size extends that of another.

        Raises:
            UsageError: the sizes are not 0 < old_size <= new_size <= the ledger's size.
            LedgerError: a tile that the proof needs is damaged.
        """
        with self._store.reading() as snapshot:
            newest = self._newest_note(snapshot)[0]
            if new_size > newest:
                raise UsageError(f"The ledger has {newest} entries, not {new_size}.", size=newest)
            return consistency_proof(old_size, new_size, node_reader(snapshot.tile))

    def verify(self, last_seen: bytes | None = None) -> LedgerReport:
        """Recompute the whole ledger and compare it with what was seen before; see `ledger_audit` for the steps.

        Args:
            last_seen: a signed checkpoint from elsewhere; the one that this client keeps beside the ledger is always
                compared, and moved forward on success where the folder can be written.

        Raises:
            LedgerError: something was changed; `index` names the first entry.
            SignatureError, RollbackError, ConsistencyError: see `ledger_audit.audit`.
            UsageError: the ledger was opened without a public key.
        """
        notes = [note for note in (self._last_seen.read(), last_seen) if note is not None]
        with self._store.reading() as snapshot:
            report = audit(snapshot, self._origin, self._vkeys, notes)
        try:
            self._last_seen.advance(report.checkpoint)
        except StoreError:
            if self._key is not None:  # an auditor may well work on a copy that cannot be written
                raise
        return report

    def create(self) -> None:
        """Make the tables and sign the checkpoint of the empty ledger, unless another process did.

        Raises:
            UsageError: the ledger is open for reading only.
            StoreError: nothing was half-written; a retry is safe.
        """
        key = self._require_key()
        with self._last_seen.locked(), self._store.writing() as transaction:
            if transaction.is_new():
                transaction.create({"format": FORMAT, "origin": self._origin})
                transaction.insert_checkpoint(0, sign_checkpoint(Checkpoint(self._origin, 0, EMPTY_ROOT), key))

    def migrate(self) -> None:
        """Lead the database to the newest schema, if it is of an older one; history is not touched.

        Raises:
            UsageError: the database's role may not change tables.
            StoreError: nothing was changed; a retry is safe.
        """
        with self._store.reading() as snapshot:
            is_newest = snapshot.schema_version() >= NEWEST_SCHEMA
        if not is_newest:
            with self._store.writing() as transaction:
                transaction.migrate()

    def check_settings(self) -> None:
        """Refuse a database of another format or ledger, and one that another key signs.

        Raises:
            LedgerError: another format, or no checkpoint.
            UsageError: another origin, or a newer schema.
            SignatureError: no known key signed the newest checkpoint.
        """
        with self._store.reading() as snapshot:
            require_known_schema(snapshot.schema_version())
            found = {name: snapshot.setting(name) for name in ("format", "origin")}
            if found["format"] != FORMAT:
                raise LedgerError(f"The database is of format {found['format']!r}; this millcert reads {FORMAT!r}.")
            if found["origin"] != self._origin:
                raise UsageError(
                    f"The ledger is {found['origin']!r}, not {self._origin!r}.",
                    hint="Check the ledger's origin in the policy or the key file, or give another state directory.",
                    expected=self._origin,
                    actual=found["origin"],
                )
            if self._vkeys:
                require_newest(snapshot, self._origin, self._vkeys)

    def _require_key(self) -> Ed25519PrivateKey:
        if self._key is None:
            raise UsageError("The ledger is open for reading only.", hint="Open it with its private key to append.")
        return self._key

    def _require_signable(self, transaction: Transaction, read_tile: TileReader) -> tuple[Checkpoint, bytes]:
        """Return the newest checkpoint, also as signed, if the ledger is what it says and what this client saw."""
        stored = self._newest_note(transaction)
        newest, note = verify_stored(stored, self._origin, self._vkeys), stored[1]
        rows = transaction.size()
        root = tree_root(newest.size, node_reader(read_tile))
        if rows != newest.size or root != newest.root:
            raise LedgerError(
                f"The ledger {self._origin} has {rows} entries with root {root.hex()}; its newest checkpoint says "
                f"{newest.size} with root {newest.root.hex()}.",
                hint="Nothing was signed. Run `millcert ledger verify` to see which entry was changed.",
                expected=newest.root.hex(),
                actual=root.hex(),
            )
        seen = self._last_seen.read()
        if seen is not None and seen != note:  # what is verified already need not be compared with itself
            compare_with_seen(transaction, newest, self._origin, self._vkeys, seen)
        return newest, note

    def _write(
        self,
        transaction: Transaction,
        read_tile: TileReader,
        size: int,
        rows: Sequence[Row],
        key: Ed25519PrivateKey,
    ) -> bytes:
        tiles = extend_tiles(size, [row.leaf_hash for row in rows], read_tile)
        transaction.insert_rows(rows)
        for (level, number), hashes in sorted(tiles.items()):
            transaction.put_tile(level, number, hashes)

        def read_back(level: int, number: int) -> bytes | None:
            return (transaction.tile if (level, number) in tiles else read_tile)(level, number)

        # What was written is read back from the store: what is signed is what is kept.
        root = tree_root(size + len(rows), node_reader(read_back))
        note = sign_checkpoint(Checkpoint(self._origin, size + len(rows), root), key)
        transaction.insert_checkpoint(size + len(rows), note)
        return note

    def _newest_note(self, snapshot: Snapshot) -> tuple[int, bytes]:
        stored = snapshot.newest_checkpoint()
        if stored is None:
            raise LedgerError(f"The ledger {self._origin} has no checkpoint.", hint="Restore its newest copy.")
        return stored

    def _note_of(self, snapshot: Snapshot, size: int | None) -> tuple[int, bytes]:
        if size is None:
            return self._newest_note(snapshot)
        stored = snapshot.checkpoints(size, 1)
        if not stored or stored[0][0] != size:
            raise UsageError(
                f"The ledger has no checkpoint of exactly {size} entries.",
                hint="Leave the size out to prove under the newest checkpoint.",
                size=size,
            )
        return stored[0]


def _require_index(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise UsageError(
            f"The ledger has no entry {index}; it has {size} entries.",
            hint="Indexes start at 0.",
            index=index,
            size=size,
        )


def _logged(snapshot: Snapshot, index: int, size: int, rows: Sequence[Row]) -> LoggedEntry:
    """Return a row as an entry, if the tree has just these bytes at its index (rule 4)."""
    number, offset = divmod(index, TILE_WIDTH)
    tile = snapshot.tile(0, number) or b""
    expected = tile[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]
    if rows and 0 <= index < size and rows[0].index == index and leaf_hash(rows[0].leaf) == expected:
        return LoggedEntry(index, expected, parse_entry(rows[0].leaf))
    raise LedgerError(
        f"Entry {index} of the ledger is not what the tree says: it was edited, deleted or put in.",
        hint="Run `millcert ledger verify` to see all that was changed.",
        index=index,
    )
