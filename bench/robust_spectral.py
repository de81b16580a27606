"""Claim: `robust_spectral` finds a backdoor without its rate and is silent on clean data, for microseconds a sample.

Run: OPENBLAS_NUM_THREADS=1 python bench/robust_spectral.py [FOLDER] [--ours] [--train SEEDS]

FOLDER: every .npz in it that holds feat_self, label and poison is judged (default ../shared/data/features, evaluation
only, not shipped; BadNets as in Gu et al. 2017, 200 of 20,000 images, 3 x 3 patch, relabelled 0; bench/cnn_views.py
makes more).
--train: plants attacks in the raw CIFAR-10 images and makes the view as `millcert embed` does, with so many seeds each;
the seed draws the target class, the images, the pattern and the probe. No check is told a rate or a class.

Rivals on the same data: the paper's rule with the true rate given, ART's rule with its default rate (33 % x 1.5,
projection of features that are not centred), activation clustering as in the toolboxes (ten principal components, two
means, the smaller cluster if below 35 %), a random filter that removes 1 % or as many as robust_spectral does, and a
perfect filter. The ceiling is what no rule knows: a linear discriminant that is told which samples are poisoned, fitted
to one half of them and asked of the other, with the border at which it flags 0.1 % of all clean samples. Where a file
holds feat_external, view_contradiction is asked too.
"""

import argparse
import hashlib
import io
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millcert.checks.base import Check, Scores, fit_check
from millcert.checks.detectors.robust_spectral import RobustSpectral, RobustSpectralModel
from millcert.checks.detectors.spectral_signatures import REMOVAL_FACTOR, SpectralSignatures
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.checks.planting import ATTACKS, Samples, plant
from millcert.checks.row_sample import MOST_ROWS
from millcert.checks.self_view import ProbeChoice, train_self_view

BATCH = 2000
#: What the pipeline's reader hands over at d = 128: 8 MiB (ReadLimits.max_batch_bytes) of one view, or of two.
READER_BATCHES = (8_192, 16_384)
REPEATS = 7
#: The cost of larger data is measured on so many copies of each row.
COPIES = 10
ART_RATE = 0.33
RIDGE = 1e-2
#: Attack, and its share of 20,000 images.
PLANTED = (
    ("badnets_patch", 0.003),
    ("badnets_patch", 0.01),
    ("badnets_patch", 0.05),
    ("blend", 0.01),
    ("blend", 0.05),
    ("adaptive_blend", 0.01),
)


class DataSet(NamedTuple):
    """Features, labels and the planted truth of one file."""

    name: str
    rows: np.ndarray
    label: np.ndarray
    is_bad: np.ndarray
    digest: str
    external: np.ndarray | None = None

    def batches(self, rows: int = BATCH) -> list[pa.RecordBatch]:
        """Return the rows in batches, with 20 sources in turn."""
        return [self._batch(slice(start, start + rows)) for start in range(0, len(self.label), rows)]

    def _batch(self, part: slice) -> pa.RecordBatch:
        rows = self.rows[part]
        label = pa.array([str(value) for value in self.label[part]])
        source = pa.array([f"source-{row % 20}" for row in range(len(label))])
        columns = {"label": label, "source": source, "embedding_self": vectors_of(rows)}
        if self.external is not None:
            numbers = range(part.start, part.start + len(rows))
            marks = [hashlib.sha256(str(number).encode()).digest() for number in numbers]
            columns |= {
                "embedding_external": vectors_of(self.external[part]),
                "sample_digest": pa.array(marks, pa.binary(32)),
            }
        return pa.RecordBatch.from_pydict(columns)


