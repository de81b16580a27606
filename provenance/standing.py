"""Which acts in a ledger count: each judged by the roles that were in force when it was logged.

Rules this module keeps:
  1. Roles come from the ledger: the newest `access_policy` entry that counts before an act is what judges it, so an old
     act keeps its standing when people come and go. Before the first one nothing counts.
  2. The first `access_policy` entry that an approver of its own book signed begins the chain; each later one names the
     book before it and is signed by somebody who is approver in both.
  3. An act that does not count is listed with its reason, and has no effect whatever.
  4. Every leaf of the ledger is read: an act that was cut out is found missing (`Ledger.scan`).
A gate compares the newest book with its own policy (`require_book`); who has no policy is told which book it was.

Format: docs/formats/acts.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from millcert.errors import IntegrityError, PolicyError, SignatureError, UsageError
from millcert.provenance.act import ACT_KINDS, Act, is_act, parse_act, verify_act
from millcert.provenance.ledger_entry import Entry, LoggedEntry
from millcert.provenance.ledger_log import Ledger
from millcert.provenance.roles import Person, RoleBook, parse_book
from millcert.provenance.strict_json import require_fields
from millcert.provenance.timestamp import instant

ACCESS_POLICY = "access_policy"

#: In a canonical leaf the kind stands before the time; the same bytes inside a body only cost a second look.
_NEEDLES = tuple(f'"kind":"{kind}","recorded_at":'.encode() for kind in sorted(ACT_KINDS))


@dataclass(frozen=True)
class JudgedAct:
    """An act with its standing.

    act: None where the entry is none that can be read. person: who signed it, if a book in force knows the key.
    book_sha256: the roles that it was checked against, "" before there were any. fault: why it does not count, one
    word: malformed, unsigned, other_ledger, no_roles, other_roles, unknown_key, signature, role; "" if it counts.
    """

    logged: LoggedEntry
    act: Act | None
    person: Person | None
    key_sha256: str
    book_sha256: str
    fault: str
    message: str

    @property
    def counts(self) -> bool:
        """Whether the act has an effect."""
        return not self.fault

    @property
    def leaf(self) -> str:
        """The leaf hash in hex: the name under which other acts speak of it."""
        return self.logged.leaf_hash.hex()


@dataclass(frozen=True)
class Standing:
    """All acts of a ledger, judged. books: (index, book) of every roles that were in force, oldest first."""

    origin: str
    size: int
    books: tuple[tuple[int, RoleBook], ...]
    judged: tuple[JudgedAct, ...]

    @property
    def book(self) -> RoleBook | None:
        """The roles that are in force now."""
        return self.books[-1][1] if self.books else None

    def counting(self, kind: str) -> Iterator[JudgedAct]:
        """Yield the acts of a kind that count, oldest first."""
        return (one for one in self.judged if one.counts and one.logged.entry.kind == kind)

    @property
    def refused(self) -> tuple[JudgedAct, ...]:
        """The acts that have no effect."""
        return tuple(one for one in self.judged if not one.counts)


def read_standing(ledger: Ledger) -> Standing:
    """Return the standing of every act in a ledger.

    Raises:
        LedgerError, SignatureError: the ledger is not what its newest checkpoint says.

    Cost: `Ledger.scan`, and 0.1 ms an act.
    """
    return judge_acts(ledger.scan(is_wanted), ledger.origin, ledger.size)


def is_wanted(leaf: bytes) -> bool:
    """Say whether a leaf may be an act; never no for one that is."""
    return any(needle in leaf for needle in _NEEDLES)


def judge_acts(entries: Sequence[LoggedEntry], origin: str, size: int) -> Standing:
    """Return the standing of acts that are all those of a ledger, in its order."""
    books: list[tuple[int, RoleBook]] = []
    judged = []
    for logged in entries:
        if logged.entry.kind not in ACT_KINDS:
            continue
        book = books[-1][1] if books else None
        if logged.entry.kind == ACCESS_POLICY and is_act(logged.entry):
            one, changed = _judge_book(logged, origin, book)
            if changed is not None:
                books.append((logged.index, changed))
        elif is_act(logged.entry):
            one = _judge(logged, origin, book)
        elif logged.entry.kind == "erasure" and book is None:
            continue  # a tombstone of the time before there were roles
        else:
            one = _judged(logged, book, "unsigned", "the entry is no signed act")
        judged.append(one)
    return Standing(origin, size, tuple(books), tuple(judged))


def standing_at(standing: Standing, moment: datetime) -> Standing:
    """Return the standing of the acts that were said at or before a point in time, by their entries' times.

    The size stays the ledger's: what was logged later is left out, not missed.
    """
    judged = tuple(one for one in standing.judged if instant(one.logged.entry.recorded_at) <= moment)
    said = {one.logged.index for one in judged}
    return Standing(standing.origin, standing.size, tuple(one for one in standing.books if one[0] in said), judged)


def require_book(standing: Standing, book: RoleBook | None) -> None:
    """Refuse to work with acts that were judged by other roles than the policy's own.

    Raises:
        PolicyError: the policy has roles, and the newest that count in the ledger are others, or there are none.
    """
    if book is None or (standing.book is not None and standing.book.sha256 == book.sha256):
        return
    found = "none" if standing.book is None else f"others ({standing.book.sha256[:16]})"
    raise PolicyError(
        f"The policy has roles {book.sha256[:16]}; the ledger {standing.origin} has {found} in force.",
        hint="An approver of both says so once: millcert ledger roles record --policy FILE --key KEY",
        expected=book.sha256,
        actual="" if standing.book is None else standing.book.sha256,
    )


def book_act(book: RoleBook, previous: RoleBook | None, *, ledger: str, recorded_at: str) -> Act:
    """Return the act, to be signed, that puts roles into force in a ledger.

    Raises:
        UsageError: these roles are in force already.
    """
    if previous is not None and previous.sha256 == book.sha256:
        raise UsageError("These roles are in force already.", hint="Nothing has to be done.")
    said = {"book": book.to_document(), "previous": "" if previous is None else previous.sha256}
    return Act(ACCESS_POLICY, f"roles:{book.sha256}", recorded_at, ledger, book.sha256, said)


def _judge(logged: LoggedEntry, origin: str, book: RoleBook | None) -> JudgedAct:
    fault, message = _fault_of_form(logged.entry, origin, book)
    if not fault and book is not None:
        fault, message = _fault_of_signer(logged.entry, origin, book)
    return _judged(logged, book, fault, message)


def _fault_of_form(entry: Entry, origin: str, book: RoleBook | None) -> tuple[str, str]:
    try:
        act, _, _ = parse_act(entry)
    except IntegrityError as error:
        return "malformed", error.message
    if act.ledger != origin:
        return "other_ledger", f"the act is for the ledger {act.ledger!r}"
    if book is None:
        return "no_roles", "no roles were in force"
    if act.roles_sha256 != book.sha256:
        return "other_roles", f"said under roles {act.roles_sha256[:16]}, not those in force"
    return "", ""


def _fault_of_signer(entry: Entry, origin: str, book: RoleBook) -> tuple[str, str]:
    _, key_sha256, _ = parse_act(entry)
    person, key = book.person_of(key_sha256), book.key_of(key_sha256)
    if person is None or key is None:
        return "unknown_key", f"the key {key_sha256[:16]} is nobody's"
    try:
        act = verify_act(entry, key, ledger=origin)
    except SignatureError as error:
        return "signature", error.message
    if not book.may(person, act.kind):
        roles = ", ".join(sorted(person.roles)) or "without a role"
        return "role", f"{person.name} is {roles}; a {act.kind} needs {' or '.join(book.roles_for(act.kind))}"
    return "", ""


def _judge_book(logged: LoggedEntry, origin: str, book: RoleBook | None) -> tuple[JudgedAct, RoleBook | None]:
    """Return the standing of a change of roles, and the new roles if it counts (rule 2)."""
    try:
        said = dict(parse_act(logged.entry)[0].said)
        require_fields(said, {"book": dict, "previous": str}, what="access_policy act")
        changed = parse_book(said["book"])
    except (IntegrityError, PolicyError) as error:
        return _judged(logged, book, "malformed", error.message), None
    if said["previous"] != ("" if book is None else book.sha256):
        return _judged(logged, book, "other_roles", "the act does not follow the roles in force"), None
    judged = _judge(logged, origin, changed)
    if judged.counts and book is not None:
        before = book.person_of(judged.key_sha256)
        if before is None or not book.may(before, ACCESS_POLICY):
            message = "who signs a change of roles must be approver before and after it"
            return _judged(logged, book, "role", message), None
    return judged, changed if judged.counts else None


def _judged(logged: LoggedEntry, book: RoleBook | None, fault: str, message: str) -> JudgedAct:
    act, key_sha256 = _readable(logged.entry)
    person = None if book is None else book.person_of(key_sha256)
    return JudgedAct(logged, act, person, key_sha256, "" if book is None else book.sha256, fault, message)


def _readable(entry: Entry) -> tuple[Act | None, str]:
    try:
        act, key_sha256, _ = parse_act(entry)
    except IntegrityError:
        return None, ""
    return act, key_sha256


def said_of(judged: JudgedAct, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return the words of an act that counts, which must have exactly these fields.

    Raises:
        IntegrityError: somebody who may say this said something that no reader understands.
    """
    what = f"{judged.logged.entry.kind} act (ledger entry {judged.logged.index})"
    said = dict(judged.act.said) if judged.act is not None else {}
    require_fields(said, fields, what=what)
    return said
