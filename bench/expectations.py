"""What a suite costs: rows per CPU-second and peak memory, ours against Great Expectations on pandas, same files.

1,000,000 rows (or --rows) in Parquet files of a million rows and 12 columns, 20 expectations, results at SUMMARY. Each
side runs in a process of its own and reads the files itself; GX gets the frame that `pandas.read_parquet` gives.
Importing GX is timed apart, as both need it. "read" only reads all columns: the floor. The two results are compared:
every success must be the same.

Usage: python bench/expectations.py [--rows 1000000] [--runs 3] [--folder FOLDER with files of an earlier run, or empty]
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
import warnings
from pathlib import Path
from statistics import median

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 65_536
FILE_ROWS = 1_000_000
COLUMNS = ["id", "text", "label", "source", "lang", "score", "length", "seen", "url", "sha", "weight", "is_new"]


def expectation(kind: str, **kwargs: object) -> dict[str, object]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


EXPECTATIONS = [
    expectation("table_row_count_to_be_between", min_value=1),
    expectation("table_columns_to_match_ordered_list", column_list=COLUMNS),
    expectation("column_values_to_be_of_type", column="id", type_="int64"),
    expectation("column_values_to_not_be_null", column="id"),
    expectation("column_values_to_not_be_null", column="label"),
    expectation("column_values_to_be_unique", column="id"),
    expectation("column_values_to_be_in_set", column="label", value_set=[f"c{i}" for i in range(10)]),
    expectation("column_values_to_be_in_set", column="lang", value_set=["en", "de", "fr", "es", "ja"]),
    expectation("column_distinct_values_to_be_in_set", column="source", value_set=[f"s{i:02}" for i in range(50)]),
    expectation("column_unique_value_count_to_be_between", column="label", min_value=10, max_value=10),
    expectation("column_values_to_be_between", column="score", min_value=-100, max_value=100, mostly=0.99),
    expectation("column_values_to_be_between", column="length", min_value=0, max_value=4096),
    expectation("column_mean_to_be_between", column="score", min_value=9, max_value=11),
    expectation("column_stdev_to_be_between", column="score", min_value=2, max_value=4),
    expectation(
        "column_quantile_values_to_be_between",
        column="score",
        quantile_ranges={"quantiles": [0.05, 0.5, 0.95], "value_ranges": [[4, 6], [9, 11], [14, 16]]},
    ),
    expectation("column_value_lengths_to_be_between", column="text", min_value=20, max_value=80),
    expectation("column_values_to_match_regex", column="url", regex=r"^https://[a-z]+\.example/\d+$"),
    expectation("column_values_to_match_regex", column="sha", regex="^[0-9a-f]{32}$"),
    expectation("column_max_to_be_between", column="weight", min_value=0, max_value=1),
    expectation(
        "column_kl_divergence_to_be_less_than",
        column="label",
        partition_object={"values": [f"c{i}" for i in range(10)], "weights": [0.1] * 10},
        threshold=0.01,
    ),
]


def write_files(folder: Path, rows: int) -> None:
    """Write 12 columns as validation research generates them: some 200 bytes a row, files of a million."""
    random = np.random.default_rng(17)
    words = np.array([f"{word:06x}" for word in random.integers(0, 16**6, 4096)])
    for number in range(-(-rows // FILE_ROWS)):
        n = min(FILE_ROWS, rows - number * FILE_ROWS)
        ids = np.arange(number * FILE_ROWS, number * FILE_ROWS + n)
        digests = random.integers(0, 2**62, n)
        picked = words[random.integers(0, len(words), (n, 8))]
        table = pa.table(
            {
                "id": ids,
                "text": [" ".join(line) for line in picked],
                "label": np.array([f"c{i}" for i in range(10)])[random.integers(0, 10, n)],
                "source": np.array([f"s{i:02}" for i in range(50)])[random.integers(0, 50, n)],
                "lang": np.array(["en", "de", "fr", "es", "ja"])[random.integers(0, 5, n)],
                "score": pa.array(random.normal(10, 3, n), mask=random.random(n) < 0.02),
                "length": random.integers(0, 4096, n).astype(np.int32),
                "seen": pa.array(ids * 1_000_000).cast(pa.timestamp("us")),
                "url": [f"https://host.example/{i}" for i in ids],
                "sha": [f"{int(word):016x}{i:016x}" for word, i in zip(digests, ids, strict=True)],
                "weight": random.random(n, dtype=np.float32),
                "is_new": random.random(n) < 0.5,
            }
        )
        pq.write_table(table, folder / f"part-{number:03}.parquet", compression="zstd", row_group_size=BATCH_ROWS * 2)


def ours(folder: Path) -> list[bool]:
    from millcert.checks.expectations import evaluate_suite, load_suite, plan_suite

    files = sorted(folder.glob("*.parquet"))
    suite = load_suite(json.dumps({"name": "bench", "expectations": EXPECTATIONS}).encode())
    schema = pq.read_schema(files[0])
    plan = plan_suite(suite, schema)
    accs = []
    for file in files:
        acc, start = plan.empty(), 0
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=sorted(plan.columns), use_threads=False):
            acc = plan.add(acc, batch, file.name, np.arange(start, start + batch.num_rows))
            start += batch.num_rows
        accs.append(plan.merge([acc]))
    result = evaluate_suite(suite, plan, plan.merge(accs), schema)
    return [bool(entry["success"]) for entry in result.json["results"]]


def theirs(folder: Path) -> list[bool]:
    import great_expectations as gx
    import pandas as pd
    from great_expectations.core import ExpectationSuite

    frame = pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))], ignore_index=True)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("bench").add_dataframe_asset("all")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = ExpectationSuite(name="bench", expectations=[dict(entry) for entry in EXPECTATIONS])
    return [bool(result.success) for result in batch.validate(suite, result_format="SUMMARY").results]


def only_read(folder: Path) -> list[bool]:
    for file in sorted(folder.glob("*.parquet")):
        for _ in pq.ParquetFile(file).iter_batches(BATCH_ROWS, use_threads=False):
            pass
    return []


SIDES = {"read": only_read, "great_expectations": theirs, "millcert": ours}


def measure(side: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    pa.set_cpu_count(1)
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    started = time.process_time()
    if side != "read":
        __import__("great_expectations")
    imported = time.process_time()
    at_import = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    successes = SIDES[side](folder)
    figures = {
        "import_cpu_seconds": imported - started,
        "cpu_seconds": time.process_time() - imported,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "import_mib": at_import,
        "successes": successes,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    print(
        f"{platform.platform()}, Python {platform.python_version()}, pyarrow {pa.__version__}, numpy {np.__version__}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not list(folder.glob("*.parquet")):
            write_files(folder, arguments.rows)
        rows = sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
        found = {}
        for side in SIDES:
            command = [sys.executable, __file__, "--measure", side, str(folder)]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(arguments.runs)]
            seconds = [run["cpu_seconds"] for run in runs]
            found[side] = (median(seconds), runs[0]["successes"])
            print(
                f"{side:20} CPU s min {min(seconds):.2f} median {median(seconds):.2f} max {max(seconds):.2f}; "
                f"{rows / median(seconds):,.0f} rows per CPU-second; peak {runs[0]['peak_mib']:,.0f} MiB "
                f"({runs[0]['import_mib']:,.0f} of it imports); import {runs[0]['import_cpu_seconds']:.1f} CPU s"
            )
    same = found["millcert"][1] == found["great_expectations"][1]
    print(f"ratio {found['great_expectations'][0] / found['millcert'][0]:.1f}; the same successes: {same}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
