"""Views beside a data file: written row by row under its digest, and joined to its rows where checks read them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from millcert.errors import DigestMismatchError, IntegrityError
from millcert.pipelines.formats import Decoded, ReadLimits
from millcert.pipelines.records import WorkItem
from millcert.pipelines.spool import read_verified

_READ_ROWS = 4096


def view_schema(columns: Mapping[str, int]) -> pa.Schema:
    """Return the fields of a file of views, without its row numbers."""
    return pa.schema([pa.field(name, pa.list_(pa.float32(), width)) for name, width in columns.items()])


class ViewRows:
    """The views of one data file, read from the first row to the last beside the data."""

    def __init__(self, batches: Iterator[pa.RecordBatch], columns: Mapping[str, int], name: str) -> None:
        self._batches = batches
        self._schema = pa.schema([pa.field("row", pa.int64()), *view_schema(columns)])
        self._held = self._schema.empty_table()
        self._name = name

    def joined(self, decoded: Decoded) -> pa.RecordBatch:
        """Return a decoded batch with the views of its rows as columns behind it; rows must ascend from call to call.

        Raises:
            IntegrityError: a row has no view, or the file has other columns than its manifest says.
        """
        fields = list(self._schema)[1:]
        if not len(decoded.rows):
            return _behind(decoded.batch, fields, [pa.array([], field.type) for field in fields])
        last = int(decoded.rows[-1])
        parts, held = [self._held], self._held
        while not held.num_rows or held.column("row")[-1].as_py() < last:
            batch = next(self._batches, None)
            if batch is None:
                break
            if not batch.schema.equals(self._schema):
                raise self._refusal("has other columns than its manifest says")
            held = pa.Table.from_batches([batch])
            parts.append(held)
        table = pa.concat_tables(parts).combine_chunks()
        rows = table.column("row").to_numpy()
        places = np.searchsorted(rows, decoded.rows)
        if not len(rows) or places.max() >= len(rows) or not np.array_equal(rows[places], decoded.rows):
            raise self._refusal("lacks rows of the data")
        self._held = table.slice(int(places[-1]) + 1)
        taken = table.take(pa.array(places)).combine_chunks().to_batches()[0]
        return _behind(decoded.batch, fields, taken.columns[1:])

    def _refusal(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"The file of views of {self._name} {what}.", hint="Run `millcert embed` again.", path=self._name
        )


def _behind(batch: pa.RecordBatch, fields: list[pa.Field], columns: list[pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=pa.schema([*batch.schema, *fields]))


@contextmanager
def open_views(item: WorkItem, columns: Mapping[str, int], limits: ReadLimits) -> Iterator[ViewRows | None]:
    """Yield the views of a verified data file, None where the run has none.

    Raises:
        DigestMismatchError: the views were made of other bytes than this file's, or changed since.
    """
    if not columns:
        yield None
        return
    if item.view_of != item.sha256:
        raise DigestMismatchError(
            f"The views of {item.name} were made of a file with SHA-256 {item.view_of}; this one has {item.sha256}.",
            hint="Run `millcert embed` on these very files.",
            path=item.name,
            expected=item.view_of,
            actual=item.sha256,
        )
    with read_verified(item.view_uri, expected_sha256=item.view_sha256, limits=limits) as spooled:
        try:
            batches = pq.ParquetFile(spooled.file).iter_batches(batch_size=_READ_ROWS)
        except pa.ArrowException as error:
            raise IntegrityError(f"The file of views of {item.name} is damaged: {error}") from error
        yield ViewRows(batches, columns, item.name)
