"""What became of the labels between two versions of a data set, and which changes nobody accounts for.

Rows of the two versions are matched by a key: 16 bytes that name a row whatever its label is. A key may stand for
several rows (equal content); its labels are then compared as a multiset, and those that went are paired with those that
came in order of their text.

A change is explained where the events for its key, in order, lead from the old label to the new one: the last one says
the new label, and from some event that found the old label on, each found what the one before it gave. An event that
does not say what it found took what was there. All other changes are listed, each with a reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from millcert.errors import InvalidSampleError

Reason: TypeAlias = Literal[
    "no_event", "event_says_another_label", "event_starts_from_another_label", "events_leave_a_gap"
]


class LabelEvent(NamedTuple):
    """Somebody gave a row a label.

    key: as text. old: what the row had, None where the event does not say. when: an ISO 8601 date or time, or a number
    that grows with time, or "". is_final: whether it is the last word, whenever it was said.
    """

    key: str
    new: str
    old: str | None
    who: str
    when: str
    is_final: bool = False


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """The rows of one version.

    key: uint64 (n, 2).
    label: int64 (n,), places in `labels`.
    labels: the labels as text, each once.

    Size: 24 bytes a row.
    """

    key: np.ndarray
    label: np.ndarray
    labels: tuple[str, ...]


class LabelChange(NamedTuple):
    """A row whose label changed.

    row: its place in the new version. reason: "" where events explain it. who, when: of the last event, "" without one.
    """

    row: int
    old: str
    new: str
    reason: Reason | Literal[""]
    who: str
    when: str = ""


@dataclass(frozen=True, eq=False)
class LabelChanges:
    """How two versions differ.

    rows_old, rows_new: how many rows each has.
    same: rows whose label is what it was. changed: by row of the new version.
    added, removed: rows whose content is in one version alone.
    unused_events: events whose key is in the new version and whose label is not the row's, so that they were not
        followed; by key.
    events, foreign_events: how many events were given, and how many of them name no row of the new version.
    """

    rows_old: int
    rows_new: int
    same: int
    changed: tuple[LabelChange, ...]
    added: int
    removed: int
    unused_events: tuple[LabelEvent, ...]
    events: int = 0
    foreign_events: int = 0

    @property
    def unexplained(self) -> tuple[LabelChange, ...]:
        """The changes that no event accounts for."""
        return tuple(change for change in self.changed if change.reason)


def compare_labels(old: LabelledRows, new: LabelledRows) -> LabelChanges:
    """Return how the labels differ; every change is "no_event" until `explain` is asked.

    Cost: one sort of all rows of both.
    """
    labels = tuple(sorted({*old.labels, *new.labels}))
    place = {label: at for at, label in enumerate(labels)}
    sides = [np.array([place[label] for label in side.labels], dtype=np.int64)[side.label] for side in (old, new)]
    key = np.concatenate([old.key, new.key])
    label = np.concatenate(sides)
    is_new = np.repeat([False, True], [len(old.key), len(new.key)])
    row = np.concatenate([np.arange(len(old.key)), np.arange(len(new.key))])
    order = np.lexsort((row, is_new, label, key[:, 1], key[:, 0]))
    key, label, is_new, row = key[order], label[order], is_new[order], row[order]
    starts_key = np.ones(len(key), dtype=np.bool_)
    starts_key[1:] = (key[1:] != key[:-1]).any(axis=1)
    starts_cell = starts_key.copy()
    starts_cell[1:] |= label[1:] != label[:-1]
    left = _unmatched(starts_cell, is_new)
    changed, added, removed = [], 0, 0
    group = np.cumsum(starts_key) - 1
    went, came = np.flatnonzero(left & ~is_new), np.flatnonzero(left & is_new)
    went_of, came_of = _by_group(group[went], went), _by_group(group[came], came)
    for index, gone in went_of.items():
        arrived = came_of.pop(index, [])
        pairs = list(zip(gone, arrived, strict=False))
        changed += [LabelChange(int(row[b]), labels[label[a]], labels[label[b]], "no_event", "") for a, b in pairs]
        removed += len(gone) - len(pairs)
        added += len(arrived) - len(pairs)
    added += sum(map(len, came_of.values()))
    return LabelChanges(
        rows_old=len(old.key),
        rows_new=len(new.key),
        same=len(new.key) - len(changed) - added,
        changed=tuple(sorted(changed)),
        added=added,
        removed=removed,
        unused_events=(),
    )


def explain(
    changes: LabelChanges, keys: Sequence[str], labels: Sequence[str], events: Iterable[LabelEvent]
) -> LabelChanges:
    """Return the changes with what the events say of them.

    Args:
        changes: from `compare_labels`.
        keys: the key of each row of the new version, as text.
        labels: its label.
        events: in any order; those of one key are put in order of `when`, then as given; final ones last.

    Raises:
        InvalidSampleError: the order of a key's events is not known: only some say when, some in a time zone and some
            in none, or what they say is no time.
    """
    by_key = _in_order(events)
    explained = tuple(_explained(change, by_key.get(keys[change.row], ())) for change in changes.changed)
    final: dict[str, set[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        if key in by_key:
            final.setdefault(key, set()).add(label)
    unused = tuple(by_key[key][-1] for key in sorted(final) if by_key[key][-1].new not in final[key])
    counts = {key: len(found) for key, found in by_key.items()}
    return replace(
        changes,
        changed=explained,
        unused_events=unused,
        events=sum(counts.values()),
        foreign_events=sum(count for key, count in counts.items() if key not in final),
    )


def _in_order(events: Iterable[LabelEvent]) -> Mapping[str, tuple[LabelEvent, ...]]:
    by_key: dict[str, list[LabelEvent]] = {}
    for event in events:
        by_key.setdefault(event.key, []).append(event)
    for key, found in by_key.items():
        if len(found) > 1 and len({bool(event.when) for event in found}) > 1:
            raise InvalidSampleError(
                f"Of the {len(found)} label events of {key!r}, only some say when, so their order is not known.",
                hint="Give a time for every event, or for none where they stand in order.",
            )
    return {key: tuple(found) if len(found) == 1 else _sorted(found) for key, found in by_key.items()}


def _sorted(events: Sequence[LabelEvent]) -> tuple[LabelEvent, ...]:
    times = [_time_of(event) for event in events]
    kinds = sorted({kind for kind, _ in times})
    if len(kinds) > 1:
        raise InvalidSampleError(
            f"The label events of {events[0].key!r} say when as {' and as '.join(kinds)}, so their order is not known.",
            hint="Write all times alike, best as RFC 3339 in UTC, such as 2026-01-31T12:00:00Z.",
        )
    order = sorted(range(len(events)), key=lambda at: (events[at].is_final, times[at][1]))
    return tuple(events[at] for at in order)


def _time_of(event: LabelEvent) -> tuple[str, float | datetime]:
    """Return what kind of time an event has, and what sorts it among its kind."""
    when = event.when.strip()
    if not when:
        return "no time at all", 0.0
    if when.isascii() and when.replace(".", "", 1).isdigit() and len(when) <= 15:  # a float tells these apart
        return "a number", float(when)
    try:
        found = datetime.fromisoformat(when)
    except ValueError as error:
        raise InvalidSampleError(
            f"A label event of {event.key!r} says {event.when[:100]!r} as its time; expected an ISO 8601 date or time, "
            "or a number.",
            hint="Write times as RFC 3339 in UTC, such as 2026-01-31T12:00:00Z, or leave all out.",
        ) from error
    return ("a time without a zone" if found.tzinfo is None else "a time with a zone"), found


def _explained(change: LabelChange, events: Sequence[LabelEvent]) -> LabelChange:
    if not events:
        return change
    last = events[-1]
    told = change._replace(who=last.who, when=last.when)
    if last.new != change.new:
        return told._replace(reason="event_says_another_label")
    found = [events[0].old, *(before.new if event.old is None else event.old for before, event in pairwise(events))]
    starts = [at for at, label in enumerate(found) if label in (change.old, None)]
    if not starts:
        return told._replace(reason="event_starts_from_another_label")
    rest = range(starts[-1] + 1, len(events))
    if any(found[at] != events[at - 1].new for at in rest):
        return told._replace(reason="events_leave_a_gap")
    return told._replace(reason="")


def _unmatched(starts_cell: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Return which rows of a (key, label) cell have no partner on the other side; each side's first rows have one."""
    if not len(starts_cell):
        return starts_cell
    first = np.flatnonzero(starts_cell)
    cell = np.cumsum(starts_cell) - 1
    size = np.diff(np.append(first, len(cell)))
    olds = np.add.reduceat(~is_new, first).astype(np.int64)
    matched = np.minimum(olds, size - olds)
    within = np.arange(len(cell)) - first[cell] - np.where(is_new, olds[cell], 0)
    left: np.ndarray = within >= matched[cell]
    return left


def _by_group(group: np.ndarray, place: np.ndarray) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, at in zip(group.tolist(), place.tolist(), strict=True):
        found.setdefault(index, []).append(at)
    return found
