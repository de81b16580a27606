"""A signed profile: a DSSE envelope with an in-toto statement about the bytes of one profile file.

Steps of `verify_profile`:
  1. The envelope is signed by a key of the gate, as an in-toto statement.
  2. The statement is of our predicate type, about a file with the SHA-256 of the given bytes.
  3. The predicate has exactly the known fields.
The caller owes: that the keys come from its own configuration; that the bytes are a profile with the digest that the
predicate says (`millcert.checks.profile_format.load_profile`); and whether the ledger has that version as admitted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from millcert.errors import SignatureError
from millcert.provenance.dsse import parse_envelope, sign_envelope, verify_envelope
from millcert.provenance.statement import Statement, Subject, parse_statement
from millcert.provenance.strict_json import require_fields

PROFILE_PREDICATE_TYPE = "urn:millcert:predicate:profile:v1"

#: The name of the file that a run publishes.
_SUBJECT = "profile.json"


@dataclass(frozen=True)
class ProfileClaim:
    """What the gate says of a profile.

    dataset: its name. profile_digest: the profile's own digest. input_root: manifest root of what it is the profile of.
    """

    dataset: str
    profile_digest: str
    input_root: str
    code_version: str


def sign_profile(data: bytes, claim: ProfileClaim, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope about a profile file's bytes; the same arguments give the same bytes."""
    subject = Subject(_SUBJECT, hashlib.sha256(data).hexdigest())
    return sign_envelope(Statement(subject, PROFILE_PREDICATE_TYPE, asdict(claim)).to_json(), key).to_json()


def verify_profile(data: bytes, envelope: bytes, gate_keys: Sequence[Ed25519PublicKey]) -> ProfileClaim:
    """Return what a gate said of a profile file.

    Args:
        data: the profile file.
        envelope: the file `profile.dsse.json` beside it.
        gate_keys: public keys of the gates that the caller trusts.

    Raises:
        SignatureError: no key signed it, it is about other bytes, or it is something else.
        UsageError: no key was given.
    """
    payload = verify_envelope(parse_envelope(envelope), gate_keys)  # 1
    statement = parse_statement(payload, predicate_type=PROFILE_PREDICATE_TYPE)  # 2
    actual = hashlib.sha256(data).hexdigest()
    if statement.subject.sha256 != actual:
        raise SignatureError(
            f"The statement is about a profile with SHA-256 {statement.subject.sha256}; the file has {actual}.",
            hint="The profile was changed, or the statement belongs to another one.",
            expected=statement.subject.sha256,
            actual=actual,
        )
    names = ("dataset", "profile_digest", "input_root", "code_version")
    fields: dict[str, type] = dict.fromkeys(names, str)
    require_fields(statement.predicate, fields, what="profile statement", error=SignatureError)  # 3
    return ProfileClaim(**{name: statement.predicate[name] for name in names})
