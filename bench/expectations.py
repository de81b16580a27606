"""What a suite costs: rows per CPU-second and peak memory, ours against Great Expectations on pandas, same files.

1,000,000 rows (or --rows) in Parquet files of a million rows and 12 columns, 20 expectations, results at SUMMARY. Each
side runs in a process of its own, on one core, and reads the files itself; GX gets the frame that
`pandas.read_parquet` gives. The sides take turns, so that a busy minute of the machine meets them all. What a side
imports is timed apart. "read" only reads all columns: the floor. polars and duckdb (extra `bench`) answer the 20
expectations by hand-written queries: one aggregate, and one of the labels' counts. Memory is VmHWM of the process, with
what its imports take, and above that. "worker" measures as a worker of the job does: another process, which is in no
figure, imports GX, plans and judges. GX's results and ours are compared: every success, every count of unexpected rows;
observed values that differ by more than 1e-12 are counted (quantiles are known to an interval there).

--kernels also prints where our seconds go: reading, and each kernel.

Usage: python bench/expectations.py [--rows 1000000] [--runs 3] [--folder FOLDER with files of an earlier run, or empty]
    [--sides read,great_expectations,millcert,worker,polars,duckdb] [--kernels]
"""

import argparse
import importlib
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 131_072
BATCH_ROWS = 32_768
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
        pq.write_table(table, folder / f"part-{number:03}.parquet", compression="zstd", row_group_size=GROUP_ROWS)


def batches_of(file: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(file, pre_buffer=False)  # or the whole file would be held in memory
    return parquet.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)


def planned(folder: Path) -> tuple[Any, pa.Schema]:
    from millcert.checks.metric_suite import load_suite

    suite = load_suite(json.dumps({"name": "bench", "expectations": EXPECTATIONS}).encode())
    return suite, pq.read_schema(min(folder.glob("*.parquet")))


def measured(folder: Path, plan: Any) -> Any:
    columns, acc = sorted(plan.columns), plan.empty()
    for file in sorted(folder.glob("*.parquet")):
        start = 0
        for batch in batches_of(file, columns):
            acc = plan.add(acc, batch, file.name, np.arange(start, start + batch.num_rows))
            start += batch.num_rows
    return plan.merge([acc])


def ours(folder: Path) -> list[Any]:
    from millcert.checks.expectations import evaluate_suite, plan_suite

    suite, schema = planned(folder)
    plan = plan_suite(suite, schema)
    result = evaluate_suite(suite, plan, measured(folder, plan), schema)
    return list(result.json["results"])


def worker(folder: Path) -> list[Any]:
    """Do as a worker of the job: measure, while a process of its own plans and judges."""
    from millcert.pipelines.gx_process import ask

    suite, schema = planned(folder)
    plan = ask("plan", (suite, schema, ()))
    result = ask("evaluate", (suite, plan, measured(folder, plan), schema, {}, None))
    return list(result.json["results"])


def theirs(folder: Path) -> list[Any]:
    import great_expectations as gx
    import pandas as pd
    from great_expectations.core import ExpectationSuite

    frame = pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))], ignore_index=True)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("bench").add_dataframe_asset("all")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = ExpectationSuite(name="bench", expectations=[dict(entry) for entry in EXPECTATIONS])
    result = batch.validate(suite, result_format="SUMMARY").to_json_dict()
    return result["results"]


def only_read(folder: Path) -> list[Any]:
    for file in sorted(folder.glob("*.parquet")):
        for _ in batches_of(file):
            pass
    return []


