"""Sample digests, computed once: the first pass keeps 32 bytes a row beside its parts, later passes read them back.

    parts/digests/ID      the digests of the rows that decode, in row order

Rules:
  1. A pass takes no byte that it did not check. The sidecar's SHA-256 travels with the file's `ShardFacts`, through the
     runner and never through the staging folder, and the whole sidecar must meet it before a digest of it is used.
  2. What the SHA-256 binds was computed by the first pass from bytes that met the file's own digest. Later passes
     decode the same bytes, so row i of a sidecar is row i of what they decode; one of another length is refused.
  3. A retry writes identical bytes under the same name.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from millcert.checks.sample_digest import sample_digests
from millcert.errors import InternalError, StoreError, UsageError
from millcert.pipelines.formats import ReadLimits
from millcert.pipelines.output import HashingStream, open_output, part_id, translate_store_errors
from millcert.pipelines.spool import Spooled, read_verified

DIGEST_BYTES = 32


class DigestSource(Protocol):
    """Gives the sample digests of one file's batches, asked for in order and each once."""

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return the digests of the next batch's rows, uint8 (n, 32)."""
        ...

    def end(self) -> str:
        """End the file; return the SHA-256 (hex) of the sidecar that was written, "" where none was."""
        ...


class ComputedDigests:
    """Computes the digests and keeps nothing."""

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return the digests, at about 0.7 microseconds a row."""
        return sample_digests(batch)

    def end(self) -> str:
        """Return ""."""
        return ""


class _RecordedDigests:
    def __init__(self, stream: HashingStream, uri: str) -> None:
        self._stream = stream
        self._uri = uri

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        digests = sample_digests(batch)
        if len(digests):
            with translate_store_errors(self._uri):
                self._stream.write(digests.reshape(-1))
        return digests

    def end(self) -> str:
        return self._stream.result()[0]


class _KeptDigests:
    def __init__(self, spooled: Spooled, file: str) -> None:
        self._spooled = spooled
        self._file = file

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        data = self._spooled.file.read(batch.num_rows * DIGEST_BYTES)
        if len(data) != batch.num_rows * DIGEST_BYTES:
            raise InternalError(f"{self._file}: a later pass decodes more rows than the first one did.")
        return np.frombuffer(data, np.uint8).reshape(-1, DIGEST_BYTES)

    def end(self) -> str:
        if self._spooled.file.read(1):
            raise InternalError(f"{self._file}: a later pass decodes fewer rows than the first one did.")
        return ""


@contextmanager
def recorded_digests(staging: str, file: str) -> Iterator[DigestSource]:
    """Compute the digests of a file and write them down.

    Raises:
        StoreError: the staging folder cannot be written.
    """
    uri = sidecar_uri(staging, file)
    with translate_store_errors(uri):
        target = open_output(uri)
    try:
        yield _RecordedDigests(HashingStream(target), uri)
    finally:
        with translate_store_errors(uri):
            target.close()


@contextmanager
def kept_digests(staging: str, file: str, sha256: str, limits: ReadLimits) -> Iterator[DigestSource]:
    """Read the digests of a file back, as the first pass wrote them.

    Raises:
        InternalError: at the end, if not all of them were asked for.
        DigestMismatchError: the sidecar is not the one that the first pass wrote.
        StoreError: it is missing, or cannot be read.
    """
    # Some formats spend less than 32 bytes a row, so the bound on a file's size says nothing here.
    bounds = replace(limits, max_file_bytes=1 << 62)
    with ExitStack() as stack:
        try:
            kept = read_verified(sidecar_uri(staging, file), expected_sha256=sha256, limits=bounds)
            spooled = stack.enter_context(kept)
        except UsageError as error:
            raise StoreError(
                f"The digests of {file} are missing from the run: {error.message}", hint="Run again."
            ) from error
        source = _KeptDigests(spooled, file)
        yield source
        source.end()


def digest_source(
    staging: str, file: str, sidecars: Mapping[str, str] | None, limits: ReadLimits
) -> AbstractContextManager[DigestSource]:
    """Return the digests that the first pass kept, or a source that computes them where it kept none.

    Args:
        staging: of the run.
        file: its name.
        sidecars: file -> SHA-256 of its sidecar; None where no check asks for digests. A file is missing from it if the
            first pass could not read it; the run fails then, whatever this pass does.
        limits: bounds on reading.
    """
    sha256 = (sidecars or {}).get(file, "")
    return kept_digests(staging, file, sha256, limits) if sha256 else nullcontext(ComputedDigests())


def sidecar_uri(staging: str, file: str) -> str:
    """Return where a file's sidecar is."""
    return f"{staging}/parts/digests/{part_id(file)}"
