"""Every row that fails the suite is in the sidecar with all its reasons, and is held back where the policy says so."""

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from millcert.checks.metric_rows import has_bit
from millcert.errors import InternalError
from millcert.pipelines.driver import Published
from millcert.pipelines.records import FailingRows
from millcert.pipelines.row_digest import RowHasher, digest_of_sidecar, rows_digest, settle_rows
from millcert.report.build import build_report

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any

VECTOR = Path(__file__).parent.parent / "vectors/0.2.0/expectation-rows/rows.json"


def expectation(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


FIRST_THREE = expectation("column_values_to_not_match_regex", column="text", regex="^sample [0-2] ")
ZERO = expectation("column_values_to_not_match_regex", column="text", regex="^sample 0 ", severity="info")
COUNT = expectation("table_row_count_to_be_between", min_value=1)
UNIQUE = expectation("column_values_to_be_unique", column="id")
SPREAD = expectation("column_value_z_scores_to_be_less_than", column="label", threshold=1.1, double_sided=False)
SOME = expectation(
    "column_values_to_not_match_regex",
    column="text",
    regex="^sample 1 ",
    row_condition="label >= 0",
    condition_parser="pandas",
)


def ask(bench: Workbench, *expectations: dict[str, Any], on_failure: str) -> None:
    (bench.top / "suite.json").write_text(json.dumps({"name": "suite", "expectations": list(expectations)}))
    bench.policy["expectations"] = {"suite": "suite.json", "on_failure": on_failure}


def sidecar(bench: Workbench) -> tuple[list[tuple[str, int]], np.ndarray, pa.Table]:
    table = pq.read_table(bench.out / "expectation_rows.parquet")
    masks = [np.frombuffer(mask, np.uint8) for mask in table.column("failed").to_pylist()]
    places = list(zip(table.column("file").to_pylist(), table.column("row").to_pylist(), strict=True))
    return places, np.array(masks), table


def test_every_failing_row_is_listed_with_all_its_reasons_bound_to_its_file(bench: Workbench) -> None:
    ask(bench, COUNT, FIRST_THREE, ZERO, SPREAD, SOME, on_failure="warn")

    verdict = bench.vet().verdict

    places, masks, table = sidecar(bench)
    assert verdict.decision == "admitted"
    assert verdict.samples.quarantined == 0
    assert places == sorted(places, key=lambda place: (place[0].encode(), place[1]))
    digests = {
        name: hashlib.sha256((bench.data / name).read_bytes()).digest()
        for name in ("north/a.parquet", "north/deep/b.jsonl", "south/c.arrow")
    }
    assert table.column("file_sha256").to_pylist() == [digests[name] for name, _ in places]
    assert {row for (_, row), hit in zip(places, has_bit(masks, 1), strict=True) if hit} == {0, 1, 2}
    assert {row for (_, row), hit in zip(places, has_bit(masks, 2), strict=True) if hit} == {0}
    assert verdict.expectations is not None
    for outcome in verdict.expectations.outcomes:
        marked = int(has_bit(masks, outcome["number"]).sum())
        assert marked == (outcome["unexpected_count"] or 0)
    assert sum(outcome["unexpected_count"] or 0 for outcome in verdict.expectations.outcomes) > 9 + 3 + 3
    named = json.loads(table.schema.metadata[b"millcert.expectations"])
    assert [entry["type"] for entry in named] == [e["type"] for e in (COUNT, FIRST_THREE, ZERO, SPREAD, SOME)]


def test_rows_that_critical_expectations_do_not_expect_are_held_back_and_the_rest_is_admitted(bench: Workbench) -> None:
    ask(bench, FIRST_THREE, ZERO, COUNT, on_failure="quarantine_rows")

    verdict = bench.vet(render_report=report).verdict

    assert verdict.decision == "admitted"
    assert (verdict.samples.quarantined, verdict.samples.admitted) == (9, 351)
    assert pq.read_table(bench.out / "admitted/north/a.parquet").num_rows == 147
    held = pq.read_table(bench.out / "quarantine/north/a.parquet.parquet").to_pylist()
    assert [row["millcert_row"] for row in held] == [0, 1, 2]
    assert [row["text"] for row in held] == ["sample 0 of 1", "sample 1 of 1", "sample 2 of 1"]
    assert {row["millcert_kind"] for row in held} == {"expectation"}
    assert held[0]["millcert_reasons"][0]["reason"] == FIRST_THREE["type"]
    findings = pq.read_table(bench.out / "findings.parquet").filter(pc.field("check") == "expectations")
    assert findings.num_rows == 9
    assert set(findings.column("action").to_pylist()) == {"quarantine"}
    assert verdict.expectations is not None
    quarantined = {outcome["number"]: outcome["quarantined"] for outcome in verdict.expectations.outcomes}
    assert quarantined == {0: 9, 1: 0, 2: 0}
    assert not verdict.expectations.success
    assert FIRST_THREE["type"] in (bench.out / "report.html").read_text()


def report(published: Published) -> str:
    return build_report(published, {})


def test_repeated_values_are_all_held_back_across_files(bench: Workbench) -> None:
    table = pq.read_table(bench.data / "north/a.parquet")
    other = table.slice(0, 4).combine_chunks()
    bench.write("south", "d.parquet", other)
    bench.sign("south")
    ask(bench, UNIQUE, on_failure="quarantine_rows")

    verdict = bench.vet().verdict

    places, _, _ = sidecar(bench)
    assert places == [*[("north/a.parquet", row) for row in range(4)], *[("south/d.parquet", row) for row in range(4)]]
    assert (verdict.decision, verdict.samples.quarantined) == ("admitted", 8)


def test_hundreds_of_failing_rows_are_held_back_and_exactly_the_others_are_admitted(bench: Workbench) -> None:
    """No cap: Great Expectations lists 200 at most."""
    some = expectation("column_values_to_match_regex", column="text", regex="[12] of")
    ask(bench, some, on_failure="quarantine_rows")
    bench.policy["verdict"]["max_quarantined_fraction"] = 1.0

    verdict = bench.vet().verdict

    texts = pq.read_table(bench.data / "north/a.parquet")["text"].to_pylist()
    kept = pq.read_table(bench.out / "admitted/north/a.parquet")["text"].to_pylist()
    held = pq.read_table(bench.out / "quarantine/north/a.parquet.parquet")["text"].to_pylist()
    assert verdict.decision == "admitted"
    assert verdict.samples.quarantined == len(sidecar(bench)[0]) > 200
    assert kept == [text for text in texts if re.search("[12] of", text)]
    assert held == [text for text in texts if not re.search("[12] of", text)]


def test_the_verdict_holds_the_digest_of_the_failing_rows(bench: Workbench) -> None:
    """Made here as docs/formats/output.md says, from the sidecar alone."""
    ask(bench, FIRST_THREE, ZERO, on_failure="warn")

    summary = bench.vet().verdict.expectations

    table = pq.read_table(bench.out / "expectation_rows.parquet")
    whole = hashlib.sha256(b"millcert expectation rows v1\n" + bytes.fromhex(suite_digest(table)))
    for name in sorted(set(table["file"].to_pylist()), key=str.encode):
        own = table.filter(pc.field("file") == name).to_pylist()
        rows = b"".join(row["row"].to_bytes(8, "big") + row["failed"] for row in own)
        whole.update(len(name.encode()).to_bytes(8, "big") + name.encode() + own[0]["file_sha256"])
        whole.update(len(own).to_bytes(8, "big") + hashlib.sha256(rows).digest())
    assert summary is not None
    assert (summary.failing_rows, summary.rows_digest) == (9, whole.hexdigest())
    assert digest_of_sidecar(str(bench.out / "expectation_rows.parquet")) == (9, whole.hexdigest())


def suite_digest(table: pa.Table) -> str:
    return bytes(table.schema.metadata[b"millcert.suite_sha256"]).decode()


def test_the_vector_has_the_digest_that_this_version_makes_of_its_rows() -> None:
    vector = json.loads(VECTOR.read_text())

    found = []
    for file in vector["files"]:
        hasher = RowHasher()
        for row, mask in file["rows"]:
            hasher.add(np.array([row]), np.frombuffer(bytes.fromhex(mask), np.uint8).reshape(1, -1))
        found.append(FailingRows(file["name"], file["sha256"], hasher.count, hasher.digest()))

    assert rows_digest(vector["suite_sha256"], found) == vector["rows_digest"]
    assert rows_digest(vector["suite_sha256"], reversed(found)) == vector["rows_digest"]
    assert rows_digest(vector["suite_sha256"], []) == vector["none_digest"]


@pytest.mark.parametrize("change", ["a row less", "a reason less", "another row"])
def test_a_sidecar_that_was_changed_is_not_the_one_of_the_verdict(bench: Workbench, change: str) -> None:
    ask(bench, FIRST_THREE, ZERO, on_failure="warn")
    summary = bench.vet().verdict.expectations
    path = bench.out / "expectation_rows.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    if change == "a row less":
        rows.pop()
    elif change == "a reason less":
        rows[0]["failed"] = b"\x01"
    else:
        rows[-1]["row"] += 1
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)

    with pytest.raises(InternalError, match="the verdict says 9"):
        settle_rows(str(bench.out), summary)


