"""Locality-sensitive keys: samples that are alike share one, samples that are not hardly ever do.

  text       MinHash of byte windows (Broder, 1997), by one permutation and densification (Li, Owen, Zhang, NIPS 2012;
             Shrivastava, ICML 2017), in 16 bands of 4: texts of Jaccard similarity 0.8 share a key with a chance of
             0.9998, of 0.5 with 0.64, of 0.2 with 0.025.
  embedding  signs of fixed random projections of the centred row (Charikar, STOC 2002), in 16 bands of 32: rows at a
             cosine of 0.999 share a key with a chance above 0.9999, of 0.99 with 0.98, of 0.95 with 0.5, of 0.8
             with 0.02.
  content    a hash of the exact row; equal rows share it, others do not (64 bits).

A sample's keys depend on nothing but the sample and fixed constants, so they are the same in any batch.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks.contrast import random_signs
from millcert.checks.exact import ExactMatrix, quantise_rows
from millcert.checks.exact_features import mixed

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


def embedding_keys(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the keys of embeddings, uint64 (n, 16).

    Args:
        rows: float32 (n, d), finite.
        mean: float64 (d,), of all rows: directions are told from there.

    Cost: 512 x d products a row.
    """
    signs = ExactMatrix.of(random_signs(rows.shape[1], BANDS * EMBEDDING_BITS, _SEED))
    # The mean goes through the same exact product, so that the bits of a row do not depend on its batch.
    middle = signs.apply_quantised(*quantise_rows(mean[None, :]))[0]
    above = (signs.apply(rows) > middle).reshape(len(rows), BANDS, EMBEDDING_BITS)
    packed = np.packbits(above, axis=2).view(">u4").astype(np.uint64).reshape(len(rows), BANDS, 1)
    return _banded(packed)


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
