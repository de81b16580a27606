"""The steps of the main job without Beam, for tests that ask what is decided and not how it is spread over workers.

Loaded by its path (tests/pipelines/conftest.py), because tests are no package.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from millcert.pipelines.accumulate import _merge_metrics, _MergeParts, _ReadAndAccumulate
from millcert.pipelines.dataset import _HashFile, plan_dataset, verify_files
from millcert.pipelines.decide import rule
from millcert.pipelines.describe import _DescribeFile
from millcert.pipelines.driver import Watcher
from millcert.pipelines.fit import fit_models
from millcert.pipelines.join_shards import JoinShardSpans
from millcert.pipelines.models import Models
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.profiling import PROFILE, profile_run
from millcert.pipelines.rating import NOT_RATED, rate_run
from millcert.pipelines.records import Fault, FileOutcome, Note, ShardFacts, SpanFacts, WorkDone, WorkItem
from millcert.pipelines.ruling import RunResult, read_ruling, ruling_to_json
from millcert.pipelines.score_files import JoinScoreSpans, _ScoreFile
from millcert.pipelines.vet import _request, _sidecar, broken_units
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
        schemas: list[Any] = []
        units: list[WorkItem] = []
        for item in self._each("describe", plan.items):
            for element in describing.process(item, verified):
                self._sort(element, {"units": units}, schemas)
        dataset = plan_dataset(plan, verified, schemas)
        notes: list[Note] = []
        shards: list[ShardFacts] = []
        spans: list[SpanFacts] = []
        models: Models | None = None
        for number in range(1, plan.passes + 1):
            self._before(f"pass {number}")
            models = self._pass(plan, number, dataset, models, units, (shards, spans), notes)
            if number == 1:
                joining = JoinShardSpans(plan)
                for group in _by_file(spans):
                    for element in joining.process(group, dataset):
                        self._sort(element, {"notes": notes}, shards)
        self._before("score")
        outcomes: list[FileOutcome] = []
        score = _ScoreFile(plan)
        score.setup()
        scored: list[Any] = []
        for item in self._each("score", units):
            for element in score.process(item, dataset, models or {}, _sidecars(shards, spans)):
                self._sort(element, {"notes": notes, "spans": scored}, outcomes)
        for group in _by_file(scored):
            for element in JoinScoreSpans(plan).process(group, dataset, models or {}):
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
        units: list[WorkItem],
        facts: tuple[list[ShardFacts], list[SpanFacts]],
        notes: list[Note],
    ) -> Models:
        read = _ReadAndAccumulate(plan, _request(plan, number))
        read.setup()
        parts: dict[Any, list[Any]] = {}
        shards, spans = facts
        broken = None if number == 1 else [*_broken(shards), *_broken(spans)]
        found: tuple[list[ShardFacts], list[SpanFacts]] = ([], [])
        told: list[Note] = []
        for item in self._each(f"pass {number}", units):
            read.start_bundle()
            for element in read.process(item, dataset, models, _sidecars(shards, spans), broken):
                self._sort(element, {"notes": told, "shards": found[0], "spans": found[1]}, [])
            for element in read.finish_bundle():
                if getattr(element, "tag", "") == "notes":
                    told.append(element.value.value)
                    continue
                key, value = (element.value if hasattr(element, "tag") else element).value
                parts.setdefault(key, []).append(value)
        read.teardown()
        notes += told
        if number == 1:
            shards += found[0]
            spans += found[1]
        if dataset.faults:
            return {}
        merge = _MergeParts(plan)
        merged = [
            _merge_metrics((key, values), dataset, plan.staging)
            if "/" in key[0]
            else (key, merge.extract_output(merge.merge_accumulators(values)))
            for key, values in parts.items()
        ]
        if number == 1:
            self._cells = [part for part in merged if part[0][0] == PROFILE]
        faults = [note for note in told if isinstance(note, Fault)]
        return fit_models(plan, number, [part for part in merged if part[0][0] != PROFILE], models, faults)

    def _sort(self, element: Any, tagged: Mapping[str, list[Any]], main: list[Any]) -> None:
        tag = getattr(element, "tag", None)
        if tag is None:
            main.append(element)
        else:
            tagged[tag].append(element.value)


def _sidecars(shards: Iterable[ShardFacts], spans: Iterable[SpanFacts]) -> dict[str, str]:
    return dict([*map(_sidecar, shards), *map(_sidecar, spans)])


def _broken(facts: Iterable[ShardFacts | SpanFacts]) -> list[str]:
    return [unit for one in facts for unit in broken_units(one)]


def _by_file(spans: Iterable[Any]) -> list[tuple[str, list[Any]]]:
    grouped: dict[str, list[Any]] = {}
    for one in spans:
        grouped.setdefault(one.name, []).insert(0, one)  # runners promise no order
    return list(grouped.items())
