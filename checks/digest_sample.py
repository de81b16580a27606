"""A fixed-size sample of rows that is the same in any order, on any number of workers: those with the least digests."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from millcert.checks.exact_features import mixed
from millcert.errors import PolicyError


@dataclass(frozen=True, eq=False)
class DigestSample:
    """The rows with the least hashes of their digests, each digest once; immutable, mergeable in any order.

    keys: uint64 (n,), ascending. rows: float32 (n, d). most: at most so many.

    Size: 4 x d + 8 bytes a row.
    Source: bottom-k sampling, Cohen, Kaplan, PODC 2007; a digest's hash does not depend on what the row holds, so the
        sample is a uniform one of the distinct samples.
    """

    keys: np.ndarray
    rows: np.ndarray
    most: int

    @classmethod
    def of(cls, digests: np.ndarray, rows: np.ndarray, most: int) -> "DigestSample":
        """Return the sample of rows.

        Args:
            digests: uint8 (n, 32).
            rows: float (n, d), finite.
            most: rows to keep, at least 1.
        """
        return cls.of_keys(digest_keys(digests), rows, most)

    @classmethod
    def of_keys(cls, keys: np.ndarray, rows: np.ndarray, most: int) -> "DigestSample":
        """Return the sample of rows by hashes that the caller made, uint64 (n,)."""
        return _least(keys, rows.astype(np.float32), most)

    def merge(self, others: Iterable["DigestSample"]) -> "DigestSample":
        """Return the sample of all rows of this and the others, which must be of one width."""
        parts = [self, *others]
        if len(parts) == 1:
            return self
        keys, rows = (np.concatenate(one) for one in zip(*((part.keys, part.rows) for part in parts), strict=True))
        return _least(keys, rows, self.most)


def digest_heads(digests: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of each digest, big-endian, uint64 (n,), from uint8 (n, 32)."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8").astype(np.uint64).ravel()


def digest_keys(digests: np.ndarray) -> np.ndarray:
    """Return the hash of each digest, uint64 (n,), from uint8 (n, 32)."""
    return mixed(np.ascontiguousarray(digests[:, 8:16]).view(">u8").astype(np.uint64).ravel())


def keyed(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Return hashes that nobody can foretell who does not know the seed, uint64 (n,), from uint64 (n,).

    Two rounds of a mixing function, not a cryptographic one: it keeps one from choosing samples by their digests before
    they are judged; it does not hide the seed from who sees the hashes of many.
    """
    key = mixed(np.array([seed % 2**64], dtype=np.uint64))
    return mixed(mixed(hashes ^ key) + key)


def choosing_keys(digests: np.ndarray, seed: int) -> np.ndarray:
    """Return what chooses samples, uint64 (n,), from digests, uint8 (n, 32): hashes keyed by the seed; 0 is no key."""
    keys = digest_keys(digests)
    return keyed(keys, seed) if seed else keys


def check_seed(seed: int) -> None:
    """Refuse a seed that is too long for a key.

    Raises:
        PolicyError: it is not in [0, 2**64).
    """
    is_fault, words = seed_fault(seed)
    if is_fault:
        raise PolicyError(f"{words}.")


def seed_fault(seed: int) -> tuple[bool, str]:
    """Return whether a seed is not in [0, 2**64), and the words for it."""
    return not 0 <= seed < 2**64, f"seed must be in 0..{2**64 - 1}, got {seed}"


def _least(keys: np.ndarray, rows: np.ndarray, most: int) -> DigestSample:
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.append(True, ordered[1:] != ordered[:-1]) if len(keys) else np.zeros(0, dtype=bool)
    if not is_first.all():
        # Rows of one digest are alike; should a caller's differ, the least in its bytes stands for all.
        order = np.lexsort((*(rows[:, column] for column in range(rows.shape[1] - 1, -1, -1)), keys))
    kept = order[is_first][:most]
    return DigestSample(keys[kept], rows[kept], most)
