"""Label noise by confident learning (Northcutt, Jiang, Chuang, JAIR 70, 2021), equal to cleanlab, in passes that merge.

Passes, each a full read. Of given pred_probs: thresholds: mean self-confidence of each class (where `classes` is empty,
labels: also which classes there are) -> joint: confident counts of given and true label -> [cutoffs: the most suspect
samples of each cell, where `filter_by` ranks samples]. Of any other view: sums: the out-of-fold models, and the sample
of rows that refines them and gives the thresholds -> joint -> [cutoffs]. The first is shared by all checks, as is the
read that scores, so it takes two reads of its own at most.

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
from millcert.checks.class_columns import codes_of
from millcert.checks.confident_learning import class_thresholds, confident_class
from millcert.checks.confident_neighbours import PREFIX, ConfidentNeighbours
from millcert.checks.digest_sample import digest_heads
from millcert.checks.exact import ExactSum
from millcert.checks.fold_refinement import refined
from millcert.checks.fold_sums import fit_fold_models, fit_folds, fold_of, second_opinion
from millcert.checks.in_sample import AGREEMENT, agreement_part, judge_agreement
from millcert.checks.label_cuts import add_lowest, fit_cutoffs
from millcert.checks.label_filter import FilterBy, LabelFilter, Rows
from millcert.checks.label_noise_config import faults_of
from millcert.checks.label_noise_evidence import agreement_evidence, class_counts, class_evidence
from millcert.checks.label_noise_model import LabelNoiseModel, Stage
from millcert.checks.label_noise_parts import (
    NULL,
    NULL_BITS,
    JointPart,
    NullPart,
    class_sums,
    joint_parts,
    merge_parts,
    null_part,
    sums_by_class,
)
from millcert.checks.label_noise_views import View, sums_of, view_rows, without_roots_mark
from millcert.checks.label_quality import ScoreBy, label_quality, less_thresholds
from millcert.checks.label_suggestions import suggestions_of, trusted_parts
from millcert.checks.label_table import add_labels
from millcert.checks.labelled_sample import PREFIX as ROWS
from millcert.checks.labelled_sample import label_keys, sample_parts, whole_sample
from millcert.checks.moments import Moments
from millcert.checks.rate_history import Rates, pair_rates
from millcert.errors import InternalError, InvalidSampleError, PolicyError

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
        pred_probs is wider than the labels found, labels that are integers name their column. With more than 2,000
        columns, labels that are not the numbers of their columns must be named.
    view: an embedding, from which out-of-fold probabilities are made, or given pred_probs. Label disagreement is
        visible in an embedding from a model that never saw the data; one trained on it tends to agree with its errors.
    second_view: with `view="pred_probs"`: another view, whose out-of-fold discriminant is a second opinion on whether
        they are out-of-sample (`millcert.checks.in_sample`), and in which neighbours are looked for. No more reads.
    folds: for a view that models are made of, at least 2.
    shrinkage: of the shared covariance, in (0, 1]; None for the oracle-approximating rule.
    refine: steps, 0 to 4, in which the discriminants move towards logistic regression, where the labels of rows that a
        model was not trained on become likelier (`millcert.checks.fold_refinement`); 0 leaves them. Steps are taken on
        a sample of rows (`millcert.checks.labelled_sample`), as class thresholds are: all of up to 8 million numbers.
    seed: of the hashes that choose folds, the sample, the neighbours and the buckets of words; a number that nobody
        else knows keeps others from choosing rows and words that meet in them.
    min_examples_per_class: classes are never pruned below this; as in cleanlab.
    ties: "by_digest" needs sample_digest. "together" does not (view pred_probs only), and flags all that tie at a cut.
    rare_classes: what to do with a class whose samples all fall into one fold, so that no model knows it: "refuse", or
        "skip" it: never flagged, and reported with "judged" 0.

    Groups: the class. Needs: label, the view, sample_digest unless ties are "together".
    Passes: 2 or 3 (`filter_by`).
    Accumulator: 8 x folds x (d x d + K x d) bytes for each of 1 to 3 exponents and 64 MB (pass "sums"); in pass
    "labels" 40 bytes for each class and column that it may still mean, 320 MB at most (`millcert.checks.label_table`);
    16 bytes for each pair of classes that samples are confused in; in pass "cutoffs" 29 bytes for each estimated label
    error, at most twice that.
    Nothing of size n x K is held, and nothing of size K x K that the data does not fill.
    Source: JAIR 70 (2021), sections 3.1 to 3.3; discriminant: `millcert.checks.discriminant`.
    """

    name: ClassVar[str] = "label_noise"
    version: ClassVar[str] = "5"
    severity: ClassVar[Severity] = "warn"
    #: These two are of the default configuration; an instance has its own. A model that was trained on the suspect data
    #: has learned flips made on purpose.
    covers: ClassVar[frozenset[str]] = frozenset({"label_noise", "targeted_label_flips"})
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "embedding_external", "sample_digest"})

    filter_by: FilterBy = "prune_by_noise_rate"
    classes: tuple[str, ...] = ()
    view: View = "embedding_external"
    second_view: View | None = None
    folds: int = 5
    refine: int = 2
    shrinkage: float | None = None
    min_examples_per_class: int = 1
    ties: Literal["by_digest", "together"] = "by_digest"
    rare_classes: Literal["refuse", "skip"] = "refuse"
    score_by: ScoreBy | None = None
    adjust_pred_probs: bool = False
    frac_noise: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        found = faults_of(self)
        if found:
            raise PolicyError(f"label_noise: {'; '.join(found)}.", faults=found)
        wants_digest = self.ties != "together" or self.second_view is not None
        digest = frozenset[Role]({"sample_digest"} if wants_digest else ())
        views = frozenset[Role]({self.view, self.second_view or self.view})
        object.__setattr__(self, "columns", frozenset[Role]({"label"}) | views | digest)
        if self.view == "embedding_self":
            object.__setattr__(self, "covers", frozenset({"label_noise"}))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The passes by name, in order."""
        last: tuple[Stage, ...] = ("joint", "cutoffs") if self._filter.ranks else ("joint",)
        if self.view != "pred_probs":
            return ("sums", *last)
        return ("thresholds", *last) if self.classes else ("labels", *last)

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
            _ = self._digest_key(batch)  # what is missing or wrong is refused in the first pass
            found = add_labels(acc, columns.strings(batch, "label"), columns.probabilities(batch))
            return self.merge([acc, found, self._second_sums(batch)])
        if stage == "sums":
            label, rows = columns.strings(batch, "label"), view_rows(batch, self.view, self.seed)
            sample = sample_parts(acc, columns.digests(batch), label, rows, self.seed)
            return self.merge([acc, self._sums_of(batch, rows, self.refine), sample])
        if stage == "thresholds":
            judged = self.rows(batch, known)
            return self.merge([acc, class_sums(judged.label, judged.pred_probs), self._second_sums(batch)])
        if stage == "joint":
            return self.merge([acc, *self._joint_parts(batch, known)])
        return self._add_lowest(acc, self.rows(batch, known), known)

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
        if stage == "sums":
            return self._fit_sums(acc)
        if stage in ("labels", "thresholds"):
            return self._fit_thresholds(acc, stage)
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
        flags = self._filter.flags(rows, _fitted(model.thresholds), model.limits, model.cuts)
        flagged[rows.position] = flags
        chosen = rows.chosen(np.flatnonzero(flags))
        suggestions = suggestions_of(batch, chosen, model.neighbours, self._neighbour_view, model.classes, self.seed)
        return Scores(score, threshold, flagged, columns.strings(batch, "label"), REASON, suggestions)

    def rows(self, batch: pa.RecordBatch, model: LabelNoiseModel) -> Rows:
        """Return the samples of the judged classes with their out-of-sample probabilities.

        Raises:
            MissingColumnError: the batch lacks a role.
            InvalidSampleError: a label outside the classes, or probabilities of another width.
        """
        position, label, tie = self._labelled(batch, model)
        if self.view == "pred_probs":
            pred_probs, top = columns.probabilities_and_top(batch)
            if pred_probs.shape[1] != len(model.classes):
                raise InvalidSampleError(
                    f"pred_probs has {pred_probs.shape[1]} columns, there are {len(model.classes)} classes.",
                    hint="Give `classes` in the order of the columns.",
                    column="pred_probs",
                )
            return Rows(position, label, pred_probs, tie, top)
        rows, fold = self._folded(batch, position)
        pred_probs = np.zeros((len(position), len(model.classes)))
        for index in np.unique(fold).tolist():
            in_fold = np.flatnonzero(fold == index)
            pred_probs[in_fold] = model.folds[index].probabilities(rows[in_fold])
        return Rows(position, label, pred_probs, tie, pred_probs.argmax(axis=1))

    def evidence(self, model: LabelNoiseModel) -> tuple[GroupEvidence, ...]:
        """Return for each class the estimated label errors, from the calibrated joint, with an interval.

        What the interval holds is said at `class_evidence`. `statistic`: threshold (the bar for the score, see the
        class), self_confidence_mean (of the samples given the class), noise_rate (estimated errors by samples),
        expected_by_model (the part that the probabilities themselves expect), judged (0 or 1). `top_features`: the
        likeliest classes of these errors with their estimates; `statistic` pair_1_low, pair_1_high, ... the intervals.
        Of given pred_probs one more group says how well they agree with the labels (`millcert.checks.in_sample`).
        """
        found = [self._class_evidence(model, index) for index in range(len(model.classes))]
        found += [
            GroupEvidence(label, label, "", samples, {"judged": 0.0}, False, 0.0, 0.0, float(samples), None)
            for label, samples in model.skipped.items()
        ]
        if model.agreement is not None:
            found.append(agreement_evidence(model.agreement, int(_fitted(model.label_counts).sum()), found))
        return tuple(sorted(found, key=lambda item: item.group))

    def notices(self, model: LabelNoiseModel) -> tuple[str, ...]:
        """Return what a person should know of the input besides flags: given probabilities that are too good."""
        return (model.agreement.notice,) if model.agreement and model.agreement.notice else ()

    def rates(self, model: LabelNoiseModel) -> Rates:
        """Return how many labels of each class are confidently of each other one, to compare with another version's."""
        return pair_rates(model.classes, _fitted(model.label_counts), _fitted(model.confident))

    def _class_evidence(self, model: LabelNoiseModel, index: int) -> GroupEvidence:
        cells = _fitted(model.joint), _fitted(model.confident), _fitted(model.predicted)
        return class_evidence(
            model.classes[index],
            int(_fitted(model.label_counts)[index]),
            class_counts(model.classes, index, *cells),
            expected=float(_fitted(model.expected)[index]),
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
        """Return the first 8 bytes of each sample digest, big-endian, uint64 (n,); zeros where none are needed."""
        if "sample_digest" not in self.columns:
            return np.zeros(batch.num_rows, dtype=np.uint64)
        return digest_heads(columns.digests(batch))

    def _folds_of(self, key: np.ndarray) -> np.ndarray:
        return fold_of(key, self.folds, self.seed)

    def _sums_of(self, batch: pa.RecordBatch, rows: np.ndarray, refine: int) -> Accumulator:
        label = columns.strings(batch, "label")
        if self.classes:
            codes_of(label, self.classes)
        return sums_of(label, rows, self._folds_of(self._digest_key(batch)), refine=refine)

    def _second_sums(self, batch: pa.RecordBatch) -> Accumulator:
        if self.second_view is None:
            return {}
        return self._sums_of(batch, view_rows(batch, self.second_view, self.seed), 0)

    def _fit_sums(self, acc: Accumulator) -> LabelNoiseModel:
        sums, has_roots = without_roots_mark({key: part for key, part in acc.items() if not key.startswith(ROWS)})
        found = fit_fold_models(
            sums,
            folds=self.folds,
            classes=self.classes,
            skip_rare=self.rare_classes == "skip",
            shrinkage=self.shrinkage,
            has_roots=has_roots,
        )
        digest, label, rows = whole_sample(acc)
        keys = label_keys(found.classes)
        order = np.argsort(keys)
        place = order[np.minimum(np.searchsorted(keys[order], label), len(keys) - 1)]
        judged = np.flatnonzero(keys[place] == label)
        fold = self._folds_of(digest[judged])
        models, means = refined(found.models, place[judged], rows[judged], fold, steps=self.refine)
        of_class = dict.fromkeys(found.classes, 0)
        for key, part in sums.items():
            _, is_of_class, name = key.partition("/")
            if is_of_class and name in of_class:
                of_class[name] += part.count
        counts = np.array(list(of_class.values()), dtype=np.int64)
        thresholds = class_thresholds(counts, means * counts)
        return LabelNoiseModel("sums", found.classes, found.skipped, models, label_counts=counts, thresholds=thresholds)

    def _fit_thresholds(self, acc: Accumulator, stage: Stage) -> LabelNoiseModel:
        classes, samples, sums = sums_by_class(acc, self.classes)
        second = None
        thresholds = class_thresholds(samples, sums)
        if self.second_view is not None:
            moments = {group: part for group, part in acc.items() if isinstance(part, Moments)}
            second = fit_folds(
                moments, folds=self.folds, classes=(), skip_rare=True, shrinkage=self.shrinkage, target="variances"
            )
        return LabelNoiseModel(stage, classes, {}, label_counts=samples, thresholds=thresholds, second=second)

    def _labelled(self, batch: pa.RecordBatch, model: LabelNoiseModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return position, label and tie of the samples whose class is judged, as in `Rows`."""
        codes = codes_of(columns.strings(batch, "label"), (*model.classes, *model.skipped))
        position = np.flatnonzero(codes < len(model.classes))
        tie = np.zeros(len(position), dtype=np.uint64) if self.ties == "together" else self._digest_key(batch)[position]
        return position, codes[position], tie

    def _folded(self, batch: pa.RecordBatch, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of some samples, float32 (n, d), and their folds, int64 (n,)."""
        rows = view_rows(batch, self.view, self.seed)[position]
        return rows, self._folds_of(self._digest_key(batch)[position])

    def _second_opinion(
        self, batch: pa.RecordBatch, model: LabelNoiseModel, position: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the second view's likeliest class of some samples and its probability, as `agreement_part` takes."""
        if model.second is None or self.second_view is None:
            return None
        taken = batch.take(pa.array(position))
        fold, label = self._folds_of(self._digest_key(taken)), columns.strings(taken, "label")
        return second_opinion(model.second, model.classes, view_rows(taken, self.second_view, self.seed), fold, label)

    @property
    def _neighbour_view(self) -> View | None:
        return self.second_view if self.view == "pred_probs" else self.view

    @property
    def _scores_as_filtered(self) -> bool:
        """Whether the score is the filter's own, so that class thresholds and cuts are bars for it."""
        return self.score_by in (None, self._filter.score_by) and not self.adjust_pred_probs

    def _quality(self, rows: Rows, thresholds: np.ndarray) -> np.ndarray:
        pred_probs = less_thresholds(rows.pred_probs, thresholds) if self.adjust_pred_probs else rows.pred_probs
        return label_quality(rows.label, pred_probs, self.score_by or self._filter.score_by)

    def _joint_parts(self, batch: pa.RecordBatch, model: LabelNoiseModel) -> list[Accumulator]:
        rows, thresholds = self.rows(batch, model), _fitted(model.thresholds)
        quality = None if self._scores_as_filtered else self._quality(rows, thresholds)
        guess = confident_class(rows.pred_probs, thresholds, rows.top)
        parts = joint_parts(rows, guess, self._filter, thresholds, quality)
        found: list[Accumulator] = [parts, null_part(rows, guess)]
        found.append(trusted_parts(batch, rows, guess, self._neighbour_view, len(thresholds), self.seed))
        if self.view == "pred_probs":
            second = self._second_opinion(batch, model, rows.position)
            found.append({AGREEMENT: agreement_part(rows.label, rows.pred_probs, rows.top, second)})
        return found

    def _add_lowest(self, acc: Accumulator, rows: Rows, model: LabelNoiseModel) -> Accumulator:
        return add_lowest(acc, rows, _fitted(model.limits), _fitted(model.bounds), self._filter)

    def _fit_joint(self, acc: Accumulator, model: LabelNoiseModel) -> LabelNoiseModel:
        none, counts = ClassCells.zero(len(model.classes)), _fitted(model.label_counts)
        parts = [part for part in acc.values() if isinstance(part, JointPart)]
        null = acc.get(NULL, NullPart(np.zeros(len(model.classes), dtype=np.int64)))
        neighbours = ConfidentNeighbours.of(acc[key] for key in sorted(acc) if key.startswith(PREFIX))
        confident = none.merge(part.confident for part in parts)
        joint = calibrate_joint(confident, counts)
        issues = sum(part.issues for part in parts)
        predicted = none.merge(part.predicted for part in parts)
        limits = self._filter.limits(joint, counts, issues) if self._filter.ranks else None
        qualities = [part.quality for part in parts if part.quality is not None]
        means = _fitted(model.thresholds)
        if not self._scores_as_filtered:
            means = ExactSum.zero(len(counts)).merge(qualities).value() / np.maximum(counts, 1)
        is_suspicious = none.merge(part.flagged for part in parts).diagonal() > 0
        bars = 1 - np.minimum(means, 1.0)
        return replace(
            model,
            stage="joint",
            joint=joint,
            issues=issues,
            limits=limits,
            bounds=None if limits is None else self._filter.first_bounds(limits, predicted),
            is_suspicious=is_suspicious,
            bars=bars,
            neighbours=neighbours,
            confident=confident,
            predicted=predicted,
            expected=null.expected / 2.0**NULL_BITS,
            agreement=judge_agreement(acc[AGREEMENT]) if AGREEMENT in acc else None,
            second=None,
        )

    def _fit_cutoffs(self, acc: Accumulator, known: LabelNoiseModel) -> LabelNoiseModel:
        return fit_cutoffs(acc, known, self._filter, bars_are_cuts=self._scores_as_filtered)


CHECK = LabelNoise


def _fitted(value: _T | None) -> _T:
    if value is None:
        raise InternalError("label_noise was given a model of an earlier pass.")
    return value
