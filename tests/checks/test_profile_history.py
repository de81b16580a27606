"""A history of profiles: where it changed, whether at once or gradually, and nothing where it did not."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.drift import DriftLimits
from millcert.checks.profile import Profile, ProfileSpec, add_batch, empty_profile
from millcert.checks.profile_history import MAX_DAYS, Change, find_changes
from millcert.errors import UsageError

SPEC = ProfileSpec("5a" * 32, label="y", quantile_buckets=128)
DAYS = 8


def day(seed: int, shifts: dict[str, float], rows: int = 1500, pushed: float = 0.0) -> Profile:
    found: Profile | None = None
    for at, (source, shift) in enumerate(shifts.items()):
        rng = np.random.default_rng([seed, at])
        label = np.where(rng.random(rows) < pushed, "cat", rng.choice(["cat", "dog"], rows))
        batch = pa.record_batch({"y": pa.array(label), "x": pa.array(rng.normal(shift, 1, rows))})
        found = empty_profile(SPEC, batch.schema) if found is None else found
        found = add_batch(found, batch, source)
    assert found is not None
    return found


def history(shift: Callable[[int], float]) -> list[Profile]:
    """Return days in which source b moves and source a does not."""
    return [day(number, {"a": 0.0, "b": shift(number)}) for number in range(DAYS)]


def of_b(changes: Sequence[Change]) -> Change:
    return next(one for one in changes if one.subject.source == "b" and one.drift.measure == "wasserstein")


def test_a_step_is_abrupt_and_found_where_it_was() -> None:
    changes = find_changes(history(lambda number: 0.8 * (number >= 5)), DriftLimits())

    assert (of_b(changes).at, of_b(changes).pace) == (5, "abrupt")
    assert "a" not in {one.subject.source for one in changes}


def test_a_ramp_is_gradual() -> None:
    changes = find_changes(history(lambda number: 0.15 * number), DriftLimits())

    assert of_b(changes).pace == "gradual"
    assert "a" not in {one.subject.source for one in changes}


def test_a_steady_history_has_no_change() -> None:
    assert find_changes(history(lambda _: 0.0), DriftLimits()) == []


def test_a_pushed_label_and_a_new_source_are_told_from_their_first_day() -> None:
    days = [day(number, {"a": 0.0}, pushed=0.5 * (number >= 3)) for number in range(6)]
    days += [day(9, {"a": 0.0, "new": 0.0}, pushed=0.5)]

    changes = {(one.subject.source, one.subject.part): one for one in find_changes(days, DriftLimits())}

    assert (changes["", "label"].at, changes["", "label"].pace) == (3, "abrupt")
    assert (changes["new", "presence"].at, changes["new", "presence"].pace) == (6, "abrupt")


def test_of_three_days_nobody_can_say_whether_it_was_a_ramp() -> None:
    days = [day(number, {"a": 0.4 * number}) for number in range(3)]

    assert {one.pace for one in find_changes(days, DriftLimits())} == {"unclear"}


def test_an_ignored_column_is_not_looked_at() -> None:
    days = [day(number, {"a": 0.8 * (number >= 2)}) for number in range(4)]

    assert find_changes(days, DriftLimits(), ignore=["x"]) == []


@pytest.mark.parametrize("count", [1, MAX_DAYS + 1])
def test_a_history_has_a_stated_length(count: int) -> None:
    with pytest.raises(UsageError, match=f"got {count}"):
        find_changes([day(1, {"a": 0.0}, rows=2)] * count, DriftLimits())
