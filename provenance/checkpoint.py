"""Checkpoints: a log's signed statement of its size and root, as a C2SP signed note.

Rules this module keeps:
  1. A text is a note in one way only: strict UTF-8, no control characters, canonical base64, canonical decimals.
  2. Keys come from the caller. Signatures of unknown keys are ignored; one bad signature of a known key refuses all.
  3. A checkpoint counts only if a known key that bears the checkpoint's own origin as its name signed it.

Source: C2SP signed-note v1.0.0 and tlog-checkpoint v1.0.0; Ed25519 (signature type 0x01) only.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millcert.errors import LedgerError, SignatureError, UsageError
from millcert.provenance.merkle import EMPTY_ROOT, HASH_BYTES

#: Signature type byte of plain Ed25519 in key identifiers (C2SP signed-note, "Signature types").
ED25519_TYPE = b"\x01"

#: The specification asks for room for 16 signatures of up to 5 kB; four times that, so that parsing stays cheap.
MAX_NOTE_BYTES = 512 * 1024
MAX_SIGNATURES = 64

#: Sizes and indexes are below 2**63, so that every store and language can hold them.
MAX_TREE_SIZE = 2**63 - 1

_SIGNATURE_PREFIX = "\u2014 "
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class VerifierKey:
    """A public key that may sign notes.

    name: the key's name; for a log, its origin.
    public_key: 32 bytes of Ed25519.
    """

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name):
            raise UsageError(f"A key name must be non-empty, without spaces and '+'; got {self.name!r}.")
        if len(self.public_key) != 32:
            raise UsageError(f"An Ed25519 public key has 32 bytes; key {self.name!r} has {len(self.public_key)}.")

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that, with the name, say which key signed; a label, not a protection."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519_TYPE + self.public_key).digest()[:4]


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: who claims to have signed, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class Note:
    """A parsed, not yet verified note. `text` ends in a newline and is what the signatures are over."""

    text: str
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True)
class Checkpoint:
    """What a log signs: its name, how many leaves it has, and their root.

    origin: the log's name, one non-empty line.
    size: number of leaves, 0 to 2**63 - 1.
    root: 32 bytes; of the empty tree if the size is 0.
    extensions: further lines, signed but without a meaning here.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return the note text that is signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def is_key_name(name: str) -> bool:
    """Say whether the text can name a key: non-empty, no Unicode space, no control character, no plus sign."""
    return bool(name) and not any(
        char.isspace() or char == "+" or ord(char) < 0x20 or 0xD800 <= ord(char) <= 0xDFFF for char in name
    )


def parse_vkey(text: str) -> VerifierKey:
    """Read a public key in its text form, `<name>+<key id in hex>+<base64 of type byte and key>`.

    Raises:
        UsageError: the text has another form, another signature type, or a key id that is not the key's.
    """
    pieces = text.strip().split("+", 2)
    if len(pieces) != 3 or not _KEY_ID.fullmatch(pieces[1]):
        raise UsageError(
            f"Expected a public key as name+hash+key on one line, got {text.strip()[:80]!r}.",
            hint="The ledger's key file holds it, such as example.com/log+33d7b496+AeHT...",
        )
    encoded = decode_base64(pieces[2])
    if encoded is None or encoded[:1] != ED25519_TYPE or len(encoded) != 33:
        raise UsageError(f"The public key of {pieces[0]!r} is not an Ed25519 key in base64.")
    key = VerifierKey(pieces[0], encoded[1:])
    if key.key_id.hex() != pieces[1]:
        raise UsageError(
            f"The public key of {pieces[0]!r} says hash {pieces[1]}, but its key has {key.key_id.hex()}.",
            hint="The line was altered or cut; copy it again from the ledger's owner.",
            expected=pieces[1],
            actual=key.key_id.hex(),
        )
    return key


def format_vkey(key: VerifierKey) -> str:
    """Return the text form that `parse_vkey` reads, without a newline."""
    return f"{key.name}+{key.key_id.hex()}+{encode_base64(ED25519_TYPE + key.public_key)}"


