"""From the run's findings to the records that the state folder keeps: what all checks said of one sample, together."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pyarrow.parquet as pq

from millcert.pipelines.output import open_written
from millcert.provenance.finding_leaf import format_record
from millcert.provenance.sample_leaf import BLOCK_ROWS, RunSecret, row_salt
from millcert.verdict import canonical_value

_COLUMNS = ["file", "row", "action", "check", "group", "reason", "score", "threshold"]
_WORDS = ("action", "check", "group", "reason", "score", "threshold")


def finding_records(path: str, secret: RunSecret) -> Iterator[tuple[bytes, bytes]]:
    """Yield (row salt, record) of every flagged sample in a run's merged findings.

    Args:
        path: `findings.parquet` of the run, whose rows of one sample stand together.
        secret: of the run.

    Raises:
        StoreError: the file cannot be read.

    Cost: about 20 microseconds a finding; memory of one batch.
    """
    for file, row, record in published_records(path):
        block, offset = divmod(row, BLOCK_ROWS)
        yield row_salt(secret.block_seed(file, block), offset), record


def published_records(path: str) -> Iterator[tuple[str, int, bytes]]:
    """Yield (file, row, record) of each flagged sample in published findings; errors and cost as `finding_records`."""
    for (file, row), findings in groupby(_rows(path), key=lambda one: (one["file"], one["row"])):
        # Six significant digits, as in the verdict: the same record on any machine.
        yield file, row, format_record([canonical_value({name: one[name] for name in _WORDS}) for one in findings])


def _rows(path: str) -> Iterator[dict[str, Any]]:
    with open_written(path) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(columns=_COLUMNS):
            yield from batch.to_pylist()


def findings_of(published: str, secret: RunSecret) -> Iterator[tuple[bytes, bytes]]:
    """Return the records of what is about to be published; see `finding_records`."""
    return finding_records(f"{published}/findings.parquet", secret)
