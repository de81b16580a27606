"""Copies of a ledger, and giving back the space that it no longer needs: neither changes what the ledger says.

Rules this module keeps:
  1. A backup is one SQLite file, whichever database it is made of; it appears whole or not at all, and was audited.
  2. A restore fills a database that holds no ledger, whole or not at all; it never replaces one.
  3. A copy that lacks what this client has seen is not restored: going on from it would be a second history.
  4. Compacting changes no entry, tile or checkpoint: the digest over all of them is compared before and after.

Operation: docs/ledger-operations.md.
"""

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.checkpoint import VerifierKey
from millcert.provenance.keys import sync_folder
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger import SQLITE_SCHEME, keep_vkey, open_store, vkey_path
from millcert.provenance.ledger_audit import LedgerReport, audit
from millcert.provenance.ledger_contract import Snapshot, Transaction
from millcert.provenance.merkle import HASH_BYTES
from millcert.provenance.tiles import TILE_WIDTH, tile_widths

#: Rows read and written at a time: about 1 MB.
_PAGE = 1000

#: Set when a ledger was made; they say what it is and are copied as they are.
_SETTINGS = ("format", "origin")


@dataclass(frozen=True)
class Compacted:
    """What compacting did. Sizes are of the database in bytes; digest: of all that the ledger says, as hex."""

    before_bytes: int
    after_bytes: int
    size: int
    digest: str


def back_up(ledger: Path, url: str | None, out: Path, *, vkeys: Sequence[VerifierKey]) -> LedgerReport:
    """Write the ledger's state of this moment to a new file and audit the file; appends go on meanwhile.

    Args:
        ledger: the SQLite file; beside it is the last checkpoint that this client saw.
        url: where the database is instead.
        out: the new file; `millcert ledger verify --ledger OUT` and all that reads takes it.
        vkeys: the ledger's public keys; the first one's name is its origin.

    Raises:
        UsageError: `out` exists, or there is no ledger.
        LedgerError, SignatureError, RollbackError, ConsistencyError: the ledger does not verify; no file is left.
        StoreError: the database or the file could not be read or written; no file is left.

    Cost: one read and write of the ledger, and an audit (about 60 microseconds an entry in all); memory for a page.
    """
    if out.exists():
        raise UsageError(f"{out} exists already.", hint="Choose another --out.", path=str(out))
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        source = open_store(ledger, url, read_only=True)
        target = open_store(temporary, read_only=False, create=True)
        try:
            with source.reading() as snapshot, target.writing() as transaction:
                _copy(snapshot, transaction)
            with target.reading() as copied:
                report = audit(copied, vkeys[0].name, vkeys, _seen(LastSeen(ledger.with_suffix(".checkpoint"))))
        finally:
            source.close()
            target.close()
        _close_file(temporary)
        try:
            os.link(temporary, out)  # fails if the path exists: a backup never replaces another
            sync_folder(out.parent)
        except FileExistsError as error:
            raise UsageError(f"{out} exists already.", hint="Choose another --out.", path=str(out)) from error
        except OSError as error:
            raise StoreError(f"The backup {out} cannot be kept: {error.strerror}.", path=str(out)) from error
    finally:
        _remove_database(temporary)
    return report


def restore(backup: Path, ledger: Path, url: str | None, *, vkeys: Sequence[VerifierKey]) -> LedgerReport:
    """Fill a database that holds no ledger from a backup, after auditing the backup.

    Args:
        backup: a file that `back_up` made, or any SQLite file of the same ledger.
        ledger: where the SQLite file is to be; beside it is the last checkpoint that this client saw.
        url: where the database is instead.
        vkeys: the ledger's public keys; the first one's name is its origin.

    Raises:
        UsageError: there is a ledger already, or no backup.
        RollbackError: the backup is older than what this client saw: entries that were signed are not in it.
        LedgerError, SignatureError, ConsistencyError: the backup does not verify.
        StoreError: a database could not be read or written; the target is as it was.
    """
    last_seen = LastSeen(ledger.with_suffix(".checkpoint"))
    source = open_store(backup, read_only=True)
    try:
        with source.reading() as snapshot:
            report = audit(snapshot, vkeys[0].name, vkeys, _seen(last_seen))
            file = _file_of(ledger, url)
            is_new_file = file is not None and not file.exists()
            try:
                _fill(ledger, url, snapshot)
            except BaseException:
                if file is not None and is_new_file:  # an empty database is no ledger: leave none behind
                    _remove_database(file)
                raise
    finally:
        source.close()
    last_seen.advance(report.checkpoint)
    keep_vkey(vkey_path(ledger), vkeys[0])
    return report


