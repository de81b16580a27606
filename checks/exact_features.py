"""Exact features of a sample as 64-bit keys: patches of an image at their positions, values and value pairs of a table.

A key holds the position in its upper 20 bits and a hash of the content in its lower 44, so a sample has a key at most
once. The hash is a sum of products with odd numbers, so two contents collide with a chance of 2**-44 or so.

The numbers are drawn by a salt. Without one everybody knows them, and who likes can make a content that collides with
any other; so what decides is counted under a salt that depends on every sample's digest (`salt_of`): whoever changes a
sample to make two contents collide changes the salt, too.
"""

from collections.abc import Sequence
from hashlib import sha256, shake_256

import numpy as np

from millcert.errors import InvalidSampleError

CONTENT_BITS = 44
#: Positions that a key can tell apart.
MAX_POSITIONS = 2**20
#: A table with more columns has no value pairs: they would be more than 500 keys a sample.
MAX_PAIRED_COLUMNS = 32


def digest_sums(digests: np.ndarray) -> np.ndarray:
    """Return the sums of digests in eight words, int64 (8,), of uint8 (n, 32): of all samples, whatever their order."""
    return np.asarray(np.ascontiguousarray(digests).view("<u4").sum(axis=0, dtype=np.int64))


def salt_of(sums: np.ndarray) -> bytes:
    """Return the salt, 16 bytes, of the sums of all samples' digests, int64 (8,)."""
    return sha256(np.ascontiguousarray(sums, dtype="<i8").tobytes()).digest()[:16]


def patch_keys(rows: np.ndarray, shape: Sequence[int], side: int, salt: bytes = b"") -> np.ndarray:
    """Return the keys of all square patches of images, uint64 (n, positions).

    Args:
        rows: float64 (n, d), finite; pixels by row, column, channel.
        shape: height, width and, if there are several, channels; d is their product.
        side: of a patch, in pixels.
        salt: of the hash.

    Position: row * (width - side + 1) + column of the upper left corner; `patch_corner` turns it back.
    Cost: about 1 nanosecond a pixel, channel and pixel of the patch: 30 microseconds for 32 x 32 x 3 and 3 x 3.

    Raises:
        InvalidSampleError: another width than the shape says.
    """
    height, width, channels = (*shape, 1)[:3]
    if rows.shape[1] != height * width * channels:
        raise InvalidSampleError(
            f"Images of shape {tuple(shape)} have {height * width * channels} numbers, got {rows.shape[1]}.",
            hint="Correct `shape` in the policy.",
        )
    pixels = _bits(rows).reshape(len(rows), height, width, channels)
    factors = _factors(side * side * channels, salt).reshape(side, side, channels)
    down, across = height - side + 1, width - side + 1
    content = np.zeros((len(rows), down, across), dtype=np.uint64)
    for row in range(side):
        for column in range(side):
            for channel in range(channels):
                content += (
                    pixels[:, row : row + down, column : column + across, channel] * factors[row, column, channel]
                )
    return _keys(content.reshape(len(rows), down * across), np.arange(down * across))


def patch_corner(position: int, shape: Sequence[int], side: int) -> tuple[int, int]:
    """Return row and column of a patch's upper left corner."""
    return divmod(position, shape[1] - side + 1)


def value_keys(rows: np.ndarray, salt: bytes = b"") -> np.ndarray:
    """Return the keys of all values, and of all pairs of values of up to 32 columns, uint64 (n, positions).

    Args:
        rows: float64 (n, d), finite.
        salt: of the hash.

    Position: the column; pairs follow in the order of `numpy.triu_indices`.
    """
    values, factors = _bits(rows), _factors(2, salt)
    width = rows.shape[1]
    contents = [values * factors[0]]
    if 2 <= width <= MAX_PAIRED_COLUMNS:
        first, second = np.triu_indices(width, 1)
        contents.append(values[:, first] * factors[0] + values[:, second] * factors[1])
    content = np.concatenate(contents, axis=1)
    return _keys(content, np.arange(content.shape[1]))


def columns_at(position: int, width: int) -> tuple[int, ...]:
    """Return the column, or the two columns, that a position of `value_keys` stands for in rows of a width."""
    if position < width:
        return (position,)
    first, second = np.triu_indices(width, 1)
    return int(first[position - width]), int(second[position - width])


def positions_of(keys: np.ndarray) -> np.ndarray:
    """Return the positions of keys, int64."""
    return (keys >> np.uint64(CONTENT_BITS)).astype(np.int64)


def mixed(values: np.ndarray) -> np.ndarray:
    """Return well-mixed 64-bit hashes of uint64 values (the finaliser of SplitMix64: Steele et al., OOPSLA 2014)."""
    mix = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mix = (mix ^ (mix >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mix ^ (mix >> np.uint64(31))


def _bits(rows: np.ndarray) -> np.ndarray:
    """Return the bits of numbers, mixed, so that equal numbers (0 and -0 too) and no others are equal."""
    return mixed((rows.astype(np.float64) + 0.0).view(np.uint64))


def _factors(count: int, salt: bytes) -> np.ndarray:
    digest = shake_256(f"millcert exact features {count}".encode() + salt).digest(8 * count)
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64) | np.uint64(1)


def _keys(content: np.ndarray, position: np.ndarray) -> np.ndarray:
    if content.shape[1] > MAX_POSITIONS:
        raise InvalidSampleError(f"A sample may have {MAX_POSITIONS} positions, got {content.shape[1]}.")
    keys: np.ndarray = (mixed(content) >> np.uint64(64 - CONTENT_BITS)) | (
        position.astype(np.uint64) << np.uint64(CONTENT_BITS)
    )
    return keys
