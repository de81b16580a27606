"""Label quality of the tasks that `label_noise` does not judge, by cleanlab itself.

They are: several labels a row, several people a row, a label a token, a number a row.

These are in memory, as cleanlab's are: all labels and probabilities of the data set are held at once. What comes in is
checked here first, so that a fault of the data has our words and not a stack of cleanlab's.

Sources: Thyagarajan et al., "Identifying Incorrect Annotations in Multi-Label Classification Data" (2022); Goh,
Tkachenko, Mueller, "CROWDLAB" (2022); Wang and Mueller, "Detecting Label Errors in Token Classification Data" (2022);
Zhou et al., "Detecting Errors in Numerical Data via any Regression Model" (2023); all as in cleanlab 2.9.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from millcert.errors import InvalidSampleError, NotEnoughSamplesError

#: Most that a row of probabilities may sum from 1, as in checks/columns.py.
_SUM_TOLERANCE = 1e-3


class LabelIssues(NamedTuple):
    """flagged: bool (n,). quality: float64 (n,), in [0, 1], low is suspect."""

    flagged: np.ndarray
    quality: np.ndarray


class Suggestions(NamedTuple):
    """What the probabilities would say instead, to look at; no claim that it is right.

    given: float64, the probability of each given label. label: int64, the labels suggested. suggested: float64, the
    probability of each of those.
    """

    given: np.ndarray
    label: np.ndarray
    suggested: np.ndarray


class Consensus(NamedTuple):
    """What several people together say.

    label: int64 (n,), the consensus. quality, agreement: float64 (n,), in [0, 1]: how likely the consensus is right;
        the part of the row's people who agree with it.
    annotator_quality, annotator_agreement: float64 (m,), in [0, 1]; the first weighs people by the model, too.
    annotator_rows: int64 (m,), how many rows each labelled.
    worst_class: int64 (m,), the class that each gets wrong most.
    """

    label: np.ndarray
    quality: np.ndarray
    agreement: np.ndarray
    annotator_quality: np.ndarray
    annotator_agreement: np.ndarray
    annotator_rows: np.ndarray
    worst_class: np.ndarray


def multilabel_issues(labels: Sequence[Sequence[int]], pred_probs: np.ndarray) -> LabelIssues:
    """Return the rows whose set of labels is doubted.

    Args:
        labels: n sets of classes 0..K-1; a row may have none.
        pred_probs: float64 (n, K), out of sample, each the chance that the row has the class; rows need not sum to 1.

    Raises:
        InvalidSampleError: a class outside 0..K-1 or twice in a row, or probabilities outside [0, 1].
        NotEnoughSamplesError: no rows.
    """
    from cleanlab.multilabel_classification.filter import find_label_issues
    from cleanlab.multilabel_classification.rank import get_label_quality_scores

    _refuse_unlike(len(labels), pred_probs, sums_to_one=False)
    given = [sorted(row) for row in labels]
    for at, row in enumerate(given):
        if row and (row[0] < 0 or row[-1] >= pred_probs.shape[1] or len(set(row)) != len(row)):
            raise InvalidSampleError(
                f"Row {at} has the labels {row[:10]}; expected each of 0..{pred_probs.shape[1] - 1} at most once.",
                hint="Classes are the columns of the probabilities, counted from 0.",
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with few rows
        flagged = find_label_issues(given, pred_probs)
        return LabelIssues(np.asarray(flagged, dtype=np.bool_), np.asarray(get_label_quality_scores(given, pred_probs)))


def token_issues(labels: Sequence[Sequence[int]], pred_probs: Sequence[np.ndarray]) -> tuple[LabelIssues, ...]:
    """Return the doubted tokens of each text.

    Args:
        labels: for each text the class of each token.
        pred_probs: for each text float64 (tokens, K), out of sample.

    Raises:
        InvalidSampleError: another number of tokens than of rows of probabilities, a class outside, or rows that are no
            distribution.
        NotEnoughSamplesError: no tokens.
    """
    from cleanlab.token_classification.filter import find_label_issues
    from cleanlab.token_classification.rank import get_label_quality_scores

    for at, (row, probs) in enumerate(zip(labels, pred_probs, strict=True)):
        if probs.ndim != 2 or len(row) != len(probs):
            raise InvalidSampleError(
                f"Text {at} has {len(row)} labels and {len(probs)} rows of probabilities; expected one for each token.",
                hint="Give the probabilities of the very tokens that are labelled.",
            )
    kept = [at for at, row in enumerate(labels) if len(row)]
    if not kept:
        raise NotEnoughSamplesError("There is no token with a label.", hint="Check which column is the label.")
    chances = [np.asarray(pred_probs[at], dtype=np.float64) for at in kept]
    whole = np.concatenate(chances)
    _refuse_unlike(sum(len(labels[at]) for at in kept), whole, sums_to_one=True, each="token")
    _refuse_outside(np.concatenate([np.asarray(labels[at]) for at in kept]), whole.shape[1])
    given = [list(map(int, labels[at])) for at in kept]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = set(find_label_issues(given, chances))
        _, scores = get_label_quality_scores(given, chances)
    issues = [LabelIssues(np.zeros(0, dtype=np.bool_), np.zeros(0))] * len(labels)
    for place, at in enumerate(kept):
        flagged = np.array([(place, token) in found for token in range(len(given[place]))], dtype=np.bool_)
        issues[at] = LabelIssues(flagged, np.asarray(scores[place], dtype=np.float64))
    return tuple(issues)


def suggest_set(labels: Sequence[int], chances: np.ndarray) -> Suggestions:
    """Suggest the classes that a row has with a chance of a half or more, in order; it may be none.

    Args:
        labels: classes of one row, 0..K-1, as `multilabel_issues` takes them.
        chances: float64 (K,).
    """
    likely = np.flatnonzero(chances >= 0.5)  # what a row of its own chance is more likely to have than not
    return Suggestions(chances[np.array(labels, dtype=np.int64)], likely, chances[likely])


def suggest_classes(labels: np.ndarray, probs: np.ndarray) -> Suggestions:
    """Suggest for each token the likeliest class that it was not given, each of shape (n,).

    Args:
        labels: int64 (n,), 0..K-1.
        probs: float64 (n, K), K >= 2.
    """
    rows = np.arange(len(labels))
    others = np.array(probs, dtype=np.float64)
    others[rows, labels] = -1.0
    best = others.argmax(axis=1)
    return Suggestions(np.asarray(probs)[rows, labels], best, others[rows, best])


def regression_quality(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return how plausible numbers are beside out-of-sample predictions, float64 (n,), in [0, 1], low is suspect.

    Raises:
        InvalidSampleError: a number that is not finite, or another number of predictions.
        NotEnoughSamplesError: fewer than 2 rows.
    """
    from cleanlab.regression.rank import get_label_quality_scores

    if labels.shape != predictions.shape or labels.ndim != 1:
        raise InvalidSampleError(
            f"There are labels of shape {labels.shape} and predictions of {predictions.shape}; expected one each.",
            hint="Give one number for each row.",
        )
    if len(labels) < 2:
        raise NotEnoughSamplesError(
            f"Regression labels need at least 2 rows, found {len(labels)}.",
            hint="Check that the files are the right ones.",
        )
    bad = np.flatnonzero(~(np.isfinite(labels) & np.isfinite(predictions)))
    if len(bad):
        raise InvalidSampleError(
            f"Row {bad[0]} has the label {labels[bad[0]]} and the prediction {predictions[bad[0]]}; expected numbers.",
            hint="Leave out rows without a label or a prediction.",
        )
    return np.asarray(get_label_quality_scores(labels, predictions), dtype=np.float64)


