"""The last read of a span: what it finds out goes to files of its own, which the joining step puts together.

    parts/spans/ID.KIND      batches of a part (findings, malformed, reported, quarantine, expectation_rows), Arrow IPC
    parts/spans/ID.excluded  numbers of the rows that are not admitted, int64, ascending

Batches are kept as they were, so what the joining step writes of them has the very bytes that one reader of the whole
file would have written. The SHA-256 of each travels through the runner, and the joining step holds it to that.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.fusion import Panel
from millcert.errors import StoreError, UsageError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.digest_sidecar import DigestSource
from millcert.pipelines.expectation_rows import FileRows, SuiteRows, rows_place
from millcert.pipelines.formats import ReadLimits
from millcert.pipelines.formats.base import buffer_of
from millcert.pipelines.models import Models
from millcert.pipelines.output import HashingStream, PartWriter, open_output, part_id, translate_store_errors
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.progress import ProgressReporter
from millcert.pipelines.records import Span, WorkItem, unit_name
from millcert.pipelines.score import Tally, part_places, score_batches
from millcert.pipelines.spool import Spooled, read_verified

EXCLUDED, EXPECTATION_ROWS = "excluded", "expectation_rows"


class SpanOutcome(NamedTuple):
    """What the scoring read found of a span. parts: kind -> SHA-256 (hex) of what was written of it.

    tally: what was counted, without the excluded rows, which are in a part. The rest is as in `FileOutcome`.
    """

    name: str
    span: Span
    tally: Tally
    parts: dict[str, str]
    findings: int
    metrics: Any
    held_by: dict[int, int]


def score_span(
    plan: VetPlan,
    item: WorkItem,
    spooled: Spooled,
    source: DigestSource,
    dataset: DatasetFacts,
    models: Models,
    progress: ProgressReporter,
    panel: Panel,
    asked: SuiteRows | None,
) -> SpanOutcome:
    """Score, write and count one span."""
    places = {**part_places(plan, item, dataset), EXPECTATION_ROWS: rows_place(plan, item)}
    with ExitStack() as stack:
        writers = {
            kind: stack.enter_context(PartWriter(_place(plan, item.unit, kind), schema, as_stream=True))
            for kind, (_, schema) in places.items()
        }
        failing = FileRows(plan, item, asked, writers[EXPECTATION_ROWS])
        tally = score_batches(plan, item, spooled, source, dataset, models, progress, panel, failing, writers)
    parts = {kind: writer.sha256 for kind, writer in writers.items() if writer.rows}
    if tally.excluded:
        parts[EXCLUDED] = _write_excluded(_place(plan, item.unit, EXCLUDED), np.concatenate(tally.excluded))
    span = item.span or Span(0, 1, 0, 0, 0, item.size_bytes)
    findings, counted = writers["findings"].rows, replace(tally, excluded=[])
    return SpanOutcome(item.name, span, counted, parts, findings, failing.end(), failing.counts)


def _write_excluded(uri: str, rows: np.ndarray) -> str:
    with translate_store_errors(uri), open_output(uri) as target:
        stream = HashingStream(target)
        stream.write(np.ascontiguousarray(rows, "<i8").tobytes())
    return stream.result()[0]


def _place(plan: VetPlan, unit: str, kind: str) -> str:
    return f"{plan.staging}/parts/spans/{part_id(unit)}.{kind}"


def span_batches(plan: VetPlan, outcome: SpanOutcome, kind: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a span's part, verified; none where it has no rows.

    Raises:
        DigestMismatchError: the part is not what the span's worker wrote.
        StoreError: it is missing.
    """
    if kind in outcome.parts:
        with _verified(plan, outcome, kind) as file, pa.ipc.open_stream(buffer_of(file)) as reader:
            yield from reader


def excluded_rows(plan: VetPlan, outcome: SpanOutcome) -> np.ndarray:
    """Return the numbers of a span's rows that are not admitted, int64, ascending.

    Raises:
        As `span_batches`.
    """
    if EXCLUDED not in outcome.parts:
        return np.zeros(0, np.int64)
    with _verified(plan, outcome, EXCLUDED) as file:
        return np.frombuffer(file.read(), "<i8").astype(np.int64)


@contextmanager
def _verified(plan: VetPlan, outcome: SpanOutcome, kind: str) -> Iterator[Any]:
    uri = _place(plan, unit_name(outcome.name, outcome.span), kind)
    limits: ReadLimits = replace(plan.limits, max_file_bytes=1 << 62)
    with ExitStack() as stack:
        try:
            spooled = stack.enter_context(read_verified(uri, expected_sha256=outcome.parts[kind], limits=limits))
        except UsageError as error:
            message = f"A part of {outcome.name} is missing from the run: {error.message}"
            raise StoreError(message, hint="Run again.") from error
        yield spooled.file


def summed(outcomes: list[SpanOutcome]) -> Tally:
    """Return what was counted over all spans of a file."""
    total = Tally()
    for one in outcomes:
        total = total.plus(one.tally)
    return total


def parts_of(outcomes: list[SpanOutcome]) -> Mapping[str, list[SpanOutcome]]:
    """Return by kind those spans, in order, that have rows of it."""
    kinds = sorted({kind for one in outcomes for kind in one.parts if kind != EXCLUDED})
    return {kind: [one for one in outcomes if kind in one.parts] for kind in kinds}
