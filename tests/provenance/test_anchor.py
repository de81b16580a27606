"""Anchors: a timestamp counts only over this checkpoint, by this authority, within its time, and in one form."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import LedgerError, MillcertError, SignatureError, UsageError
from millcert.provenance.anchor import (
    MAX_TOKEN_BYTES,
    AnchorAuthority,
    load_authority,
    make_anchor,
    timestamp_request,
    verify_anchor,
)
from millcert.provenance.checkpoint import Checkpoint, parse_note, sign_checkpoint, vkey_of
from millcert.provenance.state import load_ledger_vkeys
from millcert.testing.sigstore_timestamp import make_timestamp_authority

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "0.1.0"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEYS = [vkey_of("example.com/l", KEY)]
NOTE = sign_checkpoint(Checkpoint("example.com/l", 7, bytes(32)), KEY)
TEXT = parse_note(NOTE).text.encode()
NOW = datetime(2026, 11, 23, 2, 38, 55, tzinfo=UTC)
TSA = make_timestamp_authority(start=NOW - timedelta(days=1), end=NOW + timedelta(days=1))
OTHER = make_timestamp_authority(start=NOW - timedelta(days=1), end=NOW + timedelta(days=1))
TOKEN = TSA.timestamp(TEXT, NOW)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


ROOT = load_authority(pem(TSA.root.certificate))
WHOLE = load_authority(pem(TSA.leaf.certificate, TSA.root.certificate))
ANCHOR = make_anchor(NOTE, TOKEN, VKEYS, WHOLE)


@pytest.mark.parametrize("authority", [ROOT, WHOLE], ids=["root", "chain"])
def test_an_anchor_tells_since_when_the_checkpoint_is_there(authority: AnchorAuthority) -> None:
    shown = verify_anchor(ANCHOR, VKEYS, authority)

    assert (shown.checkpoint.size, shown.note, shown.anchored_at) == (7, NOTE, NOW)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (TSA.timestamp(TEXT + b"more\n", NOW), "Mismatch"),
        (TSA.timestamp(TEXT, NOW + timedelta(days=2)), "expired"),
        (TSA.timestamp(TEXT, NOW - timedelta(days=2)), "not yet valid"),
        (OTHER.timestamp(TEXT, NOW), "local issuer|not pinned"),
        (TOKEN + b"\0", "does not verify"),
        (TOKEN[:-1], "does not verify"),
        (b"\x30\x05\x30\x03\x02\x01\x02", "refused: status 2"),
        (b"", "does not verify"),
        (bytes(MAX_TOKEN_BYTES + 1), "at most 65536 bytes"),
    ],
)
@pytest.mark.parametrize("authority", [ROOT, WHOLE], ids=["root", "chain"])
def test_a_token_over_something_else_or_by_somebody_else_is_refused(
    authority: AnchorAuthority, token: bytes, reason: str
) -> None:
    with pytest.raises(SignatureError, match=reason):
        make_anchor(NOTE, token, VKEYS, authority)


def test_each_flipped_bit_of_an_anchor_is_refused() -> None:
    # Each byte once, with a bit that moves from byte to byte: a verification costs some milliseconds.
    for place in range(0, len(ANCHOR), 2):
        changed = ANCHOR[:place] + bytes([ANCHOR[place] ^ (1 << (place // 2 % 7))]) + ANCHOR[place + 1 :]
        with pytest.raises(MillcertError) as caught:
            verify_anchor(changed, VKEYS, ROOT)
        assert caught.value.exit_code == 3, place


@pytest.mark.slow
@pytest.mark.parametrize("authority", [ROOT, WHOLE], ids=["root", "chain"])
def test_each_flipped_byte_of_a_token_is_refused_also_where_no_signature_covers_it(authority: AnchorAuthority) -> None:
    for place in range(len(TOKEN)):
        changed = TOKEN[:place] + bytes([TOKEN[place] ^ 1]) + TOKEN[place + 1 :]
        with pytest.raises(SignatureError):
            make_anchor(NOTE, changed, VKEYS, authority)


@given(st.binary(max_size=400))
def test_any_bytes_for_a_token_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(SignatureError):
        make_anchor(NOTE, data, VKEYS, ROOT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        json.dumps(json.loads(ANCHOR)).encode(),
        ANCHOR.replace(b'"version":1', b'"version":2'),
        ANCHOR.replace(b'"version":1', b'"version":true'),
        ANCHOR.replace(b'"version"', b'"versions"'),
        ANCHOR.replace(b'"timestamp":"', b'"timestamp":"!'),
    ],
)
def test_what_is_no_anchor_in_its_one_form_is_refused(data: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_anchor(data, VKEYS, WHOLE)


def test_a_checkpoint_that_its_log_did_not_sign_is_no_anchor_of_it() -> None:
    with pytest.raises(SignatureError, match="No known key"):
        verify_anchor(ANCHOR, [vkey_of("example.com/l", Ed25519PrivateKey.generate())], WHOLE)
    with pytest.raises(LedgerError):
        make_anchor(b"no note\n", TOKEN, VKEYS, WHOLE)


def test_a_chain_without_a_root_or_with_two_signers_pins_nobody() -> None:
    for chain in (b"", b"no pem", pem(TSA.leaf.certificate)):
        with pytest.raises(UsageError, match="certificate"):
            load_authority(chain)
    with pytest.raises(UsageError, match="2 signing certificates"):
        load_authority(pem(TSA.root.certificate, TSA.leaf.certificate, OTHER.leaf.certificate))
    with pytest.raises(UsageError, match="17 roots"):
        load_authority(pem(*[TSA.root.certificate] * 17))


def test_certificates_that_nobody_pinned_do_not_ride_along() -> None:
    """Pinned is another authority's signing certificate: the token's own is then a stranger's."""
    mixed = load_authority(pem(TSA.root.certificate, OTHER.leaf.certificate))

    with pytest.raises(SignatureError, match="not pinned"):
        verify_anchor(ANCHOR, VKEYS, mixed)


def test_a_request_is_over_the_checkpoint_s_text_and_new_each_time() -> None:
    import hashlib

    assert hashlib.sha256(TEXT).digest() in timestamp_request(NOTE)
    assert timestamp_request(NOTE) != timestamp_request(NOTE)


def test_the_vector_verifies_for_ever() -> None:
    """Its token was made by OpenSSL's own timestamp authority."""
    vkeys = load_ledger_vkeys([VECTORS / "ledger" / "ledger.vkey"])
    authority = load_authority((VECTORS / "anchor" / "tsa.pem").read_bytes())

    shown = verify_anchor((VECTORS / "anchor" / "checkpoint.anchor").read_bytes(), vkeys, authority)

    assert shown.note == (VECTORS / "ledger" / "checkpoint.7").read_bytes()
    assert shown.anchored_at.isoformat() == (VECTORS / "anchor" / "time").read_text().strip()
