"""Claim: `view_contradiction` names no class of honest data, noisy labels included, and flags learnt triggers.

    OPENBLAS_NUM_THREADS=1 python bench/view_contradiction.py [FOLDER]

Clean: the saved features of ../shared/data (BadNets left out; then with three kinds of labels that people gave, of
CIFAR-10N: 9, 17 and 40 % wrong) and their quarters; scikit-learn's digits by the perceptron of `millcert embed` beside
their own pixels, three seeds. Attacked: the saved features, at 1, 0.5 and 0.25 % (some poisoned rows left out).
FOLDER: every .npz that holds feat_self, feat_external, label and poison, as bench/cnn_views.py makes them; those of
"votes" have a network that was trained on the wrong labels. No check is told a rate.

Printed: the least p-value of any class, which classes are named, estimated count with its interval, TPR, FPR over all
clean samples. Beside it version 3's rule: the tail of log p(label | self) - log p(label | external) whose mirror image
is at most 5 % of it (knockoff+: Barber, Candes, Annals of Statistics 43, 2015, equation 1.9).
"""

import argparse
import hashlib
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detectors.view_contradiction import VIEWS, ViewContradiction, ViewContradictionModel
from millcert.checks.fold_sums import fold_of

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MIRRORED_SHARE, LEAST = 0.05, float(np.log(10))


class Subject(NamedTuple):
    """own, external: float (n, d). label: (n,). is_bad: bool (n,)."""

    name: str
    own: np.ndarray
    external: np.ndarray
    label: np.ndarray
    is_bad: np.ndarray

    def take(self, rows: np.ndarray, name: str) -> "Subject":
        """Return some rows under a name."""
        return Subject(name, self.own[rows], self.external[rows], self.label[rows], self.is_bad[rows])

    def batch(self) -> pa.RecordBatch:
        """Return what the check reads."""
        marks = [hashlib.sha256(f"{row}".encode()).digest() for row in range(len(self.label))]
        columns = [pa.array([str(one) for one in self.label]), pa.array(marks, pa.binary(32))]
        for rows in (self.own, self.external):
            flat = np.ascontiguousarray(rows, dtype=np.float32)
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1]))
        return pa.RecordBatch.from_arrays(columns, ["label", "sample_digest", *VIEWS])


def saved() -> Iterator[Subject]:
    path, votes = SHARED / "features" / "img_badnet_0.01.npz", SHARED / "cifar10n" / "cifar10n_labels.npz"
    if not path.is_file():
        print("saved features: not there, left out")
        return
    stored = np.load(path, allow_pickle=False)
    subject = Subject(
        "saved", stored["feat_self"], stored["feat_external"], stored["label"].astype(int), stored["poison"]
    )
    clean = np.flatnonzero(~subject.is_bad)
    yield subject.take(clean, "saved, clean")
    for quarter in range(4):
        yield subject.take(clean[quarter::4], f"saved, clean, quarter {quarter}")
    if votes.is_file():
        given = np.load(votes, allow_pickle=False)
        for key in ("aggre_label", "random_label1", "worse_label"):
            label = given[key][stored["cifar_train_index"]].astype(int)
            yield subject._replace(label=label).take(clean, f"saved, CIFAR-10N {key}")
    for part in (1, 2, 4):
        left = np.flatnonzero(subject.is_bad)[::part]
        rows = np.sort(np.concatenate([clean, left]))
        yield subject.take(rows, f"saved, BadNets {len(left)}")


def digits() -> Iterator[Subject]:
    from sklearn.datasets import load_digits

    from millcert.checks.probe import train_probe

    rows, label = load_digits(return_X_y=True)
    for seed in range(3):
        own = train_probe(rows, label.astype(str), content="image", seed=seed).embed(rows)
        yield Subject(f"digits, clean, seed {seed}", own, rows, label, label < 0)


def made(folder: Path) -> Iterator[Subject]:
    for path in sorted(folder.glob("*.npz")):
        stored = np.load(path, allow_pickle=False)
        if {"feat_self", "feat_external", "label", "poison"} <= set(stored.files):
            views = stored["feat_self"], stored["feat_external"]
            yield Subject(f"network, {path.stem}", *views, stored["label"].astype(int), stored["poison"])


def mirrored(model: ViewContradictionModel, subject: Subject) -> np.ndarray:
    """Return what version 3's rule flags, bool (n,)."""
    batch = subject.batch()
    key = np.frombuffer(b"".join(batch.column("sample_digest").to_pylist()), dtype=np.uint8).reshape(-1, 32)[:, :8]
    fold = fold_of(np.ascontiguousarray(key).view(">u8").astype(np.uint64).ravel(), ViewContradiction().folds)
    logs = []
    for view, rows in zip(VIEWS, (subject.own, subject.external), strict=True):
        known = model.views[view]
        place = np.array([known.classes.index(str(one)) for one in subject.label])
        logs.append(np.zeros(len(place)))
        for number in range(ViewContradiction().folds):
            of = np.flatnonzero(fold == number)
            found = known.discriminants[number].probabilities(rows[of].astype(np.float32))
            logs[-1][of] = np.log(np.maximum(found[np.arange(len(of)), place[of]], 1e-12))
    score, flagged = logs[0] - logs[1], np.zeros(len(subject.label), dtype=bool)
    for label in np.unique(subject.label):
        own = score[subject.label == label]
        for border in sorted(own[own >= LEAST].tolist()):
            if (1 + (own <= -border).sum()) <= MIRRORED_SHARE * (own >= border).sum():
                flagged |= (subject.label == label) & (score >= border)
                break
    return flagged


def line(subject: Subject) -> None:
    check, batch = ViewContradiction(), subject.batch()
    model = fit_check(check, [batch])
    flagged, evidence = check.score(model, batch).flagged, check.evidence(model)
    least = min((one.p_value for one in evidence if one.p_value is not None), default=1.0)
    named = "; ".join(
        f"class {one.label}: {one.estimated_count:.0f} [{one.count_low:.0f}, {one.count_high:.0f}]"
        for one in evidence
        if one.is_suspicious
    )
    old = mirrored(model, subject)
    print(
        f"{subject.name:34} {len(subject.label):6d}  bad {subject.is_bad.sum():4d}  least p {least:.1e}  "
        f"{rates(flagged, subject.is_bad)}  named {named or 'nothing'}   mirrored: {rates(old, subject.is_bad)}",
        flush=True,
    )


def rates(flagged: np.ndarray, is_bad: np.ndarray) -> str:
    tpr = f"TPR {flagged[is_bad].mean():6.1%} " if is_bad.any() else ""
    return f"{tpr}FPR {flagged[~is_bad].mean():.3%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="views of bench/cnn_views.py")
    folder = parser.parse_args().folder
    print(f"Python {platform.python_version()}, numpy {version('numpy')}, scipy {version('scipy')}")
    for subjects in (saved(), digits(), made(folder) if folder else iter(())):
        for subject in subjects:
            line(subject)


if __name__ == "__main__":
    main()
