"""What checks keep of an admitted version, so that the next one is compared with it: `reference: last_admitted`.

Rules this module keeps:
  1. Nothing is kept or compared where the policy does not ask: the verdict then depends on the data alone.
  2. The ledger's verdict entry names the file by its SHA-256; what is read back is believed only if it has that digest.
     The verdict names the reference, and not what is kept: that has bits of the linear algebra of the machine.
  3. A check whose version or configuration changed has nothing to be compared with, and says so.

Format: docs/formats/history.md.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems

from millcert.checks.source_history import KeepsHistory
from millcert.errors import IntegrityError
from millcert.pipelines.output import read_whole, translate_store_errors
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.publish import write_file
from millcert.pipelines.records import CheckFailure
from millcert.pipelines.reference import keep_bytes, last_digest, read_kept, require_logged
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.revocation import Revocation
from millcert.provenance.strict_json import canonical_json, parse_json_object
from millcert.verdict import Decision

#: What a run publishes, and where the reference stands in the staging folder.
HISTORY_FILE = "history.json"
_REFERENCE_FILE = "reference-history.json"
#: 65,536 cells of 160 coordinates, and a frame, of a few checks.
MAX_HISTORY_BYTES = 512 << 20


def asks_history(plan: VetPlan) -> bool:
    """Return whether any check of a plan is compared with the last admitted version."""
    return any(planned.reference for planned in plan.checks)


def place_history(plan: VetPlan, state: Path, history: Sequence[Entry], revocations: Sequence[Revocation]) -> VetPlan:
    """Return the plan with what was kept of the last admitted version, which now stands in the staging folder.

    Args:
        plan: of the run.
        state: the state folder.
        history: the ledger's "manifest" and "verdict" entries about the data set, oldest first.
        revocations: in force; a version that one of them takes back is no reference.

    Raises:
        StoreError: it is not in the state folder.
        DigestMismatchError, IntegrityError: it is not what the ledger says.
    """
    digest = last_digest(history, revocations, "history_digest") if asks_history(plan) else ""
    if not digest:
        return plan
    path = history_path(state, digest)
    data = read_kept(path, "history", HISTORY_FILE, MAX_HISTORY_BYTES)
    subject, hint = "The history of the last admitted version has", f"Restore it from that version's {HISTORY_FILE}."
    require_logged(hashlib.sha256(data).hexdigest(), digest, subject, hint)
    uri = f"{plan.staging}/{_REFERENCE_FILE}"
    write_file(uri, data)
    known = _load(data)
    checks = tuple(
        replace(planned, reference_digest=digest) if _is_known(planned, known) else planned for planned in plan.checks
    )
    return replace(plan, checks=checks, history_uri=uri)


def recall_history(plan: VetPlan, planned: PlannedCheck, model: Any) -> Any:
    """Return a check's model after the first pass, with what it is to be compared with where the policy asks for it.

    Raises:
        IntegrityError, InvalidSampleError: it cannot be compared.
        StoreError: the reference cannot be read.
    """
    if not planned.reference or not isinstance(planned.check, KeepsHistory):
        return model
    known = _load(read_whole(plan.history_uri))[planned.name] if planned.reference_digest else {}
    return planned.check.recall(model, known.get("kept"))


def write_history(plan: VetPlan, models: Mapping[str, Any]) -> None:
    """Write what checks keep of this version beside what is published; models after the last pass."""
    kept = {
        planned.name: {**_words(planned), "kept": planned.check.history(models[planned.name])}
        for planned in plan.checks
        if planned.reference
        and isinstance(planned.check, KeepsHistory)
        and not isinstance(models[planned.name], CheckFailure)
    }
    if kept:
        data = canonical_json({"checks": kept, "version": 1}, what="history")
        write_file(f"{plan.staging}/publish/{HISTORY_FILE}", data)


def settle_history(plan: VetPlan, decision: Decision, state: Path) -> str:
    """Keep what an admitted version leaves for the next one; return its digest for the ledger, "" where it is nothing.

    Raises:
        StoreError: it cannot be read or kept.
    """
    uri = f"{plan.staging}/publish/{HISTORY_FILE}"
    with translate_store_errors(uri, "read"):
        if not asks_history(plan) or not FileSystems.exists(uri):
            return ""
    data = read_whole(uri)
    digest = hashlib.sha256(data).hexdigest()
    if decision == "admitted":
        keep_bytes(history_path(state, digest), data, "history")
    return digest


def history_path(state: Path, digest: str) -> Path:
    """Return where the history of that digest is kept."""
    return state / "history" / f"{digest}.json"


def _words(planned: PlannedCheck) -> dict[str, str]:
    return {
        "check": planned.check.name,
        "version": planned.check.version,
        "config_digest": planned.config_digest,
    }


def _is_known(planned: PlannedCheck, known: Mapping[str, Any]) -> bool:
    item = known.get(planned.name, {})
    return bool(planned.reference) and {name: item.get(name) for name in _words(planned)} == _words(planned)


def _load(data: bytes) -> Mapping[str, Any]:
    raw = parse_json_object(data, what="history", max_bytes=MAX_HISTORY_BYTES, error=IntegrityError)
    checks = raw.get("checks")
    if raw.get("version") != 1 or not isinstance(checks, dict) or not all(map(_is_object, checks.values())):
        raise IntegrityError(
            f"A history has the version 1 and checks, got {raw.get('version')!r}.",
            hint="Use a newer millcert.",
        )
    return checks


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
