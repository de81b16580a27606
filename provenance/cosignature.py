"""Cosignatures: what a witness adds to a log's checkpoint, and how a verifier counts them. C2SP tlog-cosignature.

A cosignature says: at this time, this was the largest tree of that log that I saw, and it extends all that I saw
before. A verifier that asks for k witnesses cannot be shown a history that k witnesses were not shown too.

Rules this module keeps:
  1. Keys come from the caller. Signatures of unknown keys are ignored; one bad signature of a known key refuses all.
  2. Witnesses are counted by name, never by key: the two keys of one witness are one witness, and two witnesses with
     one key are refused before anything is verified.
  3. ML-DSA-44 does not sign a checkpoint's extension lines, so it is neither given to, nor accepted on, one that has
     any. A cosignature without a time (0) is no statement of a witness, and does not count.

Source: C2SP tlog-cosignature v1.1 (Ed25519 type 0x04, ML-DSA-44 type 0x06); FIPS 204 with an empty context.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millcert.errors import SignatureError, UsageError
from millcert.provenance.checkpoint import (
    Checkpoint,
    NoteSignature,
    decode_base64,
    encode_base64,
    is_key_name,
    parse_checkpoint,
    parse_note,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

CosignerKey: TypeAlias = "Ed25519PrivateKey | MLDSA44PrivateKey"

ED25519 = 0x04
ML_DSA_44 = 0x06

#: Bytes of a public key and of a signature, by type.
_PUBLIC_KEY_BYTES = {ED25519: 32, ML_DSA_44: 1312}
_SIGNATURE_BYTES = {ED25519: 64, ML_DSA_44: 2420}

_TIME_BYTES = 8
_MAX_TIME = 2**63 - 1
_MAX_NAME_BYTES = 255

_SUBTREE_LABEL = b"subtree/v1\n\0"
_DASH = "\u2014"


@dataclass(frozen=True)
class WitnessKey:
    """A public key of a witness.

    name: the witness's; keys of one name are one witness.
    algorithm: ED25519 or ML_DSA_44, the signature type of the key's text form.
    public_key: 32 or 1,312 bytes.
    """

    name: str
    algorithm: int
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name) or len(self.name.encode()) > _MAX_NAME_BYTES:
            raise UsageError(f"A witness's name must have 1 to 255 bytes, without spaces and '+'; got {self.name!r}.")
        if len(self.public_key) != _PUBLIC_KEY_BYTES.get(self.algorithm):
            raise UsageError(
                f"The key of {self.name!r} has type {self.algorithm} and {len(self.public_key)} bytes; expected "
                f"Ed25519 (type 4, 32 bytes) or ML-DSA-44 (type 6, 1,312 bytes)."
            )

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that, with the name, say which key signed; a label, not a protection."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public_key).digest()[:4]


@dataclass(frozen=True)
class Cosignature:
    """A cosignature that was verified. witness: its name. time: POSIX seconds by its own clock; 0 says nothing."""

    witness: str
    algorithm: int
    time: int


@dataclass(frozen=True)
class WitnessRule:
    """Which witnesses count, and how many must have cosigned.

    keys: of all witnesses that are trusted; one witness may have several.
    required: how many distinct ones, 1 to their number.
    """

    keys: tuple[WitnessKey, ...]
    required: int

    def __post_init__(self) -> None:
        names = {key.name for key in self.keys}
        if len({key.public_key for key in self.keys}) != len(self.keys):
            raise UsageError(
                "A witness's key is there twice; it would count for two witnesses.", hint="Remove one of the two."
            )
        if not 1 <= self.required <= len(names):
            raise UsageError(
                f"Cosignatures of {self.required} witnesses are required, and {len(names)} are known.",
                hint="Require at least 1 and at most as many as there are names.",
                required=self.required,
                known=sorted(names),
            )


def parse_witness_vkey(text: str) -> WitnessKey:
    """Read a witness's public key in its text form, `<name>+<key id in hex>+<base64 of type byte and key>`.

    Raises:
        UsageError: another form, a type that no witness signs with, or a key id that is not the key's.
    """
    pieces = text.strip().split("+", 2)
    encoded = decode_base64(pieces[2]) if len(pieces) == 3 else None
    if not encoded or encoded[0] not in _PUBLIC_KEY_BYTES:
        raise UsageError(
            f"Expected a witness's public key as name+hash+key on one line, of type 4 or 6; got {text.strip()[:80]!r}.",
            hint="`millcert witness init` prints it. The key of a ledger (type 1) is no witness's.",
        )
    key = WitnessKey(pieces[0], encoded[0], encoded[1:])
    if key.key_id.hex() != pieces[1]:
        raise UsageError(
            f"The public key of {key.name!r} says hash {pieces[1]}, but its key has {key.key_id.hex()}.",
            hint="The line was altered or cut; copy it again from the witness.",
            expected=pieces[1],
            actual=key.key_id.hex(),
        )
    return key


def format_witness_vkey(key: WitnessKey) -> str:
    """Return the text form that `parse_witness_vkey` reads, without a newline."""
    return f"{key.name}+{key.key_id.hex()}+{encode_base64(bytes([key.algorithm]) + key.public_key)}"


def witness_key_of(name: str, key: CosignerKey) -> WitnessKey:
    """Return the public half of a witness's private key under its name."""
    algorithm = ED25519 if isinstance(key, Ed25519PrivateKey) else ML_DSA_44
    return WitnessKey(name, algorithm, key.public_key().public_bytes_raw())


