"""What a policy says: the models behind the YAML file, frozen and closed.

Rules this module keeps:
  1. No default admits data: what loosens the gate must be written down.
  2. Unknown keys and empty lists of rules are refused.
  3. Every fault of a section is reported, also those between its keys, however many others there are.
  4. A validated policy has one canonical JSON form, whatever the YAML looked like.

docs/policy.md explains each key and its consequence.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, cast

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from millcert.errors import UntrustedSourceError
from millcert.policy_drift import DriftRule, FieldsRule, ProfileRule
from millcert.policy_faults import KeyPath
from millcert.policy_roles import Responsibilities
from millcert.policy_section import (
    PRINTABLE,
    Count,
    Fault,
    Fraction,
    FreeForm,
    PolicyPath,
    Positive,
    Section,
    Text,
    at_least,
    whole_number,
)
from millcert.policy_sources import Signer, SourceRule
from millcert.policy_witnesses import Ledger

if TYPE_CHECKING:
    from millcert.checks.base import Role


__all__ = [
    "CheckRule",
    "Columns",
    "Dataset",
    "Expectations",
    "ImageShape",
    "Ledger",
    "Limits",
    "Policy",
    "Signer",
    "SourceRule",
    "Trust",
    "VerdictLimits",
]


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}
#: A column, or a list of columns that play a role together.
Names: TypeAlias = Annotated[
    tuple[Text, ...],
    at_least(1),
    BeforeValidator(_one_or_more),
    WithJsonSchema({"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1}]}),
]


class Columns(Section):
    """Which column of the data has which role (checks/columns.py says what each must hold)."""

    label: Text | None = None
    source: Text | None = None
    annotator: Text | None = None
    split: Text | None = None
    text: Names | None = None
    embedding_self: Text | None = None
    embedding_external: Text | None = None
    pred_probs: Text | None = None
    features: Names | None = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """One column has one role: the same embedding under two roles would claim two views of the data."""
        seen: dict[object, str] = {}
        for role, given in raw.items():
            for column in given if isinstance(given, (list, tuple)) else (given,):
                if not isinstance(column, str):
                    continue
                if column in seen:
                    yield (role,), f"the column {str(column)!r} already has the role {seen[column]}"
                seen.setdefault(column, role)


class ImageShape(Section):
    """How a numeric list column is drawn in the report.

    shape: height, width and, for colour, 3. max_value: the value drawn as white; 0 is black.
    """

    shape: Annotated[tuple[Count, ...], at_least(2), Field(max_length=3)]
    max_value: Positive

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """A picture has one or three channels and a size that a report can hold."""
        shape = raw.get("shape")
        if not isinstance(shape, (list, tuple)):
            return
        for position, side in enumerate(shape):
            try:
                length = whole_number(side)
            except ValueError:
                continue
            if position < 2 and isinstance(length, int) and length > 4096:
                yield ("shape", position), f"expected at most 4096 pixels, got {length}"
            if position == 2 and length not in {1, 3}:
                yield ("shape", position), f"expected 1 or 3 channels, got {length}"


class Dataset(Section):
    """What the data set is and how its columns are read. `max_malformed_fraction`: of all records."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$"), PRINTABLE]
    columns: Columns = Columns()
    classes: Annotated[tuple[Text, ...], at_least(2)] | None = None
    schema_file: Annotated[PolicyPath | None, Field(alias="schema")] = None
    images: Mapping[Text, ImageShape] = {}
    max_malformed_fraction: Fraction

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """A class stands once in the order of probabilities."""
        classes = raw.get("classes")
        if isinstance(classes, (list, tuple)):
            yield from _repeats(classes, ("classes",), "class")


class Trust(Section):
    """The Sigstore trusted root, pinned by digest."""

    trusted_root: PolicyPath
    trusted_root_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), PRINTABLE]


class Expectations(Section):
    """A Great Expectations suite and what its failure means."""

    suite: PolicyPath
    on_failure: Literal["reject", "quarantine_rows", "warn"] = "reject"


_CHECK_NAME = r"^[a-z][a-z0-9_]{0,63}$"


