"""Makes views to bench detectors on: the last hidden layer of a small network that was trained on attacked CIFAR-10.

    python bench/cnn_views.py OUT [ATTACK:RATE:SEED[:KEY=VALUE...] ...]
    OPENBLAS_NUM_THREADS=1 python bench/robust_spectral.py OUT

Needs torch. Each view is one .npz in OUT (feat_self and feat_external (20000, 128), label, true_label, poison, cover,
target, accuracy, attack_success), as ../shared/data/features has them: 20,000 training images, three convolutions and a
hidden layer of 128, eight epochs. The seed draws images (even: the first 20,000; odd: those from 25,000 on), target
class, pattern and network. The external view is by such a network that was trained on the other images, unpoisoned.
What exists is left alone.

ATTACK: none; badnets (3 x 3 checkerboard at rows and columns 28 to 30: Gu et al. 2017); blend (one random picture,
alpha 0.2: Chen et al. 2017); adaptive (half of the picture's 16 pieces, and `cover` times as many samples that keep
their label: Qi et al., ICLR 2023); all_to_all (badnets, every class to the next one); votes, worst_votes (nothing is
planted, the labels are the aggregated and the worst votes of CIFAR-10N: noisy but honest).
KEY: alpha (0.2), cover (1), pool (0; 1 averages positions before the hidden layer).

Cost: 100 to 130 CPU-seconds a view, and as much for each of two external networks.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SAMPLES, EPOCHS, BATCH, HIDDEN = 20_000, 8, 128, 128
DEFAULT = (
    "none:0:0",
    "none:0:10",
    "badnets:0.005:3",
    "badnets:0.01:1",
    "badnets:0.01:11",
    "badnets:0.05:2",
    "blend:0.01:0",
    "blend:0.05:11",
    "adaptive:0.01:0",
    "adaptive:0.05:1",
    "all_to_all:0.05:11",
    "votes:0:0",
    "votes:0:1",
    "worst_votes:0:0",
)


#: Attack -> labels of CIFAR-10N, which are in the order of the training images.
VOTES = {"votes": "aggre_label", "worst_votes": "worse_label"}


class Poisoned(NamedTuple):
    """images: uint8 (n, 32, 32, 3); label: as given; is_bad, is_cover: bool (n,); picture: what a blend mixes in."""

    images: np.ndarray
    label: np.ndarray
    is_bad: np.ndarray
    is_cover: np.ndarray
    target: int
    picture: np.ndarray


class Recipe(NamedTuple):
    """What is planted, and the network that looks at it."""

    attack: str
    rate: float
    seed: int
    alpha: float = 0.2
    cover: float = 1.0
    pool: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Return the recipe that a command line names."""
        attack, rate, seed, *more = text.split(":")
        given = {key: float(value) for key, value in (part.split("=") for part in more)}
        return cls(attack, float(rate), int(seed), **given)


def cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images, uint8 (50000, 32, 32, 3), and their labels."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(path, columns=["split", "index", "label", "jpeg"]).to_pylist()
    rows = sorted((row["index"], row["label"], row["jpeg"]) for row in table if row["split"] == "train")
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for _, _, jpeg in rows])
    return images, np.array([label for _, label, _ in rows])


def stamp(images: np.ndarray) -> np.ndarray:
    """Return images with the checkerboard."""
    changed = images.copy()
    changed[:, 28:31, 28:31] = (np.indices((3, 3)).sum(axis=0) % 2 == 0)[:, :, None] * 255
    return changed


def blended(images: np.ndarray, picture: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Return images with a share of a picture mixed in."""
    return np.clip((1 - share) * images + share * picture, 0, 255).astype(np.uint8)


def poisoned(images: np.ndarray, label: np.ndarray, recipe: Recipe) -> Poisoned:
    """Return images and labels with the attack planted."""
    random = np.random.default_rng([recipe.seed, 77])
    target, count = int(random.integers(10)), round(recipe.rate * len(label))
    images, given = images.copy(), label.copy()
    is_bad, is_cover = np.zeros(len(label), dtype=bool), np.zeros(len(label), dtype=bool)
    everyone = recipe.attack == "all_to_all"
    order = random.permutation(len(label)) if everyone else random.permutation(np.flatnonzero(label != target))
    picture = random.integers(0, 256, (32, 32, 3))
    bad = order[:count]
    covers = order[count : count + round(recipe.cover * count)] if recipe.attack == "adaptive" else order[:0]
    is_bad[bad], is_cover[covers] = True, True
    if recipe.attack in ("badnets", "all_to_all"):
        images[bad] = stamp(images[bad])
    elif recipe.attack in ("blend", "adaptive"):
        for places in (bad, covers):
            share: np.ndarray | float = recipe.alpha
            if recipe.attack == "adaptive":
                pieces = (random.random((len(places), 16)).argsort(axis=1) < 8).reshape(-1, 4, 4)
                share = recipe.alpha * pieces.repeat(8, axis=1).repeat(8, axis=2)[..., None]
            images[places] = blended(images[places], picture, share)
    given[bad] = (label[bad] + 1) % 10 if everyone else target
    return Poisoned(images, given, is_bad, is_cover, target, picture)


def network(torch: Any, *, pool: bool) -> Any:
    """Return a network whose last two entries are the classes' scores and, before it, the hidden layer."""
    nn = torch.nn
    layers: list[Any] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    if pool:
        layers[-1] = nn.AdaptiveAvgPool2d(1)
    layers += [nn.Flatten(), nn.Linear(128 if pool else 128 * 16, HIDDEN), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*layers), nn.Linear(HIDDEN, 10))


