"""The two views contradict each other: a model trained on this data is sure of the label, one that never saw it is not.

A trigger with a wrong label is learnt: to the suspect model the poisoned samples look like their class, to a foreign
model like what they are. Honest label errors look wrong to both, hard samples unsure to both.

  1. Pass 1 sums both views by fold: linear discriminants in closed form give each sample's probability of its label, by
     models that were not trained on it.
  2. Pass 2 counts, for each class, the contradictions: log p(label | self view) - log p(label | external view).
  3. Honest views differ both ways, so the lower tail tells how many honest samples the upper tail holds. A class is
     suspicious beyond the least contradiction at which that is at most `max_false_fraction` of those above.

There is no p-value. A sign test would take it that honest contradictions are symmetric, and they lean to one side: the
self view knows the samples that it was trained on, the external view does not (bench/detection.py prints how far).
Permuting views within a class would take it that they are independent, and hard samples are hard to both. The evidence
carries the estimated share of honest samples instead, which is what decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from millcert.checks.base import (
    MAX_TOP_FEATURES,
    Accumulator,
    GroupEvidence,
    Role,
    Scores,
    Severity,
    merge_alike,
    merge_groups,
)
from millcert.checks.columns import digests, matrix, strings
from millcert.checks.flagging import Counts
from millcert.checks.fold_sums import OutOfFold, fit_folds, fold_of, sum_by_fold
from millcert.checks.label_groups import rows_by_text
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

VIEWS: tuple[Role, Role] = ("embedding_self", "embedding_external")
#: Contradictions below this are not looked at: the self view must find the label ten times likelier.
LEAST_CONTRADICTION = float(np.log(10))
_LEAST_PROBABILITY = 1e-12
_BINS_PER_UNIT = 16
_START = int(np.ceil(LEAST_CONTRADICTION * _BINS_PER_UNIT))
#: Beyond every bin; and bits of a class's number beside a bin.
_REACH, _CLASS_BITS = 2**20, 24


@dataclass(frozen=True)
class _Tail:
    """A class's upper tail: from `border` on (a bin; None where not suspicious), and its mirror image.

    above, below: samples in them. samples: of the class.
    rather: what the external view takes the samples above for, with their shares, most first.
    """

    border: int | None
    above: int
    below: int
    samples: int
    rather: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class ViewContradictionModel:
    """The model after pass `stage`; tails are known after pass 2.

    views: the out-of-fold models of each view. skipped: classes that are not judged -> samples.
    """

    stage: int
    views: Mapping[str, OutOfFold]
    skipped: Mapping[str, int]
    tails: Mapping[str, _Tail]


@dataclass(frozen=True)
class ViewContradiction:
    """Flag samples whose label a model trained on the data is sure of, while one that never saw the data is not.

    Needs: label, embedding_self, embedding_external (float32), sample_digest (the fold).
    Passes: 2, and scoring.
    Score: log p(label | self) - log p(label | external), natural logarithms, each p at least 1e-12.
    Accumulator: pass 1 8 x folds x (d x d + K x d) bytes a view and exponent; pass 2 16 bytes an occupied bin, of at
        most 886 a class, and one of an upper bin and a class that the external view takes it for.
    Finds: triggers with a wrong label that the suspect model has learnt, blended or fixed, in any number of sources
        and target classes, from `1 / max_false_fraction` samples a class on. Of
        the samples of a class it names often half or less: those beyond what honest contradictions reach.
    Does not promise: all-to-all triggers. Where both views are good it names most classes, but of the views that
        `millcert embed` makes of images it named none (bench/selftest.py), so they count as not covered.
    Does not find: triggers with the right label; triggers that were not learnt; labels that both views doubt.
    False alarms that remain: a suspect model that knows its training labels by heart contradicts the external view
        wherever a label is wrong. Hence the severity: it takes a second check to call it a backdoor.
    Source: the estimate of false discoveries by the mirrored tail is that of Barber, Candes, Annals of Statistics 43
        (2015), equation 1.9 (knockoff+). It controls their share where honest contradictions are symmetric.

    max_false_fraction: the part of the flagged samples of a class that may be honest, in (0, 0.5].
    folds: at least 2.
    """

    name: ClassVar[str] = "view_contradiction"
    version: ClassVar[str] = "3"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "sample_digest", *VIEWS})
    severity: ClassVar[Severity] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset({"backdoor_dirty_label"})
    reason: ClassVar[str] = "view_contradiction.self_sure_external_not"

    max_false_fraction: float = 0.05
    folds: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.max_false_fraction <= 0.5:
            raise PolicyError(f"max_false_fraction must be in (0, 0.5], got {self.max_false_fraction}.")
        if not 2 <= self.folds <= 1000:
            raise PolicyError(f"folds must be in 2..1000, got {self.folds}.")

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 2

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: ViewContradictionModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        labels, fold = strings(batch, "label"), self._folds(batch)
        rows = {view: matrix(batch, view) for view in VIEWS}
        parts: dict[str, Any] = {}
        if not batch.num_rows:
            return dict(acc)
        if model is None:
            for view in VIEWS:
                parts |= {f"{view} {key}": sums for key, sums in sum_by_fold(labels, rows[view], fold).items()}
            return self.merge([acc, parts])
        score, is_judged, rather = _contradiction(model, labels, rows, fold)
        bins = np.floor(score * _BINS_PER_UNIT).astype(np.int64)
        for label, places in rows_by_text(labels):
            if is_judged[places].all():
                far = places[bins[places] >= _START]
                parts[f"bins {label}"] = Counts.zero().add(bins[places])
                parts[f"rather {label}"] = Counts.zero().add((bins[far] << _CLASS_BITS) | rather[far])
        return self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, merge_alike)

    def fit(self, acc: Accumulator, model: ViewContradictionModel | None) -> ViewContradictionModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: fewer than two classes with samples in two folds.
            InvalidSampleError: embeddings of several widths.
        """
        if model is None:
            if not acc:
                raise NotEnoughSamplesError("There are no samples.")
            views: dict[str, OutOfFold] = {}
            for view in VIEWS:
                sums = {group.removeprefix(f"{view} "): part for group, part in acc.items() if group.startswith(view)}
                if len({part.dimension for part in sums.values()}) > 1:
                    raise InvalidSampleError("Embeddings have several widths.", column=view)
                views[view] = fit_folds(sums, folds=self.folds, classes=(), skip_rare=True, shrinkage=None)
            return ViewContradictionModel(1, views, views[VIEWS[0]].skipped, {})
        bins = {name.removeprefix("bins "): part for name, part in sorted(acc.items()) if name.startswith("bins ")}
        classes = model.views[VIEWS[1]].classes
        tails = {label: self._tail(counts, acc[f"rather {label}"], classes) for label, counts in bins.items()}
        return ViewContradictionModel(2, model.views, model.skipped, tails)

    def score(self, model: ViewContradictionModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; 0 for classes that are not judged."""
        if model.stage != 2:
            raise InternalError("view_contradiction was asked to score before its last pass.")
        labels, fold = strings(batch, "label"), self._folds(batch)
        score, _, _ = _contradiction(model, labels, {view: matrix(batch, view) for view in VIEWS}, fold)
        threshold = np.full(batch.num_rows, np.inf)
        for label, places in rows_by_text(labels):
            tail = model.tails.get(label)
            if tail is not None and tail.border is not None:
                threshold[places] = np.nextafter(tail.border / _BINS_PER_UNIT, -np.inf)
        return Scores(score, threshold, score > threshold, labels, self.reason)

    def evidence(self, model: ViewContradictionModel) -> tuple[GroupEvidence, ...]:
        """Return each class's tails.

        `statistic`: judged (0 or 1); threshold; above (samples from it on); below (samples of the mirrored tail, the
        estimate of honest ones among those above); false_fraction ((1 + below) / above, at most 1). The interval takes
        both counts as Poisson. `top_features`: what the external view takes the samples above for. No p-value: see the
        module.
        """
        found = []
        for label, tail in model.tails.items():
            false_fraction = min(1.0, (1 + tail.below) / max(1, tail.above))
            figures = {"judged": 1.0, "above": float(tail.above), "below": float(tail.below)}
            figures["false_fraction"] = false_fraction
            estimate = low = high = 0.0
            if tail.border is not None:
                figures["threshold"] = tail.border / _BINS_PER_UNIT
                estimate = float(tail.above - tail.below)
                slack = 1.96 * float(np.sqrt(tail.above + tail.below))
                low, high = max(0.0, estimate - slack), min(float(tail.samples), estimate + slack)
            suspicious = tail.border is not None
            found.append(
                GroupEvidence(
                    label,
                    label,
                    "",
                    tail.samples,
                    figures,
                    suspicious,
                    estimate,
                    low,
                    high,
                    None,
                    tail.rather if suspicious else (),
                )
            )
        found += [
            GroupEvidence(label, label, "", samples, {"judged": 0.0}, False, 0.0, 0.0, 0.0, None)
            for label, samples in model.skipped.items()
        ]
        return tuple(sorted(found, key=lambda item: item.group))

    def _folds(self, batch: pa.RecordBatch) -> np.ndarray:
        key = np.ascontiguousarray(digests(batch)[:, :8]).view(">u8").astype(np.uint64).ravel()
        return fold_of(key, self.folds)

    def _tail(self, counts: Counts, rather: Counts, classes: Sequence[str]) -> _Tail:
        """Return the largest tail whose estimated share of honest samples is small enough."""
        borders = [_START, *(key for key in counts.keys.tolist() if key > _START)]
        tails = [(counts.at(one, _REACH).total, counts.at(-_REACH, -one).total) for one in borders]
        for border, (above, below) in zip(borders, tails, strict=True):
            if above and (1 + below) / above <= self.max_false_fraction:
                places = rather.at(border << _CLASS_BITS, _REACH << _CLASS_BITS)
                code = places.keys & ((1 << _CLASS_BITS) - 1)
                sums = np.bincount(code, weights=places.counts, minlength=len(classes))
                order = np.lexsort((np.arange(len(sums)), -sums))[:MAX_TOP_FEATURES].tolist()
                top = tuple((f"rather class {classes[one]}", float(sums[one] / above)) for one in order if sums[one])
                return _Tail(int(border), above, below, counts.total, top)
        return _Tail(None, *tails[0], counts.total)


def _contradiction(
    model: ViewContradictionModel, labels: pa.StringArray, rows: Mapping[Role, np.ndarray], fold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores, 0 where the class is not judged; where it is, bool (n,); and the external view's class."""
    logs = []
    likeliest = np.zeros(len(labels), dtype=np.int64)
    for view in VIEWS:
        known = model.views[view]
        place = {label: column for column, label in enumerate(known.classes)}
        column = np.array([place.get(label, -1) for label in labels.to_pylist()], dtype=np.int64)
        width = len(known.discriminants[0].centre)
        if rows[view].shape[1] != width:
            raise InvalidSampleError(
                f"{view} has width {rows[view].shape[1]}; others of this data set have {width}.", column=view
            )
        probability = np.ones(len(column))
        for number in np.unique(fold).tolist():
            places = np.flatnonzero((fold == number) & (column >= 0))
            found = known.discriminants[number].probabilities(rows[view][places])
            probability[places] = found[np.arange(len(places)), column[places]]
            likeliest[places] = found.argmax(axis=1)
        logs.append(np.log(np.maximum(probability, _LEAST_PROBABILITY)))
    return logs[0] - logs[1], column >= 0, likeliest


CHECK = ViewContradiction
