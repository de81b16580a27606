"""Moments of all classes in one budget of memory: the full covariance where it fits, else of folded columns.

The rule, for an accumulator as for the final sums:

    columns kept = the widest of fold_widths(d, most columns) at which
                   8 bytes x columns**2 x tables (one a class and row exponent) <= 256 MB, 16 at least.

A worker that has seen fewer classes keeps more columns for the time being, and sums fold exactly
(`millcert.checks.column_fold`). So the final width, and every bit of the sums, depend on the samples alone. What that
costs: docs/moments.md.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from millcert.checks.column_fold import ColumnFold, fold_widths
from millcert.checks.moments import Moments
from millcert.errors import InvalidSampleError

#: Memory of all tables, with the rows that wait (design, section 3).
BUDGET_BYTES = 256 << 20
#: Wider rows are folded in any case: a class's table stays below 4 MB, the largest record that may cross a shuffle.
MOST_COLUMNS = 1000


@runtime_checkable
class FoldsColumns(Protocol):
    """A check whose parts of the first pass are `Moments` of classes, in the budget together."""

    @property
    def most_columns(self) -> int:
        """How many columns are kept at most, whatever the memory."""
        ...


def fold_for(width: int, tables: int, most: int = MOST_COLUMNS, seed: int = 0) -> ColumnFold:
    """Return the fold that the rule asks for.

    Args:
        width: columns of a row.
        tables: how many there are.
        most: columns that are kept at most, whatever the memory.
        seed: of the fold.
    """
    chain = fold_widths(width, most)
    first = next(level for level, columns in enumerate(chain) if columns <= most or level == len(chain) - 1)
    for level in range(first, len(chain)):
        if 8 * chain[level] ** 2 * tables <= BUDGET_BYTES:
            return ColumnFold(chain[: level + 1], seed)
    return ColumnFold(chain, seed)


def no_rows(width: int, most: int = MOST_COLUMNS, seed: int = 0) -> Moments:
    """Return the moments that the first rows of a class are added to."""
    return Moments.zero(width, seed=seed).folded(fold_for(width, 1, most, seed))


def within_budget(classes: Mapping[str, Moments], most: int = MOST_COLUMNS) -> dict[str, Moments]:
    """Return an accumulator's moments, by class, folded as far as the rule asks for.

    Raises:
        InvalidSampleError: rows of several widths.

    Cost: about 0.3 microseconds a class where nothing is to be folded.
    """
    tables = sum(max(1, len(part.scales)) for part in classes.values())
    widths = {part.fold.width for part in classes.values()}
    if len(widths) > 1:
        raise InvalidSampleError("Embeddings have several widths.", widths=sorted(widths))
    if not widths:
        return {}
    fold = fold_for(widths.pop(), tables, most, next(iter(classes.values())).fold.seed)
    return {label: part.folded(fold) if part.fold.folds < fold.folds else part for label, part in classes.items()}


def tables_of(part: Moments) -> int:
    """Return how many tables a class has, once no row waits."""
    return max(1, len({scale.exponent for scale in part.scales} | {exponent for exponent, _ in part.waiting}))


def folded_part(part: Moments, tables: int, most: int = MOST_COLUMNS) -> Moments:
    """Return a class's moments folded as far as so many tables of all classes together ask for."""
    fold = fold_for(part.fold.width, tables, most, part.fold.seed)
    return part.folded(fold) if part.fold.folds < fold.folds else part


def final_moments(classes: Mapping[str, Moments], most: int = MOST_COLUMNS) -> tuple[dict[str, Moments], ColumnFold]:
    """Return the moments of all classes, sorted, of one width, and the fold that they have.

    Args:
        classes: at least one, of all samples.
        most: as for `fold_for`.

    Raises:
        InvalidSampleError: rows of several widths.
    """
    settled = within_budget({label: part.settled() for label, part in sorted(classes.items())}, most)
    fold = next(iter(settled.values())).fold
    return settled, fold


def unfolded(fold: ColumnFold, directions: np.ndarray) -> np.ndarray:
    """Return directions of folded rows, shape (columns, m), as directions of the rows, (width, m)."""
    return fold.matrix() @ directions if fold.folds else directions
