"""Exact sums and sums of squares of many groups at once: as `millcert.checks.metric_sums`, one pass for all groups.

Numbers are split into pieces whose sums are integers below 2^53, which `bincount` adds in float64 without rounding.
The sums of a group's pieces are then added up at their bit positions: in 32-bit limbs for all groups at once, and as
Python integers once a group.
"""

import numpy as np

from millcert.checks.metric_sums import FLOAT_SCALE_BITS, Sums

#: Rows at a time: sums of 36-bit products stay below 2^53.
_CHUNK = 1 << 17
_LIMB = 32
_MASK = (1 << _LIMB) - 1


def sum_groups(numbers: np.ndarray, groups: np.ndarray, count: int) -> list[Sums]:
    """Return the exact sums of each group, with squares.

    Args:
        numbers: int64, uint64, or float64 without NaN, shape (n,).
        groups: int64 (n,), 0 to count - 1.
        count: how many groups there are.

    Cost: some 40 nanoseconds a float, 5 a small integer.
    """
    plus = minus = np.zeros(count, dtype=np.int64)
    is_float = numbers.dtype.kind == "f"
    if is_float:
        is_finite = np.isfinite(numbers)
        if not is_finite.all():
            plus = np.bincount(groups[numbers == np.inf], minlength=count)
            minus = np.bincount(groups[numbers == -np.inf], minlength=count)
            numbers, groups = numbers[is_finite], groups[is_finite]
    finite = np.bincount(groups, minlength=count)
    totals, squares = [0] * count, [0] * count
    for start in range(0, len(numbers), _CHUNK):
        own = slice(start, start + _CHUNK)
        parts = (_floats if is_float else _integers)(numbers[own], groups[own], count)
        totals = [one + other for one, other in zip(totals, parts[0], strict=True)]
        squares = [one + other for one, other in zip(squares, parts[1], strict=True)]
    scale = FLOAT_SCALE_BITS if is_float else 0
    counts = zip(finite.tolist(), totals, squares, plus.tolist(), minus.tolist(), strict=True)
    return [Sums(n, total, square, scale, high, low) for n, total, square, high, low in counts]


def _integers(numbers: np.ndarray, groups: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    # |-2^63| wraps to -2^63 in int64, and is 2^63 again as uint64.
    is_signed = numbers.dtype != np.uint64 and int(numbers.min()) < 0
    size = (np.abs(numbers) if is_signed else numbers).astype(np.uint64)
    sign = np.where(numbers < 0, -1.0, 1.0) if is_signed else None
    pieces = [
        ((size >> np.uint64(shift)) & np.uint64(2**18 - 1)).astype(np.float64)
        for shift in range(0, max(1, int(size.max()).bit_length()), 18)
    ]
    totals, squares = [0] * count, [0] * count
    for i, left in enumerate(pieces):
        _add(totals, np.bincount(groups, weights=left if sign is None else left * sign, minlength=count), 18 * i)
        for j, right in enumerate(pieces[: i + 1]):
            _add(squares, np.bincount(groups, weights=left * right, minlength=count), 18 * (i + j) + (i != j))
    return totals, squares


def _add(totals: list[int], sums: np.ndarray, shift: int) -> None:
    for at, value in enumerate(sums.tolist()):
        totals[at] += int(value) << shift


def _floats(numbers: np.ndarray, groups: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    fraction, exponent = np.frexp(numbers)
    mantissa = np.ldexp(fraction, 53).astype(np.int64)
    least = int(exponent.min())
    width = int(exponent.max()) - least + 1
    bins = groups * width + (exponent - least)
    # number = mantissa * 2^(e - 53); the unit is 2^-1074, and 2^-2148 for squares.
    low, high = (mantissa & (2**27 - 1)).astype(np.float64), (mantissa >> 27).astype(np.float64)
    first = least - 53 + FLOAT_SCALE_BITS
    totals = _Limbs(count, width, 1)
    totals.add(np.bincount(bins, weights=low, minlength=count * width), 0)
    totals.add(np.bincount(bins, weights=high, minlength=count * width), 27)
    size = np.abs(mantissa)
    pieces = [((size >> shift) & (2**18 - 1)).astype(np.float64) for shift in (0, 18, 36)]
    squares = _Limbs(count, width, 2)
    for i, left in enumerate(pieces):
        for j, right in enumerate(pieces[: i + 1]):
            products = np.bincount(bins, weights=left * right, minlength=count * width)
            squares.add(products, 18 * (i + j) + (i != j))
    return totals.sums(first), squares.sums(2 * first)


class _Limbs:
    """Whole numbers by group and bit position, added up.

    step: how many bits one more in the exponent moves a value: 1, and 2 for squares.
    """

    def __init__(self, count: int, width: int, step: int) -> None:
        self._positions = step * np.arange(width)
        self._shape = (count, width)
        self._limbs = np.zeros((count, (int(self._positions[-1]) + 128) // _LIMB + 2), dtype=np.int64)

    def add(self, sums: np.ndarray, offset: int) -> None:
        """Add whole numbers below 2^53, flat (count * width,), each at its exponent's position and `offset` bits."""
        values = sums.astype(np.int64).reshape(self._shape)
        limb, shift = np.divmod(self._positions + offset, _LIMB)
        starts = np.flatnonzero(np.diff(limb, prepend=-1))
        where = limb[starts]
        for part, above in ((values & _MASK, 0), (values >> _LIMB, 1)):
            # Below 2^32 before and 2^63 after the shift; the sign is in the upper part alone.
            moved = part << shift
            self._limbs[:, where + above] += np.add.reduceat(moved & _MASK, starts, axis=1)
            self._limbs[:, where + above + 1] += np.add.reduceat(moved >> _LIMB, starts, axis=1)

    def sums(self, first: int) -> list[int]:
        """Return each group's sum, moved by `first` bits; what falls below the unit is zero."""
        found = []
        for limbs in self._limbs.tolist():
            total = 0
            for limb in reversed(limbs):
                total = (total << _LIMB) + limb
            found.append(total << first if first >= 0 else total >> -first)
        return found
