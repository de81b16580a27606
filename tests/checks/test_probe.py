"""The probe and the model-free rows: exact, seeded, and poison shows in the probe's view."""

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import fit_check
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.patch_rows import patch_rows
from millcert.checks.probe import WIDTH, Probe, train_probe
from millcert.checks.text_grams import gram_rows
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, UsageError


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray, Probe]:
    random = np.random.default_rng(0)
    rows = random.normal(size=(120, 5)) * [1, 10, 100, 0, 1]
    labels = np.where(rows[:, 0] > 0, "a", "b")
    return rows, labels, train_probe(rows, labels, content="table", seed=1)


def test_the_same_seed_gives_the_same_probe_and_another_seed_another(
    small: tuple[np.ndarray, np.ndarray, Probe],
) -> None:
    rows, labels, probe = small

    assert train_probe(rows, labels, content="table", seed=1).digest == probe.digest
    assert train_probe(rows, labels, content="table", seed=2).digest != probe.digest


def test_a_sample_s_view_depends_on_no_batch(small: tuple[np.ndarray, np.ndarray, Probe]) -> None:
    rows, _, probe = small

    whole = probe.embed(rows)

    assert whole.shape == (120, WIDTH)
    assert np.array_equal(whole, np.concatenate([probe.embed(rows[start : start + 7]) for start in range(0, 120, 7)]))


def test_the_probe_learns(small: tuple[np.ndarray, np.ndarray, Probe]) -> None:
    assert small[2].accuracy > 0.95


def test_a_missing_value_does_not_drown_the_rest(small: tuple[np.ndarray, np.ndarray, Probe]) -> None:
    rows, labels, _ = small
    holed = rows.copy()
    holed[:40, 1] = -(2.0**1023)

    probe = train_probe(holed, labels, content="table", seed=1)

    assert np.isfinite(probe.embed(holed)).all()
    assert probe.accuracy > 0.95


def test_hashed_words_train_a_probe_without_a_warning() -> None:
    rows = gram_rows([f"{'good' if number % 2 else 'bad'} film {number}" for number in range(200)], width=64)

    probe = train_probe(rows, np.where(np.arange(200) % 2, "1", "0"), content="text")

    assert probe.embed(rows).shape == (200, WIDTH)


def test_rows_of_another_width_and_a_single_class_are_refused(small: tuple[np.ndarray, np.ndarray, Probe]) -> None:
    rows, labels, probe = small

    with pytest.raises(InvalidSampleError, match="5 features"):
        probe.embed(rows[:, :4])
    with pytest.raises(NotEnoughSamplesError, match="two classes"):
        train_probe(rows, np.full(len(labels), "a"), content="table")


@pytest.mark.slow
def test_a_patch_in_two_per_cent_of_the_digits_is_found_in_the_probe_s_view() -> None:
    from sklearn.datasets import load_digits

    images, label = load_digits(return_X_y=True)
    bad = np.random.default_rng(0).choice(np.flatnonzero(label != 0), 36, replace=False)
    images.reshape(-1, 8, 8)[bad, 5:8, 5:8] = 16 * (np.indices((3, 3)).sum(axis=0) % 2 == 0)
    label[bad] = 0
    view = train_probe(images, label.astype(str), content="image").embed(images)
    columns = pa.FixedSizeListArray.from_arrays(pa.array(view.ravel()), WIDTH)
    sources = pa.array(["s"] * len(label))
    batch = pa.RecordBatch.from_arrays(
        [pa.array(label.astype(str)), sources, columns], ["label", "source", "embedding_self"]
    )
    check = RobustSpectral()

    flagged = check.score(fit_check(check, [batch]), batch).flagged

    is_bad = np.isin(np.arange(len(label)), bad)
    assert flagged[is_bad].mean() >= 0.95
    assert flagged[~is_bad].mean() <= 0.02


def test_hashed_words_are_seeded_bounded_and_of_length_one() -> None:
    texts = ["The film is good .", "the FILM is good.", "", "x " * 50_000]

    rows = gram_rows(texts, width=64)

    assert np.array_equal(rows[0], rows[1])
    assert np.allclose((rows**2).sum(axis=1), [1, 1, 0, 1], atol=1e-6)
    assert not np.array_equal(rows[0], gram_rows(texts, width=64, seed=1)[0])
    assert np.array_equal(rows[2:], gram_rows(texts[2:], width=64))
    assert gram_rows([], width=64).shape == (0, 64)


@pytest.mark.parametrize("width", [0, 3, 131_072])
def test_a_width_that_is_no_power_of_two_is_refused(width: int) -> None:
    with pytest.raises(UsageError, match="power of two"):
        gram_rows(["a"], width=width)


@pytest.mark.parametrize("shape", [(8, 8), (4, 5, 3), (2, 3), (32, 32, 3)])
def test_patch_rows_have_one_width_and_depend_on_no_batch(shape: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).uniform(0, 255, (4, int(np.prod(shape))))

    found = patch_rows(rows, shape)

    assert found.shape == (4, 256)
    assert np.array_equal(found[2:3], patch_rows(rows[2:3], shape))
    assert len(np.unique(found, axis=0)) == 4
    assert not np.array_equal(found, patch_rows(rows, shape, seed=1))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidSampleError, match="192 numbers"):
        patch_rows(np.zeros((1, 64)), (8, 8, 3))
