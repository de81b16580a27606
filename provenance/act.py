"""An act: what a person says in the ledger, signed by that person's key, in a form that can be said in one place only.

Steps of `verify_act`:
  1. The entry has exactly the fields of an act, and the ledger that it names is the one it is in.
  2. The signature is over kind, subject, time, ledger, roles and words together (DSSE), by the key that it names.
What the caller owes (`standing`): whose key that is, and whether that person may say this.

An entry depends on its signed words and the signature alone, so nobody can log an act again under another time, subject
or ledger, and acts name one another by leaf hash, so none can be pointed at something else.

Format: docs/formats/acts.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import IntegrityError, SignatureError, UsageError
from millcert.provenance.checkpoint import decode_base64, encode_base64
from millcert.provenance.dsse import Envelope, Signature, pae
from millcert.provenance.ledger_entry import MAX_LEAF_BYTES, Entry, parse_entry
from millcert.provenance.public_key import Content, PublicKey, parse_public_key
from millcert.provenance.roles import DEFAULT_KINDS, RoleBook, load_signer
from millcert.provenance.strict_json import canonical_json, require_fields

FORMAT = "millcert-act-1"
PAYLOAD_TYPE = "application/vnd.millcert.act.v1+json"

#: Kinds of entries that are acts of people; every one must be signed.
ACT_KINDS = frozenset(DEFAULT_KINDS)

MAX_REASON_CHARACTERS = 500

_HEX = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"format": str, "key_sha256": str, "ledger": str, "roles_sha256": str, "said": dict, "signature": str}


@dataclass(frozen=True)
class Act:
    """What somebody says; not yet signed, or read from an entry and not yet judged.

    kind, subject, recorded_at: of the entry. ledger: origin of the one ledger that it is for. roles_sha256: digest of
    the roles that it was said under. said: the words, by kind (docs/formats/acts.md).
    """

    kind: str
    subject: str
    recorded_at: str
    ledger: str
    roles_sha256: str
    said: Mapping[str, Any]

    def payload(self) -> bytes:
        """Return the bytes that are signed."""
        value = {
            "kind": self.kind,
            "ledger": self.ledger,
            "recorded_at": self.recorded_at,
            "roles_sha256": self.roles_sha256,
            "said": dict(self.said),
            "subject": self.subject,
        }
        return canonical_json(value, what=f"{self.kind} act")


def sign_act(act: Act, key: Ed25519PrivateKey, book: RoleBook) -> Entry:
    """Return the entry of a signed act. The same act and key give the same entry.

    Raises:
        UsageError: the key is nobody's in the roles, its owner may not say this, or the act is malformed or too long.
    """
    public = parse_public_key(_der(key))
    load_signer(book, public, act.kind)
    if act.roles_sha256 != book.sha256:
        raise UsageError("The act names other roles than those it is signed under.")
    entry = act_entry(act, public.sha256, key.sign(pae(PAYLOAD_TYPE, act.payload())))
    entry.leaf()  # refuses what is too long before anybody logs it
    return entry


def act_entry(act: Act, key_sha256: str, signature: bytes) -> Entry:
    """Return the entry of an act that was signed elsewhere, over `pae(PAYLOAD_TYPE, act.payload())`."""
    body = {
        "format": FORMAT,
        "key_sha256": key_sha256,
        "ledger": act.ledger,
        "roles_sha256": act.roles_sha256,
        "said": dict(act.said),
        "signature": encode_base64(signature),
    }
    return Entry(act.kind, act.subject, act.recorded_at, body)


def is_act(entry: Entry) -> bool:
    """Say whether an entry claims to be an act, soundly signed or not."""
    return entry.kind in ACT_KINDS and entry.body.get("format") == FORMAT


def parse_act(entry: Entry) -> tuple[Act, str, bytes]:
    """Return (act, SHA-256 of the key that it names, signature); verifies nothing.

    Raises:
        IntegrityError: the entry has not the fields of an act.
    """
    body = dict(entry.body)
    require_fields(body, _FIELDS, what=f"{entry.kind} entry")
    signature = decode_base64(body["signature"])
    digests = (body["key_sha256"], body["roles_sha256"])
    if entry.kind not in ACT_KINDS or body["format"] != FORMAT or signature is None:
        raise IntegrityError(f"The {entry.kind} entry is no act of format {FORMAT}.")
    if not all(_HEX.fullmatch(digest) for digest in digests):
        raise IntegrityError(f"The {entry.kind} entry has a digest that is none.")
    act = Act(entry.kind, entry.subject, entry.recorded_at, body["ledger"], body["roles_sha256"], body["said"])
    return act, body["key_sha256"], signature


def verify_act(entry: Entry, key: PublicKey, *, ledger: str) -> Act:
    """Return what an entry says, if that key signed it for that ledger.

    Raises:
        IntegrityError: it is no act.
        SignatureError: another ledger, another key, or the signature does not verify.
    """
    act, named, signature = parse_act(entry)  # 1
    if act.ledger != ledger:
        raise SignatureError(f"The {act.kind} act is for the ledger {act.ledger!r}, not {ledger!r}.")
    is_signed = named == key.sha256 and key.verifies(signature, Content.of(pae(PAYLOAD_TYPE, act.payload())))  # 2
    if not is_signed:
        raise SignatureError(f"The signature of the {act.kind} act does not verify with the key {key.sha256[:16]}.")
    return act


def envelope_of(entry: Entry) -> Envelope:
    """Return an act as a DSSE envelope, for tools that know nothing of millcert."""
    act, key_sha256, signature = parse_act(entry)
    return Envelope(act.payload(), PAYLOAD_TYPE, (Signature(key_sha256, signature),))


def read_signed(data: bytes) -> Entry:
    """Return the entry in the bytes of a file that `--out` wrote: a leaf, to be submitted to the ledger.

    Raises:
        LedgerError: it is no entry. IntegrityError: it is no act.
    """
    entry = parse_entry(data[: MAX_LEAF_BYTES + 1])
    parse_act(entry)
    return entry


def require_reason(reason: str) -> str:
    """Return a reason in words; a leaf cannot be taken back, so it holds no personal data.

    Raises:
        UsageError: it is empty, too long, or has characters that do not print.
    """
    if not 1 <= len(reason) <= MAX_REASON_CHARACTERS or not reason.isprintable():
        raise UsageError(
            f"A reason has 1 to {MAX_REASON_CHARACTERS} printable characters, got {len(reason)}.",
            hint="Say on what ground, such as a ticket's number; leave personal data out.",
        )
    return reason


def _der(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
