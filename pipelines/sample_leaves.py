"""Salted leaves of a file's rows, written by the worker that reads it. No row crosses a shuffle.

Under names made of the file's own name, in the staging folder; those of a small file in one (part_files.py):
  parts/leaves/ID.rows.L       the file's row tree (provenance/shard_tree.py)
  parts/leaves/ID.rows.sealed  the digests, readable with the salts only
  parts/leaves/ID.run.K        sorted runs of index records: key, row, index leaf hash; at most RUN_RECORDS each
  parts/leaves/ID.json         how many of all that, and the tree's root; written last
A retry overwrites identical bytes, because all salts come from the run's secret, which lies in the staging folder while
the job runs and nowhere afterwards. The driver joins it all (sample_set.py).
"""

import secrets
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from millcert.errors import InternalError, StoreError
from millcert.pipelines.index_merge import PART, key_order
from millcert.pipelines.output import part_id, translate_store_errors
from millcert.pipelines.part_files import PartFiles, read_parts
from millcert.pipelines.publish import write_file
from millcert.pipelines.records import Span, unit_name
from millcert.pipelines.row_hashes import as_matrix, row_hashes
from millcert.pipelines.span_tree import SpanTree
from millcert.provenance.lookup import SEALED_FILE
from millcert.provenance.merkle import HASH_BYTES
from millcert.provenance.sample_leaf import BLOCK_ROWS, NO_SAMPLE, RunSecret
from millcert.provenance.shard_tree import TreeWriter

SECRET_FILE = "run.secret"  # noqa: S105 - the name of a file

#: Records that a worker holds before it writes a sorted run: 72 bytes each, and twice that while it sorts.
RUN_RECORDS = 1 << 19


class LeafFacts(NamedTuple):
    """What a worker wrote of one file, or of a span.

    root: hex, "" of a span. levels: tree files. runs: records of each sorted run. spans: how many spans hold the
    leaves, digests and runs of the file; 0 where it is one piece.
    """

    records: int
    samples: int
    root: str
    levels: int
    runs: tuple[int, ...]
    spans: int = 0


def new_secret(staging: str) -> RunSecret:
    """Draw a run's secret and put it where the workers find it.

    Raises:
        StoreError: the staging folder cannot be written.
    """
    secret = RunSecret(secrets.token_bytes(HASH_BYTES))
    write_file(f"{staging}/{SECRET_FILE}", secret.secret)
    return secret


def read_secret(staging: str) -> RunSecret:
    """Return the run's secret, in a worker.

    Raises:
        StoreError: it is not there.
    """
    path = f"{staging}/{SECRET_FILE}"
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            return RunSecret(bytes(stream.read()))
    except OSError as error:
        raise StoreError(f"The run's secret {path} cannot be read: {error}", hint="Run again.") from error


