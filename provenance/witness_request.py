"""The one request that a witness takes, as bytes: `add-checkpoint` of C2SP tlog-witness v1.0.0.

An old size line, the lines of a consistency proof, an empty line, and the signed checkpoint. Both sides use this form:
the client writes it, the witness reads it, and reads it in one way only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from millcert.errors import LedgerError
from millcert.provenance.checkpoint import MAX_NOTE_BYTES, MAX_TREE_SIZE, decode_base64, encode_base64
from millcert.provenance.merkle import HASH_BYTES

#: tlog-witness: "The client MUST NOT send more than 63 consistency proof lines."
MAX_PROOF_LINES = 63

#: A checkpoint, 63 lines of 45 bytes, and the old size.
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 4096

#: What the body of a 409 is: the size that the witness has.
SIZE_CONTENT_TYPE = "text/x.tlog.size"

_OLD = re.compile(rb"old (0|[1-9][0-9]{0,18})")
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")


@dataclass(frozen=True)
class AddCheckpoint:
    """A parsed, not yet verified request. old_size: of the checkpoint that the proof starts from. note: verbatim."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes


def format_request(old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """Return the body of the request."""
    return "".join((f"old {old_size}\n", *(f"{encode_base64(one)}\n" for one in proof), "\n")).encode() + note


def parse_request(body: bytes) -> AddCheckpoint:
    """Read the body of a request; verifies nothing, and does not look into the checkpoint.

    Raises:
        LedgerError: the bytes have another form, or exceed MAX_REQUEST_BYTES or 63 lines of proof.
    """
    if len(body) > MAX_REQUEST_BYTES:
        raise LedgerError(f"A request has at most {MAX_REQUEST_BYTES} bytes, got {len(body)}.")
    head, separator, note = body.partition(b"\n\n")
    lines = head.split(b"\n")
    matched = _OLD.fullmatch(lines[0])
    if not separator or not note or matched is None or int(matched[1]) > MAX_TREE_SIZE:
        raise LedgerError("Expected 'old N', lines of a proof, an empty line, and a checkpoint.")
    try:
        hashes = [decode_base64(line.decode("ascii")) for line in lines[1:]]
    except UnicodeDecodeError as error:
        raise LedgerError("The proof has a byte that is not ASCII.") from error
    proof = tuple(one for one in hashes if one is not None and len(one) == HASH_BYTES)
    if len(proof) != len(hashes) or len(proof) > MAX_PROOF_LINES:
        raise LedgerError(f"The proof must be at most {MAX_PROOF_LINES} lines of 32 bytes in base64.")
    return AddCheckpoint(int(matched[1]), proof, note)


def parse_known_size(body: bytes) -> int | None:
    """Return the size in the body of a 409; None if it is something else."""
    matched = _SIZE.fullmatch(body)
    return int(matched[1]) if matched is not None and int(matched[1]) <= MAX_TREE_SIZE else None
