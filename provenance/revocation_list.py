"""Revocation lists: what the ledger takes back, signed by the gate with an end, for machines without the ledger.

Steps of `verify_list`:
  1. A key of the gate signed the list as such (DSSE).
  2. It has exactly the known fields, and its checkpoint is signed by a known key of the ledger.
  3. It counts at `now`: not issued later, and not yet over.
The caller owes: that the keys come from its own configuration, and `now` from a clock that is right.

Format: docs/formats/revocations.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millcert.errors import InconclusiveError, IntegrityError, UsageError
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, verify_checkpoint
from millcert.provenance.dsse import parse_envelope, sign_envelope, verify_envelope
from millcert.provenance.ledger_log import Ledger
from millcert.provenance.override import withdrawn_leaves
from millcert.provenance.revocation import Revocation, active_revocations, revocation_from
from millcert.provenance.standing import read_standing
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields
from millcert.provenance.timestamp import instant, is_timestamp, stamp

VERSION = 1
PAYLOAD_TYPE = "application/vnd.millcert.revocations.v1+json"

#: Bound on a list: some 100,000 revocations.
MAX_LIST_BYTES = 32 * 1024 * 1024

#: How long a list counts where nobody says otherwise: as often as certificate authorities issue theirs (CA/Browser
#: Forum, Baseline Requirements 4.9.7: at least every seven days).
DEFAULT_VALID = timedelta(days=7)

#: The longest (Baseline Requirements 4.9.7: nextUpdate at most ten days after thisUpdate).
MAX_VALID = timedelta(days=10)

#: How far two clocks may be apart. Our choice.
CLOCK_SKEW = timedelta(minutes=5)

_FIELDS = {
    "checkpoint": str,
    "expires_at": str,
    "issued_at": str,
    "revocations": list,
    "roles_sha256": str,
    "version": int,
    "withdrawn": list,
}


@dataclass(frozen=True)
class RevocationList:
    """A verified list. checkpoint: of the ledger that it was made from. withdrawn: leaves of overrides, hex.

    roles_sha256: the roles that were in force in that ledger, "" for none.
    """

    checkpoint: Checkpoint
    issued_at: str
    expires_at: str
    roles_sha256: str
    revocations: tuple[Revocation, ...]
    withdrawn: frozenset[str]


def export_list(ledger: Ledger, gate: Ed25519PrivateKey, *, now: datetime, valid: timedelta = DEFAULT_VALID) -> bytes:
    """Return the signed list of what a ledger takes back now.

    Raises:
        UsageError: it would count for longer than ten days, or not at all.
        LedgerError, SignatureError: the ledger is not what its newest checkpoint says.
        IntegrityError: a revocation says what no reader understands.

    Cost: as `read_standing`.
    """
    if not timedelta() < valid <= MAX_VALID:
        raise UsageError(
            f"A revocation list counts for more than 0 and at most {MAX_VALID.days} days, got {valid}.",
            hint="Export it again before it ends.",
        )
    standing = read_standing(ledger)
    value = {
        "checkpoint": ledger.checkpoint().decode(),
        "expires_at": stamp(now + valid),
        "issued_at": stamp(now),
        "revocations": [
            {**one.said(), "by": one.by, "index": one.index, "leaf": one.leaf, "recorded_at": one.recorded_at}
            for one in active_revocations(standing)
        ],
        "roles_sha256": "" if standing.book is None else standing.book.sha256,
        "version": VERSION,
        "withdrawn": list(withdrawn_leaves(standing)),
    }
    return sign_envelope(canonical_json(value, what="revocation list"), gate, payload_type=PAYLOAD_TYPE).to_json()


def verify_list(
    data: bytes, *, gate_keys: Sequence[Ed25519PublicKey], ledger_vkeys: Sequence[VerifierKey], now: datetime
) -> RevocationList:
    """Return what a revocation list says, if it counts now; the steps are at the top of this module.

    Raises:
        SignatureError, LedgerError: a signature does not verify.
        IntegrityError: the list is malformed.
        InconclusiveError: it is over, or from the future; `reason` is "expired" or "not_yet".
    """
    payload = verify_envelope(parse_envelope(data), gate_keys, payload_type=PAYLOAD_TYPE)  # 1
    what = "revocation list"
    value = parse_json_object(payload, what=what, max_bytes=MAX_LIST_BYTES)  # 2
    require_fields(value, _FIELDS, what=what)
    times = (value["issued_at"], value["expires_at"])
    if value["version"] != VERSION or not all(is_timestamp(one) for one in times):
        raise IntegrityError(f"The {what} has version {value['version']!r} or a time that is none.")
    if not all(isinstance(one, dict) for one in value["revocations"]):
        raise IntegrityError(f"The {what} has a revocation that is no object.")
    if not all(isinstance(one, str) for one in value["withdrawn"]):
        raise IntegrityError(f"The {what} has a withdrawn override that is no text.")
    checkpoint = verify_checkpoint(value["checkpoint"].encode(), ledger_vkeys)
    issued, expires = instant(times[0]), instant(times[1])
    if now >= expires or expires - issued > MAX_VALID:  # 3
        raise InconclusiveError(
            f"The {what} ended at {times[1]}; nobody can tell what was revoked since.",
            hint="Fetch a new one from the gate: millcert ledger revocations export --out FILE",
            reason="expired",
        )
    if issued > now + CLOCK_SKEW:
        raise InconclusiveError(
            f"The {what} is of {times[0]}, which is in the future.", hint="Set this machine's clock.", reason="not_yet"
        )
    revocations = tuple(revocation_from(one) for one in value["revocations"])
    return RevocationList(checkpoint, *times, value["roles_sha256"], revocations, frozenset(value["withdrawn"]))
