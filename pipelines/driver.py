"""One run from the first argument to the published output: plan, run, record, certify, publish.

The pipeline computes; this driver alone holds keys and the ledger, so no worker ever sees them. Order, and what is
true if we crash behind a step:
  1. plan          nothing was written.
  2. pipeline      only the staging folder has anything; the next run removes it, or goes on from it (resume.py).
  3. record        the ledger says what was decided; nothing is published. The next run that is asked for the same
                   finishes it, and logs nothing twice (unpublished.py).
  4. certify       the certificate exists in staging and in the ledger only.
  5. publish       everything appears at once (publish.py).
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeAlias

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.runner import PipelineState

from millcert.errors import InternalError, MillcertError, StoreError
from millcert.pipelines.clearing import refuse_revoked_run, refuse_revoked_sources
from millcert.pipelines.course import place_course
from millcert.pipelines.expectation_rows import rows_schema
from millcert.pipelines.finding_records import findings_of
from millcert.pipelines.history import asks_history, place_history, settle_history
from millcert.pipelines.overriding import plan_overrides
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.planning import Workspace, plan_run, refuse_unreadable
from millcert.pipelines.publish import left_stagings, local_path, promote, refuse_overlap, staging_for, write_file
from millcert.pipelines.rating import compares_rates
from millcert.pipelines.recording import Recorded, Recorder, run_entries
from millcert.pipelines.records import error_from
from millcert.pipelines.reference import place_rates, place_reference
from millcert.pipelines.resume import begin_recording, is_worth_resuming, kept_place, prepare_work
from millcert.pipelines.row_digest import settle_rows
from millcert.pipelines.ruling import RunResult, read_ruling
from millcert.pipelines.runner import is_local as is_local_runner
from millcert.pipelines.runner import pipeline_options, refuse_out_of_reach, use_workers
from millcert.pipelines.sample_set import data_files, settle_samples
from millcert.pipelines.score_schemas import FINDINGS_SCHEMA, MALFORMED_SCHEMA
from millcert.pipelines.selftest_file import bind_selftest
from millcert.pipelines.settling import merge_parts, settle_admitted, settle_profile, settle_rates, write_documents
from millcert.pipelines.splitting import unit_count
from millcert.pipelines.unpublished import (
    Decision,
    asked_of,
    finish_history,
    forget_decision,
    is_half_published,
    is_published,
    keep_decision,
    read_decision,
)
from millcert.pipelines.vet import RULING_FILE, build_pipeline
from millcert.pipelines.view_manifest import read_views
from millcert.pipelines.watchdog import call_watched
from millcert.pipelines.work_report import StepWork
from millcert.pipelines.workers import worker_count
from millcert.policy import LoadedPolicy
from millcert.provenance.named_sample import named_samples
from millcert.provenance.revocation import active_revocations
from millcert.provenance.standing import Standing, require_book
from millcert.provenance.state import StateFolder
from millcert.provenance.timestamp import instant, stamp
from millcert.verdict import Verdict


@dataclass(frozen=True)
class VetOptions:
    """How a run is carried out; nothing here but `selftest` and `views` changes its verdict.

    datasets: files, folders or globs. out: the folder to publish to. state: keys and ledger. replace: an earlier
    output at `out` may be replaced. workers: processes of the local runner; 0: by the size of the work (workers.py).
    beam_arguments: Beam's own options. now: the clock, used for the ledger and the certificate only. ledger_url: the
    ledger's database, where it is not in `state`. selftest: bytes of a self-test's file, whose digest goes into
    the verdict. views: folder of the views that `millcert embed` made. resume: go on where runs to `out` stopped.
    incremental: keep work on files for later runs, in the state folder, and use what is there; work: the same, in that
    place. keep_work: keep work for a later `resume`; None: where the run is large enough (resume.py). least_work_bytes:
    work on smaller files is not kept; None: a size below which that costs more than it saves.
    """

    datasets: tuple[str, ...]
    out: str
    state: Path
    replace: bool = False
    workers: int = 0
    beam_arguments: tuple[str, ...] = ()
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    ledger_url: str | None = field(default=None, repr=False)
    selftest: bytes | None = field(default=None, repr=False)
    views: str | None = None
    resume: bool = False
    incremental: bool = False
    work: str = ""
    keep_work: bool | None = None
    least_work_bytes: int | None = None


@dataclass(frozen=True)
class Published:
    """What a report is made of: the run's result and what the ledger says of it.

    folder: what is about to be published. parts: what files yielded besides; it goes with the staging folder.
    """

    plan: VetPlan
    result: RunResult
    recorded: Recorded
    folder: str
    parts: str


@dataclass(frozen=True)
class VetResult:
    """What a run decided and where it put it. decided_at: when, if an earlier run did and this one finished it."""

    verdict: Verdict
    out: str
    recorded: Recorded
    findings: int
    malformed: int
    work: tuple[StepWork, ...] = ()
    decided_at: str = ""


class Watcher(Protocol):
    """Is told how a run goes; `RunProgress` on a terminal, nothing by default."""

    def start(self, plan: VetPlan) -> None:
        """Say that the pipeline starts; progress records appear at `plan.progress_path`."""
        ...

    def stop(self) -> None:
        """Say that the pipeline ended, whether well or not."""
        ...


class _NoWatcher:
    def start(self, plan: VetPlan) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


#: Carries a plan out and returns what it found: `run_pipeline`, or another engine that runs the same steps.
Engine: TypeAlias = Callable[[VetPlan, PipelineOptions, Watcher], RunResult]


def vet_dataset(
    loaded: LoadedPolicy,
    options: VetOptions,
    *,
    render_report: Callable[[Published], str] | None = None,
    watcher: Watcher | None = None,
    after: Callable[[str], None] = lambda _: None,
    engine: Engine | None = None,
) -> VetResult:
    """Run the gate over a data set and publish what it decided.

    Args:
        loaded: the policy with the files that it names.
        options: how to run.
        render_report: makes `report.html` of what is published; no report without it.
        watcher: is told how the run goes.
        after: called with the name of each step that was done; fault tests stop there.
        engine: carries the plan out; `run_pipeline` without it.

    Raises:
        MillcertError: by its class; nothing is published then. A rejection is not an error but a verdict.

    Cost: `plan.reads` full reads of the data; memory does not grow with the number of samples.
    """
    options = replace(
        options, out=local_path(options.out), datasets=tuple(local_path(dataset) for dataset in options.datasets)
    )
    refuse_overlap(options.out, options.datasets, options.state)
    beam_options = pipeline_options(list(options.beam_arguments), workers=options.workers)
    refuse_out_of_reach(beam_options, (*options.datasets, options.out))
    kept = kept_place(options, beam_options)
    FileSystems.set_options(beam_options)  # the plan lists files before there is a pipeline that would set them
    logged = loaded.policy.ledger
    recorder = Recorder.open(options.state, logged.origin, options.ledger_url, logged.witnessing())
    run = _Run(loaded, options, beam_options, kept, recorder, render_report, watcher or _NoWatcher(), after, engine)
    asked, left = asked_of(loaded, options), read_decision(options.state, options.out)
    is_half = left is not None and is_half_published(options.out)
    decided = left if left is not None and left.asked == asked else None
    try:
        return run.to_the_end(asked, decided, is_half=is_half, resume=options.resume)
    except _DecidedOtherwiseError:
        if not is_half:
            forget_decision(options.state, options.out)
        # What was done is used; the salts are not: the ledger may name leaves that were made of them.
        return run.to_the_end(asked, None, is_half=is_half, resume=True)


class _DecidedOtherwiseError(Exception):
    """The data are not those that the decision was made on which was to be finished."""


@dataclass(frozen=True)
class _Run:
    """What `vet_dataset` was given, made ready."""

    loaded: LoadedPolicy
    options: VetOptions
    beam_options: PipelineOptions
    kept: str
    recorder: Recorder
    render_report: Callable[[Published], str] | None
    watcher: Watcher
    after: Callable[[str], None]
    engine: Engine | None

    def to_the_end(self, asked: str, earlier: Decision | None, *, is_half: bool, resume: bool) -> VetResult:
        """Plan, compute, record and publish; or finish what an earlier run decided.

        `is_half`: at the output is what a killed run had copied there.

        Raises:
            _DecidedOtherwiseError: the verdict is not the one that was to be finished; nothing was recorded.
        """
        options, after = self.options, self.after
        with (
            staging_for(
                options.out,
                replace=options.replace,
                keeps_left=resume,
                is_unfinished=is_half or (earlier is not None and is_published(options.out, earlier)),
                is_worth_keeping=_is_worth_keeping,
            ) as staging,
            _progress_file() as progress_path,
        ):
            size = self.recorder.size() if earlier is None else earlier.history_size
            plan = _planned(self.loaded, options, self.recorder, Workspace(staging, progress_path), size)
            if not options.workers and is_local_runner(self.beam_options):
                read_bytes = plan.reads * sum(item.size_bytes for item in plan.items)
                use_workers(self.beam_options, worker_count(read_bytes, unit_count(plan)))
            after("planned")
            left = [folder for folder in left_stagings(options.out) if folder != staging] if resume else []
            work, secret = prepare_work(staging, self.kept, left, plan, options, earlier)
            plan = replace(plan, work=work)
            result = (self.engine or run_pipeline)(plan, self.beam_options, self.watcher)
            after("computed")
            if result.verdict is None:
                raise error_from(list(result.faults))
            if earlier is not None and earlier.verdict_digest != result.verdict.digest:
                begin_recording(staging)
                raise _DecidedOtherwiseError
            decided = earlier or Decision(asked, result.verdict.digest, stamp(options.now()), size, secret)
            vetted = self._publish(plan, result, decided)
        forget_decision(options.state, options.out)
        after("cleaned up")
        return vetted if earlier is None else replace(vetted, decided_at=earlier.recorded_at)

    def _publish(self, plan: VetPlan, result: RunResult, decided: Decision) -> VetResult:
        """Record a verdict and publish; all of it may be done again and gives the same."""
        options, recorder, after, staging = self.options, self.recorder, self.after, plan.staging
        if result.verdict is None:
            raise InternalError("A run without a verdict cannot be published.")
        published = f"{staging}/publish"
        findings = merge_parts(staging, "findings", FINDINGS_SCHEMA, result.files)
        malformed = merge_parts(staging, "malformed", MALFORMED_SCHEMA, result.files)
        if plan.suite is not None:
            merge_parts(staging, "expectation_rows", rows_schema(plan), result.files)
            settle_rows(published, result.verdict.expectations)
        settle_admitted(plan, result, published)
        samples = settle_samples(
            staging,
            StateFolder(options.state),
            decided.secret,
            data_files(plan, result),
            findings_of(published, decided.secret),
        )
        after("parts merged")
        now = stamp(options.now())  # what was revoked since the decision counts
        entries = run_entries(result.verdict, now)
        refuse_revoked_run(result, samples, entries, options.state, active_revocations(recorder.standing()), now)
        settle_profile(result.verdict, recorder, published, options.state)
        settle_rates(result.verdict, published, options.state)
        kept = settle_history(plan, result.verdict.decision, options.state)
        decided = finish_history(decided, kept, options.state, published)
        begin_recording(staging)
        keep_decision(options.state, options.out, decided)
        after("decided")
        recorded = recorder.record(
            plan,
            replace(result, history_digest=decided.history_digest or ""),
            samples,
            instant(decided.recorded_at),
            after,
        )
        after("recorded")
        write_documents(result, recorded, published)
        after("documents written")
        if self.render_report is not None:
            about = Published(plan, result, recorded, published, f"{staging}/parts")
            write_file(f"{published}/report.html", self.render_report(about).encode())
        after("report written")
        promote(published, options.out, after=after)
        after("published")
        return VetResult(result.verdict, options.out, recorded, findings, malformed, result.work)


def _is_worth_keeping(error: BaseException, staging: str) -> bool:
    return isinstance(error, _DecidedOtherwiseError) or is_worth_resuming(error, staging)


def _planned(loaded: LoadedPolicy, options: VetOptions, recorder: Recorder, workspace: Workspace, size: int) -> VetPlan:
    """Return the plan of the run, with what self-test and the ledger's first `size` entries add to it."""
    plan = plan_run(
        loaded,
        options.datasets,
        workspace,
        now=options.now(),
        last_signers=recorder.last_signers(loaded.policy.dataset.name, size),
        views=None if options.views is None else read_views(local_path(options.views)),
    )
    if options.selftest is not None:
        tested = bind_selftest(options.selftest, policy_digest=plan.policy_digest, code_version=plan.code_version)
        plan = replace(plan, selftest_sha256=tested)
    standing = recorder.standing()
    plan = _with_acts(plan, loaded, standing, options)
    if plan.drift is not None or compares_rates(plan) or asks_history(plan):
        history, revoked = recorder.history(plan.dataset, size), active_revocations(standing)
        plan = place_reference(plan, loaded, options.state, history, revoked)
        plan = place_course(plan, options.state, history, revoked)
        plan = place_history(plan, options.state, history, revoked)
        plan = place_rates(plan, options.state, history, revoked)
    refuse_unreadable(plan)
    return plan


