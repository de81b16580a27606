"""The two views contradict each other: a model trained on this data is sure of the label, one that never saw it is not.

A trigger with a wrong label is learnt: to the suspect model the poisoned samples look like their class, to a foreign
model like what they are. Honest label errors look wrong to both, hard samples unsure to both.

  1. Pass 1 sums both views by fold: linear discriminants in closed form give each sample's probability of its label, by
     models that were not trained on it.
  2. Pass 2 counts, for each class, at which odds the self view is sure of the label and the external view against it.
  3. Null: a class has as many contradictions as the others, whose shares scatter (`millcert.checks.class_scatter`).
     What makes honest views contradict each other, such as a foreign model that errs, or labels that the suspect model
     knows by heart, is in all classes. A class is named where its share stands out at 16 pairs of odds taken together.
  4. In a named class those samples are flagged whose odds are such that at most `max_false_fraction` of the samples at
     least as odd are honest, going by the other classes.

Versions before 4 compared a class's contradictions with their mirror image, samples that the external view is sure of
and the self view is not. Honest contradictions lean to one side, so clean classes were named and 3 to 5 % of clean
samples flagged (bench/view_contradiction.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

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
from millcert.checks.class_scatter import LEAST_OTHERS, deviations_of, expected, scatter_of
from millcert.checks.columns import digests, matrix, strings
from millcert.checks.digest_sample import check_seed, digest_heads
from millcert.checks.flagging import Counts
from millcert.checks.fold_sums import OutOfFold, fit_folds, fold_of, sum_by_fold
from millcert.checks.label_groups import rows_by_text
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

VIEWS: tuple[Role, Role] = ("embedding_self", "embedding_external")
#: Classes of fewer samples are not judged, nor others by them: sampling alone would spread their shares.
LEAST_SAMPLES = 50
_LEAST_PROBABILITY = 1e-12
_DECADE = float(np.log(10))
#: Borders of the odds at which the self view is for the label and the external view against it: half decades from 1 to
#: 10,000, and from 3 to a million. Linear discriminants are seldom surer.
SELF_BORDERS, EXTERNAL_BORDERS = _DECADE * np.arange(0, 4.5, 0.5), _DECADE * np.arange(0.5, 6.5, 0.5)
#: Of these the whole decades up to 1,000 and 10,000 are tested, together.
_TESTED = np.ix_(np.arange(0, 8, 2), np.arange(1, 9, 2))
_TESTS = 16
#: Cells of odds: below every border, and beyond each. Bits of a class's number beside a cell.
_SHAPE, _CLASS_BITS = (len(SELF_BORDERS) + 1, len(EXTERNAL_BORDERS) + 1), 24
#: The honest samples in a cut are bounded by a class so many standard deviations above the others' mean.
_HONEST_DEVIATIONS = 1.0


class _Class(NamedTuple):
    """What is known of a class after pass 2.

    samples: of the class. is_judged: it was compared with others. p_value: 1.0 where it was not.
    corners: pairs of borders, by place; samples beyond one of them are flagged; none where nothing is.
    above, expected: samples beyond the tested pair of borders with the largest surplus, in the class and going by
        others. pair: that pair, by place. estimate, low, high: of the surplus.
    flagged, flagged_expected: samples in the cut, and a bound of the honest ones among them.
    rather: what the external view takes the samples beyond that pair for, with their shares, most first.
    """

    samples: int
    is_judged: bool
    p_value: float = 1.0
    is_suspicious: bool = False
    corners: tuple[tuple[int, int], ...] = ()
    above: float = 0.0
    expected: float = 0.0
    pair: tuple[int, int] = (0, 0)
    estimate: float = 0.0
    low: float = 0.0
    high: float = 0.0
    flagged: float = 0.0
    flagged_expected: float = 0.0
    rather: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class ViewContradictionModel:
    """The model after pass `stage`; found is known after pass 2.

    views: the out-of-fold models of each view. skipped: classes that no model knows -> samples. found: by class.
    """

    stage: int
    views: Mapping[str, OutOfFold]
    skipped: Mapping[str, int]
    found: Mapping[str, _Class]


@dataclass(frozen=True)
class ViewContradiction:
    """Flag samples whose label a model trained on the data is sure of, while one that never saw the data is not.

    Needs: label, embedding_self, embedding_external (float32), sample_digest (the fold); five classes of 50 samples.
    Passes: 2, and scoring.
    Score: log odds by which both views are sure, the lesser of the self view for the label and the external view
        against it, each less its border of the class; above 0 it is flagged in a class that is named.
    Accumulator: pass 1 8 x folds x (d x d + K x d) bytes a view and exponent; pass 2 16 bytes an occupied cell of odds,
        of at most 130 a class and class that the external view takes its samples for.
    Finds: triggers with a wrong label that the suspect model has learnt, blended or fixed, in any number of sources, in
        up to a quarter of the classes. Of the samples of such a class it flags those that contradict clearly.
    Does not promise: adaptive blends, of which it has named one kind and flagged little.
    Does not find: all-to-all triggers, and others that are in most classes: no class stands out; triggers with the
        right label; triggers that were not learnt; labels that both views doubt; anything in fewer than five classes.
    False alarms that remain: a class that the external view, unlike all others, does not know, and wrong labels of one
        class only that a suspect model knows by heart. Hence the severity: a backdoor takes a second check.
    Source: the rule is our choice, of research facts 5 and 6; its null is that of `millcert.checks.class_scatter`.

    false_alarm_rate: the chance that any class of an honest data set is named, in (0, 0.1].
    max_false_fraction: the part of the flagged samples of a class that may be honest, in (0, 0.5].
    folds: at least 2.
    seed: keys the choice of folds; a number that nobody knows who supplies the data. 0: no key, so samples can be made
        that share a fold.
    """

    name: ClassVar[str] = "view_contradiction"
    version: ClassVar[str] = "4"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "sample_digest", *VIEWS})
    severity: ClassVar[Severity] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset({"backdoor_dirty_label"})
    reason: ClassVar[str] = "view_contradiction.self_sure_external_not"

    false_alarm_rate: float = 0.01
    max_false_fraction: float = 0.1
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm_rate <= 0.1:
            raise PolicyError(f"false_alarm_rate must be in (0, 0.1], got {self.false_alarm_rate}.")
        if not 0 < self.max_false_fraction <= 0.5:
            raise PolicyError(f"max_false_fraction must be in (0, 0.5], got {self.max_false_fraction}.")
        if not 2 <= self.folds <= 1000:
            raise PolicyError(f"folds must be in 2..1000, got {self.folds}.")
        check_seed(self.seed)

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
        odds = _odds(model, labels, rows, fold)
        sure = np.searchsorted(SELF_BORDERS, odds.own, side="right")
        cell = sure * _SHAPE[1] + np.searchsorted(EXTERNAL_BORDERS, odds.against, side="right")
        for label, places in rows_by_text(labels):
            if odds.is_judged[places].all():
                parts[label] = Counts.zero().add((cell[places] << _CLASS_BITS) | odds.likeliest[places])
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
        return ViewContradictionModel(2, model.views, model.skipped, self._found(acc, model))

    def score(self, model: ViewContradictionModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; below every other score for classes that no model knows."""
        if model.stage != 2:
            raise InternalError("view_contradiction was asked to score before its last pass.")
        labels, fold = strings(batch, "label"), self._folds(batch)
        odds = _odds(model, labels, {view: matrix(batch, view) for view in VIEWS}, fold)
        # Where nothing is flagged the strictest borders make scores of all classes comparable.
        strictest = ((len(SELF_BORDERS) - 1, len(EXTERNAL_BORDERS) - 1),)
        score, threshold = np.zeros(batch.num_rows), np.full(batch.num_rows, np.inf)
        for label, places in rows_by_text(labels):
            corners = model.found[label].corners if label in model.found else ()
            score[places] = np.max(
                [
                    np.minimum(odds.own[places] - SELF_BORDERS[row], odds.against[places] - EXTERNAL_BORDERS[column])
                    for row, column in corners or strictest
                ],
                axis=0,
            )
            if corners:
                threshold[places] = np.nextafter(0.0, -1.0)
        return Scores(score, threshold, score > threshold, labels, self.reason)

    def evidence(self, model: ViewContradictionModel) -> tuple[GroupEvidence, ...]:
        """Return what was found of each class.

        `statistic`: judged (0 or 1); self_odds and external_odds, the tested pair beyond which the class has the
        largest surplus; above (samples beyond it) and expected (going by the other classes); flagged; false_fraction
        (of the flagged ones at most). The count is of that surplus, its interval reaches to the largest beyond any of
        the pairs and holds at 95 % for all of them: bad samples that the external view does not contradict are not in
        it. `top_features`: what the external view takes the samples above for.
        """
        found = []
        for label, one in model.found.items():
            figures = {"judged": float(one.is_judged)}
            if one.is_judged:
                figures["self_odds"] = round(float(np.exp(SELF_BORDERS[one.pair[0]])), 3)
                figures["external_odds"] = round(float(np.exp(EXTERNAL_BORDERS[one.pair[1]])), 3)
                figures |= {"above": one.above, "expected": one.expected}
            if one.is_suspicious:
                figures |= {"flagged": one.flagged, "false_fraction": one.flagged_expected / max(1.0, one.flagged)}
            estimate, low, high = (one.estimate, one.low, one.high) if one.is_suspicious else (0.0, 0.0, 0.0)
            p_value, top = one.p_value if one.is_judged else None, one.rather if one.is_suspicious else ()
            found.append(
                GroupEvidence(
                    label, label, "", one.samples, figures, one.is_suspicious, estimate, low, high, p_value, top
                )
            )
        found += [
            GroupEvidence(label, label, "", samples, {"judged": 0.0}, False, 0.0, 0.0, 0.0, None)
            for label, samples in model.skipped.items()
        ]
        return tuple(sorted(found, key=lambda item: item.group))

    def notices(self, model: ViewContradictionModel) -> tuple[str, ...]:
        """Say that too few classes are there to be compared, where that is so."""
        large = sum(one.samples >= LEAST_SAMPLES for one in model.found.values())
        if large > LEAST_OTHERS:
            return ()
        needed = f"{LEAST_OTHERS + 1} classes of at least {LEAST_SAMPLES} samples"
        return (f"classes are compared with one another, which takes {needed}; here are {large}",)

    def _folds(self, batch: pa.RecordBatch) -> np.ndarray:
        return fold_of(digest_heads(digests(batch)), self.folds, self.seed or None)

    def _found(self, acc: Accumulator, model: ViewContradictionModel) -> dict[str, _Class]:
        names = sorted(acc)
        found = {name: _Class(acc[name].total, is_judged=False) for name in names}
        judged = [name for name in names if found[name].samples >= LEAST_SAMPLES]
        if len(judged) <= LEAST_OTHERS:
            return found
        samples = np.array([found[name].samples for name in judged])
        beyond = np.stack([_beyond(acc[name]) for name in judged], axis=-1)
        tested = beyond[_TESTED].reshape(_TESTS, len(judged))
        scatter = scatter_of(tested, samples, level=self.false_alarm_rate)
        classes = model.views[VIEWS[1]].classes
        for place, name in enumerate(judged):
            # A class that stands out tells nothing of honest ones.
            others = ~scatter.stands_out & (np.arange(len(judged)) != place)
            one = _surplus(tested, samples, place, others)
            one = one._replace(p_value=float(scatter.p_value[place]), is_suspicious=bool(scatter.stands_out[place]))
            if one.is_suspicious:
                honest = expected(beyond[..., others], samples[others], one.samples, _HONEST_DEVIATIONS).high
                one = self._cut(one, beyond[..., place], honest)
                one = one._replace(rather=_rather(acc[name], one.pair, classes))
            found[name] = one
        return found

    def _cut(self, one: _Class, own: np.ndarray, honest: np.ndarray) -> _Class:
        """Return the class with the loosest borders beyond which, taken together, few enough samples are honest.

        Args:
            one: the class.
            own: its samples beyond each pair of borders.
            honest: at most so many honest ones among them.
        """
        false = np.where(own > 0, (1 + honest) / np.maximum(own, 1), np.inf)
        for level in sorted({share for share in false.ravel().tolist() if share <= self.max_false_fraction})[::-1]:
            is_sure = false <= level
            corners = [
                (row, column)
                for row, column in np.argwhere(is_sure).tolist()
                if is_sure[: row + 1, : column + 1].sum() == 1  # no looser pair is sure
            ]
            # Samples beyond any corner: rows of corners rise while columns fall, so only neighbours overlap anew.
            joints = [(after[0], before[1]) for before, after in pairwise(corners)]
            flagged, wrong = (
                float(sum(counts[place] for place in corners) - sum(counts[place] for place in joints))
                for counts in (own, honest)
            )
            if 1 + wrong <= self.max_false_fraction * flagged:
                return one._replace(corners=tuple(corners), flagged=flagged, flagged_expected=1 + wrong)
        return one


