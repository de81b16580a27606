"""Claim: evidence costs at most 2 kB a sample and verifies in 0.1 ms a sample, with no more than a key.

Makes a run of 1,000,000 rows in 16 files, exports evidence for 1, 10 and 1,000 of its samples and for absent ones, and
verifies each. Prints bytes a sample, CPU milliseconds of export and of verification, and the floor: the bare hashes of
the samples' audit paths.

    python bench/evidence.py [--rows 1000000]
"""

import argparse
import hashlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

FILES = 16
ROUNDS = 5
TARGET_BYTES = 2000


def main() -> int:
    """Run and print; return 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="Rows in the run.  [default: 1,000,000]")
    options = parser.parse_args()
    from millcert.provenance.evidence import export_evidence
    from millcert.provenance.evidence_verify import verify_evidence
    from millcert.provenance.lookup import FoundSample, SampleRun
    from millcert.provenance.state import StateFolder
    from millcert.testing.sample_runs import add_run, digests_of, signed_ledger

    print(f"{platform.platform()}  Python {platform.python_version()}  load {os.getloadavg()[0]:.1f}")
    holds = True
    with tempfile.TemporaryDirectory(prefix="millcert-bench-") as name:
        state = Path(name)
        parts = np.array_split(digests_of(options.rows, seed=1), FILES)
        files = {f"north/{number:02}.parquet": part for number, part in enumerate(parts)}
        logged = add_run(state, files, secret=b"b" * 32)
        with signed_ledger(state) as ledger, SampleRun(StateFolder(state), logged) as run:
            print(f"run of {options.rows:,} rows in {FILES} files; {ledger.size} entries in the ledger")
            for kind, count in [("present", 1), ("present", 10), ("present", 1000), ("absent", 1), ("absent", 1000)]:
                step = len(parts[0]) // count
                answers: tuple[SampleRun, list[FoundSample], list[bytes]]
                if kind == "present":
                    answers = (run, [run.at("north/00.parquet", at * step) for at in range(count)], [])
                else:
                    answers = (run, [], [hashlib.sha256(b"%d" % at).digest() for at in range(count)])
                data = export_evidence(ledger, [answers])
                exporting = cpu_ms(partial(export_evidence, ledger, [answers]))
                verifying = cpu_ms(partial(verify_evidence, data, ledger.vkeys))
                hashes = (2 if kind == "absent" else 1) * count * (int(np.ceil(np.log2(options.rows))) + 3)
                floor = cpu_ms(partial(bare_hashes, hashes))
                print(
                    f"{kind:<8}{count:>6}  {len(data):>9,} B  {len(data) / count:>7,.0f} B/sample   "
                    f"export {exporting} ms   verify {verifying} ms   floor {floor} ms"
                )
                if (kind, count) == ("present", 1000):
                    holds = len(data) / count <= TARGET_BYTES
    print(f"claim <= {TARGET_BYTES} B/sample: {'holds' if holds else 'DOES NOT HOLD'}")
    return 0 if holds else 1


def cpu_ms(work: Callable[[], object]) -> str:
    """Return "min/median/max" CPU milliseconds of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        times.append((time.process_time() - started) * 1000)
    return f"{min(times):.2f}/{statistics.median(times):.2f}/{max(times):.2f}"


def bare_hashes(count: int) -> None:
    """Hash as many inner nodes."""
    node = b"\x01" + bytes(64)
    for _ in range(count):
        hashlib.sha256(node).digest()


if __name__ == "__main__":
    sys.exit(main())
