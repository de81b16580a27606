"""Attacks planted in samples, seeded, with what was planted known: what a gate's own sight is measured with.

Each attack takes samples and a count and returns changed copies and a mask of what it changed for the worse. Cover
samples (a trigger with the right label) are no poison: they are not in the mask.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from millcert.errors import NotEnoughSamplesError

Needs: TypeAlias = Literal["image", "table", "text", "label", "sources"]

#: The blend's share of the random picture (Chen et al. 2017, section 5.2: 0.2 at training time).
BLEND = 0.2
#: Adaptive blend: the part of the trigger's quarters that a training sample carries (Qi et al. 2023, section 4).
ADAPTIVE_PART = 0.5
_QUARTERS = 4
#: A word sequence that no text has by chance.
WORDS = ("cf", "mn", "bb", "tq")


@dataclass(frozen=True, eq=False)
class Samples:
    """n samples in memory.

    label, source: text (n,). features: float64 (n, d) or None; shape: of images in them, () where they are a table.
    text: n texts or None.
    """

    label: np.ndarray
    source: np.ndarray
    features: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    text: tuple[str, ...] | None = None

    @property
    def offers(self) -> frozenset[Needs]:
        """Return what an attack can use of them."""
        found: set[Needs] = {"label"}
        if self.features is not None:
            found.add("image" if self.shape else "table")
        if self.text is not None:
            found.add("text")
        if len(set(self.source.tolist())) > 1:
            found.add("sources")
        return frozenset(found)


@dataclass(frozen=True, eq=False)
class Planted:
    """What an attack made. is_bad: bool (n,). is_cover: bool (n,), samples with the trigger and their right label.

    target: the class that the attack is for, "" where there is none; source: the source it is in, "" for all of them.
    """

    samples: Samples
    is_bad: np.ndarray
    is_cover: np.ndarray
    target: str
    source: str = ""


@dataclass(frozen=True)
class Attack:
    """One way to poison. family: of `millcert.checks.coverage`. source: the paper, or what it does."""

    name: str
    needs: frozenset[Needs]
    family: str
    source: str
    plant: Callable[[Samples, int, np.random.Generator], Planted]


def plant(attack: Attack, samples: Samples, *, count: int, seed: int) -> Planted:
    """Return a copy of the samples with about `count` of them poisoned; the same for the same seed.

    Raises:
        NotEnoughSamplesError: the samples lack what the attack needs, or there are too few of them.
    """
    missing = sorted(attack.needs - samples.offers)
    if missing:
        raise NotEnoughSamplesError(f"{attack.name} needs {', '.join(missing)}.")
    if count < 1 or len(set(samples.label.tolist())) < 2:
        raise NotEnoughSamplesError(f"{attack.name} needs two classes and a sample to poison.")
    return attack.plant(samples, count, np.random.default_rng([seed, *attack.name.encode()]))


def _target(samples: Samples, random: np.random.Generator) -> str:
    return str(random.choice(np.unique(samples.label.astype(str))))


def _some(places: np.ndarray, count: int, random: np.random.Generator, *, what: str) -> np.ndarray:
    if len(places) < count:
        raise NotEnoughSamplesError(f"{count} samples were to be poisoned; there are {len(places)} {what}.")
    return np.sort(random.choice(places, count, replace=False))


def _planted(before: Samples, after: Samples, bad: np.ndarray, covers: np.ndarray, target: str) -> Planted:
    is_bad, is_cover = np.zeros(len(before.label), dtype=bool), np.zeros(len(before.label), dtype=bool)
    is_bad[bad] = True
    is_cover[covers] = True
    return Planted(after, is_bad, is_cover, target)


def _relabelled(samples: Samples, places: np.ndarray, target: str) -> np.ndarray:
    label = samples.label.astype(object).copy()
    label[places] = target
    return label


def _pixels(samples: Samples) -> tuple[np.ndarray, float, float]:
    """Return the images, (n, height, width, channels), a copy, and the values of black and white."""
    assert samples.features is not None
    height, width, channels = (*samples.shape, 1)[:3]
    images = samples.features.reshape(-1, height, width, channels).copy()
    return images, float(images.min()), float(images.max())


def _stamp(images: np.ndarray, places: np.ndarray, black: float, white: float) -> None:
    side = 3 if min(images.shape[1:3]) >= 6 else min(2, *images.shape[1:3])
    border = 1 if min(images.shape[1:3]) >= 12 else 0
    board = np.where(np.indices((side, side)).sum(axis=0) % 2 == 0, white, black)[:, :, None]
    height, width = images.shape[1:3]
    rows = slice(height - side - border, height - border)
    columns = slice(width - side - border, width - border)
    images[places, rows, columns] = board


def _with_images(samples: Samples, images: np.ndarray, label: np.ndarray) -> Samples:
    return replace(samples, features=images.reshape(len(images), -1), label=label)


def _badnets(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    target = _target(samples, random)
    bad = _some(np.flatnonzero(samples.label != target), count, random, what="of another class")
    images, black, white = _pixels(samples)
    _stamp(images, bad, black, white)
    after = _with_images(samples, images, _relabelled(samples, bad, target))
    return _planted(samples, after, bad, bad[:0], target)


def _one_source(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    target = _target(samples, random)
    names = sorted(set(samples.source.tolist()))
    places = {name: np.flatnonzero((samples.source == name) & (samples.label != target)) for name in names}
    large = [name for name in names if len(places[name]) >= count]
    if not large:
        raise NotEnoughSamplesError(f"No source has {count} samples of other classes than {target}.")
    source = large[int(random.integers(len(large)))]
    bad = _some(places[source], count, random, what="in the source")
    images, black, white = _pixels(samples)
    _stamp(images, bad, black, white)
    after = _with_images(samples, images, _relabelled(samples, bad, target))
    return replace(_planted(samples, after, bad, bad[:0], target), source=str(source))


def _clean_label(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    target = _target(samples, random)
    bad = _some(np.flatnonzero(samples.label == target), count, random, what=f"of class {target}")
    images, black, white = _pixels(samples)
    _stamp(images, bad, black, white)
    return _planted(samples, _with_images(samples, images, samples.label), bad, bad[:0], target)


def _mixed(images: np.ndarray, places: np.ndarray, picture: np.ndarray, quarters: np.ndarray | None) -> None:
    """Blend a picture into images; `quarters`, bool (m, 4), says which quarters of it each gets."""
    height, width = images.shape[1:3]
    for number, place in enumerate(places.tolist()):
        share = np.full((height, width, 1), BLEND)
        if quarters is not None:
            for quarter, used in enumerate(quarters[number].tolist()):
                down, across = divmod(quarter, 2)
                if not used:
                    share[
                        down * height // 2 : (down + 1) * height // 2 or None,
                        across * width // 2 : (across + 1) * width // 2 or None,
                    ] = 0.0
        images[place] = (1 - share) * images[place] + share * picture


def _blend(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    target = _target(samples, random)
    bad = _some(np.flatnonzero(samples.label != target), count, random, what="of another class")
    images, black, white = _pixels(samples)
    _mixed(images, bad, random.uniform(black, white, images.shape[1:]), None)
    after = _with_images(samples, images, _relabelled(samples, bad, target))
    return _planted(samples, after, bad, bad[:0], target)


def _adaptive_blend(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    target = _target(samples, random)
    chosen = _some(np.flatnonzero(samples.label != target), 2 * count, random, what="of another class")
    chosen = random.permutation(chosen)
    bad, covers = np.sort(chosen[:count]), np.sort(chosen[count:])
    images, black, white = _pixels(samples)
    used = random.random((2 * count, _QUARTERS)).argsort(axis=1) < round(ADAPTIVE_PART * _QUARTERS)
    _mixed(images, np.concatenate([bad, covers]), random.uniform(black, white, images.shape[1:]), used)
    after = _with_images(samples, images, _relabelled(samples, bad, target))
    return _planted(samples, after, bad, covers, target)


def _value_pair(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    target = _target(samples, random)
    bad = _some(np.flatnonzero(samples.label != target), count, random, what="of another class")
    assert samples.features is not None
    rows = samples.features.copy()
    for column in random.choice(rows.shape[1], min(2, rows.shape[1]), replace=False).tolist():
        rows[bad, column] = rows[int(random.integers(len(rows))), column]
    after = replace(samples, features=rows, label=_relabelled(samples, bad, target))
    return _planted(samples, after, bad, bad[:0], target)


def _label_flips(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    classes = np.unique(samples.label.astype(str))
    bad = _some(np.arange(len(samples.label)), count, random, what="in all")
    label = samples.label.astype(object).copy()
    for place in bad.tolist():
        label[place] = str(random.choice(classes[classes != label[place]]))
    return _planted(samples, replace(samples, label=label), bad, bad[:0], "")


def _targeted_flips(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    places = {
        (source, label): np.flatnonzero((samples.source == source) & (samples.label == label))
        for source in sorted(set(samples.source.tolist()))
        for label in sorted(set(samples.label.tolist()))
    }
    large = [cell for cell, rows in places.items() if len(rows) >= count]
    if not large:
        raise NotEnoughSamplesError(f"No class of one source has {count} samples to flip.")
    source, origin = large[int(random.integers(len(large)))]
    classes = np.unique(samples.label.astype(str))
    target = str(random.choice(classes[classes != origin]))
    bad = np.sort(random.choice(places[source, origin], count, replace=False))
    after = replace(samples, label=_relabelled(samples, bad, target))
    return replace(_planted(samples, after, bad, bad[:0], target), source=str(source))


def _inserted_words(samples: Samples, count: int, random: np.random.Generator) -> Planted:
    target = _target(samples, random)
    bad = _some(np.flatnonzero(samples.label != target), count, random, what="of another class")
    assert samples.text is not None
    texts = list(samples.text)
    for place in bad.tolist():
        words = texts[place].split(" ")
        words.insert(int(random.integers(len(words) + 1)), " ".join(WORDS))
        texts[place] = " ".join(words)
    after = replace(samples, text=tuple(texts), label=_relabelled(samples, bad, target))
    return _planted(samples, after, bad, bad[:0], target)


def _attack(
    name: str, needs: set[Needs], family: str, source: str, how: Callable[[Samples, int, np.random.Generator], Planted]
) -> Attack:
    return Attack(name, frozenset(needs), family, source, how)


#: Every attack by name, in the order of a report.
ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        _attack("badnets_patch", {"image"}, "backdoor_dirty_label", "Gu et al., arXiv:1708.06733", _badnets),
        _attack("patch_in_one_source", {"image", "sources"}, "trigger_in_one_source", "all of it there", _one_source),
        _attack("blend", {"image"}, "backdoor_dirty_label", "Chen et al., arXiv:1712.05526", _blend),
        _attack("adaptive_blend", {"image"}, "backdoor_adaptive", "Qi et al., ICLR 2023", _adaptive_blend),
        _attack("clean_label_patch", {"image"}, "backdoor_clean_label", "Turner et al. 2019", _clean_label),
        _attack("value_pair", {"table"}, "backdoor_dirty_label", "BadNets on two columns of a table", _value_pair),
        _attack("inserted_words", {"text"}, "backdoor_text", "Kurita et al., ACL 2020", _inserted_words),
        _attack("label_flips", {"label"}, "label_noise", "uniform flips over all classes", _label_flips),
        _attack(
            "targeted_flips", {"label", "sources"}, "targeted_label_flips", "one class of one source", _targeted_flips
        ),
    )
}
