"""The main job as one Beam pipeline: hash, verify, describe, the passes, score, rule.

```
items ─ HashFiles ─ VerifySources ─ DescribeFiles ─ PlanDataset ──┐ (side input of everything below)
items ─ Pass1/Run (read, add, merge) ─ Pass1/Fit ──┐              │
items ─ Pass2/Run (read, add, merge) ─ Pass2/Fit ──┤ (each pass takes the models of the one before)
items ─ ScoreFiles ────────────────────────────────┴─ Rule ─ staging/ruling.json
```
Each pass has a read of its own: a read shared across a pass boundary would be held in memory by the runner (9.5 times
the memory, research/engine.md 4.2). Where a check asks for sample digests, Pass1/Run keeps them in sidecars, and hands
on the sidecars' own digests to every later read (digest_sidecar.py). Labels are constants, so two builds of one plan
give the same graph.
"""

import json
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsDict, AsList, AsSingleton, PBegin, PCollection

from millcert.pipelines import coders  # noqa: F401 - registers the record batch coder
from millcert.pipelines.accumulate import RunPass
from millcert.pipelines.dataset import DatasetFacts, HashFiles, PlanDataset, VerifySources
from millcert.pipelines.decide import Ruling, rule
from millcert.pipelines.describe import DescribeFiles
from millcert.pipelines.fit import FitModels
from millcert.pipelines.join_shards import JoinShards
from millcert.pipelines.models import Models
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.profiling import CellPart, profile_run
from millcert.pipelines.publish import write_file
from millcert.pipelines.rating import NOT_RATED, rate_run
from millcert.pipelines.read import ReadRequest
from millcert.pipelines.records import Fault, FileOutcome, Note, ShardFacts, SpanFacts, WorkDone
from millcert.pipelines.ruling import ruling_to_json
from millcert.pipelines.runner import choose_runner
from millcert.pipelines.score_files import ScoreFiles
from millcert.pipelines.work_report import sum_work
from millcert.pipelines.workers import MEMORY_A_WORKER

RULING_FILE = "ruling.json"


def build_pipeline(plan: VetPlan, options: PipelineOptions) -> beam.Pipeline:
    """Return the pipeline of a run, ready for `.run()`; building it reads no data.

    Its one result is the file `ruling.json` in the plan's staging folder, beside the parts that the files yielded.
    """
    pipeline = beam.Pipeline(runner=choose_runner(options), options=options)
    # One hint for all steps: steps with different ones would not fuse, and samples would go from worker to worker.
    _ = pipeline | "Vet" >> VetDataset(plan).with_resource_hints(min_ram=MEMORY_A_WORKER)
    return pipeline


class VetDataset(beam.PTransform):
    """Vet a data set. Out: one element, the name of the ruling file, after it was written."""

    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, begin: PBegin) -> PCollection[str]:
        """Wire the passes."""
        plan = self._plan
        # Workers get the plan without its files: with 100,000 of them it would weigh 20 MB in each of 30 steps.
        shared = replace(plan, items=(), auxiliary=())
        # Every branch spreads the files by a reshuffle of its own, so Create needs none.
        every = begin | "AllFiles" >> beam.Create([*plan.items, *plan.auxiliary], reshuffle=False)
        items = begin | "DataFiles" >> beam.Create(list(plan.items), reshuffle=False)
        verified = AsSingleton(every | "HashFiles" >> HashFiles(shared) | "VerifySources" >> VerifySources(plan))
        described = items | "DescribeFiles" >> DescribeFiles(shared, verified)
        units = described.units  # what the passes read: files, and spans of large ones
        dataset = AsSingleton(described.schemas | "PlanDataset" >> PlanDataset(shared, verified))
        models: AsSingleton | None = None
        shards: PCollection[ShardFacts] | None = None
        cells: AsList | None = None
        sidecars: AsDict | None = None
        broken: AsList | None = None
        notes: list[PCollection[Note]] = []
        for number in range(1, plan.passes + 1):
            label = f"Pass{number}"
            done = units | f"{label}/Run" >> RunPass(shared, _request(plan, number), dataset, models, sidecars, broken)
            fit = FitModels(shared, number, dataset, done["parts"], models, done["notes"])
            models = AsSingleton(begin | f"{label}/Fit" >> fit)
            if number == 1:
                joined = done["spans"] | f"{label}/JoinShards" >> JoinShards(shared, dataset)
                shards = (done["shards"], joined.shards) | "Shards" >> beam.Flatten()
                notes.append(joined.notes)
                found = (done["shards"], done["spans"]) | "Units" >> beam.Flatten()
                broken = AsList(found | "Broken" >> beam.FlatMap(broken_units).with_output_types(str))
                if plan.wants_digests:
                    sidecars = AsDict(found | "Sidecars" >> beam.Map(_sidecar).with_output_types(tuple[str, str]))
            if number == 1 and plan.profile is not None:
                cells = AsList(done["cells"])
            notes.append(done["notes"])
        scored = units | "ScoreFiles" >> ScoreFiles(shared, dataset, models, sidecars)
        every_note = [*notes, scored["notes"]] | "Notes" >> beam.Flatten()
        return (
            begin
            | "Once" >> beam.Create([plan])
            | "Rule"
            >> beam.Map(
                write_ruling, dataset, models, AsList(shards), AsList(scored["outcomes"]), AsList(every_note), cells
            ).with_output_types(str)
        )


def write_ruling(
    plan: VetPlan,
    dataset: DatasetFacts,
    models: Models,
    shards: list[ShardFacts],
    outcomes: list[FileOutcome],
    notes: list[Note],
    cells: list[CellPart] | None = None,
) -> str:
    """Rule on the run and write the ruling, and the profile, to the staging folder; return the ruling's path."""
    faults = [note for note in notes if isinstance(note, Fault)]
    rated = NOT_RATED if dataset.faults or faults else rate_run(plan, models)
    ruling: Ruling = rule(plan, dataset, models, shards, outcomes, faults, profile_run(plan, dataset, cells), rated)
    work = (*dataset.work, *sum_work(note for note in notes if isinstance(note, WorkDone)))
    path = f"{plan.staging}/{RULING_FILE}"
    write_file(path, json.dumps(ruling_to_json(ruling, outcomes, work), allow_nan=False, sort_keys=True).encode())
    return path


def _sidecar(shard: ShardFacts | SpanFacts) -> tuple[str, str]:
    return shard.unit, shard.digests_sha256


def broken_units(shard: ShardFacts | SpanFacts) -> list[str]:
    """Return the unit of work if it has malformed records: later passes find them again in all of its columns."""
    return [shard.unit] if shard.rows != shard.records else []


def _request(plan: VetPlan, number: int) -> ReadRequest:
    wanted: Any = {role for planned in plan.checks if planned.check.passes >= number for role in planned.check.columns}
    return ReadRequest(
        number=number,
        wants_columns=number == 1 and (plan.suite is not None or plan.profile is not None),
        wants_digests="sample_digest" in wanted,
        wants_shards=number == 1,
        keeps_digests=number == 1 and plan.keeps_digests,
        limits=plan.limits,
        progress_path=plan.progress_path,
        staging=plan.staging,
        view_columns=plan.view_columns,
    )
