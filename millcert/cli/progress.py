"""Progress of a run on standard error: rows, rate and time left; one line now and then where there is no terminal."""

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from millcert.pipelines.progress import Progress as Sums
from millcert.pipelines.progress import read_progress

if TYPE_CHECKING:
    from millcert.pipelines.plan import VetPlan

_POLL_SECONDS = 0.5
_LINE_SECONDS = 10.0


class RunProgress:
    """Shows how far a run is while its pipeline works; implements `millcert.pipelines.driver.Watcher`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._sums = Sums(0, 0, {})
        self._offset = 0

    def start(self, plan: "VetPlan") -> None:
        """Start to follow the run's progress file in a thread of its own."""
        total = sum(item.size_bytes for item in plan.items) * (plan.passes + 1)
        follow = self._follow_terminal if self._console.is_terminal else self._follow_lines
        self._thread = threading.Thread(target=follow, args=(Path(plan.progress_path), total), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; the terminal is left as it was."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _follow_terminal(self, path: Path, total: int) -> None:
        columns = (
            TextColumn("vetting"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[rows]:,} rows read  {task.fields[rate]:,.0f} rows/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("vet", total=total or None, rows=0, rate=0.0)
            started = time.monotonic()
            while not self._stopped.wait(_POLL_SECONDS):
                self._update(path, progress, task, started)
            self._update(path, progress, task, started)

    def _update(self, path: Path, progress: Progress, task: TaskID, started: float) -> None:
        self._offset, self._sums = read_progress(path, self._offset, self._sums)
        rate = self._sums.rows / max(time.monotonic() - started, 1e-3)
        progress.update(task, completed=self._sums.bytes, rows=self._sums.rows, rate=rate)

    def _follow_lines(self, path: Path, total: int) -> None:
        started = time.monotonic()
        while not self._stopped.wait(_LINE_SECONDS):
            self._offset, self._sums = read_progress(path, self._offset, self._sums)
            elapsed = time.monotonic() - started
            done = self._sums.bytes / total if total else 0.0
            left = f"{elapsed / done - elapsed:,.0f} s left" if done > 0 else "time left unknown"
            sys.stderr.write(
                f"vetting: {done:.0%}, {self._sums.rows:,} rows read, {self._sums.rows / elapsed:,.0f} rows/s, {left}\n"
            )
            sys.stderr.flush()
