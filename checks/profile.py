"""The profile of a data set: one mergeable summary of every column for each source and label.

Rules this module keeps:
  1. A profile is a function of the multiset of rows (and of the spec) alone, to the last bit: batches, workers and
     order do not show, and the profile of a month is the merge of its days.
  2. Its size does not grow with the rows: per cell and column at most some 20 kB (16 kB of quantiles, 4 kB of HLL, 8 kB
     of values at the default spec, whichever apply), plus the cells, of which there may be `max_cells`.
  3. Values are hashed with a key that the profile carries. Texts of values are kept only where a column has few.

What each part is and how exact: docs/formats/profile.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import sketch_embedding, sketch_hash, sketch_quantiles, sketch_values
from millcert.checks.metric_columns import ColumnView, family
from millcert.checks.metric_sums import Sums, merge_sums, sum_floats, sum_integers
from millcert.checks.sketch_distinct import merge_registers, registers_of
from millcert.checks.sketch_embedding import MeanEmbedding
from millcert.checks.sketch_quantiles import Quantiles
from millcert.checks.sketch_values import Values
from millcert.errors import MissingColumnError, PolicyError, UsageError

#: What a profile measures of a column, by its type.
Kind: TypeAlias = Literal[
    "bool", "int", "float", "string", "binary", "date", "timestamp", "decimal", "embedding", "list", "other"
]

_NUMERIC = ("int", "float", "date", "timestamp", "decimal")
_HASHED = ("bool", "int", "float", "string", "binary", "date", "timestamp", "decimal")


@dataclass(frozen=True)
class ProfileSpec:
    """What two profiles must share to be merged or compared.

    hash_key: 64 lower-case hex digits. Keep it from those whose data is profiled: who knows it can forge collisions.
    label: the column that holds the class, or "".
    source: the column that names the source, or "" where the caller names it by file.
    quantile_buckets, listed_values, frequencies: sizes of the sketches.
    keeps_texts: whether values of columns with at most `listed_values` distinct ones are kept as text.
    max_cells: how many pairs of source and label there may be.
    """

    hash_key: str
    label: str = ""
    source: str = ""
    quantile_buckets: int = 1024
    listed_values: int = 512
    frequencies: int = 128
    keeps_texts: bool = True
    max_cells: int = 4096

    def __post_init__(self) -> None:
        sketch_hash.parse_key(self.hash_key)
        for name, least, most in (
            ("quantile_buckets", 2, 1 << 17),
            ("listed_values", 1, 1 << 16),
            ("frequencies", 1, 1 << 12),
            ("max_cells", 1, 1 << 20),
        ):
            if not least <= getattr(self, name) <= most:
                raise PolicyError(f"{name} must be {least} to {most}, got {getattr(self, name)}.")

    @property
    def key(self) -> bytes:
        """The hash key's bytes."""
        return sketch_hash.parse_key(self.hash_key)


class Numbers(NamedTuple):
    """Numbers of a column: its values, the lengths of its texts or lists, or the norms of its embeddings.

    sums: exact, with counts of infinities.
    quantiles: of the finite ones.
    low, high: the smallest and largest finite one; None where there is none.
    """

    sums: Sums
    quantiles: Quantiles
    low: float | int | None
    high: float | int | None


class ColumnProfile(NamedTuple):
    """One column in one cell; None where a part does not apply to the kind.

    nulls: rows without a value; NaN counts, and so does an embedding that has one.
    numbers: of the values; dates and times in their type's unit since 1970, decimals as the nearest float64; of an
        embedding: the lengths of the vectors.
    lengths: characters of a text, bytes of a binary, items of a list.
    registers: HyperLogLog over the keyed hashes of the values.
    values: counts of values; not of floats.
    embedding: mean random Fourier features of the vectors' directions.
    """

    kind: Kind
    nulls: int
    numbers: Numbers | None = None
    lengths: Numbers | None = None
    registers: np.ndarray | None = None
    values: Values | None = None
    embedding: MeanEmbedding | None = None


class Cell(NamedTuple):
    """The rows of one source and label. columns: in the data's order."""

    rows: int
    columns: Mapping[str, ColumnProfile]


class Profile(NamedTuple):
    """A whole profile: the table of source against label, and each cell's columns.

    types: column -> its Arrow type as text, in the data's order.
    cells: (source, label) -> cell, sorted; the label is "" where there is none.
    """

    spec: ProfileSpec
    types: Mapping[str, str]
    cells: Mapping[tuple[str, str], Cell]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(cell.rows for cell in self.cells.values())


def empty_profile(spec: ProfileSpec, schema: pa.Schema) -> Profile:
    """Return the profile of no rows of a schema.

    Raises:
        MissingColumnError: the spec's label or source is no column of it, or one that cannot be text.
    """
    for name in (spec.label, spec.source):
        if name and (name not in schema.names or pa.types.is_nested(schema.field(name).type)):
            raise MissingColumnError(
                f"The data has no column {name!r} of plain values; it has {', '.join(schema.names)}.", column=name
            )
    return Profile(spec, {field.name: str(field.type) for field in schema}, {})


