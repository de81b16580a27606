"""From a policy and the user's arguments to a plan: what can be refused before data is read is refused there."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from millcert.errors import InternalError, MissingColumnError, PolicyError, UntrustedSourceError, UsageError
from millcert.pipelines.dataset import plan_dataset, verify_files
from millcert.pipelines.plan import VetPlan
from millcert.pipelines.planning import Workspace, plan_run, refuse_unreadable
from millcert.pipelines.records import FileDigest, FileSchema
from millcert.policy import load_policy

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


def plan_of(bench: Workbench, *datasets: str) -> VetPlan:
    loaded = load_policy(bench.save_policy())
    return plan_run(loaded, datasets or (str(bench.data),), Workspace(str(bench.top / "staging")))


def test_a_plan_names_files_sources_and_reads(bench: Workbench) -> None:
    (bench.data / "north" / "README.md").write_text("x")

    plan = plan_of(bench)

    assert [item.name for item in plan.items] == ["north/a.parquet", "north/deep/b.jsonl", "south/c.arrow"]
    assert [item.name for item in plan.auxiliary] == ["north/README.md"]
    assert [(source.rule.name, source.prefix) for source in plan.sources] == [("north", "north/"), ("south", "south/")]
    assert plan.source("south").manifest_uri == f"{bench.data}/south/millcert-manifest.json"
    assert plan.reads == 3 + plan.passes == 3 + plan.checks[0].check.passes
    assert not plan.source("north").is_selection


def test_two_plans_of_one_run_are_equal_and_a_limit_of_the_policy_is_in_it(bench: Workbench) -> None:
    bench.policy["limits"] = {"max_batch_bytes": 12345}

    assert plan_of(bench) == plan_of(bench)
    assert plan_of(bench).limits.max_batch_bytes == 12345


def test_a_check_without_its_column_is_refused_by_name(bench: Workbench) -> None:
    del bench.policy["dataset"]["columns"]["embedding_external"]

    with pytest.raises((MissingColumnError, PolicyError), match="embedding"):
        plan_of(bench)


def test_a_file_that_two_rules_speak_for_is_refused(bench: Workbench) -> None:
    bench.policy["sources"].append({"name": "all", "path": "**/*.arrow", "unsigned": "accept_as_unknown"})

    with pytest.raises(UntrustedSourceError, match="match several"):
        plan_of(bench)


def test_a_plan_without_data_or_with_a_check_twice_is_refused(bench: Workbench) -> None:
    plan = plan_of(bench)
    refuse_unreadable(plan)

    with pytest.raises(UsageError, match="no data file"):
        refuse_unreadable(replace(plan, items=()))
    with pytest.raises(PolicyError, match="one name"):
        refuse_unreadable(replace(plan, checks=plan.checks * 2))


def test_a_pinned_root_that_the_policy_lacks_refuses_a_signed_source(bench: Workbench) -> None:
    plan = replace(plan_of(bench), trust_root=None)
    digests = [FileDigest(item._replace(sha256="0" * 64), None) for item in plan.items]

    verified = verify_files(plan, digests)

    assert {fault.code for fault in verified.faults} == {UntrustedSourceError.code}
    assert {fault.file for fault in verified.faults} == {"north", "south"}


@pytest.mark.parametrize("how", ["missing", "twice", "unknown"])
def test_files_that_were_not_hashed_exactly_once_are_a_bug_and_no_verdict(bench: Workbench, how: str) -> None:
    plan = plan_of(bench)
    digests = [FileDigest(item._replace(sha256="0" * 64), None) for item in plan.items]
    changed = {
        "missing": digests[1:],
        "twice": [*digests, digests[0]],
        "unknown": [*digests[1:], FileDigest(digests[0].item._replace(name="north/z.parquet"), None)],
    }

    assert {fault.code for fault in verify_files(plan, changed[how]).faults} == {InternalError.code}


def test_a_plan_for_a_data_set_without_files_is_a_fault(bench: Workbench) -> None:
    plan = plan_of(bench)
    verified = replace(verify_files(plan, []), faults=())

    assert {fault.code for fault in plan_dataset(plan, verified, []).faults} == {UsageError.code}


def test_files_that_disagree_on_a_column_are_a_fault_that_names_both(bench: Workbench) -> None:
    import pyarrow as pa

    plan = plan_of(bench)
    verified = replace(verify_files(plan, []), faults=())
    schemas = [
        FileSchema(name, pa.schema([("label", kind)]).serialize().to_pybytes(), False, {}, None)
        for name, kind in (("b", pa.string()), ("a", pa.int64()))
    ]

    (fault,) = plan_dataset(plan, verified, schemas).faults

    assert "a and b disagree" in fault.message
