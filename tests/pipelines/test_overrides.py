"""An override lets through exactly what it names, while two people want it; and what is revoked never gets in."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from millcert.errors import IntegrityError, PolicyError, RevokedError, StoreError
from millcert.pipelines.overriding import lift_reasons
from millcert.provenance.certificate import verify_certificate
from millcert.provenance.clearance import clear_by_ledger
from millcert.provenance.keys import load_or_create_key, load_public_key
from millcert.provenance.ledger import Ledger, open_ledger
from millcert.provenance.named_sample import forget_sample, name_sample
from millcert.provenance.override import (
    Override,
    OverrideState,
    approve_act,
    list_overrides,
    propose_act,
    refuse_interest,
    withdraw_act,
)
from millcert.provenance.questions import list_records
from millcert.provenance.revocation import Revocation, revocation_act
from millcert.provenance.standing import read_standing
from millcert.provenance.state import StateFolder
from millcert.report.build import build_report
from millcert.testing.role_people import OFFICE, office, record_roles, say

AT = "2026-11-23T11:00:00Z"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
UNTIL = "2026-11-30T00:00:00Z"
ORIGIN = "test.example/ledger"


class Desk:
    """A bench whose policy rejects every flagged sample, with roles in force, and people who speak."""

    def __init__(self, bench: Any, book: Any = None) -> None:
        self.bench = bench
        self.book = book or office()
        bench.policy["roles"] = self.book.to_document()
        check = bench.policy["checks"][0]
        check |= {"max_flagged_fraction": 0.0, "over_limit": "reject", "on_flagged": "quarantine"}
        table = pq.read_table(bench.data / "north" / "a.parquet").to_pylist()
        import pyarrow as pa

        schema = pq.read_schema(bench.data / "north" / "a.parquet")
        for row in (3, 40):
            table[row]["label"] = (table[row]["label"] + 1) % 3
        bench.write("north", "a.parquet", pa.Table.from_pylist(table, schema=schema))
        bench.sign("north")
        with self.ledger(create=True) as ledger:
            record_roles(ledger, self.book, by="bo", at=AT)

    @property
    def state(self) -> StateFolder:
        return StateFolder(self.bench.top / "state")

    def ledger(self, *, create: bool = False) -> Ledger:
        key = load_or_create_key(self.state.path / "keys" / "ledger.key")
        return open_ledger(self.state.ledger, origin=ORIGIN, key=key, create=create)

    def override(self, verdict: Any, **changes: Any) -> Override:
        named: dict[str, Any] = {
            "scope": "check",
            "dataset": verdict.dataset,
            "verdict_digest": verdict.digest,
            "input_root": verdict.input_root,
            "policy_digest": verdict.policy_digest,
            "reason": "both are known, ticket 7",
            "expires_at": UNTIL,
            "checks": ("label_noise",),
        }
        return Override(**{**named, **changes})

    def propose(self, override: Override, *, by: str = "ana", at: str = AT) -> OverrideState:
        with self.ledger() as ledger:
            act = propose_act(override, ledger=ORIGIN, book=self.book, recorded_at=at)
            index = say(ledger, act, by=by, book=self.book)
            return next(one for one in list_overrides(read_standing(ledger), NOW) if one.index == index)

    def approve(self, state: OverrideState, *, by: str = "bo") -> OverrideState:
        with self.ledger() as ledger:
            act = approve_act(state, ledger=ORIGIN, roles_sha256=self.book.sha256, recorded_at=AT)
            say(ledger, act, by=by, book=self.book)
        return self.state_of(state)

    def withdraw(self, state: OverrideState) -> None:
        with self.ledger() as ledger:
            act = withdraw_act(state, reason="wrong", ledger=ORIGIN, roles_sha256=self.book.sha256, recorded_at=AT)
            say(ledger, act, by="cy", book=self.book)

    def state_of(self, state: OverrideState, now: datetime = NOW) -> OverrideState:
        with self.ledger() as ledger:
            return next(one for one in list_overrides(read_standing(ledger), now) if one.index == state.index)

    def revoke(self, revocation: Revocation) -> None:
        with self.ledger() as ledger:
            about = {"ledger": ORIGIN, "roles_sha256": self.book.sha256, "recorded_at": AT}
            say(ledger, revocation_act(revocation, **about), by="ana", book=self.book)

    def vet(self, **options: Any) -> Any:
        return self.bench.vet(replace=True, **options)


@pytest.fixture
def desk(bench: Any) -> Desk:
    return Desk(bench)


def test_a_check_s_limit_is_lifted_for_this_input_while_two_people_want_it(desk: Desk) -> None:
    rejected = desk.vet().verdict
    assert (rejected.decision, [reason.code for reason in rejected.reasons]) == ("rejected", ["check.over_limit"])
    waiting = desk.propose(desk.override(rejected))
    assert (waiting.state, desk.vet().verdict.digest) == ("waiting", rejected.digest)

    approved = desk.approve(waiting)
    result = desk.vet(render_report=lambda about: build_report(about, {}))

    verdict = result.verdict
    assert (approved.state, verdict.decision, verdict.reasons) == ("approved", "admitted", ())
    (use,) = verdict.overrides
    assert (use.leaf, use.proposed_by, use.approved_by, use.expires_at) == (waiting.leaf, "ana", ("bo",), UNTIL)
    assert use.lifted == rejected.reasons
    assert verdict.samples.quarantined == 2
    assert "Overridden" in (desk.bench.out / "report.html").read_text()
    assert desk.bench.verdict()["overrides"][0]["leaf"] == waiting.leaf
    assert desk.vet().verdict.digest == verdict.digest
    with desk.ledger() as ledger:
        newest = list(list_records(ledger))[-1]
        assert newest.verdict.entry.body["overrides"] == [waiting.leaf]


def test_the_door_honours_the_override_until_it_ends_or_is_withdrawn(desk: Desk) -> None:
    state = desk.approve(desk.propose(desk.override(desk.vet().verdict)))
    desk.vet()
    data = (desk.bench.out / "certificate.json").read_bytes()
    with desk.ledger() as ledger:
        gate = load_public_key(desk.state.gate_public_key)
        certificate = verify_certificate(data, gate_keys=[gate], ledger_vkeys=ledger.vkeys)
        assert clear_by_ledger(certificate, ledger, now=NOW).overrides == (state.leaf,)
        with pytest.raises(RevokedError, match="ended at"):
            clear_by_ledger(certificate, ledger, now=datetime(2026, 11, 30, tzinfo=UTC))
    desk.withdraw(state)
    with desk.ledger() as ledger, pytest.raises(RevokedError, match="withdrawn"):
        clear_by_ledger(certificate, ledger, now=NOW)
    assert desk.vet().verdict.decision == "rejected"


def test_an_override_of_a_verdict_lifts_that_verdict_and_no_other(desk: Desk) -> None:
    verdict = desk.vet().verdict
    desk.approve(desk.propose(desk.override(verdict, scope="verdict", checks=())))

    assert desk.vet().verdict.decision == "admitted"
    desk.bench.policy["verdict"]["max_quarantined_fraction"] = 0.2
    assert desk.vet().verdict.decision == "rejected"


def test_an_override_of_something_else_lifts_nothing(desk: Desk) -> None:
    verdict = desk.vet().verdict
    others: list[dict[str, Any]] = [
        {"input_root": "ab" * 32},
        {"policy_digest": "ab" * 32},
        {"dataset": "other"},
        {"checks": ("spectral_signatures",)},
        {"scope": "verdict", "checks": (), "verdict_digest": "ab" * 32},
        {"expires_at": "2026-11-23T12:00:00Z"},
    ]
    for changes in others:
        desk.approve(desk.propose(desk.override(verdict, **changes)))

    again = desk.vet().verdict
    assert (again.digest, again.overrides) == (verdict.digest, ())


def test_released_samples_are_in_the_output_and_only_they(desk: Desk) -> None:
    desk.bench.policy["checks"][0]["max_flagged_fraction"] = 0.5
    desk.vet()
    findings = pq.read_table(desk.bench.out / "findings.parquet").to_pylist()
    assert [(one["file"], one["row"], one["action"]) for one in findings] == [
        ("north/a.parquet", 3, "quarantine"),
        ("north/a.parquet", 40, "quarantine"),
    ]
    released = name_sample(desk.state, findings[0]["sample_digest"])
    verdict = desk.vet().verdict
    named = desk.override(verdict, scope="samples", samples=(released,))
    state = desk.approve(desk.propose(named))

    after = desk.vet().verdict

    assert (verdict.samples.quarantined, after.samples.quarantined) == (2, 1)
    assert [(use.leaf, use.samples, use.lifted) for use in after.overrides] == [(state.leaf, 1, ())]
    actions = [one["action"] for one in pq.read_table(desk.bench.out / "findings.parquet").to_pylist()]
    assert actions == ["released", "quarantine"]
    kept = pq.read_table(desk.bench.out / "admitted" / "north" / "a.parquet").column("id").to_pylist()
    assert "1-3" in kept
    assert "1-40" not in kept
    forget_sample(desk.state, findings[0]["sample_digest"])
    assert desk.vet().verdict.digest == verdict.digest


def test_who_proposed_it_cannot_approve_it(desk: Desk) -> None:
    state = desk.approve(desk.propose(desk.override(desk.vet().verdict), by="di"), by="di")

    assert (state.state, desk.vet().verdict.decision) == ("self_approved", "rejected")
    assert desk.approve(state, by="bo").state == "approved"


def test_who_signed_the_data_cannot_approve_it(bench: Any) -> None:
    """`bo` signs `south` under an address that the roles know."""
    book = office()
    people = tuple(replace(one, identities=("data@south.example",)) if one.name == "bo" else one for one in book.people)
    desk = Desk(bench, replace(book, people=people))
    state = desk.approve(desk.propose(desk.override(desk.vet().verdict)))

    assert desk.vet().verdict.decision == "rejected"
    assert refuse_interest(state, {"data@south.example"}).state == "self_approved"
    assert refuse_interest(state, {"data@north.example"}) is state
    desk.approve(state, by="di")
    # One of two approvers is interested: the approval of the other one is not looked at apart, and nothing is lifted.
    assert desk.vet().verdict.decision == "rejected"


def test_an_end_that_is_too_far_is_refused_in_the_log_too(desk: Desk) -> None:
    from millcert.errors import UsageError

    verdict = desk.vet().verdict
    far = desk.override(verdict, expires_at="2027-11-23T11:00:00Z")
    with pytest.raises(UsageError, match="allow 90 days"):
        desk.propose(far)
    with pytest.raises(UsageError, match="that is over"):
        desk.propose(desk.override(verdict, expires_at=AT))
    with desk.ledger() as ledger:
        good = propose_act(desk.override(verdict), ledger=ORIGIN, book=desk.book, recorded_at=AT)
        index = say(ledger, replace(good, said=far.said()), by="ana", book=desk.book)
        state = next(one for one in list_overrides(read_standing(ledger), NOW) if one.index == index)
    assert state.state == "too_long"
    assert desk.approve(state).state == "too_long"
    with desk.ledger() as ledger:
        say(ledger, replace(good, said={**good.said, "samples": [1]}), by="ana", book=desk.book)
        with pytest.raises(IntegrityError):
            list_overrides(read_standing(ledger), NOW)


def test_a_data_set_of_which_nothing_is_left_is_never_let_through(desk: Desk) -> None:
    from millcert.verdict import Reason

    verdict = desk.vet().verdict
    nothing = replace(verdict, reasons=(Reason("samples.none_admitted", "none"),), overrides=())
    state = desk.approve(desk.propose(desk.override(nothing, scope="verdict", checks=())))
    from millcert.pipelines.plan import PlannedOverride

    class Plan:
        overrides = (PlannedOverride(state, frozenset()),)

    assert lift_reasons(Plan(), nothing, ()) is nothing  # type: ignore[arg-type] # as much of a plan as is asked


def test_a_policy_without_roles_lets_nothing_through_and_another_s_roles_stop_the_gate(desk: Desk) -> None:
    verdict = desk.vet().verdict
    desk.approve(desk.propose(desk.override(verdict)))
    desk.bench.policy["roles"] = office({**OFFICE, "zoe": ("approver",)}).to_document()
    with pytest.raises(PolicyError, match="roles record"):
        desk.vet()
    del desk.bench.policy["roles"]
    assert desk.vet().verdict.decision == "rejected"


def test_a_revoked_source_is_refused_before_it_is_read(desk: Desk) -> None:
    desk.revoke(Revocation("source", "south", "SEC-481"))
    seen: list[str] = []

    with pytest.raises(RevokedError, match="SEC-481"):
        desk.vet(after=seen.append)

    assert seen == []
    assert not desk.bench.out.exists()


@pytest.mark.parametrize("target", ["signer", "file", "sample", "later"])
def test_what_is_revoked_is_refused_before_it_counts(desk: Desk, target: str) -> None:
    import hashlib

    desk.bench.policy["checks"][0]["max_flagged_fraction"] = 0.5
    desk.vet()
    size = desk.ledger().size
    digest = pq.read_table(desk.bench.out / "findings.parquet").column("sample_digest")[0].as_py()
    values = {
        "signer": "data@south.example",
        "file": hashlib.sha256((desk.bench.data / "south" / "c.arrow").read_bytes()).hexdigest(),
        "sample": name_sample(desk.state, digest),
    }
    if target == "later":
        desk.revoke(Revocation("source", "south", "r", since="2026-11-24T00:00:00Z"))
        assert desk.vet().verdict.decision == "admitted"
        return
    desk.revoke(Revocation(target, values[target], "r"))  # type: ignore[arg-type] # one of them

    with pytest.raises(RevokedError):
        desk.vet(out=Path(desk.bench.top / "second"))
    with desk.ledger() as ledger:
        assert ledger.size == size + 1
    if target == "sample":
        forget_sample(desk.state, digest)
        with pytest.raises(StoreError, match="nobody can tell"):
            desk.vet()


def test_the_verdict_of_a_run_is_read_back_with_its_overrides(desk: Desk) -> None:
    from millcert.verdict import verdict_from_mapping

    desk.approve(desk.propose(desk.override(desk.vet().verdict)))
    verdict = desk.vet().verdict

    assert verdict_from_mapping(json.loads(verdict.to_json())) == verdict
    plain = replace(verdict, overrides=())
    assert "overrides" not in plain.to_mapping()
    assert verdict_from_mapping(plain.to_mapping()) == plain
