"""What a run writes into the ledger, and the certificate that it gets for it.

Leaves hold roots, digests and counts, never a sample: a leaf cannot be taken back (docs/formats/ledger.md). The keys
are made on first use in the state folder and never leave the machine that submits the job.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import InternalError
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.ruling import RunResult
from millcert.pipelines.sample_set import SampleSet, samples_entry
from millcert.provenance.certificate import issue_certificate
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.ledger import Entry, Ledger, open_ledger
from millcert.provenance.profile_statement import ProfileClaim, sign_profile
from millcert.provenance.standing import Standing, read_standing
from millcert.provenance.trust_history import SeenSigner, last_signers
from millcert.provenance.witnessing import Witnessing, cosigned_checkpoint, cosigned_path
from millcert.verdict import CheckSummary, SourceSummary, Verdict, canonical_value

LEDGER_FILE = "ledger.db"
LEDGER_KEY = Path("keys") / "ledger.key"
GATE_KEY = Path("keys") / "gate.key"


@dataclass(frozen=True)
class Recorded:
    """What the ledger says of a run. index: of the verdict's leaf; certificate: its bytes, None unless admitted."""

    origin: str
    index: int
    checkpoint: str
    certificate: bytes | None


@dataclass(frozen=True)
class Recorder:
    """Keys and ledger of one state folder."""

    state: Path
    origin: str
    ledger_key: Ed25519PrivateKey
    gate_key: Ed25519PrivateKey
    ledger_url: str | None = field(default=None, repr=False)
    witnessing: Witnessing | None = None

    @classmethod
    def open(
        cls, state: Path, origin: str, ledger_url: str | None = None, witnessing: Witnessing | None = None
    ) -> Self:
        """Return the recorder of a state folder, its keys and ledger made if they are not there.

        Opening before the job runs means that an unusable state folder, and witnesses that cannot be reached, are known
        before hours of computing.

        Raises:
            UsageError: the folder's keys are readable by others, or the ledger has another origin.
            LedgerError: the ledger is not what was last seen of it.
            StoreError: it cannot be read or written, or too few witnesses cosign it.
        """
        keys = load_or_create_key(state / LEDGER_KEY), load_or_create_key(state / GATE_KEY)
        recorder = cls(state, origin, *keys, ledger_url, witnessing)
        with recorder._ledger() as ledger:
            recorder._checkpoint(ledger)
        return recorder

    def last_signers(self, dataset: str, size: int | None = None) -> Mapping[str, SeenSigner]:
        """Return for each source of a data set who vouched for its last admitted version, by the first `size` entries.

        Raises:
            LedgerError: an entry is not what the tree says.
            StoreError: the ledger could not be read.
        """
        return last_signers(self.history(dataset, size), dataset)

    def size(self) -> int:
        """Return how many entries the ledger has.

        Raises:
            StoreError: the ledger could not be read.
        """
        with self._ledger() as ledger:
            return ledger.size

    def history(self, dataset: str, size: int | None = None) -> list[Entry]:
        """Return the "manifest" and "verdict" entries of a data set, oldest first; those among the first `size`.

        Raises:
            LedgerError: an entry is not what the tree says.
            StoreError: the ledger could not be read.
        """
        with self._ledger() as ledger:
            # The database looks for the name; only what it finds is proved. As many as there are: a list that was cut
            # would leave out the newest.
            text, limit = f'"dataset":"{dataset}"', ledger.size + 1
            kinds = ("manifest", "verdict")
            found = [one for kind in kinds for one in ledger.find(kind=kind, text=text, limit=limit)]
        found.sort(key=lambda logged: logged.index)
        return [
            logged.entry
            for logged in found
            if logged.entry.body.get("dataset") == dataset and (size is None or logged.index < size)
        ]

    def standing(self) -> Standing:
        """Return what people said in the ledger, and whether it counts.

        Raises:
            LedgerError, SignatureError: the ledger is not what its newest checkpoint says.
            StoreError: it could not be read.
        """
        with self._ledger() as ledger:
            return read_standing(ledger)

    def record(
        self,
        plan: VetPlan,
        result: RunResult,
        samples: SampleSet,
        now: datetime,
        after: Callable[[str], None] = lambda _: None,
    ) -> Recorded:
        """Append the run and the roots of its samples to the ledger and, if it admits, issue the certificate.

        With the same arguments it may be called again: what is logged is not logged twice. `after` is called with the
        name of each step that was done; fault tests stop there.

        Raises:
            StoreError: the ledger could not be written, or too few witnesses cosigned it; nothing counts then.
            LedgerError: the ledger is not what was last seen of it.
        """
        if result.verdict is None or result.input_manifest is None:
            raise InternalError("A run without a verdict cannot be recorded.")
        stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entries = run_entries(result.verdict, stamp, result.history_digest)
        with self._ledger() as ledger:
            appended = ledger.append(entries)
            after("run logged")
            ledger.append([samples_entry(samples, entries, appended.indexes)])
            after("samples logged")
            certificate = None
            if result.verdict.decision == "admitted":
                if result.output_manifest is None:
                    raise InternalError("An admitted data set has no manifest.")
                certificate = issue_certificate(
                    manifest=result.output_manifest,
                    verdict=result.verdict.to_mapping(),
                    policy_digest=plan.policy_digest,
                    trusted_root_digest=None if plan.trust_root is None else plan.trust_root.sha256,
                    input_root=result.verdict.input_root,
                    code_version=result.verdict.code_version,
                    time_verified=stamp,
                    key=self.gate_key,
                    ledger=ledger,
                    cosigned=None if self.witnessing is None else self._checkpoint,
                )
                after("certified")
            return Recorded(self.origin, appended.indexes[-1], self._checkpoint(ledger).decode(), certificate)

    def sign_profile(self, verdict: Verdict, data: bytes) -> bytes:
        """Return the signed statement about the run's profile file, a DSSE envelope."""
        return sign_profile(
            data,
            ProfileClaim(verdict.dataset, verdict.profile_digest, verdict.input_root, verdict.code_version),
            self.gate_key,
        )

    def _checkpoint(self, ledger: Ledger) -> bytes:
        """Return the newest checkpoint, with the cosignatures that the policy asks for."""
        if self.witnessing is None:
            return ledger.checkpoint()
        return cosigned_checkpoint(ledger, self.witnessing, cosigned_path(self.state / LEDGER_FILE))

    def _ledger(self) -> Ledger:
        path = self.state / LEDGER_FILE
        return open_ledger(path, origin=self.origin, key=self.ledger_key, create=True, url=self.ledger_url)


