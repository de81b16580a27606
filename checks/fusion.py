"""From the votes of all checks to clusters: what each flagged sample is evidence of, and how grave that is.

A check says that samples are suspect; which checks agree says of what (research: detection 5, layer 4):

  1. Every check speaks one signal, by what it covers and which views it reads: an exact trigger, a shifted source,
     copies, a part of a class set apart in the view trained on the data, a contradiction of the two views, a doubted
     label.
  2. Backdoor: a part set apart, found by a check that may reject; or a trigger of one source, or one with a wrong
     label; or a contradiction of the views that a trigger, a source, copies or a part set apart confirm; and what
     contradicts or stands apart in a class where a check that may reject names a part, or a trigger of one source.
  3. Bad source: a shifted source without more. Duplicate flood: copies without more.
  4. Suspected backdoor: a contradiction, or a part set apart by a check that may only warn, that nothing confirms. A
     suspect model that knows wrong labels by heart looks the same, so it is for people to look at, not to reject on.
  5. Shortcut: a value that betrays the class in many sources while no view doubts the label.
  6. Label noise: the external view doubts the label, and no more.

Rules 2 and 3 need a check whose evidence names that class or source, not a rule of thumb: the votes of a labelled
baseline (`is_baseline`), which flags a fixed part of all data, found nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from millcert.checks.base import Check, GroupEvidence, Severity
from millcert.errors import InternalError

Signal: TypeAlias = Literal[
    "trigger", "source", "duplicate", "contradiction", "separation", "label_doubt", "baseline", "other"
]
Kind: TypeAlias = Literal[
    "backdoor", "bad_source", "duplicate_flood", "suspected_backdoor", "shortcut", "label_noise", "other"
]
#: The one severity of each kind, gravest first.
SEVERITIES: Mapping[Kind, Severity] = {
    "backdoor": "reject",
    "bad_source": "reject",
    "duplicate_flood": "warn",
    "suspected_backdoor": "warn",
    "shortcut": "warn",
    "label_noise": "warn",
    "other": "warn",
}
#: The signals that make a cluster of each kind what it is; the others only support it.
FOUNDATION: Mapping[Kind, frozenset[Signal]] = {
    "backdoor": frozenset({"trigger", "separation", "contradiction"}),
    "bad_source": frozenset({"source"}),
    "duplicate_flood": frozenset({"duplicate"}),
    "suspected_backdoor": frozenset({"contradiction", "separation", "baseline"}),
    "shortcut": frozenset({"trigger"}),
    "label_noise": frozenset({"label_doubt"}),
    "other": frozenset({"other"}),
}
_CONFIRMING: frozenset[Signal] = frozenset({"trigger", "source", "duplicate", "separation"})
_SUSPECTING: frozenset[Signal] = frozenset({"contradiction", "separation"})
_LABELLERS = frozenset({"label_noise", "bad_annotator"})
_TRIGGERS = frozenset({"trigger_in_one_source", "backdoor_text", "shortcut"})
_VIEWS = frozenset({"embedding_self", "embedding_external"})
#: Sources or classes that a cluster lists, those with the most samples first.
MAX_PLACES = 16


class Cell(NamedTuple):
    """Flagged samples of one source and class with the same votes. votes: names of the checks, sorted."""

    source: str
    label: str
    votes: tuple[str, ...]


class Voter(NamedTuple):
    """One fitted check as fusion sees it. evidence: its suspicious groups only. may_reject: by its own severity."""

    name: str
    signal: Signal
    may_reject: bool
    evidence: tuple[GroupEvidence, ...]

    def groups(self, source: str, label: str) -> tuple[GroupEvidence, ...]:
        """Return the suspicious groups that speak of a source and a class; "" stands for any."""
        return tuple(
            group
            for group in self.evidence
            if (not group.source or not source or group.source == source)
            and (not group.label or not label or group.label == label)
        )


class Cluster(NamedTuple):
    """Flagged samples that are evidence of one thing.

    label, source: "" where there is not one. labels, sources: name -> samples, at most `MAX_PLACES`, most first.
    samples: distinct flagged samples; 0 where a check names a group but no sample of it.
    votes: check -> how many of the samples it flagged. founded_on: the checks that make it of this kind.
    estimated_count, count_low, count_high: of the founding check with the most votes; where it estimates none, the
    samples, with an interval from 0.
    p_value: the least of the founding checks'; None where none has one.
    figures: founding check -> the statistic of its group with the most samples estimated.
    """

    kind: Kind
    severity: Severity
    label: str
    source: str
    labels: Mapping[str, int]
    sources: Mapping[str, int]
    samples: int
    votes: Mapping[str, int]
    founded_on: tuple[str, ...]
    estimated_count: float
    count_low: float
    count_high: float
    p_value: float | None
    figures: Mapping[str, Mapping[str, float]]


def voter_of(check: Check, evidence: Iterable[GroupEvidence], name: str = "") -> Voter:
    """Return a fitted check as fusion sees it; `name`: its own in this run, "" for the check's."""
    suspicious = tuple(group for group in evidence if group.is_suspicious)
    return Voter(name or check.name, signal_of(check), check.severity == "reject", suspicious)


