"""Samples that acts speak of: the ledger has a salted commitment, this folder the salt and digest behind it.

A revoked or released sample has to be found again in later runs, so its digest is kept, and can be erased: then the
commitment in the ledger can no longer be linked to the sample. One file a sample: `salts/named/<commitment>`, 64 bytes,
salt and digest, readable by its owner only.
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from millcert.errors import LedgerError, StoreError, UsageError
from millcert.provenance.keys import PRIVATE_MODE, create_file
from millcert.provenance.revocation import sample_commitment
from millcert.provenance.sample_leaf import DIGEST_BYTES, SALT_BYTES
from millcert.provenance.state import StateFolder


def named_folder(state: StateFolder) -> Path:
    """Return where the named samples are."""
    return state.path / "salts" / "named"


def name_sample(state: StateFolder, digest: bytes) -> str:
    """Return the commitment of a sample, hex; the same for a sample that was named before.

    Raises:
        UsageError: the digest is not 32 bytes.
        StoreError: the folder cannot be written.
        LedgerError: a file in it was edited.
    """
    if len(digest) != DIGEST_BYTES:
        raise UsageError(f"A sample digest has {DIGEST_BYTES} bytes, got {len(digest)}.")
    known = next((name for name, found in named_samples(state).items() if found == digest), None)
    if known is not None:
        return known
    salt = secrets.token_bytes(SALT_BYTES)
    commitment = sample_commitment(salt, digest)
    try:
        named_folder(state).mkdir(parents=True, exist_ok=True, mode=0o700)
        create_file(named_folder(state) / commitment, salt + digest, PRIVATE_MODE)
    except OSError as error:
        raise StoreError(f"The sample cannot be kept in {named_folder(state)}: {error.strerror}.") from error
    return commitment


def named_samples(state: StateFolder) -> Mapping[str, bytes]:
    """Return commitment -> digest of every named sample.

    Raises:
        StoreError: the folder cannot be read.
        LedgerError: a file in it is not what its name says.
    """
    found: dict[str, bytes] = {}
    try:
        paths = sorted(named_folder(state).iterdir())
    except FileNotFoundError:
        return found
    except OSError as error:
        raise StoreError(f"The named samples cannot be read: {error.strerror}.") from error
    for path in paths:
        if path.name.startswith("."):
            continue  # a file that a crash left half made
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"The named sample {path} cannot be read: {error.strerror}.") from error
        salt, digest = data[:SALT_BYTES], data[SALT_BYTES:]
        if len(data) != SALT_BYTES + DIGEST_BYTES or sample_commitment(salt, digest) != path.name:
            raise LedgerError(f"{path} is not the sample that its name says.", hint="Restore it from a copy.")
        found[path.name] = digest
    return found


def forget_sample(state: StateFolder, digest: bytes) -> tuple[str, ...]:
    """Destroy what links commitments to a sample; return those commitments."""
    gone = tuple(name for name, found in named_samples(state).items() if found == digest)
    for name in gone:
        with suppress(FileNotFoundError):
            (named_folder(state) / name).unlink()
    return gone
