"""What keeping work costs, and what it saves: one more file among many, the same files again, a run that was killed.

Data: `--files` Parquet files of `--rows` samples each (64-d embedding, label, text, number), vetted under two policies:
  detector       `robust_spectral`: three passes, of which two and the scores depend on every file
  facts          the same with a suite and a profile, which the first pass feeds
For each, CPU seconds behind the imports, each run in a process of its own:
  nothing kept   no work is kept at all (the size below which it is not worth it is set above every file)
  full           --keep-work: work is kept in the staging folder, for --resume, as it is by default in long runs
  first          --incremental, when nothing is kept yet
  again          --incremental, the same files: what is left to do when all work is found
  one more       --incremental, with one file added
  fresh          the same files as "one more", without anything kept: the rival, and it must give the same verdict
  resumed        a run killed (SIGKILL) in the middle of its CPU time, then --resume
Then the reads of "one more" by step, and the size of what is kept.

Usage: python bench/resume.py [--files 100] [--rows 10000] [--folder KEEP]
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES, DIMENSION = 10, 64
HEAD = """
version: 1
dataset:
  name: resume
  columns: {label: label, embedding_self: embedding}
  max_malformed_fraction: 0
sources: [{name: all, path: "**", unsigned: accept_as_unknown}]
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: bench.example/resume}
"""
CHECK = "checks: [{check: robust_spectral, max_flagged_fraction: 1}]\n"
POLICIES = {
    "detector": HEAD + CHECK,
    "facts": HEAD + CHECK + "expectations: {suite: suite.json, on_failure: reject}\nprofile: {hash_key: hash.key}\n",
}
SUITE = {
    "name": "bench",
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "label"}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "label", "min_value": 0, "max_value": 9}},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "number", "min_value": -1, "max_value": 1}},
        {"type": "expect_column_value_lengths_to_be_between", "kwargs": {"column": "text", "max_value": 100}},
    ],
}
NEVER = 1 << 60


def main() -> None:
    """Print the table of each policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the data goes; a temporary folder by default")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_here(json.loads(arguments.run))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{arguments.files} files of {arguments.rows:,} rows")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        top = Path(folder)
        for number in range(arguments.files):
            write_file(top, number, arguments.rows)
        size = sum(path.stat().st_size for path in (top / "data").iterdir())
        print(f"{size / 1e6:,.0f} MB, {size / arguments.files / 1e3:,.0f} kB a file")
        (top / "suite.json").write_text(json.dumps(SUITE))
        (top / "hash.key").write_text("ab" * 32 + "\n")
        for name, policy in POLICIES.items():
            (top / "policy.yaml").write_text(policy)
            report(top, name, arguments.files, arguments.rows)
            (top / "data" / f"part-{arguments.files:05}.parquet").unlink()
            shutil.rmtree(top / "state")


def report(top: Path, name: str, files: int, rows: int) -> None:
    """Run a policy in all ways and print its table."""
    print(f"\n{name}")
    print(f"{'run':<14}{'CPU s':>8}{'of nothing kept':>17}{'of fresh':>10}{'files read':>12}   verdict")
    nothing = measure(top, least_work_bytes=NEVER)
    line("nothing kept", nothing, nothing)
    line("full", measure(top, keep_work=True), nothing)
    line("resumed", killed_and_resumed(top, nothing["cpu_s"]), nothing)
    line("first", measure(top, incremental=True), nothing)
    kept = sum(path.stat().st_size for path in (top / "state" / "work").rglob("*") if path.is_file())
    line("again", measure(top, incremental=True), nothing)
    write_file(top, files, rows)
    more = measure(top, incremental=True)
    fresh = measure(top, least_work_bytes=NEVER)
    line("fresh", fresh, nothing, fresh)
    line("one more", more, nothing, fresh)
    for step in more["work"]:
        print(f"    {step['step']:<10} {step['done']:>5} files read, {step['reused']:>5} not")
    print(f"    kept: {kept / 1e6:,.1f} MB, {kept / files / rows:,.0f} bytes a row")
    if more["digest"] != fresh["digest"]:
        sys.exit("The verdicts differ.")


def line(name: str, run: dict[str, Any], nothing: dict[str, Any], fresh: dict[str, Any] | None = None) -> None:
    """Print one line of a table."""
    reads = sum(step["done"] for step in run["work"])
    beside = f"{run['cpu_s'] / fresh['cpu_s']:>10.2f}" if fresh else " " * 10
    share = run["cpu_s"] / nothing["cpu_s"]
    print(f"{name:<14}{run['cpu_s']:>8.1f}{share:>17.2f}{beside}{reads:>12,}   {run['digest'][:16]}")


def write_file(top: Path, number: int, rows: int) -> None:
    """Write one file of the data."""
    rng = np.random.default_rng([5, number])
    centres = np.random.default_rng(7).normal(size=(CLASSES, DIMENSION)) * 3
    label = rng.integers(0, CLASSES, rows)
    values = (rng.normal(size=(rows, DIMENSION)) + centres[label]).astype(np.float32)
    table = pa.table(
        {
            "label": label,
            "text": [f"sample {row} of file {number}" for row in range(rows)],
            "number": rng.normal(size=rows),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), DIMENSION),
        }
    )
    (top / "data").mkdir(exist_ok=True)
    pq.write_table(table, top / "data" / f"part-{number:05}.parquet", compression="none", use_dictionary=["label"])


def start(top: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a run in a process of its own."""
    command = [sys.executable, __file__, "--run", json.dumps({"top": str(top), **options})]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def measure(top: Path, **options: Any) -> dict[str, Any]:
    """Run to the end and return what the run says."""
    shutil.rmtree(top / "out", ignore_errors=True)
    with start(top, **options) as process:
        output = process.communicate()[0]
    if process.returncode:
        sys.exit(f"A run ended with {process.returncode}.")
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def killed_and_resumed(top: Path, whole_s: float) -> dict[str, Any]:
    """Kill a run when it has spent half of what a whole run takes, and resume it."""
    shutil.rmtree(top / "out", ignore_errors=True)
    with start(top, keep_work=True) as process:
        began = None
        while process.poll() is None:
            if began is None and any(top.glob(".out.staging-*/work")):
                began = spent_s(process.pid)  # the imports are behind it
            if began is not None and spent_s(process.pid) - began > whole_s / 2:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)
    return measure(top, resume=True)


def spent_s(process: int) -> float:
    """Return the CPU seconds of a process."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_here(asked: dict[str, Any]) -> None:
    """Run in this process; print CPU seconds behind the imports."""
    from millcert.gate import vet
    from millcert.pipelines.driver import VetOptions
    from millcert.policy import load_policy

    top = Path(asked.pop("top"))
    options = VetOptions((str(top / "data"),), str(top / "out"), top / "state", workers=1, **asked)
    loaded, before = load_policy(top / "policy.yaml"), resource.getrusage(resource.RUSAGE_SELF)
    result = vet(loaded, options)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    work = [one._asdict() for one in result.work]
    print(json.dumps({"cpu_s": spent, "digest": result.verdict.digest, "work": work}))


if __name__ == "__main__":
    main()
