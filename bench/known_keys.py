"""What looking rows up among repeated values takes: memory and time, held in memory and in a file, of however many.

The read that scores asks of every row whether its value stands more than once. N numbers stand more than once here
(made partition by partition, so that making them takes no memory); ten batches of 32,768 rows are asked, half of whose
values are among them. Each line runs in a process of its own; memory is VmHWM of it above that after its imports.

Usage: python bench/known_keys.py [--keys 5000000 50000000 500000000]  (8 bytes of the temporary folder a key)
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.metric_partitions import PARTITIONS, hash_keys, partition_of
from millcert.pipelines.known_keys import MOST_BYTES, known_keys

BATCHES, ROWS = 10, 32_768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[5_000_000, 50_000_000, 500_000_000])
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        measure(arguments.part)
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, pyarrow {pa.__version__}", flush=True)
    for keys in arguments.keys:
        subprocess.run([sys.executable, __file__, "--part", str(keys)], check=True)


def measure(count: int) -> None:
    before, began = peak_mib(), time.process_time()
    known = known_keys(parts(count), most_bytes=MOST_BYTES)
    built, began = time.process_time() - began, time.process_time()
    random, found = np.random.default_rng(1), 0
    for _ in range(BATCHES):
        found += int(known.contain(keys_at(random.integers(0, 2 * count, ROWS), count)).sum())
    asked = BATCHES * ROWS
    seconds = time.process_time() - began
    print(
        f"{count:,} keys, {type(known).__name__}: built in {built:.1f} CPU s, {seconds / asked * 1e6:.2f} us a row, "
        f"{found / asked:.3f} of the rows found, peak {peak_mib() - before:,.0f} MiB above imports"
    )


def parts(count: int) -> Iterator[pa.Array]:
    """Yield the keys of each partition: `keys_at` of 0 to count - 1."""
    each = count // PARTITIONS
    for partition in range(PARTITIONS):
        yield keys_at(np.arange(partition * each, (partition + 1) * each), count)


def keys_at(numbers: np.ndarray, count: int) -> pa.Array:
    """Return distinct keys for numbers: those below `count` are known; `count` is rounded down to 256 of a size."""
    each = count // PARTITIONS
    partition, place = (numbers // each) % PARTITIONS, numbers % each + (numbers >= each * PARTITIONS) * each
    words = (partition.astype(np.uint64) << np.uint64(56)) | (place.astype(np.uint64) * np.uint64(0x9E3779B9) & MASK)
    keys = pa.array(unmixed(words))
    assert (partition_of(hash_keys(keys.slice(0, 100))) == partition[:100]).all()
    return keys


MASK = np.uint64(2**56 - 1)


def unmixed(words: np.ndarray) -> np.ndarray:
    """Return the numbers that hash to some words: the finalizer of splitmix64, backwards."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        whole = words
        for _ in range(64 // shift):
            whole = words ^ (whole >> np.uint64(shift))
        words = whole * np.uint64(pow(factor, -1, 2**64))
    return words


def peak_mib() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
