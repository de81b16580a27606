"""Rows that fail the suite, in the scoring read: all go to a sidecar, and to quarantine where the policy says so.

The same read counts what needs the first one's figures (z-scores, outliers), so a suite costs no read of its own. The
sidecar has one row for each sample that fails an expectation, in the order of files and rows: where it stands, by name
and digest of the file, and a bit mask of all the expectations that it fails (`millcert.checks.metric_rows`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from millcert.checks.metric_columns import BatchView
from millcert.checks.metric_counting import Counting
from millcert.checks.metric_plan import MetricPlan, RowCheck
from millcert.checks.metric_rows import Keeping, RowMarker, has_bit, mask_width
from millcert.checks.metric_where import inner
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.known_keys import MOST_BYTES, known_keys
from millcert.pipelines.metric_spill import repeated_of
from millcert.pipelines.models import EXPECTATIONS, Models
from millcert.pipelines.output import PartWriter, part_name
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.records import FailingRows, WorkItem
from millcert.pipelines.row_digest import RowHasher
from millcert.pipelines.score_schemas import FINDINGS_SCHEMA, SUGGESTION_FIELDS

ROWS_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("file_sha256", pa.binary(32), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("failed", pa.binary(), nullable=False),
    ]
)
#: The name of expectations' findings beside those of checks, and the kind of a sample that only expectations hold.
FINDER, KIND = "expectations", "expectation"
#: What `on_failure` says where the rows that fail are held back instead of the data set.
QUARANTINE_ROWS = "quarantine_rows"


def rows_schema(plan: VetPlan) -> pa.Schema:
    """Return the sidecar's schema; its metadata say what each bit means, in the words of the suite."""
    if plan.suite is None:
        return ROWS_SCHEMA
    bits = [{"type": entry["type"], "kwargs": entry["kwargs"]} for entry in plan.suite.expectations]
    text = json.dumps(bits, sort_keys=True, separators=(",", ":"))
    return ROWS_SCHEMA.with_metadata(
        {"millcert.suite_sha256": plan.suite.digest, "millcert.expectations": text},
    )


class Failing(NamedTuple):
    """What the suite says of n samples: uint8 (n, width) masks, and bool (n,) which of them are to be held back."""

    masks: np.ndarray
    held: np.ndarray


@dataclass(frozen=True)
class SuiteRows:
    """What is asked of every row; made once a worker. holding: the expectations whose rows are held back."""

    second: MetricPlan
    marker: RowMarker
    holding: tuple[RowCheck, ...]


