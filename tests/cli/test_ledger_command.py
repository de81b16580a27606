"""`millcert ledger`: find, show, prove, verify."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.ledger import Entry, open_ledger
from millcert.provenance.state import load_ledger_vkeys
from millcert.provenance.tlog_proof import verify_tlog_proof

WHEN = "2026-11-23T02:38:55Z"
ENTRIES = [
    Entry("manifest", "aa" * 32, WHEN, {"dataset": "pets"}),
    Entry("verdict", "aa" * 32, WHEN, {"dataset": "pets", "decision": "admitted"}),
    Entry("verdict", "bb" * 32, WHEN, {"dataset": "cars", "decision": "rejected"}),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose state folder has a ledger of three entries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    key = load_or_create_key(tmp_path / ".millcert" / "keys" / "ledger.key")
    with open_ledger(tmp_path / ".millcert" / "ledger.db", origin="example.com/l", key=key, create=True) as ledger:
        ledger.append(ENTRIES[:2])
        (tmp_path / "kept").write_bytes(ledger.checkpoint())
        (tmp_path / "a.json").write_bytes(b'{"version":1}')
        ledger.append(ENTRIES[2:])
    return tmp_path


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize(
    ("arguments", "indexes"),
    [
        ([], [0, 1, 2]),
        (["--kind", "verdict"], [1, 2]),
        (["--subject", "aa" * 32], [0, 1]),
        (["--text", "CARS"], [2]),
        (["--kind", "verdict", "--text", "pets"], [1]),
        (["--limit", "1"], [0]),
        (["--text", "nothing"], []),
    ],
)
def test_entries_are_found(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], indexes: list[int]
) -> None:
    assert main(["ledger", "find", *arguments, "--json"]) == 0

    answer = answer_of(capsys)
    assert [entry["index"] for entry in answer["entries"]] == indexes
    assert answer["origin"] == "example.com/l"


def test_what_was_found_is_listed_for_people(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "find", "--kind", "verdict"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["1", WHEN, "verdict", "aa" * 32]
    assert lines[-2:] == ["2 entries of example.com/l", "next: millcert ledger show 1"]
    assert main(["ledger", "find", "--limit", "1"]) == 0
    assert "there may be more" in capsys.readouterr().out
    assert main(["ledger", "find", "--text", "nothing"]) == 0
    assert capsys.readouterr().out.endswith("next: millcert ledger find --text WORD\n")


def test_an_entry_is_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "show", "2"]) == 0
    assert '"decision": "rejected"' in capsys.readouterr().out

    assert main(["ledger", "show", "2", "--json"]) == 0
    answer = answer_of(capsys)
    assert (answer["index"], answer["kind"], answer["body"]) == (2, "verdict", dict(ENTRIES[2].body))


def test_a_proof_is_printed_as_it_is_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vkeys = load_ledger_vkeys([home / ".millcert" / "ledger.vkey"])

    assert main(["ledger", "prove", "1"]) == 0
    printed = capsys.readouterr().out.encode()
    assert main(["ledger", "prove", "1", "--out", "1.tlog-proof"]) == 0

    assert verify_tlog_proof(printed, ENTRIES[1].leaf(), vkeys).size == 3
    assert (home / "1.tlog-proof").read_bytes() == printed


def test_a_proof_under_an_older_checkpoint_may_be_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "prove", "1", "--size", "2", "--json"]) == 0

    answer = answer_of(capsys)
    assert (answer["index"], answer["size"], answer["leaf"]) == (1, 2, ENTRIES[1].leaf().decode())


def test_a_whole_ledger_is_said_to_be_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "verify"]) == 0
    assert capsys.readouterr().out.startswith("whole  example.com/l  3 entries, 3 signed checkpoints\n")

    assert main(["ledger", "verify", "--checkpoint", "kept", "--json"]) == 0
    assert answer_of(capsys)["compared_sizes"] == [3, 2]


def test_a_ledger_never_seen_before_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".millcert" / "ledger.checkpoint").unlink()

    assert main(["ledger", "verify"]) == 0

    assert "no checkpoint was seen before" in capsys.readouterr().out


def test_an_edited_entry_is_an_integrity_failure_that_names_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = sqlite3.connect(home / ".millcert" / "ledger.db")
    with connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute("UPDATE entries SET leaf = replace(leaf, 'rejected', 'admitted') WHERE idx = 2")
    connection.close()

    assert main(["ledger", "verify"]) == 3
    assert "entry 2 was edited" in capsys.readouterr().err
    for command in (["show", "2"], ["prove", "2"], ["find"]):
        assert main(["ledger", *command]) == 3
    assert main(["ledger", "show", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "3"], 2, "no entry 3"),
        (["prove", "3"], 2, "no entry 3"),
        (["prove", "0", "--size", "1"], 2, "no checkpoint of exactly 1"),
        (["prove", "0", "--out", "kept"], 2, "exists already"),
        (["prove", "0", "--out", "no/such/folder"], 5, "cannot be written"),
        (["verify", "--checkpoint", "nothing"], 2, "no checkpoint at"),
        (["verify", "--checkpoint", "kept/x"], 5, "cannot be read"),
        (["verify", "--checkpoint", ".millcert/ledger.vkey"], 3, "signed note"),
        (["verify", "--checkpoint", "a.json"], 3, "certificate"),
        (["find", "--state", "nowhere"], 2, "no ledger at"),
        (["find", "--limit", "0"], 2, "limit"),
    ],
)
def test_what_goes_wrong_is_told_with_its_exit_code(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["ledger", *arguments]) == code

    assert message in capsys.readouterr().err


def test_a_state_folder_without_the_public_key_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".millcert" / "ledger.vkey").unlink()

    assert main(["ledger", "verify"]) == 2

    assert "no ledger key file" in capsys.readouterr().err
