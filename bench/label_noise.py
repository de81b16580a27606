"""Claim: `label_noise` flags what cleanlab flags, batch by batch; it ranks flips no worse than logistic regression.

Five parts, in one run, each with the rival on the same data:
  1. digits: sklearn's digits, 5 % of labels flipped, three seeds; the rival is 5-fold logistic regression and cleanlab.
  2. published: MNIST and IMDB test probabilities with human votes (../shared/data/label-errors); skipped where absent.
     Votes of IMDB are by file name, and the table from names to rows is not in that folder; so its precision and recall
     are bounds: all 1,310 reviewed reviews were flags of theirs, and nobody looked at any other.
  3. size: 1,000,000 x 100 synthetic probabilities; CPU and peak memory, each in a process of its own, beside cleanlab's
     filter and its batched variant (which reads a memory-mapped file; making the data counts for none of them).
  4. classes: 10,000 of them, 40,000 rows made batch by batch: passes, CPU and peak memory of ours, with classes named
     and, of up to 100,000 rows, found.
  5. clean: features of 20,000 CIFAR-10 images (../shared/data/features); skipped where absent.

    OPENBLAS_NUM_THREADS=1 python bench/label_noise.py [rounds]
    OPENBLAS_NUM_THREADS=1 python bench/label_noise.py --part ours 10000000   # one side alone, at another size
    OPENBLAS_NUM_THREADS=1 python bench/label_noise.py --classes 1000000      # part 4 alone, at another size
"""

import hashlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.label_filter import FILTERS, FilterBy

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SIZE_ROWS, SIZE_CLASSES, BATCH_ROWS = 1_000_000, 100, 10_000


def batch_of(label: np.ndarray, role: str, values: np.ndarray, first: int = 0) -> pa.RecordBatch:
    """Return a batch; digests are of the row number for probabilities (ties in row order), else of the values."""
    if role == "pred_probs":
        digests = [index.to_bytes(8, "big") + bytes(24) for index in range(first, first + len(label))]
    else:
        digests = [hashlib.sha256(row.tobytes()).digest() for row in values]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            pa.array(digests, pa.binary(32)),
        ],
        names=["label", role, "sample_digest"],
    )


def cpu_of(action: Callable[[], object], rounds: int) -> str:
    """Return min, median and max CPU-seconds of an action."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return f"{min(taken):.3f} {statistics.median(taken):.3f} {max(taken):.3f}"


def quality(is_wrong: np.ndarray, score: np.ndarray, flagged: np.ndarray) -> str:
    from sklearn.metrics import f1_score, roc_auc_score

    return f"AUROC {roc_auc_score(is_wrong, score):.4f}  F1 {f1_score(is_wrong, flagged):.3f}  flagged {flagged.sum()}"


def logistic(embedding: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and flags of 5-fold logistic regression on standardised columns, with cleanlab."""
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    probs = cross_val_predict(model, embedding, label, cv=5, method="predict_proba")
    return 1 - probs[np.arange(len(label)), label], find_label_issues(label, probs, n_jobs=1)


