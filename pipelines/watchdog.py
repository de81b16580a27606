"""Notices that a worker process of the local runner died, because that runner itself waits for it for ever.

An out-of-memory kill would otherwise look like a job without end (research/engine.md 1.2). A remote runner has its own
supervision and is not watched.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from millcert.errors import StoreError

T = TypeVar("T")

_POLL_SECONDS = 0.5
#: At the job's end workers leave one by one; a job that is done by then was not hurt by it.
_GRACE_SECONDS = 10.0
_WORKER_WORD = b"sdk_worker_main"


def call_watched(work: Callable[[], T], *, process: int, grace_seconds: float = _GRACE_SECONDS) -> T:
    """Return what `work` returns, or raise if a worker process died and the work does not end by itself.

    Whatever is raised here, an interruption too, no worker is left running: orphans would wait for a job that is gone,
    with its memory.

    Args:
        work: runs in a thread of its own.
        process: whose children are the workers: this process.
        grace_seconds: how long the work may go on behind the death of a worker.

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
    thread.start()
    try:
        _watch(thread, process, grace_seconds)
    except BaseException:
        end_workers(process)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _watch(thread: threading.Thread, process: int, grace_seconds: float) -> None:
    seen: set[int] = set()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        alive = worker_processes(process)
        dead = seen - alive
        seen |= alive
        if dead and thread.is_alive():
            thread.join(grace_seconds)
            if thread.is_alive():
                raise StoreError(
                    f"{len(dead)} of {len(seen)} worker processes died, and the job cannot go on without them.",
                    hint="Usually the machine is out of memory: use fewer --workers or a larger machine.",
                    workers=tuple(sorted(dead)),
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
