"""Cosignatures: who counts, who does not, and that nothing of one can be changed."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import LedgerError, SignatureError, UsageError
from millcert.provenance.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint, vkey_of
from millcert.provenance.cosignature import (
    ED25519,
    ML_DSA_44,
    CosignerKey,
    WitnessKey,
    WitnessRule,
    cosign,
    format_witness_vkey,
    load_witness_vkeys,
    merge_signatures,
    parse_witness_vkey,
    require_witnesses,
    verify_cosignatures,
    witness_key_of,
)

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "0.1.0" / "witness"
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ONE = Ed25519PrivateKey.from_private_bytes(bytes(32))
TWO = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
QUANTUM = MLDSA44PrivateKey.from_seed_bytes(b"3" * 32)
NOTE = sign_checkpoint(Checkpoint("example.com/l", 7, bytes(32)), LOG_KEY)
TEXT = NOTE.decode().rpartition("\n\n")[0] + "\n"
NOW = 1_795_403_935


def cosigned(*by: tuple[str, CosignerKey], note: bytes = NOTE, time: int = NOW) -> bytes:
    text = note.decode().rpartition("\n\n")[0] + "\n"
    return merge_signatures(note, [cosign(text, name, key, time) for name, key in by])


def rule(required: int, *keys: tuple[str, CosignerKey]) -> WitnessRule:
    return WitnessRule(tuple(witness_key_of(name, key) for name, key in keys), required)


@pytest.mark.parametrize("key", [ONE, QUANTUM], ids=["ed25519", "ml-dsa-44"])
def test_a_cosignature_verifies_and_tells_who_and_when(key: CosignerKey) -> None:
    note = cosigned(("w.example/1", key))

    (found,) = require_witnesses(note, rule(1, ("w.example/1", key)))

    assert (found.witness, found.time) == ("w.example/1", NOW)
    assert found.algorithm == (ED25519 if key is ONE else ML_DSA_44)
    assert verify_checkpoint(note, [vkey_of("example.com/l", LOG_KEY)]).size == 7


@pytest.mark.parametrize("key", [ONE, QUANTUM], ids=["ed25519", "ml-dsa-44"])
def test_each_flipped_byte_of_a_cosignature_or_its_checkpoint_is_refused(key: CosignerKey) -> None:
    note = cosigned(("w.example/1", key))
    line = note.decode().splitlines()[-1]
    raw = base64.b64decode(line.rpartition(" ")[2])
    trusted = rule(1, ("w.example/1", key))

    # Of the 2,420 bytes of ML-DSA every 7th: each verification costs a tenth of a millisecond and more.
    for place in range(0, len(raw), 1 if key is ONE else 7):
        forged = base64.b64encode(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]).decode()
        with pytest.raises(SignatureError):
            require_witnesses(note.replace(line.encode(), f"\u2014 w.example/1 {forged}".encode()), trusted)
    for place in range(len(TEXT.encode())):
        changed = bytearray(note)
        changed[place] ^= 1
        with pytest.raises((SignatureError, LedgerError)):
            require_witnesses(bytes(changed), trusted)


@pytest.mark.parametrize("cut", [b"", b"\0" * 8, b"\0" * 71, b"\0" * 73, b"\xff" * 72])
def test_a_cosignature_of_another_length_or_beyond_all_time_is_refused(cut: bytes) -> None:
    key = witness_key_of("w.example/1", ONE)
    line = f"\u2014 w.example/1 {base64.b64encode(key.key_id + cut).decode()}\n"

    with pytest.raises((SignatureError, LedgerError)):
        verify_cosignatures(NOTE + line.encode(), [key])


def test_witnesses_are_counted_by_name_and_strangers_do_not_count() -> None:
    stranger = Ed25519PrivateKey.generate()
    trusted = rule(2, ("w.example/1", ONE), ("w.example/1", QUANTUM), ("w.example/2", TWO))

    for by in ([], [("w.example/1", ONE), ("w.example/1", QUANTUM)], [("w.example/2", TWO), ("w.example/9", stranger)]):
        with pytest.raises(SignatureError, match="2 are required") as caught:
            require_witnesses(cosigned(*by), trusted)
        assert caught.value.reason == "witnesses"

    found = require_witnesses(cosigned(("w.example/1", ONE), ("w.example/1", QUANTUM), ("w.example/2", TWO)), trusted)
    assert len(found) == 3


def test_one_bad_signature_of_a_known_witness_refuses_all() -> None:
    note = cosigned(("w.example/1", ONE), ("w.example/2", TWO))
    elsewhere = cosigned(("w.example/2", TWO), note=sign_checkpoint(Checkpoint("example.com/l", 8, bytes(32)), LOG_KEY))
    mixed = merge_signatures(note, [elsewhere.decode().splitlines(keepends=True)[-1]])

    with pytest.raises(SignatureError, match=r"cosignature of w\.example/2"):
        require_witnesses(mixed, rule(1, ("w.example/1", ONE), ("w.example/2", TWO)))


def test_the_log_s_own_signature_and_one_without_a_time_are_no_witness() -> None:
    as_witness = WitnessKey("example.com/l", ED25519, LOG_KEY.public_key().public_bytes_raw())
    key = witness_key_of("w.example/1", ONE)
    message = b"cosignature/v1\ntime 0\n" + TEXT.encode()
    timeless = base64.b64encode(key.key_id + bytes(8) + ONE.sign(message)).decode()

    with pytest.raises(SignatureError, match="none"):
        require_witnesses(NOTE, WitnessRule((as_witness,), 1))
    with pytest.raises(SignatureError, match="none"):
        require_witnesses(NOTE + f"\u2014 w.example/1 {timeless}\n".encode(), WitnessRule((key,), 1))


def test_ml_dsa_is_neither_given_to_nor_taken_on_lines_that_it_would_not_sign() -> None:
    extended = sign_checkpoint(Checkpoint("example.com/l", 7, bytes(32), ("more",)), LOG_KEY)
    text = extended.decode().rpartition("\n\n")[0] + "\n"
    line = cosign(TEXT, "w.example/1", QUANTUM, NOW)

    with pytest.raises(UsageError, match="extension lines"):
        cosign(text, "w.example/1", QUANTUM, NOW)
    with pytest.raises(SignatureError):
        verify_cosignatures(merge_signatures(extended, [line]), [witness_key_of("w.example/1", QUANTUM)])
    assert cosign(text, "w.example/1", ONE, NOW).startswith("\u2014 w.example/1 ")


@given(st.integers(1, 2**63 - 1), st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40))
def test_any_name_and_time_come_back(time: int, name: str) -> None:
    for key in (ONE, QUANTUM):
        public = parse_witness_vkey(format_witness_vkey(witness_key_of(name, key)))
        (found,) = verify_cosignatures(cosigned((name, key), time=time), [public])
        assert (found.witness, found.time) == (name, time)


@pytest.mark.parametrize("time", [0, -1, 2**63])
def test_a_time_out_of_range_is_not_signed(time: int) -> None:
    with pytest.raises(UsageError, match="time must be"):
        cosign(TEXT, "w", ONE, time)


def test_a_rule_that_cannot_be_kept_or_counts_one_key_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="3 witnesses are required, and 2"):
        rule(3, ("a", ONE), ("b", TWO), ("b", QUANTUM))
    with pytest.raises(UsageError, match="0 witnesses"):
        rule(0, ("a", ONE))
    with pytest.raises(UsageError, match="there twice"):
        rule(1, ("a", ONE), ("b", ONE))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a+b",
        "w+00000000+" + base64.b64encode(b"\4" + bytes(32)).decode(),
        "w+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode(),
        "w+00000000+" + base64.b64encode(b"\4" + bytes(31)).decode(),
        "w+00000000+" + base64.b64encode(b"\6" + bytes(32)).decode(),
        "w w+00000000+" + base64.b64encode(b"\4" + bytes(32)).decode(),
        f"{'w' * 256}+00000000+" + base64.b64encode(b"\4" + bytes(32)).decode(),
        "w+00000000+!",
    ],
)
def test_what_is_no_witness_s_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_witness_vkey(text)


def test_a_file_of_keys_has_comments_and_at_least_one_key() -> None:
    line = format_witness_vkey(witness_key_of("w", ONE))

    assert load_witness_vkeys(f"# ours\n\n{line}\n") == [witness_key_of("w", ONE)]
    with pytest.raises(UsageError, match="no witness's key in the file"):
        load_witness_vkeys("# none\n")


def test_the_vectors_verify_for_ever() -> None:
    """Keys, a checkpoint cosigned by two witnesses with both algorithms; the count is by name."""
    keys = load_witness_vkeys((VECTORS / "witnesses.vkey").read_text())
    note = (VECTORS / "checkpoint").read_bytes()

    found = require_witnesses(note, WitnessRule(tuple(keys), 2))

    assert [(one.witness, one.algorithm, one.time) for one in found] == [
        ("w1.vectors.example", ED25519, 1_795_403_935),
        ("w1.vectors.example", ML_DSA_44, 1_795_403_935),
        ("w2.vectors.example", ED25519, 1_795_403_936),
    ]
