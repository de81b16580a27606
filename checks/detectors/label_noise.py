"""Label noise by confident learning (Northcutt, Jiang, Chuang, JAIR 70, 2021), equal to cleanlab, in passes that merge.

Passes, each a full read: [labels: which classes there are, where `classes` is empty | sums: the out-of-fold models,
where the view is not pred_probs -> refine, 0 to 4 times: they move towards logistic regression] -> thresholds: mean
self-confidence of each class -> joint: confident counts of given and true label -> [cutoffs: the most suspect samples
of each cell, where `filter_by` ranks samples].

Flags are those of `cleanlab.filter.find_label_issues` 2.9 for the same float64 probabilities, as
tests/checks/test_label_noise_equals_cleanlab.py holds, with two differences, both where cleanlab's own answer depends
on the order of rows:
  - Where samples tie at a cut, cleanlab takes whichever its unstable sort meets first, which also depends on the
    processor. Here the sample digest decides: the answer is cleanlab's for rows sorted by digest under a stable sort.
    Samples with equal values and equal first 8 bytes of digest share one answer.
  - A class threshold here is the exact mean, rounded once; cleanlab's is off in the last bits. It matters only for a
    probability that equals a threshold less 1e-6 to within those bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import pyarrow as pa

from millcert.checks import columns
from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity
from millcert.checks.class_cells import ClassCells, calibrate_joint
from millcert.checks.class_columns import classes_of, codes_of, count_labels
from millcert.checks.confident_learning import class_thresholds, confident_class
from millcert.checks.exact import ExactSum
from millcert.checks.fold_refinement import choice_sums, refine, refine_sums, settle
from millcert.checks.fold_sums import fit_fold_models, fold_of
from millcert.checks.label_filter import FILTERS, PRUNING, ClassCut, FilterBy, LabelFilter, Rows
from millcert.checks.label_noise_evidence import class_evidence
from millcert.checks.label_noise_model import REFINES, LabelNoiseModel, Stage
from millcert.checks.label_noise_parts import ALL, CELLS_OF_A_PART, ClassSums, JointPart, class_sums, merge_parts
from millcert.checks.label_noise_views import VIEWS, View, sums_of, view_rows, without_roots_mark
from millcert.checks.label_quality import SCORERS, ScoreBy, label_quality, less_thresholds
from millcert.checks.margin_cutoff import LowestValues
from millcert.checks.moments import Moments
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

REASON = "label_noise.given_label_unlikely"

_T = TypeVar("_T")


@dataclass(frozen=True)
class LabelNoise:
    """Flag samples whose given label is unlikely under out-of-sample class probabilities.

    Score: 1 - the label quality score of cleanlab, by `score_by`; in [0, 1]. A flag is decided by cell (given class,
    likely class), so `Scores.threshold` is only the group's bar: 1 - the class cut for the filters with one that cut by
    the score, else 1 - the class's mean quality; `Scores.flagged` is what counts.

    filter_by: as in cleanlab, all seven methods.
    score_by: as in cleanlab, all three scorers: "self_confidence" (p(given)), "normalized_margin" ((p(given) - largest
        other p + 1) / 2), "confidence_weighted_entropy". None: the one that goes with the filter, which is the first
        but for `filter_by="low_normalized_margin"`. It orders findings; flags do not depend on it.
    adjust_pred_probs: score probabilities less their class's mean self-confidence, as in cleanlab; not with entropy.
    frac_noise: as in cleanlab, the part of the estimated label errors to flag, in (0, 1]; 1 but for the three "prune"
        filters ("both" is one).
    classes: order of the columns of pred_probs. Empty: the labels found, sorted, as numbers if all are integers; where
        pred_probs is wider than the labels found, labels that are integers name their column. Naming them saves a read.
    view: an embedding, from which out-of-fold probabilities are made, or given pred_probs. Label disagreement is
        visible in an embedding from a model that never saw the data; one trained on it tends to agree with its errors.
    folds: for an embedding view, at least 2.
    shrinkage: of the shared covariance, in (0, 1]; None for the oracle-approximating rule.
    refine: more reads, 0 to 4, in which the discriminants move towards logistic regression
        (`millcert.checks.fold_refinement`); 0 leaves them as they are. A model moves only where the labels of rows that
        it was not trained on become likelier.
    min_examples_per_class: classes are never pruned below this; as in cleanlab.
    ties: "by_digest" needs sample_digest. "together" does not (view pred_probs only), and flags all that tie at a cut.
    rare_classes: what to do with a class whose samples all fall into one fold, so that no model knows it: "refuse", or
        "skip" it: never flagged, and reported with "judged" 0.

    Groups: the class. Needs: label, the view, sample_digest unless ties are "together".
    Passes: 2 or 3 (`filter_by`), 1 more for an embedding or where `classes` is empty.
    Accumulator: 8 x folds x (d x d + K x d) bytes for each of 1 to 3 exponents (pass "sums"); 16 bytes for each pair of
    classes that samples are confused in; in pass "cutoffs" 29 bytes for each estimated label error, at most twice that.
    Nothing of size n x K is held, and nothing of size K x K that the data does not fill.
    Source: JAIR 70 (2021), sections 3.1 to 3.3; discriminant: `millcert.checks.discriminant`.
    """

    name: ClassVar[str] = "label_noise"
    version: ClassVar[str] = "2"
    severity: ClassVar[Severity] = "warn"
    #: These two are of the default configuration; an instance has its own. A model that was trained on the suspect data
    #: has learned flips made on purpose.
    covers: ClassVar[frozenset[str]] = frozenset({"label_noise", "targeted_label_flips"})
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "embedding_external", "sample_digest"})

    filter_by: FilterBy = "prune_by_noise_rate"
    classes: tuple[str, ...] = ()
    view: View = "embedding_external"
    folds: int = 5
    refine: int = 2
    shrinkage: float | None = None
    min_examples_per_class: int = 1
    ties: Literal["by_digest", "together"] = "by_digest"
    rare_classes: Literal["refuse", "skip"] = "refuse"
    score_by: ScoreBy | None = None
    adjust_pred_probs: bool = False
    frac_noise: float = 1.0

    def __post_init__(self) -> None:
        faults = [
            (self.filter_by not in FILTERS, f"filter_by must be one of {sorted(FILTERS)}, got {self.filter_by!r}"),
            (self.view not in VIEWS, f"view must be one of {sorted(VIEWS)}, got {self.view!r}"),
            (len(set(self.classes)) != len(self.classes), "classes must be distinct"),
            (len(self.classes) == 1, "classes must be empty or at least 2"),
            (not 2 <= self.folds <= 1000, f"folds must be in 2..1000, got {self.folds}"),
            (not 0 <= self.refine <= len(REFINES), f"refine must be in 0..{len(REFINES)}, got {self.refine}"),
            (
                self.shrinkage is not None and not 0 < self.shrinkage <= 1,
                f"shrinkage must be in (0, 1], got {self.shrinkage}",
            ),
            (
                self.score_by is not None and self.score_by not in SCORERS,
                f"score_by must be one of {sorted(SCORERS)}, got {self.score_by!r}",
            ),
            (
                self.adjust_pred_probs and self.score_by == "confidence_weighted_entropy",
                "adjust_pred_probs does not go with score_by: confidence_weighted_entropy",
            ),
            (not 0 < self.frac_noise <= 1, f"frac_noise must be in (0, 1], got {self.frac_noise}"),
            (
                self.frac_noise != 1 and self.filter_by not in PRUNING,
                f"frac_noise goes with filter_by {', '.join(PRUNING)}, not {self.filter_by!r}",
            ),
            (self.min_examples_per_class < 0, f"min_examples_per_class is {self.min_examples_per_class}, below 0"),
            (self.ties not in {"by_digest", "together"}, f"ties must be by_digest or together, got {self.ties!r}"),
            (self.ties == "together" and self.view != "pred_probs", "ties: together needs the view pred_probs"),
            (
                self.rare_classes not in {"refuse", "skip"},
                f"rare_classes must be refuse or skip, got {self.rare_classes!r}",
            ),
        ]
        found = tuple(text for is_fault, text in faults if is_fault)
        if found:
            raise PolicyError(f"label_noise: {'; '.join(found)}.", faults=found)
        digest = frozenset[Role]() if self.ties == "together" else frozenset[Role]({"sample_digest"})
        object.__setattr__(self, "columns", frozenset[Role]({"label", self.view}) | digest)
        if self.view == "embedding_self":
            object.__setattr__(self, "covers", frozenset({"label_noise"}))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The passes by name, in order."""
        first: tuple[Stage, ...] = () if self.classes else ("labels",)
        if self.view != "pred_probs":
            first = ("sums", *REFINES[: self.refine])
        last: tuple[Stage, ...] = ("cutoffs",) if self._filter.ranks else ()
        return (*first, "thresholds", "joint", *last)

    @property
    def passes(self) -> int:
        """How many full reads of the data `fit` needs."""
        return len(self.stages)

    @property
    def _filter(self) -> LabelFilter:
        return LabelFilter(self.filter_by, self.min_examples_per_class, self.frac_noise)

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: LabelNoiseModel | None) -> Accumulator:
        """Return `acc` with a batch added; a group is a class, a fold, a block of classes, or all, by the pass.

        Raises:
            MissingColumnError: the batch lacks a role.
            InvalidSampleError: a label outside the classes, or probabilities of another width.
        """
        stage, known = self._stage_after(model)
        if stage == "labels":
            self._digest_key(batch)  # a missing column is refused in the first pass
            return self.merge([acc, count_labels(batch)])
        if stage == "sums":
            return self.merge([acc, self._sums_of(batch)])
        if known.folds and (stage in REFINES or stage == "thresholds"):
            return self.merge([acc, self._fold_parts(batch, known, stage)])
        if stage == "thresholds":
            _, label, pred_probs, _ = self._judged(batch, known)
            return self.merge([acc, class_sums(label, pred_probs)])
        rows = self.rows(batch, known)
        if stage == "joint":
            return self.merge([acc, self._joint_parts(rows, known)])
        return self._add_lowest(acc, rows, known)

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        parts: dict[str, list[Any]] = {}
        for acc in accs:
            for group, part in acc.items():
                parts.setdefault(group, []).append(part)
        return {group: merge_parts(found) for group, found in parts.items()}

    def fit(self, acc: Accumulator, model: LabelNoiseModel | None) -> LabelNoiseModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: fewer than 2 classes, or a class that no fold's model can know.
            InvalidSampleError: pred_probs of different widths, or labels that name no column.
        """
        stage, known = self._stage_after(model)
        if stage == "labels":
            if len(acc) < 2:
                raise NotEnoughSamplesError(f"Label noise needs samples of at least 2 classes, found {len(acc)}.")
            return replace(known, stage=stage, classes=classes_of(acc))
        if stage == "sums":
            return self._fit_sums(acc)
        if stage in REFINES:
            return replace(known, stage=stage, folds=refine(known.folds, acc, is_first=stage == REFINES[0]))
        if stage == "thresholds" and known.folds:
            folds, samples, confidence = settle(known.folds, acc)
            thresholds = class_thresholds(samples, confidence)
            return replace(known, stage=stage, folds=folds, label_counts=samples, thresholds=thresholds)
        if stage == "thresholds":
            width = len(known.classes)
            part: ClassSums = acc.get(ALL, ClassSums(ExactSum.zero(width), np.zeros(width, dtype=np.int64)))
            thresholds = class_thresholds(part.samples, part.confidence.value())
            return replace(known, stage=stage, label_counts=part.samples, thresholds=thresholds)
        return self._fit_joint(acc, known) if stage == "joint" else self._fit_cutoffs(acc, known)

    def score(self, model: LabelNoiseModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; samples of skipped classes score 0.

        Cost: n x K comparisons, besides the discriminant.
        """
        if model.stage != self.stages[-1]:
            raise InternalError(f"label_noise was asked to score after pass {model.stage!r}, not its last.")
        rows = self.rows(batch, model)
        score = np.zeros(batch.num_rows)
        score[rows.position] = 1 - self._quality(rows, _fitted(model.thresholds))
        threshold = np.full(batch.num_rows, np.inf)
        threshold[rows.position] = np.where(_fitted(model.is_suspicious), _fitted(model.bars), np.inf)[rows.label]
        flagged = np.zeros(batch.num_rows, dtype=np.bool_)
        flagged[rows.position] = self._filter.flags(rows, _fitted(model.thresholds), model.cuts)
        return Scores(score, threshold, flagged, columns.strings(batch, "label"), REASON)

    def rows(self, batch: pa.RecordBatch, model: LabelNoiseModel) -> Rows:
        """Return the samples of the judged classes with their out-of-sample probabilities.

        Raises:
            MissingColumnError: the batch lacks a role.
            InvalidSampleError: a label outside the classes, or probabilities of another width.
        """
        return Rows.of(*self._judged(batch, model))

    def evidence(self, model: LabelNoiseModel) -> tuple[GroupEvidence, ...]:
        """Return for each class the estimated label errors, from the calibrated joint, with a 95 % Wilson interval.

        The interval is for the share of a class under independent sampling; whether the probabilities fit is not in it.
        `statistic`: threshold (the bar for the score, see the class), self_confidence_mean (of the samples given the
        class), noise_rate (estimated errors by samples), judged (0 or 1). `top_features`: the classes that most of
        these errors are likely of, each with its estimate; `statistic` pair_1_low, pair_1_high, ... are the intervals.
        """
        found = [self._class_evidence(model, index) for index in range(len(model.classes))]
        found += [
            GroupEvidence(label, label, "", samples, {"judged": 0.0}, False, 0.0, 0.0, float(samples), None)
            for label, samples in model.skipped.items()
        ]
        return tuple(sorted(found, key=lambda item: item.group))

    def _class_evidence(self, model: LabelNoiseModel, index: int) -> GroupEvidence:
        likely, number = _fitted(model.joint).row_of(index)
        return class_evidence(
            model.classes[index],
            int(_fitted(model.label_counts)[index]),
            {model.classes[at]: float(value) for at, value in zip(likely, number, strict=True) if at != index},
            bar=float(_fitted(model.bars)[index]),
            self_confidence=float(_fitted(model.thresholds)[index]),
            is_suspicious=bool(_fitted(model.is_suspicious)[index]),
        )

    def _stage_after(self, model: LabelNoiseModel | None) -> tuple[Stage, LabelNoiseModel]:
        known = LabelNoiseModel("configured", self.classes, {}) if model is None else model
        position = 0 if model is None else self.stages.index(known.stage) + 1
        if position == len(self.stages):
            raise InternalError("label_noise is fitted already; there is no further pass.")
        return self.stages[position], known

    def _digest_key(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return the first 8 bytes of each sample digest, big-endian, uint64 (n,); zeros where ties are together."""
        if self.ties == "together":
            return np.zeros(batch.num_rows, dtype=np.uint64)
        key: np.ndarray = np.ascontiguousarray(columns.digests(batch)[:, :8]).view(">u8").astype(np.uint64).ravel()
        return key

    def _sums_of(self, batch: pa.RecordBatch) -> dict[str, Moments]:
        label = columns.strings(batch, "label")
        if self.classes:
            codes_of(label, self.classes)
        fold = fold_of(self._digest_key(batch), self.folds)
        return sums_of(label, view_rows(batch, self.view), fold, refine=self.refine)

    def _fit_sums(self, acc: Accumulator) -> LabelNoiseModel:
        sums, has_roots = without_roots_mark(acc)
        found = fit_fold_models(
            sums,
            folds=self.folds,
            classes=self.classes,
            skip_rare=self.rare_classes == "skip",
            shrinkage=self.shrinkage,
            has_roots=has_roots,
        )
        return LabelNoiseModel("sums", found.classes, found.skipped, found.models)

    def _fold_parts(self, batch: pa.RecordBatch, model: LabelNoiseModel, stage: Stage) -> Accumulator:
        position, label, _ = self._labelled(batch, model)
        rows, fold = self._folded(batch, position)
        if stage == "thresholds":
            return choice_sums(model.folds, label, rows, fold)
        return refine_sums(model.folds, label, rows, fold, is_first=stage == REFINES[0])

    def _labelled(self, batch: pa.RecordBatch, model: LabelNoiseModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return position, label and tie of the samples whose class is judged, as in `Rows`."""
        codes = codes_of(columns.strings(batch, "label"), (*model.classes, *model.skipped))
        position = np.flatnonzero(codes < len(model.classes))
        return position, codes[position], self._digest_key(batch)[position]

    def _folded(self, batch: pa.RecordBatch, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of some samples, float32 (n, d), and their folds, int64 (n,)."""
        rows = view_rows(batch, self.view)[position]
        return rows, fold_of(self._digest_key(batch)[position], self.folds)

    def _judged(
        self, batch: pa.RecordBatch, model: LabelNoiseModel
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return position, label, pred_probs and tie of the samples whose class is judged, as in `Rows`."""
        position, label, key = self._labelled(batch, model)
        if self.view == "pred_probs":
            pred_probs = columns.probabilities(batch)
            if pred_probs.shape[1] != len(model.classes):
                raise InvalidSampleError(
                    f"pred_probs has {pred_probs.shape[1]} columns, there are {len(model.classes)} classes.",
                    hint="Give `classes` in the order of the columns.",
                    column="pred_probs",
                )
            return position, label, pred_probs, key
        rows, fold = self._folded(batch, position)
        pred_probs = np.zeros((len(position), len(model.classes)))
        for index in np.unique(fold).tolist():
            in_fold = np.flatnonzero(fold == index)
            pred_probs[in_fold] = model.folds[index].probabilities(rows[in_fold])
        return position, label, pred_probs, key

    @property
    def _scores_as_filtered(self) -> bool:
        """Whether the score is the filter's own, so that class thresholds and cuts are bars for it."""
        return self.score_by in (None, self._filter.score_by) and not self.adjust_pred_probs

    def _quality(self, rows: Rows, thresholds: np.ndarray) -> np.ndarray:
        pred_probs = less_thresholds(rows.pred_probs, thresholds) if self.adjust_pred_probs else rows.pred_probs
        return label_quality(rows.label, pred_probs, self.score_by or self._filter.score_by)

    def _joint_parts(self, rows: Rows, model: LabelNoiseModel) -> dict[str, JointPart]:
        thresholds, width = _fitted(model.thresholds), len(model.classes)
        guess = confident_class(rows.pred_probs, thresholds, rows.top)
        is_issue = (guess >= 0) & (guess != rows.label) & ~rows.agrees()
        flagged = (
            np.zeros(len(guess), dtype=np.bool_) if self._filter.ranks else self._filter.flags(rows, thresholds, ())
        )
        block = rows.label // max(1, CELLS_OF_A_PART // width)
        quality = None if self._scores_as_filtered else self._quality(rows, thresholds)
        parts = {}
        for index in np.unique(block).tolist():
            where = block == index
            sums = None if quality is None else ExactSum.zero(width).add_at(rows.label[where], quality[where])
            counted, named = where & (guess >= 0), rows.label[where & flagged]
            confident = ClassCells.count(width, rows.label[counted], guess[counted])
            issues, flags = int(is_issue[where].sum()), ClassCells.count(width, named, named)
            parts[str(index)] = JointPart(confident, issues, flags, sums)
        return parts

    def _add_lowest(self, acc: Accumulator, rows: Rows, model: LabelNoiseModel) -> Accumulator:
        limits, ranked = _fitted(model.limits), self._filter
        cells, bound = {}, np.full(len(model.classes), -np.inf)
        for index in np.unique(rows.label).tolist():
            cells[index] = limits.row_of(index)
            part: LowestValues | None = acc.get(model.classes[index])
            if len(cells[index][0]):
                bound[index] = np.inf if part is None else part.highest_bound
        near = rows.chosen(ranked.lowest_value(rows) <= bound[rows.label])
        grown = dict(acc)
        for index, _, chosen in near.by_class():
            label = model.classes[index]
            grown[label] = ranked.add_lowest(grown.get(label), *cells[index], chosen)
        return grown

    def _fit_joint(self, acc: Accumulator, model: LabelNoiseModel) -> LabelNoiseModel:
        none, counts = ClassCells.zero(len(model.classes)), _fitted(model.label_counts)
        parts: list[JointPart] = list(acc.values())
        joint = calibrate_joint(none.merge(part.confident for part in parts), counts)
        issues = sum(part.issues for part in parts)
        limits = self._filter.limits(joint, counts, issues) if self._filter.ranks else None
        qualities = [part.quality for part in parts if part.quality is not None]
        means = _fitted(model.thresholds)
        if not self._scores_as_filtered:
            means = ExactSum.zero(len(counts)).merge(qualities).value() / np.maximum(counts, 1)
        is_suspicious = none.merge(part.flagged for part in parts).diagonal() > 0
        bars = 1 - np.minimum(means, 1.0)
        return replace(
            model, stage="joint", joint=joint, issues=issues, limits=limits, is_suspicious=is_suspicious, bars=bars
        )

    def _fit_cutoffs(self, acc: Accumulator, model: LabelNoiseModel) -> LabelNoiseModel:
        limits = _fitted(model.limits)
        rows = [limits.row_of(index) for index in range(len(model.classes))]
        cells = [columns_of for columns_of, _ in rows]
        parts: list[LowestValues] = [
            acc.get(label, LowestValues.zero(values)) for label, (_, values) in zip(model.classes, rows, strict=True)
        ]
        if self._filter.ranks_all_classes_together:
            cuts = [ClassCut(cells[0], parts[0].merge(parts[1:]).cutoffs())] * len(parts)
        else:
            cuts = [ClassCut(cell, part.cutoffs()) for cell, part in zip(cells, parts, strict=True)]
        is_suspicious = np.array(
            [
                self._filter.any_flagged(part, cut, index)
                for index, (part, cut) in enumerate(zip(parts, cuts, strict=True))
            ]
        )
        bars = _fitted(model.bars).copy()
        for index, cut in enumerate(cuts if self._scores_as_filtered else ()):
            own = np.flatnonzero((cut.cells == index) | self._filter.ranks_all_classes_together)
            if len(own):
                bars[index] = 1 - cut.cutoffs.value[own[0]]
        return replace(model, stage="cutoffs", cuts=tuple(cuts), is_suspicious=is_suspicious, bars=bars)


CHECK = LabelNoise


def _fitted(value: _T | None) -> _T:
    if value is None:
        raise InternalError("label_noise was given a model of an earlier pass.")
    return value