class CheckRule(Section):
    """One check, its limit, and what becomes of what it flags.

    called: its own name, `as` in the file, so that a check can stand several times; None means by the check's.
    over_limit: None means by the check's own severity.
    reference: what a check that keeps history is compared with besides; None means nothing.
    on_rise, tolerated_rise: what a rate that rose since the last admitted version means, and what it may grow by; of
        checks that keep rates alone. None means that nothing is compared, and 0.002.
    """

    check: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=128), PRINTABLE]
    called: Annotated[Annotated[str, Field(pattern=_CHECK_NAME), PRINTABLE] | None, Field(alias="as")] = None
    max_flagged_fraction: Fraction
    over_limit: Literal["reject", "warn"] | None = None
    on_flagged: Literal["quarantine", "report"] = "quarantine"
    reference: Literal["last_admitted"] | None = None
    on_rise: Literal["reject", "warn"] | None = None
    tolerated_rise: Fraction | None = None
    config: FreeForm = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the verdict, the findings and overrides know it by."""
        return self.called or self.check


class VerdictLimits(Section):
    """How much may be held back, and how much may come from nobody known, before the data set is rejected.

    on_backdoor, on_bad_source: None means reject; "quarantine" leaves it to the limits of the checks.
    """

    max_quarantined_fraction: Fraction
    max_unknown_provenance_fraction: Fraction
    on_backdoor: Literal["reject", "quarantine"] | None = None
    on_bad_source: Literal["reject", "quarantine"] | None = None


class Limits(Section):
    """Bounds on reading; None leaves the reader's own bound."""

    max_file_bytes: Count | None = None
    max_record_bytes: Count | None = None
    max_batch_bytes: Count | None = None
    max_decoded_bytes: Count | None = None
    max_decoded_ratio: Positive | None = None


class Policy(Section):
    """A whole policy. See `millcert.policy.load_policy`; the digest also binds the files that the policy names."""

    ROLES: ClassVar[tuple[str, ...]] = tuple(Columns.model_fields)

    # As `rules` has it: something has to be able to refuse the data.
    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["checks"]}, {"required": ["expectations"]}]})

    version: Annotated[Literal[1], BeforeValidator(whole_number)]
    dataset: Dataset
    trust: Trust | None = None
    sources: Annotated[tuple[SourceRule, ...], at_least(1)]
    expectations: Expectations | None = None
    profile: ProfileRule | None = None
    drift: DriftRule | None = None
    permitted: Annotated[FieldsRule | None, Field(alias="fields")] = None
    checks: Annotated[tuple[CheckRule, ...], at_least(1), Field(default=(), validate_default=False)]
    verdict: VerdictLimits
    ledger: Ledger
    limits: Limits = Limits()
    responsibilities: Annotated[Responsibilities | None, Field(alias="roles")] = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """Names are unique, checks too; something tests the data; a trusted root is there exactly where it is used."""
        sources = list(_sections(raw.get("sources")))
        for key in ("name", "path"):
            seen: dict[object, int] = {}
            for position, rule in sources:
                value = rule.get(key)
                if isinstance(value, str) and seen.setdefault(value, position) != position:
                    yield ("sources", position, key), f"{str(value)!r} is already the {key} of sources[{seen[value]}]"
        checks = list(_sections(raw.get("checks")))
        yield from _repeated_checks(checks)
        if raw.get("checks") is None and not _is_refusing(raw.get("expectations")):
            message = "the section is required where no suite (expectations) may refuse the data: nothing else tests it"
            yield ("checks",), message
        if raw.get("drift") is not None and raw.get("profile") is None:
            yield ("profile",), "the section is required because drift compares profiles"
        yield from _unlisted_roles(raw.get("dataset"), raw.get("fields"))
        is_signed = any(rule.get("signed_by") is not None for _, rule in sources)
        if any(_is_logged(rule) for _, rule in sources) and raw.get("trust") is None:
            yield ("trust",), "the section is required because a source is signed_by somebody"
        if sources and not is_signed and raw.get("trust") is not None:
            yield ("trust",), "no source is signed_by anybody, so nothing would be verified against this trusted root"

    def roles(self) -> "Mapping[Role, str | tuple[str, ...]]":
        """Return role -> the user's column, or its columns where there are several, for the roles that it maps."""
        columns = self.dataset.columns.model_dump(exclude_none=True)
        return {
            cast("Role", role): given[0] if isinstance(given, tuple) and len(given) == 1 else given
            for role, given in columns.items()
        }

    def rules_matching(self, path: str) -> tuple[SourceRule, ...]:
        """Return every source rule that speaks for a file; the gate goes on only where it is exactly one."""
        return tuple(rule for rule in self.sources if rule.matches(path))

    def source_of(self, path: str) -> SourceRule:
        """Return the one rule that speaks for a file.

        Raises:
            UntrustedSourceError: no rule matches, or more than one does.
        """
        found = self.rules_matching(path)
        if len(found) == 1:
            return found[0]
        names = [rule.name for rule in found]
        who = f"the rules {', '.join(names)} all match" if names else "no rule of the policy matches"
        raise UntrustedSourceError(
            f"Every file must match exactly one source rule; for {path!r} {who}.",
            hint="Change the `path` patterns under `sources`; `millcert policy explain POLICY FILE` shows the matches.",
            path=path,
            rules=names,
        )

    def to_document(self) -> dict[str, Any]:
        """Return the policy as JSON values under the file's own keys; keys that say nothing are left out."""
        document: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude={"checks"}, exclude_none=True)
        if self.checks:
            document["checks"] = []
        for rule in self.checks:
            item = rule.model_dump(mode="json", by_alias=True, exclude={"config"}, exclude_none=True)
            document["checks"].append({**item, "config": rule.model_dump(mode="json")["config"]})
        return document


