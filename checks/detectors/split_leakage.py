"""Copies across splits: samples of one declared split that have a copy, exact or near, in another.

What a model is tested on must not be in what it was trained on. That is a fact of the data and needs no null: every
such copy counts, and the policy says how many are too many.

  1. Pass 1 notes the samples' keys (`millcert.checks.near_keys`) in a bitmap for each split, and counts the splits.
  2. Pass 2 notes exactly which splits the keys are in whose bits are set in two (`millcert.checks.key_splits`).
  3. Pass 3 counts the samples with such keys, by pair of splits.
Of two splits the larger gives way: its samples are flagged, so that what was held out stays whole.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity, merge_groups
from millcert.checks.cell_names import cell_name
from millcert.checks.columns import digests, features, strings
from millcert.checks.key_splits import NOTED_PARTS, KeyBits, KeyMasks, bits_by_part, in_several, key_ids
from millcert.checks.label_groups import rows_by_text
from millcert.checks.near_keys import TEXT_ROWS, content_keys, text_keys
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

View: TypeAlias = Literal["text", "features", "sample_digest"]

#: More distinct values are no splits but some other column.
MAX_SPLITS = 32


class _SplitCount(NamedTuple):
    """Pass 1: how many samples a split has."""

    split: str
    samples: int


class _SplitBits(NamedTuple):
    """Pass 1: one part of a split's bitmap."""

    split: str
    part: int
    bits: KeyBits


class _Pair(NamedTuple):
    """Pass 3: samples of the larger split with copies in the smaller."""

    larger: str
    smaller: str
    samples: int