def cosign(text: str, name: str, key: CosignerKey, time: int) -> str:
    """Return the signature line, with its newline, of a witness on the text of a checkpoint's note.

    The caller owes all that a cosignature says: that the tree extends what it saw before, and is the largest.

    Args:
        text: of the note, ends in a newline.
        name: the witness's.
        key: the witness's.
        time: POSIX seconds, 1 to 2**63 - 1.

    Raises:
        LedgerError: the text is no checkpoint.
        UsageError: the time is out of range, or ML-DSA-44 is asked for a checkpoint with extension lines.
    """
    if not 0 < time <= _MAX_TIME:
        raise UsageError(f"A cosignature's time must be 1 to 2**63 - 1 seconds, got {time}.")
    public = witness_key_of(name, key)
    message = _message(text, public, time)
    if message is None:
        raise UsageError(
            "ML-DSA-44 cosigns no checkpoint with extension lines: it would not sign them.",
            hint="Use an Ed25519 key for this log.",
        )
    signature = public.key_id + struct.pack(">Q", time) + key.sign(message)
    return f"{_DASH} {name} {encode_base64(signature)}\n"


def verify_cosignatures(note: bytes, keys: Iterable[WitnessKey]) -> tuple[Cosignature, ...]:
    """Return the cosignatures of known witnesses on a signed checkpoint, in its order; says nothing of the log's own.

    Raises:
        LedgerError: no note, or no checkpoint.
        SignatureError: a signature of a known witness does not verify.

    Cost: 0.1 ms a signature.
    """
    known = {(key.name, key.key_id): key for key in keys}
    parsed = parse_note(note)
    checkpoint = parse_checkpoint(parsed.text)
    found: list[Cosignature] = []
    for line in parsed.signatures:
        key = known.get((line.name, line.key_id))
        if key is not None:
            found.append(_verified(parsed.text, checkpoint, key, line))
    return tuple(found)


def require_witnesses(note: bytes, rule: WitnessRule) -> tuple[Cosignature, ...]:
    """Return the cosignatures on a checkpoint, if as many distinct witnesses as the rule asks for gave one.

    The caller owes the verification of the log's own signature (`verify_checkpoint`).

    Raises:
        LedgerError: no note, or no checkpoint.
        SignatureError: a signature of a known witness does not verify, or there are too few; `reason` is "witnesses".
    """
    found = verify_cosignatures(note, rule.keys)
    names = sorted({one.witness for one in found if one.time})
    if len(names) < rule.required:
        raise SignatureError(
            f"The checkpoint is cosigned by {len(names)} known witnesses ({', '.join(names) or 'none'}); "
            f"{rule.required} are required.",
            hint="Somebody may show you a history that nobody else sees. Ask the ledger's keeper for a cosigned one.",
            reason="witnesses",
            required=rule.required,
            witnesses=names,
        )
    return found