def _with_acts(plan: VetPlan, loaded: LoadedPolicy, standing: Standing, options: VetOptions) -> VetPlan:
    """Refuse revoked sources; return the plan with the overrides that count when the run begins."""
    section, now = loaded.policy.responsibilities, options.now()
    require_book(standing, None if section is None else section.to_book())
    refuse_revoked_sources(plan, active_revocations(standing), stamp(now))
    if section is None:
        return plan  # a policy without roles lets nobody let anything through
    overrides = plan_overrides(
        standing,
        dataset=plan.dataset,
        policy_digest=plan.policy_digest,
        named=named_samples(StateFolder(options.state)),
        now=now,
    )
    return replace(plan, overrides=overrides)


def run_pipeline(plan: VetPlan, options: PipelineOptions, watcher: Watcher) -> RunResult:
    """Run the pipeline to its end and return its result.

    Raises:
        StoreError: the runner failed for a reason of its own (a worker died, a cluster went away).
        MillcertError: a worker ran into a bug of ours.
    """
    watcher.start(plan)
    try:
        state = _finish(plan, options)
    except MillcertError:
        raise
    except Exception as error:
        if _last_line(error).startswith("KeyboardInterrupt"):
            raise KeyboardInterrupt from error  # it met a worker's thread, which the runner tells as a failure
        raise runner_error(error) from error
    finally:
        watcher.stop()
    if state != PipelineState.DONE:
        raise StoreError(f"The runner ended the job in state {state}.", hint="Run again; nothing was published.")
    try:
        with FileSystems.open(f"{plan.staging}/{RULING_FILE}", compression_type="uncompressed") as stream:
            return read_ruling(bytes(stream.read()))
    except OSError as error:
        raise StoreError(
            f"The job ended without a ruling: {error}", hint="Run again; nothing was published."
        ) from error