class _Odds(NamedTuple):
    """Log odds of each sample's label in the self view, and against it in the external one.

    is_judged: bool (n,), models know the class. likeliest: the external view's class, a place.
    """

    own: np.ndarray
    against: np.ndarray
    is_judged: np.ndarray
    likeliest: np.ndarray


def _odds(
    model: ViewContradictionModel, labels: pa.StringArray, rows: Mapping[Role, np.ndarray], fold: np.ndarray
) -> _Odds:
    logs = []
    likeliest, is_judged = np.zeros(len(labels), dtype=np.int64), np.zeros(len(labels), dtype=bool)
    for view in VIEWS:
        known = model.views[view]
        place = {label: column for column, label in enumerate(known.classes)}
        column = np.array([place.get(label, -1) for label in labels.to_pylist()], dtype=np.int64)
        width = len(known.discriminants[0].centre)
        if rows[view].shape[1] != width:
            raise InvalidSampleError(
                f"{view} has width {rows[view].shape[1]}; others of this data set have {width}.", column=view
            )
        is_judged = column >= 0
        # A class that no model knows: no odds in the self view, and none against it in the other.
        given = np.full(len(column), 0.0 if view == VIEWS[0] else 1.0)
        for number in np.unique(fold).tolist():
            places = np.flatnonzero((fold == number) & is_judged)
            found = known.discriminants[number].probabilities(rows[view][places])
            given[places] = found[np.arange(len(places)), column[places]]
            likeliest[places] = found.argmax(axis=1)
        rest = np.maximum(1.0 - given, _LEAST_PROBABILITY)
        logs.append(np.log(np.maximum(given, _LEAST_PROBABILITY)) - np.log(rest))
    return _Odds(logs[0], -logs[1], is_judged, likeliest)


