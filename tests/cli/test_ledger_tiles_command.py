"""`millcert ledger export`, `import`, `compare` and `verify --tiles`, as a user calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.provenance.checkpoint import Checkpoint, sign_checkpoint
from millcert.provenance.keys import load_key, load_or_create_key
from millcert.provenance.ledger import Entry, open_ledger
from millcert.provenance.merkle import EMPTY_ROOT

WHEN = "2026-11-23T02:38:55Z"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose state folder has a ledger of five entries; `kept.N` is the checkpoint of N."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    key = load_or_create_key(tmp_path / ".millcert" / "keys" / "ledger.key")
    with open_ledger(tmp_path / ".millcert" / "ledger.db", origin="example.com/l", key=key, create=True) as ledger:
        for size in (2, 5):
            ledger.append([Entry("verdict", f"set-{number}", WHEN, {}) for number in range(size)])
            (tmp_path / f"kept.{size}").write_bytes(ledger.checkpoint())
    return tmp_path


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_ledger_is_exported_verified_mirrored_and_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = ".millcert/ledger.vkey"
    assert main(["ledger", "export", "tiles", "--json"]) == 0
    assert answer_of(capsys)["size"] == 5
    assert main(["ledger", "export", "tiles", "--drop-superseded"]) == 0
    assert "5 entries before), 0 files written" in capsys.readouterr().out

    assert main(["ledger", "verify", "--tiles", "tiles", "--key", key, "--checkpoint", "kept.2", "--json"]) == 0
    report = answer_of(capsys)
    assert (report["size"], report["compared_sizes"]) == (5, [2])
    assert main(["ledger", "verify", "--tiles", "tiles", "--key", key]) == 0
    assert "no checkpoint was seen before" in capsys.readouterr().out

    assert main(["ledger", "import", "tiles", "--state", "mirror", "--key", key]) == 0
    assert "new mirror" in capsys.readouterr().out
    assert main(["ledger", "import", "tiles", "--state", "mirror", "--json"]) == 0
    assert answer_of(capsys)["previous_size"] == 5
    assert main(["ledger", "verify", "--state", "mirror"]) == 0
    capsys.readouterr()
    assert main(["ledger", "find", "--state", "mirror", "--subject", "set-4", "--json"]) == 0
    assert [entry["index"] for entry in answer_of(capsys)["entries"]] == [4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--tiles", "tiles"], "Give --key FILE"),
        (["verify", "--tiles", "tiles", "--state", "."], "Leave one of them out"),
        (["verify", "--key", ".millcert/ledger.vkey"], "--key goes with --tiles"),
        (["verify", "--tiles", "nowhere", "--key", ".millcert/ledger.vkey"], "no checkpoint in nowhere"),
        (["import", "tiles", "--state", "mirror"], "Give --key FILE"),
        (["export", "tiles", "--state", "nowhere"], "There is no ledger"),
        (["compare", "kept.2", "nothing"], "There is no checkpoint at nothing"),
    ],
)
def test_a_call_that_cannot_be_carried_out_says_what_to_give(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["ledger", *arguments]) == 2

    assert message in capsys.readouterr().err


@pytest.mark.parametrize("where", [[], ["--tiles", "tiles", "--key", ".millcert/ledger.vkey", "--state", "none"]])
def test_two_checkpoints_of_one_history_are_told_so_in_either_order(
    home: Path, capsys: pytest.CaptureFixture[str], where: list[str]
) -> None:
    assert main(["ledger", "export", "tiles"]) == 0
    for pair in (["kept.2", "kept.5"], ["kept.5", "kept.2"], ["kept.5", "kept.5"]):
        capsys.readouterr()
        assert main(["ledger", "compare", *pair, *where, "--json"]) == 0
        answer = answer_of(capsys)
        assert answer["sizes"] == sorted(int(name[-1]) for name in pair)
        assert bool(answer["proof"]) == (pair[0] != pair[1])


def test_a_log_that_says_two_things_is_named_with_sizes_and_roots(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = load_key(home / ".millcert" / "keys" / "ledger.key")
    for size in (2, 5):
        (home / f"forged.{size}").write_bytes(sign_checkpoint(Checkpoint("example.com/l", size, bytes(32)), key))

    for pair in (["kept.5", "forged.5"], ["forged.2", "kept.5"], ["kept.2", "forged.5"]):
        assert main(["ledger", "compare", *pair, "--json"]) == 3
        error = answer_of(capsys)["error"]
        assert error["code"] == "integrity.equivocation"
        assert bytes(32).hex() in error["message"]
        assert error["message"].count(" entries ") >= 1


def test_checkpoints_of_two_sizes_without_the_log_cannot_be_compared(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = load_key(home / ".millcert" / "keys" / "ledger.key")
    (home / "kept.9").write_bytes(sign_checkpoint(Checkpoint("example.com/l", 9, bytes(32)), key))
    arguments = ["--key", ".millcert/ledger.vkey"]

    assert main(["ledger", "compare", "kept.2", "kept.5", "--state", "none", *arguments]) == 4
    assert "no log is given" in capsys.readouterr().err
    assert main(["ledger", "compare", "kept.2", "kept.9", *arguments]) == 4
    assert "has 5 entries" in capsys.readouterr().err
    (home / "none").mkdir()
    (home / "empty").write_bytes(sign_checkpoint(Checkpoint("example.com/l", 0, EMPTY_ROOT), key))
    assert main(["ledger", "compare", "empty", "kept.9", "--state", "none", *arguments]) == 0


def test_checkpoints_of_two_logs_are_no_pair(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = load_or_create_key(home / "other" / "keys" / "ledger.key")
    with open_ledger(home / "other" / "ledger.db", origin="example.com/other", key=key, create=True) as ledger:
        (home / "strange").write_bytes(ledger.checkpoint())
    both = ["--key", ".millcert/ledger.vkey", "--key", "other/ledger.vkey"]

    assert main(["ledger", "compare", "kept.2", "strange", *both]) == 3
    assert "of two logs" in capsys.readouterr().err
    assert main(["ledger", "compare", "kept.2", "kept.5", *both, "--state", "other"]) == 4
    assert main(["ledger", "compare", "kept.2", "strange"]) == 3
    assert "No known key" in capsys.readouterr().err
