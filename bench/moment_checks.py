"""Claim: the checks that are made of moments read any number of samples in constant memory, under 1 GiB a worker.

    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py [samples] [width] [classes] [sources]

By default 10,000,000 samples of 64 floats in 10 classes and 20 sources. Eight batches of the reader's size are made
once and read over and over, so what is timed is the checks alone. For each check: CPU microseconds a sample of all its
passes and of scoring, CPU-seconds of all fits together, samples a CPU-second, the columns that its covariances kept,
the largest accumulator of a pass, and the process's peak memory after it and after a tenth of the samples. Each check
runs in a process of its own. Beside them: summing rows and products with numpy, once, over the same batches, in an
order that nobody holds.

    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py 250000 512 1000     # classes beyond the memory for covariances
    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py quality             # what folded columns cost in quality

The second prints robust_spectral on planted classes with all columns and with folded ones, side by side.
"""

import hashlib
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import Check, fit_check
from millcert.checks.detectors.activation_clustering import ActivationClustering
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.detectors.source_shift import SourceShift
from millcert.checks.detectors.spectral_signatures import SpectralSignatures
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.errors import MillcertError

BATCH_BYTES, BATCH_ROWS, DISTINCT = 8 << 20, 16_384, 8
CHECKS: tuple[Check, ...] = (
    RobustSpectral(),
    SpectralSignatures(epsilon=0.01),
    SourceShift(),
    ViewContradiction(),
    ActivationClustering(),
)


