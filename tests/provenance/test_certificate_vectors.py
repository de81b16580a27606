"""What 0.1.0 signed must verify for ever. Never change these files; add a folder for a new format."""

from pathlib import Path

import pytest

from millcert.cli.main import main
from millcert.provenance.admission import admit_path
from millcert.provenance.certificate import checkpoint_in, verify_certificate
from millcert.provenance.checkpoint import decode_base64, verify_checkpoint
from millcert.provenance.ledger_entry import parse_entry
from millcert.provenance.merkle import verify_consistency
from millcert.provenance.state import load_gate_keys, load_ledger_vkeys
from millcert.provenance.tlog_proof import parse_tlog_proof, verify_tlog_proof

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats"
VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "0.1.0" / "ledger"


def test_the_certificate_of_0_1_0_verifies_and_admits_its_data() -> None:
    certificate = verify_certificate(
        (VECTORS / "certificate.json").read_bytes(),
        gate_keys=load_gate_keys([VECTORS / "gate.pub"]),
        ledger_vkeys=load_ledger_vkeys([VECTORS / "ledger.vkey"]),
    )

    admission = admit_path(VECTORS / "data", certificate)

    assert (admission.name, admission.files, admission.size_bytes) == ("pets \u00e9", 2, 58)
    assert (certificate.index, certificate.checkpoint.size) == (1, 2)
    assert certificate.checks.code_version == "0.1.0"


def test_the_proof_of_0_1_0_verifies() -> None:
    leaf, proof = (VECTORS / "entry.json").read_bytes(), (VECTORS / "entry.tlog-proof").read_bytes()

    checkpoint = verify_tlog_proof(proof, leaf, load_ledger_vkeys([VECTORS / "ledger.vkey"]))

    assert (checkpoint.origin, checkpoint.size, parse_tlog_proof(proof).index) == ("vectors.example/ledger", 7, 0)
    assert parse_entry(leaf).kind == "manifest"


def test_the_checkpoints_of_0_1_0_verify_and_extend_one_another() -> None:
    vkeys = load_ledger_vkeys([VECTORS / "ledger.vkey"])
    old = verify_checkpoint((VECTORS / "checkpoint.1").read_bytes(), vkeys)
    new = verify_checkpoint((VECTORS / "checkpoint.7").read_bytes(), vkeys)
    path = [decode_base64(line) or b"" for line in (VECTORS / "consistency.1.7").read_text().splitlines()]

    verify_consistency(old.size, new.size, path, old.root, new.root)


def test_the_examples_in_the_documents_are_these_very_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(VECTORS)

    assert (
        main(["admit", "data", "--gate-key", "gate.pub", "--ledger-key", "ledger.vkey", "--unsafe-no-revocations"]) == 0
    )

    assert capsys.readouterr().out in (DOCS / "certificate.md").read_text()
    for name in ("entry.json", "entry.tlog-proof"):
        assert (VECTORS / name).read_text() in (DOCS / "ledger.md").read_text()


def test_the_checkpoint_in_the_certificate_of_0_1_0_is_the_one_that_was_signed() -> None:
    note = checkpoint_in((VECTORS / "certificate.json").read_bytes())

    assert verify_checkpoint(note, load_ledger_vkeys([VECTORS / "ledger.vkey"])).size == 2
