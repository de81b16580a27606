"""The formulas of salted leaves are those of the format's page, and say nothing without the salt."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import UsageError
from millcert.provenance.sample_leaf import (
    NO_SAMPLE,
    RunSecret,
    index_key,
    index_leaf_hash,
    row_salt,
    sample_leaf_hash,
    seal,
)

BYTES32 = st.binary(min_size=32, max_size=32)


def test_every_formula_is_that_of_the_format() -> None:
    secret, digest = bytes(range(32)), b"\xab" * 32
    name = hashlib.sha256("é.jsonl".encode()).digest()
    seed = hmac.digest(secret, b"millcert block v1" + name + (5).to_bytes(8, "big"), "sha256")
    salt = hashlib.sha256(b"\x02" + seed + b"\x07").digest()
    key = hashlib.sha256(b"\x03" + hmac.digest(secret, b"millcert index v1", "sha256") + digest).digest()

    run = RunSecret(secret)

    assert run.block_seed("é.jsonl", 5) == seed
    assert row_salt(seed, 7) == salt
    assert sample_leaf_hash(salt, digest) == hashlib.sha256(b"\x00" + salt + digest).digest()
    assert index_key(run.index_salt, digest) == key
    assert index_leaf_hash(salt, key) == hashlib.sha256(b"\x00" + salt + key + b"\x01").digest()
    assert NO_SAMPLE.hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(BYTES32, BYTES32)
def test_a_sealed_digest_opens_with_its_salt(salt: bytes, digest: bytes) -> None:
    """seal(salt, seal(salt, d)) == d, and the length never changes."""
    assert len(seal(salt, digest)) == 32
    assert seal(salt, seal(salt, digest)) == digest


@given(BYTES32, BYTES32, BYTES32)
def test_a_sealed_digest_does_not_open_with_another_salt(salt: bytes, other: bytes, digest: bytes) -> None:
    assert salt == other or seal(other, seal(salt, digest)) != digest


def test_no_two_rows_or_files_share_a_salt() -> None:
    secret = RunSecret(b"s" * 32)
    salts = {
        row_salt(secret.block_seed(file, block), row) for file in ("a", "b") for block in (0, 1) for row in (0, 255)
    }

    assert len(salts) == 8


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        RunSecret(bytes(length))
