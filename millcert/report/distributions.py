"""How each column is distributed, beside the reference: small histograms for all rows and for each source."""

import re
from collections.abc import Sequence

import numpy as np

from millcert.checks.drift import pooled_intervals
from millcert.checks.profile import Cell, ColumnProfile, Numbers, Profile, merge_cells
from millcert.checks.profile_compare import cells_by_source
from millcert.checks.sketch_quantiles import Quantiles, at_level, intervals, merge_quantiles
from millcert.report.model import Distribution, DistributionPanel

#: Bars of a histogram, our choice: what 160 pixels can show.
BARS = 24
#: Columns and sources that are drawn; drifting columns first, then larger sources.
MAX_COLUMNS = 24
MAX_SOURCES = 12
MAX_CATEGORIES = 16

#: The unit of a column of dates or times, by its Arrow type as text.
_TIME = re.compile(r"(?:timestamp|date32)\[(s|ms|us|ns|day)")
_UNITS = {"s": "s", "ms": "ms", "us": "us", "ns": "ns", "day": "D"}


def distributions_of(current: Profile, reference: Profile | None, first: Sequence[str] = ()) -> list[Distribution]:
    """Return what is drawn.

    Args:
        current: the run's profile.
        reference: of the same spec; None where there is none.
        first: columns that are drawn before the others.
    """
    label = current.spec.label
    columns = [name for name in dict.fromkeys([*first, *current.types]) if name in current.types]
    sources = cells_by_source(current)
    before = {} if reference is None else cells_by_source(reference)
    shown = sorted(sources, key=lambda name: (-sum(cell.rows for _, cell in sources[name]), name))[:MAX_SOURCES]
    groups = [("", [pair for one in sources.values() for pair in one], [p for one in before.values() for p in one])]
    if len(sources) > 1:
        groups += [(name, sources[name], before.get(name, [])) for name in shown]
    drawn = []
    for column in columns[:MAX_COLUMNS]:
        if column == label:
            drawn.append(_labels(column, groups))
            continue
        sides = [
            (name, _column(mine, column, current), None if reference is None else _column(theirs, column, reference))
            for name, mine, theirs in groups
        ]
        found = _distribution(column, sides, current.spec.quantile_buckets, current.types[column])
        drawn += [] if found is None else [found]
    return drawn


def _column(pairs: Sequence[tuple[str, Cell]], column: str, profile: Profile) -> ColumnProfile | None:
    # The others' columns are not merged: that costs by cell and column.
    cells = [Cell(cell.rows, {column: cell.columns[column]}) for _, cell in pairs if column in cell.columns]
    return merge_cells(cells, profile.spec).columns[column] if cells else None


def _labels(column: str, groups: Sequence[tuple[str, list[tuple[str, Cell]], list[tuple[str, Cell]]]]) -> Distribution:
    totals: dict[str, int] = {}
    for label, cell in [*groups[0][1], *groups[0][2]]:
        totals[label] = totals.get(label, 0) + cell.rows
    names = sorted(totals, key=lambda name: (-totals[name], name))[:MAX_CATEGORIES]
    panels = [
        DistributionPanel(source, _label_shares(theirs, names), _label_shares(mine, names))
        for source, mine, theirs in groups
    ]
    return Distribution(column, "class", tuple(name or "none" for name in names), tuple(panels))


def _label_shares(pairs: Sequence[tuple[str, Cell]], names: Sequence[str]) -> tuple[float, ...]:
    rows = sum(cell.rows for _, cell in pairs)
    return tuple(sum(cell.rows for label, cell in pairs if label == name) / rows for name in names) if rows else ()


