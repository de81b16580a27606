"""What the whole job costs: samples per CPU-second and peak memory, against plain numpy on the same files.

The floor does the arithmetic that no implementation of these checks can leave out, over the same Parquet files and
the same number of reads, in one process without Beam, digests, verification or output: read, SHA-256 of the bytes,
and per class sums and products. Both run in processes of their own, one after the other; ratios are what counts.

Usage: python bench/job.py [--rows 200000] [--dimension 64] [--runs 3]
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
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES = 10
FILES = 8
POLICY = """
version: 1
dataset:
  name: bench
  columns: {label: label, embedding_self: embedding, embedding_external: embedding2}
  max_malformed_fraction: 0
sources: [{name: all, path: "**", unsigned: accept_as_unknown}]
checks:
  - {check: robust_spectral, max_flagged_fraction: 1}
  - {check: label_noise, max_flagged_fraction: 1, on_flagged: report}
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: bench.example/ledger}
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", choices=["job", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reads", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments.part, arguments.folder, arguments.reads)
        return
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        size = make_data(top / "data", arguments.rows, arguments.dimension)
        (top / "policy.yaml").write_text(POLICY)
        versions = f"Python {platform.python_version()}, numpy {np.__version__}"
        print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}")
        shape = f"d = {arguments.dimension} twice, {CLASSES} classes"
        print(f"{arguments.rows:,} samples, {shape}, {size / 1e6:,.0f} MB in {FILES} files")
        jobs = [measure("job", top, 0) for _ in range(arguments.runs)]
        floors = [measure("floor", top, int(jobs[0]["reads"])) for _ in range(arguments.runs)]
        for name, runs in (("millcert vet", jobs), ("plain numpy", floors)):
            cpu = sorted(run["cpu_s"] for run in runs)
            rate = arguments.rows / cpu[0]
            peak = max(run["peak_mb"] for run in runs)
            print(f"{name:14} CPU-s min {cpu[0]:.1f} median {median(cpu):.1f} max {cpu[-1]:.1f}", end="   ")
            print(f"{rate:,.0f} samples per CPU-second   peak {peak:,.0f} MB")
        ratio = min(run["cpu_s"] for run in jobs) / min(run["cpu_s"] for run in floors)
        print(f"millcert / numpy: {ratio:.2f} times the CPU, {int(jobs[0]['reads'])} reads each (imports not counted)")


def make_data(folder: Path, rows: int, dimension: int) -> int:
    """Write the files; return their size in bytes."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(CLASSES, dimension)) * 3
    for index in range(FILES):
        count = rows // FILES
        label = rng.integers(0, CLASSES, count)
        vectors = [(rng.normal(size=(count, dimension)) + centres[label]).astype(np.float32) for _ in range(2)]
        columns = [pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), dimension) for values in vectors]
        table = pa.table({"label": label, "embedding": columns[0], "embedding2": columns[1]})
        pq.write_table(table, folder / f"part-{index}.parquet", compression="none", use_dictionary=["label"])
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(part: str, folder: Path, reads: int) -> dict[str, float]:
    """Run one part in a process of its own and return what it says."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--reads", str(reads)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


def run_part(part: str, folder: Path, reads: int) -> None:
    """Run in this process and print CPU seconds behind the imports, and peak memory."""
    if part == "job":
        from millcert.gate import vet
        from millcert.pipelines.driver import VetOptions
        from millcert.policy import load_policy

        started = cpu()
        loaded = load_policy(folder / "policy.yaml")
        out = tempfile.mkdtemp()
        result = vet(loaded, VetOptions((str(folder / "data"),), out=f"{out}/out", state=Path(out) / "state"))
        reads = result.verdict.reads
    else:
        started = cpu()
        floor(folder / "data", reads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_s": cpu() - started, "peak_mb": peak, "reads": reads}))


def floor(folder: Path, reads: int) -> None:
    """Hash every file once a read, decode both vectors in all reads but the first two, and add up per class."""
    sums: dict[int, np.ndarray] = {}
    for number in range(reads):
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            hashlib.sha256(data).hexdigest()
            if number < 2:
                continue
            for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(batch_size=16_384):
                label = batch.column("label").to_numpy()
                for name in ("embedding", "embedding2"):
                    column = batch.column(name)
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
