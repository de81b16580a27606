"""Shortcuts: an exact patch at one place of the picture that betrays the class, whatever source it comes by.

A logo, a scanner's mark or a trigger that is spread over all sources: a model learns it and not what is to be learnt
(Geirhos et al., "Shortcut learning in deep neural networks", Nature Machine Intelligence 2, 2020; the horses' watermark
of Lapuschkin et al., Nature Communications 10, 2019). What a class shows by nature, sky or ink, betrays it too; but
nature does not place to the pixel: what stands here in some pictures stands a pixel further in others. So:
  1. Pass 1 counts patches at their positions in cells by their hash (`millcert.checks.key_cells`).
  2. Pass 2 counts those of the fullest cells exactly, by class.
  3. A patch is a shortcut where it meets neither of two nulls, both exact and family-wise corrected:
       a. the class: the samples with it fall to the classes at random (hypergeometric);
       b. the place: in its class the same patch stands at its best other place at least once for every `MOST_TO_ONE`
          times that it stands here (binomial).
A trigger with a wrong label is a shortcut as well: where a contradiction of the views votes too, fusion says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import MAX_TOP_FEATURES, Accumulator, GroupEvidence, Role, Scores, Severity, merge_groups
from millcert.checks.columns import features, strings
from millcert.checks.exact_features import CONTENT_BITS, patch_corner, patch_keys, positions_of
from millcert.checks.flagging import Counts
from millcert.checks.key_cells import cell_of, cells_by_part, fullest_cells
from millcert.checks.label_groups import rows_by_text
from millcert.errors import InternalError, NotEnoughSamplesError, PolicyError

#: Keys below this count are not looked at: no test of so few could pass.
LEAST_COUNT = 5
#: Here against the best other place. A place that varies by half a pixel (normal), rounded to pixels, is this one with
#: probability 0.683 and the next with 0.157: 4.35 to one. What is placed more exactly than that was put there.
MOST_TO_ONE = 5
_MAX_SCORE = 300.0
_CONTENT = np.uint64(2**CONTENT_BITS - 1)


class _Class(NamedTuple):
    """Pass 2: how many samples a class has, and how many of them have each candidate."""

    label: str
    samples: int
    keys: Counts


class _Shortcut(NamedTuple):
    """What betrays a class: keys, uint64 ascending, their scores, and what the evidence says of the strongest."""

    keys: np.ndarray
    scores: np.ndarray
    often: int
    expected: float
    low: float
    high: float
    p_value: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class ShortcutMiningModel:
    """The model after pass `stage`.

    cells: int64 ascending, those of the candidates. searched_from: every key at least so frequent is one.
    samples: of each class. found: by class.
    """

    stage: int
    cells: np.ndarray
    searched_from: int
    samples: Mapping[str, int]
    found: Mapping[str, _Shortcut]


@dataclass(frozen=True)
class ShortcutMining:
    """Flag samples with an exact patch at a place that betrays their class and that nature would not put there alone.

    Needs: label, features (float64, d): raw pixels, not an embedding.
    Passes: 2, and scoring.
    Score: -log10 of the corrected p-value of the sample's most surprising patch, at most 300; 0 where it has none.
    Accumulator: pass 1 at most 34 MB in 16 records; pass 2 16 bytes a candidate and class.
    Finds: a fixed patch at a fixed place in one class, of any number of sources, with the right label or a wrong one;
        from about 80 samples on.
    Does not find: what blends, moves, or passes a lossy codec afterwards; a patch that all classes have; a mark whose
        patches all recur within it; anything in pictures of fewer than `least_side` pixels a side; tables, in which
        values are there to tell the class.
    Not an attack by itself, hence the severity: classes that are told by a fixed mark, such as forms, have shortcuts.
    Source: the two papers above for what a shortcut is; the first null is Fisher's exact test, the second is our
        choice.

    shape: height, width and, for colour, channels of an image; empty where a policy says how the column of `features`
        is drawn (dataset.images).
    patch: side of a patch in pixels, in [2, 8].
    false_alarm_rate: the chance that any class without shortcuts is said to have one, in (0, 0.1].
    max_candidates: cells of keys that are counted exactly, in [16, 65536].
    least_side: pictures with a side of fewer pixels are not tested, at least 2: where one pixel is an eighth of the
        picture, nature does place to the pixel. The default takes it that pictures of one kind are framed to a
        thirty-second of their side at best, which is half a pixel of 16 (our choice).
    """

    name: ClassVar[str] = "shortcut_mining"
    version: ClassVar[str] = "1"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "features"})
    severity: ClassVar[Severity] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset({"shortcut"})
    flags_follow_threshold: ClassVar[bool] = True
    reason: ClassVar[str] = "shortcut_mining.patch_betrays_the_class"

    shape: tuple[int, ...] = ()
    patch: int = 3
    false_alarm_rate: float = 0.001
    max_candidates: int = 16384
    least_side: int = 16

    def __post_init__(self) -> None:
        if self.shape and (len(self.shape) not in (2, 3) or min(self.shape) < 1):
            raise PolicyError(f"shape must be height, width and perhaps channels, got {list(self.shape)}.")
        if not 2 <= self.patch <= min((8, *self.shape[:2])):
            raise PolicyError(f"patch must be in [2, 8] and fit into the image, got {self.patch}.")
        if not 0 < self.false_alarm_rate <= 0.1:
            raise PolicyError(f"false_alarm_rate must be in (0, 0.1], got {self.false_alarm_rate}.")
        if not 16 <= self.max_candidates <= 65536:
            raise PolicyError(f"max_candidates must be in [16, 65536], got {self.max_candidates}.")
        if self.least_side < 2:
            raise PolicyError(f"least_side must be at least 2, got {self.least_side}.")

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 2

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: ShortcutMiningModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        labels, keys = strings(batch, "label"), self._keys(batch)
        if not len(keys):
            return dict(acc)
        if model is None:
            return self.merge([acc, cells_by_part(keys, "cells"), {"rows": _Class("", len(keys), Counts.zero())}])
        is_candidate = np.isin(cell_of(keys), model.cells)
        parts = {
            f"class {label}": _Class(
                label, len(places), Counts.zero().add(keys[places][is_candidate[places]].astype(np.int64))
            )
            for label, places in rows_by_text(labels)
        }
        return self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, _merged)

    def fit(self, acc: Accumulator, model: ShortcutMiningModel | None) -> ShortcutMiningModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: there are no samples.
        """
        if not acc:
            raise NotEnoughSamplesError("There are no samples.")
        if model is None:
            parts = ((int(name.split()[1]), part) for name, part in acc.items() if name != "rows")
            cells, _, searched_from = fullest_cells(parts, LEAST_COUNT, self.max_candidates)
            return ShortcutMiningModel(1, np.sort(cells), searched_from, {}, {})
        classes = {part.label: part for _, part in sorted(acc.items())}
        samples = {label: part.samples for label, part in classes.items()}
        found = self._shortcuts(classes) if self._is_tested(len(classes)) else {}
        return ShortcutMiningModel(2, model.cells, model.searched_from, samples, found)

    def score(self, model: ShortcutMiningModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; 0 for a class without shortcuts."""
        if model.stage != 2:
            raise InternalError("shortcut_mining was asked to score before its last pass.")
        labels, keys = strings(batch, "label"), self._keys(batch)
        score, threshold = np.zeros(len(keys)), np.full(len(keys), np.inf)
        for label, places in rows_by_text(labels):
            found = model.found.get(label)
            if found is not None:
                mine = keys[places]
                place = np.minimum(np.searchsorted(found.keys, mine), len(found.keys) - 1)
                score[places] = np.where(found.keys[place] == mine, found.scores[place], 0.0).max(axis=1)
                threshold[places] = 0.0
        return Scores(score, threshold, score > threshold, labels, self.reason)

    def evidence(self, model: ShortcutMiningModel) -> tuple[GroupEvidence, ...]:
        """Return each class's shortcuts.

        `statistic`: tested (0 where there is one class, or the pictures are too small); keys (how many are shortcuts);
        of the most surprising one samples_with_it and expected (by the other classes); searched_from: keys less
        frequent in all data were not looked at. `top_features`: where they are, with their scores.
        """
        is_tested = self._is_tested(len(model.samples))
        groups = []
        for label, samples in sorted(model.samples.items()):
            one = model.found.get(label)
            figures = {"tested": float(is_tested), "searched_from": float(model.searched_from), "keys": 0.0}
            if one is None:
                p_value = 1.0 if is_tested else None
                groups.append(GroupEvidence(label, label, "", samples, figures, False, 0.0, 0.0, 0.0, p_value))
                continue
            figures |= {
                "keys": float(len(one.keys)),
                "samples_with_it": float(one.often),
                "expected": one.expected,
            }
            estimate = one.often - one.expected
            group = GroupEvidence(
                label, label, "", samples, figures, True, estimate, one.low, one.high, one.p_value, one.top
            )
            groups.append(group)
        return tuple(groups)

    def _keys(self, batch: pa.RecordBatch) -> np.ndarray:
        if not self.shape:
            raise PolicyError(
                "shortcut_mining was not told the pictures' shape.",
                hint="Name the column of features under dataset.images; a table has no shortcuts to look for.",
            )
        return patch_keys(features(batch), self.shape, self.patch)

    def _is_tested(self, classes: int) -> bool:
        return classes > 1 and min(self.shape[:2]) >= self.least_side

    def _shortcuts(self, classes: Mapping[str, _Class]) -> dict[str, _Shortcut]:
        every = Counts.zero().merge(part.keys for part in classes.values())
        total = sum(part.samples for part in classes.values())
        tests = len(every.keys) * len(classes)
        unlikely: dict[str, tuple[Counts, np.ndarray]] = {}
        for label, part in sorted(classes.items()):
            p_values = np.minimum(1.0, _by_class(part, every, total) * tests)
            chosen = p_values <= self.false_alarm_rate
            unlikely[label] = Counts(part.keys.keys[chosen], part.keys.counts[chosen]), p_values[chosen]
        left = sum(len(p_values) for _, p_values in unlikely.values())
        found = {}
        for label, (kept, by_class) in unlikely.items():
            p_values = np.maximum(by_class, np.minimum(1.0, _by_place(kept, classes[label].keys) * left))
            chosen = p_values <= self.false_alarm_rate
            if chosen.any():
                told = Counts(kept.keys[chosen], kept.counts[chosen])
                found[label] = self._described(classes[label], told, p_values[chosen], every, total)
        return found

    def _described(self, of_class: _Class, kept: Counts, p_values: np.ndarray, every: Counts, total: int) -> _Shortcut:
        from scipy.stats import binomtest

        scores = np.minimum(_MAX_SCORE, -np.log10(np.maximum(p_values, 10.0**-_MAX_SCORE)))
        strongest = np.lexsort((kept.keys, -kept.counts, p_values))
        first = int(strongest[0])
        often, rest = int(kept.counts[first]), total - of_class.samples
        others = int(every.counts[np.searchsorted(every.keys, kept.keys[first])]) - often
        interval = binomtest(others, rest).proportion_ci(method="wilson")
        keys = kept.keys.astype(np.uint64)
        order = np.argsort(keys)
        places: dict[str, float] = {}
        for place in strongest.tolist():
            row, column = patch_corner(int(positions_of(keys[[place]])[0]), self.shape, self.patch)
            places.setdefault(f"patch at row {row}, column {column}", float(scores[place]))
        return _Shortcut(
            keys[order],
            scores[order],
            often,
            of_class.samples * others / rest,
            max(0.0, often - of_class.samples * float(interval.high)),
            float(min(of_class.samples, int(kept.counts.sum()))),
            float(p_values[first]),
            tuple(places.items())[:MAX_TOP_FEATURES],
        )


def _by_class(part: _Class, every: Counts, total: int) -> np.ndarray:
    """Return the chance that so many of a key's samples are of this class."""
    from scipy.stats import hypergeom

    having = every.counts[np.searchsorted(every.keys, part.keys.keys)]
    tail: np.ndarray = hypergeom.sf(part.keys.counts - 1, total, having, part.samples)
    return tail


def _by_place(kept: Counts, of_class: Counts) -> np.ndarray:
    """Return the chance of each key's count if its best other place has a fifth of it to be expected."""
    from scipy.stats import binom

    content = of_class.keys.astype(np.uint64) & _CONTENT
    order = np.lexsort((-of_class.counts, content))
    content, counts, keys = content[order], of_class.counts[order], of_class.keys[order]
    first = np.searchsorted(content, kept.keys.astype(np.uint64) & _CONTENT)
    second = np.minimum(first + 1, len(keys) - 1)
    has_second = (second > first) & (content[second] == content[first])
    elsewhere = np.where(keys[first] != kept.keys, counts[first], np.where(has_second, counts[second], 0))
    chance: np.ndarray = binom.sf(kept.counts - 1, kept.counts + elsewhere, MOST_TO_ONE / (MOST_TO_ONE + 1))
    return chance


def _merged(parts: Sequence[Any]) -> Any:
    first, *others = parts
    if isinstance(first, _Class):
        keys = first.keys.merge(part.keys for part in others)
        return first._replace(samples=sum(part.samples for part in parts), keys=keys)
    return first.merge(others)


CHECK = ShortcutMining
