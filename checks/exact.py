"""Sums and products of floats that do not depend on order, to the last bit.

Floating-point addition is not associative, so a sum depends on how rows were batched. Here every number becomes an
integer times a power of two first, and integers add exactly:

  1. `quantise_rows` holds a row as whole numbers of at most 18 bits and one power of two. The power comes from the
     row alone, so it is the same in every batch.
  2. Products of such rows, and their sums over up to 2**16 rows, stay below 2**53. A float64 matrix product (BLAS) of
     them is exact, whatever order it adds in.
  3. `ExactMatrix` does the same for a product with fixed weights: the bits of a row's answer never depend on its
     batch.
  4. `ExactSum` adds arbitrary float64 numbers in fixed point, without any error, and rounds once at the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from millcert.errors import InternalError, InvalidSampleError

#: A quantised value is a whole number in [-2**QUANTISED_BITS, 2**QUANTISED_BITS].
QUANTISED_BITS = 18
#: Row exponents are multiples of this: few distinct ones, so few matrix products; it costs at most 3 of the 18 bits.
EXPONENT_STEP = 4
#: Rows in one exact product: 2**(2 * 18 + 16) < 2**53.
MAX_PRODUCT_ROWS = 2**16
#: Widest row that `ExactMatrix` takes: leaves 18 bits for the weights.
MAX_WIDTH = 2**16

#: Float64 rows below 2**-482 are taken as zero: their squares would not be numbers any more. No float32 is so small.
LOWEST_ROW_EXPONENT = -500

#: Rows quantised at a time, so that what comes between stays in the processor's cache; changes no result.
_CACHED_ROWS = 2048
#: Rows whose magnitudes are looked at together, likewise.
_LOOKED_AT_ROWS = 512

#: Below so many rows a loop over columns costs more in Python than in sums.
_FEW_ROWS = 512

#: Row exponents within this scale float32 rows in float32: no row, by the power of any other, leaves its range.
_FLOAT32_EXPONENT = 50

_FLOAT_BITS = 53
_DIGIT_BITS = 32
_DIGIT_MASK = (1 << _DIGIT_BITS) - 1
#: Sums that are merged at a time: highest digits are below 2**52, so 2**10 of them are in the range of int64.
_MAX_MERGED = 2**9
#: The smallest positive float64 is 2**-1074; digit 0 of a fixed-point number counts in these.
_LOWEST_EXPONENT = -1074
#: Values in one count of digits: each digit is below 2**32, so 2**20 of them sum below 2**53.
_MAX_SUM_ROWS = 2**20
#: From so many values on, whole rows are cut into digits at once; so many digits, and the rest one by one.
_MANY_VALUES, _DENSE_DIGITS = 2**8, 4
#: Values cut at a time, so that what comes between stays in the processor's cache.
_CACHED_VALUES = 2**15
#: The least power of two that is scaled by: so no value and no rest of one leaves the range of float64.
_LEAST_UNIT = -700


def quantise_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as whole numbers and exponents: `rows ~ whole * 2.0**exponent[:, None]`.

    Args:
        rows: float32 or float64, shape (m, d), finite, below 2**400 in magnitude.

    Returns:
        whole: float64 (m, d), whole numbers of magnitude at most 2**18.
        exponent: int64 (m,), multiples of 4; depends on the row's largest magnitude alone; 0 for a row of zeros.

    Error: at most half a unit, 2.0**(exponent - 1), so at most 2**-15 of the row's largest magnitude (2**-18 at best).
    Coordinates below that are lost: a row should not mix columns of very different scales. As rounding noise it adds
    at most 2**-30 / 12 of the mean squared row maximum to each variance.

    Raises:
        InvalidSampleError: a value is not finite or too large.

    Cost: about 0.2 microseconds a row at d = 128 for float32.
    """
    if len(rows) > _CACHED_ROWS:
        whole, exponent = np.empty(rows.shape), np.empty(len(rows), dtype=np.int64)
        for start in range(0, len(rows), _CACHED_ROWS):
            part = slice(start, start + _CACHED_ROWS)
            whole[part], exponent[part] = quantise_rows(rows[part])
        return whole, exponent
    exponent = row_exponents(rows)
    return whole_numbers(rows, exponent), exponent


