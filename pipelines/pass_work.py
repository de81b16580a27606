"""What one pass finds out about one file, as it is kept and found again.

    sums   the accumulators of every check that the pass feeds, of the expectations and of the profile, of this file
       alone
    shard  what the first pass says of its rows
    runs   which records of it are rows

Sums merge exactly and in any order (checks/base.py, rule 3), so sums that were kept and sums that were just made give
the same model to the last bit. Salted leaves are never taken from an earlier run: each run has a secret of its own,
so they are made again of the rows' digests, which are kept (docs/formats/sample-leaves.md: nothing in two runs'
leaves matches).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from millcert.errors import MillcertError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.digest_sidecar import DIGEST_BYTES, sidecar_uri
from millcert.pipelines.models import Models
from millcert.pipelines.output import Written, open_output, recorded_outputs
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.read import ReadRequest
from millcert.pipelines.records import ShardFacts, SpanFacts, WorkDone, WorkItem
from millcert.pipelines.sample_leaves import LeafWriter, read_secret
from millcert.pipelines.value_coding import UncodableError, digest_of
from millcert.pipelines.work_keeping import ROWS, Recalled, WorkKeeper, open_staged
from millcert.pipelines.work_keys import check_words, work_name

_ROWS_A_STEP = 1 << 16


class FileSums(NamedTuple):
    """Accumulators: of checks by name, of the expectations (None where there are none), of the profile by group."""

    checks: Mapping[str, Any]
    metrics: Any
    cells: Mapping[str, Any]


class FileWork(NamedTuple):
    """What a pass found out about a file. shard: of the first pass. row_runs: of its rows, int64 (m, 2)."""

    sums: FileSums
    shard: ShardFacts | SpanFacts | None
    row_runs: np.ndarray


class StateDigest:
    """The digest of what a step takes from all files together: found out once, not once a file."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages
        self._known: tuple[tuple[Any, ...], bytes] | None = None

    def of(self, objects: tuple[Any, ...], value: Callable[[], Any]) -> bytes:
        """Return the digest of `value()`, which depends on `objects`, that are known again by their identity.

        Raises:
            UncodableError: the value has no form in bytes.
        """
        if self._known is None or any(one is not other for one, other in zip(self._known[0], objects, strict=True)):
            self._known = objects, digest_of(value(), self._packages)
        return self._known[1]


def shape_of(dataset: DatasetFacts) -> tuple[Any, ...]:
    """Return what decides how files are decoded and which roles their columns play."""
    return dataset.schema, dataset.stored_schema, dataset.roles


class PassWork:
    """Keeps and recalls the work of one pass, in one worker."""

    def __init__(self, plan: VetPlan, request: ReadRequest) -> None:
        self._plan = plan
        self._request = request
        self._step = f"pass {request.number}"
        self._keeper = WorkKeeper(plan)
        self._state = StateDigest(self._keeper.packages)

    def name(self, item: WorkItem, dataset: DatasetFacts, models: Models | None, active: Sequence[PlannedCheck]) -> str:
        """Return the name of a file's work; "" where it is not kept."""
        plan, request = self._plan, self._request
        if not self._keeper.wants(item.size_bytes):
            return ""
        used = {planned.name: (models or {}).get(planned.name) for planned in active}
        asked = (request.wants_columns, request.wants_digests, request.wants_shards, request.keeps_digests)
        is_first = request.number == 1
        policy = (
            tuple(map(check_words, active)),
            asked,
            request.limits,
            dict(request.view_columns),
            plan.suite.digest if is_first and plan.suite is not None else "",
            plan.profile if is_first else None,
        )
        try:
            state = self._state.of((dataset, models), lambda: (shape_of(dataset), used))
            return work_name(
                self._step,
                dataset.unit(item),
                policy=policy,
                state=state,
                packages=self._keeper.packages,
            )
        except UncodableError:
            return ""

    def recall(self, name: str, item: WorkItem) -> FileWork | None:
        """Return what is kept of a file, after what the first pass writes of it lies in the staging folder."""
        recalled = self._keeper.recall(name)
        if recalled is None:
            return None
        work: FileWork = recalled.value
        is_whole = recalled.is_placed and recalled.is_salted_alike
        return work if work.shard is None or is_whole or self._place(name, work, item, recalled) else None

    def remember(self, name: str, work: FileWork, written: Sequence[Written]) -> None:
        """Keep what was found out about a file."""
        if not self._keeper.remember(name, work, written):
            return
        kept = self._keeper.kept
        if work.shard is not None and kept is not None and work.shard.digests_sha256:
            with open_staged(sidecar_uri(self._plan.staging, work.shard.unit)) as stream:
                kept.put_file(name + ROWS, stream)

    def done(self, item: WorkItem, *, is_reused: bool) -> WorkDone:
        """Return the record that the pass is through with a file."""
        return self._keeper.done(self._step, item.name, is_reused=is_reused)

    def _place(self, name: str, work: FileWork, item: WorkItem, recalled: Recalled) -> bool:
        """Write what the first pass writes of a file, of its rows' digests; say whether these were there."""
        staging, kept = self._plan.staging, self._keeper.kept
        if work.shard is None or not work.shard.digests_sha256:
            return False
        uri = sidecar_uri(staging, item.unit)
        here = [one for one in recalled.files if f"{staging}/{one.uri}" == uri]
        try:
            with recorded_outputs() as written:
                if not here and (kept is None or not _copy_rows(kept, name + ROWS, uri)):
                    return False
                with (
                    LeafWriter(staging, item.name, read_secret(staging), item.span) as leaves,
                    open_staged(uri) as stream,
                ):
                    for rows in _in_steps(work.row_runs):
                        data = stream.read(len(rows) * DIGEST_BYTES)
                        leaves.add(rows, np.frombuffer(data, np.uint8).reshape(len(rows), DIGEST_BYTES))
                    leaves.end(work.shard.records)
        except (OSError, ValueError, MillcertError):
            return False  # what is kept does not fit: the file is read
        self._keeper.list_files(name, [*here, *written])
        return True


def _copy_rows(kept: Any, name: str, uri: str) -> bool:
    with open_output(uri) as target:
        return bool(kept.get_file(name, target))


def _in_steps(runs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the row numbers of runs (first, how many), int64 (m, 2), some _ROWS_A_STEP at a time."""
    held: list[np.ndarray] = []
    rows = 0
    for first, count in runs.tolist():
        for start in range(first, first + count, _ROWS_A_STEP):
            held.append(np.arange(start, min(start + _ROWS_A_STEP, first + count)))
            rows += len(held[-1])
            if rows >= _ROWS_A_STEP:
                yield np.concatenate(held)
                held, rows = [], 0
    if held:
        yield np.concatenate(held)
