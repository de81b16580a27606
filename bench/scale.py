"""The whole job from 1e5 to 1e7 rows: CPU linear in rows, memory flat, beside plain numpy on the same files.

Samples have a 64-d embedding, a label, a text and a number, in four sources of equal files. Three programs run on them,
each in a process of its own:
  job     `millcert vet` with one worker, which works in the driver's process
  plain   the same passes without Beam, checks, error paths or reports, in numpy, pyarrow and hashlib: every read with
          its SHA-256; row digests, row trees, salted leaves and their index; class sums in each pass; the copy of the
          admitted files. One buffer, straight loops, nothing bounded.
  sums    the same reads with their SHA-256 and class sums, and nothing else
The job's row counts CPU seconds behind the imports; `--passes` prints CPU and peak memory of each pass, sampled 20
times a second. A projection to 1e9 rows follows from the figures of the largest run; see docs/scale.md.

Usage: python bench/scale.py [--rows 100000 1000000] [--dimension 64] [--workers 1] [--folder KEEP]
1e7 rows need 9 GB of disk.
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES, SOURCES, FILE_ROWS, BATCH_ROWS = 10, 4, 125_000, 16_384
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
COLUMNS = (
    ("rows", 12, 0), ("MB", 8, 0), ("wall s", 9, 1), ("CPU s", 9, 1), ("rows/CPU-s", 12, 0), ("peak MB", 9, 0),
    ("plain CPU s", 13, 1), ("job/plain", 11, 2), ("sums CPU s", 12, 1), ("job/sums", 10, 2),
)  # fmt: skip


def main() -> None:
    """Print one line a size, its passes, then the projection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the data goes; a temporary folder by default")
    parser.add_argument("--part", choices=["job", "plain", "sums"], help=argparse.SUPPRESS)
    parser.add_argument("--reads", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments.part, arguments.folder, arguments.reads, arguments.workers)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    cost = 0.0
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            size = make_data(Path(folder) / "data", rows, arguments.dimension)
            (Path(folder) / "policy.yaml").write_text(POLICY)
            job = measure("job", folder, 0, arguments.workers)
            plain, sums = (measure(part, folder, int(job["reads"]), 1) for part in ("plain", "sums"))
        cpu_s, plain_s, sums_s = job["cpu_s"], plain["cpu_s"], sums["cpu_s"]
        figures: tuple[float, ...] = (rows, size / 1e6, job["wall_s"], cpu_s, rows / cpu_s, job["peak_mb"])
        figures = (*figures, plain_s, cpu_s / plain_s, sums_s, cpu_s / sums_s)
        print("".join(f"{name:>{width}}" for name, width, _ in COLUMNS))
        columns = zip(figures, COLUMNS, strict=True)
        print("".join(f"{figure:>{width},.{places}f}" for figure, (_, width, places) in columns))
        for name, spent_s, wall_s, peak_mb in job["passes"]:
            print(f"    {name:<24} {wall_s:>8.1f} s wall {spent_s:>8.1f} s CPU   peak of a worker {peak_mb:>6,.0f} MB")
        cost = cpu_s / rows
    hours = 1e9 * cost / 100 / 3600
    print(f"1e9 rows on 100 workers: {cost * 1e6:.1f} CPU-microseconds a row x 1e9 / 100 = {hours:.2f} h of reads")


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


def measure(part: str, folder: str, reads: int, workers: int) -> dict[str, Any]:
    """Run one part in a process of its own and return what it says."""
    command = [sys.executable, __file__, "--part", part, "--folder", folder, "--reads", str(reads)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [*command, "--workers", str(workers)], check=True, capture_output=True, text=True, env=environment
    ).stdout
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def run_part(part: str, folder: Path, reads: int, workers: int) -> None:
    """Run in this process; print CPU and wall seconds behind the imports, and peak memory."""
    passes: list[tuple[str, float, float, float]] = []
    if part == "job":
        from millcert.gate import vet
        from millcert.pipelines.driver import VetOptions
        from millcert.policy import load_policy

        started, began, sampler = cpu(), time.perf_counter(), Sampler()
        options = VetOptions((str(folder / "data"),), str(folder / "out"), folder / "state", workers=workers)
        reads = vet(load_policy(folder / "policy.yaml"), options, watcher=sampler).verdict.reads
        passes = sampler.result()
    else:
        started, began = cpu(), time.perf_counter()
        (plain if part == "plain" else class_sums)(folder, reads)
    wall = time.perf_counter() - began
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024
    print(json.dumps({"cpu_s": cpu() - started, "wall_s": wall, "peak_mb": peak, "reads": reads, "passes": passes}))