def vectors_of(rows: np.ndarray) -> pa.Array:
    values = np.ascontiguousarray(rows, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def load(path: Path) -> DataSet:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stored = np.load(path, allow_pickle=False)
    rows = stored["feat_self"].astype(np.float32)
    external = stored["feat_external"].astype(np.float32) if "feat_external" in stored else None
    return DataSet(path.stem, rows, stored["label"].astype(int), stored["poison"].copy(), digest, external)


def trained(path: Path, seeds: int) -> Iterator[DataSet]:
    """Yield views of the first 20,000 training images with each attack planted, by a probe trained on them."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(path, columns=["split", "index", "label", "jpeg"]).to_pylist()
    rows = sorted((row["index"], row["label"], row["jpeg"]) for row in table if row["split"] == "train")[:20_000]
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for _, _, jpeg in rows])
    label = np.array([str(label) for _, label, _ in rows], dtype=object)
    source = np.full(len(label), "s", dtype=object)
    samples = Samples(label, source, images.reshape(len(images), -1).astype(float), (32, 32, 3))
    for seed in range(seeds):
        for name, rate in PLANTED:
            made = plant(ATTACKS[name], samples, count=round(rate * len(label)), seed=seed)
            content = made.samples.features
            assert content is not None
            view = train_self_view(
                content, made.samples.label, "image", shape=(32, 32, 3), choice=ProbeChoice(seed=seed)
            )
            title = f"{name} {rate:.1%}, target {made.target}, seed {seed}, view by {view.kind}"
            yield DataSet(title, view.embed(content), made.samples.label.astype(int), made.is_bad, view.digest)


def auroc(score: np.ndarray, is_bad: np.ndarray) -> float:
    if not is_bad.any():
        return float("nan")
    clean = np.sort(score[~is_bad])
    ranks = np.searchsorted(clean, score[is_bad]) + np.searchsorted(clean, score[is_bad], side="right")
    return float(ranks.mean() / (2 * len(clean)))


def report(name: str, flagged: np.ndarray, score: np.ndarray, is_bad: np.ndarray, estimate: str) -> None:
    rate = f"{(flagged & is_bad).sum() / is_bad.sum():7.2%}" if is_bad.any() else "      -"
    false = f"{(flagged & ~is_bad).sum() / (~is_bad).sum():8.3%}"
    area = f"{auroc(score, is_bad):6.4f}" if is_bad.any() else "     -"
    print(f"  {name:38} TPR {rate}  FPR {false}  AUROC {area}  flagged {flagged.sum():6d}  {estimate}")


def judged(check: Check, data: DataSet) -> tuple[Scores, Any]:
    batches = data.batches()
    model = fit_check(check, batches)
    answers = [check.score(model, batch) for batch in batches]
    score, threshold, flagged = (np.concatenate(part) for part in list(zip(*answers, strict=True))[:3])
    return Scores(score, threshold, flagged, pa.concat_arrays([answer.group for answer in answers]), ""), model


def paper_rule(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """The paper's rule with the true rate: poisoned part of the target class, applied to each class as it says."""
    rate = max(float(np.mean(data.is_bad[data.label == value])) for value in np.unique(data.label)) or 0.01
    scores, _ = judged(SpectralSignatures(epsilon=rate), data)
    return scores.flagged, scores.score


def art_rule(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """ART 1.20: by default the top 33 % x 1.5 of each class, by the squared projection of uncentred features."""
    score, flagged = np.zeros(len(data.label)), np.zeros(len(data.label), dtype=bool)
    for value in np.unique(data.label):
        places = np.flatnonzero(data.label == value)
        rows = data.rows[places].astype(float)
        top = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][0]
        score[places] = (rows @ top) ** 2
        removed = int(np.ceil(ART_RATE * REMOVAL_FACTOR * len(places)))
        flagged[places[np.argsort(score[places])[-removed:]]] = True
    return flagged, score


def toolbox_clustering(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Chen et al. 2018 as the toolboxes run it; score: nearer to the smaller cluster's centre."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    score, flagged = np.zeros(len(data.label)), np.zeros(len(data.label), dtype=bool)
    for value in np.unique(data.label):
        places = np.flatnonzero(data.label == value)
        narrow = PCA(min(10, data.rows.shape[1]), random_state=0).fit_transform(data.rows[places].astype(float))
        means = KMeans(2, n_init=10, random_state=0).fit(narrow)
        sizes = np.bincount(means.labels_, minlength=2)
        small = int(np.argmin(sizes))
        distance = means.transform(narrow)
        score[places] = distance[:, 1 - small] - distance[:, small]
        flagged[places] = (means.labels_ == small) & (sizes[small] < 0.35 * len(places))
    return flagged, score


def ceiling(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """What a linear discriminant of poison against its class separates when it is told the truth, in two halves."""
    rows, score = data.rows.astype(float), np.full(len(data.label), -np.inf)
    means = {value: rows[(data.label == value) & ~data.is_bad].mean(axis=0) for value in np.unique(data.label)}
    within = rows - np.stack([means[value] for value in data.label])
    clean = np.cov(within[~data.is_bad].T)
    clean += RIDGE * np.trace(clean) / len(clean) * np.eye(len(clean))
    half = np.random.default_rng(0).random(len(score)) < 0.5
    attacked = np.isin(data.label, data.label[data.is_bad])
    for told in (half, ~half):
        weights = np.linalg.solve(clean, within[told & data.is_bad].mean(axis=0))
        asked = ~told & attacked
        score[asked] = within[asked] @ weights / np.sqrt(weights @ clean @ weights)
    honest = np.sort(score[~data.is_bad])
    return score > honest[-int(0.001 * len(honest)) - 1], score


def decided(name: str, check: Check, data: DataSet) -> Scores:
    """Report what a check of ours flags and which classes it names; return the scores."""
    scores, model = judged(check, data)
    estimate = "; ".join(
        f"class {item.label}: {item.estimated_count:.1f} [{item.count_low:.1f}, {item.count_high:.1f}]"
        for item in check.evidence(model)
        if item.is_suspicious
    )
    report(name, scores.flagged, scores.score, data.is_bad, estimate or "no class suspicious")
    return scores


def compare(data: DataSet, *, with_rivals: bool) -> None:
    print(f"{data.name}: {len(data.label)} samples, {int(data.is_bad.sum())} poisoned, SHA-256 {data.digest[:16]}...")
    scores = decided("robust_spectral (no rate given)", RobustSpectral(), data)
    if data.external is not None:
        decided("view_contradiction (warns)", ViewContradiction(), data)
    if data.is_bad.any():
        report("ceiling: told the truth", *ceiling(data), data.is_bad, "poison given")
    if not with_rivals:
        return
    report("paper: 1.5 x true rate of the class", *paper_rule(data), data.is_bad, "rate given")
    report("ART default: 1.5 x 33 %", *art_rule(data), data.is_bad, "rate assumed")
    report("activation clustering, toolboxes", *toolbox_clustering(data), data.is_bad, "no rate")
    random = np.random.default_rng(0)
    noise = random.random(len(data.label))
    removed = max(int(scores.flagged.sum()), int(0.01 * len(noise)))
    report("random filter", noise >= np.sort(noise)[-removed], noise, data.is_bad, "control")
    report("perfect filter", data.is_bad, data.is_bad.astype(float), data.is_bad, "control")


def plain_pass(batches: list[pa.RecordBatch], number: int, model: RobustSpectralModel | None) -> dict[str, Any]:
    """The arithmetic of a pass (4: scoring) in plain numpy over the same batches: float64 sums, a table a class.

    Without what makes it a check: sums and samples that do not depend on order, histograms by source, refusals.
    """
    sums: dict[str, Any] = {}
    for batch in batches:
        rows = batch.column("embedding_self").flatten().to_numpy().reshape(batch.num_rows, -1)
        encoded = batch.column("label").dictionary_encode()
        codes = encoded.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        borders = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
        for code, label in enumerate(encoded.dictionary.to_pylist()):
            mine = rows[order[borders[code] : borders[code + 1]]].astype(np.float64)
            if model is None:
                found = [mine.sum(axis=0), mine.T @ mine]
            else:
                frame = model.frames[label]
                if number == 2:  # a sample: the first rows that come
                    kept = sums.setdefault(label, [])
                    mine = mine[: max(0, MOST_ROWS - sum(map(len, kept)))]
                placed = mine @ (frame.weights.whole * frame.weights.scale) - frame.offset
                if number == 2:
                    kept.append(placed.astype(np.float32))
                    continue
                found = plain_sums(placed, number, model, label)
            before = sums.get(label)
            sums[label] = found if before is None else [one + other for one, other in zip(before, found, strict=True)]
    return sums


def plain_sums(placed: np.ndarray, number: int, model: RobustSpectralModel, label: str) -> list[np.ndarray]:
    if number == 3:
        middle = model.frames[label].middle
        modes, spreads = np.array([one.mode for one in middle]), np.array([one.spread for one in middle])
        bins = np.clip((placed - modes) / spreads * 16 + 512, 0, 1023).astype(int) + 1024 * np.arange(placed.shape[1])
        return [np.bincount(bins.ravel(), minlength=1024 * placed.shape[1])]
    return [(placed > 0).sum(axis=0)]


def enlarged(data: DataSet, copies: int) -> DataSet:
    """Return so many copies of each row, moved by a thousandth of the columns' spread, so that no two are alike."""
    if copies == 1:
        return data
    rows, draw = np.tile(data.rows.astype(np.float32), (copies, 1)), np.random.default_rng(0)
    rows += draw.standard_normal(rows.shape, dtype=np.float32) * (data.rows.std(axis=0) / 1000).astype(np.float32)
    return data._replace(rows=rows, label=np.tile(data.label, copies), external=None)


def cost(data: DataSet, batch_rows: int, copies: int = 1) -> None:
    check, data = RobustSpectral(), enlarged(data, copies)
    batches = data.batches(batch_rows)
    figures: dict[str, list[float]] = {}
    for _ in range(REPEATS if copies == 1 else 3):
        model: Any = None
        total = plain = 0.0
        for number in range(1, check.passes + 2):
            start = time.process_time()
            plain_pass(batches, number, model)
            middle = time.process_time()
            if number <= check.passes:
                acc = check.empty()
                for batch in batches:
                    acc = check.add(acc, batch, model)
            else:
                for batch in batches:
                    check.score(model, batch)
            end = time.process_time()
            name = f"pass {number}" if number <= check.passes else "score"
            figures.setdefault(f"{name}", []).append(end - middle)
            figures.setdefault(f"{name}, plain numpy", []).append(middle - start)
            total, plain = total + end - middle, plain + middle - start
            if number <= check.passes:
                model = check.fit(acc, model)
                figures.setdefault(f"{name}: fit, once a data set", []).append(time.process_time() - end)
        figures.setdefault("all passes", []).append(total)
        figures.setdefault("all passes, plain numpy", []).append(plain)
    samples = len(data.label)
    print(
        f"cost, CPU microseconds a sample (min, median, max of {len(figures['all passes'])}), {samples} samples, "
        f"batches of {batch_rows}:"
    )
    for name, seconds in figures.items():
        low, middle, high = np.quantile(seconds, [0, 0.5, 1]) / samples * 1e6
        print(f"  {name:38} {low:7.2f} {middle:7.2f} {high:7.2f}")
    ratios = np.divide(figures["all passes"], figures["all passes, plain numpy"])
    print(f"  {'all passes over plain numpy':38} {ratios.min():7.2f} {np.median(ratios):7.2f} {ratios.max():7.2f}")
    print(f"  samples a CPU-second, all passes: {samples / min(figures['all passes']):,.0f}")


def main() -> None:
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=shared / "features")
    parser.add_argument("--ours", action="store_true", help="leave out the rivals and the cost")
    parser.add_argument("--train", type=int, default=0, metavar="SEEDS")
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, {platform.system()}")
    paths = sorted(given.folder.glob("*.npz")) if given.folder.is_dir() else []
    data = [load(path) for path in paths]
    if not data:
        print(f"skipped: {given.folder} holds no features")
    for one in data:
        compare(one, with_rivals=not given.ours)
    table = shared / "cifar10" / "cifar10_jpeg.parquet"
    if given.train and table.is_file():
        for one in trained(table, given.train):
            compare(one, with_rivals=not given.ours)
    for batch_rows in (BATCH, *READER_BATCHES) if data and not given.ours else ():
        for copies in (1, COPIES):
            cost(data[0], batch_rows, copies)


if __name__ == "__main__":
    main()
