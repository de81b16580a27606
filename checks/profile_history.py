"""When did it change, and at once or little by little: the profiles of days, split where they differ the most.

For each comparison (source, column, measure) the days are split at every place, both sides merged and compared, by the
rules of `millcert.checks.drift`; `family_alpha` is shared among all splits. The change-point is the split with the
largest effect among those that drift: one a comparison, so of two changes the larger one is told.

A change is "abrupt" if the two days beside the change-point differ by at least half of what the first and the last day
differ by, else "gradual": a step of one night has all of its effect there, a ramp over T days about 1/(T - 1) of it.
The half is our choice; with fewer than four days a ramp cannot be told from a step, and the change is "unclear", as it
is where a day has too few rows.

Source: binary segmentation, Scott and Knott, Biometrics 30 (1974), with this package's effect sizes as the distance.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

from millcert.checks.drift import Drift, DriftLimits
from millcert.checks.profile import Profile, merge_profiles
from millcert.checks.profile_compare import Subject, compare_profiles
from millcert.errors import UsageError

Pace: TypeAlias = Literal["abrupt", "gradual", "unclear"]

#: Fewer days cannot tell a ramp from a step.
LEAST_DAYS = 4
#: Each split is a comparison of everything; more days are merged to weeks first. Our choice.
MAX_DAYS = 400

_ABRUPT_PART = 0.5


_Key: TypeAlias = tuple[Subject, str]


class Change(NamedTuple):
    """One change over a history.

    at: the first profile after the change-point, 1 or above. drift: the profiles before it against those from it on.
    step, total: effect between the two profiles beside it, and between the first and the last; None where one has too
        few rows.
    course: effect between the first profile and each later one, in their order; the last of them is `total`.
    """

    subject: Subject
    at: int
    drift: Drift
    pace: Pace
    step: float | None
    total: float | None
    course: tuple[float | None, ...]


def find_changes(profiles: Sequence[Profile], limits: DriftLimits, *, ignore: Sequence[str] = ()) -> list[Change]:
    """Return what changed over a history, the largest effect over its limit first.

    Args:
        profiles: of one spec and one schema, oldest first: 2 to 400.
        limits: from which effect on a difference matters.
        ignore: columns that are left out.

    Raises:
        UsageError: there are fewer or more profiles, or they cannot be merged and compared.

    Cost: as many comparisons of two profiles as there are days, up to three times as many where something changed; some
        milliseconds each a source and column.
    """
    count = len(profiles)
    if not 2 <= count <= MAX_DAYS:
        raise UsageError(
            f"A history has 2 to {MAX_DAYS} profiles, got {count}.", hint="Merge days to weeks: millcert profile merge."
        )
    # All splits together keep the family's level.
    shared = replace(limits, family_alpha=limits.family_alpha / (count - 1))
    befores, afters = _running(profiles), _running(profiles[::-1])[::-1]
    best: dict[_Key, tuple[int, Drift]] = {}
    for at in range(1, count):
        for one in compare_profiles(befores[at - 1], afters[at], shared, ignore=ignore).found:
            key = (one.subject, one.drift.measure)
            if key not in best or one.drift.value > best[key][1].value:
                best[key] = (at, one.drift)
    steps = {
        at: _effects(profiles[at - 1], profiles[at], limits, ignore) for at in sorted({at for at, _ in best.values()})
    }
    # Only what changed has a course: without any change nothing more is compared.
    courses = [_effects(profiles[0], later, limits, ignore) for later in (profiles[1:] if best else ())]
    changes = []
    for (subject, measure), (at, drift) in best.items():
        place = _without_label(subject), measure
        course = tuple(each.get(place) for each in courses)
        beside, whole = steps[at].get(place), course[-1]
        pace = "abrupt" if subject.part == "presence" else _pace(count, beside, whole)
        changes.append(Change(subject, at, drift, pace, beside, whole, course))
    return sorted(changes, key=lambda one: (-one.drift.value / max(one.drift.limit, one.drift.null_quantile), one[:2]))


def _running(profiles: Sequence[Profile]) -> list[Profile]:
    """Return the merge of the first one, of the first two, and so on."""
    merged = [profiles[0]]
    for profile in profiles[1:]:
        merged.append(merge_profiles([merged[-1], profile]))
    return merged


def _effects(one: Profile, other: Profile, limits: DriftLimits, ignore: Sequence[str]) -> dict[_Key, float]:
    found = compare_profiles(one, other, limits, ignore=ignore).compared
    return {(_without_label(each.subject), each.drift.measure): each.drift.value for each in found}


def _without_label(subject: Subject) -> Subject:
    """Return the subject; of a pushed label, as whichever is pushed most."""
    return subject._replace(detail="") if subject.part == "label" else subject


def _pace(count: int, step: float | None, total: float | None) -> Pace:
    if count < LEAST_DAYS or step is None or total is None:
        return "unclear"
    return "abrupt" if step >= _ABRUPT_PART * total else "gradual"
