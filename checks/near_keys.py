"""Locality-sensitive keys: samples that are alike share one, samples that are not hardly ever do.

  text       MinHash of byte windows (Broder, 1997), by one permutation and densification (Li, Owen, Zhang, NIPS 2012;
             Shrivastava, ICML 2017), in 16 bands of 4: texts of Jaccard similarity 0.8 share a key with a chance of
             0.9998, of 0.5 with 0.64, of 0.2 with 0.025.
  embedding  signs of fixed random projections of the centred row (Charikar, STOC 2002), in 16 bands of 32, in units of
             the data's own spread: there rows at a cosine of 0.999 share a key with a chance above 0.9999, of 0.99
             with 0.98, of 0.95 with 0.5, of 0.8 with 0.02.
  content    a hash of the exact row; equal rows share it, others do not (64 bits).

A sample's keys depend on nothing but the sample, fixed constants and, of an embedding, the mean and the covariance of
all rows, so they are the same in any batch. Without the covariance, whatever varies most (the brightness of pictures,
say) would make a fifth of honest data look alike (`bench/detection.py`, principal components of pixels).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.contrast import random_signs
from millcert.checks.exact import ExactMatrix, quantise_rows
from millcert.checks.exact_features import mixed
from millcert.checks.moments import Moments

#: Bands of a sample, each of which is one key.
BANDS = 16
#: MinHash values in a band of text; signs in a band of an embedding.
TEXT_ROWS, EMBEDDING_BITS = 4, 32
#: Bytes of a window of text: 8 Latin characters, about one and a half words.
WINDOW = 8

_BINS = BANDS * TEXT_ROWS
#: Windows in memory at once, about 60 MB. Does not change any result.
_WINDOWS_AT_A_TIME = 2**20
_EMPTY = np.uint64(2**64 - 1)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SEED = 7
#: Wider embeddings are projected before their covariance is taken, so that it stays below 4 MB.
MAX_SPREAD = 256
_SPREAD_SEED = 11
#: No direction counts as narrower than this part of the mean variance: what is left below it is rounding noise (as in
#: `millcert.checks.contrast`), nor than the narrowest that the samples can measure, five of them a direction.
_RIDGE, _SAMPLES_PER_DIRECTION = 1e-3, 5


def text_keys(texts: pa.StringArray) -> np.ndarray:
    """Return the keys of texts, uint64 (n, 16). Case and the width of white space make no difference.

    Args:
        texts: without nulls.

    Cost: about 30 nanoseconds a byte.
    """
    if not len(texts):
        return np.zeros((0, BANDS), dtype=np.uint64)
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " "))
    wide = pa.large_binary()
    padding, nothing = pa.scalar(b"\0" * WINDOW, wide), pa.scalar(b"", wide)
    padded = pc.binary_join_element_wise(pc.cast(plain, wide), padding, nothing)
    offsets = np.frombuffer(padded.buffers()[1], np.int64, len(padded) + 1, padded.offset * 8)
    data = np.frombuffer(padded.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    starts, ends = offsets[:-1] - offsets[0], offsets[1:] - offsets[0]
    least = np.full(len(texts) * _BINS, _EMPTY)
    windows = np.lib.stride_tricks.sliding_window_view(data, WINDOW)
    for first in range(0, len(windows), _WINDOWS_AT_A_TIME):
        part = windows[first : first + _WINDOWS_AT_A_TIME]
        place = np.arange(first, first + len(part))
        row = np.searchsorted(ends, place, side="right")
        # No window reaches into the padding, but for the one of a text that is shorter than a window.
        inside = place <= np.maximum(ends - 2 * WINDOW, starts)[row]
        words = np.ascontiguousarray(part[inside]).view("<u8").ravel().astype(np.uint64, copy=False)
        hashes = mixed(words * _ODD)
        bins = row[inside] * _BINS + (hashes >> np.uint64(58)).astype(np.int64)
        np.minimum.at(least, bins, hashes << np.uint64(6))
    return _banded(_densified(least.reshape(len(texts), _BINS)).reshape(len(texts), BANDS, TEXT_ROWS))


@dataclass(frozen=True, eq=False)
class Directions:
    """What embeddings' keys are the signs of. matrix: of d rows and 512 columns. middle: float64 (512,), of the mean.

    Make one with `Directions.of`.
    """

    matrix: ExactMatrix
    middle: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, spread: Moments) -> "Directions":
        """Return the directions for data with a mean, float64 (d,), and moments of `spread_rows`."""
        signs = _whitening(spread) @ random_signs(spread.dimension, BANDS * EMBEDDING_BITS, _SEED)
        if spread.dimension != len(mean):
            signs = random_signs(len(mean), spread.dimension, _SPREAD_SEED) @ signs
        matrix = ExactMatrix.of(signs)
        # The mean goes through the same exact product, so that rows that all equal it lie on one side of it.
        return cls(matrix, matrix.apply_quantised(*quantise_rows(mean[None, :]))[0])

    @property
    def width(self) -> int:
        """Columns of an embedding."""
        return len(self.matrix.whole)


def spread_rows(rows: np.ndarray) -> np.ndarray:
    """Return the rows that the covariance is taken of, (n, min(d, 256)): embeddings, or projections of wide ones."""
    if rows.shape[1] <= MAX_SPREAD:
        return rows
    return ExactMatrix.of(random_signs(rows.shape[1], MAX_SPREAD, _SPREAD_SEED)).apply(rows)


def embedding_keys(rows: np.ndarray, directions: Directions) -> np.ndarray:
    """Return the keys of embeddings, uint64 (n, 16).

    Args:
        rows: float32 (n, d), finite.
        directions: of all rows.

    Cost: 512 x d products a row.
    """
    above = (directions.matrix.apply(rows) > directions.middle).reshape(len(rows), BANDS, EMBEDDING_BITS)
    packed = np.packbits(above, axis=2).view(">u4").astype(np.uint64).reshape(len(rows), BANDS, 1)
    return _banded(packed)


def _whitening(spread: Moments) -> np.ndarray:
    """Return the symmetric root of the inverse covariance, (m, m), with narrow directions widened."""
    values, vectors = np.linalg.eigh(spread.covariance())
    measured = min(len(values), max(1, spread.count // _SAMPLES_PER_DIRECTION))
    least = max(float(values[-measured]), _RIDGE * float(values.mean()))
    if least <= 0:
        return np.eye(len(values))
    whitening: np.ndarray = (vectors / np.sqrt(np.maximum(values, least))) @ vectors.T
    return whitening


def content_keys(rows: np.ndarray) -> np.ndarray:
    """Return one key for each exact row, uint64 (n, 1).

    Args:
        rows: float64 (n, d), finite, or uint8 (n, 32) digests.
    """
    if rows.dtype == np.uint8:
        words = np.ascontiguousarray(rows[:, :8]).view(">u8").astype(np.uint64)
        return mixed(words)
    total = np.full(len(rows), _ODD)
    for column in range(rows.shape[1]):
        total = mixed(total ^ mixed((rows[:, column].astype(np.float64) + 0.0).view(np.uint64))) * _ODD
    return mixed(total)[:, None]


def _banded(values: np.ndarray) -> np.ndarray:
    """Return one hash a band of its values, uint64 (n, bands, r), and its number."""
    total = np.broadcast_to(np.arange(1, values.shape[1] + 1, dtype=np.uint64) * _ODD, values.shape[:2]).copy()
    for row in range(values.shape[2]):
        total = mixed(total ^ values[:, :, row]) * _ODD
    return mixed(total)


def _densified(least: np.ndarray) -> np.ndarray:
    """Fill each empty bin from a full one of the same text; which one is asked next is fixed for each bin."""
    found, empty = least.copy(), least == _EMPTY
    attempt = 0
    while empty.any() and attempt < 4 * _BINS:
        attempt += 1
        step = np.arange(_BINS, dtype=np.uint64) * np.uint64(attempt) + np.uint64(1000 * attempt)
        asked = (mixed(step) >> np.uint64(58)).astype(np.int64) if attempt <= 2 * _BINS else None
        other = (np.arange(_BINS) + attempt) % _BINS if asked is None else asked
        taken = empty & (least[:, other] != _EMPTY)
        # The attempt is mixed in, so that a borrowed value does not stand for the bin that it came from.
        found = np.where(taken, mixed(least[:, other] + np.uint64(attempt)), found)
        empty &= ~taken
    return found
