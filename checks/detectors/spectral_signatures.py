"""Spectral signatures (Tran, Li, Madry, 2018): the published rule, as a baseline. It deletes clean data.

The rule takes the poison rate as given and flags the top `1.5 * epsilon` of every class, poisoned or not. On clean data
it flags just as much: there is no threshold that a clean class stays below. Use `robust_spectral` to decide;
bench/robust_spectral.py prints both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity, merge_alike, merge_groups
from millcert.checks.class_moments import MOST_COLUMNS, final_moments, no_rows, unfolded, within_budget
from millcert.checks.columns import matrix, strings
from millcert.checks.exact import ExactMatrix
from millcert.checks.flagging import (
    Counts,
    cell_of_threshold,
    exact_threshold,
    lower_half_in,
    score_keys,
    top_count,
    upper_half,
)
from millcert.checks.label_groups import rows_by_text
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

#: The paper removes 1.5 times the poison that it assumes (Tran et al., section 4, algorithm 1, line 9).
REMOVAL_FACTOR = 1.5


@dataclass(frozen=True, eq=False)
class _Direction:
    """A class's top direction, and what is known of its threshold so far."""

    samples: int
    weights: ExactMatrix
    offset: float
    variance: float
    cell: int = -1
    higher: int = 0
    threshold: float = np.inf

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return squared projections on the top direction, rounded to float32 so that their bits can be counted."""
        position = self.weights.apply(rows)[:, 0] - self.offset
        return np.minimum(position * position, np.finfo(np.float32).max).astype(np.float32).astype(np.float64)


@dataclass(frozen=True, eq=False)
class SpectralSignaturesModel:
    """The model after pass `stage`; thresholds are known after pass 3. columns: of the covariances, once folded."""

    stage: int
    width: int
    directions: Mapping[str, _Direction]
    columns: int


@dataclass(frozen=True)
class SpectralSignatures:
    """Flag the samples of each class that lie furthest along its top singular direction, a fixed share of every class.

    A baseline: it deletes clean data by design. To find poison that is 1 % of a set of ten classes, and so up to 10 %
    of one, it must flag 15 % of every class; where the poison is not along the top direction, it flags the wrong ones.

    Needs: label, embedding_self (float32, d).
    Passes: 3 (moments; upper, then lower halves of the scores' bits), and scoring.
    Accumulator: pass 1 8 x d x d bytes a class and exponent, 256 MB in all, else columns are folded
        (`millcert.checks.class_moments`); pass 2 and 3 at most 1 MB a class (16 bytes a distinct key).
    Ties: at most the top part is flagged; samples with exactly the threshold's score are all left.
    Source: Tran, Li, Madry, NeurIPS 2018, algorithm 1; centred features, as printed there. `epsilon` is the part of
        each class that is assumed to be poisoned, as in the paper.

    epsilon: assumed poisoned part of each class, in (0, 1/1.5]; there is no default, for there is no right one.
    """

    name: ClassVar[str] = "spectral_signatures"
    version: ClassVar[str] = "2"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "embedding_self"})
    severity: ClassVar[Severity] = "reject"
    covers: ClassVar[frozenset[str]] = frozenset({"backdoor_dirty_label"})
    #: It flags a part of every class, poisoned or not: no evidence of anything by itself (`millcert.checks.fusion`).
    is_baseline: ClassVar[bool] = True
    reason: ClassVar[str] = "spectral_signatures.top_fraction"

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1 / REMOVAL_FACTOR:
            raise PolicyError(f"epsilon must be in (0, 2/3], got {self.epsilon}.")

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 3

    @property
    def most_columns(self) -> int:
        """Columns that the sums of a class keep at most (`millcert.checks.class_moments.FoldsColumns`)."""
        return MOST_COLUMNS

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: SpectralSignaturesModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        rows, labels = matrix(batch, "embedding_self"), strings(batch, "label")
        added: dict[str, Any] = dict(acc)
        for label, places in rows_by_text(labels):
            part = added.get(label)
            if model is None:
                moments = part if part is not None else no_rows(rows.shape[1])
                added[label] = moments.add_rows(rows[places])
                continue
            _check_width(rows, model)
            if label not in model.directions:
                raise InternalError(f"Pass {model.stage + 1} sees class {label!r}, which pass 1 did not.")
            direction = model.directions[label]
            keys = score_keys(direction.scores(rows[places]))
            counts = part if part is not None else Counts.zero()
            added[label] = counts.add(upper_half(keys) if model.stage == 1 else lower_half_in(keys, direction.cell))
        return within_budget(added) if model is None else added

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`."""
        return merge_groups(accs, merge_alike)

    def fit(self, acc: Accumulator, model: SpectralSignaturesModel | None) -> SpectralSignaturesModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: there are no samples.
            InvalidSampleError: classes with embeddings of other widths.
        """
        if model is None:
            return _directions(acc)
        directions = {}
        for label, direction in model.directions.items():
            top = top_count(direction.samples, REMOVAL_FACTOR * self.epsilon)
            counts = acc.get(label, Counts.zero())
            if model.stage == 1:
                cell, higher = cell_of_threshold(counts, top)
                directions[label] = replace(direction, cell=cell, higher=higher)
            else:
                threshold = exact_threshold(direction.cell, direction.higher, counts, top)
                directions[label] = replace(direction, threshold=threshold)
        return replace(model, stage=model.stage + 1, directions=directions)

    def score(self, model: SpectralSignaturesModel, batch: pa.RecordBatch) -> Scores:
        """Return squared projections on the top direction of each sample's class; 0 for a class not seen in `fit`."""
        rows, labels = matrix(batch, "embedding_self"), strings(batch, "label")
        score, threshold = np.zeros(len(rows)), np.full(len(rows), np.inf)
        for label, places in rows_by_text(labels):
            _check_width(rows, model)
            if label in model.directions:
                score[places] = model.directions[label].scores(rows[places])
                threshold[places] = model.directions[label].threshold
        return Scores(score, threshold, score > threshold, labels, self.reason)

    def evidence(self, model: SpectralSignaturesModel) -> tuple[GroupEvidence, ...]:
        """Return each class's top variance and threshold; the estimated count is the assumption, not a finding.

        `covariance_columns`: the embedding's width where the covariance is that of all columns, less where they were
        folded.
        """
        return tuple(
            GroupEvidence(
                group=label,
                label=label,
                source="",
                samples=direction.samples,
                statistic={
                    "threshold": direction.threshold,
                    "top_variance": direction.variance,
                    "covariance_columns": float(model.columns),
                },
                is_suspicious=True,
                estimated_count=self.epsilon * direction.samples,
                count_low=0.0,
                count_high=float(direction.samples),
                p_value=None,
            )
            for label, direction in sorted(model.directions.items())
        )


def _directions(acc: Accumulator) -> SpectralSignaturesModel:
    widths = {moments.fold.width for moments in acc.values()}
    if not acc:
        raise NotEnoughSamplesError("There are no samples.")
    if len(widths) > 1:
        raise InvalidSampleError("Embeddings have several widths.", column="embedding_self", widths=sorted(widths))
    directions = {}
    classes, fold = final_moments(acc)
    for label, moments in classes.items():
        values, vectors = np.linalg.eigh(moments.covariance())
        weights = ExactMatrix.of(unfolded(fold, vectors[:, -1:]))
        # The sign of an eigenvector is arbitrary; squared scores do not depend on it.
        offset = float(moments.mean() @ vectors[:, -1])
        directions[label] = _Direction(moments.count, weights, offset, max(0.0, float(values[-1])))
    return SpectralSignaturesModel(1, widths.pop(), directions, fold.columns)


def _check_width(rows: np.ndarray, model: SpectralSignaturesModel) -> None:
    if rows.shape[1] != model.width:
        raise InvalidSampleError(
            f"Embeddings have width {rows.shape[1]}; others of this data set have {model.width}.",
            hint="All samples must have embeddings of one model.",
            column="embedding_self",
        )


CHECK = SpectralSignatures
