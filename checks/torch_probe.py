"""A convolutional or bag-of-tokens probe trained on the suspect data: a self view of images and texts, by torch.

The perceptron of `millcert.checks.probe` sees an image as a row of numbers; a convolution sees a trigger wherever it
stands and through whatever lies behind it. Networks are plain functions of a table of weights, so nothing but arrays
travels to a worker. Rules this module keeps:
  1. One thread and the CPU, in training and in scoring; random numbers come from a generator of the caller's seed, so
     neither torch's global state nor the number of cores has a say. The caller's number of threads is put back.
  2. Scoring sees batches of one shape, filled up with zeros, so a sample's bits do not depend on who stood beside it.
  3. No gradient but in training; memory is the training rows, which the caller bounds, and one batch.
"""

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np

from millcert.checks.text_grams import MAX_CHARACTERS, words_of
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, UsageError

#: Which activations are the view: those that the classes are read from, or what the layers before have seen: how much
#: and how strongly each filter answers: a patch is one filter's answer, so the latter is the default (our choice).
Layer: TypeAlias = Literal["penultimate", "hidden"]
#: Images as float (n, d), or n texts.
Content: TypeAlias = np.ndarray | Sequence[str]
Weights: TypeAlias = Mapping[str, Any]

#: Width of the penultimate layer. The hidden view has 2 x CHANNELS[-1] (images) or TOKEN_WIDTH (texts) columns.
WIDTH = 128
CHANNELS = (24, 48, 96)
#: Images are brought to about this side by the stride of the first convolution, so a small trigger is not averaged out.
SIDE = 32
#: Hashed tokens; a text's mean is taken over its words and pairs of words.
TOKENS, TOKEN_WIDTH = 2**14, 64
#: As for the perceptron: epochs, and the least number of steps for small data.
EPOCHS, LEAST_STEPS, BATCH = 10, 600, 128
RATE = 1e-3
_SCORED = 64


@dataclass(frozen=True, eq=False)
class TorchProbe:
    """A trained network.

    weights: float32 arrays by name. shape: height, width, channels of images; () for texts. layer: which is the view.
    centre, scale: how pixels are normalised. accuracy: on the rows it was trained on, in [0, 1].
    """

    weights: Mapping[str, np.ndarray]
    shape: tuple[int, ...]
    layer: Layer
    centre: float
    scale: float
    accuracy: float

    @property
    def width(self) -> int:
        """Columns of the view."""
        if self.layer == "penultimate":
            return WIDTH
        return 2 * CHANNELS[-1] if self.shape else TOKEN_WIDTH

    @property
    def digest(self) -> str:
        """SHA-256 of all that `embed` computes with, hex."""
        named = hashlib.sha256(f"{self.layer} {self.shape} {self.centre!r} {self.scale!r}".encode())
        for name, values in sorted(self.weights.items()):
            named.update(f"{name} {values.shape}".encode() + np.ascontiguousarray(values, dtype="<f4").tobytes())
        return named.hexdigest()

    def embed(self, content: Content) -> np.ndarray:
        """Return the view of images or texts, float32 (n, width); the same bits for a sample in any batch.

        Raises:
            InvalidSampleError: images of another size.
            UsageError: torch is not installed.
        """
        torch = load_torch()
        found = np.zeros((len(content), self.width), dtype=np.float32)
        with _one_thread(torch), torch.no_grad():
            weights = {name: torch.from_numpy(values) for name, values in self.weights.items()}
            for start, rows in _filled(content):
                inputs = self._inputs(torch, rows)
                hidden, last, _ = _forward(torch, weights, inputs)
                view = last if self.layer == "penultimate" else hidden
                kept = min(_SCORED, len(content) - start)
                found[start : start + kept] = view.numpy()[:kept]
        return found

    def _inputs(self, torch: Any, content: Content) -> Any:
        if not self.shape:
            return _token_bags(torch, list(content))
        return _images(torch, np.asarray(content), self.shape, self.centre, self.scale)