def consensus_of(labels: np.ndarray, pred_probs: np.ndarray) -> Consensus:
    """Return the consensus of several people's labels and how good each of them is (CROWDLAB).

    Args:
        labels: int64 (n, m), the class that each of m people gave a row, -1 for none; at least one each row.
        pred_probs: float64 (n, K), out of sample of a model trained on some consensus.

    Raises:
        InvalidSampleError: a class outside, a row nobody labelled, a person without rows, or rows that are no
            distribution.
        NotEnoughSamplesError: fewer than 2 people, or no row that two of them labelled.
    """
    import pandas as pd
    from cleanlab.multiannotator import get_label_quality_multiannotator

    _refuse_unlike(len(labels), pred_probs, sums_to_one=True)
    is_given = labels >= 0
    _refuse_outside(labels[is_given], pred_probs.shape[1])
    if (labels < -1).any():
        raise InvalidSampleError(
            f"A label is {labels.min()}; expected a class, or -1 for none.", hint="Count classes from 0."
        )
    if labels.shape[1] < 2 or (is_given.sum(axis=1) > 1).sum() == 0:
        raise NotEnoughSamplesError(
            f"A consensus needs rows that at least 2 people labelled; of {labels.shape[1]} people there is none.",
            hint="Give a column for each person.",
        )
    alone = np.flatnonzero(~is_given.any(axis=1))
    if len(alone):
        raise InvalidSampleError(
            f"{len(alone)} rows have no label of anybody; the first is row {alone[0]}.", hint="Leave these rows out."
        )
    idle = np.flatnonzero(~is_given.any(axis=0))
    if len(idle):
        raise InvalidSampleError(
            f"Person {idle[0]} of {labels.shape[1]}, counted from 0, labelled no row.", hint="Leave this person out."
        )
    table = pd.DataFrame(np.where(is_given, labels, np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # people with few rows
        found = get_label_quality_multiannotator(table, pred_probs, return_detailed_quality=False, verbose=False)
    rows, people = found["label_quality"], found["annotator_stats"].sort_index()
    return Consensus(
        rows["consensus_label"].to_numpy(dtype=np.int64),
        rows["consensus_quality_score"].to_numpy(dtype=np.float64),
        rows["annotator_agreement"].to_numpy(dtype=np.float64),
        people["annotator_quality"].to_numpy(dtype=np.float64),
        people["agreement_with_consensus"].to_numpy(dtype=np.float64),
        people["num_examples_labeled"].to_numpy(dtype=np.int64),
        people["worst_class"].to_numpy(dtype=np.int64),
    )


def _refuse_unlike(rows: int, pred_probs: np.ndarray, *, sums_to_one: bool, each: str = "row") -> None:
    """Refuse probabilities that are none; `each` is what one row of them stands for."""
    if not rows:
        raise NotEnoughSamplesError("There are no rows with labels.", hint="Check that the files are the right ones.")
    if pred_probs.ndim != 2 or len(pred_probs) != rows or pred_probs.shape[1] < 2:
        raise InvalidSampleError(
            f"There are {rows} {each}s with labels, and probabilities of shape {pred_probs.shape}.",
            hint=f"Give a list of probabilities for each {each}, one a class; there are 2 classes at least.",
        )
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~((pred_probs >= 0) & (pred_probs <= 1)).all(axis=1))
    if len(bad):
        raise InvalidSampleError(
            f"A probability is outside [0, 1], for {len(bad)} {each}s; the first is {each} {bad[0]}: "
            f"{_brief(pred_probs[bad[0]])}.",
            hint="Give probabilities, not logits.",
        )
    off = np.flatnonzero(np.abs(pred_probs.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if sums_to_one and len(off):
        raise InvalidSampleError(
            f"The probabilities of {len(off)} {each}s do not sum to 1; the first is {each} {off[0]}: "
            f"{_brief(pred_probs[off[0]])}.",
            hint="Give the probabilities of all classes, not logits.",
        )


def _brief(row: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in row[:8].tolist()) + (", ..." if len(row) > 8 else "")


def _refuse_outside(labels: np.ndarray, classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise InvalidSampleError(
            f"A label is outside 0..{classes - 1}, the columns of the probabilities: {outside[0]}.",
            hint="Classes are the columns of the probabilities, counted from 0.",
        )
