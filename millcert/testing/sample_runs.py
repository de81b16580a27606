"""Runs made of sample digests alone: a ledger, the leaf files and the salts, as a run of the gate leaves them.

For tests and benches that ask about look-ups and proofs, and not about data.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.pipelines.sample_leaves import LeafWriter
from millcert.pipelines.sample_set import SampleSet, samples_entry, settle_samples
from millcert.provenance.finding_leaf import format_record
from millcert.provenance.ledger import Entry, Ledger, LoggedEntry, open_ledger
from millcert.provenance.sample_leaf import BLOCK_ROWS, RunSecret, row_salt
from millcert.provenance.state import StateFolder
from millcert.provenance.strict_json import canonical_json

ORIGIN = "test.example/ledger"
RECORDED_AT = "2026-11-23T02:38:55Z"

#: Rows handed to a writer at once.
_BATCH_ROWS = 8192


def signed_ledger(state: Path, *, seed: int = 1) -> Ledger:
    """Return the ledger of a state folder, open for appending, signed by a key that a number makes."""
    return open_ledger(state / "ledger.db", origin=ORIGIN, key=_test_key(seed), create=True)


def add_run(
    state: Path,
    files: Mapping[str, Sequence[bytes | None] | np.ndarray],
    *,
    secret: bytes,
    dataset: str = "pets",
    findings: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]] | None = None,
) -> LoggedEntry:
    """Write the samples of a run into a state folder, log them, and return the `shard_roots` entry.

    Args:
        state: the state folder; its ledger is made if there is none.
        files: for each file name its sample digests in row order, None for a record that could not be decoded; or
            digests as uint8 (n, 32). The part of the name before the first "/" is the source.
        secret: 32 bytes that all salts come from.
        dataset: name of the data set.
        findings: (file, row) -> what the checks said of that sample; None makes a run of format 1, which keeps none.
    """
    with tempfile.TemporaryDirectory() as staging:
        run_secret = RunSecret(secret)
        described = []
        for name, digests in files.items():
            write_leaves(staging, name, digests, run_secret)
            described.append((name, name.partition("/")[0], hashlib.sha256(name.encode()).hexdigest()))
        records = None if findings is None else _records(findings, run_secret)
        settled = settle_samples(staging, StateFolder(state), run_secret, described, records)
    entries = run_entries(dataset, settled)
    with signed_ledger(state) as ledger:
        indexes = ledger.append(entries).indexes
        index = ledger.append([samples_entry(settled, entries, indexes)]).indexes[0]
        return ledger.get(index)


def _records(
    findings: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]], secret: RunSecret
) -> list[tuple[bytes, bytes]]:
    """Return (row salt, record) of each sample that has findings."""
    return [
        (row_salt(secret.block_seed(file, row // BLOCK_ROWS), row % BLOCK_ROWS), format_record(list(said)))
        for (file, row), said in findings.items()
    ]


def write_leaves(
    staging: str,
    name: str,
    digests: Sequence[bytes | None] | np.ndarray,
    secret: RunSecret,
    *,
    batch: int = _BATCH_ROWS,
) -> None:
    """Write a file's leaves as a worker does, so many rows at a time."""
    with LeafWriter(staging, name, secret) as writer:
        for start in range(0, len(digests), batch):
            part = digests[start : start + batch]
            if isinstance(part, np.ndarray):
                writer.add(np.arange(start, start + len(part)), part)
                continue
            rows = np.array([start + at for at, digest in enumerate(part) if digest is not None], np.int64)
            whole = b"".join(digest for digest in part if digest is not None)
            writer.add(rows, np.frombuffer(whole, np.uint8).reshape(-1, 32))
        writer.end(len(digests))


def run_entries(dataset: str, samples: SampleSet) -> list[Entry]:
    """Return the entries of a run that was admitted: its sources, one check, and the verdict."""
    root = hashlib.sha256(dataset.encode()).hexdigest()
    sources = sorted({shard.source for shard in samples.shards})
    manifests = [
        Entry(
            "manifest",
            hashlib.sha256(source.encode()).hexdigest(),
            RECORDED_AT,
            {
                "dataset": dataset,
                "identity": f"data@{source}.example",
                "issuer": "https://issuer.example",
                "source": source,
                "status": "verified",
            },
        )
        for source in sources
    ]
    check = {"dataset": dataset, "input_root": root, "name": "label_noise", "status": "passed", "version": "1"}
    said = canonical_json(admitted_verdict(sources), what="verdict")
    verdict = {
        "dataset": dataset,
        "decision": "admitted",
        "input_root": root,
        "policy_digest": "cd" * 32,
        "verdict_digest": hashlib.sha256(said).hexdigest(),
    }
    return [
        *manifests,
        Entry("check_summary", root, RECORDED_AT, check),
        Entry("verdict", root, RECORDED_AT, verdict),
    ]


def admitted_verdict(sources: Sequence[str]) -> dict[str, Any]:
    """Return the verdict whose digest a run of such sources logs: as much of one as a certificate needs."""
    signers = [
        {"name": source, "identity": f"data@{source}.example", "issuer": "https://issuer.example"} for source in sources
    ]
    return {"decision": "admitted", "sources": signers}


def digests_of(count: int, *, seed: int) -> np.ndarray:
    """Return digests that look like digests, uint8 (count, 32)."""
    values: np.ndarray = np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)
    return values


def ledger_key(seed: int = 1) -> Ed25519PrivateKey:
    """Return the private key of `signed_ledger`."""
    return _test_key(seed)


def _test_key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"millcert test key {seed}".encode()).digest())
