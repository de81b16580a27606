"""Which probe makes a self view of what: a network by torch for images and texts, a perceptron by scikit-learn for all.

A view is made of content: images or tables as float (n, d), or texts. Both probes answer `embed(content)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TypeAlias

import numpy as np

from millcert.checks.probe import WIDTH, Probe, train_probe
from millcert.checks.text_grams import gram_rows
from millcert.checks.torch_probe import Content, Layer, TorchProbe, load_torch, train_torch_probe
from millcert.errors import UsageError

ContentKind: TypeAlias = Literal["image", "table", "text"]
ProbeKind: TypeAlias = Literal["auto", "sklearn", "torch"]


@dataclass(frozen=True)
class ProbeChoice:
    """Which probe. kind: "auto" is torch for images and texts where torch is installed, else scikit-learn.

    layer: of a network; the perceptron's is its first hidden layer. seed: of training.
    """

    kind: ProbeKind = "auto"
    layer: Layer = "hidden"
    seed: int = 0

    def resolved(self, content: ContentKind) -> Literal["sklearn", "torch"]:
        """Return what is used for a kind of content.

        Raises:
            UsageError: torch was asked for and is not there, or is asked for a table.
        """
        if self.kind == "torch":
            if content == "table":
                raise UsageError(
                    "A network of this kind reads images or texts, not tables.",
                    hint="Give --probe sklearn, or name the images' shape under dataset.images.",
                )
            load_torch()
            return "torch"
        if self.kind == "auto" and content != "table" and find_spec("torch") is not None:
            return "torch"
        if self.layer != "hidden":
            raise UsageError(
                "Only a network by torch has a penultimate layer to look at.",
                hint='Install it: pip install "millcert[torch]".',
            )
        return "sklearn"


@dataclass(frozen=True, eq=False)
class SelfView:
    """A trained probe of either kind. kind: as a manifest of views names it."""

    probe: Probe | TorchProbe
    kind: str
    seed: int

    @property
    def width(self) -> int:
        """Columns of the view."""
        return self.probe.width if isinstance(self.probe, TorchProbe) else WIDTH

    @property
    def digest(self) -> str:
        """SHA-256 of all that `embed` computes with, hex."""
        return self.probe.digest

    def embed(self, content: Content) -> np.ndarray:
        """Return the view, float32 (n, width); the same bits for a sample in any batch."""
        if isinstance(self.probe, TorchProbe):
            return self.probe.embed(content)
        return self.probe.embed(_rows(content, self.seed))


def train_self_view(
    content: Content, labels: np.ndarray, kind: ContentKind, *, shape: Sequence[int] = (), choice: ProbeChoice
) -> SelfView:
    """Return a probe trained on content with the labels that it was given.

    Args:
        content: float (n, d), finite, or n texts.
        labels: text (n,).
        kind: of the content.
        shape: of images.
        choice: of the probe.

    Raises:
        NotEnoughSamplesError: fewer than two classes.
        UsageError: as `ProbeChoice.resolved`.
    """
    if choice.resolved(kind) == "torch":
        network = train_torch_probe(content, labels, shape=shape, layer=choice.layer, seed=choice.seed)
        return SelfView(network, f"torch_{choice.layer}", choice.seed)
    probe = train_probe(_rows(content, choice.seed), labels, content=kind, seed=choice.seed)
    return SelfView(probe, "probe", choice.seed)


def _rows(content: Content, seed: int) -> np.ndarray:
    return content if isinstance(content, np.ndarray) else gram_rows(content, seed=seed)
