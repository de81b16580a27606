"""The steps of the main job without Beam, for tests that ask what is decided and not how it is spread over workers.

Loaded by its path (tests/pipelines/conftest.py), because tests are no package.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from millcert.pipelines.accumulate import _merge_metrics, _MergeParts, _ReadAndAccumulate, fit_models
from millcert.pipelines.dataset import _DescribeFile, _HashFile, plan_dataset, verify_files
from millcert.pipelines.decide import rule
from millcert.pipelines.driver import Watcher
from millcert.pipelines.models import Models
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.profiling import PROFILE, profile_run
from millcert.pipelines.rating import NOT_RATED, rate_run
from millcert.pipelines.records import Fault, FileOutcome, Note, ShardFacts, WorkDone, WorkItem
from millcert.pipelines.ruling import RunResult, read_ruling, ruling_to_json
from millcert.pipelines.score import _ScoreFile
from millcert.pipelines.vet import _request, _sidecar
from millcert.pipelines.work_report import sum_work


class PlainEngine:
    """The steps of the pipeline called one after another, without Beam: a hundredth of the cost of a run.

    tests/pipelines/test_determinism.py holds that it publishes what the pipeline publishes. `before` is called with the
    name of each step before it starts, so that a test can change a file between two reads; `before_file` with the step
    and the name of each file before the step comes to it, so that a test can stop there.
    """

    def __init__(
        self,
        before: Callable[[str], None] = lambda _: None,
        before_file: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self._before = before
        self._before_file = before_file
        self._cells: list[Any] = []

    def __call__(self, plan: VetPlan, options: Any, watcher: Watcher) -> RunResult:
        watcher.start(plan)
        self._before("hash")
        hashing, describing = _HashFile(plan), _DescribeFile(plan)
        hashing.setup()
        describing.setup()
        digests = [
            digest for item in self._each("hash", (*plan.items, *plan.auxiliary)) for digest in hashing.process(item)
        ]
        self._before("verify")
        verified = verify_files(plan, digests)
        self._before("describe")
        schemas = [
            schema for item in self._each("describe", plan.items) for schema in describing.process(item, verified)
        ]
        dataset = plan_dataset(plan, verified, schemas)
        notes: list[Note] = []
        shards: list[ShardFacts] = []
        models: Models | None = None
        for number in range(1, plan.passes + 1):
            self._before(f"pass {number}")
            models = self._pass(plan, number, dataset, models, shards, notes)
        self._before("score")
        outcomes: list[FileOutcome] = []
        score = _ScoreFile(plan)
        score.setup()
        for item in self._each("score", plan.items):
            for element in score.process(item, dataset, models or {}, dict(map(_sidecar, shards))):
                self._sort(element, {"notes": notes}, outcomes)
        score.teardown()
        watcher.stop()
        profiled = profile_run(plan, dataset, self._cells)
        faults = [note for note in notes if isinstance(note, Fault)]
        rated = NOT_RATED if dataset.faults or faults else rate_run(plan, models or {})
        ruling = rule(plan, dataset, models or {}, shards, outcomes, faults, profiled, rated)
        work = (*dataset.work, *sum_work(note for note in notes if isinstance(note, WorkDone)))
        return read_ruling(json.dumps(ruling_to_json(ruling, outcomes, work), allow_nan=False).encode())

    def _each(self, step: str, items: Iterable[WorkItem]) -> Iterator[WorkItem]:
        for item in items:
            self._before_file(step, item.name)
            yield item

    def _pass(
        self,
        plan: VetPlan,
        number: int,
        dataset: Any,
        models: Models | None,
        shards: list[ShardFacts],
        notes: list[Note],
    ) -> Models:
        read = _ReadAndAccumulate(plan, _request(plan, number))
        read.setup()
        parts: dict[Any, list[Any]] = {}
        found: list[ShardFacts] = []
        for item in self._each(f"pass {number}", plan.items):
            read.start_bundle()
            for element in read.process(item, dataset, models, dict(map(_sidecar, shards))):
                self._sort(element, {"notes": notes, "shards": found}, [])
            for element in read.finish_bundle():
                if getattr(element, "tag", "") == "notes":
                    notes.append(element.value.value)
                    continue
                key, value = (element.value if hasattr(element, "tag") else element).value
                parts.setdefault(key, []).append(value)
        read.teardown()
        if number == 1:
            shards += found
        if dataset.faults:
            return {}
        merge = _MergeParts(plan)
        merged = [
            _merge_metrics((key, values), dataset)
            if "/" in key[0]
            else (key, merge.extract_output(merge.merge_accumulators(values)))
            for key, values in parts.items()
        ]
        if number == 1:
            self._cells = [part for part in merged if part[0][0] == PROFILE]
        return fit_models(plan, number, [part for part in merged if part[0][0] != PROFILE], models)

    def _sort(self, element: Any, tagged: Mapping[str, list[Any]], main: list[Any]) -> None:
        tag = getattr(element, "tag", None)
        if tag is None:
            main.append(element)
        else:
            tagged[tag].append(element.value)
