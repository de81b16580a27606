"""What a transparency log's proof must say beyond its hashes and signatures. No sigstore here: plain values in.

Measured on sigstore 4.5.1 (tests/provenance/test_bundle.py holds each): it compares a checkpoint's root hash alone. It
accepts a checkpoint of another size or of negative size, one with another log's name, and an entry whose outer index,
which auditors are shown, is any number.

Rules that `check_log_proof` keeps:
  1. The checkpoint is a note as C2SP signed-note and tlog-checkpoint have it.
  2. Its origin is the name of the log that the entry names: the host and path of its URL in the trusted root; Rekor v1
     adds " - " and its tree's number.
  3. Its size and root hash are those of the inclusion proof, and the size is positive.
  4. The leaf is in the tree: 0 <= index < size.
  5. The index that is told is a signed one: the outer one where Rekor v1's signed entry timestamp covers it, else the
     proof's. In Rekor v2 both must be equal; Rekor v1's outer index counts across its trees, so there they differ.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

from millcert.errors import SignatureError

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE_LINE = re.compile("\N{EM DASH} [^\\s+]+ [A-Za-z0-9+/]+={0,2}")
_TREE_NUMBER = re.compile(r" - [0-9]{1,20}")
_HASH_BYTES = 32
#: Notes have some hundred bytes; witnesses add about 150 each.
MAX_CHECKPOINT_CHARACTERS = 65536


@dataclass(frozen=True)
class LogProof:
    """The parts of a log entry that these rules are about.

    log_index: the entry's outer index. is_index_signed: whether a signed entry timestamp covers it. is_index_global:
        whether it counts across trees, as Rekor v1's does.
    proof_index, tree_size, root_hash: of the inclusion proof. checkpoint: the signed note's text.
    """

    log_index: int
    is_index_signed: bool
    is_index_global: bool
    proof_index: int
    tree_size: int
    root_hash: bytes
    checkpoint: str


def check_log_proof(proof: LogProof, *, log_url: str) -> int:
    """Return the entry's index, as far as something signed says so; the caller owes hashes and signatures.

    Args:
        proof: as the bundle has it.
        log_url: base URL of the log in the trusted root.

    Raises:
        SignatureError: a rule is broken; `reason` is "checkpoint_malformed", "checkpoint_origin", "checkpoint_root",
            "checkpoint_size" or "log_index".
    """
    # Rule 1.
    origin, size, root_hash = _parse_checkpoint(proof.checkpoint)
    # Rule 2.
    name = log_name(log_url)
    if not (origin == name or (origin.startswith(name) and _TREE_NUMBER.fullmatch(origin[len(name) :]))):
        _refuse("checkpoint_origin", f"The checkpoint is of the log {origin!r:.200}, the entry names {name!r:.200}.")
    # Rule 3.
    if size != proof.tree_size or size < 1:
        _refuse("checkpoint_size", f"The checkpoint has size {size}, the inclusion proof {proof.tree_size}.")
    if root_hash != proof.root_hash:
        _refuse("checkpoint_root", "The checkpoint and the inclusion proof have different root hashes.")
    # Rule 4.
    if not 0 <= proof.proof_index < proof.tree_size:
        _refuse("log_index", f"The proof is for leaf {proof.proof_index} of a tree of {proof.tree_size}.")
    # Rule 5.
    if proof.is_index_signed:
        return proof.log_index
    if proof.log_index != proof.proof_index and not proof.is_index_global:
        _refuse(
            "log_index", f"The entry has index {proof.log_index}, its proof {proof.proof_index}; neither is signed."
        )
    return proof.proof_index


def log_name(log_url: str) -> str:
    """Return the name that a log's checkpoints begin with: its URL without scheme and final slash."""
    parts = urlsplit(log_url)
    return parts.netloc + parts.path.rstrip("/")


def _parse_checkpoint(text: str) -> tuple[str, int, bytes]:
    body, separator, signatures = text.partition("\n\n")
    lines = body.split("\n")
    is_note = (
        len(text) <= MAX_CHECKPOINT_CHARACTERS
        and separator
        and signatures.endswith("\n")
        and all(_SIGNATURE_LINE.fullmatch(line) for line in signatures[:-1].split("\n"))
    )
    if not is_note or len(lines) < 3 or not lines[0] or not _SIZE.fullmatch(lines[1]):
        _refuse("checkpoint_malformed", "The checkpoint is not a signed note with origin, size and root hash.")
    try:
        root_hash = base64.b64decode(lines[2], validate=True)
    except (binascii.Error, ValueError):
        root_hash = b""
    if len(root_hash) != _HASH_BYTES:
        _refuse("checkpoint_malformed", "The checkpoint's third line is not the base64 of a root hash.")
    return lines[0], int(lines[1]), root_hash


def _refuse(reason: str, message: str) -> NoReturn:
    raise SignatureError(
        message, hint="The log proof is forged or of another log. Ask the owner to sign again.", reason=reason
    )
