"""Through Beam's job API, with staging and gRPC between driver, runner and workers: the same answer as in process."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.runners.conftest import Bench, Run
else:
    Bench = Run = Any

JOB_SERVICE = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", "--port"]
LONG_SECONDS = 3000
WORKER_POOL = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]


@pytest.mark.slow
def test_a_job_service_with_workers_elsewhere_gives_the_local_answer(
    runs: Bench, local: Run, serve: Callable[..., Any], free_ports: tuple[int, int], tmp_path: Any
) -> None:
    """Rule: same input, same verdict digest, on any runner. Workers run in another folder and get nothing staged."""
    job_port, pool_port = free_ports
    boot = tmp_path / "boot"
    boot.write_text(f'#!/bin/sh\ncd / && exec {sys.executable} -m millcert.pipelines.boot "$@"\n')
    boot.chmod(0o755)

    with (
        serve([*JOB_SERVICE, str(job_port)], job_port),
        serve([*WORKER_POOL, f"--service_port={pool_port}", f"--container_executable={boot}"], pool_port),
    ):
        run = runs.vet(
            "external",
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{job_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool_port}",
        )

    assert run.exit_code == 0, run.errors
    assert run.answer == local.answer


@pytest.mark.slow
def test_a_job_service_with_loopback_workers_gives_the_local_answer(
    runs: Bench, local: Run, serve: Callable[..., Any], free_ports: tuple[int, int]
) -> None:
    port, _ = free_ports

    with serve([*JOB_SERVICE, str(port)], port):
        run = runs.vet(
            "loopback", "--runner=PortableRunner", f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"
        )

    assert run.exit_code == 0, run.errors
    assert run.answer == local.answer


@pytest.mark.long
def test_a_driver_that_was_killed_is_resumed_by_two_local_workers(hold_resumed: Callable[..., None]) -> None:
    hold_resumed("two-resumed", "--workers", "2")


@pytest.mark.long
def test_two_local_workers_give_the_answer_of_one_on_a_million_samples(
    million: Bench, same_as_local: Callable[[str, Run], None]
) -> None:
    """Rule: same input, same verdict digest, on any worker count."""
    same_as_local("local, 2 workers", million.vet("two", "--workers", "2", timeout=LONG_SECONDS))


@pytest.mark.long
def test_a_job_service_gives_the_local_answer_on_a_million_samples(
    million: Bench, same_as_local: Callable[[str, Run], None], serve: Callable[..., Any], free_ports: tuple[int, int]
) -> None:
    """Rule: same input, same verdict digest, on any runner."""
    port, _ = free_ports

    with serve([*JOB_SERVICE, str(port)], port):
        run = million.vet(
            "loopback",
            *("--runner=PortableRunner", f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"),
            timeout=LONG_SECONDS,
        )

    same_as_local("job service", run)
