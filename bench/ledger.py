"""Claim: >= 10,000 entries/s batched, one entry <= 3 ms, proofs <= 2 ms at 1,000,000 entries, all commits durable.

Grows one ledger to 1,000, 10,000, 100,000 and 1,000,000 entries in batches of 1,000, and at each size times
  batched        entries a second while it grew from the size before (wall, and per CPU-second of this process)
  single         one append of one entry: entry, tile, checkpoint, last seen file
  inclusion      the C2SP tlog-proof of a random entry
  consistency    the proof from a random older size
and prints the bytes on disk per entry. Floors, in the same run, after each size of the ledger, on the same disk:
  bare inserts   sqlite3 alone, the same rows, indexes and batches, durable commits; no tree, no triggers
  bare single    the same, one row a commit, and one fsync of a small file as the last seen checkpoint needs it
  hashlib        SHA-256 of each leaf and of as many nodes, in one loop
With a PostgreSQL server on this machine (scripts/postgres.sh), the same ledger there, up to --postgres-rows.

    python bench/ledger.py [--rows 1000000] [--postgres-rows 100000] [--singles 200] [--proofs 500]
"""

import argparse
import hashlib
import os
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import StoreError
from millcert.provenance.ledger import Entry, Ledger, open_ledger
from millcert.provenance.merkle import leaf_hash
from millcert.testing.private_postgres import PrivatePostgres

BATCH = 1000
SEED = 4
TARGET_RATE = 10_000
TARGET_SINGLE_MS = 3.0
TARGET_PROOF_MS = 2.0
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass
class Times:
    """Seconds of each call, by wall clock and by CPU of this process."""

    wall: list[float]
    cpu: list[float]

    def p50(self) -> float:
        """Return the median wall time in milliseconds."""
        return statistics.median(self.wall) * 1000

    def line(self) -> str:
        """Return minimum, median, 99th percentile and the median of CPU time, in milliseconds."""
        wall = sorted(self.wall)
        p99 = wall[int(len(wall) * 0.99)] * 1000
        cpu = statistics.median(self.cpu) * 1000
        return f"min {wall[0] * 1000:6.2f}  p50 {self.p50():6.2f}  p99 {p99:7.2f}  (CPU p50 {cpu:.2f}) ms"


def main() -> int:
    """Run and print; return 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgres-rows", type=int, default=100_000, help="0: leave PostgreSQL out.")
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--proofs", type=int, default=500)
    options = parser.parse_args()
    print(f"{platform.platform()}  Python {platform.python_version()}  SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory(prefix="millcert-bench-") as name:
        folder = Path(name)
        print(f"load {os.getloadavg()[0]:.1f}; one fsync of 4 KiB here: {times_of(fsync_in(folder), 100).line()}")
        floor = BareSqlite(folder / "floor.db")
        with open_ledger(folder / "ledger.db", origin="bench/ledger", key=KEY, create=True) as ledger:
            print("== SQLite")
            holds = grow(ledger, options, options.rows, folder, floor)
        floor.close()
        if options.postgres_rows:
            with suppress(StoreError):
                server = PrivatePostgres.start()
                try:
                    print("== PostgreSQL, unix socket, synchronous_commit=on")
                    url = server.url_of(schema="bench")
                    with open_ledger(folder / "p.db", origin="bench/p", key=KEY, create=True, url=url) as ledger:
                        grow(ledger, options, options.postgres_rows, folder, None)
                finally:
                    server.remove()
    print(
        f"claim on SQLite, batched >= {TARGET_RATE:,}/s, single p50 <= {TARGET_SINGLE_MS:g} ms, "
        f"proofs p50 <= {TARGET_PROOF_MS:g} ms at {options.rows:,}: {'holds' if holds else 'DOES NOT HOLD'}"
    )
    return 0 if holds else 1


def grow(ledger: Ledger, options: argparse.Namespace, rows: int, folder: Path, floor: "BareSqlite | None") -> bool:
    """Grow a ledger to `rows` and print each size; return whether the last one keeps the targets."""
    chosen = random.Random(SEED)
    number = count = 0
    rate = 0.0
    for size in [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= rows]:
        wall = cpu = 0.0
        first = number
        while count < size:
            entries = [entry(one) for one in range(number, number + min(BATCH, size - count))]
            started, cpu_started = time.perf_counter(), time.process_time()
            ledger.append(entries)
            wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - cpu_started
            number, count = number + len(entries), count + len(entries)
        grown = number - first
        rate = grown / wall
        print(f"{size:>9,} entries   batched {rate:9,.0f} /s wall {grown / cpu:9,.0f} /CPU-s")
        if floor is not None:
            inserts = floor.grow(first, number)
            hashes = hash_floor(min(grown, 100_000))
            print(
                f"    floor: bare inserts   {inserts[0]:9,.0f} /s wall {inserts[1]:9,.0f} /CPU-s; "
                f"hashlib {hashes:,.0f} /CPU-s"
            )
            used = sum(path.stat().st_size for path in folder.glob("ledger.db*"))
            print(f"    on disk {used / count:,.0f} B/entry")
        singles = iter(range(number, number + options.singles))
        single = times_of(lambda: ledger.append([entry(next(singles))]), options.singles)  # noqa: B023 - used at once
        number, count = number + options.singles, count + options.singles
        print(f"    single       {single.line()}")
        if floor is not None:
            print(f"    bare single  {times_of(floor.one, options.singles).line()}")
        inclusion = times_of(lambda: ledger.prove(chosen.randrange(count)), options.proofs)  # noqa: B023
        print(f"    inclusion    {inclusion.line()}")
        consistency = times_of(
            lambda: ledger.prove_consistency(chosen.randrange(1, count), count),  # noqa: B023
            options.proofs,
        )
        print(f"    consistency  {consistency.line()}", flush=True)
    proofs = max(inclusion.p50(), consistency.p50())
    return rate >= TARGET_RATE and single.p50() <= TARGET_SINGLE_MS and proofs <= TARGET_PROOF_MS


def entry(number: int) -> Entry:
    """Return an entry of the size of a verdict's parts, about 300 bytes."""
    root = hashlib.sha256(number.to_bytes(8, "big")).hexdigest()
    body = {"dataset": "bench", "files": 3, "root": root, "samples": number, "source": "north"}
    return Entry("manifest", root, "2026-11-23T02:38:55Z", body)