def vkey_of(origin: str, key: Ed25519PrivateKey | Ed25519PublicKey) -> VerifierKey:
    """Return the verifier key of a log: its origin and the public half of its key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return VerifierKey(origin, public.public_bytes_raw())


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """Return the signed note of a checkpoint, with the origin as key name. The same input gives the same bytes.

    Raises:
        UsageError: the origin cannot name a key, or the checkpoint would not parse.
    """
    signer = vkey_of(checkpoint.origin, key)
    text = checkpoint.to_text()
    if _checkpoint_fault(text) is not None:
        raise UsageError(f"Not a checkpoint: {_checkpoint_fault(text)}.")
    signature = encode_base64(signer.key_id + key.sign(text.encode()))
    return f"{text}\n{_SIGNATURE_PREFIX}{signer.name} {signature}\n".encode()


def parse_note(data: bytes) -> Note:
    """Split a signed note into its text and signatures; verifies nothing.

    Raises:
        LedgerError: the bytes are no signed note, or exceed MAX_NOTE_BYTES or MAX_SIGNATURES.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise LedgerError(f"A signed note has at most {MAX_NOTE_BYTES} bytes, got {len(data)}.")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LedgerError("The signed note is not UTF-8.") from error
    if _CONTROL.search(whole):
        raise LedgerError("The signed note has a control character.")
    text, separator, tail = whole.rpartition("\n\n")
    if not separator or not text or not tail.endswith("\n"):
        raise LedgerError("The signed note is not a text, an empty line, and signature lines.")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise LedgerError(f"The signed note has {len(lines)} signatures; at most {MAX_SIGNATURES} are read.")
    return Note(f"{text}\n", tuple(_parse_signature(line) for line in lines))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a note as a checkpoint; verifies nothing.

    Raises:
        LedgerError: the text is not origin, size, root and optional extension lines.
    """
    fault = _checkpoint_fault(text)
    if fault is not None:
        raise LedgerError(f"Not a checkpoint: {fault}.")
    origin, size, root, *extensions = text[:-1].split("\n")
    return Checkpoint(origin, int(size), base64.b64decode(root), tuple(extensions))


def verify_checkpoint(data: bytes, vkeys: Iterable[VerifierKey]) -> Checkpoint:
    """Return the checkpoint in a signed note, if a known key of the same origin signed it.

    1. Parse the note and the checkpoint strictly.
    2. Verify each signature whose name and key id are those of a known key; any failure refuses the note.
    3. Require that one of the keys that signed bears the checkpoint's origin as its name.
    The caller owes: that `vkeys` came from its own configuration, and the comparison with checkpoints seen before.

    Raises:
        LedgerError: no note, or no checkpoint.
        SignatureError: no signature by a known key of that origin, or a bad one.
        UsageError: no key was given.
    """
    known = {(key.name, key.key_id): key for key in vkeys}
    if not known:
        raise UsageError(
            "No key to verify the ledger's checkpoint with.", hint="Give the ledger's public key: --ledger-key FILE."
        )
    note = parse_note(data)  # 1
    checkpoint = parse_checkpoint(note.text)
    signers: set[str] = set()
    for line in note.signatures:  # 2
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(line.signature, note.text.encode())
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                f"The signature of {line.name} on the checkpoint of size {checkpoint.size} does not verify.",
                hint="The checkpoint was altered, or another key signed it.",
                origin=checkpoint.origin,
                size=checkpoint.size,
            ) from error
        signers.add(key.name)
    if checkpoint.origin not in signers:  # 3
        raise SignatureError(
            f"No known key of {checkpoint.origin!r} signed the checkpoint of size {checkpoint.size}; "
            f"known: {', '.join(sorted(key.name for key in known.values()))}.",
            hint="Give the public key of this very ledger, or the checkpoint is of another ledger.",
            origin=checkpoint.origin,
            size=checkpoint.size,
        )
    return checkpoint


def encode_base64(data: bytes) -> str:
    """Return standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes | None:
    """Return the bytes of canonical standard base64, or None: one text for each value, nothing skipped."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if encode_base64(data) == text else None


def _parse_signature(line: str) -> NoteSignature:
    pieces = line.removeprefix(_SIGNATURE_PREFIX).split(" ")
    decoded = decode_base64(pieces[-1])
    if (
        not line.startswith(_SIGNATURE_PREFIX)
        or len(pieces) != 2
        or not is_key_name(pieces[0])
        or decoded is None
        or len(decoded) <= 4
    ):
        raise LedgerError(f"Not a signature line of a note: {line[:80]!r}.")
    return NoteSignature(pieces[0], decoded[:4], decoded[4:])


def _checkpoint_fault(text: str) -> str | None:
    """Say what keeps the text from being a checkpoint; None if it is one."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        return "expected at least three non-empty lines: origin, size, root"
    if not _DECIMAL.fullmatch(lines[1]) or int(lines[1]) > MAX_TREE_SIZE:
        return f"the size {lines[1][:40]!r} is not a decimal without leading zeros below 2**63"
    root = decode_base64(lines[2])
    if root is None or len(root) != HASH_BYTES:
        return "the root is not 32 bytes in base64"
    if lines[1] == "0" and root != EMPTY_ROOT:
        return "the size is 0, but the root is not that of the empty tree"
    return None
