"""Claim: the checks that are made of moments read any number of samples in constant memory, under 1 GiB a worker.

    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py [samples] [width] [classes] [sources]

By default 10,000,000 samples of 64 floats in 10 classes and 20 sources. Eight batches of the reader's size are made
once and read over and over, so what is timed is the checks alone. For each check: CPU microseconds a sample of all its
passes and of scoring, CPU-seconds of all fits together, samples a CPU-second, and the process's peak memory after it
and after a tenth of the samples. Each check runs in a process of its own. Beside them: summing rows and products with
numpy, once, over the same batches, in an order that nobody holds.
"""

import hashlib
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from millcert.checks.base import Check
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


def whole_check(check: Check, batches: list[pa.RecordBatch], samples: int) -> tuple[float, float]:
    """Return CPU-seconds of passes and scoring, and of fits."""
    reading = fitting = 0.0
    model = None
    for _ in range(check.passes):
        start = time.process_time()
        acc = check.empty()
        for batch in read(batches, samples):
            acc = check.add(acc, batch, model)
        middle = time.process_time()
        model = check.fit(acc, model)
        reading, fitting = reading + middle - start, fitting + time.process_time() - middle
    start = time.process_time()
    for batch in read(batches, samples):
        check.score(model, batch)
    return reading + time.process_time() - start, fitting


def measured(number: int, samples: int, width: int, classes: int, sources: int) -> None:
    """Print a check's line; a process of its own runs this, so that its peak memory is its own."""
    batches = made(width, classes, sources)
    check, before = CHECKS[number], peak_mib()
    try:
        whole_check(check, batches, max(1, samples // 10))
        early = peak_mib()
        reading, fitting = whole_check(check, batches, samples)
    except MillcertError as error:
        print(f"{check.name:22} {error.message}")
        return
    print(
        f"{check.name:22} {check.passes} passes {reading / samples * 1e6:7.2f} us a sample, fits {fitting:6.1f} s, "
        f"{samples / (reading + fitting):10,.0f} samples a CPU-second; peak {peak_mib():5.0f} MiB "
        f"(after a tenth {early:5.0f}, before {before:5.0f})",
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


def main() -> None:
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
