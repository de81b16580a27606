"""Uneven data in bounded memory: what each shape of skew costs, each in a process of its own with one worker.

Cases, with a label, a text and an embedding in each sample:
  even            300,000 samples of 64 dimensions, 10 classes, 8 files: what the others are held against
  one class       the same, 90 % of the samples in one class
  one file        the same, 90 % of the bytes in one file, which is larger than the memory that a file may take
  many files      10,000 files of 30 samples (--files 100000 for the full case)
  empty files     4 files with samples among 196 without
  1,000 classes   300,000 samples of 64 dimensions in 1,000 classes
  d = 4,096       20,000 samples of 4,096 dimensions, 10 classes
  wide            60,000 samples of 64 dimensions with 100 more columns of numbers, which no check reads
  wide, all       the same, with all columns decoded in every pass

With --workers above 1 the columns behind say how the work was spread: CPU seconds of the busiest worker process as a
share of all of them (their starting taken off: 5 s each), and the largest of them in memory; both sampled 20 times a
second.

Usage: python bench/skew.py [--case NAME ...] [--files 10000] [--rows 300000] [--workers 1]
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

POLICY = """
version: 1
dataset:
  name: skew
  columns: {label: label, embedding_self: embedding}
  max_malformed_fraction: 0
sources: [{name: all, path: "**", unsigned: accept_as_unknown}]
checks: [{check: robust_spectral, max_flagged_fraction: 1, over_limit: warn}]
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: bench.example/skew}
"""
ROWS = 300_000
#: What a worker process spends before it reads anything (docs/runners.md).
START_S = 5.0
CASES = (
    "even",
    "one class",
    "one file",
    "many files",
    "empty files",
    "1,000 classes",
    "d = 4,096",
    "wide",
    "wide, all",
)


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.workers, is_whole=arguments.case == ["wide, all"])
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(
        f"{'case':<16}{'rows':>10}{'files':>9}{'MB':>8}{'wall s':>9}{'CPU s':>8}{'peak MB':>9}{'busiest':>9}  decision"
    )
    for case in arguments.case:
        with tempfile.TemporaryDirectory() as folder:
            top = Path(folder)
            (top / "policy.yaml").write_text(POLICY)
            rows = make_data(top / "data", case, arguments.files, arguments.rows)
            sizes = [path.stat().st_size for path in (top / "data").iterdir()]
            command = [sys.executable, __file__, "--run", folder, "--workers", str(arguments.workers), "--case", case]
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            found = json.loads(output.splitlines()[-1])
        name = f"{case:<16}{rows:>10,}{len(sizes):>9,}{sum(sizes) / 1e6:>8,.0f}"
        figures = f"{found['wall_s']:>9,.1f}{found['cpu_s']:>8,.1f}{found['peak_mb']:>9,.0f}{found['busiest']:>9.0%}"
        print(f"{name}{figures}  {found['decision']}", flush=True)


def make_data(folder: Path, case: str, small_files: int, wanted: int = ROWS) -> int:
    """Write the files of a case; return how many rows they have."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    rows = 20_000 if case == "d = 4,096" else 60_000 if case.startswith("wide") else wanted
    dimension = 4096 if case == "d = 4,096" else 64
    classes = 1000 if case == "1,000 classes" else 10
    centres = rng.normal(size=(classes, dimension)) * 3
    if case == "one file":
        counts: Sequence[int] = [rows * 9 // 10, *[rows // 70] * 7]
    elif case == "many files":
        counts = [30] * small_files
    elif case == "empty files":
        counts = [rows // 4 if number % 50 == 0 else 0 for number in range(200)]
    else:
        counts = [rows // 8] * 8
    for number, count in enumerate(counts):
        label = rng.integers(0, classes, count)
        if case == "one class":
            label[rng.random(count) < 0.9] = 0
        values = (rng.normal(size=(count, dimension)) + centres[label]).astype(np.float32)
        columns = {
            "label": pa.array(label, pa.int64()),
            "text": pa.array([f"sample {row} of file {number}" for row in range(count)], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), dimension),
        }
        if case.startswith("wide"):
            columns |= {f"number {place}": pa.array(rng.normal(size=count)) for place in range(100)}
        # Rows of 16 kB: fewer of them in a row group, as a writer that bounds its memory would have it.
        group = 2000 if dimension > 1000 else 25_000
        pq.write_table(pa.table(columns), folder / f"{number:06}.parquet", compression="none", row_group_size=group)
    return sum(counts)


def run(folder: Path, workers: int, *, is_whole: bool) -> None:
    """Vet here or in workers; print CPU and wall seconds behind the imports, peak memory, and the busiest worker."""
    from millcert.gate import vet
    from millcert.pipelines.driver import VetOptions
    from millcert.pipelines.read import ReadFile
    from millcert.policy import load_policy

    if is_whole:
        ReadFile._columns = lambda *_: None  # type: ignore[method-assign] # noqa: SLF001
    started, began, sampler = cpu(), time.perf_counter(), WorkerSampler()
    options = VetOptions((str(folder / "data"),), str(folder / "out"), folder / "state", workers=workers)
    verdict = vet(load_policy(folder / "policy.yaml"), options).verdict
    wall_s, (busiest, worker_mb) = time.perf_counter() - began, sampler.end()
    peak = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, worker_mb)
    found = {"cpu_s": cpu() - started, "wall_s": wall_s, "peak_mb": peak, "busiest": busiest}
    print(json.dumps({**found, "decision": verdict.decision}))


class WorkerSampler:
    """Watches the worker processes of this one from a thread: their CPU seconds and memory, 20 times a second."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._cpu_s: dict[int, float] = {}
        self._peak_mb = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> tuple[float, float]:
        """Return the busiest worker's share of all workers' CPU seconds, and the peak of one in MB."""
        self._ended.set()
        self._thread.join()
        spent = sorted(max(0.0, seconds - START_S) for seconds in self._cpu_s.values() if seconds > START_S)
        return (spent[-1] / sum(spent) if spent else 1.0), self._peak_mb

    def _watch(self) -> None:
        ticks, own = os.sysconf("SC_CLK_TCK"), {os.getpid()}
        while not self._ended.wait(0.05):
            found: dict[int, list[str]] = {}
            for name in Path("/proc").glob("[0-9]*"):
                try:
                    found[int(name.name)] = (name / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
            family = set(own)
            for _ in range(3):  # the runner starts workers by a shell
                family |= {process for process, stat in found.items() if int(stat[1]) in family}
            for process in family - own:
                self._cpu_s[process] = (int(found[process][11]) + int(found[process][12])) / ticks
                self._peak_mb = max(self._peak_mb, int(found[process][21]) * 4096 / 2**20)


def cpu() -> float:
    """Return CPU seconds of this process and its ended children so far."""
    both = (resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


if __name__ == "__main__":
    main()
