"""Claim: source_shift and trigger_mining name the source that was attacked and no other, and honest sources never.

    OPENBLAS_NUM_THREADS=1 python bench/bad_sources.py [--seeds N] [--clean N] [--only PART ...]

Every check has its defaults and is told no rate. Parts:
  flips     40 wrong labels in one of 20 sources (fewer in small sets): of all other classes, and of one.
  spread    a cell of one of 20 sources with its class's mean and another spread: blends added to one half of 40 and
            taken from the other, samples twice as far from their mean, near-constant samples.
  triggers  40 of 20,000 images in one of 20 sources, every other time with their right label: patches of random
            places, sizes and colours, single pixels, a sinusoid, blends, a warp; table rows with a value or a pair.
  sources   a patch, a blend and flips with 2, 3, 5, 50 and 200 sources.
  clean     honest sources: of one size, of Zipf's sizes, with tiny ones, with other class proportions. Runs with any
            finding, of each data set and kind, and the least p-value of all; beside the rate that is allowed.

Data: as bench/detection.py. Beside it, in flips, spread and sources: the largest deviate of a cell's mean along the
discriminant of its class (a plain per-source t-test, as a person would make), and whether the attacked cell has it.
"""

import argparse
import hashlib
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.detection_sets import (
    BAD_SOURCE,
    INPUTS,
    SHARED,
    SOURCES,
    Data,
    bundled,
    cifar_images,
    external,
    features,
    flipped,
    honest,
    sst2,
    with_sources,
)
from millcert.checks.base import Check, GroupEvidence, fit_check
from millcert.checks.detectors.source_shift import SourceShift
from millcert.checks.detectors.trigger_mining import TriggerMining
from millcert.errors import NotEnoughSamplesError

RATE = SourceShift().false_alarm_rate


def found_by(check: Check, data: Data) -> tuple[GroupEvidence, ...]:
    """Return a check's evidence."""
    return tuple(check.evidence(fit_check(check, list(data.batches(check.columns)))))


def named(evidence: tuple[GroupEvidence, ...]) -> list[str]:
    return sorted(item.group for item in evidence if item.is_suspicious)


def views_of(data: Data) -> dict[str, SourceShift]:
    """Return source_shift on each view that a data set has; pixels only of images."""
    every = {"embedding_external": SourceShift(), "embedding_self": SourceShift(view="embedding_self")}
    if data.shape:
        every["features"] = SourceShift(view="features")
    return {view: check for view, check in every.items() if view in data.views}


def t_test(data: Data, cell: tuple[int, int]) -> str:
    """Return the rank and deviate of a cell by a t-test of its mean along its class's discriminant."""
    rows = next(data.views[view] for view in ("embedding_external", "embedding_self") if view in data.views)
    rows, label = rows.reshape(len(rows), -1).astype(float), data.label
    classes = np.unique(label)
    means = np.stack([rows[label == value].mean(axis=0) for value in classes])
    place = np.searchsorted(classes, label)
    within = np.cov((rows - means[place]).T) + 1e-6 * np.eye(rows.shape[1])
    weights = np.linalg.solve(within, (means - means.mean(axis=0)).T)
    found = {}
    for number, value in enumerate(classes.tolist()):
        own = rows[label == value] @ weights[:, number]
        of = data.source[label == value]
        for source in np.unique(of).tolist():
            one, rest = own[of == source], own[of != source]
            if len(one) >= 20 and len(rest) >= 20:
                error = np.sqrt(rest.var() * (1 / len(one) + 1 / len(rest)))
                found[source, value] = float(abs(one.mean() - rest.mean()) / error)
    order = sorted(found, key=lambda key: -found[key])
    return f"t-test: rank {order.index(cell) + 1 if cell in found else 0} of {len(order)}, z {found.get(cell, 0):.1f}"


def tell(check: Check, view: str, data: Data, cells: set[str], beside: str = "") -> None:
    """Print what a check says of an attacked data set."""
    try:
        evidence = found_by(check, data)
    except NotEnoughSamplesError as error:
        print(f"{check.name:14} {view:18} {data.name:18} {data.attack:34} undefined: {error}")
        return
    names = named(evidence)
    verdict = "named" if cells & set(names) else "missed"
    wrong = [name for name in names if name not in cells]
    told = [item for item in evidence if item.group in cells and item.is_suspicious]
    counts = "; ".join(f"{item.estimated_count:.0f} [{item.count_low:.0f}, {item.count_high:.0f}]" for item in told)
    least = min((item.p_value for item in evidence if item.group in cells and item.p_value is not None), default=1.0)
    why = told[0].top_features[0][0] if told and told[0].top_features else "-"
    print(
        f"{check.name:14} {view:18} {data.name:18} {data.attack:34} {verdict:6} p {least:.0e} {why:22} {counts:16}"
        f" others {wrong or 'none'} {beside}",
        flush=True,
    )


