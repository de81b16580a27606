"""Fixed triggers without any model: the same exact patch or value in many samples of one class of one source.

1. Pass 1 counts all keys (`millcert.checks.exact_features`; of images patches, and single pixels in a table of their
   own) in 4,194,304 cells by their hash. A cell's count is at least that of each of its keys, so no frequent key is
   missed.
2. Pass 2 counts the keys in the fullest cells exactly, by source and class, under a hash that depends on all samples'
   digests: nobody can make a trigger that is counted as something common.
3. A key is evidence where it is more frequent in one source's samples of a class than two nulls allow, both
   hypergeometric and exact, family-wise corrected:
     a. the class: its samples with the key fall to the sources at random;
     b. the source: its samples with the key fall to the classes at random.
   What a source does in all of its classes (a watermark, a border) meets b; what all sources do in a class (ink, sky,
   a category) meets a. A trigger that one source brings to one class meets neither.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import MAX_TOP_FEATURES, Accumulator, GroupEvidence, Role, Scores, Severity, merge_groups
from millcert.checks.cell_names import cell_name, rows_by_cell
from millcert.checks.columns import digests, features, strings
from millcert.checks.exact_features import (
    CONTENT_BITS,
    MAX_POSITIONS,
    columns_at,
    digest_sums,
    patch_corner,
    patch_keys,
    positions_of,
    salt_of,
    value_keys,
)
from millcert.checks.flagging import Counts
from millcert.checks.key_cells import KeyCells, cell_of, cells_by_part, fullest_cells
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, PolicyError

#: Keys below this count are not looked at: no test of so few could pass.
LEAST_COUNT = 5
_MAX_SCORE = 300.0
#: Kinds of keys, each with a table and candidates of its own, so that the common ones of one crowd out no other's.
_TABLES = ("keys", "pixels")


class _Cell(NamedTuple):
    """Pass 2, of one source's samples of a class: how many there are, and how many of them have each key."""

    source: str
    label: str
    samples: int
    keys: Counts


@dataclass(frozen=True, eq=False)
class _Found:
    """The keys that are evidence in one cell: uint64 ascending, their scores, and what the evidence reports."""

    keys: np.ndarray
    scores: np.ndarray
    estimate: float
    low: float
    high: float
    p_value: float
    statistic: tuple[tuple[str, float], ...]
    top_features: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class TriggerMiningModel:
    """The model after pass `stage`.

    width: numbers a sample.
    cells: the fullest cells of keys of each table, int64 ascending. searched_from: every key at least so frequent is in
    one of them.
    salt: of the keys that are counted exactly.
    samples: (source, class) -> how many. found: (source, class) -> its evidence.
    """

    stage: int
    width: int
    cells: Mapping[str, np.ndarray]
    searched_from: int
    samples: Mapping[tuple[str, str], int]
    found: Mapping[tuple[str, str], _Found]
    salt: bytes = b""


