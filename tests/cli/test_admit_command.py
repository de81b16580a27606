"""`millcert admit`: the door of the training job."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.cli.main import main
from millcert.provenance.certificate import issue_certificate
from millcert.provenance.keys import load_or_create_key, public_pem
from millcert.provenance.ledger import open_ledger
from millcert.provenance.manifest import FileEntry, Manifest

REPOSITORY = Path(__file__).resolve().parents[2]
WHEN = "2026-11-23T02:38:55Z"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a state folder, an admitted data set and its certificate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    admitted = tmp_path / "out" / "admitted"
    admitted.mkdir(parents=True)
    (admitted / "a.csv").write_bytes(b"label\ncat\n")
    manifest = Manifest("pets", (FileEntry("a.csv", 10, hashlib.sha256(b"label\ncat\n").hexdigest()),))
    gate = load_or_create_key(tmp_path / ".millcert" / "keys" / "gate.key")
    log = load_or_create_key(tmp_path / ".millcert" / "keys" / "ledger.key")
    with open_ledger(tmp_path / ".millcert" / "ledger.db", origin="example.com/l", key=log, create=True) as ledger:
        certificate = issue_certificate(
            manifest=manifest,
            verdict={"decision": "admitted"},
            policy_digest="aa" * 32,
            trusted_root_digest=None,
            input_root="bb" * 32,
            code_version="0.1.0",
            time_verified=WHEN,
            key=gate,
            ledger=ledger,
        )
    (tmp_path / "out" / "certificate.json").write_bytes(certificate)
    return tmp_path


def answer_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_what_was_certified_is_admitted_with_nothing_but_its_path(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["admit", "out/admitted"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "admitted  pets  1 files, 10 bytes"
    assert lines[-1].strip().startswith("next: train on out/admitted")


def test_the_answer_as_json_has_the_figures(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["admit", "out/admitted", "--json"]) == 0

    answer = answer_of(capsys)
    assert answer["admitted"] is True
    assert (answer["dataset"], answer["files"], answer["size_bytes"]) == ("pets", 1, 10)
    assert answer["ledger"] == {"index": 0, "origin": "example.com/l", "size": 1, "witnesses": []}
    assert (answer["policy_digest"], answer["time_verified"]) == ("aa" * 32, WHEN)


def test_keys_and_certificate_may_be_given(home: Path) -> None:
    state = home / "elsewhere"
    (home / ".millcert").rename(state)
    (home / "out" / "certificate.json").rename(home / "c.json")
    given = ["--gate-key", str(state / "keys" / "gate.pub"), "--ledger-key", str(state / "ledger.vkey")]

    assert main(["admit", "out/admitted", "--certificate", "c.json", "--state", str(state)]) == 0
    assert main(["ledger", "revocations", "export", "--out", "list.json", "--state", str(state)]) == 0
    assert main(["admit", "out/admitted", "--certificate", "c.json", *given, "--revocations", "list.json"]) == 0


def test_the_state_folder_may_come_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".millcert").rename(home / "elsewhere")
    assert main(["admit", "out/admitted"]) == 2
    monkeypatch.setenv("MILLCERT_HOME", str(home / "elsewhere"))

    assert main(["admit", "out/admitted"]) == 0


def test_changed_data_is_an_integrity_failure_that_names_the_file(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "out" / "admitted" / "a.csv").write_bytes(b"label\ndog\n")

    assert main(["admit", "out/admitted"]) == 3

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "'a.csv'" in captured.err


def test_a_certificate_of_another_gate_is_an_integrity_failure(home: Path) -> None:
    stranger = home / "stranger.pub"
    stranger.write_bytes(public_pem(Ed25519PrivateKey.generate().public_key()))

    keys = ["--gate-key", str(stranger), "--ledger-key", ".millcert/ledger.vkey"]

    assert main(["admit", "out/admitted", *keys]) == 3
    keys += ["--gate-key", ".millcert/keys/gate.pub"]
    assert main(["ledger", "revocations", "export", "--out", "list.json"]) == 0
    assert main(["admit", "out/admitted", *keys, "--revocations", "list.json"]) == 0


@pytest.mark.parametrize("missing", ["keys/gate.pub", "ledger.vkey"])
def test_missing_keys_are_never_replaced_by_the_certificate(
    home: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    (home / ".millcert" / missing).unlink()

    assert main(["admit", "out/admitted"]) == 2

    message = capsys.readouterr().err
    assert "never taken from the certificate" in message
    assert "--gate-key FILE --ledger-key FILE" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gate-key", "x"], "--ledger-key is missing"),
        (["--ledger-key", "x"], "--gate-key is missing"),
        (["--state", "x", "--gate-key", "x"], "not from both"),
        (["--gate-key", "x", "--ledger-key", "x"], "no public key at x"),
        (["--gate-key", ".millcert/keys/gate.pub", "--ledger-key", "x"], "no ledger key file"),
        (["--gate-key", ".millcert/keys/gate.pub", "--ledger-key", "empty"], "holds no ledger key"),
        (["--gate-key", ".millcert/keys/gate.pub", "--ledger-key", "binary"], "is not text"),
        (["--gate-key", ".millcert/keys/gate.pub", "--ledger-key", ".millcert/keys/gate.pub"], "name+hash+key"),
        (["--gate-key", ".millcert/keys/gate.pub", "--ledger-key", "empty/x"], "cannot be read"),
        (["--certificate", "x"], "no certificate at x"),
        (["--certificate", "out"], "no certificate at out"),
        (["--certificate", "y" * 300], "cannot be read"),
    ],
)
def test_a_mistake_of_the_call_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (home / "empty").write_bytes(b"\n")
    (home / "binary").write_bytes(b"\xff")

    code = main(["admit", "out/admitted", *arguments])

    assert code in {2, 5}
    assert message in capsys.readouterr().err


def test_no_data_or_no_certificate_is_a_mistake_of_the_call(home: Path) -> None:
    assert main(["admit", "out/nothing"]) == 2
    (home / "out" / "certificate.json").unlink()
    assert main(["admit", "out/admitted"]) == 2


PROBE = """
import sys, time
from millcert.cli.main import main
code = main(["admit", "out/admitted"])
heavy = "apache_beam great_expectations cleanlab sklearn sqlalchemy numpy pyarrow pandas scipy sigstore torch".split()
print([name for name in heavy if name in sys.modules], time.process_time() < 2.0)
sys.exit(code)
"""


def test_the_training_job_loads_nothing_heavy_and_waits_less_than_two_seconds(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        check=False,
        capture_output=True,
        text=True,
        cwd=home,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": ""},
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] True"


def test_without_ledger_and_list_nothing_is_admitted_unless_that_is_said_to_be_unsafe(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["--gate-key", ".millcert/keys/gate.pub", "--ledger-key", ".millcert/ledger.vkey"]

    assert main(["admit", "out/admitted", *keys]) == 4
    assert "ledger revocations export" in capsys.readouterr().err
    assert main(["admit", "out/admitted", *keys, "--unsafe-no-revocations"]) == 0
    assert "NOT LOOKED AT" in capsys.readouterr().out
    (home / ".millcert" / "ledger.db").unlink()
    assert main(["admit", "out/admitted"]) == 4


def test_an_old_copy_of_the_ledger_admits_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The entry is of 02:38 of a day that is over; whoever has the private key keeps the ledger, others have copies."""
    assert main(["admit", "out/admitted"]) == 0
    assert main(["admit", "out/admitted", "--max-age", "1"]) == 4
    (home / ".millcert" / "keys" / "ledger.key").unlink()
    capsys.readouterr()

    assert main(["admit", "out/admitted", "--max-age", "1"]) == 4
    assert "newest entry of this copy" in capsys.readouterr().err
    assert main(["admit", "out/admitted", "--max-age", "1", "--revocations", "x"]) == 2
