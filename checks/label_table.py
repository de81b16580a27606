"""The class thresholds of given probabilities whose classes nobody named, in the very read that finds the classes.

Which column of pred_probs a label means is known once all labels are: they are put in order, or each is the number of
its column (`millcert.checks.class_columns`). Until then a label's sums are kept for each column that it may still mean:
one with b known labels before it and a after it stands at place b at least and at width - 1 - a at most. Every label
that is met leaves fewer; where as many are known as there are columns, one is left.

Rules this module keeps:
  1. The column that a label turns out to mean is among those that are kept, however the samples were split.
  2. Sums are exact, so thresholds are to the last bit those of named classes.
"""

import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millcert.checks.class_columns import classes_of, in_order, is_number
from millcert.checks.exact import ExactSum
from millcert.errors import InternalError, InvalidSampleError

#: What the groups of an accumulator begin with.
PREFIX = "labels:"
#: With more columns, each label must be the number of its column, or classes must be named.
MAX_FOUND = 2000
#: Sums of one group where nothing is known of other labels: with two places for each column, 4 MB.
_SUMS_OF_A_PART = 2**16
#: So many rows and columns of one label are added as a table, fewer number by number; so many numbers at a time.
_MANY, _NUMBERS = 16, 2**17


@dataclass(frozen=True, eq=False)
class LabelTable:
    """The sums of some labels; immutable, picklable, mergeable in any order.

    width: of pred_probs.
    labels: ascending, m of them.
    samples: int64 (m,).
    cell: int64 (c,), ascending: place of a label x width + a column that it may mean.
    confidence: of width c, the sums of p(column) over the label's samples.

    Size: 8 x (D + 1) bytes a cell, D as in `ExactSum`. One accumulator knows its labels, so its tables have width^2 / 2
    cells at most, and `width` once all are met; tables of many that know one label each have 2 x width^2, merged.
    """

    width: int
    labels: tuple[str, ...]
    samples: np.ndarray
    cell: np.ndarray
    confidence: ExactSum

    def merge(self, others: Iterable["LabelTable"]) -> "LabelTable":
        """Return the table of the samples of this and the others: a label may mean what it may in all that have it.

        Raises:
            InvalidSampleError: pred_probs has different widths.
        """
        parts = [self, *others]
        _one_width(parts)
        if len(parts) == 1:
            return self
        labels = tuple(sorted({label for part in parts for label in part.labels}))
        place = {label: at for at, label in enumerate(labels)}
        places = [np.array([place[label] for label in part.labels], dtype=np.int64) for part in parts]
        cells = [
            own[part.cell // self.width] * self.width + part.cell % self.width
            for part, own in zip(parts, places, strict=True)
        ]
        cell, times = np.unique(np.concatenate(cells), return_counts=True)
        wanted = np.bincount(np.concatenate(places), minlength=len(labels))
        cell = cell[times == wanted[cell // self.width]]
        samples, sums = np.zeros(len(labels), dtype=np.int64), list[ExactSum]()
        for part, own, known in zip(parts, places, cells, strict=True):
            samples[own] += part.samples
            kept = np.flatnonzero(np.isin(known, cell, assume_unique=True))
            place_of = np.searchsorted(cell, known[kept])
            sums.append(part.confidence.spread(place_of, len(cell), chosen=kept))
        confidence = ExactSum.zero(len(cell)).merge(sums)
        return LabelTable(self.width, labels, samples, cell, confidence)


def add_labels(acc: Mapping[str, object], label: pa.StringArray, pred_probs: np.ndarray) -> dict[str, LabelTable]:
    """Return the tables of a batch, by group.

    Args:
        acc: of the samples so far: its labels leave those of the batch fewer columns.
        label: (n,).
        pred_probs: float64 (n, K).

    Cost: as of named classes once all labels are known; before, about 20 ns for each number of wide rows.

    Raises:
        InvalidSampleError: more labels than columns, or more than 2,000 columns and a label that is none's number.
    """
    width = pred_probs.shape[1]
    if not len(label):
        return {}
    encoded = label.dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
    known = {name for part in acc.values() if isinstance(part, LabelTable) for name in part.labels}
    possible = _columns_of(names, known | set(names), width)
    order = np.argsort(codes, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
    blocks: dict[int, list[int]] = {}
    number = max(1, -(-width * width // _SUMS_OF_A_PART)) if width <= MAX_FOUND else 1
    for code in sorted(range(len(names)), key=names.__getitem__):
        blocks.setdefault(zlib.crc32(names[code].encode()) % number, []).append(code)
    return {
        f"{PREFIX}{block}": _table_of(
            [names[at] for at in own], [rows[at] for at in own], [possible[at] for at in own], pred_probs
        )
        for block, own in blocks.items()
    }


def named_sums(acc: Mapping[str, object]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return the classes, their samples, int64 (K,), and the sums of p(class) over these, float64 (K,).

    Args:
        acc: of all samples, with at least one table.

    Raises:
        InvalidSampleError: the labels name no columns, or pred_probs has different widths.
    """
    tables = [part for part in acc.values() if isinstance(part, LabelTable)]
    width = _one_width(tables)
    classes = classes_of([label for table in tables for label in table.labels], width)
    place = {label: at for at, label in enumerate(classes)}
    samples, sums = np.zeros(width, dtype=np.int64), np.zeros(width)
    for table in tables:
        column = np.array([place[label] for label in table.labels], dtype=np.int64)
        wanted = np.arange(len(column)) * width + column
        found = np.minimum(np.searchsorted(table.cell, wanted), len(table.cell) - 1)
        if not len(table.cell) or (table.cell[found] != wanted).any():
            raise InternalError("A label means a column that none of its sums was kept for.")
        samples[column], sums[column] = table.samples, table.confidence.chosen(found).value()
    return classes, samples, sums


def _columns_of(names: Collection[str], known: Collection[str], width: int) -> list[np.ndarray]:
    """Return the columns that each of some labels may mean where these labels are known, int64, ascending."""
    left = width - len(known)
    if left < 0:
        classes_of(known, width)  # refuses them
    if width > MAX_FOUND:
        return [np.array([_own_column(name, width)]) for name in names]
    by_text, by_number = sorted(known), in_order(known)
    are_numbers = all(map(is_number, known))
    place = {label: at for at, label in enumerate(by_number)}
    found = []
    for name in names:
        may_be = np.arange(place[name], place[name] + left + 1)
        if are_numbers and left:
            text = bisect_left(by_text, name)
            own = [int(name)] if 0 <= int(name) < width else []
            may_be = np.unique(
                np.concatenate([may_be, np.arange(text, text + left + 1), np.array(own, dtype=np.int64)])
            )
        found.append(may_be)
    return found


def _own_column(name: str, width: int) -> int:
    if not (is_number(name) and 0 <= int(name) < width):
        raise InvalidSampleError(
            f"pred_probs has {width} columns, and label {name[:100]!r} is none's number, 0 to {width - 1}. "
            f"Which column a label means is found out for {MAX_FOUND} columns at most.",
            hint="Give `classes` in the order of the columns.",
            column="label",
        )
    return int(name)


def _table_of(
    names: list[str], rows: list[np.ndarray], possible: list[np.ndarray], pred_probs: np.ndarray
) -> LabelTable:
    """Return the table of labels, ascending, with their rows and columns."""
    width, starts = pred_probs.shape[1], np.cumsum([0, *map(len, possible)])
    cells = int(starts[-1])
    is_dense = [min(len(own), len(may_be)) >= _MANY for own, may_be in zip(rows, possible, strict=True)]
    single = [at for at, dense in enumerate(is_dense) if not dense]
    confidence = _sums_one_by_one(single, starts, rows, np.concatenate(possible), pred_probs)
    whole = [at for at, dense in enumerate(is_dense) if dense]
    if whole:
        sums = [ExactSum.zero(len(possible[at])).add(pred_probs[np.ix_(rows[at], possible[at])]) for at in whole]
        places = np.concatenate([np.arange(starts[at], starts[at + 1]) for at in whole])
        confidence = confidence.merge([ExactSum.stacked(sums).spread(places, cells)])
    samples = np.array([len(own) for own in rows], dtype=np.int64)
    cell = np.repeat(np.arange(len(names)), np.diff(starts)) * width + np.concatenate(possible)
    return LabelTable(width, tuple(names), samples, cell, confidence)


def _sums_one_by_one(
    labels: list[int], starts: np.ndarray, rows: list[np.ndarray], columns: np.ndarray, pred_probs: np.ndarray
) -> ExactSum:
    """Return the sums of some labels, of all cells: those of a label are from `starts`, and of these columns."""
    total = ExactSum.zero(int(starts[-1]))
    if not labels:
        return total
    row = np.concatenate([rows[at] for at in labels])
    label = np.repeat(np.array(labels, dtype=np.int64), [len(rows[at]) for at in labels])
    number = starts[label + 1] - starts[label]
    part = np.cumsum(number) // _NUMBERS
    for index in np.unique(part).tolist():
        own = np.flatnonzero(part == index)
        many = number[own]
        first = np.cumsum(many) - many
        cell = np.repeat(starts[label[own]] - first, many) + np.arange(int(many.sum()))
        total = total.add_at(cell, pred_probs[np.repeat(row[own], many), columns[cell]])
    return total


def _one_width(parts: Iterable[LabelTable]) -> int:
    found = sorted({part.width for part in parts})
    if len(found) > 1:
        raise InvalidSampleError(
            f"pred_probs has {', '.join(map(str, found))} columns in different batches; expected one width.",
            hint="Rows of one data set must be of one model: make them again for the rows that differ.",
            column="pred_probs",
        )
    return found[0]