def made(width: int, classes: int, sources: int) -> list[pa.RecordBatch]:
    """Return eight batches of Gaussian classes, as the reader would hand them over."""
    random = np.random.default_rng(0)
    rows = min(BATCH_ROWS, BATCH_BYTES // (4 * width))
    centres = 3 * random.standard_normal((classes, width)) / np.sqrt(width) ** 0.5
    batches = []
    for number in range(DISTINCT):
        label = random.integers(0, classes, rows)
        values = (centres[label] + random.standard_normal((rows, width))).astype(np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
        columns = {
            "label": pa.array([str(value) for value in label]),
            "source": pa.array([f"s{value}" for value in random.integers(0, sources, rows)]),
            "embedding_self": vectors,
            "embedding_external": vectors,
            "sample_digest": pa.array(
                [hashlib.sha256(f"{number} {row}".encode()).digest() for row in range(rows)], pa.binary(32)
            ),
        }
        batches.append(pa.RecordBatch.from_arrays(list(columns.values()), list(columns)))
    return batches


def read(batches: list[pa.RecordBatch], samples: int) -> Iterator[pa.RecordBatch]:
    """Yield batches in turn until there were so many samples."""
    left, number = samples, 0
    while left > 0:
        batch = batches[number % len(batches)]
        yield batch.slice(0, left)
        left, number = left - batch.num_rows, number + 1


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size_bytes(part: object) -> int:
    """Return the size of the arrays in an accumulator."""
    if isinstance(part, np.ndarray):
        return part.nbytes
    if isinstance(part, Mapping):
        return sum(map(size_bytes, part.values()))
    if isinstance(part, tuple):
        return sum(map(size_bytes, part))
    return size_bytes(vars(part)) if hasattr(part, "__dict__") else 0


class Cost(NamedTuple):
    """CPU-seconds of passes with scoring, and of fits; bytes of the largest accumulator; columns of covariances."""

    reading: float
    fitting: float
    accumulator: int
    columns: int


def whole_check(check: Check, batches: list[pa.RecordBatch], samples: int) -> Cost:
    reading = fitting = 0.0
    model: Any = None
    largest = 0
    for _ in range(check.passes):
        start = time.process_time()
        acc = check.empty()
        for batch in read(batches, samples):
            acc = check.add(acc, batch, model)
        middle = time.process_time()
        largest = max(largest, size_bytes(acc))
        after = time.process_time()
        model = check.fit(acc, model)
        reading, fitting = reading + middle - start, fitting + time.process_time() - after
    start = time.process_time()
    for batch in read(batches, samples):
        check.score(model, batch)
    return Cost(reading + time.process_time() - start, fitting, largest, getattr(model, "columns", 0))


def measured(number: int, samples: int, width: int, classes: int, sources: int) -> None:
    """Print a check's line; a process of its own runs this, so that its peak memory is its own."""
    batches = made(width, classes, sources)
    check, before = CHECKS[number], peak_mib()
    try:
        whole_check(check, batches, max(min(samples, 32 * classes), samples // 10))
        early = peak_mib()
        cost = whole_check(check, batches, samples)
    except MillcertError as error:
        print(f"{check.name:22} {error.message}")
        return
    columns = f", {cost.columns} columns" if cost.columns else ""
    print(
        f"{check.name:22} {check.passes} passes {cost.reading / samples * 1e6:7.2f} us a sample, "
        f"fits {cost.fitting:6.1f} s, {samples / (cost.reading + cost.fitting):10,.0f} samples a CPU-second; "
        f"peak {peak_mib():5.0f} MiB (after a tenth {early:5.0f}, before {before:5.0f}), "
        f"accumulator {cost.accumulator / 2**20:5.1f} MiB{columns}",
        flush=True,
    )


def plain(samples: int, width: int, classes: int, sources: int) -> None:
    """Print what one pass of sums and products of all rows costs in numpy."""
    batches = made(width, classes, sources)
    total, start = np.zeros((width, width)), time.process_time()
    for batch in read(batches, samples):
        rows = batch.column("embedding_self").flatten().to_numpy().reshape(-1, width).astype(np.float64)
        total += rows.T @ rows
    seconds = time.process_time() - start
    print(
        f"{'plain numpy, products':22} 1 pass   {seconds / samples * 1e6:7.2f} us a sample, peak {peak_mib():5.0f} MiB"
    )


def planted(random: np.random.Generator, classes: int, width: int, poisoned: int) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return classes of 200 samples that vary in 40 common ways and a little in all, and which samples are poison.

    Of every `poisoned`-th class 20 samples are shifted along a line of their class, half as far again as classes lie
    from the middle of all: a trigger that the model learnt.
    """
    label = np.repeat(np.arange(classes), 200)
    common = random.standard_normal((40, width)) / np.sqrt(width)
    centres = random.standard_normal((classes, width)) * 6 / np.sqrt(width)
    rows = centres[label] + random.standard_normal((len(label), 40)) @ common * 3
    rows += random.standard_normal((len(label), width)) * 0.3
    is_bad = (label % poisoned == 0) & (np.arange(len(label)) % 200 < 20)
    lines = random.standard_normal((classes, width))
    lines *= 9 / np.linalg.norm(lines, axis=1, keepdims=True)
    rows[is_bad] += lines[label[is_bad]]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), width)
    text = pa.array([f"{value:04d}" for value in label])
    source = pa.array([f"s{row % 20}" for row in range(len(label))])
    return pa.RecordBatch.from_arrays([text, source, vectors], ["label", "source", "embedding_self"]), is_bad


def quality() -> None:
    """Print what robust_spectral finds with all columns and with fewer."""
    for classes, width, seed in ((40, 256, 0), (40, 256, 1), (40, 256, 2), (100, 512, 0)):
        batch, is_bad = planted(np.random.default_rng(seed), classes, width, 10)
        batches = [batch.slice(start, 4096) for start in range(0, batch.num_rows, 4096)]
        for columns in (width, width // 2, width // 4, width // 8):
            check = RobustSpectral(max_dimension=columns)
            start = time.process_time()
            model = fit_check(check, batches)
            fit_seconds = time.process_time() - start
            flagged = np.concatenate([check.score(model, part).flagged for part in batches])
            found = {int(item.label) for item in check.evidence(model) if item.is_suspicious}
            bad = set(range(0, classes, 10))
            print(
                f"{classes} classes, d = {width}, seed {seed}, {columns:3} columns: poisoned classes named "
                f"{len(found & bad)}/{len(bad)}, others {len(found - bad)}, TPR {flagged[is_bad].mean():7.2%}, "
                f"FPR {flagged[~is_bad].mean():7.3%}, fit and passes {fit_seconds:5.1f} s",
                flush=True,
            )


def main() -> None:
    if sys.argv[1:] == ["quality"]:
        quality()
        return
    given = [int(value) for value in sys.argv[1:5]]
    samples, width, classes, sources = (*given, *(10_000_000, 64, 10, 20)[len(given) :])
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, {platform.system()}")
    print(f"{samples:,} samples, width {width}, {classes} classes, {sources} sources")
    context = multiprocessing.get_context("spawn")
    sizes = (samples, width, classes, sources)
    processes = [context.Process(target=plain, args=sizes)]
    processes += [context.Process(target=measured, args=(number, *sizes)) for number in range(len(CHECKS))]
    for process in processes:
        process.start()
        process.join()
        if process.exitcode:
            print(f"{process.name} ended with {process.exitcode}")


if __name__ == "__main__":
    main()
