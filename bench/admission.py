"""Claim: to know what was revoked costs a training job less than 2 CPU-seconds, up to 100,000 ledger entries.

Makes ledgers of 1,000 to 100,000 entries with roles and a revocation in them, and runs `millcert admit` on a small data
set in a fresh process, by the ledger and by a revocation list. Prints CPU seconds of the whole process beside those of
the floor: `millcert admit --unsafe-no-revocations`, which looks at nothing. And the cost of `Ledger.scan` an entry.

    python bench/admission.py [--entries 1000 10000 100000]
"""

import argparse
import hashlib
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS = 2.0
ROUNDS = 3


def main() -> int:
    """Run and print; return 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    print(f"{platform.platform()}  Python {platform.python_version()}  load {os.getloadavg()[0]:.1f}")
    print(f"{'entries':>10} {'by the ledger':>14} {'by the list':>12} {'floor':>8}   CPU-s, median of {ROUNDS}")
    holds = True
    for entries in options.entries:
        with tempfile.TemporaryDirectory(prefix="millcert-bench-") as name:
            folder = Path(name)
            per_entry = make(folder, entries)
            by_ledger = admit_seconds(folder)
            by_list = admit_seconds(folder, "--revocations", "list.json")
            floor = admit_seconds(folder, "--unsafe-no-revocations")
        print(f"{entries:>10,} {by_ledger:>14.2f} {by_list:>12.2f} {floor:>8.2f}   scan {per_entry:.1f} us an entry")
        holds &= max(by_ledger, by_list) < LIMIT_SECONDS
    print(f"less than {LIMIT_SECONDS:g} CPU-s: {'yes' if holds else 'NO'}")
    return 0 if holds else 1


def make(folder: Path, entries: int) -> float:
    """Make a state folder, a data set and a list; return microseconds of `Ledger.scan` an entry."""
    from datetime import UTC, datetime

    from millcert.provenance.certificate import issue_certificate
    from millcert.provenance.keys import load_or_create_key
    from millcert.provenance.ledger import Entry, open_ledger
    from millcert.provenance.manifest import FileEntry, Manifest
    from millcert.provenance.revocation import Revocation, revocation_act
    from millcert.provenance.revocation_list import export_list
    from millcert.provenance.standing import is_wanted
    from millcert.testing.role_people import office, record_roles, say

    at, book, state = "2026-11-23T03:00:00Z", office(), folder / ".millcert"
    (folder / "data").mkdir()
    (folder / "data" / "a.csv").write_bytes(b"label\ncat\n")
    files = (FileEntry("a.csv", 10, hashlib.sha256(b"label\ncat\n").hexdigest()),)
    gate, key = (load_or_create_key(state / "keys" / name) for name in ("gate.key", "ledger.key"))
    with open_ledger(state / "ledger.db", origin="bench.example/l", key=key, create=True) as ledger:
        record_roles(ledger, book, by="bo", at=at)
        about = {"ledger": ledger.origin, "roles_sha256": book.sha256, "recorded_at": at}
        say(ledger, revocation_act(Revocation("source", "elsewhere", "r"), **about), by="ana", book=book)
        root = "ab" * 32
        body = {"dataset": "pets", "decision": "admitted", "input_root": root, "policy_digest": root}
        for start in range(0, entries, 1000):
            batch = range(start, min(start + 1000, entries))
            ledger.append([Entry("verdict", f"{number:064x}", at, body) for number in batch])
        certificate = issue_certificate(
            manifest=Manifest("pets", files),
            verdict={"decision": "admitted", "sources": []},
            policy_digest=root,
            trusted_root_digest=None,
            input_root=root,
            code_version="bench",
            time_verified=at,
            key=gate,
            ledger=ledger,
        )
        (folder / "certificate.json").write_bytes(certificate)
        (folder / "list.json").write_bytes(export_list(ledger, gate, now=datetime.now(UTC)))
        started = time.process_time()
        ledger.scan(is_wanted)
        return (time.process_time() - started) / ledger.size * 1e6


def admit_seconds(folder: Path, *more: str) -> float:
    """Return the CPU seconds of a fresh process that admits the data, median of some."""
    taken = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "millcert", "admit", "data", "--certificate", "certificate.json", *more]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return sorted(taken)[len(taken) // 2]


if __name__ == "__main__":
    raise SystemExit(main())