def _is_refusing(expectations: object) -> bool:
    """Tell whether a policy's suite, if it fails, keeps data from training."""
    part = expectations.model_dump() if isinstance(expectations, Section) else expectations
    return isinstance(part, Mapping) and part.get("on_failure") != "warn"


def _is_logged(rule: Mapping[str, Any]) -> bool:
    """Tell whether some signature of a source must be in a log, which only a trusted root can tell."""
    held = [rule.get("signed_by")]
    attestations = rule.get("attestations")
    held += [one.get("signed_by") for one in attestations or () if isinstance(one, Mapping)]
    signers = [one for part in held for one in (part if isinstance(part, (list, tuple)) else [part])]
    return any(
        not (isinstance(one, Mapping) and ("authorities" in one or one.get("unlogged") is not None))
        for one in signers
        if one is not None
    )


def _unlisted_roles(dataset: object, fields: object) -> Iterator[Fault]:
    """Yield the roles whose column the policy's own list of fields does not have."""
    parts = [
        part.model_dump(by_alias=True) if isinstance(part, Section) else part if isinstance(part, Mapping) else {}
        for part in (dataset, fields)
    ]
    roles, listed = (part.get("columns") for part in parts)
    if not isinstance(roles, Mapping) or not isinstance(listed, Mapping):
        return
    for role, given in roles.items():
        for column in given if isinstance(given, (list, tuple)) else (given,):
            if isinstance(column, str) and column not in listed and not column.startswith("view:"):
                yield ("dataset", "columns", role), f"the column {str(column)!r} is not listed in fields.columns"


def _repeats(values: Iterable[object], place: KeyPath, noun: str) -> Iterator[Fault]:
    seen: set[object] = set()
    for position, value in enumerate(values):
        if isinstance(value, str):
            if value in seen:
                yield (*place, position), f"the {noun} {str(value)!r} stands here again"
            seen.add(value)


def _repeated_checks(checks: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Fault]:
    seen: dict[object, int] = {}
    for position, rule in checks:
        key = "check" if rule.get("as") is None else "as"
        name = rule.get(key)
        if isinstance(name, str) and seen.setdefault(name, position) != position:
            message = f"{name} is checks[{seen[name]}] already; give this one a name of its own: `as: NAME`"
            yield ("checks", position, key), message


def _sections(value: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            if isinstance(item, Section):
                yield position, item.model_dump(by_alias=True, exclude_none=True)
            elif isinstance(item, Mapping):
                yield position, item
