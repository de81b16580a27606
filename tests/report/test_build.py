"""From a run's result to the report's data: what is shown, and that memory does not grow with what is not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.metric_suite import load_suite
from millcert.errors import InternalError
from millcert.pipelines.output import PartWriter, part_name
from millcert.pipelines.ruling import ScoreHistogram
from millcert.pipelines.score import bin_edge
from millcert.pipelines.score_schemas import FINDINGS_SCHEMA, MALFORMED_SCHEMA, QUARANTINE_FIELDS
from millcert.policy_model import ImageShape
from millcert.report.build import MAX_FINDINGS_A_CHECK, MAX_MALFORMED, build_report, report_data
from millcert.report.model import PixelArray
from millcert.verdict import CheckSummary, ExpectationSummary, Reason, SampleCounts, SourceSummary, Verdict

HEX = "ab" * 32
GROUP = {
    "group": "lab/cat",
    "label": "cat",
    "source": "lab",
    "samples": 9,
    "statistic": {"b": 2, "a": "inf"},
    "is_suspicious": True,
    "estimated_count": 4,
    "count_low": 1,
    "count_high": 9,
    "p_value": None,
}
OUTCOME = {
    "type": "expect_x",
    "number": 0,
    "column": "c",
    "success": False,
    "observed": None,
    "unexpected_count": 1,
    "unexpected_fraction": 0.1,
    "exactness": "exact",
    "detail": "why",
}
VERDICT = Verdict(
    version=1,
    dataset="small",
    decision="rejected",
    reasons=(Reason("a.b", "because"),),
    policy_digest=HEX,
    trusted_root_sha256=HEX,
    code_version="millcert/0",
    schema_id=HEX,
    input_root=HEX,
    output_root="",
    files=1,
    size_bytes=1,
    reads=4,
    samples=SampleCounts(1000, 900, 90, 10, 0),
    sources=(SourceSummary("lab", "verified", "a@b", "https://i", "", HEX, 1, 1000, 90, 10),),
    expectations=ExpectationSummary(HEX, False, 1, 1, "warn", (OUTCOME | {"success": True}, OUTCOME)),
    checks=(
        CheckSummary(
            "odd", "1", HEX, "reject", "failed", 990, 90, 0.09, 0.05, "report", "warn", "", 1, 1, 4.0, (GROUP,)
        ),
        CheckSummary("even", "1", HEX, "warn", "passed", 990, 0, 0.0, 0.05, "report", "warn", "", 0, 0, 0.0, ()),
    ),
    not_covered=(),
)
FUSED = {"kind": "bad_source", "votes": ["even", "odd"]}
SAMPLE_SCHEMA = pa.schema(
    [
        *QUARANTINE_FIELDS,
        pa.field("text", pa.string()),
        pa.field("image", pa.list_(pa.float64())),
        pa.field("many", pa.list_(pa.int64())),
        pa.field("nested", pa.struct([("x", pa.int64())])),
    ]
)


SUITE = load_suite(
    json.dumps(
        {
            "name": "s",
            "expectations": [
                {"type": "expect_x", "kwargs": {"column": "c", "value_set": ["<b>", "y" * 400], "mostly": None}}
            ],
        }
    ).encode()
)


def finding(row: int, score: float, check: str = "odd", file: str = "a.parquet") -> dict[str, Any]:
    digest = bytes(31) + bytes([row % 256])
    values = {"file": file, "row": row, "sample_digest": digest, "source": "lab", "label": None, "check": check}
    return {**values, "group": "g", "score": score, "threshold": 0.5, "reason": "odd.r", "action": "report", **FUSED}


def sample(row: int, file: str = "a.parquet") -> dict[str, Any]:
    return {
        "millcert_file": file,
        "millcert_row": row,
        "millcert_sample_digest": bytes(32),
        "millcert_reasons": [],
        "millcert_kind": "bad_source",
        "text": f"text {row}",
        "image": [0.0, 1.0, 0.5, None],
        "many": list(range(100)),
        "nested": {"x": row},
    }


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with PartWriter(str(path), schema) as part:
        for start in range(0, len(rows), 300):
            part.write(pa.RecordBatch.from_pylist(rows[start : start + 300], schema=schema))


def published(
    top: Path, findings: list[dict[str, Any]], malformed: list[dict[str, Any]], verdict: Verdict | None = VERDICT
) -> Any:
    write(top / "publish" / "findings.parquet", findings, FINDINGS_SCHEMA)
    write(top / "publish" / "malformed.parquet", malformed, MALFORMED_SCHEMA)
    histogram = ScoreHistogram("odd", {-2: (5, 0), 1: (2, 2)}, 0.5)
    result = SimpleNamespace(verdict=verdict, histograms=(histogram,), work=())
    recorded = SimpleNamespace(origin="o", index=7, checkpoint="c", certificate=None)
    return SimpleNamespace(
        plan=SimpleNamespace(suite=SUITE),
        result=result,
        recorded=recorded,
        folder=str(top / "publish"),
        parts=str(top / "parts"),
    )


def test_an_expectation_shows_what_it_asks_for_and_those_that_do_not_hold_come_first(tmp_path: Path) -> None:
    shown = report_data(published(tmp_path, [], []), {}).expectations

    assert [one.success for one in shown] == [False, True]
    assert shown[0].arguments.startswith('value_set ["<b>", "yyy')
    assert len(shown[0].arguments) < 310


def test_the_most_suspect_findings_of_each_check_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    rows = [finding(row, float(row % 700)) for row in range(1000)] + [finding(1, 3.0, "even"), finding(2, 3.0, "even")]

    data = report_data(published(tmp_path, rows, []), {})

    odd = [shown for shown in data.findings if shown.check == "odd"]
    assert data.findings_total == 1002
    assert [(shown.score, shown.row) for shown in odd] == [(699.0 - n, 699 - n) for n in range(MAX_FINDINGS_A_CHECK)]
    assert [(shown.check, shown.row) for shown in data.findings[:2]] == [("even", 1), ("even", 2)]
    assert odd[0].label == ""


def test_the_order_of_ties_does_not_depend_on_the_batches_they_came_in(tmp_path: Path) -> None:
    rows = [finding(row, 1.0, file=f"{row % 3}.parquet") for row in range(900)]

    one = report_data(published(tmp_path / "one", rows, []), {})
    other = report_data(published(tmp_path / "other", rows[::-1], []), {})

    assert one.findings == other.findings
    assert {shown.file for shown in one.findings} == {"0.parquet"}


def test_a_sample_is_shown_from_the_quarantine_or_from_what_was_only_reported(tmp_path: Path) -> None:
    rows = [finding(3, 1.0), finding(8, 2.0), finding(9, 3.0)]
    write(tmp_path / "publish" / "quarantine" / "a.parquet.parquet", [sample(row) for row in (3, 4, 5)], SAMPLE_SCHEMA)
    write(tmp_path / "parts" / "reported" / part_name("a.parquet"), [sample(row) for row in (7, 8)], SAMPLE_SCHEMA)
    images = {"image": ImageShape(shape=(2, 2), max_value=1)}

    data = report_data(published(tmp_path, rows, []), images)

    by_row = {shown.row: {field.name: field.value for field in shown.sample} for shown in data.findings}
    assert by_row[3]["text"] == "text 3"
    assert by_row[8]["text"] == "text 8"
    assert by_row[9] == {}
    assert isinstance(by_row[3]["image"], PixelArray)
    assert by_row[3]["many"] == tuple(range(16))
    assert by_row[3]["nested"] == "{'x': 3}"


def test_malformed_records_are_shown_up_to_a_number_with_their_place(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file": "a.jsonl", "row": row, "line": row + 1, "byte_offset": 9 * row, "reason": "json.x", "detail": "d"}
        for row in range(500)
    ]
    rows[0] |= {"line": None, "byte_offset": None}

    data = report_data(published(tmp_path, [], rows), {})

    assert len(data.malformed) == MAX_MALFORMED
    assert [row.detail for row in data.malformed[:2]] == ["d", "line 2, byte 9: d"]


def test_figures_of_the_verdict_are_shown_as_they_are(tmp_path: Path) -> None:
    data = report_data(published(tmp_path, [], []), {})

    odd, even = data.checks
    assert odd.histogram is not None
    assert odd.histogram.counts == (5, 0, 0, 2)
    assert odd.histogram.flagged_counts == (0, 0, 0, 2)
    assert odd.histogram.edges == tuple(bin_edge(number) for number in range(-2, 3))
    assert even.histogram is None
    assert odd.evidence[0].statistic == (("a", np.inf), ("b", 2.0))
    assert data.expectations[0].observed == ""
    assert data.next_commands[-1].startswith("millcert policy explain")
    assert "small" in build_report(published(tmp_path / "page", [], []), {})


def test_an_admitted_run_shows_its_certificate(tmp_path: Path) -> None:
    from dataclasses import replace

    run = published(tmp_path, [], [], replace(VERDICT, decision="admitted", expectations=None))
    run.recorded.certificate = b"{}"

    data = report_data(run, {})

    assert data.provenance.certificate_file == "certificate.json"
    assert data.expectations == ()
    assert data.next_commands[0].startswith("millcert admit")


def test_a_run_without_a_verdict_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(InternalError):
        report_data(published(tmp_path, [], [], None), {})
