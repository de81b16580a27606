"""From what the passes found to a verdict: every branch of the ruling, without files and without Beam."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence
from millcert.checks.expectations import load_suite
from millcert.checks.metric_plan import MetricPlan
from millcert.checks.sample_digest import schema_id
from millcert.errors import DigestMismatchError, InconclusiveError, InternalError
from millcert.pipelines import decide
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.decide import MAX_EVIDENCE, Ruling, rule
from millcert.pipelines.formats import ReadLimits
from millcert.pipelines.models import EXPECTATIONS
from millcert.pipelines.plan import PlannedCheck, PlannedSource, VetPlan
from millcert.pipelines.records import CheckFailure, Fault, FileOutcome, ShardFacts, WorkItem
from millcert.provenance.manifest import FileEntry, Manifest
from millcert.provenance.trust import SourceRule, VerifiedSource

HEX = "cd" * 32
ROOT = "ef" * 32
SCHEMA = pa.schema([("label", pa.string())])


@dataclass(frozen=True)
class Stub:
    """A check of which only the name and the evidence count."""

    name: ClassVar[str] = "stub"
    version: ClassVar[str] = "1"
    severity: ClassVar[Any] = "reject"
    covers: ClassVar[frozenset[str]] = frozenset({"backdoor_dirty_label"})
    columns: ClassVar[frozenset[str]] = frozenset({"label"})
    passes: ClassVar[int] = 1
    groups: int = 1

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        return tuple(
            GroupEvidence(f"g{number:03d}", "", "", 10, {"x": 1.0}, number % 2 == 0, float(number), 0.0, 9.0, None)
            for number in range(self.groups)
        )


def item(name: str, source: str = "s") -> WorkItem:
    return WorkItem(name, f"/{name}", "parquet", source, 9, HEX)


def outcome(name: str, **changes: Any) -> FileOutcome:
    values = {
        "name": name,
        "source": "s",
        "rows": 10,
        "malformed": 0,
        "admitted": 10,
        "quarantined": 0,
        "flagged": {"stub": 0},
        "scored": {"stub": 10},
        "flagged_any": 0,
        "histogram": {},
        "thresholds": {},
        "output_sha256": HEX,
        "output_size_bytes": 9,
        "output_row_tree_root": "",
        "findings": 0,
    }
    return FileOutcome(**{**values, **changes})


@dataclass(frozen=True)
class Case:
    """A run that admits; tests change one thing of it."""

    plan: VetPlan
    dataset: DatasetFacts
    models: Mapping[str, Any]
    shards: list[ShardFacts]
    outcomes: list[FileOutcome]

    def rule(self, *faults: Fault) -> Ruling:
        return rule(self.plan, self.dataset, self.models, self.shards, self.outcomes, faults)

    def planning(self, **changes: Any) -> "Case":
        return replace(self, plan=replace(self.plan, **changes))

    def knowing(self, **changes: Any) -> "Case":
        return replace(self, dataset=replace(self.dataset, **changes))


@pytest.fixture
def case() -> Case:
    items = (item("a"), item("b"))
    source = PlannedSource(SourceRule("s", "**", unsigned_accepted=True), "", "", "", is_selection=False)
    plan = VetPlan(
        dataset="d",
        policy_digest=HEX,
        code_version="millcert/0",
        items=items,
        auxiliary=(),
        sources=(source,),
        trust_root=None,
        roles={"label": "label"},
        declared_schema=None,
        suite=None,
        suite_on_failure="",
        checks=(PlannedCheck(Stub(), HEX, 0.25, "reject", "quarantine"),),  # type: ignore[arg-type]
        limits=ReadLimits(),
        max_malformed_fraction=0.1,
        max_quarantined_fraction=0.1,
        max_unknown_provenance_fraction=0.5,
        staging="",
        progress_path="",
        on_backdoor="quarantine",
    )
    verified = VerifiedSource("s", "verified", None, ROOT)
    dataset = DatasetFacts({each.name: each for each in items}, {"s": verified}, {}, (), SCHEMA)
    shards = [ShardFacts(each.name, 10, 10, ROOT) for each in items]
    return Case(plan, dataset, {"stub": object()}, shards, [outcome("a"), outcome("b")])


def codes(ruling: Ruling) -> list[str]:
    assert ruling.verdict is not None
    return [reason.code for reason in ruling.verdict.reasons]


def refusal(ruling: Ruling) -> str:
    assert ruling.verdict is None
    assert ruling.output_manifest is None
    return " ".join(fault.code for fault in ruling.faults)


def test_a_run_without_fault_admits_and_its_output_is_its_input(case: Case) -> None:
    ruling = case.rule()

    assert ruling.verdict is not None
    assert (ruling.verdict.decision, ruling.verdict.samples.admitted) == ("admitted", 20)
    assert ruling.verdict.output_root == ruling.verdict.input_root
    assert ruling.output_manifest == ruling.input_manifest
    assert {entry.row_tree_root for entry in ruling.output_manifest.files} == {ROOT}  # type: ignore[union-attr]


def test_the_order_of_what_workers_yield_changes_nothing(case: Case) -> None:
    other = replace(case, shards=case.shards[::-1], outcomes=case.outcomes[::-1])

    assert case.rule() == other.rule()


def test_any_fault_leaves_no_verdict(case: Case) -> None:
    fault = Fault(DigestMismatchError.code, "m", "h", "a")

    assert refusal(case.rule(fault, fault)) == DigestMismatchError.code
    assert refusal(case.knowing(faults=(fault,)).rule()) == DigestMismatchError.code


@pytest.mark.parametrize("what", ["shards", "outcomes"])
@pytest.mark.parametrize("how", ["missing", "twice", "unknown", "none"])
def test_a_file_that_was_not_read_exactly_once_is_no_verdict(case: Case, what: str, how: str) -> None:
    """Rule: a missing outcome is never a pass."""
    records: list[Any] = getattr(case, what)
    changed: dict[str, list[Any]] = {
        "missing": records[:1],
        "twice": [*records, records[0]],
        "unknown": [*records, records[0]._replace(name="c")],
        "none": [],
    }

    ruling = replace(case, **{what: changed[how]}).rule()  # type: ignore[arg-type]

    assert refusal(ruling) == InternalError.code


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 9, "admitted": 9, "scored": {"stub": 9}},
        {"admitted": 9},
        {"output_sha256": ROOT},
        {"admitted": 9, "quarantined": 1},
        {"scored": {}},
        {"scored": {"stub": 9}},
        {"rows": 11, "admitted": 10, "quarantined": 1, "scored": {"stub": 11}, "output_row_tree_root": HEX},
        {"admitted": 9, "output_row_tree_root": HEX},
    ],
)
def test_counts_that_do_not_agree_between_reads_are_no_verdict(case: Case, changes: dict[str, Any]) -> None:
    ruling = replace(case, outcomes=[outcome("a", **changes), outcome("b")]).rule()

    assert refusal(ruling) == InternalError.code


def quarantined(**changes: Any) -> FileOutcome:
    values = {"admitted": 7, "quarantined": 3, "flagged": {"stub": 3}, "flagged_any": 3, "output_row_tree_root": HEX}
    return outcome("a", **{**values, "output_sha256": ROOT, **changes})


def test_held_back_samples_make_another_output(case: Case) -> None:
    ruling = replace(case.planning(max_quarantined_fraction=0.2), outcomes=[quarantined(), outcome("b")]).rule()

    assert ruling.verdict is not None
    assert ruling.verdict.decision == "admitted"
    assert ruling.verdict.checks[0].status == "warned"
    assert ruling.verdict.checks[0].flagged_fraction == 3 / 20
    assert ruling.verdict.output_root != ruling.verdict.input_root
    assert [(entry.path, entry.rows, entry.row_tree_root) for entry in ruling.output_manifest.files] == [  # type: ignore[union-attr]
        ("a", 7, HEX),
        ("b", 10, ROOT),
    ]


@pytest.mark.parametrize(("doubted", "decision"), [(0, "rejected"), (2, "admitted"), (3, "admitted")])
def test_what_nothing_but_a_doubted_label_holds_back_never_rejects(case: Case, doubted: int, decision: str) -> None:
    outcomes = [quarantined(doubted=doubted), outcome("b")]

    ruling = replace(case.planning(max_quarantined_fraction=0.05), outcomes=outcomes).rule()

    assert ruling.verdict is not None
    assert ruling.verdict.decision == decision
    assert ruling.verdict.samples.quarantined == 3


def test_what_was_not_counted_is_said_where_the_rest_is_too_much(case: Case) -> None:
    outcomes = [quarantined(doubted=1), outcome("b")]

    ruling = replace(case.planning(max_quarantined_fraction=0.05), outcomes=outcomes).rule()

    assert ruling.verdict is not None
    (reason,) = ruling.verdict.reasons
    assert reason.message == (
        "2 of 20 samples (10.00%) are quarantined, 1 with nothing but a doubted label not counted; limit 0.05"
    )


@pytest.mark.parametrize(
    ("over_limit", "limit", "expected", "status"),
    [
        ("reject", 0.15, [], "warned"),
        ("reject", 0.1, ["check.over_limit"], "failed"),
        ("warn", 0.1, [], "warned"),
        ("reject", 0.0, ["check.over_limit"], "failed"),
    ],
)
def test_a_check_is_judged_by_its_limit(
    case: Case, over_limit: str, limit: float, expected: list[str], status: str
) -> None:
    check = PlannedCheck(Stub(), HEX, limit, over_limit, "quarantine")  # type: ignore[arg-type]
    run = replace(case.planning(checks=(check,), max_quarantined_fraction=1.0), outcomes=[quarantined(), outcome("b")])

    ruling = run.rule()

    assert codes(ruling) == expected
    assert ruling.verdict is not None
    assert ruling.verdict.checks[0].status == status


def unfitted(case: Case) -> Case:
    outcomes = [outcome(name, scored={}, flagged={}) for name in ("a", "b")]
    return replace(case, models={"stub": CheckFailure("data.not_enough_samples", "too few")}, outcomes=outcomes)


def test_a_check_that_could_not_be_fitted_is_inconclusive_and_covers_nothing(case: Case) -> None:
    fitted, ruling = case.rule(), unfitted(case).rule()

    assert codes(ruling) == ["check.inconclusive"]
    assert ruling.verdict is not None
    assert fitted.verdict is not None
    assert (ruling.verdict.decision, ruling.verdict.exit_code) == ("inconclusive", 4)
    assert ruling.output_manifest is None
    assert "backdoor_dirty_label" in ruling.verdict.not_covered
    assert "backdoor_dirty_label" not in fitted.verdict.not_covered


def test_a_reason_to_reject_outweighs_missing_evidence(case: Case) -> None:
    ruling = unfitted(case.knowing(sources={"s": VerifiedSource("s", "unknown", None, ROOT)})).rule()

    assert codes(ruling) == ["samples.unknown_provenance", "check.inconclusive"]
    assert ruling.verdict is not None
    assert ruling.verdict.decision == "rejected"


def test_a_check_that_could_not_be_fitted_but_scored_is_a_bug(case: Case) -> None:
    assert refusal(replace(unfitted(case), outcomes=case.outcomes).rule()) == InternalError.code


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"malformed": 2, "scored": {"stub": 8}, "admitted": 8, "output_row_tree_root": HEX}, []),
        ({"malformed": 3, "scored": {"stub": 7}, "admitted": 7, "output_row_tree_root": HEX}, ["samples.malformed"]),
        ({"quarantined": 3, "admitted": 7, "output_row_tree_root": HEX}, ["samples.quarantined"]),
    ],
)
def test_the_limits_of_the_whole_are_parts_of_all_records(case: Case, changes: Any, expected: list[str]) -> None:
    assert codes(replace(case, outcomes=[outcome("a", **changes), outcome("b")]).rule()) == expected


def test_a_data_set_of_which_nothing_is_left_is_rejected_whatever_the_limits(case: Case) -> None:
    gone = [
        outcome(name, admitted=0, quarantined=10, flagged={"stub": 10}, output_row_tree_root=HEX) for name in ("a", "b")
    ]
    check = PlannedCheck(Stub(), HEX, 1.0, "warn", "quarantine")  # type: ignore[arg-type]

    ruling = replace(case.planning(max_quarantined_fraction=1.0, checks=(check,)), outcomes=gone).rule()

    assert codes(ruling) == ["samples.none_admitted"]


def test_a_data_set_without_records_is_rejected(case: Case) -> None:
    none = [outcome(name, rows=0, admitted=0, scored={}) for name in ("a", "b")]

    ruling = replace(case, outcomes=none, shards=[ShardFacts(name, 0, 0, ROOT) for name in ("a", "b")]).rule()

    assert codes(ruling) == ["samples.none_admitted"]


def signed(**changes: Any) -> Mapping[str, Manifest]:
    entry = FileEntry("a", 9, HEX, 10, ROOT, schema_id(SCHEMA).hex())
    return {"s": Manifest("theirs", (replace(entry, **changes), FileEntry("b", 9, HEX)))}


def test_rows_that_the_signed_manifest_states_are_compared(case: Case) -> None:
    assert case.knowing(signed=signed()).rule().verdict is not None
    assert refusal(case.knowing(signed=signed(rows=11)).rule()) == DigestMismatchError.code
    assert refusal(case.knowing(signed=signed(row_tree_root=HEX)).rule()) == DigestMismatchError.code
    assert case.knowing(signed=signed(rows=11, schema_id="other")).rule().verdict is not None


def test_auxiliary_files_are_in_both_manifests_without_rows(case: Case) -> None:
    extra = WorkItem("README.md", "/r", "auxiliary", "s", 3, ROOT)

    ruling = case.planning(auxiliary=(extra,)).knowing(files={**case.dataset.files, "README.md": extra}).rule()

    assert ruling.verdict is not None
    assert ruling.verdict.files == 3
    assert FileEntry("README.md", 3, ROOT) in ruling.output_manifest.files  # type: ignore[union-attr]


def test_evidence_is_cut_but_counted_and_suspicious_groups_come_first(case: Case) -> None:
    check = PlannedCheck(Stub(groups=250), HEX, 0.25, "reject", "quarantine")  # type: ignore[arg-type]

    verdict = case.planning(checks=(check,)).rule().verdict

    assert verdict is not None
    summary = verdict.checks[0]
    assert (summary.groups, summary.suspicious_groups, len(summary.evidence)) == (250, 125, MAX_EVIDENCE)
    assert all(group["is_suspicious"] for group in summary.evidence)
    assert summary.evidence[0]["group"] == "g248"
    assert summary.estimated_count == sum(range(0, 250, 2))


SUITE = b"""{"name": "s", "meta": {"great_expectations_version": "1.24.1"}, "expectations":
  [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "label"}}]}"""


class StubMetrics:
    """Stands for a metric plan that holds no samples."""

    kernels = ("one",)

    def empty(self) -> dict[str, Any]:
        return {}

    def second(self, acc: Any) -> MetricPlan:
        return MetricPlan("", "SUMMARY", ())


def test_a_suite_for_which_nothing_was_measured_is_never_passed_over(case: Case) -> None:
    asked = case.planning(suite=load_suite(SUITE), suite_on_failure="reject")

    assert refusal(asked.rule()) == InternalError.code
    assert refusal(asked.knowing(metrics=StubMetrics()).rule()) == InternalError.code


def test_a_suite_that_cannot_be_concluded_is_missing_evidence(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def inconclusive(*_: Any, **__: Any) -> Any:
        raise InconclusiveError("no figure for it")

    monkeypatch.setattr(decide, "evaluate_apart", inconclusive)
    asked = case.planning(suite=load_suite(SUITE), suite_on_failure="reject").knowing(metrics=StubMetrics())

    ruling = replace(asked, models={**case.models, EXPECTATIONS: {"x": 1}}).rule()

    assert codes(ruling) == ["expectations.inconclusive"]
    assert ruling.verdict is not None
    assert ruling.verdict.decision == "inconclusive"
