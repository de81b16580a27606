"""Salted leaves: how a sample is committed to, so that nobody without its salt can link the leaf to the sample.

```
block seed   = HMAC-SHA-256(run secret, "millcert block v1" || SHA-256(file name) || u64 block)   256 rows a block
row salt     = SHA-256(0x02 || block seed || u8 row in the block)
sample leaf  = SHA-256(0x00 || row salt || sample digest)                the hash of a leaf of RFC 6962
index salt   = HMAC-SHA-256(run secret, "millcert index v1")
index key    = SHA-256(0x03 || index salt || sample digest)
index leaf   = SHA-256(0x00 || row salt || index key || 0x01)            the hash of a leaf of RFC 6962
sealed       = sample digest XOR SHA-256(0x04 || row salt)
```
Every row has a salt of its own, derived from 32 random bytes a run: showing one row's salt says nothing of its
neighbours, and forgetting one erases one sample (`salt_store`). The run secret itself is forgotten when the run ends.
Numbers are big endian. Two samples are never one leaf: the inputs have fixed lengths and differ in length by purpose.

Format: docs/formats/sample-leaves.md.
"""

import hashlib
import hmac
from dataclasses import dataclass

from millcert.errors import UsageError
from millcert.provenance.merkle import leaf_hash

SALT_BYTES = 32
DIGEST_BYTES = 32

#: Rows that share a seed: so many salts have to be written out when one of them is forgotten.
BLOCK_ROWS = 256

#: Stands in a file's tree where a record could not be decoded: the hash of a leaf without data.
NO_SAMPLE = leaf_hash(b"")

_ROW_SALT = b"\x02"
_INDEX_KEY = b"\x03"
_SEAL = b"\x04"
_INDEX_LEAF = b"\x01"


@dataclass(frozen=True)
class RunSecret:
    """The 32 random bytes that all salts of a run come from; lives as long as the run.

    Raises:
        UsageError: it is not 32 bytes.
    """

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != SALT_BYTES:
            raise UsageError(f"A run's secret has {SALT_BYTES} bytes, got {len(self.secret)}.")

    @property
    def index_salt(self) -> bytes:
        """The salt of the index's keys, the same for every row of the run."""
        return hmac.digest(self.secret, b"millcert index v1", "sha256")

    def block_seed(self, file: str, block: int) -> bytes:
        """Return the seed of rows 256 * block and following of a file."""
        name = hashlib.sha256(file.encode()).digest()
        return hmac.digest(self.secret, b"millcert block v1" + name + block.to_bytes(8, "big"), "sha256")


def row_salt(seed: bytes, offset: int) -> bytes:
    """Return the salt of the row at `offset` (0 to 255) of the block with this seed."""
    return hashlib.sha256(_ROW_SALT + seed + bytes((offset,))).digest()


def sample_leaf_hash(salt: bytes, digest: bytes) -> bytes:
    """Return the hash of a sample's leaf in its file's tree."""
    return leaf_hash(salt + digest)


def index_key(index_salt: bytes, digest: bytes) -> bytes:
    """Return what the run's index is sorted by: equal digests have equal keys within one run, and in no other."""
    return hashlib.sha256(_INDEX_KEY + index_salt + digest).digest()


def index_leaf_hash(salt: bytes, key: bytes) -> bytes:
    """Return the hash of a sample's leaf in the index's tree."""
    return leaf_hash(salt + key + _INDEX_LEAF)


def seal(salt: bytes, digest: bytes) -> bytes:
    """Return a digest that only who has the row's salt can read; sealing again opens it."""
    pad = hashlib.sha256(_SEAL + salt).digest()
    return (int.from_bytes(pad, "big") ^ int.from_bytes(digest, "big")).to_bytes(DIGEST_BYTES, "big")
