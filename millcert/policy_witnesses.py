"""Which witnesses of the ledger a policy asks for, and how many must cosign."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from millcert.errors import UsageError
from millcert.policy_section import PRINTABLE, Count, Fault, Section, Text, at_least, whole_number

if TYPE_CHECKING:
    from millcert.provenance.witness_client import WitnessSite
    from millcert.provenance.witnessing import Witnessing


class Witness(Section):
    """A witness of the ledger. url: its submission prefix. vkeys: its pinned public keys, one or both algorithms."""

    url: Text
    vkeys: Annotated[tuple[Text, ...], at_least(1)]

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """The keys are witness's keys, of one name, and the URL is one that can be asked."""
        from millcert.provenance.cosignature import parse_witness_vkey
        from millcert.provenance.witness_client import WitnessSite

        keys, vkeys, url = [], raw.get("vkeys"), raw.get("url")
        for position, text in enumerate(vkeys if isinstance(vkeys, (list, tuple)) else ()):
            try:
                keys.append(parse_witness_vkey(str(text)))
            except UsageError as error:
                yield ("vkeys", position), error.message
        if keys and isinstance(url, str):
            try:
                WitnessSite(tuple(keys), str(url))
            except UsageError as error:
                yield ("url" if "http" in error.message else "vkeys",), error.message

    def site(self) -> "WitnessSite":
        """Return whom to ask."""
        from millcert.provenance.cosignature import parse_witness_vkey
        from millcert.provenance.witness_client import WitnessSite

        return WitnessSite(tuple(parse_witness_vkey(text) for text in self.vkeys), self.url)


class Ledger(Section):
    """Which ledger the verdict goes to, and which witnesses must have seen it.

    Origin: C2SP tlog-checkpoint, signed-note (no plus, no white space).
    """

    origin: Annotated[str, Field(pattern=r"^[^+\s]+$", max_length=256), PRINTABLE]
    witnesses: Annotated[tuple[Witness, ...], at_least(1)] | None = None
    witnesses_required: Count | None = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """Witnesses and their number come together, and the number can be reached by distinct ones."""
        witnesses, required = raw.get("witnesses"), raw.get("witnesses_required")
        if (witnesses is None) != (required is None):
            missing, there = (
                ("witnesses", "witnesses_required") if witnesses is None else ("witnesses_required", "witnesses")
            )
            yield (missing,), f"the key is required because {there} is there"
        if isinstance(witnesses, (list, tuple)):
            yield from _count_faults(witnesses, required)

    def witnessing(self) -> "Witnessing | None":
        """Return whom to ask for cosignatures and how many must give one; None where the policy asks for none."""
        from millcert.provenance.witnessing import Witnessing

        if self.witnesses is None or self.witnesses_required is None:
            return None
        return Witnessing(tuple(witness.site() for witness in self.witnesses), self.witnesses_required)


def _count_faults(witnesses: Iterable[object], required: object) -> Iterator[Fault]:
    from millcert.provenance.cosignature import WitnessRule, parse_witness_vkey

    try:
        count = whole_number(required)
        keys = [
            parse_witness_vkey(str(text))
            for witness in witnesses
            for text in (witness.vkeys if isinstance(witness, Witness) else witness["vkeys"])  # type: ignore[index]
        ]
    except (UsageError, ValueError, TypeError, KeyError):
        return  # each is a fault of its own, told at its place
    if isinstance(count, int) and count > 0:
        try:
            WitnessRule(tuple(keys), count)
        except UsageError as error:
            yield ("witnesses_required",), error.message