def add_batch(profile: Profile, batch: pa.RecordBatch, source: str = "") -> Profile:
    """Return the profile with a batch added.

    Args:
        profile: of the same schema.
        batch: n rows.
        source: of all rows, where the spec names no column for it.

    Raises:
        UsageError: the batch has other columns, or there are more cells than the spec allows.

    Cost: per column some 0.1 to 0.3 microseconds a row, plus some 0.3 milliseconds a cell; give batches of 100,000 rows
        or more (bench/profile_cost.py).
    """
    types = {field.name: str(field.type) for field in batch.schema}
    if types != profile.types:
        raise _other_columns(profile.types, types)
    if not batch.num_rows:
        return profile
    names, places = _cells_of(batch, profile.spec, source)
    if len(names) > profile.spec.max_cells:
        raise _too_many_cells(profile.spec)
    measured: list[dict[str, ColumnProfile]] = [{} for _ in names]
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for at, part in enumerate(_measure(column, places, profile.spec)):
            measured[at][name] = part
    added = {name: Cell(len(rows), columns) for name, rows, columns in zip(names, places, measured, strict=True)}
    return merge_profiles([profile, profile._replace(cells=added)])


def merge_profiles(profiles: Iterable[Profile]) -> Profile:
    """Return the profile of all rows; at least one profile.

    Raises:
        UsageError: they were made with different specs or have different columns.
    """
    parts = list(profiles)
    first = parts[0]
    for other in parts[1:]:
        if other.spec != first.spec:
            raise UsageError(
                "The profiles were made with different specs (hash key, label, source or sizes).",
                hint="Make the later one with --like the earlier one.",
            )
        if dict(other.types) != dict(first.types):
            raise _other_columns(first.types, other.types)
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for part in parts:
        for name, cell in part.cells.items():
            grouped.setdefault(name, []).append(cell)
    if len(grouped) > first.spec.max_cells:
        raise _too_many_cells(first.spec)
    return first._replace(cells={name: merge_cells(grouped[name], first.spec) for name in sorted(grouped)})


def merge_cells(cells: list[Cell], spec: ProfileSpec) -> Cell:
    """Return the cell of all rows; at least one cell, all of the same columns."""
    if len(cells) == 1:
        return cells[0]
    columns = {name: _merge_columns([cell.columns[name] for cell in cells], spec) for name in cells[0].columns}
    return Cell(sum(cell.rows for cell in cells), columns)


def kind_of_type(data_type: pa.DataType) -> Kind:
    """Return what is measured of a column of this Arrow type; a list of floats of one size is an embedding."""
    types = pa.types
    if types.is_fixed_size_list(data_type) and types.is_floating(data_type.value_type) and data_type.list_size:
        return "embedding"
    if types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type):
        return "list"
    return family(data_type)


