"""The plan as a check: sub-dicts, order, immutability, pickling, and what it refuses."""

import pickle  # noqa: TID251 - parts travel between workers this way; the test reads only what it wrote
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.checks import metric_distinct
from millcert.checks.metric_columns import BatchView, ColumnView, family, kernel_type, ticks
from millcert.checks.metric_conditions import Always, InSet, ParsesAsDate, WithinDecimals, WithinLengths
from millcert.checks.metric_counting import CountDistinct
from millcert.checks.metric_kernels import (
    AddUp,
    CountBins,
    CountRows,
    FindExtremes,
    FindNulls,
    FindValues,
    FollowOrder,
    Kernel,
    RankValues,
)
from millcert.checks.metric_listing import list_first, merge_listings
from millcert.checks.metric_plan import LEAVING_ENTRIES, MetricPlan
from millcert.checks.metric_tally import Tally, Wanted
from millcert.errors import InternalError, MissingColumnError

KERNELS: tuple[Kernel, ...] = (
    CountRows(),
    FindNulls("x", 2),
    FindValues("x", InSet((1.0, 2.0)), 2),
    AddUp("x", with_squares=True),
    FindExtremes("x"),
    RankValues("x"),
    CountDistinct("x", 2, Wanted(is_repeated=True, is_table=True)),
    CountBins("x", (0.0, 1.0, 2.0)),
    FollowOrder("x", is_rising=True, is_strict=False, limit=2),
)
PLAN = MetricPlan("digest", "SUMMARY", KERNELS)
VALUES = st.lists(st.none() | st.sampled_from([0.0, 1.0, 2.0, 5.0, float("nan")]), max_size=30)


def add(plan: MetricPlan, values: list[Any], file: str = "f", start: int = 0) -> Any:
    batch = pa.record_batch({"x": pa.array(values, pa.float64())})
    return plan.add(plan.empty(), batch, file, np.arange(start, start + len(values)))


def seen(plan: MetricPlan, acc: Any) -> str:
    """Return all that an accumulator says, in a canonical form: distinct values sorted by value."""
    text = []
    for kernel in plan.kernels:
        parts = plan.parts_of(acc, kernel)
        if isinstance(kernel, CountDistinct):
            keys, counts = kernel.conclude(parts).table or (pa.array([]), np.zeros(0))
            text.append(f"{kernel}{sorted(zip(keys.to_pylist(), counts.tolist(), strict=True))}")
        else:
            text += [f"{kernel}{name}{plain(part)}" for name, part in sorted(parts.items())]
    return "\n".join(text)


def plain(part: Any) -> Any:
    """Return a part without Arrow arrays, whose text has an address."""
    if isinstance(part, pa.Array):
        return part.to_pylist()
    return [plain(item) for item in part] if isinstance(part, tuple) else part


