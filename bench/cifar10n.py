"""Claim: on human label errors `label_noise` finds no fewer than cleanlab with 5-fold logistic regression.

CIFAR-10N: the labels that people gave to CIFAR-10, at five noise levels, and the clean labels to judge by; on the
images of ../shared/data/features, embedded by a model that never saw them. Ours makes its probabilities from sums of
one read; the rival trains five logistic regressions on standardised columns, then runs cleanlab's filter on them.
Which rows share a fold moves F1 by some thousandths, so both are run with several splits: figures are means over them.

    OPENBLAS_NUM_THREADS=1 python bench/cifar10n.py [splits] [images]
"""

import hashlib
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.label_filter import FilterBy

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
LEVELS = ("aggre_label", "random_label1", "random_label2", "random_label3", "worse_label")
FILTERS: tuple[FilterBy, ...] = ("prune_by_noise_rate", "predicted_neq_given")


class Answer(NamedTuple):
    """score: float64 (n,), larger is more suspect. flagged: bool (n,). seconds: of CPU."""

    score: np.ndarray
    flagged: np.ndarray
    seconds: float


def quality(is_wrong: np.ndarray, answers: Sequence[Answer]) -> str:
    from sklearn.metrics import f1_score, roc_auc_score

    found = [f1_score(is_wrong, answer.flagged) for answer in answers]
    return (
        f"AUROC {np.mean([roc_auc_score(is_wrong, answer.score) for answer in answers]):.4f}"
        f"  F1 {np.mean(found):.4f} ({min(found):.4f} to {max(found):.4f})"
        f"  flagged {np.mean([answer.flagged.sum() for answer in answers]):.0f}"
        f"  CPU {np.median([answer.seconds for answer in answers]):.2f}"
    )


def difference(is_wrong: np.ndarray, ours: Sequence[Answer], theirs: Sequence[Answer]) -> str:
    """Return the difference of mean F1 with its standard error, by 500 bootstrap draws of the images."""
    rng, found = np.random.default_rng(0), []

    def mean(answers: Sequence[Answer], weight: np.ndarray) -> float:
        wrong = is_wrong @ weight
        flags = np.stack([answer.flagged for answer in answers]).astype(np.float64)
        return float(np.mean(2 * (flags @ (is_wrong * weight)) / (flags @ weight + wrong)))

    for _ in range(500):
        weight = rng.multinomial(len(is_wrong), np.full(len(is_wrong), 1 / len(is_wrong))).astype(np.float64)
        found.append(mean(ours, weight) - mean(theirs, weight))
    whole = np.ones(len(is_wrong))
    return f"{mean(ours, whole) - mean(theirs, whole):+.4f} +- {np.std(found):.4f}"


def batch_of(label: np.ndarray, embedding: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label]),
            pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), embedding.shape[1]),
            pa.array([hashlib.sha256(row.tobytes()).digest() for row in embedding], pa.binary(32)),
        ],
        names=["label", "embedding_external", "sample_digest"],
    )


def logistic(embedding: np.ndarray, label: np.ndarray, split: int) -> np.ndarray:
    """Return out-of-sample probabilities; split 0 is that of scikit-learn's default, which shuffles nothing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    folds = StratifiedKFold(5, shuffle=True, random_state=split) if split else StratifiedKFold(5)
    return cross_val_predict(model, embedding, label, cv=folds, method="predict_proba")


def main() -> None:
    from cleanlab.filter import find_label_issues

    if not (SHARED / "cifar10n").is_dir() or not (SHARED / "features").is_dir():
        print(f"cifar10n: skipped, {SHARED} has no cifar10n or features")
        return
    splits = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    packages = "  ".join(f"{name} {version(name)}" for name in ("numpy", "cleanlab", "scikit-learn"))
    print(f"{platform.machine()}  Python {platform.python_version()}  {packages}; means of {splits} splits into folds")
    stored = np.load(SHARED / "features" / "img_badnet_0.01.npz")
    human = np.load(SHARED / "cifar10n" / "cifar10n_labels.npz")
    # Clean labels of the same images; the poison of this set is in its own view and labels, neither of which is used.
    keep = np.flatnonzero(~stored["poison"])[:images]
    index, embedding = stored["cifar_train_index"][keep], stored["feat_external"][keep].astype(np.float32)
    for level in LEVELS:
        label = human[level][index].astype(np.int64)
        is_wrong = label != human["clean_label"][index]
        print(f"{level}: {len(label)} images, {is_wrong.mean():.3f} wrong")
        batch = batch_of(label, embedding)
        mine: dict[str, list[Answer]] = {name: [] for name in FILTERS}
        theirs: dict[str, list[Answer]] = {name: [] for name in FILTERS}
        for split in range(splits):
            for filter_by in FILTERS:
                check = LabelNoise(filter_by=filter_by, seed=split)
                start = time.process_time()
                scores = check.score(fit_check(check, [batch]), batch)
                mine[filter_by].append(Answer(scores.score, scores.flagged, time.process_time() - start))
            start = time.process_time()
            probs = logistic(embedding, label, split)
            trained = time.process_time() - start
            for filter_by in FILTERS:
                start = time.process_time()
                flagged = find_label_issues(label, probs, filter_by=filter_by, n_jobs=1)
                score = 1 - probs[np.arange(len(label)), label]
                theirs[filter_by].append(Answer(score, flagged, trained + time.process_time() - start))
        for filter_by in FILTERS:
            print(f"  ours      {filter_by:20} {quality(is_wrong, mine[filter_by])}")
            print(f"  logistic  {filter_by:20} {quality(is_wrong, theirs[filter_by])}")
            print(
                f"            F1 ours - logistic {difference(is_wrong, mine[filter_by], theirs[filter_by])}", flush=True
            )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logistic regression says when it stops early
        main()
