"""A source is revoked today: by whom, what it touches, and that nothing of it is admitted any more."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from millcert.cli.main import main
from millcert.provenance.certificate import issue_certificate
from millcert.provenance.keys import load_or_create_key
from millcert.provenance.ledger import Entry, open_ledger
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.state import load_ledger_vkeys
from millcert.provenance.tlog_proof import verify_tlog_proof
from millcert.testing.role_people import OFFICE, office, write_key
from millcert.testing.sample_runs import RECORDED_AT, add_run, admitted_verdict, digests_of, ledger_key

DIGESTS = digests_of(6, seed=8)
DATA = b"label\ncat\n"
POLICY = """
version: 1
dataset: {name: pets, columns: {label: label, embedding_external: e}, max_malformed_fraction: 0}
sources: [{name: north, path: "**", unsigned: accept_as_unknown}]
checks: [{check: label_noise, max_flagged_fraction: 0.5}]
verdict: {max_quarantined_fraction: 0.5, max_unknown_provenance_fraction: 1}
ledger: {origin: test.example/ledger}
"""


def policy_with(people: dict[str, Any] | None = None) -> str:
    document = office(people or OFFICE).to_document()
    return POLICY + yaml.safe_dump({"roles": document})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with roles, two runs, and an admitted data set of the first one with its certificate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MILLCERT_HOME", raising=False)
    state = tmp_path / ".millcert"
    (state / "keys").mkdir(parents=True, mode=0o700)
    (state / "keys").chmod(0o700)
    for name in OFFICE:
        write_key(tmp_path, name)
    (tmp_path / "policy.yaml").write_text(policy_with())
    # The test ledger's key is made of a number; the command line reads it from a file.
    pem = ledger_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (state / "keys" / "ledger.key").touch(mode=0o600)
    (state / "keys" / "ledger.key").write_bytes(pem)
    assert main(["ledger", "roles", "record", "--policy", "policy.yaml", "--key", "bo.key"]) == 0
    add_run(state, {"north/a": DIGESTS[:3], "south/b": DIGESTS[3:5]}, secret=b"1" * 32, dataset="pets")
    add_run(state, {"south/b": DIGESTS[5:]}, secret=b"2" * 32, dataset="birds")
    admitted = tmp_path / "out" / "admitted"
    admitted.mkdir(parents=True)
    (admitted / "a.csv").write_bytes(DATA)
    gate = load_or_create_key(state / "keys" / "gate.key")
    with open_ledger(state / "ledger.db", origin="test.example/ledger", key=ledger_key()) as ledger:
        (verdict,) = [one for one in ledger.find(kind="verdict") if one.entry.body["dataset"] == "pets"]
        certificate = issue_certificate(
            manifest=Manifest("pets", (FileEntry("a.csv", len(DATA), hashlib.sha256(DATA).hexdigest()),)),
            verdict=admitted_verdict(["north", "south"]),
            policy_digest="aa" * 32,
            trusted_root_digest=None,
            input_root=verdict.entry.subject,
            code_version="0.1.0",
            time_verified=RECORDED_AT,
            key=gate,
            ledger=ledger,
        )
    (tmp_path / "out" / "certificate.json").write_bytes(certificate)
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def why(name: str = "ana") -> list[str]:
    return ["--reason", "the signing key leaked, SEC-481", "--key", f"{name}.key"]


def test_a_revoked_source_is_refused_and_admitted_again_once_it_is_lifted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["admit", "out/admitted"]) == 0
    answer = ask(capsys, "revoke", "source", "north", *why())
    assert (answer["kind"], answer["by"], answer["datasets"]) == ("revocation", "ana", ["pets"])

    error = ask(capsys, "admit", "out/admitted", code=3)["error"]
    assert error["code"] == "integrity.revoked"
    assert error["details"]["reason"] == "the signing key leaked, SEC-481"
    (listed,) = ask(capsys, "revoke", "list")["revocations"]
    assert (listed["value"], listed["by"], listed["index"]) == ("north", "ana", answer["indexes"][0])

    assert main(["revoke", "lift", str(listed["index"]), *why("ana")]) == 2
    assert main(["revoke", "lift", str(listed["index"]), *why("bo")]) == 0
    assert main(["revoke", "lift", str(listed["index"]), *why("bo")]) == 2
    assert main(["admit", "out/admitted"]) == 0
    assert ask(capsys, "revoke", "list")["revocations"] == []
    assert len(ask(capsys, "revoke", "list", "--all")["revocations"]) == 1


@pytest.mark.parametrize(
    ("arguments", "is_refused"),
    [
        (["signer", "data@north.example"], True),
        (["signer", "data@north.example", "--issuer", "https://other.example"], False),
        (["source", "north", "--since", "2027-01-01T00:00:00Z"], False),
        (["file", hashlib.sha256(b"north/a").hexdigest()], False),
        (["file", hashlib.sha256(DATA).hexdigest()], True),
        (["dataset", "out/certificate.json"], True),
        (["sample", "--digest", DIGESTS[0].tobytes().hex()], True),
        (["sample", "--digest", DIGESTS[5].tobytes().hex()], False),
    ],
)
def test_admit_refuses_what_a_revocation_touches(home: Path, arguments: list[str], is_refused: bool) -> None:
    """The input file north/a is in no run of this input root's certificate except by the run itself: see inputs."""
    assert main(["revoke", *arguments, *why()]) == 0

    # A file of the input refuses too: the run had it, and the revocation names the run's input.
    touches_input = arguments[:1] == ["file"] and arguments[1] != hashlib.sha256(DATA).hexdigest()
    assert main(["admit", "out/admitted"]) == (3 if is_refused or touches_input else 0)


