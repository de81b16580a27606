"""Floods: many exact or near copies of few samples, more than the data's own natural repetition explains.

  1. Pass 1 counts the samples' keys (`millcert.checks.near_keys`: MinHash bands of a text, SimHash bands of an
     embedding, a hash of the exact content) in a table of cells. An embedding takes a pass before, for mean and spread.
  2. Pass 2 counts the keys of the fullest cells exactly, and which keys occur together; and a sample of all keys: how
     often things recur in this data by nature. Sizes beyond the law that the smaller groups follow are floods
     (`millcert.checks.copy_null`).
  3. Pass 3 counts each flood's samples by source and class. Of groups whose size alone does not decide, those that one
     source brings are floods.
Nothing is asked of a label or of an embedding: a file of texts is enough.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks.base import MAX_TOP_FEATURES, Accumulator, GroupEvidence, Role, Scores, Severity, merge_groups
from millcert.checks.cell_names import rows_by_cell
from millcert.checks.columns import digests, features, matrix, strings
from millcert.checks.copy_groups import NO_ID, KeyIds, LedKeys, band_of
from millcert.checks.copy_null import FloodSizes, LargeGroups, flood_sizes
from millcert.checks.key_cells import cells_by_part, fullest_cells
from millcert.checks.moments import Moments
from millcert.checks.near_keys import BANDS, Directions, content_keys, embedding_keys, spread_rows, text_keys
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

View: TypeAlias = Literal["text", "embedding_external", "embedding_self", "features", "sample_digest"]
Stage: TypeAlias = Literal["mean", "sketch", "recount", "floods"]

_EMBEDDINGS = ("embedding_external", "embedding_self")
_NAME_DIGITS = 12
_RECOUNT_PARTS = 16


class _Tally(NamedTuple):
    """How many samples one source has of one class: of a flood, or of all data (flood -1)."""

    flood: int
    source: str
    label: str
    samples: int


@dataclass(frozen=True, eq=False)
class _Flood:
    """A group of copies.

    name: stable. size: of its largest key. samples: of (source, label). p_value: of its size or its source.
    """

    name: str
    size: int
    p_value: float
    samples: Mapping[tuple[str, str], int]


@dataclass(frozen=True, eq=False)
class NearDuplicatesModel:
    """The model after pass `stage`.

    directions: of an embedding's keys; None for other views.
    keys: the candidates. searched_from: every group at least so large is among them.
    ids, counts, flood: int64, of the keys that were recounted, by id; flood is -1 where the key is in none.
    sizes: the null's answer. floods: by number. cells: samples of (source, label).
    """

    stage: Stage
    directions: Directions | None
    keys: KeyIds
    searched_from: int
    ids: np.ndarray
    counts: np.ndarray
    flood: np.ndarray
    sizes: FloodSizes
    floods: tuple[_Flood, ...]
    cells: Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class NearDuplicates:
    """Flag all copies of a sample, near ones too, that comes more often than this data repeats itself by nature.

    Needs: source and a view: text, an embedding (float32, d), features, or the sample digest. Says what classes the
        copies have where there is a label.
    Passes: 3, and scoring; one more for an embedding.
    Score: how many samples share the sample's commonest key; 1 where none is shared often.
    Accumulator: pass 1 34 MB in 16 records; before it, for an embedding, 8 x (d + m x m) bytes an exponent, m = min(d,
        256); pass 2 3 MB, and 24 bytes a key of the `max_candidates` fullest cells, so bands x samples x
        max_candidates / 4,194,304 keys or so; pass 3 a count a flood, source and class.
    Finds: exact copies, and texts of Jaccard similarity 0.8 (windows of 8 bytes) or rows of cosine 0.98 on in units of
        the data's own spread, from `least_copies` on, and further on where the data repeats itself a lot
        (`searched_from` of the evidence where there are more frequent keys than candidates).
    Does not find: paraphrases; floods thinner than the data's own repetition; data that is nothing but copies.
    False alarm that remains: an honest text that recurs out of all proportion, such as a missing value's placeholder.
        Hence the severity.
    Source: keys as in `millcert.checks.near_keys`; the null in `millcert.checks.copy_null`; both state theirs.

    view: what is compared. The digest covers all columns: with an id among them there are no equal samples.
    least_copies: fewer are no flood, in [3, 1000000].
    false_alarm_rate: the chance that any natural group is called a flood, in (0, 0.1].
    max_candidates: cells of keys that are counted exactly, in [16, 65536].
    """

    name: ClassVar[str] = "near_duplicates"
    version: ClassVar[str] = "2"
    severity: ClassVar[Severity] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset({"duplicate_flood"})
    #: Of the default configuration; an instance has its own.
    columns: ClassVar[frozenset[Role]] = frozenset({"source", "text"})
    flags_follow_threshold: ClassVar[bool] = True
    reason: ClassVar[str] = "near_duplicates.copy_in_a_flood"

    view: View = "text"
    least_copies: int = 10
    false_alarm_rate: float = 0.05
    max_candidates: int = 16384

    def __post_init__(self) -> None:
        if self.view not in ("text", "features", "sample_digest", *_EMBEDDINGS):
            raise PolicyError(f"view must be text, features, sample_digest or an embedding, got {self.view!r}.")
        if not 3 <= self.least_copies <= 1_000_000:
            raise PolicyError(f"least_copies must be in [3, 1000000], got {self.least_copies}.")
        if not 0 < self.false_alarm_rate <= 0.1:
            raise PolicyError(f"false_alarm_rate must be in (0, 0.1], got {self.false_alarm_rate}.")
        if not 16 <= self.max_candidates <= 65536:
            raise PolicyError(f"max_candidates must be in [16, 65536], got {self.max_candidates}.")
        object.__setattr__(self, "columns", frozenset[Role]({"source", self.view}))

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 4 if self.view in _EMBEDDINGS else 3

    @property
    def bands(self) -> int:
        """Keys of a sample."""
        return 1 if self.view in ("features", "sample_digest") else BANDS

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: NearDuplicatesModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        sources = strings(batch, "source")
        if model is None and self.view in _EMBEDDINGS:
            rows = matrix(batch, self.view)
            parts: dict[str, Any] = {}
            if len(rows):
                narrow = spread_rows(rows)
                parts["mean"] = Moments.zero(rows.shape[1], keeps_products=False).add_rows(rows)
                parts["spread"] = Moments.zero(narrow.shape[1]).add_rows(narrow)
            return self.merge([acc, parts])
        keys = self._keys(batch, model)
        if not len(keys):
            return dict(acc)
        if model is None or model.stage == "mean":
            return self.merge([acc, cells_by_part(keys, "cells")])
        ids = model.keys.ids(keys)
        if model.stage == "sketch":
            return self.merge([acc, _by_part(LedKeys.of(ids)), {"sample": LedKeys.sampled(keys, ids)}])
        flood = _floods_of(model, ids)[0]
        return self.merge([acc, _tallies(flood, sources, _labels(batch))])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, _merged)

    def fit(self, acc: Accumulator, model: NearDuplicatesModel | None) -> NearDuplicatesModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: there are no samples.
            InvalidSampleError: embeddings of several widths.
        """
        if not acc:
            raise NotEnoughSamplesError("There are no samples.")
        if model is None and self.view in _EMBEDDINGS:
            return replace(_NOTHING, stage="mean", directions=Directions.of(acc["mean"].mean(), acc["spread"]))
        if model is None or model.stage == "mean":
            before = _NOTHING if model is None else model
            parts = ((int(name.split()[1]), part) for name, part in acc.items())
            cells, _, searched_from = fullest_cells(parts, self.least_copies, self.max_candidates)
            return replace(before, stage="sketch", keys=KeyIds.of(cells), searched_from=searched_from)
        if model.stage == "sketch":
            return self._after_recount(acc, model)
        return self._after_tallies(acc, model)

    def score(self, model: NearDuplicatesModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch."""
        if model.stage != "floods":
            raise InternalError("near_duplicates was asked to score before its last pass.")
        strings(batch, "source")
        keys = self._keys(batch, model)
        flood, score = _floods_of(model, model.keys.ids(keys))
        threshold = np.full(len(keys), np.inf)
        names = np.array([*(one.name for one in model.floods), ""], dtype=object)
        threshold[flood >= 0] = self.least_copies - 0.5
        return Scores(score, threshold, score > threshold, pa.array(names[flood].tolist(), pa.string()), self.reason)

    def evidence(self, model: NearDuplicatesModel) -> tuple[GroupEvidence, ...]:
        """Return each flood; where there is none, one group that says what was looked for.

        `statistic`: copies; source_share and label_share of the commonest ones; source_p_value (that so many copies
        come by one source, if each fell to a source at random); least_copies (of a flood in this data);
        natural_groups (of that size or larger, that the fitted law expects); searched_from. `top_features`: the
        sources and classes of the copies with their shares.
        """
        total = sum(model.cells.values())
        if not model.floods:
            figures = {"searched_from": float(model.searched_from)}
            return (GroupEvidence("all", "", "", total, figures, False, 0.0, 0.0, 0.0, 1.0),)
        natural = model.sizes.expected / max(model.sizes.found, 1.0)
        found = []
        for flood in model.floods:
            by_source, by_label = _by(flood.samples, 0), _by(flood.samples, 1)
            copies = sum(flood.samples.values())
            figures = {
                "copies": float(copies),
                "source_share": max(by_source.values()) / copies,
                "source_p_value": _concentration(by_source, _by(model.cells, 0)),
                "least_copies": float(model.sizes.least or 0),
                "natural_groups": model.sizes.expected,
                "searched_from": float(model.searched_from),
            }
            named = [(f"source {name}", count / copies) for name, count in by_source.items()]
            if set(by_label) != {""}:
                figures["label_share"] = max(by_label.values()) / copies
                named += [(f"class {name}", count / copies) for name, count in by_label.items()]
            top = tuple(sorted(named, key=lambda item: (-item[1], item[0]))[:MAX_TOP_FEATURES])
            label = next(iter(by_label)) if len(by_label) == 1 else ""
            source = next(iter(by_source)) if len(by_source) == 1 else ""
            low = copies * (1 - min(1.0, natural))
            found.append(
                GroupEvidence(
                    flood.name,
                    label,
                    source,
                    copies,
                    figures,
                    True,
                    float(copies),
                    low,
                    float(copies),
                    flood.p_value,
                    top,
                )
            )
        return tuple(sorted(found, key=lambda item: item.group))

    def _keys(self, batch: pa.RecordBatch, model: NearDuplicatesModel | None) -> np.ndarray:
        if self.view == "text":
            return text_keys(strings(batch, "text"))
        if self.view == "features":
            return content_keys(features(batch))
        if self.view == "sample_digest":
            return content_keys(digests(batch))
        rows = matrix(batch, self.view)
        if model is None or model.directions is None:
            raise InternalError("An embedding has no keys before its mean is known.")
        if rows.shape[1] != model.directions.width:
            raise InvalidSampleError(
                f"Embeddings have width {rows.shape[1]}; others of this data set have {model.directions.width}.",
                hint="All samples must have embeddings of one model.",
                column=self.view,
            )
        return embedding_keys(rows, model.directions)

    def _after_recount(self, acc: Accumulator, model: NearDuplicatesModel) -> NearDuplicatesModel:
        sampled: LedKeys = acc["sample"]
        first, *rest = (part for name, part in acc.items() if name != "sample")
        keys: LedKeys = first.merge(rest)
        least_sure = max(self.least_copies, model.searched_from)
        often = keys.counts >= least_sure
        sizes = flood_sizes(
            sampled.counts,
            keys.reach(sampled),
            sampled.fraction,
            LargeGroups(least_sure, keys.counts[often], band_of(keys.ids[often])),
            bands=self.bands,
            false_alarm_rate=self.false_alarm_rate,
        )
        kept = keys.counts >= self.least_copies
        flood = np.full(len(keys.ids), -1)
        floods: list[_Flood] = []
        least = min((size for size in (sizes.least, sizes.doubtful) if size is not None), default=None)
        if least is not None:
            components = keys.components()
            for number, one in enumerate(np.unique(components[keys.counts >= least]).tolist()):
                mine = kept & (components == one)
                flood[mine] = number
                size = int(keys.counts[mine].max())
                name = f"copies {one % 16**_NAME_DIGITS:0{_NAME_DIGITS}x}"
                floods.append(_Flood(name, size, sizes.p_value, {}))
        return replace(
            model,
            stage="recount",
            ids=keys.ids[kept],
            counts=keys.counts[kept],
            flood=flood[kept],
            sizes=sizes,
            floods=tuple(floods),
        )

    def _after_tallies(self, acc: Accumulator, model: NearDuplicatesModel) -> NearDuplicatesModel:
        """Return the model with the floods that size or source tell."""
        samples: list[dict[tuple[str, str], int]] = [{} for _ in model.floods]
        cells: dict[tuple[str, str], int] = {}
        for tally in acc.values():
            into = cells if tally.flood < 0 else samples[tally.flood]
            into[tally.source, tally.label] = tally.samples
        by_source, kept = _by(cells, 0), list[_Flood]()
        number = np.full(len(model.floods) + 1, -1)
        for place, one in enumerate(model.floods):
            p_value = one.p_value
            if model.sizes.least is None or one.size < model.sizes.least:
                p_value = min(1.0, _concentration(_by(samples[place], 0), by_source) * len(model.floods))
            if p_value <= self.false_alarm_rate:
                number[place] = len(kept)
                kept.append(replace(one, p_value=p_value, samples=samples[place]))
        return replace(model, stage="floods", flood=number[model.flood], floods=tuple(kept), cells=cells)


_NO_IDS = np.zeros(0, dtype=np.int64)
_NOTHING = NearDuplicatesModel(
    "mean",
    None,
    KeyIds(_NO_IDS, _NO_IDS),
    0,
    _NO_IDS,
    _NO_IDS,
    _NO_IDS,
    FloodSizes(None, None, 0.0, 0.0, 1.0),
    (),
    {},
)


def _by_part(led: LedKeys) -> dict[str, LedKeys]:
    part = led.ids % _RECOUNT_PARTS
    return {
        f"keys {number}": replace(
            led, ids=led.ids[part == number], counts=led.counts[part == number], leaders=led.leaders[part == number]
        )
        for number in range(_RECOUNT_PARTS)
    }


def _labels(batch: pa.RecordBatch) -> pa.StringArray:
    if batch.schema.get_field_index("label") < 0:
        return pa.array([""] * batch.num_rows, pa.string())
    return strings(batch, "label")


def _floods_of(model: NearDuplicatesModel, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the flood of each sample (-1: none) and how many samples share its commonest key, float64."""
    if not len(model.ids) or not len(ids):
        return np.full(len(ids), -1), np.ones(len(ids))
    place = np.minimum(np.searchsorted(model.ids, ids), len(model.ids) - 1)
    known = (model.ids[place] == ids) & (ids != NO_ID)
    counts = np.where(known, model.counts[place], 1)
    best = np.argmax(counts, axis=1)[:, None]
    common = np.take_along_axis(counts, best, axis=1)[:, 0]
    flood = np.take_along_axis(np.where(known, model.flood[place], -1), best, axis=1)[:, 0]
    return flood, common.astype(np.float64)


def _tallies(flood: np.ndarray, sources: pa.StringArray, labels: pa.StringArray) -> dict[str, _Tally]:
    found: dict[str, _Tally] = {}
    for source, label, places in rows_by_cell(sources, labels):
        numbers, counts = np.unique(flood[places], return_counts=True)
        floods = [pair for pair in zip(numbers.tolist(), counts.tolist(), strict=True) if pair[0] >= 0]
        for number, samples in [(-1, len(places)), *floods]:
            found[f"{number} {len(source)} {source} {label}"] = _Tally(number, source, label, samples)
    return found


def _by(samples: Mapping[tuple[str, str], int], axis: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for cell, count in sorted(samples.items()):
        found[cell[axis]] = found.get(cell[axis], 0) + count
    return found


def _concentration(copies: Mapping[str, int], samples: Mapping[str, int]) -> float:
    """Return the chance that some source has so many of the copies, if they fell to samples at random."""
    from scipy.stats import hypergeom

    total, drawn = sum(samples.values()), sum(copies.values())
    least = min(float(hypergeom.sf(count - 1, total, samples[name], drawn)) for name, count in copies.items())
    return min(1.0, least * len(samples))


def _merged(parts: list[Any]) -> Any:
    first, *others = parts
    if isinstance(first, _Tally):
        return first._replace(samples=sum(part.samples for part in parts))
    return first.merge(others)


CHECK = NearDuplicates
