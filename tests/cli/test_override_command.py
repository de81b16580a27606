"""`millcert override`: who overrode what, why, until when, and who approved it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from millcert.cli.main import main
from millcert.provenance.checkpoint import parse_vkey
from millcert.provenance.ledger import Entry
from millcert.provenance.tlog_proof import verify_tlog_proof
from millcert.testing.role_people import office, record_roles, write_key
from millcert.testing.sample_runs import RECORDED_AT, add_run, digests_of, ledger_key, signed_ledger

DIGESTS = digests_of(3, seed=4)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with roles, a logged run, and a rejected verdict as it was published."""
    from cryptography.hazmat.primitives import serialization

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    state = tmp_path / ".millcert"
    (state / "keys").mkdir(parents=True)
    for name in ("ana", "bo", "cy", "di"):
        write_key(tmp_path, name)
    pem = ledger_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (state / "keys" / "ledger.key").touch(mode=0o600)
    (state / "keys" / "ledger.key").write_bytes(pem)
    logged = add_run(state, {"north/a": DIGESTS}, secret=b"1" * 32)
    verdict = rfc8785.dumps(
        {
            "dataset": "pets",
            "decision": "rejected",
            "input_root": logged.entry.subject,
            "policy_digest": "cd" * 32,
            "checks": [{"name": "label_noise"}],
            "reasons": [],
        }
    )
    (tmp_path / "verdict.json").write_bytes(verdict)
    with signed_ledger(state) as ledger:
        record_roles(ledger, office(), by="bo", at=RECORDED_AT)
        body = {"verdict_digest": hashlib.sha256(verdict).hexdigest(), "decision": "rejected"}
        ledger.append([Entry("verdict", logged.entry.subject, RECORDED_AT, body)])
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["override", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


WHY = ["--reason", "known, ticket 7", "--days", "7"]


def test_an_override_counts_once_another_person_approved_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proposed = ask(capsys, "propose", "verdict.json", "--check", "label_noise", *WHY, "--key", "ana.key")
    index = str(proposed["indexes"][0])
    assert (proposed["override"]["scope"], proposed["by"]) == ("check", "ana")
    (waiting,) = ask(capsys, "list")["overrides"]
    assert (waiting["state"], waiting["approved_by"]) == ("waiting", [])

    assert ask(capsys, "approve", index, "--key", "cy.key", code=2)["error"]["details"]["kind"] == "approval"
    assert ask(capsys, "approve", index, "--key", "bo.key")["by"] == "bo"

    (found,) = ask(capsys, "list", "--proof")["overrides"]
    assert (found["state"], found["proposed_by"], found["approved_by"]) == ("approved", "ana", ["bo"])
    assert (found["reason"], found["checks"]) == ("known, ticket 7", ["label_noise"])
    vkey = parse_vkey((home / ".millcert" / "ledger.vkey").read_text())
    assert len(found["proofs"]) == 2
    for place, proof in found["proofs"].items():
        capsys.readouterr()
        assert main(["ledger", "prove", place, "--json"]) == 0
        leaf = json.loads(capsys.readouterr().out)["leaf"].encode()
        verify_tlog_proof(proof.encode(), leaf, [vkey])
    (later,) = ask(capsys, "list", "--at", "2099-01-01T00:00:00Z")["overrides"]
    assert later["state"] == "expired"

    assert ask(capsys, "withdraw", index, "--reason", "wrong", "--key", "cy.key")["kind"] == "withdrawal"
    (ended,) = ask(capsys, "list")["overrides"]
    assert ended["state"] == "withdrawn"
    assert ask(capsys, "approve", index, "--key", "di.key", code=2)["error"]["details"]["reason"] == "withdrawn"


def test_who_proposed_it_is_told_that_another_has_to_approve(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proposed = ask(capsys, "propose", "verdict.json", "--whole-verdict", *WHY, "--key", "di.key")
    index = str(proposed["indexes"][0])

    refused = ask(capsys, "approve", index, "--key", "di.key", code=2)["error"]

    assert refused["details"]["reason"] == "self_approved"


def test_samples_are_named_by_commitments_and_not_by_digests(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = DIGESTS[0].tobytes().hex()
    named = ["--check", "label_noise", "--sample", digest]
    proposed = ask(capsys, "propose", "verdict.json", *named, *WHY, "--key", "ana.key")

    assert proposed["override"]["scope"] == "samples"
    with signed_ledger(home / ".millcert") as ledger:
        assert digest not in ledger.get(proposed["indexes"][0]).entry.leaf().decode()
    assert main(["override", "list"]) == 0
    assert "WAITING" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["verdict.json", "--check", "other", *WHY], 2),
        (["verdict.json", *WHY], 2),
        (["verdict.json", "--whole-verdict", "--check", "label_noise", *WHY], 2),
        (["verdict.json", "--whole-verdict", "--reason", "r"], 2),
        (["verdict.json", "--whole-verdict", "--reason", "r", "--days", "91"], 2),
        (["verdict.json", "--whole-verdict", "--reason", "r", "--until", "2020-01-01T00:00:00Z"], 2),
        (["absent.json", "--whole-verdict", *WHY], 2),
        (["edited.json", "--whole-verdict", *WHY], 3),
    ],
)
def test_what_is_no_override_of_a_verdict_of_this_ledger_is_not_proposed(
    home: Path, arguments: list[str], code: int
) -> None:
    (home / "edited.json").write_text((home / "verdict.json").read_text().replace("rejected", "admitted"))

    assert main(["override", "propose", *arguments, "--key", "ana.key"]) == code
    assert main(["override", "approve", "0", "--key", "bo.key"]) == 2
