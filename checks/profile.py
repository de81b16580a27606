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
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import sketch_embedding, sketch_hash, sketch_quantiles, sketch_values
from millcert.checks.metric_columns import family
from millcert.checks.metric_sums import Sums, merge_sums
from millcert.checks.sketch_distinct import REGISTERS, estimate_distinct, fold_registers, registers_of
from millcert.checks.sketch_embedding import MeanEmbedding
from millcert.checks.sketch_quantiles import Quantiles
from millcert.checks.sketch_tokens import NO_TOKENS, TokenTable, count_tokens, has_tokens, merge_tokens
from millcert.checks.sketch_values import Values
from millcert.errors import MissingColumnError, PolicyError, UsageError

#: What a profile measures of a column, by its type.
Kind: TypeAlias = Literal[
    "bool", "int", "float", "string", "binary", "date", "timestamp", "decimal", "embedding", "list", "other"
]

#: Rows of a profile: beyond, counts would leave float64, in which some are added.
MAX_ROWS = 2**53


@dataclass(frozen=True)
class ProfileSpec:
    """What two profiles must share to be merged or compared.

    hash_key: 64 lower-case hex digits. Keep it from those whose data is profiled: who knows it can forge collisions.
    label: the column that holds the class, or "".
    source: the column that names the source, or "" where the caller names it by file.
    quantile_buckets, listed_values, frequencies: sizes of the sketches.
    keeps_texts: whether values of columns with at most `listed_values` distinct ones are kept as text.
    max_cells: how many pairs of source and label there may be.
    tokens: columns whose tokens are counted against the label; distinct, ascending.
    token_pairs: how many pairs of token and label one of them lists.
    """

    hash_key: str
    label: str = ""
    source: str = ""
    quantile_buckets: int = 1024
    listed_values: int = 512
    frequencies: int = 128
    keeps_texts: bool = True
    max_cells: int = 4096
    tokens: tuple[str, ...] = ()
    token_pairs: int = 1 << 18

    def __post_init__(self) -> None:
        sketch_hash.parse_key(self.hash_key)
        for name, least, most in (
            ("quantile_buckets", 2, 1 << 17),
            ("listed_values", 1, 1 << 16),
            ("frequencies", 1, 1 << 12),
            ("max_cells", 1, 1 << 20),
            ("token_pairs", 1, 1 << 24),
        ):
            if not least <= getattr(self, name) <= most:
                raise PolicyError(f"{name} must be {least} to {most}, got {getattr(self, name)}.")
        if list(self.tokens) != sorted(set(self.tokens)):
            raise PolicyError(f"Columns of tokens must be distinct and ascending, got {', '.join(self.tokens)}.")
        if self.tokens and self.token_pairs < self.max_cells:
            raise PolicyError(f"token_pairs must be at least max_cells, got {self.token_pairs} and {self.max_cells}.")
        if self.tokens and not self.label:
            raise PolicyError(
                "Tokens are counted against the label; the spec names none.", hint="Name the label column."
            )

    @property
    def key(self) -> bytes:
        """The hash key's bytes."""
        return sketch_hash.parse_key(self.hash_key)


def are_comparable(one: ProfileSpec, other: ProfileSpec) -> bool:
    """Return whether profiles of two specs say the same of the same rows: all but which tokens they count."""
    return replace(one, tokens=(), token_pairs=other.token_pairs) == replace(other, tokens=())


class Sizes(NamedTuple):
    """How large the sketches of a cell may be. quantiles, values: buckets and listed values; registers; buckets."""

    quantiles: int
    values: int
    registers: int
    buckets: int


