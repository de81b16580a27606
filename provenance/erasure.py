"""Erasing samples: their salts are destroyed, so their leaves can no longer be linked to them; no proof changes.

Order, and what is true if we crash behind a step:
  1. tombstone   the ledger says that these leaves are erased, and why; a retry logs nothing twice.
  2. salt        nobody can link the leaf to a sample, not even who guesses it.
  3. record      the index leads to the place no more; asking for the erasure again completes this step.
What stays: the leaf's hash, as a neighbour in other samples' proofs, and evidence that was exported before.

Format: docs/formats/sample-leaves.md.
"""

from collections.abc import Sequence

from millcert.errors import UsageError
from millcert.provenance.ledger import Appended, Ledger
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.lookup import FoundSample, SampleRun, salts_folder
from millcert.provenance.salt_store import drop_salts
from millcert.provenance.sample_leaf import sample_leaf_hash
from millcert.provenance.state import StateFolder

KIND = "erasure"

#: Leaves that one tombstone names: 500 of 67 characters stay well below an entry's 65,535 bytes.
MAX_LEAVES = 500

_MAX_REASON_CHARACTERS = 500


def erase_samples(
    run: SampleRun, samples: Sequence[FoundSample], ledger: Ledger, *, reason: str, recorded_at: str
) -> Appended:
    """Erase samples of one run.

    Args:
        run: that they are in.
        samples: at least one; more than 500 become several tombstones.
        ledger: open for appending.
        reason: why, in words without personal data: a tombstone cannot be taken back.
        recorded_at: RFC 3339 in UTC; a retry must give the same.

    Raises:
        UsageError: there is no sample, or no reason.
        LedgerError, StoreError: nothing was erased, or a retry completes it.
    """
    _require_reason(reason)
    if not samples:
        raise UsageError("There is no sample to erase.")
    leaves = sorted(sample_leaf_hash(found.salt, found.digest).hex() for found in samples)
    parts = [leaves[start : start + MAX_LEAVES] for start in range(0, len(leaves), MAX_LEAVES)]
    appended = ledger.append([_tombstone(run, part, reason, recorded_at) for part in parts])
    for found in samples:
        run.salts.forget(*run.block_of(found.number, found.row))
    for digest in sorted({found.digest for found in samples}):
        run.drop_erased(digest)
    return appended


def erase_run(run: SampleRun, state: StateFolder, ledger: Ledger, *, reason: str, recorded_at: str) -> Appended:
    """Destroy all salts of a run: none of its leaves can be linked to a sample any more.

    Raises:
        UsageError: no reason is given.
        LedgerError, StoreError: nothing was erased, or a retry completes it.
    """
    _require_reason(reason)
    appended = ledger.append([_tombstone(run, [], reason, recorded_at)])
    drop_salts(salts_folder(state, run.roots.run_id))
    return appended


def _tombstone(run: SampleRun, leaves: Sequence[str], reason: str, recorded_at: str) -> Entry:
    body = {
        "dataset": run.roots.dataset,
        "leaves": list(leaves),
        "reason": reason,
        "run": run.roots.run_id,
        "scope": "samples" if leaves else "run",
    }
    return Entry(KIND, run.roots.input_root, recorded_at, body)


def _require_reason(reason: str) -> None:
    if not 1 <= len(reason) <= _MAX_REASON_CHARACTERS:
        raise UsageError(
            f"An erasure needs a reason of 1 to {_MAX_REASON_CHARACTERS} characters.",
            hint="Say on what ground, such as a ticket's number; leave personal data out.",
        )
