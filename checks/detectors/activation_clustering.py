"""Activation clustering (Chen et al., 2018): a poisoned class falls into two clusters, the smaller of which is poison.

The published rules, as a baseline: ten components of each class, two means, the smaller cluster below 35 % and a
silhouette above 0.15. One lump with heavy tails can meet them too, so here the split must also be sharper than one lump
of the class's own spread and tails would be split (`millcert.checks.two_means`). An honest class of two kinds still
looks like a poisoned one: it names the 1 of scikit-learn's digits, of which there are two ways to write. Nor can it see
poison that is a small
part of its class: two means then cut the class elsewhere. Use `robust_spectral` to decide; bench/detection.py prints
both.

  1. Pass 1 sums each class. Pass 2 keeps a fixed sample of each, those with the least digests, along the class's
     principal components; its two means are what scoring compares with.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity, merge_alike, merge_groups
from millcert.checks.class_moments import MOST_COLUMNS, final_moments, no_rows, unfolded, within_budget
from millcert.checks.columns import digests, matrix, strings
from millcert.checks.digest_sample import DigestSample
from millcert.checks.exact import ExactMatrix
from millcert.checks.label_groups import rows_by_text
from millcert.checks.top_columns import top_columns
from millcert.checks.two_means import Split, margin, silhouette, split_in_two, split_p_value
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

#: Samples of a class that are clustered, and the fewest of which anything is said.
SAMPLED, LEAST_SAMPLED = 2000, 50


@dataclass(frozen=True, eq=False)
class _Class:
    """A class: samples; its components; and after pass 2 the split of its sample, None where there are too few."""

    samples: int
    weights: ExactMatrix
    offset: np.ndarray
    sampled: int = 0
    split: Split | None = None
    silhouette: float = 0.0
    p_value: float = 1.0
    is_suspicious: bool = False

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Return rows along the components, float64 (n, components)."""
        return self.weights.apply(rows) - self.offset


@dataclass(frozen=True, eq=False)
class ActivationClusteringModel:
    """The model after pass `stage`. columns: of the covariances, once folded."""

    stage: int
    width: int
    classes: Mapping[str, _Class]
    columns: int