def sizes_of(spec: ProfileSpec, cells: int) -> Sizes:
    """Return the sizes for so many cells: those of the spec for some, smaller ones for many.

    A size is a function of the number of cells alone and never grows with it, and a smaller sketch is a function of
    any larger one: so the profile stays a function of the multiset of rows. Our choice of the numbers
    (bench/profile_cost.py): 500 cells of 12 columns in some 9 MB.
    """
    room = 1 << (max(1, cells) - 1).bit_length()  # the next power of two
    return Sizes(
        quantiles=min(spec.quantile_buckets, max(32, (1 << 16) // room)),
        values=min(spec.listed_values, max(32, (1 << 15) // room)),
        registers=min(REGISTERS, max(256, (1 << 18) // room)),
        buckets=min(sketch_values.BUCKETS, max(32, (1 << 14) // room)),
    )


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
    tokens: column -> its tokens against the labels, for each column of the spec's `tokens`.
    """

    spec: ProfileSpec
    types: Mapping[str, str]
    cells: Mapping[tuple[str, str], Cell]
    tokens: Mapping[str, TokenTable]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(cell.rows for cell in self.cells.values())


def empty_profile(spec: ProfileSpec, schema: pa.Schema) -> Profile:
    """Return the profile of no rows of a schema.

    Raises:
        MissingColumnError: the spec's label or source is no column of it, or one that cannot be text; or a column of
            tokens has none.
    """
    for name in (spec.label, spec.source):
        if name and (name not in schema.names or pa.types.is_nested(schema.field(name).type)):
            raise MissingColumnError(
                f"The data has no column {name!r} of plain values; it has {', '.join(schema.names)}.", column=name
            )
    for name in spec.tokens:
        if name not in schema.names or not has_tokens(schema.field(name).type):
            raise MissingColumnError(
                f"The data has no column {name!r} of texts or of lists of tokens; it has {', '.join(schema.names)}.",
                column=name,
            )
    types = {field.name: str(field.type) for field in schema}
    return Profile(spec, types, {}, dict.fromkeys(spec.tokens, NO_TOKENS))


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
    names, at = _cells_of(batch, profile.spec, source)
    if len(names) > profile.spec.max_cells:
        raise _too_many_cells(profile.spec)
    return merge_profiles([profile, _profile_of(profile, batch, names, at)])


def _profile_of(empty: Profile, batch: pa.RecordBatch, names: list[tuple[str, str]], at: np.ndarray) -> Profile:
    from millcert.checks.profile_measure import Groups, measure_column  # it measures what this module defines

    spec, groups, sizes = empty.spec, Groups(at, len(names)), sizes_of(empty.spec, len(names))
    measured = {
        name: measure_column(column, groups, spec, sizes)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    rows = np.bincount(at, minlength=len(names)).tolist()
    cells = {
        name: Cell(rows[number], {column: parts[number] for column, parts in measured.items()})
        for number, name in enumerate(names)
    }
    labels = sorted({label for _, label in names})
    label_at = np.array([labels.index(label) for _, label in names], dtype=np.int64)[at]
    tokens = {
        column: count_tokens(batch.column(column), label_at, labels, limit=spec.token_pairs, key=spec.key)
        for column in spec.tokens
    }
    return empty._replace(cells=cells, tokens=tokens)


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
    if sum(part.rows for part in parts) > MAX_ROWS:
        raise UsageError(f"The profiles have more than {MAX_ROWS:,} rows together, which counts cannot hold.")
    tokens = {
        column: merge_tokens([part.tokens[column] for part in parts], first.spec.token_pairs)
        for column in first.spec.tokens
    }
    sizes = sizes_of(first.spec, len(grouped))
    cells = {name: merge_cells(grouped[name], first.spec, sizes) for name in sorted(grouped)}
    return first._replace(cells=cells, tokens=tokens)


def merge_cells(cells: list[Cell], spec: ProfileSpec, sizes: "Sizes | None" = None) -> Cell:
    """Return the cell of all rows; at least one cell, all of the same columns.

    sizes: of the result's sketches; those of a single cell without it, which those of `cells` bound.
    """
    sizes = sizes or sizes_of(spec, 1)
    columns = {name: _merge_columns([cell.columns[name] for cell in cells], sizes) for name in cells[0].columns}
    return Cell(sum(cell.rows for cell in cells), columns)


def kind_of_type(data_type: pa.DataType) -> Kind:
    """Return what is measured of a column of this Arrow type; a list of floats of one size is an embedding."""
    types = pa.types
    if types.is_fixed_size_list(data_type) and types.is_floating(data_type.value_type) and data_type.list_size:
        return "embedding"
    if types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type):
        return "list"
    return family(data_type)


def _cells_of(batch: pa.RecordBatch, spec: ProfileSpec, source: str) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return the cells of a batch, and the place of each row's among them, int64 (n,)."""
    codes = np.zeros(batch.num_rows, dtype=np.int64)
    words: list[list[str]] = []
    for name, constant in ((spec.source, source), (spec.label, "")):
        if not name:
            words.append([constant])
            continue
        text = pc.fill_null(batch.column(name).cast(pa.string()), "").dictionary_encode()
        words.append(text.dictionary.to_pylist())
        codes = codes * len(words[-1]) + text.indices.to_numpy(zero_copy_only=False)
    present, at = np.unique(codes, return_inverse=True)
    sources, labels = words
    return [(sources[code // len(labels)], labels[code % len(labels)]) for code in present.tolist()], at


def merge_numbers(parts: list[Numbers], buckets: int) -> Numbers:
    """Return the numbers of all parts, at least one, in at most so many buckets."""
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    return Numbers(
        merge_sums(part.sums for part in parts),
        sketch_quantiles.merge_quantiles((part.quantiles for part in parts), buckets),
        min(lows, default=None),
        max(highs, default=None),
    )


def _merge_columns(parts: list[ColumnProfile], sizes: Sizes) -> ColumnProfile:
    if len(parts) == 1 and _fits(parts[0], sizes):
        return parts[0]
    numbers = [part.numbers for part in parts if part.numbers is not None]
    lengths = [part.lengths for part in parts if part.lengths is not None]
    listed = [part.values for part in parts if part.values is not None]
    values = sketch_values.merge_values(listed, sizes.values, sizes.buckets) if listed else None
    embedding = None
    for part in parts:
        if part.embedding is not None:
            embedding = (
                part.embedding if embedding is None else sketch_embedding.merge_embeddings(embedding, part.embedding)
            )
    return ColumnProfile(
        parts[0].kind,
        sum(part.nulls for part in parts),
        numbers=merge_numbers(numbers, sizes.quantiles) if numbers else None,
        lengths=merge_numbers(lengths, sizes.quantiles) if lengths else None,
        registers=_merge_registers(parts, values, sizes.registers),
        values=values,
        embedding=embedding,
    )


def _fits(part: ColumnProfile, sizes: Sizes) -> bool:
    buckets = max((len(each.quantiles.keys) for each in (part.numbers, part.lengths) if each is not None), default=0)
    return (
        buckets <= sizes.quantiles
        and (part.registers is None or len(part.registers) <= sizes.registers)
        and (
            part.values is None
            or (len(part.values.hashes) <= sizes.values and len(part.values.buckets) <= sizes.buckets)
        )
    )


def _merge_registers(parts: list[ColumnProfile], values: Values | None, size: int) -> np.ndarray | None:
    """Return the registers of all parts; None where the listed values say it all."""
    if values is not None and values.is_complete:
        return None
    fewest = min([size, *(len(part.registers) for part in parts if part.registers is not None)])
    found = [each for part in parts if (each := registers_of_column(part, fewest)) is not None]
    return np.max(np.stack(found), axis=0) if found else None


def registers_of_column(column: ColumnProfile, size: int = REGISTERS) -> np.ndarray | None:
    """Return HyperLogLog registers of a column, at most `size` of them; None where it is not hashed."""
    if column.registers is not None:
        return fold_registers(column.registers, min(size, len(column.registers)))
    return None if column.values is None else registers_of(column.values.hashes, size)


def distinct_of(column: ColumnProfile) -> float | None:
    """Return how many distinct values a column has: exactly while all are listed; None where it is not hashed."""
    if column.values is not None and column.values.is_complete:
        return float(len(column.values.hashes))
    return None if column.registers is None else estimate_distinct(column.registers)


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
