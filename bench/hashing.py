"""Hashing a folder: ours beside hashlib alone and sha256sum, on 20,000 small files and on 4 large ones.

Claim: `hash_folder` reaches at least 90 % of what hashlib reaches on the same cores over the same bytes. hashlib alone
walks the folder and is the better of one thread and a thread for each core; it looks for no links and no changes, and
makes no entries. Files are in the page cache; rounds take turns, so that load from elsewhere hits all alike.

    python bench/hashing.py [--rounds 7]
"""

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from millcert.provenance.digest import CHUNK_BYTES, hash_folder

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
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), sum(os.times()[:4])
            run()
            found[name].append((time.perf_counter() - wall, sum(os.times()[:4]) - cpu))
    return found


def report(title: str, size_bytes: int, found: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{title}: {size_bytes / 1e6:,.0f} MB")
    for name, pairs in found.items():
        walls = [wall for wall, _ in pairs]
        cpu = min(cpu for _, cpu in pairs)
        print(
            f"  {name:<22} wall min {min(walls):.3f} median {statistics.median(walls):.3f} max {max(walls):.3f} s   "
            f"cpu min {cpu:.2f} s   {size_bytes / min(walls) / 1e9:.2f} GB/s"
        )
    rival = min(min(wall for wall, _ in pairs) for name, pairs in found.items() if name.startswith("hashlib"))
    ours = min(wall for wall, _ in found["millcert"])
    cpu_rival = min(min(cpu for _, cpu in pairs) for name, pairs in found.items() if name.startswith("hashlib"))
    cpu_ours = min(cpu for _, cpu in found["millcert"])
    print(
        f"  millcert reaches {rival / ours:.0%} of hashlib alone by the clock, {cpu_rival / cpu_ours:.0%} by CPU time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}")
    for title, count, size_bytes in (("20,000 small files", 20_000, 4096), ("4 large files", 4, 256 * MIB)):
        with tempfile.TemporaryDirectory() as folder:
            paths = make_files(Path(folder), count=count, size_bytes=size_bytes)
            runs: dict[str, Callable[[], object]] = {
                "millcert": partial(hash_folder, folder),
                "hashlib, 1 thread": partial(in_threads, folder, 1),
                f"hashlib, {cores} threads": partial(in_threads, folder, cores),
            }
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
