"""Who may say what in the ledger: people with their keys and roles, and the roles that each kind of act asks for.

Rules this module keeps:
  1. Nobody has a role, and no kind a role, that was not written down; a book without an approver is refused.
  2. A key belongs to one person, and a name to one person: two names for one key are refused, so that nobody is two.
  3. Approving, lifting a revocation and changing this very book are an approver's acts; a book cannot widen that.

A book's digest is what acts are signed under. Format: docs/formats/acts.md.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from millcert.errors import IntegrityError, PolicyError, UsageError
from millcert.provenance.public_key import PublicKey, parse_base64_key
from millcert.provenance.strict_json import canonical_json, require_fields

ROLES = ("submitter", "reviewer", "approver", "auditor")

#: Kind of act -> roles of which one is needed, where a book says nothing else. Our choice: what stops data may be said
#: by more people than what lets data through.
DEFAULT_KINDS: Mapping[str, tuple[str, ...]] = {
    "access_policy": ("approver",),
    "approval": ("approver",),
    "declared_use": ("submitter",),
    "erasure": ("approver",),
    "override": ("reviewer", "submitter"),
    "reinstatement": ("approver",),
    "revocation": ("approver", "reviewer"),
    "withdrawal": ("approver", "reviewer", "submitter"),
}

#: Kinds that let data through or change who may: an approver's alone (rule 3).
APPROVER_ONLY = frozenset({"access_policy", "approval", "reinstatement"})

#: The longest that an override may count, where a book says nothing else. Our choice: a quarter of a year.
DEFAULT_OVERRIDE_DAYS = 90

_DOMAIN = "millcert roles v1"


@dataclass(frozen=True)
class Person:
    """One who may speak in the ledger.

    name: unique in the book. keys: public keys whose signatures are this person's, at least one. roles: of `ROLES`.
    identities: other names under which the same person signs data (`key:sha256:...`, an address); who signed a source
    does not approve an override about it.
    """

    name: str
    keys: tuple[PublicKey, ...]
    roles: tuple[str, ...]
    identities: tuple[str, ...] = ()

    @property
    def aliases(self) -> frozenset[str]:
        """Every name under which the person may have signed data."""
        return frozenset({self.name, *self.identities, *(f"key:sha256:{key.sha256}" for key in self.keys)})


@dataclass(frozen=True)
class RoleBook:
    """People and kinds; see the rules at the top.

    Raises:
        PolicyError: a name or key stands twice, a role or kind is unknown, nobody is an approver, or rule 3 is broken.
    """

    people: tuple[Person, ...]
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_override_days: int = DEFAULT_OVERRIDE_DAYS

    def __post_init__(self) -> None:
        faults = [fault for _, fault in role_faults(self.to_document())]
        if faults:
            raise PolicyError(f"The roles are refused: {'; '.join(faults)}.", hint="See docs/formats/acts.md.")

    def to_document(self) -> dict[str, Any]:
        """Return the book as JSON values, in one form: people by name, keys and roles sorted."""
        return {
            "kinds": {kind: sorted(set(roles)) for kind, roles in self.kinds.items()},
            "max_override_days": self.max_override_days,
            "people": [
                {
                    "identities": sorted(set(person.identities)),
                    "keys": sorted(_base64(key) for key in person.keys),
                    "name": person.name,
                    "roles": sorted(set(person.roles)),
                }
                for person in sorted(self.people, key=lambda one: one.name)
            ],
        }

    @cached_property
    def sha256(self) -> str:
        """Digest of the book, hex."""
        document = {"book": self.to_document(), "domain": _DOMAIN}
        return hashlib.sha256(canonical_json(document, what="roles")).hexdigest()

    def person_of(self, key_sha256: str) -> Person | None:
        """Return whose key that is."""
        return next((one for one in self.people if any(key.sha256 == key_sha256 for key in one.keys)), None)

    def key_of(self, key_sha256: str) -> PublicKey | None:
        """Return the key of that name."""
        return next((key for one in self.people for key in one.keys if key.sha256 == key_sha256), None)

    def roles_for(self, kind: str) -> tuple[str, ...]:
        """Return the roles of which one is needed for a kind of act; none for a kind that is no act."""
        return tuple(self.kinds.get(kind, DEFAULT_KINDS.get(kind, ())))

    def may(self, person: Person, kind: str) -> bool:
        """Say whether a person may append a kind of act."""
        return bool(set(person.roles) & set(self.roles_for(kind)))


def parse_book(document: Mapping[str, Any]) -> RoleBook:
    """Return the book that JSON values say, in the one form that `RoleBook.to_document` gives.

    Raises:
        IntegrityError: fields are missing, unknown, malformed or in another form.
        PolicyError: the book breaks a rule.
    """
    what = "roles"
    require_fields(document, {"kinds": dict, "max_override_days": int, "people": list}, what=what)
    people = []
    for one in document["people"]:
        fields = {"identities": list, "keys": list, "name": str, "roles": list}
        if not isinstance(one, dict):
            raise IntegrityError("A person of the roles is no object.")
        require_fields(one, fields, what="person of the roles")
        texts = [*one["identities"], *one["keys"], *one["roles"]]
        if not all(isinstance(text, str) for text in texts):
            raise IntegrityError("A person's keys, roles and identities must be texts.")
        keys = tuple(parse_base64_key(text) for text in one["keys"])
        people.append(Person(one["name"], keys, tuple(one["roles"]), tuple(one["identities"])))
    kinds = document["kinds"]
    if not all(isinstance(roles, list) and all(isinstance(role, str) for role in roles) for roles in kinds.values()):
        raise IntegrityError("The roles of a kind must be a list of texts.")
    book = RoleBook(tuple(people), {kind: tuple(roles) for kind, roles in kinds.items()}, document["max_override_days"])
    if book.to_document() != document:
        raise IntegrityError("The roles are not in the one form that a book has.")
    return book


def role_faults(document: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return what is wrong with a book, each fault with its place in the document; empty if nothing is.

    Works on anything that has the document's shape, so that a policy file's faults stand at their keys.
    """
    faults: list[tuple[tuple[str | int, ...], str]] = []
    names: dict[object, int] = {}
    keys: dict[object, int] = {}
    people = [one for one in _sequence(document.get("people")) if isinstance(one, Mapping)]
    for at, one in enumerate(people):
        name = one.get("name")
        if isinstance(name, str) and names.setdefault(name, at) != at:
            faults.append((("people", at, "name"), f"{str(name)!r} is people[{names[name]}] already"))
        for number, key in enumerate(_sequence(one.get("keys"))):
            if isinstance(key, str) and keys.setdefault(_key_name(key), at) != at:
                first = keys[_key_name(key)]
                faults.append((("people", at, "keys", number), f"this key is that of people[{first}]: nobody is two"))
    everyone = {role for one in people for role in _sequence(one.get("roles"))}
    if people and "approver" not in everyone:
        faults.append((("people",), "nobody is an approver, so nothing could ever be approved or lifted"))
    faults += [(("people",), f"{str(role)!r} is no role") for role in sorted(map(str, everyone - set(ROLES)))]
    kinds = document.get("kinds")
    for kind, roles in kinds.items() if isinstance(kinds, Mapping) else ():
        if kind not in DEFAULT_KINDS:
            faults.append((("kinds", kind), f"no kind of act; known are {', '.join(sorted(DEFAULT_KINDS))}"))
        elif kind in APPROVER_ONLY and list(_sequence(roles)) != ["approver"]:
            faults.append((("kinds", kind), "an approver's act; no other role may have it"))
        elif not _sequence(roles) or not set(map(str, _sequence(roles))) <= set(ROLES):
            faults.append((("kinds", kind), f"expected some of {', '.join(ROLES)}"))
    return faults


def load_signer(book: RoleBook, key: PublicKey, kind: str) -> Person:
    """Return the person that a key belongs to, if that person may append that kind.

    Raises:
        UsageError: the key is nobody's, or its owner has no fitting role.
    """
    person = book.person_of(key.sha256)
    if person is None:
        raise UsageError(
            f"The key {key.sha256[:16]} belongs to nobody in the roles.",
            hint="Name its public half under roles.people in the policy, then: millcert ledger roles record",
            key=key.sha256,
        )
    if not book.may(person, kind):
        raise UsageError(
            f"{person.name} is {', '.join(sorted(person.roles)) or 'without a role'}; a {kind} entry needs "
            f"{' or '.join(book.roles_for(kind))}.",
            hint="Ask somebody who has that role.",
            person=person.name,
            kind=kind,
        )
    return person


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _key_name(text: str) -> str:
    """Return what two spellings of one key share; the text itself where it is no key."""
    try:
        return parse_base64_key(text).sha256
    except PolicyError:
        return text


def _base64(key: PublicKey) -> str:
    import base64

    return base64.b64encode(key.spki).decode()
