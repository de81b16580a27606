"""The whole job from 1e5 rows up: CPU linear in rows, memory flat, beside a numpy floor with the same reads.

Samples have a 64-d embedding, a label, a text and a number, in four sources of equal files. Each run is a process of
its own; its peak counts that process alone (the local runner works in it). The floor reads and hashes the same files as
often as the job does, and adds up per class; it detects, verifies and writes nothing. A projection to 1e9 rows follows
from the figures of the largest run.

Usage: python bench/scale.py [--rows 100000 1000000] [--dimension 64] [--folder KEEP]     (1e7 rows need 6 GB of disk)
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES, SOURCES, FILE_ROWS = 10, 4, 125_000
POLICY = """
version: 1
dataset:
  name: scale
  columns: {label: label, embedding_self: embedding}
  max_malformed_fraction: 0
sources: [{name: all, path: "**", unsigned: accept_as_unknown}]
checks: [{check: robust_spectral, max_flagged_fraction: 1}]
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: bench.example/scale}
"""


def main() -> None:
    """Print one line a size, then the projection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where the data goes; a temporary folder by default")
    parser.add_argument("--part", choices=["job", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--reads", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments.part, arguments.folder, arguments.reads)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    names = ("rows", "MB", "wall s", "CPU s", "rows/CPU-s", "peak MB", "numpy CPU s", "ratio")
    print("".join(f"{name:>13}" for name in names))
    cost = 0.0
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            size = make_data(Path(folder) / "data", rows, arguments.dimension)
            (Path(folder) / "policy.yaml").write_text(POLICY)
            job = measure("job", folder, 0)
            least = measure("floor", folder, int(job["reads"]))
        cpu_s, floor_s = job["cpu_s"], least["cpu_s"]
        figures = (rows, size / 1e6, job["wall_s"], cpu_s, rows / cpu_s, job["peak_mb"], floor_s, cpu_s / floor_s)
        print(
            "".join(
                f"{figure:>13,.{places}f}" for figure, places in zip(figures, (0, 0, 0, 1, 0, 0, 1, 2), strict=True)
            )
        )
        cost = cpu_s / rows
    hours = 1e9 * cost / 100 / 3600
    print(
        f"1e9 rows on 100 workers: {cost * 1e6:.1f} CPU-microseconds a row x 1e9 / 100 = {hours:.2f} h if reads scale"
    )


def make_data(folder: Path, rows: int, dimension: int) -> int:
    """Write the files; return their size in bytes."""
    centres = np.random.default_rng(7).normal(size=(CLASSES, dimension)) * 3
    files = max(SOURCES, -(-rows // FILE_ROWS))
    for index in range(files):
        rng = np.random.default_rng([7, index])
        count = rows // files + (index < rows % files)
        label = rng.integers(0, CLASSES, count)
        values = (rng.normal(size=(count, dimension)) + centres[label]).astype(np.float32)
        table = pa.table(
            {
                "label": label,
                "text": [f"sample {row} of file {index}" for row in range(count)],
                "number": rng.normal(size=count),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), dimension),
            }
        )
        path = folder / f"source-{index % SOURCES}" / f"part-{index:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="none", use_dictionary=["label"], row_group_size=25_000)
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def measure(part: str, folder: str, reads: int) -> dict[str, float]:
    """Run one part in a process of its own and return what it says."""
    command = [sys.executable, __file__, "--part", part, "--folder", folder, "--reads", str(reads)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


def run_part(part: str, folder: Path, reads: int) -> None:
    """Run in this process; print CPU and wall seconds behind the imports, and peak memory."""
    if part == "job":
        from millcert.gate import vet
        from millcert.pipelines.driver import VetOptions
        from millcert.policy import load_policy

        started, began = cpu(), time.perf_counter()
        options = VetOptions((str(folder / "data"),), out=str(folder / "out"), state=folder / "state")
        reads = vet(load_policy(folder / "policy.yaml"), options).verdict.reads
    else:
        started, began = cpu(), time.perf_counter()
        floor(folder / "data", reads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall = time.perf_counter() - began
    print(json.dumps({"cpu_s": cpu() - started, "wall_s": wall, "peak_mb": peak, "reads": reads}))


def floor(folder: Path, reads: int) -> None:
    """Hash every file once a read, decode the embedding in all reads but the first two, and add up per class."""
    sums: dict[int, np.ndarray] = {}
    for number in range(reads):
        for path in sorted(folder.rglob("*.parquet")):
            data = path.read_bytes()
            hashlib.sha256(data).hexdigest()
            if number < 2:
                continue
            for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(batch_size=16_384):
                label = batch.column("label").to_numpy()
                column = batch.column("embedding")
                rows = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float64)
                for each in range(CLASSES):
                    mine = rows[label == each]
                    sums[each] = sums.get(each, 0) + mine.T @ mine


def cpu() -> float:
    """Return CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
