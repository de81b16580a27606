"""What became of the labels between two versions, and which changes are explained."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks.label_changes import LabelEvent, LabelledRows, compare_labels, explain
from millcert.errors import InvalidSampleError


def rows_of(rows: list[tuple[int, str]]) -> LabelledRows:
    labels = tuple(sorted({label for _, label in rows}))
    key = np.array([[value, 7] for value, _ in rows], dtype=np.uint64).reshape(-1, 2)
    return LabelledRows(key, np.array([labels.index(label) for _, label in rows], dtype=np.int64), labels)


def event(key: str, new: str, old: str | None = None, when: str = "") -> LabelEvent:
    return LabelEvent(key, new, old, "ann", when)


def test_changed_added_and_removed_rows_are_told_apart() -> None:
    old = rows_of([(1, "cat"), (2, "dog"), (3, "dog"), (5, "cat")])
    new = rows_of([(5, "cat"), (4, "cat"), (2, "cat"), (1, "cat")])

    changes = compare_labels(old, new)

    assert [(change.row, change.old, change.new, change.reason) for change in changes.changed] == [
        (2, "dog", "cat", "no_event")
    ]
    assert (changes.same, changes.added, changes.removed) == (2, 1, 1)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc")), max_size=25),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc")), max_size=25),
)
def test_counts_are_those_of_multisets(old: list[tuple[int, str]], new: list[tuple[int, str]]) -> None:
    """Rule: of each key, what is in both is the same; of the rest, as many as both sides have are changes."""
    changes = compare_labels(rows_of(old), rows_of(new))

    before, after = Counter(old), Counter(new)
    went, came = before - after, after - before
    changed = sum(
        min(sum(n for (k, _), n in went.items() if k == key), sum(n for (k, _), n in came.items() if k == key))
        for key in range(5)
    )
    assert changes.same == sum((before & after).values())
    assert len(changes.changed) == changed
    assert changes.added == sum(came.values()) - changed
    assert changes.removed == sum(went.values()) - changed
    assert all(new[change.row][1] == change.new for change in changes.changed)
    assert len({change.row for change in changes.changed}) == changed


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], "no_event"),
        ([event("k1", "cat")], ""),
        ([event("k1", "cat", "dog")], ""),
        ([event("k1", "cow", "dog", "2026-01-01"), event("k1", "cat", "cow", "2026-01-02")], ""),
        ([event("k1", "cat", "cow", "2026-01-02"), event("k1", "cow", "dog", "2026-01-01")], ""),
        ([event("k1", "cow", "dog")], "event_says_another_label"),
        ([event("k1", "cat", "cow")], "event_starts_from_another_label"),
        ([event("k0", "cat", "dog")], "no_event"),
        ([event("k1", "dog", "cow"), event("k1", "cat", "dog")], ""),  # the log is older than the old version
        ([event("k1", "dog"), event("k1", "cat")], ""),
        ([event("k1", "cow", "dog"), event("k1", "cat", "hen")], "events_leave_a_gap"),
        ([event("k1", "cow", "hen"), event("k1", "cat")], "event_starts_from_another_label"),
        (
            [
                event("k1", "cat", "dog", "2026-01-02T12:00:00+02:00"),
                event("k1", "cow", "cat", "2026-01-02T10:30:00Z"),
                event("k1", "cat", "cow", "2026-01-02T10:30:00.5Z"),
            ],
            "",
        ),
        ([event("k1", "cat", "cow", "10"), event("k1", "cow", "dog", "9")], ""),
    ],
)
def test_a_change_is_explained_only_by_events_that_lead_to_it(events: list[LabelEvent], reason: str) -> None:
    changes = compare_labels(rows_of([(0, "dog"), (1, "dog")]), rows_of([(0, "dog"), (1, "cat")]))

    explained = explain(changes, ["k0", "k1"], ["dog", "cat"], events)

    assert [change.reason for change in explained.changed] == [reason]
    assert len(explained.unexplained) == (1 if reason else 0)


def test_an_event_that_was_not_followed_is_told() -> None:
    changes = compare_labels(rows_of([(0, "dog")]), rows_of([(0, "dog")]))

    explained = explain(changes, ["k0"], ["dog"], [event("k0", "cat"), event("elsewhere", "cat")])

    assert [item.key for item in explained.unused_events] == ["k0"]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (("2026-01-01", ""), "only some say when"),
        (("2026-01-01T00:00:00Z", "2026-01-01T00:00:00"), "with a zone and as a time without a zone"),
        (("2026-01-01", "17"), "as a number and as a time"),
        (("2026-01-01", "yesterday"), "says 'yesterday' as its time"),
    ],
)
def test_events_whose_order_is_not_known_are_refused(times: tuple[str, str], message: str) -> None:
    changes = compare_labels(rows_of([(0, "dog")]), rows_of([(0, "cat")]))

    with pytest.raises(InvalidSampleError, match=message):
        explain(changes, ["k0"], ["cat"], [event("k0", "cat", when=times[0]), event("k0", "dog", when=times[1])])


def test_events_are_counted_with_those_of_other_rows() -> None:
    changes = compare_labels(rows_of([(0, "dog")]), rows_of([(0, "cat")]))

    found = explain(changes, ["k0"], ["cat"], [event("k0", "cat", "dog", "2026"), event("k9", "a"), event("k9", "b")])

    assert (found.events, found.foreign_events, found.changed[0].when) == (3, 2, "2026")
