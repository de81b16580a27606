"""Claim: what the checks see in the views that `millcert embed` makes, with no embedding column in the data.

    OPENBLAS_NUM_THREADS=1 python bench/selftest.py [seeds] [images]
    OPENBLAS_NUM_THREADS=1 python bench/selftest.py gate

The second runs `millcert selftest` as a user would, on digits, a table (breast cancer) and 3,000 texts (SST-2), with
the policy of `policy init` and the checks on views besides, at 2 % and 3 % (of the table), twice each.

The first:

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

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


#: Rules in front of those of `policy init`, for data with a self view, and with an external one too.
ON_VIEWS = (
    {"check": "robust_spectral", "max_flagged_fraction": 0.05},
    {"check": "view_contradiction", "max_flagged_fraction": 0.05},
    {"check": "knn_disagreement", "max_flagged_fraction": 0.05},
    {"check": "label_noise", "max_flagged_fraction": 0.1},
)


def gate() -> None:
    """Run the command on data sets of three kinds in five random sources."""
    from sklearn.datasets import load_breast_cancer

    rows, label = load_breast_cancer(return_X_y=True)
    table = {f"c{number}": rows[:, number] for number in range(8)} | {"label": label.astype(str)}
    run_gate("table", table, 0.03, views=("embedding_self",))
    images = digits()
    assert images.features is not None
    flat = pa.array(images.features.astype(np.float32).ravel())
    pixels = {"label": images.label.astype(str), "pixels": pa.FixedSizeListArray.from_arrays(flat, 64)}
    run_gate("images", pixels, 0.02, views=("embedding_self", "embedding_external"))
    texts = sst2()
    if texts is not None and texts.text is not None:
        words = {"label": texts.label[:3000].astype(str), "text": list(texts.text[:3000])}
        run_gate("texts", words, 0.02, views=("embedding_self",))


def run_gate(name: str, columns: dict[str, Any], rate: float, views: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, policy = Path(folder) / "data", Path(folder) / "policy.yaml"
        rows = pa.table(columns)
        source = np.random.default_rng(0).integers(0, 5, rows.num_rows)
        for number in range(5):
            (data / f"source-{number}").mkdir(parents=True)
            pq.write_table(rows.filter(pa.array(source == number)), data / f"source-{number}" / "part.parquet")
        millcert = [sys.executable, "-m", "millcert"]
        subprocess.run([*millcert, "policy", "init", str(data), "--out", str(policy)], check=True, capture_output=True)
        document = yaml.safe_load(policy.read_text())
        document["dataset"]["columns"] |= {view: f"view:{view}" for view in views}
        if "pixels" in columns:
            document["dataset"]["images"] = {"pixels": {"shape": [8, 8], "max_value": 16}}
        # All but the first read an external view.
        document["checks"] = [*ON_VIEWS[: 1 if len(views) == 1 else 4], *document["checks"]]
        document["verdict"]["max_unknown_provenance_fraction"] = 1.0
        for rule in document["checks"]:  # `init` draws one
            rule.get("config", {}).update({"seed": 0} if "seed" in rule.get("config", {}) else {})
        policy.write_text(yaml.safe_dump(document))
        command = [*millcert, "selftest", str(data), "--policy", str(policy), "--rate", str(rate), "--repeats", "2"]
        print(f"== {name}", flush=True)
        subprocess.run([*command, "--probe", "sklearn", "--quiet"], check=True)


def main() -> None:
    if sys.argv[1:] == ["gate"]:
        gate()
        return
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
