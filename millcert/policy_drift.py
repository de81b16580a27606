"""What a policy says about how the data is distributed: its profile, and what differing from a reference means."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from millcert.policy_section import Count, Fault, Fraction, PolicyPath, Positive, Section, Text, at_least

#: As a reference: the profile of the newest admitted version that the ledger knows and nobody revoked.
LAST_ADMITTED = "last_admitted"
#: Admitted versions that data may be followed over: each is a comparison of everything.
MAX_VERSIONS = 60
_DIGEST = re.compile("[0-9a-f]{64}")


def is_in_ledger(reference: object) -> bool:
    """Return whether the ledger, and no file of the policy, has the reference of this name."""
    return isinstance(reference, str) and (reference == LAST_ADMITTED or _DIGEST.fullmatch(reference) is not None)


class ProfileRule(Section):
    """The profile that the gate makes of the data, in the read that feeds the expectations.

    hash_key: file with 64 lower-case hex digits. texts: whether values of columns that have few stand in the profile.
    tokens: columns whose words or items are counted against the label.
    """

    hash_key: PolicyPath
    texts: Literal["keep", "leave_out"] = "keep"
    max_cells: Count | None = None
    tokens: Annotated[tuple[Text, ...], at_least(1)] | None = None


class DriftLimitsRule(Section):
    """Limits that differ from `millcert.checks.drift.DriftLimits`; None leaves its own."""

    wasserstein: Positive | None = None
    kolmogorov_smirnov: Positive | None = None
    cramers_v: Positive | None = None
    total_variation: Positive | None = None
    mean_embedding: Positive | None = None
    token_label: Positive | None = None
    pushed_share: Positive | None = None
    tolerated_part: Fraction | None = None
    family_alpha: Fraction | None = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """A share of 1 would tolerate everything; a family level of 0 would find nothing."""
        for name in ("tolerated_part", "family_alpha"):
            try:
                value = float(raw[name])
            except (KeyError, TypeError, ValueError):
                continue
            if value == 1 or (value == 0 and name == "family_alpha"):
                yield (name,), f"expected less than 1{' and more than 0' if name == 'family_alpha' else ''}"


class DriftRule(Section):
    """What the profile is compared with, and what a difference means.

    reference: "last_admitted", the digest of an admitted version's profile, or a profile file beside the policy.
    on_drift: of a comparison over its limit and beyond chance, and of columns that came, went or changed type.
    on_source_change: of a source that is new or silent; None: as `on_drift`.
    on_no_reference: where no version was admitted yet.
    versions: how many admitted versions the data is followed over. on_gradual: of a change over them, little by little.
    """

    reference: PolicyPath
    on_drift: Literal["reject", "warn"] = "reject"
    on_source_change: Literal["reject", "warn"] | None = None
    on_no_reference: Literal["inconclusive", "report"] = "inconclusive"
    versions: Count | None = None
    on_gradual: Literal["reject", "warn"] = "warn"
    limits: DriftLimitsRule = DriftLimitsRule()
    ignore: Annotated[tuple[Text, ...], at_least(1)] | None = None

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """One version before has no course; what a change over versions does means nothing without them."""
        if "on_gradual" in raw and "versions" not in raw:
            yield ("on_gradual",), "it needs `versions`: over how many admitted versions the data is followed"
        try:
            versions = int(raw["versions"])
        except (KeyError, TypeError, ValueError):
            return
        if not 2 <= versions <= MAX_VERSIONS:
            yield ("versions",), f"expected 2 to {MAX_VERSIONS}"

    @property
    def is_last_admitted(self) -> bool:
        """Whether the ledger says which version is the reference."""
        return self.reference == LAST_ADMITTED

    @property
    def admitted_profile(self) -> str:
        """The digest of the admitted version's profile that is the reference, "" where it is not named so."""
        return self.reference if is_in_ledger(self.reference) and not self.is_last_admitted else ""


class FieldsRule(Section):
    """Which columns of the data may be used, each with what it is for. unlisted: what becomes of any other column."""

    unlisted: Literal["refuse", "drop"] = "refuse"
    columns: Mapping[Text, Text]

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterable[Fault]:
        """A list without a column would refuse or drop everything."""
        if isinstance(raw.get("columns"), Mapping) and not raw["columns"]:
            yield ("columns",), "expected at least one column with its purpose"
