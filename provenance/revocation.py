"""Revocations: what is trusted no more, said by somebody who may, until an approver lifts it.

Rules this module keeps:
  1. What a revocation touches is decided from a certificate, or from what a run found, and from nothing else: no
     network, no database, the same answer everywhere.
  2. Where it cannot be told whether a revocation touches something, it does.
  3. A revocation ends only by a later `reinstatement` that names it; nobody lifts the revocation of a signer that is
     himself, under any of his names.
  4. A sample is named by a salted commitment; its digest stays in the state folder, where it can be erased.

Format: docs/formats/acts.md.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from millcert.errors import IntegrityError, RevokedError, UsageError
from millcert.provenance.act import Act, require_reason
from millcert.provenance.certificate import Certificate
from millcert.provenance.ledger_entry import MAX_SUBJECT_CHARACTERS
from millcert.provenance.roles import Person
from millcert.provenance.standing import JudgedAct, Standing, said_of
from millcert.provenance.strict_json import require_fields
from millcert.provenance.timestamp import instant, is_timestamp

REVOCATION = "revocation"
REINSTATEMENT = "reinstatement"

TargetType = Literal["source", "signer", "file", "sample", "dataset"]

#: Input roots that one revocation names; more need several revocations. 700 of 67 characters stay in an entry.
MAX_INPUTS = 700

_HEX = re.compile(r"[0-9a-f]{64}")
_SAID = {"inputs": list, "issuer": str, "reason": str, "since": str, "target": str, "value": str}


@dataclass(frozen=True)
class Revocation:
    """What is trusted no more.

    target, value: a source's name; a signer's identity (with `issuer`, "" for any); a file's SHA-256; a sample's
    commitment; a data set's manifest root (of its certificate). since: only runs verified at or after it, "" for all.
    inputs: manifest roots of inputs that were found, when it was said, to have the file or sample.
    leaf, index, recorded_at, by: where and by whom it was said.
    """

    target: TargetType
    value: str
    reason: str
    issuer: str = ""
    since: str = ""
    inputs: tuple[str, ...] = ()
    leaf: str = ""
    index: int = -1
    recorded_at: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        if self.target not in get_args(TargetType) or not 1 <= len(self.value) <= MAX_SUBJECT_CHARACTERS - 10:
            raise UsageError(f"Nothing can be revoked by {self.target} {self.value[:80]!r}.")
        if not self.value.isprintable() or not self.issuer.isprintable():
            raise UsageError("The name of what is revoked has characters that do not print.")
        if self.target in {"file", "sample", "dataset"} and not _HEX.fullmatch(self.value):
            raise UsageError(f"A {self.target} is revoked by 64 lower-case hex digits, got {self.value[:80]!r}.")
        if self.since and not is_timestamp(self.since):
            raise UsageError(f"Expected a time such as 2026-11-23T02:38:55Z, got {self.since[:80]!r}.")
        if len(self.inputs) > MAX_INPUTS or not all(_HEX.fullmatch(one) for one in self.inputs):
            raise UsageError(f"A revocation names at most {MAX_INPUTS} input roots in hex.")
        require_reason(self.reason)

    @property
    def subject(self) -> str:
        """What auditors look it up by."""
        return f"{self.target}:{self.value}"

    def said(self) -> dict[str, Any]:
        """Return the words of the act."""
        return {
            "inputs": list(self.inputs),
            "issuer": self.issuer,
            "reason": self.reason,
            "since": self.since,
            "target": self.target,
            "value": self.value,
        }


@dataclass(frozen=True)
class Facts:
    """What revocations are compared with. sources: (name, identity, issuer) of each; None where nobody can tell.

    roots: manifest roots of the admitted output and of the input, hex. files: SHA-256 of each, hex. samples: those
    commitments that a run's samples were found to meet. verified_at: RFC 3339 in UTC.
    """

    sources: tuple[tuple[str, str, str], ...] | None
    output_root: str
    input_root: str
    files: frozenset[str]
    verified_at: str
    samples: frozenset[str] = frozenset()


def facts_of(certificate: Certificate) -> Facts:
    """Return what a verified certificate says of itself."""
    sources = certificate.checks.verdict.get("sources")
    known: tuple[tuple[str, str, str], ...] | None = None
    if isinstance(sources, list) and all(isinstance(one, Mapping) for one in sources):
        fields = ("name", "identity", "issuer")
        triples = [tuple(one.get(field) for field in fields) for one in sources]
        if all(isinstance(text, str) for triple in triples for text in triple):
            known = tuple((str(a), str(b), str(c)) for a, b, c in triples)
    return Facts(
        sources=known,
        output_root=certificate.manifest.root,
        input_root=certificate.checks.input_root,
        files=frozenset(entry.sha256 for entry in certificate.manifest.files),
        verified_at=certificate.summary.time_verified,
    )


def touches(revocation: Revocation, facts: Facts) -> bool:
    """Say whether a revocation takes something back (rules 1 and 2)."""
    if revocation.since and instant(facts.verified_at) < instant(revocation.since):
        return False
    if facts.input_root in revocation.inputs:
        return True
    value, sources = revocation.value, facts.sources or ()
    if facts.sources is None and revocation.target in {"source", "signer"}:
        return True
    signs = any(identity == value and revocation.issuer in {"", issuer} for _, identity, issuer in sources)
    return {
        "source": any(name == value for name, _, _ in sources),
        "signer": signs,
        "file": value in facts.files,
        "sample": value in facts.samples,
        "dataset": value == facts.output_root,
    }[revocation.target]


def refuse_revoked(revocations: Iterable[Revocation], facts: Facts, *, what: str) -> None:
    """Refuse what a revocation touches.

    Raises:
        RevokedError: `leaf`, `reason` and `target` are of the first that does; `count` says how many do.
    """
    found = [one for one in revocations if touches(one, facts)]
    if not found:
        return
    first = found[0]
    more = f", and {len(found) - 1} more revocations touch it" if len(found) > 1 else ""
    by = f" by {first.by}" if first.by else ""
    raise RevokedError(
        f"{what} is revoked: {first.target} {first.value} was revoked{by} at {first.recorded_at}: "
        f"{first.reason}{more}.",
        hint="Do not train on it. Take the data out and vet again (millcert reject-list export says which), or ask an "
        "approver to lift the revocation.",
        reason=first.reason,
        target=first.subject,
        leaf=first.leaf,
        index=first.index,
        count=len(found),
    )


def revocation_act(revocation: Revocation, *, ledger: str, roles_sha256: str, recorded_at: str) -> Act:
    """Return the act, to be signed, that says a revocation."""
    return Act(REVOCATION, revocation.subject, recorded_at, ledger, roles_sha256, revocation.said())


def reinstatement_act(revocation: Revocation, *, reason: str, ledger: str, roles_sha256: str, recorded_at: str) -> Act:
    """Return the act, to be signed, that lifts a revocation.

    Raises:
        UsageError: no reason is given.
    """
    said = {"reason": require_reason(reason), "revocation": revocation.leaf}
    return Act(REINSTATEMENT, revocation.subject, recorded_at, ledger, roles_sha256, said)


def all_revocations(standing: Standing) -> list[tuple[Revocation, JudgedAct | None]]:
    """Return every revocation that counts, oldest first, each with the act that lifted it.

    Raises:
        IntegrityError: somebody who may revoke said something that no reader understands: nobody can tell what it
            touches (rule 2).
    """
    lifts: dict[str, list[JudgedAct]] = {}
    for one in standing.counting(REINSTATEMENT):
        lifts.setdefault(said_of(one, {"reason": str, "revocation": str})["revocation"], []).append(one)
    found = []
    for one in standing.counting(REVOCATION):
        revocation = _revocation_from(one)
        # What is lifted must have been said before: a leaf hash cannot be known earlier, but say so all the same.
        later = (end for end in lifts.get(one.leaf, ()) if end.logged.index > one.logged.index)
        found.append((revocation, next((end for end in later if not is_own(revocation, end.person)), None)))
    return found


def is_own(revocation: Revocation, person: Person | None) -> bool:
    """Say whether a revocation is of what this person signs, so that somebody else has to lift it (rule 3)."""
    return person is None or (revocation.target == "signer" and revocation.value in person.aliases)


def active_revocations(standing: Standing) -> tuple[Revocation, ...]:
    """Return the revocations that are in force, oldest first; errors as `all_revocations`."""
    return tuple(revocation for revocation, end in all_revocations(standing) if end is None)


def revocation_from(value: Mapping[str, Any]) -> Revocation:
    """Return the revocation in an item of a revocation list: its words and where they were said.

    Raises:
        IntegrityError: the item is malformed.
    """
    fields = {**_SAID, "by": str, "index": int, "leaf": str, "recorded_at": str}
    require_fields(value, fields, what="revocation")
    return _checked({**value, "inputs": _texts(value["inputs"])})


def sample_commitment(salt: bytes, digest: bytes) -> str:
    """Return what a revoked sample is called in the ledger, hex: linkable only by who has the 32-byte salt."""
    return hashlib.sha256(b"\x08" + salt + digest).hexdigest()


def _revocation_from(judged: JudgedAct) -> Revocation:
    said = said_of(judged, _SAID)
    entry = judged.logged.entry
    by = "" if judged.person is None else judged.person.name
    about = {"by": by, "index": judged.logged.index, "leaf": judged.leaf, "recorded_at": entry.recorded_at}
    revocation = _checked({**said, "inputs": _texts(said["inputs"]), **about})
    if revocation.subject != entry.subject:
        raise IntegrityError(
            f"The revocation at ledger entry {judged.logged.index} has another subject than its words."
        )
    return revocation


def _checked(values: Mapping[str, Any]) -> Revocation:
    try:
        return Revocation(**values)
    except UsageError as error:
        raise IntegrityError(f"A revocation is malformed: {error.message}") from error


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if not all(isinstance(one, str) for one in values):
        raise IntegrityError("A revocation's inputs must be texts.")
    return tuple(str(one) for one in values)
