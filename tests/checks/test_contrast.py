"""A class against all others."""

import numpy as np
import pytest

from millcert.checks.contrast import class_contrasts, random_signs, supported_dimension
from millcert.checks.moments import Moments
from millcert.errors import NotEnoughSamplesError


def moments_of(rows: np.ndarray) -> Moments:
    return Moments.zero(rows.shape[1]).add_rows(rows.astype(np.float32))


def three_classes(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    classes = {name: random.standard_normal((400, 6)) + 3 * random.standard_normal(6) for name in "abc"}
    classes["a"][:40, 5] += 25
    return classes


def test_the_direction_that_only_one_class_uses_comes_first() -> None:
    contrasts = class_contrasts({name: moments_of(rows) for name, rows in three_classes().items()}, max_directions=4)

    first = contrasts["a"].directions[:, 0]
    assert abs(first[5]) / np.linalg.norm(first) > 0.8
    assert contrasts["a"].variance[0] > 5 * contrasts["b"].variance[0]
    assert contrasts["a"].directions.shape == (6, 4)


def test_units_are_those_of_the_other_classes() -> None:
    classes = three_classes()

    contrast = class_contrasts({name: moments_of(rows) for name, rows in classes.items()}, max_directions=3)["a"]

    others = np.concatenate([classes["b"], classes["c"]])
    assert (others @ contrast.directions).var(axis=0) == pytest.approx(1, abs=0.02)
    assert (classes["a"] @ contrast.directions).var(axis=0) == pytest.approx(contrast.variance, rel=0.01)
    assert contrast.offset == pytest.approx(classes["a"].mean(axis=0) @ contrast.directions, abs=1e-3)
    assert contrast.others == pytest.approx(others.mean(axis=0) @ contrast.directions - contrast.offset, abs=1e-3)


def test_few_samples_support_few_dimensions_and_directions() -> None:
    random = np.random.default_rng(1)
    classes = {name: moments_of(random.standard_normal((40, 30))) for name in "ab"}

    contrast = class_contrasts(classes, max_directions=24)["a"]

    assert supported_dimension(30, 40) == 8
    assert np.linalg.matrix_rank(contrast.directions) == 2  # 40 samples, 16 each
    assert supported_dimension(30, 3) == 1


def test_others_that_never_vary_are_measured_by_the_class_itself() -> None:
    random = np.random.default_rng(2)
    flat = moments_of(np.ones((50, 4)))

    contrasts = class_contrasts({"a": moments_of(random.standard_normal((50, 4))), "b": flat}, max_directions=4)

    assert np.isfinite(contrasts["a"].variance).all()
    assert contrasts["b"].directions.shape == (4, 0)
    assert class_contrasts({"a": flat, "b": flat}, max_directions=4)["a"].distance == 0


def test_one_class_cannot_be_contrasted() -> None:
    with pytest.raises(NotEnoughSamplesError):
        class_contrasts({"a": moments_of(np.ones((9, 2))), "b": Moments.zero(2)}, max_directions=4)


def test_random_signs_never_change() -> None:
    """The same seed gives the same bits in every version: they are part of a verdict."""
    signs = random_signs(3, 4, seed=0)

    assert np.sign(signs).astype(int).tolist() == [[-1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, -1, 1]]
    assert np.array_equal(np.abs(signs), np.full((3, 4), 0.5))
    assert not np.array_equal(random_signs(30, 4, seed=0), random_signs(30, 4, seed=1))


def test_projected_distances_survive_on_average() -> None:
    rows = np.random.default_rng(3).standard_normal((200, 300))

    projected = rows @ random_signs(300, 64, seed=0)

    assert (projected**2).sum() == pytest.approx((rows**2).sum(), rel=0.05)
