"""Robust spectral detection of backdoors, with no poison rate asked for and silence on clean data.

A trigger puts a part of the target class in a direction that no other class uses; one that moves every class puts a
part of each in one direction. For each class:

  1. Pass 1 sums moments. Each class is measured by the covariance of all others; up to 32 directions are kept in which
     it varies most (`millcert.checks.contrast`).
  2. Pass 2 takes samples of each class, bounded and the same in any order. Trimmed whitening, skewness, kurtosis and
     linear discriminants find up to three directions that divide it (`millcert.checks.direction_search`), and one that
     divides most classes together (`millcert.checks.shared_part`). What is apart along them is looked into: is it what
     its label says, but for what sets it apart (`millcert.checks.label_content`)?
  3. Pass 3 counts all samples' positions along these, at steps of about 3 % of the distance from the mode.
  4. A direction is evidence if its positions make two parts (`millcert.checks.hidden_part`), and
       a. Ashman's D is above 4: the parts hardly overlap;
       b. the valley between them is emptier than one part allows, family-wise over classes, directions and places
          (`millcert.checks.valley`);
       c. the parts are further from one another than `sqrt(2)` times the distance at which any other class stands from
          the rest (twice the median distance, where that is less); or
       d. the odd part is mislabelled: surely more than half of it has the content of other classes, and of several.
     Rules c and d are what a clean class with natural sub-classes does not meet: poison stands apart like a class that
     the labels do not know, or is made of classes that they know. For most classes together d alone is asked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity, merge_alike, merge_groups
from millcert.checks.class_lines import Frame
from millcert.checks.class_moments import final_moments, no_rows, unfolded, within_budget
from millcert.checks.class_rows import rows_by_class
from millcert.checks.columns import strings, unread_matrix
from millcert.checks.contrast import ClassContrast, class_contrasts
from millcert.checks.direction_search import dividing_directions
from millcert.checks.flagging import Counts
from millcert.checks.hidden_part import LEAST_GAP_OVER_DISTANCE, HiddenPart, Line, find_hidden_part, in_class
from millcert.checks.line_counts import LineCounts, histogram_of
from millcert.checks.row_sample import RowSample, TwoSamples
from millcert.checks.shared_part import (
    SampledLines,
    SharedLine,
    WithinClasses,
    labelled_rows,
    mislabelled_lines,
    rows_of_class,
    shared_line,
    within_classes,
)
from millcert.checks.top_columns import top_columns
from millcert.checks.valley import Middle, middle_of
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

#: Directions that are looked along.
DIRECTIONS = 3
#: Below this many samples a class is not tested: no valley could be significant.
LEAST_SAMPLES = 24


@dataclass(frozen=True)
class _Finding:
    """What was found in a class: the best candidate along the frame's only direction, and figures for the evidence."""

    part: HiddenPart | None
    statistic: tuple[tuple[str, float], ...]

    @property
    def is_suspicious(self) -> bool:
        return self.part is not None and self.part.is_hidden


