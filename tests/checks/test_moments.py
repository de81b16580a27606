"""Moments: exact, mergeable, the same bits whatever the batches were."""

import pickle  # noqa: TID251 - parts travel between workers this way; the test reads only what it wrote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks import moments as moments_module
from millcert.checks.column_fold import ColumnFold, fold_widths
from millcert.checks.moments import Moments
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError


def rows_of(seed: int, count: int = 60, width: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, width)) * 10.0 ** random.integers(-6, 7, (count, 1))
    rows[random.random(count) < 0.1] = 0
    return rows.astype(np.float32)


def same(one: Moments, other: Moments) -> bool:
    one, other = one.settled(), other.settled()
    return (
        one.count == other.count
        and len(one.scales) == len(other.scales)
        and all(
            a.exponent == b.exponent
            and a.rows == b.rows
            and a.sums.dtype == b.sums.dtype
            and np.array_equal(a.sums, b.sums)
            and np.array_equal(a.products, b.products)
            for a, b in zip(one.scales, other.scales, strict=True)
        )
    )


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.data())
def test_the_same_rows_give_the_same_bits_in_any_batches(seed: int, data: st.DataObject) -> None:
    """Rule 3 of a check: merge is associative and commutative to the last bit."""
    rows = rows_of(seed, count=30)
    order = data.draw(st.permutations(range(30)))
    cuts = sorted(data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=2)))
    parts = [Moments.zero(5).add_rows(part) for part in np.split(rows[order], cuts)]

    whole = Moments.zero(5).add_rows(rows)

    left = parts[0].merge([parts[1]]).merge([parts[2]])
    right = parts[2].merge([parts[1].merge([parts[0]])])
    assert same(left, whole)
    assert same(right, whole)
    assert np.array_equal(left.covariance(), whole.covariance())


@given(st.integers(0, 10**6), st.integers(0, 60))
def test_taking_a_fold_out_leaves_the_other_folds(seed: int, cut: int) -> None:
    rows = rows_of(seed)
    total, fold, rest = (Moments.zero(5).add_rows(part) for part in (rows, rows[:cut], rows[cut:]))

    assert same(total.subtract(fold), rest)


def test_means_and_covariances_are_those_of_numpy() -> None:
    rows = np.random.default_rng(5).normal(3, 2, (4000, 16)).astype(np.float32)

    moments = Moments.zero(16).add_rows(rows)

    assert moments.mean() == pytest.approx(rows.mean(axis=0), abs=1e-5)
    assert moments.covariance() == pytest.approx(np.cov(rows.T, bias=True), abs=1e-4)
    assert moments.second_moment() == pytest.approx(rows.T.astype(float) @ rows / 4000, rel=1e-5)
    assert np.array_equal(moments.covariance(), moments.covariance().T)
    assert moments.nbytes <= len(moments.scales) * 8 * (16 + 136) + 4 * 256
    assert moments.settled().nbytes == len(moments.settled().scales) * 8 * (16 + 136)


def test_constant_columns_have_no_negative_variance() -> None:
    moments = Moments.zero(3).add_rows(np.full((50, 3), 0.1, dtype=np.float32))

    assert (np.diag(moments.covariance()) >= 0).all()
    assert np.abs(moments.covariance()).max() < 1e-12


def test_no_rows_are_a_neutral_part_without_a_mean() -> None:
    empty = Moments.zero(4)
    some = empty.add_rows(rows_of(1, width=4))

    assert same(some.merge([empty]), some)
    assert same(empty.add_rows(np.zeros((0, 4), dtype=np.float32)), empty)
    for figure in (empty.mean, empty.second_moment, empty.covariance):
        with pytest.raises(NotEnoughSamplesError):
            figure()


def test_sums_alone_keep_no_products() -> None:
    rows = rows_of(2)

    light = Moments.zero(5, keeps_products=False).add_rows(rows)

    assert np.array_equal(light.mean(), Moments.zero(5).add_rows(rows).mean())
    with pytest.raises(InternalError):
        light.products()
    with pytest.raises(InvalidSampleError):
        light.merge([Moments.zero(5)])