def test_an_expectation_on_the_whole_still_rejects_where_rows_are_held_back(bench: Workbench) -> None:
    ask(bench, FIRST_THREE, expectation("table_row_count_to_equal", value=1), on_failure="quarantine_rows")

    verdict = bench.vet().verdict

    assert verdict.decision == "rejected"
    assert [reason.code for reason in verdict.reasons] == ["expectations.failed"]
    assert "expect_table_row_count_to_equal" in verdict.reasons[0].message
    assert not (bench.out / "admitted").exists()


def test_holding_back_too_much_rejects(bench: Workbench) -> None:
    ask(bench, expectation("column_values_to_be_null", column="text"), on_failure="quarantine_rows")

    verdict = bench.vet().verdict

    assert verdict.decision == "rejected"
    assert {reason.code for reason in verdict.reasons} == {"samples.none_admitted", "samples.quarantined"}
    assert len(sidecar(bench)[0]) == 360


def test_a_suite_without_failing_rows_leaves_an_empty_sidecar_and_no_suite_none(bench: Workbench) -> None:
    ask(bench, COUNT, on_failure="quarantine_rows")
    bench.vet()
    assert pq.read_table(bench.out / "expectation_rows.parquet").num_rows == 0

    del bench.policy["expectations"]
    bench.vet(replace=True)
    assert not (bench.out / "expectation_rows.parquet").exists()


