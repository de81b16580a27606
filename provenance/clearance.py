"""Clearance: is a certificate still good today? It cannot say so itself; the ledger, or a list made from it, can.

Steps of `clear_certificate`:
  1. What is known of revocations is fresh: a list that counts now, or a ledger that its keeper writes, or one whose
     newest entry is not too old.
  2. The ledger is the one that the certificate was logged in, and it has not lost that entry.
  3. No revocation touches the certificate, and each override that its verdict used still counts.
Where nothing is known of revocations, nothing is admitted.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from millcert.errors import ConsistencyError, InconclusiveError, LedgerError, RevokedError, RollbackError
from millcert.provenance.certificate import Certificate
from millcert.provenance.checkpoint import verify_checkpoint
from millcert.provenance.ledger_log import Ledger
from millcert.provenance.merkle import verify_consistency
from millcert.provenance.override import ended_override, overrides_in, withdrawn_leaves
from millcert.provenance.revocation import Revocation, active_revocations, facts_of, refuse_revoked
from millcert.provenance.revocation_list import DEFAULT_VALID, RevocationList
from millcert.provenance.standing import read_standing
from millcert.provenance.timestamp import instant

#: How old the newest entry of a copied ledger may be, where nobody says otherwise: as a revocation list.
DEFAULT_MAX_AGE = DEFAULT_VALID


@dataclass(frozen=True)
class Clearance:
    """A certificate that nothing takes back, as far as was known.

    known_from: "ledger" or "list". size: entries of the ledger that it was known from. revocations: how many are in
    force, about anything. roles_sha256: the roles by which acts were judged, "" for none. overrides: leaves of those
    that the verdict rests on.
    """

    known_from: str
    size: int
    revocations: int
    roles_sha256: str
    overrides: tuple[str, ...]


def clear_by_ledger(
    certificate: Certificate, ledger: Ledger, *, now: datetime, max_age: timedelta | None = DEFAULT_MAX_AGE
) -> Clearance:
    """Return the clearance of a certificate that a ledger gives.

    Args:
        certificate: as `verify_certificate` returned it.
        ledger: open for reading.
        now: with a time zone.
        max_age: of the newest entry; None only for the ledger that its keeper writes.

    Raises:
        InconclusiveError: the ledger is too old a copy; `reason` is "stale".
        RollbackError, ConsistencyError, LedgerError: it is another ledger than the certificate's, or lost its entry.
        RevokedError: a revocation or the end of an override takes the certificate back.

    Cost: `Ledger.scan`: about 15 microseconds an entry (bench/admission.py).
    """
    standing = read_standing(ledger)
    if max_age is not None:  # 1
        newest = instant(ledger.get(standing.size - 1).entry.recorded_at) if standing.size else None
        if newest is None or now - newest > max_age:
            raise InconclusiveError(
                f"The newest entry of this copy of the ledger is of {newest}; what was revoked since is not known.",
                hint="Copy the ledger again, or give a revocation list: --revocations FILE",
                reason="stale",
            )
    _require_same_ledger(certificate, ledger, standing.size)  # 2
    revocations = active_revocations(standing)
    overrides = _refuse(certificate, revocations, withdrawn_leaves(standing), now)  # 3
    roles = "" if standing.book is None else standing.book.sha256
    return Clearance("ledger", standing.size, len(revocations), roles, overrides)


def clear_by_list(certificate: Certificate, revocations: RevocationList, *, now: datetime) -> Clearance:
    """Return the clearance of a certificate that a verified revocation list gives.

    Raises:
        LedgerError: the list is of another ledger.
        RevokedError: a revocation or the end of an override takes the certificate back.
    """
    if revocations.checkpoint.origin != certificate.checkpoint.origin:
        raise LedgerError(
            f"The revocation list is of {revocations.checkpoint.origin}, the certificate of "
            f"{certificate.checkpoint.origin}.",
            hint="Fetch the list of the certificate's own ledger.",
        )
    overrides = _refuse(certificate, revocations.revocations, revocations.withdrawn, now)  # 3
    return Clearance(
        "list", revocations.checkpoint.size, len(revocations.revocations), revocations.roles_sha256, overrides
    )


def _require_same_ledger(certificate: Certificate, ledger: Ledger, size: int) -> None:
    known = certificate.checkpoint
    if ledger.origin != known.origin:
        raise LedgerError(f"The ledger is {ledger.origin}, the certificate's is {known.origin}.")
    if size < known.size:
        raise RollbackError(
            f"The ledger has {size} entries; the certificate was issued when it had {known.size}.",
            hint="This is an old copy, and what was revoked since is not in it. Fetch the newest.",
            size=size,
        )
    newest = verify_checkpoint(ledger.checkpoint(), ledger.vkeys)
    proof = ledger.prove_consistency(known.size, newest.size)
    try:
        verify_consistency(known.size, newest.size, proof, known.root, newest.root)
    except ConsistencyError as error:
        raise ConsistencyError(
            f"The ledger of {ledger.origin} is not the one that the certificate was logged in: its first {known.size} "
            "entries are others.",
            hint="Somebody keeps two ledgers under one name. Compare checkpoints with others who use it.",
        ) from error


def _refuse(
    certificate: Certificate, revocations: Iterable[Revocation], withdrawn: Collection[str], now: datetime
) -> tuple[str, ...]:
    name = f"The data set {certificate.manifest.name!r}"
    refuse_revoked(revocations, facts_of(certificate), what=name)
    used = overrides_in(certificate.checks.verdict)
    if ended := ended_override(used, withdrawn, now):
        raise RevokedError(
            f"{name} was admitted by an override, and {ended}.",
            hint="Vet it again, without the override or with a new one.",
            reason="override_ended",
        )
    return tuple(str(one["leaf"]) for one in used)