def test_a_machine_without_the_ledger_refuses_by_the_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--gate-key", ".millcert/keys/gate.pub", "--ledger-key", ".millcert/ledger.vkey"]
    assert main(["ledger", "revocations", "export", "--out", "old.json"]) == 0
    assert main(["revoke", "source", "north", *why()]) == 0
    assert main(["ledger", "revocations", "export", "--out", "new.json", "--valid-hours", "1"]) == 0

    assert main(["admit", "out/admitted", *keys, "--revocations", "old.json"]) == 0
    assert main(["admit", "out/admitted", *keys, "--revocations", "new.json"]) == 3
    shown = ask(capsys, "ledger", "revocations", "show", "new.json", *keys)
    assert [one["value"] for one in shown["revocations"]] == ["north"]
    assert main(["ledger", "revocations", "show", "new.json", *keys]) == 0
    (home / "empty").write_bytes(b"")
    assert main(["ledger", "revocations", "show", "empty", *keys]) == 2


def test_the_blast_radius_names_the_models_that_declared_use(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = ["--model", "fraud-v9", "--model-digest", "ab" * 32, "--certificate", "out/certificate.json"]
    assert main(["ledger", "declare-use", *declared, "--key", "cy.key"]) == 0
    assert main(["ledger", "declare-use", *declared, "--key", "ana.key"]) == 2

    answer = ask(capsys, "ledger", "impact", "--source", "north", "--proof")

    (model,) = answer["models"]
    assert (model["model"], model["declared_by"]) == ("fraud-v9", "cy")
    assert answer["datasets"] == ["pets"]
    ((index, proof),) = model["proofs"].items()
    leaf = ask(capsys, "ledger", "prove", index)["leaf"]
    verify_tlog_proof(proof.encode(), leaf.encode(), load_ledger_vkeys([home / ".millcert" / "ledger.vkey"]))
    assert main(["ledger", "impact", "--source", "north"]) == 0
    assert "model fraud-v9" in capsys.readouterr().out


def test_the_reject_list_has_every_place_of_what_has_to_go(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["revoke", "source", "south", *why()]) == 0
    assert main(["revoke", "sample", "--digest", DIGESTS[1].tobytes().hex(), *why()]) == 0
    assert main(["revoke", "file", hashlib.sha256(b"north/a").hexdigest(), *why()]) == 0
    assert main(["revoke", "signer", "data@north.example", *why()]) == 0

    answer = ask(capsys, "reject-list", "export", "--out", "rejects.jsonl")
    lines = [json.loads(line) for line in (home / "rejects.jsonl").read_text().splitlines()]

    assert (answer["files"], answer["samples"]) == (2, 1)
    assert len(lines) == answer["places"] == 5
    (sample,) = [line for line in lines if line["type"] == "sample"]
    assert (sample["file"], sample["row"], sample["sample_digest"]) == ("north/a", 1, DIGESTS[1].tobytes().hex())
    assert {(line["dataset"], line["file"]) for line in lines if line["source"] == "south"} == {
        ("pets", "south/b"),
        ("birds", "south/b"),
    }
    only = ask(capsys, "reject-list", "export", "--out", "birds.jsonl", "--dataset", "birds")
    assert only["places"] == 1
    assert main(["reject-list", "export", "--out", "birds.jsonl"]) == 2
    for path in (home / ".millcert" / "salts" / "named").iterdir():
        path.unlink()
    assert main(["reject-list", "export", "--out", "none.jsonl"]) == 5


def test_an_act_can_be_signed_where_the_ledger_is_not(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = ask(capsys, "revoke", "source", "north", *why(), "--out", "act.json")
    assert (written["indexes"], written["path"]) == ([], "act.json")
    assert main(["admit", "out/admitted"]) == 0

    assert ask(capsys, "ledger", "submit", "act.json")["by"] == "ana"
    assert main(["admit", "out/admitted"]) == 3
    leaf = (home / "act.json").read_text()
    (home / "other.json").write_text(leaf.replace("source:north", "source:south"))
    assert ask(capsys, "ledger", "submit", "other.json", code=2)["error"]["details"]["reason"] == "signature"
    assert main(["revoke", "source", "south", *why(), "--out", "act.json"]) == 2


def test_acts_that_do_not_count_are_listed_where_the_ledger_is_verified(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_ledger(home / ".millcert" / "ledger.db", origin="test.example/ledger", key=ledger_key()) as ledger:
        index = ledger.append([Entry("revocation", "source:north", RECORDED_AT, {"reason": "r"})]).indexes[0]

    assert main(["admit", "out/admitted"]) == 0
    (ignored,) = ask(capsys, "ledger", "verify")["ignored_acts"]
    assert (ignored["index"], ignored["fault"]) == (index, "unsigned")
    assert main(["ledger", "verify"]) == 0
    assert f"#{index}" in capsys.readouterr().out
    (only,) = ask(capsys, "ledger", "acts", "--ignored", "--proof")["acts"]
    assert only["index"] == index
    assert "c2sp.org/tlog-proof" in only["proof"]
    assert main(["ledger", "acts", "--kind", "access_policy"]) == 0
    assert "bo" in capsys.readouterr().out


def test_roles_are_shown_with_their_history_and_handed_over_in_two_steps(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ask(capsys, "ledger", "roles", "show")
    assert [person["name"] for person in first["roles"]["people"]] == sorted(OFFICE)
    record = ["ledger", "roles", "record", "--policy", "policy.yaml", "--key"]
    assert main([*record, "bo.key"]) == 2  # these roles are in force already
    (home / "policy.yaml").write_text(policy_with({"ana": ("approver",)}))
    assert main([*record, "ana.key"]) == 2  # she was none before
    assert "two steps" in capsys.readouterr().err
    (home / "policy.yaml").write_text(policy_with({**OFFICE, "ana": ("approver", "reviewer")}))
    assert main([*record, "bo.key"]) == 0
    (home / "policy.yaml").write_text(policy_with({"ana": ("approver",)}))
    assert main([*record, "ana.key"]) == 0

    assert len(ask(capsys, "ledger", "roles", "show")["history"]) == 3
    assert main(["ledger", "roles", "show"]) == 0
    assert "ana" in capsys.readouterr().out
    assert main(["revoke", "source", "x", *why("bo")]) == 2


def test_a_key_pair_is_made_once_with_the_line_for_the_policy(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ask(capsys, "ledger", "roles", "key", "--out", "fay.key")
    assert (home / "fay.key").stat().st_mode & 0o077 == 0
    assert made["key"].startswith("MCowBQYDK2VwAyEA")
    assert main(["ledger", "roles", "key", "--out", "fay.key"]) == 2
    assert main(["ledger", "roles", "key", "--out", "gus.key"]) == 0


def test_without_roles_nobody_may_say_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_key(tmp_path, "ana")
    (tmp_path / "policy.yaml").write_text(POLICY)
    assert main(["ledger", "roles", "record", "--policy", "policy.yaml", "--key", "ana.key"]) == 2
    assert "has no `roles`" in capsys.readouterr().err
    (tmp_path / "policy.yaml").write_text(policy_with())
    assert main(["ledger", "roles", "record", "--policy", "policy.yaml", "--key", "ana.key"]) == 2
    assert main(["ledger", "roles", "show"]) == 0
    assert "nobody may append" in capsys.readouterr().out
    assert main(["revoke", "source", "north", *why()]) == 2
    assert "No roles are in force" in capsys.readouterr().err
