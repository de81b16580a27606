"""What overrides do to a run: flagged samples that are not held back, and reasons of a verdict that are lifted.

A run's overrides are chosen before it starts, with the clock of whoever starts it, and named in the verdict by their
leaf: the verdict depends on which they are, and on no clock. One that lifts nothing is not named.

Rules this module keeps:
  1. A verdict's override holds where the verdict without it has exactly the digest that was overridden; a check's, for
     that input under that policy and for that check's own reasons, and those of clusters that rest on no other check;
     a sample's, for what the named check says of it.
  2. Who signed a source of the data has not approved: that override lifts nothing.
  3. No override makes a data set of nothing: `samples.none_admitted` stays.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from millcert.checks.base import Scores
from millcert.pipelines.fuse import describe_cluster
from millcert.pipelines.plan import PlannedCheck, PlannedOverride, VetPlan
from millcert.provenance.override import list_overrides
from millcert.provenance.standing import Standing
from millcert.verdict import Decision, OverrideUse, Reason, Verdict

_NEVER_LIFTED = frozenset({"samples.none_admitted"})


def plan_overrides(
    standing: Standing, *, dataset: str, policy_digest: str, named: Mapping[str, bytes], now: datetime
) -> tuple[PlannedOverride, ...]:
    """Return the approved overrides that are about a data set, by leaf.

    Args:
        standing: of the ledger's acts.
        dataset: its name.
        policy_digest: of the policy that it is vetted under.
        named: commitment -> digest of the samples that acts speak of; one that is missing was erased.
        now: when the run begins.

    Raises:
        IntegrityError: an override in the ledger says what no reader understands.
    """
    planned = []
    for state in list_overrides(standing, now):
        override = state.override
        is_about = override.dataset == dataset and (
            override.scope == "samples" or override.policy_digest == policy_digest
        )
        if state.state == "approved" and is_about:
            digests = frozenset(named[one] for one in override.samples if one in named)
            planned.append(PlannedOverride(state, digests))
    return tuple(sorted(planned, key=lambda one: one.state.leaf))


def release(
    plan: VetPlan, scores: Sequence[tuple[PlannedCheck, Scores]], digests: np.ndarray, signers: Collection[str]
) -> tuple[np.ndarray, dict[str, int]]:
    """Return which samples are held back, and how many each override released.

    Args:
        plan: with its overrides.
        scores: of the checks, all of one length n.
        digests: uint8 (n, 32), of the flagged rows; zero elsewhere.
        signers: identities that signed the data.

    Returns:
        bool (n,), and leaf -> count of samples that would be held back without it.
    """
    count = len(digests)
    held, released = np.zeros(count, dtype=bool), dict[str, int]()
    useful = [one for one in _disinterested(plan, signers) if one.state.override.scope == "samples"]
    for planned, found in scores:
        if planned.on_flagged != "quarantine":
            continue
        keeps = found.flagged.copy()
        for one in useful:
            if planned.name in one.state.override.checks:
                flagged = np.flatnonzero(found.flagged)
                mine = np.zeros(count, dtype=bool)
                mine[flagged] = [digests[at].tobytes() in one.digests for at in flagged]
                released[one.state.leaf] = released.get(one.state.leaf, 0) + int(mine.sum())
                keeps &= ~mine
        held |= keeps
    return held, {leaf: number for leaf, number in released.items() if number}


def action_of(planned: PlannedCheck, *, is_held: bool) -> str:
    """Return what became of a flagged sample: a check that quarantines and did not is one that was overridden."""
    return "released" if planned.on_flagged == "quarantine" and not is_held else planned.on_flagged


def released_uses(plan: VetPlan, released: Mapping[str, int], signers: Collection[str]) -> tuple[OverrideUse, ...]:
    """Return the overrides that released samples, for the verdict."""
    return tuple(
        _use(one, (), released[one.state.leaf]) for one in _disinterested(plan, signers) if one.state.leaf in released
    )


def lift_reasons(plan: VetPlan, verdict: Verdict, signers: Collection[str]) -> Verdict:
    """Return a verdict with the reasons lifted that overrides lift, and the decision that is left (rule 1).

    Args:
        plan: with its overrides.
        verdict: without them; its `output_root` is set by the caller where the decision changes.
        signers: identities that signed the data.
    """
    uses = list(verdict.overrides)
    left = list(verdict.reasons)
    for one in _disinterested(plan, signers):
        lifted = [reason for reason in left if _is_lifted(one, verdict, reason)]
        if lifted:
            uses.append(_use(one, lifted, 0))
            left = [reason for reason in left if reason not in lifted]
    if len(uses) == len(verdict.overrides):
        return verdict
    missing = {Reason("check.inconclusive", f"{check.name}: {check.message}") for check in verdict.checks}
    codes = {reason.code for reason in left}
    rejects = [reason for reason in left if reason not in missing and reason.code != "expectations.inconclusive"]
    decision: Decision = "rejected" if rejects else "inconclusive" if codes else "admitted"
    ordered = tuple(sorted(uses, key=lambda use: use.leaf))
    return replace(verdict, decision=decision, reasons=tuple(left), overrides=ordered)


def _use(planned: PlannedOverride, lifted: Sequence[Reason], samples: int) -> OverrideUse:
    """Return what a verdict says of an override."""
    override = planned.state.override
    return OverrideUse(
        leaf=planned.state.leaf,
        scope=override.scope,
        checks=override.checks,
        reason=override.reason,
        expires_at=override.expires_at,
        proposed_by=planned.state.proposer,
        approved_by=planned.state.approvers,
        lifted=tuple(lifted),
        samples=samples,
    )


def _is_lifted(planned: PlannedOverride, verdict: Verdict, reason: Reason) -> bool:
    override = planned.state.override
    if reason.code in _NEVER_LIFTED or override.scope == "samples":
        return False
    if override.scope == "verdict":
        return override.verdict_digest == verdict.digest
    mine = {
        Reason(code, f"{check.name}: {check.message}")
        for check in verdict.checks
        if check.name in override.checks
        for code in ("check.over_limit", "check.inconclusive")
    }
    mine |= {
        Reason(f"cluster.{cluster.kind}", describe_cluster(cluster))
        for cluster in verdict.clusters
        if cluster.founded_on and set(cluster.founded_on) <= set(override.checks)
    }
    is_rise = reason.code == "rates.risen" and reason.message.partition(": ")[0] in override.checks
    return override.input_root == verdict.input_root and (reason in mine or is_rise)


def _disinterested(plan: VetPlan, signers: Collection[str]) -> list[PlannedOverride]:
    """Return the overrides whose approvers did not sign the data (rule 2)."""
    return [one for one in plan.overrides if not one.state.approver_aliases & set(signers)]
