"""The mean of random Fourier features of an embedding: a linear, mergeable sketch of a whole distribution.

Two distributions are equal if and only if their mean embeddings in a Gaussian kernel are; random features approximate
that kernel, and their mean is a sum. Rows are brought to unit length first (their lengths are numbers of their own), so
one bandwidth serves any model.

Nothing here depends on batches or platform: the projection is exact (`millcert.checks.exact`), its phase is rounded to
1/65,536 of a turn, and cosine and sine come from a table of whole numbers, so sums are sums of integers.

Source: Rahimi and Recht, NIPS 2007, section 3 (the features); Gretton et al., JMLR 13 (2012) (what their mean is for).
"""

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from millcert.checks.exact import ExactMatrix, sum_squares

#: Width of the Gaussian kernel on the unit sphere. Our choice: neighbours of real models are some 0.5 apart.
BANDWIDTH = 0.5

_TAG = b"millcert sketch embedding v1\0"
_TURN = 1 << 16
#: Cosines are whole multiples of 2^-20.
_SCALE_BITS = 20
_ROWS = 4096


class MeanEmbedding(NamedTuple):
    """Sums of features.

    dimension: columns of the embedding.
    rows: how many rows were added.
    sums: int64 (2 f,): cosines then sines of f frequencies, in units of 2^-20.
    """

    dimension: int
    rows: int
    sums: np.ndarray


def embed_rows(units: np.ndarray, frequencies: int, key: bytes) -> MeanEmbedding:
    """Return the sums of the features of rows.

    Args:
        units: float64 (n, d), rows of length 1 (or 0).
        frequencies: f.
        key: 32 bytes; chooses the frequencies, so that nobody can aim between them.

    Cost: a product of n x d by d x f in float64, and some 4 f nanoseconds a row.
    """
    sums = embed_groups(units, np.zeros(len(units), dtype=np.int64), 1, frequencies, key)
    return MeanEmbedding(units.shape[1], len(units), sums[0])


def embed_groups(units: np.ndarray, groups: np.ndarray, count: int, frequencies: int, key: bytes) -> np.ndarray:
    """Return the sums of the features of each group's rows, int64 (count, 2 f).

    Args:
        units: float64 (n, d), as `embed_rows` takes them.
        groups: int64 (n,), 0 to count - 1.
        count: how many groups there are.
        frequencies: f.
        key: 32 bytes.
    """
    matrix, table = _frequencies(units.shape[1], frequencies, key), _cosines()
    sums = np.zeros((count, 2 * frequencies), dtype=np.int64)
    for start in range(0, len(units), _ROWS):
        own = slice(start, start + _ROWS)
        order = np.argsort(groups[own], kind="stable")
        whose, starts = np.unique(groups[own][order], return_index=True)
        phase = np.rint(matrix.apply(units[own][order])).astype(np.int64)
        sums[whose, :frequencies] += np.add.reduceat(table[phase & (_TURN - 1)], starts, axis=0)
        sums[whose, frequencies:] += np.add.reduceat(table[(phase - _TURN // 4) & (_TURN - 1)], starts, axis=0)
    return sums


def merge_embeddings(left: MeanEmbedding, right: MeanEmbedding) -> MeanEmbedding:
    """Return the sums of both; they are of one dimension."""
    return MeanEmbedding(left.dimension, left.rows + right.rows, left.sums + right.sums)


def mean_of_features(embedding: MeanEmbedding) -> np.ndarray:
    """Return the mean feature vector, float64 (2 f,); a single row's has length 1. At least one row."""
    frequencies = len(embedding.sums) // 2
    return embedding.sums / (embedding.rows * 2.0**_SCALE_BITS * math.sqrt(frequencies))


def unit_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of length 1 (0 where a row is all zeros), float64 (n, d), and the lengths, (n,)."""
    table = rows.astype(np.float64)
    lengths = np.sqrt(sum_squares(table))
    return table / np.where(lengths > 0, lengths, 1.0)[:, None], lengths


@lru_cache(maxsize=8)
def _frequencies(dimension: int, frequencies: int, key: bytes) -> ExactMatrix:
    """Return Gaussian frequencies in 65,536ths of a turn, exact (d, f).

    Each is the sum of 12 uniform 16-bit numbers, which has the variance of a Gaussian and its first moments, and is
    the same with every version of every library.
    """
    size = dimension * frequencies
    stream = hashlib.shake_256(_TAG + key + dimension.to_bytes(8, "little")).digest(24 * size)
    uniform = np.frombuffer(stream, dtype="<u2").reshape(size, 12).astype(np.int64)
    # The sum of 12 uniforms on [0, 2^16) has mean 6 * (2^16 - 1) and a standard deviation of 2^16.
    gaussian = (uniform.sum(axis=1) - 6 * 65_535) / 65_536
    return ExactMatrix.of(gaussian.reshape(dimension, frequencies) * (_TURN / (2 * math.pi * BANDWIDTH)))


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """Return 2^20 times the cosine of each 65,536th of a turn, rounded, int64."""
    return np.array(
        [round(math.cos(2 * math.pi * step / _TURN) * 2**_SCALE_BITS) for step in range(_TURN)], dtype=np.int64
    )
