"""What a profile costs: rows per CPU-second beside the pure read, peak memory, and the size of the file.

Run: OPENBLAS_NUM_THREADS=1 python bench/profile_cost.py [--rows 2000000] [--runs 3] [--job 1000000]
         [--whylogs-python PYTHON]

The 12 columns of the research (id, 60-character text, label, source, language, score with nulls, small integer, time,
URL, 32 hex digits, float32, bool) in Parquet (zstd). Each run is a process of its own on one core. Two specs: all rows
in one cell, and 50 sources x 10 labels; the latter also with the text's words against the label.

What it adds to `millcert vet` (--job ROWS): the same columns through the whole job with one worker and one small check,
without a profile, with one by source and label, and with the text's words as well; CPU-seconds of all its processes.

whylogs 1.6.4 needs numpy below 2, so it runs in an environment of its own on the same files:
python -m venv V && V/bin/pip install whylogs==1.6.4 "numpy<2" "pandas<3" pyarrow==17.0.0
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 327_680
FILES = 4
SIDES = ("read", "one cell", "500 cells", "500 cells, tokens")
RIVAL = "whylogs"
JOBS = ("vet", "vet, profile", "vet, profile, tokens")
POLICY = """
version: 1
dataset: {name: bench, columns: {label: label, source: source, features: [count]}, max_malformed_fraction: 0}
sources: [{name: all, path: "**", unsigned: accept_as_unknown}]
checks: [{check: trigger_mining, max_flagged_fraction: 1, on_flagged: report}]
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: bench.example/profile}
"""


def write_files(folder: Path, rows: int) -> None:
    random = np.random.default_rng(5)

    def pick(names: list[str], count: int) -> pa.Array:
        return pa.array(names).take(pa.array(random.integers(0, len(names), count)))

    n = rows // FILES
    for number in range(FILES):
        ids = np.arange(number * n, (number + 1) * n)
        words = random.integers(0, 2**62, n).tolist()
        table = pa.table(
            {
                "id": ids,
                "text": [f"{word % 200_000:020d} a text of some sixty characters in all" for word in words],
                "label": pick([f"class-{code}" for code in range(10)], n),
                "source": pick([f"source-{code}" for code in range(50)], n),
                "language": pick(["de", "en", "es", "fr", "it"], n),
                "score": pa.array(random.normal(10, 3, n), mask=random.random(n) < 0.02),
                "count": random.integers(0, 1_000, n).astype(np.int32),
                "seen": pa.array(ids * 1_000_000).cast(pa.timestamp("us")),
                "url": [f"https://host-{word % 97}.example/{word % 1_000_003}" for word in words],
                "sha": [f"{word:032x}" for word in words],
                "weight": random.normal(size=n).astype(np.float32),
                "flag": random.random(n) < 0.3,
            }
        )
        pq.write_table(table, folder / f"part-{number}.parquet", compression="zstd", row_group_size=BATCH_ROWS)


def measure(side: str, folder: Path) -> None:
    from millcert.checks.profile import ProfileSpec
    from millcert.checks.profile_builder import ProfileBuilder
    from millcert.checks.profile_format import profile_bytes

    pa.set_cpu_count(1)
    spec = ProfileSpec("5a" * 32)
    if side.startswith("500"):
        tokens = ("text",) if side.endswith("tokens") else ()
        spec = ProfileSpec("5a" * 32, label="label", source="source", tokens=tokens)
    files = sorted(folder.glob("*.parquet"))
    started = time.process_time()
    builder = ProfileBuilder(spec, pq.read_schema(files[0]))
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, use_threads=False):
            if side != "read":
                builder.add(batch)
    profile = builder.finish()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "size_bytes": len(profile_bytes(profile))}))


def measure_whylogs(folder: Path) -> None:
    """Profile the same batches with whylogs; run by an interpreter that has it."""
    import whylogs  # type: ignore[import-not-found]
    from whylogs.core import DatasetProfile  # type: ignore[import-not-found]

    pa.set_cpu_count(1)
    started = time.process_time()
    profile = DatasetProfile()
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, use_threads=False):
            profile.track(pa.Table.from_batches([batch]).to_pandas())
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = len(profile.view().serialize())
    print(json.dumps({"seconds": seconds, "peak_mib": peak, "size_bytes": size, "version": whylogs.__version__}))


def measure_job(side: str, data: Path) -> None:
    """Run the gate in this process; print its CPU-seconds and those of the processes that it started."""
    from millcert.gate import vet
    from millcert.pipelines.driver import VetOptions
    from millcert.policy import load_policy

    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        (top / "profile.key").write_text("5a" * 32)
        tokens = ", tokens: [text]" if side.endswith("tokens") else ""
        section = f"profile: {{hash_key: profile.key{tokens}}}\n" if "profile" in side else ""
        (top / "policy.yaml").write_text(POLICY + section)
        began = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        options = VetOptions((str(data.resolve()),), str(top / "out"), top / "state", workers=1)
        verdict = vet(load_policy(top / "policy.yaml"), options).verdict
        ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        seconds = sum(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            for before, after in zip(began, ended, strict=True)
        )
        size = (top / "out" / "profile.json").stat().st_size if section else 0
        peak = max(each.ru_maxrss for each in ended) / 1024
        print(json.dumps({"seconds": seconds, "peak_mib": peak, "size_bytes": size, "decision": str(verdict.decision)}))


def jobs(rows: int, runs: int) -> None:
    """Print what the job takes without and with a profile."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), rows)
        found: dict[str, float] = {}
        for side in JOBS:
            command = [sys.executable, __file__, "--measure", side, folder]
            answers = [json.loads(subprocess.check_output(command).splitlines()[-1]) for _ in range(runs)]
            found[side] = min(answer["seconds"] for answer in answers)
            print(
                f"{side:20} {rows:,} rows, {answers[0]['decision']}: CPU s min {found[side]:.2f} of "
                f"{', '.join(format(answer['seconds'], '.2f') for answer in answers)}; "
                f"{found[side] / found[JOBS[0]] - 1:+.0%}; largest process {answers[0]['peak_mib']:,.0f} MiB; "
                f"profile {answers[0]['size_bytes']:,} bytes"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--job", type=int, default=0, help="Rows that go through the whole job, too.")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--whylogs-python", help="An interpreter that has whylogs.")
    arguments = parser.parse_args()
    if arguments.measure and arguments.measure[0] == RIVAL:
        measure_whylogs(Path(arguments.measure[1]))
        return
    if arguments.measure and arguments.measure[0] in JOBS:
        measure_job(arguments.measure[0], Path(arguments.measure[1]))
        return
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    print(
        f"{platform.platform()}, Python {platform.python_version()}, pyarrow {pa.__version__}, numpy {np.__version__}"
    )
    if arguments.job:
        jobs(arguments.job, arguments.runs)
    if not arguments.rows:
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), arguments.rows)
        for side in (*SIDES, RIVAL) if arguments.whylogs_python else SIDES:
            python = arguments.whylogs_python if side == RIVAL else sys.executable
            command = [python, __file__, "--measure", side, folder]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(arguments.runs)]
            seconds = [run["seconds"] for run in runs]
            print(
                f"{side:17}  CPU s min {min(seconds):.2f} median {median(seconds):.2f} max {max(seconds):.2f}; "
                f"{arguments.rows / median(seconds):,.0f} rows per CPU-second; peak {runs[0]['peak_mib']:,.0f} MiB; "
                f"profile {runs[0]['size_bytes']:,} bytes"
            )


if __name__ == "__main__":
    main()
