"""The digest of the rows that fail expectations, in the verdict: the sidecar can be neither changed nor cut short.

It is made of what the sidecar says, not of its bytes, which another version of a Parquet writer would write otherwise
(docs/formats/output.md). Each worker hashes the rows of its files; the digests of files make the one of the data set.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from millcert.errors import InternalError
from millcert.pipelines.output import open_written
from millcert.pipelines.records import FailingRows
from millcert.verdict import ExpectationSummary

_CONTEXT = b"millcert expectation rows v1\n"


class RowHasher:
    """Hashes the failing rows of one file, which come in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self, rows: np.ndarray, masks: np.ndarray) -> None:
        """Add int64 (n,) rows with their uint8 (n, width) masks."""
        records = np.empty((len(rows), 8 + masks.shape[1]), np.uint8)
        records[:, :8] = rows.astype(">u8").view(np.uint8).reshape(len(rows), 8)
        records[:, 8:] = masks
        self._hash.update(records.tobytes())
        self.count += len(rows)

    def digest(self) -> str:
        """Return the digest, hex; "" where no row fails."""
        return self._hash.hexdigest() if self.count else ""


def rows_digest(suite_digest: str, files: Iterable[FailingRows]) -> str:
    """Return the digest of all failing rows, hex.

    Args:
        suite_digest: of the suite, hex.
        files: in any order; those without a failing row do not count.
    """
    whole = hashlib.sha256(_CONTEXT + bytes.fromhex(suite_digest))
    for one in sorted(files, key=lambda one: one.name.encode()):
        if one.rows:
            name = one.name.encode()
            whole.update(len(name).to_bytes(8, "big") + name + bytes.fromhex(one.file_sha256))
            whole.update(one.rows.to_bytes(8, "big") + bytes.fromhex(one.digest))
    return whole.hexdigest()


def settle_rows(published: str, summary: ExpectationSummary | None) -> None:
    """Compare the published sidecar with the verdict; a suite without a result has none.

    Raises:
        InternalError: they differ.
        StoreError: the sidecar cannot be read; a retry is safe.
    """
    if summary is None:
        return
    uri = f"{published}/expectation_rows.parquet"
    found = digest_of_sidecar(uri)
    if found != (summary.failing_rows, summary.rows_digest):
        raise InternalError(
            f"{uri} has {found[0]} rows with the digest {found[1]}; the verdict says {summary.failing_rows} with "
            f"{summary.rows_digest}."
        )


def digest_of_sidecar(uri: str) -> tuple[int, str]:
    """Return how many rows a sidecar has, and their digest as a verdict has it; in bounded memory.

    Raises:
        StoreError: it cannot be read; a retry is safe.
    """
    with open_written(uri) as stream:
        parquet = pq.ParquetFile(stream, pre_buffer=False)
        suite = parquet.schema_arrow.metadata[b"millcert.suite_sha256"].decode()
        hashers: dict[tuple[str, str], RowHasher] = {}
        for batch in parquet.iter_batches(use_threads=False):
            for name, sha256, rows, masks in _of_files(batch):
                hashers.setdefault((name, sha256), RowHasher()).add(rows, masks)
    files = [FailingRows(name, sha256, one.count, one.digest()) for (name, sha256), one in hashers.items()]
    return sum(one.rows for one in files), rows_digest(suite, files)


def _of_files(batch: pa.RecordBatch) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield (name, SHA-256, rows, masks) of each stretch of rows of one file."""
    runs = pc.run_end_encode(batch.column("file"))
    start = 0
    for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        part = batch.slice(start, end - start)
        masks = np.array([np.frombuffer(mask, np.uint8) for mask in part.column("failed").to_pylist()], np.uint8)
        yield name, part.column("file_sha256")[0].as_py().hex(), part.column("row").to_numpy(), masks
        start = end
