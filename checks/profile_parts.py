"""The columns of a cell as JSON values, strict to read: the part of a profile's file that grows.

Version 1 wrote registers and buckets for every column; version 2 leaves them out while all values are listed, which
then say the same.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import numpy as np

from millcert.checks import sketch_distinct
from millcert.checks.metric_sums import FLOAT_SCALE_BITS, Sums
from millcert.checks.profile import ColumnProfile, Kind, Numbers, ProfileSpec, Sizes
from millcert.checks.sketch_embedding import MeanEmbedding
from millcert.checks.sketch_packing import pack, pack_ascending, pack_signed, unpack, unpack_ascending, unpack_signed
from millcert.checks.sketch_quantiles import LEAST_LEVEL, Quantiles, holds_ends
from millcert.checks.sketch_values import Values
from millcert.errors import IntegrityError

_RANK_BITS = 6
_MAX_COUNT = 2**53
_MAX_DIMENSION = 1 << 16

T = TypeVar("T")


def column_to_json(column: ColumnProfile) -> dict[str, Any]:
    """Return a column as JSON values, without the parts that it does not have."""
    parts = {
        "numbers": _if_any(column.numbers, _numbers),
        "lengths": _if_any(column.lengths, _numbers),
        "distinct": _if_any(column.registers, _registers),
        "values": _if_any(column.values, _values),
        "embedding": _if_any(column.embedding, _embedding),
    }
    return {
        "kind": column.kind,
        "nulls": column.nulls,
        **{key: part for key, part in parts.items() if part is not None},
    }


def column_from_json(
    part: Mapping[str, Any], rows: int, spec: ProfileSpec, sizes: Sizes, *, is_version_1: bool
) -> ColumnProfile:
    """Return the column that `column_to_json` wrote.

    Args:
        part: what stands in a file.
        rows: of the cell.
        spec: of the profile.
        sizes: of its sketches.
        is_version_1: registers and buckets are there in any case.

    Raises:
        IntegrityError: it has no meaning, or does not add up to the rows.
    """
    if set(part) - {"kind", "nulls", "numbers", "lengths", "distinct", "values", "embedding"}:
        raise IntegrityError(f"A column of the profile has the keys {', '.join(sorted(part))}.")
    if part["kind"] not in get_args(Kind):
        raise IntegrityError(f"A column of the profile has the kind {part['kind']!r}.")
    nulls = count_of(part["nulls"])
    if nulls > rows:
        raise IntegrityError(f"A column of the profile has {nulls} nulls in {rows} rows.")
    present = rows - nulls
    column = ColumnProfile(
        part["kind"],
        nulls,
        numbers=_if_any(part.get("numbers"), lambda each: _numbers_of(each, present, sizes, is_version_1=is_version_1)),
        lengths=_if_any(part.get("lengths"), lambda each: _numbers_of(each, present, sizes, is_version_1=is_version_1)),
        registers=_if_any(part.get("distinct"), lambda each: _registers_of(each, sizes.registers)),
        values=_if_any(part.get("values"), lambda each: _values_of(each, present, sizes, is_version_1=is_version_1)),
        embedding=_if_any(part.get("embedding"), lambda each: _embedding_of(each, present, spec)),
    )
    if not is_version_1 and column.values is not None and column.values.is_complete != (column.registers is None):
        raise IntegrityError("A column of the profile has registers beside all its values, or neither.")
    return column


def _numbers(numbers: Numbers) -> dict[str, Any]:
    sums = numbers.sums
    return {
        "finite": sums.finite,
        "total": f"{sums.total:x}",
        "squares": f"{sums.squares:x}",
        "scale_bits": sums.scale_bits,
        "plus_infinities": sums.plus_infinities,
        "minus_infinities": sums.minus_infinities,
        "low": _end(numbers.low),
        "high": _end(numbers.high),
        "level": numbers.quantiles.level,
        "keys": pack_ascending(numbers.quantiles.keys),
        "counts": pack(numbers.quantiles.counts),
    }


def _numbers_of(part: Mapping[str, Any], present: int, sizes: Sizes, *, is_version_1: bool) -> Numbers:
    sums = Sums(
        count_of(part["finite"]),
        int(text_of(part["total"]), 16),
        int(text_of(part["squares"]), 16),
        count_of(part["scale_bits"]),
        count_of(part["plus_infinities"]),
        count_of(part["minus_infinities"]),
    )
    keys = unpack_ascending(part["keys"], sizes.quantiles)
    counts = counts_of(part["counts"], len(keys), sums.finite)
    level = count_of(part["level"])
    if not is_version_1 and level < LEAST_LEVEL:
        raise IntegrityError("A sketch of the profile has a level that its version does not have.")
    is_whole = (
        sums.finite == int(counts.sum()) and sums.finite + sums.plus_infinities + sums.minus_infinities == present
    )
    if not is_whole or sums.scale_bits not in (0, FLOAT_SCALE_BITS) or level > 63 or sums.squares < 0:
        raise IntegrityError("Numbers of the profile do not add up to its rows.")
    low, high = _end_of(part["low"]), _end_of(part["high"])
    if (low is None) != (sums.finite == 0) or (high is None) != (low is None):
        raise IntegrityError("Numbers of the profile have no ends, or ends of nothing.")
    numbers = Numbers(sums, Quantiles(level, keys, counts), low, high)
    if not _can_be(numbers):
        raise IntegrityError("Numbers of the profile have a sum, squares, ends or buckets that no numbers have.")
    return numbers


def _can_be(numbers: Numbers) -> bool:
    """Return whether some numbers have these sums, ends and outer buckets; all exact."""
    sums, low, high = numbers.sums, numbers.low, numbers.high
    if low is None or high is None:
        return sums.total == 0 == sums.squares
    if not isinstance(low, int if sums.scale_bits == 0 else float) or type(high) is not type(low):
        return False
    n, least, most = sums.finite, _in_units(low, sums.scale_bits), _in_units(high, sums.scale_bits)
    return (
        n * least <= sums.total <= n * most
        and sums.total**2 <= n * sums.squares <= n * n * max(least**2, most**2)
        and holds_ends(numbers.quantiles, low, high)
    )


def _in_units(end: float, scale_bits: int) -> int:
    """Return a number as a whole number of 2^-scale_bits, of which every float64 is one."""
    numerator, denominator = end.as_integer_ratio()
    return (numerator << scale_bits) // denominator


def _end(value: float | None) -> str | None:
    if value is None:
        return None
    return value.hex() if type(value) is float else str(value)


def _end_of(text: object) -> float | int | None:
    if text is None:
        return None
    return float.fromhex(text_of(text)) if "x" in text_of(text) else int(text_of(text))


def _registers(registers: np.ndarray) -> str:
    """Return the registers that are not 0, each as (distance from the one before) * 64 + rank: a byte where dense."""
    used = np.flatnonzero(registers)
    steps = np.diff(used, prepend=-1).astype(np.uint64)
    return pack((steps << np.uint64(_RANK_BITS)) | registers[used].astype(np.uint64))


def _registers_of(text: object, size: int) -> np.ndarray:
    words = unpack(text, size)
    steps, ranks = words >> np.uint64(_RANK_BITS), words & np.uint64(2**_RANK_BITS - 1)
    registers = np.zeros(size, dtype=np.uint8)
    if len(words):
        if steps.max() > size or steps.min() < 1 or ranks.min() < 1:
            raise IntegrityError("Distinct counts of the profile have registers that cannot be.")
        used = np.cumsum(steps.astype(np.int64)) - 1
        if used[-1] >= size or ranks.max() > sketch_distinct.MAX_RANK:
            raise IntegrityError("Distinct counts of the profile have registers that cannot be.")
        registers[used] = ranks
    return registers


def _values(values: Values) -> dict[str, Any]:
    return {
        "is_complete": values.is_complete,
        "hashes": pack_ascending(values.hashes),
        "counts": pack(values.counts),
        "texts": list(values.texts),
        "buckets": pack(values.buckets),
    }


def _values_of(part: Mapping[str, Any], present: int, sizes: Sizes, *, is_version_1: bool) -> Values:
    hashes = unpack_ascending(part["hashes"], sizes.values)
    counts = counts_of(part["counts"], len(hashes), present)
    buckets = unpack(part["buckets"], sizes.buckets).astype(np.int64)
    texts = tuple(None if text is None else text_of(text) for text in part["texts"])
    is_complete = part["is_complete"]
    if (
        type(is_complete) is not bool
        or len(buckets) != (sizes.buckets if is_version_1 or not is_complete else 0)
        or (len(buckets) and (buckets.min() < 0 or int(buckets.astype(object).sum()) != present))
        or len(texts) != (len(hashes) if is_complete else 0)
        or (is_complete and int(counts.sum()) != present)
    ):
        raise IntegrityError("Values of the profile do not add up to its rows.")
    return Values(hashes, counts, texts, is_complete, buckets)


def _embedding(embedding: MeanEmbedding) -> dict[str, Any]:
    return {"dimension": embedding.dimension, "rows": embedding.rows, "sums": pack_signed(embedding.sums)}


def _embedding_of(part: Mapping[str, Any], present: int, spec: ProfileSpec) -> MeanEmbedding:
    sums = unpack_signed(part["sums"], 2 * spec.frequencies)
    dimension, rows = count_of(part["dimension"]), count_of(part["rows"])
    if len(sums) != 2 * spec.frequencies or rows != present or not 0 < dimension <= _MAX_DIMENSION:
        raise IntegrityError("An embedding of the profile does not add up to its rows.")
    return MeanEmbedding(dimension, rows, sums)


def counts_of(text: object, length: int, most: int) -> np.ndarray:
    """Return packed counts, int64 (length,), each 1 to `most`, or raise IntegrityError."""
    counts = unpack(text, length)
    if len(counts) != length or (length and (counts.max() > most or counts.min() < 1)):
        raise IntegrityError("Counts of the profile do not fit its keys or its rows.")
    return counts.astype(np.int64)


def count_of(value: object) -> int:
    """Return a count, 0 to 2^53, or raise IntegrityError."""
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise IntegrityError(f"Expected a count in the profile, found {str(value)[:40]!r}.")
    return value


def text_of(value: object) -> str:
    """Return a text, or raise IntegrityError."""
    if not isinstance(value, str):
        raise IntegrityError(f"Expected a text in the profile, found {type(value).__name__}.")
    return value


def _if_any(part: Any, convert: Callable[[Any], T]) -> T | None:
    return None if part is None else convert(part)
