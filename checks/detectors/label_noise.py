"""Label noise by confident learning (Northcutt, Jiang, Chuang, JAIR 70, 2021), equal to cleanlab, in passes that merge.

Passes, each a full read: [labels: which classes there are, where `classes` is empty | sums: the out-of-fold models,
where the view is an embedding] -> thresholds: mean self-confidence of each class -> joint: confident counts of given
and true label -> [cutoffs: the most suspect samples of each cell, where `filter_by` ranks samples].

Flags are those of `cleanlab.filter.find_label_issues` 2.9 for the same float64 probabilities, as
tests/checks/test_label_noise_equals_cleanlab.py holds, with two differences, both where cleanlab's own answer depends
on the order of rows:
  - Where samples tie at a cut, cleanlab takes whichever its unstable sort meets first, which also depends on the
    processor. Here the sample digest decides: the answer is cleanlab's for rows sorted by digest under a stable sort.
    Samples with equal values and equal first 8 bytes of digest share one answer.
  - A class threshold here is the exact mean, rounded once; cleanlab's is off in the last bits. It matters only for a
    probability that equals a threshold less 1e-6 to within those bits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import pyarrow as pa

from millcert.checks import columns
from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity
from millcert.checks.class_columns import LabelCount, classes_of, codes_of, count_labels, merge_counts
from millcert.checks.confident_learning import agrees_with_given, calibrate_joint, class_thresholds, confident_class
from millcert.checks.discriminant import Discriminant
from millcert.checks.exact import ExactSum
from millcert.checks.fold_sums import fit_folds, fold_of, sum_by_fold
from millcert.checks.label_filter import FILTERS, ClassCut, FilterBy, LabelFilter, Rows
from millcert.checks.margin_cutoff import LowestValues
from millcert.checks.moments import Moments
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

View: TypeAlias = Literal["embedding_external", "embedding_self", "pred_probs"]
Stage: TypeAlias = Literal["configured", "labels", "sums", "thresholds", "joint", "cutoffs"]

REASON = "label_noise.given_label_unlikely"

_VIEWS: tuple[str, ...] = get_args(View)


class JointRow(NamedTuple):
    """Part of pass "joint", for one given label.

    confident: int64 (K,), samples confidently of each class.
    issues: off-diagonal ones whose given label is not the predicted one.
    flagged: samples that the filter flags without looking at ranks.
    """

    confident: np.ndarray
    issues: int
    flagged: int


@dataclass(frozen=True, eq=False)
class LabelNoiseModel:
    """What the passes so far know; arrays are in the order of `classes`.

    stage: the last pass that was fitted.
    classes: the judged classes, as the columns of the probabilities.
    skipped: classes that are not judged -> their samples (`rare_classes="skip"`).
    discriminants: one for each fold; empty in the view pred_probs.
    label_counts: int64 (K,).
    thresholds: float64 (K,).
    joint: int64 (K, K), calibrated: rows are given labels, columns true ones.
    issues: the number of confident off-diagonal samples.
    cuts: for each class, or one for all where the filter ranks all samples together.
    is_suspicious: bool (K,), whether anything in the class is flagged.

    Size: 8 x folds x d x K + 20 x K x K bytes at most.
    """

    stage: Stage
    classes: tuple[str, ...]
    skipped: Mapping[str, int]
    discriminants: tuple[Discriminant, ...] = ()
    label_counts: np.ndarray | None = None
    thresholds: np.ndarray | None = None
    joint: np.ndarray | None = None
    issues: int = 0
    cuts: tuple[ClassCut, ...] = ()
    is_suspicious: np.ndarray | None = None


@dataclass(frozen=True)
class LabelNoise:
    """Flag samples whose given label is unlikely under out-of-sample class probabilities.

    Score: 1 - p(given label); under `filter_by="low_normalized_margin"` 1 - (p(given) - largest other p + 1) / 2. In
    [0, 1]. A flag is decided by cell (given class, likely class), so `Scores.threshold` is only the group's bar: 1 -
    the class cut for the filters with one, else 1 - the class's mean self-confidence; `Scores.flagged` is what counts.

    filter_by: as in cleanlab, all seven methods.
    classes: order of the columns of pred_probs. Empty: the labels found, sorted, as numbers if all are integers; where
        pred_probs is wider than the labels found, labels that are integers name their column. Naming them saves a read.
    view: an embedding, from which out-of-fold probabilities are made, or given pred_probs. Label disagreement is
        visible in an embedding from a model that never saw the data; one trained on it tends to agree with its errors.
    folds: for an embedding view, at least 2.
    shrinkage: of the shared covariance, in (0, 1]; None for the oracle-approximating rule.
    min_examples_per_class: classes are never pruned below this; as in cleanlab.
    ties: "by_digest" needs sample_digest. "together" does not (view pred_probs only), and flags all that tie at a cut.
    rare_classes: what to do with a class whose samples all fall into one fold, so that no model knows it: "refuse", or
        "skip" it: never flagged, and reported with "judged" 0.

    Groups: the class. Needs: label, the view, sample_digest unless ties are "together".
    Passes: 2 or 3 (`filter_by`), 1 more for an embedding or where `classes` is empty.
    Accumulator: 8 x folds x (d x d + K x d) bytes for each of 1 to 3 exponents (pass "sums"); K x K counts; in pass
    "cutoffs" 29 bytes for each estimated label error, at most twice that.
    Source: JAIR 70 (2021), sections 3.1 to 3.3; discriminant: `millcert.checks.discriminant`.
    """

    name: ClassVar[str] = "label_noise"
    version: ClassVar[str] = "1"
    severity: ClassVar[Severity] = "warn"
    #: These two are of the default configuration; an instance has its own. A model that was trained on the suspect data
    #: has learned flips made on purpose.
    covers: ClassVar[frozenset[str]] = frozenset({"label_noise", "targeted_label_flips"})
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "embedding_external", "sample_digest"})

    filter_by: FilterBy = "prune_by_noise_rate"
    classes: tuple[str, ...] = ()
    view: View = "embedding_external"
    folds: int = 5
    shrinkage: float | None = None
    min_examples_per_class: int = 1
    ties: Literal["by_digest", "together"] = "by_digest"
    rare_classes: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        faults = [
            (self.filter_by not in FILTERS, f"filter_by must be one of {sorted(FILTERS)}, got {self.filter_by!r}"),
            (self.view not in _VIEWS, f"view must be one of {sorted(_VIEWS)}, got {self.view!r}"),
            (len(set(self.classes)) != len(self.classes), "classes must be distinct"),
            (len(self.classes) == 1, "classes must be empty or at least 2"),
            (not 2 <= self.folds <= 1000, f"folds must be in 2..1000, got {self.folds}"),
            (
                self.shrinkage is not None and not 0 < self.shrinkage <= 1,
                f"shrinkage must be in (0, 1], got {self.shrinkage}",
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
        first: tuple[Stage, ...] = ("sums",) if self.view != "pred_probs" else () if self.classes else ("labels",)
        last: tuple[Stage, ...] = ("cutoffs",) if self._filter.ranks else ()
        return (*first, "thresholds", "joint", *last)

    @property
    def passes(self) -> int:
        """How many full reads of the data `fit` needs."""
        return len(self.stages)

    @property
    def _filter(self) -> LabelFilter:
        return LabelFilter(self.filter_by, self.min_examples_per_class)

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: LabelNoiseModel | None) -> Accumulator:
        """Return `acc` with a batch added; a group is a class, in pass "sums" a fold or a class of a fold.

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
        rows = self._read(batch, known)
        grown = dict(acc)
        limits = self._limits(known) if stage == "cutoffs" else None
        for index, _, chosen in rows.by_class():
            label = known.classes[index]
            if stage == "thresholds":
                grown[label] = grown.get(label, ExactSum.zero(1)).add(chosen.pred_probs[:, index])
            elif limits is None:
                added = self._joint_row(chosen, known)
                grown[label] = _merge_parts([grown[label], added] if label in grown else [added])
            else:
                grown[label] = self._filter.add_lowest(grown.get(label), limits[index], chosen)
        return grown

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        parts: dict[str, list[Any]] = {}
        for acc in accs:
            for group, part in acc.items():
                parts.setdefault(group, []).append(part)
        return {group: _merge_parts(found) for group, found in parts.items()}

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
            skip = self.rare_classes == "skip"
            models = fit_folds(acc, folds=self.folds, classes=self.classes, skip_rare=skip, shrinkage=self.shrinkage)
            return LabelNoiseModel(stage, models.classes, models.skipped, models.discriminants)
        if stage == "thresholds":
            sums: list[ExactSum] = [acc.get(label, ExactSum.zero(1)) for label in known.classes]
            counts = np.array([part.count for part in sums], dtype=np.int64)
            thresholds = class_thresholds(counts, np.array([part.value()[0] for part in sums]))
            return replace(known, stage=stage, label_counts=counts, thresholds=thresholds)
        return self._fit_joint(acc, known) if stage == "joint" else self._fit_cutoffs(acc, known)

    def score(self, model: LabelNoiseModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; samples of skipped classes score 0.

        Cost: n x K comparisons, besides the discriminant.
        """
        if model.stage != self.stages[-1]:
            raise InternalError(f"label_noise was asked to score after pass {model.stage!r}, not its last.")
        rows = self._read(batch, model)
        score = np.zeros(batch.num_rows)
        score[rows.position] = 1 - self._filter.quality(rows)
        threshold = np.full(batch.num_rows, np.inf)
        threshold[rows.position] = np.where(_fitted(model.is_suspicious), self._bars(model), np.inf)[rows.label]
        flagged = np.zeros(batch.num_rows, dtype=np.bool_)
        flagged[rows.position] = self._filter.flags(rows, _fitted(model.thresholds), model.cuts)
        return Scores(score, threshold, flagged, columns.strings(batch, "label"), REASON)

    def evidence(self, model: LabelNoiseModel) -> tuple[GroupEvidence, ...]:
        """Return for each class the estimated label errors, from the calibrated joint, with a 95 % Wilson interval.

        The interval is for the share of a class under independent sampling; whether the probabilities fit is not in it.
        `statistic`: threshold (the bar for the score, see the class), self_confidence_mean (of the samples given the
        class), noise_rate (estimated errors by samples), judged (0 or 1).
        """
        bars = self._bars(model)
        found = [_class_evidence(model, index, float(bars[index])) for index in range(len(model.classes))]
        found += [
            GroupEvidence(label, label, "", samples, {"judged": 0.0}, False, 0.0, 0.0, float(samples), None)
            for label, samples in model.skipped.items()
        ]
        return tuple(sorted(found, key=lambda item: item.group))

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
        embedding = columns.matrix(batch, self.view)
        return sum_by_fold(label, embedding, fold_of(self._digest_key(batch), self.folds))

    def _read(self, batch: pa.RecordBatch, model: LabelNoiseModel) -> Rows:
        codes = codes_of(columns.strings(batch, "label"), (*model.classes, *model.skipped))
        key = self._digest_key(batch)
        judged = np.flatnonzero(codes < len(model.classes))
        if self.view == "pred_probs":
            pred_probs = columns.probabilities(batch)
            if pred_probs.shape[1] != len(model.classes):
                raise InvalidSampleError(
                    f"pred_probs has {pred_probs.shape[1]} columns, there are {len(model.classes)} classes.",
                    hint="Give `classes` in the order of the columns.",
                    column="pred_probs",
                )
            return Rows(judged, codes, pred_probs, key)
        embedding = columns.matrix(batch, self.view)
        fold = fold_of(key[judged], self.folds)
        pred_probs = np.zeros((len(judged), len(model.classes)))
        for index in np.unique(fold).tolist():
            in_fold = np.flatnonzero(fold == index)
            pred_probs[in_fold] = model.discriminants[index].probabilities(embedding[judged[in_fold]])
        return Rows(judged, codes[judged], pred_probs, key[judged])

    def _joint_row(self, rows: Rows, model: LabelNoiseModel) -> JointRow:
        thresholds = _fitted(model.thresholds)
        guess = confident_class(rows.pred_probs, thresholds)
        issues = (guess >= 0) & (guess != rows.label) & ~agrees_with_given(rows.label, rows.pred_probs)
        confident = np.bincount(guess[guess >= 0], minlength=len(model.classes)).astype(np.int64)
        flagged = 0 if self._filter.ranks else int(self._filter.flags(rows, thresholds, ()).sum())
        return JointRow(confident, int(issues.sum()), flagged)

    def _limits(self, model: LabelNoiseModel) -> np.ndarray:
        return self._filter.limits(_fitted(model.joint), _fitted(model.label_counts), model.issues)

    def _fit_joint(self, acc: Accumulator, model: LabelNoiseModel) -> LabelNoiseModel:
        none = JointRow(np.zeros(len(model.classes), dtype=np.int64), 0, 0)
        rows: list[JointRow] = [acc.get(label, none) for label in model.classes]
        joint = calibrate_joint(np.stack([row.confident for row in rows]), _fitted(model.label_counts))
        is_suspicious = np.array([row.flagged > 0 for row in rows])
        issues = sum(row.issues for row in rows)
        return replace(model, stage="joint", joint=joint, issues=issues, is_suspicious=is_suspicious)

    def _fit_cutoffs(self, acc: Accumulator, model: LabelNoiseModel) -> LabelNoiseModel:
        limits = self._limits(model)
        cells = [np.flatnonzero(row) for row in limits]
        parts: list[LowestValues] = [
            acc.get(label, LowestValues.zero(row[cell]))
            for label, row, cell in zip(model.classes, limits, cells, strict=True)
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
        return replace(model, stage="cutoffs", cuts=tuple(cuts), is_suspicious=is_suspicious)

    def _bars(self, model: LabelNoiseModel) -> np.ndarray:
        """Return the bar for the score in each class, float64 (K,), whether it is suspicious or not."""
        bars: np.ndarray = 1 - np.minimum(_fitted(model.thresholds), 1.0)
        for index, cut in enumerate(model.cuts):
            own = np.flatnonzero((cut.cells == index) | self._filter.ranks_all_classes_together)
            if len(own):
                bars[index] = 1 - cut.cutoffs.value[own[0]]
        return bars


CHECK = LabelNoise


def _fitted(array: np.ndarray | None) -> np.ndarray:
    if array is None:
        raise InternalError("label_noise was given a model of an earlier pass.")
    return array


def _merge_parts(parts: list[Any]) -> Any:
    """Return one part of parts of one group and pass."""
    first, *others = parts
    if isinstance(first, LabelCount):
        return merge_counts(parts)
    if isinstance(first, JointRow):
        confident = np.sum([part.confident for part in parts], axis=0)
        return JointRow(confident, sum(part.issues for part in parts), sum(part.flagged for part in parts))
    return first.merge(others)


def _class_evidence(model: LabelNoiseModel, index: int, bar: float) -> GroupEvidence:
    from scipy.stats import binomtest

    label, samples = model.classes[index], int(_fitted(model.label_counts)[index])
    joint = _fitted(model.joint)[index]
    is_suspicious = bool(_fitted(model.is_suspicious)[index])
    errors = min(samples, max(0, int(joint.sum()) - int(joint[index]))) if is_suspicious else 0
    low, high = binomtest(errors, samples).proportion_ci(method="wilson") if samples else (0.0, 0.0)
    statistic = {
        "threshold": bar,
        "self_confidence_mean": float(_fitted(model.thresholds)[index]) if samples else 0.0,
        "noise_rate": errors / samples if samples else 0.0,
        "judged": 1.0,
    }
    return GroupEvidence(
        label, label, "", samples, statistic, is_suspicious, float(errors), low * samples, high * samples, None
    )
