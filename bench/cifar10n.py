"""Claim: on human label errors `label_noise` finds no fewer than cleanlab with 5-fold logistic regression.

CIFAR-10N: the labels that people gave to CIFAR-10, at five noise levels, and the clean labels to judge by; on the
images of ../shared/data/features, embedded by a model that never saw them. Ours makes its probabilities from sums of
one read; the rival trains five logistic regressions on standardised columns, then runs cleanlab's filter on them.

    OPENBLAS_NUM_THREADS=1 python bench/cifar10n.py [images]
"""

import hashlib
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.label_filter import FilterBy

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
LEVELS = ("aggre_label", "random_label1", "random_label2", "random_label3", "worse_label")
FILTERS: tuple[FilterBy, ...] = ("prune_by_noise_rate", "predicted_neq_given")


def quality(is_wrong: np.ndarray, score: np.ndarray, flagged: np.ndarray) -> str:
    from sklearn.metrics import f1_score, roc_auc_score

    return f"AUROC {roc_auc_score(is_wrong, score):.4f}  F1 {f1_score(is_wrong, flagged):.4f}  flagged {flagged.sum()}"


def difference(is_wrong: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Return the difference of F1 with its standard error, by 500 bootstrap draws of the images."""
    rng, found = np.random.default_rng(0), []
    counts = [np.stack([flagged & is_wrong, flagged, is_wrong]).astype(np.float64) for flagged in (ours, theirs)]
    for _ in range(500):
        weight = rng.multinomial(len(is_wrong), np.full(len(is_wrong), 1 / len(is_wrong)))
        one, other = (2 * hit / (flags + wrong) for hit, flags, wrong in (part @ weight for part in counts))
        found.append(one - other)
    one, other = (2 * part[0].sum() / (part[1].sum() + part[2].sum()) for part in counts)
    return f"{one - other:+.4f} +- {np.std(found):.4f}"


def batch_of(label: np.ndarray, embedding: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label]),
            pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), embedding.shape[1]),
            pa.array([hashlib.sha256(row.tobytes()).digest() for row in embedding], pa.binary(32)),
        ],
        names=["label", "embedding_external", "sample_digest"],
    )


def logistic(embedding: np.ndarray, label: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return cross_val_predict(model, embedding, label, cv=5, method="predict_proba")


def main() -> None:
    from cleanlab.filter import find_label_issues

    if not (SHARED / "cifar10n").is_dir() or not (SHARED / "features").is_dir():
        print(f"cifar10n: skipped, {SHARED} has no cifar10n or features")
        return
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    packages = "  ".join(f"{name} {version(name)}" for name in ("numpy", "cleanlab", "scikit-learn"))
    print(f"{platform.machine()}  Python {platform.python_version()}  {packages}")
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
        mine: dict[str, np.ndarray] = {}
        for filter_by in FILTERS:
            check = LabelNoise(filter_by=filter_by)
            start = time.process_time()
            scores = check.score(fit_check(check, [batch]), batch)
            taken = time.process_time() - start
            print(f"  ours      {filter_by:20} {quality(is_wrong, scores.score, scores.flagged)}  CPU {taken:.2f}")
            mine[filter_by] = scores.flagged
        start = time.process_time()
        probs = logistic(embedding, label)
        trained = time.process_time() - start
        for filter_by in FILTERS:
            start = time.process_time()
            flagged = find_label_issues(label, probs, filter_by=filter_by, n_jobs=1)
            taken = trained + time.process_time() - start
            score = 1 - probs[np.arange(len(label)), label]
            print(f"  logistic  {filter_by:20} {quality(is_wrong, score, flagged)}  CPU {taken:.2f}")
            print(f"            F1 ours - logistic {difference(is_wrong, mine[filter_by], flagged)}")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logistic regression says when it stops early
        main()
