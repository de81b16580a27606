"""shortcut_mining: an exact patch at one place that betrays a class; silence on what nature puts nearly there."""

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, fit_check
from millcert.checks.conformance_data import fixed_size_lists
from millcert.checks.detectors.shortcut_mining import ShortcutMining, ShortcutMiningModel, _by_place
from millcert.checks.flagging import Counts
from millcert.errors import InternalError, NotEnoughSamplesError, PolicyError

SIDE = 20
SHAPE = (SIDE, SIDE)
MARK = np.array([[9, 0, 9], [0, 5, 0], [9, 0, 9]])


def batch_of(pixels: np.ndarray, label: np.ndarray) -> pa.RecordBatch:
    rows = pixels.reshape(len(pixels), -1).astype(np.float64)
    names = pa.array([str(value) for value in label], pa.string())
    return pa.RecordBatch.from_arrays([names, fixed_size_lists(rows)], names=["label", "features"])


def drawings(seed: int, samples: int = 600, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Black pictures in each of which a class's own flat shape lies about one place, `spread` pixels apart."""
    random = np.random.default_rng(seed)
    pixels, label = np.zeros((samples, *SHAPE), dtype=int), random.integers(0, 3, samples)
    at = np.rint(7 + 3 * label[:, None] * np.array([1, -1]) + spread * random.standard_normal((samples, 2))).astype(int)
    for picture, (row, column), side in zip(pixels, at.tolist(), (4 + label).tolist(), strict=True):
        picture[max(0, row) : row + side, max(0, column) : column + side] = 9
    return pixels, label


def found_in(check: ShortcutMining, pixels: np.ndarray, label: np.ndarray) -> list[GroupEvidence]:
    return [item for item in check.evidence(fit_check(check, [batch_of(pixels, label)])) if item.is_suspicious]


@pytest.mark.parametrize("colour", [False, True])
def test_a_mark_on_part_of_a_class_is_located_counted_and_its_samples_alone_are_flagged(*, colour: bool) -> None:
    pixels, label = drawings(0)
    marked = np.flatnonzero(label == 1)[:100]
    pixels[marked, 14:17, 2:5] = MARK
    batch = batch_of(np.repeat(pixels[..., None], 3, axis=3) if colour else pixels, label)
    check = ShortcutMining(shape=(*SHAPE, 3) if colour else SHAPE)

    model = fit_check(check, [batch])
    scores = check.score(model, batch)
    (found,) = (item for item in check.evidence(model) if item.is_suspicious)

    assert (found.label, found.source) == ("1", "")
    assert found.statistic["samples_with_it"] == 100
    assert found.count_low <= 100 <= found.count_high
    assert "patch at row 14, column 2" in dict(found.top_features)
    assert np.flatnonzero(scores.flagged).tolist() == marked.tolist()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_shapes_that_classes_have_at_nearly_one_place_are_no_shortcut(seed: int, spread: float) -> None:
    assert found_in(ShortcutMining(shape=SHAPE), *drawings(seed, spread=spread)) == []


def test_shapes_at_the_very_same_place_in_every_picture_of_a_class_are_a_shortcut() -> None:
    assert {item.label for item in found_in(ShortcutMining(shape=SHAPE), *drawings(0, spread=0.0))} == {"0", "1", "2"}


def test_a_mark_on_all_classes_alike_is_no_shortcut() -> None:
    pixels, label = drawings(1)
    pixels[:300, 1:4, 15:18] = MARK  # clear of every shape: what stands beside a mark is a part of it

    assert found_in(ShortcutMining(shape=SHAPE), pixels, label) == []


def test_a_mark_that_moves_is_no_shortcut() -> None:
    pixels, label = drawings(2)
    random = np.random.default_rng(0)
    for number in np.flatnonzero(label == 1)[:100].tolist():
        row, column = random.integers(0, SIDE - 3, 2).tolist()
        pixels[number, row : row + 3, column : column + 3] = MARK

    assert found_in(ShortcutMining(shape=SHAPE), pixels, label) == []


@pytest.mark.parametrize("seed", range(5))
def test_random_labels_on_pictures_with_frequent_patches_are_no_shortcut(seed: int) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 2, (400, *SHAPE)) * (np.arange(SIDE) < 10)

    assert found_in(ShortcutMining(shape=SHAPE), pixels, random.integers(0, 4, 400)) == []


def test_what_was_not_put_to_a_test_says_so() -> None:
    pixels, label = drawings(0)

    one_class = ShortcutMining(shape=SHAPE)
    small = ShortcutMining(shape=(10, 40))
    for check, labels in ((one_class, np.zeros_like(label)), (small, label)):
        evidence = check.evidence(fit_check(check, [batch_of(pixels, labels)]))
        assert {(item.statistic["tested"], item.p_value) for item in evidence} == {(0.0, None)}


def test_the_place_is_compared_with_the_best_other_place_of_the_same_content() -> None:
    def key(position: int, content: int) -> int:
        return (position << 44) | content

    of_class = Counts(np.array([key(0, 7), key(0, 8), key(1, 7), key(5, 7)]), np.array([10, 30, 25, 2]))
    chances = _by_place(of_class, of_class)

    from scipy.stats import binom

    expected = [binom.sf(here - 1, here + there, 5 / 6) for here, there in ((10, 25), (30, 0), (25, 10), (2, 25))]
    np.testing.assert_allclose(chances, expected)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"shape": (20,)}, "height, width"),
        ({"shape": (20, 0)}, "height, width"),
        ({"shape": SHAPE, "patch": 1}, "patch must be"),
        ({"shape": (3, 30), "patch": 4}, "patch must be"),
        ({"shape": SHAPE, "false_alarm_rate": 0.0}, "false_alarm_rate"),
        ({"shape": SHAPE, "max_candidates": 8}, "max_candidates"),
        ({"shape": SHAPE, "least_side": 1}, "least_side"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(config: dict[str, object], says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        ShortcutMining(**config)  # type: ignore[arg-type]


def test_pictures_of_unknown_shape_are_refused() -> None:
    with pytest.raises(PolicyError, match="shape"):
        fit_check(ShortcutMining(), [batch_of(*drawings(0, samples=10))])


def test_no_samples_are_not_enough_and_an_unfinished_model_scores_nothing() -> None:
    check = ShortcutMining(shape=SHAPE)
    pixels, label = drawings(0, samples=10)
    batch = batch_of(pixels, label)

    with pytest.raises(NotEnoughSamplesError):
        check.fit(check.add(check.empty(), batch.slice(0, 0), None), None)
    first = check.fit(check.add(check.empty(), batch, None), None)
    assert isinstance(first, ShortcutMiningModel)
    with pytest.raises(InternalError):
        check.score(first, batch)