def ours(embedding: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check, batch = LabelNoise(), batch_of(label, "embedding_external", embedding)
    scores = check.score(fit_check(check, [batch]), batch)
    return scores.score, scores.flagged


def digits(rounds: int) -> None:
    from sklearn.datasets import load_digits

    embedding, true = load_digits(return_X_y=True)
    embedding = embedding.astype(np.float32)
    print(f"digits {embedding.shape}, 5 % flipped; CPU-seconds are min median max of {rounds}")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        is_wrong = rng.random(len(true)) < 0.05
        label = np.where(is_wrong, (true + rng.integers(1, 10, len(true))) % 10, true)
        for name, run in (("discriminant", ours), ("logistic", logistic)):
            score, flagged = run(embedding, label)
            cpu = cpu_of(lambda run=run, label=label: run(embedding, label), rounds)  # type: ignore[misc] # bound now
            print(f"  seed {seed}  {name:12}  {quality(is_wrong, score, flagged)} of {is_wrong.sum()}  CPU {cpu}")


def published() -> None:
    folder = SHARED / "label-errors"
    if not folder.is_dir():
        print(f"published: skipped, {folder} is not here")
        return
    from cleanlab.filter import find_label_issues

    for name in ("mnist", "imdb"):
        label = np.load(folder / f"{name}_test_set_original_labels.npy").astype(np.int64)
        probs = np.load(folder / f"{name}_test_set_pyx.npy").astype(np.float64)
        probs = np.minimum(probs / probs.sum(axis=1, keepdims=True), 1.0)
        batch = batch_of(label, "pred_probs", probs)
        print(f"published {name} {probs.shape}: filter, ours, cleanlab as installed, in one but not the other")
        for filter_by in FILTERS:
            theirs = find_label_issues(label, probs, filter_by=filter_by, n_jobs=1)
            check = LabelNoise(view="pred_probs", filter_by=_filter(filter_by))
            flagged = check.score(fit_check(check, [batch]), batch).flagged
            print(f"  {filter_by:22} {flagged.sum():6} {theirs.sum():6} {(flagged ^ theirs).sum():4}", end="")
            print(f"  {votes(folder / 'mnist_mturk.json', flagged)}" if name == "mnist" else "")
        if name == "imdb":
            print(f"  {votes_by_name(folder / 'imdb_mturk.json')}")


def votes(path: Path, flagged: np.ndarray) -> str:
    """Return precision among reviewed flags and recall of the errors that a majority of five people saw."""
    reviewed = json.loads(path.read_text(encoding="utf-8"))
    row = np.array([item["id"] for item in reviewed])
    is_error = np.array([item["mturk"]["given"] < 3 for item in reviewed])
    hits = flagged[row]
    precision = is_error[hits].mean() if hits.any() else float("nan")
    recall = hits[is_error].mean()
    return f"precision {precision:.3f} of {hits.sum()} reviewed, recall {recall:.3f} of {is_error.sum()}"


def votes_by_name(path: Path) -> str:
    """Return how many reviewed texts a majority found wrong, where it is not known which rows they are."""
    given = np.array([item["mturk"]["given"] for item in json.loads(path.read_text(encoding="utf-8"))])
    errors = int((given < 3).sum())
    return (
        f"reviewed {len(given)}, of these errors {errors}: precision {errors / len(given):.3f} if these are the flags"
    )


def _filter(name: str) -> FilterBy:
    return name  # type: ignore[return-value] # from FILTERS


class SyntheticBatches(Iterable[pa.RecordBatch]):
    """Rows made batch by batch from a seed, again in every pass; `seconds` counts what making them took."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.seconds = 0.0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for first in range(0, self.rows, BATCH_ROWS):
            start = time.process_time()
            batch = batch_of(*_synthetic(first), first)
            self.seconds += time.process_time() - start
            yield batch


def _synthetic(first: int) -> tuple[np.ndarray, str, np.ndarray]:
    rng = np.random.default_rng(first)
    true = rng.integers(0, SIZE_CLASSES, BATCH_ROWS)
    probs = rng.standard_exponential((BATCH_ROWS, SIZE_CLASSES))
    probs *= probs
    probs /= probs.sum(axis=1, keepdims=True)
    probs[np.arange(BATCH_ROWS), true] += rng.random(BATCH_ROWS) * 1.5
    probs /= probs.sum(axis=1, keepdims=True)
    is_wrong = rng.random(BATCH_ROWS) < 0.05
    return np.where(is_wrong, rng.integers(0, SIZE_CLASSES, BATCH_ROWS), true), "pred_probs", np.minimum(probs, 1)


def size_part(which: str, rows: int) -> None:
    """Print CPU-seconds, peak memory and a digest of the flags of one side; runs in a process of its own."""
    if which == "idle":
        flagged = np.zeros(0, dtype=np.bool_)
        taken = 0.0
    elif which == "ours":
        check = LabelNoise(view="pred_probs", classes=tuple(str(index) for index in range(SIZE_CLASSES)))
        batches = SyntheticBatches(rows)
        start = time.process_time()
        model = fit_check(check, batches)
        flagged = np.concatenate([check.score(model, batch).flagged for batch in batches])
        taken = time.process_time() - start - batches.seconds
    else:
        flagged, taken = theirs(rows, is_batched=which == "batched")
    status = Path("/proc/self/status").read_text(encoding="ascii")  # ru_maxrss would start from the parent's
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    digest = hashlib.sha256(np.packbits(flagged).tobytes()).hexdigest()[:16]
    print(json.dumps({"cpu_seconds": taken, "peak_mib": peak, "flagged": int(flagged.sum()), "digest": digest}))


def theirs(rows: int, *, is_batched: bool) -> tuple[np.ndarray, float]:
    """Return the flags of cleanlab's filter, or of its batched variant, and the CPU-seconds that it took."""
    label = np.empty(rows, dtype=np.int64)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        shape = (rows, SIZE_CLASSES)
        probs = np.lib.format.open_memmap(file.name, "w+", np.float64, shape) if is_batched else np.empty(shape)
        for first in range(0, rows, BATCH_ROWS):
            label[first : first + BATCH_ROWS], _, probs[first : first + BATCH_ROWS] = _synthetic(first)
        if not is_batched:
            from cleanlab.filter import find_label_issues

            start = time.process_time()
            return find_label_issues(label, probs, n_jobs=1), time.process_time() - start
        from cleanlab.experimental.label_issues_batched import find_label_issues_batched

        del probs
        start = time.process_time()
        found = find_label_issues_batched(
            label, np.load(file.name, mmap_mode="r"), batch_size=BATCH_ROWS, n_jobs=1, verbose=False
        )
        return np.isin(np.arange(rows), found), time.process_time() - start


def size(rounds: int) -> None:
    print(f"size {SIZE_ROWS} x {SIZE_CLASSES}: min median max of {rounds} processes each")
    medians = {}
    for which in ("idle", "ours", "cleanlab", "batched"):
        answers = [
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--part", which, str(SIZE_ROWS)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for _ in range(rounds)
        ]
        cpu = sorted(answer["cpu_seconds"] for answer in answers)
        peak = sorted(answer["peak_mib"] for answer in answers)
        medians[which] = statistics.median(cpu)
        print(
            f"  {which:9} CPU-seconds {cpu[0]:.2f} {statistics.median(cpu):.2f} {cpu[-1]:.2f}"
            f"  peak MiB {peak[0]:.0f} {statistics.median(peak):.0f} {peak[-1]:.0f}"
            f"  flagged {answers[0]['flagged']}  flags {answers[0]['digest']}"
        )
    print(
        f"  ours / cleanlab CPU {medians['ours'] / medians['cleanlab']:.2f}"
        f"  ours / batched {medians['ours'] / medians['batched']:.2f}"
    )


def many_classes(rows: int, width: int = 10_000, batch_rows: int = 500) -> None:
    """Print what so many classes cost; runs in a process of its own.

    Rows are made anew in every pass, from one block whose columns are turned about, so that making them takes less than
    judging them: a long tail of other classes, the true one added, a tenth of labels drawn from all classes.
    """
    rng = np.random.default_rng(0)
    block = rng.random((batch_rows, width)) ** 8
    block /= block.sum(axis=1, keepdims=True)

    def batches() -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        for first in range(0, rows, batch_rows):
            rng = np.random.default_rng([first, width])
            true, at = rng.integers(0, width, batch_rows), np.arange(batch_rows)
            probs = np.roll(block, int(rng.integers(width)), axis=1)
            weight = rng.random(batch_rows) * 3
            probs[at, true] += weight
            probs /= (1 + weight)[:, None]
            label = np.where(rng.random(batch_rows) < 0.1, rng.integers(0, width, batch_rows), true)
            yield batch_of(label, "pred_probs", np.minimum(probs, 1, out=probs), first), label != true

    named = tuple(map(str, range(width)))
    for classes in (named, ()) if rows <= 100_000 else (named,):
        check = LabelNoise(view="pred_probs", classes=classes)
        model: Any = None
        taken, flagged, found, wrong = list[float](), 0, 0, 0
        for _ in range(check.passes):
            acc, seconds = check.empty(), 0.0
            for batch, _ in batches():
                start = time.process_time()
                acc = check.add(acc, batch, model)
                seconds += time.process_time() - start
            start = time.process_time()
            model = check.fit(acc, model)
            taken.append(seconds + time.process_time() - start)
        seconds = 0.0
        for batch, is_wrong in batches():
            start = time.process_time()
            flags = check.score(model, batch).flagged
            seconds += time.process_time() - start
            flagged, found, wrong = (
                flagged + int(flags.sum()),
                found + int(flags[is_wrong].sum()),
                wrong + int(is_wrong.sum()),
            )
        taken.append(seconds)
        peak = int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) / 1024
        print(
            f"classes {width} {'named' if classes else 'found'}, {rows} rows: {check.passes} passes and the score; "
            f"CPU-seconds {sum(taken):.1f} ({', '.join(f'{part:.1f}' for part in taken)}), "
            f"{rows / sum(taken):.0f} rows/CPU-second, peak MiB {peak:.0f} "
            f"(a batch: {batch_rows * width * 8 / 2**20:.0f}), flagged {flagged}, "
            f"of these {found} of {wrong} wrong labels",
            flush=True,
        )