def merge_signatures(note: bytes, lines: Sequence[str]) -> bytes:
    """Return a note with further signature lines, none twice; the same (name, key id) keeps the newest.

    Raises:
        LedgerError: the note is none.
    """
    parsed = parse_note(note)
    merged = {(one.name, one.key_id): _line(one) for one in parsed.signatures}
    for line in lines:
        (one,) = parse_note(f"{parsed.text}\n{line}".encode()).signatures
        merged[one.name, one.key_id] = _line(one)
    return f"{parsed.text}\n{''.join(merged.values())}".encode()


def signature_lines(note: bytes) -> list[str]:
    """Return the signature lines of a signed note, each with its newline.

    Raises:
        LedgerError: the note is none.
    """
    return [_line(one) for one in parse_note(note).signatures]


def _line(one: NoteSignature) -> str:
    return f"{_DASH} {one.name} {encode_base64(one.key_id + one.signature)}\n"


def _verified(text: str, checkpoint: Checkpoint, key: WitnessKey, line: NoteSignature) -> Cosignature:
    is_long_enough = len(line.signature) == _TIME_BYTES + _SIGNATURE_BYTES[key.algorithm]
    time = int.from_bytes(line.signature[:_TIME_BYTES], "big")
    message = _message(text, key, time) if is_long_enough and time <= _MAX_TIME else None
    if message is None or not _is_signed(key, line.signature[_TIME_BYTES:], message):
        raise SignatureError(
            f"The cosignature of {key.name} on the checkpoint of size {checkpoint.size} does not verify.",
            hint="The checkpoint or the cosignature was altered, or another key signed it.",
            origin=checkpoint.origin,
            size=checkpoint.size,
            witness=key.name,
        )
    return Cosignature(key.name, key.algorithm, time)


def _is_signed(key: WitnessKey, signature: bytes, message: bytes) -> bool:
    try:
        if key.algorithm == ED25519:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
        else:
            _verify_ml_dsa(key.public_key, signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(text: str, key: WitnessKey, time: int) -> bytes | None:
    """Return the bytes that are signed; None where ML-DSA-44 has no form for the checkpoint."""
    checkpoint = parse_checkpoint(text)
    if key.algorithm == ED25519:
        return f"cosignature/v1\ntime {time}\n{text}".encode()
    name, origin = key.name.encode(), checkpoint.origin.encode()
    if checkpoint.extensions or len(origin) > _MAX_NAME_BYTES:
        return None
    return b"".join(
        (
            _SUBTREE_LABEL,
            bytes([len(name)]) + name,
            struct.pack(">Q", time),
            bytes([len(origin)]) + origin,
            struct.pack(">QQ", 0, checkpoint.size),
            checkpoint.root,
        )
    )


@lru_cache(maxsize=1)
def _has_ml_dsa() -> bool:
    """Say whether the installed cryptography has ML-DSA-44."""
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    except (ImportError, UnsupportedAlgorithm):
        return False
    return True


def generate_ml_dsa_key() -> "MLDSA44PrivateKey":
    """Return a new ML-DSA-44 key.

    Raises:
        UsageError: the installed cryptography has no ML-DSA-44.
    """
    require_ml_dsa()
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

    return MLDSA44PrivateKey.generate()


def _verify_ml_dsa(public_key: bytes, signature: bytes, message: bytes) -> None:
    require_ml_dsa()
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

    MLDSA44PublicKey.from_public_bytes(public_key).verify(signature, message)


def require_ml_dsa() -> None:
    """Refuse where the installed cryptography has no ML-DSA-44.

    Raises:
        UsageError: it has none.
    """
    if not _has_ml_dsa():
        raise UsageError(
            "The installed cryptography package has no ML-DSA-44.",
            hint="Install a newer one, or use the witness's Ed25519 key alone.",
        )


def load_witness_vkeys(text: str) -> list[WitnessKey]:
    """Return the witnesses' public keys in a text, one a line; empty lines and lines that start with # are passed over.

    Raises:
        UsageError: a line is no witness's key, or there is none.
    """
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    if not lines:
        raise UsageError("There is no witness's key in the file.", hint="Expected one name+hash+key a line.")
    return [parse_witness_vkey(line) for line in lines]