class Sampler:
    """Watches a run from a thread: which pass it is in, by its progress records, and the memory of its processes."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._passes: dict[str, list[float]] = {}
        self._current = "hash, verify, describe"
        self._at = (cpu(), time.perf_counter())

    def start(self, plan: Any) -> None:
        """Begin, with the run's plan."""
        self._plan = plan
        self._thread.start()

    def stop(self) -> None:
        """The pipeline has ended; what follows is settling and publishing."""
        self._name("settle, sign, publish")

    def result(self) -> list[tuple[str, float, float, float]]:
        """Return (pass, CPU seconds, wall seconds, peak MB of one process)."""
        self._name("")
        self._ended.set()
        self._thread.join()
        return [(name, spent, wall, peak) for name, (spent, wall, peak) in self._passes.items() if name]

    def _name(self, name: str) -> None:
        now = (cpu(), time.perf_counter())
        figures = self._passes.setdefault(self._current, [0.0, 0.0, 0.0])
        figures[0] += now[0] - self._at[0]
        figures[1] += now[1] - self._at[1]
        self._at, self._current = now, name

    def _watch(self) -> None:
        from millcert.pipelines.progress import Progress, read_progress

        offset, progress, path = 0, Progress(0, 0, {}), Path(self._plan.progress_path)
        while not self._ended.wait(0.05):
            offset, progress = read_progress(path, offset, progress)
            last = max(progress.rows_by_pass, default=0)
            name = "score, split, write" if last > self._plan.passes else f"pass {last}"
            if last and name != self._current and self._current != "settle, sign, publish" and self._current:
                self._name(name)
            figures = self._passes.setdefault(self._current, [0.0, 0.0, 0.0])
            figures[2] = max(figures[2], *resident_mb())


def resident_mb() -> list[float]:
    """Return the resident memory of this process and of its children, in MB."""
    found = []
    for name in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((name / "stat").read_text().rpartition(")")[2].split()[1])
            if os.getpid() in {parent, int(name.name)}:
                found.append(int((name / "statm").read_text().split()[1]) * 4096 / 2**20)
        except OSError:
            continue
    return found


def class_sums(folder: Path, reads: int) -> None:
    """Hash every file once a read, decode the embedding in all reads but the first two, and add up per class."""
    sums: dict[int, np.ndarray] = {}
    for number in range(reads):
        for path in files_of(folder):
            data = path.read_bytes()
            hashlib.sha256(data).hexdigest()
            for batch in batches_of(data, ["label", "embedding"]) if number >= 2 else ():
                add_sums(sums, batch)


def plain(folder: Path, reads: int) -> None:
    """Do what the job's passes do to rows, files and leaves; see the top of this file."""
    sums: dict[int, np.ndarray] = {}
    out = folder / "plain"
    out.mkdir()
    for number in range(reads):
        for path in files_of(folder):
            data = path.read_bytes()
            hashlib.sha256(data).hexdigest()
            leaves = Leaves(out / path.name)
            for batch in batches_of(data, None if number == 2 else ["label", "embedding"]) if number >= 2 else ():
                add_sums(sums, batch)
                if number == 2:
                    leaves.add(batch)
            if number == 2:
                leaves.end()
            if number == reads - 1:
                (out / f"{path.name}.admitted").write_bytes(data)
    index = np.concatenate([np.fromfile(path, INDEX_RECORD) for path in sorted(out.glob("*.index"))])
    index[np.argsort(index["key"][:, 0], kind="stable")].tofile(out / "index")
    root_of(index["leaf"].tolist())


def files_of(folder: Path) -> list[Path]:
    """Return the data files in order."""
    return sorted((folder / "data").rglob("*.parquet"))