@dataclass(frozen=True)
class TriggerMining:
    """Flag samples that share an exact patch or value which one source brings to one class and to no other.

    Needs: label, source, features (float64, d): raw pixels or table values, not an embedding; sample_digest.
    Passes: 2, and scoring.
    Score: -log10 of the corrected p-value of the sample's most surprising key, at most 300; 0 where it has none.
    Accumulator: pass 1 at most 128 MiB in 32 records (64 of a table); pass 2 16 bytes a candidate key and cell, twice
        max_candidates keys or so.
    Finds: a fixed patch or single pixels at a fixed position, a fixed value or pair of values, with a wrong or the
        right label, where it comes in by few of the sources; from about 8 samples on, 15 where there are two classes.
    Does not find: triggers that blend, move, or pass a lossy codec after stamping; a trigger spread evenly over sources
        or over all classes of one; anything in data of one source or one class.
    Source: heavy hitters by a count sketch with exact recount: Cormode, Muthukrishnan, J. Algorithms 55 (2005), whose
        table has more rows; one is enough before a recount.

    shape: height, width and, for colour, channels of an image; empty for a table. A policy that says how the column of
        `features` is drawn (dataset.images) has said it.
    patch: side of a patch in pixels, in [2, 8]. Not used for a table.
    false_alarm_rate: the chance that any honest cell is called suspicious, in (0, 0.1].
    max_candidates: cells of keys of a kind that are counted exactly, in [16, 65536].
    """

    name: ClassVar[str] = "trigger_mining"
    version: ClassVar[str] = "2"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "source", "features", "sample_digest"})
    severity: ClassVar[Severity] = "reject"
    covers: ClassVar[frozenset[str]] = frozenset({"trigger_in_one_source"})
    reason: ClassVar[str] = "trigger_mining.exact_feature_of_one_cell"

    shape: tuple[int, ...] = ()
    patch: int = 3
    false_alarm_rate: float = 0.001
    max_candidates: int = 16384

    def __post_init__(self) -> None:
        if self.shape and (len(self.shape) not in (2, 3) or min(self.shape) < 1):
            raise PolicyError(f"shape must be height, width and perhaps channels, got {list(self.shape)}.")
        if not 2 <= self.patch <= 8:
            raise PolicyError(f"patch must be in [2, 8], got {self.patch}.")
        if self.shape and min(self.shape[:2]) < self.patch:
            raise PolicyError(f"patch is {self.patch}, larger than an image of shape {list(self.shape)}.")
        if not 0 < self.false_alarm_rate <= 0.1:
            raise PolicyError(f"false_alarm_rate must be in (0, 0.1], got {self.false_alarm_rate}.")
        if not 16 <= self.max_candidates <= 65536:
            raise PolicyError(f"max_candidates must be in [16, 65536], got {self.max_candidates}.")

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 2

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: TriggerMiningModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        sources, labels = strings(batch, "source"), strings(batch, "label")
        rows, sample_digests = features(batch), digests(batch)
        if not len(rows):
            return dict(acc)
        parts: dict[str, Any] = {}
        if model is None:
            keys = self._keys(rows, None)
            width = Counts(np.array([rows.shape[1]]), np.array([len(rows)]))
            sums = Counts(np.arange(8), digest_sums(sample_digests))
            parts = {"width": width, "digests": sums}
            for table, one in keys.items():
                parts |= cells_by_part(one, table)
        else:
            tables = self._keys(rows, model)
            salted = np.concatenate([*self._keys(rows, model, model.salt).values()], axis=1)
            is_candidate = np.concatenate(
                [np.isin(cell_of(one), model.cells[table]) for table, one in tables.items()], axis=1
            )
            for source, label, places in rows_by_cell(sources, labels):
                chosen = salted[places][is_candidate[places]].astype(np.int64)
                parts[f"cell {cell_name(source, label)}"] = _Cell(source, label, len(places), Counts.zero().add(chosen))
        return self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, _merged)

    def fit(self, acc: Accumulator, model: TriggerMiningModel | None) -> TriggerMiningModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: there are no samples.
            InvalidSampleError: samples of several widths.
        """
        if model is None:
            if "width" not in acc:
                raise NotEnoughSamplesError("There are no samples.")
            width = _one_width(acc["width"].keys)
            counted: dict[str, list[tuple[int, KeyCells]]] = {table: [] for table in _TABLES}
            for name, part in acc.items():
                if isinstance(part, KeyCells):
                    counted[name.split()[0]].append((int(name.split()[1]), part))
            fullest = {table: fullest_cells(one, LEAST_COUNT, self.max_candidates) for table, one in counted.items()}
            cells = {table: np.sort(one[0]) for table, one in fullest.items()}
            searched_from = max(one[2] for one in fullest.values())
            salt = salt_of(acc["digests"].counts)
            return TriggerMiningModel(1, width, cells, searched_from, {}, {}, salt)
        parts = {(part.source, part.label): part for part in acc.values()}
        found = _bursts(parts, self.false_alarm_rate)
        samples = {cell: part.samples for cell, part in parts.items()}
        described = {cell: self._described(one, model.searched_from, model.width) for cell, one in found.items()}
        return replace(model, stage=2, samples=samples, found=described)

    def score(self, model: TriggerMiningModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch."""
        sources, labels = strings(batch, "source"), strings(batch, "label")
        rows = features(batch)
        digests(batch)  # refuses a batch that lacks them, as `add` does
        score, threshold = np.zeros(len(rows)), np.full(len(rows), np.inf)
        names = np.full(len(rows), "", dtype=object)
        for source, label, places in rows_by_cell(sources, labels):
            names[places] = cell_name(source, label)
            found = model.found.get((source, label))
            if found is not None:
                keys = np.concatenate([*self._keys(rows[places], model, model.salt).values()], axis=1)
                place = np.minimum(np.searchsorted(found.keys, keys), len(found.keys) - 1)
                score[places] = np.where(found.keys[place] == keys, found.scores[place], 0.0).max(axis=1)
                threshold[places] = 0.0
        if len(rows):
            _one_width(np.array([rows.shape[1], model.width]))
        return Scores(score, threshold, score > threshold, pa.array(names.tolist(), pa.string()), self.reason)

    def evidence(self, model: TriggerMiningModel) -> tuple[GroupEvidence, ...]:
        """Return each cell's keys.

        `statistic`: tested (0 where there is no other source with this class, or no other class in this source); keys
        (how many are evidence); of the most surprising one: samples_with_it, expected, and its row
        and column (images) or position (tables); searched_from: keys less frequent in all data were not looked at.
        `top_features`: where the most surprising keys are, with their scores.
        """
        found = []
        of_class = Counter(label for _, label in model.samples)
        of_source = Counter(source for source, _ in model.samples)
        for (source, label), samples in model.samples.items():
            one = model.found.get((source, label))
            figures = dict(one.statistic) if one else {"keys": 0.0, "searched_from": float(model.searched_from)}
            figures["tested"] = float(of_class[label] > 1 and of_source[source] > 1)
            estimate, low, high = (one.estimate, one.low, one.high) if one else (0.0, 0.0, 0.0)
            p_value = one.p_value if one else 1.0
            name = cell_name(source, label)
            top = one.top_features if one else ()
            found.append(
                GroupEvidence(name, label, source, samples, figures, one is not None, estimate, low, high, p_value, top)
            )
        return tuple(sorted(found, key=lambda item: item.group))

    def notices(self, model: TriggerMiningModel) -> tuple[str, ...]:
        """Return what was not looked at: features so common by nature that rarer ones found no room."""
        if model.searched_from <= LEAST_COUNT:
            return ()
        return (f"patches and values in fewer than {model.searched_from} samples were not looked at",)

    def _keys(self, rows: np.ndarray, model: TriggerMiningModel | None, salt: bytes = b"") -> dict[str, np.ndarray]:
        """Return the keys of each table: patches or values; of images small enough single pixels, too."""
        if model is not None:
            _one_width(np.array([rows.shape[1], model.width]))
        if not self.shape:
            return {"keys": value_keys(rows, salt)}
        found = {"keys": patch_keys(rows, self.shape, self.patch, salt)}
        patches = found["keys"].shape[1]
        if patches + self.shape[0] * self.shape[1] <= MAX_POSITIONS:
            found["pixels"] = patch_keys(rows, self.shape, 1, salt) + (np.uint64(patches) << np.uint64(CONTENT_BITS))
        return found

    def _corner(self, position: int) -> tuple[str, int, int]:
        """Return what is at a position of an image, and its row and column."""
        patches = (self.shape[0] - self.patch + 1) * (self.shape[1] - self.patch + 1)
        if position >= patches:
            return "pixel", *patch_corner(position - patches, self.shape, 1)
        return "patch", *patch_corner(position, self.shape, self.patch)

    def _described(self, found: _Found, searched_from: int, width: int) -> _Found:
        order = np.lexsort((found.keys, -found.scores))
        position = int(positions_of(found.keys[order[:1]])[0])
        top: dict[str, float] = {}
        for place in order.tolist():
            name = self._place_name(int(positions_of(found.keys[[place]])[0]), width)
            top.setdefault(name, float(found.scores[place]))
            if len(top) == MAX_TOP_FEATURES:
                break
        where: tuple[tuple[str, float], ...] = (("position", float(position)),)
        if self.shape:
            _, row, column = self._corner(position)
            where = (("row", float(row)), ("column", float(column)))
        statistic = (*found.statistic, *where, ("searched_from", float(searched_from)))
        return replace(found, statistic=statistic, top_features=tuple(top.items()))

    def _place_name(self, position: int, width: int) -> str:
        if self.shape:
            what, row, column = self._corner(position)
            return f"{what} at row {row}, column {column}"
        return f"value {' with '.join(map(str, columns_at(position, width)))}"


