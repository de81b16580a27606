"""`millcert ledger init`, `backup`, `restore`, `compact`, and `--ledger` on the commands that read."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from millcert.cli.main import main
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.ledger import Entry, open_ledger
from millcert.testing.private_postgres import PrivatePostgres

WHEN = "2026-11-23T02:38:55Z"
ORIGIN = "example.com/l"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MILLCERT_HOME", "MILLCERT_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite:///data/one.db"
    server: PrivatePostgres = request.getfixturevalue("postgres")
    return server.url_of(schema=f"t{uuid4().hex[:12]}")


def append(url: str | None, count: int, state: str = ".millcert") -> None:
    key = load_or_create_key(Path(state) / "keys" / "ledger.key")
    with open_ledger(Path(state) / "ledger.db", origin=ORIGIN, key=key, url=url, create=True) as ledger:
        ledger.append([Entry("verdict", f"set-{number}", WHEN, {"number": number}) for number in range(count)])


def answer_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == code
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_ledger_is_made_used_backed_up_restored_and_compacted(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = answer_of(capsys, "ledger", "init", "--ledger", url, "--origin", ORIGIN)
    assert (made["origin"], made["size"]) == (ORIGIN, 0)
    append(url, 5)
    assert len(answer_of(capsys, "ledger", "find", "--ledger", url)["entries"]) == 5
    monkeypatch.setenv("MILLCERT_LEDGER", url)
    assert answer_of(capsys, "ledger", "verify")["size"] == 5
    assert answer_of(capsys, "ledger", "show", "3")["subject"] == "set-3"

    assert answer_of(capsys, "ledger", "backup", "b.db")["size"] == 5
    assert answer_of(capsys, "ledger", "compact")["size"] == 5
    assert answer_of(capsys, "ledger", "verify", "--ledger", "b.db")["size"] == 5
    monkeypatch.delenv("MILLCERT_LEDGER")
    restored = answer_of(capsys, "ledger", "restore", "b.db", "--state", "drill", "--key", ".millcert/ledger.vkey")
    assert restored["size"] == 5
    assert answer_of(capsys, "ledger", "verify", "--state", "drill")["compared_sizes"] == [5]
    assert Path("drill/ledger.vkey").read_text() == Path(".millcert/ledger.vkey").read_text()


def test_the_answers_say_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    append(None, 2)

    for arguments in (["init", "--origin", ORIGIN], ["backup", "b.db"], ["compact"]):
        assert main(["ledger", *arguments]) == 0
        assert "next: " in capsys.readouterr().out.splitlines()[-1]
    assert main(["ledger", "restore", "b.db", "--state", "new", "--key", ".millcert/ledger.vkey"]) == 0
    assert "restored  example.com/l  2 entries" in capsys.readouterr().out


def test_an_older_backup_is_refused_and_a_successor_names_what_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    append(None, 2)
    answer_of(capsys, "ledger", "backup", "old.db")
    append(None, 3)
    Path(".millcert/ledger.db").unlink()
    for left in Path(".millcert").glob("ledger.db-*"):
        left.unlink()

    refused = answer_of(capsys, "ledger", "restore", "old.db", code=3)
    assert refused["error"]["code"] == "integrity.rollback"
    assert not Path(".millcert/ledger.db").exists()
    # Reading goes on, in the older copy, but for what compares it with what was seen.
    assert answer_of(capsys, "ledger", "show", "1", "--ledger", "old.db")["subject"] == "set-1"
    assert answer_of(capsys, "ledger", "verify", "--ledger", "old.db", code=3)["error"]["code"] == "integrity.rollback"

    succeeding = ["--predecessor", ".millcert", "--reason", "disk lost"]
    same = answer_of(capsys, "ledger", "init", "--state", "new", "--origin", ORIGIN, *succeeding, code=2)
    assert "two histories" in same["error"]["message"]
    made = answer_of(capsys, "ledger", "init", "--state", "new", "--origin", "example.com/l2", *succeeding)
    assert made["size"] == 1
    first = answer_of(capsys, "ledger", "show", "0", "--state", "new")
    assert (first["kind"], first["subject"], first["body"]["size"]) == ("predecessor", ORIGIN, 3)
    assert first["body"]["checkpoint"] == Path(".millcert/ledger.checkpoint").read_text()
    again = answer_of(capsys, "ledger", "init", "--state", "new", "--origin", "example.com/l2", *succeeding, code=2)
    assert "only a new one" in again["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init"], "needs its name"),
        (["init", "--origin", ORIGIN, "--writer", "w"], "are for a ledger in PostgreSQL"),
        (["init", "--sql"], "are for a ledger in PostgreSQL"),
        (["init", "--origin", ORIGIN, "--reason", "r"], "--predecessor goes with"),
        (["init", "--predecessor", "old", "--reason", "r"], "--predecessor goes with"),
        (["init", "--origin", ORIGIN, "--predecessor", "old", "--reason", "r"], "no ledger key file"),
        (["verify", "--ledger", "mysql://u:secret@h/d"], "no ledger key file"),
        (["compact"], "no ledger at"),
        (["restore", "b.db"], "no ledger key file"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    answer = answer_of(capsys, "ledger", *arguments, code=2)

    assert message in answer["error"]["message"]


def test_a_url_of_another_database_is_refused_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    append(None, 1)

    assert main(["-v", "ledger", "verify", "--ledger", "mysql://u:secret@h/d"]) == 2

    told = capsys.readouterr()
    assert "scheme" in told.err
    assert "secret" not in told.err + told.out


def test_the_statements_are_printed_for_those_who_run_them_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is connected to: the host does not exist."""
    url = "postgresql://owner@nowhere.invalid/db?schema=gate"
    assert main(["ledger", "init", "--sql", "--ledger", url, "--writer", 'odd"name', "--reader", "audit"]) == 0

    text = capsys.readouterr().out
    assert text.startswith("BEGIN;\n")
    assert text.endswith("COMMIT;\n")
    assert 'GRANT INSERT ON "gate".entries' in text
    assert '"odd""name"' in text


def test_a_server_that_is_not_there_is_exit_5(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    append(None, 1)

    answer = answer_of(capsys, "ledger", "verify", "--ledger", f"postgresql:///db?host={tmp_path}", code=5)

    assert answer["error"]["code"] == "store.error"
    assert "retry is safe" in answer["error"]["hint"]


def test_a_predecessor_of_which_nothing_was_seen_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    append(None, 1)
    Path(".millcert/ledger.checkpoint").unlink()
    succeeding = ["--predecessor", ".millcert", "--reason", "r"]

    answer = answer_of(capsys, "ledger", "init", "--state", "new", "--origin", "example.com/l2", *succeeding, code=2)

    assert "No checkpoint was kept" in answer["error"]["message"]


def test_roles_are_given_their_rights_by_the_command(
    postgres: PrivatePostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.url_of(schema=f"t{uuid4().hex[:12]}")

    assert main(["ledger", "init", "--ledger", url, "--writer", "pg_monitor", "--reader", "pg_read_all_stats"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ready  a ledger without a name yet"
    assert lines[1:3] == ["  may append: pg_monitor", "  may read: pg_read_all_stats"]
    append(url, 1)
    assert answer_of(capsys, "ledger", "verify", "--ledger", url)["size"] == 1
