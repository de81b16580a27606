"""A profile as a file: canonical JSON with a digest, strict to read. No pickle; docs/formats/profile.md is the format.

A reader checks, in this order: size, JSON without a key twice, format and version, digest, then every part's form. A
file that passes is the one text for its profile: writing it again gives the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, NoReturn, TypeVar, get_args

import numpy as np

from millcert.checks import sketch_distinct, sketch_values
from millcert.checks.metric_sums import FLOAT_SCALE_BITS, Sums
from millcert.checks.profile import Cell, ColumnProfile, Kind, Numbers, Profile, ProfileSpec
from millcert.checks.sketch_embedding import MeanEmbedding
from millcert.checks.sketch_packing import pack, pack_ascending, pack_signed, unpack, unpack_ascending, unpack_signed
from millcert.checks.sketch_quantiles import Quantiles
from millcert.checks.sketch_values import Values
from millcert.errors import DigestMismatchError, IntegrityError, MillcertError, UsageError

FORMAT = "millcert-profile"
VERSION = 1
MAX_PROFILE_BYTES = 1 << 30

_TAG = b"millcert profile v1\0"
_RANK_BITS = 6
_MAX_COUNT = 2**53
_MAX_DIMENSION = 1 << 16

T = TypeVar("T")


def profile_bytes(profile: Profile) -> bytes:
    """Return the one file of a profile: canonical JSON, ending in a newline."""
    return _text({**_document(profile), "digest": profile_digest(profile)}) + b"\n"


def profile_digest(profile: Profile) -> str:
    """Return SHA-256 as hex over the canonical JSON of a profile without its digest."""
    return hashlib.sha256(_TAG + _text(_document(profile))).hexdigest()


def load_profile(data: bytes) -> Profile:
    """Read a profile file.

    Raises:
        UsageError: the file is no profile, or of a version that is not known.
        DigestMismatchError: its content is not what its digest says.
        IntegrityError: a part of it has no meaning, or another text stands for the same profile.
    """
    document = _parse(data)
    stated = document.pop("digest")
    actual = hashlib.sha256(_TAG + _text(document)).hexdigest()
    if stated != actual:
        raise DigestMismatchError(
            f"The profile says its digest is {str(stated)[:64]!r}, its content has {actual}.",
            hint="The file was changed or cut; make it again, or fetch it again.",
            expected=stated,
            actual=actual,
        )
    try:
        profile = _profile_of(document)
    except MillcertError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise IntegrityError(f"A part of the profile has no meaning: {type(error).__name__}: {error}.") from error
    if profile_bytes(profile) != data:
        raise IntegrityError("The profile is not in its canonical form.", hint="Make it again with this version.")
    return profile


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_PROFILE_BYTES:
        raise UsageError(f"The profile has {len(data):,} bytes; at most {MAX_PROFILE_BYTES:,} are read.")
    try:
        document = json.loads(data, object_pairs_hook=_no_key_twice, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The file is no profile: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError(f'The file is no profile: it has no "format": "{FORMAT}".')
    if document.get("version") != VERSION:
        raise UsageError(f"The profile has version {document.get('version')!r}; known is {VERSION}.")
    if set(document) != {"format", "version", "digest", "spec", "types", "cells"}:
        raise IntegrityError(f"The profile has the keys {', '.join(sorted(document))}.")
    return document


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no whole number")


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _document(profile: Profile) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "spec": asdict(profile.spec),
        "types": [[name, text] for name, text in profile.types.items()],
        "cells": [
            {
                "source": source,
                "label": label,
                "rows": cell.rows,
                "columns": {name: _column(column) for name, column in cell.columns.items()},
            }
            for (source, label), cell in sorted(profile.cells.items())
        ],
    }


def _profile_of(document: Mapping[str, Any]) -> Profile:
    known = {field.name for field in fields(ProfileSpec)}
    if set(document["spec"]) != known:
        raise IntegrityError(f"The profile's spec must have the keys {', '.join(sorted(known))}.")
    for name, value in document["spec"].items():
        if type(value) is not ProfileSpec.__annotations__[name]:
            raise IntegrityError(f"The profile's spec has a {name} of type {type(value).__name__}.")
    spec = ProfileSpec(**document["spec"])
    types = {_string(name): _string(text) for name, text in document["types"]}
    cells = {}
    for entry in document["cells"]:
        if set(entry) != {"source", "label", "rows", "columns"} or set(entry["columns"]) != set(types):
            raise IntegrityError("A cell of the profile has other keys or columns than it must.")
        rows = _count(entry["rows"])
        columns = {name: _column_of(entry["columns"][name], rows, spec) for name in types}
        cells[_string(entry["source"]), _string(entry["label"])] = Cell(rows, columns)
    if len(cells) > spec.max_cells:
        raise IntegrityError(f"The profile has {len(cells)} cells; its spec allows {spec.max_cells}.")
    return Profile(spec, types, cells)


def _column(column: ColumnProfile) -> dict[str, Any]:
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


def _column_of(part: Mapping[str, Any], rows: int, spec: ProfileSpec) -> ColumnProfile:
    if set(part) - {"kind", "nulls", "numbers", "lengths", "distinct", "values", "embedding"}:
        raise IntegrityError(f"A column of the profile has the keys {', '.join(sorted(part))}.")
    if part["kind"] not in get_args(Kind):
        raise IntegrityError(f"A column of the profile has the kind {part['kind']!r}.")
    nulls = _count(part["nulls"])
    if nulls > rows:
        raise IntegrityError(f"A column of the profile has {nulls} nulls in {rows} rows.")
    present = rows - nulls
    return ColumnProfile(
        part["kind"],
        nulls,
        numbers=_if_any(part.get("numbers"), lambda each: _numbers_of(each, present, spec)),
        lengths=_if_any(part.get("lengths"), lambda each: _numbers_of(each, present, spec)),
        registers=_if_any(part.get("distinct"), _registers_of),
        values=_if_any(part.get("values"), lambda each: _values_of(each, present, spec)),
        embedding=_if_any(part.get("embedding"), lambda each: _embedding_of(each, present, spec)),
    )


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


def _numbers_of(part: Mapping[str, Any], present: int, spec: ProfileSpec) -> Numbers:
    sums = Sums(
        _count(part["finite"]),
        int(_string(part["total"]), 16),
        int(_string(part["squares"]), 16),
        _count(part["scale_bits"]),
        _count(part["plus_infinities"]),
        _count(part["minus_infinities"]),
    )
    keys = unpack_ascending(part["keys"], spec.quantile_buckets)
    counts = _counts(part["counts"], len(keys), sums.finite)
    level = _count(part["level"])
    is_whole = (
        sums.finite == int(counts.sum()) and sums.finite + sums.plus_infinities + sums.minus_infinities == present
    )
    if not is_whole or sums.scale_bits not in (0, FLOAT_SCALE_BITS) or level > 63 or sums.squares < 0:
        raise IntegrityError("Numbers of the profile do not add up to its rows.")
    low, high = _end_of(part["low"]), _end_of(part["high"])
    if (low is None) != (sums.finite == 0) or (high is None) != (low is None):
        raise IntegrityError("Numbers of the profile have no ends, or ends of nothing.")
    return Numbers(sums, Quantiles(level, keys, counts), low, high)


def _end(value: float | None) -> str | None:
    if value is None:
        return None
    return value.hex() if type(value) is float else str(value)


def _end_of(text: object) -> float | int | None:
    if text is None:
        return None
    return float.fromhex(_string(text)) if "x" in _string(text) else int(_string(text))


def _registers(registers: np.ndarray) -> str:
    """Return the registers that are not 0, each as (distance from the one before) * 64 + rank: a byte where dense."""
    used = np.flatnonzero(registers)
    steps = np.diff(used, prepend=-1).astype(np.uint64)
    return pack((steps << np.uint64(_RANK_BITS)) | registers[used].astype(np.uint64))


def _registers_of(text: object) -> np.ndarray:
    words = unpack(text, sketch_distinct.REGISTERS)
    steps, ranks = words >> np.uint64(_RANK_BITS), words & np.uint64(2**_RANK_BITS - 1)
    registers = np.zeros(sketch_distinct.REGISTERS, dtype=np.uint8)
    if len(words):
        if steps.max() > sketch_distinct.REGISTERS or steps.min() < 1 or ranks.min() < 1:
            raise IntegrityError("Distinct counts of the profile have registers that cannot be.")
        used = np.cumsum(steps.astype(np.int64)) - 1
        if used[-1] >= sketch_distinct.REGISTERS or ranks.max() > sketch_distinct.MAX_RANK:
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


def _values_of(part: Mapping[str, Any], present: int, spec: ProfileSpec) -> Values:
    hashes = unpack_ascending(part["hashes"], spec.listed_values)
    counts = _counts(part["counts"], len(hashes), present)
    buckets = unpack(part["buckets"], sketch_values.BUCKETS).astype(np.int64)
    texts = tuple(None if text is None else _string(text) for text in part["texts"])
    is_complete = part["is_complete"]
    if (
        type(is_complete) is not bool
        or len(buckets) != sketch_values.BUCKETS
        or buckets.min() < 0
        or int(buckets.astype(object).sum()) != present
        or len(texts) != (len(hashes) if is_complete else 0)
        or (is_complete and int(counts.sum()) != present)
    ):
        raise IntegrityError("Values of the profile do not add up to its rows.")
    return Values(hashes, counts, texts, is_complete, buckets)


def _embedding(embedding: MeanEmbedding) -> dict[str, Any]:
    return {"dimension": embedding.dimension, "rows": embedding.rows, "sums": pack_signed(embedding.sums)}


def _embedding_of(part: Mapping[str, Any], present: int, spec: ProfileSpec) -> MeanEmbedding:
    sums = unpack_signed(part["sums"], 2 * spec.frequencies)
    dimension, rows = _count(part["dimension"]), _count(part["rows"])
    if len(sums) != 2 * spec.frequencies or rows != present or not 0 < dimension <= _MAX_DIMENSION:
        raise IntegrityError("An embedding of the profile does not add up to its rows.")
    return MeanEmbedding(dimension, rows, sums)


def _counts(text: object, length: int, most: int) -> np.ndarray:
    counts = unpack(text, length)
    if len(counts) != length or (length and (counts.max() > most or counts.min() < 1)):
        raise IntegrityError("Counts of the profile do not fit its keys or its rows.")
    return counts.astype(np.int64)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise IntegrityError(f"Expected a count in the profile, found {str(value)[:40]!r}.")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise IntegrityError(f"Expected a text in the profile, found {type(value).__name__}.")
    return value


def _if_any(part: Any, convert: Callable[[Any], T]) -> T | None:
    return None if part is None else convert(part)
