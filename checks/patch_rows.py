"""Images as fixed-width rows, with no model: how random local filters answer in each quarter of the picture.

A convolution with random filters, a rectifier and pooling: the untrained first layer of Coates, Ng, Lee, AISTATS 2011,
section 3 (they show that random patches do nearly as well as learnt ones). It never saw any data.
"""

from collections.abc import Sequence

import numpy as np

from millcert.checks.exact import ExactMatrix
from millcert.errors import InvalidSampleError

FILTERS = 64
SIDE = 6
WIDTH = 4 * FILTERS


def patch_rows(rows: np.ndarray, shape: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """Return the filters' mean answer in each quarter of the images, float32 (n, 256).

    Args:
        rows: (n, d), finite; pixels by row, column, channel.
        shape: height, width and, if there are several, channels; d is their product. Sides of at least 2 pixels.
        seed: of the filters.

    The same bits for an image in any batch. Cost: about 3 milliseconds for 32 x 32 x 3.

    Raises:
        InvalidSampleError: another width than the shape says.
    """
    height, width, channels = (*shape, 1)[:3]
    if rows.shape[1] != height * width * channels or min(height, width) < 2:
        raise InvalidSampleError(
            f"Images of shape {tuple(shape)} have {height * width * channels} numbers, got {rows.shape[1]}.",
            hint="Correct `shape` in the policy.",
        )
    side = max(1, min(SIDE, height // 2, width // 2))
    filters = np.where(np.random.default_rng(seed).random((side * side * channels, FILTERS)) < 0.5, -1.0, 1.0)
    exact = ExactMatrix.of(filters - filters.mean(axis=0) if len(filters) > 1 else filters)
    found = np.zeros((len(rows), WIDTH), dtype=np.float32)
    for place, row in enumerate(np.asarray(rows, dtype=np.float64).reshape(-1, height, width, channels)):
        windows = np.lib.stride_tricks.sliding_window_view(row, (side, side), axis=(0, 1))
        patches = np.moveaxis(windows, 2, -1).reshape(-1, side * side * channels)
        answers = np.maximum(exact.apply(patches), 0.0).reshape(windows.shape[0], windows.shape[1], FILTERS)
        middle, centre = -(-answers.shape[0] // 2), -(-answers.shape[1] // 2)
        quarters = (
            answers[:middle, :centre],
            answers[:middle, centre:],
            answers[middle:, :centre],
            answers[middle:, centre:],
        )
        found[place] = np.concatenate([part.mean(axis=(0, 1)) if part.size else np.zeros(FILTERS) for part in quarters])
    return found
