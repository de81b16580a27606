"""Whether a source's signer is another one than before: what a taken-over account or a sold project looks like.

A new signer that the policy trusts is no fault by itself, keys are renewed; but somebody should know before it counts.
The last version that counts is the last one of an admitted run: a rejected or interrupted run moves nothing.

What the ledger holds of a run: an entry of kind "manifest" for each source (its body names data set, source, status,
identity, issuer), later one of kind "verdict" (data set, decision).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from millcert.provenance.ledger_entry import Entry
from millcert.provenance.trust_verify import VerifiedSource


class SeenSigner(NamedTuple):
    """Who vouched for a source in an admitted run.

    status: "verified" or "unknown". identity, issuer: "" where nobody signed. recorded_at: RFC 3339 in UTC.
    """

    status: str
    identity: str
    issuer: str
    recorded_at: str

    def __str__(self) -> str:
        by = f" by {self.issuer}" if self.issuer else ""
        return f"{self.identity}{by}" if self.identity else "nobody"


class SignerChange(NamedTuple):
    """A source whose signer differs from that of its last admitted version.

    message: one sentence for people.
    """

    source: str
    before: SeenSigner
    identity: str
    issuer: str
    message: str


def last_signers(entries: Iterable[Entry], dataset: str) -> Mapping[str, SeenSigner]:
    """Return for each source of a data set who vouched for it in its last admitted run.

    Args:
        entries: of the ledger, oldest first, verified by the caller.
        dataset: the data set's name.

    Cost: one look at each entry.
    """
    accepted: dict[str, SeenSigner] = {}
    pending: dict[str, SeenSigner] = {}
    for entry in entries:
        body = entry.body
        if body.get("dataset") != dataset:
            continue
        if entry.kind == "manifest" and isinstance(body.get("source"), str):
            pending[body["source"]] = _seen(body, entry.recorded_at)
        elif entry.kind == "verdict":
            if body.get("decision") == "admitted":
                accepted |= pending
            pending = {}
    return accepted


def signer_changes(before: Mapping[str, SeenSigner], sources: Mapping[str, VerifiedSource]) -> tuple[SignerChange, ...]:
    """Return the sources whose signer is not the one before, by name; a source that is new has none before.

    A signature that is gone is a change, too: the source was signed and now is not.
    """
    changes = []
    for name, verified in sorted(sources.items()):
        seen = before.get(name)
        if seen is None:
            continue
        signature = verified.signature
        identity, issuer = ("", "") if signature is None else (signature.identity, signature.issuer)
        if (seen.identity, seen.issuer) != (identity, issuer):
            now = SeenSigner(verified.status, identity, issuer, "")
            # No time of the clock: the verdict holds this sentence, and `before` says when.
            message = f"Source {name!r} was vouched for by {seen} in its last admitted version, now by {now}."
            changes.append(SignerChange(name, seen, identity, issuer, message))
    return tuple(changes)


def _seen(body: Mapping[str, Any], recorded_at: str) -> SeenSigner:
    status, identity, issuer = (str(body.get(key, "")) for key in ("status", "identity", "issuer"))
    return SeenSigner(status, identity, issuer, recorded_at)
