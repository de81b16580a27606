"""People with keys that a name makes, and ledgers in which their roles are in force; for tests, benches and docs."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.provenance.act import Act, sign_act
from millcert.provenance.ledger import Ledger
from millcert.provenance.public_key import PublicKey, parse_public_key
from millcert.provenance.roles import Person, RoleBook
from millcert.provenance.standing import book_act, read_standing

#: Everybody's roles in `office`.
OFFICE: Mapping[str, tuple[str, ...]] = {
    "ana": ("reviewer",),
    "bo": ("approver",),
    "cy": ("submitter",),
    "di": ("approver", "reviewer"),
    "ed": ("auditor",),
}


def key_of(name: str) -> Ed25519PrivateKey:
    """Return the private key of the person of that name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"millcert person {name}".encode()).digest())


def public_key_of(name: str) -> PublicKey:
    """Return the public key of the person of that name."""
    encoded = (
        key_of(name)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return parse_public_key(encoded)


def office(people: Mapping[str, Sequence[str]] = OFFICE, **options: object) -> RoleBook:
    """Return the book of some people, each with one key; `options` are `RoleBook`'s."""
    known = tuple(Person(name, (public_key_of(name),), tuple(roles)) for name, roles in people.items())
    return RoleBook(known, **options)  # type: ignore[arg-type] # handed on as they are


def record_roles(ledger: Ledger, book: RoleBook, *, by: str, at: str) -> int:
    """Put a book into force; return its index in the ledger."""
    act = book_act(book, read_standing(ledger).book, ledger=ledger.origin, recorded_at=at)
    return ledger.append([sign_act(act, key_of(by), book)]).indexes[0]


def say(ledger: Ledger, act: Act, *, by: str, book: RoleBook) -> int:
    """Sign and log an act; return its index."""
    return ledger.append([sign_act(act, key_of(by), book)]).indexes[0]


def write_key(folder: Path, name: str) -> Path:
    """Write a person's private key, mode 0600, and return its path."""
    path = folder / f"{name}.key"
    pem = key_of(name).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(pem)
    return path
