"""Counts, sums and products of rows, exact and independent of order: what means and covariances are made of.

Rows are quantised by themselves (`millcert.checks.exact.quantise_rows`), so every sum here is a sum of whole numbers.
One table is kept for each row exponent, and the tables are combined in the order of their exponents when a mean or a
covariance is asked for. The same rows give the same bits in any batches, in any order, on any number of workers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact import MAX_PRODUCT_ROWS, QUANTISED_BITS, quantise_rows
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError

#: Up to this many rows of one exponent a table of int64 cannot overflow: 2**(62 - 2 * 18). Beyond, Python integers.
_MAX_INT64_ROWS = 2 ** (62 - 2 * QUANTISED_BITS)

#: Rows quantised at a time, so that they stay in the processor's cache. Does not change any result.
_CACHED_ROWS = 2048


@dataclass(frozen=True, eq=False)
class ScaledSums:
    """Sums over the rows of one exponent, in whole numbers.

    exponent: a value is `whole * 2.0**exponent`.
    rows: how many rows.
    sums: int64 (d,); Python integers (dtype object) beyond 67 million rows.
    products: int64 (d, d), likewise; shape (0, 0) where products are not kept.
    """

    exponent: int
    rows: int
    sums: np.ndarray
    products: np.ndarray


@dataclass(frozen=True, eq=False)
class Moments:
    """The number of rows, their sum and the sum of their outer products; immutable, picklable, mergeable in any order.

    Make one with `Moments.zero(dimension)`; `add_rows`, `merge` and `subtract` return new values.

    dimension: d, columns of a row.
    count: rows added, rows of zeros too.
    keeps_products: False keeps only the sums (means, no covariance).
    scales: one table an exponent, in ascending order; 1 to 3 for usual embeddings.

    Size: 8 x (d + d * d) bytes an exponent: 132 kB at d = 128.
    Error: see `quantise_rows`; a coordinate is off by at most 2**-15 of its row's largest magnitude, nothing else is
    lost before the final rounding to float64.
    Cost of `add_rows`: that of `rows.T @ rows` in float64 plus about 0.8 microseconds a row at d = 128, plus about 40
    microseconds a call (bench/robust_spectral.py).
    Source: design, section 4 (measured there); the idea of exact products of short integers is that of error-free
    transformation, Ozaki et al., Numerical Algorithms 59 (2012).
    """

    dimension: int
    count: int
    keeps_products: bool
    scales: tuple[ScaledSums, ...]

    @classmethod
    def zero(cls, dimension: int, *, keeps_products: bool = True) -> "Moments":
        """Return the moments of no rows."""
        return cls(dimension, 0, keeps_products, ())

    @property
    def nbytes(self) -> int:
        """Size in bytes, without object headers."""
        return sum(scale.sums.nbytes + scale.products.nbytes for scale in self.scales)

    def add_rows(self, rows: np.ndarray) -> "Moments":
        """Return the moments with rows added.

        Args:
            rows: float32 or float64, shape (m, d), finite.

        Raises:
            InvalidSampleError: another width, or a value that is not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.dimension:
            raise InvalidSampleError(
                f"Expected rows of {self.dimension} columns, got an array of shape {rows.shape}.",
                hint="All samples must have embeddings of one width.",
            )
        total = self
        for start in range(0, len(rows), _CACHED_ROWS):
            total = total.add_quantised(*quantise_rows(rows[start : start + _CACHED_ROWS]))
        return total

    def add_quantised(self, whole: np.ndarray, exponent: np.ndarray) -> "Moments":
        """Return the moments with rows added that `quantise_rows` already split."""
        added: list[ScaledSums] = []
        for value, group in _by_exponent(whole, exponent):
            added += [
                _sums_of(group[start : start + MAX_PRODUCT_ROWS], value, self.keeps_products)
                for start in range(0, len(group), MAX_PRODUCT_ROWS)
            ]
        return self._with(added, len(whole), 1)

    def merge(self, others: Iterable["Moments"]) -> "Moments":
        """Return the moments of all rows of this and the others.

        Raises:
            InvalidSampleError: the widths differ.
        """
        total = self
        for other in others:
            total = total._combine(other, 1)
        return total

    def subtract(self, other: "Moments") -> "Moments":
        """Return the moments without the rows of the other, which must be a part of this: all folds less one, say.

        Raises:
            InvalidSampleError: the widths differ.
            InternalError: the other is no part of this.
        """
        return self._combine(other, -1)

    def first_columns(self, number: int) -> "Moments":
        """Return the moments of the first columns of the rows, as quantised with all of them."""
        scales = tuple(
            ScaledSums(part.exponent, part.rows, part.sums[:number], part.products[:number, :number])
            for part in self.scales
        )
        return Moments(number, self.count, self.keeps_products, scales)

    def sums(self) -> np.ndarray:
        """Return the sum of the rows, float64 (d,)."""
        total = np.zeros(self.dimension)
        for scale in self.scales:
            total += scale.sums.astype(np.float64) * 2.0**scale.exponent
        return total

    def products(self) -> np.ndarray:
        """Return the sum of the outer products of the rows, float64 (d, d), symmetric."""
        if not self.keeps_products:
            raise InternalError("These moments keep no products.")
        total = np.zeros((self.dimension, self.dimension))
        for scale in self.scales:
            total += scale.products.astype(np.float64) * 2.0 ** (2 * scale.exponent)
        return total

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

    def _combine(self, other: "Moments", sign: int) -> "Moments":
        if other.dimension != self.dimension or other.keeps_products != self.keeps_products:
            raise InvalidSampleError(
                f"Cannot combine moments of width {other.dimension} with moments of width {self.dimension}.",
                hint="All samples must have embeddings of one width.",
            )
        return self._with(other.scales, sign * other.count, sign)

    def _with(self, scales: Iterable[ScaledSums], count: int, sign: int) -> "Moments":
        tables = {scale.exponent: scale for scale in self.scales}
        for scale in scales:
            tables[scale.exponent] = _combined(tables.get(scale.exponent), scale, sign)
        total = self.count + count
        kept = tuple(tables[exponent] for exponent in sorted(tables) if tables[exponent].rows)
        if total < 0 or any(scale.rows < 0 for scale in kept):
            raise InternalError("Cannot subtract moments of rows that were never added.")
        return Moments(self.dimension, total, self.keeps_products, kept)


