"""Claim: what the checks see in the views that `millcert embed` makes, with no embedding column in the data.

    OPENBLAS_NUM_THREADS=1 python bench/selftest.py [seeds] [images]

For each data set, attack, rate and seed: the probe is trained on the planted data, robust_spectral looks at its view
(of scikit-learn's perceptron, and of the network's two layers where torch is installed), and for comparison at the
pixels' (or hashed words') 64 principal components, which is what one has without a probe; beside them a random filter
that flags as many. Every check has its defaults; nobody is told a rate. Then clean data. Then, on images, a trigger
that moves every class to the next (all-to-all), for view_contradiction with the patches of `millcert embed` as external
view. Data: CIFAR-10 of ../shared/data (evaluation only; left out if images is 0), scikit-learn's digits, SST-2.
"""

import hashlib
import io
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detection_rates import auroc, proportion
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.checks.patch_rows import patch_rows
from millcert.checks.planting import ATTACKS, Samples, plant
from millcert.checks.probe import Content, train_probe
from millcert.checks.text_grams import gram_rows
from millcert.checks.torch_probe import Layer, train_torch_probe

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def cifar(count: int) -> Samples | None:
    """Return the first training images of CIFAR-10."""
    table = SHARED / "cifar10" / "cifar10_jpeg.parquet"
    if not table.is_file():
        return None
    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.read_table(table, columns=["split", "index", "label", "jpeg"]).to_pydict()
    order = sorted((index, row) for row, index in enumerate(rows["index"]) if rows["split"][row] == "train")[:count]
    images = np.stack([np.asarray(Image.open(io.BytesIO(rows["jpeg"][row]))) for _, row in order])
    label = np.array([str(rows["label"][row]) for _, row in order], dtype=object)
    return Samples(label, sources(len(label)), images.reshape(len(images), -1).astype(np.float64), (32, 32, 3))


def digits() -> Samples:
    """Return scikit-learn's digits."""
    from sklearn.datasets import load_digits

    rows, label = load_digits(return_X_y=True)
    return Samples(label.astype(str).astype(object), sources(len(label)), rows, (8, 8))


def sst2() -> Samples | None:
    """Return the clean training texts of SST-2."""
    path = SHARED / "text" / "hiddenkiller.parquet"
    if not path.is_file():
        return None
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for column, value in (("dataset", "sst-2"), ("variant", "clean"), ("split", "train")):
        table = table.filter(pc.equal(pc.cast(table[column], pa.string()), value))
    label = np.array([str(value) for value in table["label"].to_pylist()], dtype=object)
    return Samples(label, sources(len(label)), text=tuple(table["text"].to_pylist()))


def sources(count: int) -> np.ndarray:
    return np.array([f"s{number % 4}" for number in range(count)], dtype=object)


def views(samples: Samples, seed: int) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield name, rows and CPU-seconds of the probes' views and of the principal components."""
    start = time.process_time()
    content: Content = "text" if samples.text is not None else "image"
    rows = gram_rows(samples.text) if samples.text is not None else samples.features
    assert rows is not None
    probe = train_probe(rows, samples.label.astype(str), content=content, seed=seed)
    yield "probe", probe.embed(rows), time.process_time() - start
    layers: tuple[Layer, ...] = ("hidden", "penultimate") if find_spec("torch") else ()
    given = samples.text if samples.text is not None else rows
    for layer in layers:
        start = time.process_time()
        network = train_torch_probe(given, samples.label.astype(str), shape=samples.shape, layer=layer, seed=seed)
        yield f"torch {layer}", network.embed(given), time.process_time() - start
    start = time.process_time()
    centred = np.asarray(rows, dtype=np.float32) - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    yield "components", (centred @ axes[:, -64:].astype(np.float32)), time.process_time() - start