@dataclass(frozen=True, eq=False)
class SplitLeakageModel:
    """The model after pass `stage`.

    samples: split -> how many; splits: from the smallest on. bitmaps: number of the split -> part -> bits.
    ids, masks: int64, of the keys that are in several splits. is_whole: False where there were too many to note all.
    pairs: (larger, smaller) -> samples.
    """

    stage: int
    samples: Mapping[str, int]
    splits: tuple[str, ...]
    bitmaps: Mapping[int, Mapping[int, KeyBits]]
    ids: np.ndarray
    masks: np.ndarray
    is_whole: bool
    pairs: Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class SplitLeakage:
    """Flag samples of a larger split that have a copy, exact or near, in a smaller one.

    Needs: split and a view: text, features, or the sample digest.
    Passes: 3, and scoring.
    Score: the part of the sample's keys that a smaller split has too: 1 for an exact copy; for text about the fourth
        power of the Jaccard similarity.
    Accumulator: pass 1 at most 8 MB a split in 16 records; pass 2 16 MB in 16 records; pass 3 a count a pair.
    Finds: every exact copy, and nearly every near one of the similarity, while splits share no more than a million keys
        (a text has 16); beyond, a sample of them, and `complete` of the evidence is 0.
    Does not find: paraphrases and translations; what leaks by other ways than copies, such as one person in both.
    Source: near copies in splits: Barz, Denzler, "Do we train on test data?", J. Imaging 6 (2020). Keys as in
        `millcert.checks.near_keys`.

    view: what is compared. The digest covers all columns, the split too: with it there are no equal samples.
    similarity: of two texts, from which on one is a copy of the other, in [0.5, 1].
    """

    name: ClassVar[str] = "split_leakage"
    version: ClassVar[str] = "1"
    severity: ClassVar[Severity] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset({"split_leakage"})
    #: Of the default configuration; an instance has its own.
    columns: ClassVar[frozenset[Role]] = frozenset({"split", "text"})
    flags_follow_threshold: ClassVar[bool] = True
    reason: ClassVar[str] = "split_leakage.copy_in_another_split"

    view: View = "text"
    similarity: float = 0.7

    def __post_init__(self) -> None:
        if self.view not in ("text", "features", "sample_digest"):
            raise PolicyError(f"view must be text, features or sample_digest, got {self.view!r}.")
        if not 0.5 <= self.similarity <= 1:
            raise PolicyError(f"similarity must be in [0.5, 1], got {self.similarity}.")
        object.__setattr__(self, "columns", frozenset[Role]({"split", self.view}))

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 3

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: SplitLeakageModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        splits, keys = strings(batch, "split"), self._keys(batch)
        parts: dict[str, Any] = {}
        if model is None:
            for split, places in rows_by_text(splits):
                parts[f"split {split}"] = _SplitCount(split, len(places))
                for part, bits in bits_by_part(keys[places]).items():
                    parts[f"bits {part} {split}"] = _SplitBits(split, part, bits)
        elif model.stage == 1:
            chosen = in_several(keys, model.bitmaps)
            masks = np.broadcast_to((1 << _ranks(splits, model))[:, None], keys.shape)[chosen]
            ids = key_ids(keys[chosen])
            for number in np.unique(ids % NOTED_PARTS).tolist():
                mine = ids % NOTED_PARTS == number
                parts[f"keys {number}"] = KeyMasks.of(ids[mine], masks[mine])
        else:
            score, smaller = self._shared(splits, keys, model)
            flagged = score > self._threshold()
            for split, places in rows_by_text(splits):
                numbers, counts = np.unique(smaller[places][flagged[places]], return_counts=True)
                for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                    other = model.splits[number]
                    parts[cell_name(split, other)] = _Pair(split, other, count)
        return self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, _merged)

    def fit(self, acc: Accumulator, model: SplitLeakageModel | None) -> SplitLeakageModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: there are no samples.
            InvalidSampleError: the column has too many values to be splits.
        """
        if model is None:
            return _after_bits(acc)
        if model.stage == 1:
            parts = [part for _, part in sorted(acc.items())]
            ids = np.concatenate([np.zeros(0, np.int64), *(part.ids for part in parts)])
            masks = np.concatenate([np.zeros(0, np.int64), *(part.masks for part in parts)])
            several = (masks & (masks - 1)) != 0
            order = np.argsort(ids[several])
            return replace(
                model,
                stage=2,
                bitmaps={},
                ids=ids[several][order],
                masks=masks[several][order],
                is_whole=not any(part.is_full for part in parts),
            )
        pairs = {(part.larger, part.smaller): part.samples for part in acc.values()}
        return replace(model, stage=3, pairs=pairs)

    def score(self, model: SplitLeakageModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch."""
        if model.stage != 3:
            raise InternalError("split_leakage was asked to score before its last pass.")
        splits = strings(batch, "split")
        score, smaller = self._shared(splits, self._keys(batch), model)
        threshold = np.full(len(score), self._threshold())
        flagged = score > threshold
        names = [
            cell_name(split, model.splits[number]) if number >= 0 else split
            for split, number in zip(splits.to_pylist(), np.where(flagged, smaller, -1).tolist(), strict=True)
        ]
        return Scores(score, threshold, flagged, pa.array(names, pa.string()), self.reason)

    def evidence(self, model: SplitLeakageModel) -> tuple[GroupEvidence, ...]:
        """Return each pair of splits with copies, and each split.

        `statistic`: of a pair, leaked (samples of the larger split with a copy in the smaller), samples_of_smaller, and
        complete (0 where there were too many shared keys to note all).
        """
        found = [
            GroupEvidence(split, "", "", samples, {}, False, 0.0, 0.0, 0.0, None)
            for split, samples in model.samples.items()
        ]
        for (larger, smaller), count in model.pairs.items():
            samples = model.samples[larger]
            figures = {
                "leaked": float(count),
                "samples_of_smaller": float(model.samples[smaller]),
                "complete": float(model.is_whole),
            }
            most = float(count if model.is_whole else samples)
            top = ((f"split {larger}", count / samples),)
            name = cell_name(larger, smaller)
            found.append(
                GroupEvidence(name, "", "", samples, figures, True, float(count), float(count), most, None, top)
            )
        return tuple(sorted(found, key=lambda item: item.group))

    def _keys(self, batch: pa.RecordBatch) -> np.ndarray:
        if self.view == "text":
            return text_keys(strings(batch, "text"))
        return content_keys(features(batch) if self.view == "features" else digests(batch))

    def _threshold(self) -> float:
        return float(np.nextafter(self.similarity**TEXT_ROWS, 0.0)) if self.view == "text" else 0.5

    def _shared(
        self, splits: pa.StringArray, keys: np.ndarray, model: SplitLeakageModel
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of each sample's keys that a smaller split has, and the smallest such split; -1: none."""
        own = _ranks(splits, model)
        if not len(model.ids) or not len(own):
            return np.zeros(len(own)), np.full(len(own), -1)
        ids = key_ids(keys)
        place = np.minimum(np.searchsorted(model.ids, ids), len(model.ids) - 1)
        masks = np.where(model.ids[place] == ids, model.masks[place], 0)
        below = masks & ((1 << own) - 1)[:, None]
        lowest = np.where(below != 0, below & -below, np.int64(2**62)).min(axis=1)
        smaller = np.where(lowest < 2**62, np.log2(lowest.astype(np.float64)).astype(np.int64), -1)
        return (below != 0).mean(axis=1), smaller


def _after_bits(acc: Accumulator) -> SplitLeakageModel:
    samples = {part.split: part.samples for part in acc.values() if isinstance(part, _SplitCount)}
    if not samples:
        raise NotEnoughSamplesError("There are no samples.")
    if len(samples) > MAX_SPLITS:
        raise InvalidSampleError(
            f"The split column has {len(samples)} values; expected at most {MAX_SPLITS}.",
            hint="Name the column that says train or test as dataset.columns.split.",
            column="split",
        )
    splits = tuple(sorted(samples, key=lambda split: (samples[split], split)))
    bitmaps: dict[int, dict[int, KeyBits]] = {number: {} for number in range(len(splits))}
    for part in acc.values():
        if isinstance(part, _SplitBits):
            bitmaps[splits.index(part.split)][part.part] = part.bits
    none = np.zeros(0, dtype=np.int64)
    return SplitLeakageModel(1, dict(sorted(samples.items())), splits, bitmaps, none, none, True, {})


def _ranks(splits: pa.StringArray, model: SplitLeakageModel) -> np.ndarray:
    """Return the place of each sample's split among all, from the smallest on; beyond them for one not seen in fit."""
    found = np.full(len(splits), len(model.splits), dtype=np.int64)
    known = {split: number for number, split in enumerate(model.splits)}
    for split, places in rows_by_text(splits):
        found[places] = known.get(split, len(model.splits))
    return found


def _merged(parts: list[Any]) -> Any:
    first, *others = parts
    if isinstance(first, _SplitCount | _Pair):
        return first._replace(samples=sum(part.samples for part in parts))
    if isinstance(first, _SplitBits):
        return first._replace(bits=first.bits.merge(part.bits for part in others))
    return first.merge(others)


CHECK = SplitLeakage
