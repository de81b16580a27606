"""`millcert evidence` and `millcert ledger find --sample`: what an auditor types, and what comes back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.lookup import list_runs
from millcert.provenance.named_sample import name_sample, named_samples
from millcert.provenance.sample_query import run_id_of
from millcert.provenance.state import StateFolder
from millcert.testing import sample_runs
from millcert.testing.role_people import office, record_roles, write_key
from millcert.testing.sample_runs import add_run, digests_of, signed_ledger

DIGESTS = [one.tobytes() for one in digests_of(40, seed=6)]
VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "0.1.0" / "evidence"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the state folder of two runs, with a private key as `millcert vet` makes it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".millcert"
    key = load_or_create_key(folder / "keys" / "ledger.key")
    monkeypatch.setattr(sample_runs, "_test_key", lambda _: key)
    add_run(folder, {"north/a.jsonl": DIGESTS[:30]}, secret=b"1" * 32, dataset="pets")
    add_run(folder, {"north/a.jsonl": DIGESTS[1:40]}, secret=b"2" * 32, dataset="birds")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_evidence_of_a_digest_shows_each_run_and_verifies(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = run(capsys, "evidence", "export", "--digest", DIGESTS[0].hex(), "--out", "e.json")
    verified = run(capsys, "evidence", "verify", "e.json", "--trust", ".millcert/ledger.vkey")

    assert (exported["present"], exported["absent"], exported["not_shown"]) == (1, 1, [])
    pets, birds = verified["runs"]
    assert [(one["file"], one["row"], one["signer"]) for one in pets["samples"]] == [
        ("north/a.jsonl", 0, "data@north.example")
    ]
    assert (pets["verdict"]["decision"], pets["checks"][0]["name"]) == ("admitted", "label_noise")
    assert (birds["samples"], birds["absent"]) == ([], [DIGESTS[0].hex()])


def test_evidence_of_a_place_is_that_of_the_newest_run_or_the_one_that_was_asked(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with signed_ledger(state) as ledger:
        oldest = run_id_of(list_runs(ledger)[0])
    place = ["--file", "north/a.jsonl", "--row", "3"]
    found = []
    for out, options in [("new.json", []), ("old.json", ["--run", oldest[:16]])]:
        run(capsys, "evidence", "export", *place, *options, "--out", out)
        verified = run(capsys, "evidence", "verify", out, "--trust", ".millcert/ledger.vkey")
        found.append(verified["runs"][0]["samples"][0]["digest"])

    assert found == [DIGESTS[4].hex(), DIGESTS[3].hex()]


def test_the_text_answer_ends_in_what_to_do_next(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "export", "--digest", DIGESTS[0].hex(), "--out", "e.json"]) == 0
    assert "next: millcert evidence verify e.json" in capsys.readouterr().out.splitlines()[-1]
    assert main(["evidence", "verify", "e.json", "--trust", ".millcert/ledger.vkey"]) == 0
    shown = capsys.readouterr().out
    assert "present  " + DIGESTS[0].hex()[:16] in shown
    assert "checks: label_noise PASSED" in shown
    assert shown.splitlines()[-1].startswith("  next: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--digest", "ab"],
        ["--digest", "ab" * 32, "--file", "north/a.jsonl", "--row", "1"],
        ["--file", "north/a.jsonl"],
        ["--file", "none", "--row", "1"],
        ["--digest", "ab" * 32, "--run", "zz"],
    ],
)
def test_a_question_that_cannot_be_asked_is_a_usage_error(
    arguments: list[str], state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = run(capsys, "evidence", "export", *arguments, "--out", "e.json", code=2)

    assert answer["error"]["code"] == "usage.error"
    assert not Path("e.json").exists()


def test_evidence_is_never_written_over_a_file(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.json").write_text("mine")

    run(capsys, "evidence", "export", "--digest", DIGESTS[0].hex(), "--out", "e.json", code=2)

    assert Path("e.json").read_text() == "mine"


def test_altered_evidence_is_an_integrity_failure_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(
        capsys, "evidence", "verify", str(VECTORS / "sample-salt.json"), "--trust", str(VECTORS / "ledger.vkey"), code=3
    )

    assert answer["error"]["details"]["reason"] == "sample"


def test_missing_evidence_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "evidence", "verify", "nowhere.json", "--trust", str(VECTORS / "ledger.vkey"), code=2)


def test_the_ledger_answers_in_which_runs_a_sample_was(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(capsys, "ledger", "find", "--sample", DIGESTS[0].hex())
    assert [(one["dataset"], one["status"], one["decision"]) for one in answer["runs"]] == [
        ("pets", "present", "admitted"),
        ("birds", "absent", "admitted"),
    ]
    assert answer["runs"][0]["places"] == [{"file": "north/a.jsonl", "row": 0, "source": "north"}]

    assert main(["ledger", "find", "--sample", DIGESTS[0].hex(), "--limit", "1"]) == 0
    text = capsys.readouterr().out
    assert "was in 0 of 1 runs" in text
    assert "there are 2, see --limit" in text
    run(capsys, "ledger", "find", "--sample", DIGESTS[0].hex(), "--kind", "verdict", code=2)


def test_an_erased_sample_is_shown_by_nobody_and_the_tombstone_is_found(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = DIGESTS[5].hex()
    erased = run(capsys, "evidence", "erase", "--digest", digest, "--reason", "ticket 7")
    assert (erased["erased"], erased["runs"]) == (2, 2)

    answer = run(capsys, "ledger", "find", "--sample", digest)
    tombstones = run(capsys, "ledger", "find", "--kind", "erasure")
    run(capsys, "evidence", "export", "--digest", digest, "--out", "e.json", code=4)
    run(capsys, "evidence", "erase", "--digest", digest, "--reason", "ticket 7", code=2)
    run(capsys, "ledger", "verify")

    assert [one["status"] for one in answer["runs"]] == ["unknown", "unknown"]
    assert [one["body"]["reason"] for one in tombstones["entries"]] == ["ticket 7", "ticket 7"]


def test_a_place_and_a_whole_run_can_be_erased(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with signed_ledger(state) as ledger:
        oldest = run_id_of(list_runs(ledger)[0])
    place = ["--file", "north/a.jsonl", "--row", "0"]

    assert run(capsys, "evidence", "erase", *place, "--reason", "ticket")["erased"] == 1
    assert run(capsys, "evidence", "erase", "--run", oldest, "--whole-run", "--reason", "ticket")["erased"] == 30
    assert main(["ledger", "find", "--sample", DIGESTS[2].hex()]) == 0
    assert "salts of run" in capsys.readouterr().out
    run(capsys, "evidence", "erase", "--whole-run", "--reason", "ticket", code=2)


def test_once_roles_are_in_force_who_erases_signs_for_it(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = DIGESTS[5]
    named = name_sample(StateFolder(state), digest)
    with signed_ledger(state) as ledger:
        record_roles(ledger, office(), by="bo", at=sample_runs.RECORDED_AT)
    erase = ["evidence", "erase", "--digest", digest.hex(), "--reason", "ticket 7"]

    run(capsys, *erase, code=2)
    run(capsys, *erase, "--key", str(write_key(state, "ana")), code=2)
    assert named_samples(StateFolder(state)) == {named: digest}
    key = ["--key", str(write_key(state, "bo"))]
    part = run(capsys, "evidence", "erase", "--file", "north/a.jsonl", "--row", "4", "--reason", "t", *key)
    assert part["forgotten_commitments"] == []  # it is in another run still
    erased = run(capsys, *erase, *key)

    assert (erased["erased"], erased["signed"], erased["forgotten_commitments"]) == (1, True, [named])
    assert run(capsys, "ledger", "verify")["ignored_acts"] == []
    assert [one["by"] for one in run(capsys, "ledger", "acts", "--kind", "erasure")["acts"]] == ["bo", "bo"]


def test_a_ledger_without_runs_or_no_ledger_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["evidence", "export", "--digest", "ab" * 32, "--out", "e.json", "--state", str(tmp_path)]
    run(capsys, *question, code=2)
    signed_ledger(tmp_path).close()
    assert "no run" in run(capsys, *question, code=2)["error"]["message"]


def test_verifying_on_the_command_line_needs_no_database_and_no_numbers(tmp_path: Path) -> None:
    """An air-gapped machine has `cryptography`: what else would be loaded cannot be imported here."""
    banned = ("sqlalchemy", "numpy", "pyarrow", "apache_beam", "sigstore", "pandas", "sklearn", "yaml", "pydantic")
    for name in banned:
        (tmp_path / f"{name}.py").write_text("raise ImportError('this machine does not have it')\n")
    arguments = ["evidence", "verify", str(VECTORS / "both.json"), "--trust", str(VECTORS / "ledger.vkey")]
    ran = subprocess.run(
        [sys.executable, "-m", "millcert", *arguments],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("verified  test.example/ledger")


def test_an_audit_recomputes_every_run(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run(capsys, "evidence", "audit")
    assert [(one["dataset"], one["samples"], one["erased"]) for one in answer["runs"]] == [
        ("pets", 30, 0),
        ("birds", 39, 0),
    ]
    assert main(["evidence", "audit"]) == 0
    assert "whole  #" in capsys.readouterr().out
    for path in state.rglob("rows.0"):
        path.write_bytes(bytes(path.stat().st_size))
    run(capsys, "evidence", "audit", code=3)