def signal_of(check: Check) -> Signal:
    """Return what a check's flags speak of, by what it covers and which views it reads."""
    covers = check.covers
    tests: tuple[tuple[bool, Signal], ...] = (
        (bool(getattr(check, "is_baseline", False)), "baseline"),
        ("duplicate_flood" in covers, "duplicate"),
        (bool(covers & _TRIGGERS), "trigger"),
        ("bad_source" in covers, "source"),
        (bool(covers & _LABELLERS), "label_doubt"),
        (any(family.startswith("backdoor_") for family in covers) and check.columns >= _VIEWS, "contradiction"),
        (any(family.startswith("backdoor_") for family in covers), "separation"),
        ("targeted_label_flips" in covers, "source"),
    )
    return next((signal for is_so, signal in tests if is_so), "other")


class Panel:
    """All fitted checks of a run: tells what samples with given votes are evidence of."""

    def __init__(self, voters: Iterable[Voter]) -> None:
        self.voters: Mapping[str, Voter] = {voter.name: voter for voter in sorted(voters, key=lambda one: one.name)}
        self._known: dict[Cell, Kind] = {}

    def kind_of(self, cell: Cell) -> Kind:
        """Return what samples of a source and class with these votes are evidence of.

        Raises:
            InternalError: a vote is of nobody on the panel.
        """
        kind = self._known.get(cell)
        if kind is None:
            kind = self._known[cell] = self._judge(cell)
        return kind

    def _judge(self, cell: Cell) -> Kind:
        unknown = [name for name in cell.votes if name not in self.voters]
        if unknown or not cell.votes:
            raise InternalError(f"Samples have votes of {', '.join(unknown) or 'nobody'}, who was not fitted.")
        voters = [self.voters[name] for name in cell.votes]
        signals = {voter.signal for voter in voters}
        strong = [voter for voter in voters if voter.groups(cell.source, cell.label)]
        if _is_backdoor(cell, signals, strong) or (signals & _SUSPECTING and self._is_attacked(cell)):
            return "backdoor"
        ranked: tuple[tuple[Signal, Kind], ...] = (
            ("source", "bad_source"),
            ("duplicate", "duplicate_flood"),
            ("contradiction", "suspected_backdoor"),
            ("separation", "suspected_backdoor"),
            ("trigger", "shortcut"),
            ("label_doubt", "label_noise"),
            ("baseline", "suspected_backdoor"),
        )
        return next((kind for signal, kind in ranked if signal in signals), "other")

    def _is_attacked(self, cell: Cell) -> bool:
        """Say whether a check that may reject, voting on these samples or not, names their class for a backdoor."""
        return bool(cell.label) and any(
            voter.signal == "separation" or (voter.signal == "trigger" and bool(cell.source) and bool(group.source))
            for voter in self.voters.values()
            if voter.may_reject
            for group in voter.groups(cell.source, cell.label)
        )


def _is_backdoor(cell: Cell, signals: set[Signal], strong: list[Voter]) -> bool:
    found = {voter.signal for voter in strong if voter.may_reject}
    if "separation" in found or ("contradiction" in signals and signals & _CONFIRMING):
        return True
    of_one_source = any(
        group.source
        for voter in strong
        if voter.signal == "trigger" and voter.may_reject
        for group in voter.groups(cell.source, cell.label)
    )
    return of_one_source or ("trigger" in found and bool(signals & {"label_doubt", "separation"}))