def with_polars(folder: Path) -> list[Any]:
    import polars as pl

    frame = pl.scan_parquet(folder / "*.parquet")
    col = pl.col
    sums = {
        "label": ~col("label").is_in([f"c{i}" for i in range(10)]),
        "lang": ~col("lang").is_in(["en", "de", "fr", "es", "ja"]),
        "source": ~col("source").is_in([f"s{i:02}" for i in range(50)]),
        "score": ~col("score").is_between(-100, 100),
        "length": ~col("length").is_between(0, 4096),
        "text": ~col("text").str.len_chars().is_between(20, 80),
        "url": ~col("url").str.contains(r"^https://[a-z]+\.example/\d+$"),
        "sha": ~col("sha").str.contains("^[0-9a-f]{32}$"),
    }
    score = col("score")
    found = (
        frame.select(
            rows=pl.len(),
            ids=col("id").n_unique(),
            id_nulls=col("id").null_count(),
            label_nulls=col("label").null_count(),
            labels=col("label").n_unique(),
            scores=score.count(),
            mean=score.mean(),
            deviation=score.std(),
            q05=score.quantile(0.05, "nearest"),
            q50=score.quantile(0.5, "nearest"),
            q95=score.quantile(0.95, "nearest"),
            weight=col("weight").max(),
            **{f"not_{name}": condition.sum() for name, condition in sums.items()},
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    counts = dict(frame.group_by("label").len().collect(engine="streaming").iter_rows())
    schema = frame.collect_schema()
    return by_hand(found, counts, schema.names(), is_int64=schema["id"] == pl.Int64)


def with_duckdb(folder: Path) -> list[Any]:
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    table = f"read_parquet('{folder}/*.parquet')"
    labels, sources = ", ".join(f"'c{i}'" for i in range(10)), ", ".join(f"'s{i:02}'" for i in range(50))
    query = f"""
        SELECT count(*) AS rows, count(DISTINCT id) AS ids, count(*) - count(id) AS id_nulls,
            count(*) - count(label) AS label_nulls, count(DISTINCT label) AS labels, count(score) AS scores,
            avg(score) AS mean, stddev_samp(score) AS deviation,
            quantile_disc(score, 0.05) AS q05, quantile_disc(score, 0.5) AS q50, quantile_disc(score, 0.95) AS q95,
            max(weight) AS weight, count_if(label NOT IN ({labels})) AS not_label,
            count_if(lang NOT IN ('en', 'de', 'fr', 'es', 'ja')) AS not_lang,
            count_if(source NOT IN ({sources})) AS not_source,
            count_if(score NOT BETWEEN -100 AND 100) AS not_score,
            count_if(length NOT BETWEEN 0 AND 4096) AS not_length,
            count_if(length(text) NOT BETWEEN 20 AND 80) AS not_text,
            count_if(NOT regexp_matches(url, '^https://[a-z]+\\.example/\\d+$')) AS not_url,
            count_if(NOT regexp_matches(sha, '^[0-9a-f]{{32}}$')) AS not_sha
        FROM {table}
    """
    cursor = connection.execute(query.replace("\\\\", "\\"))
    row = cursor.fetchone()
    found = dict(zip([column[0] for column in cursor.description or ()], row or (), strict=True))
    counts = dict(connection.execute(f"SELECT label, count(*) FROM {table} GROUP BY label").fetchall())
    described = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
    return by_hand(found, counts, [name for name, *_ in described], is_int64=described[0][1] == "BIGINT")


def by_hand(
    found: dict[str, Any], counts: dict[str, int], columns: Sequence[str], *, is_int64: bool
) -> list[dict[str, Any]]:
    """Judge the 20 expectations by what a query found, in the order of the suite."""
    divergence = sum(n / found["rows"] * math.log(10 * n / found["rows"]) for n in counts.values())
    quantiles = zip((found["q05"], found["q50"], found["q95"]), ((4, 6), (9, 11), (14, 16)), strict=True)
    verdicts = [
        found["rows"] >= 1,
        list(columns) == COLUMNS,
        is_int64,
        found["id_nulls"] == 0,
        found["label_nulls"] == 0,
        found["ids"] == found["rows"],
        found["not_label"] == 0,
        found["not_lang"] == 0,
        found["not_source"] == 0,
        found["labels"] == 10,
        found["not_score"] <= 0.01 * found["scores"],
        found["not_length"] == 0,
        9 <= found["mean"] <= 11,
        2 <= found["deviation"] <= 4,
        all(low <= value <= high for value, (low, high) in quantiles),
        found["not_text"] == 0,
        found["not_url"] == 0,
        found["not_sha"] == 0,
        0 <= found["weight"] <= 1,
        divergence < 0.01,
    ]
    return [{"success": verdict} for verdict in verdicts]


SIDES = {
    "read": only_read,
    "great_expectations": theirs,
    "millcert": ours,
    "worker": worker,
    "polars": with_polars,
    "duckdb": with_duckdb,
}
#: What a side imports before the clock starts, where it is not what the side is called.
IMPORTS = {
    "read": (),
    "millcert": ("great_expectations", "millcert.checks.expectations"),
    "worker": ("millcert.pipelines.gx_process",),
}


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(side: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    pa.set_cpu_count(1)
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    os.environ["POLARS_MAX_THREADS"] = "1"
    started = time.process_time()
    for module in IMPORTS.get(side, (side,)):
        importlib.import_module(module)
    imported = time.process_time()
    at_import = peak_mib()
    results = SIDES[side](folder)
    figures = {
        "import_cpu_seconds": imported - started,
        "cpu_seconds": time.process_time() - imported,
        "peak_mib": peak_mib(),
        "import_mib": at_import,
        "results": [
            [entry["success"], (entry.get("result") or {}).get("unexpected_count"), observed_of(entry)]
            for entry in results
        ],
    }
    print(json.dumps(figures))


def observed_of(entry: dict[str, Any]) -> Any:
    observed = (entry.get("result") or {}).get("observed_value")
    if isinstance(observed, dict):
        return observed.get("values")
    return observed if isinstance(observed, int | float | str) else None


def is_same(ours_: Any, theirs_: Any) -> bool:
    if isinstance(ours_, list) and isinstance(theirs_, list):
        return len(ours_) == len(theirs_) and all(map(is_same, ours_, theirs_))
    if isinstance(ours_, float) and isinstance(theirs_, float):
        return math.isclose(ours_, theirs_, rel_tol=1e-12)
    return bool(ours_ == theirs_)


def kernels(folder: Path) -> None:
    """Print where our seconds go."""
    from millcert.checks.expectations import evaluate_suite, plan_suite
    from millcert.checks.metric_columns import BatchView

    pa.set_cpu_count(1)
    files = sorted(folder.glob("*.parquet"))
    suite, schema = planned(folder)
    plan = plan_suite(suite, schema)
    spent: defaultdict[str, float] = defaultdict(float)
    last = time.process_time()

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[name] += now - last
        last = now

    acc: Any = plan.empty()
    for file in files:
        start = 0
        for batch in batches_of(file, sorted(plan.columns)):
            lap("reading")
            rows = np.arange(start, start + batch.num_rows)
            start += batch.num_rows
            view = BatchView(batch, file.name, rows)
            for kernel in plan.kernels:
                for _ in kernel.measure(view):
                    pass
                lap(f"{type(kernel).__name__}({', '.join(kernel.columns)})")
            acc = plan.add(acc, batch, file.name, rows)
            last = time.process_time()
    acc = plan.merge([acc])
    lap("dealing and merging")
    evaluate_suite(suite, plan, acc, schema)
    lap("judging (Great Expectations)")
    rows_read = sum(pq.read_metadata(file).num_rows for file in files)
    for name, seconds in sorted(spent.items(), key=lambda each: -each[1])[:16]:
        print(f"  {name:28} {seconds:7.3f} CPU s  {seconds / rows_read * 1e9:6.1f} ns a row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, pyarrow {pa.__version__}")
    sides = [side for side in arguments.sides.split(",") if is_there(side)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not list(folder.glob("*.parquet")):
            write_files(folder, arguments.rows)
        rows = sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(arguments.runs):
            for side in sides:
                command = [sys.executable, __file__, "--measure", side, str(folder)]
                found[side].append(json.loads(subprocess.check_output(command)))
        report(found, rows)
        if arguments.kernels:
            kernels(folder)


def is_there(side: str) -> bool:
    if side in ("polars", "duckdb") and importlib.util.find_spec(side) is None:
        print(f"{side} is not installed: pip install 'millcert[bench]'")
        return False
    return True


def report(found: dict[str, list[dict[str, Any]]], rows: int) -> None:
    for side, runs in found.items():
        seconds = [run["cpu_seconds"] for run in runs]
        held = sum(success for success, _, _ in runs[0]["results"])
        print(
            f"{side:20} CPU s min {min(seconds):.2f} median {median(seconds):.2f} max {max(seconds):.2f}; "
            f"{rows / median(seconds):,.0f} rows per CPU-second; peak {runs[0]['peak_mib']:,.0f} MiB "
            f"({runs[0]['import_mib']:,.0f} of it imports); import {runs[0]['import_cpu_seconds']:.1f} CPU s; "
            f"{held} of {len(runs[0]['results'])} hold"
        )
    if "millcert" not in found:
        return
    for side, runs in found.items():
        if side in ("millcert", "worker"):
            continue
        pairs = list(zip(runs, found["millcert"], strict=True))
        ratios = [other["cpu_seconds"] / own["cpu_seconds"] for other, own in pairs]
        whole = [other["peak_mib"] / own["peak_mib"] for other, own in pairs]
        above = [
            (other["peak_mib"] - other["import_mib"]) / (own["peak_mib"] - own["import_mib"]) for other, own in pairs
        ]
        print(
            f"{side} against millcert, medians of {len(pairs)} turns: CPU {median(ratios):.2f} "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f}), peak memory {median(whole):.2f}, "
            f"memory above imports {median(above):.1f}"
        )
    if "great_expectations" in found and "worker" in found:
        both_runs = zip(found["great_expectations"], found["worker"], strict=True)
        ratio = median(other["peak_mib"] / own["peak_mib"] for other, own in both_runs)
        print(f"great_expectations against a worker: peak memory {ratio:.2f}")
    if "great_expectations" in found:
        both = list(zip(found["millcert"][0]["results"], found["great_expectations"][0]["results"], strict=True))
        same = all(own[:2] == other[:2] for own, other in both)
        others = sum(not is_same(own[2], other[2]) for own, other in both)
        print(f"the same successes and unexpected counts: {'yes' if same else 'NO'}; other observed values: {others}")
        if not same:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
