"""Claim: among 3 to 50 annotators of scikit-learn's digits, those that flip many labels are named, and no honest one.

Honest annotators differ: each has an error rate between 0.9 and 6 %. About a sixth of them is bad instead, in one of
four ways: "uniform" (a share of labels becomes any other class), "next" (the next one), "const" (always 3), "pair" (80
% of the fours become nines, all else as it is). In every second run annotators have unequal numbers of labels. The
rival is the plain rule "a rate of doubted labels above mean + 3 standard errors", on the same doubted labels.

    OPENBLAS_NUM_THREADS=1 python bench/annotators_digits.py [seeds]
"""

import hashlib
import platform
import sys
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detectors.annotator_quality import AnnotatorQuality

CROWDS = ((3, 1), (4, 1), (5, 1), (8, 2), (15, 3), (30, 5), (50, 8))
WAYS = (("uniform", 0.2), ("uniform", 0.3), ("uniform", 0.5), ("next", 0.3), ("const", 0.3), ("pair", 0.8))
CONSTANT, PAIR = 3, (4, 9)


def labelled(
    true: np.ndarray, people: int, bad: int, way: str, rate: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the labels, who gave each, and who is bad."""
    rng = np.random.default_rng([seed, people, int(rate * 100), *way.encode()])
    share = rng.dirichlet(np.full(people, 3.0)) if seed % 2 else np.full(people, 1 / people)
    who, chosen = rng.choice(people, len(true), p=share), rng.choice(people, bad, replace=False)
    own = 0.03 * rng.uniform(0.3, 2, people)
    own[chosen] = 0.0 if way == "pair" else rate
    label, is_wrong = true.copy(), rng.random(len(true)) < own[who]
    label[is_wrong] = (true[is_wrong] + rng.integers(1, 10, int(is_wrong.sum()))) % 10
    is_theirs = np.isin(who, chosen)
    if way == "next":
        label[is_wrong & is_theirs] = (true[is_wrong & is_theirs] + 1) % 10
    elif way == "const":
        label[is_wrong & is_theirs] = CONSTANT
    elif way == "pair":
        label[is_theirs & (true == PAIR[0]) & (rng.random(len(true)) < rate)] = PAIR[1]
    return label, who, chosen


def named(rows: np.ndarray, digests: pa.Array, label: np.ndarray, who: np.ndarray) -> tuple[set[str], set[str]]:
    """Return whom we name, as a whole or for a pair of classes, and whom the plain rule names."""
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    columns = [pa.array(label.astype(str)), pa.array([f"a{one}" for one in who]), embedding, digests]
    batch = pa.RecordBatch.from_arrays(columns, names=["label", "annotator", "embedding_external", "sample_digest"])
    check = AnnotatorQuality()
    evidence = check.evidence(fit_check(check, [batch]))
    rate = {item.group: (item.statistic["error_rate"], item.samples) for item in evidence if ":" not in item.group}
    mean = sum(share * count for share, count in rate.values()) / len(label)
    plain = {one for one, (share, count) in rate.items() if share > mean + 3 * np.sqrt(mean * (1 - mean) / count)}
    return {item.group.partition(":")[0] for item in evidence if item.is_suspicious}, plain


def main() -> None:
    from sklearn.datasets import load_digits

    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    rows, true = load_digits(return_X_y=True)
    rows = rows.astype(np.float32)
    digests = pa.array([hashlib.sha256(row.tobytes()).digest() for row in rows], pa.binary(32))
    print(f"{platform.machine()}  Python {platform.python_version()}  numpy {version('numpy')}; {seeds} seeds each")
    print("  bad named of bad, honest named: ours; mean + 3 standard errors")
    for way, rate in (*WAYS, ("clean", 0.0)):
        for people, bad in CROWDS:
            count = np.zeros(5, dtype=np.int64)
            for seed in range(seeds):
                label, who, chosen = labelled(true, people, 0 if way == "clean" else bad, way, rate, seed)
                wanted = {f"a{one}" for one in chosen}
                ours, plain = named(rows, digests, label, who)
                count += [len(wanted), len(ours & wanted), len(ours - wanted), len(plain & wanted), len(plain - wanted)]
            print(
                f"  {way:8}{rate:4}  {people:2} annotators  {count[1]:2} of {count[0]:2}, {count[2]} honest"
                f"   {count[3]:2} of {count[0]:2}, {count[4]} honest",
                flush=True,
            )


if __name__ == "__main__":
    main()
