"""Counts, sums and products of rows, exact and independent of order: what means and covariances are made of.

Rows are quantised by themselves (`millcert.checks.exact.quantise_rows`), so every sum here is a sum of whole numbers.
One table is kept for each row exponent, and the tables are combined in the order of their exponents when a mean or a
covariance is asked for. The same rows give the same bits in any batches, in any order, on any number of workers.

A few rows are not worth a product of their own: they wait, as many as take the memory of the half of a table that its
symmetry saves, and are multiplied together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from millcert.checks.column_fold import ColumnFold
from millcert.checks.exact import MAX_PRODUCT_ROWS, QUANTISED_BITS, quantise_rows
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError

#: Up to this many rows of one exponent a table of int64 cannot overflow: 2**(62 - 2 * 18). Beyond, Python integers.
_MAX_INT64_ROWS = 2 ** (62 - 2 * QUANTISED_BITS)

#: Rows quantised at a time, so that they stay in the processor's cache. Does not change any result.
_CACHED_ROWS = 2048


@dataclass(frozen=True, eq=False)
class ScaledSums:
    """Sums over the rows of one exponent, in whole numbers. The number of rows alone says how they are held.

    exponent: a value is `whole * 2.0**exponent`.
    rows: how many rows.
    sums: (d,); float64 up to 65,536 rows, int64 up to 67 million, Python integers (dtype object) beyond; each fold of
        columns takes two bits off these numbers.
    products: (d * (d + 1) / 2,), likewise: the table's upper half, row by row; empty where products are not kept.
    """

    exponent: int
    rows: int
    sums: np.ndarray
    products: np.ndarray


@dataclass(frozen=True, eq=False)
class Moments:
    """The number of rows, their sum and the sum of their outer products; immutable, picklable, mergeable in any order.

    Make one with `Moments.zero(dimension)`; `add_rows`, `merge`, `subtract` and `folded` return new values.

    fold: the rows' columns, and those that are left of them.
    count: rows added, rows of zeros too.
    keeps_products: False keeps only the sums (means, no covariance).
    scales: one table an exponent, in ascending order; 1 to 3 for usual embeddings.
    waiting: rows that are in no table yet, with their exponent: float32 (n, width), whole numbers, not folded.

    Size: 4 x d * d bytes an exponent and at most as much for what waits, d columns left: 66 to 132 kB at d = 128.
    Error: see `quantise_rows`; a coordinate is off by at most 2**-15 of its row's largest magnitude, nothing else is
    lost before the final rounding to float64.
    Cost of `add_rows`: that of `rows.T @ rows` in float64 plus about 0.3 microseconds a row at d = 128, plus about 40
    microseconds a call (bench/robust_spectral.py).
    Source: design, section 4 (measured there); the idea of exact products of short integers is that of error-free
    transformation, Ozaki et al., Numerical Algorithms 59 (2012).
    """

    fold: ColumnFold
    count: int
    keeps_products: bool
    scales: tuple[ScaledSums, ...] = ()
    waiting: tuple[tuple[int, np.ndarray], ...] = ()

    @classmethod
    def zero(cls, dimension: int, *, keeps_products: bool = True, seed: int = 0) -> "Moments":
        """Return the moments of no rows; `seed` is that of later folds."""
        return cls(ColumnFold((dimension,), seed), 0, keeps_products)

    @property
    def dimension(self) -> int:
        """Columns that sums and products are of."""
        return self.fold.columns

    @property
    def nbytes(self) -> int:
        """Size in bytes, without object headers."""
        tables = sum(scale.sums.nbytes + scale.products.nbytes for scale in self.scales)
        return tables + sum(rows.nbytes for _, rows in self.waiting)

    def add_rows(self, rows: np.ndarray) -> "Moments":
        """Return the moments with rows added.

        Args:
            rows: float32 or float64, shape (m, width), finite.

        Raises:
            InvalidSampleError: another width, or a value that is not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.fold.width:
            raise InvalidSampleError(
                f"Expected rows of {self.fold.width} columns, got an array of shape {rows.shape}.",
                hint="All samples must have embeddings of one width.",
            )
        total = self
        for start in range(0, len(rows), _CACHED_ROWS):
            total = total.add_quantised(*quantise_rows(rows[start : start + _CACHED_ROWS]))
        return total

    def add_quantised(self, whole: np.ndarray, exponent: np.ndarray) -> "Moments":
        """Return the moments with rows added that `quantise_rows` already split."""
        added: list[ScaledSums] = []
        waiting = list(self.waiting)
        few = _most_waiting(self)
        for value, group in _by_exponent(whole, exponent):
            if len(group) <= few:
                waiting.append((value, group.astype(np.float32)))
            else:
                added += _sums_of(self, group, value)
        total = _with(self, added, len(whole), 1) if added else replace(self, count=self.count + len(whole))
        return _bounded(replace(total, waiting=tuple(waiting)))

    def merge(self, others: Iterable["Moments"]) -> "Moments":
        """Return the moments of all rows of this and the others, folded as often as the most folded one.

        Raises:
            InvalidSampleError: the widths differ.
        """
        total = self
        for other in others:
            one, two = _alike(total, other)
            merged = _with(one, two.scales, two.count, 1)
            total = _bounded(replace(merged, waiting=(*one.waiting, *two.waiting)))
        return total

    def subtract(self, other: "Moments") -> "Moments":
        """Return the moments without the rows of the other, which must be a part of this: all folds less one, say.

        Raises:
            InvalidSampleError: the widths differ.
            InternalError: the other is no part of this.
        """
        one, two = _alike(self, other)
        return _with(one.settled(), two.settled().scales, -two.count, -1)

    def settled(self) -> "Moments":
        """Return the same with no rows waiting: two that hold the same rows are then equal in every field."""
        if not self.waiting:
            return self
        gathered: dict[int, list[np.ndarray]] = {}
        for exponent, rows in self.waiting:
            gathered.setdefault(exponent, []).append(rows)
        added = []
        for exponent, parts in gathered.items():
            added += _sums_of(self, np.concatenate(parts).astype(np.float64), exponent)
        return _with(self, added, 0, 1)

    def folded(self, fold: ColumnFold) -> "Moments":
        """Return the moments of the folded rows, to the last bit; `fold` goes on where this one's ends."""
        done = self.fold.folds
        if fold.widths[: done + 1] != self.fold.widths or fold.seed != self.fold.seed:
            raise InternalError(f"Columns folded to {self.fold.widths} do not go on to {fold.widths}.")
        if fold.folds == done:
            return self
        scales = []
        for part in self.scales:
            kind = _kind(part.rows, fold.folds)
            products = part.products.astype(kind)
            if self.keeps_products:
                products = _upper_half(fold.table(_square(products, self.dimension), done))
            scales.append(replace(part, sums=fold.sums(part.sums.astype(kind), done), products=products))
        return _bounded(replace(self, fold=fold, scales=tuple(scales)))

    def first_columns(self, number: int) -> "Moments":
        """Return the moments of the first columns of the rows, as quantised with all of them."""
        whole = self.settled()
        scales = tuple(
            replace(
                part,
                sums=part.sums[:number],
                products=_upper_half(_square(part.products, self.dimension)[:number, :number])
                if self.keeps_products
                else part.products,
            )
            for part in whole.scales
        )
        return Moments(ColumnFold((number,)), self.count, self.keeps_products, scales)

    def sums(self) -> np.ndarray:
        """Return the sum of the rows, float64 (d,)."""
        total = np.zeros(self.dimension)
        for scale in self.settled().scales:
            total += scale.sums.astype(np.float64) * 2.0**scale.exponent
        return total

    def products(self) -> np.ndarray:
        """Return the sum of the outer products of the rows, float64 (d, d), symmetric."""
        if not self.keeps_products:
            raise InternalError("These moments keep no products.")
        half = np.zeros(self.dimension * (self.dimension + 1) // 2)
        for scale in self.settled().scales:
            half += scale.products.astype(np.float64) * 2.0 ** (2 * scale.exponent)
        return _square(half, self.dimension)

    def mean(self) -> np.ndarray:
        """Return the mean row, float64 (d,).

        Raises:
            NotEnoughSamplesError: there are no rows.
        """
        self._need_rows()
        return self.sums() / self.count

    def second_moment(self) -> np.ndarray:
        """Return the mean outer product of the rows, not centred, float64 (d, d).

        Raises:
            NotEnoughSamplesError: there are no rows.
        """
        self._need_rows()
        return self.products() / self.count

    def covariance(self) -> np.ndarray:
        """Return the covariance with divisor n, float64 (d, d), symmetric; exact zero variances stay zero or above.

        Raises:
            NotEnoughSamplesError: there are no rows.
        """
        mean = self.mean()
        covariance = self.second_moment() - np.outer(mean, mean)
        diagonal = np.einsum("ii->i", covariance)
        np.maximum(diagonal, 0.0, out=diagonal)
        return covariance

    def _need_rows(self) -> None:
        if self.count <= 0:
            raise NotEnoughSamplesError("The moments of no samples are undefined.")


def _alike(moments: Moments, other: Moments) -> tuple[Moments, Moments]:
    """Return both with the columns of the one that is folded more."""
    if other.fold.width != moments.fold.width or other.keeps_products != moments.keeps_products:
        raise InvalidSampleError(
            f"Cannot combine moments of width {other.fold.width} with moments of width {moments.fold.width}.",
            hint="All samples must have embeddings of one width.",
        )
    fold = max(moments.fold, other.fold, key=lambda one: one.folds)
    return moments.folded(fold), other.folded(fold)


def _with(moments: Moments, scales: Iterable[ScaledSums], count: int, sign: int) -> Moments:
    """Return the sums of this and of other tables; nothing waits in them."""
    tables = {scale.exponent: scale for scale in moments.scales}
    for scale in scales:
        tables[scale.exponent] = _combined(moments, tables.get(scale.exponent), scale, sign)
    total = moments.count + count
    kept = tuple(tables[exponent] for exponent in sorted(tables) if tables[exponent].rows)
    if total < 0 or any(scale.rows < 0 for scale in kept):
        raise InternalError("Cannot subtract moments of rows that were never added.")
    return Moments(moments.fold, total, moments.keeps_products, kept)


def _most_waiting(moments: Moments) -> int:
    """Return how many rows may wait: float32, they take the half of a table that is not kept."""
    return moments.dimension * moments.dimension // max(1, moments.fold.width) if moments.keeps_products else 0


def _bounded(moments: Moments) -> Moments:
    return moments if sum(len(rows) for _, rows in moments.waiting) <= _most_waiting(moments) else moments.settled()


def _sums_of(moments: Moments, whole: np.ndarray, exponent: int) -> list[ScaledSums]:
    """Return the sums of rows of one exponent, in parts that float64 holds exactly; no zero has a sign."""
    most = max(1, MAX_PRODUCT_ROWS >> 2 * moments.fold.folds)
    found = []
    for start in range(0, len(whole), most):
        rows = moments.fold.rows(whole[start : start + most])
        products = _upper_half(rows.T @ rows) if moments.keeps_products else np.zeros(0)
        products += 0.0
        sums = np.ones(len(rows)) @ rows
        sums += 0.0
        found.append(_held(moments, ScaledSums(exponent, len(rows), sums, products)))
    return found


def _combined(moments: Moments, one: ScaledSums | None, other: ScaledSums, sign: int) -> ScaledSums:
    if one is None:
        return other if sign > 0 else ScaledSums(other.exponent, -other.rows, -other.sums, -other.products)
    rows = one.rows + sign * other.rows
    kind = _kind(max(rows, one.rows, other.rows), moments.fold.folds)
    add = np.add if sign > 0 else np.subtract
    sums, products = (
        add(mine.astype(kind, copy=False), theirs.astype(kind, copy=False))
        for mine, theirs in ((one.sums, other.sums), (one.products, other.products))
    )
    return _held(moments, ScaledSums(one.exponent, rows, sums, products))


def _held(moments: Moments, part: ScaledSums) -> ScaledSums:
    """Return sums as their number of rows says that they are held."""
    kind = _kind(part.rows, moments.fold.folds)
    if part.sums.dtype == kind:
        return part
    return replace(part, sums=part.sums.astype(kind), products=part.products.astype(kind))


def _by_exponent(whole: np.ndarray, exponent: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each exponent with its rows: views where the rows come in the order of their exponents, else copies."""
    if not len(exponent):
        return
    if exponent[0] == exponent[-1] and not (exponent != exponent[0]).any():
        yield int(exponent[0]), whole
        return
    borders = [0, *(np.flatnonzero(np.diff(exponent)) + 1).tolist(), len(exponent)]
    values = exponent[borders[:-1]].tolist()
    if len(set(values)) == len(values):
        for value, first, last in zip(values, borders[:-1], borders[1:], strict=True):
            yield value, whole[first:last]
    else:
        for value in sorted(set(values)):
            yield value, whole[exponent == value]


def _kind(rows: int, folds: int) -> np.dtype:
    """Return the cheapest type that holds sums of so many rows exactly, after so many folds."""
    if rows << 2 * folds > _MAX_INT64_ROWS:
        return np.dtype(object)
    return np.dtype(np.int64 if rows << 2 * folds > MAX_PRODUCT_ROWS else np.float64)


def _upper_half(table: np.ndarray) -> np.ndarray:
    """Return the upper half of a symmetric table, row by row."""
    return np.ascontiguousarray(table).reshape(-1).take(_upper_places(len(table)))


def _square(half: np.ndarray, dimension: int) -> np.ndarray:
    """Return the symmetric table whose upper half is given."""
    table = np.zeros((dimension, dimension), dtype=half.dtype)
    table.reshape(-1)[_upper_places(dimension)] = half
    lower = np.tril_indices(dimension, -1)
    table[lower] = table.T[lower]
    return table


@lru_cache(maxsize=4)
def _upper_places(dimension: int) -> np.ndarray:
    """Return the places of the upper half in a flat table."""
    row, column = np.triu_indices(dimension)
    return np.asarray(row * dimension + column)
