"""Two profiles compared: every column in every source and as a whole, each by effect size and null quantile.

What is compared, by kind of column (limits: `millcert.checks.drift.DriftLimits`):
  bool, string, binary      categories: Cramer's V and total variation; lengths of texts: as numbers
  int, float, decimal       W1 in standard deviations of the reference, and Kolmogorov-Smirnov; infinities: as nulls
  embedding                 mean random Fourier features; lengths of the vectors: as numbers
  list                      lengths: as numbers
  date, timestamp, other    nulls only: time moves on by itself
  the label's column        nulls only: its values are compared as label given source
Each column also by its nulls; the label against the source by the profile's own exact table; sources by their presence;
each label of a source by how many of its rows were pushed to it (`millcert.checks.drift_labels`); the tokens of columns
that the spec names against the label (`millcert.checks.drift_tokens`).

Categories are the values themselves while all of them are listed on both sides, and `BUCKETS` buckets of a keyed hash
beyond: above some thousand categories chance moves every statistic of the values themselves.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from millcert.checks import drift, sketch_embedding
from millcert.checks.drift import Drift, DriftLimits, Measure, Spread
from millcert.checks.drift_labels import LabelTable, label_pushes, natural_variance
from millcert.checks.drift_tokens import token_drifts
from millcert.checks.metric_sums import Sums, deviation_of, mean_of
from millcert.checks.profile import Cell, ColumnProfile, Numbers, Profile, ProfileSpec, are_comparable, merge_cells
from millcert.checks.sketch_quantiles import at_level, intervals
from millcert.checks.sketch_values import Values, buckets_of
from millcert.errors import UsageError

#: Pairs of token and label that a comparison lists, of those that drift.
LISTED_TOKENS = 50

#: Kinds whose values are compared as categories; integers only while both sides list all of theirs.
_CATEGORIES = ("bool", "string", "binary", "int")
_NUMBERS = ("int", "float", "decimal", "embedding")

_Pairs: TypeAlias = list[tuple[str, Cell]]
_BySource: TypeAlias = dict[str, _Pairs]
#: Source, or "" for all rows, and its cells on both sides.
_Slices: TypeAlias = list[tuple[str, _Pairs, _Pairs]]
#: Of each slice, in their order: its table, and what varies of it by nature; None: nothing tells.
_Labels: TypeAlias = list[tuple[LabelTable, float | None]]


class Subject(NamedTuple):
    """What a comparison is about.

    source: the source, or "" for all rows.
    column: the column; "" where the comparison is about a source's presence.
    part: "values", "lengths", "norms", "nulls", "categories", "label", "presence", "tokens".
    detail: of "tokens": which token, by its hash, and which label; of a pushed label: which; else "".
    """

    source: str
    column: str
    part: str
    detail: str = ""

    def in_words(self) -> str:
        """Return what is compared and in which source, for a message."""
        what = " ".join(word for word in (self.column, self.part, self.detail) if word)
        return f"{what} in source {self.source}" if self.source else what


class Compared(NamedTuple):
    """One comparison and the figures beside it.

    figures: name -> value: "psi", "jensen_shannon", "reference_mean", "current_mean" ..., without any limit.
    """

    subject: Subject
    drift: Drift
    figures: dict[str, float]


class ProfileDrift(NamedTuple):
    """What the comparison of two profiles found.

    alpha: the level of each comparison but of pushed labels and tokens, which have an equal part of the family's level
        each where they are compared: its part over the number of the others.
    compared: all comparisons, drifting ones first, then by effect over limit.
    added, removed, changed: columns that only the current data has, that only the reference has, and those of another
        type ("column: reference type -> current type").
    skipped: subjects with too few rows on either side.
    """

    alpha: float
    compared: tuple[Compared, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    skipped: tuple[Subject, ...]

    @property
    def found(self) -> tuple[Compared, ...]:
        """The comparisons that drift."""
        return tuple(one for one in self.compared if one.drift.is_drift)

    @property
    def is_drift(self) -> bool:
        """Whether anything drifts, or the columns differ."""
        return bool(self.found or self.added or self.removed or self.changed)


class _Planned(NamedTuple):
    subject: Subject
    run: Callable[[float], Drift]
    figures: dict[str, float]


def compare_profiles(
    reference: Profile, current: Profile, limits: DriftLimits, *, ignore: Sequence[str] = ()
) -> ProfileDrift:
    """Return how the current profile differs from the reference.

    Args:
        reference: an admitted version's profile, say.
        current: the profile to judge, made with the same spec.
        limits: from which effect on a difference matters.
        ignore: columns that are left out: identifiers and counters, which are never distributed the same.

    Raises:
        UsageError: the specs differ, so that hashes and cells do not mean the same; or an ignored column is in neither.

    Cost: some milliseconds a source and column.
    """
    if not are_comparable(reference.spec, current.spec):
        raise UsageError(
            "The profiles were made with different specs (hash key, label, source or sizes).",
            hint="Make the current one with --like the reference.",
        )
    unknown = sorted(set(ignore) - set(reference.types) - set(current.types))
    if unknown:
        raise UsageError(f"Neither profile has the columns {', '.join(unknown)}, which were to be ignored.")
    both = [name for name in reference.types if current.types.get(name) == reference.types[name] and name not in ignore]
    skipped: list[Subject] = []
    left, right = cells_by_source(reference), cells_by_source(current)
    slices = _slices(left, right)
    tables = _label_tables_of(slices, limits) if reference.spec.label else []
    planned = [
        *_plan_presence(reference, current, left, right),
        *_plan(slices, reference.spec, both, limits, skipped, tables),
    ]
    tokens = [name for name in reference.tokens if name in current.tokens and name in both]
    family = limits.family_alpha / (1 + bool(reference.spec.label) + bool(tokens))
    alpha = drift.share_of_alpha(family, len(planned))
    compared = [Compared(each.subject, each.run(alpha), each.figures) for each in planned]
    if reference.spec.label:
        compared += _compare_labels(reference.spec.label, tables, replace(limits, family_alpha=family))
    for name in tokens:
        compared += _compare_tokens(name, reference, current, replace(limits, family_alpha=family / len(tokens)))
    compared.sort(key=lambda one: (not one.drift.is_drift, -_strength(one.drift), one.subject))
    shared = [name for name in reference.types if name in current.types and name not in ignore]
    return ProfileDrift(
        alpha,
        tuple(compared),
        tuple(name for name in current.types if name not in reference.types and name not in ignore),
        tuple(name for name in reference.types if name not in current.types and name not in ignore),
        tuple(f"{n}: {reference.types[n]} -> {current.types[n]}" for n in shared if n not in both),
        tuple(skipped),
    )


def _compare_tokens(column: str, reference: Profile, current: Profile, limits: DriftLimits) -> list[Compared]:
    found, count = token_drifts(
        reference.tokens[column],
        current.tokens[column],
        (_rows_by_label(reference), _rows_by_label(current)),
        limit=limits.token_label,
        tolerated=limits.tolerated("token_label"),
        family_alpha=limits.family_alpha,
        listed=LISTED_TOKENS,
    )
    return [
        Compared(
            Subject("", column, "tokens", f"token {one.token} label {one.label}"),
            one.drift,
            {
                "reference_share": one.reference_share,
                "current_share": one.current_share,
                "drifting_pairs": float(count),
            },
        )
        for one in found
    ]


def _label_tables_of(slices: _Slices, limits: DriftLimits) -> _Labels:
    """Return the table of labels of each slice, all rows last, and what varies of it by nature."""
    found = [_label_table(source, *sides) for source, *sides in slices]
    tolerated = limits.tolerated("pushed_share")
    # A natural deviation is at most the tolerated share, of labels with half of the rows.
    natural = natural_variance(found[:-1], (2 * tolerated) ** 2) if tolerated else 0.0
    naturals = [natural] * len(found)
    if natural and found:
        weights = [[side.sum() for side in (table.reference, table.current)] for table in found[:-1]]
        # Of all rows it is less: sources vary each for itself.
        naturals[-1] = natural * float(np.max(np.sum(np.square(weights), axis=0) / np.square(np.sum(weights, axis=0))))
    return list(zip(found, naturals, strict=True))


def _compare_labels(label: str, tables: _Labels, limits: DriftLimits) -> list[Compared]:
    found = label_pushes(
        [table for table, _ in tables],
        [natural for _, natural in tables],
        limit=limits.pushed_share,
        tolerated=limits.tolerated("pushed_share"),
        family_alpha=limits.family_alpha,
    )
    return [
        Compared(
            Subject(one.source, label, "label", f"label {one.label}"),
            one.drift,
            {
                "reference_share": one.reference_share,
                "current_share": one.current_share,
                "natural_variance": one.natural,
            },
        )
        for one in found
    ]


def _rows_by_label(profile: Profile) -> dict[str, int]:
    rows: dict[str, int] = {}
    for (_, label), cell in profile.cells.items():
        rows[label] = rows.get(label, 0) + cell.rows
    return rows


def cells_by_source(profile: Profile) -> _BySource:
    """Return (label, cell) of each source, sources and labels sorted."""
    found: _BySource = {}
    for (source, label), cell in sorted(profile.cells.items()):
        found.setdefault(source, []).append((label, cell))
    return found


def _strength(one: Drift) -> float:
    return one.value / max(one.limit, one.null_quantile)


def _plan(
    slices: _Slices,
    spec: ProfileSpec,
    columns: Sequence[str],
    limits: DriftLimits,
    skipped: list[Subject],
    labels: _Labels,
) -> Iterator[_Planned]:
    for at, (source, one, other) in enumerate(slices):
        if labels:  # not by the source's name: rows without one have that of all rows
            subject, (table, natural) = Subject(source, spec.label, "label"), labels[at]
            yield from _plan_categories(
                subject, table.reference, table.current, limits, skipped, natural=natural or 0.0
            )
        sides = [merge_cells([cell for _, cell in pairs], spec) for pairs in (one, other)]
        for column in columns:
            is_label = column == spec.label
            yield from _plan_column(source, column, sides, limits, skipped, is_label=is_label)


def _slices(left: _BySource, right: _BySource) -> _Slices:
    """Return what is compared: each source of both sides where there are more than one, and all rows, last."""
    slices: _Slices = []
    if len(left) > 1 or len(right) > 1:
        slices = [(source, left[source], right[source]) for source in left if source in right]
    one, other = ([pair for pairs in side.values() for pair in pairs] for side in (left, right))
    return [*slices, ("", one, other)] if one and other else slices


def _plan_presence(
    reference: Profile,
    current: Profile,
    left: _BySource,
    right: _BySource,
) -> Iterator[_Planned]:
    for mine, other, of, is_new in (
        (left, right, (reference, current), False),
        (right, left, (current, reference), True),
    ):
        for source in mine:
            if source in other:
                continue
            rows = sum(cell.rows for _, cell in mine[source])
            counts = rows, of[0].rows, of[1].rows
            subject = Subject(source, "", "presence")
            yield _Planned(subject, _chance(drift.unseen_share, *counts, is_new=is_new), {"is_new": float(is_new)})


def _plan_column(
    source: str,
    column: str,
    sides: Sequence[Cell],
    limits: DriftLimits,
    skipped: list[Subject],
    *,
    is_label: bool,
) -> Iterator[_Planned]:
    one, other = (side.columns[column] for side in sides)
    nulls = [_presence_table(part, side.rows) for part, side in zip((one, other), sides, strict=True)]
    yield from _plan_presence_of_values(Subject(source, column, "nulls"), nulls, limits, skipped)
    if is_label:  # its values are names: compared as label given source
        return
    if one.kind in _NUMBERS and one.numbers is not None and other.numbers is not None:
        part = "norms" if one.kind == "embedding" else "values"
        yield from _plan_numbers(Subject(source, column, part), one.numbers, other.numbers, limits, skipped)
    if one.lengths is not None and other.lengths is not None:
        yield from _plan_numbers(Subject(source, column, "lengths"), one.lengths, other.lengths, limits, skipped)
    if one.kind in _CATEGORIES and one.values is not None and other.values is not None:
        is_listed = one.values.is_complete and other.values.is_complete
        if is_listed or one.kind != "int":
            tables = _value_tables(one.values, other.values)
            yield from _plan_categories(Subject(source, column, "categories"), *tables, limits, skipped)
    if one.embedding is not None and other.embedding is not None:
        subject, rows = Subject(source, column, "values"), (one.embedding.rows, other.embedding.rows)
        if drift.can_compare(*rows) and one.embedding.dimension == other.embedding.dimension:
            means = [sketch_embedding.mean_of_features(each) for each in (one.embedding, other.embedding)]
            yield _Planned(subject, _runner(limits, drift.mean_embedding, *means, rows), {})
        else:
            skipped.append(subject)


def _plan_numbers(
    subject: Subject, one: Numbers, other: Numbers, limits: DriftLimits, skipped: list[Subject]
) -> Iterator[_Planned]:
    if not drift.can_compare(one.sums.finite, other.sums.finite):
        skipped.append(subject)
        return
    level = max(one.quantiles.level, other.quantiles.level)
    sides = [at_level(each.quantiles, level) for each in (one, other)]
    union, counts = drift.pooled_intervals([(side.keys, side.counts) for side in sides])
    spreads = _spread(one.sums), _spread(other.sums)
    figures = {
        "reference_mean": spreads[0].mean,
        "current_mean": spreads[1].mean,
        "reference_deviation": _finite(deviation_of(_without_infinities(one.sums))),
        "current_deviation": _finite(deviation_of(_without_infinities(other.sums))),
    }
    ends = intervals(level, union)
    yield _Planned(subject, _runner(limits, drift.wasserstein, ends, *counts, spreads), figures)
    yield _Planned(subject, _runner(limits, drift.kolmogorov_smirnov, *counts), figures)


def _plan_categories(
    subject: Subject,
    left: np.ndarray,
    right: np.ndarray,
    limits: DriftLimits,
    skipped: list[Subject],
    **options: float,
) -> Iterator[_Planned]:
    if not drift.can_compare(int(left.sum()), int(right.sum())):
        skipped.append(subject)
        return
    figures = {
        "categories": float(len(left)),
        "psi": drift.population_stability(left, right),
        "jensen_shannon": drift.jensen_shannon(left, right),
    }
    yield _Planned(subject, _runner(limits, drift.cramers_v, left, right, **options), figures)
    yield _Planned(subject, _runner(limits, drift.total_variation, left, right, **options), figures)


def _plan_presence_of_values(
    subject: Subject, tables: Sequence[np.ndarray], limits: DriftLimits, skipped: list[Subject]
) -> Iterator[_Planned]:
    left, right = tables
    if not drift.can_compare(int(left.sum()), int(right.sum())):
        skipped.append(subject)
        return
    figures = {"reference_share": float(left[0] / left.sum()), "current_share": float(right[0] / right.sum())}
    yield _Planned(subject, _runner(limits, drift.total_variation, left, right), figures)


def _chance(measure: Callable[..., Drift], *arguments: Any, **options: Any) -> Callable[[float], Drift]:
    return lambda alpha: measure(*arguments, **options, alpha=alpha)


def _runner(
    limits: DriftLimits, measure: Callable[..., Drift], *arguments: Any, **options: Any
) -> Callable[[float], Drift]:
    name = cast(Measure, measure.__name__)  # each measure is named as its function
    return _chance(measure, *arguments, limit=getattr(limits, name), tolerated=limits.tolerated(name), **options)


def _presence_table(column: ColumnProfile, rows: int) -> np.ndarray:
    """Return how many values are null, infinite above, infinite below, and anything else."""
    plus = minus = 0
    if column.numbers is not None:
        plus, minus = column.numbers.sums.plus_infinities, column.numbers.sums.minus_infinities
    return np.array([column.nulls, plus, minus, rows - column.nulls - plus - minus], dtype=np.int64)


def _label_table(source: str, one: _Pairs, other: _Pairs) -> LabelTable:
    labels = {label: at for at, label in enumerate(sorted({label for label, _ in [*one, *other]}))}
    tables = np.zeros((2, len(labels)), dtype=np.int64)
    for table, side in zip(tables, (one, other), strict=True):
        for label, cell in side:
            table[labels[label]] += cell.rows
    return LabelTable(source, tuple(labels), tables[0], tables[1])


def _value_tables(one: Values, other: Values) -> tuple[np.ndarray, np.ndarray]:
    if not (one.is_complete and other.is_complete):
        size = min(len(each.buckets) for each in (one, other) if not each.is_complete)
        return buckets_of(one, size), buckets_of(other, size)
    _, counts = drift.pooled_intervals([(one.hashes, one.counts), (other.hashes, other.counts)])
    return counts[0], counts[1]


def _without_infinities(sums: Sums) -> Sums:
    return sums._replace(plus_infinities=0, minus_infinities=0)


def _spread(sums: Sums) -> Spread:
    finite = _without_infinities(sums)
    # The divisor is n, not n - 1: of one row the variance is 0.
    deviation = deviation_of(finite) if finite.finite > 1 else 0.0
    return Spread(_finite(mean_of(finite)), _finite(deviation) ** 2 * (finite.finite - 1) / max(1, finite.finite))


def _finite(value: float) -> float:
    """Return a value that JSON can hold and whose square is finite."""
    return float(np.clip(np.nan_to_num(value), -1e140, 1e140))