def clean() -> None:
    for name in ("img_clean", "img_badnet_0.01"):
        path = SHARED / "features" / f"{name}.npz"
        if not path.is_file():
            print(f"clean: skipped, {path} is not here")
            continue
        data = np.load(path)
        label, poison = data["label"].astype(np.int64), data["poison"].astype(np.bool_)
        for view in [key for key in data.files if key.startswith("feat_")]:
            embedding = data[view].astype(np.float32)
            for rival, run in (("discriminant", ours), ("logistic", logistic)):
                start = time.process_time()
                _, flagged = run(embedding, label)
                taken = time.process_time() - start
                caught = f", of poison {flagged[poison].mean():.3f}" if poison.any() else ""
                print(f"  {name} {view:13} {rival:12} flagged {flagged.mean():.4f}{caught}  CPU {taken:.2f}")


def main() -> None:
    if sys.argv[1:2] == ["--classes"]:
        many_classes(int(sys.argv[2]) if len(sys.argv) > 2 else 40_000)
        return
    if sys.argv[1:2] == ["--part"]:
        size_part(sys.argv[2], int(sys.argv[3]))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    packages = "  ".join(f"{name} {version(name)}" for name in ("numpy", "cleanlab", "scikit-learn", "pyarrow"))
    print(f"{platform.machine()}  Python {platform.python_version()}  {packages}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logistic regression says when it stops early; cleanlab warns of tiny classes
        digits(rounds)
        published()
        size(rounds)
        subprocess.run([sys.executable, __file__, "--classes"], check=True)
        print("clean: no label of these sets is known to be wrong")
        clean()


if __name__ == "__main__":
    main()
