"""The main job from files to published output: what is admitted, what is refused, and what is left behind."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.errors import (
    DigestMismatchError,
    ManifestError,
    MillcertError,
    MissingColumnError,
    SignatureError,
    UntrustedSourceError,
    UsageError,
)
from millcert.provenance.admission import admit_path
from millcert.provenance.certificate import verify_certificate
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.keys import load_key, load_public_key
from millcert.provenance.ledger import Ledger, open_ledger
from millcert.testing.sigstore import PrivateSigstore

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ledger_of(bench: Workbench) -> Ledger:
    """Open the run's ledger for reading, with the public half of its key."""
    state, origin = bench.top / "state", "test.example/ledger"
    return open_ledger(state / "ledger.db", origin=origin, vkeys=[vkey_of(origin, load_key(state / "keys/ledger.key"))])


def table_with(rows: int, **columns: Any) -> pa.Table:
    base = {"id": [f"x-{row}" for row in range(rows)], "label": [row % 3 for row in range(rows)]}
    return pa.table({**base, **columns})


def test_clean_signed_data_is_admitted_byte_for_byte(bench: Workbench) -> None:
    result = bench.vet()

    assert result.verdict.decision == "admitted"
    given = {name: data for name, data in files_of(bench.data).items() if "millcert-manifest" not in name}
    assert files_of(bench.out / "admitted") == given
    assert result.verdict.samples.seen == 150 + 90 + 120
    assert result.verdict.output_root == result.verdict.input_root
    assert {source.status for source in result.verdict.sources} == {"verified"}


def test_the_certificate_of_a_run_admits_what_was_published_and_nothing_else(bench: Workbench) -> None:
    bench.vet()
    keys = [load_public_key(bench.top / "state" / "keys" / "gate.pub")]
    with ledger_of(bench) as ledger:
        certificate = verify_certificate(
            (bench.out / "certificate.json").read_bytes(), gate_keys=keys, ledger_vkeys=ledger.vkeys
        )

    assert admit_path(bench.out / "admitted", certificate).files == 3
    (bench.out / "admitted" / "north" / "more.jsonl").write_text("{}\n")
    with pytest.raises(ManifestError):
        admit_path(bench.out / "admitted", certificate)


def test_the_ledger_holds_sources_checks_verdict_samples_and_certificate_of_a_run(bench: Workbench) -> None:
    result = bench.vet()
    with ledger_of(bench) as ledger:
        kinds = [entry.entry.kind for entry in ledger.find()]
        verdict = ledger.get(result.recorded.index)
        ledger.verify()

    sources_and_input = ["manifest", "manifest", "manifest"]
    assert sorted(kinds) == ["certificate", "check_summary", *sources_and_input, "shard_roots", "verdict"]
    assert verdict.entry.body["verdict_digest"] == result.verdict.digest


@pytest.mark.parametrize("change", ["flip", "add", "remove", "rename"])
def test_data_that_is_not_what_was_signed_is_refused_and_nothing_is_published(bench: Workbench, change: str) -> None:
    target = bench.data / "north" / "deep" / "b.jsonl"
    if change == "flip":
        target.write_bytes(target.read_bytes().replace(b"sample 7 ", b"sample 8 "))
    elif change == "add":
        bench.write("north", "extra.parquet", pq.read_table(bench.data / "north" / "a.parquet"))
    elif change == "remove":
        target.unlink()
    else:
        target.rename(target.with_name("c.jsonl"))
    expected = DigestMismatchError if change == "flip" else ManifestError

    with pytest.raises(expected) as caught:
        bench.vet()

    assert caught.value.exit_code == 3
    assert not bench.out.exists()
    assert [path.name for path in bench.top.iterdir() if path.name.startswith(".out")] == []


def test_a_source_signed_by_somebody_else_is_refused(bench: Workbench) -> None:
    bench.sign("north", identity="mallory@elsewhere.example")

    with pytest.raises(UntrustedSourceError):
        bench.vet()
    assert not bench.out.exists()


def test_a_source_signed_under_another_root_is_refused(bench: Workbench) -> None:
    bench.save_policy()
    theirs = PrivateSigstore()
    ours, bench.sigstore = bench.sigstore, theirs
    bench.sign("north")
    bench.sigstore = ours

    with pytest.raises(SignatureError):
        bench.vet()


@pytest.mark.parametrize("missing", ["millcert-manifest.json", "millcert-manifest.json.sigstore.json"])
def test_a_source_without_its_signature_is_refused(bench: Workbench, missing: str) -> None:
    (bench.data / "south" / missing).unlink()

    with pytest.raises(MillcertError) as caught:
        bench.vet()
    assert caught.value.exit_code == 3


