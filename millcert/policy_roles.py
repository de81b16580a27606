"""The policy's `roles`: who may say what in the ledger. The rules are those of provenance/roles.py, each at its key."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from millcert.policy_section import Count, Fault, PublicKey, Section, Text, at_least

if TYPE_CHECKING:
    from millcert.provenance.roles import RoleBook


Role: TypeAlias = Literal["submitter", "reviewer", "approver", "auditor"]
Roles: TypeAlias = Annotated[tuple[Role, ...], at_least(1)]


class Person(Section):
    """One who may speak in the ledger.

    keys: public keys, SubjectPublicKeyInfo in one line of base64. identities: other names under which the same person
    signs data.
    """

    name: Annotated[Text, Field(max_length=200)]
    keys: Annotated[tuple[PublicKey, ...], at_least(1)]
    roles: Roles
    identities: tuple[Text, ...] = ()


class Responsibilities(Section):
    """People with their roles, and the roles that a kind of act asks for where that is not the default."""

    people: Annotated[tuple[Person, ...], at_least(1)]
    kinds: Mapping[Text, Roles] = {}
    max_override_days: Annotated[Count, Field(le=3650)] = 90

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """Nobody is two, somebody is an approver, and an approver's acts are nobody else's."""
        from millcert.provenance.roles import role_faults

        return role_faults(raw)

    def to_book(self) -> "RoleBook":
        """Return the book that the ledger knows these roles by."""
        from millcert.provenance.public_key import parse_base64_key
        from millcert.provenance.roles import Person as BookPerson
        from millcert.provenance.roles import RoleBook

        people = tuple(
            BookPerson(one.name, tuple(map(parse_base64_key, one.keys)), one.roles, one.identities)
            for one in self.people
        )
        return RoleBook(people, dict(self.kinds), self.max_override_days)
