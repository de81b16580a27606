"""Where a sample is in a run, or that it is nowhere: look-ups by digest and by place, with what a proof needs.

A run's files lie in the state folder under the name that its ledger entry has, `provenance/<shards_root>/`, its salts
in `salts/<shards_root>/`. Nothing that is read there is believed: a shard list must have the digest that was logged, a
leaf must be the hash of its salt and digest, and proofs are verified against the logged roots by who gets them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from millcert.errors import InconclusiveError, LedgerError, StoreError, UsageError
from millcert.provenance.absence import Absence, Neighbour
from millcert.provenance.closing import Closing
from millcert.provenance.finding_leaf import FindingProof
from millcert.provenance.finding_store import FindingStore
from millcert.provenance.leaf_index import LeafIndex, Record
from millcert.provenance.ledger import Ledger, LoggedEntry
from millcert.provenance.salt_store import SaltStore, blocks_of
from millcert.provenance.sample_leaf import (
    BLOCK_ROWS,
    DIGEST_BYTES,
    NO_SAMPLE,
    index_key,
    sample_leaf_hash,
    seal,
)
from millcert.provenance.sample_run import KIND, RunRoots, Shard, parse_shards, roots_from
from millcert.provenance.shard_tree import MAX_LEVELS, StoredTree, TreeFiles, level_sizes
from millcert.provenance.state import StateFolder

#: More runs than a ledger of ours has; a bound all the same.
_MAX_RUNS = 1_000_000

SEALED_FILE = "rows.sealed"
LIST_FILE = "shards.jsonl"
INDEX_FOLDER = "index"


@dataclass(frozen=True)
class FoundSample:
    """A sample and its place. number: of the shard in the list. row: 0-based. salt, digest: 32 bytes each."""

    number: int
    shard: Shard
    row: int
    salt: bytes
    digest: bytes


def files_folder(state: StateFolder, run_id: str) -> Path:
    """Return where a run's trees and index are."""
    return state.path / "provenance" / run_id


def salts_folder(state: StateFolder, run_id: str) -> Path:
    """Return where a run's salts are."""
    return state.path / "salts" / run_id


def list_runs(ledger: Ledger) -> list[LoggedEntry]:
    """Return the `shard_roots` entries of a ledger, oldest first.

    Raises:
        LedgerError: an entry is not what the tree says.
    """
    return ledger.find(kind=KIND, limit=_MAX_RUNS)


