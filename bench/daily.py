"""A data set that grows by one file a day, vetted each day with `--incremental`: what a run costs, what is kept.

Data: a Parquet file of `--rows` samples (64-d embedding, label) a day; policy: `robust_spectral`. For every tenth day,
CPU seconds of the run behind the imports beside those of a fresh run on the same files (the rival, which must give the
same verdict), files that the first pass and the later ones read, and the size of what is kept: left alone, and where
`millcert work gc` ran behind every run and took away what that run did not use.

Usage: python bench/daily.py [--days 100] [--rows 2000] [--folder KEEP]
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES, DIMENSION = 10, 64
POLICY = """
version: 1
dataset:
  name: daily
  columns: {label: label, embedding_self: embedding}
  max_malformed_fraction: 0
sources: [{name: all, path: "**", unsigned: accept_as_unknown}]
checks: [{check: robust_spectral, max_flagged_fraction: 1, over_limit: warn, on_flagged: report}]
verdict: {max_quarantined_fraction: 1, max_unknown_provenance_fraction: 1}
ledger: {origin: bench.example/daily}
"""


def main() -> None:
    """Print a line for every tenth day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="where the data goes; a temporary folder by default")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        days(Path(folder), arguments.days, arguments.rows)


def days(top: Path, count: int, rows: int) -> None:
    """Run all days."""
    from millcert.gate import vet
    from millcert.pipelines.driver import VetOptions
    from millcert.pipelines.work_gc import choose_garbage, delete_entries, list_entries

    (top / "policy.yaml").write_text(POLICY)
    every = max(1, count // 10)
    print(f"{count} days, a file of {rows:,} rows a day")
    print(f"{'day':>4}{'CPU s':>8}{'fresh':>8}{'pass 1 reads':>14}{'later reads':>13}{'kept MB':>9}{'with gc MB':>12}")
    for day in range(1, count + 1):
        write_file(top / "data", day, rows)
        spent, digests = {}, set()
        for name in ("cleaned", "alone", "fresh"):
            if name == "fresh" and day % every:
                continue
            shutil.rmtree(top / "out", ignore_errors=True)
            began, moment = time.process_time(), time.time()
            result = vet(
                top / "policy.yaml",
                VetOptions(
                    (str(top / "data"),),
                    str(top / "out"),
                    top / f"state-{name}",
                    workers=1,
                    incremental=name != "fresh",
                    keep_work=None if name != "fresh" else False,
                    least_work_bytes=None if name == "fresh" else 0,
                ),
            )
            spent[name] = time.process_time() - began
            digests.add(result.verdict.digest)
            if name == "cleaned":
                place = str(top / "state-cleaned" / "work")
                delete_entries(choose_garbage(list_entries(place), used_before=moment))
                reads = {step.step: step.done for step in result.work}
        if len(digests) != 1:
            sys.exit(f"The verdicts of day {day} differ.")
        if "fresh" in spent:
            later = sum(done for step, done in reads.items() if step.startswith("pass") and step != "pass 1")
            sizes = [size_of(top / f"state-{name}" / "work") / 1e6 for name in ("alone", "cleaned")]
            print(
                f"{day:>4}{spent['cleaned']:>8.2f}{spent['fresh']:>8.2f}{reads['pass 1']:>14}{later:>13}"
                f"{sizes[0]:>9.1f}{sizes[1]:>12.1f}",
                flush=True,
            )


def write_file(folder: Path, day: int, rows: int) -> None:
    """Write the file of a day."""
    rng = np.random.default_rng([6, day])
    label = rng.integers(0, CLASSES, rows)
    centres = np.random.default_rng(7).normal(size=(CLASSES, DIMENSION)) * 3
    values = (rng.normal(size=(rows, DIMENSION)) + centres[label]).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), DIMENSION)
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"label": label, "embedding": vectors}), folder / f"day-{day:05}.parquet")


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
