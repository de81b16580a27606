"""From files to sample batches: every pass re-reads, re-hashes and decodes the same verified bytes.

A sample batch is a `pa.RecordBatch` whose columns are named by what they are:
  row            int64, the record's index in its file
  digest         fixed_size_binary[32], the sample digest (only where a pass asks for it)
  role:NAME      a role that a check asks for (checks/columns.py)
  column:NAME    one of the user's columns (only where expectations are computed)
Its schema metadata names the file and the source. Malformed records and rows that cannot play their roles are not in
it.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from millcert.errors import MillcertError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.digest_sidecar import DigestSource, digest_source, recorded_digests
from millcert.pipelines.formats import Decoded, DecodedBudget, ReadLimits
from millcert.pipelines.progress import ProgressReporter
from millcert.pipelines.records import ShardFacts, SpanFacts, WorkItem, fault_from
from millcert.pipelines.roles import RoleView
from millcert.pipelines.row_hashes import row_hashes
from millcert.pipelines.sample_leaves import LeafWriter, read_secret
from millcert.pipelines.splitting import open_unit
from millcert.pipelines.spool import Spooled
from millcert.pipelines.view_rows import ViewRows, open_views
from millcert.provenance.compact_range import RangeBuilder
from millcert.provenance.merkle import TreeBuilder

FILE_KEY = b"millcert.file"
SOURCE_KEY = b"millcert.source"


@dataclass(frozen=True)
class ReadRequest:
    """What one pass needs of the data.

    number: of the pass, for progress. wants_columns: the user's columns (expectations). wants_digests: sample digests.
    wants_shards: emit `ShardFacts` and write the salted leaves to `staging` (the first full read does).
    keeps_digests: write the digest sidecars (the first full read does, where a check asks for digests).
    view_columns: of the views that are read beside the data, column -> width.
    """

    number: int
    wants_columns: bool
    wants_digests: bool
    wants_shards: bool
    keeps_digests: bool
    limits: ReadLimits
    progress_path: str
    staging: str
    view_columns: Mapping[str, int] = field(default_factory=dict)


class ReadFile(beam.DoFn):
    """Read a file, or a span of one, into sample batches.

    Beside them go the tags `shards` (ShardFacts), `spans` (SpanFacts) and `faults` (Fault).

    Nothing is read when `dataset` holds a fault. Sample batches are for the same worker only (accumulate.py).
    """

    def __init__(self, request: ReadRequest) -> None:
        super().__init__()
        self._request = request

    def setup(self) -> None:
        """Open the progress file."""
        self._progress = ProgressReporter(self._request.progress_path)
        self.row_runs: list[tuple[int, int]] = []

    def skip(self, item: WorkItem) -> None:
        """Say that a file need not be read."""
        self._progress.advance(self._request.number, size_bytes=item.read_bytes)

    def teardown(self) -> None:
        """Close the progress file."""
        self._progress.close()

    def process(
        self,
        item: WorkItem,
        dataset: DatasetFacts,
        sidecars: Mapping[str, str] | None = None,
        broken: Collection[str] | None = None,
    ) -> Iterator[Any]:
        """Yield the file's batches in order.

        Args:
            item: the unit of work.
            dataset: what is known of all files.
            sidecars: unit -> SHA-256 of its digest sidecar, where a check asks for digests.
            broken: units with malformed records, as the first pass found them; None in that pass itself.
        """
        if dataset.faults:
            return
        try:
            verified = dataset.unit(item)
            with (
                open_unit(verified, self._request.staging, self._request.limits) as spooled,
                self._leaf_writer(item) as leaves,
                self._digests(item, sidecars) as source,
                open_views(verified, self._request.view_columns, self._request.limits) as views,
            ):
                columns = self._columns(item, dataset, sidecars, broken)
                yield from self._read(verified, spooled, dataset, leaves, source, views, columns)
        except MillcertError as error:
            yield TaggedOutput("faults", fault_from(error, file=item.name))
        self._progress.advance(self._request.number, size_bytes=item.read_bytes)

    def _columns(
        self,
        item: WorkItem,
        dataset: DatasetFacts,
        sidecars: Mapping[str, str] | None,
        broken: Collection[str] | None,
    ) -> frozenset[str] | None:
        """Return the columns that this pass needs of a file, None for all.

        A sample digest needs all, unless it was kept. So does a file with malformed records: which they are is seen in
        all columns.
        """
        request = self._request
        needs_all = request.wants_columns or request.wants_shards or broken is None or item.unit in broken
        if needs_all or (request.wants_digests and not (sidecars or {}).get(item.unit)):
            return None
        return dataset.role_columns

    def _leaf_writer(self, item: WorkItem) -> AbstractContextManager[LeafWriter | None]:
        if not self._request.wants_shards:
            return nullcontext()
        return LeafWriter(self._request.staging, item.name, read_secret(self._request.staging), item.span)

    def _digests(self, item: WorkItem, sidecars: Mapping[str, str] | None) -> AbstractContextManager[DigestSource]:
        if self._request.keeps_digests:
            return recorded_digests(self._request.staging, item.unit)
        wanted = sidecars if self._request.wants_digests else None
        return digest_source(self._request.staging, item.unit, wanted, self._request.limits)

    def _read(
        self,
        item: WorkItem,
        spooled: Spooled,
        dataset: DatasetFacts,
        leaves: LeafWriter | None,
        source: DigestSource,
        views: ViewRows | None,
        columns: frozenset[str] | None,
    ) -> Iterator[Any]:
        request, records = self._request, 0
        tree = RangeBuilder(0 if item.span is None else item.span.first_row)
        budget = DecodedBudget(item.name, item.size_bytes, request.limits)
        self.row_runs = []
        metadata = {FILE_KEY: item.name.encode(), SOURCE_KEY: item.source.encode()}
        for decoded in dataset.decode(item, spooled.file, request.limits, budget, columns):
            records += len(decoded.rows) + len(decoded.malformed)
            digests = None
            if request.wants_digests or request.wants_shards:
                digests = source.of(decoded.batch)
            if leaves is not None and digests is not None:
                tree.extend(leaf_hashes(digests))
                leaves.add(decoded.rows, digests)
                add_runs(self.row_runs, decoded.rows)
            batch, _ = sample_batch(
                decoded,
                digests if request.wants_digests else None,
                item,
                dataset,
                wants_columns=request.wants_columns,
                views=views,
            )
            self._progress.advance(request.number, rows=len(decoded.rows))
            if batch.num_rows:
                yield batch.replace_schema_metadata(metadata)
        if leaves is not None:
            leaves.end(records)
            yield _first_facts(item, records, tree, budget, source.end())


def _first_facts(
    item: WorkItem, records: int, tree: RangeBuilder, budget: DecodedBudget, digests_sha256: str
) -> TaggedOutput:
    """Return what the first full read says of a file, or of a span."""
    if item.span is not None:
        found = SpanFacts(item.name, item.span, records, tree.size, tree.subtrees(), budget.spent_bytes, digests_sha256)
        return TaggedOutput("spans", found)
    whole = TreeBuilder()
    for subtree in tree.subtrees():
        whole.append_subtree(*subtree)
    return TaggedOutput("shards", ShardFacts(item.name, records, whole.size, whole.root().hex(), digests_sha256))


def add_runs(runs: list[tuple[int, int]], rows: np.ndarray) -> None:
    """Append ascending row numbers, int64 (n,), to runs of consecutive ones: (first, how many)."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)] if len(rows) else []
    for start, end in pairwise(edges):
        first = int(rows[start])
        if runs and sum(runs[-1]) == first:
            runs[-1] = (runs[-1][0], runs[-1][1] + end - start)
        else:
            runs.append((first, end - start))