@dataclass(frozen=True)
class ActivationClustering:
    """Flag the smaller of two clusters of a class where the class falls apart in two (a published baseline).

    Needs: label, embedding_self (float32, d), sample_digest (which samples are clustered).
    Passes: 2, and scoring.
    Score: how much nearer the centre of the smaller cluster is than that of the larger, along the line of both, in the
        embedding's unit.
    Accumulator: pass 1 8 x d x d bytes a class and exponent, 256 MB in all, else columns are folded
        (`millcert.checks.class_moments`); pass 2 2,000 x components x 4 bytes a class.
    Finds: poison that is a good part of its class, from about 15 % to 35 %, in a view that was trained on it.
    False alarm that remains: an honest class of two kinds. Hence the severity.
    Does not find: poison of a few per cent of its class; whatever does not separate in the view.
    Source: Chen et al., arXiv:1811.03728, sections 4 and 5.3 (relative size, silhouette); principal for independent
        components. The null is our addition.

    components: principal components of a class, in [2, 64].
    max_share: the smaller cluster is poison only below this part of its class, in (0, 0.5].
    least_silhouette: the paper's cut is between 0.10 and 0.15.
    false_alarm_rate: the chance that any class of one lump is called suspicious, in (0, 0.1].
    seed: of the null's draws.
    """

    name: ClassVar[str] = "activation_clustering"
    version: ClassVar[str] = "2"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "embedding_self", "sample_digest"})
    severity: ClassVar[Severity] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset({"backdoor_dirty_label"})
    is_baseline: ClassVar[bool] = True
    flags_follow_threshold: ClassVar[bool] = True
    reason: ClassVar[str] = "activation_clustering.smaller_cluster"

    components: int = 10
    max_share: float = 0.35
    least_silhouette: float = 0.15
    false_alarm_rate: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.components <= 64:
            raise PolicyError(f"components must be in [2, 64], got {self.components}.")
        if not 0 < self.max_share <= 0.5:
            raise PolicyError(f"max_share must be in (0, 0.5], got {self.max_share}.")
        if not -1 <= self.least_silhouette <= 1:
            raise PolicyError(f"least_silhouette must be in [-1, 1], got {self.least_silhouette}.")
        if not 0 < self.false_alarm_rate <= 0.1:
            raise PolicyError(f"false_alarm_rate must be in (0, 0.1], got {self.false_alarm_rate}.")

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 2

    @property
    def most_columns(self) -> int:
        """Columns that the sums of a class keep at most (`millcert.checks.class_moments.FoldsColumns`)."""
        return MOST_COLUMNS

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: ActivationClusteringModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        rows, labels, marks = matrix(batch, "embedding_self"), strings(batch, "label"), digests(batch)
        parts: dict[str, Any] = {}
        for label, places in rows_by_text(labels):
            if model is None:
                parts[label] = acc.get(label, no_rows(rows.shape[1])).add_rows(rows[places])
            else:
                _check_width(rows, model)
                placed = model.classes[label].place(rows[places])
                parts[label] = DigestSample.of(marks[places], placed, SAMPLED)
        return within_budget({**acc, **parts}) if model is None else self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, merge_alike)

    def fit(self, acc: Accumulator, model: ActivationClusteringModel | None) -> ActivationClusteringModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: there are no samples.
            InvalidSampleError: embeddings of several widths.
        """
        if not acc:
            raise NotEnoughSamplesError("There are no samples.")
        if model is None:
            widths = {moments.fold.width for moments in acc.values()}
            if len(widths) > 1:
                raise InvalidSampleError("Embeddings have several widths.", column="embedding_self")
            classes = {}
            summed, fold = final_moments(acc)
            for label, moments in summed.items():
                _, vectors = np.linalg.eigh(moments.covariance())
                kept = vectors[:, ::-1][:, : self.components]
                weights = ExactMatrix.of(unfolded(fold, kept))
                classes[label] = _Class(moments.count, weights, moments.mean() @ kept)
            return ActivationClusteringModel(1, widths.pop(), classes, fold.columns)
        tested = max(1, sum(len(part.keys) >= LEAST_SAMPLED for part in acc.values()))
        classes = {label: self._clustered(model.classes[label], part, tested) for label, part in sorted(acc.items())}
        return replace(model, stage=2, classes=classes)

    def score(self, model: ActivationClusteringModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; 0 for a class that was not clustered."""
        if model.stage != 2:
            raise InternalError("activation_clustering was asked to score before its last pass.")
        rows, labels = matrix(batch, "embedding_self"), strings(batch, "label")
        digests(batch)
        score, threshold = np.zeros(len(rows)), np.full(len(rows), np.inf)
        for label, places in rows_by_text(labels):
            _check_width(rows, model)
            known = model.classes.get(label)
            if known is None or known.split is None:
                continue
            score[places] = margin(known.place(rows[places]), known.split.centres)
            if known.is_suspicious:
                threshold[places] = 0.0
        return Scores(score, threshold, score > threshold, labels, self.reason)

    def evidence(self, model: ActivationClusteringModel) -> tuple[GroupEvidence, ...]:
        """Return each class's split.

        `statistic`: share (of the smaller cluster), silhouette, variance_left (within the two), sampled, and
        covariance_columns: less than the embedding's width where columns were folded. The interval of the count is that
        of the share in the sample (Wilson).
        """
        found = []
        for label, known in sorted(model.classes.items()):
            figures = {"sampled": float(known.sampled), "covariance_columns": float(model.columns)}
            estimate = low = high = 0.0
            if known.split is not None:
                share = known.split.share
                figures |= {"share": share, "silhouette": known.silhouette, "variance_left": known.split.left}
                if known.is_suspicious:
                    estimate = share * known.samples
                    low, high = (edge * known.samples for edge in _wilson(share, known.sampled))
            p_value = known.p_value if known.split is not None else None
            top: tuple[tuple[str, float], ...] = ()
            if known.split is not None and known.is_suspicious:
                apart = known.split.centres[0] - known.split.centres[1]
                top = top_columns("embedding_self", (known.weights.whole * known.weights.scale) @ apart)
            group = GroupEvidence(
                label, label, "", known.samples, figures, known.is_suspicious, estimate, low, high, p_value, top
            )
            found.append(group)
        return tuple(found)

    def _clustered(self, known: _Class, part: DigestSample, tested: int) -> _Class:
        points = part.rows.astype(np.float64)
        if len(points) < LEAST_SAMPLED:
            return replace(known, sampled=len(points))
        split = split_in_two(points)
        sharpness = silhouette(points, split.centres)
        p_value = 1.0
        # The null is drawn only where the published rules hold: it is what costs.
        if split.share < self.max_share and sharpness > self.least_silhouette:
            p_value = min(1.0, tested * split_p_value(points, split.left, self.seed))
        return replace(
            known,
            sampled=len(points),
            split=split,
            silhouette=sharpness,
            p_value=p_value,
            is_suspicious=p_value <= self.false_alarm_rate,
        )


def _wilson(share: float, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927)."""
    square = 1.959964**2 / samples
    middle = (share + square / 2) / (1 + square)
    reach = 1.959964 * float(np.sqrt(share * (1 - share) / samples + square / samples / 4)) / (1 + square)
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def _check_width(rows: np.ndarray, model: ActivationClusteringModel) -> None:
    if rows.shape[1] != model.width:
        raise InvalidSampleError(
            f"Embeddings have width {rows.shape[1]}; others of this data set have {model.width}.",
            hint="All samples must have embeddings of one model.",
            column="embedding_self",
        )


CHECK = ActivationClustering
