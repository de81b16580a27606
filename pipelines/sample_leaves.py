"""Salted leaves of a file's rows, written by the worker that reads it. No row crosses a shuffle.

Under names made of the file's own name, in the staging folder:
  parts/leaves/ID.rows.L       the file's row tree (provenance/shard_tree.py)
  parts/leaves/ID.sealed       the digests, readable with the salts only
  parts/leaves/ID.run.K        sorted runs of index records: key, row, index leaf hash; at most RUN_RECORDS each
  parts/leaves/ID.json         how many of all that, and the tree's root; written last
A retry overwrites identical bytes, because all salts come from the run's secret, which lies in the staging folder while
the job runs and nowhere afterwards. The driver joins it all (sample_set.py).
"""

import hashlib
import json
import secrets
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from millcert.errors import InternalError, StoreError
from millcert.pipelines.output import open_output, translate_store_errors
from millcert.pipelines.publish import write_file
from millcert.provenance.merkle import HASH_BYTES
from millcert.provenance.sample_leaf import BLOCK_ROWS, NO_SAMPLE, RunSecret
from millcert.provenance.shard_tree import TreeWriter

SECRET_FILE = "run.secret"  # noqa: S105 - the name of a file

#: Records that a worker holds before it writes a sorted run: 72 bytes each.
RUN_RECORDS = 1 << 19

_NOTHING = bytes(HASH_BYTES)
_COPY_BYTES = 1 << 20


class LeafFacts(NamedTuple):
    """What a worker wrote of one file. root: hex. levels: tree files. runs: records of each sorted run."""

    records: int
    samples: int
    root: str
    levels: int
    runs: tuple[int, ...]


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
    """Writes the leaves of one file; use it in `with` and call `end` after the last batch.

    Cost: about six hashes a row, 3 microseconds; memory: 72 bytes for each of at most RUN_RECORDS rows.
    """

    def __init__(self, staging: str, file: str, secret: RunSecret) -> None:
        self._stem = part_stem(staging, file)
        self._file = file
        self._secret = secret
        self._index_salt = secret.index_salt
        self._levels = 0
        self._stack = ExitStack()
        with translate_store_errors(self._stem):
            self._tree = self._stack.enter_context(TreeWriter(self._open_level))
            self._sealed = self._stack.enter_context(open_output(f"{self._stem}.sealed"))
        self._next = 0
        self._block = -1
        self._seed = b""
        self._pending: list[bytes] = []
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
        leaves, sealed = bytearray(), bytearray()
        for row, digest in zip(rows.tolist(), digests, strict=True):
            if row < self._next:
                raise InternalError(f"{self._file}: row {row} comes behind row {self._next - 1}.")
            if row > self._next:
                leaves += NO_SAMPLE * (row - self._next)
                sealed += _NOTHING * (row - self._next)
            self._next = row + 1
            leaf, seal = self._sample(row, digest.tobytes())
            leaves += leaf
            sealed += seal
        self._write(leaves, sealed)

    def end(self, records: int) -> None:
        """Fill up to the file's number of records, and write down what was written.

        Raises:
            InternalError: there are fewer records than rows were added.
            StoreError: the file system refused.
        """
        missing = records - self._next
        if missing < 0:
            raise InternalError(f"{self._file}: row {self._next - 1} is behind the end of {records} records.")
        while missing:  # in steps, for a file of nothing but malformed records
            step = min(missing, RUN_RECORDS)
            self._write(bytearray(NO_SAMPLE * step), bytearray(_NOTHING * step))
            missing -= step
        self._flush_run()
        size, root = self._tree.end_tree()
        facts = LeafFacts(size, sum(self._runs), root.hex(), self._levels, tuple(self._runs))
        self.__exit__(None, None, None)
        write_file(f"{self._stem}.json", json.dumps(facts._asdict()).encode())

    def _sample(self, row: int, digest: bytes) -> tuple[bytes, bytes]:
        # The formulas of provenance/sample_leaf.py, written out: this runs once a row.
        sha256 = hashlib.sha256
        block, offset = divmod(row, BLOCK_ROWS)
        if block != self._block:
            self._block, self._seed = block, self._secret.block_seed(self._file, block)
        salt = sha256(b"\x02" + self._seed + bytes((offset,))).digest()
        key = sha256(b"\x03" + self._index_salt + digest).digest()
        indexed = sha256(b"\x00" + salt + key + b"\x01").digest()
        self._pending.append(key + row.to_bytes(8, "big") + indexed)
        pad = int.from_bytes(sha256(b"\x04" + salt).digest(), "big") ^ int.from_bytes(digest, "big")
        return sha256(b"\x00" + salt + digest).digest(), pad.to_bytes(HASH_BYTES, "big")

    def _write(self, leaves: bytearray, sealed: bytearray) -> None:
        with translate_store_errors(self._stem):
            self._tree.extend(bytes(leaves))
            self._sealed.write(bytes(sealed))
        if len(self._pending) >= RUN_RECORDS:
            self._flush_run()

    def _flush_run(self) -> None:
        if self._pending:
            self._pending.sort()
            with (
                translate_store_errors(self._stem),
                open_output(f"{self._stem}.run.{len(self._runs)}") as stream,
            ):
                stream.write(b"".join(self._pending))
            self._runs.append(len(self._pending))
            self._pending.clear()

    def _open_level(self, level: int) -> BinaryIO:
        self._levels = max(self._levels, level + 1)
        return open_output(f"{self._stem}.rows.{level}")


def read_facts(staging: str, file: str) -> LeafFacts:
    """Return what the worker wrote of a file.

    Raises:
        StoreError: it is missing or damaged.
    """
    path = f"{part_stem(staging, file)}.json"
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            raw = json.loads(bytes(stream.read()))
        return LeafFacts(**{**raw, "runs": tuple(raw["runs"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"The leaves of {file} are missing from the run: {error}", hint="Run again.") from error


def part_stem(staging: str, file: str) -> str:
    """Return how the names of a file's parts begin; they say nothing of the data."""
    return f"{staging}/parts/leaves/{hashlib.sha256(file.encode()).hexdigest()[:32]}"
