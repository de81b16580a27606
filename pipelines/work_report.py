"""How much of a run's work was done in it, and how much was found: by step, for the user, the report and the tests."""

from collections.abc import Iterable
from typing import NamedTuple

from millcert.pipelines.records import WorkDone

#: Files that were read are named for each step, up to this many.
MAX_NAMES = 20


class StepWork(NamedTuple):
    """What became of the files in one step.

    done: files that were read. reused: files that were not, because their work was kept. read: names of files that were
    read, sorted, at most MAX_NAMES. refused: entries of the work store that were not ours, and so were not used.
    failed: entries that the store would not read or write.
    """

    step: str
    done: int
    reused: int
    refused: int
    failed: int
    read: tuple[str, ...]


def sum_work(records: Iterable[WorkDone | None]) -> tuple[StepWork, ...]:
    """Return the sums by step, in the order of the steps."""
    by_step: dict[str, list[WorkDone]] = {}
    for record in records:
        if record is not None:
            by_step.setdefault(record.step, []).append(record)
    return tuple(_sum(step, found) for step, found in sorted(by_step.items(), key=lambda pair: _order(pair[0])))


def _sum(step: str, records: list[WorkDone]) -> StepWork:
    read = sorted({record.file for record in records if not record.is_reused})
    return StepWork(
        step=step,
        done=sum(not record.is_reused for record in records),
        reused=sum(record.is_reused for record in records),
        refused=sum(record.refused for record in records),
        failed=sum(record.failed for record in records),
        read=tuple(read[:MAX_NAMES]),
    )


def _order(step: str) -> tuple[int, int]:
    word, _, number = step.partition(" ")
    return {"hash": 0, "describe": 1, "pass": 2}.get(word, 3), int(number or 0)


def describe_work(work: Iterable[StepWork]) -> list[str]:
    """Return the sums as lines for a terminal: items done and reused, by step."""
    listed = list(work)
    steps = ", ".join(f"{one.step} {one.done:,} read, {one.reused:,} reused" for one in listed)
    refused, failed = sum(one.refused for one in listed), sum(one.failed for one in listed)
    lines = [f"work: {steps}"] if steps else []
    if refused:
        lines.append(f"work store: {refused:,} entries were damaged or not ours; they were not used")
    if failed:
        lines.append(f"work store: {failed:,} entries could not be read or written")
    return lines