def _beyond(counts: Counts) -> np.ndarray:
    """Return how many samples lie beyond each pair of borders, whole numbers (self borders, external borders)."""
    cells = np.zeros(_SHAPE[0] * _SHAPE[1], dtype=np.int64)
    np.add.at(cells, counts.keys >> _CLASS_BITS, counts.counts)
    tails = cells.reshape(_SHAPE)[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    found: np.ndarray = tails[1:, 1:]
    return found


def _surplus(tested: np.ndarray, samples: np.ndarray, place: int, others: np.ndarray) -> _Class:
    """Return a class with the tested pair of borders beyond which the surplus is surest, or the loosest."""
    own, size = tested[:, place], int(samples[place])
    # One of the pairs is chosen, so each has its share of the interval's 5 %.
    deviations = deviations_of(0.05 / _TESTS, int(others.sum()))
    rest = expected(tested[:, others], samples[others], size, deviations)
    low = own - rest.high
    best = int(low.argmax()) if (low > 0).any() else 0
    rows, columns = _TESTED
    return _Class(
        size,
        is_judged=True,
        above=float(own[best]),
        expected=float(rest.mean[best]),
        pair=(int(rows.ravel()[best // columns.size]), int(columns.ravel()[best % columns.size])),
        estimate=max(0.0, float(own[best] - rest.mean[best])),
        low=max(0.0, float(low[best])),
        high=max(0.0, float((own - rest.low).max())),
    )


def _rather(counts: Counts, pair: tuple[int, int], classes: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """Return what the external view takes the samples beyond a pair of borders for, with shares, most first."""
    cell, code = counts.keys >> _CLASS_BITS, counts.keys & ((1 << _CLASS_BITS) - 1)
    is_beyond = (cell // _SHAPE[1] > pair[0]) & (cell % _SHAPE[1] > pair[1])
    sums = np.bincount(code[is_beyond], weights=counts.counts[is_beyond], minlength=len(classes))
    order = np.lexsort((np.arange(len(sums)), -sums))[:MAX_TOP_FEATURES].tolist()
    return tuple((f"rather class {classes[one]}", float(sums[one] / sums.sum())) for one in order if sums[one])


CHECK = ViewContradiction