def _bursts(cells: Mapping[tuple[str, str], _Cell], false_alarm_rate: float) -> dict[tuple[str, str], _Found]:
    """Return the keys that are more frequent in a cell than its class and its source explain.

    The class's null is corrected for all keys and cells, the source's for those that the class does not explain.
    """
    of_class, of_source = _margins(cells, 1), _margins(cells, 0)
    tests = len(Counts.zero().merge(part.keys for part in cells.values()).keys) * len(cells)
    often = {cell: part._replace(keys=_often(part.keys)) for cell, part in sorted(cells.items())}
    unlikely: dict[tuple[str, str], tuple[_Cell, np.ndarray]] = {}
    for cell, part in often.items():
        p_values = np.minimum(1.0, _tail(part, *of_class[cell[1]]) * tests)
        chosen = p_values <= false_alarm_rate
        kept = Counts(part.keys.keys[chosen], part.keys.counts[chosen])
        unlikely[cell] = (part._replace(keys=kept), p_values[chosen])
    left = sum(len(p_values) for _, p_values in unlikely.values())
    found: dict[tuple[str, str], _Found] = {}
    for cell, (part, by_class) in unlikely.items():
        p_values = np.maximum(by_class, np.minimum(1.0, _tail(part, *of_source[cell[0]]) * left))
        chosen = p_values <= false_alarm_rate
        if chosen.any():
            kept = Counts(part.keys.keys[chosen], part.keys.counts[chosen])
            found[cell] = _found(part._replace(keys=kept), p_values[chosen], *of_class[cell[1]])
    return found