def run_entries(verdict: Verdict, recorded_at: str, history_digest: str = "") -> list[Entry]:
    """Return the leaves of a run: its sources and its input, its checks, and last the verdict.

    Args:
        verdict: of the run.
        recorded_at: by the clock of the gate.
        history_digest: of what checks keep of the version, "" where the policy compares nothing with it.
    """
    entries = [_source_entry(verdict, source, recorded_at) for source in verdict.sources]
    entries.append(
        Entry(
            "manifest",
            verdict.input_root,
            recorded_at,
            {
                "dataset": verdict.dataset,
                "files": verdict.files,
                "root": verdict.input_root,
                "samples": verdict.samples.seen,
                "schema_id": verdict.schema_id,
                "size_bytes": verdict.size_bytes,
            },
        )
    )
    entries += [_check_entry(verdict, check, recorded_at) for check in verdict.checks]
    if verdict.expectations is not None:
        body = {
            "dataset": verdict.dataset,
            "evaluated": verdict.expectations.evaluated,
            "input_root": verdict.input_root,
            "name": "expectations",
            "suite_digest": verdict.expectations.suite_digest,
            "unsuccessful": verdict.expectations.unsuccessful,
        }
        entries.append(Entry("check_summary", verdict.input_root, recorded_at, body))
    if verdict.profile_digest:
        entries.append(Entry("profile", verdict.input_root, recorded_at, _profile_body(verdict)))
    entries.append(
        Entry(
            "verdict",
            verdict.input_root,
            recorded_at,
            _plain(
                {
                    "code_version": verdict.code_version,
                    "dataset": verdict.dataset,
                    "decision": verdict.decision,
                    "input_root": verdict.input_root,
                    "output_root": verdict.output_root,
                    "policy_digest": verdict.policy_digest,
                    "reasons": sorted({reason.code for reason in verdict.reasons}),
                    "samples": verdict.to_mapping()["samples"],
                    "verdict_digest": verdict.digest,
                    **({"profile_digest": verdict.profile_digest} if verdict.profile_digest else {}),
                    **({"history_digest": history_digest} if history_digest else {}),
                    **({"rates_digest": verdict.rates_digest} if verdict.rates_digest else {}),
                    **({"overrides": [use.leaf for use in verdict.overrides]} if verdict.overrides else {}),
                }
            ),
        )
    )
    return entries


def _source_entry(verdict: Verdict, source: SourceSummary, recorded_at: str) -> Entry:
    body = {
        "dataset": verdict.dataset,
        "files": source.files,
        "identity": source.identity,
        "issuer": source.issuer,
        "root": source.manifest_root,
        "samples": source.samples,
        "signed_at": source.signed_at,
        "source": source.name,
        "status": source.status,
        "trusted_root_sha256": verdict.trusted_root_sha256,
    }
    return Entry("manifest", source.manifest_root, recorded_at, body)


def _check_entry(verdict: Verdict, check: CheckSummary, recorded_at: str) -> Entry:
    body = {
        "config_digest": check.config_digest,
        "dataset": verdict.dataset,
        "estimated_count": check.estimated_count,
        "flagged": check.flagged,
        "input_root": verdict.input_root,
        "max_flagged_fraction": check.max_flagged_fraction,
        "name": check.name,
        "scored": check.scored,
        "severity": check.severity,
        "status": check.status,
        "suspicious_groups": check.suspicious_groups,
        "version": check.version,
    }
    if check.check:
        body["check"] = check.check
    return Entry("check_summary", verdict.input_root, recorded_at, _plain(body))


def _profile_body(verdict: Verdict) -> dict[str, Any]:
    body: dict[str, Any] = {
        "dataset": verdict.dataset,
        "input_root": verdict.input_root,
        "profile_digest": verdict.profile_digest,
    }
    if verdict.drift is not None:
        drift = verdict.drift
        body["drift"] = {"compared": drift.compared, "found": drift.found, "reference": drift.reference}
    return body


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = canonical_value(body)
    return plain
