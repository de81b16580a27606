"""Entries of the ledger: what one leaf says, as bytes that have one form only.

A leaf is the canonical JSON (RFC 8785) of `{"body": {...}, "kind": ..., "recorded_at": ..., "subject": ...}`.
Bodies hold roots and digests, never samples: a leaf cannot be taken back.

Format: docs/formats/ledger.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millcert.errors import LedgerError, UsageError
from millcert.provenance.strict_json import canonical_json, parse_json_object, require_fields
from millcert.provenance.timestamp import is_timestamp

#: The longest entry that a C2SP tlog-tiles entry bundle can carry: its length is 16 bits.
MAX_LEAF_BYTES = 65_535

#: The longest subject, in characters. Our choice: room for a digest or a data set's name.
MAX_SUBJECT_CHARACTERS = 512

_KIND = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_MAX_KIND_CHARACTERS = 64


@dataclass(frozen=True)
class Entry:
    """One statement for the ledger.

    kind: lower_snake_case: manifest, check_summary, verdict, certificate; others may follow.
    subject: what it is about, the word that auditors look up: a root in hex, or a data set's name.
    recorded_at: when it was said, RFC 3339 in UTC; given by the caller, so that a retry writes the same bytes.
    body: a JSON object of roots, digests and figures; the entry has at most 65,535 bytes in all.

    Raises:
        UsageError: a field is outside these bounds.
    """

    kind: str
    subject: str
    recorded_at: str
    body: Mapping[str, Any]

    def __post_init__(self) -> None:
        if len(self.kind) > _MAX_KIND_CHARACTERS or not _KIND.fullmatch(self.kind):
            raise UsageError(f"An entry's kind must be lower_snake_case, got {self.kind[:80]!r}.", kind=self.kind)
        if not 1 <= len(self.subject) <= MAX_SUBJECT_CHARACTERS or not self.subject.isprintable():
            raise UsageError(
                f"An entry's subject must be 1 to {MAX_SUBJECT_CHARACTERS} printable characters, "
                f"got {self.subject[:80]!r}.",
                subject=self.subject,
            )
        if not is_timestamp(self.recorded_at):
            raise UsageError(
                f"An entry's recorded_at must be RFC 3339 in UTC, such as 2026-11-23T02:38:55Z, "
                f"got {self.recorded_at[:80]!r}.",
                recorded_at=self.recorded_at,
            )

    def leaf(self) -> bytes:
        """Return the bytes that are logged; equal entries give equal bytes.

        Raises:
            UsageError: the body has no canonical form, or the entry is longer than 65,535 bytes.
        """
        value = {
            "body": dict(self.body),
            "kind": self.kind,
            "recorded_at": self.recorded_at,
            "subject": self.subject,
        }
        data = canonical_json(value, what=f"{self.kind} entry")
        if len(data) > MAX_LEAF_BYTES:
            raise UsageError(
                f"The {self.kind} entry for {self.subject!r} has {len(data)} bytes; the ledger takes {MAX_LEAF_BYTES}.",
                hint="Log the digest of the long part, and keep the part itself beside the ledger.",
                size_bytes=len(data),
            )
        return data


@dataclass(frozen=True)
class LoggedEntry:
    """An entry with its place in the ledger.

    index: 0-based place of the leaf.
    leaf_hash: 32 bytes (RFC 6962).
    """

    index: int
    leaf_hash: bytes
    entry: Entry


def parse_entry(leaf: bytes) -> Entry:
    """Return the entry that a leaf's bytes say.

    Raises:
        LedgerError: the bytes are not an entry in its one form.
    """
    value = parse_json_object(leaf, what="ledger entry", max_bytes=MAX_LEAF_BYTES, error=LedgerError)
    require_fields(
        value,
        {"body": dict, "kind": str, "recorded_at": str, "subject": str},
        what="ledger entry",
        error=LedgerError,
    )
    try:
        entry = Entry(**value)
        if entry.leaf() == leaf:
            return entry
    except UsageError as error:
        raise LedgerError(f"The ledger entry is malformed: {error.message}") from error
    raise LedgerError("The ledger entry is not in canonical form (RFC 8785).")