class SampleRun(Closing):
    """The samples of one run, open for look-ups; close it after use (or use it in `with`).

    Raises:
        StoreError: the run's files are not in this state folder.
        LedgerError: they are not what the ledger says.

    Cost: opening reads the shard list and the sizes of 256 files; a look-up touches a few pages whatever the size of
    the run (bench/lookup.py).
    """

    def __init__(self, state: StateFolder, logged: LoggedEntry) -> None:
        self.logged = logged
        self.roots: RunRoots = roots_from(logged.entry)
        self._folder = files_folder(state, self.roots.run_id)
        self.salts = SaltStore(salts_folder(state, self.roots.run_id))
        try:
            data = (self._folder / LIST_FILE).read_bytes()
        except OSError as error:
            raise StoreError(
                f"The samples of run {self.roots.run_id} (ledger entry {logged.index}) are not at {self._folder}.",
                hint="Give the --state folder of the gate that made the run, or restore its `provenance` folder.",
                path=str(self._folder),
            ) from error
        self.shards: Sequence[Shard] = parse_shards(data, self.roots)
        self._index = LeafIndex(self._folder / INDEX_FOLDER, self.roots.samples)
        self._rows = TreeFiles(self._folder, "rows")
        self._trees = TreeFiles(self._folder, "shards")
        self._index_tree = TreeFiles(self._folder, "index")
        self._findings = FindingStore(self._folder, self.roots.flagged) if self.roots.has_findings else None

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        for files in (self._rows, self._trees, self._index_tree):
            files.close()
        if self._findings is not None:
            self._findings.close()

    def find(self, digest: bytes) -> list[FoundSample]:
        """Return every place of the sample with this digest, by file and row; empty if it is in none.

        Raises:
            UsageError: it is not 32 bytes.
            InconclusiveError: the run's salts were erased, so nobody can tell.
            LedgerError: a record leads to a row that has another leaf.
        """
        key = index_key(self._index_salt(), _require_digest(digest))
        places = [self._found(record.shard, record.row, digest) for _, record in self._index.find(key)]
        return [found for found in places if found is not None]

    def at(self, file: str, row: int) -> FoundSample:
        """Return the sample at a place.

        Raises:
            UsageError: there is no such place, or the record there could not be decoded.
            InconclusiveError: the sample or the run's salts were erased.
            LedgerError: the files are damaged.
        """
        number = next((number for number, shard in enumerate(self.shards) if shard.file == file), -1)
        if number < 0 or not 0 <= row < self.shards[number].records:
            records = f"; it has rows 0 to {self.shards[number].records - 1}" if number >= 0 else ""
            raise UsageError(
                f"Run {self.roots.run_id[:16]} has no row {row} of {file!r}{records}.",
                hint="Files are named as in the manifest; rows count from 0, malformed ones included.",
            )
        if self.tree(number).leaf(row) == NO_SAMPLE:
            raise UsageError(f"Row {row} of {file!r} could not be decoded, so it is no sample.")
        salt = self._row_salt(number, row)
        if salt is None:
            raise InconclusiveError(f"The sample at row {row} of {file!r} was erased.", hint="See the erasure entries.")
        found = self._found(number, row, seal(salt, self._sealed(number, row)))
        if found is None:  # pragma: no cover - the salt was there a moment ago
            raise InconclusiveError(f"The sample at row {row} of {file!r} was erased just now.")
        return found

    def absence(self, digest: bytes) -> Absence:
        """Return the proof that the sample with this digest is not in the run.

        Raises:
            UsageError: it is in the run, or the digest is not 32 bytes.
            InconclusiveError: samples were erased where this one would be, so nobody can tell; or the salts are gone.
        """
        index_salt = self._index_salt()
        key = index_key(index_salt, _require_digest(digest))
        if self.find(digest):
            raise UsageError("The sample is in the run, so there is no proof of its absence.")
        position = self._index.position(key)
        return Absence(digest, index_salt, self._neighbour(position - 1), self._neighbour(position))

    def tree(self, number: int) -> StoredTree:
        """Return the tree of a file's rows."""
        return self._rows.tree(self.shards[number].records, self._bases[number])

    def sample_path(self, found: FoundSample) -> tuple[bytes, ...]:
        """Return the audit path from a sample's leaf to its file's root."""
        return self.tree(found.number).path(found.row)

    def shard_path(self, number: int) -> tuple[bytes, ...]:
        """Return the audit path from a shard's line to the run's shard root."""
        return self._trees.tree(len(self.shards)).path(number)

    def findings(self, found: FoundSample) -> FindingProof | None:
        """Return the proof of what the checks said of a sample; None in a run that keeps no findings of samples.

        Raises:
            LedgerError: the files are damaged.
        """
        return None if self._findings is None else self._findings.prove(found.salt)

    @property
    def finding_store(self) -> FindingStore | None:
        """The run's findings of single samples; None in a run that keeps none."""
        return self._findings

    def record(self, position: int) -> Record:
        """Return a record of the index."""
        return self._index.record(position)

    def index_leaf(self, position: int) -> bytes:
        """Return the hash of a record's leaf in the index's tree."""
        return self._index_nodes.leaf(position)

    def open_row(self, number: int, row: int) -> tuple[bytes, bytes] | None:
        """Return (salt, digest) of a row as its salt and sealed digest say, unchecked; None if it was erased."""
        salt = self._row_salt(number, row)
        return None if salt is None else (salt, seal(salt, self._sealed(number, row)))

    def block_of(self, number: int, row: int) -> tuple[int, int]:
        """Return (block, offset) of a row's salt."""
        block, offset = divmod(row, BLOCK_ROWS)
        return self._first_blocks[number] + block, offset

    def drop_erased(self, digest: bytes) -> int:
        """Overwrite the records that lead to this sample's places where the salt is gone; return how many there were.

        So an erasure that a crash cut short is completed by asking for it again.

        Raises:
            StoreError: a file cannot be written; a retry is safe.
        """
        key = index_key(self._index_salt(), _require_digest(digest))
        gone = [
            (at, record) for at, record in self._index.find(key) if self._row_salt(record.shard, record.row) is None
        ]
        try:
            for position, record in gone:
                self._index.erase(position)
                with (self._folder / SEALED_FILE).open("r+b") as file:
                    file.seek((self._first_rows[record.shard] + record.row) * DIGEST_BYTES)
                    file.write(bytes(DIGEST_BYTES))
        except OSError as error:
            raise StoreError(f"The run's files in {self._folder} cannot be written: {error.strerror}.") from error
        return len(gone)

    @cached_property
    def _index_nodes(self) -> StoredTree:
        return self._index_tree.tree(self.roots.samples)

    @cached_property
    def _bases(self) -> list[tuple[int, ...]]:
        bases, sums = [], [0] * MAX_LEVELS
        for shard in self.shards:
            bases.append(tuple(sums))
            sums = [before + own for before, own in zip(sums, level_sizes(shard.records), strict=True)]
        return bases

    @cached_property
    def _first_blocks(self) -> list[int]:
        return list(accumulate((blocks_of(shard.records) for shard in self.shards), initial=0))

    @cached_property
    def _first_rows(self) -> list[int]:
        return list(accumulate((shard.records for shard in self.shards), initial=0))

    def _index_salt(self) -> bytes:
        if not self.salts.exists:
            raise InconclusiveError(
                f"The salts of run {self.roots.run_id[:16]} were erased or are not in this state folder, so nobody can "
                "tell which samples were in it.",
                hint="See the ledger's erasure entries: millcert ledger find --kind erasure",
            )
        return self.salts.index_salt()

    def _row_salt(self, number: int, row: int) -> bytes | None:
        self._index_salt()  # says what is the matter where all salts are gone
        return self.salts.row_salt(*self.block_of(number, row))

    def _sealed(self, number: int, row: int) -> bytes:
        try:
            with (self._folder / SEALED_FILE).open("rb") as file:
                file.seek((self._first_rows[number] + row) * DIGEST_BYTES)
                return file.read(DIGEST_BYTES)
        except OSError as error:
            raise StoreError(f"The run's files in {self._folder} cannot be read: {error.strerror}.") from error

    def _found(self, number: int, row: int, digest: bytes) -> FoundSample | None:
        """Return the sample at a place that its own leaf confirms; None if its salt was erased."""
        in_range = number < len(self.shards) and row < self.shards[number].records
        salt = self._row_salt(number, row) if in_range else b""
        if salt is None:
            return None
        if not salt or sample_leaf_hash(salt, digest) != self.tree(number).leaf(row):
            raise LedgerError(
                f"The index of run {self.roots.run_id} leads to shard {number}, row {row}, which is another sample's.",
                hint="The run's folder was edited; restore it from a copy.",
            )
        return FoundSample(number, self.shards[number], row, salt, digest)

    def _neighbour(self, position: int) -> Neighbour | None:
        if not 0 <= position < self.roots.samples:
            return None
        record = self._index.record(position)
        salt = None if record.is_erased else self._row_salt(record.shard, record.row)
        if salt is None:
            raise InconclusiveError(
                "Samples were erased where this one would be in the index, so nobody can tell whether it was one of "
                "them.",
                hint="See the ledger's erasure entries: millcert ledger find --kind erasure",
            )
        return Neighbour(position, record.key, salt, self._index_nodes.path(position))


def run_of(runs: Sequence[LoggedEntry], run_id: str) -> LoggedEntry:
    """Return the run whose id starts with `run_id`.

    Raises:
        UsageError: no run, or more than one, does.
    """
    matching = [logged for logged in runs if roots_from(logged.entry).run_id.startswith(run_id)]
    if len(matching) != 1:
        raise UsageError(f"{len(matching)} runs have an id that starts with {run_id!r}.", hint="Give more of the id.")
    return matching[0]


def _require_digest(digest: bytes) -> bytes:
    if len(digest) != DIGEST_BYTES:
        raise UsageError(f"A sample digest has {DIGEST_BYTES} bytes, got {len(digest)}.")
    return digest