def _distribution(
    column: str, sides: Sequence[tuple[str, ColumnProfile | None, ColumnProfile | None]], buckets: int, data_type: str
) -> Distribution | None:
    parts = [part for _, *both in sides[:1] for part in both if part is not None]
    listed = [part.values for part in parts if part.values is not None and part.values.is_complete]
    if parts and len(listed) == len(parts) and all(values.texts for values in listed):
        return _categories(column, sides)
    for kind in ("numbers", "lengths"):
        found = [getattr(part, kind) for part in parts]
        whole = [one.quantiles for one in found if one is not None and len(one.quantiles.keys)]
        if whole:
            edges = _edges(merge_quantiles(whole, buckets))
            panels = [
                DistributionPanel(name, _bars(_of(theirs, kind), edges), _bars(_of(mine, kind), edges))
                for name, mine, theirs in sides
            ]
            what = "lengths" if kind == "lengths" else "values"
            unit = _TIME.match(data_type) if kind == "numbers" else None
            names = (_instant(edge, unit[1]) if unit else f"{edge:.4g}" for edge in edges.tolist())
            return Distribution(column, what, tuple(names), tuple(panels))
    return None


def _instant(ticks: float, unit: str) -> str:
    """Return a date or time as ISO 8601; its number where no calendar has it."""
    try:
        moments = np.array([int(ticks)], dtype=np.int64).view(f"datetime64[{_UNITS[unit]}]")
        days = moments.astype("datetime64[D]")
    except (OverflowError, ValueError):
        return f"{ticks:.4g}"
    return str(days[0] if days[0] == moments[0] else moments.astype("datetime64[s]")[0])


def _of(part: ColumnProfile | None, kind: str) -> Numbers | None:
    found: Numbers | None = None if part is None else getattr(part, kind)
    return found


def _edges(whole: Quantiles) -> np.ndarray:
    """Return BARS + 1 even edges between the 1st and 99th percentile; the outer bars take what lies beyond."""
    heights = np.cumsum(whole.counts) / whole.counts.sum()
    low, high = (int(np.searchsorted(heights, part)) for part in (0.01, 0.99))
    ends = intervals(whole.level, whole.keys)
    first, last = float(ends[low, 0]), float(ends[min(high, len(ends) - 1), 1])
    # Halves, so that the width of the range cannot overflow.
    return np.asarray((first / 2 + (last / 2 - first / 2) * np.linspace(0, 1, BARS + 1)) * 2)


def _bars(numbers: Numbers | None, edges: np.ndarray) -> tuple[float, ...]:
    """Return the share of each bar; a bucket of the sketch counts where its middle is."""
    if numbers is None or not len(numbers.quantiles.keys):
        return ()
    sketch = at_level(numbers.quantiles, numbers.quantiles.level)
    ends = intervals(sketch.level, sketch.keys)
    middle = ends[:, 0] / 2 + ends[:, 1] / 2
    places = np.clip(np.searchsorted(edges, middle, side="right") - 1, 0, BARS - 1)
    counts = np.bincount(places, weights=sketch.counts.astype(np.float64), minlength=BARS)
    return tuple((counts / counts.sum()).tolist())


def _categories(
    column: str, sides: Sequence[tuple[str, ColumnProfile | None, ColumnProfile | None]]
) -> Distribution | None:
    both = [part.values for part in sides[0][1:] if part is not None and part.values is not None]
    union, counts = pooled_intervals([(one.hashes, one.counts) for one in both])
    texts = {key: text for one in both for key, text in zip(one.hashes.tolist(), one.texts, strict=True)}
    order = np.lexsort((union, -np.sum(counts, axis=0)))[:MAX_CATEGORIES]
    chosen = union[order]
    panels = [DistributionPanel(name, _shares(theirs, chosen), _shares(mine, chosen)) for name, mine, theirs in sides]
    names = tuple(texts[key] or "(not kept)" for key in chosen.tolist())
    return Distribution(column, "categories", names, tuple(panels))


def _shares(part: ColumnProfile | None, chosen: np.ndarray) -> tuple[float, ...]:
    if part is None or part.values is None or not part.values.counts.sum():
        return ()
    counts = dict(zip(part.values.hashes.tolist(), part.values.counts.tolist(), strict=True))
    total = int(part.values.counts.sum())
    return tuple(counts.get(key, 0) / total for key in chosen.tolist())