def accept_unsigned(bench: Workbench, limit: float) -> None:
    for name in ("millcert-manifest.json", "millcert-manifest.json.sigstore.json"):
        (bench.data / "south" / name).unlink()
    bench.policy["sources"][1] = {"name": "south", "path": "south/**", "unsigned": "accept_as_unknown"}
    bench.policy["verdict"]["max_unknown_provenance_fraction"] = limit


def test_an_unsigned_source_that_the_policy_names_counts_as_unknown(bench: Workbench) -> None:
    accept_unsigned(bench, 0.5)

    verdict = bench.vet().verdict

    assert verdict.decision == "admitted"
    assert verdict.samples.unknown_provenance == 120
    assert [source.status for source in verdict.sources] == ["verified", "unknown"]


def test_more_unknown_provenance_than_allowed_rejects_and_publishes_no_admitted_data(bench: Workbench) -> None:
    accept_unsigned(bench, 0.1)

    result = bench.vet()

    assert result.verdict.decision == "rejected"
    assert [reason.code for reason in result.verdict.reasons] == ["samples.unknown_provenance"]
    assert not (bench.out / "admitted").exists()
    assert not (bench.out / "certificate.json").exists()
    assert bench.verdict()["decision"] == "rejected"


def test_a_file_that_no_rule_speaks_for_is_refused(bench: Workbench) -> None:
    bench.write("west", "d.parquet", table_with(3))

    with pytest.raises(UntrustedSourceError, match=r"west/d\.parquet"):
        bench.vet()


def test_a_selection_of_signed_files_may_be_vetted_alone(bench: Workbench) -> None:
    result = bench.vet(f"{bench.data}/*/a.parquet")

    assert result.verdict.decision == "admitted"
    assert result.verdict.samples.seen == 150


def spoil(bench: Workbench) -> None:
    path = bench.data / "north" / "deep" / "b.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = lines[3][:-1]  # no closing brace
    lines[5] = lines[5].replace('"label": ', '"label": 1, "label": ', 1)
    row = json.loads(lines[7])
    row["embedding"] = row["embedding"][:-1]
    lines[7] = json.dumps(row)
    row = json.loads(lines[9])
    row["label"] = None
    lines[9] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    bench.sign("north")


def test_malformed_records_go_to_the_dead_letter_with_place_and_reason(bench: Workbench) -> None:
    spoil(bench)
    bench.policy["dataset"]["max_malformed_fraction"] = 0.05

    result = bench.vet()

    malformed = pq.read_table(bench.out / "malformed.parquet").to_pylist()
    assert result.verdict.decision == "admitted"
    assert result.verdict.samples.malformed == result.malformed == len(malformed)
    assert {record["file"] for record in malformed} == {"north/deep/b.jsonl"}
    assert {3, 5, 7, 9} == {record["row"] for record in malformed}
    by_row = {record["row"]: record for record in malformed}
    assert by_row[3]["reason"].startswith("json.")
    assert by_row[3]["line"] == 4
    assert by_row[5]["reason"] == "json.duplicate_key"
    assert by_row[7]["reason"] == "json.list_size"
    assert by_row[9]["reason"] == "role.label_null"
    kept = (bench.out / "admitted" / "north" / "deep" / "b.jsonl").read_text().splitlines()
    lines = (bench.data / "north" / "deep" / "b.jsonl").read_text().splitlines()
    assert kept == [line for number, line in enumerate(lines) if number not in by_row]


def test_more_malformed_records_than_allowed_reject(bench: Workbench) -> None:
    spoil(bench)
    bench.policy["dataset"]["max_malformed_fraction"] = 0.001

    result = bench.vet()

    assert result.verdict.decision == "rejected"
    assert "samples.malformed" in {reason.code for reason in result.verdict.reasons}


def plant_label_errors(bench: Workbench) -> list[int]:
    table = pq.read_table(bench.data / "north" / "a.parquet")
    label = table.column("label").to_numpy().copy()
    chosen = [4, 40, 77]
    label[chosen] = (label[chosen] + 1) % 3
    bench.write("north", "a.parquet", table.set_column(1, "label", pa.array(label)))
    bench.sign("north")
    return chosen