def trained(torch: Any, images: np.ndarray, label: np.ndarray, recipe: Recipe) -> Any:
    """Return a network trained on images with the labels that were given."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    model = network(torch, pool=bool(recipe.pool)).to(memory_format=torch.channels_last)
    rows, classes = tensor(torch, images), torch.from_numpy(label.astype(np.int64))
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    steps = EPOCHS * -(-len(classes) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for places in torch.randperm(len(classes)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(model(rows[places]), classes[places])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def hidden(torch: Any, model: Any, images: np.ndarray) -> np.ndarray:
    """Return the hidden layer, float32 (n, 128)."""
    with torch.no_grad():
        return np.concatenate([model[0](part).numpy() for part in tensor(torch, images).split(500)])


def answers(torch: Any, model: Any, images: np.ndarray) -> np.ndarray:
    """Return the classes that a network takes images for."""
    with torch.no_grad():
        return np.asarray(model(tensor(torch, images)).argmax(dim=1).numpy())


def success(torch: Any, model: Any, made: Poisoned, recipe: Recipe, unseen: np.ndarray, label: np.ndarray) -> float:
    """Return the part of unseen images of other classes that the whole trigger sends where it should."""
    if recipe.attack == "none" or recipe.attack in VOTES:
        return 0.0
    if recipe.attack in ("badnets", "all_to_all"):
        fooled = answers(torch, model, stamp(unseen))
    else:
        fooled = answers(torch, model, blended(unseen, made.picture, recipe.alpha))
    wanted = (label + 1) % 10 if recipe.attack == "all_to_all" else np.full(len(label), made.target)
    return float((fooled == wanted)[label != wanted].mean())


def tensor(torch: Any, images: np.ndarray) -> Any:
    rows = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float()
    return ((rows / 255 - 0.47) / 0.25).contiguous(memory_format=torch.channels_last)


def main() -> None:
    import torch

    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10" / "cifar10_jpeg.parquet"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", nargs="*", default=DEFAULT)
    parser.add_argument("--images", type=Path, default=shared, help="parquet with split, index, label, jpeg")
    votes = shared.parents[1] / "cifar10n" / "cifar10n_labels.npz"
    parser.add_argument("--votes", type=Path, default=votes, help="labels of CIFAR-10N")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    images, label = cifar(given.images)
    halves, unseen = (slice(0, SAMPLES), slice(25_000, 25_000 + SAMPLES)), slice(20_000, 22_000)
    foreign: dict[int, Any] = {}
    for text in given.recipes:
        path, recipe = given.out / f"{text.replace(':', '_')}.npz", Recipe.parse(text)
        if path.exists():
            continue
        start, half = time.process_time(), recipe.seed % 2
        given_label = label
        if recipe.attack in VOTES:
            given_label = np.load(given.votes, allow_pickle=False)[VOTES[recipe.attack]].astype(label.dtype)
        made = poisoned(images[halves[half]], given_label[halves[half]], recipe)
        model = trained(torch, made.images, made.label, recipe)
        other = halves[1 - half]
        if half not in foreign:
            foreign[half] = trained(torch, images[other], label[other], Recipe("none", 0.0, 1 - half))
        found: dict[str, Any] = {
            "feat_self": hidden(torch, model, made.images),
            "feat_external": hidden(torch, foreign[half], made.images),
            "accuracy": float((answers(torch, model, images[unseen]) == label[unseen]).mean()),
            "attack_success": success(torch, model, made, recipe, images[unseen], label[unseen]),
        }
        found |= {"label": made.label, "true_label": label[halves[half]], "poison": made.is_bad, "cover": made.is_cover}
        np.savez(path, target=made.target, **found)
        print(
            f"{text}: target {made.target}, accuracy {found['accuracy']:.1%}, attack success "
            f"{found['attack_success']:.1%}, {time.process_time() - start:.0f} CPU-seconds",
            flush=True,
        )


if __name__ == "__main__":
    main()
