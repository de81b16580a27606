"""Claim: `label_noise` ranks and flags no worse than cleanlab with logistic regression, and its intervals cover.

Labels of sets that the design was not chosen on are flipped, to any other class or always to the next one, at three
rates and with seeds of their own. Two tables:
  1. ranking: AUROC and F1 of ours beside cleanlab's filter on 5-fold logistic regression of standardised columns, on
     the same labels. "short" counts the settings in which ours is below the rival by more than twice the spread of the
     difference over seeds, and by more than 0.005.
  2. counts: how often the interval of a class's wrong labels has the true number, beside Wilson's interval of the
     estimate alone.

    OPENBLAS_NUM_THREADS=1 python bench/label_counts.py [seeds]
"""

import hashlib
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from millcert.checks.base import GroupEvidence, fit_check
from millcert.checks.detectors.label_noise import LabelNoise

RATES, KINDS = (0.0, 0.03, 0.1, 0.3), ("uniform", "pair")


def sets() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, rows and right labels: clean and overlapping, balanced and not, narrow and wide, of mixed units."""
    from sklearn.datasets import load_breast_cancer, load_digits, make_blobs, make_classification

    for name, classes, width, separation, seed in (
        ("apart", 8, 24, 2.5, 71),
        ("near", 6, 40, 1.0, 72),
        ("mixed", 3, 60, 0.6, 73),
    ):
        rows, label = make_classification(
            2400, width, n_informative=12, n_classes=classes, class_sep=separation, flip_y=0, random_state=seed
        )
        yield name, rows, label
    rows, label = make_blobs([900, 500, 300, 150, 80, 70], n_features=12, cluster_std=2.0, random_state=74)
    yield "rare", rows * np.logspace(-1, 1, 12), label
    rng = np.random.default_rng(75)
    label = rng.integers(0, 5, 2000)
    yield "skewed", np.exp(rng.normal(size=(2000, 20)) / 2 + 0.5 * rng.normal(size=(5, 20))[label]), label
    yield "digits", *load_digits(return_X_y=True)
    yield "cancer", *load_breast_cancer(return_X_y=True)


def batch_of(label: np.ndarray, rows: np.ndarray) -> pa.RecordBatch:
    whole = np.ascontiguousarray(rows, dtype=np.float32)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label]),
            pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), whole.shape[1]),
            pa.array([hashlib.sha256(row.tobytes()).digest() for row in whole], pa.binary(32)),
        ],
        names=["label", "embedding_external", "sample_digest"],
    )


def rival(rows: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    probs = cross_val_predict(model, rows, label, cv=5, method="predict_proba")
    return 1 - probs[np.arange(len(label)), label], find_label_issues(label, probs, n_jobs=1)


def quality(is_wrong: np.ndarray, found: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    from sklearn.metrics import f1_score, roc_auc_score

    return float(roc_auc_score(is_wrong, found[0])), float(f1_score(is_wrong, found[1]))


def covered(is_wrong: np.ndarray, label: np.ndarray, evidence: tuple[GroupEvidence, ...]) -> np.ndarray:
    """Return how many classes there are, how many intervals cover, how many of the plain ones do, and their width."""
    from scipy.stats import binomtest

    found = np.zeros(4)
    for item in evidence:
        true, size = int(is_wrong[label == int(item.label)].sum()), item.samples
        plain = binomtest(int(item.estimated_count), size).proportion_ci(method="wilson")
        found += [
            1,
            item.count_low <= true <= item.count_high,
            plain.low * size <= true <= plain.high * size,
            (item.count_high - item.count_low) / size,
        ]
    return found


def flipped(true: np.ndarray, kind: str, rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, int(rate * 1000), KINDS.index(kind), 2026])
    classes, is_wrong = int(true.max()) + 1, rng.random(len(true)) < rate
    shift = 1 if kind == "pair" else rng.integers(1, classes, len(true))
    return np.where(is_wrong, (true + shift) % classes, true), is_wrong


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    packages = "  ".join(f"{name} {version(name)}" for name in ("numpy", "cleanlab", "scikit-learn"))
    print(f"{platform.machine()}  Python {platform.python_version()}  {packages}")
    print(f"mean of {seeds} seeds: AUROC ours rival, F1 ours rival; classes whose interval covers, plain Wilson, width")
    whole, short = np.zeros(4), 0
    for name, rows, true in sets():
        for kind in KINDS:
            for rate in RATES:
                found, counts = [], np.zeros(4)
                for seed in range(seeds):
                    label, is_wrong = flipped(true, kind, rate, seed)
                    check, batch = LabelNoise(), batch_of(label, rows)
                    model = fit_check(check, [batch])
                    counts += covered(is_wrong, label, check.evidence(model))
                    if rate:
                        scores = check.score(model, batch)
                        ours = quality(is_wrong, (scores.score, scores.flagged))
                        found.append((*ours, *quality(is_wrong, rival(rows, label))))
                whole += counts
                line = f"  {name:7}{kind:8}{rate:5}"
                if found:
                    table = np.array(found)
                    less = table[:, 2:] - table[:, :2]
                    spread = 2 * less.std(axis=0, ddof=min(1, seeds - 1)) / np.sqrt(seeds)
                    is_short = bool((less.mean(axis=0) > np.maximum(spread, 0.005)).any())
                    short += int(is_short)
                    mean = table.mean(axis=0)
                    line += f"  {mean[0]:.4f} {mean[2]:.4f}  {mean[1]:.3f} {mean[3]:.3f}{' short' * is_short}"
                else:
                    line += " " * 30
                width = counts[3] / counts[0]
                print(f"{line}  {int(counts[1])} {int(counts[2])} of {int(counts[0])}  {width:.3f}", flush=True)
    print(
        f"short in {short} settings; intervals cover {whole[1] / whole[0]:.3f} of {int(whole[0])} classes, "
        f"plain Wilson {whole[2] / whole[0]:.3f}"
    )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logistic regression says when it stops early
        main()
