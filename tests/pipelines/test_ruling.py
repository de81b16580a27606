"""The ruling file: what the pipeline hands to the driver, and what is refused of it."""

import json
import math
from typing import Any

import pytest

from millcert.errors import IntegrityError, InternalError, MillcertError
from millcert.pipelines.decide import Ruling
from millcert.pipelines.records import (
    Fault,
    FileOutcome,
    WorkItem,
    error_from,
    fault_from,
)
from millcert.pipelines.ruling import read_ruling, ruling_to_json
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.verdict import CheckSummary, ExpectationSummary, Reason, SampleCounts, SourceSummary, Verdict

HEX = "ab" * 32
COUNTS = SampleCounts(seen=10, admitted=7, quarantined=2, malformed=1, unknown_provenance=0)
VERDICT = Verdict(
    version=1,
    dataset="d",
    decision="admitted",
    reasons=(Reason("a.b", "because"),),
    policy_digest=HEX,
    trusted_root_sha256="",
    code_version="millcert/0",
    schema_id=HEX,
    input_root=HEX,
    output_root=HEX,
    files=1,
    size_bytes=2**60,
    reads=4,
    samples=COUNTS,
    sources=(SourceSummary("s", "verified", "i", "j", "", HEX, 1, 10, 2, 1),),
    expectations=ExpectationSummary(HEX, True, 1, 0, "reject", ({"type": "t", "observed": math.nan},)),
    checks=(
        CheckSummary(
            "c", "1", HEX, "warn", "warned", 9, 2, 2 / 9, 0.5, "report", "warn", "", 1, 1, 2.0, ({"p_value": math.inf},)
        ),
    ),
    not_covered=("x",),
)


def outcome(name: str, **changes: Any) -> FileOutcome:
    values = {
        "name": name,
        "source": "s",
        "rows": 10,
        "malformed": 1,
        "admitted": 7,
        "quarantined": 2,
        "flagged": {"c": 2},
        "scored": {"c": 9},
        "flagged_any": 2,
        "histogram": {"c": {-3: (7, 0), 5: (2, 2)}},
        "thresholds": {"c": 0.75},
        "output_sha256": HEX,
        "output_size_bytes": 5,
        "output_row_tree_root": HEX,
        "findings": 2,
    }
    return FileOutcome(**{**values, **changes})


def test_a_ruling_comes_back_as_it_was_written() -> None:
    manifest = Manifest("d", (FileEntry("a", 1, HEX),))
    ruling = Ruling(VERDICT, (), manifest, manifest, {"results": [{"observed": math.nan, "of": (1, math.inf)}]})

    found = read_ruling(json.dumps(ruling_to_json(ruling, [outcome("b"), outcome("a")]), allow_nan=False).encode())

    assert found.verdict is not None
    assert found.verdict.digest == VERDICT.digest
    assert found.verdict.to_json() == VERDICT.to_json()
    assert found.input_manifest == found.output_manifest == manifest
    assert found.files == ("a", "b")
    assert found.suite_result == {"results": [{"observed": "nan", "of": [1, "inf"]}]}


def test_histograms_of_all_files_are_added_and_the_lowest_threshold_is_kept() -> None:
    outcomes = [
        outcome("a"),
        outcome("b", thresholds={"c": 0.5}),
        outcome("c", thresholds={"c": None}, histogram={"c": {5: (1, 1)}}),
        outcome("d", thresholds={}, histogram={}),
    ]

    for order in (outcomes, outcomes[::-1]):
        (found,) = read_ruling(
            json.dumps(ruling_to_json(Ruling(None, (), None, None, None), order)).encode()
        ).histograms
        assert found.counts == {-3: (14, 0), 5: (5, 5)}
        assert found.threshold == 0.5


GOOD = ruling_to_json(Ruling(VERDICT, (Fault("c", "m", "h", "f"),), None, None, None), [outcome("a")])


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": {}},
        {"verdict": []},
        {"verdict": "admitted"},
        {"verdict": {**GOOD["verdict"], "extra": 1}},
        {"faults": [{"code": "x"}]},
        {"faults": 3},
        {"input_manifest": "{}"},
        {"histograms": {"c": {"counts": {"1": [2]}, "threshold": None}}},
        {"histograms": {"c": {"counts": [1], "threshold": None}}},
        {"histograms": []},
    ],
)
def test_a_ruling_file_that_is_damaged_is_an_integrity_failure(change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        read_ruling(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"null"])
def test_a_ruling_file_that_is_none_is_an_integrity_failure(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_ruling(data)


def test_samples_that_do_not_add_up_are_never_read_back() -> None:
    raw = json.loads(json.dumps(GOOD))
    raw["verdict"]["samples"]["admitted"] += 1

    with pytest.raises(InternalError, match="add up"):
        read_ruling(json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        (["store.error", "usage.error", "integrity.manifest"], "integrity.manifest"),
        (["store.error", "internal.error", "usage.error"], "internal.error"),
        (["verdict.inconclusive", "store.error", "data.missing_column"], "data.missing_column"),
        (["verdict.inconclusive", "store.error"], "store.error"),
        (["no.such.code", "usage.error"], "internal.error"),
    ],
)
def test_the_gravest_fault_gives_the_error_its_class(codes: list[str], worst: str) -> None:
    faults = [Fault(code, f"about {code}", f"hint {code}", "f") for code in codes]

    for order in (faults, faults[::-1]):
        error = error_from(order)
        assert type(error) is not MillcertError
        assert error.code == worst
        assert error.message.splitlines()[0] in {f"about {worst}", "about no.such.code"}
        assert len(error.message.splitlines()) == len(codes)


def test_a_thousand_faults_are_one_short_message_and_equal_ones_are_told_once() -> None:
    many = [Fault("usage.error", f"file {number:04d}", "", f"{number}") for number in range(1000)]
    same = [Fault("usage.error", "one message", "", f"{number}") for number in range(3)]

    assert error_from(many).message.splitlines()[-1] == "... and 980 more"
    assert error_from(same).message == "one message"


@pytest.mark.parametrize("kind", MillcertError.__subclasses__())
def test_an_error_comes_back_from_its_fault_with_its_class(kind: type[MillcertError]) -> None:
    error = error_from([fault_from(kind("what", hint="how"), file="a.parquet")])

    assert (type(error), error.message, error.hint, error.file) == (kind, "what", "how", "a.parquet")


def test_an_auxiliary_file_has_no_format_to_decode() -> None:
    with pytest.raises(InternalError, match="holds no samples"):
        _ = WorkItem("a", "a", "auxiliary", "s", 1, "").data_format