def compact(ledger: Path, url: str | None) -> Compacted:
    """Give back the space of grown tiles, of the write-ahead log and of free pages; history stays as it is.

    Raises:
        UsageError: there is no ledger, or this role does not own its tables.
        LedgerError: what the ledger says is not what it said before; restore a backup.
        StoreError: the database is in use or has no room; it is as it was.

    Cost: two reads of the whole ledger; SQLite rewrites its file and needs as much free space.
    """
    store = open_store(ledger, url, read_only=False)
    try:
        before_bytes = store.size_bytes()
        with store.reading() as snapshot:
            size = snapshot.size()
            before = content_digest(snapshot, size)
        store.compact()
        with store.reading() as snapshot:
            after = content_digest(snapshot, size)
        if after != before:
            raise LedgerError(
                f"After compacting, the first {size} entries are not what they were.",
                hint="Stop, keep the database as evidence and restore the newest backup.",
                expected=before,
                actual=after,
            )
        return Compacted(before_bytes, store.size_bytes(), size, after)
    finally:
        store.close()


def content_digest(snapshot: Snapshot, size: int) -> str:
    """Return the SHA-256, as hex, of all that a ledger says in its first `size` entries; appends do not change it.

    Covers settings, every column of every entry, the tiles as far as those entries fill them, and the checkpoints.
    """
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)

    for name in _SETTINGS:
        add(name.encode(), (snapshot.setting(name) or "").encode())
    for start in range(0, size, _PAGE):
        for row in snapshot.rows(start, min(_PAGE, size - start)):
            add(str(row.index).encode(), row.leaf_hash, row.kind.encode(), row.subject.encode(), row.leaf)
    for level, width in tile_widths(size).items():
        for number in range(-(-width // TILE_WIDTH)):
            filled = min(TILE_WIDTH, width - number * TILE_WIDTH)
            add((snapshot.tile(level, number) or b"")[: filled * HASH_BYTES])
    smallest = 0
    while page := [one for one in snapshot.checkpoints(smallest, _PAGE) if one[0] <= size]:
        for covered, note in page:
            add(str(covered).encode(), note)
        smallest = page[-1][0] + 1
    return digest.hexdigest()


def _fill(ledger: Path, url: str | None, snapshot: Snapshot) -> None:
    target = open_store(ledger, url, read_only=False, create=True)
    try:
        with target.writing() as transaction:
            if not transaction.is_new():
                raise UsageError(
                    "There is a ledger in that database already; a restore never replaces one.",
                    hint="Move it away as evidence, or name an empty database with --ledger.",
                )
            _copy(snapshot, transaction)
    finally:
        target.close()


def _file_of(ledger: Path, url: str | None) -> Path | None:
    """Return the SQLite file of a ledger, None if it is in another database."""
    if url is None:
        return ledger
    return Path(url.removeprefix(SQLITE_SCHEME)) if url.startswith(SQLITE_SCHEME) or "://" not in url else None


def _remove_database(path: Path) -> None:
    for name in ("", "-wal", "-shm", "-journal"):
        with suppress(OSError):  # what could not be made cannot be removed
            path.with_name(path.name + name).unlink()


def _copy(source: Snapshot, target: Transaction) -> None:
    """Copy settings, entries, tiles and checkpoints: each checkpoint right after the entries that it covers."""
    target.create({name: value for name in _SETTINGS if (value := source.setting(name)) is not None})
    done = 0
    newest = source.newest_checkpoint()
    size = 0 if newest is None else newest[0]
    smallest = 0
    while page := source.checkpoints(smallest, _PAGE):
        for covered, note in page:
            while done < covered:
                rows = source.rows(done, min(_PAGE, covered - done))
                if not rows:
                    raise LedgerError(
                        f"The ledger has {done} entries; its newest checkpoint says {size}.",
                        hint="Run `millcert ledger verify` to see what was changed.",
                        index=done,
                    )
                target.insert_rows(rows)
                done = rows[-1].index + 1
            target.insert_checkpoint(covered, note)
        smallest = page[-1][0] + 1
    for level, width in tile_widths(size).items():
        for number in range(-(-width // TILE_WIDTH)):
            tile = source.tile(level, number)
            if tile is not None:  # the audit of the copy tells what is missing
                target.put_tile(level, number, tile)


def _seen(last_seen: LastSeen) -> list[bytes]:
    note = last_seen.read()
    return [] if note is None else [note]


def _close_file(path: Path) -> None:
    """Make one plain, durable file of a database with a write-ahead log, which a read-only medium can hold."""
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA journal_mode=DELETE")
        finally:
            connection.close()
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"The backup {path} cannot be finished: {error}.", path=str(path)) from error
