"""Fusion in a run: what a file reports of its votes, and what the policy makes of the clusters."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.base import GroupEvidence, Scores
from millcert.checks.fusion import Cell, Cluster, Panel, Voter, fuse
from millcert.pipelines.fuse import MAX_CELLS_A_FILE, add_votes, cells_of, describe_cluster, panel_of, summarise
from millcert.pipelines.overriding import _is_lifted
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.records import CheckFailure


@dataclass(frozen=True)
class Stub:
    """A check that names class 0."""

    name: str = "stub"
    severity: str = "reject"
    covers: frozenset[str] = frozenset({"backdoor_dirty_label"})
    columns: ClassVar[frozenset[str]] = frozenset({"label", "embedding_self"})

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        return (GroupEvidence("0", "0", "", 10, {"d": 5.0}, True, 4.0, 3.0, 5.0, 0.001),)


@dataclass(frozen=True)
class Plan:
    """What fusion reads of a plan."""

    checks: tuple[PlannedCheck, ...]
    on_backdoor: str = "reject"
    on_bad_source: str = "reject"


def planned(over_limit: str = "reject", **fields: Any) -> PlannedCheck:
    return PlannedCheck(cast("Any", Stub(**fields)), "", 1.0, over_limit, "quarantine")


def plan(*checks: PlannedCheck, **fields: str) -> VetPlan:
    return cast("VetPlan", Plan(checks or (planned(),), **fields))


def clusters(run: VetPlan, votes: tuple[str, ...] = ("stub",)) -> tuple[Cluster, ...]:
    models = {one.check.name: object() for one in run.checks}
    return fuse(panel_of(run, models), {Cell("lab", "0", votes): 4})


def test_a_backdoor_rejects_however_few_samples_it_has() -> None:
    run = plan()

    (summary,), reasons = summarise(run, clusters(run))

    assert (summary.kind, summary.severity, summary.action) == ("backdoor", "reject", "reject")
    assert [reason.code for reason in reasons] == ["cluster.backdoor"]
    assert reasons[0].message == "backdoor in class 0, source lab: about 4 samples (3 to 5), 4 flagged by stub"


@pytest.mark.parametrize("run", [plan(on_backdoor="quarantine"), plan(planned("warn"))])
def test_a_backdoor_is_no_reason_where_the_policy_says_so(run: VetPlan) -> None:
    (summary,), reasons = summarise(run, clusters(run))

    assert (summary.severity, summary.action) == ("reject", "warn")
    assert not reasons


def test_a_second_rejecting_check_speaks_where_the_first_is_waved_through() -> None:
    run = plan(planned("warn"), planned(name="other"))

    _, reasons = summarise(run, clusters(run, ("other", "stub")))

    assert [reason.code for reason in reasons] == ["cluster.backdoor"]


def test_a_bad_source_rejects_by_itself() -> None:
    run = plan(planned(covers=frozenset({"bad_source"})))

    (summary,), reasons = summarise(run, clusters(run))

    assert (summary.kind, summary.action, [reason.code for reason in reasons]) == (
        "bad_source",
        "reject",
        ["cluster.bad_source"],
    )
    assert reasons[0].message.startswith("bad source lab, class 0: ")
    assert not summarise(replace(cast("Any", run), on_bad_source="quarantine"), clusters(run))[1]


def test_label_noise_rejects_nothing_here() -> None:
    run = plan(planned(severity="warn", covers=frozenset({"label_noise"})))

    (summary,), reasons = summarise(run, clusters(run))

    assert (summary.kind, summary.action, reasons) == ("label_noise", "warn", ())


def test_a_check_that_could_not_be_fitted_has_no_vote() -> None:
    run = plan(planned(), planned(name="other"))

    found = panel_of(run, {"stub": CheckFailure("x", "y"), "other": object()})

    assert list(found.voters) == ["other"]


def test_a_cluster_of_several_classes_says_how_many() -> None:
    (cluster,) = fuse(
        Panel([Voter("shift", "source", True, ())]),
        {Cell("bad", "0", ("shift",)): 3, Cell("bad", "1", ("shift",)): 2},
    )

    assert describe_cluster(cluster) == "bad source bad: about 5 samples (0 to 5), 5 flagged by shift"
    assert "in 2 classes" in describe_cluster(cluster._replace(kind="other"))


def test_the_votes_of_a_batch_are_read_off_its_scores() -> None:
    def scores(*flagged: bool) -> Scores:
        return Scores(np.zeros(3), np.zeros(3), np.array(flagged), pa.array(["g"] * 3), "r")

    batch = ((planned(name="b"), scores(True, False, True)), (planned(name="a"), scores(True, False, False)))
    sources, labels = pa.array(["x", "y", "z"]), pa.array(["0", "1", "2"])

    assert cells_of(batch, np.array([0, 2]), sources, labels) == (Cell("x", "0", ("a", "b")), Cell("z", "2", ("b",)))
    assert cells_of(batch, np.array([2]), sources, None) == (Cell("z", "", ("b",)),)


@pytest.mark.parametrize("label_of", [lambda number: "0", str])
def test_a_file_reports_a_bounded_number_of_cells_in_any_order_of_batches(label_of: Any) -> None:
    """Rule: data in which every row has a source of its own cannot fill a worker's memory."""
    cells = [(Cell(f"s{number}", label_of(number), ("a",)), 1) for number in range(MAX_CELLS_A_FILE + 100)]

    def counted(parts: list[list[tuple[Cell, int]]]) -> dict[Cell, int]:
        counts: dict[Cell, int] = {}
        for part in parts:
            counts = add_votes(counts, part)
        return counts

    whole = counted([cells])

    assert len(whole) == 1
    assert sum(whole.values()) == len(cells)
    assert counted([cells[3000:], cells[:3000]]) == whole == counted([cells[:4090], cells[4090:4200], cells[4200:]])


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("01"), st.integers(1, 5)), max_size=20))
def test_no_vote_is_lost(flags: list[tuple[str, str, int]]) -> None:
    cells = [(Cell(source, label, ("a",)), samples) for source, label, samples in flags]

    counts = add_votes(add_votes({}, cells[: len(cells) // 2]), cells[len(cells) // 2 :])

    assert sum(counts.values()) == sum(samples for _, samples in cells)
    assert counts == add_votes({}, reversed(cells))


@pytest.mark.parametrize(
    ("overridden", "root", "is_lifted"),
    [(("stub",), "aa", True), (("other", "stub"), "aa", True), (("other",), "aa", False), (("stub",), "bb", False)],
)
def test_an_override_of_all_checks_that_a_cluster_rests_on_lifts_its_reason(
    overridden: tuple[str, ...], root: str, *, is_lifted: bool
) -> None:
    run = plan()
    listed, (reason,) = summarise(run, clusters(run))
    verdict: Any = SimpleNamespace(clusters=listed, checks=(), input_root="aa", digest="cc")
    override = SimpleNamespace(scope="checks", checks=overridden, input_root=root, verdict_digest="")
    planned: Any = SimpleNamespace(state=SimpleNamespace(override=override))

    assert _is_lifted(planned, verdict, reason) is is_lifted