def test_a_suite_alone_is_a_gate(bench: Workbench) -> None:
    """Without checks: it rejects, holds rows back, and admits with a certificate."""
    del bench.policy["checks"]
    ask(bench, FIRST_THREE, on_failure="reject")
    rejected = bench.vet().verdict
    ask(bench, FIRST_THREE, on_failure="quarantine_rows")
    admitted = bench.vet(replace=True).verdict

    assert rejected.decision == "rejected"
    assert (admitted.decision, admitted.checks) == ("admitted", ())
    assert len(sidecar(bench)[0]) == admitted.samples.quarantined > 0
    assert (bench.out / "certificate.json").is_file()


def test_a_failing_row_that_the_checks_flag_too_has_the_reasons_of_both(bench: Workbench) -> None:
    table = pq.read_table(bench.data / "north/a.parquet")
    labels = table.column("label").to_numpy().copy()
    labels[1] = (labels[1] + 1) % 3
    bench.write("north", "a.parquet", table.set_column(1, "label", pa.array(labels)))
    bench.sign("north")
    bench.policy["checks"][0]["on_flagged"] = "quarantine"
    ask(bench, FIRST_THREE, on_failure="quarantine_rows")

    bench.vet()

    held = pq.read_table(bench.out / "quarantine/north/a.parquet.parquet").to_pylist()
    both = next(row for row in held if row["millcert_row"] == 1)
    assert [reason["check"] for reason in both["millcert_reasons"]] == ["label_noise", "expectations"]
    assert both["millcert_kind"] != "expectation"


@pytest.mark.slow
def test_beam_publishes_the_same_rows_as_the_plain_engine(bench: Workbench, tmp_path: Path) -> None:
    """Rule: the same input gives the same sidecar, verdict and quarantine on any runner."""
    ask(bench, FIRST_THREE, SPREAD, UNIQUE, on_failure="quarantine_rows")
    bench.policy["verdict"]["max_quarantined_fraction"] = 1.0

    plain = bench.vet(out=tmp_path / "plain").verdict
    beam = bench.vet(out=tmp_path / "beam", on_beam=True).verdict

    assert plain.digest == beam.digest
    for name in ("expectation_rows.parquet", "findings.parquet", "quarantine/north/deep/b.jsonl.parquet"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "beam" / name).read_bytes()