def _by_exponent(whole: np.ndarray, exponent: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each exponent with its rows: views where the rows come in the order of their exponents, else copies."""
    if not len(exponent):
        return
    borders = [0, *(np.flatnonzero(np.diff(exponent)) + 1).tolist(), len(exponent)]
    values = exponent[borders[:-1]].tolist()
    if len(set(values)) == len(values):
        for value, first, last in zip(values, borders[:-1], borders[1:], strict=True):
            yield value, whole[first:last]
    else:
        for value in sorted(set(values)):
            yield value, whole[exponent == value]


def _sums_of(whole: np.ndarray, exponent: int, keeps_products: bool) -> ScaledSums:  # noqa: FBT001 - private
    products = (whole.T @ whole).astype(np.int64) if keeps_products else np.zeros((0, 0), dtype=np.int64)
    return ScaledSums(exponent, len(whole), whole.sum(axis=0).astype(np.int64), products)


def _combined(one: ScaledSums | None, other: ScaledSums, sign: int) -> ScaledSums:
    if one is None:
        return other if sign > 0 else ScaledSums(other.exponent, -other.rows, -other.sums, -other.products)
    rows = one.rows + sign * other.rows
    sums, products = one.sums, one.products
    if max(rows, one.rows) > _MAX_INT64_ROWS:
        sums, products = sums.astype(object), products.astype(object)
    sums = sums + other.sums if sign > 0 else sums - other.sums
    products = products + other.products if sign > 0 else products - other.products
    if rows <= _MAX_INT64_ROWS and sums.dtype == object:
        sums, products = sums.astype(np.int64), products.astype(np.int64)
    return ScaledSums(one.exponent, rows, sums, products)