def sample_batch(
    decoded: Decoded,
    digests: np.ndarray | None,
    item: WorkItem,
    dataset: DatasetFacts,
    *,
    wants_columns: bool,
    views: ViewRows | None = None,
) -> tuple[pa.RecordBatch, RoleView]:
    """Return the sample batch of what was decoded, and the view that says which rows are in it."""
    view = dataset.roles.apply(decoded.batch if views is None else views.joined(decoded), item.source)
    mask = None if view.usable.all() else pa.array(view.usable)
    names, arrays = ["row"], [pa.array(decoded.rows[view.usable])]
    if digests is not None:
        names.append("digest")
        arrays.append(digest_array(digests if mask is None else digests[view.usable]))
    for name, column in zip(view.roles.schema.names, view.roles.columns, strict=True):
        names.append(f"role:{name}")
        arrays.append(column)
    if wants_columns:
        for name, column in zip(decoded.batch.schema.names, decoded.batch.columns, strict=True):
            names.append(f"column:{name}")
            arrays.append(column if mask is None else column.filter(mask))
    return pa.RecordBatch.from_arrays(arrays, names=names), view


def role_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the columns that checks see, under their role names; `sample_digest` where the batch has digests."""
    named = [
        (name.removeprefix("role:"), index) for index, name in enumerate(batch.schema.names) if name.startswith("role:")
    ]
    position = batch.schema.get_field_index("digest")
    if position >= 0:
        named.append(("sample_digest", position))
    return pa.RecordBatch.from_arrays([batch.column(index) for _, index in named], names=[name for name, _ in named])


def user_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the user's columns under their own names."""
    named = [
        (name.removeprefix("column:"), index)
        for index, name in enumerate(batch.schema.names)
        if name.startswith("column:")
    ]
    return pa.RecordBatch.from_arrays([batch.column(index) for _, index in named], names=[name for name, _ in named])


def leaf_hashes(digests: np.ndarray) -> list[bytes]:
    """Return the leaf hashes of digests of shape (n, 32), in order: what a row tree is built of."""
    return row_hashes(len(digests), b"\x00", digests)  # `merkle.leaf_hash`, for many


def digest_array(digests: np.ndarray) -> pa.Array:
    """Return digests of shape (n, 32) as fixed_size_binary[32], without copying row by row."""
    buffer = pa.py_buffer(np.ascontiguousarray(digests).tobytes())
    return pa.Array.from_buffers(pa.binary(32), len(digests), [None, buffer])
