"""Overrides: two people let something through that a check, or the whole verdict, refused; for a time, and in writing.

An override is proposed by one person and counts once another has approved it, until it expires or is withdrawn. It
names exactly one thing: all reasons of one verdict, some checks for one input, or some samples that one check held
back. Time is an argument here: what is used in a verdict is an override's leaf, never the clock.

Rules this module keeps:
  1. The approver is another person with another key than the proposer, and did not sign the data in question.
  2. An override has an end, at most the roles' `max_override_days` after it was proposed.
  3. An override of a verdict or a check holds for one input under one policy, not for the data set's next version.

Format: docs/formats/acts.md.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from millcert.errors import IntegrityError, UsageError
from millcert.provenance.act import Act, require_reason
from millcert.provenance.roles import RoleBook
from millcert.provenance.standing import JudgedAct, Standing, said_of
from millcert.provenance.timestamp import instant, is_timestamp

OVERRIDE = "override"
APPROVAL = "approval"
WITHDRAWAL = "withdrawal"

Scope = Literal["verdict", "check", "samples"]

#: approved: it counts. waiting: nobody approved it. self_approved: only the proposer, under any name, or by the same
#: key. expired, withdrawn: it counted once, or might have. too_long: it was proposed for longer than the roles allow.
State = Literal["approved", "waiting", "self_approved", "expired", "withdrawn", "too_long"]

#: Samples that one override names; more need several. 700 of 67 characters stay in an entry.
MAX_SAMPLES = 700

_HEX = re.compile(r"[0-9a-f]{64}")
_CHECK = re.compile(r"[a-z][a-z0-9_]{0,127}")
_SAID = {
    "checks": list,
    "dataset": str,
    "expires_at": str,
    "input_root": str,
    "policy_digest": str,
    "reason": str,
    "samples": list,
    "scope": str,
    "verdict_digest": str,
}


@dataclass(frozen=True)
class Override:
    """What is to be let through.

    scope: "verdict": every reason of the verdict with that digest. "check": the limits of `checks`, for `input_root`
    under `policy_digest`. "samples": `samples` (commitments) that `checks` flagged are not held back in `dataset`.
    verdict_digest, input_root, policy_digest: of the verdict that is overridden, hex. expires_at: RFC 3339 in UTC; it
    counts before, not at it.

    Raises:
        UsageError: a field is malformed, or names nothing or too much for its scope.
    """

    scope: Scope
    dataset: str
    verdict_digest: str
    input_root: str
    policy_digest: str
    reason: str
    expires_at: str
    checks: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        digests = (self.verdict_digest, self.input_root, self.policy_digest, *self.samples)
        if self.scope not in get_args(Scope) or not self.dataset or not all(_HEX.fullmatch(one) for one in digests):
            raise UsageError("An override names a scope, a data set, and digests of 64 lower-case hex digits.")
        if not is_timestamp(self.expires_at):
            raise UsageError(f"An override needs an end such as 2026-12-31T00:00:00Z, got {self.expires_at[:80]!r}.")
        is_sound = {
            "verdict": not self.checks and not self.samples,
            "check": bool(self.checks) and not self.samples,
            "samples": bool(self.checks) and 1 <= len(self.samples) <= MAX_SAMPLES,
        }[self.scope]
        if not is_sound or not all(_CHECK.fullmatch(name) for name in self.checks):
            raise UsageError(
                f"An override of scope {self.scope} names {len(self.checks)} checks and {len(self.samples)} samples.",
                hint=f"A verdict is overridden alone, a check by its name, samples (at most {MAX_SAMPLES}) with the "
                "check that flagged them.",
            )
        require_reason(self.reason)

    def said(self) -> dict[str, Any]:
        """Return the words of the act."""
        return {
            "checks": sorted(set(self.checks)),
            "dataset": self.dataset,
            "expires_at": self.expires_at,
            "input_root": self.input_root,
            "policy_digest": self.policy_digest,
            "reason": self.reason,
            "samples": sorted(set(self.samples)),
            "scope": self.scope,
            "verdict_digest": self.verdict_digest,
        }


@dataclass(frozen=True)
class OverrideState:
    """An override in the ledger, and whether it counts at the time that was asked for.

    leaf, index: of the proposal. proposer, approvers: names; approvals: leaves of those approvals that count.
    approver_aliases: every name under which an approver may sign data (rule 1). state, message: see `State`.
    """

    override: Override
    leaf: str
    index: int
    proposed_at: str
    proposer: str
    approvers: tuple[str, ...]
    approvals: tuple[str, ...]
    approver_aliases: frozenset[str]
    state: State
    message: str


def propose_act(override: Override, *, ledger: str, book: RoleBook, recorded_at: str) -> Act:
    """Return the act, to be signed, that proposes an override.

    Raises:
        UsageError: it would end in the past, or later than the roles allow.
    """
    fault = _length_fault(override.expires_at, recorded_at, book.max_override_days)
    if fault or instant(override.expires_at) <= instant(recorded_at):
        raise UsageError(
            f"The override would end at {override.expires_at}: {fault or 'that is over'}.",
            hint=f"Give an end after {recorded_at}, at most {book.max_override_days} days away.",
        )
    return Act(OVERRIDE, override.input_root, recorded_at, ledger, book.sha256, override.said())


def approve_act(state: OverrideState, *, ledger: str, roles_sha256: str, recorded_at: str) -> Act:
    """Return the act, to be signed, that approves an override."""
    return Act(APPROVAL, state.override.input_root, recorded_at, ledger, roles_sha256, {"override": state.leaf})


def withdraw_act(state: OverrideState, *, reason: str, ledger: str, roles_sha256: str, recorded_at: str) -> Act:
    """Return the act, to be signed, that ends an override.

    Raises:
        UsageError: no reason is given.
    """
    said = {"override": state.leaf, "reason": require_reason(reason)}
    return Act(WITHDRAWAL, state.override.input_root, recorded_at, ledger, roles_sha256, said)


def list_overrides(standing: Standing, now: datetime) -> list[OverrideState]:
    """Return every override that somebody with the role proposed, oldest first, with its state at `now`.

    Raises:
        IntegrityError: one of them, an approval or a withdrawal says what no reader understands.
    """
    approvals, withdrawals = _named(standing, APPROVAL), _named(standing, WITHDRAWAL)
    books = dict(_days(standing))
    found = []
    for one in standing.counting(OVERRIDE):
        override = _override_from(one)
        given = [act for act in approvals.get(one.leaf, ()) if act.logged.index > one.logged.index]
        sound = [act for act in given if not _is_same(act, one)]
        ends = [act for act in withdrawals.get(one.leaf, ()) if act.logged.index > one.logged.index]
        proposed_at = one.logged.entry.recorded_at
        state: State = "approved"
        message = f"approved by {', '.join(sorted({_name(act) for act in sound}))}"
        if ends:
            state, message = "withdrawn", f"withdrawn by {_name(ends[0])} at {ends[0].logged.entry.recorded_at}"
        elif fault := _length_fault(override.expires_at, proposed_at, books[one.book_sha256]):
            state, message = "too_long", fault
        elif now >= instant(override.expires_at):
            state, message = "expired", f"it ended at {override.expires_at}"
        elif not sound:
            state, message = "waiting", "nobody has approved it"
            if given:
                state, message = "self_approved", f"{_name(one)} proposed it and cannot approve it"
        found.append(
            OverrideState(
                override,
                one.leaf,
                one.logged.index,
                proposed_at,
                _name(one),
                tuple(sorted({_name(act) for act in sound})),
                tuple(act.leaf for act in sound),
                frozenset(alias for act in sound if act.person for alias in act.person.aliases),
                state,
                message,
            )
        )
    return found


def refuse_interest(state: OverrideState, signers: Collection[str]) -> OverrideState:
    """Return the state of an override about data that these identities signed (rule 1).

    An approver who signed the data is its submitter; that approval does not count, and with one approval nor does the
    override.
    """
    interested = sorted(state.approver_aliases & set(signers))
    if state.state != "approved" or not interested:
        return state
    message = f"{', '.join(state.approvers)} signed the data ({interested[0]}): who submits does not approve"
    return replace(state, state="self_approved", message=message)


def withdrawn_leaves(standing: Standing) -> tuple[str, ...]:
    """Return the leaves, hex, of overrides that were withdrawn."""
    return tuple(sorted(_named(standing, WITHDRAWAL)))


def overrides_in(verdict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the overrides that a verdict used, as its `overrides` has them.

    Raises:
        IntegrityError: the list is malformed: nobody can tell whether they still count.
    """
    used = verdict.get("overrides", [])
    is_sound = isinstance(used, list) and all(
        isinstance(one, Mapping)
        and isinstance(one.get("leaf"), str)
        and isinstance(one.get("expires_at"), str)
        and is_timestamp(one["expires_at"])
        for one in used
    )
    if not is_sound:
        raise IntegrityError("The verdict's overrides are malformed.", hint="Ask for a certificate of a new run.")
    return list(used)


