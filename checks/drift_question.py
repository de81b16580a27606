"""What an expectation of a suite asks about drift, and its answer from two profiles; without Great Expectations.

The family of an answer is that of the whole comparison (`millcert.checks.profile_compare`): its level is shared among
all columns and slices of the two profiles, however few of them a suite asks about, so that more expectations of one
pair of profiles never mean more false alarms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from millcert.checks.drift import DriftLimits, Measure
from millcert.checks.profile import Profile
from millcert.checks.profile_compare import Compared, ProfileDrift, compare_profiles
from millcert.errors import InconclusiveError, PolicyError

#: The metric that Great Expectations is told of; its parameters are the fields of `DriftQuestion`.
DRIFT_METRIC = "millcert.profile_drift"
PARAMETERS = ("about", "reference", "column", "source", "measure", "limit", "tolerated_part", "family_alpha")

#: What may be asked: about one column, the label given each source, a column's tokens, or which sources there are.
About: TypeAlias = Literal["column", "label", "tokens", "sources"]

#: The expectations that ask, by their name in a suite, each with what it expects; for listings without importing GX.
DRIFT_EXPECTATIONS = {
    "expect_column_drift_to_be_within": (
        "Expect a column to be distributed as in a reference profile, over all rows and in each source."
    ),
    "expect_label_given_source_to_be_within": (
        "Expect each source to give each label as often as in a reference profile."
    ),
    "expect_tokens_to_be_tied_to_labels_as_in_reference": (
        "Expect no token of a column to be tied to a label far more than in a reference profile."
    ),
    "expect_sources_to_be_those_of_reference": (
        "Expect no source that the reference profile lacks, and none of its sources to be silent."
    ),
}

#: Drifting comparisons that an answer lists; all of them are counted.
_LISTED = 20
_LIMITED = tuple(name for name in get_args(Measure) if name in DriftLimits.__annotations__)


@dataclass(frozen=True)
class DriftQuestion:
    """What is asked.

    about: see `About`. reference: the name of the profile to compare with. column: for "column" and "tokens".
    source: None for all rows and every source, "" for all rows only, else one source.
    measure: None for all that apply. limit: of that measure; None: see `DriftLimits`, as `tolerated_part` and
        `family_alpha`.
    """

    about: About
    reference: str
    column: str | None = None
    source: str | None = None
    measure: str | None = None
    limit: float | None = None
    tolerated_part: float | None = None
    family_alpha: float | None = None

    def __post_init__(self) -> None:
        if self.about not in get_args(About):
            raise PolicyError(f"Drift is asked about {', '.join(get_args(About))}, not {self.about!r}.")
        if self.measure is not None and self.measure not in _LIMITED:
            raise PolicyError(f"Unknown measure {self.measure!r}; known are {', '.join(_LIMITED)}.")
        if self.limit is not None and self.measure is None:
            raise PolicyError("A limit needs the measure that it is of.", hint=f"measure: one of {', '.join(_LIMITED)}")
        self.limits(DriftLimits())

    def limits(self, base: DriftLimits) -> DriftLimits:
        """Return the limits of the question: its own over those of `base`."""
        own = {"tolerated_part": self.tolerated_part, "family_alpha": self.family_alpha}
        if self.measure is not None:
            own[self.measure] = self.limit
        return replace(base, **{name: value for name, value in own.items() if value is not None})


def question_of(parameters: Mapping[str, Any]) -> DriftQuestion:
    """Return the question of a metric's parameters.

    Raises:
        PolicyError: it has no meaning.
    """
    return DriftQuestion(**{name: parameters.get(name) for name in PARAMETERS})  # type: ignore[arg-type] # checked there


class DriftSides(NamedTuple):
    """What questions are answered from.

    reference: None where no version was admitted yet and the policy lets the first one in uncompared.
    digest: of the reference; "" without one.
    current: the data's profile. limits, ignore: of the comparison, as `compare_profiles` takes them.
    """

    reference: Profile | None
    digest: str
    current: Profile
    limits: DriftLimits = DriftLimits()
    ignore: tuple[str, ...] = ()

    def compare(self, question: DriftQuestion) -> ProfileDrift | None:
        """Return the comparison that a question is about; the same for all that have its limits. None: no reference.

        Raises:
            UsageError: the profiles were made with different specs.
        """
        if self.reference is None:
            return None
        return compare_profiles(self.reference, self.current, question.limits(self.limits), ignore=self.ignore)

    def answer(self, question: DriftQuestion, found: ProfileDrift | None) -> dict[str, Any]:
        """Return what a Great Expectations result shows: plain JSON values, "success" among them.

        Args:
            question: what is asked.
            found: what `compare` returned for it.

        Raises:
            InconclusiveError: nothing of what is asked can be compared, such as below 100 rows.
        """
        if found is None:
            return {"success": True, "observed_value": None, "details": {"reference": "", "compared": 0}}
        return _answer(found, question, self.digest)


def _answer(found: ProfileDrift, question: DriftQuestion, digest: str) -> dict[str, Any]:
    column = question.column or ""
    mine = [one for one in found.compared if _is_asked(one, question)]
    details: dict[str, Any] = {"reference": digest, "alpha": found.alpha, "compared": len(mine)}
    if question.about == "sources":
        named = [one for one in mine if one.drift.is_drift]
        details |= {
            "new": sorted(one.subject.source for one in named if one.figures["is_new"]),
            "silent": sorted(one.subject.source for one in named if not one.figures["is_new"]),
        }
        return {"success": not named, "observed_value": len(named), "details": details}
    if question.about in ("column", "tokens") and (changed := _change_of(found, column)):
        return {"success": False, "observed_value": None, "details": details | {"changed": changed}}
    if not mine:
        raise InconclusiveError(
            f"Nothing about {column or 'the label'} can be compared with the reference: "
            "fewer than 100 rows on a side, another kind of column, or no such source or measure.",
            hint="Give more rows, or ask about what both profiles have.",
        )
    drifting = [one for one in mine if one.drift.is_drift]
    strongest = mine[0]
    details |= {**_shown(strongest), "drifting": len(drifting), "listed": [_shown(one) for one in drifting[:_LISTED]]}
    return {"success": not drifting, "observed_value": strongest.drift.value, "details": details}


def _is_asked(one: Compared, question: DriftQuestion) -> bool:
    subject = one.subject
    if question.about == "sources":
        return subject.part == "presence"
    if question.about == "tokens":
        return subject.part == "tokens" and subject.column == question.column
    if question.about == "label":
        is_about = subject.part == "label"
    else:
        is_about = subject.column == question.column and subject.part not in ("presence", "tokens")
    is_there = question.source is None or subject.source == question.source
    return is_about and is_there and (question.measure is None or one.drift.measure == question.measure)


def _change_of(found: ProfileDrift, column: str) -> str:
    if column in found.added:
        return "the reference has no such column"
    if column in found.removed:
        return "the data have no such column"
    return next((text for text in found.changed if text.startswith(f"{column}: ")), "")


def _shown(one: Compared) -> dict[str, Any]:
    drift = one.drift
    return {
        "source": one.subject.source,
        "part": one.subject.part,
        **({"detail": one.subject.detail} if one.subject.detail else {}),
        "measure": drift.measure,
        "value": drift.value,
        "limit": drift.limit,
        "null_quantile": drift.null_quantile,
        "reference_rows": drift.reference_rows,
        "current_rows": drift.current_rows,
    }


def refuse_unknown_reference(question: DriftQuestion, known: tuple[str, ...]) -> None:
    """Refuse a question about a profile that is not there.

    Args:
        question: of an expectation.
        known: the names of the reference of this run; none without one.

    Raises:
        PolicyError: `question.reference` is not among them.
    """
    if question.reference in known:
        return
    if not known:
        raise PolicyError(
            f"It compares with the profile {question.reference!r}, but no reference profile is given.",
            hint="Name one in the policy: profile.hash_key and drift.reference.",
        )
    raise PolicyError(
        f"It compares with the profile {question.reference!r}; the policy's drift.reference is {' or '.join(known)}.",
        hint="Name the same profile in both, or its digest.",
    )
