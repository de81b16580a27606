"""What the gate's first steps would say of each source of a data set, here and now, and why: nothing is decoded.

For somebody who writes a policy, or was refused. It takes the gate's own way: the plan (every file matches one rule, no
rule has expired), one SHA-256 of every file, and the verification of each source under its rule.
"""

from typing import Literal, NamedTuple

from millcert.errors import MillcertError, UntrustedSourceError
from millcert.pipelines.dataset import VerifiedFiles, hash_item, verify_files
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.planning import Workspace, plan_run
from millcert.policy import LoadedPolicy
from millcert.provenance.trust import VerifiedSource


class SourceOutcome(NamedTuple):
    """What the gate would say of one source.

    status: "passed", "unknown" (unsigned, as its rule accepts), "refused", or "not_reached": the data set was refused
    before the source was looked at. code: of the error, "" where there is none. why: one sentence or two.
    """

    source: str
    status: Literal["passed", "unknown", "refused", "not_reached"]
    code: str
    why: str


def source_outcomes(loaded: LoadedPolicy, dataset: str) -> tuple[SourceOutcome, ...]:
    """Return what the gate would say of each source that has files, or of all where it would not get that far.

    Args:
        loaded: the policy with the files that it names.
        dataset: a folder, file or glob, as for a run.

    Raises:
        UsageError, PolicyError, StoreError: the data set cannot be read, or the policy cannot be carried out.

    Cost: one read of every file.
    """
    try:
        plan = plan_run(loaded, [dataset], Workspace(""))
    except UntrustedSourceError as error:
        return _refused_before(loaded, error)
    algorithms = {planned.rule.name: planned.rule.digests for planned in plan.sources}
    digests = [hash_item(item, algorithms.get(item.source, ()), plan.limits) for item in (*plan.items, *plan.auxiliary)]
    return _outcomes(plan, verify_files(plan, digests))


def _refused_before(loaded: LoadedPolicy, error: MillcertError) -> tuple[SourceOutcome, ...]:
    """An expired rule names its sources; a file without exactly one rule is the fault of no single one."""
    named = error.details.get("sources", ())
    guilty = set(named) if isinstance(named, tuple) else set()
    later = f"The data set is refused before this source is looked at: {error.message}"
    return tuple(
        SourceOutcome(rule.name, "refused", error.code, _said(error))
        if rule.name in guilty
        else SourceOutcome(rule.name, "not_reached", error.code, later)
        for rule in loaded.policy.sources
    )


def _outcomes(plan: VetPlan, found: VerifiedFiles) -> tuple[SourceOutcome, ...]:
    owner = {item.name: item.source for item in found.files.values()}
    faults = {owner.get(fault.file, fault.file): fault for fault in reversed(found.faults)}
    outcomes = []
    for planned in plan.sources:
        name = planned.rule.name
        files = sum(item.source == name for item in found.files.values())
        if name in faults:
            why = f"{faults[name].message} {faults[name].hint}".strip()
            outcomes.append(SourceOutcome(name, "refused", faults[name].code, why))
        elif name in found.sources:
            outcomes.append(_verified(found.sources[name], files))
        else:
            outcomes.append(SourceOutcome(name, "not_reached", "", "A file of another source cannot be read."))
    return tuple(outcomes)


def _verified(source: VerifiedSource, files: int) -> SourceOutcome:
    signature = source.signature
    if signature is None:
        return SourceOutcome(
            source.source, "unknown", "", f"Nobody signed its {files:,} files, and its rule accepts that."
        )
    by = f"{signature.identity} by {signature.issuer}" if signature.issuer else signature.identity
    when = f" at {signature.signed_at}" if signature.signed_at else ", at a time that nobody vouches for"
    why = f"Its {files:,} files are exactly those that {by} signed{when}."
    return SourceOutcome(source.source, "passed", "", why)


def _said(error: MillcertError) -> str:
    return f"{error.message} {error.hint}".strip()
