"""`millcert ledger sample` and `erased`: an auditor's first question, and what was erased, with proofs that verify."""

import json
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.provenance.checkpoint import parse_vkey
from millcert.provenance.evidence_verify import verify_evidence
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.ledger import Entry
from millcert.provenance.override import Override, approve_act, list_overrides, propose_act
from millcert.provenance.standing import read_standing
from millcert.provenance.timestamp import instant
from millcert.provenance.tlog_proof import verify_tlog_proof
from millcert.testing import sample_runs
from millcert.testing.role_people import office, record_roles, say, write_key
from millcert.testing.sample_runs import RECORDED_AT, add_run, digests_of, signed_ledger

DIGESTS = [one.tobytes() for one in digests_of(12, seed=61)]
SAID = {"action": "quarantine", "check": "label_noise", "group": "1", "reason": "x", "score": 0.9, "threshold": 0.5}
WHY = ["--reason", "ticket 7"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs and roles: sample 0 is flagged in the first and not in the second run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    state = tmp_path / ".millcert"
    key = load_or_create_key(state / "keys" / "ledger.key")
    monkeypatch.setattr(sample_runs, "_test_key", lambda _: key)
    findings = {("north/a.jsonl", 0): [SAID]}
    add_run(state, {"north/a.jsonl": DIGESTS[:6], "south/b": DIGESTS[5:9]}, secret=b"1" * 32, findings=findings)
    add_run(state, {"north/a.jsonl": DIGESTS[1:12]}, secret=b"2" * 32, dataset="birds", findings={})
    with signed_ledger(state) as ledger:
        record_roles(ledger, office(), by="bo", at=RECORDED_AT)
    for name in ("ana", "bo"):
        write_key(tmp_path, name)
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_where_it_was_whose_and_what_was_said_of_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "ledger", "sample", "--digest", DIGESTS[0].hex(), "--proof")

    (asked,) = answer["samples"]
    assert (asked["digest"], asked["present"]) == (DIGESTS[0].hex(), 1)
    pets, birds = asked["runs"]
    (found,) = pets["samples"]
    assert (pets["status"], found["file"], found["row"], found["signer"]) == (
        "present",
        "north/a.jsonl",
        0,
        "data@north.example",
    )
    assert (found["outcome"], found["findings"]) == ("quarantined", [SAID])
    assert (pets["verdict"]["decision"], pets["checks"][0]["version"]) == ("admitted", "1")
    assert [source["source"] for source in pets["sources"]] == ["north"]
    assert (birds["status"], birds["samples"], birds["sources"]) == ("absent", [], [])
    vkeys = [parse_vkey((home / ".millcert" / "ledger.vkey").read_text())]
    assert verify_evidence(pets["evidence"].encode(), vkeys).runs[0].samples[0].digest == DIGESTS[0].hex()
    assert verify_evidence(birds["evidence"].encode(), vkeys).runs[0].absent == (DIGESTS[0].hex(),)
    assert "evidence" not in ask(capsys, "ledger", "sample", "--digest", DIGESTS[0].hex())["samples"][0]["runs"][0]


def test_a_place_is_asked_of_the_newest_run_that_has_the_file_or_of_the_one_that_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = ask(capsys, "ledger", "sample", "--row", "north/a.jsonl:0")["samples"][0]
    assert (newest["digest"], newest["present"]) == (DIGESTS[1].hex(), 2)
    oldest = newest["runs"][0]["run"]
    assert (
        ask(capsys, "ledger", "sample", "--row", "north/a.jsonl:0", "--run", oldest[:12])["samples"][0]["digest"]
        == DIGESTS[0].hex()
    )
    (limited,) = ask(capsys, "ledger", "sample", "--row", "north/a.jsonl:0", "--limit", "1")["samples"]
    assert [one["dataset"] for one in limited["runs"]] == ["birds"]


