"""Erasing samples: their salts are destroyed, so their leaves can no longer be linked to them; no proof changes.

Order, and what is true if we crash behind a step:
  1. tombstone   the ledger says that these leaves are erased, and why; a retry logs nothing twice.
  2. salt        nobody can link the leaf to a sample, not even who guesses it.
  3. record      the index leads to the place no more; asking for the erasure again completes this step.
  4. name        `salts/named/` no longer says which commitment of an act was the sample's (`forget_named`).
What stays: the leaf's hash, as a neighbour in other samples' proofs, and evidence that was exported before.

Once roles are in force in a ledger, a tombstone is an act: signed by somebody who may erase, or nothing is erased.

Formats: docs/formats/sample-leaves.md and acts.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import IntegrityError, UsageError
from millcert.provenance.act import Act, is_act, parse_act, require_reason, sign_act
from millcert.provenance.keys import public_pem
from millcert.provenance.ledger import Appended, Ledger
from millcert.provenance.ledger_entry import Entry, LoggedEntry
from millcert.provenance.lookup import FoundSample, SampleRun, salts_folder
from millcert.provenance.named_sample import forget_sample
from millcert.provenance.public_key import parse_public_key
from millcert.provenance.roles import RoleBook, load_signer
from millcert.provenance.salt_store import drop_salts
from millcert.provenance.sample_leaf import sample_leaf_hash
from millcert.provenance.standing import read_standing
from millcert.provenance.state import StateFolder
from millcert.provenance.strict_json import require_fields

KIND = "erasure"

#: Leaves that one tombstone names: 500 of 67 characters stay well below an entry's 65,535 bytes.
MAX_LEAVES = 500

_SAID = {"dataset": str, "leaves": list, "reason": str, "run": str, "scope": str}


@dataclass(frozen=True)
class Eraser:
    """Who says that samples are erased. key, book: None in a ledger without roles, whose tombstones nobody signs.

    said: leaves, and ids of whole runs, that tombstones which count name already, so that a retry says nothing twice.
    """

    key: Ed25519PrivateKey | None = None
    book: RoleBook | None = None
    said: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tombstone:
    """What an `erasure` entry says. run: id. scope: "samples", or "run" for all of them. leaves: sample leaves, hex."""

    run: str
    dataset: str
    scope: str
    leaves: tuple[str, ...]
    reason: str


def find_eraser(ledger: Ledger, key: Ed25519PrivateKey | None) -> Eraser:
    """Return who may erase in a ledger, before anything is touched.

    Args:
        ledger: open.
        key: of the person who erases; None if nobody was named.

    Raises:
        UsageError: roles are in force and nobody who may erase was named; or there are none, so nobody can sign.
        LedgerError, SignatureError: the ledger is not what its newest checkpoint says.

    Cost: `read_standing`.
    """
    standing = read_standing(ledger)
    book = standing.book
    if book is None and key is not None:
        raise UsageError(
            f"No roles are in force in {ledger.origin}, so an erasure has no signer.", hint="Leave --key out."
        )
    if book is None or key is None:
        if book is not None:
            raise UsageError(
                f"Roles are in force in {ledger.origin}: an erasure is signed by {' or '.join(book.roles_for(KIND))}.",
                hint="Give the key of somebody with that role: --key KEY",
            )
        return Eraser(said=_said(ledger.find(kind=KIND, limit=ledger.size + 1)))
    load_signer(book, parse_public_key(public_pem(key.public_key())), KIND)
    return Eraser(key, book, _said(one.logged for one in standing.counting(KIND)))


def tombstone_from(entry: Entry) -> Tombstone:
    """Return what an `erasure` entry says, be it an act or of the time before there were roles.

    Whether an act counts is for `standing` to say.

    Raises:
        IntegrityError: it is none, or says what no reader understands.
    """
    body: Mapping[str, Any] = parse_act(entry)[0].said if is_act(entry) else entry.body
    if entry.kind != KIND:
        raise IntegrityError(f"Expected an {KIND} entry, got {entry.kind}.")
    require_fields(dict(body), _SAID, what=f"{KIND} entry")
    leaves = body["leaves"]
    is_sound = all(isinstance(one, str) for one in leaves) and body["scope"] == ("samples" if leaves else "run")
    if not is_sound:
        raise IntegrityError(f"The {KIND} entry of run {body['run'][:16]!r} has leaves or a scope that cannot be.")
    return Tombstone(body["run"], body["dataset"], body["scope"], tuple(leaves), body["reason"])


def forget_named(state: StateFolder, digests: Iterable[bytes]) -> tuple[str, ...]:
    """Destroy what links the commitments in revocations and overrides to these samples; return those commitments.

    A revocation of such a sample keeps naming the inputs that had it, and no longer catches it in new data.

    Raises:
        StoreError, LedgerError: the state folder cannot be read, or was edited.
    """
    return tuple(sorted({name for digest in set(digests) for name in forget_sample(state, digest)}))


def erase_samples(
    run: SampleRun,
    samples: Sequence[FoundSample],
    ledger: Ledger,
    *,
    reason: str,
    recorded_at: str,
    eraser: Eraser | None = None,
) -> Appended:
    """Erase samples of one run.

    Args:
        run: that they are in.
        samples: at least one; more than 500 become several tombstones.
        ledger: open for appending.
        reason: why, in words without personal data: a tombstone cannot be taken back.
        recorded_at: RFC 3339 in UTC.
        eraser: from `find_eraser`; None asks it, for nobody in particular.

    Raises:
        UsageError: there is no sample or reason, or roles are in force and nobody who may erase was named.
        LedgerError, StoreError: nothing was erased, or a retry completes it.
    """
    require_reason(reason)
    if not samples:
        raise UsageError("There is no sample to erase.")
    eraser = find_eraser(ledger, None) if eraser is None else eraser
    leaves = sorted(sample_leaf_hash(found.salt, found.digest).hex() for found in samples)
    leaves = [leaf for leaf in leaves if leaf not in eraser.said]
    parts = [leaves[start : start + MAX_LEAVES] for start in range(0, len(leaves), MAX_LEAVES)]
    entries = [_entry(run, part, reason, recorded_at, ledger.origin, eraser) for part in parts]
    appended = ledger.append(entries) if entries else Appended((), ledger.checkpoint())
    for found in samples:
        run.salts.forget(*run.block_of(found.number, found.row))
    for digest in sorted({found.digest for found in samples}):
        run.drop_erased(digest)
    return appended


def erase_run(
    run: SampleRun,
    state: StateFolder,
    ledger: Ledger,
    *,
    reason: str,
    recorded_at: str,
    eraser: Eraser | None = None,
) -> Appended:
    """Destroy all salts of a run: none of its leaves can be linked to a sample any more.

    Raises:
        UsageError: no reason is given, or roles are in force and nobody who may erase was named.
        LedgerError, StoreError: nothing was erased, or a retry completes it.
    """
    require_reason(reason)
    eraser = find_eraser(ledger, None) if eraser is None else eraser
    entry = _entry(run, [], reason, recorded_at, ledger.origin, eraser)
    is_said = run.roots.run_id in eraser.said
    appended = Appended((), ledger.checkpoint()) if is_said else ledger.append([entry])
    drop_salts(salts_folder(state, run.roots.run_id))
    return appended


def _said(entries: Iterable[LoggedEntry]) -> frozenset[str]:
    """Return the leaves and whole runs that tombstones name; one that no reader understands names nothing."""
    said = set[str]()
    for logged in entries:
        with suppress(IntegrityError):
            tombstone = tombstone_from(logged.entry)
            said |= set(tombstone.leaves) or {tombstone.run}
    return frozenset(said)


def _entry(run: SampleRun, leaves: Sequence[str], reason: str, recorded_at: str, origin: str, eraser: Eraser) -> Entry:
    said = {
        "dataset": run.roots.dataset,
        "leaves": list(leaves),
        "reason": reason,
        "run": run.roots.run_id,
        "scope": "samples" if leaves else "run",
    }
    if eraser.key is None or eraser.book is None:
        return Entry(KIND, run.roots.input_root, recorded_at, said)
    act = Act(KIND, run.roots.input_root, recorded_at, origin, eraser.book.sha256, said)
    return sign_act(act, eraser.key, eraser.book)