def embedded() -> Iterator[Data]:
    """Yield clean data sets with embeddings."""
    images, backdoor, text = cifar_images(), features("img_badnet_0.01"), sst2()
    if images is not None:
        yield replace(images, name="patches", views={"embedding_external": images.views["embedding_external"]})
    if backdoor is not None:
        clean = backdoor.take(np.flatnonzero(~backdoor.is_bad))
        for name in ("embedding_external", "embedding_self"):
            yield replace(clean, name=f"CNN {name[10:]}", views={name: clean.views[name]})
    if text is not None:
        yield replace(text[0], text=None, name="SST-2")
    for data in bundled()[:2]:
        yield replace(data, views={"embedding_external": data.views["embedding_external"]}, shape=())


def flips(seeds: int) -> None:
    """Print wrong labels in one source."""
    for clean in embedded():
        sources, bad = (SOURCES, 40) if len(clean.label) > 3000 else (5, 12)
        for seed in range(seeds):
            for only in (None, 1):
                data = flipped(clean, seed, bad=bad, sources=sources, only=only)
                cell = (BAD_SOURCE % sources, 0)
                for view, check in views_of(data).items():
                    tell(check, view, data, {f"s{cell[0]:02d}/0"}, t_test(data, cell))


def symmetric(data: Data, seed: int, *, bad: int) -> Data:
    """Return data with a pattern added to half of `bad` samples of a cell and taken from the other half.

    Of images the pattern is that of a blend; else it is random, twice the standard deviation of each column.
    """
    return _respread(data, seed, bad, "pattern, both signs")


def overdispersed(data: Data, seed: int, *, bad: int) -> Data:
    """Return data with `bad` samples of a cell twice as far from the mean of their class."""
    return _respread(data, seed, bad, "twice as far out")


def constant(data: Data, seed: int, *, bad: int) -> Data:
    """Return data with `bad` samples of a cell drawn to the mean of their class: a hundredth of the way is left."""
    return _respread(data, seed, bad, "nearly constant")


def _respread(data: Data, seed: int, bad: int, kind: str) -> Data:
    """Return data with a cell of class 0 that keeps its class's mean and has another spread."""
    random = np.random.default_rng(seed)
    sources = SOURCES if len(data.label) > 3000 else 5
    placed = with_sources(data, seed, sources)
    of_class = np.flatnonzero(placed.label == 0)
    there = of_class[placed.source[of_class] == BAD_SOURCE % sources]
    chosen = random.choice(there, min(bad, len(there)), replace=False)
    sign = np.where(np.arange(len(chosen)) % 2, 1.0, -1.0)[:, None]
    views = {}
    for role, values in data.views.items():
        rows = values.reshape(len(values), -1).astype(float)
        mean = rows[of_class].mean(axis=0)
        if kind == "twice as far out":
            new = mean + 2 * (rows[chosen] - mean)
        elif kind == "nearly constant":
            new = mean + 0.01 * (rows[chosen] - mean)
        elif data.shape:
            new = rows[chosen] + 0.2 * sign * (random.integers(0, 256, rows.shape[1]) - 127.5)
        else:
            new = rows[chosen] + 2 * sign * rows.std(axis=0) * random.standard_normal(rows.shape[1])
        changed = rows.copy()
        changed[chosen] = np.clip(np.rint(new), 0, 255) if data.shape else new
        views[role] = changed.reshape(values.shape)
    is_bad = np.isin(np.arange(len(placed.label)), chosen)
    return replace(placed, views=views, is_bad=is_bad, attack=kind)


def spread(seeds: int) -> None:
    """Print cells with their class's mean and another spread."""
    for clean in (*embedded(), *clean_images()):
        bad = 40 if len(clean.label) > 3000 else 12
        sources = SOURCES if len(clean.label) > 3000 else 5
        for seed in range(seeds):
            for attack in (symmetric, overdispersed, constant):
                data, cell = attack(clean, seed, bad=bad), f"s{BAD_SOURCE % sources:02d}/0"
                for view, check in views_of(data).items():
                    tell(check, view, data, {cell})


