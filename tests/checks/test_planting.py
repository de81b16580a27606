"""Planting attacks: seeded, counted, and nothing else is touched."""

import numpy as np
import pytest

from millcert.checks.coverage import ATTACK_FAMILIES
from millcert.checks.planting import ATTACKS, BLEND, WORDS, Planted, Samples, plant
from millcert.errors import NotEnoughSamplesError

ROWS = 200


def samples(kind: str = "image", *, sources: int = 2) -> Samples:
    random = np.random.default_rng(0)
    label = np.array([str(number % 4) for number in range(ROWS)], dtype=object)
    source = np.array([f"s{number // 7 % sources}" for number in range(ROWS)], dtype=object)
    if kind == "image":
        return Samples(label, source, random.uniform(0, 200, (ROWS, 12 * 12 * 3)), (12, 12, 3))
    if kind == "table":
        return Samples(label, source, random.normal(size=(ROWS, 6)))
    if kind == "text":
        return Samples(label, source, text=tuple(f"a sample of number {number}" for number in range(ROWS)))
    return Samples(label, source)


def planted(name: str, kind: str, count: int = 10, seed: int = 3) -> tuple[Samples, Planted]:
    before = samples(kind)
    return before, plant(ATTACKS[name], before, count=count, seed=seed)


CASES = [
    (name, kind)
    for name, attack in ATTACKS.items()
    for kind in ("image", "table", "text", "plain")
    if attack.needs <= samples(kind).offers
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_attack_changes_what_it_says_and_nothing_else(name: str, kind: str) -> None:
    before, after = planted(name, kind)

    untouched = ~after.is_bad & ~after.is_cover
    assert after.is_bad.sum() == 10
    assert not (after.is_bad & after.is_cover).any()
    assert (after.samples.label == before.label)[~after.is_bad].all()
    assert (after.samples.source == before.source).all()
    if before.features is not None and after.samples.features is not None:
        assert (after.samples.features == before.features)[untouched].all()
    if before.text is not None and after.samples.text is not None:
        assert all(a == b for a, b, same in zip(before.text, after.samples.text, untouched, strict=True) if same)
    if after.target:
        assert set(after.samples.label[after.is_bad]) == {after.target}
    if after.source:
        assert set(after.samples.source[after.is_bad]) == {after.source}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_same_seed_plants_the_same_and_another_seed_another(name: str, kind: str) -> None:
    first, again, other = (planted(name, kind, seed=seed)[1] for seed in (3, 3, 4))

    assert (first.is_bad == again.is_bad).all()
    assert (first.samples.label == again.samples.label).all()
    assert first.samples.text == again.samples.text
    assert (first.is_bad != other.is_bad).any()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_user_s_own_samples_are_never_written_to(name: str, kind: str) -> None:
    before = samples(kind)
    for array in (before.label, before.source, before.features):
        if array is not None:
            array.flags.writeable = False

    plant(ATTACKS[name], before, count=5, seed=1)


def test_a_dirty_label_has_a_wrong_label_and_a_clean_one_the_right() -> None:
    before, dirty = planted("badnets_patch", "image")
    _, clean = planted("clean_label_patch", "image")

    assert (dirty.samples.label != before.label)[dirty.is_bad].all()
    assert (clean.samples.label == before.label).all()


@pytest.mark.parametrize("name", ["badnets_patch", "clean_label_patch", "patch_in_one_source"])
def test_a_patch_is_the_same_checkerboard_at_one_place(name: str) -> None:
    before, after = planted(name, "image")

    assert before.features is not None
    assert after.samples.features is not None
    images = after.samples.features.reshape(-1, 12, 12, 3)[after.is_bad]
    assert len(np.unique(images[:, 8:11, 8:11], axis=0)) == 1
    assert set(np.unique(images[:, 8:11, 8:11])) == {before.features.min(), before.features.max()}
    assert (images[:, :8] == before.features.reshape(-1, 12, 12, 3)[after.is_bad][:, :8]).all()


def test_a_small_image_gets_a_patch_that_fits() -> None:
    tiny = Samples(samples().label, samples().source, np.ones((ROWS, 4)) * np.arange(4), (2, 2))

    after = plant(ATTACKS["badnets_patch"], tiny, count=3, seed=0)

    assert after.samples.features is not None
    assert (after.samples.features[after.is_bad] == [3, 0, 0, 3]).all()


def test_a_blend_is_one_picture_at_its_share() -> None:
    before, after = planted("blend", "image")

    assert before.features is not None
    assert after.samples.features is not None
    picture = (after.samples.features - (1 - BLEND) * before.features)[after.is_bad]
    assert np.allclose(picture, picture[0])


def test_an_adaptive_blend_has_covers_with_their_right_label_and_half_of_the_trigger() -> None:
    before, after = planted("adaptive_blend", "image")

    assert before.features is not None
    assert after.samples.features is not None
    changed = (after.samples.features != before.features).reshape(ROWS, -1)
    assert after.is_cover.sum() == 10
    assert (after.samples.label == before.label)[after.is_cover].all()
    shares = changed.mean(axis=1)[after.is_bad | after.is_cover]
    assert np.allclose(shares, 0.5)


def test_inserted_words_stand_together_and_a_value_pair_is_one_pair() -> None:
    _, text = planted("inserted_words", "text")
    before, table = planted("value_pair", "table")

    assert text.samples.text is not None
    assert all(" ".join(WORDS) in text.samples.text[place] for place in np.flatnonzero(text.is_bad))
    assert before.features is not None
    assert table.samples.features is not None
    columns = np.flatnonzero((table.samples.features != before.features).any(axis=0))
    assert len(columns) == 2
    assert len(np.unique(table.samples.features[table.is_bad][:, columns], axis=0)) == 1


def test_targeted_flips_are_of_one_class_in_one_source() -> None:
    before, after = planted("targeted_flips", "plain")

    assert len(set(before.label[after.is_bad])) == 1
    assert after.source


def test_every_attack_is_of_a_family_that_verdicts_speak_of() -> None:
    assert {attack.family for attack in ATTACKS.values()} <= set(ATTACK_FAMILIES)


@pytest.mark.parametrize(
    ("name", "subject", "count"),
    [
        ("badnets_patch", samples("text"), 5),
        ("targeted_flips", samples("plain", sources=1), 5),
        ("badnets_patch", samples(), ROWS),
        ("clean_label_patch", samples(), 60),
        ("targeted_flips", samples(), 60),
        ("patch_in_one_source", samples(), 150),
        ("label_flips", samples(), 0),
        ("label_flips", Samples(np.array(["0"] * 9, dtype=object), np.array(["s"] * 9, dtype=object)), 1),
    ],
)
def test_what_cannot_be_planted_is_refused(name: str, subject: Samples, count: int) -> None:
    with pytest.raises(NotEnoughSamplesError):
        plant(ATTACKS[name], subject, count=count, seed=0)
