"""Fusion: which votes are evidence of what, and what clusters are made of them."""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.base import GroupEvidence
from millcert.checks.fusion import (
    MAX_PLACES,
    SEVERITIES,
    Cell,
    Panel,
    Signal,
    Voter,
    fuse,
    signal_of,
    voter_of,
)
from millcert.checks.registry import check_class, list_checks
from millcert.errors import InternalError


def group(label: str = "", source: str = "", count: float = 40.0, p_value: float | None = None) -> GroupEvidence:
    return GroupEvidence(
        f"{source}/{label}", label, source, 500, {"d": count}, True, count, count - 5, count + 5, p_value
    )


def panel(*voters: Voter) -> Panel:
    return Panel(voters)


#: One check of each signal; those that may reject have evidence for class 0 of source "bad".
VOTERS = (
    Voter("patch", "trigger", True, (group("0", "bad", 40, 1e-9),)),
    Voter("shift", "source", True, (group("0", "bad", 35, 1e-4),)),
    Voter("copies", "duplicate", False, (group("0"),)),
    Voter("views", "contradiction", False, (group("0"),)),
    Voter("part", "separation", True, (group("0", count=50),)),
    Voter("halves", "separation", False, (group("0"),)),
    Voter("noise", "label_doubt", False, (group("0"),)),
    Voter("rate", "baseline", True, (group("0"),)),
    Voter("plug", "other", True, (group("0"),)),
)


def kind(*votes: str, source: str = "bad", label: str = "0", voters: tuple[Voter, ...] = VOTERS) -> str:
    return panel(*voters).kind_of(Cell(source, label, tuple(sorted(votes))))


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        (["part"], "backdoor"),
        (["patch"], "backdoor"),
        (["part", "noise"], "backdoor"),
        (["views", "shift"], "backdoor"),
        (["views", "halves"], "backdoor"),
        (["views", "copies"], "backdoor"),
        (["shift"], "bad_source"),
        (["shift", "noise"], "bad_source"),
        (["copies"], "duplicate_flood"),
        (["copies", "noise"], "duplicate_flood"),
        (["rate"], "suspected_backdoor"),
        (["noise"], "label_noise"),
        (["noise", "rate"], "label_noise"),
        (["plug"], "other"),
    ],
)
def test_votes_are_evidence_of_one_thing(votes: list[str], expected: str) -> None:
    assert kind(*votes) == expected


@pytest.mark.parametrize("votes", [["views"], ["views", "noise"], ["halves"], ["views", "rate"]])
def test_what_nothing_confirms_is_suspected_and_in_an_attacked_class_of_the_same_attack(votes: list[str]) -> None:
    """One attack was told twice: the samples that all checks flagged, and those that only one of them did."""
    others = tuple(voter for voter in VOTERS if voter.name not in {"part", "patch"})

    assert kind(*votes, voters=others) == "suspected_backdoor"
    assert kind(*votes, voters=(*others, VOTERS[4])) == "backdoor"
    assert kind(*votes, voters=(*others, VOTERS[0])) == "backdoor"
    assert kind(*votes, source="good", voters=(*others, VOTERS[0])) == "suspected_backdoor"
    assert kind(*votes, label="1", voters=VOTERS) == "suspected_backdoor"


def test_label_noise_alone_never_has_the_severity_that_rejects() -> None:
    assert SEVERITIES["label_noise"] == SEVERITIES["suspected_backdoor"] == "warn"
    assert [name for name, severity in SEVERITIES.items() if severity == "reject"] == ["backdoor", "bad_source"]


def test_a_trigger_of_many_sources_is_a_shortcut_until_a_label_is_doubted() -> None:
    everywhere = (Voter("patch", "trigger", True, (group("0"),)), *VOTERS[1:])

    assert kind("patch", voters=everywhere) == "shortcut"
    assert kind("patch", "noise", voters=everywhere) == "backdoor"


def test_a_rejecting_check_s_votes_without_evidence_for_that_class_found_no_backdoor() -> None:
    assert kind("part", label="7") == "suspected_backdoor"
    assert kind("patch", source="good") == "shortcut"


def test_a_vote_of_nobody_on_the_panel_is_a_bug() -> None:
    with pytest.raises(InternalError, match="votes of ghost"):
        kind("ghost")
    with pytest.raises(InternalError, match="nobody"):
        kind()


@dataclass(frozen=True)
class Stranger:
    """A plug-in of which fusion looks at these alone."""

    covers: frozenset[str]
    columns: frozenset[str] = frozenset({"label"})
    severity: str = "reject"
    name: str = "stranger"


@pytest.mark.parametrize(
    ("covers", "expected"),
    [
        ({"duplicate_flood", "label_noise"}, "duplicate"),
        ({"backdoor_text"}, "trigger"),
        ({"targeted_label_flips"}, "source"),
        ({"backdoor_clean_label"}, "separation"),
        ({"label_noise", "backdoor_adaptive"}, "label_doubt"),
        (set(), "other"),
    ],
)
def test_a_plug_in_speaks_by_what_it_covers(covers: set[str], expected: Signal) -> None:
    check: Any = Stranger(frozenset(covers))

    assert voter_of(check, [group("0"), group("1")._replace(is_suspicious=False)]) == Voter(
        "stranger", expected, True, (group("0"),)
    )