def test_other_widths_and_foreign_parts_are_refused() -> None:
    some = Moments.zero(5).add_rows(rows_of(3))
    with pytest.raises(InvalidSampleError):
        some.add_rows(np.zeros((2, 4), dtype=np.float32))
    with pytest.raises(InvalidSampleError):
        some.merge([Moments.zero(4)])
    with pytest.raises(InvalidSampleError):
        some.add_rows(np.full((1, 5), np.nan, dtype=np.float32))
    with pytest.raises(InternalError):
        some.subtract(some.merge([some]))
    with pytest.raises(InternalError):
        some.subtract(Moments.zero(5).add_rows(np.full((3, 5), 1e30, dtype=np.float32)))


def test_adding_never_changes_what_was_there_and_pickling_keeps_it() -> None:
    some = Moments.zero(5).add_rows(rows_of(4))
    copy = pickle.loads(pickle.dumps(some))

    some.add_rows(rows_of(5))
    some.merge([some])
    some.subtract(some)

    assert same(some, copy)


def test_beyond_the_range_of_64_bits_sums_go_on_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of int64 is exact up to a stated number of rows; beyond it Python integers take over."""
    rows = rows_of(6, count=200)
    plain = Moments.zero(5).add_rows(rows).merge([Moments.zero(5).add_rows(rows)])

    monkeypatch.setattr(moments_module, "_MAX_INT64_ROWS", 10)
    part = Moments.zero(5).add_rows(rows)
    spilled = part.merge([part])

    assert any(scale.products.dtype == object for scale in spilled.scales)
    assert np.array_equal(spilled.covariance(), plain.covariance())
    assert np.array_equal(spilled.mean(), plain.mean())
    left = spilled.subtract(part)
    assert left.count == 200
    assert np.array_equal(left.mean(), part.mean())


def test_many_rows_are_added_in_pieces_without_any_change(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(7, count=500)
    whole = Moments.zero(5).add_rows(rows)

    monkeypatch.setattr(moments_module, "MAX_PRODUCT_ROWS", 7)
    monkeypatch.setattr(moments_module, "_CACHED_ROWS", 64)
    found = Moments.zero(5).add_rows(rows)

    assert np.array_equal(found.covariance(), whole.covariance())
    assert np.array_equal(found.mean(), whole.mean())
    assert found.settled().scales[0].sums.dtype == np.float64
    assert any(scale.sums.dtype == np.int64 for scale in found.settled().scales)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(17, 70), st.integers(0, 40), st.integers(1, 3))
def test_folding_sums_gives_the_sums_of_folded_rows_to_the_last_bit(
    seed: int, width: int, cut: int, folds: int
) -> None:
    rows = rows_of(seed, count=40, width=width)
    fold = ColumnFold(fold_widths(width, width)[: folds + 1])

    late = Moments.zero(width).add_rows(rows).folded(fold)
    early = Moments.zero(width).folded(fold).add_rows(rows[:cut]).merge([Moments.zero(width).add_rows(rows[cut:])])

    assert same(early, late)
    assert late.dimension == fold.columns
    square = fold.matrix().T @ Moments.zero(width).add_rows(rows).products() @ fold.matrix()
    assert late.products() == pytest.approx(square, rel=1e-9, abs=1e-9 * np.abs(square).max())
    assert same(
        early.subtract(Moments.zero(width).add_rows(rows[:cut])), Moments.zero(width).add_rows(rows[cut:]).folded(fold)
    )


def test_folds_of_sums_beyond_64_bits_stay_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(8, count=300, width=20)
    fold = ColumnFold(fold_widths(20, 20))
    plain = Moments.zero(20).add_rows(rows).folded(fold)

    monkeypatch.setattr(moments_module, "_MAX_INT64_ROWS", 10)
    spilled = Moments.zero(20).add_rows(rows).folded(fold)

    assert any(scale.products.dtype == object for scale in spilled.scales)
    assert np.array_equal(spilled.covariance(), plain.covariance())


def test_a_few_rows_wait_within_the_memory_of_half_a_table() -> None:
    few = Moments.zero(64)
    for row in rows_of(9, count=64, width=64):
        few = few.add_rows(row[None, :])
        assert sum(len(rows) for _, rows in few.waiting) <= 64

    assert few.nbytes <= sum(8 * (64 + 65 * 32) for _ in few.settled().scales) + 4 * 64 * 64


def test_folds_that_do_not_go_on_from_one_another_are_refused() -> None:
    folded = Moments.zero(40).folded(ColumnFold((40, 30)))

    with pytest.raises(InternalError):
        folded.folded(ColumnFold((40, 20, 16)))
