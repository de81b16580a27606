"""Claim: robust_spectral finds a part that most classes have where it is mislabelled, and leaves a natural one alone.

    OPENBLAS_NUM_THREADS=1 python bench/shared_parts.py [--seeds N] [--only KIND ...]

10,000 CIFAR-10 images (evaluation only, not shipped; nothing is printed without them), a part of which is changed, and
the view of the perceptron that `millcert embed` makes of them with the labels given. All-to-all: a 3 x 3 checkerboard
(Gu et al. 2017) or 20 % of one random picture (Chen et al. 2017), and each class moved to the next. Natural: the label
stays, the pictures have black bars, are grey, drawn as edges, inverted, or carry the checkerboard. For each: TPR and
FPR, the classes named, and what `millcert.checks.label_content` says of the part that is really there, along the line
that a linear discriminant draws which is told it: the share of it that is mislabelled, and whether that is surely most.
"""

import argparse
import io
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from millcert.checks.base import fit_check
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.label_content import LabelledRows
from millcert.checks.self_view import ProbeChoice, train_self_view

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10" / "cifar10_jpeg.parquet"
SAMPLES, FIRST, BATCH = 10_000, 30_000, 5_000
BOARD = ((np.indices((3, 3)).sum(axis=0) % 2 == 0) * 255)[..., None]


def board(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    images[:, 28:31, 28:31] = BOARD
    return images


def blend(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.asarray((0.8 * images + 0.2 * random.integers(0, 256, images.shape[1:])).astype(np.uint8))


def bars(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    images[:, :3] = images[:, -3:] = 0
    return images


def grey(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.asarray(np.broadcast_to(images.mean(axis=3, keepdims=True), images.shape).astype(np.uint8))


def edges(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    light = images.mean(axis=3)
    steps = sum(np.abs(np.diff(light, axis=axis, prepend=light.take([0], axis=axis))) for axis in (1, 2))
    return np.broadcast_to((255 - np.clip(3 * steps, 0, 255))[..., None], images.shape).astype(np.uint8)


def inverted(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.asarray(255 - images)


#: Kind: what is done to pictures, their share, and whether their classes are moved to the next.
KINDS: dict[str, tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], float, bool]] = {
    "all-to-all board 5 %": (board, 0.05, True),
    "all-to-all blend 5 %": (blend, 0.05, True),
    "all-to-all board 2 %": (board, 0.02, True),
    "natural board 5 %": (board, 0.05, False),
    "natural bars 10 %": (bars, 0.1, False),
    "natural grey 10 %": (grey, 0.1, False),
    "natural edges 10 %": (edges, 0.1, False),
    "natural inverted 10 %": (inverted, 0.1, False),
}


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(SHARED, columns=["split", "index", "label", "jpeg"]).to_pylist()
    rows = sorted((row["index"], row["label"], row["jpeg"]) for row in table if row["split"] == "train")
    rows = rows[FIRST : FIRST + SAMPLES]
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for _, _, jpeg in rows])
    return images, np.array([label for _, label, _ in rows])


def batches(view: np.ndarray, label: np.ndarray) -> list[pa.RecordBatch]:
    found = []
    for start in range(0, len(label), BATCH):
        rows = np.ascontiguousarray(view[start : start + BATCH], dtype=np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        texts = pa.array([str(value) for value in label[start : start + BATCH]])
        sources = pa.array(["s"] * len(rows))
        found.append(pa.RecordBatch.from_arrays([texts, sources, vectors], ["label", "source", "embedding_self"]))
    return found


def told(view: np.ndarray, label: np.ndarray, is_odd: np.ndarray) -> str:
    """Return what is said of the content of the part that is there, when it is told."""
    rows = view.astype(np.float64)
    rows = rows[:, rows.std(axis=0) > 0]
    centres = np.stack([rows[label == value].mean(axis=0) for value in range(10)])
    away = rows - centres[label]
    within = np.cov(away[~is_odd].T)
    within += 1e-2 * np.trace(within) / len(within) * np.eye(len(within))
    content = LabelledRows(rows, label, centres).content(is_odd, np.linalg.solve(within, away[is_odd].mean(axis=0)))
    return f"{content.mislabelled_fraction:.2f}{', surely most' if content.says_mislabelled(33) else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Parts that most classes have.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[*KINDS], default=[*KINDS])
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, {platform.system()}")
    if not SHARED.is_file():
        print("skipped: no CIFAR-10 images")
        return
    images, true = images_and_labels()
    print(f"{'kind':24} {'seed':>4} {'TPR':>8} {'FPR':>8} {'named':>5}  mislabelled, of the part that is there")
    for kind in given.only:
        change, share, is_moved = KINDS[kind]
        for seed in range(given.seeds):
            random = np.random.default_rng([seed, 2026])
            is_odd = np.isin(np.arange(SAMPLES), random.choice(SAMPLES, round(share * SAMPLES), replace=False))
            content, label = images.copy(), np.where(is_odd & is_moved, (true + 1) % 10, true)
            content[is_odd] = change(content[is_odd], random)
            pixels = content.reshape(SAMPLES, -1).astype(np.float64)
            names = np.array([str(value) for value in label], dtype=object)
            choice = ProbeChoice(kind="sklearn", seed=seed)
            view = train_self_view(pixels, names, "image", shape=(32, 32, 3), choice=choice).embed(pixels)
            check, data = RobustSpectral(), batches(view, label)
            model = fit_check(check, data)
            flagged = np.concatenate([check.score(model, batch).flagged for batch in data])
            named, is_bad = sum(item.is_suspicious for item in check.evidence(model)), is_odd & is_moved
            tpr = f"{flagged[is_bad].mean():8.2%}" if is_moved else f"{'-':>8}"
            figures = f"{tpr} {flagged[~is_bad].mean():8.3%} {named:5d}"
            print(f"{kind:24} {seed:4d} {figures}  {told(view, label, is_odd)}", flush=True)


if __name__ == "__main__":
    main()
