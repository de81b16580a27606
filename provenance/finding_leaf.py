"""Leaves of findings: what the checks said of one sample, committed to so that no other sample is shown with it.

```
place key    = SHA-256(0x05 || row salt)
commitment   = SHA-256(0x06 || row salt || record)
finding leaf = SHA-256(0x00 || place key || commitment || 0x02)          the hash of a leaf of RFC 6962
sealed       = record XOR SHA-256(0x07 || row salt || u32 0), SHA-256(0x07 || row salt || u32 1), ...
```
One leaf for each flagged sample, sorted by place key: who has a sample's salt shows its findings, or, by two
neighbours, that there are none; a neighbour shows a random key and a salted hash. Forgetting the salt erases the
findings with it.

Format: docs/formats/sample-leaves.md.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millcert.errors import InclusionError, IntegrityError
from millcert.provenance.merkle import EMPTY_ROOT, leaf_hash, verify_inclusion
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields

#: Bound on what the checks say of one sample.
MAX_RECORD_BYTES = 256 * 1024

_FINDING = {"action": str, "check": str, "group": str, "reason": str, "score": object, "threshold": object}


@dataclass(frozen=True)
class FindingNeighbour:
    """A leaf beside the place of a sample without findings. position: in the run's findings, from 0."""

    position: int
    key: bytes
    commitment: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class FindingProof:
    """What the checks said of a sample, or that they said nothing.

    record: canonical JSON, with `position` and `path`; "" where there are no findings, with the neighbours.
    """

    record: str
    position: int = -1
    path: tuple[bytes, ...] = ()
    left: FindingNeighbour | None = None
    right: FindingNeighbour | None = None


def place_key(salt: bytes) -> bytes:
    """Return what a run's findings are sorted by."""
    return hashlib.sha256(b"\x05" + salt).digest()


def finding_commitment(salt: bytes, record: bytes) -> bytes:
    """Return the salted hash of a sample's record."""
    return hashlib.sha256(b"\x06" + salt + record).digest()


def finding_leaf_hash(key: bytes, commitment: bytes) -> bytes:
    """Return the hash of a leaf in the run's tree of findings."""
    return leaf_hash(key + commitment + b"\x02")


def seal_record(salt: bytes, record: bytes) -> bytes:
    """Return a record that only who has the row's salt can read; sealing again opens it."""
    blocks = range((len(record) + 31) // 32)
    stream = b"".join(hashlib.sha256(b"\x07" + salt + block.to_bytes(4, "big")).digest() for block in blocks)
    size = len(record)
    return (int.from_bytes(stream[:size], "big") ^ int.from_bytes(record, "big")).to_bytes(size, "big")


def format_record(findings: list[Mapping[str, Any]]) -> bytes:
    """Return the record of a sample's findings, by check; a score that is not finite is text."""
    ordered = sorted((dict(one) for one in findings), key=lambda one: str(one["check"]))
    return canonical_json({"findings": ordered}, what="findings")


def parse_record(record: str) -> tuple[Mapping[str, Any], ...]:
    """Return the findings in a record.

    Raises:
        IntegrityError: it is malformed, or not in canonical form.
    """
    data = record.encode()
    value = parse_json_object(data, what="findings", max_bytes=MAX_RECORD_BYTES)
    require_fields(value, {"findings": list}, what="findings")
    for one in value["findings"]:
        if not isinstance(one, dict):
            raise IntegrityError("A finding is no object.")
        require_fields(one, _FINDING, what="finding")
        if not all(isinstance(one[name], (int, float, str)) for name in ("score", "threshold")):
            raise IntegrityError("A finding's score must be a number.")
    if not value["findings"] or canonical_json(value, what="findings") != data:
        raise IntegrityError("The findings are none, or not in canonical form.")
    return tuple(value["findings"])


def verify_findings(proof: FindingProof, salt: bytes, *, flagged: int, root: bytes) -> tuple[Mapping[str, Any], ...]:
    """Return what the checks said of the sample with this salt; empty if they said nothing. Proved, not believed.

    Args:
        proof: from the evidence.
        salt: of the sample, 32 bytes; the sample's own proof binds it.
        flagged: leaves in the run's tree of findings.
        root: of that tree.

    Raises:
        InclusionError: it does not follow; `reason` is finding, finding_gap or finding_path.
        IntegrityError: the record is malformed.
    """
    key = place_key(salt)
    if proof.record:
        leaf = finding_leaf_hash(key, finding_commitment(salt, proof.record.encode()))
        _require(leaf, proof.position, proof.path, flagged, root, reason="finding")
        return parse_record(proof.record)
    if (proof.left is not None and proof.left.key >= key) or (proof.right is not None and proof.right.key <= key):
        raise InclusionError("The sample's place is not between its neighbours.", reason="finding_gap")
    first = -1 if proof.left is None else proof.left.position
    second = flagged if proof.right is None else proof.right.position
    if second != first + 1 or (flagged == 0 and root != EMPTY_ROOT):
        raise InclusionError("The neighbours of the sample's place are not beside one another.", reason="finding_gap")
    for one in (proof.left, proof.right):
        if one is not None:
            leaf = finding_leaf_hash(one.key, one.commitment)
            _require(leaf, one.position, one.path, flagged, root, reason="finding_path")
    return ()


def _require(leaf: bytes, position: int, path: tuple[bytes, ...], size: int, root: bytes, *, reason: str) -> None:
    try:
        verify_inclusion(leaf, position, size, path, root)
    except InclusionError as error:
        raise InclusionError(f"A finding is not where the evidence says: {error.message}", reason=reason) from error