def _finish(plan: VetPlan, options: PipelineOptions) -> str:
    def run() -> str:
        return str(build_pipeline(plan, options).run().wait_until_finish())

    if options.view_as(DirectOptions).direct_running_mode == "multi_processing" and is_local_runner(options):
        return call_watched(run, process=os.getpid())
    return run()


#: How Beam's portable runners tell a failed job; the reason is a worker's traceback, or else the cluster's own trouble.
_FAILED_JOB = " failed in state "
#: What Beam's data plane says when the process at the other end went away, sooner than the watchdog.
_LOST_WORKER = "Channel closed prematurely"


def runner_error(error: Exception) -> MillcertError:
    """Return the error of ours that stands for what a runner raised: the machine's fault, or a bug of ours."""
    # Workers turn every foreseen failure into a value, so what arrives here is the machine's fault or ours.
    text = _last_line(error)
    if text.startswith(_LOST_WORKER):
        return StoreError(
            f"The runner failed: one or more worker processes died ({text})",
            hint="Usually the machine is out of memory: use fewer --workers or a larger machine.",
        )
    is_machine = isinstance(error, OSError | MemoryError) or "grpc" in type(error).__module__
    # The runner hands on what a worker raised as the text of a RuntimeError.
    is_machine |= _FAILED_JOB in str(error) and "Traceback (most recent call last)" not in str(error)
    if is_machine or "No space left" in str(error) or text.startswith(("MemoryError", "pyarrow.lib.ArrowMemoryError")):
        return StoreError(f"The runner failed: {text}", hint="Run again; nothing was published.")
    return InternalError(f"The job failed: {text}", hint="This is a bug of millcert; please report it.")


def _last_line(error: Exception) -> str:
    """Return what a runner's error ends in: the worker's own exception, behind its traceback."""
    line = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
    # In this process the runner raises the worker's own class, whose name is not in the text.
    return line if line and type(error) is RuntimeError else f"{type(error).__name__}: {line}"


@contextmanager
def _progress_file() -> Iterator[str]:
    """Yield a local file that workers append their progress to; gone at the end."""
    with tempfile.NamedTemporaryFile(prefix="millcert-progress-") as file:
        yield file.name