def test_overrides_and_revocations_that_speak_of_it_are_named_and_proved(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = DIGESTS[5].hex()
    revoked = ask(capsys, "revoke", "sample", "--digest", digest, *WHY, "--key", "ana.key")["indexes"]
    source = ask(capsys, "revoke", "source", "south", *WHY, "--key", "ana.key")["indexes"]
    (first, second) = ask(capsys, "ledger", "sample", "--digest", digest, "--proof")["samples"][0]["runs"]
    assert [(one["index"], one["names_sample"]) for one in first["revocations"]] == [
        (revoked[0], True),
        (source[0], True),
    ]
    assert [(one["index"], one["by"], one["lifted_at"]) for one in second["revocations"]] == [(revoked[0], "ana", None)]
    vkeys = [parse_vkey((home / ".millcert" / "ledger.vkey").read_text())]
    for one in first["proofs"].values():
        verify_tlog_proof(one["proof"].encode(), one["leaf"].encode(), vkeys)
    assert {str(one) for one in (*revoked, *source)} <= set(first["proofs"])

    ask(capsys, "revoke", "lift", str(source[0]), *WHY, "--key", "bo.key")
    other = ask(capsys, "ledger", "sample", "--digest", DIGESTS[1].hex(), "--proof")["samples"][0]["runs"][0]
    assert [(one["target"], one["names_sample"]) for one in other["revocations"]] == [
        ("sample", False),
        ("source", False),
    ]
    assert other["revocations"][1]["lifted_at"] is not None
    assert main(["ledger", "sample", "--digest", digest]) == 0
    text = capsys.readouterr().out
    assert "REVOKED (this sample) " in text
    assert "REVOKED (this sample, lifted at " in text


def test_overrides_of_its_run_are_named_with_who_why_and_until_when(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with signed_ledger(home / ".millcert") as ledger:
        verdict = next(one for one in ledger.find(kind="verdict") if one.entry.body["dataset"] == "pets")
        wanted = Override(
            scope="check",
            dataset="pets",
            verdict_digest=verdict.entry.body["verdict_digest"],
            input_root=verdict.entry.subject,
            policy_digest="cd" * 32,
            reason="known",
            expires_at="2026-12-01T00:00:00Z",
            checks=("label_noise",),
        )
        act = propose_act(wanted, ledger=ledger.origin, book=office(), recorded_at=RECORDED_AT)
        index = say(ledger, act, by="ana", book=office())
        (state,) = list_overrides(read_standing(ledger), instant(RECORDED_AT))
        about = {"ledger": ledger.origin, "roles_sha256": office().sha256, "recorded_at": RECORDED_AT}
        approval = say(ledger, approve_act(state, **about), by="bo", book=office())
    question = ["ledger", "sample", "--digest", DIGESTS[0].hex(), "--proof", "--at"]

    pets, birds = ask(capsys, *question, "2026-11-24T00:00:00Z")["samples"][0]["runs"]

    (override,) = pets["overrides"]
    assert (override["index"], override["state"], override["reason"]) == (index, "approved", "known")
    assert (override["proposed_by"], override["approved_by"], override["is_used"]) == ("ana", ["bo"], False)
    assert override["expires_at"] == "2026-12-01T00:00:00Z"
    assert {str(index), str(approval)} <= set(pets["proofs"])
    assert birds["overrides"] == []
    later = ask(capsys, *question, "2027-01-01T00:00:00Z")["samples"][0]["runs"][0]
    assert later["overrides"][0]["state"] == "expired"
    assert main(["ledger", "sample", "--digest", DIGESTS[0].hex()]) == 0
    assert f"override #{index} of check" in capsys.readouterr().out


def test_an_erased_place_leads_to_its_tombstone_and_an_erased_digest_to_those_of_the_run(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    erase = ["evidence", "erase", "--digest", DIGESTS[2].hex(), *WHY, "--key", "bo.key"]
    assert ask(capsys, *erase)["erased"] == 2

    (place,) = ask(capsys, "ledger", "sample", "--row", "north/a.jsonl:1", "--proof")["samples"]
    assert (place["digest"], place["present"]) == (None, 0)
    (run,) = place["runs"]
    (tombstone,) = run["erasures"]
    assert (run["status"], tombstone["names_sample"], tombstone["by"]) == ("unknown", True, "bo")
    assert (tombstone["reason"], tombstone["fault"]) == ("ticket 7", "")
    assert str(tombstone["index"]) in run["proofs"]
    runs = ask(capsys, "ledger", "sample", "--digest", DIGESTS[2].hex())["samples"][0]["runs"]
    assert [(one["status"], len(one["erasures"])) for one in runs] == [("unknown", 1), ("unknown", 1)]
    assert main(["ledger", "sample", "--row", "north/a.jsonl:1"]) == 0
    text = capsys.readouterr().out
    assert "this one among them, by bo: ticket 7" in text
    assert text.splitlines()[-1] == "next: millcert ledger erased"


def test_what_was_erased_is_listed_with_who_said_so_and_whether_it_counts(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(capsys, "evidence", "erase", "--digest", DIGESTS[2].hex(), *WHY, "--key", "bo.key")
    with signed_ledger(home / ".millcert") as ledger:
        body = {"dataset": "pets", "leaves": [], "reason": "by the keeper", "run": "ab" * 32, "scope": "run"}
        ledger.append([Entry("erasure", "ab" * 32, RECORDED_AT, body), Entry("erasure", "cd" * 32, RECORDED_AT, {})])

    answer = ask(capsys, "ledger", "erased", "--proof")

    assert [(one["by"], one["fault"], one["scope"]) for one in answer["erasures"]] == [
        ("bo", "", "samples"),
        ("bo", "", "samples"),
        ("", "unsigned", "run"),
        ("", "unsigned", ""),
    ]
    vkeys = [parse_vkey((home / ".millcert" / "ledger.vkey").read_text())]
    for one in answer["proofs"].values():
        verify_tlog_proof(one["proof"].encode(), one["leaf"].encode(), vkeys)
    assert len(ask(capsys, "ledger", "erased", "--run", "abab")["erasures"]) == 1
    assert main(["ledger", "erased"]) == 0
    assert "all samples, unsigned: by the keeper  IGNORED (unsigned)" in capsys.readouterr().out


def test_a_row_and_a_text_name_the_sample_that_the_gate_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from millcert.checks.sample_digest import sample_digests
    from millcert.cli.dataset import open_dataset

    rows = [{"text": "a cat", "label": 1}, {"text": "a dog", "label": 2.5}, {"text": "a cat", "label": 3}]
    (home / "data").mkdir()
    (home / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ((_, batch),) = open_dataset(["data"], None).read()
    digests = [one.tobytes() for one in sample_digests(batch)]
    add_run(home / ".millcert", {"north/t.jsonl": digests}, secret=b"3" * 32, dataset="texts")

    typed = ask(capsys, "ledger", "sample", "--record", json.dumps(rows[0]), "--data", "data")["samples"]
    bare = ask(capsys, "ledger", "sample", "--record", json.dumps(rows[1]))["samples"]
    (home / "cat.txt").write_text("a cat")
    texts = ask(capsys, "ledger", "sample", "--text", "@cat.txt", "--data", "data")["samples"]

    assert [(one["digest"], one["present"]) for one in typed] == [(digests[0].hex(), 1)]
    assert [(one["digest"], one["present"]) for one in bare] == [(digests[1].hex(), 1)]
    assert [one["digest"] for one in texts] == [digests[0].hex(), digests[2].hex()]
    assert texts[1]["runs"][-1]["samples"][0]["row"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--digest", "ab"],
        ["--digest", "ab" * 32, "--row", "a:1"],
        ["--row", "north/a.jsonl"],
        ["--row", "north/a.jsonl:x"],
        ["--row", "north/a.jsonl:99"],
        ["--row", "nowhere:1"],
        ["--digest", "ab" * 32, "--run", "ab"],
        ["--digest", "ab" * 32, "--data", "x"],
        ["--text", "a"],
        ["--text", "nobody said this", "--data", "d.jsonl"],
        ["--text", "@bad.txt", "--data", "d.jsonl"],
        ["--record", "[1]"],
        ["--record", '{"a": 1} {"a": 2}'],
        ["--record", '{"b": "x"}', "--data", "d.jsonl"],
        ["--digest", "ab" * 32, "--at", "yesterday"],
    ],
)
def test_a_question_that_names_no_sample_is_a_usage_error(
    arguments: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "d.jsonl").write_text('{"text": "a", "n": 1}\n')
    (home / "bad.txt").write_bytes(b"\xff")

    assert ask(capsys, "ledger", "sample", *arguments, code=2)["error"]["code"].startswith("usage.")
