"""Claim: the poison checks find planted attacks, name the source, and stay silent on at least 20 clean data sets.

    OPENBLAS_NUM_THREADS=1 python bench/detection.py [seeds]

One line for each check x data x attack x rate: TPR, FPR (of all clean samples), AUROC (over all samples), what was
named, and the estimated count. No check is told a rate; all have their defaults. Beside them, on the same data: the
paper's 1.5 x epsilon rule with the true rate given, ART's default (33 % x 1.5 of each class), activation clustering
with the toolboxes' rule (ten principal components, two means, the smaller cluster if below 35 %), a random filter of
the true size, and a perfect filter. Then the clean runs: how many had any finding, and the share of samples flagged.

Data: ../shared/data (evaluation only; parts that are absent are left out and said so) and scikit-learn's bundled sets.
CIFAR-10 images are stamped here; BadNets as in Gu et al. 2017 (3 x 3 checkerboard, lower right, relabelled 0), blend as
in Chen et al. 2017 (one fixed random image, 20 %), adaptive blend with as many cover samples (Qi et al. 2023); blends
are judged on raw pixels and on principal components of them, floods (near copies of one sample) on the external view.
SST-2 is all-MiniLM-L6-v2 with published BadNets and AddSent rows.
"""

import hashlib
import io
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.base import Check, GroupEvidence, Scores
from millcert.checks.detectors.activation_clustering import ActivationClustering
from millcert.checks.detectors.knn_disagreement import KnnDisagreement
from millcert.checks.detectors.near_duplicates import NearDuplicates
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.detectors.source_shift import SourceShift
from millcert.checks.detectors.spectral_signatures import REMOVAL_FACTOR, SpectralSignatures
from millcert.checks.detectors.trigger_mining import TriggerMining
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.errors import NotEnoughSamplesError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH, SOURCES, BAD_SOURCE = 2000, 20, 7
ART_RATE = 0.33