def ended_override(used: Iterable[Mapping[str, Any]], withdrawn: Collection[str], now: datetime) -> str:
    """Return why one of a verdict's overrides no longer counts, in words; "" if all do."""
    for one in used:
        if one["leaf"] in withdrawn:
            return f"the override {one['leaf'][:16]} that it rests on was withdrawn"
        if now >= instant(one["expires_at"]):
            return f"the override {one['leaf'][:16]} that it rests on ended at {one['expires_at']}"
    return ""


def _override_from(judged: JudgedAct) -> Override:
    said = said_of(judged, _SAID)
    try:
        override = Override(**{**said, "checks": _texts(said["checks"]), "samples": _texts(said["samples"])})
    except UsageError as error:
        raise IntegrityError(
            f"The override at ledger entry {judged.logged.index} is malformed: {error.message}"
        ) from error
    if override.input_root != judged.logged.entry.subject:
        raise IntegrityError(f"The override at ledger entry {judged.logged.index} has words of another subject.")
    return override


def _named(standing: Standing, kind: str) -> dict[str, list[JudgedAct]]:
    """Return the acts of a kind by the override that they name."""
    fields = {"override": str} if kind == APPROVAL else {"override": str, "reason": str}
    named: dict[str, list[JudgedAct]] = {}
    for one in standing.counting(kind):
        named.setdefault(said_of(one, fields)["override"], []).append(one)
    return named


def _is_same(approval: JudgedAct, proposal: JudgedAct) -> bool:
    """Say whether one person speaks twice: by name, by key, or by any other name that the two share (rule 1)."""
    if approval.person is None or proposal.person is None:
        return True
    shares_name = bool(approval.person.aliases & proposal.person.aliases)
    return shares_name or approval.key_sha256 == proposal.key_sha256


def _days(standing: Standing) -> Iterable[tuple[str, int]]:
    return ((book.sha256, book.max_override_days) for _, book in standing.books)


def _length_fault(expires_at: str, proposed_at: str, days: int) -> str:
    if instant(expires_at) - instant(proposed_at) > timedelta(days=days):
        return f"the roles allow {days} days from {proposed_at}"
    return ""


def _name(judged: JudgedAct) -> str:
    return "" if judged.person is None else judged.person.name


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if not all(isinstance(one, str) for one in values):
        raise IntegrityError("An override's checks and samples must be texts.")
    return tuple(str(one) for one in values)