class _Within(NamedTuple):
    """How classes vary about their centres, and each class's directions for folded rows, (columns, m)."""

    classes: WithinClasses
    directions: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class RobustSpectralModel:
    """The model after any pass. `frames` serve the next pass or scoring; `findings` are empty before the last pass.

    columns: that the covariances are of, once folded.
    floors: row exponent that most rows of a class have: no row need be held finer to be placed along a direction.
    within: what the samples of pass 2 are looked at in; after pass 1 alone.
    shared: line along which all classes have a mislabelled part; the first of every frame, where there is one.
    mislabelled: of each line of a class's frame, the share of its odd part with content of other classes; 0 where that
        is not surely more than half.
    """

    stage: int
    width: int
    contrasts: Mapping[str, ClassContrast]
    frames: Mapping[str, Frame]
    findings: Mapping[str, _Finding]
    columns: int
    floors: Mapping[str, int]
    within: "_Within | None" = None
    shared: SharedLine | None = None
    mislabelled: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class RobustSpectral:
    """Flag the part of a class that stands apart from it as no other class varies: backdoors with one target class.

    Needs: label, source, embedding_self (float32, d): features of a model trained on this very data, for a backdoor
        shows only in a model that learnt it. On features of another model this check finds little.
    Passes: 3, and scoring.
    Accumulator: pass 1 8 x w * w bytes a class and exponent, w = min(d, max_dimension), so 132 kB at d = 128, and 256
        MB in all; pass 2 at most 2,048 rows of 136 bytes a class, fewer (256 at least) where all classes would take
        more than 64 MB, and 2,048 rows of 4 w + 8 bytes of all classes (16 to 1,024 of each); pass 3 at most 64 kB a
        class, and 8 kB and 16 bytes an occupied bin (of 4,096) a source of it.
    Cost of fitting: about 0.2 s of search a class of 2,048 samples or more, 0.1 s one of 500; 0.6 s for all together.
    Finds: triggers that the model learnt, fixed or blended, with one target class: from about 2 to 50 % of that class
        and 30 samples, wherever the model's layer draws them apart. A layer that averages positions (the last
        convolution) or the first of a perceptron does; the last hidden layer of a small perceptron often does not.
        All-to-all attacks from about 5 % of the data; adaptive attacks with cover samples where a third of the class
        is poisoned.
    Does not find: triggers that the model did not learn; fewer than about 30 samples; parts that overlap their class (D
        below 4), as adaptive attacks with few poisoned samples leave; triggers with the right label, where they leave
        no part; all-to-all attacks with fewer samples; classes under 24 samples. docs/detection.md says which check
        covers these, with figures.
        Half of the classes would have to be far apart by design to raise the bar of rule c; `gap_needed` shows it.
    False alarms that remain: a class with a sub-class that is as distinct as a class of its own; a natural feature of
        many samples of most classes that hides what they are from a linear discriminant. They look the same.
    Source: over-trimmed whitening: Hayase et al., SPECTRE, ICML 2021, sections 3 and 4. Differs: whitened by the other
        classes, not by the class itself; no poison rate; a search for directions and a test decide. Figures:
        bench/robust_spectral.py.

    max_dimension: columns of wider embeddings are folded to this many, in [2, 512]; to fewer where the covariances of
        all classes would take more than 256 MB (`millcert.checks.class_moments`).
    max_directions: directions kept of a class, in [2, 64].
    seed: of the folds.
    """

    name: ClassVar[str] = "robust_spectral"
    version: ClassVar[str] = "4"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "source", "embedding_self"})
    severity: ClassVar[Severity] = "reject"
    covers: ClassVar[frozenset[str]] = frozenset({"backdoor_dirty_label"})
    reason: ClassVar[str] = "robust_spectral.hidden_part"

    max_dimension: int = 256
    max_directions: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.max_dimension <= 512:
            raise PolicyError(f"max_dimension must be in [2, 512], got {self.max_dimension}.")
        if not 2 <= self.max_directions <= 64:
            raise PolicyError(f"max_directions must be in [2, 64], got {self.max_directions}.")

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 3

    @property
    def most_columns(self) -> int:
        """Columns that the sums of a class keep at most (`millcert.checks.class_moments.FoldsColumns`)."""
        return self.max_dimension

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: RobustSpectralModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        rows, labels, sources = (
            unread_matrix(batch, "embedding_self"),
            strings(batch, "label"),
            strings(batch, "source"),
        )
        if not len(rows):
            return dict(acc)
        added = dict(acc)
        if model is not None:
            _check_width(rows.shape[1], model.width)
        floors = None if model is None else model.floors
        for of_class in rows_by_class(
            rows, labels, sources if model is not None and model.stage == 2 else None, floors
        ):
            label, part = of_class.label, added.get(of_class.label)
            if model is None:
                sums = part if part is not None else no_rows(rows.shape[1], self.max_dimension, self.seed)
                _check_width(rows.shape[1], sums.fold.width)
                added[label] = sums.add_quantised(of_class.whole, of_class.exponent)
            elif label in model.frames:
                frame = model.frames[label]
                if model.stage == 1:
                    sought = part if part is not None else _no_samples(model, frame)
                    added[label] = sought.add(
                        of_class.whole, of_class.exponent, frame.apply, _within(model).classes.fold
                    )
                else:
                    lines = part if part is not None else LineCounts.zero()
                    rows_apart = frame.apply(of_class.whole, of_class.exponent)
                    added[label] = lines.add(rows_apart, frame.middle, of_class.sources)
        return within_budget(added, self.max_dimension) if model is None else added

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`."""
        return merge_groups(accs, merge_alike)

    def fit(self, acc: Accumulator, model: RobustSpectralModel | None) -> RobustSpectralModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: fewer than two classes, or no class of 24 samples.
            InvalidSampleError: classes with embeddings of other widths.
        """
        if model is None:
            return self._after_sums(acc)
        return _after_search(acc, model) if model.stage == 1 else _after_lines(acc, model)

    def score(self, model: RobustSpectralModel, batch: pa.RecordBatch) -> Scores:
        """Return scores: in a suspicious class 0 at the border, about -1 at the clean part and 1 at the odd part.

        In any other class a score lies in [-3, -2] and nothing is flagged.
        """
        rows, labels = unread_matrix(batch, "embedding_self"), strings(batch, "label")
        score = np.full(len(rows), -3.0)
        threshold = np.full(len(rows), np.inf)
        if len(rows):
            _check_width(rows.shape[1], model.width)
            for label, places, whole, exponent, _ in rows_by_class(rows, labels, None, model.floors):
                finding = model.findings.get(label)
                if finding is None or label not in model.frames:
                    continue
                frame = model.frames[label]
                position = frame.apply(whole, exponent)[:, 0]
                if finding.part is not None and finding.is_suspicious:
                    score[places] = (position * finding.part.sign - finding.part.border) / finding.part.half_gap
                    threshold[places] = 0.0
                else:
                    score[places] = -2 - 1 / (1 + np.abs(position - frame.middle[0].mode))
        return Scores(score, threshold, score > threshold, labels, self.reason)

    def evidence(self, model: RobustSpectralModel) -> tuple[GroupEvidence, ...]:
        """Return what was found of each class, sorted.

        Statistics: `tested` (0 where the class is too small to be judged), `ashman_d`, `gap` and `gap_needed` (in
        the others' standard deviations; of a part of most classes, in theirs), `class_distance`, `odd_fraction`,
        `mislabelled_fraction` (of the odd part; 0 where it is not surely more than half), `directions`,
        `covariance_columns` (less than the embedding's width where columns were folded), and `flagged_fraction of
        SOURCE` for the sources with most flagged samples. `top_features`: the columns of the embedding that weigh most
        in the direction.
        """
        evidence = []
        for label, finding in sorted(model.findings.items()):
            part = finding.part if finding.is_suspicious else None
            evidence.append(
                GroupEvidence(
                    group=label,
                    label=label,
                    source="",
                    samples=model.contrasts[label].samples,
                    statistic={**dict(finding.statistic), "covariance_columns": float(model.columns)},
                    is_suspicious=part is not None,
                    estimated_count=part.estimate if part else 0.0,
                    count_low=part.low if part else 0.0,
                    count_high=part.high if part else 0.0,
                    p_value=finding.part.p_value if finding.part else None,
                    top_features=top_columns("embedding_self", model.frames[label].first_weights) if part else (),
                )
            )
        return tuple(evidence)

    def _after_sums(self, acc: Accumulator) -> RobustSpectralModel:
        widths = {part.fold.width for part in acc.values()}
        if len(widths) > 1:
            raise InvalidSampleError("Embeddings have several widths.", column="embedding_self", widths=sorted(widths))
        if not widths:
            raise NotEnoughSamplesError("There are no samples.")
        classes, fold = final_moments(acc, self.max_dimension)
        narrow = class_contrasts(classes, max_directions=self.max_directions)
        contrasts = {
            label: replace(contrast, directions=unfolded(fold, contrast.directions))
            for label, contrast in narrow.items()
        }
        if max(contrast.samples for contrast in contrasts.values()) < LEAST_SAMPLES:
            raise NotEnoughSamplesError(f"No class has the {LEAST_SAMPLES} samples that a judgement needs.")
        frames = {
            label: Frame.of(contrast, np.eye(len(contrast.variance)), ())
            for label, contrast in sorted(contrasts.items())
            if contrast.samples >= LEAST_SAMPLES and len(contrast.variance)
        }
        floors = {
            label: max(part.scales, key=lambda scale: (scale.rows, scale.exponent)).exponent
            for label, part in classes.items()
            if part.scales
        }
        within = None
        if frames:
            own = {label: narrow[label].directions for label in frames}
            within = _Within(within_classes({label: classes[label] for label in frames}, fold), own)
        return RobustSpectralModel(1, widths.pop(), contrasts, frames, {}, fold.columns, floors, within)


def _after_search(acc: Accumulator, model: RobustSpectralModel) -> RobustSpectralModel:
    """Choose the directions to look along, in the samples; a class's own widest where none divides it."""
    lines: dict[str, SampledLines] = {}
    alike: dict[str, np.ndarray] = {}
    turned: dict[str, np.ndarray] = {}
    for label, frame in sorted(model.frames.items()):
        sampled = acc.get(label, _no_samples(model, frame))
        _check_count(label, sampled.own.samples, model.contrasts[label].samples)
        own, alike[label] = sampled.own.rows.astype(np.float64), sampled.alike.rows.astype(np.float64)
        found = dividing_directions(own, DIRECTIONS)
        turned[label] = found if found.shape[1] else np.eye(len(frame.offset))[:, :1]
        weights, offset = _within(model).directions[label] @ turned[label], frame.offset @ turned[label]
        lines[label] = SampledLines(own @ turned[label], alike[label] @ weights - offset, weights, own.shape[1])
    if not lines:
        return replace(model, stage=2, within=None)
    within, tests = _within(model).classes, _tests(model)
    rows = labelled_rows(within, alike)
    shared, mislabelled = shared_line(within, rows, tests), mislabelled_lines(within, rows, lines, tests)
    frames = {}
    for label, directions in turned.items():
        middle = tuple(middle_of(np.sort(line)) or Middle(0.0, 1.0) for line in lines[label].positions.T)
        frames[label] = Frame.of(model.contrasts[label], directions, middle)
        if shared is not None:
            frames[label] = frames[label].after(
                unfolded(within.fold, shared.weights), shared.offsets[label], shared.middle
            )
            mislabelled[label] = (shared.content.mislabelled_fraction, *mislabelled[label])
    return replace(model, stage=2, frames=frames, within=None, shared=shared, mislabelled=mislabelled)


def _no_samples(model: RobustSpectralModel, frame: Frame) -> TwoSamples:
    classes, fold = len(model.frames), _within(model).classes.fold
    return TwoSamples(
        RowSample.zero(classes, len(frame.offset)), RowSample.of_most(rows_of_class(classes), fold.columns)
    )


def _within(model: RobustSpectralModel) -> _Within:
    if model.within is None:
        raise InternalError("The first pass left nothing to look at samples in.")
    return model.within


def _tests(model: RobustSpectralModel) -> int:
    """Return how many lines are tested in all: those of each class, and those that all share."""
    return DIRECTIONS * (len(model.frames) + 1)


def _after_lines(acc: Accumulator, model: RobustSpectralModel) -> RobustSpectralModel:
    """Judge every class along its directions and keep the one that says most."""
    frames, findings = {}, {}
    counted = {label: acc.get(label, LineCounts.zero()).told_apart() for label in model.frames}
    shared = _shared_part(counted, model)
    for label, contrast in sorted(model.contrasts.items()):
        figures = {"tested": 0.0, "class_distance": contrast.distance}
        frame, part = model.frames.get(label), None
        if frame is not None:
            lines = counted[label]
            counts = lines.all_sources()
            _check_count(label, counts.total // len(frame.offset), contrast.samples)
            gap_needed = LEAST_GAP_OVER_DISTANCE * _farthest(model, label)
            chosen, part = _best_line(counts, frame, gap_needed, model, label)
            if shared is not None and (part is None or not part.is_hidden):
                of_class = in_class(shared, histogram_of(counts, 0, frame.middle[0]))
                chosen, part = (0, of_class) if of_class is not None else (chosen, part)
            frames[label] = frame.only(chosen)
            figures |= {"tested": 1.0, "directions": float(len(frame.offset)), "gap_needed": gap_needed}
            figures |= {"mislabelled_fraction": model.mislabelled[label][chosen]}
            if part is not None:
                figures |= {"ashman_d": part.ashman_d, "gap": part.gap, "odd_fraction": part.odd_fraction}
            if part is not None and part.is_hidden:
                above = lines.fractions_above(chosen, frame.middle[chosen], part.sign, part.border)
                figures |= {f"flagged_fraction of {source}": share for source, share in above.items()}
        findings[label] = _Finding(part, tuple(sorted(figures.items())))
    return replace(model, stage=3, frames=frames, findings=findings)


def _shared_part(counted: Mapping[str, LineCounts], model: RobustSpectralModel) -> HiddenPart | None:
    """Return the odd part of all classes together along the line that they share, where it is evidence."""
    if model.shared is None:
        return None
    every = Counts.zero().merge(lines.all_sources() for lines in counted.values())
    middle = model.shared.middle
    # Rule d stands for rule c: the content was looked at when the line was chosen.
    part = find_hidden_part(
        histogram_of(every, 0, middle), Line(middle, middle.mode, 0.0, _tests(model), model.shared.dimension)
    )
    return part if part is not None and part.is_hidden else None


def _best_line(
    counts: Counts, frame: Frame, gap_needed: float, model: RobustSpectralModel, label: str
) -> tuple[int, HiddenPart | None]:
    """Return the class's own direction with the best candidate, and the candidate; the first where there is none."""
    first = 0 if model.shared is None else 1
    best: tuple[int, HiddenPart | None] = (first, None)
    dimension = len(model.contrasts[label].variance)
    for direction in range(first, len(frame.middle)):
        middle = frame.middle[direction]
        histogram = histogram_of(counts, direction, middle)
        needed = 0.0 if model.mislabelled[label][direction] else gap_needed
        part = find_hidden_part(
            histogram, Line(middle, float(frame.others[direction]), needed, _tests(model), dimension)
        )
        if part is not None and (best[1] is None or part.rank > best[1].rank):
            best = (direction, part)
    return best


def _farthest(model: RobustSpectralModel, label: str) -> float:
    """Return the largest distance at which another class stands from its others, at most twice the median distance.

    The bound keeps a few odd classes, honest or planted, from muting the check for all others; in the clean sets of the
    bench and the tests the largest is 1.2 to 1.8 times the median.
    """
    others = {other: contrast for other, contrast in model.contrasts.items() if other != label}
    large = [contrast.distance for other, contrast in others.items() if other in model.frames]
    distances = large or [contrast.distance for contrast in others.values()]
    return float(min(max(distances), 2 * np.median(distances)))


def _check_count(label: str, found: int, expected: int) -> None:
    if found != expected:
        raise InternalError(f"A later pass saw {found} samples of class {label!r}, the first one {expected}.")


def _check_width(width: int, expected: int) -> None:
    if width != expected:
        raise InvalidSampleError(
            f"Embeddings have width {width}; others of this data set have {expected}.",
            hint="All samples must have embeddings of one model.",
            column="embedding_self",
        )


CHECK = RobustSpectral
