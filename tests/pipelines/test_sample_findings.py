"""What the checks said of one sample is proved by its salt, says nothing of another, and is erased with it."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.cli.main import main
from millcert.errors import InclusionError, IntegrityError, LedgerError
from millcert.provenance.evidence import export_evidence
from millcert.provenance.evidence_verify import verify_evidence
from millcert.provenance.finding_leaf import format_record, parse_record, seal_record, verify_findings
from millcert.provenance.keys import load_key
from millcert.provenance.ledger import open_ledger
from millcert.provenance.lookup import SampleRun, files_folder, list_runs
from millcert.provenance.state import StateFolder


def planted(bench: Any) -> Any:
    """Two wrong labels in a.parquet, quarantined."""
    path = bench.data / "north" / "a.parquet"
    table, schema = pq.read_table(path).to_pylist(), pq.read_schema(path)
    for row in (3, 40):
        table[row]["label"] = (table[row]["label"] + 1) % 3
    bench.write("north", "a.parquet", pa.Table.from_pylist(table, schema=schema))
    bench.sign("north")
    bench.policy["checks"][0]["on_flagged"] = "quarantine"
    return bench.vet()


def test_the_evidence_of_a_run_shows_scores_and_outcome_of_its_samples_and_of_no_other(bench: Any) -> None:
    planted(bench)
    findings = pq.read_table(bench.out / "findings.parquet").to_pylist()
    state = StateFolder(bench.top / "state")
    key = load_key(state.path / "keys" / "ledger.key")
    with open_ledger(state.ledger, origin="test.example/ledger", key=key) as ledger:
        (logged,) = list_runs(ledger)
        with SampleRun(state, logged) as run:
            assert (run.roots.flagged, run.roots.has_findings) == (2, True)
            held, clean = run.at("north/a.parquet", 3), run.at("north/a.parquet", 4)
            data = export_evidence(ledger, [(run, [held, clean], [])])
            other = run.at("north/a.parquet", 40)
            proof = run.findings(held)
            assert proof is not None
            root = bytes.fromhex(run.roots.findings_root)
            with pytest.raises(InclusionError):
                verify_findings(proof, other.salt, flagged=2, root=root)
            sealed = files_folder(state, run.roots.run_id) / "findings.sealed"
            assert b"label_noise" not in sealed.read_bytes()
            sealed.write_bytes(bytes(len(sealed.read_bytes())))
            with pytest.raises(LedgerError, match="damaged"):
                run.findings(held)
            sealed.unlink()
            with pytest.raises(LedgerError):
                run.findings(held)
            (sealed.parent / "findings.records").write_bytes(b"")
        with SampleRun(state, logged) as run, pytest.raises(LedgerError, match="too early"):
            run.findings(held)
        shown = verify_evidence(data, ledger.vkeys)
    first, second = shown.runs[0].samples
    assert (first.outcome, second.outcome, second.findings) == ("quarantined", "not held back", ())
    assert first.findings is not None
    (said,) = first.findings
    assert (said["check"], said["action"], said["reason"]) == ("label_noise", "quarantine", findings[0]["reason"])
    assert said["score"] == pytest.approx(findings[0]["score"], rel=1e-5)
    assert said["threshold"] == pytest.approx(findings[0]["threshold"], rel=1e-5)
    assert findings[1]["sample_digest"].hex() not in data.decode()


@pytest.mark.parametrize(
    "record", ["", "{}", '{"findings":[]}', '{"findings":[1]}', '{"findings":[{"check":"x"}]}', '{"findings": []}']
)
def test_a_record_that_is_none_is_refused(record: str) -> None:
    with pytest.raises(IntegrityError):
        parse_record(record)


def test_a_record_has_one_form_and_is_sealed_by_the_salt_alone() -> None:
    one = {"action": "report", "check": "a", "group": "g", "reason": "r", "score": 1.5, "threshold": "inf"}
    record = format_record([{**one, "check": "b"}, one])

    assert [said["check"] for said in parse_record(record.decode())] == ["a", "b"]
    sealed = seal_record(b"s" * 32, record)
    assert sealed != record != seal_record(b"t" * 32, sealed)
    assert seal_record(b"s" * 32, sealed) == record
    with pytest.raises(IntegrityError, match="number"):
        parse_record(format_record([{**one, "score": None}]).decode())


def test_the_audit_of_a_run_meets_its_published_findings_and_misses_one_that_was_taken_out(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(bench)
    audit = ["evidence", "audit", "--output", str(bench.out), "--state", str(bench.top / "state")]

    assert main(audit) == 0
    assert "2 flagged, as published" in capsys.readouterr().out
    path = bench.out / "findings.parquet"
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table.slice(1), path)
    assert main(audit) == 3
    assert "1 samples have published findings, 2 by the ledger" in capsys.readouterr().err
    (bench.out / "verdict.json").unlink()
    (bench.out / "verdict.json").write_text("{}")
    assert main(audit) == 2
