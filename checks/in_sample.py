"""Whether given probabilities agree with the labels too well to be out-of-sample: what can be seen of it, and what not.

A model that was trained on a row has seen its label, right or wrong. What it says of that row agrees with the label
more often than a model that has not, and where it has learned the labels by heart, label errors cannot be seen any
more. From probabilities and labels alone, a model that learned them by heart and a perfect one on perfect labels look
alike. So two answers are compared with what is known of labels:

  1. Nearly all labels agree: the rate of rows whose likeliest class is another one is below 0.0015, at 95 %. That is
     the rate of label errors in MNIST's test set, the cleanest of ten benchmarks that were looked at (Northcutt,
     Athalye, Mueller, "Pervasive label errors in test sets", NeurIPS 2021, table 1). An out-of-sample model disagrees
     with wrong labels, so it cannot do that on labels like those of any of the ten. Where a second view is there, its
     own out-of-fold model must do worse (one-sided at 1 %): labels that it predicts as well are easy.
  2. With a second view: where its out-of-fold model is surest (a tenth of the rows), it is contradicted by the labels
     at half the rate of all rows or more. Contradictions that do not get rarer where a model gets surer are not hard
     rows but wrong labels. The given probabilities agree with most of these labels all the same (one-sided at 0.1 %,
     against one half).

A model that was trained on the rows and did not learn their labels by heart (a regularised one, say) still disagrees
with wrong labels, and is not found. Nor is one on fewer than about 2,000 rows without a second view. The sure way is
to predict each row by a model of the other folds, which is what the views do.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

#: The rate of label errors in the cleanest of ten benchmarks.
LEAST_LABEL_ERROR_RATE = 0.0015
#: The group of the accumulator.
AGREEMENT = "agreement"
#: Bins of how sure the second view's model is: equal steps of -log2(1 - p), 16 of them to a halving of 1 - p.
_BINS, _STEPS, _LEAST_REST = 513, 16, 2.0**-32
#: The surest part of the rows.
_SUREST = 0.1
_CONFIDENCE = 0.95
_EASY_ALPHA, _CONTRADICTED_ALPHA = 0.01, 0.001
#: Confidence is counted in whole multiples of this.
_UNIT = 2.0**-20


class AgreementPart(NamedTuple):
    """What is added up of rows; whole numbers, so it merges in any order.

    rows: how many. disagreeing: their likeliest class is not the given one. confidence: the sum of the largest
        probability, in units of 2**-20.
    surest: int64 (513, 4): rows by how sure the second view's model is, that are not contradicted by it, that are and
        agree with the given probabilities' likeliest class, that are and do not; and all that it judges. Zeros without
        one.
    """

    rows: int
    disagreeing: int
    confidence: int
    surest: np.ndarray

    def merge(self, others: Iterable["AgreementPart"]) -> "AgreementPart":
        """Return the sums of the rows of this and the others."""
        parts = [self, *others]
        return AgreementPart(
            sum(part.rows for part in parts),
            sum(part.disagreeing for part in parts),
            sum(part.confidence for part in parts),
            np.sum([part.surest for part in parts], axis=0),
        )


class Agreement(NamedTuple):
    """How well given probabilities agree with the labels, and whether too well.

    figures: name -> value, for the evidence. notice: one sentence where it is too well, else "".
    """

    figures: dict[str, float]
    notice: str


def agreement_part(
    label: np.ndarray, pred_probs: np.ndarray, top: np.ndarray, second: tuple[np.ndarray, np.ndarray] | None
) -> AgreementPart:
    """Return the sums of a batch.

    Args:
        label: int64 (n,), columns of pred_probs.
        pred_probs: float64 (n, K).
        top: int64 (n,), the most probable class of each row.
        second: of the second view's out-of-fold model: the likeliest class as a column of pred_probs, int64 (n,), -1
            where it does not judge the row; and its probability, float64 (n,). None without one.
    """
    agrees = top == label
    confidence = np.rint(pred_probs[np.arange(len(label)), top] / _UNIT).astype(np.int64).sum()
    surest = np.zeros((_BINS, 4), dtype=np.int64)
    if second is not None:
        likeliest, sure = second
        judged = np.flatnonzero(likeliest >= 0)
        rest = np.maximum(1 - sure[judged], _LEAST_REST)
        place = np.minimum(np.rint(-np.log2(rest) * _STEPS).astype(np.int64), _BINS - 1)
        kind = np.where(likeliest[judged] == label[judged], 0, np.where(agrees[judged], 1, 2))
        np.add.at(surest, (place, kind), 1)
        np.add.at(surest, (place, 3), 1)
    return AgreementPart(len(label), int((~agrees).sum()), int(confidence), surest)


def judge_agreement(part: AgreementPart) -> Agreement:
    """Return what the sums of all rows say."""
    from scipy.special import betaincinv  # a tenth of what scipy.stats costs to load

    rows, disagreeing = part.rows, part.disagreeing
    if not rows:
        return Agreement({}, "")
    highest = 1.0 if disagreeing >= rows else float(betaincinv(disagreeing + 1, rows - disagreeing, _CONFIDENCE))
    figures = {
        "disagreement_rate": disagreeing / rows,
        "disagreement_high": highest,
        "mean_confidence": part.confidence * _UNIT / rows,
    }
    found = []
    bins = part.surest[::-1].cumsum(axis=0)  # from the surest on
    judged, wrong = int(bins[-1, 3]), int(bins[-1, 1] + bins[-1, 2])
    is_easy = False
    if judged:
        is_easy = _as_many_or_more(wrong, judged, highest) > _EASY_ALPHA
        cut = int(np.searchsorted(bins[:, 3], max(1, int(judged * _SUREST))))
        _, kept, lost, sure = bins[cut].tolist()
        figures |= {
            "second_view_disagreement_rate": wrong / judged,
            "surest_rows": float(sure),
            "surest_contradicted": float(kept + lost),
            "surest_contradicted_agreeing": float(kept),
        }
        is_flat = (kept + lost) * judged >= wrong * sure / 2
        if is_flat and _as_many_or_more(kept, kept + lost, 0.5) < _CONTRADICTED_ALPHA:
            found.append(
                f"they agree with {kept:,} of the {kept + lost:,} labels that the second view's own out-of-fold "
                f"model contradicts where it is surest ({sure:,} rows), and it is contradicted there about as "
                "often as anywhere, as it is by wrong labels"
            )
    if highest < LEAST_LABEL_ERROR_RATE and not is_easy:
        found.append(
            f"they disagree with {disagreeing:,} of {rows:,} labels, below {highest:.2g} at 95 %; the cleanest of ten "
            f"benchmarks has {LEAST_LABEL_ERROR_RATE:g} wrong labels"
        )
    figures["too_good"] = float(bool(found))
    if not found:
        return Agreement(figures, "")
    return Agreement(
        figures,
        f"the given pred_probs agree with the labels too well to be out-of-sample: {'; and '.join(found)}. "
        "A model that was trained on these rows hides their errors: predict each row by a model of the other folds",
    )


def _as_many_or_more(count: int, tries: int, chance: float) -> float:
    """Return the binomial probability of `count` hits or more."""
    from scipy.special import betainc

    return float(betainc(count, tries - count + 1, chance)) if count else 1.0