class LeafWriter:
    """Writes the leaves of one file, or of a span; use it in `with` and call `end` after the last batch.

    Cost: six hashes a row, 3 microseconds (bench/lookup.py); memory: 72 bytes for each of at most RUN_RECORDS rows,
    and some 500 for each row of a batch.
    """

    def __init__(self, staging: str, file: str, secret: RunSecret, span: Span | None = None) -> None:
        self._stem = part_stem(staging, unit_name(file, span))
        self._file = file
        self._secret = secret
        self._index_salt = secret.index_salt
        self._levels = 0
        self._files = PartFiles(self._stem)
        self._stack = ExitStack()
        self._stack.callback(self._files.close)
        with translate_store_errors(self._stem):
            self._tree: TreeWriter | SpanTree = (
                TreeWriter(self._open_level) if span is None else SpanTree(self._open_level, span.first_row)
            )
            self._stack.enter_context(self._tree)
            self._sealed = self._files.open(SEALED_FILE)
        self._first = self._next = 0 if span is None else span.first_row
        self._pending: list[np.ndarray] = []
        self._held = 0
        self._runs: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with translate_store_errors(self._stem):
            self._stack.close()

    def add(self, rows: np.ndarray, digests: np.ndarray) -> None:
        """Append samples: row numbers ascending, int64 (n,), and digests, uint8 (n, 32).

        Raises:
            InternalError: a row comes twice or too late.
            StoreError: the file system refused.
        """
        if not len(rows):
            return
        first, last = int(rows[0]), int(rows[-1])
        if first < self._next or (np.diff(rows) <= 0).any():
            raise InternalError(f"{self._file}: rows {first} to {last} do not ascend behind row {self._next - 1}.")
        self._skip(first - self._next)
        # The formulas of provenance/sample_leaf.py, for many rows: this is most of what a row costs.
        count = len(rows)
        salts = self._salts(rows)
        keys = as_matrix(row_hashes(count, b"\x03" + self._index_salt, digests))
        leaves = as_matrix(row_hashes(count, b"\x00", salts, digests))
        indexed = as_matrix(row_hashes(count, b"\x00", salts, keys, b"\x01"))
        pads = as_matrix(row_hashes(count, b"\x04", salts))
        tree = np.tile(np.frombuffer(NO_SAMPLE, np.uint8), (last + 1 - first, 1))
        sealed = np.zeros_like(tree)
        tree[rows - first], sealed[rows - first] = leaves, pads ^ digests
        part = np.empty(count, PART)
        part["key"] = keys.view(">u8")
        part["row"] = rows
        part["leaf"] = indexed.view("V32").reshape(-1)
        self._pending.append(part)
        self._held += len(part)
        self._write(tree.tobytes(), sealed.tobytes())
        self._next = last + 1

    def end(self, records: int) -> None:
        """Fill up to the number of records of the file or span, and write down what was written.

        Raises:
            InternalError: there are fewer records than rows were added.
            StoreError: the file system refused.
        """
        missing = self._first + records - self._next
        if missing < 0:
            raise InternalError(f"{self._file}: row {self._next - 1} is behind the end of {records} records.")
        self._skip(missing)
        self._flush_run()
        size, root = self._tree.end_tree()
        facts = LeafFacts(size, sum(self._runs), root.hex(), self._levels, tuple(self._runs))
        self._files.end(facts._asdict())

    def _salts(self, rows: np.ndarray) -> np.ndarray:
        blocks, offsets = np.divmod(rows, BLOCK_ROWS)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(blocks)) + 1])
        seeds = as_matrix([self._secret.block_seed(self._file, block) for block in blocks[starts].tolist()])
        each = np.repeat(seeds, np.diff(np.append(starts, len(rows))), axis=0)
        return as_matrix(row_hashes(len(rows), b"\x02", each, offsets.astype(np.uint8)[:, np.newaxis]))

    def _skip(self, records: int) -> None:
        """Stand in for records that are no samples; in steps, for a file of nothing else."""
        while records:
            step = min(records, RUN_RECORDS)
            self._write(NO_SAMPLE * step, bytes(HASH_BYTES * step))
            records -= step

    def _write(self, leaves: bytes, sealed: bytes) -> None:
        with translate_store_errors(self._stem):
            self._tree.extend(leaves)
            self._sealed.write(sealed)
        if self._held >= RUN_RECORDS:
            self._flush_run()

    def _flush_run(self) -> None:
        if self._held:
            run = np.concatenate(self._pending, dtype=PART)
            with translate_store_errors(self._stem):
                self._files.open(f"run.{len(self._runs)}").write(run[key_order(run)].tobytes())
            self._runs.append(len(run))
            self._pending.clear()
            self._held = 0

    def _open_level(self, level: int) -> BinaryIO:
        self._levels = max(self._levels, level + 1)
        return self._files.open(f"rows.{level}")


def read_leaves(staging: str, unit: str) -> tuple[LeafFacts, dict[str, bytes]]:
    """Return what the worker wrote of a file or a span, and those parts that it wrote together.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        facts, parts = read_parts(part_stem(staging, unit))
        return LeafFacts(**{**facts, "runs": tuple(facts["runs"])}), parts
    except (OSError, ValueError, TypeError, KeyError) as error:
        file = unit.partition("\0")[0]
        raise StoreError(f"The leaves of {file} are missing from the run: {error}", hint="Run again.") from error


def part_stem(staging: str, unit: str) -> str:
    """Return how the names of the parts of a file or span begin; they say nothing of the data."""
    return f"{staging}/parts/leaves/{part_id(unit)}"
