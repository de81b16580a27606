"""The reject list: files and samples that revocations in force touch, with their places, to be taken out of data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from millcert.errors import InconclusiveError, StoreError
from millcert.provenance.ledger import Ledger
from millcert.provenance.lookup import SampleRun
from millcert.provenance.named_sample import named_samples
from millcert.provenance.questions import RunRecord, list_records
from millcert.provenance.revocation import Revocation, active_revocations
from millcert.provenance.standing import Standing
from millcert.provenance.state import StateFolder
from millcert.provenance.timestamp import instant


@dataclass(frozen=True)
class Reject:
    """One place of what has to go. row, sample_digest: of a sample; -1 and "" for a whole file.

    revocation: leaf hash, hex. sha256: of the file's bytes, hex.
    """

    dataset: str
    run: str
    source: str
    file: str
    sha256: str
    row: int
    sample_digest: str
    revocation: str
    reason: str

    def to_mapping(self) -> dict[str, Any]:
        """Return the line's JSON values."""
        value = {
            "dataset": self.dataset,
            "file": self.file,
            "reason": self.reason,
            "revocation": self.revocation,
            "run": self.run,
            "sha256": self.sha256,
            "source": self.source,
            "type": "file" if self.row < 0 else "sample",
        }
        return value if self.row < 0 else {**value, "row": self.row, "sample_digest": self.sample_digest}


def list_rejects(ledger: Ledger, state: StateFolder, standing: Standing, *, dataset: str | None = None) -> list[Reject]:
    """Return every place that a revocation in force touches, run by run.

    Raises:
        StoreError: a run's shard list, or the digest of a revoked sample, is not in the state folder: a list that lacks
            something would be taken for whole.
        LedgerError, IntegrityError: an entry, a list or a revocation is not what the ledger says.
    """
    revocations = active_revocations(standing)
    digests = named_samples(state)
    for one in revocations:
        if one.target == "sample" and one.value not in digests:
            raise StoreError(
                f"The digest of the revoked sample {one.value[:16]} (ledger entry {one.index}) is not in this state "
                "folder.",
                hint="Restore `salts/named` from the gate's own; if the sample was erased, lift the revocation.",
            )
    found: list[Reject] = []
    for record in list_records(ledger):
        if dataset in (None, record.roots.dataset):
            with SampleRun(state, record.logged) as run:
                for one in revocations:
                    found += _rejects_of(record, run, one, digests.get(one.value, b""))
    return found


def _rejects_of(record: RunRecord, run: SampleRun, revocation: Revocation, digest: bytes) -> Iterator[Reject]:
    since = revocation.since
    if since and instant(record.verdict.entry.recorded_at) < instant(since):
        return
    about = (record.roots.dataset, record.roots.run_id)
    why = (revocation.leaf, revocation.reason)
    if revocation.target == "sample":
        try:
            places = run.find(digest)
        except InconclusiveError:
            return  # the run's salts were erased, so nobody can link any of it
        for found in places:
            shard = found.shard
            yield Reject(*about, shard.source, shard.file, shard.sha256, found.row, digest.hex(), *why)
        return
    sources = _sources(record, revocation)
    is_whole = revocation.target == "dataset" and any(
        one.entry.subject == revocation.value for one in record.certificates
    )
    for shard in run.shards:
        if is_whole or shard.source in sources or (revocation.target == "file" and shard.sha256 == revocation.value):
            yield Reject(*about, shard.source, shard.file, shard.sha256, -1, "", *why)


def _sources(record: RunRecord, revocation: Revocation) -> Sequence[str]:
    bodies = [one.entry.body for one in record.sources]
    if revocation.target == "source":
        return [revocation.value]
    if revocation.target != "signer":
        return []
    return [
        str(body.get("source"))
        for body in bodies
        if body.get("identity") == revocation.value and revocation.issuer in {"", body.get("issuer")}
    ]
