"""Fusion in a run: the votes of each flagged sample while a file is scored, and the clusters of all files at last."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from millcert.checks.base import Scores
from millcert.checks.fusion import Cell, Cluster, Panel, fuse, voter_of
from millcert.pipelines.models import Models
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.records import CheckFailure, FileOutcome
from millcert.verdict import ClusterSummary, Reason

#: Cells that one file reports. Beyond it first the sources and then the classes of its cells become "", so that data in
#: which every row has a source of its own cannot fill a worker's memory. Our choice: some hundred kB a file.
MAX_CELLS_A_FILE = 4096
#: Clusters that a verdict lists, gravest first. All of them are counted.
MAX_CLUSTERS = 100


def panel_of(plan: VetPlan, models: Models) -> Panel:
    """Return the checks of a run that could be fitted, as fusion sees them."""
    fitted = [
        (planned, models[planned.name])
        for planned in plan.checks
        if planned.name in models and not isinstance(models[planned.name], CheckFailure)
    ]
    return Panel(voter_of(planned.check, planned.check.evidence(model), planned.name) for planned, model in fitted)


def cells_of(
    scores: Sequence[tuple[PlannedCheck, Scores]], flagged: np.ndarray, sources: pa.Array, labels: pa.Array | None
) -> tuple[Cell, ...]:
    """Return the cell of each flagged sample of a batch, in order.

    Args:
        scores: of all checks.
        flagged: positions of samples that some check flagged.
        sources: of the whole batch.
        labels: of the whole batch; None without a label column.
    """
    taken = pa.array(flagged)
    votes = [(planned.name, found.flagged[flagged]) for planned, found in scores]
    source = sources.take(taken).to_pylist()
    label = [""] * len(flagged) if labels is None else labels.take(taken).to_pylist()
    return tuple(
        Cell(source[place], label[place], tuple(sorted(name for name, voted in votes if voted[place])))
        for place in range(len(flagged))
    )


def add_votes(counts: Mapping[Cell, int], cells: Iterable[tuple[Cell, int]]) -> dict[Cell, int]:
    """Return counts with samples added, in at most `MAX_CELLS_A_FILE` cells; the end does not depend on the order."""
    merged = dict(counts)
    for cell, samples in cells:
        merged[cell] = merged.get(cell, 0) + samples
    if len(merged) > MAX_CELLS_A_FILE or any(not cell.source for cell in counts):
        merged = _joined((cell._replace(source=""), samples) for cell, samples in merged.items())
    if len(merged) > MAX_CELLS_A_FILE or any(not (cell.source or cell.label) for cell in counts):
        merged = _joined((cell._replace(label=""), samples) for cell, samples in merged.items())
    return merged


def _joined(cells: Iterable[tuple[Cell, int]]) -> dict[Cell, int]:
    joined: dict[Cell, int] = {}
    for cell, samples in cells:
        joined[cell] = joined.get(cell, 0) + samples
    return joined


def clusters_of(plan: VetPlan, models: Models, outcomes: Iterable[FileOutcome]) -> tuple[Cluster, ...]:
    """Return the clusters of a whole run, gravest first."""
    cells = _joined(pair for outcome in outcomes for pair in outcome.votes.items())
    return fuse(panel_of(plan, models), cells)


class Tolerance(Protocol):
    """What a policy makes of clusters: the part of a plan that decides."""

    @property
    def checks(self) -> tuple[PlannedCheck, ...]:
        """Return the checks of the run."""
        ...

    @property
    def on_backdoor(self) -> str:
        """Return "reject" or "quarantine"."""
        ...

    @property
    def on_bad_source(self) -> str:
        """Return "reject" or "quarantine"."""
        ...


def summarise(plan: Tolerance, clusters: Sequence[Cluster]) -> tuple[tuple[ClusterSummary, ...], tuple[Reason, ...]]:
    """Return what the verdict says of the clusters, and the reasons to reject that they are.

    A backdoor or a bad source rejects, unless the policy says `quarantine` for it, or says `over_limit: warn` for every
    check of severity reject that it is founded on. Nothing else rejects here; each check's own limit holds besides.
    """
    ways = {"backdoor": plan.on_backdoor, "bad_source": plan.on_bad_source}
    reasons = []
    summaries = []
    for cluster in clusters:
        rejects = ways.get(cluster.kind) == "reject" and not _is_waved_through(plan, cluster)
        if rejects:
            reasons.append(Reason(f"cluster.{cluster.kind}", describe_cluster(cluster)))
        summaries.append(
            ClusterSummary(**{**cluster._asdict(), "action": "reject" if rejects else "warn"}),
        )
    return tuple(summaries[:MAX_CLUSTERS]), tuple(reasons[:MAX_CLUSTERS])


def _is_waved_through(plan: Tolerance, cluster: Cluster) -> bool:
    grave = [
        planned for planned in plan.checks if planned.name in cluster.founded_on and planned.check.severity == "reject"
    ]
    return bool(grave) and all(planned.over_limit == "warn" for planned in grave)


def describe_cluster(cluster: Cluster | ClusterSummary) -> str:
    """Return a cluster in words: what, where, how many, and who says so."""
    names = {"bad_source": "bad source"}
    where = f" in class {cluster.label}" if cluster.label else f" in {len(cluster.labels)} classes"
    if cluster.kind == "bad_source":
        where = f" {cluster.source}" + (f", class {cluster.label}" if cluster.label else "")
    elif cluster.source:
        where += f", source {cluster.source}"
    who = ", ".join(name for name in cluster.votes)
    what = names.get(cluster.kind, cluster.kind.replace("_", " "))
    about = f"{float(cluster.estimated_count):,.0f}"
    return (
        f"{what}{where}: about {about} {'sample' if about == '1' else 'samples'} "
        f"({float(cluster.count_low):,.0f} to {float(cluster.count_high):,.0f}), {cluster.samples:,} flagged by {who}"
    )
