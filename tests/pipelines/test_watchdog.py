"""A worker process that dies must end the job, because the local runner would wait for it for ever."""

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

from millcert.errors import StoreError
from millcert.pipelines.watchdog import _DEATH_WORDS, call_watched, end_workers, worker_processes


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


def wait_as_beam_does(worker: subprocess.Popen[bytes]) -> threading.Thread:
    """Start the thread in which Beam waits for a worker (`SubprocessSdkWorker.run`)."""

    def run() -> None:
        if worker.wait():
            raise RuntimeError(f"Worker subprocess exited with return code {worker.returncode}")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_beam_still_says_of_a_dead_worker_what_is_listened_for() -> None:
    """Without these words a death would be noticed only after minutes."""
    source = inspect.getsource(SubprocessSdkWorker.run)

    assert _DEATH_WORDS in source


def test_a_worker_that_dies_while_the_work_goes_on_is_a_store_error(worker: subprocess.Popen[bytes]) -> None:
    before, release = threading.excepthook, threading.Event()
    other = start_worker()
    until(lambda: {worker.pid, other.pid} <= worker_processes(os.getpid()))
    waiting = [wait_as_beam_does(worker), wait_as_beam_does(other)]
    killer = threading.Timer(0.8, worker.kill)
    killer.start()

    with pytest.raises(StoreError, match=r"1 of 2 worker processes died") as caught:
        call_watched(release.wait, process=os.getpid(), grace_seconds=0.01)
    release.set()
    for thread in waiting:
        thread.join()
    threading.excepthook = before

    assert other.returncode == -signal.SIGKILL  # no orphan waits for a job that is gone
    assert caught.value.exit_code == 5
    assert caught.value.must_exit is True
    assert caught.value.workers == (worker.pid,)
    for each in (worker, other):
        each.communicate()


def test_workers_that_leave_one_by_one_at_the_end_are_no_deaths_however_slowly(worker: subprocess.Popen[bytes]) -> None:
    """Beam stops a worker when the one before has exited: ten seconds between first and last were too few once."""
    other = start_worker()
    until(lambda: {worker.pid, other.pid} <= worker_processes(os.getpid()))
    waiting = [wait_as_beam_does(worker), wait_as_beam_does(other)]

    def work() -> str:
        threading.Event().wait(0.6)
        worker.communicate()  # its input ends, so it leaves
        threading.Event().wait(1.2)
        other.communicate()
        return "done"

    assert call_watched(work, process=os.getpid(), grace_seconds=0.01) == "done"
    for thread in waiting:
        thread.join()


def test_a_job_that_goes_on_long_after_a_worker_left_is_ended(worker: subprocess.Popen[bytes]) -> None:
    before, release = threading.excepthook, threading.Event()
    until(lambda: worker.pid in worker_processes(os.getpid()))
    waiting = wait_as_beam_does(worker)
    killer = threading.Timer(0.8, worker.communicate)
    killer.start()

    with pytest.raises(StoreError, match=r"1 of 1 worker processes died"):
        call_watched(release.wait, process=os.getpid(), leaving_seconds=0.01)
    release.set()
    waiting.join()
    threading.excepthook = before


def test_what_other_threads_raise_is_left_to_others(worker: subprocess.Popen[bytes]) -> None:
    heard: list[str] = []
    before = threading.excepthook
    threading.excepthook = lambda args: heard.append(str(args.exc_value))

    def fail() -> None:
        raise RuntimeError("not a worker")

    def work() -> str:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        return "done"

    assert call_watched(work, process=os.getpid()) == "done"
    threading.excepthook = before
    worker.communicate()
    assert heard == ["not a worker"]


def test_a_worker_that_dies_at_the_end_hurts_nobody(worker: subprocess.Popen[bytes]) -> None:
    until(lambda: worker.pid in worker_processes(os.getpid()))
    waiting = wait_as_beam_does(worker)

    def work() -> str:
        threading.Event().wait(0.8)
        worker.kill()
        waiting.join()
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
