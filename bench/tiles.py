"""Claim: a published ledger is checked about as fast as its entries are hashed, and a witness answers in milliseconds.

Makes a ledger, exports it twice (all, then 1,000 entries more), audits the tiles, makes a mirror, and has a witness on
loopback cosign it step by step. Prints CPU microseconds an entry beside the floor (SHA-256 of the leaves and the bare
tree in memory), and wall milliseconds a cosignature beside the floor (one durable SQLite commit).

    python bench/tiles.py [--entries 100000]
"""

import argparse
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

BATCH = 1000
ROUNDS = 50
WHEN = "2026-11-23T02:38:55Z"


def main() -> int:
    """Run and print; return 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000, help="In the ledger.  [default: 100,000]")
    count = parser.parse_args().entries
    from millcert.provenance.keys import load_or_create_key
    from millcert.provenance.ledger import Entry, open_ledger
    from millcert.provenance.merkle import leaf_hash, root_of
    from millcert.provenance.mirror import import_tiles
    from millcert.provenance.state import StateFolder
    from millcert.provenance.tile_audit import audit_tiles
    from millcert.provenance.tile_export import export_tiles
    from millcert.provenance.tile_folder import TileFolder

    print(f"{platform.platform()}  Python {platform.python_version()}  load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="millcert-bench-") as name:
        top = Path(name)
        key = load_or_create_key(top / "state" / "keys" / "ledger.key")
        with open_ledger(top / "state" / "ledger.db", origin="example.com/l", key=key, create=True) as ledger:
            entries = [Entry("verdict", f"set-{number}", WHEN, {"number": number}) for number in range(count + BATCH)]
            for start in range(0, count, BATCH):
                ledger.append(entries[start : start + BATCH])
            leaves = [entry.leaf() for entry in entries[:count]]
            folder = TileFolder(top / "tiles")
            floor = cpu_seconds(lambda: root_of(map(leaf_hash, leaves)))
            row("floor: hash and tree in memory", floor, count)
            row("export of all", cpu_seconds(partial(export_tiles, ledger, folder.path)), count)
            audit = cpu_seconds(partial(audit_tiles, folder, ledger.vkeys))
            row("audit of the tiles", audit, count)
            row("mirror made", cpu_seconds(partial(import_tiles, folder, StateFolder(top / "m"), ledger.vkeys)), count)
            ledger.append(entries[count:])
            again = cpu_seconds(partial(export_tiles, ledger, folder.path))
            print(f"{'second export, 1,000 entries more':<40} {again * 1000:10.1f} ms of CPU in all")
            witnessed(top, ledger.vkeys[0].name, key)
    print(f"audit takes {audit / floor:.1f} times the floor; claimed: at most 3")
    return 0 if audit <= 3 * floor else 1


def witnessed(top: Path, origin: str, key: object) -> None:
    """Print milliseconds a cosignature over HTTP on loopback, with both algorithms, beside a durable commit."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from millcert.provenance.checkpoint import Checkpoint, sign_checkpoint, vkey_of
    from millcert.provenance.cosignature import ED25519, ML_DSA_44
    from millcert.provenance.merkle import consistency_proof, leaf_hash, root_of
    from millcert.provenance.witness_client import WitnessSite, ask_witness
    from millcert.provenance.witness_folder import create_witness, open_witness, read_witness_vkeys
    from millcert.provenance.witness_server import WitnessServer

    assert isinstance(key, Ed25519PrivateKey)
    hashes = [leaf_hash(b"%d" % number) for number in range(ROUNDS + 1)]
    connection = sqlite3.connect(top / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (n INTEGER)")
    commits = [seconds(lambda: connection.execute("INSERT INTO t VALUES (1)")) for _ in range(ROUNDS)]
    connection.close()
    spread("floor: one durable commit", commits)
    for algorithms in ([ED25519], [ED25519, ML_DSA_44]):
        folder = top / f"witness-{len(algorithms)}"
        create_witness(folder, "w.example", algorithms)
        server = WitnessServer(
            open_witness(folder, {origin: [vkey_of(origin, key)]}), ("127.0.0.1", 0), log=lambda _: None
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        site = WitnessSite(tuple(read_witness_vkeys(folder / "witness.vkey")), server.url)

        def prove(old: int, new: int) -> tuple[bytes, ...]:
            return consistency_proof(old, new, lambda level, at: root_of(hashes[at << level : (at + 1) << level]))

        times = []
        for size in range(1, ROUNDS + 1):
            note = sign_checkpoint(Checkpoint(origin, size, root_of(hashes[:size])), key)
            times.append(seconds(partial(ask_witness, site, note, prove)))
        server.shutdown()
        thread.join()
        server.server_close()
        spread(f"cosigned over HTTP, {len(algorithms)} keys, 2 requests", times)


def seconds(call: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU time of one call, the system's included."""
    start = time.process_time()
    call()
    return time.process_time() - start


def row(what: str, cpu: float, count: int) -> None:
    """Print one figure an entry."""
    print(f"{what:<40} {cpu / count * 1e6:10.2f} us of CPU an entry  {cpu:8.2f} s in all")


def spread(what: str, times: list[float]) -> None:
    """Print three figures."""
    low, middle, high = min(times), statistics.median(times), max(times)
    print(f"{what:<40} {low * 1000:10.2f} {middle * 1000:8.2f} {high * 1000:8.2f} ms (min, median, max)")


if __name__ == "__main__":
    sys.exit(main())
