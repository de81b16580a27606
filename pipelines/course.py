"""How the data changed over the last admitted versions: what each comparison with the version before lets pass.

Rules this module keeps:
  1. Only versions that the ledger has as admitted, and nobody revoked, are followed; their bytes are believed only if
     they have the digest that the ledger says.
  2. Versions are followed back to the first one with another spec or other columns, and no further.
  3. A step of one version was judged when it came, by `millcert.pipelines.profiling`. Here it is told; only what
     changed little by little may reject.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from millcert.checks.profile import Profile
from millcert.checks.profile_format import load_with_digest
from millcert.checks.profile_history import Change, find_changes
from millcert.pipelines.plan import PlacedProfile, PlannedDrift, VetPlan
from millcert.pipelines.publish import write_file
from millcert.pipelines.reference import admitted_digests, profile_path, read_kept, require_logged
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.revocation import Revocation
from millcert.verdict import CourseSummary, Reason

#: Changes that a verdict lists, strongest first. All of them are counted.
MAX_CHANGES = 50


def place_course(plan: VetPlan, state: Path, history: Sequence[Entry], revocations: Sequence[Revocation]) -> VetPlan:
    """Return the plan with the profiles of the last admitted versions, which now stand in the staging folder.

    Args:
        plan: of the run.
        state: the state folder.
        history: the ledger's "manifest" and "verdict" entries about the data set, oldest first.
        revocations: in force; a version that one of them takes back is not followed.

    Raises:
        StoreError: a profile is not in the state folder.
        DigestMismatchError, IntegrityError: its bytes are not what the ledger says.
    """
    if plan.drift is None or not plan.drift.versions:
        return plan
    digests = admitted_digests(history, revocations, "profile_digest")
    # The same data admitted again is no other version.
    distinct = [one for at, one in enumerate(digests) if not at or digests[at - 1] != one]
    placed: list[PlacedProfile] = []
    for digest in reversed(distinct[-plan.drift.versions :]):
        data = read_kept(profile_path(state, digest), "profile", "profile.json")
        profile, actual = load_with_digest(data)
        require_logged(
            actual, digest, "The profile of an admitted version has", "Restore it from that version's profile.json."
        )
        if profile.spec != plan.profile:
            break
        uri = f"{plan.staging}/course-{len(placed)}.json"
        write_file(uri, data)
        placed.append(PlacedProfile(uri, digest))
    return replace(plan, drift=replace(plan.drift, course=tuple(reversed(placed))))


class Course(NamedTuple):
    """What the verdict says of the course, and what of it speaks against the data."""

    summary: CourseSummary | None
    rejects: tuple[Reason, ...] = ()


def judge_course(drift: PlannedDrift, earlier: Sequence[Profile], current: Profile, digest: str) -> Course:
    """Return how the data changed over the versions before it.

    Args:
        drift: what the policy asks for.
        earlier: the profiles of `drift.course`.
        current: of the data.
        digest: of it.
    """
    if not drift.versions:
        return Course(None)
    followed: list[tuple[str, Profile]] = []
    for placed, profile in zip(reversed(drift.course), reversed(earlier), strict=True):
        if dict(profile.types) != dict(current.types):
            break
        if followed or placed.digest != digest:
            followed.insert(0, (placed.digest, profile))
    if not followed:
        return Course(CourseSummary((), drift.on_gradual, 0, ()))
    changes = find_changes(
        [*(profile for _, profile in followed), current], drift.limits, ignore=_known(drift, current)
    )
    summary = CourseSummary(
        versions=tuple(digest for digest, _ in followed),
        on_gradual=drift.on_gradual,
        found=len(changes),
        changes=tuple(
            {
                **one.subject._asdict(),
                **one.drift._asdict(),
                "at": one.at,
                "pace": one.pace,
                "step": one.step,
                "total": one.total,
                "course": list(one.course),
            }
            for one in changes[:MAX_CHANGES]
        ),
    )
    gradual = [one for one in changes if one.pace == "gradual"]
    if not gradual or drift.on_gradual != "reject":
        return Course(summary)
    shown = "; ".join(_described(one) for one in gradual[:5])
    message = f"{len(gradual)} comparisons changed little by little over {len(followed)} versions: {shown}"
    return Course(summary, (Reason("drift.gradual", message),))


def _known(drift: PlannedDrift, current: Profile) -> list[str]:
    return [name for name in drift.ignore if name in current.types]


def _described(one: Change) -> str:
    return f"{one.subject.in_words()}: {one.drift.measure} {one.drift.value:.4g} (limit {one.drift.limit:g})"