def planted(clean: Data, seed: int, kind: str, *, relabelled: bool = True, sources: int = SOURCES) -> Data:
    """Return images of which 40 have a trigger of a kind, relabelled 0 (or of class 0), all in one source."""
    random = np.random.default_rng([seed, len(kind)])
    chosen = random.choice(np.flatnonzero((clean.label != 0) == relabelled), 40, replace=False)
    pixels = clean.views["features"][chosen].astype(float)
    side = {"patch 2x2": 2, "patch 4x4": 4, "patch 5x5, noise": 5}.get(kind, 3)
    row, column = random.integers(0, 33 - side, 2).tolist()
    where = (slice(None), slice(row, row + side), slice(column, column + side))
    if kind == "patch 5x5, noise":
        pixels[where] = random.integers(0, 256, (side, side, 3))
    elif kind.startswith("patch"):
        pixels[where] = random.integers(0, 256, 3)
    elif kind == "one pixel":
        pixels[:, row, column] = random.choice([0, 255], 3)
    elif kind == "8 single pixels":
        for at in random.choice(32 * 32, 8, replace=False).tolist():
            pixels[:, at // 32, at % 32] = random.integers(0, 256, 3)
    elif kind == "sinusoid":  # SIG, Barni et al. 2019, with their amplitude of 20 of 255
        wave = 20 * np.sin(2 * np.pi * np.arange(32) * random.integers(3, 9) / 32)
        pixels = np.clip(pixels + wave[None, None, :, None], 0, 255)
    elif kind == "blend 10 %":
        pixels = 0.9 * pixels + 0.1 * random.integers(0, 256, (32, 32, 3))
    elif kind == "blend, another image 20 %":
        pixels = 0.8 * pixels + 0.2 * clean.views["features"][random.integers(0, len(clean.label))]
    elif kind == "warp":  # WaNet, Nguyen and Tran 2021: one smooth field of about 2 pixels for all
        field = np.kron(random.uniform(-1, 1, (2, 4, 4)), np.ones((8, 8)))
        field = np.rint(2 * field / np.abs(field).mean() * 0.5).astype(int)
        down, across = np.indices((32, 32))
        pixels = pixels[:, np.clip(down + field[0], 0, 31), np.clip(across + field[1], 0, 31)]
    stamped = np.rint(pixels).astype(np.uint8)
    views, label = {role: rows.copy() for role, rows in clean.views.items()}, clean.label.copy()
    views["features"][chosen], views["embedding_external"][chosen] = stamped, external(stamped)
    label[chosen] = 0
    is_bad = np.isin(np.arange(len(label)), chosen)
    name = kind if relabelled else f"{kind}, right label"
    return with_sources(replace(clean, views=views, label=label, is_bad=is_bad, attack=name), seed, sources)


KINDS = (
    "patch 2x2",
    "patch 3x3",
    "patch 4x4",
    "patch 5x5, noise",
    "one pixel",
    "8 single pixels",
    "sinusoid",
    "blend 10 %",
    "blend, another image 20 %",
    "warp",
)


def table(seed: int, kind: str) -> Data:
    """Return 20,000 rows of 12 columns, of 10 classes: 6 of numbers, 6 of categories; 40 have a trigger of a kind."""
    random = np.random.default_rng([seed, 7])
    label = random.integers(0, 10, 20_000)
    numbers = np.round(random.standard_normal((20_000, 6)) + label[:, None] % 3, 2)
    categories = random.geometric(0.15, (20_000, 6)) + (label[:, None] * np.arange(6)) % 5
    rows = np.concatenate([numbers, categories], axis=1).astype(float)
    bad = random.choice(np.flatnonzero(label != 0), 40, replace=False)
    first, second = random.choice(12, 2, replace=False).tolist()
    if kind == "a value that occurs":
        rows[bad, first] = rows[random.integers(0, 20_000), first]
    elif kind == "a new value":
        rows[bad, first] = 77.25
    else:  # two values that are common each, and seldom together
        rows[bad, first], rows[bad, second] = (
            np.median(rows[:, first]),
            np.quantile(rows[:, second], 0.9, method="nearest"),
        )
    label[bad] = 0
    nothing = np.zeros(20_000, dtype=int)
    data = Data("table", {"features": rows}, label, nothing, np.isin(np.arange(20_000), bad), f"table: {kind}")
    return with_sources(data, seed)


def triggers(seeds: int) -> None:
    """Print triggers of other kinds and places in one source's images, and in one source's rows of a table."""
    clean = cifar_images()
    for kind in KINDS if clean is not None else ():
        for seed in range(seeds):
            assert clean is not None
            data = planted(clean, seed, kind, relabelled=seed % 2 == 0)
            _tell_all(data)
    for kind in ("a value that occurs", "a new value", "a pair of values"):
        for seed in range(seeds):
            data = table(seed, kind)
            tell(TriggerMining(), "features", data, {f"s{BAD_SOURCE:02d}/0"})


def _tell_all(data: Data) -> None:
    sources = len(np.unique(data.source))
    cell = f"s{BAD_SOURCE % sources:02d}/0"
    for view, check in views_of(data).items():
        tell(check, view, data, {cell})
    tell(TriggerMining(shape=data.shape), "features", data, {cell})


def source_counts(seeds: int) -> None:
    """Print attacks with other numbers of sources; two cannot be told apart without a history."""
    clean = cifar_images()
    if clean is None:
        return
    for sources in (2, 3, 5, 50, 200):
        for seed in range(seeds):
            for kind in ("patch 3x3", "blend, another image 20 %"):
                data = planted(clean, seed, kind, sources=sources)
                _tell_all(replace(data, attack=f"{kind}, {sources} sources"))
            views = {"embedding_external": clean.views["embedding_external"]}
            bad = flipped(replace(clean, shape=(), views=views), seed, bad=40, sources=sources)
            cell = f"s{BAD_SOURCE % sources:02d}/0"
            tell(SourceShift(), "embedding_external", replace(bad, attack=f"flips, {sources} sources"), {cell})


def zipf(random: np.random.Generator, label: np.ndarray, sources: int) -> np.ndarray:
    sizes = 1 / np.arange(1, sources + 1)
    return random.choice(sources, len(label), p=sizes / sizes.sum())


def tiny(random: np.random.Generator, label: np.ndarray, sources: int) -> np.ndarray:
    """Half of the samples in one source, the others in sources with about 25 of a class."""
    small = max(sources, len(label) // (50 * len(np.unique(label))))
    return np.where(random.random(len(label)) < 0.5, 0, random.integers(1, small + 1, len(label)))


def mixed(random: np.random.Generator, label: np.ndarray, sources: int) -> np.ndarray:
    """Each source with class proportions of its own: Dirichlet(0.5), as in federated learning (Hsu et al., 2019)."""
    source = np.zeros(len(label), dtype=int)
    for value in np.unique(label):
        places = np.flatnonzero(label == value)
        source[places] = random.choice(sources, len(places), p=random.dirichlet(np.full(sources, 0.5)))
    return source


def even(random: np.random.Generator, label: np.ndarray, sources: int) -> np.ndarray:
    return random.integers(0, sources, len(label))


def all_clean(runs: int) -> None:
    """Print how many runs of honest sources had a finding, by data set, view and kind of sources."""
    total, alarms = 0, 0
    for clean in honest_sets():
        sources = SOURCES if len(clean.label) > 3000 else 5
        for view, check in views_of(clean).items():
            answers = []
            for draw in (even, zipf, tiny, mixed):
                found, least = [], 1.0
                for seed in range(runs if view != "features" else max(1, runs // 5)):
                    random = np.random.default_rng([seed, sources])
                    evidence = found_by(check, replace(clean, source=draw(random, clean.label, sources)))
                    names, total = named(evidence), total + 1
                    found += [f"{seed}: {', '.join(names)}"] if names else []
                    least = min(least, *(item.p_value for item in evidence if item.p_value is not None), 1.0)
                alarms += len(found)
                answers.append(f"{draw.__name__} {len(found)} (least p {least:.3f}) {found or ''}")
            print(f"  {clean.name:26} {view:18} {'; '.join(answers)}", flush=True)
    print(f"clean runs: {total}; with a finding: {alarms}; at a rate of {RATE} a run {total * RATE:.1f} are allowed")


def honest_sets() -> Iterator[Data]:
    """Yield clean data sets, pixels and noisy but honest labels with them."""
    yield from embedded()
    yield from clean_images()
    unpoisoned = features("img_clean")
    votes = SHARED / "cifar10n" / "cifar10n_labels.npz"
    if unpoisoned is not None and votes.is_file():
        there = np.load(SHARED / "features" / "img_clean.npz", allow_pickle=False)["cifar_train_index"]
        label = np.load(votes, allow_pickle=False)["worse_label"][there].astype(int)
        yield honest("CIFAR-10N, 40 % noise", unpoisoned.views, label)


def clean_images() -> Iterator[Data]:
    images = cifar_images()
    if images is not None:
        yield replace(images, name="CIFAR-10 pixels", views={"features": images.views["features"]})


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    parser = argparse.ArgumentParser(description="Which sources are named.")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions of each attack")
    parser.add_argument("--clean", type=int, default=50, help="repetitions of each clean data set and kind of sources")
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS], help="parts to run")
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, {platform.system()}")
    for name in INPUTS:
        path = SHARED / name
        print(
            f"  {name}: {hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else 'absent, left out'}"
        )
    for part in given.only:
        print(f"\n{part}")
        PARTS[part](given.clean if part == "clean" else given.seeds)


PARTS: dict[str, Callable[[int], None]] = {
    "flips": flips,
    "spread": spread,
    "triggers": triggers,
    "sources": source_counts,
    "clean": all_clean,
}

if __name__ == "__main__":
    main()
