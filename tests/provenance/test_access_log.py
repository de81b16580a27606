"""Who asked the ledger what leaves a line that nobody can take back, and that holds nobody's data."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from millcert.cli.main import main
from millcert.errors import IntegrityError, LedgerError, StoreError, UsageError
from millcert.provenance.access_log import BEGINNING, AccessLog, Head, anchor_entry
from millcert.testing.sample_runs import add_run, digests_of, ledger_key

AT = "2026-11-23T03:00:00Z"
DIGESTS = digests_of(3, seed=4)


def asked(log: AccessLog, **words: Any) -> bool:
    return log.record(at=AT, by="ed", command="millcert ledger find", asked=words)


@pytest.fixture
def log(tmp_path: Path) -> AccessLog:
    log = AccessLog(tmp_path)
    for sample in ("first", "second", "third"):
        assert asked(log, sample=sample, limit=3, proof=True, digests=("a", "b"), text=None)
    return log


def test_each_question_is_a_line_that_names_the_one_before(log: AccessLog) -> None:
    lines = list(log.lines())

    assert [one.number for one in lines] == [0, 1, 2]
    assert [one.previous for one in lines] == [BEGINNING, lines[0].sha256, lines[1].sha256]
    assert log.head() == Head(3, lines[2].sha256)
    assert (lines[0].by, lines[0].at, lines[0].command) == ("ed", AT, "millcert ledger find")


def test_words_that_were_asked_for_are_kept_keyed_and_can_be_asked_for(log: AccessLog, tmp_path: Path) -> None:
    (line, *_) = log.lines()

    assert (line.asked["limit"], line.asked["proof"], "text" in line.asked) == (3, True, False)
    assert line.asked["sample"] == log.keyed("sample", "first") != log.keyed("text", "first")
    assert line.asked["digests"] == [log.keyed("digests", "a"), log.keyed("digests", "b")]
    assert b"first" not in (tmp_path / "access.log").read_bytes()
    for path in (tmp_path / "access.log", tmp_path / "keys" / "access.key"):
        assert path.stat().st_mode & 0o077 == 0


def test_two_ledgers_keep_the_same_word_differently(log: AccessLog, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = AccessLog(tmp_path / "b")
    with pytest.raises(UsageError, match="no key"):
        other.keyed("sample", "first")
    asked(other, sample="first")

    assert next(other.lines()).asked["sample"] != log.keyed("sample", "first")


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("how", ["edit", "cut", "twice", "swap"])
def test_every_change_of_a_line_but_a_cut_end_is_found(log: AccessLog, tmp_path: Path, line: int, how: str) -> None:
    path = tmp_path / "access.log"
    lines = path.read_bytes().splitlines(keepends=True)
    if how == "edit":
        lines[line] = lines[line].replace(b'"by":"ed"', b'"by":"ex"')
    elif how == "cut":
        del lines[line]
    elif how == "twice":
        lines.insert(line, lines[line])
    else:
        lines[line], lines[line - 1] = lines[line - 1], lines[line]
    head = log.head()
    path.write_bytes(b"".join(lines))

    if line == 2 and how in {"edit", "cut"}:
        # The end of a chain is held by who keeps its head: the ledger, by `access anchor`.
        assert log.head() != head
        with pytest.raises(LedgerError, match="no longer begins"):
            log.require_holds(head.lines, head.sha256)
        return
    with pytest.raises(IntegrityError):
        list(log.lines())


def test_a_log_that_grew_still_holds_its_old_head(log: AccessLog) -> None:
    head = log.head()
    asked(log, sample="fourth")

    log.require_holds(head.lines, head.sha256)
    log.require_holds(0, BEGINNING)
    assert anchor_entry(head, AT).body == {"lines": 3, "sha256": head.sha256}


def test_a_line_that_a_crash_tore_is_taken_away_and_the_chain_goes_on(log: AccessLog, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"asked":{},"at"')

    assert asked(log, sample="after")
    assert [one.number for one in log.lines()] == [0, 1, 2, 3]
    path.write_bytes(b"torn")
    assert asked(log, sample="again")
    assert log.head().lines == 1


def test_nothing_follows_a_damaged_end(log: AccessLog, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(IntegrityError, match="last line"):
        asked(log, sample="x")


def test_what_cannot_be_kept_is_not_answered(tmp_path: Path) -> None:
    (tmp_path / "access.log").mkdir()
    log = AccessLog(tmp_path)
    with pytest.raises(StoreError):
        asked(log, sample="x")
    with pytest.raises(StoreError):
        list(log.lines())
    (tmp_path / "keys" / "access.key").write_bytes(b"short")
    with pytest.raises(UsageError, match="no key"):
        asked(log, sample="x")
    assert list(AccessLog(tmp_path / "keys").lines()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_copy_that_cannot_be_written_keeps_no_log(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert not asked(AccessLog(tmp_path), sample="x")
    tmp_path.chmod(0o700)


def test_the_command_line_leaves_a_line_for_every_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives import serialization

    monkeypatch.chdir(tmp_path)
    state = tmp_path / ".millcert"
    (state / "keys").mkdir(parents=True)
    add_run(state, {"north/a": DIGESTS}, secret=b"1" * 32)
    pem = ledger_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (state / "keys" / "ledger.key").touch(mode=0o600)
    (state / "keys" / "ledger.key").write_bytes(pem)
    digest = DIGESTS[0].tobytes().hex()

    def ask(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main(["ledger", *arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    ask("find", "--sample", digest)
    ask("impact", "--source", "north")
    ask("find", "--text", "somebody", "--limit", "7")
    lines = ask("access", "list")
    assert [one["command"] for one in lines["lines"]] == [
        "millcert ledger find",
        "millcert ledger impact",
        "millcert ledger find",
        "millcert ledger access list",
    ]
    assert lines["lines"][2]["asked"]["limit"] == 7
    assert digest.encode() not in (state / "access.log").read_bytes()
    found = ask("access", "list", "--asked", f"sample={digest}")
    assert (found["matching"], found["lines"][0]["number"]) == (1, 0)
    ask("access", "list", "--asked", "nothing", code=2)

    anchored = ask("access", "anchor")
    assert ask("access", "verify")["anchors"] == [anchored["index"]]
    kept = (state / "access.log").read_bytes().splitlines(keepends=True)
    (state / "access.log").write_bytes(b"".join(kept[:2]))
    assert ask("access", "verify", code=3)["error"]["code"] == "integrity.ledger"
    assert main(["ledger", "access", "list"]) == 0
    (state / "access.log").write_bytes(kept[1])
    ask("access", "list", code=3)
