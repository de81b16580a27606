"""A worker process that dies must end the job, because the local runner would wait for it for ever."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from millcert.errors import StoreError
from millcert.pipelines.watchdog import call_watched, end_workers, worker_processes


def start_worker() -> subprocess.Popen[bytes]:
    """Start a process that is called like a worker of Beam and lives until its input ends."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "apache_beam.runners.worker.sdk_worker_main"]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


@pytest.fixture
def worker() -> subprocess.Popen[bytes]:
    return start_worker()


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process to get somewhere; the test's own time limit ends it if it never does."""
    tick = threading.Event()
    while not condition():
        tick.wait(0.01)


def test_only_children_that_are_called_like_workers_count(worker: subprocess.Popen[bytes]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        until(lambda: worker.pid in worker_processes(os.getpid()))
        assert other.pid not in worker_processes(os.getpid())
        assert worker_processes(other.pid) == set()
        other.communicate(b"\n")
    worker.communicate()
    assert worker.pid not in worker_processes(os.getpid())


def test_a_worker_that_dies_while_the_work_goes_on_is_a_store_error(worker: subprocess.Popen[bytes]) -> None:
    release = threading.Event()
    other = start_worker()
    until(lambda: {worker.pid, other.pid} <= worker_processes(os.getpid()))
    killer = threading.Timer(0.8, worker.kill)
    killer.start()

    with pytest.raises(StoreError, match=r"1 of 2 worker processes died") as caught:
        call_watched(release.wait, process=os.getpid(), grace_seconds=0.01)
    release.set()
    worker.communicate()
    other.communicate()

    assert other.returncode == -signal.SIGKILL  # no orphan waits for a job that is gone
    assert caught.value.exit_code == 5
    assert caught.value.must_exit is True
    assert caught.value.workers == (worker.pid,)


def test_a_worker_that_leaves_at_the_end_hurts_nobody(worker: subprocess.Popen[bytes]) -> None:
    until(lambda: worker.pid in worker_processes(os.getpid()))

    def work() -> str:
        threading.Event().wait(0.8)
        worker.kill()
        worker.wait()
        threading.Event().wait(0.6)
        return "done"

    assert call_watched(work, process=os.getpid(), grace_seconds=20) == "done"
    worker.communicate()


def test_workers_are_ended_with_the_shells_that_they_run_in() -> None:
    script = f"{sys.executable} -c 'import sys; sys.stdin.read()' sdk_worker_main; true"
    with subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE) as shell:
        until(lambda: bool(worker_processes(shell.pid)))
        (inner,) = worker_processes(shell.pid)

        end_workers(os.getpid())
        shell.wait()
        until(lambda: not Path(f"/proc/{inner}/cmdline").exists() or not Path(f"/proc/{inner}/cmdline").read_bytes())

    assert worker_processes(os.getpid()) == set()


def test_what_the_work_raises_is_raised_here() -> None:
    def work() -> str:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        call_watched(work, process=os.getpid())