def suite_rows(plan: VetPlan, dataset: DatasetFacts, models: Models) -> SuiteRows | None:
    """Return what to ask, None where there is no suite or no sample was measured."""
    metrics, acc = dataset.metrics, models.get(EXPECTATIONS)
    if plan.suite is None or metrics is None or acc is None:
        return None
    counting = [one for one in metrics.row_checks if one.kernel is not None and isinstance(inner(one.kernel), Counting)]
    kept = partial(known_keys, most_bytes=MOST_BYTES // max(1, len(counting)))
    marker = RowMarker(metrics, acc, mask_width(len(plan.suite.expectations)), Keeping(repeated_of, kept))
    is_holding = plan.suite_on_failure == QUARANTINE_ROWS
    holding = tuple(check for check in marker.checks if is_holding and check.severity == "critical")
    return SuiteRows(metrics.second(acc), marker, holding)


def rows_place(plan: VetPlan, item: WorkItem) -> tuple[str, pa.Schema]:
    """Return where the sidecar of a file is, and its schema."""
    return f"{plan.staging}/parts/expectation_rows/{part_name(item.name)}", ROWS_SCHEMA


def second_plan(plan: VetPlan, dataset: DatasetFacts, models: Models) -> MetricPlan | None:
    """Return what the scoring read measures for the suite, None where `suite_rows` has nothing to ask."""
    metrics, acc = dataset.metrics, models.get(EXPECTATIONS)
    return None if plan.suite is None or metrics is None or acc is None else metrics.second(acc)


class FileRows:
    """The failing rows of one file, or of a span: `writer` takes them, by default the file's own sidecar.

    parts: of the second read. counts: number of an expectation -> rows held back for it.
    """

    def __init__(self, plan: VetPlan, item: WorkItem, asked: SuiteRows | None, writer: Any = None) -> None:
        self._asked = asked
        self._item = item
        self._writer = PartWriter(*rows_place(plan, item)) if writer is None else writer
        self._marker = None if asked is None else asked.marker.of_file(item.name)
        self.parts: Any = {}
        self.counts: dict[int, int] = {}
        self._hasher = RowHasher()

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def add(self, batch: pa.RecordBatch, rows: np.ndarray) -> Failing:
        """Measure, mark and write one batch of usable samples; batches come in the order of their rows."""
        asked = self._asked
        if asked is None or self._marker is None or not (asked.marker.checks or asked.second.kernels):
            return Failing(np.zeros((len(rows), 0), np.uint8), np.zeros(len(rows), dtype=bool))
        if asked.second.kernels:
            self.parts = asked.second.add(self.parts, batch, self._item.name, rows)
        masks = self._marker.mark(BatchView(batch, self._item.name, rows))
        failing = np.flatnonzero(masks.any(axis=1))
        self._write(rows[failing], masks[failing])
        held = np.zeros(len(rows), dtype=bool)
        for check in asked.holding:
            mine = has_bit(masks, check.number)
            self.counts[check.number] = self.counts.get(check.number, 0) + int(mine.sum())
            held |= mine
        return Failing(masks, held)

    def failing(self) -> FailingRows:
        """Return how many rows fail, and their digest."""
        return FailingRows(self._item.name, self._item.sha256, self._hasher.count, self._hasher.digest())

    def end(self) -> Any:
        """Return the parts of the second read, compacted."""
        return self.parts if self._asked is None else self._asked.second.merge([self.parts])

    def reasons(self, mask: np.ndarray) -> list[dict[str, Any]]:
        """Return why a sample with a mask is held back, as quarantine lists reasons."""
        checks = () if self._asked is None else self._asked.holding
        return [
            {"check": FINDER, "reason": check.type, "group": check.column, "score": 1.0, "threshold": 0.0}
            for check in checks
            if mask[check.number // 8] >> (check.number % 8) & 1
        ]

    def findings(
        self, failing: Failing, rows: np.ndarray, digests: pa.Array, sources: pa.Array, labels: pa.Array | None
    ) -> list[pa.RecordBatch]:
        """Return a finding for each sample that is held back and each expectation that holds it."""
        found = []
        labels = pa.nulls(len(rows), pa.string()) if labels is None else labels
        for check in () if self._asked is None or not failing.held.any() else self._asked.holding:
            chosen = np.flatnonzero(has_bit(failing.masks, check.number))
            found.append(self._findings(check, rows[chosen], pa.array(chosen), (digests, sources, labels)))
        return found

    def _findings(
        self, check: RowCheck, rows: np.ndarray, chosen: pa.Array, about: Sequence[pa.Array]
    ) -> pa.RecordBatch:
        digests, sources, labels = about
        count = len(rows)
        columns = [
            _same(self._item.name, count),
            pa.array(rows),
            digests.take(chosen),
            sources.take(chosen),
            labels.take(chosen),
            _same(FINDER, count),
            _same(check.column, count),
            pa.array(np.ones(count)),
            pa.array(np.zeros(count)),
            _same(check.type, count),
            _same("quarantine", count),
            _same(KIND, count),
            pa.array([[]] * count, pa.list_(pa.string())),
            *(pa.nulls(count, field.type) for field in SUGGESTION_FIELDS),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=FINDINGS_SCHEMA)

    def _write(self, rows: np.ndarray, masks: np.ndarray) -> None:
        self._hasher.add(rows, masks)
        sha256 = bytes.fromhex(self._item.sha256)
        flat = pa.Array.from_buffers(pa.binary(masks.shape[1]), len(rows), [None, pa.py_buffer(masks.tobytes())])
        columns = [
            _same(self._item.name, len(rows)),
            pa.array([sha256] * len(rows), pa.binary(32)),
            pa.array(rows),
            flat.cast(pa.binary()),
        ]
        self._writer.write(pa.RecordBatch.from_arrays(columns, schema=ROWS_SCHEMA))


def _same(text: str, count: int) -> pa.Array:
    return pa.array([text] * count, pa.string())
