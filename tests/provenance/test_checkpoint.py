"""Signed notes and checkpoints against C2SP's examples, a published log, and every single changed byte."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import LedgerError, MillcertError, SignatureError, UsageError
from millcert.provenance.checkpoint import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Checkpoint,
    VerifierKey,
    decode_base64,
    encode_base64,
    format_vkey,
    parse_checkpoint,
    parse_note,
    parse_vkey,
    sign_checkpoint,
    verify_checkpoint,
    vkey_of,
)
from millcert.provenance.merkle import EMPTY_ROOT, leaf_hash

TESSERA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tessera-log"
TESSERA_KEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"

ORIGIN = "example.com/log"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = vkey_of(ORIGIN, KEY)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
CHECKPOINT = Checkpoint(ORIGIN, 7, leaf_hash(b"root"))


def signature_line(name: str, key: Ed25519PrivateKey, text: str) -> str:
    signature = vkey_of(name, key).key_id + key.sign(text.encode())
    return f"\u2014 {name} {encode_base64(signature)}\n"


def note_with(*lines: str, checkpoint: Checkpoint = CHECKPOINT) -> bytes:
    return (checkpoint.to_text() + "\n" + "".join(lines)).encode()


@pytest.mark.data
@pytest.mark.skipif(not TESSERA.is_dir(), reason="../shared/data/tessera-log is not there")
@pytest.mark.parametrize("size", range(16))
def test_every_checkpoint_of_a_published_log_verifies(size: int) -> None:
    data = (TESSERA / f"checkpoint.{size}").read_bytes()

    checkpoint = verify_checkpoint(data, [parse_vkey(TESSERA_KEY)])

    assert (checkpoint.origin, checkpoint.size) == ("example.com/log/testdata", size)
    assert checkpoint.to_text() == parse_note(data).text


def test_the_text_form_of_a_key_of_another_implementation_is_read_and_written() -> None:
    key = parse_vkey(f"{TESSERA_KEY}\n")

    assert key.key_id.hex() == "33d7b496"
    assert format_vkey(key) == TESSERA_KEY


def test_a_signed_checkpoint_verifies_and_says_what_was_signed() -> None:
    data = sign_checkpoint(CHECKPOINT, KEY)

    assert verify_checkpoint(data, [VKEY]) == CHECKPOINT
    assert sign_checkpoint(CHECKPOINT, KEY) == data


def test_every_changed_byte_of_a_checkpoint_is_refused() -> None:
    data = sign_checkpoint(CHECKPOINT, KEY)

    for place in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[place] ^= mask
            with pytest.raises((LedgerError, SignatureError)):
                verify_checkpoint(bytes(changed), [VKEY])


def test_every_cut_of_a_checkpoint_is_refused() -> None:
    data = sign_checkpoint(CHECKPOINT, KEY)

    for end in range(len(data)):
        with pytest.raises((LedgerError, SignatureError)):
            verify_checkpoint(data[:end], [VKEY])


def test_signatures_of_unknown_keys_are_ignored() -> None:
    """C2SP: verifiers MUST ignore signatures from unknown keys, even if they share a name or ID (but not both)."""
    text = CHECKPOINT.to_text()
    same_name = signature_line(ORIGIN, OTHER_KEY, text)
    unknown = f"\u2014 witness.example {encode_base64(b'abcd' + bytes(2420))}\n"

    data = note_with(same_name, unknown, signature_line(ORIGIN, KEY, text))

    assert verify_checkpoint(data, [VKEY]) == CHECKPOINT


def test_a_bad_signature_of_a_known_key_refuses_the_note_beside_a_good_one() -> None:
    """C2SP: if a signature from a known key fails to verify, clients SHOULD reject the whole note."""
    good = signature_line(ORIGIN, KEY, CHECKPOINT.to_text())
    bad = signature_line(ORIGIN, KEY, "another text\n")

    with pytest.raises(SignatureError, match="does not verify"):
        verify_checkpoint(note_with(good, bad), [VKEY])


def test_a_signature_of_the_wrong_length_is_refused() -> None:
    short = f"\u2014 {ORIGIN} {encode_base64(VKEY.key_id + b'short')}\n"

    with pytest.raises(SignatureError):
        verify_checkpoint(note_with(short), [VKEY])


def test_a_checkpoint_signed_by_unknown_keys_only_is_refused() -> None:
    """C2SP: if no signature from a known key verifies successfully, clients MUST reject the note."""
    data = sign_checkpoint(CHECKPOINT, OTHER_KEY)

    with pytest.raises(SignatureError, match="No known key"):
        verify_checkpoint(data, [VKEY])


def test_a_known_key_of_another_origin_cannot_speak_for_the_log() -> None:
    """Rule 3: a witness's key, or another log's, does not make a checkpoint of this log."""
    witness = "witness.example"
    data = note_with(signature_line(witness, KEY, CHECKPOINT.to_text()))

    with pytest.raises(SignatureError, match=r"No known key of 'example\.com/log'"):
        verify_checkpoint(data, [vkey_of(witness, KEY), VKEY])


def test_verifying_without_a_key_is_refused() -> None:
    with pytest.raises(UsageError, match="No key"):
        verify_checkpoint(sign_checkpoint(CHECKPOINT, KEY), [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        f"\n1\n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n01\n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n-1\n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n+1\n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n1 \n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n\u0661\n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n9223372036854775808\n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n{'9' * 5000}\n{encode_base64(EMPTY_ROOT)}\n",
        f"a\n1\n{encode_base64(EMPTY_ROOT[:31])}\n",
        f"a\n1\n{encode_base64(EMPTY_ROOT)[:-1]}\n",
        "a\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n",
        f"a\n0\n{encode_base64(leaf_hash(b''))}\n",
        f"a\n1\n{encode_base64(EMPTY_ROOT)}\n\nextension\n",
        f"a\n1\n{encode_base64(EMPTY_ROOT)}",
    ],
)
def test_a_text_that_is_not_exactly_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="Not a checkpoint"):
        parse_checkpoint(text)


def test_extension_lines_are_kept() -> None:
    text = f"a\n1\n{encode_base64(EMPTY_ROOT)}\nfirst\nsecond\n"

    assert parse_checkpoint(text) == Checkpoint("a", 1, EMPTY_ROOT, ("first", "second"))
    assert parse_checkpoint(text).to_text() == text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"\n\n\xe2\x80\x94 a AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94 a AAAAAAAA",
        b"text\n\n- a AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94 a\n",
        b"text\n\n\xe2\x80\x94 a b AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94 a+b AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94 a\xc2\xa0b AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94  AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94 a AAAA\n",
        b"text\n\n\xe2\x80\x94 a AAAAA_AA\n",
        b"te\rxt\n\n\xe2\x80\x94 a AAAAAAAA\n",
        b"te\xffxt\n\n\xe2\x80\x94 a AAAAAAAA\n",
    ],
)
def test_bytes_that_are_not_exactly_a_signed_note_are_refused(data: bytes) -> None:
    with pytest.raises(LedgerError):
        parse_note(data)


def test_the_text_of_a_note_may_have_empty_lines() -> None:
    """C2SP: the text is separated from the signatures by the last empty line in the note."""
    note = parse_note("one\n\ntwo\n\n\u2014 a AAAAAAAA\n".encode())

    assert note.text == "one\n\ntwo\n"
    assert [line.name for line in note.signatures] == ["a"]


def test_a_note_beyond_its_bounds_is_refused_before_any_signature_is_checked() -> None:
    line = signature_line(ORIGIN, KEY, CHECKPOINT.to_text())

    with pytest.raises(LedgerError, match="at most"):
        parse_note(b"a" * (MAX_NOTE_BYTES + 1))
    with pytest.raises(LedgerError, match="signatures"):
        parse_note(note_with(*[line] * (MAX_SIGNATURES + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+33d7b496",
        "+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
        "example.com/log/testdata+33d7b497+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
        "example.com/log/testdata+33D7B496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
        "example.com/log/testdata+33d7b496+AuHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx",
        "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkk",
        "example.com/log/testdata+33d7b496+not base64",
    ],
)
def test_a_key_text_that_is_altered_or_cut_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_vkey(text)


def test_a_key_needs_a_name_without_spaces_and_32_bytes() -> None:
    with pytest.raises(UsageError, match="name"):
        VerifierKey("a b", bytes(32))
    with pytest.raises(UsageError, match="name"):
        VerifierKey("a\ud800", bytes(32))
    with pytest.raises(UsageError, match="32 bytes"):
        VerifierKey("a", bytes(31))


def test_a_checkpoint_that_nobody_could_read_is_not_signed() -> None:
    with pytest.raises(UsageError):
        sign_checkpoint(Checkpoint("a b", 1, EMPTY_ROOT), KEY)
    with pytest.raises(UsageError, match="Not a checkpoint"):
        sign_checkpoint(Checkpoint("a", -1, EMPTY_ROOT), KEY)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_our_errors(data: bytes) -> None:
    with pytest.raises(MillcertError):
        verify_checkpoint(data, [VKEY])


@given(st.text(alphabet="AB+/=\n a", max_size=12))
def test_base64_has_one_text_for_each_value(text: str) -> None:
    decoded = decode_base64(text)

    assert decoded is None or encode_base64(decoded) == text