def test_every_check_of_ours_speaks_a_known_signal() -> None:
    spoken = {name: signal_of(check_class(name)) for name in list_checks()}  # type: ignore[arg-type]  # class attributes only

    known = {
        "activation_clustering": "baseline",
        "label_noise": "label_doubt",
        "robust_spectral": "separation",
        "source_shift": "source",
        "spectral_signatures": "baseline",
        "trigger_mining": "trigger",
        "view_contradiction": "contradiction",
    }
    assert known.items() <= spoken.items()
    # A copy across splits is a fact about the data and evidence of no attack.
    assert [name for name, signal in spoken.items() if signal == "other"] == ["split_leakage"]


def test_a_backdoor_in_two_sources_is_one_cluster_and_bad_sources_are_one_each() -> None:
    cells = {
        Cell("a", "0", ("part",)): 30,
        Cell("b", "0", ("noise", "part")): 12,
        Cell("bad", "1", ("shift",)): 9,
        Cell("worse", "1", ("shift",)): 3,
        Cell("a", "2", ("noise",)): 5,
    }
    shifted = Voter("shift", "source", True, (group("1", "bad", 8, 1e-4), group("1", "worse", 4, 1e-3)))

    clusters = fuse(panel(VOTERS[4], shifted, VOTERS[6]), cells)

    assert [(one.kind, one.label, one.source, one.samples) for one in clusters] == [
        ("backdoor", "0", "", 42),
        ("bad_source", "1", "bad", 9),
        ("bad_source", "1", "worse", 3),
        ("label_noise", "2", "a", 5),
    ]
    backdoor, bad = clusters[:2]
    assert dict(backdoor.sources) == {"a": 30, "b": 12}
    assert dict(backdoor.votes) == {"noise": 12, "part": 42}
    assert backdoor.founded_on == ("part",)
    assert (backdoor.estimated_count, backdoor.count_low, backdoor.count_high, backdoor.p_value) == (50, 45, 55, None)
    assert (bad.estimated_count, bad.p_value, bad.figures) == (8, 1e-4, {"shift": {"d": 8}})


def test_a_source_that_is_named_is_a_cluster_also_where_none_of_its_samples_is_flagged() -> None:
    (cluster,) = fuse(panel(VOTERS[1], VOTERS[6]), {})

    assert (cluster.kind, cluster.source, cluster.label, cluster.samples) == ("bad_source", "bad", "0", 0)
    assert cluster.estimated_count == 35


def test_a_class_that_a_contradiction_names_is_a_cluster_also_where_no_sample_is_sure_enough_to_flag() -> None:
    (cluster,) = fuse(panel(VOTERS[3]), {})

    assert (cluster.kind, cluster.severity, cluster.label, cluster.samples) == ("suspected_backdoor", "warn", "0", 0)
    assert cluster.estimated_count == 40


def test_a_group_with_flagged_samples_is_not_told_twice() -> None:
    clusters = fuse(panel(VOTERS[0], VOTERS[1]), {Cell("bad", "0", ("patch", "shift")): 40})

    assert [(one.kind, one.samples) for one in clusters] == [("backdoor", 40)]


def test_a_cluster_without_an_estimate_says_only_what_was_flagged() -> None:
    (cluster,) = fuse(panel(Voter("noise", "label_doubt", False, ())), {Cell("a", "2", ("noise",)): 5})

    assert (cluster.estimated_count, cluster.count_low, cluster.count_high, cluster.figures) == (5, 0, 5, {})


def test_a_cluster_lists_its_largest_places() -> None:
    cells = {Cell(f"s{number:02d}", "0", ("part",)): number + 1 for number in range(40)}

    (cluster,) = fuse(panel(VOTERS[4]), cells)

    assert next(iter(cluster.sources)) == "s39"
    assert len(cluster.sources) == MAX_PLACES
    assert cluster.samples == 820


@given(
    st.dictionaries(
        st.builds(
            Cell,
            st.sampled_from(["bad", "good"]),
            st.sampled_from(["0", "1"]),
            st.sets(st.sampled_from([voter.name for voter in VOTERS]), min_size=1).map(
                lambda some: tuple(sorted(some))
            ),
        ),
        st.integers(1, 50),
        max_size=12,
    )
)
def test_each_flagged_sample_is_in_one_cluster_and_order_changes_nothing(cells: dict[Cell, int]) -> None:
    clusters = fuse(panel(*VOTERS), cells)

    assert sum(one.samples for one in clusters) == sum(cells.values())
    assert fuse(panel(*reversed(VOTERS)), dict(reversed(cells.items()))) == clusters


def test_the_order_of_the_checks_changes_nothing() -> None:
    cells = {Cell("bad", "0", ("noise", "part", "patch")): 7, Cell("bad", "0", ("noise",)): 2}

    found = [fuse(panel(*order), cells) for order in permutations((VOTERS[0], VOTERS[4], VOTERS[6]))]

    assert all(one == found[0] for one in found)