def batches_of(data: bytes, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """Decode a file."""
    yield from pq.ParquetFile(pa.BufferReader(data)).iter_batches(batch_size=BATCH_ROWS, columns=columns)


def add_sums(sums: dict[int, np.ndarray], batch: pa.RecordBatch) -> None:
    """Add up products of embeddings per class."""
    label = batch.column("label").to_numpy()
    column = batch.column("embedding")
    rows = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float64)
    for each in range(CLASSES):
        mine = rows[label == each]
        sums[each] = sums.get(each, 0) + mine.T @ mine


INDEX_RECORD = np.dtype([("key", ">u8", (4,)), ("row", "<u8"), ("leaf", "V32")])


class Leaves:
    """The row digests, row tree and salted leaves of one file: nine hashes a row, in straight loops."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._rows: list[bytes] = []
        self._salted: list[bytes] = []
        self._index: list[np.ndarray] = []
        self._sealed: list[bytes] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Hash the rows of a batch."""
        sha256, count = hashlib.sha256, batch.num_rows
        numbers = np.empty((count, 24 + 4 * batch.column("embedding").type.list_size), np.uint8)
        numbers[:, :8] = batch.column("label").to_numpy().view(np.uint8).reshape(count, 8)
        numbers[:, 8:16] = batch.column("number").to_numpy().view(np.uint8).reshape(count, 8)
        text = batch.column("text")
        bounds = np.frombuffer(text.buffers()[1], np.int32, count + 1, text.offset * 4)
        numbers[:, 16:24] = np.diff(bounds).astype(np.int64).view(np.uint8).reshape(count, 8)
        numbers[:, 24:] = batch.column("embedding").flatten().to_numpy().view(np.uint8).reshape(count, -1)
        opaque, texts, edges = numbers.view(f"V{numbers.shape[1]}").ravel().tolist(), bytes(text.buffers()[2]), bounds
        ends = edges.tolist()
        prefix = sha256(bytes(64))
        digests = []
        for row, start, end in zip(opaque, ends, ends[1:], strict=False):
            hasher = prefix.copy()
            hasher.update(row + texts[start:end])
            digests.append(hasher.digest())
        seed = b"\x02" + bytes(32)
        salts = [sha256(seed + row.to_bytes(2, "big")).digest() for row in range(count)]
        keys = [sha256(seed + digest).digest() for digest in digests]
        self._rows += [sha256(b"\x00" + digest).digest() for digest in digests]
        self._salted += [sha256(b"\x00" + salt + digest).digest() for salt, digest in zip(salts, digests, strict=True)]
        indexed = [sha256(b"\x00" + salt + key + b"\x01").digest() for salt, key in zip(salts, keys, strict=True)]
        pads = np.frombuffer(b"".join([sha256(b"\x04" + salt).digest() for salt in salts]), np.uint8)
        self._sealed.append((pads ^ np.frombuffer(b"".join(digests), np.uint8)).tobytes())
        part = np.empty(count, INDEX_RECORD)
        part["key"] = np.frombuffer(b"".join(keys), ">u8").reshape(count, 4)
        part["leaf"] = np.frombuffer(b"".join(indexed), "V32")
        self._index.append(part)

    def end(self) -> None:
        """Fold the trees and write what a worker writes."""
        root_of(self._rows)
        root_of(self._salted)
        self._stem.with_suffix(".leaves").write_bytes(b"".join(self._salted))
        self._stem.with_suffix(".sealed").write_bytes(b"".join(self._sealed))
        index = np.concatenate(self._index)
        index[np.argsort(index["key"][:, 0], kind="stable")].tofile(self._stem.with_suffix(".index"))


def root_of(layer: list[bytes]) -> bytes:
    """Return the root of a Merkle tree; a last one without a pair goes up as it is."""
    sha256 = hashlib.sha256
    while len(layer) > 1:
        last = layer[len(layer) & ~1 :]
        pairs = iter(layer)
        layer = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)] + last
    return layer[0]


def cpu() -> float:
    """Return CPU seconds of this process and its ended children so far."""
    both = (resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


if __name__ == "__main__":
    main()
