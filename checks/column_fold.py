"""Fewer columns by sums and differences of columns: a random projection that is exact on sums that were already made.

A fold adds pairs of columns with random signs. Rows of whole numbers stay whole, and folding the sums of rows gives, to
the last bit, the sums of folded rows. So an accumulator may begin with all columns and fold when the classes become too
many for its memory: when it folded, and on which worker, changes nothing.

Lengths keep their mean, and their variance is at most 2 / width of their square, as for dense random signs: Charikar,
Chen, Farach-Colton, ICALP 2002 (count sketch); Weinberger et al., ICML 2009 (as a projection); a sparse form of the
signs of Achlioptas, J. Comput. Syst. Sci. 66 (2003).
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256

import numpy as np

#: No fold goes below this width: fewer columns have no room for several directions.
LEAST_COLUMNS = 16
#: Each fold adds a bit to the whole numbers; with more their products would leave too few rows for an exact sum.
MOST_FOLDS = 6


def fold_widths(width: int, most: int) -> tuple[int, ...]:
    """Return the widths that columns can be folded to, descending, from the first at most `most`.

    Each step at most halves; the first widths lead to `most` exactly. The positions in the chain are its levels: level
    0 is the full width where that is at most `most`.

    Args:
        width: of the rows, at least 1.
        most: the widest that is kept.
    """
    chain = [width]
    while chain[-1] > most and len(chain) <= MOST_FOLDS:
        chain.append(max(most, (chain[-1] + 1) // 2))
    while chain[-1] > LEAST_COLUMNS and len(chain) <= MOST_FOLDS:
        chain.append(max(LEAST_COLUMNS, (chain[-1] + 1) // 2))
    return tuple(chain)


@dataclass(frozen=True)
class ColumnFold:
    """Folds of columns, one after the other.

    widths: of the rows as they come, then after each fold; one alone is no fold at all.
    seed: of the pairs and signs.
    """

    widths: tuple[int, ...]
    seed: int = 0

    @property
    def width(self) -> int:
        """Columns of a row as it comes."""
        return self.widths[0]

    @property
    def columns(self) -> int:
        """Columns that are left."""
        return self.widths[-1]

    @property
    def folds(self) -> int:
        """How often columns are added up: a whole number grows by at most as many bits."""
        return len(self.widths) - 1

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return rows, shape (n, width), folded to (n, columns); whole numbers stay whole, of any type.

        Cost: about 0.3 microseconds a row for 512 columns.
        """
        for before, after in zip(self.widths, self.widths[1:], strict=False):
            rows = _folded(rows, before, after, self.seed)
        return rows

    def table(self, table: np.ndarray, done: int) -> np.ndarray:
        """Return a table of products of columns, square, folded on both sides; the first `done` folds are in it."""
        for before, after in zip(self.widths[done:], self.widths[done + 1 :], strict=False):
            table = _folded(_folded(table, before, after, self.seed).T, before, after, self.seed)
        return table

    def sums(self, sums: np.ndarray, done: int) -> np.ndarray:
        """Return sums of rows, folded; the first `done` folds are in them."""
        for before, after in zip(self.widths[done:], self.widths[done + 1 :], strict=False):
            sums = _folded(sums[None, :], before, after, self.seed)[0]
        return sums

    def matrix(self) -> np.ndarray:
        """Return the fold as a matrix P of 0, 1 and -1, float64 (width, columns): `rows(x) = x @ P`."""
        return self.rows(np.eye(self.width))


def _folded(rows: np.ndarray, before: int, after: int, seed: int) -> np.ndarray:
    first, second, signs, alone = _pairs(before, after, seed)
    pairs = rows.take(second, axis=1)
    pairs *= signs.astype(rows.dtype)
    pairs += rows.take(first, axis=1)
    return np.concatenate([pairs, rows.take(alone, axis=1)], axis=1) if len(alone) else pairs


@lru_cache(maxsize=64)
def _pairs(before: int, after: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return which columns are added up, the signs of the second ones, and which stay alone.

    The order is that of 64-bit hashes of the columns, and the signs are bits of them, so that neither ever changes with
    a library's version.
    """
    digest = shake_256(f"millcert column fold {seed} {before} {after}".encode()).digest(8 * before)
    marks = np.frombuffer(digest, dtype="<u8")
    order, pairs = np.argsort(marks, kind="stable"), before - after
    second = order[pairs : 2 * pairs]
    signs = 1 - 2 * (marks[second] & np.uint64(1)).astype(np.int64)
    return order[:pairs], second, signs, np.sort(order[2 * pairs :])
