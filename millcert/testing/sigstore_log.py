"""A private transparency log in memory, as Rekor v1 (ECDSA, signed entry timestamps) and Rekor v2 (Ed25519) behave.

The tree is written here once more, straight from RFC 6962's recursion, and not taken from `millcert.provenance`: a test
kit that shares code with what it tests hides that code's faults.
"""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Literal

import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from millcert.testing.sigstore_authority import PrivateKey, spki

#: Rekor v1 counts across its shards, so an entry's index there is larger than in its tree.
V1_INDEX_OFFSET = 4_163_431
_V1_TREE_ID = 1193050959916656506


def base64_text(data: bytes) -> str:
    """Return standard base64 with padding."""
    return base64.b64encode(data).decode()


def make_log_key(rekor: Literal[1, 2]) -> PrivateKey:
    """Return a fresh key of the kind that the log's version uses."""
    return ec.generate_private_key(ec.SECP256R1()) if rekor == 1 else ed25519.Ed25519PrivateKey.generate()


@dataclass
class TransparencyLog:
    """One log: its key, its host name, and the leaf hashes so far."""

    rekor: Literal[1, 2]
    host: str
    key: PrivateKey
    leaves: list[bytes] = field(default_factory=list)

    @property
    def log_id(self) -> bytes:
        """v1: SHA-256 of the key. v2: SHA-256 of the signed-note key id's input (C2SP), name included."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            raw = self.key.public_key().public_bytes_raw()
            return hashlib.sha256(self.host.encode() + b"\n\x01" + raw).digest()
        return hashlib.sha256(spki(self.key)).digest()

    @property
    def origin(self) -> str:
        """The first line of this log's checkpoints."""
        return f"{self.host} - {_V1_TREE_ID}" if self.rekor == 1 else self.host

    def append(self, body: bytes) -> int:
        """Add a leaf and return its index in the tree."""
        self.leaves.append(hashlib.sha256(b"\x00" + body).digest())
        return len(self.leaves) - 1

    def root(self) -> bytes:
        """Return the root over all leaves."""
        return _root(self.leaves)

    def path(self, index: int) -> list[bytes]:
        """Return the inclusion proof of a leaf in the tree of all leaves, from the leaf up."""
        return _path(index, self.leaves)

    def sign(self, message: bytes, *, key: PrivateKey | None = None) -> bytes:
        """Sign with the log's key, or with another one that pretends to be it."""
        signer = key or self.key
        if isinstance(signer, ed25519.Ed25519PrivateKey):
            return signer.sign(message)
        return signer.sign(message, ec.ECDSA(hashes.SHA256()))

    def checkpoint(self, *, origin: str | None, size: str | None, key: PrivateKey | None) -> str:
        """Return a signed note over the tree; `origin` and `size` stand in it instead of the true ones."""
        note = f"{origin or self.origin}\n{size or len(self.leaves)}\n{base64_text(self.root())}\n"
        line = base64_text(self.log_id[:4] + self.sign(note.encode(), key=key))
        return f"{note}\n\N{EM DASH} {self.host} {line}\n"

    def entry_timestamp(self, body: bytes, *, log_index: int, integrated_time: int, key: PrivateKey | None) -> bytes:
        """Return Rekor v1's signed entry timestamp (SET) over the canonical JSON of these four values."""
        payload = {
            "body": base64_text(body),
            "integratedTime": integrated_time,
            "logID": self.log_id.hex(),
            "logIndex": log_index,
        }
        return self.sign(rfc8785.dumps(payload), key=key)


def _split(count: int) -> int:
    """Return the largest power of two that is smaller than `count` (2 or more)."""
    return 1 << ((count - 1).bit_length() - 1)


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    middle = _split(len(leaves))
    return hashlib.sha256(b"\x01" + _root(leaves[:middle]) + _root(leaves[middle:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*_path(index, leaves[:middle]), _root(leaves[middle:])]
    return [*_path(index - middle, leaves[middle:]), _root(leaves[:middle])]
