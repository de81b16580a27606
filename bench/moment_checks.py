"""Claim: the checks that are made of moments read any number of samples in constant memory, under 1 GiB a worker.

    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py [samples] [width] [classes] [sources]

By default 10,000,000 samples of 64 floats in 10 classes and 20 sources. Eight batches of the reader's size are made
once and read over and over, so what is timed is the checks alone. For each check: CPU microseconds a sample of all its
passes and of scoring, CPU-seconds of all fits together, samples a CPU-second, the columns that its covariances kept,
the largest accumulator of a pass, and the process's peak memory after it and after a tenth of the samples. Each check
runs in a process of its own. Beside them: summing rows and products with numpy, once, over the same batches, in an
order that nobody holds.

    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py 250000 512 1000     # classes beyond the memory for covariances
    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py quality [classes]   # what folded columns cost in quality

    OPENBLAS_NUM_THREADS=1 python bench/moment_checks.py sorted              # the fit of data sorted by class

Quality prints robust_spectral on planted classes with all columns, whatever memory they take, and with folded ones:
40 classes at several widths; or so many classes of 512 columns, with what the budget leaves, and with all.
"""

import hashlib
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks import class_moments
from millcert.checks.base import Check, fit_check
from millcert.checks.detectors.activation_clustering import ActivationClustering
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.detectors.source_shift import SourceShift
from millcert.checks.detectors.spectral_signatures import SpectralSignatures
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.checks.moments import Moments
from millcert.errors import MillcertError

BATCH_BYTES, BATCH_ROWS, DISTINCT = 8 << 20, 16_384, 8
#: Of a planted class: samples, poisoned ones, how far it lies from the middle of all.
CLASS_ROWS, POISON_ROWS, CLASS_DISTANCE = 250, 40, 6.0
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


def planted(classes: int, width: int, poisoned: int, strength: float, seed: int) -> Iterator[pa.RecordBatch]:
    """Yield classes of 250 samples that vary in 40 common ways and a little in all; column `is_bad` marks the poison.

    Of every `poisoned`-th class 40 samples are shifted along a line of their class: a trigger that the model learnt.
    Theory says how far is far enough: the check asks for sqrt(2) times the distance of the furthest class from all
    others, and takes that to be at most twice the median distance, so 2 sqrt(2) median distances are surely asked for
    no more. `strength` is the shift over that. Folding keeps it, up to chance: shift and distances shrink alike.
    """
    random = np.random.default_rng(seed)
    common = random.standard_normal((40, width)) / np.sqrt(width)
    for first in range(0, classes, 20):
        labels = np.arange(first, min(classes, first + 20))
        label = np.repeat(labels, CLASS_ROWS)
        centres = random.standard_normal((len(labels), width)) * CLASS_DISTANCE / np.sqrt(width)
        rows = np.repeat(centres, CLASS_ROWS, axis=0) + random.standard_normal((len(label), 40)) @ common * 3
        rows += random.standard_normal((len(label), width)) * 0.3
        lines = random.standard_normal((len(labels), width))
        lines *= strength * 2 * np.sqrt(2) * CLASS_DISTANCE / np.linalg.norm(lines, axis=1, keepdims=True)
        is_bad = (label % poisoned == 0) & (np.arange(len(label)) % CLASS_ROWS < POISON_ROWS)
        rows[is_bad] += np.repeat(lines, CLASS_ROWS, axis=0)[is_bad]
        columns = {
            "label": pa.array([f"{value:04d}" for value in label]),
            "source": pa.array([f"s{row % 20}" for row in range(len(label))]),
            "embedding_self": pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), width),
            "is_bad": pa.array(is_bad),
        }
        yield pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def quality(classes: int, width: int, columns: int, strength: float, seed: int) -> None:
    """Print what robust_spectral finds with so many columns, whatever memory they take."""
    class_moments.BUDGET_BYTES = 1 << 40
    batches = list(planted(classes, width, 10, strength, seed))
    check = RobustSpectral(max_dimension=columns)
    start = time.process_time()
    model = fit_check(check, batches)
    seconds = time.process_time() - start
    flagged = np.concatenate([check.score(model, part).flagged for part in batches])
    is_bad = np.concatenate([part.column("is_bad").to_numpy(zero_copy_only=False) for part in batches])
    suspicious = [item for item in check.evidence(model) if item.is_suspicious]
    found, bad = {int(item.label) for item in suspicious}, set(range(0, classes, 10))
    print(
        f"{classes:5} classes, d = {width}, seed {seed}, shift {strength:4.2f} of enough, {model.columns:3} "
        f"columns: poisoned classes named {len(found & bad)}/{len(bad)}, others {len(found - bad)}, "
        f"TPR {flagged[is_bad].mean():7.2%}, FPR {flagged[~is_bad].mean():7.3%}, count "
        f"{sum(item.estimated_count for item in suspicious):,.0f} of {is_bad.sum():,}; {seconds:6.1f} CPU-s, "
        f"peak {peak_mib():,.0f} MiB",
        flush=True,
    )


def quality_cases(classes: int) -> Iterator[tuple[int, int, int, float, int]]:
    """Yield the arguments of `quality`: few classes at several widths, or many with all columns and what fits."""
    if classes:
        # What the budget leaves of 512 columns at so many classes, each in one row exponent or two.
        fitting = class_moments.fold_for(512, 2 * classes, 256).columns
        for strength in (1.25, 0.6):
            yield from ((classes, 512, columns, strength, 0) for columns in (fitting, 512))
        return
    for number, width, seed in ((40, 256, 0), (40, 256, 1), (40, 512, 2)):
        for strength in (0.75, 1.0, 1.25):
            yield from ((number, width, columns, strength, seed) for columns in (width, 128, 64, 32))


def main() -> None:
    if sys.argv[1:2] == ["sorted"]:
        context = multiprocessing.get_context("spawn")
        for is_folded in (False, True):
            in_turn(context.Process(target=sorted_by_class, args=(1000, 512), kwargs={"is_folded": is_folded}))
        return
    if sys.argv[1:2] == ["quality"]:
        context = multiprocessing.get_context("spawn")
        for case in quality_cases(int((sys.argv[2:] or ["0"])[0])):
            in_turn(context.Process(target=quality, args=case))
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
        in_turn(process)


def sorted_by_class(classes: int, width: int, *, is_folded: bool) -> None:
    """Print what the parts of all classes take where each worker saw one class alone, all rows of it."""
    random, start = np.random.default_rng(0), time.process_time()
    parts: dict[str, Moments] = {}
    for number in range(classes):
        rows = random.standard_normal((width + 100, width)).astype(np.float32)  # too many to wait
        part = class_moments.no_rows(width).add_rows(rows)
        tables = max(class_moments.tables_of(part), 1) * classes
        parts[f"{number}"] = class_moments.folded_part(part, tables) if is_folded else part
    held = sum(part.nbytes for part in parts.values())
    summed, fold = class_moments.final_moments(parts)
    digest = hashlib.sha256(b"".join(part.sums().tobytes() for part in summed.values())).hexdigest()[:12]
    print(
        f"{classes} classes, d = {width}, parts {'folded on their way' if is_folded else 'as they come'}: "
        f"{held / 2**20:,.0f} MiB at the fit, {fold.columns} columns in the end, sums {digest}, "
        f"{time.process_time() - start:.0f} CPU-s, peak {peak_mib():,.0f} MiB",
        flush=True,
    )


def in_turn(process: SpawnProcess) -> None:
    process.start()
    process.join()
    if process.exitcode:
        print(f"{process.name} ended with {process.exitcode}")


if __name__ == "__main__":
    main()
