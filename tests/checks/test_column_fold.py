"""Column folds: exact, the same everywhere, and lengths keep their mean."""

from itertools import pairwise

import numpy as np
import pytest

from millcert.checks.column_fold import LEAST_COLUMNS, MOST_FOLDS, ColumnFold, fold_widths


@pytest.mark.parametrize(
    ("width", "most", "expected"),
    [
        (512, 512, (512, 256, 128, 64, 32, 16)),
        (384, 256, (384, 256, 128, 64, 32, 16)),
        (2048, 256, (2048, 1024, 512, 256, 128, 64, 32)),
        (100, 512, (100, 50, 25, 16)),
        (16, 16, (16,)),
        (5, 2, (5, 3, 2)),
        (1, 512, (1,)),
    ],
)
def test_widths_halve_at_most_and_reach_the_cap_exactly(width: int, most: int, expected: tuple[int, ...]) -> None:
    assert fold_widths(width, most) == expected
    assert len(expected) <= MOST_FOLDS + 1
    assert all(after * 2 >= before for before, after in pairwise(expected))


def test_each_column_goes_to_one_place_with_one_sign() -> None:
    matrix = ColumnFold((100, 64, 32)).matrix()

    assert matrix.shape == (100, 32)
    assert (np.abs(matrix).sum(axis=1) == 1).all()
    assert set(np.abs(matrix).sum(axis=0)) == {2, 3, 4}
    assert set(np.unique(matrix)) == {-1.0, 0.0, 1.0}


def test_the_folds_never_change_from_one_release_to_the_next() -> None:
    """A fold is part of what a verdict rests on; these numbers are those of the first release that had it."""
    rows = np.arange(40, dtype=np.int64)[None, :]

    assert ColumnFold((40, 20)).rows(rows)[0].tolist() == FOLDED_40_TO_20


def test_lengths_and_products_keep_their_mean() -> None:
    """Squared lengths of random directions: mean 1, variance at most 2 / width, as for dense signs (Achlioptas)."""
    fold = ColumnFold(fold_widths(512, 512)[:3])
    directions = np.random.default_rng(3).standard_normal((4000, 512))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    squares = (fold.rows(directions) ** 2).sum(axis=1)

    assert fold.columns == 128
    assert squares.mean() == pytest.approx(1, abs=0.02)
    assert squares.var() <= 2 / fold.columns
    assert fold.rows(directions) == pytest.approx(directions @ fold.matrix())


def test_rows_narrower_than_the_least_width_stay() -> None:
    assert fold_widths(LEAST_COLUMNS - 1, 512) == (LEAST_COLUMNS - 1,)


FOLDED_40_TO_20 = [42, 4, 39, -9, 18, 46, 59, 13, 47, 7, 30, 31, 9, -28, 38, 23, 49, -29, -5, 44]