def _often(keys: Counts) -> Counts:
    chosen = keys.counts >= LEAST_COUNT
    return Counts(keys.keys[chosen], keys.counts[chosen])


def _tail(cell: _Cell, samples: int, having: Counts) -> np.ndarray:
    """Return the chance that a random part of `samples`, as large as the cell, has each key as often as the cell."""
    from scipy.stats import hypergeom

    with_key = having.counts[np.searchsorted(having.keys, cell.keys.keys)]
    tail: np.ndarray = hypergeom.sf(cell.keys.counts - 1, samples, with_key, cell.samples)
    return tail


def _found(cell: _Cell, p_values: np.ndarray, samples: int, having: Counts) -> _Found:
    """Return the evidence of a cell; `samples` and `having` are its class's."""
    from scipy.stats import binomtest

    keys, count = cell.keys.keys, cell.keys.counts
    score = np.minimum(_MAX_SCORE, -np.log10(np.maximum(p_values, 10.0**-_MAX_SCORE)))
    order = np.argsort(keys.astype(np.uint64))
    top = int(np.lexsort((keys, -count, p_values))[0])
    often = int(count[top])
    elsewhere = int(having.counts[np.searchsorted(having.keys, keys[top])]) - often
    rest = samples - cell.samples
    interval = binomtest(elsewhere, rest).proportion_ci(method="wilson")
    expected = cell.samples * elsewhere / rest
    return _Found(
        keys.astype(np.uint64)[order],
        score[order],
        often - expected,
        max(0.0, often - cell.samples * float(interval.high)),
        float(min(cell.samples, int(count.sum()))),
        float(p_values[top]),
        (("keys", float(len(keys))), ("samples_with_it", float(often)), ("expected", expected)),
    )


def _margins(cells: Mapping[tuple[str, str], _Cell], axis: int) -> dict[str, tuple[int, Counts]]:
    """Return samples and key counts of each source (axis 0) or class (axis 1)."""
    gathered: dict[str, list[_Cell]] = {}
    for cell, part in cells.items():
        gathered.setdefault(cell[axis], []).append(part)
    return {
        name: (sum(part.samples for part in parts), Counts.zero().merge(part.keys for part in parts))
        for name, parts in gathered.items()
    }


def _one_width(widths: np.ndarray) -> int:
    found = np.unique(widths).tolist()
    if len(found) > 1:
        raise InvalidSampleError(f"Samples have {found} features; expected one width.", column="features")
    return int(found[0])


def _merged(parts: list[Any]) -> Any:
    first, *others = parts
    if isinstance(first, (Counts, KeyCells)):
        return first.merge(others)
    samples = sum(part.samples for part in parts)
    return first._replace(samples=samples, keys=first.keys.merge(part.keys for part in others))


CHECK = TriggerMining
