"""What `admit` knows of revocations, and where from: a list, or the state folder's ledger; nothing is refused."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millcert.cli.files import read_bounded
from millcert.cli.opened import chosen_ledger, opened
from millcert.errors import InconclusiveError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from millcert.provenance.certificate import Certificate
    from millcert.provenance.checkpoint import VerifierKey
    from millcert.provenance.clearance import Clearance


@dataclass(frozen=True)
class Known:
    """Where to learn what was revoked.

    state: as --state gives it. list_path: of a revocation list. max_age_hours: of the ledger's newest entry.
    is_told_by_keys: keys were given in place of a state folder, so there is no ledger to read.
    """

    state: Path | None
    list_path: Path | None
    max_age_hours: int | None
    is_told_by_keys: bool


def clear(
    certificate: "Certificate",
    known: Known,
    gate_keys: "Sequence[Ed25519PublicKey]",
    ledger_vkeys: "Sequence[VerifierKey]",
) -> "Clearance":
    """Return the clearance of a certificate, by the list if one is given, else by the ledger.

    Raises:
        InconclusiveError: there is neither, or it is too old.
        RevokedError: the certificate was taken back.
        IntegrityError: the list or the ledger does not verify.
    """
    from millcert.provenance.clearance import DEFAULT_MAX_AGE, clear_by_ledger, clear_by_list
    from millcert.provenance.ledger_reader import read_ledger
    from millcert.provenance.revocation_list import MAX_LIST_BYTES, verify_list
    from millcert.provenance.state import state_folder

    now = datetime.now(UTC)
    if known.list_path is not None:
        if known.max_age_hours is not None:
            raise UsageError("--max-age is of a ledger; a list says itself how long it counts.", hint="Leave one out.")
        # Base64 makes a third more of it.
        data = read_bounded(known.list_path, 2 * MAX_LIST_BYTES, what="revocation list", hint="Check --revocations.")
        listed = verify_list(data, gate_keys=gate_keys, ledger_vkeys=ledger_vkeys, now=now)
        return clear_by_list(certificate, listed, now=now)
    folder = state_folder(known.state)
    url = chosen_ledger()
    if known.is_told_by_keys or (url is None and not folder.ledger.exists()):
        raise InconclusiveError(
            "Nothing is known of what was revoked: there is no ledger and no revocation list.",
            hint="Where the ledger is: millcert ledger revocations export --out FILE; here: --revocations FILE",
            reason="no_revocations",
        )
    max_age: timedelta | None = DEFAULT_MAX_AGE
    if known.max_age_hours is not None:
        max_age = timedelta(hours=known.max_age_hours)
    elif (folder.path / "keys" / "ledger.key").exists():
        max_age = None  # its keeper's own: nothing newer is elsewhere
    # A file is read with the standard library alone; only another database needs the toolkit.
    with read_ledger(folder.ledger, ledger_vkeys) if url is None else opened(known.state)[1] as ledger:
        return clear_by_ledger(certificate, ledger, now=now, max_age=max_age)


def clearance_payload(clearance: "Clearance | None") -> dict[str, Any] | None:
    """Return a clearance as JSON values."""
    if clearance is None:
        return None
    return {
        "known_from": clearance.known_from,
        "ledger_size": clearance.size,
        "in_force": clearance.revocations,
        "roles_sha256": clearance.roles_sha256,
        "overrides": list(clearance.overrides),
    }


def clearance_line(clearance: "Clearance | None") -> str:
    """Return a clearance for people."""
    if clearance is None:
        return "  revocations: NOT LOOKED AT (--unsafe-no-revocations)"
    rests = f"; rests on {len(clearance.overrides)} overrides" if clearance.overrides else ""
    return (
        f"  revocations: {clearance.revocations} in force, none touches it, by the {clearance.known_from} at "
        f"{clearance.size} entries{rests}"
    )
