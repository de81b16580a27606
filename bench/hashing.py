"""Hashing a folder: ours beside hashlib alone and sha256sum, on 20,000 small files and on 4 large ones.

Claim: `hash_folder` reaches at least 90 % of what hashlib reaches on the same cores over the same bytes. hashlib alone
walks the folder and is the better of one thread and a thread for each core; it looks for no links and no changes, and
makes no entries. Files are in the page cache. Who begins a round changes with every round, and the ratio by the clock
is the median of each round's own, so that load from elsewhere hits all alike; that by CPU time is of the least of each.

The line "remembered" is `hash_folder_cached` over files that did not change, 5 % of them proved, as in `source verify`.

    python bench/hashing.py [--rounds 15]
"""

import argparse
import hashlib
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from millcert.provenance.digest import CHUNK_BYTES, hash_folder
from millcert.provenance.digest_cache import hash_folder_cached

MIB = 1024 * 1024


def make_files(top: Path, *, count: int, size_bytes: int) -> list[str]:
    block = hashlib.shake_256(b"millcert bench").digest(min(size_bytes, MIB))
    paths = []
    for number in range(count):
        path = top / f"{number % 100:02d}" / f"{number:05d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(number.to_bytes(8, "big"))
            for _ in range(max(1, size_bytes // MIB)):
                stream.write(block)
        paths.append(str(path))
    return paths


def hashlib_digest(path: str) -> str:
    if os.path.getsize(path) < CHUNK_BYTES:  # noqa: PTH202 - the fastest way is the rival
        with open(path, "rb") as stream:  # noqa: PTH123 - as above
            return hashlib.sha256(stream.read()).hexdigest()
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - as above
        while count := stream.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.hexdigest()


def in_threads(top: str, threads: int) -> None:
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]  # noqa: PTH118 - as above
    if threads == 1:
        for path in paths:
            hashlib_digest(path)
        return
    batch = max(1, min(64, len(paths) // threads))
    batches = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda some: [hashlib_digest(path) for path in some], batches))


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wall, cpu = time.perf_counter(), cpu_seconds()
            runs[name]()
            found[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    return found


def cpu_seconds() -> float:
    """Of this process, to the nanosecond, and of its children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def report(title: str, size_bytes: int, found: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{title}: {size_bytes / 1e6:,.0f} MB")
    for name, pairs in found.items():
        walls = [wall for wall, _ in pairs]
        cpu = min(cpu for _, cpu in pairs)
        print(
            f"  {name:<22} wall min {min(walls):.3f} median {statistics.median(walls):.3f} max {max(walls):.3f} s   "
            f"cpu min {cpu:.3f} s   {size_bytes / min(walls) / 1e9:.2f} GB/s"
        )
    cpu_ours = min(cpu for _, cpu in found["millcert"])
    by_rival = {}
    for name, pairs in found.items():
        ratios = [rival / ours for (rival, _), (ours, _) in zip(pairs, found["millcert"], strict=True)]
        by_rival[name] = statistics.median(ratios), min(cpu for _, cpu in pairs) / cpu_ours
    hashlib_alone = [ratio for name, ratio in by_rival.items() if name.startswith("hashlib")]
    clock, cpu = min(clock for clock, _ in hashlib_alone), min(cpu for _, cpu in hashlib_alone)
    print(f"  millcert reaches {clock:.0%} of the better hashlib by the clock, {cpu:.0%} by CPU time")
    if "sha256sum" in by_rival:
        clock, cpu = by_rival["sha256sum"]
        print(f"  and {clock:.0%} of sha256sum by the clock, {cpu:.0%} by CPU time")
    clock, cpu = by_rival["remembered"]
    print(f"  what is remembered takes {clock:.0%} of hashing by the clock, {cpu:.0%} by CPU time")
    print(f"  peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}")
    for title, count, size_bytes in (("20,000 small files", 20_000, 4096), ("4 large files", 4, 256 * MIB)):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            paths = make_files(Path(folder), count=count, size_bytes=size_bytes)
            runs: dict[str, Callable[[], object]] = {
                "millcert": partial(hash_folder, folder),
                "hashlib, 1 thread": partial(in_threads, folder, 1),
                f"hashlib, {cores} threads": partial(in_threads, folder, cores),
            }
            state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            # As if later: files that were made a moment ago are not remembered.
            later = time.time_ns() + 60_000_000_000
            remembered = partial(hash_folder_cached, Path(folder), cache=state, now_ns=later)
            remembered()
            runs["remembered"] = remembered
            if tool := shutil.which("sha256sum"):
                listed = Path(folder) / ".." / f"{Path(folder).name}.list"
                listed.write_bytes(b"\0".join(path.encode() for path in paths))
                command = f"xargs -0 -n 500 {tool} < {listed} > /dev/null"
                runs["sha256sum"] = partial(subprocess.run, command, shell=True, check=True)
            report(title, sum(map(os.path.getsize, paths)), measure(runs, rounds))
            if tool:
                listed.unlink()


if __name__ == "__main__":
    main()
