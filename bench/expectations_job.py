"""What a worker of `millcert vet` takes for a suite: the peak memory of each process, of however many rows.

The 12 columns and 20 expectations of bench/expectations.py go through the real job (hash, verify, read, measure, score
with row marks, split, sign) under a policy with one small check (trigger_mining on one column), with worker processes.
VmHWM of each process is read twenty times a second. "driver" is the process of the local runner, whose shuffle is in
its memory.

--ids distinct: as there, so uniqueness holds. --ids twice: each id stands twice, so every row is not as expected, and
all of them go to the row sidecar.

Usage: python bench/expectations_job.py [--rows 1000000 10000000] [--ids distinct twice] [--workers 2] [--folder FOLDER]
FOLDER holds or gets rows-N files of an earlier run (10,000,000 rows: 0.9 GB).
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
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.expectations import EXPECTATIONS, GROUP_ROWS, write_files

POLICY = """
version: 1
dataset: {name: bench, columns: {label: label, features: [length]}, max_malformed_fraction: 0}
sources: [{name: all, path: "**", unsigned: accept_as_unknown}]
expectations: {suite: suite.json, on_failure: warn}
checks: [{check: trigger_mining, max_flagged_fraction: 1, on_flagged: report}]
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: bench.example/expectations}
"""


def main() -> None:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--ids", nargs="+", choices=["distinct", "twice"], default=["distinct", "twice"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        vet(arguments.part, arguments.data, arguments.workers)
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, pyarrow {pa.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        for rows in arguments.rows:
            for ids in arguments.ids:
                data = data_of(arguments.folder or Path(temporary), rows, ids)
                with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                    report(rows, ids, measure(Path(folder), data, arguments.workers))


def data_of(folder: Path, rows: int, ids: str) -> Path:
    """Return the folder of some rows, which is made where there is none."""
    distinct = folder / f"rows-{rows}"
    if not distinct.exists():
        distinct.mkdir(parents=True)
        write_files(distinct, rows)
    if ids == "distinct":
        return distinct
    twice = folder / f"rows-{rows}-twice"
    if not twice.exists():
        twice.mkdir()
        for file in sorted(distinct.glob("*.parquet")):
            table = pq.read_table(file)
            table = table.set_column(0, "id", halved(table["id"], rows))
            pq.write_table(table, twice / file.name, compression="zstd", row_group_size=GROUP_ROWS)
    return twice


def halved(ids: pa.ChunkedArray, rows: int) -> pa.Array:
    """Return ids of which each stands twice: those of the second half are those of the first."""
    half = (rows + 1) // 2
    numbers = ids.to_numpy()
    return pa.array(numbers % half)


def measure(folder: Path, data: Path, workers: int) -> dict[str, Any]:
    """Run the job in a process of its own; return what it says with the peak of each of its processes."""
    (folder / "suite.json").write_text(json.dumps({"name": "bench", "expectations": EXPECTATIONS}))
    (folder / "policy.yaml").write_text(POLICY)
    command = [sys.executable, __file__, "--part", str(folder), "--data", str(data), "--workers", str(workers)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def vet(folder: Path, data: Path, workers: int) -> None:
    """Run the job in this process and its workers; print what it took."""
    from millcert.gate import vet as run
    from millcert.pipelines.driver import VetOptions
    from millcert.policy import load_policy

    peaks: dict[int, float] = {}
    ended = threading.Event()
    watching = threading.Thread(target=watch, args=(peaks, ended), daemon=True)
    watching.start()
    began = time.perf_counter()
    options = VetOptions((str(data.resolve()),), str(folder / "out"), folder / "state", workers=workers)
    verdict = run(load_policy(folder / "policy.yaml"), options).verdict
    wall = time.perf_counter() - began
    ended.set()
    watching.join()
    failing = pq.read_metadata(folder / "out" / "expectation_rows.parquet").num_rows
    driver = peaks.pop(os.getpid())
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    figures = {
        "driver_mib": driver,
        "worker_mib": sorted(peaks.values(), reverse=True),
        "cpu_seconds": sum(each.ru_utime + each.ru_stime for each in usage),
        "wall_seconds": wall,
        "failing_rows": failing,
        "decision": str(verdict.decision),
    }
    print(json.dumps(figures))


def watch(peaks: dict[int, float], ended: threading.Event) -> None:
    """Note the peak (VmHWM, MiB) of this process and all that it started, until the end."""
    while not ended.wait(0.05):
        for pid in family():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                peaks[pid] = int(status.split("VmHWM:")[1].split()[0]) / 1024
            except (OSError, IndexError):
                continue  # it has ended


def family() -> set[int]:
    """Return the ids of this process and of all its descendants."""
    children: dict[int, list[int]] = {}
    for name in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((name / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(name.name))
    found, waiting = set(), [os.getpid()]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, [])
    return found


def report(rows: int, ids: str, figures: dict[str, Any]) -> None:
    """Print one run."""
    peaks = ", ".join(f"{peak:,.0f}" for peak in figures["worker_mib"] if peak > 100)
    print(
        f"{rows:,} rows, ids {ids}: {figures['decision']}, {figures['failing_rows']:,} failing rows; "
        f"peak MiB: workers {peaks}; driver {figures['driver_mib']:,.0f}; "
        f"{figures['cpu_seconds']:.0f} CPU s, {figures['wall_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