def line(name: str, attack: str, rate: float, samples: Samples, is_bad: np.ndarray, seed: int) -> None:
    label = pa.array(samples.label.astype(str).tolist(), pa.string())
    source = pa.array(samples.source.astype(str).tolist(), pa.string())
    for view, rows, seconds in views(samples, seed):
        flat = np.ascontiguousarray(rows, dtype=np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
        batch = pa.RecordBatch.from_arrays([label, source, column], ["label", "source", "embedding_self"])
        check = RobustSpectral()
        model = fit_check(check, [batch])
        scores = check.score(model, batch)
        flagged = scores.flagged
        random = np.random.default_rng(seed).permutation(flagged)
        fpr = proportion(int(flagged[~is_bad].sum()), int((~is_bad).sum()))
        found = "-"
        if is_bad.any():
            tpr = proportion(int(flagged[is_bad].sum()), int(is_bad.sum()))
            area = auroc(scores.score, is_bad)
            by_chance = f"random {random[is_bad].mean():.1%}"
            found = f"{tpr.value:7.1%} ({tpr.low:.0%} to {tpr.high:.0%})  AUROC {area.value:.3f}  {by_chance}"
        named = ", ".join(group.group for group in check.evidence(model) if group.is_suspicious) or "nothing"
        print(
            f"{name:9} {attack:18} {rate:6.2%} seed {seed} {view:17} FPR {fpr.value:.3%}  {seconds:5.0f} s  "
            f"named {named}  TPR {found}",
            flush=True,
        )


def all_to_all(name: str, samples: Samples, rate: float, seed: int) -> None:
    """Print what the two views' contradiction finds of a corner mark that moves each class to the next."""
    pixels, label = np.array(samples.features), samples.label.astype(int)
    is_bad = np.zeros(len(label), dtype=bool)
    is_bad[np.random.default_rng(seed).choice(len(label), round(rate * len(label)), replace=False)] = True
    shaped = pixels.reshape(-1, *samples.shape)
    shaped[is_bad, -3:, -3:] = pixels.max() * (np.indices((3, 3)).sum(axis=0) % 2 == 0)
    named = np.where(is_bad, (label + 1) % (label.max() + 1), label).astype(str)
    own = train_probe(pixels, named, content="image", seed=seed).embed(pixels)
    columns = {"embedding_self": own, "embedding_external": patch_rows(pixels, samples.shape)}
    arrays = [pa.array(named.tolist(), pa.string())]
    arrays.append(pa.array([hashlib.sha256(str(row).encode()).digest() for row in range(len(label))], pa.binary(32)))
    for rows in columns.values():
        flat = np.ascontiguousarray(rows, dtype=np.float32)
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1]))
    batch = pa.RecordBatch.from_arrays(arrays, ["label", "sample_digest", *columns])
    check = ViewContradiction()
    model = fit_check(check, [batch])
    flagged = check.score(model, batch).flagged
    classes = sum(group.is_suspicious for group in check.evidence(model))
    print(
        f"{name:9} all_to_all         {rate:6.2%} seed {seed} view_contradiction names {classes} of {label.max() + 1} "
        f"classes, TPR {flagged[is_bad].mean():.1%}, FPR {flagged[~is_bad].mean():.3%}",
        flush=True,
    )


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    images = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    print(f"Python {platform.python_version()}, numpy {version('numpy')}, scikit-learn {version('scikit-learn')}")
    subjects = (("CIFAR-10", cifar(images) if images else None), ("digits", digits()), ("SST-2", sst2()))
    for name, samples in subjects:
        if samples is None:
            print(f"{name}: not there, left out")
            continue
        attacks = ("inserted_words",) if samples.text is not None else ("badnets_patch", "blend", "adaptive_blend")
        for attack in attacks:
            for rate in (0.02, 0.01):
                for seed in range(seeds):
                    planted = plant(ATTACKS[attack], samples, count=round(rate * len(samples.label)), seed=seed)
                    line(name, attack, rate, planted.samples, planted.is_bad, seed)
        for seed in range(seeds):
            line(name, "none", 0.0, samples, np.zeros(len(samples.label), dtype=bool), seed)
    for name, samples in subjects:
        if samples is None or not samples.shape:
            continue
        for rate in (0.1, 0.05):
            for seed in range(seeds):
                all_to_all(name, samples, rate, seed)


if __name__ == "__main__":
    main()