def load_torch() -> Any:
    """Return torch.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import torch
    except (ImportError, OSError, ValueError) as error:  # a wheel without its shared libraries raises the last two
        raise UsageError(
            "A probe of this kind needs torch, which cannot be imported.",
            hint='Install it: pip install "millcert[torch]", or give --probe sklearn.',
        ) from error
    return torch


def train_torch_probe(
    content: Content, labels: np.ndarray, *, shape: Sequence[int] = (), layer: Layer = "hidden", seed: int = 0
) -> TorchProbe:
    """Return a network trained on images or texts with the labels that they were given.

    Args:
        content: float (n, d), finite, pixels by row, column, channel; or n texts.
        labels: text (n,).
        shape: of the images, height, width and, if there are several, channels; () for texts.
        layer: which activations are the view.
        seed: of the first weights and of the order of the samples.

    Raises:
        NotEnoughSamplesError: fewer than two classes.
        InvalidSampleError: images of another width than the shape says.
        UsageError: torch is not installed.

    The same samples in the same order give the same probe on one machine with one torch.
    Cost: `bench/selftest.py` prints it where torch is installed. Memory: `content` as it is given, and a batch.
    """
    torch = load_torch()
    classes, target = np.unique(labels.astype(str), return_inverse=True)
    if len(classes) < 2:
        raise NotEnoughSamplesError("A probe needs samples of two classes.", hint="Give labels of two classes.")
    size = (*shape, 1)[:3] if shape else ()
    centre, scale = _pixel_scale(np.asarray(content)) if shape else (0.0, 1.0)
    random = torch.Generator().manual_seed(seed)
    shapes = _image_weights(size, len(classes)) if shape else _text_weights(len(classes))
    order = np.random.default_rng(seed)
    with _one_thread(torch):
        weights = {name: _first(torch, kind, random).requires_grad_() for name, kind in shapes.items()}
        batches = _Batches(torch, content, target, size, centre, scale)
        hits = _train(torch, weights, batches, order)
    arrays = {name: value.detach().numpy().copy() for name, value in weights.items()}
    return TorchProbe(arrays, size, layer, centre, scale, hits / len(target))


class _Batches:
    """Training rows, brought to tensors a batch at a time."""

    def __init__(
        self, torch: Any, content: Content, target: np.ndarray, shape: tuple[int, ...], centre: float, scale: float
    ) -> None:
        self._torch, self._content = torch, content
        self._shape, self._centre, self._scale = shape, centre, scale
        self.target = target.ravel().astype(np.int64)
        # Tokens are hashed once: they are a few numbers a word, the texts themselves are read in every epoch else.
        self._tokens = [] if shape else [_tokens(text) for text in content]

    def __len__(self) -> int:
        return len(self.target)

    def at(self, places: np.ndarray) -> tuple[Any, Any]:
        """Return inputs and classes of some samples."""
        classes = self._torch.from_numpy(self.target[places])
        if not self._shape:
            return _bags_of(self._torch, [self._tokens[place] for place in places.tolist()]), classes
        rows = np.asarray(self._content)[places]
        return _images(self._torch, rows, self._shape, self._centre, self._scale), classes


def _train(torch: Any, weights: Weights, batches: _Batches, order: np.random.Generator) -> int:
    """Train in place; return how many of the training samples the network got right when it last saw them."""
    size = min(BATCH, len(batches))
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / math.ceil(len(batches) / size)))
    optimiser = torch.optim.Adam(list(weights.values()), lr=RATE)
    hits = 0
    for _ in range(epochs):
        places, hits = order.permutation(len(batches)), 0
        for start in range(0, len(places), size):
            inputs, classes = batches.at(places[start : start + size])
            answer = _forward(torch, weights, inputs)[2]
            optimiser.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(answer, classes).backward()
            optimiser.step()
            hits += int((answer.detach().argmax(dim=1) == classes).sum())
    return hits


def _forward(torch: Any, weights: Weights, inputs: Any) -> tuple[Any, Any, Any]:
    """Return the hidden view, the penultimate one, and the classes' scores."""
    functional = torch.nn.functional
    if isinstance(inputs, tuple):
        tokens, offsets = inputs
        hidden = functional.embedding_bag(tokens, weights["tokens"], offsets, mode="mean")
    else:
        stride = max(1, min(inputs.shape[2:]) // SIDE)
        found = inputs
        for number in range(len(CHANNELS)):
            # A stride takes a kernel that leaves no pixel out.
            kernel = weights[f"conv{number}"]
            padding = (kernel.shape[2] - 1) // 2
            found = functional.conv2d(
                found, kernel, weights[f"conv{number}_bias"], stride=stride if number == 0 else 1, padding=padding
            )
            found = functional.relu(found)
            if number and min(found.shape[2:]) >= 2:
                found = functional.max_pool2d(found, 2)
        flat = found.flatten(2)
        hidden = torch.cat([flat.mean(dim=2), flat.amax(dim=2)], dim=1)
    last = functional.relu(functional.linear(hidden, weights["last"], weights["last_bias"]))
    return hidden, last, functional.linear(last, weights["classes"], weights["classes_bias"])


def _image_weights(shape: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    stride = max(1, min(shape[:2]) // SIDE)
    found: dict[str, tuple[int, ...]] = {}
    before = shape[2]
    for number, channels in enumerate(CHANNELS):
        side = 3 if number or stride == 1 else 2 * stride + 1
        found |= {f"conv{number}": (channels, before, side, side), f"conv{number}_bias": (channels,)}
        before = channels
    return found | _head(2 * before, classes)


def _text_weights(classes: int) -> dict[str, tuple[int, ...]]:
    return {"tokens": (TOKENS, TOKEN_WIDTH)} | _head(TOKEN_WIDTH, classes)


def _head(width: int, classes: int) -> dict[str, tuple[int, ...]]:
    return {
        "last": (WIDTH, width),
        "last_bias": (WIDTH,),
        "classes": (classes, WIDTH),
        "classes_bias": (classes,),
    }


def _first(torch: Any, shape: tuple[int, ...], random: Any) -> Any:
    """Return first weights: He et al., ICCV 2015, section 2.2, for layers; 0 for biases."""
    if len(shape) == 1:
        return torch.zeros(shape)
    inputs = math.prod(shape[1:])
    return torch.randn(shape, generator=random) * math.sqrt(2.0 / inputs)


def _pixel_scale(rows: np.ndarray) -> tuple[float, float]:
    centre = float(rows.mean(dtype=np.float64))
    spread = float(np.sqrt(np.mean(rows.var(axis=0, dtype=np.float64)))) if len(rows) else 0.0
    return centre, spread or 1.0


def _images(torch: Any, rows: np.ndarray, shape: tuple[int, ...], centre: float, scale: float) -> Any:
    height, width, channels = shape
    if rows.ndim != 2 or rows.shape[1] != height * width * channels:
        raise InvalidSampleError(
            f"Images of shape {shape} have {height * width * channels} numbers, got an array of shape {rows.shape}.",
            hint="Correct `shape` in the policy.",
        )
    pixels = ((rows - centre) / scale).astype(np.float32).reshape(-1, height, width, channels)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _token_bags(torch: Any, texts: list[str]) -> Any:
    return _bags_of(torch, [_tokens(text) for text in texts])


def _bags_of(torch: Any, bags: list[np.ndarray]) -> tuple[Any, Any]:
    offsets = np.cumsum([0, *(len(bag) for bag in bags[:-1])])
    return torch.from_numpy(np.concatenate(bags)), torch.from_numpy(offsets.astype(np.int64))


def _tokens(text: str) -> np.ndarray:
    """Return the buckets of a text's words and pairs of words, int64; one for a text without any."""
    words = words_of(text[:MAX_CHARACTERS])
    pairs = [f"{one} {two}" for one, two in pairwise(words)]
    found = [zlib.crc32(word.encode()) % TOKENS for word in (*words, *pairs)]
    return np.array(found or [0], dtype=np.int64)


def _filled(content: Content) -> Iterator[tuple[int, Content]]:
    """Yield batches of one size and where they start; the last one is filled up."""
    for start in range(0, len(content), _SCORED):
        part = content[start : start + _SCORED]
        missing = _SCORED - len(part)
        if missing and isinstance(part, np.ndarray):
            part = np.concatenate([part, np.zeros((missing, part.shape[1]), part.dtype)])
        elif missing:
            part = [*part, *([""] * missing)]
        yield start, part


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