@dataclass(frozen=True, eq=False)
class Data:
    """name, attack: for the table. views: role -> (n, d). label, source: whole numbers (n,). is_bad: bool (n,)."""

    name: str
    views: dict[str, np.ndarray]
    label: np.ndarray
    source: np.ndarray
    is_bad: np.ndarray
    attack: str = "none"
    shape: tuple[int, ...] = ()

    def batches(self, roles: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows with what a check needs."""
        for start in range(0, len(self.label), BATCH):
            part = slice(start, start + BATCH)
            label, source = self.label[part], self.source[part]
            columns: dict[str, pa.Array] = {
                "label": pa.array([str(value) for value in label], pa.string()),
                "source": pa.array([f"s{value:02d}" for value in source], pa.string()),
                "sample_digest": pa.array(
                    [hashlib.sha256(f"{self.name} {start + row}".encode()).digest() for row in range(len(label))],
                    pa.binary(32),
                ),
            }
            for role, rows in self.views.items():
                if role in roles:
                    kind = np.float64 if role == "features" else np.float32
                    values = np.ascontiguousarray(rows[part].reshape(len(label), -1), dtype=kind)
                    columns[role] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            yield pa.RecordBatch.from_arrays(list(columns.values()), list(columns))

    def take(self, rows: np.ndarray) -> "Data":
        """Return some rows."""
        views = {role: values[rows] for role, values in self.views.items()}
        return replace(self, views=views, label=self.label[rows], source=self.source[rows], is_bad=self.is_bad[rows])


def with_sources(data: Data, seed: int, sources: int = SOURCES) -> Data:
    """Return the data in random sources of one size, all bad rows in one of them."""
    source = np.random.default_rng(seed).integers(0, sources, len(data.label))
    return replace(data, source=np.where(data.is_bad, BAD_SOURCE % sources, source))


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
    print(f"{check:22} {data.name:18} {data.attack:26} {rate:>6} {figures}  {named}", flush=True)


def checks_for(data: Data) -> list[Check]:
    """Return our checks that have their columns here, with their defaults."""
    every: list[Check] = [
        RobustSpectral(),
        SourceShift(),
        ViewContradiction(),
        TriggerMining(shape=data.shape),
        KnnDisagreement(),
        NearDuplicates(view="embedding_external"),
        NearDuplicates(view="features"),
    ]
    there = {"label", "source", "sample_digest", *data.views}
    return [check for check in every if check.columns <= there]


def attacked(data: Data) -> None:
    """Print our checks on one attacked data set."""
    for check in checks_for(data):
        scores, evidence, seconds = run(check, data)
        bad = [item for item in evidence if item.is_suspicious]
        named = "; ".join(
            f"{item.group}: {item.estimated_count:.0f} [{item.count_low:.0f}, {item.count_high:.0f}]" for item in bad
        )
        line(check.name, data, scores.flagged, scores.score, named or "nothing named", seconds)


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


def features(name: str) -> Data | None:
    path = SHARED / "features" / f"{name}.npz"
    if not path.is_file():
        return None
    stored = np.load(path, allow_pickle=False)
    views = {"embedding_self": stored["feat_self"]}
    if "feat_external" in stored:
        views["embedding_external"] = stored["feat_external"]
    label = stored["label"].astype(int)
    return Data(name, views, label, np.zeros(len(label), dtype=int), stored["poison"].copy())


def cifar_images() -> tuple[np.ndarray, np.ndarray] | None:
    """Return the 20,000 images that the features are of, uint8 (n, 32, 32, 3), and their true labels."""
    path, table = SHARED / "features" / "img_clean.npz", SHARED / "cifar10" / "cifar10_jpeg.parquet"
    if not (path.is_file() and table.is_file()):
        return None
    import pyarrow.parquet as pq
    from PIL import Image

    stored = np.load(path, allow_pickle=False)
    rows = pq.read_table(table, columns=["split", "index", "jpeg"]).to_pydict()
    place = {index: row for row, index in enumerate(rows["index"]) if rows["split"][row] == "train"}
    jpegs = [rows["jpeg"][place[int(index)]] for index in stored["cifar_train_index"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]), stored["true_label"].astype(int)


def image_data(images: np.ndarray, label: np.ndarray, is_bad: np.ndarray, attack: str) -> Data:
    return Data("CIFAR-10 pixels", {"features": images}, label, np.zeros_like(label), is_bad, attack, (32, 32, 3))


def stamped(images: np.ndarray, label: np.ndarray, seed: int, *, bad: int, relabelled: bool) -> Data:
    """BadNets: `bad` images with a checkerboard in the corner; of other classes and relabelled 0, or of class 0."""
    chosen = np.random.default_rng(seed).choice(np.flatnonzero((label != 0) == relabelled), bad, replace=False)
    poisoned, wrong = images.copy(), label.copy()
    poisoned[chosen, 28:31, 28:31] = (255 * (np.indices((3, 3)).sum(axis=0) % 2 == 0))[:, :, None]
    wrong[chosen] = 0
    kind = "BadNets" if relabelled else "BadNets, right label"
    return image_data(poisoned, wrong, np.isin(np.arange(len(label)), chosen), f"{kind}, 1 source")


def blended(images: np.ndarray, label: np.ndarray, seed: int, *, bad: int, cover: int = 0) -> Data:
    """Blend: `bad` images of other classes mixed with 20 % of one random image, relabelled 0; adaptive with cover.

    The `cover` samples carry the blend and keep their own label (Qi et al., ICLR 2023); they are not counted as bad.
    """
    random = np.random.default_rng(seed)
    chosen = random.choice(np.flatnonzero(label != 0), bad + cover, replace=False)
    pattern = np.random.default_rng(1234).integers(0, 256, images.shape[1:])
    poisoned, wrong = images.copy(), label.copy()
    poisoned[chosen] = np.rint(0.8 * images[chosen] + 0.2 * pattern).astype(np.uint8)
    wrong[chosen[:bad]] = 0
    kind = "adaptive blend" if cover else "blend"
    return image_data(poisoned, wrong, np.isin(np.arange(len(label)), chosen[:bad]), f"{kind}, 1 source")


def as_views(data: Data) -> Data:
    """Return image data with 64 principal components of the clean pixels as an external view; no model, no download."""
    rows = data.views["features"].reshape(len(data.label), -1).astype(np.float32)
    clean = rows[~data.is_bad]
    centred = clean - clean.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    view = (rows - clean.mean(axis=0)) @ vectors[:, :-65:-1]
    return replace(data, name="CIFAR-10 pixel PCA", views={"embedding_external": view.astype(np.float32)})


def flooded(data: Data, seed: int, *, copies: int) -> Data:
    """Return the data with `copies` near copies of one sample of class 1, relabelled 0, in place of others."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(data.label), copies, replace=False)
    rows = data.views["embedding_external"].copy()
    spread = 0.01 * rows.std(axis=0)
    rows[chosen] = rows[np.flatnonzero(data.label == 1)[0]] + spread * random.standard_normal((copies, rows.shape[1]))
    label = data.label.copy()
    label[chosen] = 0
    views = {"embedding_external": rows.astype(np.float32)}
    is_bad = np.isin(np.arange(len(label)), chosen)
    return replace(data, views=views, label=label, is_bad=is_bad, attack="flood of near copies")


def sst2() -> tuple[Data, dict[str, tuple[np.ndarray, np.ndarray]]] | None:
    """Return clean SST-2 and, by attack, poisoned rows with their row numbers (all of label 0, relabelled 1)."""
    path, texts = SHARED / "text" / "sst2_minilm.npz", SHARED / "text" / "hiddenkiller.parquet"
    if not (path.is_file() and texts.is_file()):
        return None
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(texts, columns=["dataset", "variant", "split", "row", "label"])
    for column, value in (("dataset", "sst-2"), ("variant", "clean"), ("split", "train")):
        table = table.filter(pc.equal(pc.cast(table[column], pa.string()), value))
    label = table.sort_by("row")["label"].to_numpy().astype(int)
    stored = np.load(path, allow_pickle=False)
    nothing = np.zeros(len(label), dtype=int)
    clean = Data("SST-2 MiniLM", {"embedding_external": stored["sst2_clean"]}, label, nothing, nothing > 0)
    attacks = {
        name: (stored[f"sst2_{key}_10"], stored[f"sst2_{key}_10_ix"])
        for name, key in (("BadNets words", "badnets"), ("AddSent", "addsent"))
    }
    return clean, attacks


def bundled() -> list[Data]:
    """Return scikit-learn's sets; their columns, standardised, play both views."""
    from sklearn import datasets

    found = []
    for load in (datasets.load_digits, datasets.load_breast_cancer, datasets.load_wine, datasets.load_iris):
        rows, label = load(return_X_y=True)
        scaled = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
        views = {"embedding_self": scaled, "embedding_external": scaled, "features": rows}
        shape = (8, 8) if load is datasets.load_digits else ()
        nothing = np.zeros(len(label), dtype=int)
        found.append(Data(load.__name__.removeprefix("load_"), views, label, nothing, nothing > 0, shape=shape))
    return found


def flipped(data: Data, seed: int, *, bad: int, sources: int) -> Data:
    """Return the data with `bad` samples of one source relabelled as class 0."""
    placed = with_sources(data, seed, sources)
    there = np.flatnonzero((placed.source == BAD_SOURCE % sources) & (placed.label != 0))
    chosen = np.random.default_rng(seed).choice(there, min(bad, len(there)), replace=False)
    label = placed.label.copy()
    label[chosen] = 0
    return replace(placed, label=label, is_bad=np.isin(np.arange(len(label)), chosen), attack="flips, 1 source")


def all_attacks(seeds: int) -> None:
    heads = f"{'TPR':>8} {'FPR':>8} {'AUROC':>7} {'us/row':>6}"
    print(f"{'check':22} {'data':18} {'attack':26} {'rate':>6} {heads}  named: count [95 % interval]")
    backdoor = features("img_badnet_0.01")
    if backdoor is not None:
        spread = replace(backdoor, attack="BadNets, all sources", source=np.arange(len(backdoor.label)) % SOURCES)
        attacked(spread)
        rivals(spread)
        for seed in range(seeds):
            bad = np.random.default_rng(seed).choice(np.flatnonzero(backdoor.is_bad), 40, replace=False)
            rows = np.sort(np.concatenate([np.flatnonzero(~backdoor.is_bad), bad]))
            attacked(replace(with_sources(backdoor.take(rows), seed), attack=f"BadNets, 1 source, seed {seed}"))
    images = cifar_images()
    if images is not None:
        for seed in range(seeds):
            for count, relabelled in ((40, True), (20, True), (40, False)):
                attacked(with_sources(stamped(*images, seed, bad=count, relabelled=relabelled), seed))
            for count, cover in ((200, 0), (40, 0), (40, 40)):
                poisoned = with_sources(blended(*images, seed, bad=count, cover=cover), seed)
                attacked(poisoned)
                attacked(as_views(poisoned))
    if backdoor is not None:
        honest = backdoor.take(np.flatnonzero(~backdoor.is_bad))
        for seed in range(seeds):
            attacked(with_sources(flooded(honest, seed, copies=200), seed))
    text = sst2()
    if text is not None:
        clean, attacks = text
        for name, (rows, where) in attacks.items():
            for count in (69, 35):
                values, label = clean.views["embedding_external"].copy(), clean.label.copy()
                chosen = np.random.default_rng(count).choice(len(where), count, replace=False)
                values[where[chosen]], label[where[chosen]] = rows[chosen], 1
                is_bad = np.isin(np.arange(len(label)), where[chosen])
                poisoned = replace(clean, views={"embedding_external": values}, label=label, is_bad=is_bad)
                attacked(replace(with_sources(poisoned, 1), attack=f"{name}, 1 source"))
    for data in bundled()[:2]:
        attacked(flipped(data, 0, bad=20, sources=5))


def clean_runs() -> Iterator[Data]:
    backdoor, unpoisoned = features("img_badnet_0.01"), features("img_clean")
    if backdoor is not None:
        honest = backdoor.take(np.flatnonzero(~backdoor.is_bad))
        yield replace(with_sources(honest, 99), name="CIFAR both views")
        external = replace(honest, views={"embedding_external": honest.views["embedding_external"]})
        for seed in range(20):
            yield replace(with_sources(external, 100 + seed), name=f"CIFAR external, sources {seed}")
    if unpoisoned is not None:
        yield replace(with_sources(unpoisoned, 0), name="CIFAR self")
        for shard in range(4):
            rows = np.arange(shard * 5000, (shard + 1) * 5000)
            yield replace(with_sources(unpoisoned, shard).take(rows), name=f"CIFAR self, shard {shard}")
        path = SHARED / "cifar10n" / "cifar10n_labels.npz"
        stored = np.load(SHARED / "features" / "img_clean.npz", allow_pickle=False)
        if path.is_file():
            noisy = np.load(path, allow_pickle=False)["aggre_label"][stored["cifar_train_index"]].astype(int)
            yield replace(with_sources(unpoisoned, 1), label=noisy, name="CIFAR-10N self")
            if backdoor is not None:
                there = np.load(SHARED / "features" / "img_badnet_0.01.npz", allow_pickle=False)["cifar_train_index"]
                votes = np.load(path, allow_pickle=False)["aggre_label"][there].astype(int)
                honest = replace(backdoor, label=votes).take(np.flatnonzero(~backdoor.is_bad))
                yield replace(with_sources(honest, 2), name="CIFAR-10N both views")
    images = cifar_images()
    if images is not None:
        for seed in range(2):
            data = with_sources(image_data(*images, np.zeros(len(images[1]), dtype=bool), "none"), 200 + seed)
            yield replace(data, name=f"CIFAR pixels, sources {seed}")
    text = sst2()
    if text is not None:
        for seed in range(3):
            yield replace(with_sources(text[0], 300 + seed), name=f"SST-2 MiniLM, sources {seed}")
    for data in bundled():
        for seed in range(3):
            yield replace(with_sources(data, 400 + seed, 5), name=f"{data.name}, sources {seed}")


def all_clean() -> None:
    print("\nclean runs: (findings, samples flagged) by check")
    runs, alarms, flags, samples = 0, 0, 0, 0
    for data in clean_runs():
        runs, answers = runs + 1, []
        alarmed = False
        for check in checks_for(data):
            try:
                scores, evidence, _ = run(check, data)
            except NotEnoughSamplesError:
                answers.append(f"{check.name} undefined")
                continue
            found = [item for item in evidence if item.is_suspicious]
            alarmed |= bool(found)
            flags, samples = flags + int(scores.flagged.sum()), samples + len(scores.flagged)
            lowest = min((item.p_value for item in evidence if item.p_value is not None), default=1.0)
            answers.append(f"{check.name} {len(found)}, {int(scores.flagged.sum())} (least p {lowest:.3f})")
        alarms += alarmed
        print(f"  {data.name:30} {len(data.label):6d}  {'; '.join(answers)}", flush=True)
    print(f"clean runs: {runs}; with a finding: {alarms}; samples flagged: {flags} of {samples} judged")


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {version('scikit-learn')}")
    print(f"{platform.machine()}, {platform.system()}; SHA-256 of the inputs, 16 digits:")
    for name in (
        "features/img_badnet_0.01.npz",
        "features/img_clean.npz",
        "cifar10/cifar10_jpeg.parquet",
        "cifar10n/cifar10n_labels.npz",
        "text/sst2_minilm.npz",
        "text/hiddenkiller.parquet",
    ):
        path = SHARED / name
        print(
            f"  {name}: {hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else 'absent, left out'}"
        )
    all_attacks(seeds)
    all_clean()


if __name__ == "__main__":
    main()