def row_exponents(rows: np.ndarray) -> np.ndarray:
    """Return the exponents of `quantise_rows`, int64 (m,), for rows as it takes them; raises as it does."""
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        return np.zeros(rows.shape[0], dtype=np.int64)
    largest = np.concatenate(
        [_largest_magnitudes(rows[start : start + _LOOKED_AT_ROWS]) for start in range(0, len(rows), _LOOKED_AT_ROWS)]
    ).astype(np.float64)
    if not (largest < 2.0**400).all():  # also catches NaN
        raise InvalidSampleError("A value is not finite, or larger than 2**400.", hint="Rescale the embedding.")
    _, power = np.frexp(largest)
    exponent = -(-power.astype(np.int64) // EXPONENT_STEP) * EXPONENT_STEP - QUANTISED_BITS
    exponent[largest == 0] = 0
    np.maximum(exponent, LOWEST_ROW_EXPONENT, out=exponent)
    return exponent


def whole_numbers(rows: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Return the whole numbers of `quantise_rows`, float64 (m, d), for rows and their exponents."""
    if rows.dtype == np.float32 and np.abs(exponent).max(initial=0) <= _FLOAT32_EXPONENT:
        # The same bits at a third of the cost: a power of two changes no digit, and 2**18 needs fewer than float32 has.
        # One power for all, and a second one for the rows of another exponent, costs half of a power for each row.
        usual = exponent[len(exponent) // 2] if len(exponent) else 0
        narrow = rows * np.ldexp(np.float32(1), -usual)
        others = np.flatnonzero(exponent != usual)
        if len(others):
            narrow[others] = rows[others] * np.ldexp(np.float32(1), -exponent[others])[:, None]
        return np.rint(narrow, out=narrow).astype(np.float64)
    whole = np.multiply(rows, np.ldexp(1.0, -exponent)[:, None], dtype=np.float64)
    return np.rint(whole, out=whole)


def floored_numbers(rows: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as `quantise_rows` does, but with no exponent below a floor, which may lie anywhere.

    For rows that are read again, once the usual exponent of their kind is known: where few need a larger one, a row's
    largest magnitude need not be looked up.

    Args:
        rows: float32, shape (m, d), of any values.
        floor: int64 (m,).

    Error: half a unit of the exponent, which the floor makes larger for rows far smaller than is usual.

    Raises:
        InvalidSampleError: as `quantise_rows`.
    """
    if len(rows) and np.abs(floor).max() <= _FLOAT32_EXPONENT and (floor == floor[0]).all():
        narrow = rows * np.ldexp(np.float32(1), -floor[0])
        # A NaN makes a comparison false.
        if narrow.max(initial=0) < 2.0**QUANTISED_BITS and narrow.min(initial=0) > -(2.0**QUANTISED_BITS):
            return np.rint(narrow, out=narrow).astype(np.float64), floor
    exponent = np.maximum(row_exponents(rows), floor)
    return whole_numbers(rows, exponent), exponent


def _largest_magnitudes(rows: np.ndarray) -> np.ndarray:
    """Return each row's largest magnitude, or something not finite where the row has such a value.

    Without their signs, floats order as their bits do, with infinity and then NaN on top; integers compare faster.
    """
    width = rows.dtype.itemsize
    if rows.dtype.kind != "f" or width not in {4, 8}:
        return _largest_magnitudes(rows.astype(np.float64))
    bits = np.ascontiguousarray(rows).view(f"u{width}") & ((1 << (8 * width - 1)) - 1)
    return np.asarray(bits.max(axis=1).view(rows.dtype))


@dataclass(frozen=True, eq=False)
class ExactMatrix:
    """Fixed weights for a product whose bits do not depend on the batch: `matrix.apply(rows) ~ rows @ weights`.

    Make one with `ExactMatrix.of`. Weights are rounded to whole multiples of one power of two a column; with
    d = 128 columns of input they keep 27 bits, so the error is about that of float32.

    whole: float64 (d, k), whole numbers.
    scale: float64 (k,), powers of two.
    """

    whole: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, weights: np.ndarray) -> "ExactMatrix":
        """Return the exact form of weights, shape (d, k), finite.

        Raises:
            InvalidSampleError: more than 65,536 rows of weights.
            InternalError: weights are not finite.
        """
        width, columns = weights.shape
        if width > MAX_WIDTH:
            raise InvalidSampleError(f"An embedding may have at most {MAX_WIDTH} columns, got {width}.")
        if not np.isfinite(weights).all():
            raise InternalError("Projection weights must be finite.")
        bits = _FLOAT_BITS - QUANTISED_BITS - max(1, width).bit_length()
        largest = np.abs(weights).max(axis=0, initial=0.0) if columns else np.zeros(0)
        _, power = np.frexp(largest)
        exponent = np.where(largest > 0, np.maximum(power.astype(np.int64) - bits, LOWEST_ROW_EXPONENT), 0)
        return cls(np.rint(weights * np.ldexp(1.0, -exponent)), np.ldexp(1.0, exponent))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows @ weights`, float64 (m, k); the same bits for a row in any batch.

        Error: that of `quantise_rows` on the rows and of the rounded weights; the product itself is exact.
        """
        whole, exponent = quantise_rows(rows)
        return self.apply_quantised(whole, exponent)

    def apply_quantised(self, whole: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        """Return the product for rows that `quantise_rows` already split."""
        product: np.ndarray = whole @ self.whole
        product *= np.ldexp(1.0, exponent)[:, None]  # in place: these are powers of two, and memory costs more
        product *= self.scale
        return product


def sum_squares(values: np.ndarray) -> np.ndarray:
    """Return the sum of squares of each row, float64 (m,), added from the first column to the last.

    A plain `.sum(axis=1)` picks its order by the shape, so the answer for a row could depend on its batch.
    """
    columns = np.ascontiguousarray(values.T)
    if 1 < len(values) < _FEW_ROWS:
        # Along the first of two axes numpy adds row by row as well; with one column left it would add in pairs.
        return np.asarray((columns * columns).sum(axis=0))
    total = np.zeros(values.shape[0])
    for column in columns:
        total += column * column
    return total


@dataclass(frozen=True, eq=False)
class ExactSum:
    """The exact sum of float64 vectors; immutable, picklable, mergeable in any order.

    Value: fixed point in base 2**32, correctly rounded once by `value`. Two sums of the same numbers are equal in every
    field, whatever the order and the batches were.

    digits: int64 (width, D), base 2**32 digits from low to high; all in [0, 2**32) but the highest, which has the sign.
    lowest: position of the first digit; digit j of the array counts 2**(32 * (lowest + j) - 1074).
    count: how many vectors were added.

    Size: 8 bytes x width x D, where D is 3 to 5 for probabilities and at most 68.
    Cost of `add`: about 0.1 microseconds a number, a tenth of it where rows are wide and numbers of like magnitudes.
    """

    digits: np.ndarray
    lowest: int
    count: int

    @classmethod
    def zero(cls, width: int) -> "ExactSum":
        """Return the sum of no vectors."""
        return cls(np.zeros((width, 1), dtype=np.int64), 0, 0)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.digits.nbytes

    def add(self, values: np.ndarray) -> "ExactSum":
        """Return the sum with vectors added.

        Args:
            values: float64 (m, width), or (m,) where the width is 1; finite.

        Raises:
            InvalidSampleError: another width, or a value that is not finite.
        """
        table = np.asarray(values, dtype=np.float64)
        if table.ndim == 1:
            table = table[:, None]
        width = self.digits.shape[0]
        if table.ndim != 2 or table.shape[1] != width:
            raise InvalidSampleError(f"Expected vectors of width {width}, got an array of shape {values.shape}.")
        if not np.isfinite(table).all():
            raise InvalidSampleError("A value to add is not finite.")
        total = self
        for start in range(0, table.shape[0], _MAX_SUM_ROWS):
            rows = table[start : start + _MAX_SUM_ROWS]
            if width > 1 and len(rows) * width >= _MANY_VALUES:
                dense, column, rest = _dense_digits_of(rows)
                parts = [dense, _digits_of(rest, column, width, 0)] if len(rest) else [dense]
            else:
                column = np.broadcast_to(np.arange(width), rows.shape).ravel()
                parts = [_digits_of(rows.ravel(), column, width, len(rows))]
            total = _sum_of([total, *parts])
        return total

    def add_at(self, column: np.ndarray, values: np.ndarray) -> "ExactSum":
        """Return the sum with each value added to one column alone; each counts as a vector.

        Args:
            column: int64 (m,), in [0, width).
            values: float64 (m,), finite.

        Raises:
            InvalidSampleError: a value is not finite.
        """
        if not np.isfinite(values).all():
            raise InvalidSampleError("A value to add is not finite.")
        total = self
        for start in range(0, len(values), _MAX_SUM_ROWS):
            part = slice(start, start + _MAX_SUM_ROWS)
            total = _sum_of([total, _digits_of(values[part], column[part], self.digits.shape[0], len(values[part]))])
        return total

    def merge(self, others: Iterable["ExactSum"]) -> "ExactSum":
        """Return the sum of all vectors of this and the others."""
        parts, rest = [self], iter(others)
        while taken := list(islice(rest, _MAX_MERGED)):
            parts = [_sum_of([*parts, *taken])]
        return parts[0]

    def subtract(self, other: "ExactSum") -> "ExactSum":
        """Return the sum without the vectors of the other, which must be a part of this."""
        if other.count > self.count:
            raise InternalError(f"Cannot take a sum of {other.count} vectors out of one of {self.count}.")
        return _sum_of([self, ExactSum(-other.digits, other.lowest, -other.count)])

    def chosen(self, place: np.ndarray) -> "ExactSum":
        """Return the sums of some columns, int64 (m,)."""
        return _canonical(self.digits[place], self.lowest, self.count)

    def spread(self, place: np.ndarray, width: int, *, chosen: np.ndarray | None = None) -> "ExactSum":
        """Return a vector of sums to merge: these at the places, int64 (m,), each once, and 0 elsewhere.

        Args:
            place: where they go.
            width: of the vector.
            chosen: int64 (m,), the columns that are taken; None for all.
        """
        digits = np.zeros((width, self.digits.shape[1]), dtype=np.int64)
        digits[place] = self.digits if chosen is None else self.digits[chosen]
        return ExactSum(digits, self.lowest, self.count)

    @classmethod
    def stacked(cls, parts: Sequence["ExactSum"]) -> "ExactSum":
        """Return the columns of at least one sum, one after the other; the vectors of each count."""
        width = np.cumsum([0, *(len(part.digits) for part in parts)])
        lowest = min(part.lowest for part in parts)
        digits = np.zeros(
            (int(width[-1]), max(part.lowest + part.digits.shape[1] for part in parts) - lowest), np.int64
        )
        for part, start in zip(parts, width.tolist(), strict=False):
            offset = part.lowest - lowest
            digits[start : start + len(part.digits), offset : offset + part.digits.shape[1]] = part.digits
        return _canonical(digits, lowest, sum(part.count for part in parts))

    def value(self) -> np.ndarray:
        """Return the sum, float64 (width,), correctly rounded; infinite where it is beyond the range of float64."""
        place = _DIGIT_BITS * self.lowest + _LOWEST_EXPONENT
        return np.array([_to_float(_to_int(row), place) for row in self.digits], dtype=np.float64)


def _sum_of(parts: Sequence[ExactSum]) -> ExactSum:
    """Return the sum of at least one and at most `_MAX_MERGED` + 1 sums: so many highest digits do not overflow."""
    width = parts[0].digits.shape[0]
    for part in parts:
        if part.digits.shape[0] != width:
            raise InvalidSampleError(
                f"Cannot add sums of width {part.digits.shape[0]} and {width}.",
                hint="All samples must have the same number of columns.",
            )
    lowest = min(part.lowest for part in parts)
    highest = max(part.lowest + part.digits.shape[1] for part in parts)
    digits = np.zeros((width, highest - lowest), dtype=np.int64)
    for part in parts:
        offset = part.lowest - lowest
        digits[:, offset : offset + part.digits.shape[1]] += part.digits
    return _canonical(digits, lowest, sum(part.count for part in parts))


def _digits_of(values: np.ndarray, column: np.ndarray, width: int, count: int) -> ExactSum:
    """Return the exact sum of values in each column, at most 2**20 of them in one column."""
    if not values.any():
        return ExactSum(np.zeros((width, 1), dtype=np.int64), 0, count)
    fraction, power = np.frexp(values)
    mantissa = (fraction * 2.0**_FLOAT_BITS).astype(np.int64)
    place = power.astype(np.int64) - _FLOAT_BITS - _LOWEST_EXPONENT
    # A subnormal's mantissa ends in zeros, so shift it up to place 0 without loss.
    low = np.minimum(place, 0)
    mantissa >>= -low
    place -= low
    digit, shift = place // _DIGIT_BITS, place % _DIGIT_BITS
    first = int(digit[mantissa != 0].min())
    digit = np.where(mantissa != 0, digit - first, 0)
    size = int(digit.max()) + 3
    slot = digit + column * size
    low_half = (mantissa & _DIGIT_MASK).astype(np.uint64) << shift.astype(np.uint64)
    high_half = (mantissa >> _DIGIT_BITS) << shift
    terms = (
        (slot, low_half & np.uint64(_DIGIT_MASK)),
        (slot + 1, low_half >> np.uint64(_DIGIT_BITS)),
        (slot + 1, high_half & _DIGIT_MASK),
        (slot + 2, high_half >> _DIGIT_BITS),
    )
    digits = np.zeros(width * size, dtype=np.int64)
    for where, what in terms:  # each below 2**32 in magnitude, so a float64 count of 2**20 is exact
        digits += np.bincount(where, weights=what.astype(np.float64), minlength=width * size).astype(np.int64)
    return _canonical(digits.reshape(width, size), first, count)


def _dense_digits_of(rows: np.ndarray) -> tuple[ExactSum, np.ndarray, np.ndarray]:
    """Return the sum of the leading digits of all values, and what is left: columns and values that are not zero.

    Args:
        rows: float64 (m, width), finite, at most 2**20 rows.
    """
    width, nothing = rows.shape[1], np.zeros(0, dtype=np.int64)
    highest = int(np.frexp(max(-rows.min(), rows.max()))[1]) if rows.any() else 0
    digit = (highest - _LOWEST_EXPONENT - 1) // _DIGIT_BITS
    unit = _DIGIT_BITS * digit + _LOWEST_EXPONENT
    if not _LEAST_UNIT <= unit <= 0:  # a power of two that scales without rounding
        column = np.broadcast_to(np.arange(width), rows.shape).ravel()
        return ExactSum(np.zeros((width, 1), dtype=np.int64), 0, len(rows)), column, rows.ravel()
    digits = np.zeros((width, _DENSE_DIGITS), dtype=np.int64)
    columns, left = [nothing], [np.zeros(0)]
    step = max(1, _CACHED_VALUES // width)
    for start in range(0, len(rows), step):
        rest = rows[start : start + step] * 2.0**-unit
        for place in range(_DENSE_DIGITS - 1, -1, -1):
            whole = np.trunc(rest)  # below 2**32 in magnitude, so a sum of 2**20 is exact; and so is the rest
            digits[:, place] += whole.sum(axis=0).astype(np.int64)
            rest -= whole
            if not rest.any():
                break
            rest *= 2.0**_DIGIT_BITS
        else:
            row, column = np.nonzero(rest)
            columns.append(column)
            left.append(rest[row, column] * 2.0 ** (unit - _DENSE_DIGITS * _DIGIT_BITS))
    total = _canonical(digits, digit - _DENSE_DIGITS + 1, len(rows))
    return total, np.concatenate(columns), np.concatenate(left)


def _canonical(digits: np.ndarray, lowest: int, count: int) -> ExactSum:
    """Carry, then drop empty digits at both ends, so that equal sums have equal fields."""
    digits = np.concatenate([digits, np.zeros((digits.shape[0], 1), dtype=np.int64)], axis=1)
    for place in range(digits.shape[1] - 1):
        carry = digits[:, place] >> _DIGIT_BITS
        digits[:, place] &= _DIGIT_MASK
        digits[:, place + 1] += carry
    used = np.flatnonzero(digits.any(axis=0))
    if not len(used):
        return ExactSum(np.zeros((digits.shape[0], 1), dtype=np.int64), 0, count)
    first = int(used[0])
    digits = digits[:, first:]
    # A top digit of 0 or -1 is only the sign of the digit below it, where that has room for a sign.
    while digits.shape[1] > 1 and np.abs(_fold(digits[:, -2:])).max(initial=0) < 2 ** (_DIGIT_BITS + 20):
        digits = np.concatenate([digits[:, :-2], _fold(digits[:, -2:])[:, None]], axis=1)
    return ExactSum(np.ascontiguousarray(digits), lowest + first, count)


def _fold(top: np.ndarray) -> np.ndarray:
    """Return the two highest digits as one, saturated where that does not fit."""
    high = np.clip(top[:, 1], -(2**30), 2**30)
    return high * 2**_DIGIT_BITS + top[:, 0]


def _to_int(digits: np.ndarray) -> int:
    total = 0
    for digit in digits[::-1].tolist():
        total = (total << _DIGIT_BITS) + digit
    return total


def _to_float(whole: int, exponent: int) -> float:
    """Return whole * 2**exponent, correctly rounded (Python divides integers with one rounding)."""
    try:
        return whole / (1 << -exponent) if exponent < 0 else float(whole << exponent)
    except OverflowError:
        return float("inf") if whole > 0 else float("-inf")
