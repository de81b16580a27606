"""The audit recomputes what the checks said: a finding kept back, put in, moved or edited is found without the gate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from millcert.errors import LedgerError
from millcert.provenance.erasure import erase_run, erase_samples
from millcert.provenance.finding_audit import FindingAudit, compare_published
from millcert.provenance.finding_leaf import format_record
from millcert.provenance.ledger import Entry, LoggedEntry
from millcert.provenance.lookup import SampleRun
from millcert.provenance.sample_audit import RunAudit, audit_run
from millcert.provenance.state import StateFolder
from millcert.testing.sample_runs import RECORDED_AT, add_run, digests_of, signed_ledger

DIGESTS = [one.tobytes() for one in digests_of(40, seed=62)]
FILES = {"a/x": DIGESTS, "b/y": [None, DIGESTS[1]]}
Findings = Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]


def said(check: str, score: float = 0.9) -> Mapping[str, Any]:
    return {"action": "report", "check": check, "group": "1", "reason": "x", "score": score, "threshold": 0.5}


FINDINGS: Findings = {
    ("a/x", 3): [said("label_noise")],
    ("a/x", 17): [said("label_noise"), said("near_copies")],
    ("b/y", 1): [said("near_copies", 0.7)],
}


def check(name: str, flagged: int | None) -> Entry:
    return Entry("check_summary", "ab" * 32, RECORDED_AT, {"name": name, "flagged": flagged})


CHECKS = [
    check("label_noise", 2),
    check("near_copies", 2),
    check("shift", 0),
    Entry("check_summary", "ab" * 32, RECORDED_AT, {"name": "expectations", "evaluated": 3}),
]


def made(top: Path, findings: Findings = FINDINGS) -> tuple[StateFolder, LoggedEntry]:
    return StateFolder(top), add_run(top, FILES, secret=b"v" * 32, findings=findings)


def test_findings_are_whole_before_and_after_erasures(tmp_path: Path) -> None:
    state, logged = made(tmp_path)
    with signed_ledger(tmp_path) as ledger, SampleRun(state, logged) as run:
        assert audit_run(run, CHECKS) == RunAudit(records=42, samples=41, erased=0, flagged=3)
        for row in (17, 18):
            erase_samples(run, [run.at("a/x", row)], ledger, reason="ticket", recorded_at=RECORDED_AT)
        assert audit_run(run, CHECKS) == RunAudit(records=42, samples=41, erased=2, flagged=2)
        erase_run(run, state, ledger, reason="ticket", recorded_at=RECORDED_AT)
        assert audit_run(run, CHECKS) == RunAudit(records=42, samples=41, erased=41, flagged=0)


def test_a_finding_that_the_gate_kept_back_is_missed_by_the_checks_own_count(tmp_path: Path) -> None:
    """The tree of the rest is sorted, complete in itself and logged; only the check's entry tells."""
    state, logged = made(tmp_path, {place: one for place, one in FINDINGS.items() if place != ("a/x", 3)})

    with SampleRun(state, logged) as run:
        with pytest.raises(LedgerError, match="label_noise of 1 samples, and by the ledger it flagged 2"):
            audit_run(run, CHECKS)
        assert audit_run(run, []).flagged == 2


def test_findings_that_no_check_has_or_of_no_sample_are_found(tmp_path: Path) -> None:
    state, logged = made(tmp_path / "more")
    with SampleRun(state, logged) as run, pytest.raises(LedgerError, match="label_noise of 2 samples"):
        audit_run(run, [check("label_noise", 1)])
    state, logged = made(tmp_path / "none", {**FINDINGS, ("a/x", 99): [said("label_noise")]})
    with SampleRun(state, logged) as run, pytest.raises(LedgerError, match="1 findings are of no sample"):
        audit_run(run, [])


def test_findings_that_were_moved_replaced_or_edited_are_found(tmp_path: Path) -> None:
    state, logged = made(tmp_path)
    folder = next((tmp_path / "provenance").iterdir())
    records, sealed = folder / "findings.records", folder / "findings.sealed"
    whole, words = records.read_bytes(), sealed.read_bytes()
    for edited, expected in [
        (whole[76:152] + whole[:76] + whole[152:], "out of order"),
        (whole[:76] * 2 + whole[152:], "out of order"),
        (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], "another root"),
        (whole[:100], "ends too early"),
    ]:
        records.write_bytes(edited)
        with SampleRun(state, logged) as run, pytest.raises(LedgerError, match=expected):
            audit_run(run, CHECKS)
    records.write_bytes(whole)
    sealed.write_bytes(bytes(len(words)))
    with SampleRun(state, logged) as run, pytest.raises(LedgerError, match="damaged"):
        audit_run(run, CHECKS)


def test_a_record_that_nobody_can_read_is_found_though_its_leaf_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millcert.testing.sample_runs.format_record", lambda _: b"\xff")
    state, logged = made(tmp_path)

    with SampleRun(state, logged) as run, pytest.raises(LedgerError, match="findings of a sample are none"):
        audit_run(run, CHECKS)


def published() -> list[tuple[str, int, bytes]]:
    return [(file, row, format_record(list(one))) for (file, row), one in FINDINGS.items()]


def test_published_findings_are_compared_one_by_one(tmp_path: Path) -> None:
    state, logged = made(tmp_path)
    other = published()
    other[0] = (*other[0][:2], format_record([said("label_noise", 0.1)]))
    with signed_ledger(tmp_path) as ledger, SampleRun(state, logged) as run:
        assert compare_published(run, published()) == 3
        for wrong, words in [
            (published()[1:], "2 samples have published findings, 3 by the ledger"),
            (other, "something else of row 3"),
            ([*published(), ("a/x", 4, b"{}")], "something else of row 4"),
            ([("a/x", 40, b"{}")], "no row 40"),
            ([("nowhere", 0, b"{}")], "no row 0 of 'nowhere'"),
        ]:
            with pytest.raises(LedgerError, match=words):
                compare_published(run, wrong)
        erase_samples(run, [run.at("a/x", 3)], ledger, reason="ticket", recorded_at=RECORDED_AT)
        assert compare_published(run, other) == 3  # of an erased sample nobody can tell


def test_a_run_that_keeps_no_findings_has_none_to_compare(tmp_path: Path) -> None:
    logged = add_run(tmp_path, FILES, secret=b"v" * 32)
    with SampleRun(StateFolder(tmp_path), logged) as run:
        assert audit_run(run, CHECKS).flagged == 0
        with pytest.raises(LedgerError, match="keeps no findings"):
            compare_published(run, [])
        with pytest.raises(LedgerError, match="keeps no findings"):
            FindingAudit(run)
