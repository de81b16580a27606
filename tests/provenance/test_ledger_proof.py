"""The tlog-proof text: read in one way only, verified against known keys only."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import InclusionError, LedgerError, MillcertError, SignatureError, UsageError
from millcert.provenance.checkpoint import Checkpoint, encode_base64, sign_checkpoint, vkey_of
from millcert.provenance.merkle import MAX_PROOF_HASHES, leaf_hash, node_hash
from millcert.provenance.tlog_proof import (
    MAX_PROOF_BYTES,
    TlogProof,
    format_tlog_proof,
    parse_tlog_proof,
    verify_tlog_proof,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = vkey_of("example.com/log", KEY)
LEFT, RIGHT = b"left", b"right"
ROOT = node_hash(leaf_hash(LEFT), leaf_hash(RIGHT))
NOTE = sign_checkpoint(Checkpoint("example.com/log", 2, ROOT), KEY)
PROOF = format_tlog_proof(1, [leaf_hash(LEFT)], NOTE)


def test_a_proof_has_the_lines_of_the_specification() -> None:
    """C2SP tlog-proof: header, index, path from the leaf's sibling upward, an empty line, the checkpoint verbatim."""
    path = encode_base64(leaf_hash(LEFT)).encode()

    assert PROOF.split(b"\n", 4) == [b"c2sp.org/tlog-proof@v1", b"index 1", path, b"", NOTE]
    assert parse_tlog_proof(PROOF) == TlogProof(1, (leaf_hash(LEFT),), NOTE)


def test_a_proof_verifies_for_its_leaf_only() -> None:
    assert verify_tlog_proof(PROOF, RIGHT, [VKEY]).size == 2
    with pytest.raises(InclusionError):
        verify_tlog_proof(PROOF, LEFT, [VKEY])


def test_a_proof_in_a_tree_of_one_has_no_path() -> None:
    note = sign_checkpoint(Checkpoint("example.com/log", 1, leaf_hash(LEFT)), KEY)

    proof = format_tlog_proof(0, [], note)

    assert proof.startswith(b"c2sp.org/tlog-proof@v1\nindex 0\n\nexample.com/log\n")
    assert verify_tlog_proof(proof, LEFT, [VKEY]).size == 1


def test_extra_data_of_other_writers_is_passed_over() -> None:
    """C2SP tlog-proof: applications MUST NOT implicitly trust the extra data, as it is not authenticated."""
    extended = PROOF.replace(b"@v1\n", b"@v1\nextra YWdl\n")

    assert verify_tlog_proof(extended, RIGHT, [VKEY]).size == 2


def test_every_changed_byte_of_a_proof_is_refused() -> None:
    for place in range(len(PROOF)):
        changed = bytearray(PROOF)
        changed[place] ^= 0x01
        with pytest.raises((LedgerError, SignatureError)):
            verify_tlog_proof(bytes(changed), RIGHT, [VKEY])


def test_every_cut_of_a_proof_is_refused() -> None:
    for end in range(len(PROOF)):
        with pytest.raises((LedgerError, SignatureError)):
            verify_tlog_proof(PROOF[:end], RIGHT, [VKEY])


def test_a_checkpoint_of_another_key_proves_nothing() -> None:
    with pytest.raises(SignatureError):
        verify_tlog_proof(PROOF, RIGHT, [vkey_of("example.com/log", Ed25519PrivateKey.generate())])
    with pytest.raises(UsageError):
        verify_tlog_proof(PROOF, RIGHT, [])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"c2sp.org/tlog-proof@v2\nindex 1",
        b"c2sp.org/tlog-proof@v1",
        b"c2sp.org/tlog-proof@v1\nindex 01",
        b"c2sp.org/tlog-proof@v1\nindex -1",
        b"c2sp.org/tlog-proof@v1\nindex 9223372036854775808",
        b"c2sp.org/tlog-proof@v1\nindex 1 ",
        b"c2sp.org/tlog-proof@v1\nextra !\nindex 1",
        b"c2sp.org/tlog-proof@v1\nextra YWdl",
        b"c2sp.org/tlog-proof@v1\nindex 1\nextra YWdl",
        b"c2sp.org/tlog-proof@v1\nindex 1\nYWdl",
        b"c2sp.org/tlog-proof@v1\nindex 1\n\xff",
        b"c2sp.org/tlog-proof@v1\nindex 1" + b"\n" + encode_base64(bytes(32)).encode() * (MAX_PROOF_HASHES + 1),
        b"c2sp.org/tlog-proof@v1\nindex 1" + (b"\n" + encode_base64(bytes(32)).encode()) * (MAX_PROOF_HASHES + 1),
    ],
)
def test_bytes_that_are_not_exactly_a_proof_are_refused(head: bytes) -> None:
    with pytest.raises(InclusionError):
        parse_tlog_proof(head + b"\n\n" + NOTE)


def test_a_proof_beyond_its_bound_is_refused() -> None:
    with pytest.raises(InclusionError, match="at most"):
        parse_tlog_proof(PROOF + b"\n" * MAX_PROOF_BYTES)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_our_errors(data: bytes) -> None:
    with pytest.raises(MillcertError):
        verify_tlog_proof(b"c2sp.org/tlog-proof@v1\nindex 1\n" + data, RIGHT, [VKEY])