def _cells_of(batch: pa.RecordBatch, spec: ProfileSpec, source: str) -> tuple[list[tuple[str, str]], list[np.ndarray]]:
    """Return the cells of a batch and the rows of each, ascending."""
    codes = np.zeros(batch.num_rows, dtype=np.int64)
    words: list[list[str]] = []
    for name, constant in ((spec.source, source), (spec.label, "")):
        if not name:
            words.append([constant])
            continue
        text = pc.fill_null(batch.column(name).cast(pa.string()), "").dictionary_encode()
        words.append(text.dictionary.to_pylist())
        codes = codes * len(words[-1]) + text.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    sources, labels = words
    names = [(sources[code // len(labels)], labels[code % len(labels)]) for code in present.tolist()]
    return names, np.split(order, starts[1:])


def _measure(column: pa.Array, places: list[np.ndarray], spec: ProfileSpec) -> list[ColumnProfile]:
    kind = kind_of_type(column.type)
    parts = [column] if len(places) == 1 else [column.take(pa.array(rows)) for rows in places]
    if kind == "embedding":
        return [_measure_embedding(part, spec) for part in parts]
    if kind == "list":
        return [_measure_list(part, spec) for part in parts]
    if kind not in _HASHED:
        return [ColumnProfile(kind, ColumnView(part).null_count) for part in parts]
    hashes = _hash_rows(column, kind, spec)
    own = [hashes] if len(places) == 1 else [hashes[rows] for rows in places]
    return [_measure_plain(part, kind, each, spec) for part, each in zip(parts, own, strict=True)]


def _hash_rows(column: pa.Array, kind: Kind, spec: ProfileSpec) -> np.ndarray:
    """Return the hash of each row's value, uint64 (n,); 0 where there is none."""
    view = ColumnView(column)
    hashes = np.zeros(len(column), dtype=np.uint64)
    if kind in ("string", "binary", "decimal"):
        encoded = view.present.dictionary_encode()
        distinct = sketch_hash.hash_values(encoded.dictionary, spec.key)
        hashes[view.present_at] = distinct[encoded.indices.to_numpy(zero_copy_only=False)]
    else:
        hashes[view.present_at] = sketch_hash.hash_values(view.present, spec.key)
    return hashes


def _measure_plain(column: pa.Array, kind: Kind, row_hashes: np.ndarray, spec: ProfileSpec) -> ColumnProfile:
    view = ColumnView(column)
    present = view.present
    hashes = row_hashes[view.present_at] if view.null_count else row_hashes
    lengths = values = None
    if kind in ("string", "binary"):
        size = pc.utf8_length(present) if kind == "string" else pc.binary_length(present)
        lengths = _numbers(size.to_numpy(zero_copy_only=False).astype(np.int64), spec)
    if kind != "float":
        values = sketch_values.count_values(hashes, present, spec.listed_values, keeps_texts=spec.keeps_texts)
    return ColumnProfile(
        kind,
        view.null_count,
        numbers=_numbers(_as_numbers(view, kind), spec) if kind in _NUMERIC else None,
        lengths=lengths,
        registers=registers_of(hashes),
        values=values,
    )


def _as_numbers(view: ColumnView, kind: Kind) -> np.ndarray:
    if kind == "float":
        return view.present_floats
    if kind == "decimal":
        return np.array([float(value) for value in view.present.to_pylist()], dtype=np.float64)
    return view.present_ticks


def _measure_list(column: pa.Array, spec: ProfileSpec) -> ColumnProfile:
    lengths = pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False).astype(np.int64)
    return ColumnProfile("list", int(column.null_count), lengths=_numbers(lengths, spec))


def _measure_embedding(column: pa.Array, spec: ProfileSpec) -> ColumnProfile:
    present = column.drop_null()
    width = column.type.list_size
    rows = present.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(present), width)
    # The sketch squares them and must stay finite.
    rows = rows[(np.abs(rows) < 2.0**400).all(axis=1)]
    units, norms = sketch_embedding.unit_rows(rows)
    return ColumnProfile(
        "embedding",
        len(column) - len(rows),
        numbers=_numbers(norms, spec),
        embedding=sketch_embedding.embed_rows(units, spec.frequencies, spec.key),
    )


def _numbers(numbers: np.ndarray, spec: ProfileSpec) -> Numbers:
    if numbers.dtype.kind == "f":
        sums, finite = sum_floats(numbers, with_squares=True), numbers[np.isfinite(numbers)]
    else:
        sums, finite = sum_integers(numbers, with_squares=True), numbers
    if not len(finite):
        return Numbers(sums, sketch_quantiles.NO_QUANTILES, None, None)
    # Adding 0 turns -0.0 into 0.0, so that the ends do not depend on which of the two came first.
    low, high = (finite.min() + 0).item(), (finite.max() + 0).item()
    return Numbers(sums, sketch_quantiles.sketch_numbers(finite, spec.quantile_buckets), low, high)


def merge_numbers(parts: list[Numbers], spec: ProfileSpec) -> Numbers:
    """Return the numbers of all parts; at least one."""
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    return Numbers(
        merge_sums(part.sums for part in parts),
        sketch_quantiles.merge_quantiles((part.quantiles for part in parts), spec.quantile_buckets),
        min(lows, default=None),
        max(highs, default=None),
    )


def _merge_columns(parts: list[ColumnProfile], spec: ProfileSpec) -> ColumnProfile:
    numbers = [part.numbers for part in parts if part.numbers is not None]
    lengths = [part.lengths for part in parts if part.lengths is not None]
    values = [part.values for part in parts if part.values is not None]
    registers = None
    embedding = None
    for part in parts:
        if part.registers is not None:
            registers = part.registers if registers is None else merge_registers(registers, part.registers)
        if part.embedding is not None:
            embedding = (
                part.embedding if embedding is None else sketch_embedding.merge_embeddings(embedding, part.embedding)
            )
    return ColumnProfile(
        parts[0].kind,
        sum(part.nulls for part in parts),
        numbers=merge_numbers(numbers, spec) if numbers else None,
        lengths=merge_numbers(lengths, spec) if lengths else None,
        registers=registers,
        values=sketch_values.merge_values(values, spec.listed_values) if values else None,
        embedding=embedding,
    )


def _other_columns(expected: Mapping[str, str], actual: Mapping[str, str]) -> UsageError:
    differing = sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name))
    return UsageError(
        f"The columns or their types differ: {', '.join(differing)}.",
        hint="Profiles are merged within one schema; `millcert profile diff` compares across schemas.",
        columns=tuple(differing),
    )


def _too_many_cells(spec: ProfileSpec) -> UsageError:
    return UsageError(
        f"There are more than {spec.max_cells} pairs of source and label.",
        hint="Leave out --label, name a coarser column, or raise --max-cells.",
    )