def test_flagged_samples_are_held_back_with_reasons_and_the_rest_is_admitted(bench: Workbench) -> None:
    chosen = plant_label_errors(bench)
    bench.policy["checks"][0]["on_flagged"] = "quarantine"

    result = bench.vet()

    assert result.verdict.decision == "admitted"
    held = pq.read_table(bench.out / "quarantine" / "north" / "a.parquet.parquet").to_pylist()
    findings = pq.read_table(bench.out / "findings.parquet").to_pylist()
    assert [row["millcert_row"] for row in held] == chosen
    assert [(row["file"], row["row"], row["action"]) for row in findings] == [
        ("north/a.parquet", row, "quarantine") for row in chosen
    ]
    assert all(reason["check"] == "label_noise" for row in held for reason in row["millcert_reasons"])
    kept = pq.read_table(bench.out / "admitted" / "north" / "a.parquet")
    given = pq.read_table(bench.data / "north" / "a.parquet")
    assert kept.equals(given.filter(pa.array(~np.isin(np.arange(given.num_rows), chosen))))
    assert result.verdict.samples.quarantined == len(chosen)
    assert result.verdict.output_root != result.verdict.input_root
    assert not (bench.out / "quarantine" / "south").exists()


def test_a_check_over_its_limit_rejects_where_the_policy_says_so(bench: Workbench) -> None:
    plant_label_errors(bench)
    bench.policy["checks"][0] |= {"max_flagged_fraction": 0.001, "over_limit": "reject"}

    verdict = bench.vet().verdict

    assert verdict.decision == "rejected"
    assert verdict.checks[0].status == "failed"
    assert [reason.code for reason in verdict.reasons] == ["check.over_limit"]


def test_a_check_that_cannot_be_fitted_leaves_the_verdict_inconclusive(bench: Workbench) -> None:
    for source, name in (("north", "a.parquet"), ("north", "deep/b.jsonl"), ("south", "c.arrow")):
        (bench.data / source / name).unlink()
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(12, np.float32)), 6)
        bench.write(source, name, pa.table({"label": [0, 0], "embedding": embedding}))
        bench.sign(source)

    verdict = bench.vet().verdict

    assert verdict.decision == "inconclusive"
    assert verdict.exit_code == 4
    assert verdict.checks[0].status == "inconclusive"
    assert not (bench.out / "admitted").exists()


def test_a_column_that_the_policy_maps_and_the_data_lacks_is_a_usage_error(bench: Workbench) -> None:
    bench.policy["dataset"]["columns"]["label"] = "target"

    with pytest.raises(MissingColumnError, match="target"):
        bench.vet()
    assert not bench.out.exists()


def test_a_second_run_into_the_same_folder_needs_to_be_told_to_replace_it(bench: Workbench) -> None:
    first = bench.vet()
    with pytest.raises(UsageError, match="exists already"):
        bench.vet()

    again = bench.vet(replace=True)

    assert again.verdict.digest == first.verdict.digest


def write_suite(bench: Workbench, *expectations: dict[str, Any]) -> None:
    suite = {"name": "suite", "expectations": list(expectations), "meta": {"great_expectations_version": "1.24.1"}}
    (bench.top / "suite.json").write_text(json.dumps(suite))
    bench.policy["expectations"] = {"suite": "suite.json"}


UNIQUE_ID = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}}
LABELS = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "label", "min_value": 0, "max_value": 2}}


def test_a_suite_that_holds_admits_and_its_result_is_published(bench: Workbench) -> None:
    write_suite(bench, UNIQUE_ID, LABELS)

    verdict = bench.vet().verdict

    assert verdict.decision == "admitted"
    assert verdict.expectations is not None
    assert verdict.expectations.success
    published = json.loads((bench.out / "expectations.json").read_text())
    assert published["success"] is True
    assert [result["success"] for result in published["results"]] == [True, True]
    assert published["results"][0]["result"]["element_count"] == 360


def test_a_suite_that_fails_rejects_or_warns_as_the_policy_says(bench: Workbench) -> None:
    write_suite(bench, UNIQUE_ID, {**LABELS, "kwargs": {"column": "label", "min_value": 0, "max_value": 1}})

    rejected = bench.vet().verdict
    bench.policy["expectations"]["on_failure"] = "warn"
    warned = bench.vet(replace=True).verdict

    assert rejected.decision == "rejected"
    assert [reason.code for reason in rejected.reasons] == ["expectations.failed"]
    assert warned.decision == "admitted"
    assert warned.expectations is not None
    assert warned.expectations.unsuccessful == 1


def test_an_expectation_that_cannot_be_evaluated_is_never_a_silent_pass(bench: Workbench) -> None:
    write_suite(bench, {"type": "unexpected_rows_expectation", "kwargs": {"unexpected_rows_query": "SELECT 1"}})

    with pytest.raises(MillcertError) as caught:
        bench.vet()
    assert caught.value.exit_code in {2, 4}
    assert not bench.out.exists()
