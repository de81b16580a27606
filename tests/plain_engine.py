"""The steps of the main job without Beam, for tests that ask what is decided and not how it is spread over workers.

Loaded by its path (tests/pipelines/conftest.py), because tests are no package.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from millcert.pipelines.accumulate import Models, _Accumulate, _merge_metrics, _MergeParts, fit_models
from millcert.pipelines.dataset import _DescribeFile, _HashFile, plan_dataset, verify_files
from millcert.pipelines.decide import rule
from millcert.pipelines.driver import Watcher
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.profiling import PROFILE, profile_run
from millcert.pipelines.read import ReadFile
from millcert.pipelines.records import Fault, FileOutcome, ShardFacts
from millcert.pipelines.ruling import RunResult, read_ruling, ruling_to_json
from millcert.pipelines.score import _ScoreFile
from millcert.pipelines.vet import _request, _sidecar


class PlainEngine:
    """The steps of the pipeline called one after another, without Beam: a hundredth of the cost of a run.

    tests/pipelines/test_determinism.py holds that it publishes what the pipeline publishes. `before` is called with the
    name of each step before it starts, so that a test can change a file between two reads.
    """

    def __init__(self, before: Callable[[str], None] = lambda _: None) -> None:
        self._before = before
        self._cells: list[Any] = []

    def __call__(self, plan: VetPlan, options: Any, watcher: Watcher) -> RunResult:
        watcher.start(plan)
        self._before("hash")
        digests = [digest for item in (*plan.items, *plan.auxiliary) for digest in _HashFile(plan).process(item)]
        self._before("verify")
        verified = verify_files(plan, digests)
        self._before("describe")
        schemas = [schema for item in plan.items for schema in _DescribeFile(plan).process(item, verified)]
        dataset = plan_dataset(plan, verified, schemas)
        faults: list[Fault] = []
        shards: list[ShardFacts] = []
        models: Models | None = None
        for number in range(1, plan.passes + 1):
            self._before(f"pass {number}")
            models = self._pass(plan, number, dataset, models, shards, faults)
        self._before("score")
        outcomes: list[FileOutcome] = []
        score = _ScoreFile(plan)
        score.setup()
        for item in plan.items:
            for element in score.process(item, dataset, models or {}, dict(map(_sidecar, shards))):
                self._sort(element, {"faults": faults}, outcomes)
        score.teardown()
        watcher.stop()
        profiled = profile_run(plan, dataset, self._cells)
        ruling = rule(plan, dataset, models or {}, shards, outcomes, faults, profiled)
        return read_ruling(json.dumps(ruling_to_json(ruling, outcomes), allow_nan=False).encode())

    def _pass(
        self,
        plan: VetPlan,
        number: int,
        dataset: Any,
        models: Models | None,
        shards: list[ShardFacts],
        faults: list[Fault],
    ) -> Models:
        read, add = ReadFile(_request(plan, number)), _Accumulate(plan, number)
        read.setup()
        batches: list[pa.RecordBatch] = []
        parts: dict[Any, list[Any]] = {}
        found: list[ShardFacts] = []
        for item in plan.items:
            for element in read.process(item, dataset, dict(map(_sidecar, shards))):
                self._sort(element, {"faults": faults, "shards": found}, batches)
            add.start_bundle()
            for batch in batches:
                for element in add.process(batch, dataset, models):
                    self._sort(element, {"faults": faults}, batches)
            for element in add.finish_bundle():
                if getattr(element, "tag", "") == "faults":
                    faults.append(element.value.value)
                    continue
                key, value = (element.value if hasattr(element, "tag") else element).value
                parts.setdefault(key, []).append(value)
            batches.clear()
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
