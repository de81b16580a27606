"""A proof in one text that a leaf is in a log: index, audit path and signed checkpoint.

Steps of `verify_tlog_proof`:
  1. The text is read in one way only; unauthenticated extra data has no meaning here.
  2. The checkpoint is signed by a known key of its own origin.
  3. The audit path leads from the leaf, at the index, to the checkpoint's root.
The caller owes: that the leaf says what it needs (a proof shows that a statement was logged, not that it is true).

Source: C2SP tlog-proof (`c2sp.org/tlog-proof@v1`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from millcert.errors import InclusionError
from millcert.provenance.checkpoint import (
    MAX_NOTE_BYTES,
    MAX_TREE_SIZE,
    Checkpoint,
    VerifierKey,
    decode_base64,
    encode_base64,
    parse_checkpoint,
    parse_note,
    verify_checkpoint,
)
from millcert.provenance.merkle import HASH_BYTES, MAX_PROOF_HASHES, leaf_hash, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"

#: A signed note, a full audit path, and room for extra data that other writers may add.
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 64 * 1024

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")
_EXTRA = "extra "


class ProvingLedger(Protocol):
    """What `prove_under` needs of a ledger."""

    def prove(self, index: int, size: int | None = None) -> bytes:
        """Return the proof under the checkpoint of exactly that size."""
        ...


@dataclass(frozen=True)
class TlogProof:
    """A parsed, not yet verified proof.

    index: place of the leaf in the log.
    path: the audit path, from the leaf upward.
    checkpoint: the signed note, verbatim.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes


def format_tlog_proof(index: int, path: Sequence[bytes], checkpoint: bytes) -> bytes:
    """Return the text of a proof, ready to be kept in a `.tlog-proof` file."""
    lines = [HEADER, f"index {index}", *(encode_base64(one) for one in path), "", ""]
    return "\n".join(lines).encode() + checkpoint


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Read the text of a proof; verifies nothing.

    Raises:
        InclusionError: the bytes are no proof, or exceed MAX_PROOF_BYTES or 64 hashes.
    """
    if len(data) > MAX_PROOF_BYTES:
        raise InclusionError(f"A log proof has at most {MAX_PROOF_BYTES} bytes, got {len(data)}.")
    head, separator, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise InclusionError("The log proof has a byte that is not ASCII before its checkpoint.") from error
    if not separator or lines[0] != HEADER:
        raise InclusionError(f"Expected a log proof that starts with {HEADER!r} and ends in a checkpoint.")
    rest = lines[1:]
    if rest and rest[0].startswith(_EXTRA):
        if decode_base64(rest[0].removeprefix(_EXTRA)) is None:
            raise InclusionError("The log proof's extra data is not base64.")
        rest = rest[1:]
    matched = _INDEX.fullmatch(rest[0]) if rest else None
    if matched is None or int(matched[1]) > MAX_TREE_SIZE:
        raise InclusionError("The log proof has no line 'index N' with a decimal below 2**63.")
    hashes = [decode_base64(line) for line in rest[1:]]
    path = tuple(one for one in hashes if one is not None and len(one) == HASH_BYTES)
    if len(path) != len(hashes) or len(path) > MAX_PROOF_HASHES:
        raise InclusionError(f"The log proof's path must be at most {MAX_PROOF_HASHES} lines of 32 bytes in base64.")
    return TlogProof(int(matched[1]), path, checkpoint)


def verify_tlog_proof(proof: bytes, leaf: bytes, vkeys: Iterable[VerifierKey]) -> Checkpoint:
    """Check that a log, known by its keys, contains a leaf; return the checkpoint that covers it.

    Args:
        proof: text in C2SP tlog-proof form.
        leaf: the entry's bytes, as they were logged.
        vkeys: the log's public keys, from the caller's own configuration.

    Raises:
        InclusionError: the proof is malformed or does not lead from the leaf to the checkpoint's root.
        LedgerError: the proof carries no checkpoint.
        SignatureError: no known key signed the checkpoint.
        UsageError: no key was given.
    """
    parsed = parse_tlog_proof(proof)  # 1
    checkpoint = verify_checkpoint(parsed.checkpoint, vkeys)  # 2
    verify_inclusion(leaf_hash(leaf), parsed.index, checkpoint.size, parsed.path, checkpoint.root)  # 3
    return checkpoint


def prove_under(ledger: ProvingLedger, index: int, note: bytes) -> bytes:
    """Return the proof of an entry under a checkpoint of the ledger, verbatim: with the cosignatures that it has.

    Raises:
        UsageError: the ledger has no checkpoint of that size, or the entry came after it.
        LedgerError: a tile that the proof needs is damaged.
    """
    size = parse_checkpoint(parse_note(note).text).size
    return format_tlog_proof(index, parse_tlog_proof(ledger.prove(index, size)).path, note)
