"""`millcert ledger impact`, `as-of`, `changes`, `unsigned` on the command line, with proofs that verify."""

import json
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.provenance.ledger import Entry
from millcert.provenance.revocation import Revocation, active_revocations, reinstatement_act, revocation_act
from millcert.provenance.standing import read_standing
from millcert.provenance.state import load_ledger_vkeys
from millcert.provenance.tlog_proof import verify_tlog_proof
from millcert.testing.role_people import office, record_roles, say
from millcert.testing.sample_runs import RECORDED_AT, add_run, digests_of, signed_ledger

DIGESTS = digests_of(6, seed=8)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".millcert"
    folder.mkdir()
    add_run(folder, {"north/a": DIGESTS[:3], "south/b": DIGESTS[3:5]}, secret=b"1" * 32, dataset="pets")
    add_run(folder, {"south/b": DIGESTS[5:]}, secret=b"2" * 32, dataset="birds")
    return folder


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(["ledger", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_blast_radius_of_a_source_is_its_runs_with_proofs(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "impact", "--source", "north", "--proof")

    (run,) = answer["runs"]
    assert (run["dataset"], run["decision"], run["certificates"]) == ("pets", "admitted", [])
    with signed_ledger(state) as ledger:
        for entry in run["entries"]:
            leaf = ledger.get(entry["index"]).entry.leaf()
            proof = run["proofs"][str(entry["index"])].encode()
            verify_tlog_proof(proof, leaf, load_ledger_vkeys([state / "ledger.vkey"]))
    assert "proofs" not in ask(capsys, "impact", "--source", "north")["runs"][0]


def test_the_blast_radius_of_nothing_is_a_usage_error(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "impact", code=2)["error"]["code"] == "usage.error"


def test_the_state_at_a_time_names_each_data_set_s_run(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [run["dataset"] for run in ask(capsys, "as-of", RECORDED_AT)["runs"]] == ["birds", "pets"]
    assert ask(capsys, "as-of", "2020-01-01T00:00:00Z")["runs"] == []
    ask(capsys, "as-of", "yesterday", code=2)


def test_the_state_at_a_time_has_the_roles_and_revocations_of_then(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = ["2026-11-23T04:00:00Z", "2026-11-23T05:00:00Z", "2026-11-23T06:00:00Z"]
    book = office()
    with signed_ledger(state) as ledger:
        about = {"ledger": ledger.origin, "roles_sha256": book.sha256}
        record_roles(ledger, book, by="bo", at=times[0])
        index = say(
            ledger, revocation_act(Revocation("source", "x", "r"), **about, recorded_at=times[1]), by="ana", book=book
        )
        (found,) = active_revocations(read_standing(ledger))
        say(ledger, reinstatement_act(found, reason="r", **about, recorded_at=times[2]), by="bo", book=book)

    answers = [ask(capsys, "as-of", time, "--proof") for time in (RECORDED_AT, *times)]

    assert [one["roles_sha256"] for one in answers] == [None, book.sha256, book.sha256, book.sha256]
    assert [[act["index"] for act in one["revocations"]] for one in answers] == [[], [], [index], []]
    assert list(answers[2]["proofs"]) == [str(index)]
    assert main(["ledger", "as-of", times[1]]) == 0
    assert "revoked source:x  by ana: r" in capsys.readouterr().out


def test_changes_list_every_entry_since_a_size(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "changes", "5")

    assert (answer["old"], answer["new"]) == (5, 9)
    assert answer["kinds"] == {"check_summary": 1, "manifest": 1, "shard_roots": 1, "verdict": 1}
    assert [entry["index"] for entry in answer["entries"]] == [5, 6, 7, 8]
    assert ask(capsys, "changes", "5", "6")["kinds"] == {"manifest": 1}
    proved = ask(capsys, "changes", "5", "7", "--proof")
    assert sorted(proved["proofs"]) == ["5", "6"]
    with signed_ledger(state) as ledger:
        for index, proof in proved["proofs"].items():
            leaf = ledger.get(int(index)).entry.leaf()
            verify_tlog_proof(proof.encode(), leaf, load_ledger_vkeys([state / "ledger.vkey"]))
    ask(capsys, "changes", "5", "99", code=2)


def test_text_answers_end_in_what_to_do_next(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with signed_ledger(state) as ledger:
        ledger.append([Entry("verdict", "ab" * 32, RECORDED_AT, {"decision": "admitted"})])
    for arguments, words in [
        (["impact", "--source", "south"], "not looked into: #9"),
        (["as-of", RECORDED_AT], "2 data sets"),
        (["changes", "1"], "2 check_summary"),
        (["unsigned"], "0 sources without"),
    ]:
        assert main(["ledger", *arguments]) == 0
        text = capsys.readouterr().out
        assert words in text, text
        assert text.splitlines()[-1].startswith("next: ")


def test_unsigned_sources_are_listed(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "unsigned")["sources"] == []
