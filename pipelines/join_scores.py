"""What the scoring read found of a file's spans, put together in order: the file's parts, and its admitted copy.

Where nothing is held back, the admitted file is the file, copied byte for byte and held to its digest on the way. Where
something is, one worker decodes the file a second time, span by span, and writes what is left of it: a Parquet file's
row groups depend on all rows before them. That step is not split.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks.metric_plan import MetricPlan
from millcert.errors import InternalError
from millcert.pipelines.blocks import copy_verified
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.expectation_rows import rows_place
from millcert.pipelines.formats import Decoded
from millcert.pipelines.join_shards import in_order
from millcert.pipelines.output import PartWriter, write_admitted
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.records import FailingRows, FileOutcome, WorkItem
from millcert.pipelines.row_digest import RowHasher
from millcert.pipelines.score import Tally, file_outcome, kept_batches, part_places
from millcert.pipelines.score_spans import (
    EXPECTATION_ROWS,
    SpanOutcome,
    excluded_rows,
    parts_of,
    span_batches,
    summed,
)
from millcert.pipelines.splitting import open_unit
from millcert.provenance.merkle import TreeBuilder


def by_file(outcome: SpanOutcome) -> tuple[str, SpanOutcome]:
    """Return an outcome under the name of its file."""
    return outcome.name, outcome


def join_scores(
    plan: VetPlan, found: Iterable[SpanOutcome], dataset: DatasetFacts, second: MetricPlan | None
) -> Iterator[FileOutcome]:
    """Yield a file's outcome; nothing where a span is missing, which is a fault already.

    Args:
        plan: of the run.
        found: of the file's spans, in any order.
        dataset: what is known of all files.
        second: what this read measures for the suite.

    Raises:
        MillcertError: a part is not what was written, or the file is not what was hashed.

    Cost: a copy of the file; where something of it is held back, a read with its row digests and a write.
    """
    spans = in_order(found)
    if not spans:
        return
    item = dataset.item(spans[0].name)
    places = {**part_places(plan, item, dataset), EXPECTATION_ROWS: rows_place(plan, item)}
    hasher = RowHasher()
    for kind, those in parts_of(spans).items():
        with PartWriter(*places[kind]) as writer:
            for one in those:
                for batch in span_batches(plan, one, kind):
                    writer.write(batch)
                    if kind == EXPECTATION_ROWS:
                        hasher.add(batch.column("row").to_numpy(), _masks(batch))
    tally = summed(spans)
    metrics: Any = {} if second is None else second.merge([one.metrics for one in spans])
    held_by = sum((Counter(one.held_by) for one in spans), Counter[int]())
    output = _write_admitted(plan, item, spans, dataset, tally)
    yield file_outcome(
        item,
        tally,
        output,
        sum(one.findings for one in spans),
        metrics=metrics,
        held_by=dict(held_by),
        failing=FailingRows(item.name, item.sha256, hasher.count, hasher.digest()),
    )


def _masks(batch: pa.RecordBatch) -> np.ndarray:
    """Return the masks of a sidecar's rows, uint8 (n, width)."""
    return np.frombuffer(b"".join(batch.column("failed").to_pylist()), np.uint8).reshape(batch.num_rows, -1)


def _write_admitted(
    plan: VetPlan, item: WorkItem, spans: list[SpanOutcome], dataset: DatasetFacts, tally: Tally
) -> tuple[str, int, str]:
    """Return the SHA-256, size and row tree root of the admitted file."""
    output = f"{plan.staging}/publish/admitted/{item.name}"
    if not (tally.quarantined or tally.malformed or dataset.dropped):
        return *copy_verified(item.uri, output, expected_sha256=item.sha256), ""
    tree = TreeBuilder()
    with open_unit(item._replace(span=spans[0].span), plan.staging, plan.limits) as like:
        admitted = _kept(plan, item, spans, dataset, tree)
        sha256, size_bytes = write_admitted(output, item, like, admitted, plan.limits, dataset.kept_columns)
    if tree.size != tally.admitted:
        raise InternalError(f"{item.name}: {tally.admitted} samples are admitted, {tree.size} were written.")
    return sha256, size_bytes, tree.root().hex()


def _kept(
    plan: VetPlan, item: WorkItem, spans: list[SpanOutcome], dataset: DatasetFacts, tree: TreeBuilder
) -> Iterator[Decoded]:
    for one in spans:
        unit, excluded = item._replace(span=one.span), excluded_rows(plan, one)
        with open_unit(unit, plan.staging, plan.limits) as spooled:
            yield from kept_batches(plan, unit, spooled, dataset, excluded, tree)
