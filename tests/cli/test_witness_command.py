"""`millcert witness`: made, served and looked into, as a user calls it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import millcert
from millcert.cli.main import main
from millcert.provenance.checkpoint import Checkpoint, format_vkey, sign_checkpoint, vkey_of
from millcert.provenance.state import load_ledger_vkeys
from millcert.provenance.witness_client import WitnessSite, ask_witness
from millcert.provenance.witness_folder import open_witness, read_witness_vkeys
from millcert.provenance.witness_request import format_request

LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.vkey").write_text(format_vkey(vkey_of("example.com/l", LOG_KEY)) + "\n")
    return tmp_path


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def note(size: int, root: bytes) -> bytes:
    return sign_checkpoint(Checkpoint("example.com/l", size, root), LOG_KEY)


def test_a_witness_is_made_with_both_keys_and_shows_what_it_saw(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["witness", "init", "w", "--name", "w.example/1", "--json"]) == 0
    assert [line.split("+")[0] for line in answer_of(capsys)["vkeys"]] == ["w.example/1", "w.example/1"]
    assert main(["witness", "show", "w"]) == 0
    assert "0 ledgers" in capsys.readouterr().out
    logs = {"example.com/l": load_ledger_vkeys([home / "log.vkey"])}
    witness = open_witness(home / "w", logs)
    witness.add_checkpoint(format_request(0, (), note(3, bytes(32))))
    witness.add_checkpoint(format_request(3, (), note(3, b"\1" * 32)))

    assert main(["witness", "show", "w", "--json"]) == 0
    answer = answer_of(capsys)
    assert [(log["origin"], log["size"]) for log in answer["logs"]] == [("example.com/l", 3)]
    assert answer["conflicts"][0]["checkpoints"] == [note(3, bytes(32)).decode(), note(3, b"\1" * 32).decode()]
    assert main(["witness", "show", "w"]) == 0
    assert "LYING example.com/l: two roots at 3 entries" in capsys.readouterr().out


def test_one_algorithm_can_be_chosen_and_a_second_witness_is_not_made(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["witness", "init", "w", "--name", "w", "--algorithm", "ml-dsa-44"]) == 0
    assert [key.algorithm for key in read_witness_vkeys(home / "w" / "witness.vkey")] == [6]
    assert "next: give" in capsys.readouterr().out
    assert main(["witness", "init", "w", "--name", "w"]) == 2
    assert main(["witness", "init", "v", "--name", "w w"]) == 2
    assert main(["witness", "serve", "w", "--log", "log.vkey", "--listen", "8765"]) == 2
    assert main(["witness", "serve", "nothing", "--log", "log.vkey"]) == 2
    assert main(["witness", "show", "nothing"]) == 2


def test_a_served_witness_cosigns_and_stops_when_interrupted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["witness", "init", "w", "--name", "w.example/1"]) == 0
    environment = {**os.environ, "PYTHONPATH": str(Path(millcert.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-m",
        "millcert",
        "witness",
        "serve",
        "w",
        "--log",
        "log.vkey",
        "--listen",
        "127.0.0.1:0",
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        site = WitnessSite(tuple(read_witness_vkeys(home / "w" / "witness.vkey")), url)
        assert len(ask_witness(site, note(3, bytes(32)), lambda *_: ())) == 2
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0
    assert "POST /add-checkpoint" in errors
    assert errors.endswith("stopped\n")
