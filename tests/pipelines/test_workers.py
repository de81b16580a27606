"""When local worker processes start: not before they pay, and never more than the machine holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from millcert.pipelines import workers
from millcert.pipelines.driver import VetOptions, Watcher, vet_dataset
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.ruling import RunResult
from millcert.policy import load_policy

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

GIB = 1 << 30


@pytest.mark.parametrize(
    ("read_gib", "files", "cores", "memory_gib", "expected"),
    [
        (0, 1, 8, 64, 1),
        (4, 100, 8, 64, 1),
        (4.001, 100, 8, 64, 2),
        (9, 100, 8, 64, 3),
        (1000, 100, 8, 64, 8),
        (1000, 3, 8, 64, 3),
        (1000, 100, 8, 5, 2),
        (1000, 100, 8, 1, 1),
    ],
)
def test_workers_follow_the_work_within_what_the_machine_has(
    read_gib: float, files: int, cores: int, memory_gib: int, expected: int
) -> None:
    found = workers.worker_count(int(read_gib * GIB), files, cores=cores, memory_bytes=memory_gib * GIB)

    assert found == expected


@pytest.mark.parametrize(("text", "expected"), [(str(2 * GIB), 1), (str(4 * GIB), 2), ("max", None), (None, None)])
def test_a_container_has_the_memory_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, expected: int | None
) -> None:
    limit = tmp_path / "memory.max"
    if text is not None:
        limit.write_text(text)
    monkeypatch.setattr(workers, "_CGROUP_LIMIT", limit)

    found = workers.worker_count(1 << 50, 1 << 20, cores=1 << 20)

    assert found == expected if expected is not None else found >= 1


class Stopped(Exception):
    """Ends a run where its pipeline would start."""


@pytest.mark.parametrize(
    ("asked", "work", "runner", "expected"),
    [
        (0, 1, "", (1, "in_memory")),
        (0, 1 << 62, "", (2, "multi_processing")),
        (1, 1 << 62, "", (1, "in_memory")),
        (3, 1, "", (3, "multi_processing")),
        (0, 1 << 62, "--runner=PortableRunner", (1, "in_memory")),
    ],
)
def test_a_run_starts_workers_for_large_work_only_and_as_many_as_were_asked_for(
    bench: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
    work: int,
    runner: str,
    expected: tuple[int, str],
) -> None:
    monkeypatch.setattr(workers, "BYTES_A_WORKER", (4 << 60) // work)
    monkeypatch.setattr(workers, "_cores", lambda: 2)
    found: list[tuple[int, str]] = []

    def engine(plan: VetPlan, options: PipelineOptions, watcher: Watcher) -> RunResult:
        direct = options.view_as(DirectOptions)
        found.append((direct.direct_num_workers, direct.direct_running_mode))
        raise Stopped

    arguments = (runner,) if runner else ()
    options = VetOptions(
        (str(bench.data),), str(bench.out), bench.top / "state", workers=asked, beam_arguments=arguments
    )
    with pytest.raises(Stopped):
        vet_dataset(load_policy(bench.save_policy()), options, engine=engine)

    assert found == [expected]
