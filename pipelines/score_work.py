"""What the scoring read finds out about one file, as it is kept and found again.

Scores depend on the models, and these on every file. So work that outlives its run is found again only where no model
changed: the same files, or a policy whose checks learn nothing from other files. What is written of a file that is
admitted whole is its own verified bytes, copied again, and some small parts, which are kept; a file of which
something is held back is scored again by a later run, for a copy of it would be as large as it is.
"""

from collections.abc import Sequence
from typing import Any

from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.expectation_rows import SuiteRows
from millcert.pipelines.models import Models
from millcert.pipelines.output import Written, copy_spooled, open_output, recorded_outputs
from millcert.pipelines.pass_work import StateDigest, shape_of
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.records import FileOutcome, WorkDone, WorkItem
from millcert.pipelines.spool import read_verified
from millcert.pipelines.value_coding import UncodableError, decode_value, encode_value
from millcert.pipelines.work_keeping import COPY, WorkKeeper, open_staged
from millcert.pipelines.work_keys import check_words, work_name

STEP = "score"
#: The most that is kept of a file's small parts.
MAX_COPY_BYTES = 16 << 20


class ScoreWork:
    """Keeps and recalls the work of the scoring read, in one worker."""

    def __init__(self, plan: VetPlan) -> None:
        self._plan = plan
        self._keeper = WorkKeeper(plan)
        self._state = StateDigest(self._keeper.packages)

    def name(self, item: WorkItem, dataset: DatasetFacts, models: Models, asked: SuiteRows | None) -> str:
        """Return the name of a file's work; "" where it is not kept."""
        plan = self._plan
        if not self._keeper.wants(item.size_bytes):
            return ""
        policy = (
            tuple((*check_words(planned), planned.on_flagged, planned.over_limit) for planned in plan.checks),
            plan.limits,
            dict(plan.view_columns),
            "" if plan.suite is None else plan.suite.digest,
            plan.suite_on_failure,
            plan.overrides,
        )
        used = {planned.name: models.get(planned.name) for planned in plan.checks}
        try:
            state = self._state.of((dataset, models), lambda: (shape_of(dataset), dataset.signers, used))
            rows = None if asked is None else (asked.second.kernels, asked.marker.state_of(item.name))
            return work_name(
                STEP,
                dataset.unit(item),
                policy=(policy, rows),
                state=state,
                packages=self._keeper.packages,
            )
        except UncodableError:
            return ""

    def recall(self, name: str, item: WorkItem) -> Any:
        """Return what is kept of a file or span, None for nothing, with all that it wrote in the staging folder."""
        recalled = self._keeper.recall(name)
        if recalled is None:
            return None
        outcome: Any = recalled.value
        is_whole_file = isinstance(outcome, FileOutcome)
        return outcome if recalled.is_placed or (is_whole_file and self._place(name, item, outcome)) else None

    def remember(self, name: str, outcome: Any, written: Sequence[Written]) -> None:
        """Keep what was found out about a file; what was about a span is of use to this run only."""
        keeper = self._keeper
        if not isinstance(outcome, FileOutcome):
            keeper.remember(name, outcome, written, is_lasting=False)
            return
        admitted = f"{self._plan.staging}/publish/admitted/{outcome.name}"
        parts = [one for one in written if one.uri != admitted]
        is_small = not outcome.output_row_tree_root and sum(one.size_bytes for one in parts) <= MAX_COPY_BYTES
        if is_small and keeper.kept is not None:
            copies = []
            for one in parts:
                with open_staged(one.uri) as stream:
                    copies.append((one.uri.removeprefix(f"{self._plan.staging}/"), bytes(stream.read())))
            is_small = bool(keeper.kept.put(name + COPY, encode_value(copies)))
        keeper.remember(name, outcome, written, is_lasting=is_small)

    def done(self, item: WorkItem, *, is_reused: bool) -> WorkDone:
        """Return the record that the read is through with a file."""
        return self._keeper.done(STEP, item.name, is_reused=is_reused)

    def _place(self, name: str, item: WorkItem, outcome: FileOutcome) -> bool:
        """Write what a file that is admitted whole writes; say whether all of it was kept."""
        kept, staging = self._keeper.kept, self._plan.staging
        data = None if kept is None or outcome.output_row_tree_root else kept.get(name + COPY)
        if data is None:
            return False
        try:
            copies: Any = decode_value(data)
            with recorded_outputs() as written:
                for place, content in copies:
                    with open_output(f"{staging}/{place}") as stream:
                        stream.write(content)
                with read_verified(item.uri, expected_sha256=item.sha256, limits=self._plan.limits) as spooled:
                    copy_spooled(spooled, f"{staging}/publish/admitted/{item.name}")
        except (OSError, UncodableError):
            return False  # the file is scored again, and tells what is wrong
        self._keeper.list_files(name, written)
        return True