def times_of(call: Callable[[], object], count: int) -> Times:
    """Time a call so many times."""
    times = Times([], [])
    for _ in range(count):
        started, cpu = time.perf_counter(), time.process_time()
        call()
        times.wall.append(time.perf_counter() - started)
        times.cpu.append(time.process_time() - cpu)
    return times


def fsync_in(folder: Path) -> Callable[[], None]:
    """Return a call that writes a small file in a folder and syncs it."""

    def sync() -> None:
        with (folder / "synced").open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())

    return sync


def hash_floor(count: int) -> float:
    """Return leaves per CPU-second of the tree's hashes alone: one of the leaf, one of a node, for each."""
    leaves = [entry(number).leaf() for number in range(count)]
    last = bytes(32)
    started = time.process_time()
    for leaf in leaves:
        last = hashlib.sha256(b"\x01" + last + hashlib.sha256(b"\x00" + leaf).digest()).digest()
    return count / (time.process_time() - started)


class BareSqlite:
    """The same rows in a table with the same indexes, written by sqlite3 alone, with the same durability."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._sync = fsync_in(path.parent)
        self._count = 0
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "CREATE TABLE e (idx INTEGER PRIMARY KEY, leaf_hash BLOB UNIQUE, kind TEXT, subject TEXT, leaf TEXT)",
            "CREATE INDEX k ON e (kind, idx)",
            "CREATE INDEX s ON e (subject, idx)",
        ):
            self._connection.execute(statement)

    def grow(self, first: int, last: int) -> tuple[float, float]:
        """Insert the entries [first, last) in batches; return entries per second of wall and of CPU time."""
        wall = cpu = 0.0
        for start in range(first, last, BATCH):
            rows = [self._row(entry(number)) for number in range(start, min(start + BATCH, last))]
            started, cpu_started = time.perf_counter(), time.process_time()
            self._insert(rows)
            wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - cpu_started
        return (last - first) / wall, (last - first) / cpu

    def one(self) -> None:
        """Insert one row durably, and keep a small file."""
        self._insert([self._row(entry(-1 - self._count & 0xFFFFFFFF))])
        self._sync()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _row(self, one: Entry) -> tuple[int, bytes, str, str, str]:
        leaf = one.leaf()
        self._count += 1
        return self._count - 1, leaf_hash(leaf), one.kind, one.subject, leaf.decode()

    def _insert(self, rows: Sequence[tuple[int, bytes, str, str, str]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO e VALUES (?, ?, ?, ?, ?)", rows)
        self._connection.execute("COMMIT")


if __name__ == "__main__":
    sys.exit(main())
