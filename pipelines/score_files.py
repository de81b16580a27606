"""The last read as Beam runs it: every unit of work is scored by one worker; the spans of a file are joined by one.

`ScoreFiles` is the step; what it does to a file is in score.py, to a span in score_spans.py, and to all spans of a file
in join_scores.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsDict, AsSingleton, PCollection, TaggedOutput

from millcert.checks.fusion import Panel
from millcert.errors import MillcertError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.digest_sidecar import digest_source
from millcert.pipelines.expectation_rows import FileRows, SuiteRows, second_plan, suite_rows
from millcert.pipelines.fuse import panel_of
from millcert.pipelines.join_scores import by_file, join_scores
from millcert.pipelines.models import Models
from millcert.pipelines.output import recorded_outputs
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.progress import ProgressReporter
from millcert.pipelines.records import FileOutcome, Note, WorkItem, fault_from
from millcert.pipelines.score import score_file
from millcert.pipelines.score_spans import SpanOutcome, score_span
from millcert.pipelines.score_work import ScoreWork
from millcert.pipelines.splitting import open_unit
from millcert.pipelines.view_rows import open_views


class ScoreFiles(beam.PTransform):
    """In: WorkItem. Out: `outcomes` (FileOutcome) and `notes` (Fault, WorkDone). Reads every file once."""

    def __init__(self, plan: VetPlan, dataset: AsSingleton, models: AsSingleton, sidecars: AsDict | None) -> None:
        super().__init__()
        self._plan = plan
        self._dataset = dataset
        self._models = models
        self._sidecars = sidecars

    def expand(self, items: PCollection[WorkItem]) -> Any:
        """Break fusion, so that files spread over the workers, and score."""
        outputs = (
            items
            | "Spread" >> beam.Reshuffle()
            | "Score"
            >> beam.ParDo(_ScoreFile(self._plan), self._dataset, self._models, self._sidecars).with_outputs(
                "spans", "notes", main="outcomes"
            )
        )
        outputs.outcomes.element_type, outputs.spans.element_type = FileOutcome, SpanOutcome
        outputs.notes.element_type = Note
        joined = (
            outputs.spans
            | "ByFile" >> beam.Map(by_file).with_output_types(tuple[str, SpanOutcome])
            | "GroupSpans" >> beam.GroupByKey()
            | "Join"
            >> beam.ParDo(JoinScoreSpans(self._plan), self._dataset, self._models).with_outputs(
                "notes", main="outcomes"
            )
        )
        joined.outcomes.element_type, joined.notes.element_type = FileOutcome, Note
        return {
            "outcomes": (outputs.outcomes, joined.outcomes) | "Outcomes" >> beam.Flatten(),
            "notes": (outputs.notes, joined.notes) | "Notes" >> beam.Flatten(),
        }


class _ScoreFile(beam.DoFn):
    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan

    def setup(self) -> None:
        self._progress = ProgressReporter(self._plan.progress_path)
        self._known: tuple[Models, Panel, SuiteRows | None] | None = None
        self._work = ScoreWork(self._plan)

    def teardown(self) -> None:
        self._progress.close()

    def process(
        self, item: WorkItem, dataset: DatasetFacts, models: Models, sidecars: Mapping[str, str] | None = None
    ) -> Iterator[Any]:
        if dataset.faults:
            return
        number = self._plan.passes + 1
        try:
            verified = dataset.unit(item)
            _, asked = self._once(dataset, models)
            name = self._work.name(verified, dataset, models, asked)
            outcome = self._work.recall(name, verified) if name else None
            yield TaggedOutput("notes", self._work.done(item, is_reused=outcome is not None))
            if outcome is None:
                with recorded_outputs() as written:
                    outcome = self._scored(verified, dataset, models, sidecars)
                if name:
                    self._work.remember(name, outcome, written)
            yield outcome if isinstance(outcome, FileOutcome) else TaggedOutput("spans", outcome)
        except MillcertError as error:
            yield TaggedOutput("notes", fault_from(error, file=item.name))
        self._progress.advance(number, size_bytes=item.read_bytes)

    def _scored(
        self, verified: WorkItem, dataset: DatasetFacts, models: Models, sidecars: Mapping[str, str] | None
    ) -> FileOutcome | SpanOutcome:
        plan = self._plan
        with (
            open_unit(verified, plan.staging, plan.limits) as spooled,
            digest_source(plan.staging, verified.unit, sidecars, plan.limits) as source,
            open_views(verified, plan.view_columns, plan.limits) as views,
        ):
            panel, asked = self._once(dataset, models)
            if verified.span is not None:
                return score_span(plan, verified, spooled, source, dataset, models, self._progress, panel, asked)
            with FileRows(plan, verified, asked) as failing:
                return score_file(
                    plan, verified, spooled, source, dataset, models, self._progress, panel, failing, views
                )

    def _once(self, dataset: DatasetFacts, models: Models) -> tuple[Panel, SuiteRows | None]:
        """Return the panel of these very models and what to ask of rows: found out once, not once a file."""
        if self._known is None or self._known[0] is not models:
            self._known = models, panel_of(self._plan, models), suite_rows(self._plan, dataset, models)
        return self._known[1], self._known[2]


class JoinScoreSpans(beam.DoFn):
    """Joins the spans of one file."""

    def __init__(self, plan: VetPlan) -> None:
        super().__init__()
        self._plan = plan

    def process(
        self, grouped: tuple[str, Iterable[SpanOutcome]], dataset: DatasetFacts, models: Models
    ) -> Iterator[Any]:
        """Yield the file's outcome, or what is wrong with it."""
        name, found = grouped
        try:
            yield from join_scores(self._plan, found, dataset, second_plan(self._plan, dataset, models))
        except MillcertError as error:
            yield TaggedOutput("notes", fault_from(error, file=name))
