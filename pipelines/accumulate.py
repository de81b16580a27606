"""One pass: every accumulator of every check, and of the expectations, from one read.

The maths stands in the checks; here are only the Beam shapes. Each worker folds its batches into one accumulator a
check, and only the parts of those, keyed by (check, group), cross the shuffle: never a sample. Merging is exact, so
the order in which parts meet cannot change the model (checks/base.py, rule 3).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsDict, AsList, AsSingleton, PCollection, TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from millcert.checks.base import Accumulator
from millcert.checks.metric_plan import LEAVING_ENTRIES, MANY_ENTRIES, MetricPlan
from millcert.errors import InternalError, MillcertError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.fit import PartKey, active_checks
from millcert.pipelines.fold_parts import fold_parts
from millcert.pipelines.metric_spill import Accumulators, put_away, spill
from millcert.pipelines.models import EXPECTATIONS, Models
from millcert.pipelines.output import recorded_outputs
from millcert.pipelines.pass_work import FileSums, FileWork, PassWork
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.profiling import PROFILE, CellMerge, ProfileBuffer
from millcert.pipelines.read import FILE_KEY, SOURCE_KEY, ReadFile, ReadRequest, role_batch, user_batch
from millcert.pipelines.records import Fault, Note, ShardFacts, SpanFacts, WorkItem, fault_from

#: Batches of fewer rows wait until there are so many rows or bytes of them: a check's work on a batch has a fixed part.
_SMALL_ROWS, _WAITING_ROWS, _WAITING_BYTES = 2048, 16_384, 32 << 20


class RunPass(beam.PTransform):
    """Read every file once and fold its sample batches into parts.

    In: WorkItem. Out: tags `parts` (((check, group), accumulator of that group alone), one a key), `cells` (the same of
    the profile), `shards` (ShardFacts, both of the first pass), `spans` (SpanFacts, likewise) and `notes` (Fault, and
    WorkDone for each unit of work).

    Reading and adding are one step, not two: a portable runner cuts the pipeline before every step with side inputs
    and would carry each sample batch out of the worker and back (on Flink through a shuffle, which ran out of memory).
    """

    def __init__(
        self,
        plan: VetPlan,
        request: ReadRequest,
        dataset: AsSingleton,
        models: AsSingleton | None,
        sidecars: AsDict | None,
        broken: AsList | None,
    ) -> None:
        super().__init__()
        self._plan = plan
        self._request = request
        self._side_inputs = (dataset, models, sidecars, broken)
        self._dataset = dataset

    def expand(self, items: PCollection[WorkItem]) -> Any:
        """Break fusion, so that files spread over the workers; read and accumulate there; then merge by key."""
        pair = beam.typehints.KV[beam.typehints.Tuple[str, str], Any]
        added = (
            items
            | "Spread" >> beam.Reshuffle()
            | "Read"
            >> beam.ParDo(_ReadAndAccumulate(self._plan, self._request), *self._side_inputs).with_outputs(
                "metrics", "cells", "shards", "spans", "notes", main="checks"
            )
        )
        added.checks.element_type = added.metrics.element_type = added.cells.element_type = pair
        added.shards.element_type, added.spans.element_type = ShardFacts, SpanFacts
        added.notes.element_type = Note
        merged = added.checks | "Merge" >> beam.CombinePerKey(_MergeParts(self._plan)).with_output_types(pair)
        if self._request.number == 1:
            merged = fold_parts(merged, self._plan)
        # How metrics merge stands in the data set's metric plan, which is known only while the pipeline runs; a
        # combiner that waits for it would make the local runner change engines, so these few parts are grouped instead.
        metrics = (
            added.metrics
            | "GroupMetrics" >> beam.GroupByKey()
            | "MergeMetrics" >> beam.Map(_merge_metrics, self._dataset, self._plan.staging).with_output_types(pair)
        )
        parts = [merged, metrics] | "Parts" >> beam.Flatten()
        # The profile is no model: only the ruling needs it, so it does not travel to every later pass with the others.
        cells = added.cells | "MergeCells" >> beam.CombinePerKey(_MergeParts(self._plan)).with_output_types(pair)
        return {
            "parts": parts, "cells": cells, "shards": added.shards, "spans": added.spans, "notes": added.notes
        }  # fmt: skip


class _ReadAndAccumulate(beam.DoFn):
    """Hands each sample batch from the reader to the accumulators, in one worker's memory.

    A file whose work is kept gets accumulators of its own, which are kept and then merged like those of other workers.
    """

    def __init__(self, plan: VetPlan, request: ReadRequest) -> None:
        super().__init__()
        self._plan = plan
        self._request = request
        self._read = ReadFile(request)
        self._add = _Accumulate(plan, request.number)

    def setup(self) -> None:
        self._read.setup()
        #: What the first pass found out, for later ones: sidecars, and units with malformed records.
        self._kept: tuple[Mapping[str, str] | None, list[str] | None] = (None, None)
        self._work = PassWork(self._plan, self._request)

    def teardown(self) -> None:
        self._read.teardown()

    def start_bundle(self) -> None:
        self._add.start_bundle()

    def process(
        self,
        item: WorkItem,
        dataset: DatasetFacts,
        models: Models | None,
        sidecars: Mapping[str, str] | None,
        broken: list[str] | None = None,
    ) -> Iterator[Any]:
        if dataset.faults:
            return
        work, number = self._work, self._request.number
        self._kept = sidecars, broken
        name = work.name(item, dataset, models, active_checks(self._plan, number, models))
        found = work.recall(name, item) if name else None
        if found is not None:
            if found.shard is not None:
                yield TaggedOutput("shards" if isinstance(found.shard, ShardFacts) else "spans", found.shard)
            self._add.absorb(found.sums, dataset)
            yield from self._add.leaving()
            self._read.skip(item)
        elif name:
            yield from self._read_and_keep(name, item, dataset, models)
        else:
            yield from self._read_into(self._add, item, dataset, models)
        yield TaggedOutput("notes", work.done(item, is_reused=found is not None))

    def _read_into(
        self,
        add: "_Accumulate",
        item: WorkItem,
        dataset: DatasetFacts,
        models: Models | None,
    ) -> Iterator[TaggedOutput]:
        for element in self._read.process(item, dataset, *self._kept):
            if isinstance(element, TaggedOutput):
                yield TaggedOutput("notes", element.value) if element.tag == "faults" else element
            else:
                yield from add.process(element, dataset, models)
                if add is self._add:  # what is kept of a file holds all of it
                    yield from add.leaving()

    def _read_and_keep(
        self,
        name: str,
        item: WorkItem,
        dataset: DatasetFacts,
        models: Models | None,
    ) -> Iterator[TaggedOutput]:
        own = _Accumulate(self._plan, self._request.number)
        own.start_bundle()
        with recorded_outputs() as written:
            told = list(self._read_into(own, item, dataset, models))
        try:
            sums = own.sums()
            self._add.absorb(sums, dataset)
        except MillcertError as error:
            told.append(TaggedOutput("notes", fault_from(error, file=item.name)))
        if not any(isinstance(one.value, Fault) for one in told):
            shard = next((one.value for one in told if one.tag in {"shards", "spans"}), None)
            row_runs = np.array(self._read.row_runs, np.int64).reshape(-1, 2)
            self._work.remember(name, FileWork(sums, shard, row_runs), written)
        yield from told
        yield from self._add.leaving()

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._add.finish_bundle()


def _merge_metrics(grouped: tuple[PartKey, Iterable[Any]], dataset: DatasetFacts, staging: str) -> tuple[PartKey, Any]:
    key, parts = grouped
    if dataset.metrics is None:
        raise InternalError("Metrics arrived without a plan.")
    # All of a group is together here, so what is not needed for the results goes no further.
    return key, (EXPECTATIONS, put_away(staging, dataset.metrics.total(key[1], Accumulators(parts))))


class _Accumulate(beam.DoFn):
    def __init__(self, plan: VetPlan, number: int) -> None:
        super().__init__()
        self._plan = plan
        self._number = number

    def start_bundle(self) -> None:
        self._accumulators: dict[str, Accumulator] = {}
        self._waiting: list[tuple[str, pa.RecordBatch]] = []
        self._waiting_size = (0, 0)
        self._blamed = ""
        self._models: Models | None = None
        self._metrics: MetricPlan | None = None
        self._cells: Mapping[str, Any] = {}
        self._profile = None if self._plan.profile is None or self._number != 1 else ProfileBuffer(self._plan.profile)

    def process(self, batch: pa.RecordBatch, dataset: DatasetFacts, models: Models | None) -> Iterator[Any]:
        file = (batch.schema.metadata or {})[FILE_KEY].decode()
        try:
            self._add(batch, file, dataset, models)
        except MillcertError as error:
            yield TaggedOutput("notes", fault_from(error, file=file))

    def leaving(self) -> Iterator[TaggedOutput]:
        """Yield dealt distinct values, which grow with the data; this worker goes on without them."""
        try:
            yield from self._left(LEAVING_ENTRIES)
        except MillcertError as error:
            yield TaggedOutput("notes", fault_from(error))

    def _left(self, least: int) -> Iterator[TaggedOutput]:
        acc = self._accumulators.get(EXPECTATIONS)
        dealt = {} if self._metrics is None or acc is None else self._metrics.dealt(acc, least)
        if acc is not None and dealt:
            self._accumulators[EXPECTATIONS] = {group: part for group, part in acc.items() if group not in dealt}
            for group, place in spill(self._plan.staging, dealt).items():
                yield TaggedOutput("metrics", ((EXPECTATIONS, group), (EXPECTATIONS, {group: place})))

    def sums(self) -> FileSums:
        """Return all that was added, compacted; nothing may be added afterwards.

        Raises:
            UsageError: the profile cannot be made of the data.
            MillcertError: a check refuses a batch.
        """
        self._flush()
        accumulators = dict(self._accumulators)
        metrics = accumulators.pop(EXPECTATIONS, None)
        if self._metrics is not None and metrics is not None:
            metrics = self._metrics.merge([metrics])
        cells = {} if self._profile is None else self._profile.parts()
        return FileSums({name: dict(acc) for name, acc in accumulators.items()}, metrics, cells)

    def absorb(self, sums: FileSums, dataset: DatasetFacts) -> None:
        """Add what was added up elsewhere."""
        for planned in self._plan.checks:
            check, new = planned.check, sums.checks.get(planned.name)
            if new is not None:
                known = self._accumulators.get(planned.name)
                self._accumulators[planned.name] = new if known is None else check.merge([known, new])
        if sums.metrics is not None and dataset.metrics is not None:
            self._metrics, known = dataset.metrics, self._accumulators.get(EXPECTATIONS)
            parts = [sums.metrics] if known is None else [known, sums.metrics]
            self._accumulators[EXPECTATIONS] = self._metrics.merge(parts)
        if sums.cells and self._plan.profile is not None:
            self._cells = CellMerge(self._plan.profile).merge([self._cells, sums.cells])

    def _add(self, batch: pa.RecordBatch, file: str, dataset: DatasetFacts, models: Models | None) -> None:
        roles, self._models = role_batch(batch), models
        if roles.num_rows < _SMALL_ROWS:
            rows, size = self._waiting_size
            self._waiting.append((file, roles))
            self._waiting_size = rows + roles.num_rows, size + roles.get_total_buffer_size()
            if self._waiting_size[0] >= _WAITING_ROWS or self._waiting_size[1] >= _WAITING_BYTES:
                self._flush()
        else:
            self._add_roles(roles)
        if self._number == 1 and dataset.metrics is not None:
            acc = self._accumulators.get(EXPECTATIONS)
            rows = batch.column(0).to_numpy()
            metrics = self._metrics = dataset.metrics
            self._accumulators[EXPECTATIONS] = metrics.add(
                metrics.empty() if acc is None else acc, user_batch(batch), file, rows
            )
        if self._profile is not None:
            self._profile.add(user_batch(batch), (batch.schema.metadata or {})[SOURCE_KEY].decode())

    def _add_roles(self, roles: pa.RecordBatch) -> None:
        for planned in active_checks(self._plan, self._number, self._models):
            check = planned.check
            model = None if self._models is None else self._models[planned.name]
            acc = self._accumulators.get(planned.name)
            self._accumulators[planned.name] = check.add(check.empty() if acc is None else acc, roles, model)

    def _flush(self) -> None:
        """Add the batches that wait, as one: sums are exact, so it makes no difference to them."""
        waiting, self._waiting, self._waiting_size = self._waiting, [], (0, 0)
        if not waiting:
            return
        try:
            self._add_roles(pa.concat_batches([roles for _, roles in waiting]))
        except MillcertError:
            self._blamed = next((file for file, roles in waiting if self._is_refused(roles)), "")
            raise

    def _is_refused(self, roles: pa.RecordBatch) -> bool:
        try:
            for planned in active_checks(self._plan, self._number, self._models):
                check = planned.check
                check.add(check.empty(), roles, None if self._models is None else self._models[planned.name])
        except MillcertError:
            return True
        return False

    def finish_bundle(self) -> Iterator[Any]:
        window = GlobalWindow()
        try:
            self._flush()
        except MillcertError as error:
            fault = fault_from(error, file=self._blamed)
            yield TaggedOutput("notes", WindowedValue(fault, window.max_timestamp(), [window]))
        if self._profile is not None and self._plan.profile is not None:
            cells = self._cells
            try:
                cells = CellMerge(self._plan.profile).merge([cells, self._profile.parts()])
            except MillcertError as error:
                yield TaggedOutput("notes", WindowedValue(fault_from(error), window.max_timestamp(), [window]))
            for group, cell in cells.items():
                part = WindowedValue(((PROFILE, group), (PROFILE, {group: cell})), window.max_timestamp(), [window])
                yield TaggedOutput("cells", part)
        if self._metrics is not None and EXPECTATIONS in self._accumulators:
            # Parts wait to be merged and may share the memory of whole batches; only compact ones travel.
            self._accumulators[EXPECTATIONS] = self._metrics.merge([self._accumulators[EXPECTATIONS]])
            try:
                for part in self._left(MANY_ENTRIES):
                    yield TaggedOutput("metrics", WindowedValue(part.value, window.max_timestamp(), [window]))
            except MillcertError as error:
                yield TaggedOutput("notes", WindowedValue(fault_from(error), window.max_timestamp(), [window]))
        for name, acc in self._accumulators.items():
            for group, part in acc.items():
                value = WindowedValue(((name, group), (name, {group: part})), window.max_timestamp(), [window])
                yield TaggedOutput("metrics", value) if name == EXPECTATIONS else value
        self._accumulators = {}


class _MergeParts(beam.CombineFn):
    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._checks: dict[str, Any] = {planned.name: planned.check for planned in plan.checks}
        if plan.profile is not None:
            self._checks[PROFILE] = CellMerge(plan.profile)

    # Beam does not tell a CombineFn its key, so each accumulator carries the check's name with it.
    def create_accumulator(self) -> tuple[str, Any]:
        return ("", {})

    def add_input(self, accumulator: tuple[str, Any], element: tuple[str, Any]) -> tuple[str, Any]:
        return self.merge_accumulators([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[tuple[str, Any]]) -> tuple[str, Any]:
        present = [accumulator for accumulator in accumulators if accumulator[1]]
        if not present:
            return self.create_accumulator()
        name = present[0][0]
        if len(present) == 1:
            return present[0]
        parts = [part for _, part in present]
        return (name, self._checks[name].merge(parts))

    def extract_output(self, accumulator: tuple[str, Any]) -> tuple[str, Any]:
        return accumulator
