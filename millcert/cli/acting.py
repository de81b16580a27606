"""Acts on the command line: sign with one's own key, then log, or write to a file that the ledger's keeper submits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from millcert.cli.files import write_new
from millcert.cli.opened import opened
from millcert.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from millcert.provenance.act import Act
    from millcert.provenance.ledger import Entry, Ledger
    from millcert.provenance.roles import RoleBook
    from millcert.provenance.standing import JudgedAct, Standing
    from millcert.provenance.state import StateFolder

key_option = click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Your private key (Ed25519, PEM); its public half stands in the roles.",
)
act_out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Write the signed act to a new file for `millcert ledger submit`, and log nothing.",
)
reason_option = click.option("--reason", required=True, help="Why, without personal data; it is logged for ever.")


@dataclass(frozen=True)
class Speaker:
    """Somebody about to say something: the ledger, its acts so far, the roles in force, the key, and the time."""

    folder: "StateFolder"
    ledger: "Ledger"
    standing: "Standing"
    book: "RoleBook"
    key: "Ed25519PrivateKey"
    now: datetime

    @property
    def recorded_at(self) -> str:
        """The time as text."""
        from millcert.provenance.timestamp import stamp

        return stamp(self.now)

    @property
    def about(self) -> dict[str, str]:
        """What every act needs besides its words."""
        return {"ledger": self.ledger.origin, "roles_sha256": self.book.sha256, "recorded_at": self.recorded_at}


@contextmanager
def speaking(state: Path | None, key_path: Path, out: Path | None) -> Iterator[Speaker]:
    """Open the ledger for somebody who says something.

    Raises:
        UsageError: there is no ledger or key, or no roles are in force.
        LedgerError, SignatureError, StoreError: as `read_standing`.
    """
    from millcert.provenance.keys import load_key
    from millcert.provenance.standing import read_standing

    key = load_key(key_path)
    folder, ledger = opened(state, for_appending=out is None)
    with ledger:
        standing = read_standing(ledger)
        if standing.book is None:
            raise UsageError(
                f"No roles are in force in {ledger.origin}, so nobody may say anything in it.",
                hint="Name people under `roles` in the policy, then: millcert ledger roles record --policy FILE --key "
                "KEY",
            )
        yield Speaker(folder, ledger, standing, standing.book, key, datetime.now(UTC))


def say(speaker: Speaker, acts: "list[Act]", out: Path | None) -> dict[str, Any]:
    """Sign acts, and log them all or write the one to a file; return what to tell of it.

    Raises:
        UsageError: the key's owner may not say this, or a file takes one act only.
        StoreError, LedgerError: nothing was logged, or a retry completes it.
    """
    from millcert.provenance.act import sign_act

    entries = [sign_act(act, speaker.key, speaker.book) for act in acts]
    return log_or_write(speaker.ledger, entries, out, by=name_of(speaker))


def log_or_write(ledger: "Ledger", entries: "list[Entry]", out: Path | None, *, by: str) -> dict[str, Any]:
    """Log signed acts, or write the one to a file."""
    from millcert.provenance.merkle import leaf_hash

    first = entries[0]
    payload: dict[str, Any] = {
        "version": 1,
        "origin": ledger.origin,
        "kind": first.kind,
        "subject": first.subject,
        "recorded_at": first.recorded_at,
        "by": by,
        "leaves": [leaf_hash(entry.leaf()).hex() for entry in entries],
    }
    if out is None:
        return {**payload, "indexes": list(ledger.append(entries).indexes), "path": None}
    if len(entries) != 1:
        raise UsageError(f"One file holds one act, and this makes {len(entries)}.", hint="Log them: leave --out out.")
    write_new(out, first.leaf())
    return {**payload, "indexes": [], "path": str(out)}


def name_of(speaker: Speaker) -> str:
    """Return the name under which the roles know the speaker's key."""
    from millcert.provenance.keys import public_pem
    from millcert.provenance.public_key import parse_public_key

    person = speaker.book.person_of(parse_public_key(public_pem(speaker.key.public_key())).sha256)
    return "" if person is None else person.name


def said_line(payload: dict[str, Any], words: str) -> str:
    """Return the first line of an answer: what was said, by whom, and where it is."""
    where = ", ".join(f"#{index}" for index in payload["indexes"]) or f"written to {payload['path']}, not yet logged"
    return f"{payload['kind']}  {words}  by {payload['by']}  {where}"


def next_line(payload: dict[str, Any], then: str) -> str:
    """Return the last line of an answer: a file has to be submitted before anything else."""
    return f"next: {then if payload['path'] is None else 'millcert ledger submit ' + payload['path']}"


def judged_payload(one: "JudgedAct") -> dict[str, Any]:
    """Return an act with its standing as JSON values."""
    entry = one.logged.entry
    return {
        "index": one.logged.index,
        "leaf": one.leaf,
        "kind": entry.kind,
        "subject": entry.subject,
        "recorded_at": entry.recorded_at,
        "by": "" if one.person is None else one.person.name,
        "key_sha256": one.key_sha256,
        "roles_sha256": one.book_sha256,
        "counts": one.counts,
        "fault": one.fault,
        "message": one.message,
        "said": None if one.act is None else dict(one.act.said),
    }


def judged_line(one: "JudgedAct") -> str:
    """Return an act with its standing on a line."""
    entry = one.logged.entry
    by = "" if one.person is None else one.person.name
    standing = "" if one.counts else f"  IGNORED ({one.fault}): {one.message}"
    return f"#{one.logged.index:<6} {entry.recorded_at}  {entry.kind:<14} {entry.subject[:60]}  {by}{standing}"


def as_of_now(given: str | None) -> datetime:
    """Return the time that an option gives, or the clock's."""
    from millcert.provenance.timestamp import instant

    return datetime.now(UTC) if given is None else instant(given)
