"""Claim: `annotator_quality` names planted bad workers among the workers of CIFAR-10N, and no other.

Labels: random_label1 of CIFAR-10N (17 % human errors) on the 20,000 images of ../shared/data/features; workers by image
batch. Planted: workers with at least 100 of these images flip 30 % of their labels to another class. The rival is the
plain rule "a rate of doubted labels above mean + 3 standard errors", on the same doubted labels.

Who is not named is printed with what was seen of them: how many of their labels were flipped (30 % is the chance of
each), and their surprise in standard errors beside what being named takes among so many workers. At last, how many were
named by number of labels: the power.

    OPENBLAS_NUM_THREADS=1 python bench/annotators.py [seeds]
"""

import csv
import hashlib
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detectors.annotator_quality import AnnotatorQuality

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
BAD_WORKERS, FLIPPED, LEAST_IMAGES = 5, 0.3, 100


def batch_of(label: np.ndarray, worker: np.ndarray, embedding: np.ndarray) -> pa.RecordBatch:
    digests = [hashlib.sha256(row.tobytes()).digest() for row in embedding]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label]),
            pa.array([f"w{value}" for value in worker]),
            pa.FixedSizeListArray.from_arrays(pa.array(embedding.ravel()), embedding.shape[1]),
            pa.array(digests, pa.binary(32)),
        ],
        names=["label", "annotator", "embedding_external", "sample_digest"],
    )


def workers() -> np.ndarray:
    """Return the first worker of each training image."""
    with (SHARED / "cifar10n" / "side_info_cifar10N.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return np.repeat([int(row["Worker1-id"]) for row in rows], 10)


def main() -> None:
    from scipy.stats import norm

    if not (SHARED / "cifar10n").is_dir() or not (SHARED / "features").is_dir():
        print(f"annotators: skipped, {SHARED} has no cifar10n or features")
        return
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{platform.machine()}  Python {platform.python_version()}  numpy {version('numpy')}")
    data = np.load(SHARED / "features" / "img_badnet_0.01.npz")
    human = np.load(SHARED / "cifar10n" / "cifar10n_labels.npz")["random_label1"]
    index, embedding = data["cifar_train_index"], data["feat_external"].astype(np.float32)
    worker = workers()[index]
    names, counts = np.unique(worker, return_counts=True)
    print(
        f"{len(index)} images, {len(names)} workers, {int((counts >= LEAST_IMAGES).sum())} with {LEAST_IMAGES} or more"
    )
    power: dict[int, list[bool]] = {}
    for seed in range(-1, seeds):
        rng = np.random.default_rng(max(seed, 0))
        bad = rng.choice(names[counts >= LEAST_IMAGES], BAD_WORKERS, replace=False) if seed >= 0 else names[:0]
        label = human[index].astype(np.int64)
        flipped = np.isin(worker, bad) & (rng.random(len(label)) < FLIPPED)
        label[flipped] = (label[flipped] + rng.integers(1, 10, int(flipped.sum()))) % 10
        batch = batch_of(label, worker, embedding)
        check = AnnotatorQuality()
        start = time.process_time()
        model = fit_check(check, [batch.slice(at, 5000) for at in range(0, len(label), 5000)])
        evidence = check.evidence(model)
        taken = time.process_time() - start
        named = {item.group for item in evidence if item.is_suspicious}
        wanted = {f"w{value}" for value in bad}
        rate = {item.group: (item.statistic["error_rate"], item.samples) for item in evidence if ":" not in item.group}
        mean = sum(share * rows for share, rows in rate.values()) / len(label)
        plain = {
            name for name, (share, rows) in rate.items() if share > mean + 3 * float(np.sqrt(mean * (1 - mean) / rows))
        }
        what = "nothing planted" if seed < 0 else f"seed {seed}, {len(wanted)} bad"
        by_name = {item.group: item for item in evidence}
        for value in bad.tolist():
            item = by_name[f"w{value}"]
            power.setdefault(min(item.samples // 50 * 50, 300), []).append(item.group in named)
            if item.group not in named:
                print(
                    f"    missed: {item.samples} labels, {flipped[worker == value].sum()} flipped, "
                    f"{item.statistic['surprise_above']:.2f} standard errors above all"
                )
        print(
            f"  {what:16}  ours: named {len(named & wanted)} bad, {len(named - wanted)} others"
            f"   mean + 3 SE: {len(plain & wanted)} bad, {len(plain - wanted)} others"
            f"   rho {model.rho:.4f}  CPU-seconds {taken:.2f}"
        )
    needed = norm.isf(AnnotatorQuality().alpha / int((counts > 0).sum()))
    print(f"  being named takes about {needed:.2f} standard errors (normal tail; the check's own is skewed)")
    for least, hits in sorted(power.items()):
        print(f"  {least:4} labels and more: {sum(hits)} of {len(hits)} named")


if __name__ == "__main__":
    main()
