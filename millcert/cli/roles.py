"""`millcert ledger roles`: make a key, put the policy's roles into force in the ledger, show those that are."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millcert.cli.acting import act_out_option, key_option, log_or_write, next_line, said_line
from millcert.cli.opened import chosen_ledger, opened, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError

if TYPE_CHECKING:
    from millcert.provenance.ledger import Ledger
    from millcert.provenance.roles import RoleBook


@click.group()
def roles() -> None:
    """Say who may append what: roles are the policy's, and count once they are in the ledger."""


@roles.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The private key's new file, mode 0600.")
@json_option
def key(out: Path, as_json: bool) -> None:
    """Make a key pair for a person; print the line for the policy."""
    import base64

    from cryptography.hazmat.primitives import serialization

    from millcert.provenance.keys import load_or_create_key, public_key_path
    from millcert.provenance.public_key import parse_public_key

    if out.exists():
        raise UsageError(f"{out} exists already.", hint="A key is made once; choose another --out.", path=str(out))
    public = load_or_create_key(out).public_key()
    encoded = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    line = base64.b64encode(encoded).decode()
    payload = {
        "version": 1,
        "path": str(out),
        "public_path": str(public_key_path(out)),
        "key": line,
        "sha256": parse_public_key(encoded).sha256,
    }
    lines = (
        f"key      {out}",
        f"public   {line}",
        "next: name the public line under roles.people[].keys",
    )
    text = "\n".join(lines)
    emit(payload, text, as_json=as_json)


@roles.command()
@click.option("--policy", "policy_path", type=click.Path(path_type=Path), required=True, help="The policy file.")
@key_option
@act_out_option
@state_option
@json_option
def record(policy_path: Path, key_path: Path, out: Path | None, state: Path | None, as_json: bool) -> None:
    """Put the roles of a policy into force. Signed by an approver of these roles and of those in force now."""
    from millcert.policy import load_policy
    from millcert.provenance.act import sign_act
    from millcert.provenance.keys import load_key
    from millcert.provenance.ledger import LoggedEntry
    from millcert.provenance.standing import book_act, judge_acts, read_standing
    from millcert.provenance.timestamp import stamp

    policy = load_policy(policy_path).policy
    section = policy.responsibilities
    if section is None:
        raise UsageError(f"{policy_path} has no `roles`.", hint="docs/policy.md says how they are written.")
    book, signer = section.to_book(), load_key(key_path)
    with _ledger_of(state, policy.ledger.origin, create=out is None) as ledger:
        standing = read_standing(ledger)
        act = book_act(book, standing.book, ledger=ledger.origin, recorded_at=stamp(datetime.now(UTC)))
        entry = sign_act(act, signer, book)
        # Judged as every reader will, before it is logged: what would not count must not be written.
        acts = [one.logged for one in standing.judged]
        judged = judge_acts([*acts, LoggedEntry(standing.size, bytes(32), entry)], ledger.origin, standing.size + 1)
        if not judged.judged[-1].counts:
            raise UsageError(
                f"These roles would not count: {judged.judged[-1].message}.",
                hint="Hand over in two steps: name the new approver first, take the old one out afterwards.",
                reason=judged.judged[-1].fault,
            )
        person = judged.judged[-1].person
        payload = log_or_write(ledger, [entry], out, by="" if person is None else person.name)
    people = f"{len(book.people)} people"
    text = f"{said_line(payload, people)}\n  roles: {book.sha256}\n{next_line(payload, 'millcert ledger roles show')}"
    emit({**payload, "roles_sha256": book.sha256}, text, as_json=as_json)


@roles.command()
@state_option
@json_option
def show(state: Path | None, as_json: bool) -> None:
    """Show the roles in force, and when each change of them was logged."""
    from millcert.provenance.standing import read_standing

    _, ledger = opened(state)
    with ledger:
        standing = read_standing(ledger)
    book = standing.book
    lines = [f"  since #{index}  {old.sha256}" for index, old in standing.books]
    if book is None:
        lines = ["no roles are in force, so nobody may append acts", "next: millcert ledger roles record"]
    else:
        lines = [*_book_lines(book), *lines, "next: millcert ledger acts"]
    payload = {
        "version": 1,
        "origin": standing.origin,
        "roles_sha256": None if book is None else book.sha256,
        "roles": None if book is None else book.to_document(),
        "history": [{"index": index, "roles_sha256": old.sha256} for index, old in standing.books],
    }
    emit(payload, "\n".join(lines), as_json=as_json)


def _ledger_of(state: Path | None, origin: str, *, create: bool) -> "Ledger":
    """Return the policy's ledger, made if there is none: roles have to count before the first run does."""
    from millcert.provenance.keys import load_or_create_key
    from millcert.provenance.ledger import open_ledger
    from millcert.provenance.state import state_folder

    folder = state_folder(state)
    if folder.ledger_vkey.exists() or not create:
        ledger = opened(state, for_appending=create)[1]
        if ledger.origin != origin:
            ledger.close()
            raise UsageError(f"The policy's ledger is {origin!r}, that of the state folder {ledger.origin!r}.")
        return ledger
    signer = load_or_create_key(folder.path / "keys" / "ledger.key")
    return open_ledger(folder.ledger, origin=origin, key=signer, create=True, url=chosen_ledger())


def _book_lines(book: "RoleBook") -> list[str]:
    from millcert.provenance.act import ACT_KINDS

    lines = [f"roles {book.sha256}"]
    lines += [f"  {one.name:<20} {', '.join(sorted(one.roles))}" for one in book.people]
    lines += [f"  {kind:<20} by {' or '.join(book.roles_for(kind))}" for kind in sorted(ACT_KINDS)]
    lines.append(f"  an override counts for at most {book.max_override_days} days")
    return lines