def fuse(panel: Panel, cells: Mapping[Cell, int]) -> tuple[Cluster, ...]:
    """Return the clusters, gravest first, then those with the most samples.

    Args:
        panel: the fitted checks.
        cells: how many flagged samples have which votes.

    Cost: cells x evidence groups of the checks that voted.
    """
    gathered: dict[tuple[Kind, str], dict[Cell, int]] = {}
    for cell, samples in [*sorted(cells.items()), *_without_samples(panel, cells)]:
        kind = panel.kind_of(cell)
        place = cell.source if kind == "bad_source" else cell.label
        into = gathered.setdefault((kind, place), {})
        into[cell] = into.get(cell, 0) + samples
    clusters = [_cluster(panel, kind, found) for (kind, _), found in sorted(gathered.items())]
    order = list(SEVERITIES)
    return tuple(
        sorted(clusters, key=lambda one: (order.index(one.kind), -one.samples, one.label, one.source, one.votes))
    )


def _without_samples(panel: Panel, cells: Mapping[Cell, int]) -> list[tuple[Cell, int]]:
    """Return a cell without samples for each group that a rejecting check or a contradiction names without a flag."""
    voted: dict[str, set[tuple[str, str]]] = {}
    for cell in cells:
        for name in cell.votes:
            voted.setdefault(name, set()).add((cell.source, cell.label))
    return [
        (Cell(group.source, group.label, (voter.name,)), 0)
        for voter in panel.voters.values()
        if voter.signal == "contradiction" or (voter.may_reject and voter.signal in {"trigger", "source", "separation"})
        for group in voter.evidence
        if not any(
            (not group.source or not source or group.source == source)
            and (not group.label or not label or group.label == label)
            for source, label in voted.get(voter.name, ())
        )
    ]


def _cluster(panel: Panel, kind: Kind, cells: Mapping[Cell, int]) -> Cluster:
    sources: dict[str, int] = {}
    labels: dict[str, int] = {}
    votes: dict[str, int] = {}
    for cell, samples in cells.items():
        sources[cell.source] = sources.get(cell.source, 0) + samples
        labels[cell.label] = labels.get(cell.label, 0) + samples
        for name in cell.votes:
            votes[name] = votes.get(name, 0) + samples
    founding = [panel.voters[name] for name in sorted(votes) if panel.voters[name].signal in FOUNDATION[kind]]
    founding.sort(key=lambda voter: (not voter.may_reject, -votes[voter.name], voter.name))
    groups = {voter.name: _groups(voter, cells) for voter in founding}
    total = sum(cells.values())
    estimate, low, high = float(total), 0.0, float(total)
    best = next((groups[voter.name] for voter in founding if groups[voter.name]), ())
    if best:
        estimate = sum(group.estimated_count for group in best)
        low, high = sum(group.count_low for group in best), sum(group.count_high for group in best)
    p_values = [group.p_value for found in groups.values() for group in found if group.p_value is not None]
    return Cluster(
        kind=kind,
        severity=SEVERITIES[kind],
        label=next(iter(labels)) if len(labels) == 1 else "",
        source=next(iter(sources)) if len(sources) == 1 else "",
        labels=_most(labels),
        sources=_most(sources),
        samples=total,
        votes=dict(sorted(votes.items())),
        founded_on=tuple(sorted(voter.name for voter in founding)),
        estimated_count=estimate,
        count_low=low,
        count_high=high,
        p_value=min(p_values, default=None),
        figures={
            name: dict(sorted(max(found, key=lambda group: (group.estimated_count, group.group)).statistic.items()))
            for name, found in sorted(groups.items())
            if found
        },
    )


def _groups(voter: Voter, cells: Mapping[Cell, int]) -> tuple[GroupEvidence, ...]:
    """Return a check's suspicious groups that speak of samples which it flagged here, each once."""
    found = {
        group.group: group
        for cell in cells
        if voter.name in cell.votes
        for group in voter.groups(cell.source, cell.label)
    }
    return tuple(found[name] for name in sorted(found))


def _most(places: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(places.items(), key=lambda place: (-place[1], place[0]))[:MAX_PLACES])
