"""Which probe makes a self view; a network by torch, where it is installed, is seeded and scores alike in any batch."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import probe, torch_probe
from millcert.checks.probe import WIDTH as PERCEPTRON_WIDTH
from millcert.checks.self_view import ContentKind, ProbeChoice, SelfView, train_self_view
from millcert.checks.torch_probe import TorchProbe, train_torch_probe
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, UsageError

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed (extra torch)")

LABELS = np.array(["a", "b"] * 60)
IMAGES = np.random.default_rng(0).uniform(0, 50, (120, 8 * 9 * 3)) + 90 * (np.arange(120) % 2)[:, None]
TEXTS = [f"{'good' if number % 2 else 'bad'} film {number}" for number in range(120)]


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # what import makes of a missing package


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("content", ["image", "text"])
def test_where_torch_is_absent_it_says_how_to_install_it(content: ContentKind) -> None:
    with pytest.raises(UsageError) as refusal:
        ProbeChoice("torch").resolved(content)

    assert 'pip install "millcert[torch]"' in str(refusal.value.hint)


@pytest.mark.usefixtures("without_torch")
def test_a_stored_network_is_not_scored_without_torch() -> None:
    with pytest.raises(UsageError, match="torch"):
        TorchProbe({}, (), "hidden", 0.0, 1.0, 1.0).embed(["a"])


def test_a_table_takes_the_perceptron_and_no_network() -> None:
    assert ProbeChoice().resolved("table") == "sklearn"
    with pytest.raises(UsageError, match="not tables"):
        ProbeChoice("torch").resolved("table")


def test_the_perceptron_has_no_layer_to_choose() -> None:
    with pytest.raises(UsageError, match="layer"):
        ProbeChoice("sklearn", "penultimate").resolved("image")


@pytest.mark.parametrize(("content", "kind"), [(IMAGES, "image"), (TEXTS, "text")])
def test_the_perceptron_is_there_without_torch(
    content: Any, kind: ContentKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "LEAST_STEPS", 30)
    view = train_self_view(content, LABELS, kind, shape=(8, 9, 3), choice=ProbeChoice("sklearn"))

    assert (view.kind, view.width) == ("probe", PERCEPTRON_WIDTH)
    assert view.embed(content).shape == (120, PERCEPTRON_WIDTH)
    assert len(view.digest) == 64


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_probe, "LEAST_STEPS", 30)
    monkeypatch.setattr(torch_probe, "EPOCHS", 2)


def trained(kind: str, **fields: Any) -> SelfView:
    content: Any = IMAGES if kind == "image" else TEXTS
    choice = replace(ProbeChoice("torch"), **fields)
    return train_self_view(content, LABELS, kind, shape=(8, 9, 3) if kind == "image" else (), choice=choice)  # type: ignore[arg-type]  # one of its words


@needs_torch
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("kind", "hidden"), [("image", 192), ("text", 64)])
def test_a_network_s_view_depends_on_no_batch_and_is_of_the_layer_that_was_asked_for(kind: str, hidden: int) -> None:
    content: Any = IMAGES if kind == "image" else TEXTS
    for layer, width in (("penultimate", 128), ("hidden", hidden)):
        view = trained(kind, layer=layer)

        whole = view.embed(content)

        parts = [view.embed(content[start : start + 31]) for start in range(0, 120, 31)]
        assert (view.kind, view.width, whole.dtype.name) == (f"torch_{layer}", width, "float32")
        assert np.array_equal(whole, np.concatenate(parts))


@needs_torch
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_same_seed_gives_the_same_network_and_another_seed_another(kind: str) -> None:
    import torch

    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    one, two, other = trained(kind), trained(kind), trained(kind, seed=1)

    assert one.digest == two.digest
    assert one.digest != other.digest
    assert torch.equal(before, torch.random.get_rng_state()), "torch's own state is the caller's"
    assert torch.get_num_threads() == threads


@needs_torch
@pytest.mark.usefixtures("few_steps")
def test_a_network_learns_and_large_images_are_strided() -> None:
    images = np.random.default_rng(1).uniform(0, 9, (64, 70 * 66))
    images[::2] += 9

    network = train_torch_probe(images, LABELS[:64], shape=(70, 66))

    assert network.accuracy > 0.9
    assert network.weights["conv0"].shape == (24, 1, 5, 5)


@needs_torch
@pytest.mark.usefixtures("few_steps")
def test_content_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidSampleError, match="216 numbers"):
        trained("image").embed(IMAGES[:, :5])
    with pytest.raises(NotEnoughSamplesError, match="two classes"):
        train_torch_probe(TEXTS, np.full(120, "a"))


@needs_torch
@pytest.mark.slow
def test_a_patch_in_two_per_cent_of_the_digits_is_found_in_the_hidden_view() -> None:
    from sklearn.datasets import load_digits

    from millcert.checks.base import fit_check
    from millcert.checks.conformance_data import fixed_size_lists
    from millcert.checks.detectors.robust_spectral import RobustSpectral

    images, label = load_digits(return_X_y=True)
    bad = np.random.default_rng(0).choice(np.flatnonzero(label != 0), 36, replace=False)
    images.reshape(-1, 8, 8)[bad, 5:8, 5:8] = 16 * (np.indices((3, 3)).sum(axis=0) % 2 == 0)
    label[bad] = 0
    view = train_torch_probe(images, label.astype(str), shape=(8, 8), layer="hidden").embed(images)
    columns = [pa.array(label.astype(str).tolist()), pa.array(["s"] * len(label)), fixed_size_lists(view)]
    batch = pa.RecordBatch.from_arrays(columns, ["label", "source", "embedding_self"])
    check = RobustSpectral()

    flagged = check.score(fit_check(check, [batch]), batch).flagged

    is_bad = np.isin(np.arange(len(label)), bad)
    assert flagged[is_bad].mean() >= 0.95
    assert flagged[~is_bad].mean() <= 0.02