@given(VALUES, st.integers(1, 10), st.randoms(use_true_random=False))
def test_batches_and_their_order_do_not_show(values: list[Any], size: int, random: Any) -> None:
    """Rule 3 of a check: merge is exact, in any order and grouping."""
    starts = list(range(0, len(values), size))
    accs = [add(PLAN, values[start : start + size], start=start) for start in starts]
    random.shuffle(accs)

    merged = PLAN.merge([PLAN.merge(accs[: len(accs) // 2]), PLAN.merge(accs[len(accs) // 2 :])])

    whole = PLAN.merge([add(PLAN, values)] if values else [])
    assert seen(PLAN, merged) == seen(PLAN, whole)


def test_any_group_merges_on_its_own() -> None:
    """Rule 2: a cluster may send each group elsewhere."""
    left, right = add(PLAN, [1.0, 2.0, None]), add(PLAN, [5.0, 1.0], start=3)

    apart: dict[str, Any] = {}
    for group in sorted(set(left) | set(right)):
        apart |= PLAN.merge([{group: acc[group]} for acc in (left, right) if group in acc])

    assert seen(PLAN, apart) == seen(PLAN, PLAN.merge([left, right]))


def test_adding_leaves_the_accumulator_as_it_was() -> None:
    """Rule 5."""
    before = add(PLAN, [1.0, 2.0])
    text = seen(PLAN, before)

    PLAN.add(before, pa.record_batch({"x": pa.array([7.0])}), "f", np.array([2]))

    assert seen(PLAN, before) == text


def test_adding_to_one_accumulator_is_merging() -> None:
    acc = PLAN.empty()
    for start in range(0, 200, 4):
        values = pa.array(np.arange(start, start + 4, dtype=np.float64))
        acc = PLAN.add(acc, pa.record_batch({"x": values}), "f", np.arange(start, start + 4))

    assert seen(PLAN, acc) == seen(PLAN, add(PLAN, list(np.arange(200.0))))


def test_what_grows_may_leave_at_any_time_and_is_reduced_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 2, for a worker that hands its dealt parts over and goes on without them."""
    monkeypatch.setattr(metric_distinct, "MAX_WAITING_ROWS", 10)
    assert PLAN.dealt(PLAN.merge([add(PLAN, [1.0, 2.0])]), LEAVING_ENTRIES) == {}
    whole, left, acc = PLAN.empty(), [], PLAN.empty()
    for start in range(0, 200, 4):
        batch = pa.record_batch({"x": pa.array(np.arange(start, start + 4) % 150, pa.float64())})
        acc = PLAN.add(acc, batch, "f", np.arange(start, start + 4))
        whole = PLAN.add(whole, batch, "f", np.arange(start, start + 4))
        dealt = PLAN.dealt(acc, 10)
        left.append(dealt)
        acc = {group: part for group, part in acc.items() if group not in dealt}

    parts = [*left, PLAN.merge([acc])]
    total: dict[str, Any] = {}
    for group in sorted({group for part in parts for group in part}):
        total |= PLAN.total(group, [{group: part[group]} for part in parts if group in part])

    assert sum(map(len, left)) > 100
    assert {type(part) for group, part in total.items() if group.startswith("006/")} == {Tally}
    assert seen(PLAN, total) == seen(PLAN, whole)


def test_plan_and_accumulators_travel() -> None:
    acc = add(PLAN, [1.0, None, 9.0])

    plan, carried = pickle.loads(pickle.dumps((PLAN, acc)))

    assert plan == PLAN
    assert seen(plan, plan.merge([carried])) == seen(PLAN, acc)


def test_a_plan_names_its_columns_and_reads_once() -> None:
    assert PLAN.columns == {"x"}
    assert PLAN.passes == 1
    assert MetricPlan("d", "BASIC", (CountRows(),)).columns == frozenset()


def test_a_missing_column_is_named() -> None:
    with pytest.raises(MissingColumnError, match=r"'x'.*'f'"):
        PLAN.add({}, pa.record_batch({"y": pa.array([1.0])}), "f", np.array([0]))


def test_places_must_be_as_many_as_rows() -> None:
    with pytest.raises(InternalError):
        PLAN.add({}, pa.record_batch({"x": pa.array([1.0])}), "f", np.array([0, 1]))


def test_rows_measured_twice_are_noticed_by_an_order() -> None:
    plan = MetricPlan("d", "BASIC", (FollowOrder("x", is_rising=True, is_strict=True, limit=1),))
    once = add(plan, [1.0, 2.0])

    with pytest.raises(InternalError, match="twice"):
        plan.merge([once, once])


def test_files_follow_one_another_by_name() -> None:
    plan = MetricPlan("d", "BASIC", (kernel := FollowOrder("x", is_rising=True, is_strict=False, limit=5),))
    acc = plan.merge([add(plan, [5.0, 6.0], "b"), add(plan, [None, 7.0], "a"), add(plan, [1.0, None], "a", start=9)])

    found = kernel.conclude(dict(plan.parts_of(acc, kernel)))

    assert found.unexpected == 1  # a: null 7 ... 1 null; b: 5 6; 1 breaks the order after 7
    assert (found.listing.files, found.listing.rows.tolist()) == (("a",), [9])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, None]).dictionary_encode(), [1]),
        (pa.array(["a", None]).cast(pa.large_string()), ["a"]),
        (pa.array([b"ab"]).cast(pa.binary(2)), [b"ab"]),
        (pa.array([0.5, float("nan")], pa.float32()), [0.5]),
        (pa.array([1.5], pa.float16()), [1.5]),
        (pa.array([[1], None]), [[1]]),
    ],
)
def test_columns_come_in_one_type_a_family_without_nulls(array: pa.Array, expected: list[Any]) -> None:
    view = ColumnView(array)

    assert view.array.type == kernel_type(array.type)
    assert view.present.to_pylist() == expected
    assert view.null_count == len(array) - len(expected)
    assert view.present_at.tolist() == list(range(len(expected)))


def test_integers_of_every_family_keep_their_value() -> None:
    assert ticks(pa.array([2**64 - 1], pa.uint64())).tolist() == [2**64 - 1]
    assert ticks(pa.array([True, False])).tolist() == [1, 0]
    assert ticks(pa.array([3], pa.int32()).cast(pa.date32())).tolist() == [3]
    assert ticks(pa.array([3], pa.int64()).cast(pa.timestamp("ns", "UTC"))).tolist() == [3]
    assert family(pa.null()) == "other"


def test_a_view_is_made_once_a_batch() -> None:
    view = BatchView(pa.record_batch({"x": pa.array([1])}), "f", np.array([0]))

    assert view.column("x") is view.column("x")


def test_the_first_places_are_listed_in_any_order_of_rows() -> None:
    rows = np.array([5, 3, 9, 1])

    listing = list_first(2, "f", rows, np.array([0, 1, 3]), pa.array(["five", "three", "one"]))
    merged = merge_listings(2, [listing, list_first(2, "e", rows, np.array([2]), pa.array(["nine"]))])

    assert plain(listing.content) == ["one", "three"]
    assert (merged.files, plain(merged.content)) == (("e", "f"), ["nine", "one"])


def test_conditions_judge_by_value() -> None:
    assert Always(is_expected=False).judge(pa.array([1, 2])).expected.tolist() == [False, False]
    assert WithinLengths(1, 2).judge(pa.array(["", "é", "日本語"])).expected.tolist() == [False, True, False]
    assert WithinLengths(4, None).judge(pa.array([True, False])).expected.tolist() == [True, True]
    assert InSet((300,)).judge(pa.array([44], pa.int8())).expected.tolist() == [False]
    assert InSet(()).judge(pa.array([44])).expected.tolist() == [False]
    assert ParsesAsDate().judge(pa.array(["2020-01-01", "no"])).expected.tolist() == [True, False]
    assert WithinDecimals(None, None, strict_least=False, strict_most=False).judge(
        pa.array([Decimal(1)])
    ).expected.tolist() == [True]
