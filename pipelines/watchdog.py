"""Notices that a worker process of the local runner died, because that runner itself waits for it for ever.

An out-of-memory kill would otherwise look like a job without end (research/engine.md 1.2). A remote runner has its own
supervision and is not watched.

  1. Beam waits for each worker in a thread, which raises the exit status if it is not 0: that is a death.
  2. A worker that only left may have been told to: at the end the runner stops one after the other, each after the exit
     of the one before, so with many workers or a busy machine the last is there long after the first has gone.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from millcert.errors import StoreError

T = TypeVar("T")

_POLL_SECONDS = 0.5
#: A job that is done so long after a worker's death was not hurt by it.
_GRACE_SECONDS = 10.0
#: A job that goes on so long after a worker left, with none that follows, is not about to end.
_LEAVING_SECONDS = 300.0
#: How Beam's thread says that a worker did not end by itself (`SubprocessSdkWorker.run`).
_DEATH_WORDS = "Worker subprocess exited with return code"
_WORKER_WORD = b"sdk_worker_main"


def call_watched(
    work: Callable[[], T],
    *,
    process: int,
    grace_seconds: float = _GRACE_SECONDS,
    leaving_seconds: float = _LEAVING_SECONDS,
) -> T:
    """Return what `work` returns, or raise if a worker process died and the work does not end by itself.

    Whatever is raised here, an interruption too, no worker is left running: orphans would wait for a job that is gone,
    with its memory.

    Args:
        work: runs in a thread of its own.
        process: whose children are the workers: this process.
        grace_seconds: how long the work may go on behind the death of a worker.
        leaving_seconds: likewise behind the last worker that left with status 0.

    Raises:
        StoreError: a worker died; `work` is left behind in a daemon thread, so the caller should end the process.
        Exception: whatever `work` raised.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed on to the caller's thread below
            errors.append(error)

    thread = threading.Thread(target=run, name="millcert-pipeline", daemon=True)
    with _deaths_noted() as deaths:
        thread.start()
        try:
            _watch(thread, process, deaths, grace_seconds, leaving_seconds)
        except BaseException:
            end_workers(process)
            raise
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def _deaths_noted() -> Iterator[list[str]]:
    """Yield a list that gets a line for each worker that Beam's threads say to have died.

    After an error the threads of workers that were killed with the job may still be about to speak; they are heard
    then too, by nobody, instead of printing what looks like another fault.
    """
    deaths: list[str] = []
    before = threading.excepthook

    def note(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, RuntimeError) and str(args.exc_value).startswith(_DEATH_WORDS):
            deaths.append(str(args.exc_value))
        else:
            before(args)

    threading.excepthook = note
    yield deaths
    threading.excepthook = before


def _watch(
    thread: threading.Thread, process: int, deaths: list[str], grace_seconds: float, leaving_seconds: float
) -> None:
    seen: set[int] = set()
    gone: set[int] = set()
    left_at = time.monotonic()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        alive = worker_processes(process)
        seen |= alive
        if seen - alive != gone:
            gone, left_at = seen - alive, time.monotonic()
        if deaths:
            thread.join(grace_seconds)
        if thread.is_alive() and (deaths or (gone and time.monotonic() - left_at > leaving_seconds)):
            raise StoreError(
                f"{max(len(deaths), len(gone), 1)} of {max(len(seen), len(deaths))} worker processes died, and the job "
                "cannot go on without them.",
                hint="Usually the machine is out of memory: use fewer --workers or a larger machine.",
                workers=tuple(sorted(gone)),
                must_exit=True,
            )


def end_workers(process: int) -> None:
    """Kill the Beam workers below a process, with the shells that the runner starts them in."""
    shells = worker_processes(process)
    for worker in [*shells, *(below for shell in shells for below in worker_processes(shell))]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def worker_processes(parent: int) -> set[int]:
    """Return the process ids of the live Beam workers below a process; empty where there is no /proc."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z" and _WORKER_WORD in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except (OSError, ValueError):
            continue
    return found
